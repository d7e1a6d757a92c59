/* open.c - opening, describing and closing a model.
 * Keeps: memory is unmapped before the lease that stands for it is given back, since the daemon may then use it anew. */
#include "client/model.h"

#include "client/fail.h"
#include "client/gpu.h"
#include "client/options.h"
#include "client/plan.h"
#include "shared/name.h"
#include "shared/own.h"

#include <stdlib.h>

#define FLAGS_KNOWN (TRIMS_OPEN_NO_LOAD | TRIMS_OPEN_NO_WAIT | TRIMS_OPEN_BACKGROUND)
#define WIRE_NO_LOAD 1 /* OPEN.flags, bit 0 */
#define WIRE_DEMAND 0  /* OPEN.class */
#define WIRE_PREFETCH 1
#define BESIDE_COMPLETE 1 /* DIRECT.flags, bit 0 */
#define SAME_TRIES 3   /* opens of both tiers, until they have the same version */

static int fill_request(struct msg *m, const char *name, const struct trims_open_options *o, int *plan)
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
	return plan_for(o->plan, o->tier, &m->u.open.plan, plan);
}

static void model_free(trims_model *m)
{
	pthread_mutex_destroy(&m->files_lock);
	pthread_mutex_destroy(&m->lease_lock);
	free(m);
}

/* Takes the descriptors of *o. */
static int model_new(trims_conn *conn, const char *name, const struct conn_life *life, struct msg_opened *o,
	uint64_t deadline, trims_model **out)
{
	trims_model *m = calloc(1, sizeof *m + strlen(name) + 1);
	if (!m) {
		msg_close_fds(o->fds.fd, o->fds.n);
		return fail(TRIMS_E_NO_MEMORY, "no memory for a model");
	}
	*m = (trims_model){.conn = conn, .copy = o->copy, .version = o->model, .image_bytes = o->image_bytes, .digest_hi = o->digest_hi,
		.digest_lo = o->digest_lo, .tier = o->tier, .hit = o->hit != 0, .lease = {.life = *life, .number = o->lease},
		.files_lock = PTHREAD_MUTEX_INITIALIZER, .lease_lock = PTHREAD_MUTEX_INITIALIZER};
	strcpy(m->name, name);
	atomic_init(&m->ready, m->hit);
	int r = o->tier == TRIMS_TIER_GPU ? gpu_open(m, o, deadline) : 0; /* leaves the first two descriptors */
	if (r == 0)
		r = mapping_get(life, o, &m->mapping);
	else
		msg_close_fds(o->fds.fd, o->fds.n);
	if (r < 0) {
		gpu_close(m);
		model_free(m);
		return r;
	}
	conn_ref(conn);
	list_add_tail(&m->node, conn_models_lock(conn));
	conn_models_unlock(conn);
	*out = m;
	return 0;
}

/* Takes a lease and what comes with it. */
static int take(trims_conn *conn, struct msg *request, const struct conn_life *where, uint64_t deadline, trims_model **out)
{
	struct msg reply;
	struct conn_life life = *where;
	request->request = 0;
	int r = conn_call(conn, request, MSG_OPENED, deadline, &reply, &life);
	if (r < 0)
		return r;
	r = model_new(conn, request->u.open.model, &life, &reply.u.opened, deadline, out);
	if (r < 0)
		conn_close_lease(conn, life.epoch, reply.u.opened.lease);
	return r;
}

/* Memory for what the device has not, in the ways in which it need not register the host copy: what of it there is, or all. */
static void add_beside(trims_model *m, uint32_t flags, uint64_t deadline)
{
	for (uint32_t way = GPU_DIRECT_NUMA; way < GPU_DIRECT_WAYS && gpu_dha_lacks(m); way++) {
		struct msg request, reply;
		struct conn_life life = m->lease.life;
		trims_model *beside = NULL;
		msg_init(&request, MSG_DIRECT, 0);
		request.u.direct = (struct msg_direct){.lease = m->lease.number, .way = way, .flags = flags};
		int r = conn_call(m->conn, &request, MSG_OPENED, deadline, &reply, &life);
		if (r == 0)
			r = model_new(m->conn, m->name, &life, &reply.u.opened, deadline, &beside);
		if (r == 0)
			gpu_dha_share(m, beside);
		else if (!flags)
			gpu_dha_refused(m);
	}
}

/* Tensors that the copy on the device does not have are on the host.  1: not of the same version. */
static int add_host(trims_model *m, const struct msg *request, uint64_t deadline)
{
	struct msg again = *request;
	trims_model *host = NULL;
	again.u.open.tier = TRIMS_TIER_HOST;
	again.u.open.device[0] = 0;
	again.u.open.plan.n = 0;
	int r = take(m->conn, &again, &m->lease.life, deadline, &host);
	if (r < 0)
		return r;
	if (host->tier == TRIMS_TIER_HOST && host->version == m->version)
		return gpu_dha_register(m, host);
	r = host->tier == TRIMS_TIER_HOST ? 1 : fail(TRIMS_E_PROTOCOL, "the daemon opened another tier than it was asked for");
	trims_close(&host);
	return r;
}

static int add_rest(trims_model *m, const struct msg *request, uint64_t deadline)
{
	int r = 0;
	if (!gpu_dha_registers(m))
		add_beside(m, BESIDE_COMPLETE, deadline);
	if (gpu_dha_lacks(m))
		r = add_host(m, request, deadline);
	if (r == 0)
		add_beside(m, 0, deadline);
	return r ? r : gpu_dha_finish(m);
}

static int take_whole(trims_conn *conn, struct msg *request, const struct conn_life *attached, uint64_t deadline,
	trims_model **out)
{
	for (int tries = 0; tries < SAME_TRIES; tries++) {
		int r = take(conn, request, attached, deadline, out);
		if (r < 0)
			return r;
		if ((*out)->gpu)
			r = gpu_dha_find(*out);
		if (r == 0 && (*out)->gpu && (*out)->gpu->dha)
			r = add_rest(*out, request, deadline);
		if (r == 0)
			return 0;
		trims_close(out);
		if (r < 0)
			return r;
	}
	return fail(TRIMS_E_CHANGED, "the model is replaced at its source again and again");
}

static int open_once(trims_conn *conn, struct msg *request, const struct conn_life *attached, uint64_t deadline, bool wait,
	trims_model **out)
{
	trims_model *m = NULL;
	int r = take_whole(conn, request, attached, deadline, &m);
	if (r < 0)
		return r;
	if (wait && (!m->hit || (m->gpu && m->gpu->dha)))
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
	OWN_FD int plan = -1;
	int r = options_read(&o, sizeof o, options, "trims_open_options");
	if (r < 0 || (r = fill_request(&request, name, &o, &plan)) < 0)
		return r;
	uint64_t deadline = o.timeout_ns ? conn_deadline(o.timeout_ns) : CONN_NEVER;
	bool wait = !(o.flags & TRIMS_OPEN_NO_WAIT);
	struct conn_life attached = {0};
	if (o.tier == TRIMS_TIER_GPU && (r = gpu_attach(conn, o.device, deadline, &attached)) < 0)
		return r;
	r = open_once(conn, &request, &attached, deadline, wait, out);
	/* The model was replaced at its source while it was read.  The caller has seen none of it: open what is there now. */
	return r == -TRIMS_E_CHANGED && wait ? open_once(conn, &request, &attached, deadline, wait, out) : r;
}

void trims_close(trims_model **model)
{
	trims_model *m = model ? STEAL(*model) : NULL;
	if (!m || conn_foreign(m->conn))
		return; /* a forked child leaves its parent's mappings to exec or exit */
	conn_models_lock(m->conn); /* nobody claims its lease from here on */
	list_del(&m->node);
	conn_models_unlock(m->conn);
	if (m->files)
		model_unmap_files(m);
	gpu_close(m);
	mapping_put(&m->mapping);
	if (m->lease.number)
		conn_close_lease(m->conn, m->lease.life.epoch, m->lease.number);
	conn_unref(m->conn);
	model_free(m);
}

struct model_lease model_lease(trims_model *m)
{
	pthread_mutex_lock(&m->lease_lock);
	struct model_lease lease = m->lease;
	pthread_mutex_unlock(&m->lease_lock);
	return lease;
}

static void claim(trims_model *m, const struct conn_life *attached, uint64_t deadline)
{
	struct msg request, reply;
	struct conn_life life = *attached;
	msg_init(&request, MSG_CLAIM, 0);
	MSG_SET_STR(request.u.claim.model, m->name);
	request.u.claim.copy = m->copy;
	request.u.claim.tier = m->tier;
	if (m->gpu)
		MSG_SET_STR(request.u.claim.device, gpu_uuid(m));
	if (conn_call(m->conn, &request, MSG_OPENED, deadline, &reply, &life) < 0)
		return; /* it stays without */
	if (reply.u.opened.copy == m->copy && reply.u.opened.tier == m->tier) {
		pthread_mutex_lock(&m->lease_lock);
		m->lease = (struct model_lease){.life = life, .number = reply.u.opened.lease};
		pthread_mutex_unlock(&m->lease_lock);
	} else {
		conn_close_lease(m->conn, life.epoch, reply.u.opened.lease);
	}
	msg_fini(&reply);
}

/* Memory beside a copy has no lease of its own; disk copies are not held by anybody's mapping, and memory of cuda-ipc went with the daemon. */
static bool is_claimable(trims_model *m)
{
	return m->lease.number && m->tier != TRIMS_TIER_DISK && model_look(m, NULL) > 0;
}

void models_claim(trims_conn *c, uint64_t deadline)
{
	struct conn_life now;
	bool gpu = false;
	conn_life(c, &now);
	struct list *models = conn_models_lock(c);
	list_for_each(it, models)
		gpu |= list_entry(it, trims_model, node)->gpu != NULL;
	bool attached = gpu && gpu_attach(c, NULL, deadline, &now) == 0;
	list_for_each(it, models) {
		trims_model *m = list_entry(it, trims_model, node);
		if ((!m->gpu || attached) && m->lease.life.epoch != now.epoch && is_claimable(m))
			claim(m, &now, deadline);
	}
	conn_models_unlock(c);
}

/* The digest was not known at the open; perhaps it is now. */
static int late_digest(trims_model *m, struct trims_info *info)
{
	struct progress_page *page;
	int r = mapping_progress(m->mapping, &page);
	if (r == 0 && atomic_load_explicit(&page->state, memory_order_acquire) == PROGRESS_READY) {
		info->digest_hi = page->digest_hi;
		info->digest_lo = page->digest_lo;
	}
	return r;
}

int trims_info(trims_model *m, struct trims_info *out)
{
	size_t size = out->size;
	struct trims_info info = {.size = size, .tier = m->tier, .hit = m->hit, .image_bytes = m->image_bytes,
		.copy = m->copy, .digest_hi = m->digest_hi, .digest_lo = m->digest_lo, .version = m->version};
	if (size < offsetof(struct trims_info, leased) || size > 4096)
		return fail(TRIMS_E_BAD_REQUEST, "struct trims_info: its size is not set");
	int r = !m->hit && !(info.digest_hi | info.digest_lo) ? late_digest(m, &info) : 0;
	if (r < 0)
		return r;
	info.leased = conn_is_alive(m->conn, model_lease(m).life.epoch);
	if (m->gpu)
		gpu_info(m, &info);
	if (size > sizeof info)
		memset((char *)out + sizeof info, 0, size - sizeof info);
	memcpy(out, &info, MIN(size, sizeof info));
	return 0;
}
