/* linkbooks.c - see linkbooks.h. */
#include "tests/sim/linkbooks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ONE ((__int128)NS_PER_S) /* one byte in the balances */

void books_broken(const struct books *b, const char *file, int line, const char *what)
{
	printf("Bail out! %s: %s at %s:%d, step %" PRIu64 ", t=%" PRIu64 ", TRIMS_SEED=%" PRIu64 "\n", b->label, what, file,
		line, b->step, b->sim ? simlinks_now(b->sim) : 0, b->seed);
	fflush(stdout);
	abort();
}

uint64_t books_draw(struct books *b, uint64_t below)
{
	uint64_t z = b->random += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % below;
}

/* ---- what flows are ---- */

static bool is_urgent(enum link_class class)
{
	return class == LINK_TINY || class == LINK_DEMAND;
}

static bool has_piece(const struct book_flow *f)
{
	if (!f->id || f->cancelled)
		return false;
	return f->class == LINK_TINY ? f->picked == 0 && f->given == f->bytes : f->given > f->picked;
}

static bool has_urgent_piece(const struct book_flow *f)
{
	return is_urgent(f->class) && has_piece(f);
}

static uint64_t charge(const struct linksched_hop *hop, uint64_t bytes)
{
	return (bytes * hop->charge + 999) / 1000;
}

/* ---- (1) the bound ---- */

/* f has just become urgent work, or is so under a new name: whoever else waits is not alone any more. */
static void bound_begin(struct books *b, struct book_flow *f)
{
	bool others = false, burst = true;
	for (size_t i = 0; i < BOOKS_FLOWS; i++) {
		struct book_flow *g = &b->flows[i];
		if (g == f)
			continue;
		others |= has_urgent_piece(g);
		burst &= !has_urgent_piece(g) || g->link != f->link;
		g->alone = false;
	}
	if (burst)
		b->urgent_went[f->link] = false;
	f->alone = f->class == LINK_DEMAND && !others && f->picked == f->landed && !(b->user_caps && f->user != LINKSCHED_ANYBODY);
	f->since = simlinks_now(b->sim);
	f->bound_ns = linksched_bound_ns(b->sched, f->link);
}

static void bound_end(struct books *b, struct book_flow *f, uint64_t now)
{
	if (!f->alone)
		return;
	f->alone = false;
	uint64_t bound = MAX(f->bound_ns, linksched_bound_ns(b->sched, f->link)), waited = now - f->since;
	BOOKS_ASSERT(b, waited <= bound + 4); /* whole ns in the model, rounded up at each event */
	b->bounds_checked++;
	b->waits_longest_permille = MAX(b->waits_longest_permille, waited * 1000 / bound);
}

/* ---- (3) tokens ---- */

static void node_catch_up(struct books *b, uint32_t node, uint64_t now, struct linksched_node_view *v)
{
	struct book_node *n = &b->nodes[node];
	linksched_node_view(b->sched, node, v);
	__int128 earned = (__int128)v->given_bytes_per_s * (now - n->at), most = v->burst * ONE;
	n->balance = MIN(n->balance + earned, most);
	n->level = MAX(n->level - earned, 0);
	n->at = now;
}

static void tokens_take(struct books *b, const struct book_flow *f, const struct linksched_pick *p, uint64_t now)
{
	for (uint32_t i = 0; i < f->n_hops; i++) {
		struct linksched_node_view v;
		struct book_node *n = &b->nodes[f->hops[i].node];
		bool overdraws = !n->shared && (is_urgent(p->class) || p->guard);
		__int128 taken = charge(&f->hops[i], p->bytes) * ONE;
		node_catch_up(b, f->hops[i].node, now, &v);
		n->balance -= taken;
		if (overdraws) {
			n->balance = MAX(n->balance, -v.burst * ONE);
			continue;
		}
		n->level += taken;
		BOOKS_ASSERT(b, n->balance >= 0);
		BOOKS_ASSERT(b, n->level <= v.burst * ONE);
		b->token_checks++;
	}
}

/* The scheduler's tokens are neither more nor fewer than were earned. */
static uint64_t tokens_of(struct books *b, uint32_t node, uint64_t now, int64_t *burst)
{
	struct linksched_node_view v;
	node_catch_up(b, node, now, &v);
	__int128 balance = b->nodes[node].balance;
	__int128 whole = balance >= 0 ? balance / ONE : -((-balance + ONE - 1) / ONE);
	BOOKS_ASSERT(b, whole == v.tokens);
	*burst = v.burst;
	return v.tokens > 0 ? (uint64_t)v.tokens : 0;
}

/* ---- (2) work conserving ---- */

static uint64_t piece_of(const struct books *b, const struct book_flow *f)
{
	return f->class == LINK_TINY ? f->bytes : MIN(linksched_chunk_bytes(b->sched, f->link), f->given - f->picked);
}

static bool lacks_tokens(struct books *b, const struct book_flow *f, uint64_t now)
{
	for (uint32_t i = 0; i < f->n_hops; i++) {
		const struct book_node *n = &b->nodes[f->hops[i].node];
		int64_t burst;
		uint64_t tokens = tokens_of(b, f->hops[i].node, now, &burst), needs = charge(&f->hops[i], piece_of(b, f));
		if (is_urgent(f->class) && !n->shared)
			continue;
		if (!is_urgent(f->class) && n->shared)
			needs += (uint64_t)burst / 2;
		if (tokens < needs)
			return true;
	}
	return false;
}

/* Demand work waits on a link that this piece would be charged to. */
static bool is_paused(const struct books *b, const struct book_flow *f)
{
	for (uint32_t i = 1; i < f->n_hops; i++) {
		const struct book_node *n = &b->nodes[f->hops[i].node];
		for (size_t j = 0; !n->shared && j < BOOKS_FLOWS; j++)
			if (has_urgent_piece(&b->flows[j]) && b->flows[j].link == n->link && !b->stalled[n->link] &&
				!is_urgent(f->class))
				return true;
	}
	return false;
}

static void idle_check(struct books *b, uint32_t link, uint64_t until, uint64_t now)
{
	b->stalled[link] = b->in_flight[link] < b->in_flight_limit;
	b->until[link] = until;
	if (b->in_flight[link])
		return;
	for (size_t i = 0; i < BOOKS_FLOWS; i++) {
		struct book_flow *f = &b->flows[i];
		if (f->link != link || !has_piece(f) || (b->user_caps && f->user != LINKSCHED_ANYBODY))
			continue;
		bool tokens = lacks_tokens(b, f, now);
		BOOKS_ASSERT(b, tokens || is_paused(b, f));
		BOOKS_ASSERT(b, is_paused(b, f) || until != LINKSCHED_NEVER);
		b->idles_checked++;
	}
}

/* Nobody sleeps who could go on: a link that was told to wait for an event has had none that concerns it. */
static void sleep_check(struct books *b)
{
	for (size_t i = 0; i < BOOKS_FLOWS; i++) {
		const struct book_flow *f = &b->flows[i];
		if (!has_piece(f) || b->in_flight[f->link] || (b->user_caps && f->user != LINKSCHED_ANYBODY))
			continue;
		BOOKS_ASSERT(b, b->until[f->link] != LINKSCHED_NEVER || is_paused(b, f));
	}
}

/* ---- (4) turns of the guard ---- */

static bool has_shared_node(const struct books *b, uint32_t link)
{
	for (uint32_t i = 0; i < b->n_link_hops[link]; i++)
		if (b->nodes[b->link_hops[link][i].node].shared)
			return true;
	return false;
}

static void guard_check(struct books *b, const struct linksched_pick *p)
{
	bool urgent = false;
	for (size_t i = 0; i < BOOKS_FLOWS; i++)
		urgent |= has_urgent_piece(&b->flows[i]) && b->flows[i].link == p->link;
	if (is_urgent(p->class)) {
		b->urgent_went[p->link] = true;
		return;
	}
	if (!urgent || b->user_caps || has_shared_node(b, p->link)) /* the urgent ones may lack tokens: no turns then */
		return;
	BOOKS_ASSERT(b, p->guard && b->urgent_went[p->link]);
	b->urgent_went[p->link] = false;
	b->guards_checked++;
}

/* ---- (5) bytes, and what is seen ---- */

static void flow_ended(struct books *b, struct book_flow *f, const struct linksched_flow_view *last)
{
	BOOKS_ASSERT(b, last->id == f->id && last->done == f->landed && f->picked == f->landed);
	BOOKS_ASSERT(b, last->done <= f->bytes && (f->cancelled || last->done == f->bytes));
	BOOKS_ASSERT(b, last->cancelled == f->cancelled && last->in_flight == 0);
	f->id = 0;
	b->live--;
	b->flows_ended++;
}

static void picked(struct books *b, struct book_flow *f, const struct linksched_pick *p, uint64_t now)
{
	BOOKS_ASSERT(b, p->bytes > 0 && p->offset == f->picked && p->offset + p->bytes <= f->given && !f->cancelled);
	BOOKS_ASSERT(b, p->class == f->class && p->bytes <= linksched_chunk_bytes(b->sched, f->link));
	BOOKS_ASSERT(b, p->class != LINK_TINY || p->bytes == f->bytes);
	BOOKS_ASSERT(b, ++b->in_flight[p->link] <= b->in_flight_limit);
	b->stalled[p->link] = false;
	guard_check(b, p);
	tokens_take(b, f, p, now);
	f->picked += p->bytes;
	b->served[p->link][p->class] += p->bytes;
	b->pieces++;
}

static void mix(struct books *b, uint64_t value)
{
	b->hash = (b->hash ^ value) * 0x100000001b3u;
	b->hash ^= b->hash >> 29;
}

static void seen(void *arg, enum simlinks_what what, uint64_t now, const struct linksched_pick *p,
	const struct linksched_flow_view *ended)
{
	struct books *b = arg;
	mix(b, now);
	mix(b, (uint64_t)what << 56 ^ p->bytes << 8 ^ p->link);
	mix(b, p->flow);
	if (what == SIMLINKS_IDLE) {
		idle_check(b, p->link, p->sequence, now);
		return;
	}
	struct book_flow *f = &b->flows[p->tag];
	BOOKS_ASSERT(b, f->id == p->flow);
	switch (what) {
	case SIMLINKS_PICKED:
		picked(b, f, p, now);
		break;
	case SIMLINKS_STARTED:
		bound_end(b, f, now);
		break;
	case SIMLINKS_LANDED:
		break;
	case SIMLINKS_REPORTED:
		f->landed += p->bytes;
		b->in_flight[p->link]--;
		if (ended)
			flow_ended(b, f, ended);
		break;
	case SIMLINKS_IDLE:
		break;
	}
}

/* ---- the trace's side ---- */

struct book_flow *books_add(struct books *b, const struct linksched_flow *flow)
{
	size_t i = 0;
	while (i < BOOKS_FLOWS && b->flows[i].id)
		i++;
	if (i == BOOKS_FLOWS)
		return NULL;
	struct book_flow *f = &b->flows[i];
	struct linksched_flow given = *flow;
	given.tag = i;
	given.ready = 0;
	*f = (struct book_flow){.class = flow->class, .link = flow->link, .user = flow->user, .deadline = flow->deadline,
		.bytes = flow->bytes};
	f->hops[f->n_hops++] = (struct linksched_hop){linksched_link_node(b->sched, f->link), 1000};
	for (uint32_t j = 0; j < b->n_link_hops[f->link]; j++)
		f->hops[f->n_hops++] = b->link_hops[f->link][j];
	BOOKS_ASSERT(b, simlinks_add(b->sim, &given, &f->id) == 0);
	b->live++;
	if (flow->ready)
		books_ready(b, f, flow->ready);
	return f;
}

void books_ready(struct books *b, struct book_flow *f, uint64_t bytes)
{
	bool before = has_urgent_piece(f);
	f->given += bytes;
	BOOKS_ASSERT(b, linksched_ready(b->sched, simlinks_now(b->sim), f->id, bytes) == 0);
	if (!before && has_urgent_piece(f))
		bound_begin(b, f);
	simlinks_kick(b->sim);
}

void books_reclass(struct books *b, struct book_flow *f, enum link_class class, uint64_t deadline)
{
	bool same = f->class == class && f->deadline == deadline; /* it keeps its place, and its wait */
	f->alone &= same;
	f->class = class;
	f->deadline = deadline;
	BOOKS_ASSERT(b, linksched_reclass(b->sched, simlinks_now(b->sim), f->id, class, deadline) == 0);
	if (!same && has_urgent_piece(f))
		bound_begin(b, f);
	simlinks_kick(b->sim);
}

void books_charge(struct books *b, struct book_flow *f, uint32_t user)
{
	f->user = user;
	f->alone &= !b->user_caps;
	BOOKS_ASSERT(b, linksched_charge(b->sched, simlinks_now(b->sim), f->id, user) == 0);
	simlinks_kick(b->sim);
}

void books_cancel(struct books *b, struct book_flow *f)
{
	struct linksched_flow_view last;
	f->alone = false;
	f->cancelled = true;
	bool gone = linksched_cancel(b->sched, simlinks_now(b->sim), f->id, &last);
	BOOKS_ASSERT(b, last.id == f->id && last.in_flight == f->picked - f->landed && gone == (last.in_flight == 0));
	if (gone)
		flow_ended(b, f, &last);
	simlinks_kick(b->sim);
}

void books_advance(struct books *b, uint64_t ns)
{
	simlinks_advance(b->sim, ns == LINKSCHED_NEVER ? ns : simlinks_now(b->sim) + ns);
	linksched_verify(b->sched);
	sleep_check(b);
}

/* ---- the machine ---- */

static uint32_t node_of(struct books *b, uint64_t bytes_per_s)
{
	uint32_t node;
	BOOKS_ASSERT(b, linksched_node_add(b->sched, &(struct linksched_node_config){.bytes_per_s = bytes_per_s}, &node) == 0);
	b->nodes[node].shared = true;
	b->n_nodes = node + 1;
	return node;
}

static void link_of(struct books *b, const struct books_machine *m, const uint32_t *up, uint32_t memory)
{
	struct linksched_link_config config = {.calibration = m->calibration, .share = m->share};
	uint32_t link = b->n_links++, way = link & 1, added;
	if (way && m->kappa)
		config.hops[config.n_hops++] = (struct linksched_hop){linksched_link_node(b->sched, link - 1), m->kappa};
	if (m->uplink_bytes_per_s)
		config.hops[config.n_hops++] = (struct linksched_hop){up[way], 1000};
	if (m->memory_bytes_per_s)
		config.hops[config.n_hops++] = (struct linksched_hop){memory, 1000};
	BOOKS_ASSERT(b, linksched_link_add(b->sched, &config, &added) == 0 && added == link);
	memcpy(b->link_hops[link], config.hops, sizeof config.hops);
	b->n_link_hops[link] = config.n_hops;
	uint32_t own = linksched_link_node(b->sched, link);
	b->nodes[own] = (struct book_node){.link = link};
	b->n_nodes = own + 1;
	const struct linksched_calibration *c = &m->calibration;
	b->wires[link] = (struct simlinks_wire){.bytes_per_s = c->bytes_per_s, .overhead_ns = c->overhead_ns,
		.submit_ns = c->submit_ns, .duplex = c->duplex, .peer = link ^ 1,
		.uplink = m->uplink_bytes_per_s ? way : SIMLINKS_NONE, .copy_bytes_per_s = m->copy_bytes_per_s};
}

void books_init(struct books *b, const struct books_machine *m, uint64_t seed, const char *label)
{
	uint64_t both[2] = {m->uplink_bytes_per_s, m->uplink_bytes_per_s};
	uint32_t up[2] = {0, 0}, memory = 0;
	*b = (struct books){.seed = b->seed, .random = seed, .label = label, .n_gpus = m->gpus, .kappa = m->kappa,
		.in_flight_limit = m->config.in_flight ? m->config.in_flight : 2,
		.user_caps = m->config.user_bytes_per_s || m->config.user_share};
	BOOKS_ASSERT(b, linksched_new(&b->sched, &m->config) == 0);
	for (unsigned way = 0; m->uplink_bytes_per_s && way < 2; way++)
		up[way] = node_of(b, m->uplink_bytes_per_s);
	if (m->memory_bytes_per_s)
		memory = node_of(b, m->memory_bytes_per_s);
	for (uint32_t i = 0; i < 2 * m->gpus; i++)
		link_of(b, m, up, memory);
	for (uint32_t i = 0; i < b->n_nodes; i++) {
		struct linksched_node_view v;
		linksched_node_view(b->sched, i, &v);
		b->nodes[i].balance = v.tokens * ONE;
		BOOKS_ASSERT(b, v.tokens > 0);
	}
	simlinks_new(&b->sim, &(struct simlinks_config){.wires = b->wires, .n_wires = b->n_links, .uplinks = both,
		.n_uplinks = 2, .sched = b->sched, .seen = seen, .arg = b});
}

void books_fini(struct books *b)
{
	struct linksched_flow_view v;
	BOOKS_ASSERT(b, b->live == 0 && linksched_flow_view(b->sched, 0, &v) == -ENOENT);
	linksched_verify(b->sched);
	simlinks_free(&b->sim);
	linksched_free(&b->sched);
}
