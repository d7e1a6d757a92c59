/* test_cache_gpu_life.c - GPU copies over time: brought back in idle time, kept over a restart, claimed, found damaged, lost
 * with their device. */
#include "tests/unit/brain_fixture.h"

static void start_gpus(struct fixture *f)
{
	fix_prepare(f);
	fix_gpus(f);
	f->links[3].max_active = f->links[4].max_active = 64;
	fix_start(f);
}

static void use_gpu(struct fixture *f, uint64_t request, const char *name, uint32_t device)
{
	f->now += NS_PER_MS;
	fix_open_as(f, fix_ask_gpu(request, name, device));
	fix_close(f, request);
}

/* ---- promotion ---- */

static void start_promoting(struct fixture *f)
{
	fix_prepare(f);
	fix_gpus(f);
	f->config.promote = true;
	f->tiers[HOST].capacity_bytes = 2000;
	fix_start(f);
}

START_TEST(what_was_hot_on_a_device_comes_back_when_there_is_room)
{
	struct fixture f;
	start_promoting(&f);
	use_gpu(&f, 1, "a:300!", 0);
	use_gpu(&f, 2, "a:300!", 0);
	fix_open_as(&f, fix_ask_gpu(3, "b:400!", 0));
	fix_open_as(&f, fix_ask_gpu(4, "c:400!", 1));
	ck_assert_state(&f, "a:300!", GPU0, COPY_ABSENT);
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "a:300!", GPU0, COPY_ABSENT); /* no room that is free */
	ck_assert_state(&f, "a:300!", GPU1, COPY_ABSENT);
	uint32_t in_use;
	fix_close(&f, 4);
	cache_evict(f.c, f.now, "c:400!", TIER_GPU, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "a:300!", GPU1, COPY_READY);
	ck_assert_uint_eq(cache_stats(f.c)->promotions, 1);
	fix_tick(&f, NS_PER_S);
	ck_assert_uint_eq(cache_stats(f.c)->promotions, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(what_is_opened_on_the_host_only_is_not_brought_to_a_device)
{
	struct fixture f;
	start_promoting(&f);
	for (uint64_t r = 1; r < 6; r++)
		fix_use(&f, r, "a:300!");
	use_gpu(&f, 10, "b:100!", 0); /* once is not hot */
	uint32_t in_use;
	cache_evict(f.c, f.now, "b:100!", TIER_GPU, 0, &in_use);
	fix_run(&f);
	ck_assert_uint_le(fix_tick(&f, NS_PER_S), f.now + NS_PER_S);
	ck_assert_uint_eq(fix_used(&f, GPU0) + fix_used(&f, GPU1), 0);
	fix_fini(&f);
}
END_TEST

/* ---- kept over a restart ---- */

static uint64_t keep(struct fixture *f, const char *name, uint8_t tier, uint64_t generation)
{
	uint64_t model;
	struct cache_model_info info = fix_info(f, name);
	ck_assert_int_eq(cache_adopt_copy(f->c, f->now, &info, tier, generation, NS_PER_S, NULL, &model), 0);
	ck_assert_int_eq(cache_adopt_name(f->c, f->now, name, model), 0);
	cache_verify(f->c);
	return model;
}

START_TEST(a_kept_copy_is_served_under_its_number_without_a_load)
{
	struct fixture f;
	start_gpus(&f);
	keep(&f, "a:100!", HOST, 70);
	keep(&f, "a:100!", GPU1, 41);
	ck_assert_uint_eq(fix_used(&f, HOST), 100);
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(1, "a:100!", CACHE_ANY_DEVICE));
	ck_assert_granted(a, COPY_READY);
	ck_assert(a->hit);
	ck_assert_int_eq(a->tier, GPU1);
	ck_assert_uint_eq(a->copy, 41);
	ck_assert_uint_eq(f.count[FX_START], 0);
	ck_assert_uint_gt(fix_open(&f, 2, "b:100!")->copy, 70); /* new numbers are above */
	fix_fini(&f);
}
END_TEST

START_TEST(an_image_on_disk_joins_the_copy_that_was_kept)
{
	struct fixture f;
	start_gpus(&f);
	uint64_t model = keep(&f, "a:100", GPU0, 9), again;
	struct cache_model_info info = fix_info(&f, "a:100");
	ck_assert_int_eq(cache_adopt(f.c, f.now, NULL, &info, 80, true, 0, &again), 0);
	ck_assert_uint_eq(again, model);
	ck_assert_uint_gt(fix_copy(&f, "a:100", DISK).copy, 9);
	ck_assert_state(&f, "a:100", GPU0, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(what_cannot_be_kept_is_refused)
{
	struct fixture f;
	uint64_t model;
	struct fault why;
	start_gpus(&f);
	keep(&f, "a:100!", HOST, 70);
	struct cache_model_info a = fix_info(&f, "a:100!"), b = fix_info(&f, "b:100!"), fat = fix_info(&f, "fat:501!");
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &a, HOST, 71, 0, NULL, &model), -EEXIST);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &b, HOST, 70, 0, NULL, &model), -EEXIST);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &b, HOST, 0, 0, NULL, &model), -EINVAL);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &b, DISK, 5, 0, NULL, &model), -EINVAL);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &b, REMOTE, 5, 0, NULL, &model), -EINVAL);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &b, 200, 5, 0, NULL, &model), -EINVAL);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &fat, GPU0, 5, 0, NULL, &model), -ENOSPC);
	fault_set(&why, TRIMS_E_GPU_ERROR, "gone");
	ck_assert_int_eq(cache_tier_lost(f.c, f.now, GPU0, &why), 0);
	ck_assert_int_eq(cache_adopt_copy(f.c, f.now, &b, GPU0, 5, 0, NULL, &model), -EINVAL);
	cache_verify(f.c);
	fix_fini(&f);
}
END_TEST

static const struct fix_answer *claim(struct fixture *f, uint64_t request, uint64_t model, uint8_t tier, uint64_t copy)
{
	cache_claim(f->c, f->now, 1, request, model, tier, copy);
	fix_run(f);
	return &f->answers[request];
}

START_TEST(a_claim_gets_the_copy_it_names_or_none)
{
	struct fixture f;
	start_gpus(&f);
	uint64_t a = keep(&f, "a:100!", GPU0, 41);
	const struct fix_answer *got = claim(&f, 1, a, GPU0, 41);
	ck_assert_granted(got, COPY_READY);
	ck_assert_uint_eq(got->copy, 41);
	ck_assert_uint_eq(cache_owner_leases(f.c, 1), 1);
	ck_assert_refused(claim(&f, 2, a, GPU0, 40), TRIMS_E_NO_LEASE);
	ck_assert_refused(claim(&f, 3, a, GPU1, 41), TRIMS_E_NO_LEASE);
	ck_assert_refused(claim(&f, 4, a, 99, 41), TRIMS_E_NO_LEASE);
	ck_assert_refused(claim(&f, 5, a, REMOTE, 0), TRIMS_E_NO_LEASE);
	ck_assert_refused(claim(&f, 6, a + 1000, GPU0, 41), TRIMS_E_NO_LEASE);
	uint32_t in_use;
	cache_evict(f.c, f.now, "a:100!", TIER_GPU, 0, &in_use);
	ck_assert_refused(claim(&f, 7, a, GPU0, 41), TRIMS_E_BUSY); /* leaving, held by the first */
	fix_close(&f, 1);
	ck_assert_refused(claim(&f, 8, a, GPU0, 41), TRIMS_E_NO_LEASE);
	f.hands &= ~HAND_TRANSFER;
	const struct fix_answer *b = fix_open_as(&f, fix_ask_gpu(9, "b:100!", 0));
	ck_assert_refused(claim(&f, 10, b->model, GPU0, b->copy), TRIMS_E_BUSY); /* still arriving */
	ck_assert_uint_eq(cache_stats(f.c)->claims, 1);
	fix_fini(&f);
}
END_TEST

/* ---- damaged ---- */

START_TEST(who_holds_a_damaged_copy_is_told)
{
	struct fixture f;
	start_gpus(&f);
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	cache_corrupt(f.c, f.now, a->model, GPU0);
	fix_run(&f);
	struct cache_effect poison = fix_take(&f, FX_POISON);
	ck_assert_uint_eq(poison.copy, a->copy);
	ck_assert_int_eq(poison.error.code, TRIMS_E_MISMATCH);
	ck_assert_state(&f, "a:100!", GPU0, COPY_DRAINING);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(what_is_copied_from_damaged_memory_is_not_served)
{
	struct fixture f;
	start_gpus(&f);
	fix_use(&f, 1, "a:100!");
	f.hands &= ~HAND_TRANSFER;
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(2, "a:100!", 0));
	cache_corrupt(f.c, f.now, a->model, HOST);
	fix_run(&f);
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_NONE); /* it was through before the order came: that does not help */
	ck_assert_int_eq(fix_take(&f, FX_POISON).error.code, TRIMS_E_MISMATCH);
	ck_assert_state(&f, "a:100!", GPU0, COPY_FAILED);
	fix_close(&f, 2);
	ck_assert_state(&f, "a:100!", GPU0, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_lease_on_a_damaged_copy_is_taken_back_and_the_open_gets_a_fresh_one)
{
	struct fixture f;
	start_gpus(&f);
	use_gpu(&f, 1, "a:100!", 0);
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(2, "a:100!", 0)), *again = &f.answers[3];
	cache_corrupt(f.c, f.now, a->model, GPU0);
	ck_assert_int_eq(cache_regrant(f.c, f.now, 7, a->lease, 3), -ENOENT); /* another's */
	ck_assert_int_eq(cache_regrant(f.c, f.now, 1, a->lease, 3), 0);
	fix_run(&f);
	ck_assert_granted(again, COPY_LOADING);
	ck_assert_uint_ne(again->copy, a->copy);
	ck_assert_int_eq(again->tier, GPU0);
	ck_assert_state(&f, "a:100!", GPU0, COPY_READY);
	ck_assert_int_eq(cache_regrant(f.c, f.now, 1, a->lease, 4), -ENOENT);
	ck_assert_uint_eq(cache_owner_leases(f.c, 1), 1);
	ck_assert_uint_eq(cache_stats(f.c)->regrants, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(several_leases_that_are_taken_back_share_the_next_load)
{
	struct fixture f;
	start_gpus(&f);
	for (uint64_t r = 1; r < 4; r++)
		fix_open_as(&f, fix_ask_gpu(r, "a:100!", 0));
	cache_corrupt(f.c, f.now, f.answers[1].model, GPU0);
	for (uint64_t r = 1; r < 3; r++)
		ck_assert_int_eq(cache_regrant(f.c, f.now, 1, f.answers[r].lease, 10 + r), 0);
	fix_run(&f);
	ck_assert_int_eq(f.answers[11].kind, FX_N); /* the third still reads there: they wait, BUSY they are not told */
	fix_close(&f, 3);
	ck_assert_granted(&f.answers[11], COPY_LOADING);
	ck_assert_uint_eq(f.answers[11].copy, f.answers[12].copy);
	ck_assert_uint_eq(f.count[FX_FREE], 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_taken_back_open_keeps_its_deadline_and_may_be_cancelled)
{
	struct fixture f;
	start_gpus(&f);
	struct cache_open ask = fix_ask_gpu(2, "a:100!", 0);
	ask.deadline = f.now + NS_PER_S;
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	fix_open_as(&f, ask);
	ask.request = 3;
	fix_open_as(&f, ask);
	cache_corrupt(f.c, f.now, f.answers[1].model, GPU0);
	ck_assert_int_eq(cache_regrant(f.c, f.now, 1, f.answers[2].lease, 12), 0);
	ck_assert_int_eq(cache_regrant(f.c, f.now, 1, f.answers[3].lease, 13), 0);
	ck_assert_int_eq(cache_cancel(f.c, f.now, 1, 13), 0);
	fix_run(&f);
	ck_assert_refused(&f.answers[13], TRIMS_E_CANCELLED);
	fix_tick(&f, 2 * NS_PER_S);
	ck_assert_refused(&f.answers[12], TRIMS_E_TIMED_OUT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_taken_back_open_fails_with_the_reload)
{
	struct fixture f;
	start_gpus(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	cache_corrupt(f.c, f.now, f.answers[1].model, GPU0);
	f.hands &= ~HAND_ALLOC;
	ck_assert_int_eq(cache_regrant(f.c, f.now, 1, f.answers[1].lease, 2), 0);
	fix_run(&f);
	fix_done(&f, FX_ALLOC, TRIMS_E_GPU_ERROR);
	ck_assert_refused(&f.answers[2], TRIMS_E_GPU_ERROR);
	fix_fini(&f);
}
END_TEST

/* ---- a device dies ---- */

static void lose(struct fixture *f, uint8_t tier)
{
	struct fault why;
	fault_set(&why, TRIMS_E_GPU_ERROR, "cuMemAlloc: it fell off the bus");
	ck_assert_int_eq(cache_tier_lost(f->c, f->now, tier, &why), 0);
	fix_run(f);
}

START_TEST(a_lost_device_takes_nothing_and_says_why)
{
	struct fixture f;
	struct fault why = {0};
	struct cache_tier_view v;
	start_gpus(&f);
	lose(&f, GPU0);
	cache_tier(f.c, GPU0, &v);
	ck_assert(v.lost);
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	ck_assert_refused(a, TRIMS_E_NO_TIER);
	ck_assert_ptr_nonnull(strstr(a->text, "device 0 is lost: cuMemAlloc: it fell off the bus"));
	ck_assert_int_eq(fix_open_as(&f, fix_ask_gpu(2, "a:100!", CACHE_ANY_DEVICE))->tier, GPU1);
	struct cache_open only = fix_ask_gpu(3, "a:100!", CACHE_ANY_DEVICE);
	only.device_mask = 1;
	ck_assert_refused(fix_open_as(&f, only), TRIMS_E_NO_TIER);
	lose(&f, GPU0); /* said again */
	ck_assert_int_eq(cache_tier_lost(f.c, f.now, HOST, &why), -EINVAL);
	ck_assert_int_eq(cache_tier_lost(f.c, f.now, 77, &why), -EINVAL);
	fix_fini(&f);
}
END_TEST

START_TEST(everything_on_a_lost_device_ends)
{
	struct fixture f;
	start_gpus(&f);
	struct cache_open pin = fix_ask_gpu(1, "pinned:50!", 0);
	cache_pin(f.c, f.now, &pin);
	fix_run(&f);
	use_gpu(&f, 2, "idle:50!", 0);
	fix_open_as(&f, fix_ask_gpu(3, "leased:50!", 0));
	f.hands &= ~HAND_TRANSFER;
	fix_open_as(&f, fix_ask_gpu(4, "loading:50!", 0));
	f.hands &= ~HAND_ALLOC;
	fix_open_as(&f, fix_ask_gpu(5, "reserved:50!", 0));
	lose(&f, GPU0);
	ck_assert_uint_eq(fix_copy(&f, "pinned:50!", GPU0).pins, 0);
	ck_assert_state(&f, "pinned:50!", GPU0, COPY_ABSENT);
	ck_assert_state(&f, "idle:50!", GPU0, COPY_ABSENT);
	ck_assert_state(&f, "idle:50!", HOST, COPY_READY);
	ck_assert_state(&f, "leased:50!", GPU0, COPY_DRAINING);
	ck_assert_uint_eq(fix_take(&f, FX_POISON).copy, f.answers[3].copy);
	ck_assert_refused(&f.answers[5], TRIMS_E_GPU_ERROR);
	struct cache_effect host = fix_take(&f, FX_START), gpu = fix_take(&f, FX_START);
	ck_assert_int_eq(gpu.to, GPU0);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, gpu.transfer);
	fix_answer_one(&f, &host, TRIMS_E_NONE); /* the host's goes on: it may be of use */
	fix_answer_one(&f, &gpu, TRIMS_E_NONE);
	fix_run(&f);
	ck_assert_uint_eq(fix_take(&f, FX_POISON).copy, f.answers[4].copy);
	ck_assert_state(&f, "loading:50!", GPU0, COPY_FAILED);
	fix_close(&f, 3);
	fix_close(&f, 4);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_MEMORY); /* of "reserved" */
	ck_assert_uint_eq(fix_used(&f, GPU0), 0);
	ck_assert_uint_eq(cache_stats(f.c)->lost, 4); /* "reserved" had nothing to lose */
	ck_assert_uint_eq(cache_stats(f.c)->evicted_corrupt + cache_stats(f.c)->evicted_room, 0);
	fix_fini(&f);
}
END_TEST

START_TEST(bytes_that_were_to_come_from_a_lost_device_come_from_elsewhere)
{
	struct fixture f;
	uint32_t in_use;
	fix_prepare(&f);
	fix_gpus(&f);
	f.links[5] = (struct cache_link_config){GPU0, GPU1, 1, 1 << 30}; /* faster than the host */
	f.config.n_links = 6;
	fix_start(&f);
	use_gpu(&f, 1, "a:100!", 0);
	f.hands &= ~HAND_TRANSFER;
	cache_evict(f.c, f.now, "a:100!", TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	ck_assert_granted(fix_open_as(&f, fix_ask_gpu(2, "a:100!", 1)), COPY_LOADING);
	struct cache_effect peer = fix_take(&f, FX_START);
	ck_assert_int_eq(peer.from, GPU0);
	lose(&f, GPU0);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, peer.transfer);
	fix_answer_one(&f, &peer, TRIMS_E_CANCELLED);
	fix_run(&f);
	struct cache_effect host = fix_take(&f, FX_START), again = fix_take(&f, FX_START);
	ck_assert_int_eq(host.to, HOST);
	ck_assert_int_eq(again.from, HOST);
	ck_assert_int_eq(again.to, GPU1);
	ck_assert_uint_eq(f.count[FX_POISON], 0);
	ck_assert_state(&f, "a:100!", GPU0, COPY_ABSENT);
	fix_answer_one(&f, &host, TRIMS_E_NONE);
	fix_answer_one(&f, &again, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100!", GPU1, COPY_READY);
	fix_fini(&f);
}
END_TEST

static void life(Suite *s)
{
	UNIT_CASE(s, "promotion", what_was_hot_on_a_device_comes_back_when_there_is_room,
		what_is_opened_on_the_host_only_is_not_brought_to_a_device);
	UNIT_CASE(s, "kept", a_kept_copy_is_served_under_its_number_without_a_load,
		an_image_on_disk_joins_the_copy_that_was_kept, what_cannot_be_kept_is_refused,
		a_claim_gets_the_copy_it_names_or_none);
	UNIT_CASE(s, "damaged", who_holds_a_damaged_copy_is_told, what_is_copied_from_damaged_memory_is_not_served,
		a_lease_on_a_damaged_copy_is_taken_back_and_the_open_gets_a_fresh_one,
		several_leases_that_are_taken_back_share_the_next_load,
		a_taken_back_open_keeps_its_deadline_and_may_be_cancelled, a_taken_back_open_fails_with_the_reload);
	UNIT_CASE(s, "lost", a_lost_device_takes_nothing_and_says_why, everything_on_a_lost_device_ends,
		bytes_that_were_to_come_from_a_lost_device_come_from_elsewhere);
}

UNIT_MAIN("cache_gpu_life", life)
