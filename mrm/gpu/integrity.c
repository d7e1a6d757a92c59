/* integrity.c - see integrity.h.
 * Keeps: a copy's record is there while a lease on it lasts, somebody had it since the last check, or a check runs; GRANTs
 * that wait for a check hold their lease, so the brain does not free the copy. */
#include "mrm/gpu/integrity.h"

#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/copycheck.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/direct.h"
#include "mrm/gpu/gpu.h"
#include "shared/check.h"
#include "shared/list.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAST_MAX 32 /* sessions that are named; more only count */

/* A session that had the copy and has let go of it. */
struct past {
	uid_t uid;
	int pid;
	char program[65];
};

/* Of a copy. */
struct record {
	uint64_t copy, model;
	uint8_t tier;
	struct list leases;
	uint32_t n_past;         /* since the last check; the first PAST_MAX are in `past` */
	struct past past[PAST_MAX];
	bool many_users;         /* among those that are not: check for whoever comes */
	bool checking;
	uint32_t n_compared;     /* of n_past, those on whose account */
	struct list waiting;     /* GRANTs */
};

struct tenant {
	struct list of_record, of_conn;
	struct record *record;
	uint64_t lease;
	struct past who;
};

struct tenants {
	struct list leases;
};

struct waiting {
	struct list node;
	struct cache_effect grant;
};

struct check {
	struct integrity *all;
	uint64_t copy;
};

struct integrity {
	struct daemon *daemon;
	struct idmap records; /* copy -> struct record */
	struct idmap conns;   /* conn id -> struct tenants */
	struct idmap leases;  /* lease -> struct tenant */
};

/* ---- records ---- */

static struct record *record_get(struct integrity *i, const struct cache_effect *fx)
{
	struct record *r = idmap_get(&i->records, fx->copy);
	if (r)
		return r;
	r = calloc(1, sizeof *r);
	ASSERT(r);
	*r = (struct record){.copy = fx->copy, .model = fx->model, .tier = fx->to};
	list_init(&r->leases);
	list_init(&r->waiting);
	idmap_set(&i->records, r->copy, r);
	return r;
}

static void record_settle(struct integrity *i, struct record *r)
{
	if (r->n_past || r->checking || !list_empty(&r->leases))
		return;
	idmap_take(&i->records, r->copy);
	free(r);
}

static bool still_holds(const struct record *r, uid_t uid)
{
	list_for_each(it, &r->leases)
		if (list_entry(it, struct tenant, of_record)->who.uid == uid)
			return true;
	return false;
}

static void tenant_free(struct integrity *i, struct tenant *t)
{
	struct record *r = t->record;
	direct_left(i->daemon->direct, r->copy);
	uint64_t lease = t->lease;
	idmap_take(&i->leases, t->lease);
	list_del(&t->of_record);
	list_del(&t->of_conn);
	if (r->n_past < PAST_MAX)
		r->past[r->n_past] = t->who;
	else
		r->many_users |= t->who.uid != r->past[0].uid;
	r->n_past++;
	free(t);
	record_settle(i, r);
	beside_left(i->daemon->beside, lease); /* last: its answers may end the connection, which comes here again */
}

/* Somebody else had it, and has let go of it altogether. */
static bool is_tainted_for(const struct record *r, uid_t uid)
{
	for (uint32_t k = 0; k < MIN(r->n_past, (uint32_t)PAST_MAX); k++)
		if (r->past[k].uid != uid && !still_holds(r, r->past[k].uid))
			return true;
	return r->many_users;
}

/* ---- checks ---- */

static void name_sessions(const struct record *r, char *text, size_t size)
{
	size_t n = 0;
	*text = 0;
	for (uint32_t k = 0; k < MIN(r->n_past, (uint32_t)PAST_MAX) && n < size; k++)
		n += (size_t)snprintf(text + n, size - n, "%s%s (user %u, pid %d)", k ? ", " : "", r->past[k].program,
			(unsigned)r->past[k].uid, r->past[k].pid);
	if (r->n_past > PAST_MAX && n < size)
		snprintf(text + n, size - n, " and %" PRIu32 " more", r->n_past - PAST_MAX);
}

static void report_damage(struct integrity *i, const struct record *r, const struct copycheck_result *result)
{
	struct daemon *d = i->daemon;
	struct holding *img = holding_by_model(d, r->model);
	const char *label = img ? holding_label(img) : "a model that was forgotten meanwhile";
	char who[2000];
	name_sessions(r, who, sizeof who);
	metrics_add(M_verify_failures_gpu, result->n_bad);
	metrics_add(M_integrity_bad, 1);
	log_error("gpu", "%s: %u of %u chunks on %s were changed by who had them: the copy is dropped and loaded again; held by %s",
		label, result->n_bad, result->n_chunks,
		gpu_facts(d->gpu, (uint32_t)devices_of_tier(d, r->tier))->uuid, who);
	daemon_degraded(d, "device-memory-changed", "%s, last held by %.300s", label, who);
	metrics_add(M_fallback_device_changed, 1);
}

static void refuse(struct daemon *d, const struct cache_effect *fx, const struct fault *why)
{
	struct conn *c = server_conn(d->server, fx->owner);
	cache_close(d->cache, clock_now(), fx->owner, fx->lease);
	if (c && conn_end(c, fx->request))
		conn_reply_fault(c, fx->request, why->code, why->text);
}

/* What waited for the check goes on: with the copy, with another one, or not at all. */
static void let_go(struct integrity *i, struct list *waiting, const struct copycheck_result *result)
{
	struct daemon *d = i->daemon;
	while (!list_empty(waiting)) {
		struct waiting *w = list_first(waiting, struct waiting, node);
		struct cache_effect *fx = &w->grant;
		list_del(&w->node);
		if (result->error)
			refuse(d, fx, &result->why);
		else if (!server_conn(d->server, fx->owner))
			; /* its lease has gone with it */
		else if (result->n_bad)
			cache_regrant(d->cache, clock_now(), fx->owner, fx->lease, fx->request);
		else if (!integrity_defers(i, server_conn(d->server, fx->owner), fx))
			engine_grant(d, fx);
		free(w);
	}
}

/* Who let go meanwhile may have changed what was looked at already.  When there were too many for their names, nobody is forgotten. */
static void forget_compared(struct record *r)
{
	uint32_t later = r->n_past - r->n_compared;
	if (later && r->n_past > PAST_MAX)
		return;
	memmove(r->past, r->past + MIN(r->n_compared, (uint32_t)PAST_MAX), later * sizeof *r->past);
	r->n_past = later;
	r->many_users = false;
}

static void checked(void *ctx, const struct copycheck_result *result)
{
	struct check *k = ctx;
	struct integrity *i = k->all;
	struct daemon *d = i->daemon;
	struct record *r = idmap_get(&i->records, k->copy);
	struct list waiting;
	free(k);
	ASSERT(r && r->checking);
	list_init(&waiting);
	while (!list_empty(&r->waiting)) {
		struct list *n = r->waiting.next;
		list_del(n);
		list_add_tail(n, &waiting);
	}
	r->checking = false;
	if (result->error) {
		metrics_add(M_integrity_failed, 1);
	} else if (result->n_bad) {
		report_damage(i, r, result);
		cache_corrupt(d->cache, clock_now(), r->model, r->tier);
	} else {
		metrics_add(M_integrity_good, 1);
	}
	if (!result->error)
		forget_compared(r);
	record_settle(i, r);
	let_go(i, &waiting, result);
	engine_pump(d);
}

static void begin_check(struct integrity *i, struct record *r, const struct cache_effect *fx)
{
	struct check *k = calloc(1, sizeof *k);
	ASSERT(k);
	*k = (struct check){.all = i, .copy = r->copy};
	r->checking = true;
	r->n_compared = r->n_past;
	struct holding *img = holding_by_model(i->daemon, fx->model);
	const struct copycheck_options o = {.image = img, .tier = fx->to, .n = holding_layout(img)->n_chunks,
		.landed = fx->state != COPY_READY,
		.class = CLASS_DEMAND, .deadline = CACHE_NEVER, .done = checked, .ctx = k};
	copycheck_start(i->daemon, &o);
}

/* What somebody else may have changed cannot be told from what is still to come. */
static void refuse_loading(struct integrity *i, const struct cache_effect *fx)
{
	struct fault why;
	fault_set(&why, TRIMS_E_BUSY, "the load of another user is being ended; try again");
	refuse(i->daemon, fx, &why);
}

/* What was kept of the copy while nobody had it can be told from what is still to come: by now it is all that has arrived. */
static bool is_regrowing(struct daemon *d, const struct cache_effect *fx)
{
	const struct holding *img = holding_by_model(d, fx->model);
	return img && img->copies[fx->to] && img->copies[fx->to]->regrowing;
}

bool integrity_defers(struct integrity *i, struct conn *c, const struct cache_effect *fx)
{
	struct record *r = idmap_get(&i->records, fx->copy);
	if (!r || (!r->checking && !is_tainted_for(r, conn_uid(c))))
		return false;
	if (fx->state != COPY_READY && !is_regrowing(i->daemon, fx)) {
		refuse_loading(i, fx);
		return true;
	}
	struct waiting *w = calloc(1, sizeof *w);
	ASSERT(w);
	w->grant = *fx;
	list_add_tail(&w->node, &r->waiting);
	if (!r->checking)
		begin_check(i, r, fx);
	return true;
}

/* ---- leases ---- */

void integrity_granted(struct integrity *i, struct conn *c, const struct cache_effect *fx)
{
	struct record *r = record_get(i, fx);
	struct tenants *mine = idmap_get(&i->conns, conn_id(c));
	struct tenant *t = calloc(1, sizeof *t);
	ASSERT(t);
	if (!mine) {
		mine = calloc(1, sizeof *mine);
		ASSERT(mine);
		list_init(&mine->leases);
		idmap_set(&i->conns, conn_id(c), mine);
	}
	*t = (struct tenant){.record = r, .lease = fx->lease, .who = {.uid = conn_uid(c), .pid = conn_pid(c)}};
	snprintf(t->who.program, sizeof t->who.program, "%s", conn_program(c));
	list_add_tail(&t->of_record, &r->leases);
	list_add_tail(&t->of_conn, &mine->leases);
	idmap_set(&i->leases, t->lease, t);
	const struct holding *img = holding_by_model(i->daemon, fx->model);
	direct_leased(i->daemon->direct, img, img->copies[fx->to]);
}

void integrity_closed(struct integrity *i, uint64_t lease)
{
	struct tenant *t = idmap_get(&i->leases, lease);
	if (t)
		tenant_free(i, t);
}

void integrity_conn_gone(struct integrity *i, uint64_t conn)
{
	struct tenants *mine = idmap_take(&i->conns, conn);
	while (mine && !list_empty(&mine->leases))
		tenant_free(i, list_first(&mine->leases, struct tenant, of_conn));
	free(mine);
}

bool integrity_lease(const struct integrity *i, uint64_t lease, uint8_t *tier, uint64_t *copy)
{
	const struct tenant *t = idmap_get(&i->leases, lease);
	if (t) {
		*tier = t->record->tier;
		*copy = t->record->copy;
	}
	return t;
}

bool integrity_was_had(const struct integrity *i, uint64_t copy)
{
	const struct record *r = idmap_get(&i->records, copy);
	return r && r->n_past && list_empty(&r->leases);
}

void integrity_forget(struct integrity *i, uint64_t copy)
{
	struct record *r = idmap_get(&i->records, copy);
	if (!r)
		return;
	r->n_past = 0;
	r->many_users = false;
	record_settle(i, r);
}

/* ---- the whole ---- */

struct integrity *integrity_new(struct daemon *d)
{
	struct integrity *i = calloc(1, sizeof *i);
	ASSERT(i);
	i->daemon = d;
	return i;
}

void integrity_free(struct integrity **ip)
{
	struct integrity *i = *ip;
	struct record *r;
	if (!i)
		return;
	ASSERT(!i->conns.n && !i->leases.n);
	for (size_t at = 0; (r = idmap_next(&i->records, &at)); at = 0) {
		ASSERT(!r->checking && list_empty(&r->leases));
		idmap_take(&i->records, r->copy);
		free(r);
	}
	idmap_fini(&i->records);
	idmap_fini(&i->conns);
	idmap_fini(&i->leases);
	free(i);
	*ip = NULL;
}
