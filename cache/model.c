/* model.c - model records, and the life of a copy.
 *
 * Invariants: copy_set() is the only writer of copy.state and takes only edges of states.def.  After copy_settle() the
 * tier's sums and lists say what the copy is; a doomed copy is as far on its way out as its holders allow. */
#include "cache/brain.h"

/* why[from][to]; NULL: no such edge */
static const char *const edge_why[COPY_STATE_N][COPY_STATE_N] = {
#define EDGE(FROM, TO, why) [COPY_##FROM][COPY_##TO] = why,
#include "cache/states.def"
#undef EDGE
};

/* ---- models ---- */

struct model *model_new(struct cache *c, const struct cache_model_info *info)
{
	struct model *m = memory_new(sizeof(*m) + c->n_tiers * sizeof(m->copies[0]));
	m->magic = MODEL_MAGIC;
	m->info = *info;
	m->rate = m->gpu_rate = RATE_NEVER;
	if (m->info.gpu_bytes == 0)
		m->info.gpu_bytes = m->info.image_bytes;
	m->age = ++c->next_age;
	list_init(&m->names);
	list_init(&m->prints);
	list_init(&m->empty_node);
	m->id = slots_add(&c->models, m);
	model_add_print(c, m, info->fingerprint_hi, info->fingerprint_lo);
	return m;
}

void model_free(struct cache *c, struct model *m)
{
	CHECK_OBJ(m, MODEL_MAGIC);
	ASSERT(m->n_names == 0);
	model_drop_prints(c, m);
	pin_forget(c, m);
	if (m->digest_hi | m->digest_lo)
		map_del(&c->models_by_digest, &m->by_digest);
	list_del(&m->empty_node);
	slots_del(&c->models, m->id);
	plan_set(c, &m->plan, 0);
	m->magic = 0;
	memory_free(m);
}

struct model *model_get(const struct cache *c, uint64_t id)
{
	struct model *m = slots_get(&c->models, id);
	if (m)
		CHECK_OBJ(m, MODEL_MAGIC);
	return m;
}

bool model_is_empty(const struct model *m)
{
	return m->n_copies == 0 && m->pins == 0;
}

void model_check_empty(struct cache *c, struct model *m)
{
	if (model_is_empty(m) && !list_hooked(&m->empty_node))
		list_add_tail(&m->empty_node, &c->empty_models);
}

void models_sweep(struct cache *c)
{
	while (!list_empty(&c->empty_models)) {
		struct model *m = list_first(&c->empty_models, struct model, empty_node);
		list_del(&m->empty_node);
		if (!model_is_empty(m) || m->n_names)
			continue;
		effect_add(c, FX_FORGET)->model = m->id;
		model_free(c, m);
	}
}

const char *model_label(const struct model *m)
{
	return list_empty(&m->names) ? "an image without a name" : list_first(&m->names, struct name, model_node)->text;
}

uint64_t model_tier_bytes(const struct cache *c, const struct model *m, uint8_t tier)
{
	enum tier_kind kind = c->tiers[tier].kind;
	return kind == TIER_DISK ? m->info.disk_bytes : kind == TIER_GPU ? m->info.gpu_bytes : m->info.image_bytes;
}

bool model_is_pinned(const struct model *m, uint8_t tier)
{
	return m->pins & 1u << tier;
}

void model_pin(struct cache *c, struct model *m, uint8_t tier, bool on)
{
	m->pins = (uint16_t)(on ? m->pins | 1u << tier : m->pins & ~(1u << tier));
	if (!m->pins)
		pin_forget(c, m);
	if (m->copies[tier])
		copy_settle(c, m->copies[tier]);
	model_names_spare(c, m);
	model_check_empty(c, m);
}

void model_used(struct cache *c, struct model *m, uint8_t tier)
{
	int64_t now = rate_time((int64_t)c->now, c->config.half_life_ns);
	m->rate = rate_use(m->rate, now);
	if (c->tiers[tier].kind == TIER_GPU)
		m->gpu_rate = rate_use(m->gpu_rate, now);
	for (uint8_t t = 1; t < c->n_tiers; t++) {
		struct copy *k = m->copies[t];
		if (!k || t == tier || c->tiers[t].kind >= c->tiers[tier].kind)
			continue;
		k->uses++;
		copy_touch(c, k);
	}
}

static void model_pass_pin(struct cache *c, struct model *m, uint8_t tier, struct model *successor)
{
	struct load *l = m->copies[tier] ? m->copies[tier]->load : NULL;
	if (l)
		load_unkeep(c, l, KEEP_PIN);
	model_pin(c, m, tier, false);
	if (!successor)
		return;
	model_pin(c, successor, tier, true);
	struct copy *k = copy_get(c, successor, tier);
	if (k->n_leases && (k->state == COPY_DRAINING || k->state == COPY_FAILED))
		pin_failed(c, successor);
	else if (k->state != COPY_READY)
		load_keep(c, load_get(c, k, m->plan, NULL), KEEP_PIN, CACHE_NOBODY);
}

/* Requests that were not granted yet ask again, for the successor. */
static void model_pass_waiters(struct cache *c, struct load *l, struct model *successor)
{
	struct fault gone;
	fault_set(&gone, TRIMS_E_NOT_FOUND, "%s is no longer at its source", /* its last name may have gone with it */
		list_empty(&l->copy->model->names) ? "the model" : model_label(l->copy->model));
	while (!list_empty(&l->waiters)) {
		struct request *r = list_first(&l->waiters, struct request, wait_node);
		if (successor)
			request_resume(c, r, successor);
		else
			request_abort(c, r, &gone);
	}
}

void model_retire(struct cache *c, struct model *m, struct model *successor)
{
	m->retired = true;
	for (uint8_t t = 1; t < c->n_tiers; t++)
		if (model_is_pinned(m, t))
			model_pass_pin(c, m, t, successor);
	for (uint8_t t = 1; t < c->n_tiers; t++) {
		struct copy *k = m->copies[t];
		if (!k)
			continue;
		if (k->load)
			model_pass_waiters(c, k->load, successor);
		if (k->load)
			load_unkeep(c, k->load, UINT8_MAX);
		copy_settle(c, k); /* dooms what is not being loaded */
	}
	model_check_empty(c, m);
}

/* Whoever still holds a complete copy keeps it whole, so it can be had again. */
void model_revive(struct cache *c, struct model *m)
{
	if (!m->retired)
		return;
	m->retired = false;
	for (uint8_t t = 1; t < c->n_tiers; t++) {
		struct copy *k = m->copies[t];
		if (!k || k->state != COPY_DRAINING || k->doom != DOOM_STALE || !k->n_leases || k->load)
			continue;
		k->doom = DOOM_NONE;
		copy_set(c, k, COPY_READY, NULL);
		copy_shed(c, k);
		copy_settle(c, k);
	}
}

/* ---- copies ---- */

struct copy *copy_get(struct cache *c, struct model *m, uint8_t tier)
{
	ASSERT(tier > 0 && tier < c->n_tiers);
	if (m->copies[tier])
		return m->copies[tier];
	struct copy *k = memory_new(sizeof(*k));
	k->magic = COPY_MAGIC;
	k->tier = tier;
	k->model = m;
	k->since = c->now;
	list_init(&k->leases);
	list_init(&k->idle_node);
	list_init(&k->young_node);
	list_init(&k->soft_node);
	list_init(&k->partial_node);
	list_init(&k->empty_node);
	m->copies[tier] = k;
	if (m->n_copies++ == 0)
		model_names_spare(c, m);
	list_add_tail(&k->empty_node, &c->empty_copies); /* unless a load takes it before the event is over */
	return k;
}

void copy_free(struct cache *c, struct copy *k)
{
	CHECK_OBJ(k, COPY_MAGIC);
	struct model *m = k->model;
	ASSERT(k->state == COPY_ABSENT && !k->load && !k->growth && !heap_hooked(&k->victim_node) && !list_hooked(&k->idle_node));
	list_del(&k->empty_node);
	m->copies[k->tier] = NULL;
	m->n_copies--;
	plan_set(c, &k->plan, 0);
	k->magic = 0;
	memory_free(k->fault);
	memory_free(k);
	model_names_spare(c, m);
	model_check_empty(c, m);
}

void copy_set(struct cache *c, struct copy *k, enum copy_state to, const char *why)
{
	enum copy_state from = k->state;
	ASSERT(edge_why[from][to]);
	k->state = to;
	k->since = c->now;
	if (c->config.on_edge)
		c->config.on_edge(c->config.ctx, k->model->id, k->tier, from, to, why ? why : edge_why[from][to]);
	if (from == COPY_READY || to == COPY_READY)
		evict_rerank_others(c, k);
}

void copy_poison(struct cache *c, struct copy *k, const struct fault *why)
{
	if (!k->fault)
		k->fault = memory_new(sizeof(*k->fault));
	*k->fault = *why;
	effect_copy(c, FX_POISON, k);
}

bool copy_is_doomed(const struct copy *k)
{
	return k->doom != DOOM_NONE;
}

static void copy_count_drain(struct cache *c, const struct copy *k)
{
	if (k->doom != DOOM_NONE && k->doom != DOOM_LOST)
		c->tiers[k->tier].evicted[k->doom - 1]++;
	switch (k->doom) {
	case DOOM_LOST:
		c->stats.lost++;
		break;
#define EVICTION(NAME, name, why)                                                                                     \
	case DOOM_##NAME:                                                                                             \
		c->stats.evicted_##name++;                                                                            \
		break;
#include "cache/evictions.def"
#undef EVICTION
	case DOOM_NONE:
		break;
	}
	if (k->prefetched)
		c->stats.prefetch_wasted++;
}

static const char *copy_drain_why(const struct copy *k)
{
	static const char *const texts[] = {
#define EVICTION(NAME, name, why) [DOOM_##NAME] = why,
#include "cache/evictions.def"
#undef EVICTION
		[DOOM_LOST] = "its device was lost",
	};
	return texts[k->doom];
}

void copy_doom(struct cache *c, struct copy *k, enum doom doom)
{
	bool may_come_back = k->state == COPY_DRAINING && k->doom == DOOM_STALE; /* not any more */
	if (may_come_back || (k->state != COPY_ABSENT && k->state != COPY_DRAINING && k->doom == DOOM_NONE))
		k->doom = doom;
	if (k->load)
		load_unkeep(c, k->load, UINT8_MAX);
	copy_settle(c, k);
}

void copy_drain(struct cache *c, struct copy *k, const char *why)
{
	copy_count_drain(c, k);
	copy_set(c, k, COPY_DRAINING, why);
	list_del(&k->young_node);
	k->young = k->prefetched = false;
	if (k->load)
		load_wait_drain(c, k->load);
	if (k->growth)
		growth_stop(c, k);
}

/* The memory is gone: the copy starts over, and whoever waited for that may load. */
static void copy_gone(struct cache *c, struct copy *k)
{
	bool reload = k->doom == DOOM_CORRUPT && model_is_pinned(k->model, k->tier);
	copy_set(c, k, COPY_ABSENT, NULL);
	memory_free(k->fault);
	k->fault = NULL;
	k->doom = DOOM_NONE;
	k->has_memory = k->free_sent = k->filled = k->headed = k->stuck = k->stale_rank = false;
	k->generation = k->bytes = k->landed_bytes = k->final_bytes = k->loaded_at = k->uses = 0;
	k->edition = k->grow_after = 0;
	plan_set(c, &k->plan, 0);
	k->reach = REACH_PLAN;
	k->size = (struct cache_device_size){0};
	k->last_use = 0;
	if (k->load)
		load_copy_gone(c, k->load);
	else if (reload)
		load_keep(c, load_get(c, k, k->model->plan, NULL), KEEP_PIN, CACHE_NOBODY);
	else if (!list_hooked(&k->empty_node))
		list_add_tail(&k->empty_node, &c->empty_copies);
}

/* What follows of itself from who holds the copy. */
static void copy_advance(struct cache *c, struct copy *k)
{
	bool at_rest = k->state == COPY_READY || (k->state == COPY_RESERVED && !k->load);
	if (k->model->retired && at_rest && !copy_is_doomed(k))
		k->doom = DOOM_STALE;
	bool doomed = copy_is_doomed(k);
	if (doomed && (k->state == COPY_READY || (k->state == COPY_RESERVED && k->n_leases == 0)))
		copy_drain(c, k, copy_drain_why(k));
	else if (k->state == COPY_FAILED && k->n_leases == 0)
		copy_drain(c, k, NULL);
	if (k->state != COPY_DRAINING || k->n_leases || k->n_readers || k->alloc_pending || k->trimming || k->growth || k->free_sent)
		return;
	if (k->has_memory) {
		k->free_sent = true;
		effect_copy(c, FX_FREE, k);
	} else {
		copy_gone(c, k);
	}
}

/* A load without a transfer has just seen it end and is about to fail. */
static bool is_being_given_up(const struct load *l)
{
	return !load_is_wanted_by_others(l) || !l->transfer || l->transfer->state == TRANSFER_STOPPING;
}

/* A demand's load that neither an open nor a pin waits for: what wants it are loads it feeds, and these have their memory.
 * So its memory comes free when they are through, and that takes nothing but bytes, links and the hands. */
static bool is_relay(const struct load *l)
{
	list_for_each(it, &l->waiters)
		if (list_entry(it, struct request, wait_node)->ask.kind == ASK_OPEN)
			return false;
	return l->phase == LOAD_ALLOC || l->phase == LOAD_PLAN || l->phase == LOAD_TRANSFER;
}

/* A beginning that others may have, like any that nobody uses: as long as its load waits, it must not hold what a load
 * before it in the queue needs. */
static bool is_waiting_head(const struct copy *k)
{
	return k->state == COPY_RESERVED && (k->load->phase == LOAD_TRIM || (k->load->phase == LOAD_ROOM && !k->load->served));
}

enum hold copy_hold(const struct copy *k)
{
	if (k->state == COPY_ABSENT)
		return HOLD_NONE;
	if (k->n_leases)
		return HOLD_FIRM;
	if (k->state == COPY_DRAINING || k->state == COPY_FAILED)
		return HOLD_FREEING;
	if (copy_is_doomed(k) && is_being_given_up(k->load))
		return HOLD_FREEING; /* LOADING; the other states were left above and by copy_advance() */
	if (model_is_pinned(k->model, k->tier))
		return HOLD_FIRM;
	if (k->load && is_waiting_head(k))
		return HOLD_IDLE;
	if (k->load && (k->load->class != CLASS_DEMAND || !load_is_wanted(k->load)))
		return HOLD_SOFT;
	if (k->load)
		return is_relay(k->load) ? HOLD_RELAY : HOLD_FIRM;
	if (k->n_readers)
		return HOLD_READ;
	if (k->state == COPY_RESERVED && !k->headed)
		return HOLD_PART;
	return k->young ? HOLD_YOUNG : HOLD_IDLE;
}

static void account_apply(struct tier *t, const struct account *a, int sign)
{
	uint64_t bytes = sign > 0 ? a->bytes : -a->bytes; /* unsigned: subtracts */
	uint32_t one = (uint32_t)sign;
	if (a->hold == HOLD_NONE)
		return;
	t->used_bytes += bytes;
	t->hold_bytes[a->hold] += bytes;
	if (a->tail_bytes) {
		uint64_t tail = sign > 0 ? a->tail_bytes : -a->tail_bytes;
		t->used_bytes += tail;
		t->hold_bytes[a->tail_hold] += tail;
	}
	t->n_copies += one;
	t->pinned_bytes += a->pinned ? bytes : 0;
	t->leased_bytes += a->leased ? bytes : 0;
	t->draining_bytes += a->draining ? bytes : 0;
	t->n_pinned += a->pinned ? one : 0;
	t->n_leased += a->leased ? one : 0;
	t->n_partial += a->partial ? one : 0;
	t->n_heads += a->head ? one : 0;
}

static void account_parts(struct account *a, const struct copy *k)
{
	a->bytes = copy_base_bytes(k);
	a->tail_bytes = k->bytes - a->bytes;
	a->tail_hold = copy_tail_hold(k);
	a->partial = k->state == COPY_READY && !copy_is_whole(k);
	a->head = copy_is_head(k);
}

/* What idle time could complete. */
static void copy_list_partial(struct tier *t, struct copy *k)
{
	bool wanted = k->account.partial || (k->state == COPY_RESERVED && k->headed);
	if (k->growth || wanted == list_hooked(&k->partial_node))
		return;
	list_del(&k->partial_node);
	if (wanted)
		list_add_tail(&k->partial_node, &t->partial);
}

static void copy_account(struct cache *c, struct copy *k)
{
	struct tier *t = &c->tiers[k->tier];
	struct account was = k->account;
	struct account is = {.bytes = k->bytes, .hold = copy_hold(k)};
	bool by_plan = k->plan; /* without one there are no parts: this is for every open and close */
	if (is.hold != HOLD_NONE) {
		if (by_plan)
			account_parts(&is, k);
		is.pinned = model_is_pinned(k->model, k->tier);
		is.leased = k->n_leases > 0;
		is.draining = k->state == COPY_DRAINING;
	}
	account_apply(t, &was, -1);
	account_apply(t, &is, 1);
	k->account = is;
	if (was.hold != is.hold) {
		evict_place(c, k, was.hold, is.hold);
		t->dirty = true;
	} else if (was.bytes != is.bytes || was.tail_bytes != is.tail_bytes || was.tail_hold != is.tail_hold) {
		t->dirty = true;
	}
	if (by_plan) {
		evict_reclass(c, k);
		copy_list_partial(t, k);
	}
}

void copy_settle(struct cache *c, struct copy *k)
{
	CHECK_OBJ(k, COPY_MAGIC);
	copy_advance(c, k);
	copy_account(c, k);
}

void copy_touch(struct cache *c, struct copy *k)
{
	k->last_use = (int64_t)c->now;
	k->stale_rank = true;
	if (list_hooked(&k->idle_node)) {
		list_del(&k->idle_node);
		list_add_tail(&k->idle_node, &c->tiers[k->tier].idle);
	}
}

void copy_set_young(struct cache *c, struct copy *k)
{
	if (c->config.min_residency_ns == 0)
		return;
	k->young = true;
	list_add_tail(&k->young_node, &c->tiers[k->tier].young);
}

void copy_ready(struct cache *c, struct copy *k)
{
	copy_set(c, k, COPY_READY, NULL);
	if (model_is_pinned(k->model, k->tier))
		k->model->pin_failures = 0;
	if (k->final_bytes)
		k->bytes = MIN(k->bytes, k->final_bytes);
	k->landed_bytes = k->bytes;
	k->loaded_at = c->now;
	copy_touch(c, k);
	if (k->n_leases || k->load->keep) /* else it came only to be passed on */
		copy_set_young(c, k);
}
