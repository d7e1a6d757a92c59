/* open.c - opening, describing and closing a model.
 * Keeps: memory is unmapped before the lease that stands for it is given back, since the daemon may then use it anew. */
#include "client/model.h"

#include "client/fail.h"
#include "client/options.h"
#include "shared/name.h"
#include "shared/own.h"

#include <stdlib.h>

#define FLAGS_KNOWN (TRIMS_OPEN_NO_LOAD | TRIMS_OPEN_NO_WAIT | TRIMS_OPEN_BACKGROUND)
#define WIRE_NO_LOAD 1 /* OPEN.flags, bit 0 */
#define WIRE_DEMAND 0  /* OPEN.class */
#define WIRE_PREFETCH 1

static int fill_request(struct msg *m, const char *name, const struct trims_open_options *o)
{
	struct fault why;
	if (name_check(name, &why) < 0)
		return fail_fault(&why);
	if (o->flags & ~(uint32_t)FLAGS_KNOWN)
		return fail(TRIMS_E_UNSUPPORTED, "flags %#x: this library knows %#x", o->flags, FLAGS_KNOWN);
	msg_init(m, MSG_OPEN, 0);
	MSG_SET_STR(m->u.open.model, name);
	m->u.open.tier = o->tier;
	m->u.open.class = o->flags & TRIMS_OPEN_BACKGROUND ? WIRE_PREFETCH : WIRE_DEMAND;
	m->u.open.flags = o->flags & TRIMS_OPEN_NO_LOAD ? WIRE_NO_LOAD : 0;
	m->u.open.deadline_ns = o->timeout_ns == TRIMS_FOREVER ? 0 : o->timeout_ns;
	if (o->device && MSG_SET_STR(m->u.open.device, o->device) < 0)
		return fail(TRIMS_E_BAD_REQUEST, "not a device's UUID: %.64s", o->device);
	return 0;
}

static int model_new(trims_conn *conn, const struct conn_life *life, struct msg_opened *o, trims_model **out)
{
	struct mapping *mapping = NULL;
	int r = mapping_get(life, o, &mapping);
	trims_model *m = r == 0 ? malloc(sizeof *m) : NULL;
	if (!m) {
		mapping_put(&mapping);
		conn_close_lease(conn, life->epoch, o->lease);
		return r < 0 ? r : fail(TRIMS_E_NO_MEMORY, "no memory for a model");
	}
	*m = (trims_model){.conn = conn, .mapping = mapping, .life = *life, .lease = o->lease, .copy = o->copy,
		.image_bytes = o->image_bytes, .digest_hi = o->digest_hi, .digest_lo = o->digest_lo, .tier = o->tier,
		.hit = o->hit != 0, .files_lock = PTHREAD_MUTEX_INITIALIZER};
	atomic_init(&m->ready, m->hit);
	conn_ref(conn);
	*out = m;
	return 0;
}

static int open_once(trims_conn *conn, struct msg *request, uint64_t deadline, bool wait, trims_model **out)
{
	struct msg reply;
	struct conn_life life = {0};
	trims_model *m = NULL;
	int r = conn_call(conn, request, MSG_OPENED, deadline, &reply, &life);
	if (r < 0 || (r = model_new(conn, &life, &reply.u.opened, &m)) < 0)
		return r;
	if (!m->hit && wait)
		r = model_wait(m, NULL, deadline);
	if (r < 0)
		trims_close(&m);
	else
		*out = m;
	return r;
}

int trims_open(trims_conn *conn, const char *name, const struct trims_open_options *options, trims_model **out)
{
	struct trims_open_options o;
	struct msg request;
	int r = options_read(&o, sizeof o, options, "trims_open_options");
	if (r < 0 || (r = fill_request(&request, name, &o)) < 0)
		return r;
	uint64_t deadline = o.timeout_ns ? conn_deadline(o.timeout_ns) : CONN_NEVER;
	bool wait = !(o.flags & TRIMS_OPEN_NO_WAIT);
	r = open_once(conn, &request, deadline, wait, out);
	/* The model was replaced at its source while it was read.  The caller has seen none of it: open what is there now. */
	return r == -TRIMS_E_CHANGED && wait ? open_once(conn, &request, deadline, wait, out) : r;
}

void trims_close(trims_model **model)
{
	trims_model *m = model ? STEAL(*model) : NULL;
	if (!m || conn_foreign(m->conn))
		return; /* a forked child leaves its parent's mappings to exec or exit */
	if (m->files)
		model_unmap_files(m);
	mapping_put(&m->mapping);
	conn_close_lease(m->conn, m->life.epoch, m->lease);
	conn_unref(m->conn);
	pthread_mutex_destroy(&m->files_lock);
	free(m);
}

int trims_info(trims_model *m, struct trims_info *out)
{
	struct trims_info info = {.size = out->size, .tier = m->tier, .hit = m->hit, .image_bytes = m->image_bytes,
		.copy = m->copy, .digest_hi = m->digest_hi, .digest_lo = m->digest_lo};
	struct progress_page *page;
	if (out->size < sizeof out->size || out->size > 4096)
		return fail(TRIMS_E_BAD_REQUEST, "struct trims_info: its size is not set");
	if (!m->hit && !(info.digest_hi | info.digest_lo)) { /* not known then; perhaps now */
		int r = mapping_progress(m->mapping, &page);
		if (r < 0)
			return r;
		if (atomic_load_explicit(&page->state, memory_order_acquire) == PROGRESS_READY) {
			info.digest_hi = page->digest_hi;
			info.digest_lo = page->digest_lo;
		}
	}
	memset((char *)out + sizeof out->size, 0, out->size - sizeof out->size);
	memcpy(out, &info, MIN(out->size, sizeof info));
	return 0;
}
