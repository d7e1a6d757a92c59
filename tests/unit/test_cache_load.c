/* test_cache_load.c - how a model comes in: one load for many, memory first, cut-through, cancel and resume. */
#include "tests/unit/brain_fixture.h"

START_TEST(a_cold_open_is_granted_while_bytes_arrive)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HAND_RESOLVE | HAND_ALLOC;
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	ck_assert_granted(a, COPY_LOADING);
	ck_assert(!a->hit);
	ck_assert_state(&f, "a:100", HOST, COPY_LOADING);
	struct cache_effect start = fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_int_eq(start.from, REMOTE);
	ck_assert_int_eq(start.to, HOST);
	ck_assert_uint_eq(start.copy, a->copy);
	ck_assert_state(&f, "a:100", HOST, COPY_READY);
	ck_assert_uint_eq(fix_used(&f, HOST), 100);
	fix_fini(&f);
}
END_TEST

START_TEST(a_second_open_is_a_hit_on_the_same_copy)
{
	struct fixture f;
	fix_init(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100"), *b = fix_open(&f, 2, "a:100");
	ck_assert_granted(b, COPY_READY);
	ck_assert(b->hit);
	ck_assert_uint_eq(a->copy, b->copy);
	ck_assert_uint_ne(a->lease, b->lease);
	ck_assert_uint_eq(cache_stats(f.c)->opens_miss, 1);
	ck_assert_uint_eq(cache_stats(f.c)->opens_hit, 1);
	ck_assert_uint_eq(cache_owner_leases(f.c, 1), 2);
	fix_fini(&f);
}
END_TEST

START_TEST(two_hundred_opens_of_a_cold_model_make_one_load)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.max_waiters = 200;
	fix_start(&f);
	f.hands = HAND_RESOLVE;
	for (uint64_t r = 0; r < 200; r++)
		fix_open(&f, r, "a:100");
	ck_assert_uint_eq(f.count[FX_RESOLVE], 1);
	ck_assert_uint_eq(f.count[FX_ALLOC], 1);
	ck_assert_uint_eq(f.count[FX_GRANT], 0);
	f.hands |= HAND_ALLOC;
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_uint_eq(f.count[FX_GRANT], 200);
	ck_assert_uint_eq(fix_held(&f, FX_START), 2); /* the load and its write-through */
	ck_assert_uint_eq(cache_stats(f.c)->opens_miss, 1);
	ck_assert_uint_eq(cache_stats(f.c)->opens_coalesced, 199);
	fix_fini(&f);
}
END_TEST

static void loading(Suite *s)
{
	UNIT_CASE(s, "loading", a_cold_open_is_granted_while_bytes_arrive, a_second_open_is_a_hit_on_the_same_copy,
		two_hundred_opens_of_a_cold_model_make_one_load);
}

UNIT_MAIN("cache_load", loading)
