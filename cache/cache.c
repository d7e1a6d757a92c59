/* cache.c - making and running the brain: configuration, the work that follows an event, ticks, orders by hand. */
#include "cache/brain.h"

/* ---- configuration ---- */

static int config_tiers_ok(const struct cache_config *g, struct fault *why)
{
	uint32_t disks = 0, hosts = 0;
	if (g->n_tiers < 2 || g->n_tiers > CACHE_MAX_TIERS || g->tiers[0].kind != TIER_REMOTE) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "2 to %d tiers are wanted, the remote one first", CACHE_MAX_TIERS);
		return -EINVAL;
	}
	for (size_t i = 1; i < g->n_tiers; i++) {
		const struct cache_tier_config *t = &g->tiers[i];
		disks += t->kind == TIER_DISK;
		hosts += t->kind == TIER_HOST;
		bool twice = disks > 1 || hosts > 1;
		for (size_t j = 1; j < i; j++)
			twice |= t->kind == TIER_GPU && g->tiers[j].kind == TIER_GPU && g->tiers[j].device == t->device;
		if (t->kind == TIER_REMOTE || t->kind >= TIER_KIND_N || twice || t->capacity_bytes > BYTES_LIMIT) {
			fault_set(why, TRIMS_E_BAD_REQUEST, "tier %u is there twice, of no known kind, or too large", (unsigned)i);
			return -EINVAL;
		}
	}
	return 0;
}

static int config_links_ok(const struct cache_config *g, struct fault *why)
{
	if (g->n_links > CACHE_MAX_LINKS) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "more than %d links", CACHE_MAX_LINKS);
		return -EINVAL;
	}
	for (size_t i = 0; i < g->n_links; i++) {
		const struct cache_link_config *x = &g->links[i];
		bool bad = x->from >= g->n_tiers || x->to >= g->n_tiers || x->to == 0 || x->from == x->to ||
			x->max_active == 0 || x->bytes_per_s == 0 || x->bytes_per_s > BYTES_LIMIT;
		for (size_t j = 0; j < i; j++)
			bad |= g->links[j].from == x->from && g->links[j].to == x->to;
		if (bad) {
			fault_set(why, TRIMS_E_BAD_REQUEST, "link %u: ends, slots or rate make no sense", (unsigned)i);
			return -EINVAL;
		}
	}
	return 0;
}

static int config_ok(const struct cache_config *g, struct fault *why)
{
	int r = config_tiers_ok(g, why);
	if (r == 0)
		r = config_links_ok(g, why);
	if (r < 0)
		return r;
	if (!g->policy || !evict_find(g->policy)) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "no eviction policy is named %s", g->policy ? g->policy : "(none)");
		return -EINVAL;
	}
	if (g->half_life_ns == 0 || g->max_names == 0 || g->max_waiters == 0) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "half-life, max_names and max_waiters must be above 0");
		return -EINVAL;
	}
	return 0;
}

static void cache_take_config(struct cache *c, const struct cache_config *g)
{
	c->config = *g;
	c->config.tiers = NULL;
	c->config.links = NULL;
	c->config.policy = NULL;
	c->policy = evict_find(g->policy);
	for (size_t i = 0; i < g->n_tiers; i++)
		c->tiers[i].capacity_bytes = g->tiers[i].capacity_bytes;
}

static bool deadline_before(const struct heap_node *a, const struct heap_node *b)
{
	const struct request *x = container_of(a, struct request, deadline_node);
	const struct request *y = container_of(b, struct request, deadline_node);
	if (x->ask.deadline != y->ask.deadline)
		return x->ask.deadline < y->ask.deadline;
	return x->ask.owner != y->ask.owner ? x->ask.owner < y->ask.owner : x->ask.token < y->ask.token;
}

static void tier_set_label(struct tier *t, const char *label)
{
	const char *kind = tier_kind_name(t->kind);
	struct fault text; /* it formats and cuts */
	if (t->kind != TIER_GPU)
		fault_set(&text, TRIMS_E_NONE, "%s tier", kind);
	else if (label)
		fault_set(&text, TRIMS_E_NONE, "%s tier of %.64s", kind, label);
	else
		fault_set(&text, TRIMS_E_NONE, "%s tier of device %u", kind, t->device);
	memcpy(t->label, text.text, MIN(strlen(text.text) + 1, sizeof(t->label)));
	t->label[sizeof(t->label) - 1] = 0;
}

static void cache_init_tables(struct cache *c)
{
	map_init(&c->names_by_text);
	map_init(&c->models_by_print);
	map_init(&c->models_by_digest);
	map_init(&c->owners);
	map_init(&c->requests);
	heap_init(&c->deadlines, deadline_before);
	heap_init(&c->pins, pin_before);
	list_init(&c->spare_names);
	list_init(&c->to_plan);
	list_init(&c->to_accept);
	list_init(&c->dirty_links);
	list_init(&c->empty_copies);
	list_init(&c->empty_models);
	list_init(&c->dead_loads);
	list_init(&c->dead_transfers);
}

int cache_new(struct cache **out, const struct cache_config *config, struct fault *why)
{
	int r = config_ok(config, why);
	if (r < 0)
		return r;
	struct cache *c = memory_new(sizeof(*c));
	c->n_tiers = (uint8_t)config->n_tiers;
	c->n_links = config->n_links;
	c->next_generation = config->first_copy;
	cache_init_tables(c);
	for (size_t i = 0; i < c->n_tiers; i++) {
		c->tiers[i].kind = config->tiers[i].kind;
		c->tiers[i].device = config->tiers[i].device;
		c->tiers[i].index = (uint8_t)i;
		tier_set_label(&c->tiers[i], config->tiers[i].label);
		evict_init(&c->tiers[i]);
	}
	for (size_t i = 0; i < c->n_links; i++) {
		link_init(&c->links[i], &config->links[i]);
		c->link_at[config->links[i].from][config->links[i].to] = &c->links[i];
	}
	cache_take_config(c, config);
	*out = c;
	return 0;
}

/* Today's rates stay what they are. */
static void model_shift_rates(struct model *m, int64_t shift)
{
	m->rate = m->rate <= RATE_NEVER ? m->rate : m->rate + shift;
	m->gpu_rate = m->gpu_rate <= RATE_NEVER ? m->gpu_rate : m->gpu_rate + shift;
}

int cache_reconfigure(struct cache *c, const struct cache_config *config, uint64_t now, struct fault *why)
{
	int r = config_ok(config, why);
	if (r < 0)
		return r;
	bool same = config->n_tiers == c->n_tiers && config->n_links == c->n_links;
	for (size_t i = 0; same && i < c->n_tiers; i++)
		same = config->tiers[i].kind == c->tiers[i].kind && config->tiers[i].device == c->tiers[i].device;
	for (size_t i = 0; same && i < c->n_links; i++)
		same = config->links[i].from == c->links[i].from && config->links[i].to == c->links[i].to;
	if (!same) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "tiers and links cannot change while running");
		return -EINVAL;
	}
	brain_begin(c, now);
	int64_t old_time = rate_time((int64_t)now, c->config.half_life_ns);
	uint32_t seed = c->config.hash_seed;
	cache_take_config(c, config);
	c->config.hash_seed = seed; /* the tables are laid out by it */
	int64_t shift = rate_time((int64_t)now, c->config.half_life_ns) - old_time;
	for (struct model *m = slots_above(&c->models, 0); m; m = slots_above(&c->models, m->id))
		model_shift_rates(m, shift);
	evict_rerank_all(c);
	for (size_t i = 1; i < c->n_tiers; i++)
		c->tiers[i].dirty = true;
	brain_run(c);
	return 0;
}

void cache_tier_resize(struct cache *c, uint64_t now, uint8_t tier, uint64_t capacity_bytes)
{
	ASSERT(tier > 0 && tier < c->n_tiers);
	brain_begin(c, now);
	c->tiers[tier].capacity_bytes = MIN(capacity_bytes, BYTES_LIMIT);
	c->tiers[tier].dirty = true;
	brain_run(c);
}

/* ---- the end ---- */

static void free_dead(struct cache *c)
{
	while (!list_empty(&c->dead_transfers)) {
		struct transfer *t = list_first(&c->dead_transfers, struct transfer, dead_node);
		list_del(&t->dead_node);
		t->magic = 0;
		memory_free(t);
	}
	while (!list_empty(&c->dead_loads)) {
		struct load *l = list_first(&c->dead_loads, struct load, dead_node);
		list_del(&l->dead_node);
		heap_fini(&l->wants);
		memory_free(l->inherited);
		plan_set(c, &l->plan, 0);
		l->magic = 0;
		memory_free(l);
	}
}

static void cache_free_load(struct load *l)
{
	if (!l)
		return;
	memory_free(l->transfer);
	memory_free(l->inherited);
	heap_fini(&l->wants);
	memory_free(l);
}

static void cache_free_copy(struct copy *k)
{
	cache_free_load(k->load);
	cache_free_load(k->growth);
	memory_free(k->fault);
	memory_free(k);
}

/* No event goes on here: what hangs on what no longer matters, only that all of it is freed. */
static void cache_free_models(struct cache *c)
{
	for (uint64_t at = 0; c->models.used;) {
		struct model *m = slots_above(&c->models, at);
		at = m->id;
		for (uint8_t t = 1; t < c->n_tiers; t++)
			if (m->copies[t])
				cache_free_copy(m->copies[t]);
		model_free(c, m);
	}
}

static void cache_free_owners(struct cache *c)
{
	for (size_t i = 0; i <= c->owners.mask; i++) {
		struct map_node *next;
		for (struct map_node *node = c->owners.buckets[i]; node; node = next) {
			struct owner *o = container_of(node, struct owner, by_id);
			next = node->next;
			list_for_each_safe(it, &o->leases)
				memory_free(list_entry(it, struct lease, owner_node));
			list_for_each_safe(it, &o->requests) {
				struct request *r = list_entry(it, struct request, owner_node);
				list_del(&r->wait_node);
				memory_free(r);
			}
			memory_free(o);
		}
	}
}

void cache_free(struct cache **cp)
{
	struct cache *c = *cp;
	*cp = NULL;
	if (!c)
		return;
	c->config.plan_ref = NULL;
	cache_free_owners(c);
	names_free(c);
	free_dead(c);
	cache_free_models(c);
	for (size_t i = 0; i < c->n_tiers; i++) {
		heap_fini(&c->tiers[i].victims);
		memory_free(c->tiers[i].lost_why);
	}
	for (size_t i = 0; i < c->n_links; i++)
		heap_fini(&c->links[i].queue);
	heap_fini(&c->deadlines);
	heap_fini(&c->pins);
	struct map *maps[] = {&c->names_by_text, &c->models_by_print, &c->models_by_digest, &c->owners, &c->requests};
	for (size_t i = 0; i < ARRAY_LEN(maps); i++)
		map_fini(maps[i]);
	struct slots *slots[] = {&c->models, &c->names, &c->leases, &c->transfers};
	for (size_t i = 0; i < ARRAY_LEN(slots); i++)
		slots_fini(slots[i]);
	effects_fini(&c->effects);
	memory_free(c);
}

/* ---- running ---- */

void brain_begin(struct cache *c, uint64_t now)
{
	ASSERT(now >= c->now && now <= INT64_MAX);
	c->now = now;
}

static void free_empty_copies(struct cache *c)
{
	while (!list_empty(&c->empty_copies)) {
		struct copy *k = list_first(&c->empty_copies, struct copy, empty_node);
		list_del(&k->empty_node);
		if (k->state == COPY_ABSENT && !k->load)
			copy_free(c, k);
	}
}

static bool brain_step(struct cache *c)
{
	bool worked = false;
	while (!list_empty(&c->to_plan)) {
		load_plan(c, list_first(&c->to_plan, struct load, plan_node));
		worked = true;
	}
	for (size_t i = 1; i < c->n_tiers; i++) {
		if (!c->tiers[i].dirty)
			continue;
		room_pump(c, &c->tiers[i]);
		worked = true;
	}
	while (!list_empty(&c->dirty_links)) {
		struct link *link = list_first(&c->dirty_links, struct link, dirty_node);
		list_del(&link->dirty_node);
		link_pump(c, link);
		worked = true;
	}
	return worked;
}

void brain_run(struct cache *c)
{
	while (brain_step(c))
		;
	while (!list_empty(&c->to_accept)) {
		struct load *l = list_first(&c->to_accept, struct load, accept_node);
		list_del(&l->accept_node);
		load_accept(c, l);
	}
	free_empty_copies(c);
	models_sweep(c);
	free_dead(c);
}

uint64_t cache_tick(struct cache *c, uint64_t now)
{
	brain_begin(c, now);
	requests_expire(c);
	pins_tick(c);
	for (size_t i = 1; i < c->n_tiers; i++)
		evict_tick(c, &c->tiers[i]);
	uint64_t next = load_promote(c);
	next = MIN(next, device_promote(c));
	brain_run(c);
	if (heap_top(&c->deadlines))
		next = MIN(next, container_of(heap_top(&c->deadlines), struct request, deadline_node)->ask.deadline);
	next = MIN(next, pins_wake(c));
	for (size_t i = 1; i < c->n_tiers; i++) {
		next = MIN(next, evict_wake(c, &c->tiers[i]));
		next = MIN(next, room_wake(c, &c->tiers[i]));
	}
	return next;
}

/* ---- events that concern one copy ---- */

void cache_freed(struct cache *c, uint64_t now, uint64_t model, uint8_t tier, uint64_t copy)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	struct copy *k = m && tier < c->n_tiers ? m->copies[tier] : NULL;
	if (!k || k->generation != copy || !k->free_sent)
		return; /* an answer nobody waits for */
	k->has_memory = k->free_sent = false;
	copy_settle(c, k);
	brain_run(c);
}

/* What is copied in memory is not checked again on the way: it has the damage, or may have. */
static void fail_fed_by(struct cache *c, const struct copy *source, const struct fault *why)
{
	for (uint8_t t = 1; t < c->n_tiers; t++) {
		struct copy *k = source->model->copies[t];
		struct transfer *transfer = k && k->load ? k->load->transfer : NULL;
		if (k && k->growth && k->growth->transfer && k->growth->transfer->source == source)
			growth_stop(c, k);
		if (!transfer || transfer->source != source)
			continue;
		if (transfer_is_running(transfer))
			load_abort(c, k->load, why);
		else
			transfer_leave_source(c, transfer);
	}
}

void cache_corrupt(struct cache *c, uint64_t now, uint64_t model, uint8_t tier)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	struct copy *k = m && tier < c->n_tiers ? m->copies[tier] : NULL;
	if (!k || k->state == COPY_ABSENT)
		return;
	bool was_good = k->state == COPY_READY || k->state == COPY_LOADING;
	if (was_good && c->tiers[tier].kind != TIER_DISK) {
		struct fault why;
		fault_set(&why, TRIMS_E_MISMATCH, "the bytes of %s in the %s turned out damaged", model_label(m),
			c->tiers[tier].label);
		fail_fed_by(c, k, &why);
		if (k->n_leases && k->state == COPY_READY)
			copy_poison(c, k, &why);
	}
	copy_doom(c, k, DOOM_CORRUPT);
	brain_run(c);
}

void cache_disk_size(struct cache *c, uint64_t model, uint64_t disk_bytes_used)
{
	struct model *m = model_get(c, model);
	uint8_t disk = cache_tier_index(c, TIER_DISK, 0);
	struct copy *k = m && disk != CACHE_NO_TIER ? m->copies[disk] : NULL;
	if (!k || disk_bytes_used > k->bytes)
		return;
	if (k->state == COPY_LOADING) {
		k->final_bytes = disk_bytes_used; /* told just before the transfer's end */
	} else if (k->state == COPY_READY) {
		k->bytes = k->landed_bytes = disk_bytes_used;
		copy_settle(c, k);
		brain_run(c);
	}
}

static struct model *model_named(const struct cache *c, const char *text)
{
	const struct name *n = name_get(c, text, strnlen(text, CACHE_NAME_MAX + 1));
	return n ? n->model : NULL;
}

static bool tier_is_meant(const struct cache *c, uint8_t tier, enum tier_kind kind, uint32_t device)
{
	const struct tier *t = &c->tiers[tier];
	return kind == TIER_REMOTE ||
		(t->kind == kind && (kind != TIER_GPU || device == CACHE_ANY_DEVICE || t->device == device));
}

static bool model_unpin(struct cache *c, struct model *m, uint8_t tier)
{
	if (!model_is_pinned(m, tier))
		return false;
	model_pin(c, m, tier, false);
	if (m->copies[tier] && m->copies[tier]->load)
		load_unkeep(c, m->copies[tier]->load, KEEP_PIN);
	return true;
}

int cache_unpin(struct cache *c, uint64_t now, const char *name, enum tier_kind kind, uint32_t device)
{
	brain_begin(c, now);
	struct model *m = model_named(c, name);
	bool found = false;
	for (uint8_t t = 1; m && t < c->n_tiers; t++)
		if (tier_is_meant(c, t, kind, device))
			found |= model_unpin(c, m, t);
	brain_run(c);
	return found ? 0 : -ENOENT;
}

/* True when there was something. */
static bool evict_one(struct cache *c, struct model *m, uint8_t tier, uint32_t *in_use)
{
	bool found = model_unpin(c, m, tier);
	struct copy *k = m->copies[tier];
	if (!k || (k->state == COPY_ABSENT && !k->load))
		return found;
	copy_doom(c, k, DOOM_ADMIN);
	bool wanted = k->load && load_is_wanted_by_others(k->load);
	if (k->n_leases || k->n_readers || (k->state == COPY_LOADING && wanted))
		++*in_use;
	return true;
}

int cache_evict(struct cache *c, uint64_t now, const char *name, enum tier_kind kind, uint32_t device, uint32_t *in_use)
{
	brain_begin(c, now);
	struct model *m = model_named(c, name);
	bool found = false;
	*in_use = 0;
	if (m)
		m->rate = m->gpu_rate = RATE_NEVER; /* or an idle moment would bring it back */
	for (uint8_t t = (uint8_t)(c->n_tiers - 1); m && t > 0; t--)
		if (tier_is_meant(c, t, kind, device))
			found |= evict_one(c, m, t, in_use);
	brain_run(c);
	return found ? 0 : -ENOENT;
}
