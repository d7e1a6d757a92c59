/* test_gpu_relay.c - mrm/gpu/peer and relay over the simulated driver: who reaches whom, slots of staging, and copies between devices
 * that come home once, when they are over, the most urgent first. */
#include "mrm/clock.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/peer.h"
#include "mrm/gpu/relay.h"
#include "shared/image.h"
#include "tests/unit/simcuda_fixture.h"

#include <ev.h>

#define COPIES 6
#define BYTES MIB

static struct ev_loop *loop;
static struct jobs *jobs;
static struct gpu *gpu;
static struct gpu_peers *peers;
static struct gpu_relays *relays;
static struct gpu_memory *memory[2];
static struct gpu_relay_copy copies[COPIES];
static int order[COPIES], n_home;
static int (*set_script)(const char *);
static void (*release_all)(void);
static int (*stalled)(void);

static void came_home(struct job *job)
{
	order[n_home++] = (int)(container_of(job, struct gpu_relay_copy, job) - copies);
}

static void *symbol(const char *name)
{
	void *dl = dlopen(SIMCUDA_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	ck_assert_ptr_nonnull(dl);
	return dlsym(dl, name);
}

static void open_gpus(const char *topology)
{
	struct fault why = {0};
	const struct gpu_options o = {.mode = "auto", .driver = SIMCUDA_LIBRARY, .export = "auto"};
	sim_topology(topology);
	ck_assert_msg(gpu_new(&gpu, &o, &why) == 0, "%s", why.text);
	set_script = (__typeof__(set_script))symbol("simcuda_script");
	release_all = (__typeof__(release_all))symbol("simcuda_release");
	stalled = (__typeof__(stalled))symbol("simcuda_stalled");
	ck_assert_int_eq(set_script(""), 0);
	n_home = 0;
}

static void setup(void)
{
	struct fault why = {0};
	uint64_t bytes = COPIES * BYTES;
	uint8_t *pattern = malloc(bytes);
	open_gpus("set speed=unlimited\ndevice bytes=128M\ndevice bytes=128M\nnvlink 0 1\n");
	loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_int_eq(jobs_new(&jobs, loop), 0);
	ck_assert_msg(gpu_peers_new(&peers, gpu, 64 * MIB, 0, &why) == 0, "%s", why.text);
	ck_assert_msg(gpu_relays_new(&relays, gpu, peers, jobs, &why) == 0, "%s", why.text);
	for (uint32_t i = 0; i < 2; i++) {
		ck_assert_msg(gpu_memory_new(&memory[i], gpu, i, GPU_EXPORT_CUDA_IPC, &bytes, 1, &why) == 0, "%s", why.text);
		for (uint64_t k = 0; k < bytes; k++)
			pattern[k] = (uint8_t)((k + i * 77) * 2654435761u >> 13);
		ck_assert_int_eq(gpu_memory_write(memory[i], 0, 0, pattern, bytes, &why), 0);
	}
	free(pattern);
}

static void teardown(void)
{
	gpu_relays_free(&relays);
	for (int i = 0; i < 2; i++)
		gpu_memory_free(&memory[i]);
	gpu_peers_free(&peers);
	jobs_free(&jobs);
	ev_loop_destroy(loop);
	gpu_free(&gpu);
}

/* The i-th of them, from one device's memory to the same place of the other's. */
static void submit(int i, uint32_t to, enum load_class class, uint64_t deadline)
{
	uint64_t at = (uint64_t)i * BYTES;
	copies[i] = (struct gpu_relay_copy){.job = {.done = came_home, .class = class, .deadline = deadline}, .from_device = !to,
		.from = gpu_memory_address(memory[!to], 0) + at, .to = gpu_memory_address(memory[to], 0) + at, .bytes = BYTES};
	gpu_relay_submit(relays, to, &copies[i]);
}

static void until_home(int n)
{
	while (n_home < n)
		jobs_wait(jobs, NS_PER_S);
}

static void until_stalled(void)
{
	while (!stalled())
		sched_yield();
}

static uint8_t byte_at(uint32_t device, int copy)
{
	uint8_t byte;
	struct fault why;
	ck_assert_int_eq(gpu_memory_read(memory[device], 0, (uint64_t)copy * BYTES + 12345, &byte, 1, &why), 0);
	return byte;
}

static uint8_t byte_of(uint32_t device, int copy)
{
	return (uint8_t)(((uint64_t)copy * BYTES + 12345 + device * 77) * 2654435761u >> 13);
}

START_TEST(bytes_go_both_ways_at_once)
{
	struct gpu_relay_facts f;
	for (int i = 0; i < COPIES; i++)
		submit(i, (uint32_t)i & 1, CLASS_DEMAND, 0);
	until_home(COPIES);
	for (int i = 0; i < COPIES; i++) {
		ck_assert_int_eq(copies[i].result, 0);
		ck_assert_int_eq(byte_at((uint32_t)i & 1, i), byte_of(!(i & 1), i));
	}
	for (uint32_t d = 0; d < 2; d++) {
		gpu_relays_view(relays, d, &f);
		ck_assert_uint_eq(f.copies, COPIES / 2);
		ck_assert_uint_eq(f.bytes, COPIES / 2 * BYTES);
		ck_assert_uint_eq(f.failed, 0);
	}
}
END_TEST

/* Two are in flight, one behind the other; what waits behind them can be overtaken, what comes home is over. */
START_TEST(the_most_urgent_goes_next)
{
	static const int want[] = {0, 1, 5, 4, 3, 2};
	ck_assert_int_eq(set_script("~cuMemcpyPeerAsync:1=stall"), 0);
	submit(0, 0, CLASS_PERSIST, 0);
	until_stalled();
	submit(1, 0, CLASS_PERSIST, 0);
	struct gpu_relay_facts f;
	do
		gpu_relays_view(relays, 0, &f);
	while (f.copies < 2);
	submit(2, 0, CLASS_PERSIST, 0);
	submit(3, 0, CLASS_PREFETCH, 9);
	submit(4, 0, CLASS_PREFETCH, 8);
	submit(5, 0, CLASS_DEMAND, CACHE_NEVER);
	jobs_collect(jobs);
	ck_assert_int_eq(n_home, 0);
	ck_assert_int_ne(byte_at(0, 1), byte_of(1, 1));
	release_all();
	until_home(COPIES);
	ck_assert_mem_eq(order, want, sizeof want);
}
END_TEST

START_TEST(one_that_fails_comes_home_with_words)
{
	struct gpu_relay_facts f;
	ck_assert_int_eq(set_script("cuMemcpyPeerAsync:2=1"), 0);
	for (int i = 0; i < 3; i++)
		submit(i, 0, CLASS_DEMAND, 0);
	until_home(3);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(copies[i].result != 0, i == 1);
	ck_assert_msg(strstr(copies[1].why.text, "cuMemcpyPeerAsync"), "%s", copies[1].why.text);
	gpu_relays_view(relays, 0, &f);
	ck_assert_uint_eq(f.failed, 1);
	ck_assert_int_eq(set_script("cuEventRecord:1=1"), 0); /* the copy itself goes well, and is waited for otherwise */
	submit(3, 0, CLASS_DEMAND, 0);
	until_home(4);
	ck_assert_int_eq(copies[3].result, 0);
	ck_assert_int_eq(byte_at(0, 3), byte_of(1, 3));
	ck_assert(!gpu_lost(gpu, 0) && !gpu_lost(gpu, 1));
}
END_TEST

START_TEST(it_is_told_which_of_the_two_is_lost)
{
	ck_assert_int_eq(set_script("cuMemcpyPeerAsync:1=lose:719@1"), 0);
	submit(0, 0, CLASS_DEMAND, 0);
	until_home(1);
	ck_assert_int_ne(copies[0].result, 0);
	ck_assert(!gpu_lost(gpu, 0) && gpu_lost(gpu, 1));
	submit(1, 0, CLASS_DEMAND, 0);
	until_home(2);
	ck_assert_msg(strstr(copies[1].why.text, gpu_facts(gpu, 1)->uuid), "%s", copies[1].why.text);
}
END_TEST

START_TEST(what_was_not_begun_comes_home_withdrawn_in_the_end)
{
	ck_assert_int_eq(set_script("cuMemcpyPeerAsync:1=stall:50"), 0);
	for (int i = 0; i < COPIES; i++)
		submit(i, 0, CLASS_DEMAND, 0);
	until_stalled();
	gpu_relays_free(&relays);
	until_home(COPIES);
	int withdrawn = 0;
	for (int i = 0; i < COPIES; i++)
		withdrawn += copies[i].job.withdrawn;
	ck_assert_int_ge(withdrawn, COPIES - 2);
	ck_assert_int_lt(withdrawn, COPIES);
}
END_TEST

static void relaying(Suite *s)
{
	TCase *c = tcase_create("relay");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, bytes_go_both_ways_at_once);
	tcase_add_test(c, the_most_urgent_goes_next);
	tcase_add_test(c, one_that_fails_comes_home_with_words);
	tcase_add_test(c, what_was_not_begun_comes_home_withdrawn_in_the_end);
	suite_add_tcase(s, c);
}

/* ---- peers ---- */

START_TEST(slots_are_apart_and_are_given_back)
{
	struct gpu_staging_facts f;
	struct fault why;
	uint64_t at[17];
	open_gpus("set speed=unlimited\ndevice bytes=256M\ndevice bytes=256M\nnvlink 0 1\n");
	ck_assert_int_eq(gpu_peers_new(&peers, gpu, 64 * MIB, 0, &why), 0);
	gpu_peers_staging_view(peers, 1, &f);
	ck_assert_uint_eq(f.slots, 4); /* a sixteenth of what it has */
	for (uint32_t i = 0; i < f.slots; i++) {
		ck_assert(gpu_peers_take_slot(peers, 1, &at[i]));
		for (uint32_t k = 0; k < i; k++)
			ck_assert_uint_ge(MAX(at[i], at[k]) - MIN(at[i], at[k]), IMAGE_CHUNK_BYTES);
	}
	ck_assert(!gpu_peers_take_slot(peers, 1, &at[16]));
	gpu_peers_give_slot(peers, 1, at[2]);
	ck_assert(gpu_peers_take_slot(peers, 1, &at[16]));
	ck_assert_uint_eq(at[16], at[2]);
	for (uint32_t i = 0; i < f.slots; i++)
		gpu_peers_give_slot(peers, 1, at[i]);
	gpu_peers_staging_view(peers, 1, &f);
	ck_assert_uint_eq(f.in_use, 0);
	ck_assert_uint_eq(f.most_in_use, 4);
	gpu_peers_free(&peers);
	gpu_free(&gpu);
}
END_TEST

START_TEST(who_reaches_nobody_has_no_staging)
{
	struct fault why = {0};
	uint64_t at;
	open_gpus("set speed=unlimited\nswitch s\ndevice bytes=256M switch=s\ndevice bytes=256M switch=s\ndevice bytes=256M\n");
	ck_assert_int_eq(gpu_peers_new(&peers, gpu, 8 * MIB, 0, &why), 0);
	ck_assert_int_eq(gpu_peers_reach(peers, 0, 1, &why), 0);
	ck_assert(!gpu_peers_apart(peers, 0, 1));
	ck_assert(gpu_peers_apart(peers, 0, 2));
	ck_assert_int_eq(gpu_peers_staging(peers, 1, &why), 0);
	ck_assert_int_eq(gpu_peers_reach(peers, 0, 2, &why), -ENODEV);
	ck_assert_msg(strstr(why.text, gpu_facts(gpu, 2)->uuid), "%s", why.text);
	ck_assert_int_eq(gpu_peers_staging(peers, 2, &why), -ENODATA);
	ck_assert(!gpu_peers_take_slot(peers, 2, &at));
	ck_assert_uint_eq(gpu_peers_bytes_per_s(peers, 0, 1), 0); /* it takes no time */
	gpu_peers_free(&peers);
	gpu_free(&gpu);
}
END_TEST

START_TEST(what_cannot_be_had_is_said_and_costs_nothing_else)
{
	static const struct {
		const char *script, *words;
		uint64_t bytes;
		int reach, staging;
	} rows[] = {
		{"", "pt-staging is 0", 0, 0, -ENODATA},
		{"", "sixteenth", MIB, 0, -ENODATA},
		{"cuMemAlloc:*=2", "cuMemAlloc", 8 * MIB, 0, -ENODATA},
		{"cuCtxEnablePeerAccess:*=217", "cuCtxEnablePeerAccess", 8 * MIB, -ENODEV, -ENODATA},
		{"cuDeviceCanAccessPeer:*=999", "cuDeviceCanAccessPeer", 8 * MIB, -ENODEV, -ENODATA},
	};
	open_gpus("set speed=unlimited\ndevice bytes=256M\ndevice bytes=256M\nnvlink 0 1\n");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fault reach = {0}, staging = {0}, why;
		ck_assert_int_eq(set_script(rows[i].script), 0);
		ck_assert_int_eq(gpu_peers_new(&peers, gpu, rows[i].bytes, 0, &why), 0);
		ck_assert_int_eq(gpu_peers_reach(peers, 0, 1, &reach), rows[i].reach);
		ck_assert_int_eq(gpu_peers_staging(peers, 1, &staging), rows[i].staging);
		ck_assert_msg(strstr(rows[i].reach ? reach.text : staging.text, rows[i].words), "%zu: %s", i, staging.text);
		ck_assert_int_eq(set_script(""), 0);
		gpu_peers_free(&peers);
		ck_assert(!gpu_lost(gpu, 0) && !gpu_lost(gpu, 1));
	}
	gpu_free(&gpu);
}
END_TEST

static void neighbours(Suite *s)
{
	UNIT_CASE(s, "peers", slots_are_apart_and_are_given_back, who_reaches_nobody_has_no_staging,
		what_cannot_be_had_is_said_and_costs_nothing_else);
}

/* The last one: what is lost stays so for other processes, too. */
static void losing(Suite *s)
{
	TCase *c = tcase_create("lost");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, it_is_told_which_of_the_two_is_lost);
	suite_add_tcase(s, c);
}

SIM_MAIN("gpu_relay", relaying, neighbours, losing)
