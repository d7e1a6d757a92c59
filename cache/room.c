/* room.c - loads that wait for bytes of a tier.
 *
 * Invariants: the queue is in (class, deadline, age) order and only its head is served, so that nobody is starved by
 * smaller ones behind; bytes on their way back always belong to the head.  What is given out never exceeds the
 * capacity.  A load is refused as soon as it cannot fit by anything but somebody's letting go. */
#include "cache/brain.h"

uint64_t room_bytes(const struct cache *c, const struct load *l)
{
	const struct copy *k = l->copy;
	return c->tiers[k->tier].kind == TIER_GPU ? l->size.plan_bytes : model_tier_bytes(c, k->model, k->tier);
}

/* A copy may have the beginning already. */
static uint64_t room_missing(const struct cache *c, const struct load *l)
{
	uint64_t bytes = room_bytes(c, l);
	return bytes - MIN(bytes, l->copy->bytes);
}

void room_enter(struct cache *c, struct load *l)
{
	struct tier *t = &c->tiers[l->copy->tier];
	struct list *pos = t->queue.prev;
	while (pos != &t->queue && load_before(l, list_entry(pos, struct load, queue_node)))
		pos = pos->prev;
	list_add_before(&l->queue_node, pos->next);
	t->dirty = t->fresh = true;
}

void room_leave(struct cache *c, struct load *l)
{
	if (!list_hooked(&l->queue_node))
		return;
	struct tier *t = &c->tiers[l->copy->tier];
	list_del(&l->queue_node);
	t->dirty = true;
	if (t->served == l)
		t->served = NULL;
	l->served = false;
}

void room_resort(struct cache *c, struct load *l)
{
	room_leave(c, l);
	room_enter(c, l);
}

/* A pin is an order: it may take any victim, as a demand may, and so may what has to come up for it on the way. */
static bool load_may_take_any(const struct load *l)
{
	if (l->class == CLASS_DEMAND || l->keep & KEEP_PIN)
		return true;
	list_for_each(it, &l->dependents)
		if (load_may_take_any(list_entry(it, struct load, source_node)))
			return true;
	return false;
}

/* On their way to other tiers: idle when they are there, which waits for nothing that waits for this tier. */
static uint64_t passing_bytes(const struct tier *t)
{
	return t->hold_bytes[HOLD_READ] + t->hold_bytes[HOLD_RELAY];
}

static void room_refuse(struct cache *c, struct tier *t, struct load *l)
{
	struct fault why;
	uint64_t need = room_bytes(c, l), missing = room_missing(c, l);
	uint64_t busy = t->hold_bytes[HOLD_FIRM] + t->hold_bytes[HOLD_SOFT] + passing_bytes(t);
	uint64_t named = MIN(busy, t->leased_bytes + t->pinned_bytes);
	if (need > t->capacity_bytes)
		fault_set(&why, TRIMS_E_TOO_LARGE, "%s needs %llu bytes, the whole %s has %llu", model_label(l->copy->model),
			(unsigned long long)need, t->label, (unsigned long long)t->capacity_bytes);
	else
		fault_set(&why, TRIMS_E_NO_ROOM,
			"%s needs %llu bytes, the %s has %llu: %u leased models hold %llu, %u pinned ones %llu, "
			"%llu are being loaded or moved; close, unpin or evict a model",
			model_label(l->copy->model), (unsigned long long)missing, t->label, (unsigned long long)t->capacity_bytes, t->n_leased, (unsigned long long)t->leased_bytes, t->n_pinned,
			(unsigned long long)t->pinned_bytes, (unsigned long long)(busy - named));
	load_fail(c, l, &why);
}

/* What a kept beginning lacks. */
static void room_admit_tail(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	k->tail_bytes = room_missing(c, l);
	k->bytes += k->tail_bytes;
	k->reach = REACH_PLAN;
	k->edition = ++c->next_generation;
	load_admitted(c, l);
	copy_settle(c, k);
}

static void room_admit(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	room_leave(c, l);
	if (k->state == COPY_RESERVED) {
		room_admit_tail(c, l);
		return;
	}
	k->bytes = room_bytes(c, l);
	k->generation = k->edition = ++c->next_generation;
	if (c->tiers[k->tier].kind == TIER_GPU) {
		plan_set(c, &k->plan, l->plan);
		plan_set(c, &k->model->plan, l->plan);
		k->size = l->size;
	}
	copy_set(c, k, COPY_RESERVED, NULL);
	load_admitted(c, l);
	copy_settle(c, k);
}

static uint64_t evictable_bytes(const struct cache *c, const struct tier *t)
{
	return t->hold_bytes[HOLD_PART] + (c->policy->evicts ? t->hold_bytes[HOLD_IDLE] : 0);
}

/* What copies are to grow by goes first. */
static uint64_t room_take_growths(struct cache *c, struct tier *t, uint64_t bytes)
{
	uint64_t taken = 0;
	while (taken < bytes && !list_empty(&t->growths)) {
		struct copy *k = list_first(&t->growths, struct copy, partial_node);
		taken += k->tail_bytes;
		growth_stop(c, k);
	}
	return MIN(taken, bytes);
}

static void room_take_soft(struct cache *c, struct tier *t, uint64_t bytes)
{
	while (bytes) {
		ASSERT(!list_empty(&t->soft));
		struct copy *k = list_entry(t->soft.prev, struct copy, soft_node); /* the youngest has the least to lose */
		uint64_t had = k->bytes;
		load_give_way(c, k->load);
		bytes -= MIN(bytes, had);
	}
}

bool room_squeeze(struct cache *c, struct load *l, const struct fault *why)
{
	struct copy *k = l->copy;
	struct tier *t = &c->tiers[k->tier];
	uint64_t bytes = MIN(k->headed ? room_missing(c, l) : k->bytes, evictable_bytes(c, t));
	/* Images on disk take no memory. */
	if (why->code != TRIMS_E_NO_MEMORY || t->kind == TIER_DISK || l->squeezed || !load_may_take_any(l) || bytes == 0)
		return false;
	l->squeezed = true;
	c->stats.alloc_retries++;
	evict_bytes(c, t, bytes);
	if (k->headed) {
		l->phase = LOAD_ROOM;
		room_enter(c, l);
		return true;
	}
	k->prefetched = false; /* it is no waste yet */
	copy_drain(c, k, "its memory was refused; it is asked for again when idle copies are gone");
	return true;
}

enum verdict { VERDICT_ADMIT, VERDICT_WAIT, VERDICT_REFUSE };

static enum verdict room_demand(struct cache *c, struct tier *t, struct load *l, uint64_t missing)
{
	uint64_t evictable = evictable_bytes(c, t);
	uint64_t soft = l->class == CLASS_DEMAND ? t->hold_bytes[HOLD_SOFT] : 0;
	uint64_t young = c->policy->evicts ? t->hold_bytes[HOLD_YOUNG] : 0;
	if (evictable + soft >= missing) {
		missing -= soft ? room_take_growths(c, t, missing) : 0;
		evictable = evictable_bytes(c, t);
		evict_bytes(c, t, MIN(missing, evictable));
		room_take_soft(c, t, missing - MIN(missing, evictable));
		return VERDICT_WAIT;
	}
	if (evictable + soft + young + (c->policy->evicts ? passing_bytes(t) : 0) < missing)
		return VERDICT_REFUSE;
	if (!l->waited_young && evictable + soft + passing_bytes(t) < missing) {
		l->waited_young = true;
		c->stats.residency_waits++;
	}
	return VERDICT_WAIT;
}

/* What the head of the queue gets, evicting for it what may be evicted. */
static enum verdict room_judge(struct cache *c, struct tier *t, struct load *l)
{
	uint64_t wanted = t->used_bytes + room_missing(c, l);
	if (room_bytes(c, l) > t->capacity_bytes)
		return VERDICT_REFUSE;
	if (l->squeezed && t->hold_bytes[HOLD_FREEING])
		return VERDICT_WAIT;
	if (wanted <= t->capacity_bytes)
		return VERDICT_ADMIT;
	if (wanted - t->capacity_bytes <= t->hold_bytes[HOLD_FREEING])
		return VERDICT_WAIT;
	uint64_t missing = wanted - t->capacity_bytes - t->hold_bytes[HOLD_FREEING];
	if (load_may_take_any(l))
		return room_demand(c, t, l, missing);
	return evict_bytes_below(c, t, missing, evict_key_of(c, l->copy->model, t->index, NULL)) ? VERDICT_WAIT
												: VERDICT_REFUSE;
}

/* Demands behind the head are refused at once, too, when those before them take what could ever come free. */
static void room_refuse_hopeless(struct cache *c, struct tier *t)
{
	uint64_t fixed = t->hold_bytes[HOLD_FIRM] + (c->policy->evicts ? 0 : t->hold_bytes[HOLD_IDLE]);
	uint64_t ahead = 0;
	t->fresh = false;
	list_for_each_safe(it, &t->queue) {
		struct load *l = list_entry(it, struct load, queue_node);
		if (l->class != CLASS_DEMAND)
			return;
		bool counted = l->served || !c->policy->evicts || l->copy->account.hold == HOLD_FIRM; /* what it has */
		uint64_t need = counted ? room_missing(c, l) : room_bytes(c, l);
		if (it != t->queue.next && fixed + ahead + need > t->capacity_bytes)
			room_refuse(c, t, l);
		else
			ahead += need;
	}
}

/* The first in the queue keeps what its copy has already while it is waited for the rest. */
static void room_serve(struct cache *c, struct tier *t)
{
	struct load *first = list_empty(&t->queue) ? NULL : list_first(&t->queue, struct load, queue_node);
	struct load *before = t->served;
	if (first == before)
		return;
	t->served = first;
	if (before) {
		before->served = false;
		copy_settle(c, before->copy);
	}
	if (first) {
		first->served = true;
		copy_settle(c, first->copy);
	}
}

void room_pump(struct cache *c, struct tier *t)
{
	t->dirty = false;
	room_serve(c, t);
	if (list_empty(&t->queue))
		return;
	evict_age(c, t);
	if (t->fresh)
		room_refuse_hopeless(c, t);
	while (!list_empty(&t->queue)) {
		struct load *l = list_first(&t->queue, struct load, queue_node);
		room_serve(c, t);
		enum verdict v = room_judge(c, t, l);
		if (v == VERDICT_WAIT)
			break;
		if (v == VERDICT_ADMIT)
			room_admit(c, l);
		else
			room_refuse(c, t, l);
	}
}

uint64_t room_wake(const struct cache *c, const struct tier *t)
{
	if (list_empty(&t->queue) || list_empty(&t->young))
		return CACHE_NEVER;
	return list_first(&t->young, struct copy, young_node)->loaded_at + c->config.min_residency_ns;
}
