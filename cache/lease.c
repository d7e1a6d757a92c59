/* lease.c - what clients ask for, wait for and hold.
 *
 * Invariants: a request becomes a record only when it has to wait, then hangs at exactly one name or load, and leaves
 * by exactly one of GRANT, ACCEPT, REFUSE or its owner's end; an owner record exists while it holds or waits for
 * something. */
#include "cache/brain.h"

/* ---- owners ---- */

struct owner *owner_get(const struct cache *c, uint64_t id)
{
	struct map_node *node = map_first(&c->owners, hash_pair(c->config.hash_seed, id, 0));
	for (; node; node = map_next(node)) {
		struct owner *o = container_of(node, struct owner, by_id);
		if (o->id == id)
			return o;
	}
	return NULL;
}

static struct owner *owner_make(struct cache *c, uint64_t id)
{
	struct owner *o = owner_get(c, id);
	if (o)
		return o;
	o = memory_new(sizeof(*o));
	o->magic = OWNER_MAGIC;
	o->id = id;
	list_init(&o->leases);
	list_init(&o->requests);
	map_add(&c->owners, &o->by_id, hash_pair(c->config.hash_seed, id, 0));
	return o;
}

static void owner_check_idle(struct cache *c, struct owner *o)
{
	CHECK_OBJ(o, OWNER_MAGIC);
	if (o->n_leases || o->n_requests)
		return;
	map_del(&c->owners, &o->by_id);
	o->magic = 0;
	memory_free(o);
}

uint32_t cache_owner_leases(const struct cache *c, uint64_t owner)
{
	const struct owner *o = owner_get(c, owner);
	return o ? o->n_leases : 0;
}

/* ---- leases ---- */

static void lease_new(struct cache *c, const struct ask *ask, struct copy *k)
{
	struct lease *lease = memory_new(sizeof(*lease));
	bool hit = k->state == COPY_READY;
	lease->magic = LEASE_MAGIC;
	lease->id = slots_add(&c->leases, lease);
	lease->owner = owner_make(c, ask->owner);
	lease->owner->n_leases++;
	list_init(&lease->owner_node);
	list_add_tail(&lease->owner_node, &lease->owner->leases);
	lease->ask = *ask;
	lease->ask.plan = 0;
	plan_set(c, &lease->ask.plan, ask->plan);
	lease->copy = k;
	list_init(&lease->copy_node);
	list_add_tail(&lease->copy_node, &k->leases);
	k->n_leases++;
	k->uses++;
	if (k->prefetched)
		c->stats.prefetch_used++;
	k->prefetched = false;
	if (k->load)
		load_want(c, k->load, &lease->want, &(struct worth){ask->class, ask->deadline, ask->user});
	model_used(c, k->model, k->tier);
	copy_touch(c, k);
	copy_settle(c, k);
	struct pending_effect *fx = effect_add(c, FX_GRANT);
	fx->request = ask->token;
	fx->owner = ask->owner;
	fx->model = k->model->id;
	fx->copy = k->generation;
	fx->edition = k->edition;
	fx->plan = k->plan;
	fx->reach = k->reach;
	fx->lease = lease->id;
	fx->to = k->tier;
	fx->state = k->state;
	fx->hit = hit;
	fx->joined = ask->joined;
}

static void lease_end(struct cache *c, struct lease *lease)
{
	struct copy *k = lease->copy;
	CHECK_OBJ(lease, LEASE_MAGIC);
	slots_del(&c->leases, lease->id);
	list_del(&lease->owner_node);
	lease->owner->n_leases--;
	list_del(&lease->copy_node);
	k->n_leases--;
	copy_touch(c, k);
	load_unwant(c, &lease->want);
	copy_settle(c, k);
	plan_set(c, &lease->ask.plan, 0);
	lease->magic = 0;
	memory_free(lease);
}

int cache_close(struct cache *c, uint64_t now, uint64_t owner, uint64_t lease_id)
{
	brain_begin(c, now);
	struct lease *lease = slots_get(&c->leases, lease_id);
	if (!lease || lease->owner->id != owner)
		return -ENOENT;
	struct owner *o = lease->owner;
	lease_end(c, lease);
	owner_check_idle(c, o);
	brain_run(c);
	return 0;
}

uint64_t cache_lease_model(const struct cache *c, uint64_t owner, uint64_t lease_id)
{
	const struct lease *lease = slots_get(&c->leases, lease_id);
	return lease && lease->owner->id == owner ? lease->copy->model->id : 0;
}

/* ---- requests ---- */

static struct request *request_find(const struct cache *c, uint64_t owner, uint64_t token)
{
	struct map_node *node = map_first(&c->requests, hash_pair(c->config.hash_seed, owner, token));
	for (; node; node = map_next(node)) {
		struct request *r = container_of(node, struct request, by_token);
		if (r->ask.owner == owner && r->ask.token == token)
			return r;
	}
	return NULL;
}

/* NULL: refused, and answered. */
static struct request *request_new(struct cache *c, const struct ask *ask)
{
	struct fault why;
	if (c->n_requests >= c->config.max_waiters) {
		fault_set(&why, TRIMS_E_LIMIT, "%u requests are waiting already", c->n_requests);
		effect_refuse(c, ask, &why);
		return NULL;
	}
	if (request_find(c, ask->owner, ask->token)) {
		fault_set(&why, TRIMS_E_BAD_REQUEST, "a request of the same number is pending");
		effect_refuse(c, ask, &why);
		return NULL;
	}
	struct request *r = memory_new(sizeof(*r));
	r->magic = REQUEST_MAGIC;
	r->ask = *ask;
	r->ask.plan = 0;
	plan_set(c, &r->ask.plan, ask->plan);
	r->owner = owner_make(c, ask->owner);
	r->owner->n_requests++;
	list_init(&r->owner_node);
	list_add_tail(&r->owner_node, &r->owner->requests);
	list_init(&r->wait_node);
	map_add(&c->requests, &r->by_token, hash_pair(c->config.hash_seed, ask->owner, ask->token));
	if (ask->deadline != CACHE_NEVER)
		heap_add(&c->deadlines, &r->deadline_node);
	c->n_requests++;
	return r;
}

/* Unhooks and frees, without answering and without looking after the owner. */
static void request_free(struct cache *c, struct request *r)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	list_del(&r->wait_node);
	list_del(&r->owner_node);
	r->owner->n_requests--;
	map_del(&c->requests, &r->by_token);
	heap_del(&c->deadlines, &r->deadline_node);
	c->n_requests--;
	if (r->name)
		name_spare(c, r->name);
	load_unwant(c, &r->want);
	plan_set(c, &r->ask.plan, 0);
	r->magic = 0;
	memory_free(r);
}

void request_done(struct cache *c, struct request *r)
{
	struct owner *o = r->owner;
	request_free(c, r);
	owner_check_idle(c, o);
}

void request_refuse(struct cache *c, struct request *r, const struct fault *why)
{
	effect_refuse(c, &r->ask, why);
	if (r->set_pin)
		model_pin(c, r->load->copy->model, r->load->copy->tier, false);
	request_done(c, r);
}

/* Pins and prefetches wait for names only: at a load they are accepted, or refused together, in the event that brought them
 * there.  So what one of them has set in motion is not its to stop. */
void request_abort(struct cache *c, struct request *r, const struct fault *why)
{
	ASSERT(!r->load || r->ask.kind == ASK_OPEN);
	request_refuse(c, r, why);
}

void request_resume(struct cache *c, struct request *r, struct model *m)
{
	struct ask ask = r->ask;
	request_done(c, r);
	ask_on_model(c, &ask, m);
}

void request_grant(struct cache *c, struct request *r, struct copy *k)
{
	lease_new(c, &r->ask, k);
	request_done(c, r);
}

static void request_wait_load(struct cache *c, struct request *r, struct load *l)
{
	struct model *m = l->copy->model;
	uint8_t tier = l->copy->tier;
	r->load = l;
	list_add_tail(&r->wait_node, &l->waiters);
	if (r->ask.kind == ASK_OPEN) {
		load_want(c, l, &r->want, &(struct worth){r->ask.class, r->ask.deadline, r->ask.user});
		return;
	}
	if (r->ask.kind == ASK_PIN && !model_is_pinned(m, tier)) {
		r->set_pin = true;
		model_pin(c, m, tier, true);
	}
	load_keep(c, l, r->ask.kind == ASK_PIN ? KEEP_PIN : KEEP_PREFETCH, r->ask.user);
	if (!list_hooked(&l->accept_node))
		list_add_tail(&l->accept_node, &c->to_accept);
}

void requests_expire(struct cache *c)
{
	struct heap_node *top;
	while ((top = heap_top(&c->deadlines))) {
		struct request *r = container_of(top, struct request, deadline_node);
		if (r->ask.deadline > c->now)
			return;
		struct fault why;
		fault_set(&why, TRIMS_E_TIMED_OUT, "the deadline passed while %s",
			r->name ? "the name was looked up" : "waiting for memory");
		request_abort(c, r, &why);
	}
}

int cache_cancel(struct cache *c, uint64_t now, uint64_t owner, uint64_t token)
{
	brain_begin(c, now);
	struct request *r = request_find(c, owner, token);
	if (!r)
		return -ENOENT;
	struct fault why;
	fault_set(&why, TRIMS_E_CANCELLED, "the request was cancelled");
	request_abort(c, r, &why);
	brain_run(c);
	return 0;
}

void cache_owner_gone(struct cache *c, uint64_t now, uint64_t id)
{
	brain_begin(c, now);
	struct owner *o = owner_get(c, id);
	effects_drop_owner(c, id);
	if (!o)
		return;
	while (!list_empty(&o->requests))
		request_free(c, list_first(&o->requests, struct request, owner_node));
	while (!list_empty(&o->leases))
		lease_end(c, list_first(&o->leases, struct lease, owner_node));
	owner_check_idle(c, o);
	brain_run(c);
}

/* ---- asking ---- */

uint8_t tier_for(const struct cache *c, const struct model *m, const struct ask *ask)
{
	if (ask->tier == TIER_REMOTE) { /* host memory, which any client can map; on a machine that keeps none, a device */
		uint8_t host = cache_tier_index(c, TIER_HOST, 0);
		return host != CACHE_NO_TIER ? host : device_for(c, m, ask->plan, ask->device_mask);
	}
	if (ask->tier == TIER_GPU && ask->device == CACHE_ANY_DEVICE)
		return device_for(c, m, ask->plan, ask->device_mask);
	return cache_tier_index(c, ask->tier, ask->device);
}

/* The copy is there or arriving: answers at once. */
static void ask_answer(struct cache *c, const struct ask *ask, struct copy *k)
{
	if (ask->kind == ASK_OPEN) {
		++*(k->state == COPY_READY ? &c->stats.opens_hit : &c->stats.opens_coalesced);
		struct ask granted = *ask;
		granted.joined = k->state != COPY_READY;
		lease_new(c, &granted, k);
		return;
	}
	if (ask->kind == ASK_PIN)
		model_pin(c, k->model, k->tier, true);
	if (k->load)
		load_keep(c, k->load, ask->kind == ASK_PIN ? KEEP_PIN : KEEP_PREFETCH, ask->user);
	effect_accept(c, ask, k->model);
}

static void ask_wait(struct cache *c, const struct ask *ask, struct model *m, uint8_t tier)
{
	struct request *r = request_new(c, ask);
	bool created;
	if (!r)
		return;
	struct load *l = load_get(c, copy_get(c, m, tier), ask->plan, &created);
	if (ask->kind == ASK_OPEN)
		++*(created ? &c->stats.opens_miss : &c->stats.opens_coalesced);
	r->ask.joined = !created;
	request_wait_load(c, r, l);
}

/* 0, or why this copy cannot be opened and waiting for it would not help. */
static int ask_check(const struct cache *c, const struct ask *ask, const struct model *m, uint8_t tier,
	struct fault *why)
{
	const struct copy *k = tier == CACHE_NO_TIER ? NULL : m->copies[tier];
	const char *label = model_label(m), *where = tier == CACHE_NO_TIER ? "" : c->tiers[tier].label;
	if (tier == CACHE_NO_TIER)
		return fault_set(why, TRIMS_E_NO_TIER, "this machine has no %s tier%s", tier_kind_name(ask->tier),
			ask->tier == TIER_GPU ? " on that device" : "");
	if (c->tiers[tier].lost)
		return fault_set(why, TRIMS_E_NO_TIER, "the %s is lost: %s", where, c->tiers[tier].lost_why->text);
	if (c->tiers[tier].kind == TIER_DISK && m->info.in_place)
		return fault_set(why, TRIMS_E_NO_TIER, "%s is read in place from its source, it has no disk copy", label);
	if (k && k->state == COPY_FAILED)
		return fault_set(why, k->fault->code, "%s (clients still hold what had arrived)", k->fault->text);
	if (k && k->n_leases && !ask->regrant && (k->state == COPY_DRAINING || copy_is_doomed(k)))
		return fault_set(why, TRIMS_E_BUSY, "%s is leaving the %s; leases that still hold it: %u", label, where,
			k->n_leases);
	bool there = k && !copy_is_doomed(k) && (k->state == COPY_READY || k->state == COPY_LOADING);
	if (ask->only_resident && !there)
		return fault_set(why, TRIMS_E_NOT_FOUND, "%s is not on the %s", label, where);
	return 0;
}

void ask_on_model(struct cache *c, const struct ask *ask, struct model *m)
{
	struct fault why;
	uint8_t tier = tier_for(c, m, ask);
	if (ask_check(c, ask, m, tier, &why) < 0) {
		effect_refuse(c, ask, &why);
		return;
	}
	struct copy *k = m->copies[tier];
	if (k && !copy_is_doomed(k) && (k->state == COPY_READY || k->state == COPY_LOADING))
		ask_answer(c, ask, k);
	else
		ask_wait(c, ask, m, tier);
}

static void ask_on_name(struct cache *c, const struct ask *ask, const char *text)
{
	struct fault why;
	size_t length = text ? strnlen(text, CACHE_NAME_MAX + 1) : 0;
	if (length == 0 || length > CACHE_NAME_MAX) {
		fault_set(&why, TRIMS_E_BAD_NAME, "a model name has 1 to %d bytes", CACHE_NAME_MAX);
		effect_refuse(c, ask, &why);
		return;
	}
	if (ask->class > CLASS_PREFETCH || ask->tier >= TIER_KIND_N) {
		fault_set(&why, TRIMS_E_BAD_REQUEST, "class %u or tier %u is none", (unsigned)ask->class,
			(unsigned)ask->tier);
		effect_refuse(c, ask, &why);
		return;
	}
	struct name *n = name_open(c, text, length, ask->only_resident, &why);
	if (!n) {
		effect_refuse(c, ask, &why);
	} else if (n->model && !n->model->suspect) {
		ask_on_model(c, ask, n->model);
	} else {
		struct request *r = request_new(c, ask);
		if (!r)
			return;
		r->name = n;
		list_add_tail(&r->wait_node, &n->waiters);
	}
}

static void ask_event(struct cache *c, uint64_t now, enum ask_kind kind, const struct cache_open *req)
{
	struct ask ask = {
		.kind = kind,
		.owner = req->owner,
		.token = req->request,
		.deadline = req->deadline,
		.tier = req->tier,
		.device = req->device,
		.device_mask = req->device_mask,
		.class = kind == ASK_OPEN ? req->class : CLASS_PREFETCH,
		.user = req->user,
		.only_resident = req->only_resident,
		.plan = req->plan,
	};
	brain_begin(c, now);
	ask_on_name(c, &ask, req->name);
	brain_run(c);
}

void cache_open(struct cache *c, uint64_t now, const struct cache_open *req)
{
	ask_event(c, now, ASK_OPEN, req);
}

void cache_prefetch(struct cache *c, uint64_t now, const struct cache_open *req)
{
	ask_event(c, now, ASK_PREFETCH, req);
}

void cache_pin(struct cache *c, uint64_t now, const struct cache_open *req)
{
	ask_event(c, now, ASK_PIN, req);
}

/* ---- leases established again ---- */

/* 0, or why the copy that somebody still has mapped is none to lease. */
static int claim_check(const struct cache *c, const struct model *m, uint8_t tier, uint64_t edition, struct fault *why)
{
	const struct copy *k = m && tier > 0 && tier < c->n_tiers ? m->copies[tier] : NULL;
	if (!k || k->state == COPY_ABSENT || k->edition != edition)
		return fault_set(why, TRIMS_E_NO_LEASE, "copy %llu%s%s is no longer kept here", (unsigned long long)edition,
			m ? " of " : "", m ? model_label(m) : "");
	if (k->state != COPY_READY)
		return fault_set(why, TRIMS_E_BUSY, "copy %llu of %s is %s", (unsigned long long)edition, model_label(m),
			k->state == COPY_LOADING || k->state == COPY_RESERVED ? "still arriving" : "leaving");
	return 0;
}

void cache_claim(struct cache *c, uint64_t now, uint64_t owner, uint64_t request, uint64_t model, uint8_t tier,
	uint64_t edition)
{
	brain_begin(c, now);
	struct model *m = model_get(c, model);
	struct fault why;
	struct ask ask = {.kind = ASK_OPEN, .owner = owner, .token = request, .deadline = CACHE_NEVER, .class = CLASS_DEMAND,
		.user = CACHE_NOBODY};
	if (claim_check(c, m, tier, edition, &why) < 0) {
		effect_refuse(c, &ask, &why);
	} else {
		ask.tier = c->tiers[tier].kind;
		ask.device = c->tiers[tier].device;
		c->stats.claims++;
		lease_new(c, &ask, m->copies[tier]);
	}
	brain_run(c);
}

int cache_regrant(struct cache *c, uint64_t now, uint64_t owner, uint64_t lease_id, uint64_t request)
{
	brain_begin(c, now);
	struct lease *lease = slots_get(&c->leases, lease_id);
	if (!lease || lease->owner->id != owner)
		return -ENOENT;
	struct model *m = lease->copy->model;
	struct owner *o = lease->owner;
	struct ask ask = lease->ask;
	struct fault why;
	ask.token = request;
	ask.joined = false;
	ask.regrant = true;
	c->stats.regrants++;
	lease_end(c, lease);
	if (m->retired) {
		fault_set(&why, TRIMS_E_BUSY, "%s is leaving: it changed at its source or was merged; open it again",
			model_label(m));
		effect_refuse(c, &ask, &why);
	} else {
		ask_on_model(c, &ask, m);
	}
	owner_check_idle(c, o);
	brain_run(c);
	return 0;
}
