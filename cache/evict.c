/* evict.c - the victims of a tier.
 *
 * Invariants: the heap holds every PART and IDLE copy, partial ones first, then by key, then by last use.  It may hold
 * others, and ranks older than a copy's last use: opening and closing a resident model moves nothing in it.  Since use
 * only raises a rank, both are put right when they come to the top.  The idle list holds exactly the PART, IDLE and YOUNG
 * copies, in order of last use. */
#include "cache/brain.h"

const struct evict_ops *evict_find(const char *name)
{
	static const struct evict_ops *const all[] = {
#define POLICY(name, doc) &evict_##name,
#include "cache/policies.def"
#undef POLICY
	};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

static bool victim_before(const struct heap_node *a, const struct heap_node *b)
{
	const struct copy *x = container_of(a, struct copy, victim_node), *y = container_of(b, struct copy, victim_node);
	if (x->rank.class != y->rank.class)
		return x->rank.class < y->rank.class;
	if (x->rank.key != y->rank.key)
		return x->rank.key < y->rank.key;
	if (x->rank.last_use != y->rank.last_use)
		return x->rank.last_use < y->rank.last_use;
	return x->generation < y->generation;
}

void evict_init(struct tier *t)
{
	heap_init(&t->victims, victim_before);
	list_init(&t->idle);
	list_init(&t->young);
	list_init(&t->soft);
	list_init(&t->queue);
	list_init(&t->partial);
	list_init(&t->growths);
}

/* A tail costs no open any time only if it can come from the host. */
enum rank_class evict_class(const struct cache *c, const struct copy *k)
{
	if (k->account.hold == HOLD_PART)
		return RANK_PART;
	if (copy_spare(k) == REACH_N)
		return RANK_WHOLE;
	uint8_t host = cache_tier_index(c, TIER_HOST, 0);
	const struct copy *source = host == CACHE_NO_TIER ? NULL : k->model->copies[host];
	return source && source->state == COPY_READY ? RANK_TAIL : RANK_WHOLE;
}

/* A part of the image takes a part of the time. */
static uint64_t reload_ns(struct cache *c, const struct model *m, uint8_t tier, const struct copy *k)
{
	uint64_t whole = route_reload_ns(c, m, tier), all = k ? k->size.all_bytes : 0;
	return all ? (uint64_t)((unsigned __int128)whole * MIN(copy_base_bytes(k), all) / all) : whole;
}

int64_t evict_key_of(struct cache *c, const struct model *m, uint8_t tier, const struct copy *k)
{
	int64_t rate = m->rate;
	if (!k)
		rate = rate_use(rate, rate_time((int64_t)c->now, c->config.half_life_ns));
	struct evict_subject s = {
		.bytes = k ? copy_base_bytes(k) : model_tier_bytes(c, m, tier),
		.uses = k ? k->uses : 1,
		.last_use = k ? k->last_use : (int64_t)c->now,
		.loaded_at = k ? k->loaded_at : c->now,
		.rate = rate,
		.reload_ns = c->policy->wants_reload ? reload_ns(c, m, tier, k) : 0,
	};
	return c->policy->key(&s);
}

void evict_rank(struct cache *c, struct copy *k)
{
	k->rank.class = evict_class(c, k);
	k->rank.key = k->rank.class == RANK_PART ? k->last_use : evict_key_of(c, k->model, k->tier, k);
	k->rank.last_use = k->last_use;
	k->stale_rank = false;
}

static bool hold_is_idle(enum hold h)
{
	return h == HOLD_PART || h == HOLD_IDLE || h == HOLD_YOUNG;
}

static bool hold_is_victim(enum hold h)
{
	return h == HOLD_PART || h == HOLD_IDLE;
}

/* By last use; nearly always at the end. */
static void idle_insert(struct tier *t, struct copy *k)
{
	struct list *pos = t->idle.prev;
	while (pos != &t->idle && list_entry(pos, struct copy, idle_node)->last_use > k->last_use)
		pos = pos->prev;
	list_add_before(&k->idle_node, pos->next);
}

void evict_place(struct cache *c, struct copy *k, enum hold old, enum hold now)
{
	struct tier *t = &c->tiers[k->tier];
	if (old == HOLD_SOFT)
		list_del(&k->soft_node);
	if (now == HOLD_FREEING || now == HOLD_NONE)
		heap_del(&t->victims, &k->victim_node);
	if (hold_is_idle(old) && !hold_is_idle(now))
		list_del(&k->idle_node);
	if (now == HOLD_SOFT)
		list_add_tail(&k->soft_node, &t->soft);
	if (hold_is_idle(now) && !hold_is_idle(old))
		idle_insert(t, k);
	if (!hold_is_victim(now))
		return;
	if (heap_hooked(&k->victim_node)) {
		k->stale_rank = true;
	} else {
		evict_rank(c, k);
		heap_add(&t->victims, &k->victim_node);
	}
}

void evict_reclass(struct cache *c, struct copy *k)
{
	if (!hold_is_victim(k->account.hold) || !heap_hooked(&k->victim_node))
		return;
	enum rank_class class = evict_class(c, k);
	if (class > k->rank.class) {
		k->stale_rank = true;
	} else if (class < k->rank.class) {
		evict_rank(c, k);
		heap_update(&c->tiers[k->tier].victims, &k->victim_node);
	}
}

void evict_rerank_others(struct cache *c, const struct copy *k)
{
	for (uint8_t i = 1; i < c->n_tiers; i++) {
		struct copy *x = k->model->copies[i];
		if (!x || x == k || !heap_hooked(&x->victim_node) || x->rank.class == RANK_PART)
			continue;
		evict_reclass(c, x);
		if (!c->policy->wants_reload)
			continue;
		evict_rank(c, x);
		heap_update(&c->tiers[i].victims, &x->victim_node);
	}
}

struct copy *evict_next(struct cache *c, struct tier *t)
{
	struct heap_node *top;
	while ((top = heap_top(&t->victims))) {
		struct copy *k = container_of(top, struct copy, victim_node);
		if (!hold_is_victim(k->account.hold)) {
			heap_del(&t->victims, top); /* comes back when it is idle again */
		} else if (k->stale_rank) {
			evict_rank(c, k);
			heap_update(&t->victims, top);
		} else {
			return k->account.hold == HOLD_PART || c->policy->evicts ? k : NULL;
		}
	}
	return NULL;
}

/* As far down as is needed, if there is a tail; REACH_N: all of it goes. */
static enum copy_reach evict_down_to(const struct copy *k, uint64_t bytes)
{
	enum copy_reach to = copy_spare(k);
	if (to == REACH_PLAN && k->size.head_bytes && k->bytes - k->size.plan_bytes < bytes)
		return REACH_HEAD;
	return to;
}

static uint64_t evict_yield(const struct copy *k, uint64_t bytes)
{
	enum copy_reach to = evict_down_to(k, bytes);
	return copy_base_bytes(k) - (to == REACH_N ? 0 : copy_reach_bytes(k, to));
}

uint64_t evict_take(struct cache *c, struct copy *k, uint64_t bytes)
{
	enum copy_reach to = evict_down_to(k, bytes);
	uint64_t yield = evict_yield(k, bytes);
	if (to == REACH_N)
		copy_doom(c, k, DOOM_ROOM);
	else
		copy_trim(c, k, to);
	return yield;
}

void evict_bytes(struct cache *c, struct tier *t, uint64_t bytes)
{
	while (bytes) {
		struct copy *k = evict_next(c, t);
		ASSERT(k);
		uint64_t freed = evict_take(c, k, bytes);
		bytes -= MIN(bytes, freed);
	}
}

static void evict_put_back(struct tier *t, struct list *chosen)
{
	list_for_each_safe(it, chosen) {
		struct copy *k = list_entry(it, struct copy, soft_node);
		list_del(&k->soft_node);
		heap_add(&t->victims, &k->victim_node);
	}
}

bool evict_bytes_below(struct cache *c, struct tier *t, uint64_t bytes, int64_t key)
{
	struct list chosen, spared;
	uint64_t found = 0;
	list_init(&chosen);
	list_init(&spared);
	/* Victims come off the heap in order; those that turn out not to be enough, or worth too much, go back. */
	while (found < bytes) {
		struct copy *k = evict_next(c, t);
		bool dear = k && k->rank.class != RANK_PART && k->rank.key >= key;
		if (!k || (dear && k->rank.class == RANK_WHOLE))
			break;
		found += dear ? 0 : evict_yield(k, bytes - found);
		heap_del(&t->victims, &k->victim_node);
		list_add_tail(&k->soft_node, dear ? &spared : &chosen);
	}
	evict_put_back(t, &spared);
	if (found < bytes) {
		evict_put_back(t, &chosen);
		return false;
	}
	list_for_each_safe(it, &chosen) {
		struct copy *k = list_entry(it, struct copy, soft_node);
		list_del(&k->soft_node);
		heap_add(&t->victims, &k->victim_node);
		uint64_t freed = evict_take(c, k, bytes);
		bytes -= MIN(bytes, freed);
	}
	return true;
}

void evict_age(struct cache *c, struct tier *t)
{
	while (!list_empty(&t->young)) {
		struct copy *k = list_first(&t->young, struct copy, young_node);
		if (c->now - k->loaded_at < c->config.min_residency_ns)
			return;
		list_del(&k->young_node);
		k->young = false;
		copy_settle(c, k);
	}
}

void evict_rerank_all(struct cache *c)
{
	for (size_t i = 1; i < c->n_tiers; i++) {
		struct heap *h = &c->tiers[i].victims, old = *h;
		heap_init(h, victim_before);
		for (size_t j = 0; j < old.n; j++)
			old.v[j]->at = 0;
		for (size_t j = 0; j < old.n; j++) {
			struct copy *k = container_of(old.v[j], struct copy, victim_node);
			if (!hold_is_victim(k->account.hold))
				continue; /* is ranked when it is idle again */
			evict_rank(c, k);
			heap_add(h, old.v[j]);
		}
		heap_fini(&old);
	}
}

static void evict_unused(struct cache *c, struct tier *t)
{
	while (evict_wake(c, t) <= c->now)
		copy_doom(c, list_first(&t->idle, struct copy, idle_node), DOOM_TTL);
}

uint64_t evict_wake(const struct cache *c, const struct tier *t)
{
	if (c->config.ttl_ns == 0 || list_empty(&t->idle))
		return CACHE_NEVER;
	int64_t last_use = list_first(&t->idle, struct copy, idle_node)->last_use;
	int64_t due; /* may be long past for images found on disk */
	if (c->config.ttl_ns > INT64_MAX || __builtin_add_overflow(last_use, (int64_t)c->config.ttl_ns, &due))
		return CACHE_NEVER;
	return (uint64_t)MAX(due, 0);
}

/* After a reconfiguration made the tier smaller than what is on it. */
static void evict_excess(struct cache *c, struct tier *t)
{
	while (t->used_bytes - t->hold_bytes[HOLD_FREEING] > t->capacity_bytes) {
		struct copy *k = evict_next(c, t);
		if (!list_empty(&t->growths))
			growth_stop(c, list_first(&t->growths, struct copy, partial_node));
		else if (k)
			evict_take(c, k, t->used_bytes - t->hold_bytes[HOLD_FREEING] - t->capacity_bytes);
		else
			return;
	}
}

void evict_tick(struct cache *c, struct tier *t)
{
	evict_age(c, t);
	evict_excess(c, t);
	evict_unused(c, t);
}
