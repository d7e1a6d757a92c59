/* linksched_wait.c - who waited for whom.
 *
 * A link's clock counts how long its engine had whose piece; a flow that begins to wait copies it, and what it has grown by
 * at the end is what the flow waited for.  So a wait costs the same however many pieces go by and however many wait.
 * Invariant: a flow waits while it has a piece ready or in flight and the engine has somebody else's or none. */
#include "cache/linksched_impl.h"

void wait_clock(struct linksched *s, struct link *l)
{
	unsigned who = l->n_in_flight ? l->in_flight[0].class : LINK_NOBODY;
	l->clock[who] += s->now - l->clock_at;
	l->clock_at = s->now;
}

/* Those whose arrival could come before the flow; itself among them. */
static uint64_t wait_arrivals(const struct linksched *s, const struct flow *f, bool *alone)
{
	uint64_t sum = 0;
	*alone = f->class == LINK_DEMAND && f->urgent;
	for (uint32_t i = 0; i < f->n_hops; i++) {
		const struct node *n = &s->nodes[f->hops[i].node];
		if (i > 0 && !n->shared)
			continue;
		sum += n->arrivals;
		*alone &= n->urgent == 1;
	}
	return sum;
}

static void wait_begin(struct linksched *s, struct flow *f)
{
	f->waiting = true;
	f->capped = false;
	f->wait_since = s->now;
	f->wait_arrivals = wait_arrivals(s, f, &f->alone);
	memcpy(f->wait_clock, s->links[f->link].clock, sizeof(f->wait_clock));
}

/* Of a demand that had no other beside it from beginning to end. */
static void wait_judge(struct linksched *s, const struct flow *f, struct link *l, uint64_t waited)
{
	bool ignored;
	if (!f->alone || f->capped || f->class != LINK_DEMAND || wait_arrivals(s, f, &ignored) != f->wait_arrivals)
		return;
	l->alone_waits++;
	l->alone_wait_max_ns = MAX(l->alone_wait_max_ns, waited);
	l->beyond_bound += waited > linksched_bound_ns(s, f->link);
}

static void wait_end(struct linksched *s, struct flow *f, bool served)
{
	struct link *l = &s->links[f->link];
	uint64_t waited = s->now - f->wait_since;
	f->waiting = false;
	for (unsigned who = 0; who < LINK_WAITS; who++)
		f->waited_ns[who] += l->clock[who] - f->wait_clock[who];
	if (!served)
		return;
	f->waits++;
	f->wait_max_ns = MAX(f->wait_max_ns, waited);
	l->waits[f->class]++;
	l->wait_ns[f->class] += waited;
	l->wait_max_ns[f->class] = MAX(l->wait_max_ns[f->class], waited);
	wait_judge(s, f, l, waited);
}

void wait_update(struct linksched *s, struct flow *f)
{
	const struct link *l = &s->links[f->link];
	bool served = l->n_in_flight && l->in_flight[0].flow == f;
	bool waits = !served && !f->cancelled && (flow_is_workable(f) || f->picked > f->done);
	if (waits && !f->waiting)
		wait_begin(s, f);
	else if (!waits && f->waiting)
		wait_end(s, f, served);
}

void wait_restart(struct linksched *s, struct flow *f)
{
	if (f->waiting)
		wait_end(s, f, false);
}
