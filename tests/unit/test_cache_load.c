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

START_TEST(memory_is_asked_for_before_the_grant)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HAND_RESOLVE;
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	ck_assert_int_eq(a->kind, FX_N);
	ck_assert_state(&f, "a:100", HOST, COPY_RESERVED);
	ck_assert_uint_eq(fix_used(&f, HOST), 100);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_granted(a, COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(memory_that_cannot_be_had_refuses_the_open_and_counts_no_bytes)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HAND_RESOLVE;
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_refused(a, TRIMS_E_NO_MEMORY);
	ck_assert_uint_eq(fix_used(&f, HOST), 0);
	ck_assert_uint_eq(f.count[FX_FREE], 0); /* nothing to give back */
	fix_fini(&f);
}
END_TEST

/* Two idle models are on host, and a third asks for memory by hand. */
static const struct fix_answer *ask_with_idle_models(struct fixture *f)
{
	fix_init(f);
	fix_use(f, 1, "old:300!");
	fix_use(f, 2, "young:300!");
	f->hands &= ~(HAND_ALLOC | HAND_FREE);
	return fix_open(f, 3, "a:250!");
}

START_TEST(memory_that_cannot_be_had_is_asked_for_again_when_idle_copies_are_gone)
{
	struct fixture f;
	const struct fix_answer *a = ask_with_idle_models(&f);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_state(&f, "old:300!", HOST, COPY_DRAINING);
	ck_assert_state(&f, "young:300!", HOST, COPY_READY);
	ck_assert_uint_eq(fix_held(&f, FX_ALLOC), 0); /* not before the memory is back */
	ck_assert_int_eq(a->kind, FX_N);
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_granted(a, COPY_LOADING);
	ck_assert_state(&f, "a:250!", HOST, COPY_READY);
	ck_assert_uint_eq(cache_stats(f.c)->alloc_retries, 1);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_room, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(memory_that_cannot_be_had_twice_refuses_the_open)
{
	struct fixture f;
	const struct fix_answer *a = ask_with_idle_models(&f);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_refused(a, TRIMS_E_NO_MEMORY);
	ck_assert_state(&f, "young:300!", HOST, COPY_READY);
	ck_assert_uint_eq(fix_used(&f, HOST), 300);
	ck_assert_uint_eq(cache_stats(f.c)->alloc_retries, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(other_failures_and_prefetches_do_not_cost_idle_copies)
{
	struct fixture f;
	const struct fix_answer *a = ask_with_idle_models(&f);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_SYSTEM);
	ck_assert_refused(a, TRIMS_E_NO_SYSTEM);
	struct cache_open ask = fix_ask(4, "b:250!");
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_uint_eq(f.count[FX_FREE], 0);
	ck_assert_uint_eq(fix_used(&f, HOST), 600);
	ck_assert_uint_eq(cache_stats(f.c)->alloc_retries, 0);
	fix_fini(&f);
}
END_TEST

START_TEST(who_waits_for_memory_may_give_up)
{
	struct fixture f;
	const struct fix_answer *a = ask_with_idle_models(&f);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY);
	ck_assert_int_eq(cache_cancel(f.c, f.now, 1, 3), 0);
	fix_run(&f);
	ck_assert_refused(a, TRIMS_E_CANCELLED);
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	ck_assert_uint_eq(fix_held(&f, FX_ALLOC), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_remote_load_is_written_through_to_disk_behind_it)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HAND_RESOLVE | HAND_ALLOC;
	fix_open(&f, 1, "a:100");
	struct cache_effect up = fix_take(&f, FX_START), through = fix_take(&f, FX_START);
	ck_assert_int_eq(through.from, HOST);
	ck_assert_int_eq(through.to, DISK);
	ck_assert_int_eq(through.class, CLASS_PERSIST);
	ck_assert_uint_eq(through.follows, up.transfer);
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).readers, 1);
	fix_answer_one(&f, &up, TRIMS_E_NONE);
	fix_answer_one(&f, &through, TRIMS_E_NONE);
	fix_run(&f);
	ck_assert_state(&f, "a:100", DISK, COPY_READY);
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).readers, 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_local_directory_gets_no_disk_copy)
{
	struct fixture f;
	fix_init(&f);
	ck_assert_granted(fix_open(&f, 1, "a:100!"), COPY_LOADING);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	ck_assert_state(&f, "a:100!", DISK, COPY_ABSENT);
	struct cache_open ask = fix_ask(2, "a:100!");
	ask.tier = TIER_DISK;
	ck_assert_refused(fix_open_as(&f, ask), TRIMS_E_NO_TIER);
	fix_fini(&f);
}
END_TEST

START_TEST(a_write_through_that_fails_leaves_the_load_alone)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	fix_open(&f, 1, "a:100");
	struct cache_effect up = fix_take(&f, FX_START);
	fix_done(&f, FX_START, TRIMS_E_DISK_FULL);
	ck_assert_state(&f, "a:100", DISK, COPY_ABSENT);
	ck_assert_state(&f, "a:100", HOST, COPY_LOADING);
	ck_assert_uint_eq(cache_stats(f.c)->persist_skipped, 1);
	ck_assert_uint_eq(f.count[FX_POISON], 0);
	fix_answer_one(&f, &up, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_write_through_without_room_is_skipped)
{
	struct fixture f;
	fix_prepare(&f);
	f.tiers[DISK].capacity_bytes = 50;
	fix_start(&f);
	ck_assert_granted(fix_open(&f, 1, "a:100"), COPY_LOADING);
	ck_assert_state(&f, "a:100", HOST, COPY_READY);
	ck_assert_state(&f, "a:100", DISK, COPY_ABSENT);
	ck_assert_uint_eq(cache_stats(f.c)->persist_skipped, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_write_through_goes_on_after_the_client_left)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	fix_open(&f, 1, "a:100");
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_close(&f, 1);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	uint32_t in_use;
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:100", TIER_HOST, CACHE_ANY_DEVICE, &in_use), 0);
	fix_run(&f);
	ck_assert_uint_eq(in_use, 1);
	ck_assert_state(&f, "a:100", HOST, COPY_DRAINING); /* it is being read */
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100", HOST, COPY_ABSENT);
	ck_assert_state(&f, "a:100", DISK, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(the_last_client_leaving_cancels_the_load_and_its_write_through)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	fix_open(&f, 1, "a:100");
	fix_open(&f, 2, "a:100");
	struct cache_effect up = fix_take(&f, FX_START), through = fix_take(&f, FX_START);
	cache_landed(f.c, f.now, up.transfer, 60);
	cache_landed(f.c, f.now, through.transfer, 40);
	fix_close(&f, 1);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	fix_close(&f, 2);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, up.transfer);
	fix_answer_one(&f, &up, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, through.transfer);
	fix_answer_one(&f, &through, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_state(&f, "a:100", HOST, COPY_RESERVED);
	ck_assert_state(&f, "a:100", DISK, COPY_RESERVED);
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).landed_bytes, 60);
	ck_assert_uint_eq(fix_copy(&f, "a:100", DISK).landed_bytes, 40);
	ck_assert_uint_eq(cache_stats(f.c)->loads_cancelled, 2);
	ck_assert_uint_eq(cache_stats(f.c)->persist_skipped, 0); /* what has landed is kept */
	fix_fini(&f);
}
END_TEST

START_TEST(the_next_open_resumes_what_has_landed)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	uint64_t copy = fix_open(&f, 1, "a:100!")->copy;
	struct cache_effect up = fix_take(&f, FX_START);
	cache_landed(f.c, f.now, up.transfer, 60);
	fix_close(&f, 1);
	fix_take(&f, FX_CANCEL);
	fix_answer_one(&f, &up, TRIMS_E_CANCELLED);
	const struct fix_answer *b = fix_open(&f, 2, "a:100!");
	ck_assert_granted(b, COPY_LOADING);
	ck_assert_uint_eq(b->copy, copy);
	ck_assert_uint_eq(f.count[FX_ALLOC], 1); /* the memory was kept, too */
	ck_assert_uint_eq(fix_copy(&f, "a:100!", HOST).landed_bytes, 60);
	fix_fini(&f);
}
END_TEST

START_TEST(an_open_during_the_cancel_has_the_load_go_on)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	fix_open(&f, 1, "a:100!");
	struct cache_effect up = fix_take(&f, FX_START);
	fix_close(&f, 1);
	ck_assert_granted(fix_open(&f, 2, "a:100!"), COPY_LOADING);
	fix_answer_one(&f, &up, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_state(&f, "a:100!", HOST, COPY_LOADING);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_transfer_that_beats_its_cancel_is_ready)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	fix_open(&f, 1, "a:100!");
	fix_close(&f, 1);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_prefetched_load_outlives_its_clients)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	struct cache_open ask = fix_ask(1, "a:100!");
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_int_eq(f.answers[1].kind, FX_ACCEPT);
	ck_assert_int_eq(f.held[0].class, CLASS_PREFETCH);
	fix_open(&f, 2, "a:100!");
	struct cache_effect up = fix_take(&f, FX_RECLASS);
	ck_assert_int_eq(up.class, CLASS_DEMAND);
	fix_close(&f, 2);
	ck_assert_int_eq(fix_take(&f, FX_RECLASS).class, CLASS_PREFETCH);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	ck_assert_uint_eq(cache_stats(f.c)->prefetch_used, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_failed_load_poisons_its_leases_and_frees_the_memory_after_them)
{
	struct fixture f;
	fix_init(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	const struct fix_answer *a = fix_open(&f, 1, "a:100!");
	fix_done(&f, FX_START, TRIMS_E_UNREACHABLE);
	struct cache_effect poison = fix_take(&f, FX_POISON);
	ck_assert_uint_eq(poison.copy, a->copy);
	ck_assert_int_eq(poison.error.code, TRIMS_E_UNREACHABLE);
	ck_assert_state(&f, "a:100!", HOST, COPY_FAILED);
	/* Whoever comes now learns what went wrong. */
	ck_assert_refused(fix_open(&f, 2, "a:100!"), TRIMS_E_UNREACHABLE);
	fix_close(&f, 1);
	ck_assert_state(&f, "a:100!", HOST, COPY_ABSENT);
	ck_assert_granted(fix_open(&f, 3, "a:100!"), COPY_LOADING);
	ck_assert_uint_eq(cache_stats(f.c)->loads_failed, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_damaged_disk_copy_is_dropped_and_the_load_comes_from_remote)
{
	struct fixture f;
	uint32_t in_use;
	fix_init(&f);
	fix_use(&f, 1, "a:100");
	cache_evict(f.c, f.now, "a:100", TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	ck_assert_granted(fix_open(&f, 2, "a:100"), COPY_LOADING);
	ck_assert_int_eq(f.held[0].from, DISK);
	fix_done(&f, FX_START, TRIMS_E_MISMATCH);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_corrupt, 1);
	ck_assert_uint_eq(f.count[FX_POISON], 0);
	struct cache_effect again = fix_take(&f, FX_START);
	ck_assert_int_eq(again.from, REMOTE);
	fix_answer_one(&f, &again, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100", HOST, COPY_READY);
	f.hands = HANDS_ALL;
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100", DISK, COPY_READY); /* written through again */
	fix_fini(&f);
}
END_TEST

START_TEST(a_damaged_source_is_given_up_once_only)
{
	struct fixture f;
	uint32_t in_use;
	fix_prepare(&f);
	f.config.n_links = 2; /* all through the disk */
	f.links[0] = (struct cache_link_config){REMOTE, DISK, 1, 1000};
	f.links[1] = (struct cache_link_config){DISK, HOST, 1, 1000};
	fix_start(&f);
	fix_use(&f, 1, "a:100");
	cache_evict(f.c, f.now, "a:100", TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	f.hands = HANDS_ALL & ~HAND_TRANSFER;
	const struct fix_answer *a = fix_open(&f, 2, "a:100");
	fix_done(&f, FX_START, TRIMS_E_MISMATCH); /* disk to host */
	fix_done(&f, FX_START, TRIMS_E_NONE);     /* remote to disk, with the host following */
	fix_done(&f, FX_START, TRIMS_E_MISMATCH);
	ck_assert_granted(a, COPY_LOADING);
	ck_assert_int_eq(fix_take(&f, FX_POISON).error.code, TRIMS_E_MISMATCH);
	ck_assert_uint_eq(fix_held(&f, FX_START), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(late_and_double_answers_change_nothing)
{
	struct fixture f;
	fix_init(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100!");
	struct fault why;
	fault_set(&why, TRIMS_E_DISK_ERROR, "late");
	cache_alloc_done(f.c, f.now, a->model, HOST, a->copy, &why);
	cache_freed(f.c, f.now, a->model, HOST, a->copy);
	cache_freed(f.c, f.now, a->model, 77, a->copy);
	for (uint64_t id = 0; id < 100; id++)
		cache_transfer_done(f.c, f.now, id << 32 | 1, &why);
	fix_run(&f);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	ck_assert_uint_eq(f.count[FX_FREE], 0);
	fix_fini(&f);
}
END_TEST

START_TEST(the_real_size_of_a_disk_copy_gives_the_rest_back)
{
	struct fixture f;
	fix_init(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	ck_assert_uint_eq(fix_used(&f, DISK), 100);
	cache_disk_size(f.c, a->model, 70);
	fix_run(&f);
	ck_assert_uint_eq(fix_used(&f, DISK), 70);
	cache_disk_size(f.c, a->model, 90); /* never more than was reserved */
	fix_run(&f);
	ck_assert_uint_eq(fix_used(&f, DISK), 70);
	fix_fini(&f);
}
END_TEST

START_TEST(the_real_size_may_be_told_just_before_the_end)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~HAND_TRANSFER;
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	cache_disk_size(f.c, a->model, 60);
	ck_assert_uint_eq(fix_used(&f, DISK), 100); /* it may yet fail and be resumed */
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_uint_eq(fix_used(&f, DISK), 60);
	fix_fini(&f);
}
END_TEST

START_TEST(idle_ticks_bring_up_what_earns_it)
{
	struct fixture f;
	uint32_t in_use;
	fix_prepare(&f);
	f.config.promote = true;
	f.config.policy = "cost";
	fix_start(&f);
	for (uint64_t r = 0; r < 4; r++)
		fix_use(&f, r, "hot:400");
	fix_use(&f, 5, "cold:300");
	fix_use(&f, 6, "big:700"); /* takes hot's and cold's place */
	ck_assert_state(&f, "hot:400", HOST, COPY_ABSENT);
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "hot:400", HOST, COPY_ABSENT); /* no room without evicting */
	cache_evict(f.c, f.now, "big:700", TIER_REMOTE, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "hot:400", HOST, COPY_READY);
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "cold:300", HOST, COPY_ABSENT); /* used once */
	ck_assert_uint_eq(cache_stats(f.c)->promotions, 1);
	fix_fini(&f);
}
END_TEST

static void loading(Suite *s)
{
	UNIT_CASE(s, "loading", a_cold_open_is_granted_while_bytes_arrive, a_second_open_is_a_hit_on_the_same_copy,
		two_hundred_opens_of_a_cold_model_make_one_load, memory_is_asked_for_before_the_grant,
		memory_that_cannot_be_had_refuses_the_open_and_counts_no_bytes,
		memory_that_cannot_be_had_is_asked_for_again_when_idle_copies_are_gone,
		memory_that_cannot_be_had_twice_refuses_the_open, other_failures_and_prefetches_do_not_cost_idle_copies,
		who_waits_for_memory_may_give_up, a_prefetched_load_outlives_its_clients,
		late_and_double_answers_change_nothing, idle_ticks_bring_up_what_earns_it);
}

static void writing_through(Suite *s)
{
	UNIT_CASE(s, "writing through", a_remote_load_is_written_through_to_disk_behind_it,
		a_local_directory_gets_no_disk_copy, a_write_through_that_fails_leaves_the_load_alone,
		a_write_through_without_room_is_skipped, a_write_through_goes_on_after_the_client_left,
		the_real_size_of_a_disk_copy_gives_the_rest_back, the_real_size_may_be_told_just_before_the_end);
}

static void ending_early(Suite *s)
{
	UNIT_CASE(s, "ending early", the_last_client_leaving_cancels_the_load_and_its_write_through,
		the_next_open_resumes_what_has_landed, an_open_during_the_cancel_has_the_load_go_on,
		a_transfer_that_beats_its_cancel_is_ready, a_failed_load_poisons_its_leases_and_frees_the_memory_after_them,
		a_damaged_disk_copy_is_dropped_and_the_load_comes_from_remote, a_damaged_source_is_given_up_once_only);
}

UNIT_MAIN("cache_load", loading, writing_through, ending_early)
