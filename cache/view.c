/* view.c - looking at the brain without changing it. */
#include "cache/brain.h"

size_t cache_n_tiers(const struct cache *c)
{
	return c->n_tiers;
}

uint8_t cache_tier_index(const struct cache *c, enum tier_kind kind, uint32_t device)
{
	bool any = kind != TIER_GPU || device == CACHE_ANY_DEVICE;
	for (size_t i = 0; i < c->n_tiers; i++)
		if (c->tiers[i].kind == kind && (any || c->tiers[i].device == device))
			return (uint8_t)i;
	return CACHE_NO_TIER;
}

void cache_tier(const struct cache *c, uint8_t tier, struct cache_tier_view *out)
{
	ASSERT(tier < c->n_tiers);
	const struct tier *t = &c->tiers[tier];
	*out = (struct cache_tier_view){
		.kind = t->kind,
		.device = t->device,
		.capacity_bytes = t->capacity_bytes,
		.used_bytes = t->used_bytes,
		.pinned_bytes = t->pinned_bytes,
		.leased_bytes = t->leased_bytes,
		.draining_bytes = t->draining_bytes,
		.copies = t->n_copies,
		.partial = t->n_partial,
		.heads = t->n_heads,
		.lost = t->lost,
	};
	memcpy(out->evicted, t->evicted, sizeof out->evicted);
}

uint64_t cache_link_rate(const struct cache *c, uint8_t from, uint8_t to)
{
	const struct link *link = from < c->n_tiers && to < c->n_tiers ? c->link_at[from][to] : NULL;
	return link ? link->bytes_per_s : 0;
}

uint64_t cache_find(const struct cache *c, const char *name)
{
	const struct name *n = name_get(c, name, strnlen(name, CACHE_NAME_MAX + 1));
	return n && n->model ? n->model->id : 0;
}

static void copy_view(const struct model *m, uint8_t tier, struct cache_copy_view *out)
{
	const struct copy *k = m->copies[tier];
	*out = (struct cache_copy_view){.pins = model_is_pinned(m, tier)};
	if (!k)
		return;
	out->state = k->state;
	out->copy = k->generation;
	out->edition = k->edition;
	out->plan = k->plan;
	out->size = k->size;
	out->reach = (enum copy_reach)k->reach;
	out->growing = k->growth != NULL;
	out->trimming = k->trimming;
	out->bytes = k->bytes;
	out->landed_bytes = k->landed_bytes;
	out->transfer = k->load && k->load->transfer ? k->load->transfer->id : 0;
	out->leases = k->n_leases;
	out->readers = k->n_readers;
	out->since = k->since;
	out->last_use = (uint64_t)MAX(k->last_use, 0);
	out->uses = k->uses;
}

int cache_view(const struct cache *c, uint64_t model, struct cache_model_view *out)
{
	const struct model *m = model_get(c, model);
	if (!m)
		return -ENOENT;
	*out = (struct cache_model_view){
		.model = m->id,
		.info = m->info,
		.digest_hi = m->digest_hi,
		.digest_lo = m->digest_lo,
		.n_names = m->n_names,
	};
	for (uint8_t t = 0; t < c->n_tiers; t++)
		copy_view(m, t, &out->copies[t]);
	return 0;
}

const char *cache_name(const struct cache *c, uint64_t model, uint32_t i)
{
	const struct model *m = model_get(c, model);
	if (!m || i >= m->n_names)
		return NULL;
	const struct list *it = m->names.next;
	while (i--)
		it = it->next;
	return list_entry(it, struct name, model_node)->text;
}

bool cache_names_step(const struct cache *c, uint64_t *cursor, uint32_t most,
	void (*show)(void *ctx, const char *name, uint64_t model), void *ctx)
{
	uint64_t end = c->names.n, from = MIN(*cursor, end);
	*cursor = MIN(from + most, end);
	for (uint64_t i = from; i < *cursor; i++) {
		const struct name *n = c->names.v[i].object;
		if (n && n->model)
			show(ctx, n->text, n->model->id);
	}
	return *cursor < end;
}

bool cache_next_model(const struct cache *c, uint64_t *cursor)
{
	const struct model *m = slots_above(&c->models, *cursor);
	if (!m)
		return false;
	*cursor = m->id;
	return true;
}

const char *copy_state_name(enum copy_state s)
{
	static const char *const names[] = {
#define STATE(NAME, name, doc) #name,
#include "cache/states.def"
#undef STATE
	};
	return (unsigned)s < COPY_STATE_N ? names[s] : "unknown";
}

const char *tier_kind_name(enum tier_kind k)
{
	static const char *const names[] = {
#define TIER(number, NAME, name, doc) [number] = #name,
#include "shared/tiers.def"
#undef TIER
	};
	return (unsigned)k < TIER_KIND_N ? names[k] : "unknown";
}

const struct cache_stats *cache_stats(const struct cache *c)
{
	return &c->stats;
}
