/* kept.c - see kept.h. */
#include "mrm/kept.h"

#include "mrm/clock.h"
#include "mrm/copies.h"
#include "mrm/engine.h"
#include "mrm/gpu/copycheck.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/session.h"
#include "mrm/haul.h"
#include "mrm/keep/copy.h"
#include "mrm/plans.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int kept_start(struct daemon *d, struct fault *why)
{
	const struct config *c = d->config;
	return keep_new(&d->keep, &(struct keep_options){.mode = c->keep_fds, .dir = c->cache_dir, .hold_ns = c->keep_hold}, why);
}

void kept_stop(struct daemon *d)
{
	keep_free(&d->keep, d->stopping); /* a daemon that could not start leaves what the last one left */
	idmap_fini(&d->kept);
}

const char *kept_where(const struct daemon *d)
{
	return keep_where_name(d->keep ? keep_where(d->keep) : KEEP_NOWHERE);
}

static bool is_kept(const struct daemon *d)
{
	return d->keep && keep_where(d->keep) != KEEP_NOWHERE;
}

/* ---- giving away ---- */

struct put_job {
	struct job job;
	struct holding *image; /* referenced */
	struct segment *segment; /* held */
	struct kept_copy copy; /* fds are borrowed */
	uint64_t old;          /* edition that goes, 0: none */
	uint32_t old_fds;
	struct fault why;
	int result;
};

static void run_put(struct job *job, void *worker)
{
	struct put_job *j = container_of(job, struct put_job, job);
	if (j->old)
		kept_copy_drop(j->image->daemon->keep, j->old, j->old_fds);
	j->result = kept_copy_put(j->image->daemon->keep, &j->copy, &j->why);
}

static void put_done(struct job *job)
{
	struct put_job *j = container_of(job, struct put_job, job);
	struct daemon *d = j->image->daemon;
	if (job->withdrawn)
		j->result = 0;
	if (j->result) {
		daemon_degraded(d, "not-kept", "%s: %s", holding_label(j->image), j->why.text);
		metrics_add(M_fallback_not_kept, 1);
	}
	for (uint32_t i = 0; i < j->copy.n_fds; i++)
		j->copy.fds[i] = -1; /* not ours */
	kept_copy_fini(&j->copy);
	copies_let_go(d, j->segment);
	holding_put(&j->image);
	free(j);
}

/* Descriptors of a copy's pieces; false when it is of a kind that ends with the daemon. */
static bool borrow_fds(const struct segment *s, int *fds)
{
	for (uint32_t i = 0; i < s->n_pieces; i++) {
		fds[i] = s->device ? gpu_memory_fd(s->device, i) : s->extents[i].kind == SHM_MEMFD ? s->extents[i].fd : -1;
		if (fds[i] < 0)
			return false;
	}
	return true;
}

void kept_put(struct holding *img, uint8_t tier, const struct hash128 *hashes, uint64_t old, uint32_t old_pieces)
{
	struct daemon *d = img->daemon;
	struct segment *s = img->copies[tier];
	int device = devices_of_tier(d, tier);
	if (!is_kept(d) || !s || !s->n_pieces)
		return;
	struct put_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->image = holding_get(img);
	j->segment = s;
	j->old = old;
	j->old_fds = old_pieces;
	copies_hold(s);
	j->copy = (struct kept_copy){.tier = device >= 0 ? TIER_GPU : TIER_HOST, .generation = s->edition,
		.digest = img->digest, .n_fds = s->n_pieces, .desc = image_desc_ref(holding_desc(img))};
	if (device >= 0)
		snprintf(j->copy.device, sizeof j->copy.device, "%s", gpu_facts(d->gpu, (uint32_t)device)->uuid);
	const struct layout *l = j->copy.desc->layout;
	j->copy.hashes = calloc(MAX(l->n_chunks, 1u), sizeof *j->copy.hashes);
	j->copy.fds = calloc(s->n_pieces, sizeof *j->copy.fds);
	ASSERT(j->copy.hashes && j->copy.fds);
	if (s->plan)
		kept_copy_set_plan(&j->copy, s->plan->head, s->plan->bytes, s->n_pieces > s->pieces->n_plan);
	memcpy(j->copy.hashes, hashes, l->n_chunks * sizeof *hashes);
	j->job = (struct job){.run = run_put, .done = put_done, .class = CLASS_PREFETCH, .deadline = CACHE_NEVER};
	if (borrow_fds(s, j->copy.fds)) {
		pool_submit(d->misc, &j->job);
		return;
	}
	fault_set(&j->why, TRIMS_E_UNSUPPORTED, "memory of this kind ends with the daemon");
	j->result = -ENOTSUP;
	put_done(&j->job);
}

void kept_drop(struct daemon *d, uint64_t edition, uint32_t n_pieces)
{
	if (is_kept(d) && n_pieces)
		kept_copy_drop(d->keep, edition, n_pieces);
}

/* ---- taking back ---- */

static struct holding *holding_for_copy(struct daemon *d, const struct kept_copy *c)
{
	struct holding *img = holding_for_desc(d, c->desc);
	img->digest = c->digest;
	for (uint32_t i = 0; i < c->desc->layout->n_chunks; i++)
		if (c->hashes[i].hi | c->hashes[i].lo)
			holding_set_chunk_hash(img, i, c->hashes[i], 0, false);
	return img;
}

/* How it was cut, which is as it would be now unless another daemon was set up otherwise. */
static int adopt_pieces(struct daemon *d, const struct kept_copy *c, const struct plan *plan, struct pieces **out,
	struct fault *why)
{
	int e = plans_pieces(d, c->desc->layout, plan, out, why);
	if (e)
		return e;
	if (c->n_fds == (c->whole ? (*out)->n : (*out)->n_plan))
		return 0;
	pieces_free(out);
	return fault_set(why, TRIMS_E_MISMATCH, "it is cut into other pieces now"), -EPROTO;
}

static int adopt_device(struct daemon *d, struct kept_copy *c, struct plan *plan, uint8_t *tier, struct segment **out,
	struct fault *why)
{
	int device = gpu_find(d->gpu, c->device);
	struct pieces *pieces = NULL;
	uint64_t bytes[PIECES_MAX];
	if (device < 0)
		return fault_set(why, TRIMS_E_NO_TIER, "there is no device %s", c->device), -ENODEV;
	*tier = devices_tier((uint32_t)device);
	int e = adopt_pieces(d, c, plan, &pieces, why);
	for (uint32_t i = 0; !e && i < c->n_fds; i++)
		bytes[i] = pieces->v[i].bytes;
	e = e ? e : segment_new(out, c->desc->layout, c->generation, SEGMENT_DEVICE, pieces, c->desc->name, &d->shm, why);
	if (e)
		return e;
	(*out)->n_pieces = c->n_fds;
	e = gpu_memory_adopt(&(*out)->device, d->gpu, (uint32_t)device, c->fds, bytes, c->n_fds, why);
	for (uint32_t i = 0; i < c->n_fds; i++)
		c->fds[i] = -1; /* taken, in any case */
	return e ? e : session_records_new(&(*out)->records, (*out)->device, (*out)->pieces, c->n_fds, c->generation, &d->shm,
		why);
}

static int adopt_memory(struct daemon *d, struct kept_copy *c, struct plan *plan, uint8_t *tier, struct segment **out,
	struct fault *why)
{
	if (c->tier == TIER_HOST) {
		*tier = BRAIN_HOST;
		return segment_adopt(out, c->desc->layout, c->generation, c->fds, c->desc->name, &d->shm, why);
	}
	int e = adopt_device(d, c, plan, tier, out, why);
	if (!e) {
		segment_set_landed(*out);
		return 0;
	}
	if (*out)
		gpu_memory_free(&(*out)->device);
	segment_free(out);
	return e;
}

/* The plan that it was made by, as one of this daemon's. */
static int adopt_plan(struct daemon *d, const struct kept_copy *c, struct plan **out, struct fault *why)
{
	uint64_t number;
	*out = NULL;
	if (!c->plan)
		return 0;
	int e = plans_add(d->plans, c->plan, c->plan_bytes, &number, why);
	if (!e)
		*out = plans_get(d->plans, number);
	return e;
}

static int adopt_copy(struct daemon *d, struct kept_copy *c, struct fault *why)
{
	struct segment *s = NULL;
	struct plan *plan = NULL;
	struct cache_model_info info;
	uint8_t tier = 0;
	int e = adopt_plan(d, c, &plan, why);
	e = e ? e : adopt_memory(d, c, plan, &tier, &s, why);
	if (e) {
		plan_put(&plan);
		return e;
	}
	s->plan = plan;
	struct holding *img = holding_for_copy(d, c);
	holding_info(img, &info);
	uint64_t model = 0;
	e = img->table.fd < 0 ? holding_build_table(c->desc->layout, &d->shm, &img->table, why) : 0;
	struct cache_part part = {.plan = plan ? plan->number : 0, .reach = c->whole ? REACH_ALL : REACH_PLAN};
	if (plan)
		plans_device_size(d, &info, plan->number, &part.size);
	if (!e && (e = cache_adopt_copy(d->cache, clock_now(), &info, tier, c->generation, 0, plan ? &part : NULL, &model)))
		fault_errno(why, TRIMS_E_NO_ROOM, -e, "its tier does not take it");
	if (e) {
		gpu_memory_free(&s->device);
		segment_free(&s);
		holding_settle(img);
		return e;
	}
	img->model = model;
	idmap_set(&d->images, model, img);
	idmap_set(&d->kept, c->generation, (void *)(uintptr_t)model);
	img->copies[tier] = s;
	cache_adopt_name(d->cache, clock_now(), c->desc->name, model);
	if (c->digest.hi | c->digest.lo)
		cache_identified(d->cache, clock_now(), model, c->digest.hi, c->digest.lo);
	return 0;
}

void kept_adopt(struct daemon *d)
{
	struct kept_copy c;
	size_t cursor = 0;
	while (d->keep && !kept_copy_next(d->keep, &cursor, &c)) {
		struct fault why = {0};
		int e = adopt_copy(d, &c, &why);
		log_info("keep", "%s: %s copy of an earlier daemon %s%s", c.desc->name, tier_kind_name(c.tier),
			e ? "dropped: " : "taken back", e ? why.text : "");
		metrics_add(e ? M_kept_dropped : M_kept_adopted, 1);
		if (e)
			kept_copy_drop(d->keep, c.generation, c.n_fds);
		kept_copy_fini(&c);
	}
}

/* ---- checking ---- */

#define HOST_BATCH 16   /* chunks a job */
#define DEVICE_BATCH 64 /* more at once is what makes the kernel fast */

struct check_job {
	struct job job;
	struct holding *image; /* referenced */
	const struct layout *layout;
	struct segment *copy;  /* held */
	uint64_t edition;      /* that it had; another: it is not the copy that was to be checked any more */
	uint8_t tier;
	uint32_t first, n;
	struct hash128 want[HOST_BATCH]; /* of chunks in host memory */
	int result;
	struct fault why;
};

static void note_damage(struct check_job *j, uint32_t chunk)
{
	j->result = -EBADMSG;
	fault_set(&j->why, TRIMS_E_MISMATCH, "%s: chunk %u was not what it had been when the daemon came back",
		holding_label(j->image), chunk);
}

static void run_check(struct job *job, void *worker)
{
	struct check_job *j = container_of(job, struct check_job, job);
	for (uint32_t i = 0; i < j->n && !j->result; i++) {
		struct layout_chunk k = layout_chunk(j->layout, j->first + i);
		const uint8_t *bytes = segment_chunk(j->copy, j->layout, j->first + i);
		if (!hash_equal(chunk_hash(bytes, k.bytes), j->want[i]))
			note_damage(j, j->first + i);
	}
}

static void check_next(struct holding *img, uint8_t tier, uint32_t first);

static void damage_found(struct check_job *j)
{
	struct daemon *d = j->image->daemon;
	log_error("keep", "%s", j->why.text);
	if (j->result == -EBADMSG) /* else nothing is known but that it could not be read */
		metrics_add(j->tier == BRAIN_HOST ? M_verify_failures_host : M_verify_failures_gpu, 1);
	segment_poison(j->copy, &j->why);
	cache_corrupt(d->cache, clock_now(), j->image->model, j->tier);
	devices_check(d);
}

static void batch_good(struct check_job *j)
{
	for (uint32_t i = 0; i < j->n; i++)
		if (segment_has(j->copy, j->first + i))
			segment_set_readable(j->copy, j->layout, j->first + i);
	haul_kick_readers(j->image, j->tier);
	uint32_t next = j->first + j->n;
	if (next < j->layout->n_chunks) {
		check_next(j->image, j->tier, next);
		return;
	}
	segment_set_ready(j->copy, j->layout, j->image->digest);
	log_info("keep", "%s: checked", holding_label(j->image));
}

/* A copy that is no longer its holding's was evicted meanwhile, and waits for this to let go of it. */
static void check_end(struct check_job *j, bool withdrawn)
{
	struct daemon *d = j->image->daemon;
	bool over = withdrawn || j->image->copies[j->tier] != j->copy || j->copy->cut || j->copy->edition != j->edition;
	if (!over && j->result)
		damage_found(j);
	else if (!over)
		batch_good(j);
	copies_let_go(d, j->copy);
	holding_put(&j->image);
	free(j);
	engine_pump(d);
}

static void host_checked(struct job *job)
{
	check_end(container_of(job, struct check_job, job), job->withdrawn);
}

static void device_checked(void *ctx, const struct copycheck_result *result)
{
	struct check_job *j = ctx;
	j->result = result->error;
	j->why = result->why;
	if (!result->error && result->n_bad)
		note_damage(j, result->bad[0]);
	check_end(j, result->error == -ECANCELED);
}

static void check_host(struct check_job *j)
{
	for (uint32_t i = 0; i < j->n && !j->result; i++)
		j->result = holding_want_hash(j->image, j->first + i, &j->want[i], &j->why);
	/* One that cannot be checked is dropped, but by a job: who asks is in the middle of something. */
	j->job = (struct job){.run = run_check, .done = host_checked, .class = CLASS_PREFETCH, .deadline = CACHE_NEVER};
	pool_submit(j->image->daemon->write, &j->job);
}

static void check_device(struct check_job *j)
{
	const struct copycheck_options o = {.image = j->image, .tier = j->tier, .first = j->first, .n = j->n,
		.class = CLASS_PREFETCH, .deadline = CACHE_NEVER, .done = device_checked, .ctx = j};
	copycheck_start(j->image->daemon, &o);
}

static void check_next(struct holding *img, uint8_t tier, uint32_t first)
{
	struct check_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->image = holding_get(img);
	j->layout = holding_layout(img);
	j->copy = img->copies[tier];
	j->edition = j->copy->edition;
	j->tier = tier;
	j->first = first;
	j->n = MIN(j->copy->device ? (uint32_t)DEVICE_BATCH : (uint32_t)HOST_BATCH, j->layout->n_chunks - first);
	copies_hold(j->copy);
	if (j->copy->device)
		check_device(j);
	else
		check_host(j);
}

void kept_check(struct daemon *d)
{
	struct holding *img;
	for (size_t at = 0; (img = idmap_next(&d->images, &at));)
		for (size_t t = BRAIN_HOST; t < cache_n_tiers(d->cache); t++)
			if (img->copies[t] && !segment_is_ready(img->copies[t]))
				check_next(img, (uint8_t)t, 0);
}

/* ---- clients that were there before ---- */

uint64_t kept_model(const struct daemon *d, uint64_t copy)
{
	return copy ? (uint64_t)(uintptr_t)idmap_get(&d->kept, copy) : 0;
}
