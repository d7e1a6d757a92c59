/* test_text.c - numbers as people read them, aligned tables. */
#include "tests/unit/unit.h"
#include "tools/text.h"

#include <errno.h>
#include <string.h>

START_TEST(sizes_have_about_three_digits)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {{0, "0"}, {1023, "1023"}, {1024, "1.0K"}, {1536, "1.5K"}, {10 * KIB, "10K"}, {1023 * KIB, "1023K"},
		{MIB - 1, "1.0M"}, {GIB, "1.0G"}, {123 * GIB, "123G"}, {UINT64_MAX, "16E"}};
	char text[TEXT_NUMBER];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		ck_assert_str_eq(text_bytes(text, cases[i].bytes), cases[i].text);
	ck_assert_str_eq(text_rate(text, 3 * MIB), "3.0M/s");
}
END_TEST

START_TEST(durations_choose_their_unit)
{
	static const struct {
		uint64_t ns;
		const char *text;
	} cases[] = {{0, "0us"}, {17000, "17us"}, {4100000, "4.1ms"}, {1250000000, "1.25s"}, {192 * NS_PER_S, "3m12s"},
		{7500 * NS_PER_S, "2h05m"}, {277200 * NS_PER_S, "3d05h"}};
	char text[TEXT_NUMBER];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		ck_assert_str_eq(text_ns(text, cases[i].ns), cases[i].text);
	ck_assert_str_eq(text_time(text, 1700000000 * NS_PER_S), "2023-11-14 22:13:20");
}
END_TEST

START_TEST(what_is_typed_is_read_or_refused)
{
	uint64_t v = 7;

	ck_assert_int_eq(text_parse_bytes("2G", &v), 0);
	ck_assert_uint_eq(v, 2 * GIB);
	ck_assert_int_eq(text_parse_bytes("1.5K", &v), 0);
	ck_assert_uint_eq(v, 1536);
	ck_assert_int_eq(text_parse_ns("250ms", &v), 0);
	ck_assert_uint_eq(v, 250 * NS_PER_MS);
	ck_assert_int_eq(text_parse_ns("2", &v), 0);
	ck_assert_uint_eq(v, 2 * NS_PER_S);
	static const char *const wrong[] = {"", "K", "-1", "nan", "inf", "3Q", "3 K", "1KK"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		ck_assert_int_eq(text_parse_bytes(wrong[i], &v), -EINVAL);
		ck_assert_int_eq(text_parse_ns(wrong[i], &v), -EINVAL);
	}
	ck_assert_int_eq(text_parse_bytes("99999999999T", &v), -ERANGE);
}
END_TEST

static char *printed(struct grid *g)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);

	grid_print(g, f);
	fclose(f);
	return text;
}

START_TEST(columns_line_up_and_lines_end_where_their_text_does)
{
	struct grid *g = grid_new("lrl");

	for (int i = 0; i < 3; i++)
		grid_add(g, "%s", (const char *[]){"NAME", "BYTES", "STATE"}[i]);
	grid_add(g, "b\xc3\xa4r");
	grid_add(g, "%d", 7);
	grid_add(g, "ready");
	grid_add(g, "short row");
	char *text = printed(g);
	ck_assert_str_eq(text, "NAME       BYTES  STATE\nb\xc3\xa4r            7  ready\nshort row\n");
	free(text);
	grid_free(&g);
}
END_TEST

START_TEST(no_name_drives_the_terminal)
{
	struct grid *g = grid_new("l");

	grid_add(g, "%s", "a\x1b[2Jb\nc\x7f");
	char *text = printed(g);
	ck_assert_str_eq(text, "a?[2Jb?c?\n");
	free(text);
	grid_free(&g);
	grid_free(&g);
}
END_TEST

static void numbers(Suite *s)
{
	UNIT_CASE(s, "numbers", sizes_have_about_three_digits, durations_choose_their_unit,
		what_is_typed_is_read_or_refused);
}

static void grids(Suite *s)
{
	UNIT_CASE(s, "grids", columns_line_up_and_lines_end_where_their_text_does, no_name_drives_the_terminal);
}

UNIT_MAIN("text", numbers, grids)
