/* sim_links.c - the link scheduler's promises on random traces, in virtual time.
 *
 *   sim_links [--steps N] [--seed S]     SIM_STEPS and TRIMS_SEED do the same
 * A step is a piece that moves.  Machines with one to three GPUs, both directions of each, with or without a shared uplink and
 * a memory node; flows of all classes come, become ready in parts, are promoted, demoted and cancelled.  linkbooks.c
 * judges every event.  Each episode runs twice and must do exactly the same.  Four have traces of their own: single demands at the worst moments, the guard
 * under lasting demand, evictions that a demand waits for, and FIFO, which must show the inversion that all this is against. */
#include "tests/sim/linkbooks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EPISODE_STEPS 400

struct totals {
	uint64_t steps, pieces, bounds, idles, tokens, guards, ended, longest_permille;
};

static void add_up(struct totals *t, const struct books *b)
{
	t->steps += b->step;
	t->pieces += b->pieces;
	t->bounds += b->bounds_checked;
	t->idles += b->idles_checked;
	t->tokens += b->token_checks;
	t->guards += b->guards_checked;
	t->ended += b->flows_ended;
	t->longest_permille = MAX(t->longest_permille, b->waits_longest_permille);
}

/* ---- random machines and traces ---- */

static struct books_machine random_machine(struct books *draw)
{
	static const uint64_t rates[] = {12000000000, 26000000000, 55000000000};
	static const uint32_t duplexes[] = {1000, 710, 430}, kappas[] = {0, 300, 600};
	struct books_machine m = {.gpus = 1 + (uint32_t)books_draw(draw, BOOKS_GPUS), .kappa = kappas[books_draw(draw, 3)]};
	uint64_t rate = rates[books_draw(draw, 3)];
	m.calibration = (struct linksched_calibration){.bytes_per_s = rate, .duplex = duplexes[books_draw(draw, 3)],
		.overhead_ns = books_draw(draw, 8000), .submit_ns = 2000 + books_draw(draw, 10000)};
	m.config.in_flight = 1 + (uint32_t)books_draw(draw, 3);
	m.config.target_ns = (100 + books_draw(draw, 900)) * NS_PER_US;
	m.share = books_draw(draw, 2) ? 900 : 1000;
	if (books_draw(draw, 2))
		m.uplink_bytes_per_s = rate * (2 + books_draw(draw, 3)) / 2;
	if (books_draw(draw, 2))
		m.memory_bytes_per_s = 100000000000;
	if (books_draw(draw, 4) == 0)
		m.config.user_bytes_per_s = rate / 4;
	if (books_draw(draw, 4) == 0)
		m.config.user_share = 500;
	return m;
}

static void random_add(struct books *b, uint64_t sparse)
{
	struct linksched_flow flow = {.user = LINKSCHED_ANYBODY, .deadline = LINKSCHED_NEVER,
		.weight = (uint32_t)books_draw(b, 4)};
	uint32_t gpu = (uint32_t)books_draw(b, b->n_gpus);
	uint64_t roll = books_draw(b, 100);
	if (roll < 10 / sparse) {
		flow.class = LINK_TINY;
		flow.bytes = 1 + books_draw(b, LINKSCHED_TINY_BYTES);
	} else if (roll < 40 / sparse) {
		flow.class = LINK_DEMAND;
		flow.bytes = 1 + books_draw(b, 32 * MIB);
		if (books_draw(b, 2))
			flow.deadline = simlinks_now(b->sim) + books_draw(b, 50 * NS_PER_MS);
	} else {
		flow.class = roll < 75 ? LINK_PREFETCH : LINK_DEMOTION;
		flow.bytes = 1 + books_draw(b, 200 * MIB);
	}
	flow.link = 2 * gpu + (flow.class == LINK_DEMOTION || books_draw(b, 16) == 0);
	flow.user = books_draw(b, 3) ? LINKSCHED_ANYBODY : 1000 + (uint32_t)books_draw(b, 3);
	flow.ready = books_draw(b, 3) ? flow.bytes : books_draw(b, flow.bytes + 1);
	books_add(b, &flow);
}

static struct book_flow *random_flow(struct books *b)
{
	for (int tries = 0; tries < 20; tries++) {
		struct book_flow *f = &b->flows[books_draw(b, BOOKS_FLOWS)];
		if (f->id && !f->cancelled)
			return f;
	}
	return NULL;
}

static void random_change(struct books *b)
{
	struct book_flow *f = random_flow(b);
	uint64_t roll = books_draw(b, 100);
	if (!f)
		return;
	uint64_t missing = f->bytes - f->given;
	if (roll < 60 && missing)
		books_ready(b, f, books_draw(b, 3) ? missing : books_draw(b, missing + 1));
	else if (roll < 75 && f->class != LINK_TINY)
		books_reclass(b, f, LINK_DEMAND, books_draw(b, 2) ? LINKSCHED_NEVER : simlinks_now(b->sim) + NS_PER_MS);
	else if (roll < 85 && f->class != LINK_TINY)
		books_reclass(b, f, books_draw(b, 2) ? LINK_PREFETCH : LINK_DEMOTION, LINKSCHED_NEVER);
	else if (roll >= 90)
		books_charge(b, f, books_draw(b, 3) ? LINKSCHED_ANYBODY : 1000 + (uint32_t)books_draw(b, 3));
	else if (roll >= 85)
		books_cancel(b, f);
}

static void random_step(struct books *b, uint64_t sparse)
{
	uint64_t roll = books_draw(b, 100);
	b->step++;
	if (roll < 30)
		random_add(b, sparse);
	else if (roll < 50)
		random_change(b);
	else
		books_advance(b, books_draw(b, (uint64_t)1000 << books_draw(b, 14))); /* up to 16 ms, mostly less */
	linksched_verify(b->sched);
}

/* All bytes come, time passes, everything ends. */
static void quiet(struct books *b)
{
	for (size_t i = 0; i < BOOKS_FLOWS; i++) {
		struct book_flow *f = &b->flows[i];
		if (f->id && !f->cancelled && f->given < f->bytes)
			books_ready(b, f, f->bytes - f->given);
	}
	books_advance(b, LINKSCHED_NEVER);
}

/* Returns what the episode looked like, as a number. */
static uint64_t episode(struct books *b, uint64_t seed, uint64_t steps)
{
	struct books draw = {.random = seed};
	struct books_machine m = random_machine(&draw);
	uint64_t sparse = books_draw(&draw, 3) ? 10 : 1;
	books_init(b, &m, seed ^ 0x5eed, "random trace");
	for (uint64_t i = 0; i < steps; i++)
		random_step(b, sparse);
	quiet(b);
	books_fini(b);
	return b->hash;
}

static void random_traces(struct books *b, uint64_t steps, struct totals *t)
{
	for (uint64_t i = 0; t->pieces < steps; i++) {
		uint64_t first = episode(b, b->seed * 1000003 + i, EPISODE_STEPS);
		add_up(t, b);
		uint64_t second = episode(b, b->seed * 1000003 + i, EPISODE_STEPS);
		BOOKS_ASSERT(b, first == second);
	}
}

/* ---- the bound, at the worst moments ---- */

/* Both lower classes always waiting, and single demands that come right when something happens: that is where a wait is longest. */
static void bound_episode(struct books *b, uint64_t seed)
{
	struct books draw = {.random = seed};
	struct books_machine m = random_machine(&draw);
	m.config.user_bytes_per_s = 0;
	static const uint64_t copies_at[] = {0, 1000000000, 6000000000, 14000000000, 60000000000};
	if (m.config.in_flight > 1)
		m.copy_bytes_per_s = copies_at[books_draw(&draw, 5)];
	books_init(b, &m, seed, "bound");
	for (uint32_t i = 0; i < b->n_links; i++)
		books_add(b, &(struct linksched_flow){.class = i & 1 ? LINK_DEMOTION : LINK_PREFETCH, .link = i, .bytes = 900 * GIB,
			.ready = 900 * GIB, .user = LINKSCHED_ANYBODY, .deadline = LINKSCHED_NEVER});
	for (unsigned i = 0; i < 50; i++) {
		b->step++;
		books_advance(b, books_draw(b, 5 * NS_PER_MS));
		books_advance(b, simlinks_next_event(b->sim) - simlinks_now(b->sim) + books_draw(b, 2));
		struct book_flow *f = books_add(b, &(struct linksched_flow){.class = LINK_DEMAND, .bytes = 4 * MIB, .ready = 4 * MIB,
			.link = (uint32_t)books_draw(b, b->n_links), .user = LINKSCHED_ANYBODY, .deadline = LINKSCHED_NEVER});
		while (f->id)
			books_advance(b, NS_PER_MS);
	}
	for (size_t i = 0; i < BOOKS_FLOWS; i++)
		if (b->flows[i].id)
			books_cancel(b, &b->flows[i]);
	quiet(b);
	books_fini(b);
}

/* ---- the guard ---- */

enum guard_trace {
	LASTING,   /* demand that never ends */
	PAUSING,   /* now and then it does, so that it comes alone again and the bound is judged */
	ONE_WAY,   /* all three classes on one link */
	NO_DEMAND, /* prefetch and demotion on one link */
	GUARD_TRACES
};

/* In every window each waiting class gets its share. */
static void guard_episode(struct books *b, uint64_t seed, enum guard_trace trace, uint64_t *windows)
{
	static const enum link_class classes[] = {LINK_PREFETCH, LINK_DEMOTION, LINK_DEMAND};
	struct books draw = {.random = seed};
	struct books_machine m = random_machine(&draw);
	uint32_t way = trace == LASTING || trace == PAUSING;
	m.gpus = 1;
	m.config.user_bytes_per_s = m.uplink_bytes_per_s = m.memory_bytes_per_s = m.config.user_share = 0;
	books_init(b, &m, seed, "guard");
	struct book_flow *f[3];
	for (unsigned i = 0; i < 3 - (trace == NO_DEMAND); i++)
		f[i] = books_add(b, &(struct linksched_flow){.class = classes[i], .link = i == 1 ? way : 0, .bytes = 900 * GIB,
			.ready = 900 * GIB, .user = LINKSCHED_ANYBODY, .deadline = LINKSCHED_NEVER});
	uint64_t least = m.calibration.bytes_per_s / 10 / 20 - BOOKS_CHUNKS_OF_SLACK * linksched_chunk_bytes(b->sched, 0);
	for (unsigned i = 0; i < 10; i++) {
		uint64_t prefetch = b->served[0][LINK_PREFETCH], demotion = b->served[way][LINK_DEMOTION];
		books_advance(b, 100 * NS_PER_MS);
		BOOKS_ASSERT(b, b->served[0][LINK_PREFETCH] - prefetch >= least);
		BOOKS_ASSERT(b, b->served[way][LINK_DEMOTION] - demotion >= least);
		++*windows;
		if (trace == PAUSING) {
			books_reclass(b, f[2], LINK_PREFETCH, LINKSCHED_NEVER);
			books_advance(b, books_draw(b, 10 * NS_PER_MS));
			books_reclass(b, f[2], LINK_DEMAND, LINKSCHED_NEVER);
		}
	}
	for (unsigned i = 0; i < 3 - (trace == NO_DEMAND); i++)
		books_cancel(b, f[i]);
	quiet(b);
	books_fini(b);
}

/* ---- demands that wait for evictions ---- */

struct room {
	uint64_t free, waiting;      /* bytes; of the demand that waits */
	struct book_flow *demand, *demotion;
	uint64_t evicting, since;
};

/* A demand larger than what is free: something has to be copied out first, and inherits its class and deadline. */
static void room_ask(struct books *b, struct room *r)
{
	struct linksched_flow out = {.class = LINK_DEMOTION, .link = 1, .user = LINKSCHED_ANYBODY,
		.bytes = 1 + books_draw(b, 64 * MIB), .deadline = LINKSCHED_NEVER};
	out.ready = out.bytes;
	r->evicting = r->waiting = out.bytes;
	r->since = simlinks_now(b->sim);
	r->demotion = books_add(b, &out);
	books_advance(b, books_draw(b, NS_PER_MS));
	if (r->demotion->id)
		books_reclass(b, r->demotion, LINK_DEMAND, simlinks_now(b->sim) + NS_PER_S);
}

/* The way back belongs to it alone; what may hold it up is one piece and the other direction's traffic. */
static void room_wait(struct books *b, struct room *r)
{
	uint64_t worst = linksched_worst_bytes_per_s(b->sched, 1), bound = linksched_bound_ns(b->sched, 1);
	uint64_t chunks = r->evicting / linksched_chunk_bytes(b->sched, 1) + 1;
	uint64_t limit = NS_PER_MS + r->evicting * 1000 / (worst / 1000000) + chunks * 30 * NS_PER_US + 2 * bound;
	while (r->demotion->id) {
		books_advance(b, 50 * NS_PER_US);
		BOOKS_ASSERT(b, simlinks_now(b->sim) - r->since <= limit);
	}
	struct linksched_flow in = {.class = LINK_DEMAND, .link = 0, .user = LINKSCHED_ANYBODY, .bytes = r->waiting,
		.ready = r->waiting, .deadline = simlinks_now(b->sim) + 20 * NS_PER_MS};
	r->demand = books_add(b, &in);
	while (r->demand->id) {
		books_advance(b, NS_PER_MS);
		BOOKS_ASSERT(b, simlinks_now(b->sim) - r->since <= limit + 11 * NS_PER_S);
	}
}

/* Beside demands that never stop: without inheritance the eviction would have the guard's crumbs. */
static void eviction_episode(struct books *b, uint64_t seed, uint64_t *evictions)
{
	struct books draw = {.random = seed};
	struct books_machine m = random_machine(&draw);
	struct linksched_flow endless = {.class = LINK_DEMAND, .link = 0, .user = LINKSCHED_ANYBODY, .bytes = 900 * GIB,
		.ready = 900 * GIB, .deadline = LINKSCHED_NEVER};
	m.gpus = 1;
	m.config.user_bytes_per_s = m.uplink_bytes_per_s = m.memory_bytes_per_s = m.config.user_share = 0;
	books_init(b, &m, seed, "evictions");
	struct book_flow *hog = books_add(b, &endless);
	for (unsigned i = 0; i < 20; i++) {
		struct room r = {0};
		b->step++;
		room_ask(b, &r);
		room_wait(b, &r);
		++*evictions;
	}
	books_cancel(b, hog);
	quiet(b);
	books_fini(b);
}

/* ---- FIFO ---- */

static uint64_t small_started;

static void see_small(void *arg, enum simlinks_what what, uint64_t now, const struct linksched_pick *pick,
	const struct linksched_flow_view *ended)
{
	if (what == SIMLINKS_STARTED && pick->bytes == 51000)
		small_started = now;
}

/* 51 kB that come right behind 200 MB; how long until they move. */
static uint64_t behind_200_mb(uint64_t bytes_per_s, bool scheduler)
{
	const struct linksched_link_config link = {.calibration = {bytes_per_s, 710, 6000, 10000}};
	const struct simlinks_wire wire = {bytes_per_s, 6000, 10000, 710, SIMLINKS_NONE, SIMLINKS_NONE};
	struct linksched_flow big = {.class = LINK_PREFETCH, .user = LINKSCHED_ANYBODY, .bytes = 200000000, .ready = 200000000,
		.deadline = LINKSCHED_NEVER}, small = big;
	struct linksched *sched;
	struct simlinks *sim;
	uint64_t id;
	uint32_t index;
	linksched_new(&sched, &(struct linksched_config){0});
	linksched_link_add(sched, &link, &index);
	simlinks_new(&sim, &(struct simlinks_config){.wires = &wire, .n_wires = 1, .sched = scheduler ? sched : NULL,
		.seen = see_small});
	simlinks_add(sim, &big, &id);
	simlinks_advance(sim, 100000);
	small.class = LINK_DEMAND;
	small.bytes = small.ready = 51000;
	simlinks_add(sim, &small, &id);
	simlinks_advance(sim, LINKSCHED_NEVER);
	uint64_t waited = small_started - 100000, bound = linksched_bound_ns(sched, index);
	simlinks_free(&sim);
	linksched_free(&sched);
	return scheduler && waited > bound ? UINT64_MAX : waited;
}

static void fifo_inverts(const struct books *b, uint64_t out[4])
{
	out[0] = behind_200_mb(18500000000, false); /* Gen4 with the other direction busy */
	out[1] = behind_200_mb(24000000000, false);
	out[2] = behind_200_mb(18500000000, true);
	out[3] = behind_200_mb(24000000000, true);
	for (unsigned i = 0; i < 2; i++) {
		BOOKS_ASSERT(b, out[i] >= 8 * NS_PER_MS && out[i] <= 12 * NS_PER_MS);
		BOOKS_ASSERT(b, out[2 + i] != UINT64_MAX);
	}
}

/* ---- main ---- */

static uint64_t number(const char *text, uint64_t otherwise)
{
	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void run_random(struct books *b, uint64_t steps, struct totals *t)
{
	random_traces(b, steps, t);
	printf("# %" PRIu64 " pieces for %" PRIu64 " events, each episode twice\n", t->pieces, t->steps);
	printf("ok 1 - the same trace gives the same schedule\n");
	printf("ok 2 - a link idles, and sleeps, only for tokens or a pause: %" PRIu64 " flows on idle links\n", t->idles);
	printf("ok 3 - no node passes more than burst + rate x time: %" PRIu64 " takes\n", t->tokens);
	printf("ok 4 - bytes are exact through cancel, promote and demote: %" PRIu64 " flows\n", t->ended);
}

static void run_traces_of_their_own(struct books *b, uint64_t rounds, struct totals *t)
{
	uint64_t windows = 0, evictions = 0, fifo[4];
	for (uint64_t i = 0; i < rounds; i++) {
		bound_episode(b, b->seed + i);
		add_up(t, b);
		guard_episode(b, b->seed + i, (enum guard_trace)(i % GUARD_TRACES), &windows);
		add_up(t, b);
		eviction_episode(b, b->seed + i, &evictions);
		add_up(t, b);
	}
	/* What was never put to the test is not proven; nor is a bound that is far from what happens. */
	BOOKS_ASSERT(b, t->bounds > 1000 && t->idles > 1000 && t->tokens > 1000 && t->guards > 100 && t->ended > 1000);
	BOOKS_ASSERT(b, t->longest_permille > 950);
	printf("ok 5 - a demand that finds no other waits at most B: %" PRIu64 " waits, the longest %.3f B\n", t->bounds,
		(double)t->longest_permille / 1000);
	printf("ok 6 - the guard's share arrives, piece by turn: %" PRIu64 " windows, %" PRIu64 " turns\n", windows, t->guards);
	printf("ok 7 - demands that wait for an eviction get there: %" PRIu64 " evictions\n", evictions);
	fifo_inverts(b, fifo);
	printf("ok 8 - FIFO inverts: 51 kB behind 200 MB wait %.1f and %.1f ms, with the scheduler %.3f and %.3f (modelled)\n",
		(double)fifo[0] / 1e6, (double)fifo[1] / 1e6, (double)fifo[2] / 1e6, (double)fifo[3] / 1e6);
}

int main(int argc, char **argv)
{
	static struct books b;
	struct totals t = {0};
	uint64_t steps = number(getenv("SIM_STEPS"), 400000);
	b.seed = number(getenv("TRIMS_SEED"), 0);
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--steps") == 0)
			steps = number(argv[i + 1], steps);
		else if (strcmp(argv[i], "--seed") == 0)
			b.seed = number(argv[i + 1], 0);
	}
	if (b.seed == 0)
		b.seed = (uint64_t)time(NULL);
	printf("# TRIMS_SEED=%" PRIu64 "\n1..8\n", b.seed);
	fflush(stdout);
	run_random(&b, steps, &t);
	run_traces_of_their_own(&b, 50 + steps / 20000, &t);
	return 0;
}
