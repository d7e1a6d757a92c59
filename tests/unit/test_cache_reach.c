/* test_cache_reach.c - copies on devices that are made by a plan: what they take, how they lose their tail and get it back,
 * and how they grow in idle time. */
#include "tests/unit/brain_fixture.h"

/* Devices 500, host 4000. */
static void start_with(struct fixture *f, const char *policy, bool promote)
{
	fix_prepare(f);
	fix_gpus(f);
	f->config.policy = policy;
	f->config.promote = promote;
	f->tiers[HOST].capacity_bytes = 4000;
	f->links[3].max_active = f->links[4].max_active = 64;
	fix_start(f);
}

static void start(struct fixture *f)
{
	start_with(f, "lru", false);
}

static const struct fix_answer *open_planned(struct fixture *f, uint64_t request, const char *name, uint64_t plan)
{
	struct cache_open ask = fix_ask_gpu(request, name, 0);
	ask.plan = plan;
	return fix_open_as(f, ask);
}

static void use_planned(struct fixture *f, uint64_t request, const char *name, uint64_t plan)
{
	f->now += NS_PER_MS;
	open_planned(f, request, name, plan);
	fix_close(f, request);
}

#define ck_assert_copy(f, name, wanted_state, wanted_reach, wanted_bytes)                                             \
	do {                                                                                                          \
		struct cache_copy_view v_ = fix_copy(f, name, GPU0);                                                  \
		ck_assert_str_eq(copy_state_name(v_.state), copy_state_name(wanted_state));                           \
		ck_assert_int_eq(v_.reach, wanted_reach);                                                             \
		ck_assert_uint_eq(v_.bytes, wanted_bytes);                                                            \
	} while (0)

/* ---- plans ---- */

START_TEST(a_copy_takes_what_its_plan_says_and_is_named_by_it)
{
	struct fixture f;
	start(&f);
	f.hands &= ~(HAND_ALLOC | HAND_TRANSFER);
	open_planned(&f, 1, "a:300!", FIX_PLAN(100, 200));
	struct cache_effect e = fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_int_eq(e.to, GPU0);
	ck_assert_uint_eq(e.bytes, 200);
	ck_assert_uint_eq(e.plan, FIX_PLAN(100, 200));
	ck_assert_int_eq(e.reach, REACH_PLAN);
	ck_assert(!e.grow);
	ck_assert_uint_eq(e.edition, e.copy);
	e = fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_int_eq(e.to, HOST);
	ck_assert_uint_eq(e.bytes, 300);
	e = fix_done(&f, FX_START, TRIMS_E_NONE); /* what comes first on the device is read first */
	ck_assert_int_eq(e.to, HOST);
	ck_assert_uint_eq(e.plan, FIX_PLAN(100, 200));
	e = fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_int_eq(e.to, GPU0);
	ck_assert(!e.grow);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	struct cache_copy_view v = fix_copy(&f, "a:300!", GPU0);
	ck_assert_uint_eq(v.plan, FIX_PLAN(100, 200));
	ck_assert_uint_eq(v.size.head_bytes, 100);
	ck_assert_uint_eq(v.size.all_bytes, 300);
	struct cache_tier_view t;
	cache_tier(f.c, GPU0, &t);
	ck_assert_uint_eq(t.partial, 1);
	ck_assert_uint_eq(t.used_bytes, 200);
	fix_fini(&f);
}
END_TEST

START_TEST(who_asks_for_another_plan_or_none_gets_what_is_there)
{
	struct fixture f;
	start(&f);
	open_planned(&f, 1, "a:300!", FIX_PLAN(0, 200));
	const struct fix_answer *none = open_planned(&f, 2, "a:300!", 0), *other = open_planned(&f, 3, "a:300!", FIX_PLAN(0, 100));
	ck_assert_granted(none, COPY_READY);
	ck_assert_uint_eq(none->plan, FIX_PLAN(0, 200));
	ck_assert_uint_eq(other->plan, FIX_PLAN(0, 200));
	ck_assert_uint_eq(other->edition, f.answers[1].edition);
	open_planned(&f, 4, "b:100!", 0);
	ck_assert_uint_eq(open_planned(&f, 5, "b:100!", FIX_PLAN(0, 50))->plan, 0);
	ck_assert_uint_eq(fix_copy(&f, "b:100!", GPU0).bytes, 100);
	fix_fini(&f);
}
END_TEST

START_TEST(sizes_that_make_no_sense_do_no_harm)
{
	struct fixture f;
	start(&f);
	use_planned(&f, 1, "a:100!", FIX_PLAN(300, 200)); /* more to keep than there is, more by the plan than in all */
	ck_assert_copy(&f, "a:100!", COPY_READY, REACH_PLAN, 200);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU0).size.head_bytes, 0);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU0).size.all_bytes, 200);
	fix_fini(&f);
}
END_TEST

START_TEST(a_model_larger_than_the_device_fits_by_its_plan)
{
	struct fixture f;
	start(&f);
	ck_assert_refused(open_planned(&f, 1, "a:900!", 0), TRIMS_E_TOO_LARGE);
	ck_assert_int_eq(open_planned(&f, 2, "a:900!", FIX_PLAN(0, 500))->kind, FX_GRANT);
	struct cache_open any = fix_ask_gpu(3, "b:900!", CACHE_ANY_DEVICE);
	any.plan = FIX_PLAN(0, 400);
	ck_assert_int_eq(fix_open_as(&f, any)->tier, GPU1); /* where that much is free */
	fix_fini(&f);
}
END_TEST

START_TEST(a_plan_is_referred_to_as_long_as_it_may_be_used)
{
	struct fixture f;
	const int *seen = f.plan_refs;
	start(&f);
	f.hands &= ~HAND_RESOLVE;
	open_planned(&f, 1, "a:900!", FIX_PLAN(0, 101)); /* 5: waits for its name */
	f.hands = HANDS_ALL;
	open_planned(&f, 2, "b:300!", FIX_PLAN(0, 102)); /* 6: leased */
	use_planned(&f, 3, "c:300!", FIX_PLAN(0, 103));  /* 7: a copy that is there */
	use_planned(&f, 4, "d:300!", FIX_PLAN(0, 97));   /* 1: gone, but the model would come back by it */
	uint32_t in_use;
	cache_evict(f.c, f.now, "d:300!", TIER_GPU, 0, &in_use);
	fix_run(&f);
	ck_assert(seen[5] && seen[6] && seen[7] && seen[1]);
	ck_assert(!seen[2] && !seen[3] && !seen[4]);
	cache_cancel(f.c, f.now, 1, 1);
	fix_run(&f);
	ck_assert_int_eq(seen[5], 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_copy_made_by_a_plan_is_no_source_for_others)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	f.links[5] = (struct cache_link_config){GPU0, GPU1, 4, 1 << 30};
	f.config.n_links = 6;
	fix_start(&f);
	f.hands &= ~HAND_TRANSFER;
	open_planned(&f, 1, "a:300!", FIX_PLAN(0, 200));
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	fix_open_as(&f, fix_ask_gpu(2, "a:300!", 1));
	ck_assert_int_eq(fix_done(&f, FX_START, TRIMS_E_NONE).from, HOST);
	fix_fini(&f);
}
END_TEST

/* ---- tails ---- */

/* a and b with tails of 100 each, c without a plan; 0 bytes are free. */
static void fill(struct fixture *f)
{
	use_planned(f, 1, "a:150!", FIX_PLAN(50, 150));
	use_planned(f, 2, "b:150!", FIX_PLAN(50, 150));
	use_planned(f, 3, "c:200!", 0);
	ck_assert_uint_eq(fix_used(f, GPU0), 500);
}

START_TEST(tails_make_room_before_anything_goes_as_a_whole)
{
	struct fixture f;
	start(&f);
	fill(&f);
	use_planned(&f, 4, "c:200!", 0);
	ck_assert_granted(open_planned(&f, 5, "d:100!", 0), COPY_LOADING);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50); /* used longest ago */
	ck_assert_copy(&f, "b:150!", COPY_READY, REACH_PLAN, 150);
	ck_assert_granted(open_planned(&f, 6, "e:100!", 0), COPY_LOADING);
	ck_assert_copy(&f, "b:150!", COPY_RESERVED, REACH_HEAD, 50);
	ck_assert_state(&f, "c:200!", GPU0, COPY_READY);
	ck_assert_uint_eq(f.count[FX_TRIM], 2);
	ck_assert_uint_eq(f.count[FX_FREE], 0);
	ck_assert_uint_eq(cache_stats(f.c)->trimmed, 2);
	ck_assert_uint_eq(cache_stats(f.c)->trimmed_bytes, 200);
	struct cache_tier_view t;
	cache_tier(f.c, GPU0, &t);
	ck_assert_uint_eq(t.heads, 2);
	fix_close(&f, 5);
	ck_assert_granted(open_planned(&f, 7, "g:120!", 0), COPY_LOADING); /* then by the policy: a, b, c, and d is used last */
	ck_assert_state(&f, "a:150!", GPU0, COPY_ABSENT);
	ck_assert_state(&f, "b:150!", GPU0, COPY_ABSENT);
	ck_assert_state(&f, "c:200!", GPU0, COPY_ABSENT);
	ck_assert_state(&f, "d:100!", GPU0, COPY_READY);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_room, 3);
	fix_fini(&f);
}
END_TEST

START_TEST(what_is_held_or_pinned_keeps_its_tail)
{
	struct fixture f;
	start(&f);
	fill(&f);
	open_planned(&f, 10, "a:150!", 0);
	struct cache_open pin = fix_ask_gpu(11, "b:150!", 0);
	cache_pin(f.c, f.now, &pin);
	fix_run(&f);
	open_planned(&f, 12, "d:100!", 0);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	ck_assert_copy(&f, "b:150!", COPY_READY, REACH_PLAN, 150);
	ck_assert_state(&f, "c:200!", GPU0, COPY_ABSENT);
	ck_assert_uint_eq(f.count[FX_TRIM], 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_tail_that_the_host_has_not_goes_only_in_its_turn)
{
	struct fixture f;
	start(&f);
	use_planned(&f, 1, "c:200!", 0);
	use_planned(&f, 2, "a:150!", FIX_PLAN(50, 150));
	use_planned(&f, 3, "b:150!", FIX_PLAN(50, 150));
	cache_corrupt(f.c, f.now, f.answers[2].model, HOST);
	cache_corrupt(f.c, f.now, f.answers[3].model, HOST);
	fix_run(&f);
	open_planned(&f, 4, "d:150!", 0);
	ck_assert_state(&f, "c:200!", GPU0, COPY_ABSENT); /* used longest ago */
	ck_assert_uint_eq(f.count[FX_TRIM], 0);
	open_planned(&f, 5, "e:120!", 0);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50);
	ck_assert_copy(&f, "b:150!", COPY_READY, REACH_PLAN, 150);
	fix_fini(&f);
}
END_TEST

START_TEST(where_nothing_is_evicted_tails_stay_too)
{
	struct fixture f;
	start_with(&f, "never", false);
	fill(&f);
	ck_assert_refused(open_planned(&f, 5, "d:100!", 0), TRIMS_E_NO_ROOM);
	ck_assert_uint_eq(f.count[FX_TRIM], 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_prefetch_takes_the_tails_of_what_is_worth_less)
{
	struct fixture f;
	start_with(&f, "cost", false);
	use_planned(&f, 1, "hot:150!", FIX_PLAN(50, 150));
	for (uint64_t r = 2; r < 12; r++)
		use_planned(&f, r, "hot:150!", 0);
	use_planned(&f, 12, "cold:150!", FIX_PLAN(50, 150));
	f.now += 1200 * NS_PER_S;
	for (uint64_t r = 13; r < 33; r++)
		use_planned(&f, r, "hot:150!", 0);
	use_planned(&f, 33, "c:200!", 0);
	f.now += 600 * NS_PER_S;
	struct cache_open prefetch = fix_ask_gpu(34, "d:100!", 0);
	cache_prefetch(f.c, f.now, &prefetch);
	fix_run(&f);
	ck_assert_state(&f, "d:100!", GPU0, COPY_READY);
	ck_assert_copy(&f, "hot:150!", COPY_READY, REACH_PLAN, 150);
	ck_assert_copy(&f, "cold:150!", COPY_RESERVED, REACH_HEAD, 50);
	fix_fini(&f);
}
END_TEST

START_TEST(the_next_open_brings_the_tail_behind_what_was_kept)
{
	struct fixture f;
	start(&f);
	fill(&f);
	uint64_t old = fix_copy(&f, "a:150!", GPU0).edition;
	open_planned(&f, 5, "d:100!", 0);
	fix_close(&f, 5);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50);
	f.hands &= ~(HAND_ALLOC | HAND_TRANSFER);
	ck_assert_int_eq(open_planned(&f, 6, "a:150!", FIX_PLAN(0, 10))->kind, FX_N);
	struct cache_effect e = fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert(e.grow);
	ck_assert_uint_eq(e.bytes, 150);
	ck_assert_uint_eq(e.plan, FIX_PLAN(50, 150)); /* its own, whatever was asked for */
	ck_assert_int_eq(e.reach, REACH_PLAN);
	ck_assert_uint_ne(e.edition, old);
	ck_assert_granted(&f.answers[6], COPY_LOADING);
	ck_assert_uint_eq(f.answers[6].edition, e.edition);
	ck_assert_uint_eq(f.answers[6].copy, f.answers[1].copy);
	struct cache_effect s = fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert(s.grow);
	ck_assert_uint_eq(s.edition, e.edition);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	ck_assert_uint_eq(fix_copy(&f, "b:150!", GPU0).bytes, 50); /* whose tail it took */
	ck_assert_uint_eq(cache_stats(f.c)->regrown, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(who_opens_while_the_tail_leaves_waits_until_it_has)
{
	struct fixture f;
	start(&f);
	fill(&f);
	f.hands &= ~HAND_TRIM;
	open_planned(&f, 5, "d:100!", 0);
	ck_assert_uint_eq(fix_used(&f, GPU0), 500);
	open_planned(&f, 6, "a:150!", 0);
	ck_assert_int_eq(f.answers[5].kind, FX_N);
	fix_done(&f, FX_TRIM, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[5].kind, FX_GRANT);
	ck_assert_int_eq(f.answers[6].kind, FX_N);
	fix_done(&f, FX_TRIM, TRIMS_E_NONE); /* of b, for a */
	ck_assert_int_eq(f.answers[6].kind, FX_GRANT);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	fix_fini(&f);
}
END_TEST

START_TEST(a_tail_that_cannot_be_given_back_counts_on)
{
	struct fixture f;
	start(&f);
	fill(&f);
	f.hands &= ~HAND_TRIM;
	open_planned(&f, 5, "d:100!", 0);
	struct cache_effect e = fix_take(&f, FX_TRIM);
	ck_assert_uint_eq(e.bytes, 50);
	cache_trimmed(f.c, f.now, e.model, e.to, e.edition, 120);
	fix_run(&f);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 120);
	fix_done(&f, FX_TRIM, TRIMS_E_NONE); /* the rest comes from b */
	ck_assert_int_eq(f.answers[5].kind, FX_GRANT);
	ck_assert_uint_eq(cache_stats(f.c)->trimmed_bytes, 130);
	open_planned(&f, 6, "a:150!", 0);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	fix_close(&f, 6);
	fix_close(&f, 5);
	open_planned(&f, 7, "e:400!", 0);
	ck_assert_state(&f, "a:150!", GPU0, COPY_ABSENT); /* is not tried again */
	fix_fini(&f);
}
END_TEST

START_TEST(a_tail_that_was_not_wanted_in_the_end_goes_again)
{
	struct fixture f;
	start(&f);
	fill(&f);
	open_planned(&f, 5, "d:100!", 0);
	fix_close(&f, 5);
	f.hands &= ~HAND_TRANSFER;
	open_planned(&f, 6, "a:150!", 0);
	fix_close(&f, 6); /* the transfer is stopped */
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_PLAN, 150);
	f.hands |= HAND_TRANSFER;
	uint32_t trims = f.count[FX_TRIM];
	open_planned(&f, 7, "e:100!", 0);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50);
	ck_assert_uint_eq(f.count[FX_TRIM], trims + 1);
	open_planned(&f, 8, "a:150!", 0);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	fix_fini(&f);
}
END_TEST

START_TEST(a_head_whose_rest_gets_no_memory_stays_a_head)
{
	struct fixture f;
	start(&f);
	fill(&f);
	open_planned(&f, 5, "d:200!", 0);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50);
	fix_close(&f, 5);
	f.hands &= ~HAND_ALLOC;
	open_planned(&f, 6, "a:150!", 0);
	uint32_t frees = f.count[FX_FREE];
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY); /* idle copies go, then it is asked for again */
	ck_assert_uint_gt(f.count[FX_FREE], frees);
	ck_assert_uint_eq(cache_stats(f.c)->alloc_retries, 1);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_refused(&f.answers[6], TRIMS_E_NO_MEMORY);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50);
	f.hands = HANDS_ALL;
	ck_assert_int_eq(open_planned(&f, 7, "a:150!", 0)->kind, FX_GRANT);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	fix_fini(&f);
}
END_TEST

START_TEST(who_comes_while_memory_for_the_rest_is_still_asked_for_joins)
{
	struct fixture f;
	start(&f);
	fill(&f);
	open_planned(&f, 5, "d:100!", 0);
	fix_close(&f, 5);
	f.hands &= ~HAND_ALLOC;
	open_planned(&f, 6, "a:150!", 0);
	ck_assert_int_eq(cache_cancel(f.c, f.now, 1, 6), 0); /* nobody wants it any more */
	fix_run(&f);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_PLAN, 150);
	open_planned(&f, 7, "a:150!", 0);
	uint32_t asked = f.count[FX_ALLOC];
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_uint_eq(f.count[FX_ALLOC], asked);
	ck_assert_int_eq(f.answers[7].kind, FX_GRANT);
	ck_assert_copy(&f, "a:150!", COPY_READY, REACH_PLAN, 150);
	fix_fini(&f);
}
END_TEST

START_TEST(memory_for_the_rest_that_nobody_wants_any_more_is_kept_or_not_there)
{
	struct fixture f;
	start(&f);
	fill(&f);
	open_planned(&f, 5, "d:100!", 0);
	fix_close(&f, 5);
	f.hands &= ~HAND_ALLOC;
	open_planned(&f, 6, "a:150!", 0);
	cache_cancel(f.c, f.now, 1, 6);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 50);
	open_planned(&f, 7, "a:150!", 0);
	cache_cancel(f.c, f.now, 1, 7);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_PLAN, 150);
	fix_fini(&f);
}
END_TEST

START_TEST(a_head_does_not_stand_in_the_way_of_loads_before_its_own)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	f.config.min_residency_ns = 10 * NS_PER_S;
	f.tiers[HOST].capacity_bytes = 4000;
	fix_start(&f);
	use_planned(&f, 1, "a:150!", FIX_PLAN(100, 150));
	use_planned(&f, 2, "old:200!", 0);
	f.now += 20 * NS_PER_S;
	use_planned(&f, 3, "young:200!", 0);
	ck_assert_copy(&f, "a:150!", COPY_RESERVED, REACH_HEAD, 100);
	f.hands &= ~HAND_FREE;
	struct cache_open late = fix_ask_gpu(4, "a:150!", 0);
	late.deadline = f.now + 100 * NS_PER_S;
	fix_open_as(&f, late); /* waits for what `old` had */
	struct cache_open soon = fix_ask_gpu(5, "b:250!", 0);
	soon.deadline = f.now + 10 * NS_PER_S;
	fix_open_as(&f, soon); /* needs more than that, and `young` is not to be had */
	ck_assert_granted(open_planned(&f, 6, "young:200!", 0), COPY_READY);
	f.hands = HANDS_ALL;
	while (fix_held(&f, FX_FREE))
		fix_done(&f, FX_FREE, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[5].kind, FX_GRANT);
	ck_assert_refused(&f.answers[4], TRIMS_E_NO_ROOM);
	fix_fini(&f);
}
END_TEST

START_TEST(a_head_goes_when_it_is_old_damaged_superseded_or_told_to)
{
	struct fixture f;
	uint32_t in_use;
	fix_prepare(&f);
	fix_gpus(&f);
	f.config.ttl_ns = 10 * NS_PER_S;
	f.tiers[HOST].capacity_bytes = 4000;
	fix_start(&f);
	use_planned(&f, 1, "a:300!", FIX_PLAN(50, 300));
	open_planned(&f, 2, "b:300!", FIX_PLAN(50, 300));
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 50);
	cache_corrupt(f.c, f.now, f.answers[1].model, GPU0);
	fix_run(&f);
	ck_assert_state(&f, "a:300!", GPU0, COPY_ABSENT);
	fix_close(&f, 2);
	open_planned(&f, 3, "c:400!", FIX_PLAN(50, 400));
	ck_assert_copy(&f, "b:300!", COPY_RESERVED, REACH_HEAD, 50);
	ck_assert_int_eq(cache_evict(f.c, f.now, "b:300!", TIER_GPU, 0, &in_use), 0);
	ck_assert_uint_eq(in_use, 0);
	fix_run(&f);
	ck_assert_state(&f, "b:300!", GPU0, COPY_ABSENT);
	fix_close(&f, 3);
	open_planned(&f, 4, "d:450!", 0);
	ck_assert_copy(&f, "c:400!", COPY_RESERVED, REACH_HEAD, 50);
	fix_tick(&f, 20 * NS_PER_S);
	ck_assert_state(&f, "c:400!", GPU0, COPY_ABSENT);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_ttl, 5); /* the host copies, too */
	fix_fini(&f);
}
END_TEST

START_TEST(a_device_that_dies_while_a_tail_leaves_waits_for_it)
{
	struct fixture f;
	struct fault why;
	start(&f);
	fill(&f);
	f.hands &= ~HAND_TRIM;
	open_planned(&f, 5, "d:100!", 0);
	fault_set(&why, TRIMS_E_GPU_ERROR, "gone");
	ck_assert_int_eq(cache_tier_lost(f.c, f.now, GPU0, &why), 0);
	fix_run(&f);
	ck_assert_refused(&f.answers[5], TRIMS_E_GPU_ERROR);
	ck_assert_copy(&f, "a:150!", COPY_DRAINING, REACH_HEAD, 150);
	fix_done(&f, FX_TRIM, TRIMS_E_NONE);
	ck_assert_uint_eq(fix_used(&f, GPU0), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(any_device_is_the_one_with_the_beginning)
{
	struct fixture f;
	start(&f);
	use_planned(&f, 1, "a:300!", FIX_PLAN(50, 300));
	use_planned(&f, 2, "b:400!", 0);
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 50);
	struct cache_open any = fix_ask_gpu(3, "a:300!", CACHE_ANY_DEVICE);
	ck_assert_int_eq(fix_open_as(&f, any)->tier, GPU0); /* though the other one is empty */
	fix_close(&f, 3);
	open_planned(&f, 4, "c:450!", 0);
	any.request = 5;
	ck_assert_int_eq(fix_open_as(&f, any)->tier, GPU1); /* no room for the rest there */
	fix_fini(&f);
}
END_TEST

/* ---- growing ---- */

/* a: 200 of 300 on device 0, opened often. */
static void start_growing(struct fixture *f)
{
	start_with(f, "lru", true);
	use_planned(f, 1, "a:300!", FIX_PLAN(100, 200));
	use_planned(f, 2, "a:300!", 0);
}

START_TEST(what_is_hot_grows_in_idle_time_whoever_holds_it)
{
	struct fixture f;
	start_growing(&f);
	open_planned(&f, 3, "a:300!", 0);
	f.hands &= ~(HAND_ALLOC | HAND_TRANSFER);
	fix_tick(&f, NS_PER_S);
	ck_assert_uint_eq(fix_used(&f, GPU0), 300);
	ck_assert(fix_copy(&f, "a:300!", GPU0).growing);
	const struct fix_answer *meanwhile = open_planned(&f, 4, "a:300!", 0);
	ck_assert_granted(meanwhile, COPY_READY);
	ck_assert_int_eq(meanwhile->reach, REACH_PLAN);
	struct cache_effect e = fix_done(&f, FX_ALLOC, TRIMS_E_NONE), s = fix_take(&f, FX_START);
	ck_assert(e.grow && s.grow && e.reach == REACH_ALL && s.reach == REACH_ALL && e.bytes == 300);
	ck_assert_uint_eq(s.class, CLASS_PREFETCH);
	ck_assert_uint_ne(e.edition, meanwhile->edition);
	ck_assert_uint_eq(open_planned(&f, 5, "a:300!", 0)->edition, meanwhile->edition);
	fix_answer_one(&f, &s, TRIMS_E_NONE);
	fix_run(&f);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_ALL, 300);
	const struct fix_answer *after = open_planned(&f, 6, "a:300!", 0);
	ck_assert_uint_eq(after->edition, e.edition);
	ck_assert_int_eq(after->reach, REACH_ALL);
	ck_assert_uint_eq(after->copy, meanwhile->copy);
	ck_assert_uint_eq(cache_stats(f.c)->grown, 1);
	fix_tick(&f, NS_PER_S);
	ck_assert_uint_eq(f.n_held, 0);
	fix_fini(&f);
}
END_TEST

START_TEST(only_free_memory_an_idle_link_and_a_host_copy_make_it_grow)
{
	struct fixture f;
	uint32_t in_use;
	start_growing(&f);
	open_planned(&f, 3, "b:250!", 0);
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200); /* no room that is free */
	fix_close(&f, 3);
	cache_evict(f.c, f.now, "b:250!", TIER_GPU, 0, &in_use);
	fix_run(&f);
	f.hands &= ~HAND_TRANSFER;
	open_planned(&f, 4, "c:50!", 0);
	fix_done(&f, FX_START, TRIMS_E_NONE); /* to the host */
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200); /* the link has something to do */
	fix_done(&f, FX_START, TRIMS_E_NONE);
	f.hands = HANDS_ALL;
	cache_evict(f.c, f.now, "c:50!", TIER_REMOTE, 0, &in_use);
	cache_corrupt(f.c, f.now, f.answers[1].model, HOST);
	fix_run(&f);
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200); /* nothing to fill it from */
	fix_open(&f, 5, "a:300!");
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_ALL, 300);
	fix_fini(&f);
}
END_TEST

START_TEST(a_growth_without_memory_is_tried_again_a_minute_later)
{
	struct fixture f;
	start_growing(&f);
	f.hands &= ~HAND_ALLOC;
	fix_tick(&f, NS_PER_S);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	ck_assert_uint_eq(f.count[FX_TRIM], 0);
	f.hands = HANDS_ALL;
	fix_tick(&f, 30 * NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	use_planned(&f, 5, "a:300!", 0);
	fix_tick(&f, 31 * NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_ALL, 300);
	ck_assert_uint_eq(cache_stats(f.c)->grows_given_up, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_growth_that_fails_leaves_the_copy_what_it_was)
{
	struct fixture f;
	start_growing(&f);
	open_planned(&f, 3, "a:300!", 0);
	f.hands &= ~(HAND_TRANSFER | HAND_TRIM);
	fix_tick(&f, NS_PER_S);
	struct cache_effect s = fix_done(&f, FX_START, TRIMS_E_GPU_ERROR), t = fix_take(&f, FX_TRIM);
	ck_assert_uint_eq(t.bytes, 200);
	ck_assert_int_eq(t.reach, REACH_PLAN);
	ck_assert_uint_eq(t.edition, s.edition); /* the one that never came to be */
	ck_assert_uint_eq(f.count[FX_POISON], 0);
	const struct fix_answer *hit = open_planned(&f, 4, "a:300!", 0);
	ck_assert_granted(hit, COPY_READY);
	ck_assert_uint_eq(hit->edition, f.answers[3].edition);
	ck_assert_uint_eq(fix_used(&f, GPU0), 300);
	fix_answer_one(&f, &t, TRIMS_E_NONE);
	fix_run(&f);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	fix_fini(&f);
}
END_TEST

START_TEST(a_growth_makes_way_for_a_demand)
{
	struct fixture f;
	start_growing(&f);
	open_planned(&f, 3, "a:300!", 0);
	f.hands &= ~HAND_TRANSFER;
	fix_tick(&f, NS_PER_S);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	open_planned(&f, 4, "b:300!", 0);
	ck_assert_uint_eq(fix_held(&f, FX_CANCEL), 1);
	ck_assert_int_eq(f.answers[4].kind, FX_N);
	fix_done(&f, FX_START, TRIMS_E_NONE); /* done before the order came: too late all the same */
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	ck_assert_int_eq(f.count[FX_TRIM], 1);
	f.hands = HANDS_ALL;
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[4].kind, FX_GRANT);
	fix_take(&f, FX_CANCEL);
	fix_fini(&f);
}
END_TEST

START_TEST(what_it_grew_by_goes_before_its_tail)
{
	struct fixture f;
	start_growing(&f);
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_ALL, 300);
	uint64_t grown = fix_copy(&f, "a:300!", GPU0).edition;
	f.hands &= ~HAND_TRIM;
	open_planned(&f, 3, "b:300!", 0);
	const struct fix_answer *smaller = open_planned(&f, 4, "a:300!", 0); /* served at once, without what leaves */
	ck_assert_granted(smaller, COPY_READY);
	ck_assert_int_eq(smaller->reach, REACH_PLAN);
	ck_assert_uint_ne(smaller->edition, grown);
	fix_close(&f, 4);
	fix_done(&f, FX_TRIM, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[3].kind, FX_GRANT);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	open_planned(&f, 5, "c:100!", 0);
	fix_done(&f, FX_TRIM, TRIMS_E_NONE);
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 100);
	ck_assert_int_eq(f.answers[5].kind, FX_GRANT);
	fix_fini(&f);
}
END_TEST

START_TEST(who_needs_more_gets_both_at_once)
{
	struct fixture f;
	start_growing(&f);
	fix_tick(&f, NS_PER_S);
	open_planned(&f, 3, "b:350!", 0);
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 100);
	ck_assert_uint_eq(f.count[FX_TRIM], 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_copy_that_leaves_stops_growing)
{
	struct fixture f;
	uint32_t in_use;
	start_growing(&f);
	f.hands &= ~HAND_TRANSFER;
	fix_tick(&f, NS_PER_S);
	cache_evict(f.c, f.now, "a:300!", TIER_GPU, 0, &in_use);
	fix_run(&f);
	ck_assert_uint_eq(f.count[FX_FREE], 0);
	ck_assert_copy(&f, "a:300!", COPY_DRAINING, REACH_PLAN, 300);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	ck_assert_uint_eq(f.count[FX_FREE], 1);
	ck_assert_uint_eq(f.count[FX_TRIM], 0); /* all of it went at once */
	ck_assert_uint_eq(fix_used(&f, GPU0), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_growth_ends_when_its_source_is_damaged)
{
	struct fixture f;
	start_growing(&f);
	f.hands &= ~HAND_TRANSFER;
	fix_tick(&f, NS_PER_S);
	cache_corrupt(f.c, f.now, f.answers[1].model, HOST);
	fix_run(&f);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	ck_assert_uint_eq(f.count[FX_POISON], 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_growth_whose_source_went_before_it_began_ends)
{
	struct fixture f;
	uint32_t in_use;
	start_growing(&f);
	f.hands &= ~(HAND_ALLOC | HAND_TRANSFER);
	fix_tick(&f, NS_PER_S);
	cache_evict(f.c, f.now, "a:300!", TIER_HOST, 0, &in_use);
	fix_run(&f);
	fix_open(&f, 3, "a:300!"); /* it comes again, but is not complete */
	struct cache_effect grow = fix_take(&f, FX_ALLOC);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_state(&f, "a:300!", HOST, COPY_LOADING);
	fix_answer_one(&f, &grow, TRIMS_E_NONE);
	fix_run(&f);
	ck_assert_uint_eq(f.count[FX_TRIM], 1);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	fix_fini(&f);
}
END_TEST

START_TEST(a_growth_that_waits_for_its_link_ends_at_once)
{
	struct fixture f;
	start_with(&f, "lru", true);
	cache_free(&f.c);
	f.links[3].max_active = 1;
	fix_start(&f);
	use_planned(&f, 1, "a:300!", FIX_PLAN(100, 200));
	use_planned(&f, 2, "a:300!", 0);
	f.hands &= ~HAND_ALLOC;
	fix_tick(&f, NS_PER_S);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	open_planned(&f, 3, "b:100!", 0);
	fix_done(&f, FX_START, TRIMS_E_NONE); /* to the host; then the slot is b's */
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert(fix_copy(&f, "a:300!", GPU0).growing);
	ck_assert_uint_eq(fix_held(&f, FX_START), 1);
	cache_corrupt(f.c, f.now, f.answers[1].model, HOST);
	fix_run(&f);
	ck_assert_uint_eq(f.count[FX_TRIM], 1);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	fix_fini(&f);
}
END_TEST

START_TEST(a_device_that_gets_smaller_gives_up_growths_first)
{
	struct fixture f;
	start_growing(&f);
	use_planned(&f, 3, "b:150!", 0);
	f.hands &= ~HAND_TRANSFER;
	fix_tick(&f, NS_PER_S);
	ck_assert_uint_eq(fix_used(&f, GPU0), 450);
	cache_tier_resize(f.c, f.now, GPU0, 380);
	fix_tick(&f, 0);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	ck_assert_uint_eq(fix_used(&f, GPU0), 350);
	ck_assert_state(&f, "b:150!", GPU0, COPY_READY);
	cache_tier_resize(f.c, f.now, GPU0, 340);
	fix_tick(&f, 0);
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 100);
	ck_assert_state(&f, "b:150!", GPU0, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_device_that_dies_takes_its_growth_along)
{
	struct fixture f;
	struct fault why;
	start_growing(&f);
	open_planned(&f, 3, "a:300!", 0);
	f.hands &= ~HAND_ALLOC;
	fix_tick(&f, NS_PER_S);
	fault_set(&why, TRIMS_E_GPU_ERROR, "gone");
	ck_assert_int_eq(cache_tier_lost(f.c, f.now, GPU0, &why), 0);
	fix_run(&f);
	ck_assert_uint_eq(f.count[FX_POISON], 1);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_uint_eq(f.count[FX_START], 2); /* none of it */
	fix_close(&f, 3);
	ck_assert_uint_eq(fix_used(&f, GPU0), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(idle_time_completes_heads_too)
{
	struct fixture f;
	uint32_t in_use;
	start_growing(&f);
	open_planned(&f, 3, "b:400!", 0);
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 100);
	fix_close(&f, 3);
	cache_evict(f.c, f.now, "b:400!", TIER_GPU, 0, &in_use);
	fix_run(&f);
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_PLAN, 200);
	fix_tick(&f, NS_PER_S);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_ALL, 300);
	fix_fini(&f);
}
END_TEST

START_TEST(what_comes_back_by_itself_is_made_by_its_last_plan)
{
	struct fixture f;
	start_growing(&f);
	use_planned(&f, 3, "a:300!", 0);
	cache_corrupt(f.c, f.now, f.answers[1].model, GPU0); /* gone, but not told to go */
	fix_run(&f);
	ck_assert_state(&f, "a:300!", GPU0, COPY_ABSENT);
	fix_tick(&f, NS_PER_S);
	struct cache_copy_view v = fix_copy(&f, "a:300!", GPU0);
	ck_assert_uint_eq(v.plan, FIX_PLAN(100, 200));
	fix_fini(&f);
}
END_TEST

START_TEST(a_kept_copy_goes_on_with_its_plan)
{
	struct fixture f;
	uint64_t model;
	start_with(&f, "lru", true);
	struct cache_model_info info = fix_info(&f, "a:300!");
	struct cache_part part = {.plan = FIX_PLAN(100, 200), .size = {100, 200, 300}, .reach = REACH_ALL};
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &info, HOST, 7, 0, &part, &model), -EINVAL);
	part.size.head_bytes = 200;
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &info, GPU0, 7, 0, &part, &model), -EINVAL);
	part.size.head_bytes = 100;
	part.plan = 0;
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &info, GPU0, 7, 0, &part, &model), -EINVAL);
	part.plan = FIX_PLAN(100, 200);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &info, GPU0, 7, 0, &part, &model), 0);
	ck_assert_int_eq(cache_adopt_name(f.c, f.now, "a:300!", model), 0);
	ck_assert_copy(&f, "a:300!", COPY_READY, REACH_ALL, 300);
	part.reach = REACH_PLAN;
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &info, GPU1, 8, 0, &part, &model), 0);
	ck_assert_uint_eq(fix_used(&f, GPU1), 200);
	cache_claim(f.c, f.now, 1, 1, model, GPU0, 7);
	fix_run(&f);
	ck_assert_granted(&f.answers[1], COPY_READY);
	ck_assert_uint_eq(f.answers[1].edition, 7);
	fix_close(&f, 1);
	open_planned(&f, 2, "b:400!", 0);
	ck_assert_copy(&f, "a:300!", COPY_RESERVED, REACH_HEAD, 100);
	cache_claim(f.c, f.now, 1, 3, model, GPU0, 7); /* what had that number is gone */
	fix_run(&f);
	ck_assert_refused(&f.answers[3], TRIMS_E_NO_LEASE);
	fix_fini(&f);
}
END_TEST

static void plans(Suite *s)
{
	UNIT_CASE(s, "plans", a_copy_takes_what_its_plan_says_and_is_named_by_it,
		who_asks_for_another_plan_or_none_gets_what_is_there, sizes_that_make_no_sense_do_no_harm,
		a_model_larger_than_the_device_fits_by_its_plan, a_plan_is_referred_to_as_long_as_it_may_be_used,
		a_copy_made_by_a_plan_is_no_source_for_others, a_kept_copy_goes_on_with_its_plan);
}

static void tails(Suite *s)
{
	UNIT_CASE(s, "tails", tails_make_room_before_anything_goes_as_a_whole, what_is_held_or_pinned_keeps_its_tail,
		a_tail_that_the_host_has_not_goes_only_in_its_turn, where_nothing_is_evicted_tails_stay_too, a_prefetch_takes_the_tails_of_what_is_worth_less,
		the_next_open_brings_the_tail_behind_what_was_kept, who_opens_while_the_tail_leaves_waits_until_it_has,
		a_tail_that_cannot_be_given_back_counts_on, a_tail_that_was_not_wanted_in_the_end_goes_again,
		a_head_whose_rest_gets_no_memory_stays_a_head, who_comes_while_memory_for_the_rest_is_still_asked_for_joins,
		memory_for_the_rest_that_nobody_wants_any_more_is_kept_or_not_there, a_head_does_not_stand_in_the_way_of_loads_before_its_own,
		a_head_goes_when_it_is_old_damaged_superseded_or_told_to, a_device_that_dies_while_a_tail_leaves_waits_for_it,
		any_device_is_the_one_with_the_beginning);
}

static void growth(Suite *s)
{
	UNIT_CASE(s, "growth", what_is_hot_grows_in_idle_time_whoever_holds_it,
		only_free_memory_an_idle_link_and_a_host_copy_make_it_grow, a_growth_without_memory_is_tried_again_a_minute_later,
		a_growth_that_fails_leaves_the_copy_what_it_was, a_growth_makes_way_for_a_demand, what_it_grew_by_goes_before_its_tail,
		who_needs_more_gets_both_at_once, a_copy_that_leaves_stops_growing, a_growth_ends_when_its_source_is_damaged,
		a_growth_whose_source_went_before_it_began_ends, a_growth_that_waits_for_its_link_ends_at_once, a_device_that_gets_smaller_gives_up_growths_first,
		a_device_that_dies_takes_its_growth_along, idle_time_completes_heads_too,
		what_comes_back_by_itself_is_made_by_its_last_plan);
}

UNIT_MAIN("cache_reach", plans, tails, growth)
