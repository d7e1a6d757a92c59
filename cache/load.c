/* load.c - one load per copy, however many wait for it.
 *
 *   DRAIN -> ROOM -> ALLOC -> PLAN -> TRANSFER -> (copy READY)
 *                              |  ^------'  stopped for a demand, its source gone, or wanted again meanwhile
 *                              `-> SOURCE   until the copy it is filled from starts to arrive
 *
 * Invariants: a load's class and deadline are the best among its wants (waiting requests, leases on the arriving copy,
 * loads filled from it, and `keep`); when the last want goes the load ends, what has landed stays.  Room and memory come
 * first, the source after: a load that waits holds nothing another one needs, so loads cannot wait in a circle. */
#include "cache/brain.h"

bool load_before(const struct load *a, const struct load *b)
{
	if (a->class != b->class)
		return a->class < b->class;
	if (a->deadline != b->deadline)
		return a->deadline < b->deadline;
	return a->age < b->age;
}

static bool want_before(const struct heap_node *a, const struct heap_node *b)
{
	const struct want *x = container_of(a, struct want, node), *y = container_of(b, struct want, node);
	if (x->class != y->class)
		return x->class < y->class;
	if (x->deadline != y->deadline)
		return x->deadline < y->deadline;
	return x->age < y->age;
}

bool load_is_wanted(const struct load *l)
{
	return l->wants.n > 0;
}

bool load_is_wanted_by_others(const struct load *l)
{
	return l->wants.n > (l->own.load ? 1u : 0u);
}

/* ---- wants ---- */

/* Brings class and deadline up to date, and everything that is ordered by them. */
static void load_reclass(struct cache *c, struct load *l)
{
	const struct want *best = container_of(heap_top(&l->wants), struct want, node);
	if (best->class == l->class && best->deadline == l->deadline && best->user == l->user)
		return;
	l->class = best->class;
	l->deadline = best->deadline;
	l->user = best->user;
	if (l->phase == LOAD_ROOM)
		room_resort(c, l);
	if (l->transfer)
		transfer_reclass(c, l->transfer);
	if (l->source.load)
		load_want(c, l->source.load, &l->source, &(struct worth){l->class, l->deadline, l->user});
	copy_settle(c, l->copy);
}

void load_want(struct cache *c, struct load *l, struct want *w, const struct worth *worth)
{
	ASSERT(!w->load || w->load == l);
	w->class = worth->class;
	w->deadline = worth->deadline;
	w->user = worth->user;
	if (w->load) {
		heap_update(&l->wants, &w->node);
	} else {
		w->load = l;
		w->age = ++c->next_age;
		heap_add(&l->wants, &w->node);
	}
	load_reclass(c, l);
	copy_settle(c, l->copy); /* it was given up, is new, or somebody else's now */
}

static void want_unhook(struct want *w)
{
	heap_del(&w->load->wants, &w->node);
	w->load = NULL;
}

static void load_unwanted(struct cache *c, struct load *l);

void load_unwant(struct cache *c, struct want *w)
{
	struct load *l = w->load;
	if (!l)
		return;
	want_unhook(w);
	if (load_is_wanted(l))
		load_reclass(c, l);
	else
		load_unwanted(c, l);
	copy_settle(c, l->copy);
}

static void load_own_want(struct cache *c, struct load *l)
{
	enum load_class class = l->keep == KEEP_PERSIST ? CLASS_PERSIST : CLASS_PREFETCH;
	if (!(l->keep & (KEEP_PREFETCH | KEEP_PIN)))
		l->keeper = CACHE_NOBODY;
	if (l->keep)
		load_want(c, l, &l->own, &(struct worth){class, CACHE_NEVER, l->keeper});
	else
		load_unwant(c, &l->own);
}

void load_keep(struct cache *c, struct load *l, uint8_t keep, uint32_t user)
{
	struct copy *k = l->copy;
	if (keep & (KEEP_PREFETCH | KEEP_PROMOTE) && k->uses == 0 && (k->state == COPY_RESERVED || k->state == COPY_LOADING))
		k->prefetched = true;
	if (keep & ~l->keep) {
		l->keep |= keep;
		l->keeper = l->keeper == CACHE_NOBODY ? user : l->keeper;
		load_own_want(c, l);
	}
}

void load_unkeep(struct cache *c, struct load *l, uint8_t keep)
{
	if (keep & l->keep) {
		l->keep &= (uint8_t)~keep;
		load_own_want(c, l);
	}
}

/* ---- beginning and end ---- */

struct load *load_new(struct cache *c, struct copy *k)
{
	struct load *l = memory_new(sizeof(*l));
	l->magic = LOAD_MAGIC;
	l->copy = k;
	l->class = CLASS_PERSIST;
	l->deadline = CACHE_NEVER;
	l->user = l->keeper = CACHE_NOBODY;
	l->age = ++c->next_age;
	heap_init(&l->wants, want_before);
	list_init(&l->source_node);
	list_init(&l->dependents);
	list_init(&l->waiters);
	list_init(&l->queue_node);
	list_init(&l->plan_node);
	list_init(&l->accept_node);
	list_init(&l->dead_node);
	return l;
}

void load_bury(struct cache *c, struct load *l)
{
	l->phase = LOAD_DEAD;
	list_add_tail(&l->dead_node, &c->dead_loads);
}

/* On a device it says what the copy will be; one that there is something of already is gone on with. */
static void load_set_plan(struct cache *c, struct load *l, uint64_t plan)
{
	const struct copy *k = l->copy;
	bool goes_on = k->state == COPY_RESERVED;
	plan_set(c, &l->plan, goes_on && c->tiers[k->tier].kind == TIER_GPU ? k->plan : plan);
	if (c->tiers[k->tier].kind == TIER_GPU)
		l->size = goes_on ? k->size : device_size(c, k->model, plan);
}

static void load_enter_room(struct cache *c, struct load *l)
{
	l->phase = LOAD_ROOM;
	room_enter(c, l);
}

/* With what an earlier load left, or was kept of a complete copy. */
static void load_go_on(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	ASSERT(k->state == COPY_RESERVED && k->has_memory);
	if (k->trimming)
		l->phase = LOAD_TRIM;
	else if (k->alloc_pending)
		l->phase = LOAD_ALLOC;
	else if (copy_is_head(k))
		load_enter_room(c, l);
	else
		load_replan(c, l);
}

struct load *load_get(struct cache *c, struct copy *k, uint64_t plan, bool *created)
{
	if (created)
		*created = !k->load;
	if (k->load)
		return k->load;
	struct load *l = load_new(c, k);
	k->load = l;
	load_set_plan(c, l, plan);
	list_del(&k->empty_node);
	if (k->state == COPY_DRAINING)
		l->phase = LOAD_DRAIN;
	else if (k->state == COPY_ABSENT)
		load_enter_room(c, l);
	else
		load_go_on(c, l);
	if (model_is_pinned(k->model, k->tier))
		load_keep(c, l, KEEP_PIN, CACHE_NOBODY); /* whoever asked for it may go again */
	copy_settle(c, k);
	return l;
}

static void load_leave_source(struct cache *c, struct load *l)
{
	list_del(&l->source_node);
	load_unwant(c, &l->source);
}

/* Those that are being filled have what they need; those that still wait look for another way. */
static void load_release_dependents(struct cache *c, struct load *l)
{
	while (!list_empty(&l->dependents)) {
		struct load *d = list_first(&l->dependents, struct load, source_node);
		list_del(&d->source_node);
		want_unhook(&d->source);
		if (d->phase == LOAD_SOURCE)
			load_replan(c, d);
	}
}

/* Unhooks the load from everything; its copy has none any more.  The requests that wait for it were answered. */
static void load_end(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	ASSERT(list_empty(&l->waiters) && !l->transfer);
	load_leave_source(c, l);
	load_release_dependents(c, l);
	while (heap_top(&l->wants))
		want_unhook(container_of(heap_top(&l->wants), struct want, node));
	room_leave(c, l);
	list_del(&l->plan_node);
	list_del(&l->accept_node);
	load_bury(c, l);
	k->load = NULL;
	/* A doomed one is not good either: what it was doomed for may have been forgotten for something else since. */
	if ((k->state != COPY_READY || copy_is_doomed(k)) && model_is_pinned(k->model, k->tier))
		pin_failed(c, k->model);
	if (k->state == COPY_ABSENT && !list_hooked(&k->empty_node))
		list_add_tail(&k->empty_node, &c->empty_copies);
}

/* A reservation that no transfer ever wrote to is worth nothing. */
static void load_end_reserved(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	load_end(c, l);
	if (k->state == COPY_RESERVED && !k->filled)
		copy_drain(c, k, "given up before anything arrived");
	copy_settle(c, k);
}

static void load_drop_transfer(struct cache *c, struct load *l)
{
	transfer_drop(c, l->transfer);
	copy_set(c, l->copy, COPY_RESERVED, "given up in the link's queue");
}

/* The last want has gone. */
static void load_unwanted(struct cache *c, struct load *l)
{
	if (l->phase == LOAD_TRANSFER && transfer_is_running(l->transfer)) {
		transfer_stop(c, l->transfer); /* load_transfer_ended() goes on */
		return;
	}
	if (l->phase == LOAD_TRANSFER)
		load_drop_transfer(c, l);
	load_end_reserved(c, l);
}

static void load_refuse_waiters(struct cache *c, struct load *l, const struct fault *why)
{
	while (!list_empty(&l->waiters)) {
		struct request *r = list_first(&l->waiters, struct request, wait_node);
		if (r->want.load)
			want_unhook(&r->want); /* not load_unwant(): what becomes of the load is the caller's */
		request_refuse(c, r, why);
	}
}

/* Trouble that a disk has is none of those who read behind it and can have the bytes from elsewhere: they look for another
 * source, once per load. */
static bool load_may_go_elsewhere(const struct cache *c, const struct load *l, struct load *d, const struct fault *why)
{
	bool local = why->code == TRIMS_E_DISK_FULL || why->code == TRIMS_E_DISK_ERROR || why->code == TRIMS_E_NO_ROOM;
	if (!local || c->tiers[l->copy->tier].kind != TIER_DISK || d->retried || !c->link_at[0][d->copy->tier])
		return false;
	d->retried = true;
	return true;
}

static void load_fail_dependents(struct cache *c, struct load *l, const struct fault *why)
{
	while (!list_empty(&l->dependents)) {
		struct load *d = list_first(&l->dependents, struct load, source_node);
		list_del(&d->source_node);
		want_unhook(&d->source);
		if (load_may_go_elsewhere(c, l, d, why)) {
			if (d->phase == LOAD_SOURCE)
				load_replan(c, d);
			/* else its transfer is stranded when this one's ends */
		} else if (d->phase == LOAD_TRANSFER && transfer_is_running(d->transfer)) {
			if (!d->inherited)
				d->inherited = memory_copy(why, sizeof(*why));
			transfer_stop(c, d->transfer);
		} else {
			load_fail(c, d, why);
		}
	}
}

void load_fail(struct cache *c, struct load *l, const struct fault *why)
{
	struct copy *k = l->copy;
	struct fault copy_of_why = *why; /* it may live in what is about to be freed */
	load_refuse_waiters(c, l, &copy_of_why);
	load_fail_dependents(c, l, &copy_of_why);
	if (l->phase == LOAD_TRANSFER && l->transfer)
		load_drop_transfer(c, l);
	if (l->keep & KEEP_PERSIST)
		c->stats.persist_skipped++;
	load_end(c, l);
	if (k->state == COPY_LOADING)
		copy_set(c, k, COPY_FAILED, NULL);
	if (k->n_leases && k->state != COPY_DRAINING)
		copy_poison(c, k, &copy_of_why);
	if (k->state == COPY_RESERVED && (k->n_leases || !k->filled || !k->has_memory))
		copy_drain(c, k, "the load failed");
	copy_settle(c, k);
}

void load_abort(struct cache *c, struct load *l, const struct fault *why)
{
	if (l->phase != LOAD_TRANSFER || !transfer_is_running(l->transfer)) {
		load_fail(c, l, why);
		return;
	}
	load_refuse_waiters(c, l, why);
	l->condemned = true;
	if (!l->inherited)
		l->inherited = memory_copy(why, sizeof(*why));
	transfer_stop(c, l->transfer);
	if (load_is_wanted(l))
		load_reclass(c, l);
	copy_settle(c, l->copy);
}

void load_lose(struct cache *c, struct load *l, const struct fault *why)
{
	load_release_dependents(c, l);
	load_abort(c, l, why);
}

void load_give_way(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	struct fault why;
	fault_set(&why, TRIMS_E_NO_ROOM, "the prefetch of %s gave way to a demand for memory of the %s",
		model_label(k->model), c->tiers[k->tier].label);
	if (l->keep & KEEP_PERSIST)
		c->stats.persist_skipped++;
	load_refuse_waiters(c, l, &why);
	load_fail_dependents(c, l, &why);
	k->doom = DOOM_ROOM;
	if (l->keep)
		load_unkeep(c, l, UINT8_MAX);
	else
		load_unwanted(c, l);
	copy_settle(c, k);
}

/* ---- memory ---- */

void load_admitted(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	l->phase = LOAD_ALLOC;
	k->alloc_pending = true;
	k->awaited = k->edition;
	k->last_use = (int64_t)c->now;
	if (!k->headed)
		k->prefetched = l->keep & (KEEP_PREFETCH | KEEP_PROMOTE);
	effect_copy(c, FX_ALLOC, k)->grow = k->headed;
}

static void load_alloc_done(struct cache *c, struct copy *k, const struct fault *error)
{
	k->has_memory = !error;
	if (k->state != COPY_RESERVED)
		return;
	ASSERT(k->load && k->load->phase == LOAD_ALLOC);
	if (!error)
		load_replan(c, k->load);
	else if (!room_squeeze(c, k->load, error))
		load_fail(c, k->load, error);
}

void cache_alloc_done(struct cache *c, uint64_t now, uint64_t model, uint8_t tier, uint64_t edition,
	const struct fault *error)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	struct copy *k = m && tier < c->n_tiers ? m->copies[tier] : NULL;
	if (!k || !k->alloc_pending || k->awaited != edition)
		return; /* an answer nobody waits for */
	k->alloc_pending = false;
	if (k->growth)
		growth_alloc_done(c, k, error);
	else if (k->headed)
		head_alloc_done(c, k, error);
	else
		load_alloc_done(c, k, error);
	copy_settle(c, k);
	brain_run(c);
}

/* The copy drains under the load: whoever still wants it gets it loaded again afterwards. */
void load_wait_drain(struct cache *c, struct load *l)
{
	list_del(&l->plan_node);
	room_leave(c, l);
	l->phase = LOAD_DRAIN;
	load_leave_source(c, l);
	list_for_each(it, &l->copy->leases) { /* what they hold is the life that ends */
		struct lease *lease = list_entry(it, struct lease, copy_node);
		if (lease->want.load)
			want_unhook(&lease->want);
	}
	if (load_is_wanted(l))
		load_reclass(c, l);
}

void load_copy_gone(struct cache *c, struct load *l)
{
	ASSERT(l->phase == LOAD_DRAIN);
	l->retried = l->waited_young = false;
	load_enter_room(c, l);
}

/* ---- routing ---- */

void load_replan(struct cache *c, struct load *l)
{
	l->phase = LOAD_PLAN;
	if (!list_hooked(&l->plan_node))
		list_add_tail(&l->plan_node, &c->to_plan);
}

static void load_grant_waiters(struct cache *c, struct load *l)
{
	list_for_each_safe(it, &l->waiters) {
		struct request *r = list_entry(it, struct request, wait_node);
		if (r->ask.kind == ASK_OPEN)
			request_grant(c, r, l->copy);
	}
}

static void load_wake_dependents(struct cache *c, struct load *l)
{
	list_for_each(it, &l->dependents) {
		struct load *d = list_entry(it, struct load, source_node);
		if (d->phase == LOAD_SOURCE)
			load_replan(c, d);
	}
}

/* A write-through alone never brings its source back. */
static bool load_is_follower(const struct load *l)
{
	return l->keep == KEEP_PERSIST && !load_is_wanted_by_others(l);
}

/* Wants `from` (NULL: nothing) to be there instead of the source it had before.  Letting go of the old one must not end
 * the new one, which it may itself be filled from: so that is wanted first. */
static void load_set_source(struct cache *c, struct load *l, struct load *from)
{
	struct want guard = {0};
	const struct worth worth = {l->class, l->deadline, l->user};
	if (l->source.load == from)
		return;
	if (from)
		load_want(c, from, &guard, &worth);
	load_leave_source(c, l);
	if (!from)
		return;
	list_add_tail(&l->source_node, &from->dependents);
	load_want(c, from, &l->source, &worth);
	load_unwant(c, &guard);
}

static void load_transfer(struct cache *c, struct load *l, uint8_t from)
{
	struct copy *source = from ? l->copy->model->copies[from] : NULL;
	l->phase = LOAD_TRANSFER;
	load_set_source(c, l, source && !load_is_follower(l) ? source->load : NULL);
	transfer_new(c, l, from);
	copy_set(c, l->copy, COPY_LOADING, NULL);
	load_grant_waiters(c, l);
	load_wake_dependents(c, l);
	copy_settle(c, l->copy);
}

static void load_no_route(struct cache *c, struct load *l, int r)
{
	struct fault why;
	const char *tier = c->tiers[l->copy->tier].label, *model = model_label(l->copy->model);
	if (r == -EBUSY)
		fault_set(&why, TRIMS_E_BUSY, "%s cannot reach the %s: a copy on the way there is leaving, but still in use", model,
			tier);
	else if (r == -EFBIG)
		fault_set(&why, TRIMS_E_TOO_LARGE, "%s cannot reach the %s: a tier on the way there is smaller than its %llu bytes",
			model, tier, (unsigned long long)l->copy->model->info.image_bytes);
	else
		fault_set(&why, TRIMS_E_NO_TIER, "%s cannot reach the %s: no link leads there from where it is", model, tier);
	load_fail(c, l, &why);
}

void load_plan(struct cache *c, struct load *l)
{
	ASSERT(l->phase == LOAD_PLAN && l->copy->state == COPY_RESERVED && l->copy->has_memory);
	struct route route;
	bool follower = load_is_follower(l);
	if (follower)
		load_leave_source(c, l); /* a want from the time when somebody waited for it */
	int r = route_find(c, l->copy->model, l->copy->tier, follower, &route);
	list_del(&l->plan_node);
	if (r < 0 && follower) {
		load_unkeep(c, l, KEEP_PERSIST);
	} else if (r < 0) {
		load_no_route(c, l, r);
	} else if (route.direct) {
		load_transfer(c, l, route.from);
	} else {
		l->phase = LOAD_SOURCE;
		load_set_source(c, l, load_get(c, copy_get(c, l->copy->model, route.from), l->plan, NULL));
		copy_settle(c, l->copy);
	}
}

/* ---- the end of a transfer ---- */

/* A disk copy that turned out damaged is dropped; true when the bytes can be had from elsewhere, once per load. */
static bool load_source_is_bad(struct cache *c, struct load *l, uint8_t from, const struct fault *why)
{
	if (c->tiers[from].kind != TIER_DISK || (why->code != TRIMS_E_MISMATCH && why->code != TRIMS_E_DISK_ERROR))
		return false;
	struct copy *source = l->copy->model->copies[from];
	if (source && (source->state == COPY_READY || source->state == COPY_RESERVED || source->state == COPY_LOADING))
		copy_doom(c, source, DOOM_CORRUPT);
	struct route other;
	if (l->retried || !load_is_wanted(l) || route_find(c, l->copy->model, l->copy->tier, false, &other) < 0)
		return false;
	l->retried = true;
	return true;
}

static void load_resume(struct cache *c, struct load *l, const char *why)
{
	struct copy *k = l->copy;
	copy_set(c, k, COPY_RESERVED, why);
	copy_touch(c, k);
	if (load_is_wanted(l)) {
		load_replan(c, l);
		copy_settle(c, k);
	} else {
		load_end_reserved(c, l);
	}
}

static void load_done(struct cache *c, struct load *l)
{
	struct copy *k = l->copy;
	c->stats.loads_done++;
	c->stats.regrown += k->headed;
	if (l->keep & KEEP_PROMOTE)
		c->stats.promotions++;
	copy_ready(c, k);
	/* Who asked for a doomed copy was not granted this life; the settling below has them wait for the next. */
	load_release_dependents(c, l);
	if (!copy_is_doomed(k) || (list_empty(&l->waiters) && !l->keep))
		load_end(c, l);
	else
		load_reclass(c, l);
	copy_settle(c, k);
}

void load_transfer_ended(struct cache *c, struct load *l, uint8_t from, enum load_end end, const struct fault *why)
{
	struct fault *inherited = l->inherited;
	if (l == l->copy->growth) {
		growth_transfer_ended(c, l->copy, end);
		return;
	}
	l->inherited = NULL;
	if (inherited && (end == LOAD_END_STOPPED || l->condemned)) {
		end = LOAD_END_FAILED;
		why = inherited;
	}
	if (end == LOAD_END_OK) {
		load_done(c, l);
	} else if (end == LOAD_END_STOPPED) {
		c->stats.loads_cancelled++;
		load_resume(c, l, NULL);
	} else {
		c->stats.loads_failed++;
		if (from == 0 && why->code == TRIMS_E_CHANGED)
			l->copy->model->suspect = true;
		if (!inherited && load_source_is_bad(c, l, from, why))
			load_resume(c, l, "its source is damaged; it comes from elsewhere");
		else
			load_fail(c, l, why);
	}
	memory_free(inherited);
}

/* ---- prefetch, write-through, promotion ---- */

void load_accept(struct cache *c, struct load *l)
{
	list_for_each_safe(it, &l->waiters) {
		struct request *r = list_entry(it, struct request, wait_node);
		if (r->ask.kind == ASK_OPEN)
			continue;
		effect_accept(c, &r->ask, l->copy->model);
		request_done(c, r);
	}
}

/* The model begins to come in from the remote tier: write it through to the disk tier if there is one. */
void load_persist(struct cache *c, struct model *m, uint8_t host)
{
	uint8_t disk = cache_tier_index(c, TIER_DISK, 0);
	if (disk == CACHE_NO_TIER || !c->link_at[host][disk] || m->info.in_place || m->retired)
		return;
	if (m->info.disk_bytes > c->tiers[disk].capacity_bytes) {
		c->stats.persist_skipped++;
		return;
	}
	struct copy *k = copy_get(c, m, disk);
	if (k->load || k->state == COPY_READY || k->n_leases)
		return;
	load_keep(c, load_get(c, k, 0, NULL), KEEP_PERSIST, CACHE_NOBODY);
}

static bool promote_fits(const struct cache *c, const struct tier *host, const struct copy *k)
{
	const struct model *m = k->model;
	const struct copy *there = m->copies[host->index];
	if (k->state != COPY_READY || copy_is_doomed(k) || m->retired)
		return false;
	if (there)
		return there->state == COPY_RESERVED && !there->load && !copy_is_doomed(there);
	return host->used_bytes + m->info.image_bytes <= host->capacity_bytes;
}

bool load_is_earned(const struct cache *c, const struct copy *k, int64_t rate)
{
	int64_t uses = rate - rate_time((int64_t)c->now, c->config.half_life_ns);
	int64_t unused = (int64_t)c->now - k->last_use;
	return uses >= RATE_ONE - RATE_ONE / 8 && (c->config.ttl_ns == 0 || unused < (int64_t)(c->config.ttl_ns / 2));
}

uint64_t load_promote(struct cache *c)
{
	uint8_t disk = cache_tier_index(c, TIER_DISK, 0), host = cache_tier_index(c, TIER_HOST, 0);
	if (!c->config.promote || disk == CACHE_NO_TIER || host == CACHE_NO_TIER || !c->link_at[disk][host])
		return CACHE_NEVER;
	const struct link *link = c->link_at[disk][host];
	struct tier *d = &c->tiers[disk], *h = &c->tiers[host];
	struct copy *best = NULL;
	int looked = 0;
	if (link->n_active || link->queue.n || !list_empty(&h->queue))
		return c->now + PROMOTE_PERIOD_NS;
	for (struct list *it = d->idle.prev; it != &d->idle && looked < PROMOTE_LOOK; it = it->prev, looked++) {
		struct copy *k = list_entry(it, struct copy, idle_node);
		if (promote_fits(c, h, k) && load_is_earned(c, k, k->model->rate) && (!best || k->model->rate > best->model->rate))
			best = k;
	}
	if (best)
		load_keep(c, load_get(c, copy_get(c, best->model, host), best->model->plan, NULL), KEEP_PROMOTE, CACHE_NOBODY);
	return c->now + PROMOTE_PERIOD_NS;
}
