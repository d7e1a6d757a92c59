/* test_cache_evict.c - who makes room for whom: budgets, policies, residency, TTL, pins, refusals. */
#include "tests/unit/brain_fixture.h"

static void start_with(struct fixture *f, const char *policy)
{
	fix_prepare(f);
	f->config.policy = policy;
	f->config.n_tiers = 3;
	fix_start(f);
}

START_TEST(lru_drops_what_was_used_longest_ago)
{
	struct fixture f;
	start_with(&f, "lru");
	fix_use(&f, 1, "a:400!");
	fix_use(&f, 2, "b:400!");
	fix_use(&f, 3, "a:400!");
	fix_use(&f, 4, "c:400!");
	ck_assert_state(&f, "a:400!", HOST, COPY_READY);
	ck_assert_state(&f, "b:400!", HOST, COPY_ABSENT);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_room, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(fifo_drops_what_was_loaded_first)
{
	struct fixture f;
	start_with(&f, "fifo");
	fix_use(&f, 1, "a:400!");
	fix_use(&f, 2, "b:400!");
	fix_use(&f, 3, "a:400!");
	fix_use(&f, 4, "c:400!");
	ck_assert_state(&f, "a:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "b:400!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(lcu_drops_what_was_used_least)
{
	struct fixture f;
	start_with(&f, "lcu");
	for (uint64_t r = 0; r < 3; r++)
		fix_use(&f, r, "a:400!");
	fix_use(&f, 3, "b:400!");
	fix_use(&f, 4, "b:400!");
	fix_use(&f, 5, "c:400!");
	ck_assert_state(&f, "a:400!", HOST, COPY_READY);
	ck_assert_state(&f, "b:400!", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(never_refuses_rather_than_evict)
{
	struct fixture f;
	start_with(&f, "never");
	fix_use(&f, 1, "a:600!");
	ck_assert_refused(fix_open(&f, 2, "b:600!"), TRIMS_E_NO_ROOM);
	ck_assert_state(&f, "a:600!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(cost_keeps_what_is_used_often_over_what_was_used_last)
{
	struct fixture f;
	start_with(&f, "cost");
	for (uint64_t r = 0; r < 5; r++)
		fix_use(&f, r, "often:400!");
	fix_use(&f, 10, "once:400!");
	fix_use(&f, 11, "new:400!");
	ck_assert_state(&f, "often:400!", HOST, COPY_READY);
	ck_assert_state(&f, "once:400!", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(cost_keeps_what_is_slow_to_get_again)
{
	struct fixture f;
	start_with(&f, "cost");
	fix_use(&f, 1, "remote:400!"); /* no disk copy: comes over the slow link again */
	fix_use(&f, 2, "disk:400");    /* used later, but the disk has it */
	f.now += 60 * NS_PER_S;
	fix_use(&f, 3, "new:400!");
	ck_assert_state(&f, "remote:400!", HOST, COPY_READY);
	ck_assert_state(&f, "disk:400", HOST, COPY_ABSENT);
	ck_assert_state(&f, "disk:400", DISK, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(cost_forgets_old_favour_by_halves)
{
	struct fixture f;
	start_with(&f, "cost");
	for (uint64_t r = 0; r < 8; r++)
		fix_use(&f, r, "old:400!");
	f.now += 6 * f.config.half_life_ns; /* eight uses are worth an eighth of one now */
	fix_use(&f, 10, "once:400!");
	fix_use(&f, 11, "new:400!");
	ck_assert_state(&f, "old:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "once:400!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(leased_models_are_never_victims_and_the_refusal_says_who_holds_what)
{
	struct fixture f;
	start_with(&f, "lru");
	fix_open(&f, 1, "a:400!");
	fix_open(&f, 2, "b:400!");
	const struct fix_answer *c = fix_open(&f, 3, "c:400!");
	ck_assert_refused(c, TRIMS_E_NO_ROOM);
	ck_assert_ptr_nonnull(strstr(c->text, "2 leased models hold 800"));
	ck_assert_ptr_nonnull(strstr(c->text, "c:400! needs 400 bytes"));
	fix_close(&f, 1);
	ck_assert_granted(fix_open(&f, 4, "c:400!"), COPY_LOADING);
	ck_assert_state(&f, "a:400!", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_model_larger_than_the_tier_is_refused_at_once)
{
	struct fixture f;
	start_with(&f, "lru");
	fix_use(&f, 1, "a:400!");
	ck_assert_refused(fix_open(&f, 2, "huge:1001!"), TRIMS_E_TOO_LARGE);
	ck_assert_state(&f, "a:400!", HOST, COPY_READY); /* nobody was evicted for it */
	fix_fini(&f);
}
END_TEST

START_TEST(an_evicted_copy_counts_until_its_memory_is_back)
{
	struct fixture f;
	start_with(&f, "lru");
	fix_use(&f, 1, "a:700!");
	f.hands &= ~HAND_FREE;
	const struct fix_answer *b = fix_open(&f, 2, "b:600!");
	ck_assert_int_eq(b->kind, FX_N);
	ck_assert_state(&f, "a:700!", HOST, COPY_DRAINING);
	ck_assert_uint_eq(fix_used(&f, HOST), 700);
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	ck_assert_granted(b, COPY_LOADING);
	ck_assert_uint_eq(fix_used(&f, HOST), 600);
	fix_fini(&f);
}
END_TEST

START_TEST(an_open_of_what_is_being_freed_waits_and_loads_again)
{
	struct fixture f;
	start_with(&f, "lru");
	fix_use(&f, 1, "a:700!");
	f.hands &= ~HAND_FREE;
	uint32_t in_use;
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:700!", TIER_HOST, CACHE_ANY_DEVICE, &in_use), 0);
	fix_run(&f);
	const struct fix_answer *a = fix_open(&f, 2, "a:700!");
	ck_assert_int_eq(a->kind, FX_N);
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	ck_assert_granted(a, COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(an_open_of_what_drains_under_a_lease_is_refused_busy)
{
	struct fixture f;
	uint32_t in_use;
	start_with(&f, "lru");
	fix_open(&f, 1, "a:700!");
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:700!", TIER_REMOTE, CACHE_ANY_DEVICE, &in_use), 0);
	ck_assert_uint_eq(in_use, 1);
	fix_run(&f);
	ck_assert_state(&f, "a:700!", HOST, COPY_DRAINING);
	ck_assert_refused(fix_open(&f, 2, "a:700!"), TRIMS_E_BUSY);
	fix_close(&f, 1);
	ck_assert_state(&f, "a:700!", HOST, COPY_ABSENT);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_admin, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_demand_waits_for_the_minimum_residency_of_its_victim)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.min_residency_ns = 10 * NS_PER_S;
	fix_start(&f);
	fix_use(&f, 1, "a:700!");
	const struct fix_answer *b = fix_open(&f, 2, "b:700!");
	ck_assert_int_eq(b->kind, FX_N);
	ck_assert_uint_eq(cache_stats(f.c)->residency_waits, 1);
	uint64_t next = fix_tick(&f, NS_PER_S);
	ck_assert_int_eq(b->kind, FX_N);
	ck_assert_uint_eq(next, f.now + 9 * NS_PER_S);
	fix_tick(&f, 9 * NS_PER_S);
	ck_assert_granted(b, COPY_LOADING);
	ck_assert_uint_eq(cache_stats(f.c)->residency_waits, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_prefetch_does_not_evict_what_is_young_or_worth_more)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.policy = "cost";
	f.config.min_residency_ns = 10 * NS_PER_S;
	fix_start(&f);
	for (uint64_t r = 0; r < 4; r++)
		fix_use(&f, r, "a:700!");
	struct cache_open ask = fix_ask(10, "b:700!");
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_refused(&f.answers[10], TRIMS_E_NO_ROOM); /* young */
	fix_tick(&f, 10 * NS_PER_S);
	ask.request = 11;
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_refused(&f.answers[11], TRIMS_E_NO_ROOM); /* used four times */
	f.now += 3 * f.config.half_life_ns;
	ask.request = 12;
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_int_eq(f.answers[12].kind, FX_ACCEPT); /* long ago */
	ck_assert_state(&f, "b:700!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_demand_takes_memory_from_a_prefetch_under_way)
{
	struct fixture f;
	start_with(&f, "lru");
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask(1, "soft:700!");
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	const struct fix_answer *b = fix_open(&f, 2, "hard:700!");
	ck_assert_int_eq(b->kind, FX_N);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	ck_assert_state(&f, "soft:700!", HOST, COPY_ABSENT);
	ck_assert_granted(b, COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(a_demand_waits_for_a_cancelled_load_to_come_home)
{
	struct fixture f;
	start_with(&f, "lru");
	f.hands &= ~HAND_TRANSFER;
	fix_open(&f, 1, "killed:700!");
	fix_close(&f, 1);
	fix_take(&f, FX_CANCEL);
	const struct fix_answer *b = fix_open(&f, 2, "next:700!");
	ck_assert_int_eq(b->kind, FX_N);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	ck_assert_state(&f, "killed:700!", HOST, COPY_ABSENT);
	ck_assert_granted(b, COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(what_a_cancelled_load_left_goes_first)
{
	struct fixture f;
	start_with(&f, "lru");
	fix_use(&f, 1, "full:400!");
	f.hands &= ~HAND_TRANSFER;
	f.now += NS_PER_S;
	fix_open(&f, 2, "part:400!");
	fix_close(&f, 2);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	ck_assert_state(&f, "part:400!", HOST, COPY_RESERVED);
	fix_open(&f, 3, "new:400!");
	ck_assert_state(&f, "part:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "full:400!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(the_ttl_takes_what_nobody_uses)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.ttl_ns = 60 * NS_PER_S;
	fix_start(&f);
	fix_use(&f, 1, "a:100!");
	fix_open(&f, 2, "b:100!");
	ck_assert_uint_eq(fix_tick(&f, 59 * NS_PER_S), f.now + NS_PER_S);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "a:100!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "b:100!", HOST, COPY_READY); /* leased */
	ck_assert_uint_eq(cache_stats(f.c)->evicted_ttl, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_pinned_copy_is_no_victim_until_it_is_unpinned)
{
	struct fixture f;
	start_with(&f, "lru");
	struct cache_open ask = fix_ask(1, "a:700!");
	cache_pin(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_int_eq(f.answers[1].kind, FX_ACCEPT);
	ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 1);
	cache_owner_gone(f.c, f.now, 1); /* a pin outlives its owner */
	const struct fix_answer *b = fix_open(&f, 2, "b:700!");
	ck_assert_refused(b, TRIMS_E_NO_ROOM);
	ck_assert_ptr_nonnull(strstr(b->text, "1 pinned ones 700"));
	ck_assert_int_eq(cache_unpin(f.c, f.now, "a:700!", TIER_HOST, CACHE_ANY_DEVICE), 0);
	ck_assert_int_eq(cache_unpin(f.c, f.now, "a:700!", TIER_HOST, CACHE_ANY_DEVICE), -ENOENT);
	ck_assert_granted(fix_open(&f, 3, "b:700!"), COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(the_load_of_a_pin_is_cancelled_by_nobody_but_unpin)
{
	struct fixture f;
	start_with(&f, "lru");
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask(1, "a:700!");
	cache_pin(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_refused(fix_open(&f, 2, "b:700!"), TRIMS_E_NO_ROOM); /* not soft as a prefetch is */
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	ck_assert_int_eq(cache_unpin(f.c, f.now, "a:700!", TIER_REMOTE, CACHE_ANY_DEVICE), 0);
	fix_run(&f);
	ck_assert_uint_eq(f.count[FX_CANCEL], 1);
	fix_fini(&f);
}
END_TEST

START_TEST(evicting_unpins)
{
	struct fixture f;
	uint32_t in_use;
	start_with(&f, "lru");
	struct cache_open ask = fix_ask(1, "a:700!");
	cache_pin(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:700!", TIER_HOST, CACHE_ANY_DEVICE, &in_use), 0);
	fix_run(&f);
	ck_assert_uint_eq(in_use, 0);
	ck_assert_state(&f, "a:700!", HOST, COPY_ABSENT);
	ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 0);
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:700!", TIER_HOST, CACHE_ANY_DEVICE, &in_use), -ENOENT);
	ck_assert_int_eq(cache_evict(f.c, f.now, "nobody", TIER_HOST, CACHE_ANY_DEVICE, &in_use), -ENOENT);
	fix_fini(&f);
}
END_TEST

START_TEST(loads_waiting_for_room_are_served_by_class_then_deadline_then_age)
{
	struct fixture f;
	start_with(&f, "lru");
	f.hands &= ~HAND_FREE;
	fix_use(&f, 1, "old:900!");
	struct cache_open asks[] = {fix_ask(2, "late:100!"), fix_ask(3, "soon:100!"), fix_ask(4, "never:100!"),
		fix_ask(5, "soft:100!")};
	asks[0].deadline = f.now + 9 * NS_PER_S;
	asks[1].deadline = f.now + NS_PER_S;
	asks[3].class = CLASS_PREFETCH;
	fix_open(&f, 6, "first:800!"); /* has old evicted */
	for (size_t i = ARRAY_LEN(asks); i-- > 0;)
		fix_open_as(&f, asks[i]);
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	/* 1000 bytes: soon, late and first fit; never and soft stay behind first. */
	ck_assert_int_eq(f.answers[3].kind, FX_GRANT);
	ck_assert_int_eq(f.answers[2].kind, FX_GRANT);
	ck_assert_int_eq(f.answers[6].kind, FX_GRANT);
	ck_assert_int_eq(f.answers[4].kind, FX_REFUSE);
	ck_assert_int_eq(f.answers[5].kind, FX_REFUSE);
	fix_fini(&f);
}
END_TEST

START_TEST(a_smaller_tier_is_drained_by_ticks)
{
	struct fixture f;
	struct fault why;
	start_with(&f, "lru");
	fix_use(&f, 1, "a:400!");
	fix_open(&f, 2, "b:400!");
	f.tiers[HOST].capacity_bytes = 500;
	ck_assert_int_eq(cache_reconfigure(f.c, &f.config, f.now, &why), 0);
	fix_tick(&f, 1);
	ck_assert_state(&f, "a:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "b:400!", HOST, COPY_READY);
	f.config.n_tiers = 2;
	f.config.n_links = 0;
	ck_assert_int_eq(cache_reconfigure(f.c, &f.config, f.now, &why), -EINVAL);
	f.config.n_tiers = 3;
	fix_fini(&f);
}
END_TEST

START_TEST(a_new_policy_reorders_the_victims)
{
	struct fixture f;
	struct fault why;
	start_with(&f, "fifo");
	fix_use(&f, 1, "a:400!");
	fix_use(&f, 2, "b:400!");
	fix_use(&f, 3, "a:400!");
	f.config.policy = "lru";
	ck_assert_int_eq(cache_reconfigure(f.c, &f.config, f.now, &why), 0);
	fix_use(&f, 4, "c:400!");
	ck_assert_state(&f, "a:400!", HOST, COPY_READY);
	ck_assert_state(&f, "b:400!", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_new_policy_finds_a_partial_copy_that_was_loading_when_it_came)
{
	struct fixture f;
	struct fault why;
	start_with(&f, "lru");
	fix_use(&f, 1, "full:400!");
	f.hands &= ~HAND_TRANSFER;
	for (uint64_t r = 2; r < 4; r++) { /* left partial once, resumed, and left again */
		fix_open(&f, r, "part:400!");
		f.config.policy = "never";
		ck_assert_int_eq(cache_reconfigure(f.c, &f.config, f.now, &why), 0);
		fix_close(&f, r);
		fix_take(&f, FX_CANCEL);
		fix_done(&f, FX_START, TRIMS_E_CANCELLED);
	}
	ck_assert_granted(fix_open(&f, 4, "new:400!"), COPY_LOADING);
	ck_assert_state(&f, "part:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "full:400!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(use_of_the_host_copy_keeps_the_disk_copy_warm)
{
	struct fixture f;
	fix_prepare(&f);
	f.tiers[HOST].capacity_bytes = 2000;
	fix_start(&f);
	fix_use(&f, 1, "a:400");
	fix_use(&f, 2, "b:400");
	fix_use(&f, 3, "a:400"); /* a hit on host */
	fix_use(&f, 4, "c:400"); /* its write-through needs room on disk */
	ck_assert_state(&f, "a:400", DISK, COPY_READY);
	ck_assert_state(&f, "b:400", DISK, COPY_ABSENT);
	ck_assert_state(&f, "c:400", DISK, COPY_READY);
	fix_fini(&f);
}
END_TEST

static void policies(Suite *s)
{
	UNIT_CASE(s, "policies", lru_drops_what_was_used_longest_ago, fifo_drops_what_was_loaded_first,
		lcu_drops_what_was_used_least, never_refuses_rather_than_evict,
		cost_keeps_what_is_used_often_over_what_was_used_last, cost_keeps_what_is_slow_to_get_again,
		cost_forgets_old_favour_by_halves, a_new_policy_reorders_the_victims,
		a_new_policy_finds_a_partial_copy_that_was_loading_when_it_came,
		use_of_the_host_copy_keeps_the_disk_copy_warm);
}

static void room(Suite *s)
{
	UNIT_CASE(s, "room", leased_models_are_never_victims_and_the_refusal_says_who_holds_what,
		a_model_larger_than_the_tier_is_refused_at_once, an_evicted_copy_counts_until_its_memory_is_back,
		an_open_of_what_is_being_freed_waits_and_loads_again, an_open_of_what_drains_under_a_lease_is_refused_busy,
		a_demand_takes_memory_from_a_prefetch_under_way,
		a_demand_waits_for_a_cancelled_load_to_come_home, what_a_cancelled_load_left_goes_first,
		loads_waiting_for_room_are_served_by_class_then_deadline_then_age, a_smaller_tier_is_drained_by_ticks);
}

static void time_and_pins(Suite *s)
{
	UNIT_CASE(s, "time and pins", a_demand_waits_for_the_minimum_residency_of_its_victim,
		a_prefetch_does_not_evict_what_is_young_or_worth_more, the_ttl_takes_what_nobody_uses,
		a_pinned_copy_is_no_victim_until_it_is_unpinned, the_load_of_a_pin_is_cancelled_by_nobody_but_unpin,
		evicting_unpins);
}

UNIT_MAIN("cache_evict", policies, room, time_and_pins)
