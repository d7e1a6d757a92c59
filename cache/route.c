/* route.c - where a copy's bytes come from.
 *
 * Shortest paths over the links, where a path costs what its slowest hop costs (hops run cut-through) plus a little per
 * hop.  A path starts at the remote tier or at a copy that is READY or arriving; the tiers between get copies of their
 * own, where no link leads to the target directly.  A copy that itself is fed from the target is no source for it.
 *
 * All links from the remote tier are one network to it.  While a model comes over one of them a second transfer of it over
 * any costs twice, since the two share what there is (and whoever is on the other end sends everything twice); following
 * the copy that arrives costs a hop. */
#include "cache/brain.h"

/* Follows the chain of who fills whom. */
static bool copy_feeds_on(const struct copy *k, const struct copy *target)
{
	for (int hops = 0; k && hops <= CACHE_MAX_TIERS; hops++) {
		if (k == target)
			return true;
		const struct load *l = k->load;
		if (!l)
			return false;
		k = l->transfer ? l->transfer->source : l->source.load ? l->source.load->copy : NULL;
	}
	return false;
}

static bool copy_blocks(const struct copy *k)
{
	return k->n_leases && (k->state == COPY_DRAINING || k->state == COPY_FAILED || copy_is_doomed(k));
}

struct search {
	struct cache *c;
	const struct model *m;
	const struct copy *target; /* NULL: absent */
	uint8_t to;
	bool local_only, blocked, too_small;
	bool is_coming; /* from the remote tier, to some other tier */
	uint64_t cost[CACHE_MAX_TIERS];
	uint8_t via[CACHE_MAX_TIERS];
	bool is_source[CACHE_MAX_TIERS];
};

static uint64_t move_ns(const struct link *link, uint64_t bytes)
{
	unsigned __int128 ns = (unsigned __int128)bytes * NS_PER_S / link->bytes_per_s;
	return ns < UINT64_MAX / 4 ? (uint64_t)ns : UINT64_MAX / 4;
}

/* How long until a transfer is through: no sooner than the one it follows.  As deep as there are tiers. */
static uint64_t arrival_ns(const struct transfer *t)
{
	uint64_t all = t->load->copy->model->info.image_bytes;
	uint64_t own = move_ns(t->link, all - MIN(all, t->load->copy->landed_bytes));
	return MAX(own, t->leader ? arrival_ns(t->leader) : 0) + ROUTE_HOP_NS;
}

static bool search_is_coming(const struct search *s)
{
	for (uint8_t t = 1; t < s->c->n_tiers; t++) {
		const struct copy *k = s->m->copies[t];
		if (t != s->to && k && k->load && k->load->transfer && k->load->transfer->link->from == 0)
			return true;
	}
	return false;
}

/* What it takes until the bytes of a tier's copy are there; false: it is no source. */
static bool search_source(const struct search *s, uint8_t tier, uint64_t *cost)
{
	const struct copy *k = s->m->copies[tier];
	*cost = 0;
	if (tier == 0)
		return !s->local_only;
	if (tier == s->to || !k || copy_is_doomed(k) || !copy_is_whole(k) || s->c->tiers[tier].lost)
		return false;
	if (k->state == COPY_READY)
		return true;
	if (k->state != COPY_LOADING || !k->load->transfer || copy_feeds_on(k, s->target))
		return false;
	*cost = arrival_ns(k->load->transfer);
	return true;
}

/* May the model get a copy on this tier, to be passed on? */
static bool search_may_create(struct search *s, uint8_t tier)
{
	const struct tier *t = &s->c->tiers[tier];
	const struct copy *k = s->m->copies[tier];
	if (tier == s->to)
		return true;
	if (s->local_only || (t->kind != TIER_HOST && t->kind != TIER_DISK))
		return false;
	if (t->kind == TIER_DISK && s->m->info.in_place)
		return false;
	if (model_tier_bytes(s->c, s->m, tier) > t->capacity_bytes) {
		s->too_small = true;
		return false;
	}
	if (k && copy_blocks(k)) {
		s->blocked = true;
		return false;
	}
	return !k || !k->load || !s->target || !copy_feeds_on(k, s->target);
}

/* relays: copies may be made on tiers between. */
static void search_run(struct search *s, bool relays)
{
	bool may[CACHE_MAX_TIERS], changed = true;
	for (uint8_t t = 0; t < s->c->n_tiers; t++) {
		s->is_source[t] = search_source(s, t, &s->cost[t]);
		may[t] = !s->is_source[t] && t != 0 && (relays || t == s->to) && search_may_create(s, t);
		if (!s->is_source[t])
			s->cost[t] = UINT64_MAX;
	}
	while (changed) {
		changed = false;
		for (size_t i = 0; i < s->c->n_links; i++) {
			const struct link *link = &s->c->links[i];
			if (!may[link->to] || s->cost[link->from] == UINT64_MAX)
				continue;
			uint64_t hop = move_ns(link, s->m->info.image_bytes) << (link->from == 0 && s->is_coming);
			uint64_t cost = MAX(hop, s->cost[link->from]) + ROUTE_HOP_NS;
			if (cost < s->cost[link->to]) {
				s->cost[link->to] = cost;
				s->via[link->to] = link->from;
				changed = true;
			}
		}
	}
}

int route_find(struct cache *c, const struct model *m, uint8_t to, bool local_only, struct route *out)
{
	struct search s = {.c = c, .m = m, .target = m->copies[to], .to = to, .local_only = local_only};
	s.is_coming = search_is_coming(&s);
	/* A direct link wins over any relay: rates are estimates, and a relay's second hop shares what the first one uses. */
	search_run(&s, false);
	if (s.cost[to] == UINT64_MAX)
		search_run(&s, true);
	if (s.cost[to] == UINT64_MAX)
		return s.blocked ? -EBUSY : s.too_small ? -EFBIG : -ENOENT;
	*out = (struct route){.from = s.via[to], .direct = s.is_source[s.via[to]], .cost_ns = s.cost[to]};
	return 0;
}

uint64_t route_reload_ns(struct cache *c, const struct model *m, uint8_t tier)
{
	struct route r;
	return route_find(c, m, tier, false, &r) < 0 ? UINT64_MAX / 4 : r.cost_ns;
}
