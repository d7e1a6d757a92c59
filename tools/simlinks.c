/* simlinks.c - see simlinks.h.
 * Invariants: of an engine's pieces at most the first is moving; what moves has a rate, and every change of who moves
 * brings all of them up to date first. */
#include "tools/simlinks.h"

#include "shared/check.h"

#include <stdlib.h>
#include <string.h>

#define NO_TIME LINKSCHED_NEVER

struct item {
	struct linksched_pick pick;
	uint64_t stream, entered_at;
};

struct engine {
	struct simlinks_wire wire;
	struct item *queue;            /* ring of cap, n from head */
	size_t head, n, cap;
	bool moving;
	struct item now;               /* what moves, or is next after its gap; current says whether there is one */
	bool current;
	uint64_t starts_at, ends_at;
	double left, bytes_per_ns;
	uint64_t stream;
	/* the submitter */
	bool submitting, wake;
	uint64_t free_at, ask_at;
	struct item submitted;
	struct linksched_pick landed[LINKSCHED_MAX_IN_FLIGHT + 1];
	uint32_t n_landed;
};

struct simlinks {
	struct engine *engines;
	uint64_t *uplinks;
	uint32_t n, n_uplinks;
	struct linksched *sched;
	uint64_t piece_bytes, now, jobs;
	simlinks_seen_fn seen;
	void *arg;
};

static void tell(struct simlinks *sim, enum simlinks_what what, const struct linksched_pick *pick,
	const struct linksched_flow_view *ended)
{
	if (sim->seen)
		sim->seen(sim->arg, what, sim->now, pick, ended);
}

/* ---- the wire ---- */

static void wire_catch_up(struct simlinks *sim, uint64_t to)
{
	for (uint32_t i = 0; i < sim->n; i++) {
		struct engine *e = &sim->engines[i];
		if (e->moving)
			e->left -= e->bytes_per_ns * (double)(to - sim->now);
	}
	sim->now = to;
}

static double wire_rate(const struct simlinks *sim, const struct engine *e)
{
	double rate = (double)e->wire.bytes_per_s / 1e9;
	uint32_t sharing = 0;
	if (e->wire.peer != SIMLINKS_NONE && sim->engines[e->wire.peer].moving)
		rate = rate * e->wire.duplex / 1000;
	if (e->wire.uplink == SIMLINKS_NONE)
		return rate;
	for (uint32_t i = 0; i < sim->n; i++)
		sharing += sim->engines[i].moving && sim->engines[i].wire.uplink == e->wire.uplink;
	double part = (double)sim->uplinks[e->wire.uplink] / 1e9 / sharing;
	return part < rate ? part : rate;
}

/* After who moves has changed. */
static void wire_set_rates(struct simlinks *sim)
{
	for (uint32_t i = 0; i < sim->n; i++) {
		struct engine *e = &sim->engines[i];
		if (!e->moving)
			continue;
		e->bytes_per_ns = wire_rate(sim, e);
		double ns = e->left > 0 ? e->left / e->bytes_per_ns : 0;
		e->ends_at = sim->now + (uint64_t)ns + ((double)(uint64_t)ns < ns);
	}
}

/* ---- the engine ---- */

static void queue_push(struct engine *e, const struct item *item)
{
	if (e->n == e->cap) {
		size_t cap = e->cap ? 2 * e->cap : 16;
		struct item *queue = malloc(cap * sizeof *queue);
		ASSERT(queue);
		for (size_t i = 0; i < e->n; i++)
			queue[i] = e->queue[(e->head + i) % e->cap];
		free(e->queue);
		e->queue = queue;
		e->head = 0;
		e->cap = cap;
	}
	e->queue[(e->head + e->n++) % e->cap] = *item;
}

/* The stream it is on, else whatever came first. */
static struct item queue_pop(struct engine *e)
{
	size_t i = 0;
	while (i < e->n && e->queue[(e->head + i) % e->cap].stream != e->stream)
		i++;
	if (i == e->n)
		i = 0;
	struct item item = e->queue[(e->head + i) % e->cap];
	for (; i > 0; i--)
		e->queue[(e->head + i) % e->cap] = e->queue[(e->head + i - 1) % e->cap];
	e->head = (e->head + 1) % e->cap;
	e->n--;
	return item;
}

static void engine_next(struct simlinks *sim, struct engine *e)
{
	if (e->current || e->n == 0)
		return;
	e->now = queue_pop(e);
	e->current = true;
	e->stream = e->now.stream;
	e->starts_at = MAX(sim->now, e->now.entered_at + e->wire.overhead_ns);
}

static void engine_take(struct simlinks *sim, struct engine *e, const struct item *item)
{
	queue_push(e, item);
	engine_next(sim, e);
}

static void engine_start(struct simlinks *sim, struct engine *e)
{
	e->moving = true;
	e->left = (double)e->now.pick.bytes;
	tell(sim, SIMLINKS_STARTED, &e->now.pick, NULL);
}

static void engine_end(struct simlinks *sim, struct engine *e)
{
	e->moving = e->current = false;
	tell(sim, SIMLINKS_LANDED, &e->now.pick, NULL);
	if (sim->sched) {
		ASSERT(e->n_landed < ARRAY_LEN(e->landed));
		e->landed[e->n_landed++] = e->now.pick;
		e->wake = true;
	}
	engine_next(sim, e);
}

/* ---- the submitter ---- */

void simlinks_kick(struct simlinks *sim)
{
	if (!sim->sched)
		return;
	uint64_t kicks = linksched_kicks(sim->sched);
	for (uint32_t i = 0; i < sim->n; i++)
		sim->engines[i].wake |= kicks >> i & 1;
}

static void submitter_report(struct simlinks *sim, struct engine *e)
{
	for (uint32_t i = 0; i < e->n_landed; i++) {
		struct linksched_flow_view last;
		bool ended = linksched_done(sim->sched, sim->now, &e->landed[i], &last);
		tell(sim, SIMLINKS_REPORTED, &e->landed[i], ended ? &last : NULL);
	}
	e->n_landed = 0;
}

static void submitter_ask(struct simlinks *sim, struct engine *e)
{
	struct linksched_pick pick;
	uint32_t link = (uint32_t)(e - sim->engines);
	uint64_t until;
	enum linksched_answer answer = linksched_next(sim->sched, sim->now, link, &pick, &until);
	e->ask_at = answer == LINKSCHED_UNTIL ? until : NO_TIME;
	if (answer != LINKSCHED_PICK) {
		tell(sim, SIMLINKS_IDLE, &(struct linksched_pick){.link = link, .sequence = until}, NULL);
		return;
	}
	uint64_t copy_ns = 0;
	if (e->wire.copy_bytes_per_s && pick.flow % 2 && pick.class != LINK_TINY) {
		uint64_t most = linksched_copied_bytes(sim->sched, link, e->wire.copy_bytes_per_s);
		if (pick.bytes > most)
			linksched_trim(sim->sched, sim->now, &pick, most);
		copy_ns = pick.bytes * NS_PER_S / e->wire.copy_bytes_per_s;
	}
	tell(sim, SIMLINKS_PICKED, &pick, NULL);
	e->submitting = true;
	e->free_at = sim->now + copy_ns + e->wire.submit_ns;
	e->submitted = (struct item){.pick = pick, .entered_at = e->free_at};
}

static void submitter_run(struct simlinks *sim, struct engine *e)
{
	if (e->submitting && sim->now >= e->free_at) {
		e->submitting = false;
		e->wake = true;
		engine_take(sim, e, &e->submitted);
	}
	if (e->submitting || (!e->wake && sim->now < e->ask_at))
		return;
	e->wake = false;
	submitter_report(sim, e);
	submitter_ask(sim, e);
	simlinks_kick(sim);
}

/* ---- time ---- */

static uint64_t engine_next_event(const struct simlinks *sim, const struct engine *e)
{
	uint64_t at = e->submitting ? e->free_at : e->wake ? sim->now : e->ask_at;
	if (e->moving)
		return MIN(at, e->ends_at);
	return e->current ? MIN(at, e->starts_at) : at;
}

uint64_t simlinks_next_event(const struct simlinks *sim)
{
	uint64_t at = NO_TIME;
	for (uint32_t i = 0; i < sim->n; i++)
		at = MIN(at, engine_next_event(sim, &sim->engines[i]));
	return at;
}

/* Everything that happens now.  Ends of pieces come first, so that what follows them has no gap. */
static void happen(struct simlinks *sim)
{
	bool changed = false;
	for (uint32_t i = 0; i < sim->n; i++) {
		struct engine *e = &sim->engines[i];
		if (e->moving && sim->now >= e->ends_at) {
			engine_end(sim, e);
			changed = true;
		}
	}
	for (uint32_t i = 0; sim->sched && i < sim->n; i++)
		submitter_run(sim, &sim->engines[i]);
	for (uint32_t i = 0; i < sim->n; i++) {
		struct engine *e = &sim->engines[i];
		if (e->current && !e->moving && sim->now >= e->starts_at) {
			engine_start(sim, e);
			changed = true;
		}
	}
	if (changed)
		wire_set_rates(sim);
}

void simlinks_advance(struct simlinks *sim, uint64_t until)
{
	for (uint64_t at; (at = simlinks_next_event(sim)) <= until && at != NO_TIME;) {
		wire_catch_up(sim, MAX(at, sim->now));
		happen(sim);
	}
	if (until != NO_TIME)
		wire_catch_up(sim, MAX(until, sim->now));
}

/* ---- jobs ---- */

static void queue_job(struct simlinks *sim, const struct linksched_flow *flow, uint64_t id)
{
	struct engine *e = &sim->engines[flow->link];
	uint64_t piece = sim->piece_bytes ? sim->piece_bytes : flow->bytes;
	for (uint64_t at = 0; at < flow->bytes; at += piece) {
		struct item item = {.stream = id, .entered_at = sim->now, .pick = {.flow = id, .tag = flow->tag, .offset = at,
			.bytes = MIN(piece, flow->bytes - at), .link = flow->link, .class = flow->class}};
		engine_take(sim, e, &item);
	}
}

int simlinks_add(struct simlinks *sim, const struct linksched_flow *flow, uint64_t *id)
{
	ASSERT(flow->link < sim->n);
	if (!sim->sched) {
		*id = ++sim->jobs;
		queue_job(sim, flow, *id);
		return 0;
	}
	int r = linksched_add(sim->sched, sim->now, flow, id);
	simlinks_kick(sim);
	return r;
}

void simlinks_new(struct simlinks **out, const struct simlinks_config *config)
{
	struct simlinks *sim = calloc(1, sizeof *sim);
	ASSERT(sim);
	sim->engines = calloc(config->n_wires, sizeof *sim->engines);
	sim->uplinks = calloc(config->n_uplinks + 1, sizeof *sim->uplinks);
	ASSERT(sim->engines && sim->uplinks);
	sim->n = config->n_wires;
	sim->n_uplinks = config->n_uplinks;
	for (uint32_t i = 0; i < sim->n_uplinks; i++)
		sim->uplinks[i] = config->uplinks[i];
	for (uint32_t i = 0; i < sim->n; i++) {
		sim->engines[i].wire = config->wires[i];
		sim->engines[i].ask_at = NO_TIME;
	}
	sim->sched = config->sched;
	sim->piece_bytes = config->piece_bytes;
	sim->seen = config->seen;
	sim->arg = config->arg;
	*out = sim;
}

void simlinks_free(struct simlinks **p)
{
	struct simlinks *sim = *p;
	if (!sim)
		return;
	for (uint32_t i = 0; i < sim->n; i++)
		free(sim->engines[i].queue);
	free(sim->engines);
	free(sim->uplinks);
	free(sim);
	*p = NULL;
}

uint64_t simlinks_now(const struct simlinks *sim)
{
	return sim->now;
}
