/* test_cache_lease.c - requests and leases: answered once, withdrawn, timed out, gone with their owner. */
#include "tests/unit/brain_fixture.h"

START_TEST(a_lease_is_closed_by_its_owner_alone_and_once)
{
	struct fixture f;
	fix_init(&f);
	uint64_t lease = fix_open(&f, 1, "a:100")->lease;
	ck_assert_int_eq(cache_close(f.c, f.now, 2, lease), -ENOENT);
	ck_assert_int_eq(cache_close(f.c, f.now, 1, lease), 0);
	ck_assert_int_eq(cache_close(f.c, f.now, 1, lease), -ENOENT);
	ck_assert_int_eq(cache_close(f.c, f.now, 1, 0), -ENOENT);
	ck_assert_int_eq(cache_close(f.c, f.now, 1, UINT64_MAX), -ENOENT);
	uint64_t next = fix_open(&f, 2, "a:100")->lease;
	ck_assert_uint_ne(next, lease);
	fix_fini(&f);
}
END_TEST

START_TEST(leases_die_with_their_owner)
{
	struct fixture f;
	fix_init(&f);
	for (uint64_t r = 0; r < 10; r++)
		fix_open(&f, r, r % 2 ? "a:100" : "b:100");
	ck_assert_uint_eq(cache_owner_leases(f.c, 1), 10);
	cache_owner_gone(f.c, f.now, 1);
	ck_assert_uint_eq(cache_owner_leases(f.c, 1), 0);
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).leases, 0);
	fix_fini(&f);
}
END_TEST

START_TEST(nothing_is_answered_after_the_owner_went)
{
	struct fixture f;
	fix_init(&f);
	f.hands = 0;
	fix_open(&f, 1, "a:100");
	cache_owner_gone(f.c, f.now, 1);
	fix_done(&f, FX_RESOLVE, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[1].kind, FX_N);
	ck_assert_uint_eq(f.count[FX_ALLOC], 0); /* nobody wants it any more */
	ck_assert_uint_ne(cache_find(f.c, "a:100"), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(an_answer_that_was_not_taken_goes_with_the_owner)
{
	struct fixture f;
	struct cache_effect e;
	fix_init(&f);
	fix_use(&f, 1, "a:100");
	struct cache_open ask = fix_ask(2, "a:100");
	cache_open(f.c, f.now, &ask);
	cache_owner_gone(f.c, f.now, 1);
	while (cache_next_effect(f.c, &e))
		ck_assert_int_ne(e.kind, FX_GRANT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_withdrawn_request_is_answered_cancelled)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HAND_RESOLVE;
	fix_open(&f, 1, "a:100!");
	ck_assert_int_eq(cache_cancel(f.c, f.now, 2, 1), -ENOENT);
	ck_assert_int_eq(cache_cancel(f.c, f.now, 1, 1), 0);
	ck_assert_int_eq(cache_cancel(f.c, f.now, 1, 1), -ENOENT);
	fix_run(&f);
	ck_assert_refused(&f.answers[1], TRIMS_E_CANCELLED);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	fix_done(&f, FX_FREE, TRIMS_E_NONE); /* nothing had landed: not kept */
	ck_assert_state(&f, "a:100!", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_deadline_that_passes_refuses_the_request)
{
	struct fixture f;
	fix_init(&f);
	f.hands = 0;
	struct cache_open ask = fix_ask(1, "a:100");
	ask.deadline = f.now + NS_PER_S;
	fix_open_as(&f, ask);
	ck_assert_uint_eq(fix_tick(&f, NS_PER_S - 1), ask.deadline);
	ck_assert_int_eq(f.answers[1].kind, FX_N);
	fix_tick(&f, 1);
	ck_assert_refused(&f.answers[1], TRIMS_E_TIMED_OUT);
	fix_fini(&f);
}
END_TEST

START_TEST(more_pending_requests_than_allowed_are_refused)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.max_waiters = 3;
	fix_start(&f);
	f.hands = 0;
	for (uint64_t r = 0; r < 3; r++)
		fix_open(&f, r, "a:100");
	ck_assert_refused(fix_open(&f, 3, "b:100"), TRIMS_E_LIMIT);
	f.hands = HANDS_ALL;
	fix_finish_held(&f);
	ck_assert_granted(fix_open(&f, 4, "b:100"), COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(a_request_number_is_pending_once)
{
	struct fixture f;
	fix_init(&f);
	f.hands = 0;
	fix_open(&f, 1, "a:100");
	struct cache_open ask = fix_ask(1, "b:100");
	cache_open(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_refused(&f.answers[1], TRIMS_E_BAD_REQUEST);
	cache_owner_gone(f.c, f.now, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(fields_out_of_range_are_refused)
{
	struct fixture f;
	fix_init(&f);
	struct cache_open ask = fix_ask(1, "a:100");
	ask.class = CLASS_PERSIST;
	ck_assert_refused(fix_open_as(&f, ask), TRIMS_E_BAD_REQUEST);
	ask = fix_ask(2, "a:100");
	ask.tier = TIER_KIND_N;
	ck_assert_refused(fix_open_as(&f, ask), TRIMS_E_BAD_REQUEST);
	ask = fix_ask(3, "a:100");
	ask.tier = TIER_GPU;
	ck_assert_refused(fix_open_as(&f, ask), TRIMS_E_NO_TIER);
	fix_fini(&f);
}
END_TEST

START_TEST(only_resident_never_loads)
{
	struct fixture f;
	fix_init(&f);
	struct cache_open ask = fix_ask(1, "a:100");
	ask.only_resident = true;
	ck_assert_refused(fix_open_as(&f, ask), TRIMS_E_NOT_FOUND);
	ck_assert_uint_eq(f.count[FX_RESOLVE], 0);
	fix_use(&f, 2, "a:100");
	ask.request = 3;
	ck_assert_granted(fix_open_as(&f, ask), COPY_READY);
	fix_close(&f, 3);
	uint32_t in_use;
	cache_evict(f.c, f.now, "a:100", TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	ask.request = 4;
	ck_assert_refused(fix_open_as(&f, ask), TRIMS_E_NOT_FOUND); /* on disk, but not there */
	fix_fini(&f);
}
END_TEST

START_TEST(configurations_that_make_no_sense_are_refused_with_a_sentence)
{
	struct fixture f;
	struct fault why;
	fix_prepare(&f);
#define REFUSES(change)                                                                                               \
	do {                                                                                                          \
		static struct fixture g; /* a megabyte */                                                             \
		g = f;                                                                                                \
		g.config.tiers = g.tiers;                                                                             \
		g.config.links = g.links;                                                                             \
		why.text[0] = '\0';                                                                                   \
		change;                                                                                               \
		ck_assert_int_eq(cache_new(&g.c, &g.config, &why), -EINVAL);                                          \
		ck_assert_uint_gt(strlen(why.text), 0);                                                               \
	} while (0)
	REFUSES(g.config.n_tiers = 1);
	REFUSES(g.tiers[0].kind = TIER_HOST);
	REFUSES(g.tiers[1].kind = TIER_HOST);
	REFUSES(g.tiers[2].kind = TIER_KIND_N);
	REFUSES(g.tiers[2].capacity_bytes = UINT64_MAX);
	REFUSES(g.links[0].to = 7);
	REFUSES(g.links[0].to = REMOTE);
	REFUSES(g.links[0].max_active = 0);
	REFUSES(g.links[0].bytes_per_s = 0);
	REFUSES(g.links[1] = g.links[0]);
	REFUSES(g.config.policy = "best");
	REFUSES(g.config.policy = NULL);
	REFUSES(g.config.half_life_ns = 0);
	REFUSES(g.config.max_names = 0);
	REFUSES(g.config.max_waiters = 0);
#undef REFUSES
	struct cache *none = NULL;
	cache_free(&none);
}
END_TEST

START_TEST(a_brain_is_freed_in_the_middle_of_everything)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	fix_start(&f);
	f.hands = HAND_RESOLVE | HAND_ALLOC;
	for (uint64_t r = 0; r < 6; r++) {
		struct cache_open ask = fix_ask(r, r % 2 ? "a:100" : "b:200!");
		ask.tier = r < 4 ? TIER_GPU : TIER_HOST;
		ask.owner = r;
		ask.deadline = f.now + NS_PER_S;
		fix_open_as(&f, ask);
	}
	f.hands = 0;
	fix_open(&f, 10, "c:100");
	struct cache_open untaken = fix_ask(11, "");
	cache_open(f.c, f.now, &untaken); /* its refusal is not taken */
	cache_verify(f.c);
	cache_free(&f.c);
	ck_assert_ptr_null(f.c);
}
END_TEST

START_TEST(the_model_behind_a_lease_is_told_to_its_owner)
{
	struct fixture f;
	fix_init(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	ck_assert_uint_eq(cache_lease_model(f.c, 1, a->lease), a->model);
	ck_assert_uint_eq(cache_lease_model(f.c, 2, a->lease), 0);
	fix_close(&f, 1);
	ck_assert_uint_eq(cache_lease_model(f.c, 1, a->lease), 0);
	fix_fini(&f);
}
END_TEST

static void leases(Suite *s)
{
	UNIT_CASE(s, "leases", a_lease_is_closed_by_its_owner_alone_and_once, leases_die_with_their_owner,
		nothing_is_answered_after_the_owner_went, an_answer_that_was_not_taken_goes_with_the_owner,
		the_model_behind_a_lease_is_told_to_its_owner, a_brain_is_freed_in_the_middle_of_everything);
}

static void requests(Suite *s)
{
	UNIT_CASE(s, "requests", a_withdrawn_request_is_answered_cancelled, a_deadline_that_passes_refuses_the_request,
		more_pending_requests_than_allowed_are_refused, a_request_number_is_pending_once,
		fields_out_of_range_are_refused, only_resident_never_loads,
		configurations_that_make_no_sense_are_refused_with_a_sentence);
}

UNIT_MAIN("cache_lease", leases, requests)
