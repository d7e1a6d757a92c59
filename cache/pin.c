/* pin.c - pins whose load failed are loaded again.
 * A pin is an order that stands: nobody asks a second time.  So it is tried again by the brain's own clock, after a wait
 * that doubles from failure to failure up to a bound, until the copy is there or the pin is taken back.
 *
 * Invariant: a model waits here only while it is pinned; a pinned tier without a good copy has a load, or a copy whose
 * end brings one, or its model waits here. */
#include "cache/brain.h"

#define PIN_FIRST_NS NS_PER_S
#define PIN_DOUBLED_MAX 8 /* 256 seconds */

bool pin_before(const struct heap_node *a, const struct heap_node *b)
{
	const struct model *x = container_of(a, struct model, pin_node), *y = container_of(b, struct model, pin_node);
	return x->pin_at != y->pin_at ? x->pin_at < y->pin_at : x->age < y->age;
}

void pin_failed(struct cache *c, struct model *m)
{
	if (!m->pins || m->retired)
		return;
	m->pin_at = c->now + (PIN_FIRST_NS << m->pin_failures);
	m->pin_failures += m->pin_failures < PIN_DOUBLED_MAX;
	if (heap_hooked(&m->pin_node))
		heap_update(&c->pins, &m->pin_node);
	else
		heap_add(&c->pins, &m->pin_node);
}

void pin_forget(struct cache *c, struct model *m)
{
	heap_del(&c->pins, &m->pin_node);
	m->pin_failures = 0;
}

/* False: it has to wait for those who hold what is left of a copy. */
static bool pin_try(struct cache *c, struct model *m, uint8_t tier)
{
	struct copy *k = m->copies[tier];
	bool started;
	if (k && k->state == COPY_READY && !copy_is_doomed(k))
		return true;
	if (k && k->n_leases && !k->load)
		return false;
	load_keep(c, load_get(c, copy_get(c, m, tier), m->plan, &started), KEEP_PIN, CACHE_NOBODY);
	c->stats.pins_retried += started;
	return true;
}

void pins_tick(struct cache *c)
{
	while (heap_top(&c->pins)) {
		struct model *m = container_of(heap_top(&c->pins), struct model, pin_node);
		bool waits = false;
		if (m->pin_at > c->now)
			return;
		heap_del(&c->pins, &m->pin_node);
		for (uint8_t t = 1; t < c->n_tiers; t++)
			waits |= model_is_pinned(m, t) && !pin_try(c, m, t);
		if (waits)
			pin_failed(c, m);
	}
}

uint64_t pins_wake(const struct cache *c)
{
	return heap_top(&c->pins) ? container_of(heap_top(&c->pins), struct model, pin_node)->pin_at : CACHE_NEVER;
}
