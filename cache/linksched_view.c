/* linksched_view.c - looking, and every invariant. */
#include "cache/linksched_impl.h"

void flow_fill_view(const struct linksched *s, const struct flow *f, struct linksched_flow_view *v)
{
	const struct link *l = &s->links[f->link];
	*v = (struct linksched_flow_view){.id = f->id, .tag = f->tag, .link = f->link, .user = f->user->uid, .class = f->class,
		.bytes = f->bytes, .done = f->done, .in_flight = f->picked - f->done, .ready = f->ready, .deadline = f->deadline,
		.floor_bytes_per_s = flow_floor(f, s->now), .late = f->late, .cancelled = f->cancelled, .added_at = f->added_at,
		.waits = f->waits, .wait_max_ns = f->wait_max_ns};
	v->capped_ns = f->capped_ns + (f->capped_since ? s->now - f->capped_since : 0);
	memcpy(v->waited_ns, f->waited_ns, sizeof(v->waited_ns));
	if (!f->waiting)
		return;
	for (unsigned who = 0; who < LINK_WAITS; who++)
		v->waited_ns[who] += l->clock[who] - f->wait_clock[who];
	v->waited_ns[l->n_in_flight ? l->in_flight[0].class : LINK_NOBODY] += s->now - l->clock_at;
}

int linksched_flow_view(const struct linksched *s, uint64_t after, struct linksched_flow_view *view)
{
	const struct flow *f = slots_above(&s->flows, after);
	if (!f)
		return -ENOENT;
	flow_fill_view(s, f, view);
	return 0;
}

int linksched_link_view(const struct linksched *s, uint32_t link, struct linksched_link_view *v)
{
	if (link >= s->n_links)
		return -ENOENT;
	const struct link *l = &s->links[link];
	*v = (struct linksched_link_view){.bytes_per_s = l->bytes_per_s, .worst_bytes_per_s = l->worst_bytes_per_s,
		.chunk_bytes = l->chunk, .bound_ns = linksched_bound_ns(s, link), .costs_bandwidth = l->costs_bandwidth,
		.flows = l->n_flows, .in_flight = l->n_in_flight, .alone_waits = l->alone_waits,
		.alone_wait_max_ns = l->alone_wait_max_ns, .beyond_bound = l->beyond_bound, .guard_bytes = l->guard_bytes,
		.token_waits = l->token_waits, .pauses = l->pauses, .late = l->late, .cancelled = l->cancelled};
	memcpy(v->bytes, l->bytes, sizeof(v->bytes));
	memcpy(v->waits, l->waits, sizeof(v->waits));
	memcpy(v->wait_ns, l->wait_ns, sizeof(v->wait_ns));
	memcpy(v->wait_max_ns, l->wait_max_ns, sizeof(v->wait_max_ns));
	list_for_each(it, &l->flows) {
		const struct flow *f = list_entry(it, struct flow, node);
		v->queued[f->class] += f->ready;
	}
	return 0;
}

int linksched_node_view(const struct linksched *s, uint32_t node, struct linksched_node_view *v)
{
	if (node >= s->n_nodes)
		return -ENOENT;
	const struct node *n = &s->nodes[node];
	struct bucket b = n->bucket;
	bucket_refill(&b, s->now);
	*v = (struct linksched_node_view){.bytes_per_s = n->bytes_per_s, .given_bytes_per_s = node_given_bytes_per_s(n),
		.reserved_bytes_per_s = n->reserved_bytes_per_s, .tokens = b.balance, .burst = b.burst, .burst_max = n->burst_max, .bytes = n->bytes,
		.links = (uint32_t)__builtin_popcountll(n->links), .waiting = n->urgent};
	return 0;
}

int linksched_user_view(const struct linksched *s, uint32_t number, struct linksched_user_view *v)
{
	list_for_each(it, &s->users) {
		const struct user *u = list_entry(it, struct user, node);
		if (number--)
			continue;
		struct bucket b = u->bucket;
		bucket_refill(&b, s->now);
		*v = (struct linksched_user_view){.user = u->uid, .bytes = u->bytes, .since = u->since, .tokens = b.balance,
			.burst_max = u->burst_max, .flows = u->flows, .in_flight = u->pieces};
		return 0;
	}
	return -ENOENT;
}

/* ---- invariants ---- */

static void verify_flow(const struct linksched *s, const struct flow *f, uint32_t link)
{
	const struct link *l = &s->links[link];
	CHECK_OBJ(f, FLOW_MAGIC);
	ASSERT(f->link == link && slots_get(&s->flows, f->id) == f && f->hops[0].node == l->own);
	ASSERT(f->done <= f->picked && f->picked + f->ready <= f->bytes);
	ASSERT(f->cancelled ? f->picked > f->done && f->ready == 0 : f->done < f->bytes);
	ASSERT(f->urgent == (class_is_urgent(f->class) && flow_is_workable(f)));
	bool served = l->n_in_flight && l->in_flight[0].flow == f;
	ASSERT(f->waiting == (!served && !f->cancelled && (flow_is_workable(f) || f->picked > f->done)));
	for (uint32_t i = 0; i < f->n_hops; i++)
		ASSERT(s->nodes[f->hops[i].node].links >> link & 1);
}

static void verify_link(const struct linksched *s, uint32_t link)
{
	const struct link *l = &s->links[link];
	uint64_t flying = 0, in_flight = 0;
	uint32_t flows = 0, urgent = 0;
	list_for_each(it, &l->flows) {
		const struct flow *f = list_entry(it, struct flow, node);
		verify_flow(s, f, link);
		flows++;
		urgent += f->urgent;
		flying += f->picked - f->done;
	}
	for (uint32_t i = 0; i < l->n_in_flight; i++) {
		const struct piece *p = &l->in_flight[i];
		CHECK_OBJ(p->flow, FLOW_MAGIC);
		ASSERT(p->flow->link == link && p->bytes > 0 && p->bytes <= l->largest_chunk);
		ASSERT(i == 0 || p->sequence > l->in_flight[i - 1].sequence);
		in_flight += p->bytes;
	}
	ASSERT(flows == l->n_flows && urgent == l->n_urgent && flying == in_flight);
	ASSERT(l->n_flows <= s->config.max_flows && l->n_in_flight <= s->config.in_flight);
	ASSERT(!s->nodes[l->own].shared && s->nodes[l->own].link == link);
	for (unsigned c = 0; c < LINK_CLASSES; c++)
		ASSERT(l->guards[c].credit <= guard_quota(s, l));
}

static uint32_t node_count_urgent(const struct linksched *s, uint32_t node)
{
	uint32_t urgent = 0;
	for (uint32_t i = 0; i < s->n_links; i++)
		list_for_each(it, &s->links[i].flows) {
			const struct flow *f = list_entry(it, struct flow, node);
			for (uint32_t j = 0; f->urgent && j < f->n_hops; j++)
				urgent += f->hops[j].node == node && (j == 0 || s->nodes[node].shared);
		}
	return urgent;
}

static void verify_node(const struct linksched *s, uint32_t node)
{
	const struct node *n = &s->nodes[node];
	ASSERT(n->urgent == node_count_urgent(s, node));
	ASSERT(n->bucket.balance <= n->bucket.burst && n->bucket.rest < NS_PER_S && n->bucket.at <= s->now);
	ASSERT(n->shared ? n->bucket.balance >= 0 && n->reserve * 2 == n->bucket.burst : n->reserve == 0);
}

static void verify_users(const struct linksched *s)
{
	uint32_t n_users = 0;
	list_for_each(it, &s->users) {
		const struct user *u = list_entry(it, struct user, node);
		uint32_t flows = 0, pieces = 0;
		for (uint32_t i = 0; i < s->n_links; i++) {
			uint32_t in_flight = 0;
			list_for_each(jt, &s->links[i].flows)
				flows += list_entry(jt, struct flow, node)->user == u;
			for (uint32_t j = 0; j < s->links[i].n_in_flight; j++)
				in_flight += s->links[i].in_flight[j].user == u;
			ASSERT(in_flight == u->in_flight[i]);
			pieces += in_flight;
		}
		n_users++;
		ASSERT(flows == u->flows && pieces == u->pieces && u->bucket.balance <= u->bucket.burst);
		ASSERT(u->uid == LINKSCHED_ANYBODY || !s->config.user_bytes_per_s || u->bucket.balance >= 0);
	}
	ASSERT(n_users == s->n_users);
}

void linksched_verify(const struct linksched *s)
{
	CHECK_OBJ(s, SCHED_MAGIC);
	for (uint32_t i = 0; i < s->n_links; i++)
		verify_link(s, i);
	for (uint32_t i = 0; i < s->n_nodes; i++)
		verify_node(s, i);
	verify_users(s);
}
