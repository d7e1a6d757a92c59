/* verify.c - walks everything and checks every invariant the other files name at their top.
 * Slow on purpose: it recomputes from the records what the brain keeps up to date as it goes. */
#include "cache/brain.h"

static size_t list_length(const struct list *l)
{
	size_t n = 0;
	list_for_each(it, l) {
		ASSERT(it->next->prev == it && it->prev->next == it);
		n++;
	}
	return n;
}

/* ---- one copy ---- */

/* On a device that died nothing stays but what others have not let go of. */
static void verify_lost(const struct copy *k)
{
	const struct load *l = k->load;
	ASSERT(!model_is_pinned(k->model, k->tier));
	ASSERT(k->state == COPY_DRAINING || k->state == COPY_FAILED || k->state == COPY_LOADING);
	ASSERT(!l || (l->phase == LOAD_TRANSFER && l->transfer->state == TRANSFER_STOPPING && l->condemned));
}

/* How much of it there is, and what becomes of its tail. */
static void verify_reach(const struct cache *c, const struct copy *k)
{
	const struct load *g = k->growth;
	const struct cache_device_size *s = &k->size;
	bool gpu = c->tiers[k->tier].kind == TIER_GPU, regrows = k->headed && k->alloc_pending;
	if (!gpu || k->state == COPY_ABSENT) {
		ASSERT(!s->all_bytes && !k->plan && k->reach == REACH_PLAN && !k->headed && !k->trimming && !g && !k->tail_bytes);
		return;
	}
	ASSERT((!s->head_bytes || s->head_bytes < s->plan_bytes) && s->plan_bytes <= s->all_bytes && (k->plan || s->plan_bytes == s->all_bytes));
	ASSERT(k->bytes >= copy_reach_bytes(k, (enum copy_reach)k->reach) + k->tail_bytes - (regrows ? k->tail_bytes : 0));
	ASSERT(k->stuck || k->trimming || g || k->state == COPY_DRAINING || k->bytes == copy_reach_bytes(k, (enum copy_reach)k->reach));
	ASSERT(k->reach != REACH_HEAD || (k->headed && (k->state == COPY_RESERVED || k->state == COPY_DRAINING)));
	ASSERT(!k->headed || k->filled);
	ASSERT(k->trimming + k->alloc_pending + (g && !k->alloc_pending) + k->free_sent <= 1);
	ASSERT(k->tail_bytes == 0 || k->trimming || g || regrows);
	ASSERT(!k->trimming || k->state == COPY_READY || copy_is_head(k) || k->state == COPY_DRAINING);
	ASSERT(!k->trimming || !k->load || k->load->phase == LOAD_TRIM || k->load->phase == LOAD_DRAIN);
}

static void verify_growth(const struct cache *c, const struct copy *k)
{
	const struct load *g = k->growth;
	bool candidate = (k->state == COPY_READY && !copy_is_whole(k)) || (k->state == COPY_RESERVED && k->headed);
	ASSERT(list_hooked(&k->partial_node) == (g ? !g->condemned : candidate));
	if (!g)
		return;
	CHECK_OBJ(g, LOAD_MAGIC);
	ASSERT(g->copy == k && g != k->load && g->class == CLASS_PREFETCH && k->reach == REACH_PLAN && !copy_is_whole(k));
	ASSERT(k->state == COPY_READY || (k->state == COPY_DRAINING && g->condemned));
	ASSERT(g->phase == LOAD_ALLOC ? k->alloc_pending && !g->transfer : g->phase == LOAD_TRANSFER && g->transfer);
	ASSERT(!g->transfer || c->tiers[g->transfer->link->from].kind == TIER_HOST);
	ASSERT(!g->condemned || !g->transfer || g->transfer->state == TRANSFER_STOPPING);
	ASSERT(g->wants.n == 0 && !g->keep && !g->source.load && list_empty(&g->waiters) && list_empty(&g->dependents));
}

static void verify_state(const struct cache *c, const struct copy *k)
{
	const struct load *l = k->load;
	switch ((enum copy_state)k->state) {
	case COPY_ABSENT:
		ASSERT(l && (l->phase == LOAD_ROOM));
		ASSERT(!k->n_leases && !k->n_readers && !k->has_memory && !k->alloc_pending && k->bytes == 0);
		break;
	case COPY_RESERVED:
		ASSERT(!l || l->phase == LOAD_ALLOC || l->phase == LOAD_SOURCE || k->headed);
		ASSERT(!l || !k->headed || l->phase == (k->trimming ? LOAD_TRIM : k->alloc_pending ? LOAD_ALLOC :
			copy_is_head(k) ? LOAD_ROOM : LOAD_SOURCE));
		ASSERT(k->headed ? k->has_memory : k->has_memory != k->alloc_pending);
		ASSERT(k->n_leases == 0 || l);
		break;
	case COPY_LOADING:
		ASSERT(l && l->phase == LOAD_TRANSFER && l->transfer && k->has_memory);
		break;
	case COPY_READY:
		ASSERT(!l && k->has_memory && !k->doom && !k->model->retired);
		break;
	case COPY_DRAINING:
		ASSERT(!l || l->phase == LOAD_DRAIN);
		ASSERT(k->n_leases || k->n_readers || k->alloc_pending || k->trimming || k->growth || k->free_sent);
		break;
	case COPY_FAILED:
		ASSERT(!l && k->n_leases && k->fault);
		break;
	case COPY_STATE_N:
		NEVER();
	}
	ASSERT(!k->free_sent || (k->state == COPY_DRAINING && !k->n_leases && !k->n_readers));
	ASSERT(k->state == COPY_ABSENT || (k->generation && k->edition));
	ASSERT(k->young == list_hooked(&k->young_node));
	ASSERT(!k->young || k->state == COPY_READY);
	ASSERT(!list_hooked(&k->empty_node));
	if (c->tiers[k->tier].lost)
		verify_lost(k);
}

static void verify_account(const struct cache *c, const struct copy *k)
{
	enum hold h = k->account.hold;
	ASSERT(h == copy_hold(k));
	ASSERT((k->state == COPY_ABSENT) == (h == HOLD_NONE));
	ASSERT(h == HOLD_NONE || k->account.bytes + k->account.tail_bytes == k->bytes);
	ASSERT(h == HOLD_NONE || (k->account.bytes == copy_base_bytes(k) && k->account.tail_hold == copy_tail_hold(k)));
	ASSERT(k->account.tail_hold != HOLD_NONE || k->account.tail_bytes == 0);
	ASSERT(heap_hooked(&k->victim_node) || (h != HOLD_PART && h != HOLD_IDLE));
	ASSERT(!heap_hooked(&k->victim_node) || (h != HOLD_NONE && h != HOLD_FREEING));
	ASSERT(h != HOLD_PART || k->rank.class == RANK_PART);
	ASSERT((h != HOLD_PART && h != HOLD_IDLE) || k->stale_rank || k->rank.class == evict_class(c, k));
	ASSERT(list_hooked(&k->idle_node) == (h == HOLD_PART || h == HOLD_IDLE || h == HOLD_YOUNG));
	ASSERT(list_hooked(&k->soft_node) == (h == HOLD_SOFT));
	bool waits = k->state == COPY_RESERVED && k->load && (k->load->phase == LOAD_TRIM || k->load->phase == LOAD_ROOM);
	bool holds = k->n_leases || k->n_readers || model_is_pinned(k->model, k->tier) || (k->load && !waits);
	ASSERT(!holds || (h != HOLD_PART && h != HOLD_IDLE && h != HOLD_YOUNG));
	ASSERT(!k->n_leases || h == HOLD_FIRM);
	ASSERT(h != HOLD_RELAY || (k->load && !list_empty(&k->load->dependents) && !model_is_pinned(k->model, k->tier)));
	if (h != HOLD_NONE) {
		ASSERT(k->account.leased == (k->n_leases > 0));
		ASSERT(k->account.pinned == model_is_pinned(k->model, k->tier));
		ASSERT(k->account.draining == (k->state == COPY_DRAINING));
		ASSERT(k->account.head == copy_is_head(k));
		ASSERT(k->account.partial == (k->state == COPY_READY && !copy_is_whole(k)));
	}
}

static void verify_leases(const struct copy *k)
{
	ASSERT(list_length(&k->leases) == k->n_leases);
	list_for_each(it, &k->leases) {
		const struct lease *lease = list_entry(it, struct lease, copy_node);
		CHECK_OBJ(lease, LEASE_MAGIC);
		ASSERT(lease->copy == k && lease->want.load == (k->state == COPY_DRAINING ? NULL : k->load));
	}
}

/* ---- one load ---- */

static size_t verify_load_waiters(const struct load *l)
{
	size_t n = 0;
	list_for_each(it, &l->waiters) {
		const struct request *r = list_entry(it, struct request, wait_node);
		CHECK_OBJ(r, REQUEST_MAGIC);
		ASSERT(r->load == l && !r->name && r->ask.kind == ASK_OPEN && r->want.load == l);
		n++;
	}
	/* A copy that can be opened has nobody waiting. */
	ASSERT(n == 0 || l->phase != LOAD_TRANSFER || l->copy->doom);
	return n;
}

static size_t verify_load_dependents(const struct load *l)
{
	size_t n = 0;
	list_for_each(it, &l->dependents) {
		const struct load *d = list_entry(it, struct load, source_node);
		CHECK_OBJ(d, LOAD_MAGIC);
		ASSERT(d->source.load == l && d->copy->model == l->copy->model && d->copy != l->copy);
		ASSERT(d->phase == LOAD_SOURCE || d->phase == LOAD_TRANSFER);
		ASSERT(d->source.class == d->class && d->source.deadline == d->deadline && d->source.user == d->user);
		n++;
	}
	return n;
}

static void verify_load(const struct cache *c, const struct copy *k)
{
	const struct load *l = k->load;
	if (!l)
		return;
	CHECK_OBJ(l, LOAD_MAGIC);
	ASSERT(l->copy == k && l->phase != LOAD_DEAD && l->phase != LOAD_PLAN);
	heap_verify(&l->wants);
	size_t wants = verify_load_waiters(l) + verify_load_dependents(l) + (l->own.load ? 1 : 0) +
		(k->state == COPY_DRAINING ? 0 : k->n_leases);
	ASSERT(wants == l->wants.n);
	ASSERT((l->keep != 0) == (l->own.load == l));
	ASSERT(list_hooked(&l->queue_node) == (l->phase == LOAD_ROOM));
	ASSERT(!list_hooked(&l->plan_node) && !list_hooked(&l->accept_node) && !list_hooked(&l->dead_node));
	ASSERT((l->transfer != NULL) == (l->phase == LOAD_TRANSFER));
	ASSERT(!l->source.load || l->phase == LOAD_SOURCE || l->phase == LOAD_TRANSFER);
	ASSERT(l->phase != LOAD_SOURCE || l->source.load);
	if (wants) {
		const struct want *best = container_of(heap_top(&l->wants), struct want, node);
		ASSERT(best->class == l->class && best->deadline == l->deadline && best->user == l->user);
	} else {
		ASSERT(l->transfer && l->transfer->state == TRANSFER_STOPPING);
	}
}

static void verify_transfer(const struct cache *c, const struct transfer *t)
{
	CHECK_OBJ(t, TRANSFER_MAGIC);
	CHECK_OBJ(t->load, LOAD_MAGIC);
	ASSERT(t->load->transfer == t);
	ASSERT(t->load->copy->state == COPY_LOADING || t->load == t->load->copy->growth);
	ASSERT(t->link->to == t->load->copy->tier && c->link_at[t->link->from][t->link->to] == t->link);
	ASSERT(heap_hooked(&t->queue_node) == (t->state == TRANSFER_QUEUED));
	ASSERT(list_hooked(&t->active_node) == transfer_is_running(t));
	if (t->state == TRANSFER_ACTIVE)
		ASSERT(t->told_class == t->load->class && t->told_deadline == t->load->deadline &&
			t->told_user == t->load->user);
	ASSERT(list_hooked(&t->follower_node) == (t->leader != NULL));
	ASSERT((t->source == NULL) == (t->link->from == 0));
	if (t->source) {
		CHECK_OBJ(t->source, COPY_MAGIC);
		ASSERT(t->source->model == t->load->copy->model && t->source->tier == t->link->from);
		ASSERT(t->source->n_readers && t->source->has_memory && !t->source->free_sent && copy_is_whole(t->source));
	}
	if (t->leader) {
		ASSERT(t->leader->load->copy == t->source && t->source->state == COPY_LOADING);
		ASSERT((t->state == TRANSFER_PARKED) == !transfer_is_running(t->leader) || transfer_is_running(t));
	} else {
		ASSERT(t->state != TRANSFER_PARKED);
	}
	list_for_each(it, &t->followers)
		ASSERT(list_entry(it, struct transfer, follower_node)->leader == t);
}

/* ---- tables ---- */

struct tally {
	struct tier tiers[CACHE_MAX_TIERS];
	size_t waiting, readers, transfers, leases, names, digests, prints;
	uint64_t plan_refs, plan_sum;
};

static void tally_plan(struct tally *n, uint64_t plan)
{
	n->plan_refs += plan != 0;
	n->plan_sum += plan;
}

static void tally_copy(struct tally *n, const struct copy *k)
{
	struct tier *t = &n->tiers[k->tier];
	const struct account *a = &k->account;
	n->readers += k->n_readers;
	tally_plan(n, k->plan);
	tally_plan(n, k->load ? k->load->plan : 0);
	tally_plan(n, k->growth ? k->growth->plan : 0);
	n->leases += k->n_leases;
	n->transfers += k->load && k->load->transfer;
	n->transfers += k->growth && k->growth->transfer;
	n->waiting += k->load ? list_length(&k->load->waiters) : 0;
	if (a->hold == HOLD_NONE)
		return;
	t->n_copies++;
	t->used_bytes += a->bytes + a->tail_bytes;
	t->hold_bytes[a->hold] += a->bytes;
	t->hold_bytes[a->tail_hold] += a->tail_bytes;
	t->n_partial += a->partial;
	t->n_heads += a->head;
	t->pinned_bytes += a->pinned ? a->bytes : 0;
	t->leased_bytes += a->leased ? a->bytes : 0;
	t->draining_bytes += a->draining ? a->bytes : 0;
	t->n_pinned += a->pinned;
	t->n_leased += a->leased;
}

/* A pin is never forgotten: what it is on is there, comes, or is going to be tried again. */
static void verify_pins(const struct cache *c, const struct model *m)
{
	ASSERT(m->pins || (!heap_hooked(&m->pin_node) && !m->pin_failures));
	for (uint8_t t = 1; t < c->n_tiers; t++) {
		const struct copy *k = m->copies[t];
		bool good = k && (k->load || k->state == COPY_READY || k->doom == DOOM_CORRUPT);
		ASSERT(!model_is_pinned(m, t) || good || heap_hooked(&m->pin_node));
	}
}

static void verify_model(const struct cache *c, const struct model *m, struct tally *n)
{
	uint32_t copies = 0;
	CHECK_OBJ(m, MODEL_MAGIC);
	ASSERT(slots_get(&c->models, m->id) == m);
	tally_plan(n, m->plan);
	for (uint8_t t = 0; t < c->n_tiers; t++) {
		const struct copy *k = m->copies[t];
		ASSERT(t > 0 || (!k && !model_is_pinned(m, 0)));
		if (!k)
			continue;
		CHECK_OBJ(k, COPY_MAGIC);
		ASSERT(k->model == m && k->tier == t);
		verify_state(c, k);
		verify_reach(c, k);
		verify_growth(c, k);
		verify_account(c, k);
		verify_leases(k);
		verify_load(c, k);
		tally_copy(n, k);
		copies++;
	}
	ASSERT(copies == m->n_copies && !list_hooked(&m->empty_node));
	ASSERT(list_length(&m->names) == m->n_names && list_length(&m->prints) == m->n_prints);
	ASSERT(m->n_names || !model_is_empty(m));
	ASSERT(!m->retired || (m->n_names == 0 && m->pins == 0));
	verify_pins(c, m);
	n->names += m->n_names;
	n->prints += m->n_prints;
	n->digests += (m->digest_hi | m->digest_lo) != 0;
}

static void verify_tier(const struct cache *c, const struct tier *t, const struct tier *sum, bool shrunk_ok)
{
	ASSERT(t->used_bytes == sum->used_bytes && t->n_copies == sum->n_copies);
	ASSERT(memcmp(t->hold_bytes, sum->hold_bytes, sizeof(t->hold_bytes)) == 0);
	ASSERT(t->pinned_bytes == sum->pinned_bytes && t->leased_bytes == sum->leased_bytes);
	ASSERT(t->draining_bytes == sum->draining_bytes);
	ASSERT(t->n_pinned == sum->n_pinned && t->n_leased == sum->n_leased);
	ASSERT(t->n_partial == sum->n_partial && t->n_heads == sum->n_heads);
	ASSERT(!t->dirty);
	ASSERT(t->served == (list_empty(&t->queue) ? NULL : list_first(&t->queue, struct load, queue_node)));
	heap_verify(&t->victims);
	const struct load *before = NULL;
	list_for_each(it, &t->queue) {
		const struct load *l = list_entry(it, struct load, queue_node);
		ASSERT(!before || load_before(before, l));
		ASSERT(l->served == (l == t->served));
		before = l;
	}
	const struct copy *older = NULL;
	list_for_each(it, &t->idle) {
		const struct copy *k = list_entry(it, struct copy, idle_node);
		ASSERT(!older || older->last_use <= k->last_use);
		older = k;
	}
	older = NULL;
	list_for_each(it, &t->young) {
		const struct copy *k = list_entry(it, struct copy, young_node);
		ASSERT(!older || older->loaded_at <= k->loaded_at);
		older = k;
	}
}

static size_t verify_link(const struct cache *c, const struct link *link)
{
	ASSERT(list_length(&link->active) == link->n_active && link->n_active <= link->max_active);
	ASSERT(link->n_active == link->max_active || link->queue.n == 0);
	ASSERT(!list_hooked(&link->dirty_node));
	heap_verify(&link->queue);
	return link->n_active + link->queue.n;
}

static void verify_transfers(const struct cache *c, const struct tally *n)
{
	size_t on_links = 0, parked = 0, sources = 0, seen = 0;
	for (size_t i = 0; i < c->n_links; i++)
		on_links += verify_link(c, &c->links[i]);
	const struct transfer *t = slots_above(&c->transfers, 0);
	for (; t; t = slots_above(&c->transfers, t->id), seen++) {
		verify_transfer(c, t);
		parked += t->state == TRANSFER_PARKED;
		sources += t->source != NULL;
	}
	ASSERT(seen == c->transfers.used && seen == n->transfers && seen == on_links + parked);
	ASSERT(sources == n->readers);
}

static void verify_names(const struct cache *c, struct tally *n)
{
	size_t spare = 0, seen = 0, known = 0;
	const struct name *name = slots_above(&c->names, 0);
	for (; name; name = slots_above(&c->names, name->id), seen++) {
		CHECK_OBJ(name, NAME_MAGIC);
		bool waited = !list_empty(&name->waiters);
		bool forgettable = !name->resolving && !waited && (!name->model || model_is_empty(name->model));
		ASSERT(list_hooked(&name->spare_node) == forgettable);
		ASSERT(!waited || name->resolving);
		ASSERT(name->model || name->resolving || name->negative);
		ASSERT(!name->model || !name->negative);
		ASSERT(name_get(c, name->text, name->length) == name);
		n->waiting += list_length(&name->waiters);
		known += name->model != NULL;
		spare += forgettable;
	}
	ASSERT(seen == c->names.used && seen == c->names_by_text.n && known == n->names);
	ASSERT(spare == list_length(&c->spare_names));
}

static void verify_owners(const struct cache *c, struct tally *n)
{
	size_t leases = 0, requests = 0;
	for (size_t i = 0; i <= c->owners.mask; i++) {
		for (const struct map_node *node = c->owners.buckets[i]; node; node = node->next) {
			const struct owner *o = container_of(node, struct owner, by_id);
			CHECK_OBJ(o, OWNER_MAGIC);
			ASSERT(o->n_leases || o->n_requests);
			ASSERT(list_length(&o->leases) == o->n_leases && list_length(&o->requests) == o->n_requests);
			list_for_each(it, &o->leases)
				tally_plan(n, list_entry(it, struct lease, owner_node)->ask.plan);
			list_for_each(it, &o->requests)
				tally_plan(n, list_entry(it, struct request, owner_node)->ask.plan);
			leases += o->n_leases;
			requests += o->n_requests;
		}
	}
	ASSERT(leases == n->leases && leases == c->leases.used);
	ASSERT(requests == n->waiting && requests == c->n_requests && requests == c->requests.n);
}

void cache_verify(const struct cache *c)
{
	struct tally n = {0};
	size_t models = 0;
	const struct model *m = slots_above(&c->models, 0);
	for (; m; m = slots_above(&c->models, m->id), models++)
		verify_model(c, m, &n);
	ASSERT(models == c->models.used);
	ASSERT(n.prints == c->models_by_print.n && n.digests == c->models_by_digest.n);
	for (size_t i = 1; i < c->n_tiers; i++)
		verify_tier(c, &c->tiers[i], &n.tiers[i], false);
	verify_transfers(c, &n);
	verify_names(c, &n);
	verify_owners(c, &n);
	ASSERT(n.plan_refs == c->plan_refs && n.plan_sum == c->plan_sum);
	heap_verify(&c->deadlines);
	heap_verify(&c->pins);
	const struct map *maps[] = {&c->names_by_text, &c->models_by_print, &c->models_by_digest, &c->owners, &c->requests};
	for (size_t i = 0; i < ARRAY_LEN(maps); i++)
		map_verify(maps[i]);
	ASSERT(list_empty(&c->to_plan) && list_empty(&c->to_accept) && list_empty(&c->dirty_links));
	ASSERT(list_empty(&c->empty_copies) && list_empty(&c->empty_models));
	ASSERT(list_empty(&c->dead_loads) && list_empty(&c->dead_transfers));
}
