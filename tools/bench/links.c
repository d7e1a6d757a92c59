/* links.c - trims-bench links: how long a demand load waits for its copy engine, and what the link moves altogether.
 * In virtual time over a modelled link, so the figures are about the scheduler, not about a machine: demand loads of 8 MiB at
 * 20 a second beside prefetches of 200 MiB that fill 80 % of the link, both at random times, ten runs of 20 s each.
 * Three ways to serve them: whole jobs in the order they come; cut into chunks but all queued at once; the scheduler. */
#include "shared/check.h"
#include "tools/bench/bench.h"
#include "tools/simlinks.h"

#include <math.h>
#include <stdlib.h>

#define RUNS 10
#define RUN_NS (20 * NS_PER_S)
#define DEMAND_BYTES (8 * MIB)
#define DEMANDS_PER_S 20.0
#define PREFETCH_BYTES (200 * MIB)
#define PREFETCH_LOAD 0.8

enum way { FIFO, QUEUED, SCHEDULER, WAYS };
static const char *const way_names[] = {"fifo", "queued", "scheduler"};

struct run {
	struct samples *waits_us;
	uint64_t random, moved;
};

struct outcome {
	struct samples waits_us;
	double gbps, bound_us, alone_max_us;
};

static void see(void *arg, enum simlinks_what what, uint64_t now, const struct linksched_pick *pick,
	const struct linksched_flow_view *ended)
{
	struct run *r = arg;
	if (what == SIMLINKS_STARTED && pick->class == LINK_DEMAND && pick->offset == 0)
		samples_add(r->waits_us, (double)(now - pick->tag) / 1e3); /* the tag is when it came */
	if (what == SIMLINKS_LANDED && now <= RUN_NS)
		r->moved += pick->bytes;
}

/* Until the next of events that come `per_s` times a second, independently. */
static uint64_t draw_gap(struct run *r, double per_s)
{
	uint64_t z = r->random += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	double u = ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
	return (uint64_t)(-log(u) / per_s * 1e9);
}

static void arrive(struct simlinks *sim, uint64_t at, enum link_class class, uint64_t bytes)
{
	const struct linksched_flow flow = {.class = class, .user = LINKSCHED_ANYBODY, .bytes = bytes, .ready = bytes,
		.deadline = LINKSCHED_NEVER, .tag = at};
	uint64_t id;
	simlinks_advance(sim, at);
	int r = simlinks_add(sim, &flow, &id);
	ASSERT(r == 0);
}

static void drive(struct run *r, struct simlinks *sim, uint64_t bytes_per_s)
{
	double prefetches_per_s = PREFETCH_LOAD * (double)bytes_per_s / PREFETCH_BYTES;
	uint64_t demand = draw_gap(r, DEMANDS_PER_S), prefetch = draw_gap(r, prefetches_per_s);
	while (MIN(demand, prefetch) < RUN_NS)
		if (demand <= prefetch) {
			arrive(sim, demand, LINK_DEMAND, DEMAND_BYTES);
			demand += draw_gap(r, DEMANDS_PER_S);
		} else {
			arrive(sim, prefetch, LINK_PREFETCH, PREFETCH_BYTES);
			prefetch += draw_gap(r, prefetches_per_s);
		}
	simlinks_advance(sim, LINKSCHED_NEVER);
}

/* Adds a run's waits to the outcome; the bytes it moved in time. */
static uint64_t run(uint64_t bytes_per_s, enum way way, uint64_t seed, struct outcome *out)
{
	const struct linksched_link_config link = {.calibration = {bytes_per_s, 710, 6 * NS_PER_US, 10 * NS_PER_US}};
	const struct simlinks_wire wire = {.bytes_per_s = bytes_per_s, .overhead_ns = 6 * NS_PER_US,
		.submit_ns = 10 * NS_PER_US, .duplex = 710, .peer = SIMLINKS_NONE, .uplink = SIMLINKS_NONE};
	struct run r = {.waits_us = &out->waits_us, .random = seed};
	struct linksched *sched;
	struct linksched_link_view view;
	struct simlinks *sim;
	uint32_t index;
	int failed = linksched_new(&sched, &(struct linksched_config){.max_flows = 100000});
	failed |= linksched_link_add(sched, &link, &index);
	ASSERT(!failed);
	simlinks_new(&sim, &(struct simlinks_config){.wires = &wire, .n_wires = 1, .seen = see, .arg = &r,
		.sched = way == SCHEDULER ? sched : NULL, .piece_bytes = way == QUEUED ? linksched_chunk_bytes(sched, index) : 0});
	drive(&r, sim, bytes_per_s);
	linksched_link_view(sched, index, &view);
	out->bound_us = (double)view.bound_ns / 1e3;
	out->alone_max_us = MAX(out->alone_max_us, (double)view.alone_wait_max_ns / 1e3);
	simlinks_free(&sim);
	linksched_free(&sched);
	return r.moved;
}

static void run_all(uint64_t bytes_per_s, enum way way, struct outcome *out)
{
	uint64_t moved = 0;
	for (uint64_t seed = 1; seed <= RUNS; seed++)
		moved += run(bytes_per_s, way, seed, out);
	out->gbps = (double)moved / (double)(RUNS * RUN_NS);
}

static json_t *way_json(struct outcome *o)
{
	json_t *j = json_pack("{s:f,s:f,s:f,s:f}", "p50_us", samples_quantile(&o->waits_us, 0.5), "p99_us",
		samples_quantile(&o->waits_us, 0.99), "max_us", samples_quantile(&o->waits_us, 1), "gbps", o->gbps);
	ASSERT(j);
	return j;
}

static json_t *link_json(uint64_t bytes_per_s)
{
	struct outcome out[WAYS] = {0};
	json_t *j = json_object();
	for (unsigned way = 0; way < WAYS; way++) {
		run_all(bytes_per_s, (enum way)way, &out[way]);
		json_object_set_new(j, way_names[way], way_json(&out[way]));
	}
	struct outcome *ours = &out[SCHEDULER];
	double p99_us = samples_quantile(&ours->waits_us, 0.99);
	json_object_set_new(j, "bound_us", json_real(ours->bound_us));
	json_object_set_new(j, "p99_of_bound", json_real(p99_us / ours->bound_us));
	json_object_set_new(j, "alone_max_of_bound", json_real(ours->alone_max_us / ours->bound_us));
	json_object_set_new(j, "p99_below_fifo", json_real(samples_quantile(&out[FIFO].waits_us, 0.99) / p99_us));
	json_object_set_new(j, "throughput", json_real(ours->gbps / out[FIFO].gbps));
	for (unsigned way = 0; way < WAYS; way++)
		samples_fini(&out[way].waits_us);
	return j;
}

json_t *bench_links(const struct bench_options *o)
{
	json_t *result = json_object();
	json_object_set_new(result, "note", json_string("virtual time, modelled link; nothing here was measured"));
	json_object_set_new(result, "gen4", link_json(26000000000));
	json_object_set_new(result, "gen5", link_json(55000000000));
	return result;
}
