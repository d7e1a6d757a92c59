/* stress.c - see stress.h.
 * Keeps: threads of a call are started anew for each call, as the study does; a cell's demands stop with its load. */
#include "tools/bench/stress.h"

#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MEAN_GAP_NS (2.0 * (double)NS_PER_MS) /* between demands */
#define QUIET_DEMANDS 300                     /* how many make a cell without load, unless its time is up */
#define MIN_DEMANDS 3

/* Memory and streams of one thread of the load, or of the demand. */
struct mover {
	struct stress *all;
	pthread_t thread;
	uint64_t bytes;                /* that this cell moves */
	uint8_t *locked[WAYS], *pageable[WAYS];
	cu_ptr device[WAYS];
	cu_stream usual[WAYS], low[WAYS], high[WAYS];
};

struct stress {
	const struct gpu *g;
	struct jit *jit, *buckets;
	uint32_t max_pressure;
	uint64_t chunk_bytes;
	struct mover load[STRESS_MAX_PRESSURE], demand;
	/* the cell */
	const struct stress_cell *cell;
	struct stress_outcome *out;
	_Atomic bool ended;
	uint64_t began;
	uint64_t demand_bytes; /* moved; the demand's thread */
	uint64_t random;
};

/* ---- one copy, by arm ---- */

static struct jit *jit_of(const struct stress *s)
{
	return s->cell->arm == ARM_JIT ? s->jit : s->cell->arm == ARM_BUCKETS ? s->buckets : NULL;
}

static cu_stream stream_of(const struct mover *m, enum way w, bool demand)
{
	if (m->all->cell->arm != ARM_PRIORITY)
		return m->usual[w];
	return demand ? m->high[w] : m->low[w];
}

static uint8_t *host_of(const struct mover *m, enum way w)
{
	return m->all->cell->pageable ? m->pageable[w] : m->locked[w];
}

/* In pieces where the arm is that, all of them at once. */
static void put_on_stream(const struct mover *m, enum way w, bool demand)
{
	const struct gpu *g = m->all->g;
	uint64_t most = m->all->cell->arm == ARM_QUEUED ? m->all->chunk_bytes : m->bytes;
	cu_stream stream = stream_of(m, w, demand);
	for (uint64_t at = 0; at < m->bytes; at += most) {
		uint64_t n = MIN(most, m->bytes - at);
		if (w == UP)
			GPU_MUST(g, memcpy_htod_async, m->device[w] + at, host_of(m, w) + at, n, stream);
		else
			GPU_MUST(g, memcpy_dtoh_async, host_of(m, w) + at, m->device[w] + at, n, stream);
	}
}

/* ways: a bit each; done when all are. */
static void move(const struct mover *m, unsigned ways, bool demand, struct jit_copy copies[WAYS])
{
	struct jit *j = jit_of(m->all);
	for (int w = 0; w < WAYS; w++) {
		if (!(ways >> w & 1))
			continue;
		copies[w] = (struct jit_copy){.way = (enum way)w, .demand = demand, .pageable = m->all->cell->pageable,
			.device = m->device[w], .host = host_of(m, (enum way)w), .bytes = m->bytes};
		if (j)
			jit_start(j, &copies[w]);
		else
			put_on_stream(m, (enum way)w, demand);
	}
	for (int w = 0; w < WAYS; w++)
		if (ways >> w & 1 && j)
			jit_wait(j, &copies[w]);
		else if (ways >> w & 1)
			GPU_MUST(m->all->g, stream_synchronize, stream_of(m, (enum way)w, demand));
}

/* ---- the load ---- */

static unsigned load_ways(const struct stress *s)
{
	static const unsigned ways[] = {[STRESS_H2D] = 1u << UP, [STRESS_D2H] = 1u << DOWN,
		[STRESS_BOTH] = 1u << UP | 1u << DOWN};
	return ways[s->cell->direction];
}

static void *load_once(void *arg)
{
	struct mover *m = arg;
	struct jit_copy copies[WAYS];
	gpu_enter(m->all->g);
	move(m, load_ways(m->all), false, copies);
	return NULL;
}

static void start(pthread_t *thread, void *(*run)(void *), void *arg)
{
	int e = pthread_create(thread, NULL, run, arg);
	if (e)
		die_errno(e, "pthread_create");
}

static void load_call(struct stress *s)
{
	for (uint32_t i = 0; i < s->cell->pressure; i++)
		start(&s->load[i].thread, load_once, &s->load[i]);
	for (uint32_t i = 0; i < s->cell->pressure; i++)
		pthread_join(s->load[i].thread, NULL);
}

/* ---- the demand ---- */

static void draw_gap(struct stress *s)
{
	s->random ^= s->random >> 12; /* xorshift64* */
	s->random ^= s->random << 25;
	s->random ^= s->random >> 27;
	double u = ((double)(s->random * 0x2545f4914f6cdd1dULL >> 11) + 0.5) * 0x1p-53;
	uint64_t ns = (uint64_t)(-log(u) * MEAN_GAP_NS);
	nanosleep(&(struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)}, NULL);
}

static bool is_in_time(const struct stress *s)
{
	return s->cell->limit_ns == 0 || bench_now_ns() - s->began < s->cell->limit_ns;
}

/* Without load the demands' number ends the cell, or its time. */
static bool wants_demand(const struct stress *s, uint32_t n)
{
	return s->cell->pressure ? !atomic_load(&s->ended) : n < QUIET_DEMANDS && (n < MIN_DEMANDS || is_in_time(s));
}

static void *demand(void *arg)
{
	struct stress *s = arg;
	struct jit_copy copies[WAYS];
	gpu_enter(s->g);
	for (uint32_t n = 0; wants_demand(s, n); n++) {
		draw_gap(s);
		uint64_t asked = bench_now_ns();
		move(&s->demand, 1u << UP, true, copies);
		samples_add(&s->out->latency_us, (double)(bench_now_ns() - asked) / 1e3);
		if (jit_of(s))
			samples_add(&s->out->engine_us, (double)(copies[UP].started_ns - copies[UP].asked_ns) / 1e3);
		s->demand_bytes += STRESS_DEMAND_BYTES;
	}
	return NULL;
}

/* ---- a cell ---- */

static void run_load(struct stress *s)
{
	const struct stress_cell *c = s->cell;
	for (uint32_t i = 0; i < c->pressure; i++)
		s->load[i].bytes = STRESS_BLOCK_BYTES(c->pressure);
	while (c->pressure && s->out->calls < c->calls && (s->out->calls == 0 || is_in_time(s))) {
		load_call(s);
		s->out->calls++;
	}
}

void stress_run(struct stress *s, const struct stress_cell *cell, struct stress_outcome *out)
{
	*out = (struct stress_outcome){0};
	s->cell = cell;
	s->out = out;
	s->demand_bytes = 0;
	s->began = bench_now_ns();
	atomic_store(&s->ended, false);
	start(&s->demand.thread, demand, s);
	run_load(s);
	uint64_t took = bench_now_ns() - s->began;
	atomic_store(&s->ended, true);
	pthread_join(s->demand.thread, NULL);
	if (!cell->pressure)
		took = bench_now_ns() - s->began;
	uint64_t ways = cell->direction == STRESS_BOTH ? 2 : 1;
	double load = (double)(ways * out->calls * cell->pressure * STRESS_BLOCK_BYTES(cell->pressure));
	out->load_gbps = load / (double)took;
	out->all_gbps = (load + (double)s->demand_bytes) / (double)took;
}

void stress_outcome_fini(struct stress_outcome *o)
{
	samples_fini(&o->latency_us);
	samples_fini(&o->engine_us);
}

uint64_t stress_bound_ns(const struct stress *s)
{
	return jit_bound_ns(s->jit);
}

uint64_t stress_chunk_bytes(const struct stress *s)
{
	return s->chunk_bytes;
}

uint64_t stress_device_bytes(uint32_t max_pressure)
{
	return WAYS * (max_pressure * STRESS_BLOCK_BYTES(max_pressure) + STRESS_DEMAND_BYTES);
}

/* ---- life ---- */

static void mover_new(struct stress *s, struct mover *m, uint64_t bytes)
{
	const struct gpu *g = s->g;
	int least, greatest;
	*m = (struct mover){.all = s, .bytes = bytes};
	GPU_MUST(g, ctx_get_stream_priority_range, &least, &greatest);
	for (int w = 0; w < WAYS; w++) {
		m->locked[w] = gpu_host_alloc(g, bytes);
		m->pageable[w] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (m->pageable[w] == MAP_FAILED)
			die_errno(errno, "mmap");
		memset(m->pageable[w], 1, bytes);
		GPU_MUST(g, mem_alloc, &m->device[w], bytes);
		GPU_MUST(g, stream_create, &m->usual[w], CU_STREAM_NO_NULL_SYNC);
		GPU_MUST(g, stream_create_with_priority, &m->low[w], CU_STREAM_NO_NULL_SYNC, least);
		GPU_MUST(g, stream_create_with_priority, &m->high[w], CU_STREAM_NO_NULL_SYNC, greatest);
	}
}

static void mover_free(struct mover *m, uint64_t bytes)
{
	const struct gpu *g = m->all->g;
	for (int w = 0; w < WAYS; w++) {
		GPU_MUST(g, stream_destroy, m->usual[w]);
		GPU_MUST(g, stream_destroy, m->low[w]);
		GPU_MUST(g, stream_destroy, m->high[w]);
		GPU_MUST(g, mem_free, m->device[w]);
		GPU_MUST(g, mem_free_host, m->locked[w]);
		munmap(m->pageable[w], bytes);
	}
}

void stress_new(struct stress **out, const struct gpu *g, const struct link_rates *rates, uint32_t max_pressure)
{
	struct stress *s = calloc(1, sizeof *s);
	ASSERT(s && max_pressure <= STRESS_MAX_PRESSURE);
	s->g = g;
	s->max_pressure = max_pressure;
	s->random = 0x9e3779b97f4a7c15u;
	jit_new(&s->jit, g, rates, false);
	jit_new(&s->buckets, g, rates, true);
	s->chunk_bytes = jit_chunk_bytes(s->jit);
	for (uint32_t i = 0; i < max_pressure; i++)
		mover_new(s, &s->load[i], STRESS_BLOCK_BYTES(max_pressure));
	mover_new(s, &s->demand, STRESS_DEMAND_BYTES);
	*out = s;
}

void stress_free(struct stress **p)
{
	struct stress *s = STEAL(*p);
	jit_free(&s->jit);
	jit_free(&s->buckets);
	for (uint32_t i = 0; i < s->max_pressure; i++)
		mover_free(&s->load[i], STRESS_BLOCK_BYTES(s->max_pressure));
	mover_free(&s->demand, STRESS_DEMAND_BYTES);
	free(s);
}
