/* engine.c - see engine.h. */
#include "mrm/engine.h"

#include "mrm/clock.h"
#include "mrm/conn.h"
#include "mrm/copies.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/session.h"
#include "mrm/haul.h"
#include "mrm/profiler.h"
#include "mrm/resolve.h"
#include "mrm/verify.h"
#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A complete copy on disk keeps no page and no table: they are made for the answer. */
static int make_page(struct daemon *d, struct holding *img, uint64_t generation, struct segment **out, struct fault *why)
{
	int e = img->table.fd < 0 ? holding_build_table(holding_layout(img), &d->shm, &img->table, why) : 0;
	e = e ? e : segment_new(out, holding_layout(img), generation, SEGMENT_PAGE, NULL, holding_label(img),
		&d->shm, why);
	if (!e)
		segment_set_ready(*out, holding_layout(img), img->digest);
	return e;
}

/* Only copies on a device have these; slots only what is still arriving. */
static void fill_device(struct conn *c, const struct cache_effect *fx, const struct segment *copy, struct msg_opened *o)
{
	session_fill_opened(o, conn_daemon(c)->gpu, copy);
	if (!o->hit)
		o->slot = session_watch(c, fx->lease, copy->edition, segment_watermarks(copy), copy->n_pieces);
}

static void send_opened(struct conn *c, const struct cache_effect *fx, const struct holding *img, const struct segment *copy,
	const struct conn_pending *asked, enum tier_kind kind)
{
	struct msg m;
	msg_init(&m, MSG_OPENED, fx->request);
	m.u.opened.lease = fx->lease;
	m.u.opened.copy = copy->edition;
	m.u.opened.tier = kind;
	m.u.opened.hit = fx->hit && segment_is_ready(copy); /* one that is being checked anew arrives once more */
	m.u.opened.digest_hi = img->digest.hi;
	m.u.opened.digest_lo = img->digest.lo;
	m.u.opened.image_bytes = holding_layout(img)->image_bytes;
	m.u.opened.slot = GPU_SLOT_NONE;
	m.u.opened.model = fx->model;
	struct msg_fds *fds = &m.u.opened.fds;
	fds->fd[fds->n++] = img->table.fd;
	fds->fd[fds->n++] = copy->page.fd;
	for (uint32_t i = 0; copy->extents && i < copy->n_pieces; i++)
		fds->fd[fds->n++] = copy->extents[i].fd;
	if (copy->device)
		fill_device(c, fx, copy, &m.u.opened);
	if (asked->is_claim)
		fds->n = 0; /* its client has them */
	conn_reply(c, &m);
}

static enum tier_kind kind_of(const struct daemon *d, uint8_t tier)
{
	struct cache_tier_view v;
	cache_tier(d->cache, tier, &v);
	return v.kind;
}

static void count_open(struct daemon *d, const struct cache_effect *fx, const struct conn_pending *p)
{
	static const struct {
		enum metric hit, coalesced, miss;
	} row[TIER_KIND_N] = {
		[TIER_DISK] = {M_requests_disk_hit, M_requests_disk_coalesced, M_requests_disk_miss},
		[TIER_HOST] = {M_requests_host_hit, M_requests_host_coalesced, M_requests_host_miss},
		[TIER_GPU] = {M_requests_gpu_hit, M_requests_gpu_coalesced, M_requests_gpu_miss},
	};
	enum tier_kind kind = kind_of(d, fx->to);
	metrics_add(fx->hit ? row[kind].hit : fx->joined ? row[kind].coalesced : row[kind].miss, 1);
	metrics_observe_ns(fx->hit ? M_open_hit : M_open_miss, clock_now() - p->since_ns);
}

void engine_grant(struct daemon *d, const struct cache_effect *fx)
{
	struct conn *c = server_conn(d->server, fx->owner);
	struct holding *img = holding_by_model(d, fx->model);
	struct fault why;
	ASSERT(img);
	struct conn_pending pending;
	if (!c || !conn_take(c, fx->request, &pending)) {
		cache_close(d->cache, clock_now(), fx->owner, fx->lease);
		return;
	}
	struct segment *made = NULL, *copy = img->copies[fx->to];
	if (!copy && make_page(d, img, fx->copy, &made, &why)) {
		cache_close(d->cache, clock_now(), fx->owner, fx->lease);
		conn_reply_fault(c, fx->request, why.code, why.text);
		return;
	}
	conn_leases_add(c, 1);
	if (copy && copy->device)
		integrity_granted(d->integrity, c, fx);
	count_open(d, fx, &pending);
	profiler_used(d, c, fx->model, fx->to);
	send_opened(c, fx, img, copy ? copy : made, &pending, kind_of(d, fx->to));
	if (made) {
		segment_free(&made);
		holding_drop_table(img);
	}
}

static void fx_grant(struct daemon *d, const struct cache_effect *fx)
{
	struct conn *c = server_conn(d->server, fx->owner);
	if (fx->owner & VERIFY_OWNER)
		verify_granted(d, fx);
	else if (!c || !integrity_defers(d->integrity, c, fx))
		engine_grant(d, fx);
}

static void fx_refuse(struct daemon *d, const struct cache_effect *fx)
{
	if (fx->owner & VERIFY_OWNER) {
		verify_refused(d, fx);
		return;
	}
	struct conn *c = server_conn(d->server, fx->owner);
	struct conn_pending pending;
	if (!c || !conn_take(c, fx->request, &pending))
		return;
	if (pending.is_open)
		metrics_add(pending.tier == TIER_DISK ? M_requests_disk_error : pending.tier == TIER_GPU ? M_requests_gpu_error
			: M_requests_host_error, 1);
	conn_reply_fault(c, fx->request, fx->error.code, fx->error.text);
}

static void fx_accept(struct daemon *d, const struct cache_effect *fx)
{
	struct conn *c = server_conn(d->server, fx->owner);
	if (!c || !conn_end(c, fx->request))
		return;
	struct msg m;
	msg_init(&m, MSG_DONE, fx->request);
	conn_reply(c, &m);
}

static void fx_forget(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = idmap_take(&d->images, fx->model);
	if (!img)
		return;
	ASSERT(img->model == fx->model);
	img->model = 0;
	copies_forget_reference(img);
	holding_settle(img);
}

static void carry_out(struct daemon *d, const struct cache_effect *fx)
{
	switch (fx->kind) {
	case FX_RESOLVE:
		resolve_start(d, fx->name, fx->name_text);
		break;
	case FX_ALLOC:
		copies_alloc(d, fx);
		break;
	case FX_START:
		haul_start(d, fx);
		if (d->stopping)
			haul_cancel(d, fx->transfer);
		break;
	case FX_RECLASS:
		haul_reclass(d, fx);
		break;
	case FX_CANCEL:
		haul_cancel(d, fx->transfer);
		break;
	case FX_TRIM:
		copies_trim(d, fx);
		break;
	case FX_FREE:
		copies_free(d, fx);
		break;
	case FX_GRANT:
		fx_grant(d, fx);
		break;
	case FX_REFUSE:
		fx_refuse(d, fx);
		break;
	case FX_ACCEPT:
		fx_accept(d, fx);
		break;
	case FX_POISON:
		copies_poison(d, fx);
		break;
	case FX_FORGET:
		fx_forget(d, fx);
		break;
	default:
		NEVER();
	}
}

void engine_pump(struct daemon *d)
{
	if (d->pumping)
		return;
	d->pumping = true;
	struct cache_effect fx;
	while (cache_next_effect(d->cache, &fx))
		carry_out(d, &fx);
	if (d->config->self_check)
		cache_verify(d->cache);
	d->pumping = false;
}
