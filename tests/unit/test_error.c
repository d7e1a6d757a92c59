/* test_error.c - codes, scopes and the sentences that go with a failure. */
#include "shared/error.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

START_TEST(every_row_has_a_name_a_text_and_a_scope)
{
#define ERR(number, name, scope, text)                                                                                \
	ck_assert_str_eq(error_name(number), #name);                                                                  \
	ck_assert_str_eq(error_text(number), text);                                                                   \
	ck_assert_int_eq(error_scope(number), TRIMS_SCOPE_##scope);
#include "shared/errors.def"
#undef ERR
}
END_TEST

START_TEST(an_unknown_code_ends_the_connection)
{
	ck_assert_str_eq(error_name(54321), "UNKNOWN");
	ck_assert_str_eq(error_text(54321), "unknown error");
	ck_assert_int_eq(error_scope(54321), TRIMS_SCOPE_CONN);
}
END_TEST

START_TEST(a_sentence_is_cut_and_cleaned)
{
	char longer[2 * FAULT_TEXT_MAX];
	struct fault f;

	memset(longer, 'x', sizeof longer);
	longer[sizeof longer - 1] = 0;
	longer[3] = '\n';
	longer[4] = '\x1b';
	ck_assert_int_eq(fault_set(&f, 1, "%s", longer), -EPROTO);
	ck_assert_uint_eq(strlen(f.text), FAULT_TEXT_MAX - 1);
	ck_assert_mem_eq(f.text, "xxx  xxx", 8);
	longer[FAULT_TEXT_MAX - 2] = '\xc3'; /* the cut goes through a character */
	longer[FAULT_TEXT_MAX - 1] = '\xa9';
	fault_set(&f, 1, "%s", longer);
	ck_assert_str_eq(f.text + FAULT_TEXT_MAX - 3, "x?");
	fault_set(&f, 1, "\xff \xc3\xa9 \xf0\x9f\x98\x80 \xe2\x82");
	ck_assert_str_eq(f.text, "? \xc3\xa9 \xf0\x9f\x98\x80 ??");
	fault_set(NULL, 1, "nobody wants to know");
}
END_TEST

START_TEST(a_full_disk_has_its_own_code)
{
	struct fault f;

	fault_errno(&f, TRIMS_E_DISK_ERROR, ENOSPC, "writing %s", "a.img");
	ck_assert_int_eq(f.code, TRIMS_E_DISK_FULL);
	ck_assert_str_eq(f.text, "writing a.img: No space left on device");
	fault_errno(&f, TRIMS_E_DISK_ERROR, ENOMEM, "x");
	ck_assert_int_eq(f.code, TRIMS_E_NO_MEMORY);
	fault_errno(&f, TRIMS_E_DISK_ERROR, EIO, "x");
	ck_assert_int_eq(f.code, TRIMS_E_DISK_ERROR);
}
END_TEST

static void codes(Suite *s)
{
	UNIT_CASE(s, "codes", every_row_has_a_name_a_text_and_a_scope, an_unknown_code_ends_the_connection);
}

static void sentences(Suite *s)
{
	UNIT_CASE(s, "sentences", a_sentence_is_cut_and_cleaned, a_full_disk_has_its_own_code);
}

UNIT_MAIN("error", codes, sentences)
