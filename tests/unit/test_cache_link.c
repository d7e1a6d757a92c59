/* test_cache_link.c - ways through the tiers and who may use a link: GPUs, dependent loads, preemption, rates. */
#include "tests/unit/brain_fixture.h"

static void start_gpus(struct fixture *f)
{
	fix_prepare(f);
	fix_gpus(f);
	fix_start(f);
}

START_TEST(a_gpu_load_goes_through_the_host_and_follows_it)
{
	struct fixture f;
	start_gpus(&f);
	f.hands &= ~HAND_TRANSFER;
	const struct fix_answer *a = fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	ck_assert_granted(a, COPY_LOADING);
	ck_assert_int_eq(a->tier, GPU0);
	struct cache_effect up = fix_take(&f, FX_START), on = fix_take(&f, FX_START);
	ck_assert_int_eq(up.to, HOST);
	ck_assert_int_eq(up.class, CLASS_DEMAND);
	ck_assert_int_eq(on.to, GPU0);
	ck_assert_uint_eq(on.follows, up.transfer);
	fix_answer_one(&f, &up, TRIMS_E_NONE);
	fix_answer_one(&f, &on, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100!", HOST, COPY_READY);
	ck_assert_state(&f, "a:100!", GPU0, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(leaving_a_gpu_load_cancels_the_host_load_it_needed)
{
	struct fixture f;
	start_gpus(&f);
	f.hands &= ~HAND_TRANSFER;
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	struct cache_effect up = fix_take(&f, FX_START), on = fix_take(&f, FX_START);
	fix_close(&f, 1);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, on.transfer);
	ck_assert_uint_eq(fix_held(&f, FX_CANCEL), 0); /* the follower first: it reads the other */
	fix_answer_one(&f, &on, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, up.transfer);
	fix_answer_one(&f, &up, TRIMS_E_CANCELLED);
	ck_assert_state(&f, "a:100!", HOST, COPY_RESERVED);
	ck_assert_state(&f, "a:100!", GPU0, COPY_RESERVED);
	fix_fini(&f);
}
END_TEST

START_TEST(a_failed_host_load_fails_the_gpu_load_with_its_reason)
{
	struct fixture f;
	start_gpus(&f);
	f.hands &= ~HAND_TRANSFER;
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	struct cache_effect up = fix_take(&f, FX_START), on = fix_take(&f, FX_START);
	fix_answer_one(&f, &up, TRIMS_E_UNREACHABLE);
	fix_run(&f);
	fix_take(&f, FX_CANCEL);
	fix_answer_one(&f, &on, TRIMS_E_CANCELLED);
	fix_run(&f);
	struct cache_effect poison = fix_take(&f, FX_POISON);
	ck_assert_int_eq(poison.to, GPU0);
	ck_assert_int_eq(poison.error.code, TRIMS_E_UNREACHABLE);
	ck_assert_state(&f, "a:100!", GPU0, COPY_FAILED);
	ck_assert_uint_eq(fix_held(&f, FX_START), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_full_host_refuses_the_gpu_load_that_needs_it)
{
	struct fixture f;
	start_gpus(&f);
	fix_open(&f, 1, "fat:950!");
	ck_assert_refused(fix_open_as(&f, fix_ask_gpu(2, "a:100!", 0)), TRIMS_E_NO_ROOM);
	ck_assert_uint_eq(fix_used(&f, GPU0), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(two_gpus_share_one_load_of_the_host)
{
	struct fixture f;
	start_gpus(&f);
	f.hands &= ~HAND_TRANSFER;
	fix_open_as(&f, fix_ask_gpu(1, "a:100!", 0));
	fix_open_as(&f, fix_ask_gpu(2, "a:100!", 1));
	ck_assert_uint_eq(fix_held(&f, FX_START), 3);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", HOST).readers, 2);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[1].tier, GPU0);
	ck_assert_int_eq(f.answers[2].tier, GPU1);
	fix_fini(&f);
}
END_TEST

START_TEST(any_device_is_the_one_where_it_is_or_the_emptiest)
{
	struct fixture f;
	start_gpus(&f);
	ck_assert_int_eq(fix_open_as(&f, fix_ask_gpu(1, "a:300!", UINT32_MAX))->tier, GPU0);
	ck_assert_int_eq(fix_open_as(&f, fix_ask_gpu(2, "b:300!", UINT32_MAX))->tier, GPU1);
	ck_assert_int_eq(fix_open_as(&f, fix_ask_gpu(3, "b:300!", UINT32_MAX))->tier, GPU1);
	ck_assert(f.answers[3].hit);
	ck_assert_refused(fix_open_as(&f, fix_ask_gpu(4, "c:300!", UINT32_MAX)), TRIMS_E_NO_ROOM);
	ck_assert_refused(fix_open_as(&f, fix_ask_gpu(5, "c:100!", 2)), TRIMS_E_NO_TIER);
	ck_assert_int_eq(fix_open(&f, 6, "d:50!")->tier, HOST); /* the best that any client can map */
	fix_fini(&f);
}
END_TEST

/* Both transfers of a load that goes through the host are told of a new leader. */
static void ck_assert_led_by(struct fixture *f, enum load_class class, uint32_t user)
{
	fix_run(f);
	for (int i = 0; i < 2; i++) {
		struct cache_effect e = fix_take(f, FX_RECLASS);
		ck_assert_int_eq(e.class, class);
		ck_assert_uint_eq(e.user, user);
	}
	ck_assert_uint_eq(fix_held(f, FX_RECLASS), 0);
}

START_TEST(a_load_is_charged_to_whoever_leads_it)
{
	struct fixture f;
	start_gpus(&f);
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask_gpu(1, "a:100!", 0);
	ask.user = 7;
	cache_prefetch(f.c, f.now, &ask);
	fix_run(&f);
	struct cache_effect up = fix_take(&f, FX_START), on = fix_take(&f, FX_START);
	ck_assert_uint_eq(up.user, 7);
	ck_assert_uint_eq(on.user, 7);
	ask.request = 2, ask.user = 8;
	fix_open_as(&f, ask);
	ck_assert_led_by(&f, CLASS_DEMAND, 8);
	ask.request = 3, ask.user = 9;
	fix_open_as(&f, ask); /* wants it no sooner: the first leads */
	ck_assert_uint_eq(fix_held(&f, FX_RECLASS), 0);
	ask.request = 4, ask.user = 10, ask.deadline = f.now + NS_PER_S;
	fix_open_as(&f, ask);
	ck_assert_led_by(&f, CLASS_DEMAND, 10);
	fix_close(&f, 4);
	ck_assert_led_by(&f, CLASS_DEMAND, 8);
	fix_close(&f, 2);
	ck_assert_led_by(&f, CLASS_DEMAND, 9);
	fix_close(&f, 3);
	ck_assert_led_by(&f, CLASS_PREFETCH, 7);
	fix_answer_one(&f, &up, TRIMS_E_NONE);
	fix_answer_one(&f, &on, TRIMS_E_NONE);
	fix_fini(&f);
}
END_TEST

START_TEST(what_the_daemon_does_by_itself_is_charged_to_nobody)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask(1, "a:100");
	ask.user = 7;
	fix_open_as(&f, ask);
	struct cache_effect up = fix_take(&f, FX_START), through = fix_take(&f, FX_START);
	ck_assert_uint_eq(up.user, 7);
	ck_assert_int_eq(through.to, DISK);
	ck_assert_uint_eq(through.user, CACHE_NOBODY);
	ask = fix_ask(2, "a:100");
	ask.user = 9;
	ask.tier = TIER_DISK;
	cache_prefetch(f.c, f.now, &ask); /* until somebody asks for the same */
	fix_run(&f);
	ck_assert_uint_eq(fix_take(&f, FX_RECLASS).user, 9);
	fix_fini(&f);
}
END_TEST

START_TEST(a_relay_is_taken_where_no_link_leads)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.n_links = 3; /* none from remote to disk */
	fix_start(&f);
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask(1, "a:900");
	ask.tier = TIER_DISK;
	ck_assert_int_eq(fix_open_as(&f, ask)->tier, DISK);
	struct cache_effect up = fix_take(&f, FX_START), through = fix_take(&f, FX_START);
	ck_assert_int_eq(up.to, HOST);
	ck_assert_int_eq(through.from, HOST);
	ck_assert_int_eq(through.to, DISK);
	ck_assert_int_eq(through.class, CLASS_DEMAND);
	fix_answer_one(&f, &up, TRIMS_E_NONE);
	fix_answer_one(&f, &through, TRIMS_E_NONE);
	ck_assert_state(&f, "a:900", DISK, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_direct_link_is_taken_even_when_a_relay_seems_faster)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.n_links = 4;
	f.links[3] = (struct cache_link_config){REMOTE, DISK, 1, 1 << 10};
	fix_start(&f);
	f.hands &= ~HAND_TRANSFER;
	struct cache_open ask = fix_ask(1, "a:900");
	ask.tier = TIER_DISK;
	ck_assert_int_eq(fix_open_as(&f, ask)->tier, DISK);
	struct cache_effect only = fix_take(&f, FX_START);
	ck_assert_int_eq(only.from, REMOTE);
	ck_assert_int_eq(only.to, DISK);
	fix_answer_one(&f, &only, TRIMS_E_NONE);
	ck_assert_state(&f, "a:900", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_load_that_finds_a_shorter_way_does_not_lose_it_by_letting_go_of_the_longer)
{
	struct fixture f;
	uint64_t model;
	fix_prepare(&f);
	f.config.n_tiers = 4;
	f.config.n_links = 4;
	f.links[0] = (struct cache_link_config){REMOTE, DISK, 1, 1000};
	f.links[1] = (struct cache_link_config){DISK, HOST, 1, 1000000};
	f.links[2] = (struct cache_link_config){HOST, GPU0, 1, 1000000};
	f.links[3] = (struct cache_link_config){DISK, GPU0, 1, 10}; /* as it seems at first */
	f.tiers[DISK].capacity_bytes = f.tiers[GPU0].capacity_bytes = 5000;
	fix_start(&f);
	f.hands = HAND_RESOLVE;
	struct cache_open busy = fix_ask(1, "busy:100");
	busy.tier = TIER_DISK;
	fix_open_as(&f, busy);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	struct cache_effect occupied = fix_take(&f, FX_START); /* the way to the disk */
	fix_open_as(&f, fix_ask_gpu(2, "a:100", 0));
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE); /* on the device */
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE); /* on the host, which the slow link makes the way */
	ck_assert_state(&f, "a:100", HOST, COPY_RESERVED);
	struct cache_effect disk_alloc = fix_take(&f, FX_ALLOC);
	/* What does not fit on the host uses the direct link, and finds it fast. */
	struct cache_model_info info = fix_info(&f, "b:1500");
	ck_assert_int_eq(cache_adopt(f.c, f.now, "b:1500", &info, 1500, true, 0, &model), 0);
	fix_open_as(&f, fix_ask_gpu(3, "b:1500", 0));
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	f.now += NS_PER_US;
	ck_assert_int_eq(fix_done(&f, FX_START, TRIMS_E_NONE).from, DISK);
	fix_answer_one(&f, &disk_alloc, TRIMS_E_NONE);
	fix_run(&f);
	/* Now the disk copy is queued, the device is filled from it, and nobody needs the host's. */
	ck_assert_state(&f, "a:100", DISK, COPY_LOADING);
	ck_assert_state(&f, "a:100", GPU0, COPY_LOADING);
	ck_assert_uint_eq(fix_copy(&f, "a:100", DISK).readers, 1);
	ck_assert_int_ne(fix_copy(&f, "a:100", HOST).state, COPY_LOADING);
	fix_answer_one(&f, &occupied, TRIMS_E_NONE);
	fix_run(&f);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:100", GPU0, COPY_READY);
	fix_fini(&f);
}
END_TEST

/* As the daemon's: from the remote tier a link each to host and disk. */
static void start_double(struct fixture *f, uint64_t to_disk_per_s)
{
	static const struct cache_link_config links[] = {{REMOTE, HOST, 4, 1 << 20}, {REMOTE, DISK, 4, 0},
		{DISK, HOST, 4, 1 << 22}, {HOST, DISK, 4, 1 << 21}};
	fix_prepare(f);
	memcpy(f->links, links, sizeof(links));
	f->links[1].bytes_per_s = to_disk_per_s;
	f->config.n_links = ARRAY_LEN(links);
	f->tiers[DISK].capacity_bytes = f->tiers[HOST].capacity_bytes = 1 << 20;
	fix_start(f);
	f->hands &= ~HAND_TRANSFER;
}

static struct cache_open ask_disk(uint64_t request, const char *name)
{
	struct cache_open ask = fix_ask(request, name);
	ask.tier = TIER_DISK;
	return ask;
}

START_TEST(a_model_that_comes_from_remote_already_is_not_downloaded_twice)
{
	for (int host_first = 0; host_first < 2; host_first++) {
		struct fixture f;
		start_double(&f, 1 << 20);
		f.hands &= ~HAND_ALLOC; /* both are on their way when the first is given its source */
		struct cache_open disk = ask_disk(1, "a:100000"), host = fix_ask(2, "a:100000");
		fix_open_as(&f, host_first ? host : disk);
		fix_open_as(&f, host_first ? disk : host);
		fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
		fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
		struct cache_effect first = fix_take(&f, FX_START), second = fix_take(&f, FX_START);
		ck_assert_uint_eq(fix_held(&f, FX_START), 0);
		ck_assert_int_eq(first.from, REMOTE);
		ck_assert_int_eq(first.to, host_first ? HOST : DISK);
		ck_assert_int_eq(second.from, first.to);
		ck_assert_uint_eq(second.follows, first.transfer);
		fix_answer_one(&f, &first, TRIMS_E_NONE);
		fix_answer_one(&f, &second, TRIMS_E_NONE);
		fix_run(&f);
		ck_assert_state(&f, "a:100000", DISK, COPY_READY);
		ck_assert_state(&f, "a:100000", HOST, COPY_READY);
		fix_fini(&f);
	}
}
END_TEST

START_TEST(a_second_download_is_taken_when_following_would_take_more_than_twice_as_long)
{
	struct fixture f;
	start_double(&f, 1 << 18);
	fix_open_as(&f, ask_disk(1, "a:100000"));
	ck_assert_granted(fix_open(&f, 2, "a:100000"), COPY_LOADING);
	ck_assert_int_eq(fix_take(&f, FX_START).to, DISK);
	struct cache_effect other = fix_take(&f, FX_START);
	ck_assert_int_eq(other.from, REMOTE);
	ck_assert_int_eq(other.to, HOST);
	fix_fini(&f);
}
END_TEST

START_TEST(trouble_of_a_disk_is_none_of_a_load_that_only_reads_behind)
{
	static const enum trims_code troubles[] = {TRIMS_E_DISK_FULL, TRIMS_E_DISK_ERROR};
	for (size_t i = 0; i < ARRAY_LEN(troubles); i++) {
		struct fixture f;
		start_double(&f, 1 << 20);
		fix_open_as(&f, ask_disk(1, "a:100000"));
		ck_assert_granted(fix_open(&f, 2, "a:100000"), COPY_LOADING);
		struct cache_effect lead = fix_take(&f, FX_START), behind = fix_take(&f, FX_START);
		ck_assert_uint_eq(behind.follows, lead.transfer);
		fix_answer_one(&f, &lead, troubles[i]);
		fix_run(&f);
		struct cache_effect poison = fix_take(&f, FX_POISON);
		ck_assert_int_eq(poison.to, DISK);
		ck_assert_int_eq(poison.error.code, troubles[i]);
		ck_assert_uint_eq(fix_held(&f, FX_POISON), 0);
		ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, behind.transfer);
		fix_answer_one(&f, &behind, TRIMS_E_CANCELLED);
		fix_run(&f);
		struct cache_effect again = fix_take(&f, FX_START);
		ck_assert_int_eq(again.from, REMOTE);
		ck_assert_int_eq(again.to, HOST);
		fix_answer_one(&f, &again, TRIMS_E_NONE);
		fix_run(&f);
		ck_assert_state(&f, "a:100000", HOST, COPY_READY);
		ck_assert_uint_eq(fix_held(&f, FX_POISON), 0);
		fix_fini(&f);
	}
}
END_TEST

START_TEST(trouble_of_the_source_is_told_to_those_who_read_behind)
{
	struct fixture f;
	start_double(&f, 1 << 20);
	fix_open_as(&f, ask_disk(1, "a:100000"));
	fix_open(&f, 2, "a:100000");
	struct cache_effect lead = fix_take(&f, FX_START), behind = fix_take(&f, FX_START);
	fix_answer_one(&f, &lead, TRIMS_E_REFUSED);
	fix_run(&f);
	fix_take(&f, FX_CANCEL);
	fix_answer_one(&f, &behind, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_int_eq(fix_take(&f, FX_POISON).to, DISK);
	struct cache_effect poison = fix_take(&f, FX_POISON);
	ck_assert_int_eq(poison.to, HOST);
	ck_assert_int_eq(poison.error.code, TRIMS_E_REFUSED);
	ck_assert_uint_eq(fix_held(&f, FX_START), 0);
	fix_fini(&f);
}
END_TEST

static void start_narrow(struct fixture *f)
{
	fix_prepare(f);
	f->config.n_tiers = 3;
	f->links[0].max_active = 1;
	fix_start(f);
	f->hands &= ~HAND_TRANSFER;
}

START_TEST(a_busy_link_serves_demands_by_deadline)
{
	struct fixture f;
	start_narrow(&f);
	struct cache_open soon = fix_ask(3, "soon:100!");
	soon.deadline = f.now + NS_PER_S;
	fix_open(&f, 1, "first:100!");
	fix_open(&f, 2, "late:100!");
	fix_open_as(&f, soon);
	ck_assert_granted(&f.answers[3], COPY_LOADING); /* the memory is there, the link is not */
	ck_assert_uint_eq(fix_held(&f, FX_START), 1);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_uint_eq(f.held[0].model, f.answers[3].model);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_uint_eq(f.held[0].model, f.answers[2].model);
	fix_fini(&f);
}
END_TEST

START_TEST(a_demand_preempts_a_prefetch_which_goes_on_later)
{
	struct fixture f;
	start_narrow(&f);
	struct cache_open soft = fix_ask(1, "soft:100!");
	cache_prefetch(f.c, f.now, &soft);
	fix_run(&f);
	struct cache_effect first = fix_take(&f, FX_START);
	cache_landed(f.c, f.now, first.transfer, 30);
	fix_open(&f, 2, "hard:100!");
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, first.transfer);
	ck_assert_uint_eq(cache_stats(f.c)->loads_preempted, 1);
	fix_answer_one(&f, &first, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_uint_eq(f.held[0].model, f.answers[2].model);
	ck_assert_uint_eq(fix_copy(&f, "soft:100!", HOST).landed_bytes, 30);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	struct cache_effect again = fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_int_eq(again.class, CLASS_PREFETCH);
	ck_assert_uint_eq(again.copy, first.copy);
	ck_assert_state(&f, "soft:100!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_preempted_load_takes_its_write_through_along)
{
	struct fixture f;
	start_narrow(&f);
	struct cache_open soft = fix_ask(1, "soft:100");
	cache_prefetch(f.c, f.now, &soft);
	fix_run(&f);
	struct cache_effect up = fix_take(&f, FX_START), through = fix_take(&f, FX_START);
	fix_open(&f, 2, "hard:100!");
	fix_take(&f, FX_CANCEL);
	fix_answer_one(&f, &up, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, through.transfer);
	fix_answer_one(&f, &through, TRIMS_E_CANCELLED);
	fix_run(&f);
	ck_assert_uint_eq(fix_held(&f, FX_START), 1); /* hard's; the write-through waits for its leader */
	fix_done(&f, FX_START, TRIMS_E_NONE);
	struct cache_effect again = fix_take(&f, FX_START), behind = fix_take(&f, FX_START);
	ck_assert_uint_eq(behind.follows, again.transfer);
	fix_answer_one(&f, &again, TRIMS_E_NONE);
	fix_answer_one(&f, &behind, TRIMS_E_NONE);
	ck_assert_state(&f, "soft:100", DISK, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_write_through_parked_behind_a_load_that_is_given_up_lets_go)
{
	struct fixture f;
	uint32_t in_use;
	start_narrow(&f);
	struct cache_open soft = fix_ask(1, "soft:100");
	cache_prefetch(f.c, f.now, &soft);
	fix_run(&f);
	fix_open(&f, 2, "hard:100!");
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED); /* soft queues again, behind hard */
	fix_take(&f, FX_CANCEL);
	fix_done(&f, FX_START, TRIMS_E_CANCELLED); /* its write-through waits for it */
	ck_assert_state(&f, "soft:100", DISK, COPY_LOADING);
	cache_evict(f.c, f.now, "soft:100", TIER_HOST, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	ck_assert_state(&f, "soft:100", HOST, COPY_ABSENT);
	ck_assert_state(&f, "soft:100", DISK, COPY_RESERVED);
	ck_assert_uint_eq(fix_held(&f, FX_START), 1); /* hard's */
	fix_fini(&f);
}
END_TEST

START_TEST(a_demand_does_not_preempt_a_demand)
{
	struct fixture f;
	start_narrow(&f);
	fix_open(&f, 1, "a:100!");
	struct cache_open soon = fix_ask(2, "b:100!");
	soon.deadline = f.now + 1;
	fix_open_as(&f, soon);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_link_is_measured_by_what_it_moved)
{
	struct fixture f;
	start_narrow(&f);
	uint64_t before = cache_link_rate(f.c, REMOTE, HOST);
	for (uint64_t r = 0; r < 40; r++) {
		char name[16];
		snprintf(name, sizeof(name), "m%u:100!", (unsigned)r);
		fix_open(&f, r, name);
		f.now += NS_PER_S / 10; /* 1000 bytes a second */
		fix_done(&f, FX_START, TRIMS_E_NONE);
		fix_close(&f, r);
	}
	ck_assert_uint_gt(before, 100000);
	ck_assert_uint_ge(cache_link_rate(f.c, REMOTE, HOST), 990);
	ck_assert_uint_le(cache_link_rate(f.c, REMOTE, HOST), 1100);
	ck_assert_uint_eq(cache_link_rate(f.c, HOST, REMOTE), 0);
	fix_fini(&f);
}
END_TEST

static void ways(Suite *s)
{
	UNIT_CASE(s, "ways", a_gpu_load_goes_through_the_host_and_follows_it,
		leaving_a_gpu_load_cancels_the_host_load_it_needed, a_failed_host_load_fails_the_gpu_load_with_its_reason,
		a_full_host_refuses_the_gpu_load_that_needs_it, two_gpus_share_one_load_of_the_host,
		any_device_is_the_one_where_it_is_or_the_emptiest, a_relay_is_taken_where_no_link_leads,
		a_direct_link_is_taken_even_when_a_relay_seems_faster, a_load_is_charged_to_whoever_leads_it,
		what_the_daemon_does_by_itself_is_charged_to_nobody,
		a_load_that_finds_a_shorter_way_does_not_lose_it_by_letting_go_of_the_longer,
		a_model_that_comes_from_remote_already_is_not_downloaded_twice,
		a_second_download_is_taken_when_following_would_take_more_than_twice_as_long,
		trouble_of_a_disk_is_none_of_a_load_that_only_reads_behind,
		trouble_of_the_source_is_told_to_those_who_read_behind);
}

static void links(Suite *s)
{
	UNIT_CASE(s, "links", a_busy_link_serves_demands_by_deadline, a_demand_preempts_a_prefetch_which_goes_on_later,
		a_preempted_load_takes_its_write_through_along,
		a_write_through_parked_behind_a_load_that_is_given_up_lets_go, a_demand_does_not_preempt_a_demand,
		a_link_is_measured_by_what_it_moved);
}

UNIT_MAIN("cache_link", ways, links)
