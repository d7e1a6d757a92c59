/* dispatch.c - see dispatch.h.  Handlers translate between messages and the brain; answers to what the brain decides
 * later are sent by the engine. */
#include "mrm/dispatch.h"

#include "mrm/clock.h"
#include "mrm/conn.h"
#include "mrm/engine.h"
#include "mrm/files.h"
#include "mrm/kept.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/session.h"
#include "mrm/haul.h"
#include "mrm/holding.h"
#include "mrm/plans.h"
#include "mrm/profiles.h"
#include "mrm/report.h"
#include "mrm/verify.h"
#include "shared/metrics.h"
#include "shared/name.h"
#include "shared/reports.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void dispatch(struct conn *c, struct msg *m)
{
	if (conn_daemon(c)->stopping && m->type != MSG_CLOSE && m->type != MSG_CANCEL) {
		conn_reply_fault(c, m->request, TRIMS_E_STOPPING, "the daemon is stopping");
		return;
	}
	switch (m->type) {
#define DISPATCH_C2D(NAME, name)                                                                                      \
	case MSG_##NAME:                                                                                              \
		dispatch_##name(c, m->request, &m->u.name);                                                           \
		break;
#define DISPATCH_D2C(NAME, name)
#define MSG(NAME, name, type, direction, doc) DISPATCH_##direction(NAME, name)
#include "shared/messages.def"
	default:
		conn_violation(c, "a message that has no place here");
	}
}

void dispatch_hello(struct conn *c, uint64_t request, const struct msg_hello *m)
{
	struct daemon *d = conn_daemon(c);
	struct msg r;
	msg_init(&r, MSG_WELCOME, request);
	r.u.welcome.version = MSG_VERSION;
	r.u.welcome.boot_hi = d->boot_hi;
	r.u.welcome.boot_lo = d->boot_lo;
	r.u.welcome.identity_hi = d->identity_hi;
	r.u.welcome.identity_lo = d->identity_lo;
	r.u.welcome.max_leases = (uint32_t)d->config->max_leases;
	for (size_t t = 1; t < cache_n_tiers(d->cache); t++) {
		struct cache_tier_view v;
		cache_tier(d->cache, (uint8_t)t, &v);
		r.u.welcome.tiers |= 1u << v.kind;
	}
	MSG_SET_STR(r.u.welcome.daemon, "mrm " TRIMS_VERSION);
	conn_reply(c, &r);
}

static bool tier_is_valid(struct conn *c, uint64_t request, uint32_t tier)
{
	if (tier < TIER_KIND_N)
		return true;
	conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "no such kind of tier");
	return false;
}

static bool name_is_valid(struct conn *c, uint64_t request, const char *name)
{
	struct fault why;
	if (!name_check(name, &why))
		return true;
	conn_reply_fault(c, request, why.code, why.text);
	return false;
}

static bool device_goes_with(struct conn *c, uint64_t request, uint32_t tier, const char *uuid)
{
	if (tier == TIER_GPU || !*uuid)
		return true;
	conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "a device goes with tier gpu only");
	return false;
}

/* Of a request that is about devices, not about a lease: whoever may ask at all need see none of them. */
static bool device_is_known(struct conn *c, uint64_t request, uint32_t tier, const char *uuid, uint32_t *device)
{
	const struct gpu *g = conn_daemon(c)->gpu;
	if (!device_goes_with(c, request, tier, uuid))
		return false;
	int i = *uuid ? gpu_find(g, uuid) : -1;
	*device = i >= 0 ? (uint32_t)i : CACHE_ANY_DEVICE;
	if (!*uuid || i >= 0)
		return true;
	conn_reply_fault(c, request, TRIMS_E_NO_TIER, "this daemon has no GPU of that UUID");
	return false;
}

static bool may_administer(struct conn *c, uint64_t request)
{
	if (conn_is_admin(c))
		return true;
	conn_reply_fault(c, request, TRIMS_E_DENIED,
		"only root, the daemon's own user and its admin group may do this");
	return false;
}

typedef void (*open_fn)(struct cache *c, uint64_t now, const struct cache_open *req);

/* Hands a request that the brain will answer to it. */
static void ask_brain(struct conn *c, uint64_t request, const char *name, uint32_t tier, struct cache_open *req,
	open_fn ask)
{
	struct daemon *d = conn_daemon(c);
	if (!tier_is_valid(c, request, tier) || !name_is_valid(c, request, name))
		return;
	if (!(ask == cache_open ? conn_begin_open(c, request, (enum tier_kind)tier) : conn_begin(c, request)))
		return;
	req->name = name;
	req->owner = conn_id(c);
	req->user = (uint32_t)conn_uid(c);
	req->request = request;
	req->tier = (enum tier_kind)tier;
	ask(d->cache, clock_now(), req);
	engine_pump(d);
	struct holding *img = req->plan && !req->only_resident ? holding_by_model(d, cache_find(d->cache, name)) : NULL;
	if (img)
		haul_arrange(img, req->plan, tier == TIER_GPU);
}

/* The plan that came with a request, if any; one that cannot be meant for this model is refused while there is somebody to
 * tell. */
static bool take_plan(struct conn *c, uint64_t request, const char *name, const struct msg_fds *from, uint64_t *plan)
{
	struct daemon *d = conn_daemon(c);
	struct fault why;
	if (!from->n)
		return true;
	int e = plans_read(d->plans, from->fd[0], plan, &why);
	struct holding *img = e ? NULL : holding_by_model(d, cache_find(d->cache, name));
	if (img) {
		e = plans_check(d->plans, *plan, holding_layout(img)->n_tensors, &why);
	}
	if (e)
		conn_reply_fault(c, request, why.code, why.text);
	return !e;
}

/* Of a request for a lease: which devices its client can use. */
static bool lease_device(struct conn *c, uint64_t request, uint32_t tier, const char *uuid, struct cache_open *req)
{
	struct fault why;
	if (tier == TIER_GPU && session_device(c, uuid, req, &why)) {
		conn_reply_fault(c, request, why.code, why.text);
		return false;
	}
	return device_goes_with(c, request, tier, uuid);
}

void dispatch_open(struct conn *c, uint64_t request, const struct msg_open *m)
{
	struct fault why;
	if (m->class > CLASS_PREFETCH || m->flags & ~1u) {
		conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "unknown class or flag");
		return;
	}
	struct cache_open req = {.class = (enum load_class)m->class, .only_resident = m->flags & 1};
	if (!lease_device(c, request, m->tier, m->device, &req) || !take_plan(c, request, m->model, &m->plan, &req.plan))
		return;
	if (!conn_may_lease(c, &why)) {
		conn_reply_fault(c, request, why.code, why.text);
		return;
	}
	uint64_t now = clock_now(), deadline;
	if (!m->deadline_ns || add_overflows(now, m->deadline_ns, &deadline))
		deadline = CACHE_NEVER;
	req.deadline = deadline;
	/* Who asks for the best tier wants addresses that a CPU can use. */
	ask_brain(c, request, m->model, m->tier == TIER_REMOTE ? TIER_HOST : m->tier, &req, cache_open);
}

void dispatch_claim(struct conn *c, uint64_t request, const struct msg_claim *m)
{
	struct daemon *d = conn_daemon(c);
	struct cache_open where = {.device = 0};
	struct fault why;
	if (!tier_is_valid(c, request, m->tier) || !name_is_valid(c, request, m->model) ||
		!lease_device(c, request, m->tier, m->device, &where))
		return;
	if ((m->tier != TIER_HOST && m->tier != TIER_GPU) || (m->tier == TIER_GPU && !*m->device)) {
		conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "only copies in memory, on a named device if any, are claimed");
		return;
	}
	if (!conn_may_lease(c, &why)) {
		conn_reply_fault(c, request, why.code, why.text);
		return;
	}
	uint64_t model = kept_model(d, m->copy); /* whatever it was called then */
	uint8_t tier = cache_tier_index(d->cache, (enum tier_kind)m->tier, where.device);
	if (!model || tier == CACHE_NO_TIER) {
		conn_reply_fault(c, request, TRIMS_E_NO_LEASE, "no copy of that number has outlived the last daemon");
		return;
	}
	if (!conn_begin_claim(c, request, (enum tier_kind)m->tier))
		return;
	metrics_add(M_kept_claims, 1);
	cache_claim(d->cache, clock_now(), conn_id(c), request, model, tier, m->copy);
	engine_pump(d);
}

void dispatch_close(struct conn *c, uint64_t request, const struct msg_close *m)
{
	struct daemon *d = conn_daemon(c);
	if (cache_close(d->cache, clock_now(), conn_id(c), m->lease) < 0) {
		conn_violation(c, "CLOSE of a lease that this connection does not hold");
		return;
	}
	conn_leases_add(c, -1);
	session_unwatch(c, m->lease);
	integrity_closed(d->integrity, m->lease);
	engine_pump(d);
}

void dispatch_cancel(struct conn *c, uint64_t request, const struct msg_cancel *m)
{
	struct daemon *d = conn_daemon(c);
	if (cache_cancel(d->cache, clock_now(), conn_id(c), m->target) == 0)
		engine_pump(d);
	else if (!session_cancel(c, m->target))
		conn_cancel(c, m->target);
}

void dispatch_prefetch(struct conn *c, uint64_t request, const struct msg_prefetch *m)
{
	struct cache_open req = {.class = CLASS_PREFETCH, .deadline = CACHE_NEVER};
	if (device_is_known(c, request, m->tier, m->device, &req.device) &&
		take_plan(c, request, m->model, &m->plan, &req.plan))
		ask_brain(c, request, m->model, m->tier, &req, cache_prefetch);
}

void dispatch_pin(struct conn *c, uint64_t request, const struct msg_pin *m)
{
	struct cache_open req = {.class = CLASS_PREFETCH, .deadline = CACHE_NEVER};
	if (may_administer(c, request) && device_is_known(c, request, m->tier, m->device, &req.device) &&
		take_plan(c, request, m->model, &m->plan, &req.plan))
		ask_brain(c, request, m->model, m->tier, &req, cache_pin);
}

static void reply_done(struct conn *c, uint64_t request, const char *text)
{
	struct msg r;
	msg_init(&r, MSG_DONE, request);
	MSG_SET_STR(r.u.done.text, text);
	conn_reply(c, &r);
}

void dispatch_unpin(struct conn *c, uint64_t request, const struct msg_unpin *m)
{
	struct daemon *d = conn_daemon(c);
	uint32_t device;
	if (!may_administer(c, request) || !tier_is_valid(c, request, m->tier) || !name_is_valid(c, request, m->model) ||
		!device_is_known(c, request, m->tier, m->device, &device))
		return;
	if (cache_unpin(d->cache, clock_now(), m->model, (enum tier_kind)m->tier, device) < 0)
		conn_reply_fault(c, request, TRIMS_E_NOT_FOUND, "no pinned model of this name");
	else
		reply_done(c, request, "unpinned");
	engine_pump(d);
}

void dispatch_evict(struct conn *c, uint64_t request, const struct msg_evict *m)
{
	struct daemon *d = conn_daemon(c);
	uint32_t device;
	if (!may_administer(c, request) || !tier_is_valid(c, request, m->tier) || !name_is_valid(c, request, m->model) ||
		!device_is_known(c, request, m->tier, m->device, &device))
		return;
	uint32_t in_use = 0;
	if (cache_evict(d->cache, clock_now(), m->model, (enum tier_kind)m->tier, device, &in_use) < 0) {
		conn_reply_fault(c, request, TRIMS_E_NOT_FOUND, m->tier == TIER_REMOTE ? "no copy of a model of this name is there"
			: "no copy of a model of this name is on that tier");
	} else {
		char text[96];
		snprintf(text, sizeof text, in_use == 0 ? "evicted" :
			in_use == 1 ? "evicted; a copy in use is freed when its leases end" :
			"evicted; %" PRIu32 " copies in use are freed when their leases end", in_use);
		reply_done(c, request, text);
	}
	engine_pump(d);
}

void dispatch_verify(struct conn *c, uint64_t request, const struct msg_verify *m)
{
	uint64_t ticket;
	if (may_administer(c, request) && name_is_valid(c, request, m->model) && (ticket = conn_begin(c, request)))
		verify_start(c, request, ticket, m->model);
}

void dispatch_profile(struct conn *c, uint64_t request, const struct msg_profile *m)
{
	struct daemon *d = conn_daemon(c);
	if (!may_administer(c, request) || !name_is_valid(c, request, m->model))
		return;
	struct holding *img = holding_by_model(d, cache_find(d->cache, m->model));
	if (!img)
		conn_reply_fault(c, request, TRIMS_E_NOT_FOUND, "no model of this name is known here; pull or open it first");
	else if (!m->profile.n)
		conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "profile: no file came with it");
	else
		profiles_store(c, request, img, m->profile.fd[0]);
}

void dispatch_file(struct conn *c, uint64_t request, const struct msg_file *m)
{
	uint64_t ticket = conn_begin(c, request);
	if (ticket)
		files_start(c, request, ticket, m->lease, m->path);
}

void dispatch_attach(struct conn *c, uint64_t request, const struct msg_attach *m)
{
	session_attach(c, request, m);
}

void dispatch_verdict(struct conn *c, uint64_t request, const struct msg_verdict *m)
{
	session_verdict(c, request, m);
}

void dispatch_direct(struct conn *c, uint64_t request, const struct msg_direct *m)
{
	beside_ask(c, request, m);
}

void dispatch_query(struct conn *c, uint64_t request, const struct msg_query *m)
{
	report_answer(c, request, m->report, m->model, m->cursor);
}
