/* test_log.c - shared/log: levels, clean lines, and lines that somebody outside can cause without end. */
#include "shared/log.h"

#include "shared/base.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int was;
static FILE *caught;

static void catch_stderr(void)
{
	fflush(stderr);
	caught = tmpfile();
	ck_assert_ptr_nonnull(caught);
	was = dup(STDERR_FILENO);
	ck_assert_int_ge(dup2(fileno(caught), STDERR_FILENO), 0);
}

/* What was written to stderr since, without time stamps. */
static char *released(void)
{
	static char all[1 << 16];
	char line[2048];
	size_t n = 0;

	ck_assert_int_ge(dup2(was, STDERR_FILENO), 0);
	close(was);
	rewind(caught);
	all[0] = 0;
	while (fgets(line, sizeof line, caught)) {
		const char *text = strchr(line, ' ');
		ck_assert_ptr_nonnull(text);
		n += (size_t)snprintf(all + n, sizeof all - n, "%s", text + 1);
		ck_assert_uint_lt(n, sizeof all);
	}
	fclose(caught);
	return all;
}

static void plain(void)
{
	unsetenv("JOURNAL_STREAM");
	log_set_level(LOG_INFO);
}

START_TEST(a_line_is_one_line_and_below_its_level_none)
{
	catch_stderr();
	errno = ENOENT;
	log_info("topic", "a\nb\t%d", 7);
	log_debug("topic", "unseen");
	int kept = errno;
	ck_assert_str_eq(released(), "info  topic: a b 7\n");
	ck_assert_int_eq(kept, ENOENT);
}
END_TEST

START_TEST(lines_beyond_a_limit_are_counted_not_written)
{
	static struct log_limit limit = {.period_ns = 10 * NS_PER_S, .most = 2};
	uint64_t now = 5; /* the clock may have begun just now */

	catch_stderr();
	for (int i = 0; i < 9; i++)
		log_limited(&limit, now += NS_PER_S, LOG_INFO, "t", "line %d", i);
	log_limited(&limit, now + 10 * NS_PER_S, LOG_WARN, "t", "later");
	log_limited(&limit, now + 30 * NS_PER_S, LOG_WARN, "t", "last");
	ck_assert_str_eq(released(), "info  t: line 0\ninfo  t: line 1\n"
		"info  t: too many lines like the last one: more are left out, for at most 10 s\n"
		"warn  t: 7 lines like the next one were left out\nwarn  t: later\nwarn  t: last\n");
}
END_TEST

START_TEST(what_was_left_out_is_in_the_ring)
{
	static struct log_limit limit = {.period_ns = 10 * NS_PER_S, .most = 1};
	FILE *f = tmpfile();
	char text[1 << 16];

	ck_assert_ptr_nonnull(f);
	catch_stderr();
	log_limited(&limit, 1, LOG_INFO, "t", "first");
	log_limited(&limit, 2, LOG_INFO, "t", "second");
	ck_assert_ptr_null(strstr(released(), "second"));
	log_dump_ring(fileno(f));
	rewind(f);
	text[fread(text, 1, sizeof text - 1, f)] = 0;
	ck_assert_ptr_nonnull(strstr(text, "debug t: second\n"));
	fclose(f);
}
END_TEST

START_TEST(under_the_journal_lines_have_priorities)
{
	setenv("JOURNAL_STREAM", "1:2", 1);
	catch_stderr();
	log_error("t", "bad");
	ck_assert_str_eq(released(), "bad\n"); /* behind the first blank, of "<3>t: bad" */
	unsetenv("JOURNAL_STREAM");
}
END_TEST

static void lines(Suite *s)
{
	plain();
	UNIT_CASE(s, "lines", a_line_is_one_line_and_below_its_level_none, lines_beyond_a_limit_are_counted_not_written,
		what_was_left_out_is_in_the_ring, under_the_journal_lines_have_priorities);
}

UNIT_MAIN("log", lines)
