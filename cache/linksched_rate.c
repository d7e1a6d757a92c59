/* linksched_rate.c - the arithmetic: chunk and bound, token buckets, floors, and what follows when a rate changes.
 *
 * Invariants: a bucket's takes in any window are at most burst + rate * window, exactly (fractions of a token are carried);
 * a shared node never goes below zero; a reserve holds what all links over the node can have in flight, so tiny and
 * demand pieces find tokens unless the node is slower than the links over it together. */
#include "cache/linksched_impl.h"

/* ---- buckets ---- */

void bucket_refill(struct bucket *b, uint64_t now)
{
	if (now <= b->at)
		return;
	unsigned __int128 earned = (unsigned __int128)(now - b->at) * b->bytes_per_s + b->rest;
	uint64_t missing = (uint64_t)(b->burst - b->balance);
	b->at = now;
	if (earned / NS_PER_S >= missing) {
		b->balance = b->burst;
		b->rest = 0;
		return;
	}
	b->balance += (int64_t)(earned / NS_PER_S);
	b->rest = (uint64_t)(earned % NS_PER_S);
}

void bucket_set(struct bucket *b, uint64_t bytes_per_s, int64_t burst)
{
	bool fresh = b->burst == 0;
	b->bytes_per_s = MAX(bytes_per_s, 1);
	b->burst = burst;
	if (fresh || b->balance >= burst) {
		b->balance = burst;
		b->rest = 0;
	}
}

uint64_t bucket_when(const struct bucket *b, uint64_t now, int64_t need)
{
	ASSERT(b->at == now);
	if (need <= b->balance)
		return now;
	if (need > b->burst)
		return LINKSCHED_NEVER;
	unsigned __int128 missing = (unsigned __int128)(uint64_t)(need - b->balance) * NS_PER_S - b->rest;
	unsigned __int128 wait = (missing + b->bytes_per_s - 1) / b->bytes_per_s;
	return wait >= LINKSCHED_NEVER - now ? LINKSCHED_NEVER : now + (uint64_t)wait;
}

/* ---- chunk and bound ---- */

/* The engine must not run dry: alone a chunk has to hide 1/20 of itself in overhead, behind another one submission. */
static uint64_t chunk_least(const struct linksched_calibration *c, uint32_t in_flight)
{
	if (in_flight > 1)
		return mul_div(c->submit_ns, c->bytes_per_s, NS_PER_S);
	return mul_div(c->overhead_ns * 19, c->bytes_per_s, NS_PER_S);
}

uint64_t linksched_chunk(const struct linksched_calibration *c, uint64_t worst_bytes_per_s, uint32_t in_flight,
	uint64_t target_ns, bool *costs_bandwidth)
{
	uint64_t costs = 2 * c->submit_ns + c->overhead_ns;
	uint64_t most = target_ns > costs ? mul_div(target_ns - costs, worst_bytes_per_s, NS_PER_S) / in_flight : 0;
	uint64_t chunk = LINKSCHED_CHUNK_MIN;
	while (chunk < LINKSCHED_CHUNK_MAX && 2 * chunk <= most)
		chunk *= 2;
	*costs_bandwidth = chunk < chunk_least(c, in_flight) || chunk > most;
	return chunk;
}

static uint32_t node_links(const struct node *n)
{
	return (uint32_t)__builtin_popcountll(n->links);
}

static uint64_t less(uint64_t rate, uint64_t reserved)
{
	return rate > reserved + rate / 100 ? rate - reserved : rate / 100 + 1;
}

/* A shared node that is busy gives each link over it its part. */
static uint64_t link_worst(const struct linksched *s, const struct link *l)
{
	const struct node *own = &s->nodes[l->own];
	uint64_t worst = less(MIN(l->bytes_per_s, l->duplex_bytes_per_s), own->reserved_bytes_per_s);
	for (uint32_t i = 0; i < l->n_hops; i++) {
		const struct node *n = &s->nodes[l->hops[i].node];
		if (n->shared)
			worst = MIN(worst, less(n->bytes_per_s, n->reserved_bytes_per_s) / node_links(n) + 1);
	}
	return worst;
}

/* A node slower than its links together can be out of tokens when a demand comes: one chunk is then earned first. */
static bool node_is_narrow(const struct linksched *s, const struct node *n)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < s->n_links; i++)
		if (n->links >> i & 1)
			sum += s->links[i].bytes_per_s;
	return node_given_bytes_per_s(n) < sum;
}

uint64_t linksched_bound_ns(const struct linksched *s, uint32_t link)
{
	ASSERT(link < s->n_links);
	const struct link *l = &s->links[link];
	const struct linksched_calibration *c = &l->calibration;
	uint64_t tokens_ns = 0;
	for (uint32_t i = 0; i < l->n_hops; i++) {
		const struct node *n = &s->nodes[l->hops[i].node];
		uint64_t charge = (uint64_t)hop_charge(&l->hops[i], l->chunk);
		if (n->shared && node_is_narrow(s, n))
			tokens_ns = MAX(tokens_ns, mul_div(charge, NS_PER_S, n->bucket.bytes_per_s) + 1);
	}
	uint64_t chunk_ns = mul_div(l->largest_chunk, NS_PER_S, l->worst_bytes_per_s) + 1;
	/* Alone in flight, every piece shows its gap; behind another only one that is longer than what it follows. */
	uint64_t gaps = s->config.in_flight == 1 || c->overhead_ns > c->submit_ns + chunk_ns ? 2 : 1;
	return s->config.in_flight * chunk_ns + gaps * c->overhead_ns + 2 * c->submit_ns + tokens_ns;
}

/* B has room for two chunks.  Of two pieces in a row that are copied first, the second is copied while the first moves, so it is enough
 * that neither takes longer than a chunk does on the link; and the gap before a piece that comes to an idle engine has to fit in,
 * too. */
uint64_t linksched_copied_bytes(const struct linksched *s, uint32_t link, uint64_t copy_bytes_per_s)
{
	ASSERT(link < s->n_links);
	const struct link *l = &s->links[link];
	uint64_t chunk_ns = mul_div(l->chunk, NS_PER_S, l->worst_bytes_per_s), costs = l->calibration.overhead_ns + l->calibration.submit_ns;
	uint64_t ns = chunk_ns > 2 * costs ? chunk_ns - costs : chunk_ns / 2;
	return MIN(MAX(mul_div(ns, copy_bytes_per_s, NS_PER_S), (uint64_t)4096), l->chunk);
}

uint64_t linksched_worst_bytes_per_s(const struct linksched *s, uint32_t link)
{
	ASSERT(link < s->n_links);
	return s->links[link].worst_bytes_per_s;
}

uint64_t linksched_chunk_bytes(const struct linksched *s, uint32_t link)
{
	ASSERT(link < s->n_links);
	return s->links[link].chunk;
}

/* ---- what follows from rates ---- */

uint64_t node_given_bytes_per_s(const struct node *n)
{
	return less(mul_div(n->bytes_per_s, n->share, THOUSAND), n->reserved_bytes_per_s);
}

static void link_retune(struct linksched *s, struct link *l)
{
	uint64_t largest = 0;
	l->worst_bytes_per_s = link_worst(s, l);
	l->chunk = linksched_chunk(&l->calibration, l->worst_bytes_per_s, s->config.in_flight, s->config.target_ns,
		&l->costs_bandwidth);
	for (uint32_t i = 0; i < l->n_in_flight; i++)
		largest = MAX(largest, l->in_flight[i].bytes);
	l->largest_chunk = MAX(l->chunk, largest);
	for (unsigned c = 0; c < LINK_CLASSES; c++)
		l->guards[c].credit = MIN(l->guards[c].credit, guard_quota(s, l));
}

/* A burst is what can be in flight; a shared node has as much again, which the lower classes leave alone. */
static void node_retune(struct linksched *s, struct node *n)
{
	int64_t sum = 0, largest = 0;
	for (uint32_t i = 0; i < s->n_links; i++)
		if (n->links >> i & 1) {
			int64_t most = (int64_t)(s->config.in_flight * s->links[i].largest_chunk);
			sum += most;
			largest = MAX(largest, most);
		}
	if (!n->shared)
		n->bytes_per_s = s->links[n->link].bytes_per_s;
	n->reserve = n->shared ? sum : 0;
	bucket_set(&n->bucket, node_given_bytes_per_s(n), n->shared ? 2 * sum : largest);
	n->burst_max = MAX(n->burst_max, n->bucket.burst);
}

void sched_retune(struct linksched *s, uint64_t now)
{
	int64_t burst = 1;
	for (uint32_t i = 0; i < s->n_nodes; i++)
		bucket_refill(&s->nodes[i].bucket, now);
	for (uint32_t i = 0; i < s->n_links; i++) {
		link_retune(s, &s->links[i]);
		burst = MAX(burst, (int64_t)(s->config.in_flight * s->links[i].largest_chunk));
	}
	for (uint32_t i = 0; i < s->n_nodes; i++)
		node_retune(s, &s->nodes[i]);
	list_for_each(it, &s->users) {
		struct user *u = list_entry(it, struct user, node);
		bucket_refill(&u->bucket, now);
		bucket_set(&u->bucket, s->config.user_bytes_per_s, burst);
		u->burst_max = MAX(u->burst_max, burst);
	}
}

/* ---- floors ---- */

uint64_t flow_floor(const struct flow *f, uint64_t now)
{
	if (f->class != LINK_DEMAND || f->deadline == LINKSCHED_NEVER || f->late || f->cancelled || f->deadline <= now)
		return 0;
	unsigned __int128 rate = (unsigned __int128)(f->bytes - f->picked) * NS_PER_S / (f->deadline - now);
	return rate > LINKSCHED_MAX_RATE ? LINKSCHED_MAX_RATE : (uint64_t)rate;
}

static uint64_t flow_floor_on(const struct flow *f, uint32_t node, bool shared, uint64_t now)
{
	for (uint32_t i = 0; i < f->n_hops; i++)
		if (f->hops[i].node == node && (i == 0 || shared))
			return mul_div(flow_floor(f, now), f->hops[i].charge, THOUSAND);
	return 0;
}

uint64_t node_floors(const struct linksched *s, uint32_t node, uint64_t now)
{
	const struct node *n = &s->nodes[node];
	uint64_t sum = 0;
	for (uint32_t i = 0; i < s->n_links; i++) {
		if (!(n->links >> i & 1))
			continue;
		list_for_each(it, &s->links[i].flows)
			sum += flow_floor_on(list_entry(it, struct flow, node), node, n->shared, now);
	}
	return sum;
}

/* ---- charging ---- */

void flow_charge(struct linksched *s, const struct flow *f, uint64_t bytes, bool overdraw)
{
	for (uint32_t i = 0; i < f->n_hops; i++) {
		struct node *n = flow_node(s, f, i);
		int64_t charge = hop_charge(&f->hops[i], bytes);
		n->bytes += (uint64_t)charge;
		n->bucket.balance -= charge;
		if (!n->shared && overdraw && n->bucket.balance < -n->bucket.burst) {
			n->bucket.balance = -n->bucket.burst;
			n->bucket.rest = 0;
		}
		ASSERT(n->bucket.balance >= 0 || (!n->shared && overdraw));
	}
	f->user->bytes += bytes;
	if (user_is_capped(s, f->user))
		f->user->bucket.balance -= (int64_t)bytes;
}

static void bucket_refund(struct bucket *b, int64_t bytes)
{
	b->balance = MIN(b->balance + bytes, b->burst);
	if (b->balance == b->burst)
		b->rest = 0;
}

void piece_refund(struct linksched *s, const struct piece *p, uint64_t back)
{
	const struct flow *f = p->flow;
	for (uint32_t i = 0; i < f->n_hops; i++) {
		int64_t tokens = hop_charge(&f->hops[i], p->bytes) - hop_charge(&f->hops[i], p->bytes - back);
		flow_node(s, f, i)->bytes -= (uint64_t)tokens;
		bucket_refund(&flow_node(s, f, i)->bucket, tokens);
	}
	p->user->bytes -= MIN(back, p->user->bytes); /* which may have been begun anew */
	if (user_is_capped(s, p->user))
		bucket_refund(&p->user->bucket, (int64_t)back);
}

/* ---- guards ---- */

uint64_t guard_quota(const struct linksched *s, const struct link *l)
{
	return mul_div(mul_div(l->bytes_per_s, s->config.guard_share, THOUSAND), s->config.window_ns, NS_PER_S);
}

static void guard_accrue(struct guard *g, uint64_t now, uint64_t bytes_per_s, uint64_t quota)
{
	unsigned __int128 earned = (unsigned __int128)(now - g->at) * bytes_per_s + g->rest;
	g->at = now;
	if (earned / NS_PER_S + g->credit >= quota) {
		g->credit = quota;
		g->rest = 0;
		return;
	}
	g->credit += (uint64_t)(earned / NS_PER_S);
	g->rest = (uint64_t)(earned % NS_PER_S);
}

/* A class without work is owed nothing. */
void guards_accrue(struct linksched *s, struct link *l)
{
	bool work[LINK_CLASSES] = {false};
	list_for_each(it, &l->flows) {
		const struct flow *f = list_entry(it, struct flow, node);
		work[f->class] |= flow_is_workable(f);
	}
	for (unsigned c = LINK_PREFETCH; c < LINK_CLASSES; c++) {
		struct guard *g = &l->guards[c];
		if (!work[c])
			*g = (struct guard){.at = s->now};
		else
			guard_accrue(g, s->now, mul_div(l->bytes_per_s, s->config.guard_share, THOUSAND), guard_quota(s, l));
	}
}
