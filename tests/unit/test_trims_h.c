/* test_trims_h.c - trims.h spells out what the tables say, for programs that have no tables; and the static library. */
#include "client/trims.h"

#include "tests/unit/unit.h"

#include <string.h>

/* shared/error.h is not included: these are the header's own. */
#define ERR(number, name, scope, text) _Static_assert(TRIMS_E_##name == number, "enum trims_code, " #name);
#include "shared/errors.def"
#undef ERR
#define DTYPE(number, NAME, st, ggml, elems, bytes) _Static_assert(TRIMS_DTYPE_##NAME == number, "enum trims_dtype, " #NAME);
#include "shared/dtypes.def"
#undef DTYPE
#define REPORT_ROW(number, NAME, name, needs_model, doc) _Static_assert(TRIMS_REPORT_##NAME == number, "enum trims_report");
#include "shared/reports.def"
#undef REPORT_ROW
_Static_assert(TRIMS_TIER_ANY == 0, "OPEN.tier");
enum { TRIMS_TIER_REMOTE = 0 }; /* not a tier that clients can ask for */
#define TIER(number, NAME, name, doc) _Static_assert(TRIMS_TIER_##NAME == number, "enum trims_tier");
#include "shared/tiers.def"
#undef TIER

START_TEST(codes_and_scopes_have_the_names_of_the_table)
{
#define ERR(number, name, scope, text) ck_assert_str_eq(trims_code_name(TRIMS_E_##name), #name);
#include "shared/errors.def"
#undef ERR
	ck_assert_str_eq(trims_code_name(12345), "UNKNOWN");
	ck_assert_str_eq(trims_scope_name(TRIMS_SCOPE_REQUEST), "request");
	ck_assert_str_eq(trims_scope_name(TRIMS_SCOPE_CONN), "conn");
}
END_TEST

START_TEST(dtypes_have_names_and_blocks)
{
	uint32_t elements, block_bytes;
#define DTYPE(number, NAME, st, ggml, elems, bytes)                                                                   \
	ck_assert_str_eq(trims_dtype_name(number), #NAME);                                                            \
	ck_assert_int_eq(trims_dtype_block(number, &elements, &block_bytes), 0);                                      \
	ck_assert_uint_eq(elements, elems);                                                                           \
	ck_assert_uint_eq(block_bytes, bytes);
#include "shared/dtypes.def"
#undef DTYPE
	ck_assert_str_eq(trims_dtype_name(0), "?");
	ck_assert_str_eq(trims_dtype_name(99999), "?");
	ck_assert_int_eq(trims_dtype_block(99999, &elements, &block_bytes), -TRIMS_E_UNSUPPORTED);
}
END_TEST

START_TEST(a_thread_without_a_failure_has_an_empty_one)
{
	ck_assert_int_eq(trims_last_error()->code, TRIMS_E_NONE);
	ck_assert_str_eq(trims_last_error()->text, "");
	ck_assert_str_eq(trims_version(), TRIMS_VERSION);
}
END_TEST

static void header(Suite *s)
{
	UNIT_CASE(s, "header", codes_and_scopes_have_the_names_of_the_table, dtypes_have_names_and_blocks,
		a_thread_without_a_failure_has_an_empty_one);
}

UNIT_MAIN("trims_h", header)
