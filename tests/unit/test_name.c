/* test_name.c - model names: what is one, what is none, and how one splits. */
#include "shared/name.h"

#include "shared/base.h"
#include "shared/reports.h"
#include "shared/utf8.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

START_TEST(names_that_are_one)
{
	static const char *const good[] = {"a", "bert-base", "org/model", "a/b/c.safetensors", "x_1+2", "m@main", "m@refs/pr/1",
		"m@v1.0", "a.b", "-"};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct fault why = {0};
		ck_assert_msg(name_check(good[i], &why) == 0, "%s: %s", good[i], why.text);
	}
}
END_TEST

START_TEST(names_that_are_none)
{
	static const char *const bad[] = {"", "/", "/a", "a/", "a//b", ".", "..", "a/.b", ".a/b", "a/../b", "a b", "a\nb", "a\\b",
		"\xc3\xa9", "@main", "m@", "m@/x", "m@x/", "m@x//y", "m@a..b", "m@..", "m@a@b", "a:b", "a%2f"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct fault why = {0};
		ck_assert_msg(name_check(bad[i], &why) == -EPROTO, "%s passed", bad[i]);
		ck_assert_int_eq(why.code, TRIMS_E_BAD_NAME);
		ck_assert_msg(*why.text, "%s", bad[i]);
		ck_assert_int_eq(name_check(bad[i], NULL), -EPROTO);
	}
}
END_TEST

START_TEST(the_longest_name_has_255_bytes)
{
	char name[300];
	memset(name, 'a', sizeof name);
	name[255] = 0;
	ck_assert_int_eq(name_check(name, NULL), 0);
	name[255] = 'a';
	name[256] = 0;
	ck_assert_int_eq(name_check(name, NULL), -EPROTO);
}
END_TEST

START_TEST(a_name_splits_at_its_revision)
{
	char base[NAME_MAX_BYTES + 1], revision[NAME_MAX_BYTES + 1];
	ck_assert_int_eq(name_split("org/model@refs/pr/1", base, revision, NULL), 0);
	ck_assert_str_eq(base, "org/model");
	ck_assert_str_eq(revision, "refs/pr/1");
	ck_assert_int_eq(name_split("org/model", base, revision, NULL), 0);
	ck_assert_str_eq(base, "org/model");
	ck_assert_str_eq(revision, "");
	ck_assert_int_eq(name_split("org/../model", base, revision, NULL), -EPROTO);
	ck_assert_str_eq(base, "org/model");
}
END_TEST

START_TEST(utf8_is_what_the_rfc_says)
{
	ck_assert(utf8_valid("", 0));
	ck_assert(utf8_valid("\0", 1));
	ck_assert(utf8_valid("\xef\xbf\xbf\xf4\x8f\xbf\xbf\xee\x80\x80\xed\x9f\xbf", 13));
	ck_assert(!utf8_valid("\xf4\x8f\xbf\xbf", 3));
	/* every sequence of up to two bytes behind an 'a', against the rule for two-byte sequences written out */
	for (unsigned hi = 0; hi < 256; hi++)
		for (unsigned lo = 0; lo < 256; lo++) {
			unsigned char text[] = {'a', (unsigned char)hi, (unsigned char)lo};
			bool want = (hi < 0x80 && lo < 0x80) || (hi >= 0xc2 && hi <= 0xdf && lo >= 0x80 && lo <= 0xbf);
			ck_assert_int_eq(utf8_valid(text, 3), want);
		}
	ck_assert_uint_eq(utf8_sequence("\xe2\x82\xac!", 4), 3);
	ck_assert_uint_eq(utf8_sequence("\xe2\x82", 2), 0);
}
END_TEST

START_TEST(reports_have_names_and_unknown_ones_have_none)
{
	ck_assert_str_eq(report_name(REPORT_LS), "ls");
	ck_assert_ptr_null(report_name(0));
	ck_assert_ptr_null(report_name(UINT32_MAX));
	ck_assert(report_needs_model(REPORT_SHOW));
	ck_assert(!report_needs_model(REPORT_DOCTOR));
	ck_assert(!report_needs_model(77));
}
END_TEST

static void names(Suite *s)
{
	UNIT_CASE(s, "names", names_that_are_one, names_that_are_none, the_longest_name_has_255_bytes,
		a_name_splits_at_its_revision);
	UNIT_CASE(s, "words", utf8_is_what_the_rfc_says, reports_have_names_and_unknown_ones_have_none);
}

UNIT_MAIN("name", names)
