/* verify.c - see verify.h.
 * A verification opens what is resident on disk, on host and on devices, one after the other, checks it in steps (so that other jobs
 * get their turn), and reports. */
#include "mrm/verify.h"

#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/copycheck.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/gpu.h"
#include "mrm/holding.h"
#include "mrm/report.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define CHUNKS_PER_STEP 16

struct verification {
	struct job job;
	struct daemon *daemon;
	uint64_t id, conn, request, ticket, model, lease;
	char name[CACHE_NAME_MAX + 1];
	uint8_t tier; /* whose turn it is */
	uint64_t beside; /* after the tiers: the last that was looked at */
	json_t *copies, *bad;
	/* the copy being read */
	struct holding *image; /* referenced while there is a job */
	const struct layout *layout;
	struct disk_image *stored;
	struct segment *host;
	struct hash128 *want; /* [n_chunks] of the copy in memory */
	uint32_t next, n_chunks, n_bad;
	uint64_t bytes;
	uint32_t step_bad[CHUNKS_PER_STEP], n_step_bad;
	uint8_t *buf; /* a chunk */
};

static struct verification *find(struct daemon *d, uint64_t id)
{
	return idmap_get(&d->verifications, id);
}

static void end(struct verification *v)
{
	struct conn *c = server_conn(v->daemon->server, v->conn);
	if (c)
		conn_redeem(c, v->ticket);
	idmap_take(&v->daemon->verifications, v->id);
	json_decref(v->copies);
	json_decref(v->bad);
	free(v->want);
	free(v->buf);
	free(v);
}

static void reply(struct verification *v)
{
	struct conn *c = server_conn(v->daemon->server, v->conn);
	if (c && conn_redeem(c, v->ticket)) {
		json_t *r = json_pack("{s:I, s:O}", "model", (json_int_t)v->model, "copies", v->copies);
		report_send(c, v->request, r, 0);
	}
	end(v);
}

static struct cache_tier_view tier_of(const struct verification *v)
{
	struct cache_tier_view view;
	cache_tier(v->daemon->cache, v->tier, &view);
	return view;
}

static void record(struct verification *v, const char *result)
{
	struct cache_tier_view tier = tier_of(v);
	json_t *row = json_pack("{s:s, s:i, s:I, s:o, s:s}", "tier", tier_kind_name(tier.kind), "chunks",
		(int)v->n_chunks, "bytes", (json_int_t)v->bytes, "bad",
		v->bad ? json_incref(v->bad) : json_array(), "result", result);
	if (tier.kind == TIER_GPU) {
		json_object_set_new(row, "device", json_string(gpu_facts(v->daemon->gpu, tier.device)->uuid));
		json_object_set_new(row, "simulated", json_boolean(gpu_is_simulated(v->daemon->gpu)));
	}
	json_array_append_new(v->copies, row);
	json_decref(v->bad);
	v->bad = NULL;
}

static void verify_beside(struct verification *v);

static void beside_verified(void *ctx, const char *way, uint32_t n_chunks, uint32_t n_bad, uint64_t bytes)
{
	struct verification *v = ctx;
	json_array_append_new(v->copies, json_pack("{s:s, s:i, s:I, s:[], s:s}", "tier", way, "chunks", (int)n_chunks, "bytes",
		(json_int_t)bytes, "bad", "result", n_bad ? "corrupt" : "ok"));
	holding_put(&v->image);
	verify_beside(v);
}

/* After the tiers, what is kept for devices beside them; then all is told. */
static void verify_beside(struct verification *v)
{
	struct holding *img = holding_by_model(v->daemon, v->model);
	if (img && beside_verify(v->daemon->beside, img, &v->beside, beside_verified, v))
		v->image = holding_get(img);
	else
		reply(v);
}

static void open_next(struct verification *v)
{
	struct daemon *d = v->daemon;
	v->n_chunks = v->n_bad = 0;
	v->bytes = 0;
	v->layout = NULL;
	if (v->tier == cache_n_tiers(d->cache)) {
		verify_beside(v);
		return;
	}
	struct cache_tier_view tier = tier_of(v);
	struct cache_open req = {
		.name = v->name,
		.owner = v->id,
		.request = v->tier,
		.tier = tier.kind,
		.device = tier.device,
		.class = CLASS_PREFETCH,
		.deadline = CACHE_NEVER,
		.user = CACHE_NOBODY,
		.only_resident = true,
	};
	cache_open(d->cache, clock_now(), &req);
	engine_pump(d);
}

static bool chunk_is_good(struct verification *v, uint32_t chunk)
{
	if (v->stored)
		return disk_image_read(v->stored, chunk, v->buf, NULL) == 0;
	struct layout_chunk k = layout_chunk(v->layout, chunk);
	return hash_equal(chunk_hash(segment_chunk(v->host, v->layout, chunk), k.bytes), v->want[chunk]);
}

static void run(struct job *job, void *worker)
{
	struct verification *v = container_of(job, struct verification, job);
	uint32_t stop = MIN(v->next + CHUNKS_PER_STEP, v->n_chunks);
	for (; v->next < stop; v->next++)
		if (!chunk_is_good(v, v->next))
			v->step_bad[v->n_step_bad++] = v->next;
}

static void stepped(struct job *job);

static void step(struct verification *v)
{
	v->n_step_bad = 0;
	v->job = (struct job){.run = run, .done = stepped, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	pool_submit(v->daemon->misc, &v->job);
}

static enum metric failures_metric(enum tier_kind kind)
{
	return kind == TIER_DISK ? M_verify_failures_disk : kind == TIER_HOST ? M_verify_failures_host
		: M_verify_failures_gpu;
}

static void copy_done(struct verification *v, const char *good)
{
	struct daemon *d = v->daemon;
	enum tier_kind kind = tier_of(v).kind;
	record(v, v->n_bad ? "corrupt" : good);
	if (v->n_bad) {
		log_error("verify", "%s on %s: %u of %u chunks are damaged; the copy is dropped", v->name,
			tier_kind_name(kind), v->n_bad, v->n_chunks);
		metrics_add(failures_metric(kind), v->n_bad);
		cache_corrupt(d->cache, clock_now(), v->model, v->tier);
	}
	holding_put(&v->image);
	free(v->want);
	v->want = NULL;
	cache_close(d->cache, clock_now(), v->id, v->lease);
	engine_pump(d);
	v->tier++;
	open_next(v);
}

/* Somebody still waits for it, and has the time. */
static bool is_wanted(const struct verification *v)
{
	struct conn *c = server_conn(v->daemon->server, v->conn);
	return c && conn_wants(c, v->ticket) && !v->daemon->stopping;
}

static void give_up(struct verification *v)
{
	struct daemon *d = v->daemon;
	holding_put(&v->image);
	cache_close(d->cache, clock_now(), v->id, v->lease);
	end(v);
	engine_pump(d);
}

static void stepped(struct job *job)
{
	struct verification *v = container_of(job, struct verification, job);
	for (uint32_t i = 0; i < v->n_step_bad; i++)
		json_array_append_new(v->bad, json_integer(v->step_bad[i]));
	v->n_bad += v->n_step_bad;
	if (job->withdrawn || !is_wanted(v)) {
		give_up(v);
	} else if (v->next < v->n_chunks) {
		step(v);
	} else {
		copy_done(v, "ok");
	}
}

/* ---- copies on devices ---- */

static bool still_wanted(void *ctx)
{
	return is_wanted(ctx);
}

static void device_checked(void *ctx, const struct copycheck_result *result)
{
	struct verification *v = ctx;
	if (result->error == -ECANCELED) {
		give_up(v);
		return;
	}
	if (result->error)
		log_warn("verify", "%s on a device cannot be checked: %s", v->name, result->why.text);
	v->n_bad = result->n_bad;
	v->n_chunks = result->n_chunks;
	for (uint32_t i = 0; i < MIN(v->n_bad, (uint32_t)COPYCHECK_NAMED); i++)
		json_array_append_new(v->bad, json_integer(result->bad[i]));
	copy_done(v, result->error ? "unreadable" : "ok");
}

static void verify_device(struct verification *v)
{
	const struct copycheck_options o = {.image = v->image, .tier = v->tier, .n = v->n_chunks, .class = CLASS_PERSIST,
		.deadline = CACHE_NEVER, .wanted = still_wanted, .done = device_checked, .ctx = v};
	copycheck_start(v->daemon, &o);
}

/* ---- answers of the brain ---- */

static struct hash128 *wanted_hashes(const struct holding *img, struct fault *why)
{
	uint32_t n = holding_layout(img)->n_chunks;
	struct hash128 *want = calloc(MAX(n, 1u), sizeof *want);
	ASSERT(want);
	for (uint32_t i = 0; i < n; i++)
		if (holding_want_hash(img, i, &want[i], why)) {
			free(want);
			return NULL;
		}
	return want;
}

void verify_granted(struct daemon *d, const struct cache_effect *fx)
{
	struct verification *v = find(d, fx->owner);
	struct holding *img = holding_by_model(d, fx->model);
	struct fault why;
	if (!v || !img || fx->state != COPY_READY) {
		cache_close(d->cache, clock_now(), fx->owner, fx->lease);
		if (v)
			verify_refused(d, fx);
		return;
	}
	v->model = fx->model;
	v->lease = fx->lease;
	v->image = holding_get(img);
	v->layout = holding_layout(img);
	v->stored = v->tier == BRAIN_DISK ? img->stored : NULL;
	v->host = holding_host(img);
	v->want = v->tier == BRAIN_HOST ? wanted_hashes(img, &why) : NULL;
	v->next = 0;
	v->n_chunks = v->layout->n_chunks;
	v->bytes = v->layout->image_bytes;
	v->bad = json_array();
	if (devices_of_tier(d, v->tier) >= 0) {
		v->bytes = segment_bytes(img->copies[v->tier]);
		verify_device(v);
		return;
	}
	if (v->stored || v->want) {
		step(v);
		return;
	}
	log_warn("verify", "%s cannot be checked: %s", v->name, v->tier == BRAIN_DISK ? "its image is leaving" : why.text);
	copy_done(v, "unreadable");
}

void verify_refused(struct daemon *d, const struct cache_effect *fx)
{
	struct verification *v = find(d, fx->owner);
	if (!v)
		return;
	record(v, "absent");
	v->tier++;
	open_next(v);
}

void verify_start(struct conn *c, uint64_t request, uint64_t ticket, const char *name)
{
	struct daemon *d = conn_daemon(c);
	uint64_t model = cache_find(d->cache, name);
	if (!model) {
		conn_redeem(c, ticket);
		conn_reply_fault(c, request, TRIMS_E_NOT_FOUND, "no model of this name is known here");
		return;
	}
	struct verification *v = calloc(1, sizeof *v);
	ASSERT(v);
	v->buf = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_BYTES);
	if (!v->buf) {
		free(v);
		conn_redeem(c, ticket);
		conn_reply_fault(c, request, TRIMS_E_NO_MEMORY, "no memory to verify with");
		return;
	}
	v->daemon = d;
	v->id = VERIFY_OWNER | ++d->next_verification;
	v->conn = conn_id(c);
	v->request = request;
	v->ticket = ticket;
	v->model = model;
	v->copies = json_array();
	v->tier = 1; /* 0 is the source */
	snprintf(v->name, sizeof v->name, "%s", name);
	idmap_set(&d->verifications, v->id, v);
	open_next(v);
}

void verify_stop(struct daemon *d)
{
	struct verification *v;
	for (size_t at = 0; (v = idmap_next(&d->verifications, &at));)
		if (!v->image) {
			end(v);
			at = 0;
		}
}
