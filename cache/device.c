/* device.c - several GPUs: which of them a model goes to, what comes back to one by itself, and what becomes of one that
 * died.
 *
 * Invariant: a lost tier has no pins, and no copy but those that drain or whose transfer was told to stop. */
#include "cache/brain.h"

/* ---- choosing ---- */

enum fitness {
	FIT_NOT,     /* dead, too small, or a copy there is leaving but still in use: only to say so */
	FIT_EVICTS,  /* others would have to go */
	FIT_QUEUED,  /* the model waits for room there already */
	FIT_FREE,    /* there is free memory */
	FIT_HEAD,    /* its beginning was kept, and the rest finds room */
	FIT_ARRIVES,
	FIT_THERE
};

struct choice {
	uint8_t tier;
	enum fitness fitness;
	uint64_t rank; /* within a fitness, higher is better */
};

static bool is_leaving(const struct copy *k)
{
	return k->state == COPY_DRAINING || k->state == COPY_FAILED || copy_is_doomed(k);
}

static uint64_t free_bytes(const struct tier *t)
{
	return t->capacity_bytes - MIN(t->used_bytes, t->capacity_bytes);
}

/* What is free, or could be made free at once. */
static uint64_t spare_bytes(const struct tier *t)
{
	uint64_t taken = t->used_bytes - t->hold_bytes[HOLD_IDLE] - t->hold_bytes[HOLD_PART] - t->hold_bytes[HOLD_FREEING];
	return t->capacity_bytes - MIN(taken, t->capacity_bytes);
}

static struct choice choice_of(const struct model *m, const struct tier *t, uint64_t bytes)
{
	const struct copy *k = m->copies[t->index];
	struct choice x = {.tier = t->index, .fitness = FIT_EVICTS, .rank = spare_bytes(t)};
	if (t->lost || bytes > t->capacity_bytes || (k && k->n_leases && is_leaving(k))) {
		x.fitness = FIT_NOT;
	} else if (k && !is_leaving(k) && k->state == COPY_READY) {
		x = (struct choice){t->index, FIT_THERE, UINT32_MAX - k->n_leases};
	} else if (k && !is_leaving(k) && copy_is_head(k)) {
		uint64_t missing = k->size.plan_bytes - MIN(k->bytes, k->size.plan_bytes);
		x.fitness = k->load ? FIT_QUEUED : spare_bytes(t) >= missing + k->bytes ? FIT_HEAD : FIT_EVICTS;
	} else if (k && !is_leaving(k) && (k->state == COPY_LOADING || (k->state == COPY_RESERVED && k->load))) {
		x.fitness = FIT_ARRIVES;
	} else if (free_bytes(t) >= bytes) {
		x.fitness = FIT_FREE;
		x.rank = free_bytes(t);
	} else if (k && k->load) {
		x.fitness = FIT_QUEUED;
	}
	return x;
}

uint8_t device_for(const struct cache *c, const struct model *m, uint64_t plan, uint64_t mask)
{
	uint64_t bytes = device_size(c, m, plan).plan_bytes;
	struct choice best = {.tier = CACHE_NO_TIER};
	for (uint8_t i = 1; i < c->n_tiers; i++) {
		const struct tier *t = &c->tiers[i];
		if (t->kind != TIER_GPU || (mask && (t->device >= 64 || !(mask >> t->device & 1))))
			continue;
		struct choice x = choice_of(m, t, bytes);
		if (best.tier == CACHE_NO_TIER || x.fitness > best.fitness || (x.fitness == best.fitness && x.rank > best.rank))
			best = x;
	}
	return best.tier;
}

/* ---- promotion ---- */

static bool is_on_a_gpu(const struct cache *c, const struct model *m)
{
	for (uint8_t i = 1; i < c->n_tiers; i++)
		if (c->tiers[i].kind == TIER_GPU && m->copies[i])
			return true;
	return false;
}

/* The device that would have most left, of those that nobody waits for and whose link is idle. */
static struct tier *roomiest(struct cache *c, uint8_t host, uint64_t bytes)
{
	struct tier *best = NULL;
	for (uint8_t i = 1; i < c->n_tiers; i++) {
		struct tier *t = &c->tiers[i];
		const struct link *link = c->link_at[host][i];
		if (t->kind != TIER_GPU || t->lost || !link || link->n_active || link->queue.n || !list_empty(&t->queue))
			continue;
		if (free_bytes(t) >= bytes && (!best || free_bytes(t) > free_bytes(best)))
			best = t;
	}
	return best;
}

/* Hot, at rest, with the host copy to be filled from, and what it lacks is free. */
static bool may_be_completed(const struct cache *c, const struct copy *k, uint8_t host)
{
	const struct copy *source = k->model->copies[host];
	const struct tier *t = &c->tiers[k->tier];
	uint64_t whole = copy_reach_bytes(k, k->state == COPY_READY ? REACH_ALL : REACH_PLAN);
	if (k->load || k->alloc_pending || k->trimming || c->now < k->grow_after || !source || source->state != COPY_READY)
		return false;
	return whole - MIN(k->bytes, whole) <= free_bytes(t) && load_is_earned(c, k, k->model->gpu_rate);
}

/* A head gets its tail back, a copy made by a plan what that leaves out: one at a time, while the link has nothing to do. */
static void complete_hottest(struct cache *c, uint8_t host, struct tier *t)
{
	const struct link *link = c->link_at[host][t->index];
	struct copy *best = NULL;
	if (!link || link->n_active || link->queue.n || !list_empty(&t->queue))
		return;
	for (int looked = 0; looked < PROMOTE_LOOK && !list_empty(&t->partial); looked++) {
		struct copy *k = list_first(&t->partial, struct copy, partial_node);
		list_del(&k->partial_node); /* the next look goes on where this one ends */
		list_add_tail(&k->partial_node, &t->partial);
		if (may_be_completed(c, k, host) && (!best || k->model->gpu_rate > best->model->gpu_rate))
			best = k;
	}
	if (best && best->state == COPY_READY)
		growth_start(c, best);
	else if (best)
		load_keep(c, load_get(c, best, best->plan, NULL), KEEP_PROMOTE, CACHE_NOBODY);
}

uint64_t device_promote(struct cache *c)
{
	uint8_t host = cache_tier_index(c, TIER_HOST, 0);
	if (!c->config.promote || host == CACHE_NO_TIER || cache_tier_index(c, TIER_GPU, CACHE_ANY_DEVICE) == CACHE_NO_TIER)
		return CACHE_NEVER;
	struct tier *h = &c->tiers[host], *to = NULL;
	struct copy *best = NULL;
	int looked = 0;
	for (struct list *it = h->idle.prev; it != &h->idle && looked < PROMOTE_LOOK; it = it->prev, looked++) {
		struct copy *k = list_entry(it, struct copy, idle_node);
		struct model *m = k->model;
		if (k->state != COPY_READY || m->retired || is_on_a_gpu(c, m) || !load_is_earned(c, k, m->gpu_rate) ||
			(best && best->model->gpu_rate >= m->gpu_rate))
			continue;
		struct tier *t = roomiest(c, host, device_size(c, m, m->plan).plan_bytes);
		if (t) {
			best = k;
			to = t;
		}
	}
	if (best)
		load_keep(c, load_get(c, copy_get(c, best->model, to->index), best->model->plan, NULL), KEEP_PROMOTE, CACHE_NOBODY);
	for (uint8_t i = 1; i < c->n_tiers; i++)
		if (c->tiers[i].kind == TIER_GPU && !c->tiers[i].lost)
			complete_hottest(c, host, &c->tiers[i]);
	return c->now + PROMOTE_PERIOD_NS;
}

/* ---- losing one ---- */

/* Bytes that were to come from there come from elsewhere. */
static void leave_lost_source(struct cache *c, struct model *m, const struct copy *lost)
{
	for (uint8_t i = 1; i < c->n_tiers; i++) {
		struct load *l = m->copies[i] ? m->copies[i]->load : NULL;
		if (l && l->transfer && l->transfer->source == lost)
			transfer_leave_source(c, l->transfer);
	}
}

static void lose_copy(struct cache *c, struct copy *k, const struct fault *why)
{
	bool was_good = k->state == COPY_READY || k->state == COPY_DRAINING;
	leave_lost_source(c, k->model, k);
	if (k->load)
		load_lose(c, k->load, why);
	if (was_good && k->n_leases)
		copy_poison(c, k, why);
	copy_doom(c, k, DOOM_LOST);
}

int cache_tier_lost(struct cache *c, uint64_t now, uint8_t tier, const struct fault *why)
{
	brain_begin(c, now);
	struct tier *t = tier < c->n_tiers ? &c->tiers[tier] : NULL;
	if (!t || t->kind != TIER_GPU)
		return -EINVAL;
	if (t->lost)
		return 0;
	t->lost = true;
	t->lost_why = memory_copy(why, sizeof(*why));
	for (struct model *m = slots_above(&c->models, 0); m; m = slots_above(&c->models, m->id)) {
		if (model_is_pinned(m, tier))
			model_pin(c, m, tier, false);
		if (m->copies[tier])
			lose_copy(c, m->copies[tier], t->lost_why);
	}
	brain_run(c);
	return 0;
}
