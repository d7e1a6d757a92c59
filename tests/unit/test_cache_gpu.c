/* test_cache_gpu.c - which GPU a model goes to, the room it takes on the way and there, and what goes first. */
#include "tests/unit/brain_fixture.h"

/* Links to the devices as a daemon has them: wide, since a scheduler below shares them out. */
static void start_wide(struct fixture *f)
{
	fix_prepare(f);
	fix_gpus(f);
	f->links[3].max_active = f->links[4].max_active = 64;
	fix_start(f);
}

static struct cache_open ask_any(uint64_t request, const char *name, uint64_t mask)
{
	struct cache_open ask = fix_ask_gpu(request, name, CACHE_ANY_DEVICE);
	ask.device_mask = mask;
	return ask;
}

START_TEST(a_model_may_be_on_several_devices_and_the_least_leased_copy_is_taken)
{
	struct fixture f;
	start_wide(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	fix_open_as(&f, fix_ask_gpu(2, "a:100!", 1));
	ck_assert_state(&f, "a:100!", GPU0, COPY_READY);
	ck_assert_state(&f, "a:100!", GPU1, COPY_READY);
	ck_assert_uint_ne(f.answers[1].copy, f.answers[2].copy);
	for (uint64_t r = 3; r < 9; r++)
		ck_assert_granted(fix_open_as(&f, ask_any(r, "a:100!", 0)), COPY_READY);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU0).leases, 4);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU1).leases, 4);
	fix_fini(&f);
}
END_TEST

START_TEST(any_device_is_one_of_those_the_client_has)
{
	struct fixture f;
	start_wide(&f);
	ck_assert_int_eq(fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0))->tier, GPU0);
	const struct fix_answer *b = fix_open_as(&f, ask_any(2, "a:100!", 1 << 1));
	ck_assert_int_eq(b->tier, GPU1);
	ck_assert(!b->hit);
	ck_assert_refused(fix_open_as(&f, ask_any(3, "a:100!", 1 << 5)), TRIMS_E_NO_TIER);
	ck_assert_int_eq(fix_open_as(&f, ask_any(4, "a:100!", 3))->tier, GPU0);
	fix_fini(&f);
}
END_TEST

START_TEST(whoever_asks_for_any_device_joins_the_load_under_way)
{
	struct fixture f;
	start_wide(&f);
	f.hands &= ~HAND_ALLOC;
	for (uint64_t r = 1; r <= 20; r++)
		fix_open_as(&f, ask_any(r, "a:300!", 0));
	ck_assert_uint_eq(f.count[FX_ALLOC], 1);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE); /* the host's */
	for (uint64_t r = 1; r <= 20; r++)
		ck_assert_int_eq(f.answers[r].tier, GPU0);
	ck_assert_uint_eq(f.count[FX_ALLOC], 2);
	fix_fini(&f);
}
END_TEST

START_TEST(free_memory_is_taken_before_somebody_elses)
{
	struct fixture f;
	start_wide(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:400!", 0));
	fix_close(&f, 1); /* idle: all 500 could be had */
	fix_open_as(&f, fix_ask_gpu(2, "b:150!", 1)); /* leased: 350 are free */
	ck_assert_int_eq(fix_open_as(&f, ask_any(3, "c:200!", 0))->tier, GPU1);
	ck_assert_state(&f, "a:400!", GPU0, COPY_READY);
	ck_assert_int_eq(fix_open_as(&f, ask_any(4, "d:200!", 0))->tier, GPU0);
	ck_assert_state(&f, "a:400!", GPU0, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_device_that_is_left_but_still_held_is_not_chosen)
{
	struct fixture f;
	uint32_t in_use;
	start_wide(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:100!", TIER_GPU, 0, &in_use), 0);
	ck_assert_uint_eq(in_use, 1);
	fix_run(&f);
	ck_assert_refused(fix_open_as(&f, fix_ask_gpu(2, "a:100!", 0)), TRIMS_E_BUSY);
	ck_assert_int_eq(fix_open_as(&f, ask_any(3, "a:100!", 0))->tier, GPU1);
	fix_fini(&f);
}
END_TEST

START_TEST(eviction_and_unpinning_are_of_one_device_or_of_all)
{
	struct fixture f;
	uint32_t in_use;
	start_wide(&f);
	for (uint32_t device = 0; device < 2; device++) {
		struct cache_open ask = fix_ask_gpu(1 + device, "a:100!", device);
		cache_pin(f.c, f.now, &ask);
		fix_run(&f);
	}
	ck_assert_int_eq(cache_unpin(f.c, f.now, "a:100!", TIER_GPU, 1), 0);
	ck_assert_int_eq(cache_unpin(f.c, f.now, "a:100!", TIER_GPU, 1), -ENOENT);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU0).pins, 1);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU1).pins, 0);
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:100!", TIER_GPU, 1, &in_use), 0);
	fix_run(&f);
	ck_assert_state(&f, "a:100!", GPU0, COPY_READY);
	ck_assert_state(&f, "a:100!", GPU1, COPY_ABSENT);
	ck_assert_int_eq(cache_evict(f.c, f.now, "a:100!", TIER_GPU, CACHE_ANY_DEVICE, &in_use), 0);
	fix_run(&f);
	ck_assert_state(&f, "a:100!", GPU0, COPY_ABSENT);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

/* ---- room ---- */

START_TEST(a_device_counts_whole_extents_and_refusals_name_it)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	f.gpu_round = 64;
	f.tiers[GPU1].label = "GPU-1234";
	fix_start(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 1));
	ck_assert_uint_eq(fix_used(&f, GPU1), 128);
	ck_assert_uint_eq(fix_used(&f, HOST), 100);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", GPU1).bytes, 128);
	const struct fix_answer *b = fix_open_as(&f, fix_ask_gpu(2, "b:450!", 1)); /* 512 there */
	ck_assert_refused(b, TRIMS_E_TOO_LARGE);
	ck_assert_ptr_nonnull(strstr(b->text, "the whole gpu tier of GPU-1234 has 500"));
	const struct fix_answer *c = fix_open_as(&f, fix_ask_gpu(3, "c:400!", 1));
	ck_assert_refused(c, TRIMS_E_NO_ROOM);
	ck_assert_ptr_nonnull(strstr(c->text, "needs 448 bytes, the gpu tier of GPU-1234 has 500: 1 leased models hold 128"));
	const struct fix_answer *d = fix_open_as(&f, fix_ask_gpu(4, "d:501!", 0));
	ck_assert_refused(d, TRIMS_E_TOO_LARGE);
	ck_assert_ptr_nonnull(strstr(d->text, "gpu tier of device 0"));
	fix_fini(&f);
}
END_TEST

START_TEST(a_host_too_small_to_pass_a_model_on_is_named)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	f.tiers[HOST].capacity_bytes = 200;
	fix_start(&f);
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(1, "a:300!", 0));
	ck_assert_refused(a, TRIMS_E_TOO_LARGE);
	ck_assert_ptr_nonnull(strstr(a->text, "a tier on the way there is smaller"));
	fix_fini(&f);
}
END_TEST

/* Two models that the host cannot hold at once, for two devices that can. */
static void open_two_fat(struct fixture *f, const char *policy)
{
	fix_prepare(f);
	fix_gpus(f);
	f->tiers[HOST].capacity_bytes = 600;
	f->config.policy = policy;
	fix_start(f);
	f->hands &= ~HAND_TRANSFER;
	fix_open_as(f, fix_ask_gpu(1, "a:400!", 0));
	fix_open_as(f, fix_ask_gpu(2, "b:400!", 1));
}

START_TEST(a_host_full_of_what_passes_through_is_waited_for)
{
	struct fixture f;
	open_two_fat(&f, "lru");
	ck_assert_granted(&f.answers[1], COPY_LOADING);
	ck_assert_int_eq(f.answers[2].kind, FX_N); /* neither refused nor granted */
	ck_assert_uint_eq(fix_used(&f, GPU1), 400);
	fix_done(&f, FX_START, TRIMS_E_NONE); /* a is on the host, and read */
	ck_assert_int_eq(f.answers[2].kind, FX_N);
	fix_done(&f, FX_START, TRIMS_E_NONE); /* and on its device */
	ck_assert_granted(&f.answers[2], COPY_LOADING);
	ck_assert_state(&f, "a:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "a:400!", GPU0, COPY_READY);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "b:400!", GPU1, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(what_only_passed_through_need_not_get_old)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	f.tiers[HOST].capacity_bytes = 600;
	f.config.min_residency_ns = NS_PER_S;
	fix_start(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:400!", 0));
	ck_assert_granted(fix_open_as(&f, fix_ask_gpu(2, "b:400!", 1)), COPY_LOADING);
	fix_use(&f, 3, "c:300!"); /* b makes way, c was opened here */
	fix_open(&f, 4, "d:400!");
	ck_assert_int_eq(f.answers[4].kind, FX_N);
	fix_tick(&f, NS_PER_S);
	ck_assert_granted(&f.answers[4], COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(a_pin_on_a_device_may_take_any_victim_on_the_way)
{
	struct fixture f;
	fix_prepare(&f);
	fix_gpus(&f);
	f.config.policy = "cost";
	fix_start(&f);
	for (uint64_t r = 1; r < 50; r++)
		fix_use(&f, r, "hot:900!");
	struct cache_open ask = fix_ask_gpu(50, "a:300!", 0);
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_state(&f, "a:300!", GPU0, COPY_ABSENT); /* a prefetch may not */
	ask.request = 51;
	cache_pin(f.c, f.now, &ask);
	fix_run(&f);
	ck_assert_state(&f, "a:300!", GPU0, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_device_may_shrink_and_grow)
{
	struct fixture f;
	start_wide(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:200!", 0));
	fix_close(&f, 1);
	cache_tier_resize(f.c, f.now, GPU0, 100);
	fix_run(&f);
	ck_assert_refused(fix_open_as(&f, fix_ask_gpu(2, "b:150!", 0)), TRIMS_E_TOO_LARGE);
	fix_tick(&f, NS_PER_MS);
	ck_assert_state(&f, "a:200!", GPU0, COPY_ABSENT);
	cache_tier_resize(f.c, f.now, GPU0, 500);
	ck_assert_granted(fix_open_as(&f, fix_ask_gpu(3, "b:150!", 0)), COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(what_passes_through_is_not_waited_for_where_nothing_is_evicted)
{
	struct fixture f;
	open_two_fat(&f, "never");
	ck_assert_refused(&f.answers[2], TRIMS_E_NO_ROOM);
	ck_assert_uint_eq(fix_used(&f, GPU1), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_host_copy_that_somebody_opens_while_it_passes_through_is_firm)
{
	struct fixture f;
	open_two_fat(&f, "lru");
	ck_assert_granted(fix_open(&f, 3, "a:400!"), COPY_LOADING); /* on the host */
	ck_assert_refused(&f.answers[2], TRIMS_E_NO_ROOM);
	fix_fini(&f);
}
END_TEST

START_TEST(a_device_full_of_idle_models_makes_room_while_the_host_copy_arrives)
{
	struct fixture f;
	start_wide(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:400!", 0));
	fix_close(&f, 1);
	f.hands &= ~HAND_FREE;
	fix_open_as(&f, fix_ask_gpu(2, "b:400!", 0));
	ck_assert_int_eq(f.answers[2].kind, FX_N);
	ck_assert_uint_eq(f.count[FX_ALLOC], 2); /* not the host's either: room first, then the source */
	fix_done(&f, FX_FREE, TRIMS_E_NONE);
	ck_assert_granted(&f.answers[2], COPY_LOADING);
	fix_fini(&f);
}
END_TEST

/* ---- what goes first ---- */

/* Three models on device 0, equally old and large; the host has forgotten those named. */
static void fill_device(struct fixture *f, const char *first_gone, const char *second_gone)
{
	static const char *const names[] = {"a:150!", "b:150!", "c:150!"};
	uint32_t in_use;
	fix_prepare(f);
	fix_gpus(f);
	f->config.policy = "cost";
	fix_start(f);
	for (uint64_t r = 0; r < 3; r++)
		fix_open_as(f, fix_ask_gpu(1 + r, names[r], 0));
	for (uint64_t r = 0; r < 3; r++)
		fix_close(f, 1 + r);
	cache_evict(f->c, f->now, first_gone, TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	cache_evict(f->c, f->now, second_gone, TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	for (uint64_t r = 0; r < 3; r++) { /* evict by hand makes a model forget its uses */
		fix_open_as(f, fix_ask_gpu(11 + r, names[r], 0));
		fix_close(f, 11 + r);
	}
	fix_run(f);
}

START_TEST(a_device_copy_whose_host_copy_is_there_is_cheap_to_have_again_and_goes_first)
{
	static const char *const names[] = {"a:150!", "b:150!", "c:150!"};
	for (int kept = 0; kept < 3; kept++) {
		struct fixture f;
		fill_device(&f, names[(kept + 1) % 3], names[(kept + 2) % 3]);
		fix_open_as(&f, fix_ask_gpu(20, "d:100!", 0));
		for (int i = 0; i < 3; i++)
			ck_assert_state(&f, names[i], GPU0, i == kept ? COPY_ABSENT : COPY_READY);
		fix_fini(&f);
	}
}
END_TEST

START_TEST(ranks_follow_when_a_host_copy_comes_back)
{
	struct fixture f;
	struct fault why;
	fill_device(&f, "a:150!", "b:150!");
	ck_assert_int_eq(cache_reconfigure(f.c, &f.config, f.now, &why), 0); /* ranks all, as they are now */
	fix_open(&f, 20, "b:150!"); /* and on the host again */
	fix_open_as(&f, fix_ask_gpu(21, "c:150!", 0)); /* and c's is in use */
	fix_open_as(&f, fix_ask_gpu(22, "d:100!", 0));
	ck_assert_state(&f, "a:150!", GPU0, COPY_READY);
	ck_assert_state(&f, "b:150!", GPU0, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_host_copy_behind_a_device_copy_may_be_evicted)
{
	struct fixture f;
	start_wide(&f);
	fix_open_as(&f, fix_ask_gpu(1, "a:400!", 0));
	fix_use(&f, 2, "b:900!");
	ck_assert_state(&f, "a:400!", HOST, COPY_ABSENT);
	ck_assert_state(&f, "a:400!", GPU0, COPY_READY);
	ck_assert_granted(fix_open_as(&f, fix_ask_gpu(3, "a:400!", 0)), COPY_READY);
	fix_fini(&f);
}
END_TEST

/* ---- three hops ---- */

START_TEST(bytes_cut_through_from_the_source_to_the_device)
{
	struct fixture f;
	start_wide(&f);
	f.hands &= ~HAND_TRANSFER;
	fix_open_as(&f, fix_ask_gpu(1, "a:100", 0));
	struct cache_effect host = fix_take(&f, FX_START), first = fix_take(&f, FX_START), second = fix_take(&f, FX_START);
	struct cache_effect gpu = first.to == GPU0 ? first : second, disk = first.to == GPU0 ? second : first;
	ck_assert_int_eq(host.from, REMOTE);
	ck_assert_int_eq(host.to, HOST);
	ck_assert_int_eq(gpu.from, HOST);
	ck_assert_uint_eq(gpu.follows, host.transfer);
	ck_assert_int_eq(gpu.class, CLASS_DEMAND);
	ck_assert_int_eq(disk.to, DISK);
	ck_assert_int_eq(disk.class, CLASS_PERSIST);
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).readers, 2);
	fix_answer_one(&f, &host, TRIMS_E_NONE);
	fix_answer_one(&f, &gpu, TRIMS_E_NONE);
	fix_answer_one(&f, &disk, TRIMS_E_NONE);
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).readers, 0);
	ck_assert_state(&f, "a:100", GPU0, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_demand_that_joins_a_prefetch_reclasses_every_transfer_on_the_way)
{
	struct fixture f;
	start_wide(&f);
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask_gpu(1, "a:100!", 0);
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	struct cache_effect host = fix_take(&f, FX_START), gpu = fix_take(&f, FX_START);
	ck_assert_int_eq(host.class, CLASS_PREFETCH);
	ck_assert_int_eq(gpu.class, CLASS_PREFETCH);
	struct cache_open now = fix_ask_gpu(2, "a:100!", 0);
	now.deadline = f.now + NS_PER_S;
	fix_open_as(&f, now);
	struct cache_effect x = fix_take(&f, FX_RECLASS), y = fix_take(&f, FX_RECLASS);
	ck_assert(x.class == CLASS_DEMAND && y.class == CLASS_DEMAND);
	ck_assert_uint_eq(x.deadline, now.deadline);
	ck_assert_uint_eq(y.deadline, now.deadline);
	ck_assert(x.transfer != y.transfer && (x.transfer == gpu.transfer || y.transfer == gpu.transfer));
	now.request = 3; /* a sooner deadline, then its end */
	now.deadline = f.now + NS_PER_MS;
	fix_open_as(&f, now);
	ck_assert_uint_eq(fix_take(&f, FX_RECLASS).deadline, now.deadline);
	ck_assert_uint_eq(fix_take(&f, FX_RECLASS).deadline, now.deadline);
	fix_close(&f, 3);
	ck_assert_uint_eq(fix_held(&f, FX_RECLASS), 2);
	ck_assert_uint_eq(fix_take(&f, FX_RECLASS).deadline, f.now + NS_PER_S);
	fix_close(&f, 2); /* the prefetch goes on */
	fix_take(&f, FX_RECLASS);
	ck_assert_int_eq(fix_take(&f, FX_RECLASS).class, CLASS_PREFETCH);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	fix_answer_one(&f, &host, TRIMS_E_NONE);
	fix_answer_one(&f, &gpu, TRIMS_E_NONE);
	fix_fini(&f);
}
END_TEST

START_TEST(prefetches_on_a_wide_link_go_on_beside_a_demand)
{
	struct fixture f;
	start_wide(&f);
	fix_use(&f, 1, "a:100!");
	fix_use(&f, 2, "b:100!");
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask_gpu(3, "a:100!", 0);
	cache_prefetch(f.c, f.now, &ask);
	fix_open_as(&f, fix_ask_gpu(4, "b:100!", 0));
	ck_assert_uint_eq(fix_held(&f, FX_START), 2);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	fix_fini(&f);
}
END_TEST

static void gpus(Suite *s)
{
	UNIT_CASE(s, "devices", a_model_may_be_on_several_devices_and_the_least_leased_copy_is_taken,
		any_device_is_one_of_those_the_client_has, whoever_asks_for_any_device_joins_the_load_under_way,
		free_memory_is_taken_before_somebody_elses, a_device_that_is_left_but_still_held_is_not_chosen,
		eviction_and_unpinning_are_of_one_device_or_of_all);
	UNIT_CASE(s, "room", a_device_counts_whole_extents_and_refusals_name_it,
		a_host_too_small_to_pass_a_model_on_is_named, a_host_full_of_what_passes_through_is_waited_for,
		what_passes_through_is_not_waited_for_where_nothing_is_evicted, what_only_passed_through_need_not_get_old,
		a_pin_on_a_device_may_take_any_victim_on_the_way, a_device_may_shrink_and_grow,
		a_host_copy_that_somebody_opens_while_it_passes_through_is_firm,
		a_device_full_of_idle_models_makes_room_while_the_host_copy_arrives);
	UNIT_CASE(s, "worth", a_device_copy_whose_host_copy_is_there_is_cheap_to_have_again_and_goes_first,
		ranks_follow_when_a_host_copy_comes_back, a_host_copy_behind_a_device_copy_may_be_evicted);
	UNIT_CASE(s, "way", bytes_cut_through_from_the_source_to_the_device,
		a_demand_that_joins_a_prefetch_reclasses_every_transfer_on_the_way,
		prefetches_on_a_wide_link_go_on_beside_a_demand);
}

UNIT_MAIN("cache_gpu", gpus)
