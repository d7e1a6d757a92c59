/* reach.c - how much of a copy is on its device.
 *
 * A plan leaves part of an image on the host, and may name a beginning after which the rest arrives no later than it is
 * needed.  So a copy may lose its tail when others need the room (copy_trim): a READY one becomes a head, RESERVED, which
 * the next load completes.  And in idle time a READY one may grow to all of the image, whoever holds it meanwhile.
 *
 * Invariants: what leaves a copy is in nobody's hands: it loses its tail while nobody holds it, and a growth that came to
 * nothing was never shown to anybody.  A growth has no waiters: it ends when anything is in its way, and the copy is what it
 * was.  One thing at a time: a tail that leaves, or memory that is asked for, or a transfer. */
#include "cache/brain.h"

void plan_set(struct cache *c, uint64_t *place, uint64_t plan)
{
	const uint64_t before = *place, moved[2] = {plan, before};
	*place = plan;
	for (int i = 0; i < 2 && plan != before; i++)
		if (moved[i]) {
			int change = i ? -1 : 1;
			c->plan_refs += (uint64_t)change;
			c->plan_sum += (uint64_t)change * moved[i];
			if (c->config.plan_ref)
				c->config.plan_ref(c->config.ctx, moved[i], change);
		}
}

struct cache_device_size device_size(const struct cache *c, const struct model *m, uint64_t plan)
{
	struct cache_device_size s = {.plan_bytes = m->info.gpu_bytes, .all_bytes = m->info.gpu_bytes};
	if (plan && c->config.device_size)
		c->config.device_size(c->config.ctx, &m->info, plan, &s);
	s.plan_bytes = MIN(s.plan_bytes, BYTES_LIMIT);
	s.all_bytes = MIN(MAX(s.all_bytes, s.plan_bytes), BYTES_LIMIT);
	if (s.head_bytes >= s.plan_bytes)
		s.head_bytes = 0;
	return s;
}

uint64_t copy_reach_bytes(const struct copy *k, enum copy_reach reach)
{
	return reach == REACH_HEAD ? k->size.head_bytes : reach == REACH_ALL ? k->size.all_bytes : k->size.plan_bytes;
}

bool copy_is_whole(const struct copy *k)
{
	return k->reach == REACH_ALL || (k->reach == REACH_PLAN && k->size.plan_bytes == k->size.all_bytes);
}

bool copy_is_head(const struct copy *k)
{
	return k->state == COPY_RESERVED && k->reach == REACH_HEAD;
}

/* ---- the tail ---- */

/* While the copy drains, what it was to grow by goes with it. */
static bool tail_is_apart(const struct copy *k)
{
	return k->trimming || (k->growth && k->state == COPY_READY);
}

uint64_t copy_base_bytes(const struct copy *k)
{
	return k->bytes - (tail_is_apart(k) ? k->tail_bytes : 0);
}

enum hold copy_tail_hold(const struct copy *k)
{
	if (!tail_is_apart(k) || k->tail_bytes == 0)
		return HOLD_NONE;
	return k->trimming || k->growth->condemned ? HOLD_FREEING : HOLD_SOFT;
}

enum copy_reach copy_spare(const struct copy *k)
{
	bool at_rest = k->state == COPY_READY || (k->state == COPY_RESERVED && k->headed);
	if (!at_rest || k->load || k->growth || k->trimming || k->stuck || k->alloc_pending)
		return REACH_N;
	if (k->reach == REACH_ALL && k->bytes > k->size.plan_bytes)
		return REACH_PLAN;
	return k->reach == REACH_PLAN && k->size.head_bytes ? REACH_HEAD : REACH_N;
}

static void trim_send(struct cache *c, struct copy *k, uint64_t edition)
{
	struct pending_effect *fx = effect_copy(c, FX_TRIM, k);
	k->trimming = true;
	k->awaited = fx->edition = edition;
	fx->bytes = k->bytes - k->tail_bytes;
}

void copy_shed(struct cache *c, struct copy *k)
{
	uint64_t stays = copy_reach_bytes(k, (enum copy_reach)k->reach);
	if (c->tiers[k->tier].kind != TIER_GPU || k->growth || k->trimming || k->stuck || k->bytes <= stays)
		return;
	k->tail_bytes = k->bytes - stays;
	trim_send(c, k, ++c->next_generation);
}

uint64_t copy_trim(struct cache *c, struct copy *k, enum copy_reach reach)
{
	ASSERT(k->n_leases == 0 && k->n_readers == 0 && copy_spare(k) != REACH_N);
	bool was_whole = copy_is_whole(k);
	uint64_t stays = copy_reach_bytes(k, reach);
	k->tail_bytes = k->bytes - stays;
	k->landed_bytes = MIN(k->landed_bytes, stays);
	k->reach = (uint8_t)reach;
	k->edition = ++c->next_generation;
	if (reach == REACH_HEAD && k->state == COPY_READY) {
		k->headed = true;
		copy_set(c, k, COPY_RESERVED, NULL);
	} else if (was_whole) {
		evict_rerank_others(c, k); /* it is no source any more */
	}
	c->stats.trimmed++;
	trim_send(c, k, k->edition);
	copy_settle(c, k);
	return k->tail_bytes;
}

void cache_trimmed(struct cache *c, uint64_t now, uint64_t model, uint8_t tier, uint64_t edition, uint64_t bytes)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	struct copy *k = m && tier < c->n_tiers ? m->copies[tier] : NULL;
	if (!k || !k->trimming || k->awaited != edition)
		return; /* an answer nobody waits for */
	uint64_t least = k->bytes - k->tail_bytes, stays = MIN(MAX(bytes, least), k->bytes);
	c->stats.trimmed_bytes += k->bytes - stays;
	k->stuck |= stays > least;
	k->bytes = stays;
	k->tail_bytes = 0;
	k->trimming = false;
	if (k->load && k->load->phase == LOAD_TRIM) {
		k->load->phase = LOAD_ROOM;
		room_enter(c, k->load);
	}
	copy_settle(c, k);
	brain_run(c);
}

void head_alloc_done(struct cache *c, struct copy *k, const struct fault *error)
{
	if (error) {
		k->bytes -= k->tail_bytes;
		k->reach = REACH_HEAD;
		k->grow_after = c->now + GROW_AGAIN_NS;
	}
	k->tail_bytes = 0;
	if (!k->load || k->state != COPY_RESERVED)
		return;
	if (!error)
		load_replan(c, k->load);
	else if (!room_squeeze(c, k->load, error))
		load_fail(c, k->load, error);
}

/* ---- growing ---- */

void growth_start(struct cache *c, struct copy *k)
{
	struct load *g = load_new(c, k);
	uint64_t bytes = MAX(k->size.all_bytes, k->bytes); /* more of it may be there than should */
	g->phase = LOAD_ALLOC;
	g->class = CLASS_PREFETCH;
	plan_set(c, &g->plan, k->plan);
	g->size = k->size;
	g->edition = ++c->next_generation;
	k->growth = g;
	k->tail_bytes = bytes - k->bytes;
	k->bytes = bytes;
	k->alloc_pending = true;
	k->awaited = g->edition;
	list_del(&k->partial_node);
	list_add_tail(&k->partial_node, &c->tiers[k->tier].growths);
	struct pending_effect *fx = effect_copy(c, FX_ALLOC, k);
	fx->edition = g->edition;
	fx->reach = REACH_ALL;
	fx->grow = true;
	copy_settle(c, k);
}

static void growth_end(struct cache *c, struct copy *k)
{
	list_del(&k->partial_node);
	load_bury(c, k->growth);
	k->growth = NULL;
}

/* It came to nothing; its memory is there. */
static void growth_give_back(struct cache *c, struct copy *k)
{
	uint64_t edition = k->growth->edition;
	growth_end(c, k);
	c->stats.grows_given_up++;
	k->landed_bytes = MIN(k->landed_bytes, k->bytes - k->tail_bytes);
	if (k->state == COPY_READY)
		trim_send(c, k, edition);
	else
		k->tail_bytes = 0; /* it leaves as a whole */
	copy_settle(c, k);
}

void growth_stop(struct cache *c, struct copy *k)
{
	struct load *g = k->growth;
	if (g->condemned)
		return;
	g->condemned = true;
	list_del(&k->partial_node);
	if (g->transfer && transfer_is_running(g->transfer)) {
		transfer_stop(c, g->transfer); /* growth_transfer_ended() goes on */
	} else if (g->transfer) {
		transfer_drop(c, g->transfer);
		growth_give_back(c, k);
	}
	copy_settle(c, k);
}

void growth_alloc_done(struct cache *c, struct copy *k, const struct fault *error)
{
	uint8_t host = cache_tier_index(c, TIER_HOST, 0);
	const struct copy *source = k->model->copies[host];
	if (error) {
		k->bytes -= k->tail_bytes;
		k->tail_bytes = 0;
		k->grow_after = c->now + GROW_AGAIN_NS;
		c->stats.grows_given_up++;
		growth_end(c, k);
	} else if (k->growth->condemned || !source || source->state != COPY_READY) {
		growth_give_back(c, k);
	} else {
		k->growth->phase = LOAD_TRANSFER;
		transfer_new(c, k->growth, host);
	}
}

void growth_transfer_ended(struct cache *c, struct copy *k, enum load_end end)
{
	c->stats.loads_done += end == LOAD_END_OK;
	c->stats.loads_cancelled += end == LOAD_END_STOPPED;
	c->stats.loads_failed += end == LOAD_END_FAILED;
	if (end != LOAD_END_OK) {
		if (end == LOAD_END_FAILED)
			k->grow_after = c->now + GROW_AGAIN_NS;
		growth_give_back(c, k);
		return;
	}
	ASSERT(k->state == COPY_READY);
	k->edition = k->growth->edition;
	k->reach = REACH_ALL;
	k->tail_bytes = 0;
	k->landed_bytes = k->bytes;
	c->stats.grown++;
	growth_end(c, k);
	evict_rerank_others(c, k); /* a source now */
	copy_settle(c, k);
}
