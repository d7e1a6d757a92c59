/* test_gpu_submit.c - mrm/gpu/submit over the simulated driver: whatever the engine has not been given can be overtaken and
 * called back, and comes home exactly once. */
#include "mrm/clock.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/submit.h"
#include "tests/unit/simcuda_fixture.h"

#include <ev.h>

#define CHUNKS 8
#define CHUNK_BYTES MIB

static struct ev_loop *loop;
static struct jobs *jobs;
static struct gpu *gpu;
static struct gpu_links *links;
static struct gpu_memory *memory;
static uint8_t *host;
static struct gpu_chunk chunks[CHUNKS + 1];
static int order[CHUNKS + 1], n_home, n_withdrawn;
static int (*set_script)(const char *);
static void (*release_all)(void);
static int (*stalled)(void);

static void came_home(struct job *job)
{
	struct gpu_chunk *c = container_of(job, struct gpu_chunk, job);
	order[n_home++] = (int)(c - chunks);
	n_withdrawn += job->withdrawn;
}

static void setup(void)
{
	struct fault why = {0};
	const struct gpu_options o = {.mode = "auto", .driver = SIMCUDA_LIBRARY, .export = "auto"};
	static const struct gpu_calibration calibration = {.bytes_per_s = {4 * GIB, 4 * GIB}, .duplex = {1000, 1000},
		.overhead_ns = NS_PER_US, .submit_ns = NS_PER_US, .measured = true};
	const struct gpu_links_options lo = {.target_ns = 300 * NS_PER_US, .calibration = &calibration};
	uint64_t bytes = CHUNKS * CHUNK_BYTES;
	sim_topology("set speed=unlimited\ndevice bytes=64M\n");
	ck_assert_msg(gpu_new(&gpu, &o, &why) == 0, "%s", why.text);
	void *dl = dlopen(SIMCUDA_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	ck_assert_ptr_nonnull(dl);
	set_script = (__typeof__(set_script))dlsym(dl, "simcuda_script");
	release_all = (__typeof__(release_all))dlsym(dl, "simcuda_release");
	stalled = (__typeof__(stalled))dlsym(dl, "simcuda_stalled");
	loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_int_eq(jobs_new(&jobs, loop), 0);
	ck_assert_msg(gpu_links_new(&links, gpu, jobs, &lo, &why) == 0, "%s", why.text);
	ck_assert_msg(gpu_memory_new(&memory, gpu, 0, GPU_EXPORT_VMM_FD, &bytes, 1, 1, &why) == 0, "%s", why.text);
	host = malloc(bytes);
	for (uint64_t i = 0; i < bytes; i++)
		host[i] = (uint8_t)(i * 2654435761u >> 13);
	n_home = n_withdrawn = 0;
}

static void teardown(void)
{
	gpu_links_free(&links);
	gpu_memory_free(&memory);
	jobs_free(&jobs);
	ev_loop_destroy(loop);
	gpu_free(&gpu);
	free(host);
}

static struct gpu_flow *flow(enum load_class class, enum gpu_direction direction, int n)
{
	struct gpu_flow *f;
	struct fault why;
	const struct gpu_flow_options o = {.class = class, .direction = direction, .deadline = CACHE_NEVER,
		.bytes = (uint64_t)n * CHUNK_BYTES, .label = "test"};
	ck_assert_msg(gpu_flow_new(&f, links, &o, &why) == 0, "%s", why.text);
	return f;
}

static void submit(struct gpu_flow *f, int chunk, int place)
{
	chunks[chunk] = (struct gpu_chunk){.at = gpu_memory_address(memory, 0) + (uint64_t)place * CHUNK_BYTES,
		.host = host + (uint64_t)place * CHUNK_BYTES, .bytes = CHUNK_BYTES, .job = {.done = came_home}};
	gpu_flow_submit(f, &chunks[chunk]);
}

static void until_home(int n)
{
	while (n_home < n)
		jobs_wait(jobs, NS_PER_S);
}

/* The first piece stands still on the engine, so that everything else has to wait. */
static struct gpu_flow *blocked_prefetch(void)
{
	ck_assert_int_eq(set_script("~cuMemcpyHtoDAsync:1=stall"), 0);
	struct gpu_flow *f = flow(CLASS_PREFETCH, GPU_H2D, CHUNKS);
	for (int i = 0; i < CHUNKS; i++)
		submit(f, i, i);
	while (!stalled())
		jobs_wait(jobs, NS_PER_MS);
	return f;
}

START_TEST(bytes_arrive_and_can_be_read_back)
{
	struct gpu_flow *up = flow(CLASS_DEMAND, GPU_H2D, CHUNKS);
	struct fault why;
	for (int i = 0; i < CHUNKS; i++)
		submit(up, i, i);
	until_home(CHUNKS);
	uint8_t *back = calloc(CHUNKS, CHUNK_BYTES), *mine = host;
	ck_assert_msg(gpu_memory_read(memory, 0, 0, back, CHUNKS * CHUNK_BYTES, &why) == 0, "%s", why.text);
	ck_assert(memcmp(back, mine, CHUNKS * CHUNK_BYTES) == 0);
	memset(back, 0, CHUNKS * CHUNK_BYTES);
	host = back;
	n_home = 0;
	struct gpu_flow *down = flow(CLASS_DEMAND, GPU_D2H, CHUNKS);
	for (int i = 0; i < CHUNKS; i++)
		submit(down, i, i);
	until_home(CHUNKS);
	host = mine;
	ck_assert(memcmp(back, mine, CHUNKS * CHUNK_BYTES) == 0);
	free(back);
	gpu_flow_free(&up);
	gpu_flow_free(&down);
}
END_TEST

START_TEST(a_demand_overtakes_what_the_engine_has_not_been_given)
{
	struct gpu_flow *prefetch = blocked_prefetch();
	struct gpu_flow *demand = flow(CLASS_DEMAND, GPU_H2D, 1);
	submit(demand, CHUNKS, 0);
	release_all();
	until_home(CHUNKS + 1);
	int place = 0;
	while (order[place] != CHUNKS)
		place++;
	ck_assert_int_le(place, 2); /* behind at most two pieces, so behind at most two chunks */
	ck_assert_int_eq(n_withdrawn, 0);
	struct gpu_waits w;
	gpu_flow_waits(demand, &w);
	ck_assert_uint_gt(w.waited_ns[LINK_PREFETCH], 0);
	gpu_flow_free(&prefetch);
	gpu_flow_free(&demand);
}
END_TEST

START_TEST(a_prefetch_that_somebody_waits_for_overtakes_others)
{
	struct gpu_flow *first = blocked_prefetch();
	struct gpu_flow *second = flow(CLASS_PREFETCH, GPU_H2D, 1);
	submit(second, CHUNKS, 0);
	gpu_flow_reclass(second, CLASS_DEMAND, CACHE_NEVER);
	release_all();
	until_home(CHUNKS + 1);
	int place = 0;
	while (order[place] != CHUNKS)
		place++;
	ck_assert_int_le(place, 2);
	gpu_flow_free(&first);
	gpu_flow_free(&second);
}
END_TEST

START_TEST(a_cancelled_flow_comes_home_at_the_next_edge)
{
	struct gpu_flow *prefetch = blocked_prefetch();
	gpu_flow_cancel(prefetch);
	release_all();
	until_home(CHUNKS);
	ck_assert_int_ge(n_withdrawn, CHUNKS - 2); /* two pieces may have been with the engine */
	gpu_flow_free(&prefetch);
}
END_TEST

START_TEST(a_copy_that_fails_fails_its_chunk_alone)
{
	ck_assert_int_eq(set_script("cuMemcpyHtoDAsync:3=1"), 0);
	struct gpu_flow *f = flow(CLASS_DEMAND, GPU_H2D, CHUNKS);
	for (int i = 0; i < CHUNKS; i++)
		submit(f, i, i);
	until_home(CHUNKS);
	int failed = 0;
	for (int i = 0; i < CHUNKS; i++)
		failed += chunks[i].result != 0;
	ck_assert_int_eq(failed, 1);
	ck_assert_int_eq(n_withdrawn, 0);
	gpu_flow_free(&f);
}
END_TEST

static void copies(Suite *s)
{
	TCase *t = tcase_create("copies");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, bytes_arrive_and_can_be_read_back);
	tcase_add_test(t, a_demand_overtakes_what_the_engine_has_not_been_given);
	tcase_add_test(t, a_prefetch_that_somebody_waits_for_overtakes_others);
	tcase_add_test(t, a_cancelled_flow_comes_home_at_the_next_edge);
	tcase_add_test(t, a_copy_that_fails_fails_its_chunk_alone);
	suite_add_tcase(s, t);
}

SIM_MAIN("gpu_submit", copies)
