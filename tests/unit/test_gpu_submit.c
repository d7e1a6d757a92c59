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

#define FIGURES {.bytes_per_s = {4 * GIB, 4 * GIB}, .duplex = {1000, 1000}, .overhead_ns = NS_PER_US,                \
	.submit_ns = NS_PER_US, .measured = true}

#define NO_CPU_COPIES_AT (400 * GIB)

static void setup_with(const char *topology, const char *script, struct gpu_links_options lo)
{
	struct fault why = {0};
	const struct gpu_options o = {.mode = "auto", .driver = SIMCUDA_LIBRARY, .export = "auto"};
	static const struct gpu_calibration calibration[] = {FIGURES, FIGURES};
	uint64_t bytes = CHUNKS * CHUNK_BYTES;
	lo.target_ns = 300 * NS_PER_US;
	lo.calibration = calibration;
	sim_topology(topology);
	ck_assert_msg(gpu_new(&gpu, &o, &why) == 0, "%s", why.text);
	void *dl = dlopen(SIMCUDA_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	ck_assert_ptr_nonnull(dl);
	set_script = (__typeof__(set_script))dlsym(dl, "simcuda_script");
	release_all = (__typeof__(release_all))dlsym(dl, "simcuda_release");
	stalled = (__typeof__(stalled))dlsym(dl, "simcuda_stalled");
	loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_int_eq(jobs_new(&jobs, loop), 0);
	ck_assert_int_eq(set_script(script), 0);
	ck_assert_msg(gpu_links_new(&links, gpu, jobs, &lo, &why) == 0, "%s", why.text);
	ck_assert_msg(gpu_memory_new(&memory, gpu, 0, GPU_EXPORT_VMM_FD, &bytes, 1, &why) == 0, "%s", why.text);
	host = malloc(bytes);
	for (uint64_t i = 0; i < bytes; i++)
		host[i] = (uint8_t)(i * 2654435761u >> 13);
	n_home = n_withdrawn = 0;
}

static void setup(void)
{
	setup_with("set speed=unlimited\ndevice bytes=64M\n", "", (struct gpu_links_options){0});
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

static struct gpu_flow *flow_with(struct gpu_flow_options o, int n)
{
	struct gpu_flow *f;
	struct fault why;
	o.deadline = CACHE_NEVER;
	o.bytes = (uint64_t)n * CHUNK_BYTES;
	o.label = "test";
	ck_assert_msg(gpu_flow_new(&f, links, &o, &why) == 0, "%s", why.text);
	return f;
}

static struct gpu_flow *flow(enum load_class class, enum gpu_direction direction, int n)
{
	return flow_with((struct gpu_flow_options){.class = class, .direction = direction, .user = CACHE_NOBODY}, n);
}

static void submit(struct gpu_flow *f, int chunk, int place)
{
	chunks[chunk] = (struct gpu_chunk){.at = gpu_memory_address(memory, 0) + (uint64_t)place * CHUNK_BYTES,
		.host = host + (uint64_t)place * CHUNK_BYTES, .bytes = CHUNK_BYTES, .job = {.done = came_home}};
	gpu_flow_submit(f, &chunks[chunk]);
}

/* A demand of the device's first chunks on somebody's behalf. */
static struct gpu_flow *load_of(uint32_t user, int first, int n)
{
	struct gpu_flow *f = flow_with((struct gpu_flow_options){.class = CLASS_DEMAND, .direction = GPU_H2D, .user = user}, n);
	for (int i = first; i < first + n; i++)
		submit(f, i, i % CHUNKS);
	return f;
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
	gpu_flow_reclass(second, CLASS_DEMAND, CACHE_NEVER, CACHE_NOBODY);
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

START_TEST(what_was_not_begun_is_called_back_and_the_rest_goes_on)
{
	struct gpu_flow *prefetch = blocked_prefetch();
	gpu_flow_call_back(prefetch);
	release_all();
	until_home(CHUNKS);
	int n = n_withdrawn;
	ck_assert_int_ge(n, CHUNKS - 2);
	ck_assert_int_lt(n, CHUNKS);
	for (int i = 0; i < CHUNKS; i++)
		ck_assert(chunks[i].job.withdrawn || (!chunks[i].result && chunks[i].done_bytes == CHUNK_BYTES));
	struct gpu_flow_facts f;
	ck_assert(!gpu_links_flow(links, 0, &f)); /* it has ended: the rest is none of it any more */
	gpu_flow_free(&prefetch);
}
END_TEST

/* The loop may have submitted it just before, and the link's thread not have seen it yet. */
START_TEST(what_comes_to_a_flow_that_was_called_back_goes_home)
{
	struct gpu_flow *f = flow(CLASS_PREFETCH, GPU_H2D, 2);
	ck_assert(gpu_flow_is_alone(f));
	struct gpu_flow *other = flow(CLASS_DEMAND, GPU_H2D, 1);
	ck_assert(!gpu_flow_is_alone(f));
	gpu_flow_call_back(f);
	submit(other, 0, 0); /* whose thread has looked at what was called back when this is home */
	until_home(1);
	submit(f, 1, 1);
	submit(f, 2, 2);
	until_home(3);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(chunks[i].job.withdrawn, i > 0);
	gpu_flow_free(&f);
	gpu_flow_free(&other);
}
END_TEST

/* A chunk of many pieces; the first one stands still. */
START_TEST(what_was_begun_is_called_back_where_others_would_be_served_before_the_rest)
{
	for (int alone = 0; alone < 2; alone++) {
		n_home = 0;
		ck_assert_int_eq(set_script("~cuMemcpyHtoDAsync:1=stall"), 0);
		struct gpu_flow *f = flow(CLASS_PREFETCH, GPU_H2D, CHUNKS), *other = NULL;
		chunks[0] = (struct gpu_chunk){.at = gpu_memory_address(memory, 0), .host = host, .bytes = CHUNKS * CHUNK_BYTES,
			.job = {.done = came_home}};
		gpu_flow_submit(f, &chunks[0]);
		while (!stalled())
			jobs_wait(jobs, NS_PER_MS);
		if (!alone)
			other = flow(CLASS_DEMAND, GPU_H2D, 1);
		gpu_flow_call_back(f);
		if (other)
			submit(other, 1, 0);
		release_all();
		until_home(alone ? 1 : 2);
		ck_assert_int_eq(chunks[0].job.withdrawn, !alone);
		ck_assert_int_eq(chunks[0].done_bytes == CHUNKS * CHUNK_BYTES, alone);
		ck_assert_uint_gt(chunks[0].done_bytes, 0);
		gpu_flow_free(&f);
		gpu_flow_free(&other);
	}
}
END_TEST

START_TEST(a_flow_gets_more_also_when_it_has_ended)
{
	struct fault why;
	struct gpu_flow_facts f;
	struct gpu_flow *a = flow(CLASS_DEMAND, GPU_H2D, 1);
	submit(a, 0, 0);
	until_home(1);
	ck_assert(!gpu_links_flow(links, 0, &f));
	ck_assert_int_eq(gpu_flow_more(a, 3 * CHUNK_BYTES, &why), 0);
	ck_assert_int_eq(gpu_flow_more(a, CHUNK_BYTES, &why), 0);
	gpu_flow_less(a, CHUNK_BYTES);
	ck_assert(gpu_links_flow(links, 0, &f));
	ck_assert_uint_eq(f.view.bytes, 3 * CHUNK_BYTES);
	for (int i = 1; i < 4; i++)
		submit(a, i, i);
	until_home(4);
	ck_assert(!gpu_links_flow(links, 0, &f));
	ck_assert_int_eq(gpu_flow_more(a, CHUNK_BYTES, &why), 0);
	gpu_flow_less(a, CHUNK_BYTES);
	ck_assert(!gpu_links_flow(links, 0, &f));
	gpu_flow_cancel(a);
	ck_assert_int_eq(gpu_flow_more(a, CHUNK_BYTES, &why), 0);
	ck_assert(!gpu_links_flow(links, 0, &f));
	gpu_flow_free(&a);
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

/* ---- users ---- */

#define SLOW 1000 /* bytes per second: beyond its burst nobody gets anywhere while a test runs */

static void setup_capped(void)
{
	setup_with("set speed=unlimited\ndevice bytes=64M\n", "", (struct gpu_links_options){.user_bytes_per_s = SLOW});
}

static struct gpu_user_facts facts_of(uint32_t user)
{
	struct gpu_user_facts f;
	for (uint32_t n = 0; gpu_links_user(links, n, &f); n++)
		if (f.view.user == user)
			return f;
	ck_abort_msg("user %u is not known", user);
	return f;
}

/* Its user's tokens are used up: nothing more of it goes. */
static void until_capped(const struct gpu_flow *f, uint32_t user)
{
	struct gpu_user_facts u;
	struct gpu_waits w;
	do {
		jobs_wait(jobs, NS_PER_MS);
		gpu_flow_waits(f, &w);
		u = facts_of(user);
	} while (!w.capped_ns || u.view.in_flight);
	ck_assert_uint_le(u.view.bytes, (uint64_t)u.view.burst_max + u.age_ns * SLOW / NS_PER_S);
}

START_TEST(a_user_at_its_cap_is_in_nobodys_way)
{
	struct gpu_flow *greedy = load_of(7, 0, CHUNKS);
	until_capped(greedy, 7);
	int before = n_home;
	ck_assert_int_lt(before, CHUNKS);
	struct gpu_flow *other = load_of(8, CHUNKS, 1);
	until_home(before + 1);
	ck_assert_int_eq(order[before], CHUNKS);
	ck_assert_uint_eq(facts_of(8).view.bytes, CHUNK_BYTES);
	struct gpu_waits w;
	gpu_flow_waits(greedy, &w);
	ck_assert_uint_gt(w.capped_ns, 0);
	gpu_flow_waits(other, &w);
	ck_assert_uint_eq(w.capped_ns, 0);
	gpu_links_limit_users(links, 0, 0);
	until_home(CHUNKS + 1);
	ck_assert_int_eq(n_withdrawn, 0);
	gpu_flow_free(&greedy);
	gpu_flow_free(&other);
}
END_TEST

START_TEST(a_load_that_somebody_else_leads_goes_on_at_his_charge)
{
	struct gpu_flow *f = load_of(7, 0, CHUNKS);
	until_capped(f, 7);
	gpu_flow_reclass(f, CLASS_DEMAND, CACHE_NEVER, 8);
	while (!facts_of(8).view.bytes)
		jobs_wait(jobs, NS_PER_MS);
	gpu_flow_reclass(f, CLASS_DEMAND, CACHE_NEVER, CACHE_NOBODY);
	until_home(CHUNKS);
	gpu_flow_free(&f);
}
END_TEST

/* ---- what links share ---- */

#define ONE_SWITCH "set speed=unlimited\nswitch s gbps=9\ndevice bytes=64M switch=s numa=1\ndevice bytes=64M switch=s numa=1\n"

static void setup_shared(void)
{
	setup_with(ONE_SWITCH, "", (struct gpu_links_options){.rates = {.numa = 6 * GIB, .disk = MIB},
		.direct_share = 1000});
}

static struct gpu_node_facts node_of(const char *name)
{
	struct gpu_node_facts f;
	for (uint32_t n = 0; gpu_links_node(links, n, &f); n++)
		if (strstr(f.node->name, name))
			return f;
	ck_abort_msg("there is no %s", name);
	return f;
}

START_TEST(links_below_a_switch_share_its_uplink_each_way)
{
	struct gpu_node_facts up = node_of("h2d"), down = node_of("d2h"), numa = node_of("numa 1");
	ck_assert_int_eq(up.node->kind, GPU_NODE_SWITCH);
	ck_assert_uint_eq(up.node->devices, 3);
	ck_assert(up.node->assumed && down.node->assumed && !numa.node->assumed);
	ck_assert_uint_eq(up.view.bytes_per_s, 4 * GIB); /* as the fastest link */
	ck_assert_uint_eq(up.view.given_bytes_per_s, 4 * GIB);
	ck_assert_uint_eq(numa.view.given_bytes_per_s, 6 * GIB * 9 / 10);
	struct gpu_flow *f = load_of(CACHE_NOBODY, 0, CHUNKS);
	until_home(CHUNKS);
	up = node_of("h2d");
	ck_assert_uint_eq(up.view.bytes, CHUNKS * CHUNK_BYTES);
	ck_assert_uint_le(up.view.bytes, (uint64_t)up.view.burst_max + up.age_ns * 4 * GIB / NS_PER_S);
	ck_assert_uint_eq(node_of("numa 1").view.bytes, CHUNKS * CHUNK_BYTES);
	ck_assert_uint_eq(node_of("d2h").view.bytes, 0);
	gpu_flow_free(&f);
}
END_TEST

START_TEST(what_is_read_from_disk_is_charged_to_it_until_all_of_it_is_there)
{
	struct gpu_flow *f = flow_with((struct gpu_flow_options){.class = CLASS_DEMAND, .direction = GPU_H2D,
		.user = CACHE_NOBODY, .source = GPU_SOURCE_DISK}, CHUNKS);
	ck_assert_uint_lt((uint64_t)node_of("disk").view.burst_max, CHUNKS * CHUNK_BYTES);
	for (int i = 0; i < CHUNKS; i++)
		submit(f, i, i);
	until_home(1); /* all would take seconds, at 0.9 MiB in each */
	gpu_flow_filled(f);
	until_home(CHUNKS);
	struct gpu_node_facts disk = node_of("disk");
	ck_assert_uint_le(disk.view.bytes, (uint64_t)disk.view.burst_max + disk.age_ns * MIB / NS_PER_S);
	gpu_flow_free(&f);
}
END_TEST

START_TEST(no_more_is_reserved_for_direct_access_than_its_share)
{
	struct gpu_reservation *a = NULL, *b = NULL;
	struct fault why;
	uint64_t quarter = node_of("h2d").view.bytes_per_s * 250 / 1000;
	gpu_links_limit_direct(links, 250);
	ck_assert_int_eq(gpu_reserve(&a, links, 0, quarter, "greedy", &why), 0);
	ck_assert_int_eq(gpu_reserve(&b, links, 0, MIB, "late", &why), -ENOSPC);
	ck_assert_msg(strstr(why.text, "late") && strstr(why.text, "direct-share"), "%s", why.text);
	ck_assert_ptr_null(b);
	ck_assert_uint_eq(node_of("h2d").view.reserved_bytes_per_s, quarter);
	gpu_links_limit_direct(links, 0); /* what is held stays, and can be given back */
	gpu_reserve_release(&a);
	ck_assert_int_eq(gpu_reserve(&b, links, 0, MIB, "late", &why), -ENOSPC);
	ck_assert_uint_eq(node_of("h2d").view.reserved_bytes_per_s, 0);
}
END_TEST

START_TEST(direct_access_is_reserved_on_all_it_passes_and_given_back)
{
	struct gpu_reservation *a = NULL, *b = NULL, *c = NULL;
	struct gpu_link_facts before, after;
	struct gpu_reservation_facts r;
	struct fault why;
	gpu_links_view(links, 0, GPU_H2D, &before);
	ck_assert_int_eq(gpu_reserve(&a, links, 0, GIB, "bert", &why), 0);
	ck_assert_int_eq(gpu_reserve(&b, links, 0, GIB, "gpt", &why), 0);
	ck_assert_int_eq(gpu_reserve(&c, links, 1, GIB, "vit", &why), 0);
	ck_assert_uint_eq(node_of("h2d").view.reserved_bytes_per_s, 3 * GIB);
	ck_assert_uint_eq(node_of("numa").view.reserved_bytes_per_s, 3 * GIB);
	ck_assert_uint_eq(node_of("d2h").view.reserved_bytes_per_s, 0);
	gpu_links_view(links, 0, GPU_H2D, &after);
	ck_assert_uint_lt(after.view.worst_bytes_per_s, before.view.worst_bytes_per_s); /* the bound counts with it */
	ck_assert(gpu_links_reservation(links, 1, &r));
	ck_assert_str_eq(r.label, "gpt");
	ck_assert(!gpu_links_reservation(links, 3, &r));
	struct gpu_reservation *d = NULL;
	ck_assert_int_eq(gpu_reserve(&d, links, 1, 2 * GIB, "llama", &why), -ENOSPC); /* its link has room, the uplink not */
	ck_assert_int_eq(why.code, TRIMS_E_NO_ROOM);
	ck_assert_msg(strstr(why.text, "llama") && strstr(why.text, "switch"), "%s", why.text);
	ck_assert_ptr_null(d);
	gpu_reserve_release(&a);
	ck_assert_ptr_null(a);
	gpu_reserve_release(&a);
	ck_assert_int_eq(gpu_reserve(&d, links, 1, 2 * GIB, "llama", &why), 0);
	ck_assert_uint_eq(node_of("h2d").view.reserved_bytes_per_s, 4 * GIB);
	gpu_reserve_release(&b);
	gpu_reserve_release(&c);
	gpu_reserve_release(&d);
	ck_assert_uint_eq(node_of("h2d").view.reserved_bytes_per_s, 0);
	gpu_links_view(links, 0, GPU_H2D, &after);
	ck_assert_uint_eq(after.view.worst_bytes_per_s, before.view.worst_bytes_per_s);
	ck_assert_int_eq(gpu_reserve(&d, links, 0, UINT64_MAX, "too much", &why), -EINVAL);
}
END_TEST

START_TEST(there_is_a_bound_on_reservations)
{
	struct gpu_reservation *r[GPU_MAX_RESERVATIONS], *more;
	struct fault why;
	for (int i = 0; i < GPU_MAX_RESERVATIONS; i++)
		ck_assert_int_eq(gpu_reserve(&r[i], links, 0, 1, "small", &why), 0);
	ck_assert_int_eq(gpu_reserve(&more, links, 0, 1, "one more", &why), -EUSERS);
	ck_assert_int_eq(why.code, TRIMS_E_LIMIT);
	for (int i = 0; i < GPU_MAX_RESERVATIONS; i++)
		gpu_reserve_release(&r[i]);
}
END_TEST

START_TEST(rates_of_nodes_are_read_with_care)
{
	struct gpu_node_rates rates;
	struct fault why;
	const char *good[] = {"numa=40G", "disk=6G", "net=1G", "switch=24G"};
	const char *bad[] = {"numa", "numa=", "numa=1", "tape=1G", "=1G", "disk=8T", "disk=6G/s", "disks=6G"};
	struct config_list list = {.n = 0};
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		list.v[list.n++] = (char *)good[i];
	ck_assert_int_eq(gpu_node_rates_parse(&rates, &list, &why), 0);
	ck_assert_uint_eq(rates.numa, 40 * GIB);
	ck_assert_uint_eq(rates.disk, 6 * GIB);
	ck_assert_uint_eq(rates.net, GIB);
	ck_assert_uint_eq(rates.uplink, 24 * GIB);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		list = (struct config_list){.v = {(char *)bad[i]}, .n = 1};
		ck_assert_int_eq(gpu_node_rates_parse(&rates, &list, &why), -EINVAL);
		ck_assert_msg(strstr(why.text, bad[i]), "%s", why.text);
	}
}
END_TEST

/* ---- what the bound is worth ---- */

static void setup_without_ring(void)
{
	setup_with("set speed=unlimited\ndevice bytes=64M\n", "cuMemHostAlloc:*=2", (struct gpu_links_options){0});
}

START_TEST(without_its_ring_a_link_says_so_and_makes_it_when_it_must)
{
	struct gpu_link_facts x;
	struct fault why;
	ck_assert(gpu_links_no_ring(links, 0, GPU_H2D, &why));
	ck_assert_msg(strstr(why.text, "cuMemHostAlloc"), "%s", why.text);
	ck_assert_int_eq(set_script(""), 0);
	struct gpu_flow *f = load_of(CACHE_NOBODY, 0, CHUNKS);
	until_home(CHUNKS);
	gpu_links_view(links, 0, GPU_H2D, &x);
	ck_assert_uint_gt(x.late_buffers, 0);
	ck_assert_uint_le(x.late_buffers, 3);
	gpu_flow_free(&f);
}
END_TEST

START_TEST(pieces_that_the_submitter_copies_itself_are_smaller_where_the_link_is_faster)
{
	const struct gpu_calibration fast = {.bytes_per_s = {NO_CPU_COPIES_AT, NO_CPU_COPIES_AT}, .duplex = {1000, 1000},
		.overhead_ns = 100, .submit_ns = 100, .measured = true};
	struct gpu_link_facts x;
	gpu_links_calibrate(links, 0, &fast);
	struct gpu_flow *f = load_of(CACHE_NOBODY, 0, CHUNKS);
	until_home(CHUNKS);
	ck_assert_mem_eq((void *)(uintptr_t)gpu_memory_address(memory, 0), host, CHUNKS * CHUNK_BYTES);
	gpu_links_view(links, 0, GPU_H2D, &x);
	ck_assert_uint_gt(x.buffered, 2 * CHUNKS * CHUNK_BYTES / x.view.chunk_bytes);
	gpu_flow_free(&f);
}
END_TEST

START_TEST(pieces_that_the_submitter_copies_itself_are_counted)
{
	struct gpu_link_facts x;
	struct fault why;
	ck_assert(!gpu_links_no_ring(links, 0, GPU_H2D, &why));
	struct gpu_flow *f = load_of(CACHE_NOBODY, 0, CHUNKS);
	until_home(CHUNKS);
	gpu_links_view(links, 0, GPU_H2D, &x);
	ck_assert_uint_ge(x.buffered, CHUNKS);
	ck_assert_uint_eq(x.buffered, x.copies);
	ck_assert_uint_eq(x.late_buffers, 0);
	ck_assert_uint_gt(x.copy_bytes_per_s, 0);
	ck_assert_uint_le(x.slow_copies, x.buffered);
	gpu_flow_free(&f);
}
END_TEST

START_TEST(copies_that_the_driver_is_slow_to_accept_are_counted)
{
	struct gpu_link_facts x;
	ck_assert_int_eq(set_script("cuMemcpyHtoDAsync:2=stall"), 0);
	struct gpu_flow *f = load_of(CACHE_NOBODY, 0, CHUNKS);
	while (!stalled())
		jobs_wait(jobs, NS_PER_MS);
	uint64_t seen = clock_now();
	gpu_links_view(links, 0, GPU_H2D, &x);
	while (clock_now() - seen <= x.view.bound_ns)
		jobs_wait(jobs, NS_PER_MS);
	release_all();
	until_home(CHUNKS);
	gpu_links_view(links, 0, GPU_H2D, &x);
	ck_assert_uint_ge(x.slow_calls, 1);
	ck_assert_uint_le(x.slow_calls, x.copies);
	ck_assert_uint_gt(x.slowest_call_ns, x.view.bound_ns);
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
	tcase_add_test(t, what_was_not_begun_is_called_back_and_the_rest_goes_on);
	tcase_add_test(t, what_comes_to_a_flow_that_was_called_back_goes_home);
	tcase_add_test(t, what_was_begun_is_called_back_where_others_would_be_served_before_the_rest);
	tcase_add_test(t, a_flow_gets_more_also_when_it_has_ended);
	tcase_add_test(t, a_copy_that_fails_fails_its_chunk_alone);
	tcase_add_test(t, pieces_that_the_submitter_copies_itself_are_counted);
	tcase_add_test(t, copies_that_the_driver_is_slow_to_accept_are_counted);
	tcase_add_test(t, pieces_that_the_submitter_copies_itself_are_smaller_where_the_link_is_faster);
	suite_add_tcase(s, t);
}

static void users(Suite *s)
{
	TCase *t = tcase_create("users");
	tcase_add_checked_fixture(t, setup_capped, teardown);
	tcase_add_test(t, a_user_at_its_cap_is_in_nobodys_way);
	tcase_add_test(t, a_load_that_somebody_else_leads_goes_on_at_his_charge);
	suite_add_tcase(s, t);
}

static void shared(Suite *s)
{
	TCase *t = tcase_create("shared");
	tcase_add_checked_fixture(t, setup_shared, teardown);
	tcase_add_test(t, links_below_a_switch_share_its_uplink_each_way);
	tcase_add_test(t, what_is_read_from_disk_is_charged_to_it_until_all_of_it_is_there);
	tcase_add_test(t, direct_access_is_reserved_on_all_it_passes_and_given_back);
	tcase_add_test(t, no_more_is_reserved_for_direct_access_than_its_share);
	tcase_add_test(t, there_is_a_bound_on_reservations);
	tcase_add_test(t, rates_of_nodes_are_read_with_care);
	suite_add_tcase(s, t);
}

static void ring(Suite *s)
{
	TCase *t = tcase_create("ring");
	tcase_add_checked_fixture(t, setup_without_ring, teardown);
	tcase_add_test(t, without_its_ring_a_link_says_so_and_makes_it_when_it_must);
	suite_add_tcase(s, t);
}

SIM_MAIN("gpu_submit", copies, users, shared, ring)
