/* linksched_pick.c - which piece is next.
 *
 * Order on a link: tiny; a guard piece whose turn it is; demands by due time; then, if no tiny or demand piece could go,
 * the lower classes, demotion before prefetch only for what the guard owes it.  Inside a class a flow that has no tokens is passed over.
 *
 * What a lower piece needs at each node of its path: on a link node no tiny or demand work that could go there, and tokens; on a
 * shared one tokens beyond the reserve.  Where that fails, the guard lets it pass if its class is owed the bytes, a tiny or demand
 * piece went since this burst of them began and since the last guard piece (the node's turn), and no deadline there is at risk. */
#include "cache/linksched_impl.h"

struct choice {
	struct flow *flow;
	uint64_t bytes, until;
	bool guard, over_share, paused;
};

static uint64_t piece_bytes(const struct link *l, const struct flow *f)
{
	if (!flow_is_workable(f))
		return 0;
	if (f->class == LINK_TINY)
		return f->ready;
	uint64_t n = MIN(l->chunk, f->ready);
	if (f->edge_bytes)
		n = MIN(n, f->edge_bytes - f->picked % f->edge_bytes);
	return n;
}

/* ---- admission ---- */

static bool node_is_busy(const struct linksched *s, const struct node *n)
{
	return n->urgent > 0 && !s->links[n->link].stalled;
}

/* The demands under way need all that the guards would leave of it. */
static bool node_at_risk(const struct linksched *s, const struct node *n)
{
	uint64_t all = n->bytes_per_s > n->reserved_bytes_per_s ? n->bytes_per_s - n->reserved_bytes_per_s : 0;
	uint64_t left = mul_div(n->shared ? node_given_bytes_per_s(n) : all, THOUSAND - 2 * s->config.guard_share, THOUSAND);
	return node_floors(s, (uint32_t)(n - s->nodes), s->now) > left;
}

/* When the guard lets it pass a node: now, or when to ask again; NEVER: when something happens. */
static uint64_t guard_when(const struct linksched *s, const struct flow *f, const struct node *n, uint64_t bytes)
{
	const struct link *l = &s->links[f->link];
	const struct guard *g = &l->guards[f->class];
	uint64_t rate = mul_div(l->bytes_per_s, s->config.guard_share, THOUSAND) + 1;
	uint64_t owed = MIN(bytes, guard_quota(s, l));
	if (!n->turn)
		return LINKSCHED_NEVER;
	if (g->credit < owed)
		return s->now + mul_div(owed - g->credit, NS_PER_S, rate) + 1;
	return node_at_risk(s, n) ? s->now + s->config.window_ns / 10 : s->now;
}

/* When a lower piece may pass a node, and whether by the guard. */
static uint64_t lower_when(struct linksched *s, const struct flow *f, uint32_t hop, uint64_t bytes, struct choice *c)
{
	struct node *n = flow_node(s, f, hop);
	int64_t charge = hop_charge(&f->hops[hop], bytes);
	uint64_t when;
	if (!n->shared && node_is_busy(s, n)) {
		when = guard_when(s, f, n, bytes);
		c->paused |= hop > 0 && when > s->now;
		c->guard = true;
		return when;
	}
	when = bucket_when(&n->bucket, s->now, charge + n->reserve);
	if (when == s->now || !n->shared || n->urgent == 0)
		return when;
	uint64_t guarded = MAX(guard_when(s, f, n, bytes), bucket_when(&n->bucket, s->now, charge));
	c->guard |= guarded < when;
	return MIN(guarded, when);
}

static uint64_t urgent_when(struct linksched *s, const struct flow *f, uint32_t hop, uint64_t bytes)
{
	const struct node *n = flow_node(s, f, hop);
	return n->shared ? bucket_when(&n->bucket, s->now, hop_charge(&f->hops[hop], bytes)) : s->now;
}

/* When the user's cap lets it pass; how long it does not is what the flow may say it waited for. */
static uint64_t cap_when(struct linksched *s, struct flow *f, uint64_t bytes)
{
	uint64_t when = s->now;
	if (user_is_capped(s, f->user)) {
		bucket_refill(&f->user->bucket, s->now);
		when = bucket_when(&f->user->bucket, s->now, (int64_t)bytes);
	}
	if (when > s->now) {
		f->capped = true;
		f->capped_since = f->capped_since ? f->capped_since : s->now;
	} else {
		flow_uncap(s, f);
	}
	return when;
}

/* When this piece may go: the latest of what its nodes and its user's cap say. */
static uint64_t flow_when(struct linksched *s, struct flow *f, uint64_t bytes, struct choice *c)
{
	uint64_t when = s->now;
	for (uint32_t i = 0; i < f->n_hops; i++) {
		bucket_refill(&flow_node(s, f, i)->bucket, s->now);
		uint64_t t = class_is_urgent(f->class) ? urgent_when(s, f, i, bytes) : lower_when(s, f, i, bytes, c);
		when = MAX(when, t);
	}
	uint64_t cap = cap_when(s, f, bytes);
	return MAX(when, cap);
}

/* ---- choice ---- */

static bool flow_over_share(const struct linksched *s, const struct flow *f)
{
	uint32_t most = MAX(s->config.in_flight * s->config.user_share / THOUSAND, 1);
	return s->config.user_share && f->user->uid != LINKSCHED_ANYBODY && f->user->in_flight[f->link] >= most;
}

/* A deadline that can no longer be kept must not make others miss theirs: it waits with those that have none. */
static void flow_redate(struct linksched *s, const struct link *l, struct flow *f)
{
	if (f->late || f->deadline == LINKSCHED_NEVER)
		return;
	uint64_t needs = mul_div(f->bytes - f->picked, NS_PER_S, l->bytes_per_s);
	if (s->now + needs <= f->deadline)
		return;
	f->late = true;
	f->due = s->now + s->config.patience_ns + 1;
	s->links[f->link].late++;
}

static bool flow_before(const struct flow *a, const struct flow *b)
{
	if (class_is_urgent(a->class) && a->due != b->due)
		return a->due < b->due;
	if (!class_is_urgent(a->class) && a->virtual_time != b->virtual_time)
		return a->virtual_time < b->virtual_time;
	return a->sequence < b->sequence;
}

/* The first of its class that may go now becomes the choice. */
static bool choose_in(struct linksched *s, struct link *l, enum link_class class, struct choice *best)
{
	list_for_each(it, &l->flows) {
		struct flow *f = list_entry(it, struct flow, node);
		struct choice c = {.flow = f};
		if (f->class != class || (c.bytes = piece_bytes(l, f)) == 0)
			continue;
		if (class == LINK_DEMAND)
			flow_redate(s, l, f);
		uint64_t when = flow_when(s, f, c.bytes, &c);
		best->paused |= c.paused;
		if (when > s->now) {
			best->until = MIN(best->until, when);
			continue;
		}
		c.over_share = flow_over_share(s, f);
		if (best->flow && (c.over_share != best->over_share ? c.over_share : !flow_before(f, best->flow)))
			continue;
		c.until = best->until;
		c.paused = best->paused;
		*best = c;
	}
	return best->flow;
}

/* Tiny or demand work comes so often that one time in ten a second lower piece in flight would be in its way. */
static bool arrival_expected(const struct linksched *s, const struct link *l)
{
	uint64_t full_ns = mul_div(s->config.in_flight * l->chunk, NS_PER_S, l->bytes_per_s);
	return link_recent(s, l) * full_ns > THOUSAND / 10 * s->config.window_ns;
}

static bool is_owed(const struct linksched *s, const struct link *l, enum link_class class)
{
	uint64_t credit = l->guards[class].credit;
	return credit && credit >= MIN(l->chunk, guard_quota(s, l));
}

static bool choose_guarded(struct linksched *s, struct link *l, struct choice *c)
{
	return s->nodes[l->own].turn && (choose_in(s, l, LINK_DEMOTION, c) || choose_in(s, l, LINK_PREFETCH, c));
}

static void choose(struct linksched *s, struct link *l, struct choice *c)
{
	bool was_stalled = l->stalled;
	l->stalled = false;
	if (l->n_urgent) {
		if (choose_in(s, l, LINK_TINY, c) || choose_guarded(s, l, c) || choose_in(s, l, LINK_DEMAND, c))
			return;
		l->stalled = true;
		if (!was_stalled)
			link_kick_neighbours(s, l);
	}
	if (l->n_in_flight && arrival_expected(s, l))
		return;
	if (is_owed(s, l, LINK_DEMOTION) && choose_in(s, l, LINK_DEMOTION, c))
		return;
	if (!choose_in(s, l, LINK_PREFETCH, c))
		choose_in(s, l, LINK_DEMOTION, c);
}

/* ---- submitted, trimmed, done ---- */

/* A tiny or demand piece gives the guard its turn, a guard piece uses it up. */
static void pass_turn(struct linksched *s, const struct flow *f, bool guard)
{
	for (uint32_t i = 0; i < f->n_hops; i++) {
		struct node *n = flow_node(s, f, i);
		if (guard) {
			n->turn = false;
		} else if (class_is_urgent(f->class) && (i == 0 || n->shared) && !n->turn) {
			n->turn = true;
			s->kicks |= n->links & ~((uint64_t)1 << f->link);
		}
	}
}

static void serve_lower(struct link *l, struct flow *f, uint64_t bytes)
{
	struct guard *g = &l->guards[f->class];
	g->credit -= MIN(g->credit, bytes);
	l->virtual_time[f->class] = MAX(l->virtual_time[f->class], f->virtual_time);
	f->virtual_time += bytes / f->weight + 1;
}

static void submit(struct linksched *s, struct link *l, const struct choice *c, struct linksched_pick *pick)
{
	struct flow *f = c->flow;
	*pick = (struct linksched_pick){.flow = f->id, .tag = f->tag, .offset = f->picked, .bytes = c->bytes,
		.sequence = ++l->sequence, .link = f->link, .class = f->class, .guard = c->guard};
	flow_charge(s, f, c->bytes, class_is_urgent(f->class) || c->guard);
	pass_turn(s, f, c->guard);
	f->ready -= c->bytes;
	f->picked += c->bytes;
	f->user->in_flight[f->link]++;
	f->user->pieces++;
	if (!class_is_urgent(f->class))
		serve_lower(l, f, c->bytes);
	l->in_flight[l->n_in_flight++] = (struct piece){.flow = f, .user = f->user, .sequence = pick->sequence, .bytes = c->bytes,
		.class = f->class, .guard = c->guard};
	flow_settle(s, f);
}

enum linksched_answer linksched_next(struct linksched *s, uint64_t now, uint32_t link, struct linksched_pick *pick,
	uint64_t *until)
{
	sched_at(s, now);
	ASSERT(link < s->n_links);
	struct link *l = &s->links[link];
	struct choice c = {.until = LINKSCHED_NEVER};
	*until = LINKSCHED_NEVER;
	if (l->n_in_flight >= s->config.in_flight)
		return LINKSCHED_NOTHING;
	wait_clock(s, l);
	guards_accrue(s, l);
	choose(s, l, &c);
	if (c.flow) {
		submit(s, l, &c, pick);
		return LINKSCHED_PICK;
	}
	l->pauses += c.paused;
	l->token_waits += c.until != LINKSCHED_NEVER;
	*until = c.until;
	return c.until == LINKSCHED_NEVER ? LINKSCHED_NOTHING : LINKSCHED_UNTIL;
}

void linksched_trim(struct linksched *s, uint64_t now, struct linksched_pick *pick, uint64_t bytes)
{
	sched_at(s, now);
	ASSERT(pick->link < s->n_links);
	struct link *l = &s->links[pick->link];
	ASSERT(l->n_in_flight > 0 && pick->sequence == l->sequence && pick->class != LINK_TINY);
	struct piece *p = &l->in_flight[l->n_in_flight - 1];
	struct flow *f = p->flow;
	ASSERT(p->sequence == pick->sequence && bytes > 0 && bytes <= p->bytes);
	uint64_t back = p->bytes - bytes, recent = l->recent, arrived_at = l->arrived_at;
	wait_clock(s, l);
	for (uint32_t i = 0; i < f->n_hops; i++)
		bucket_refill(&flow_node(s, f, i)->bucket, s->now);
	bucket_refill(&p->user->bucket, s->now);
	piece_refund(s, p, back);
	p->bytes = pick->bytes = bytes;
	f->picked -= back;
	f->ready += f->cancelled ? 0 : back;
	if (!class_is_urgent(p->class))
		f->virtual_time -= MIN(back / f->weight, f->virtual_time);
	flow_settle(s, f);
	l->recent = recent; /* not an arrival */
	l->arrived_at = arrived_at;
	link_kick_neighbours(s, l);
}

bool linksched_done(struct linksched *s, uint64_t now, const struct linksched_pick *pick,
	struct linksched_flow_view *last)
{
	sched_at(s, now);
	ASSERT(pick->link < s->n_links);
	struct link *l = &s->links[pick->link];
	struct piece p = l->in_flight[0];
	struct flow *f = p.flow;
	ASSERT(l->n_in_flight > 0 && p.sequence == pick->sequence);
	wait_clock(s, l);
	l->n_in_flight--;
	memmove(&l->in_flight[0], &l->in_flight[1], l->n_in_flight * sizeof(l->in_flight[0]));
	f->done += p.bytes;
	p.user->in_flight[f->link]--;
	p.user->pieces--;
	l->bytes[p.class] += p.bytes;
	l->guard_bytes += p.guard ? p.bytes : 0;
	if (l->largest_chunk > l->chunk)
		sched_retune(s, s->now);
	wait_update(s, f);
	if (l->n_in_flight)
		wait_update(s, l->in_flight[0].flow);
	if (f->picked > f->done || (!f->cancelled && f->done < f->bytes))
		return false;
	flow_fill_view(s, f, last);
	flow_free(s, f);
	return true;
}
