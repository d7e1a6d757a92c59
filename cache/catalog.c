/* catalog.c - names, fingerprints and digests, and the models they lead to.
 *
 * A name is RESOLVING (no model yet, requests wait), KNOWN (leads to a model; resolved again in the background when the
 * last check is too old), or NEGATIVE (there is no such model, for a while); no record: unknown.  Several names, and
 * several fingerprints, may lead to one model.
 *
 * Invariants: the spare list holds exactly the names that may be forgotten: nobody resolves or waits for them, and their
 * model, if any, holds nothing.  A model without names and without copies or pins is forgotten. */
#include "cache/brain.h"

/* ---- names ---- */

struct name *name_get(const struct cache *c, const char *text, size_t length)
{
	struct map_node *node = map_first(&c->names_by_text, hash_bytes(c->config.hash_seed, text, length));
	for (; node; node = map_next(node)) {
		struct name *n = container_of(node, struct name, by_text);
		if (n->length == length && memcmp(n->text, text, length) == 0)
			return n;
	}
	return NULL;
}

static struct name *name_new(struct cache *c, const char *text, size_t length)
{
	struct name *n = memory_new(sizeof(*n) + length + 1);
	n->magic = NAME_MAGIC;
	n->length = length;
	memcpy(n->text, text, length);
	n->id = slots_add(&c->names, n);
	map_add(&c->names_by_text, &n->by_text, hash_bytes(c->config.hash_seed, text, length));
	list_init(&n->model_node);
	list_init(&n->spare_node);
	list_init(&n->waiters);
	return n;
}

/* Takes the name off its model.  What becomes of a model without names is the caller's. */
static void name_unlink(struct cache *c, struct name *n)
{
	struct model *m = n->model;
	if (!m)
		return;
	list_del(&n->model_node);
	m->n_names--;
	n->model = NULL;
	model_check_empty(c, m);
}

static void name_link(struct cache *c, struct name *n, struct model *m)
{
	ASSERT(!n->model);
	model_revive(c, m);
	n->model = m;
	m->n_names++;
	list_add_tail(&n->model_node, &m->names);
	name_spare(c, n);
}

static void name_free(struct cache *c, struct name *n)
{
	CHECK_OBJ(n, NAME_MAGIC);
	ASSERT(list_empty(&n->waiters));
	name_unlink(c, n);
	list_del(&n->spare_node);
	map_del(&c->names_by_text, &n->by_text);
	slots_del(&c->names, n->id);
	memory_free(n->negative);
	n->magic = 0;
	memory_free(n);
}

void name_spare(struct cache *c, struct name *n)
{
	list_del(&n->spare_node);
	if (!n->resolving && list_empty(&n->waiters) && (!n->model || model_is_empty(n->model)))
		list_add_tail(&n->spare_node, &c->spare_names);
}

void model_names_spare(struct cache *c, struct model *m)
{
	list_for_each(it, &m->names)
		name_spare(c, list_entry(it, struct name, model_node));
}

void names_free(struct cache *c)
{
	for (uint64_t at = 0; c->names.used;) {
		struct name *n = slots_above(&c->names, at);
		at = n->id;
		name_free(c, n);
	}
}

/* Forgets spare names, and with the last name their model, until there is room for one more of both. */
static bool catalog_make_room(struct cache *c, const struct slots *what)
{
	while (what->used >= c->config.max_names) {
		if (list_empty(&c->spare_names))
			return false;
		name_free(c, list_first(&c->spare_names, struct name, spare_node));
		models_sweep(c);
	}
	return true;
}

static int catalog_full(const struct cache *c, struct fault *why)
{
	return fault_set(why, TRIMS_E_LIMIT, "%u names or models are known and in use already", c->config.max_names);
}

static void name_resolve(struct cache *c, struct name *n)
{
	struct pending_effect *fx = effect_add(c, FX_RESOLVE);
	fx->name = n->id;
	fx->text = memory_copy(n->text, n->length + 1);
	n->resolving = true;
	memory_free(n->negative);
	n->negative = NULL;
}

struct name *name_open(struct cache *c, const char *text, size_t length, bool only_known, struct fault *why)
{
	struct name *n = name_get(c, text, length);
	if (n && n->negative && c->now - n->checked_at < c->config.negative_ns) {
		*why = *n->negative;
		return NULL;
	}
	if (only_known && !(n && n->model)) {
		fault_set(why, TRIMS_E_NOT_FOUND, "%s is not resident", text);
		return NULL;
	}
	if (!n) {
		if (!catalog_make_room(c, &c->names)) {
			catalog_full(c, why);
			return NULL;
		}
		n = name_new(c, text, length);
	}
	bool due = !n->model || n->model->suspect || !n->checked || c->now - n->checked_at >= c->config.revalidate_ns;
	if (due && !n->resolving)
		name_resolve(c, n);
	name_spare(c, n);
	return n;
}

/* ---- fingerprints and digests ---- */

static struct print *print_get(const struct cache *c, uint64_t hi, uint64_t lo)
{
	struct map_node *node = map_first(&c->models_by_print, hash_pair(c->config.hash_seed, hi, lo));
	for (; node; node = map_next(node)) {
		struct print *p = container_of(node, struct print, by_print);
		if (p->hi == hi && p->lo == lo)
			return p;
	}
	return NULL;
}

static void print_free(struct cache *c, struct print *p)
{
	map_del(&c->models_by_print, &p->by_print);
	list_del(&p->model_node);
	p->model->n_prints--;
	memory_free(p);
}

static void print_link(struct cache *c, struct print *p, struct model *m)
{
	p->model = m;
	list_add_tail(&p->model_node, &m->prints);
	if (++m->n_prints > MODEL_MAX_PRINTS)
		print_free(c, list_first(&m->prints, struct print, model_node));
}

void model_add_print(struct cache *c, struct model *m, uint64_t hi, uint64_t lo)
{
	ASSERT(!print_get(c, hi, lo));
	struct print *p = memory_new(sizeof(*p));
	p->hi = hi;
	p->lo = lo;
	list_init(&p->model_node);
	map_add(&c->models_by_print, &p->by_print, hash_pair(c->config.hash_seed, hi, lo));
	print_link(c, p, m);
}

void model_drop_prints(struct cache *c, struct model *m)
{
	while (!list_empty(&m->prints))
		print_free(c, list_first(&m->prints, struct print, model_node));
}

static void model_set_digest(struct cache *c, struct model *m, uint64_t hi, uint64_t lo)
{
	if (m->digest_hi | m->digest_lo)
		map_del(&c->models_by_digest, &m->by_digest);
	m->digest_hi = hi;
	m->digest_lo = lo;
	map_add(&c->models_by_digest, &m->by_digest, hash_pair(c->config.hash_seed, hi, lo));
}

/* Another model of the same content that names lead to. */
static struct model *model_twin(const struct cache *c, const struct model *m)
{
	struct map_node *node = map_first(&c->models_by_digest, m->by_digest.hash);
	for (; node; node = map_next(node)) {
		struct model *x = container_of(node, struct model, by_digest);
		if (x != m && !x->retired && x->digest_hi == m->digest_hi && x->digest_lo == m->digest_lo &&
			x->info.image_bytes == m->info.image_bytes)
			return x;
	}
	return NULL;
}

static void model_merge(struct cache *c, struct model *from, struct model *into)
{
	while (!list_empty(&from->names)) {
		struct name *n = list_first(&from->names, struct name, model_node);
		name_unlink(c, n);
		name_link(c, n, into);
	}
	while (!list_empty(&from->prints)) {
		struct print *p = list_first(&from->prints, struct print, model_node);
		list_del(&p->model_node);
		from->n_prints--;
		print_link(c, p, into);
	}
	into->rate = MAX(into->rate, from->rate);
	into->gpu_rate = MAX(into->gpu_rate, from->gpu_rate);
	c->stats.merged++;
	model_retire(c, from, into);
}

void cache_identified(struct cache *c, uint64_t now, uint64_t model, uint64_t digest_hi, uint64_t digest_lo)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	if (!m || !(digest_hi | digest_lo))
		return;
	model_set_digest(c, m, digest_hi, digest_lo);
	struct model *twin = c->config.dedup && !m->retired ? model_twin(c, m) : NULL;
	if (twin)
		model_merge(c, m->age < twin->age ? twin : m, m->age < twin->age ? m : twin);
	brain_run(c);
}

/* ---- answers to RESOLVE ---- */

static void name_refuse_waiters(struct cache *c, struct name *n, const struct fault *why)
{
	while (!list_empty(&n->waiters))
		request_refuse(c, list_first(&n->waiters, struct request, wait_node), why);
}

/* Points the name at `m`; the model it leaves, when that was its last name, is on its way out. */
static void name_point(struct cache *c, struct name *n, struct model *m)
{
	struct model *old = n->model;
	if (old == m)
		return;
	name_unlink(c, n);
	name_link(c, n, m);
	if (old && old->n_names == 0)
		model_retire(c, old, m);
}

/* The model of that fingerprint; NULL: *why says. */
static struct model *model_of(struct cache *c, const struct cache_model_info *info, bool *is_new, struct fault *why)
{
	struct print *p = print_get(c, info->fingerprint_hi, info->fingerprint_lo);
	*is_new = !p;
	if (p)
		return p->model;
	if (info->image_bytes > BYTES_LIMIT || info->disk_bytes > BYTES_LIMIT || info->gpu_bytes > BYTES_LIMIT) {
		fault_set(why, TRIMS_E_BAD_MODEL, "a model of %llu bytes is beyond belief",
			(unsigned long long)info->image_bytes);
		return NULL;
	}
	if (!catalog_make_room(c, &c->models)) {
		catalog_full(c, why);
		return NULL;
	}
	return model_new(c, info);
}

static void name_failed(struct cache *c, struct name *n, const struct fault *why)
{
	struct model *old = n->model;
	n->resolving = false;
	n->checked = true;
	n->checked_at = c->now;
	name_refuse_waiters(c, n, why);
	if (old && why->code != TRIMS_E_NOT_FOUND) {
		name_spare(c, n); /* goes on serving what it has; asks again after revalidate_ns */
		return;
	}
	name_unlink(c, n);
	if (old && old->n_names == 0)
		model_retire(c, old, NULL);
	if (why->code != TRIMS_E_NOT_FOUND || c->config.negative_ns == 0) {
		name_free(c, n);
		return;
	}
	n->negative = memory_copy(why, sizeof(*why));
	name_spare(c, n);
}

bool cache_resolved(struct cache *c, uint64_t now, uint64_t name, const struct cache_model_info *info, uint64_t *model)
{
	brain_begin(c, now);
	struct name *n = slots_get(&c->names, name);
	struct fault why;
	bool is_new = false;
	*model = n && n->model ? n->model->id : 0;
	if (!n || !n->resolving)
		return false; /* an answer nobody waits for */
	CHECK_OBJ(n, NAME_MAGIC);
	struct model *m = model_of(c, info, &is_new, &why);
	if (!m) {
		name_failed(c, n, &why);
		brain_run(c);
		return false;
	}
	*model = m->id;
	m->suspect = false;
	n->resolving = false;
	n->checked = true;
	n->checked_at = now;
	name_point(c, n, m);
	while (!list_empty(&n->waiters))
		request_resume(c, list_first(&n->waiters, struct request, wait_node), m);
	name_spare(c, n);
	brain_run(c);
	return is_new;
}

void cache_resolve_failed(struct cache *c, uint64_t now, uint64_t name, const struct fault *why)
{
	brain_begin(c, now);
	struct name *n = slots_get(&c->names, name);
	if (!n || !n->resolving)
		return; /* an answer nobody waits for */
	name_failed(c, n, why);
	brain_run(c);
}

/* ---- what is found at start ---- */

static int adopt_name(struct cache *c, const char *text, struct model *m)
{
	size_t length = strnlen(text, CACHE_NAME_MAX + 1);
	if (length == 0 || length > CACHE_NAME_MAX)
		return -EINVAL;
	struct name *n = name_get(c, text, length);
	if (n)
		return n->model == m ? 0 : -EEXIST;
	if (!catalog_make_room(c, &c->names))
		return -ENOSPC;
	name_link(c, name_new(c, text, length), m);
	return 0;
}

int cache_adopt_name(struct cache *c, uint64_t now, const char *name, uint64_t model)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	if (!m)
		return -ENOENT;
	int r = adopt_name(c, name, m);
	brain_run(c);
	return r;
}

/* A copy with its bytes and number set. */
static void adopt_copy(struct cache *c, struct copy *k, bool complete, uint64_t last_use_age_ns)
{
	struct model *m = k->model;
	int64_t last_use = (int64_t)c->now - (int64_t)MIN(last_use_age_ns, (uint64_t)INT64_MAX);
	list_del(&k->empty_node);
	m->retired = false;
	k->has_memory = k->filled = true;
	k->last_use = last_use;
	k->loaded_at = (uint64_t)MAX(last_use, 0);
	m->rate = rate_use(m->rate, rate_time(last_use, c->config.half_life_ns));
	copy_set(c, k, complete ? COPY_READY : COPY_RESERVED, complete ? NULL : "found partial at start");
	copy_settle(c, k);
}

int cache_adopt(struct cache *c, uint64_t now, const char *name, const struct cache_model_info *info,
	uint64_t disk_bytes_used, bool complete, uint64_t last_use_age_ns, uint64_t *model)
{
	brain_begin(c, now);
	uint8_t disk = cache_tier_index(c, TIER_DISK, 0);
	struct print *p = print_get(c, info->fingerprint_hi, info->fingerprint_lo);
	uint64_t bytes = complete ? disk_bytes_used : info->disk_bytes;
	struct fault why;
	bool is_new;
	if (p && disk != CACHE_NO_TIER && p->model->copies[disk])
		return -EEXIST;
	if (disk == CACHE_NO_TIER || info->in_place || bytes > c->tiers[disk].capacity_bytes ||
		c->tiers[disk].used_bytes + bytes > c->tiers[disk].capacity_bytes)
		return -ENOSPC;
	struct model *m = model_of(c, info, &is_new, &why);
	if (!m)
		return -ENOSPC;
	*model = m->id;
	struct copy *k = copy_get(c, m, disk);
	k->generation = k->edition = ++c->next_generation;
	k->bytes = bytes;
	k->landed_bytes = disk_bytes_used;
	adopt_copy(c, k, complete, last_use_age_ns);
	if (name)
		adopt_name(c, name, m); /* a name that is taken stays where it is */
	brain_run(c);
	return 0;
}

static bool generation_is_taken(const struct cache *c, uint64_t generation)
{
	if (generation > c->next_generation)
		return false;
	for (const struct model *m = slots_above(&c->models, 0); m; m = slots_above(&c->models, m->id))
		for (uint8_t t = 1; t < c->n_tiers; t++)
			if (m->copies[t] && m->copies[t]->generation == generation)
				return true;
	return false;
}

static bool part_ok(const struct tier *t, const struct cache_part *part)
{
	if (!part)
		return true;
	const struct cache_device_size *s = &part->size;
	return t->kind == TIER_GPU && part->plan && (part->reach == REACH_PLAN || part->reach == REACH_ALL) &&
		(!s->head_bytes || s->head_bytes < s->plan_bytes) && s->plan_bytes <= s->all_bytes && s->all_bytes <= BYTES_LIMIT;
}

int cache_adopt_copy(struct cache *c, uint64_t now, const struct cache_model_info *info, uint8_t tier, uint64_t generation,
	uint64_t last_use_age_ns, const struct cache_part *part, uint64_t *model)
{
	brain_begin(c, now);
	struct tier *t = tier < c->n_tiers ? &c->tiers[tier] : NULL;
	struct print *p = print_get(c, info->fingerprint_hi, info->fingerprint_lo);
	struct fault why;
	bool is_new;
	if (!t || (t->kind != TIER_HOST && t->kind != TIER_GPU) || t->lost || generation == 0 || !part_ok(t, part))
		return -EINVAL;
	if ((p && p->model->copies[tier]) || generation_is_taken(c, generation))
		return -EEXIST;
	struct cache_device_size size = {.plan_bytes = info->gpu_bytes ? info->gpu_bytes : info->image_bytes};
	if (part)
		size = part->size;
	else
		size.all_bytes = size.plan_bytes;
	uint64_t bytes = t->kind != TIER_GPU ? info->image_bytes : part && part->reach ? size.all_bytes : size.plan_bytes;
	if (bytes > t->capacity_bytes || t->used_bytes + bytes > t->capacity_bytes)
		return -ENOSPC;
	struct model *m = model_of(c, info, &is_new, &why);
	if (!m)
		return -ENOSPC;
	*model = m->id;
	struct copy *k = copy_get(c, m, tier);
	k->generation = k->edition = generation;
	k->bytes = k->landed_bytes = bytes;
	if (t->kind == TIER_GPU)
		k->size = size;
	if (part) {
		plan_set(c, &k->plan, part->plan);
		plan_set(c, &m->plan, part->plan);
		k->reach = (uint8_t)part->reach;
	}
	c->next_generation = MAX(c->next_generation, generation);
	adopt_copy(c, k, true, last_use_age_ns);
	k->loaded_at = now;
	copy_set_young(c, k); /* whoever has it mapped may be about to claim it */
	copy_settle(c, k);
	if (t->kind == TIER_GPU)
		m->gpu_rate = m->rate;
	brain_run(c);
	return 0;
}
