/* haul.c - see haul.h.
 * Keeps: outstanding counts the jobs that will come home; the transfer ends when it is 0 and nothing is left to submit.
 * Every transfer answers the brain once. */
#include "mrm/chunk.h"

#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/finish.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/session.h"
#include "mrm/gpu/upload.h"
#include "mrm/plans.h"
#include "mrm/profiler.h"
#include "mrm/sha.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct haul *haul_find(struct daemon *d, uint64_t id)
{
	return idmap_get(&d->hauls, id);
}

bool haul_is_over(const struct haul *t)
{
	return t->cancelled || t->failed;
}

/* Of two hauls that got different bytes nobody knows which is wrong.  The one that comes second to a chunk fails, and takes
 * back what it had put on record itself: else it would fail the first one at another chunk. */
static void disown(struct haul *t)
{
	struct holding *img = t->image;
	holding_disown(img, t->id);
	if (t->way == WAY_REMOTE_DISK && img->stored && !disk_image_complete(img->stored))
		img->suspect = true;
}

void haul_fail(struct haul *t, const struct fault *why)
{
	if (haul_is_over(t))
		return;
	t->failed = true;
	t->error = *why;
	if (t->cancel)
		source_cancel_set(t->cancel);
	if (why->code == TRIMS_E_MISMATCH)
		disown(t);
	upload_cancel(t);
	log_warn("load", "%s: %s", holding_label(t->image), why->text);
}

static bool fills_host(const struct haul *t)
{
	return t->way == WAY_FILES_HOST || t->way == WAY_REMOTE_HOST || t->way == WAY_DISK_HOST;
}

static struct trace_load *trace_of(struct haul *t)
{
	return trace_find(&t->image->trace, t->id);
}

/* ---- chunks ---- */

static size_t window_of(const struct haul *t)
{
	const struct daemon *d = t->daemon;
	switch (t->way) {
	case WAY_FILES_HOST:
	case WAY_DISK_HOST:
		return pool_threads(d->read) * d->config->read_depth + 2;
	case WAY_HOST_DISK:
		return pool_threads(d->write) + 1;
	default:
		return pool_threads(d->net) + 2;
	}
}

static void chunk_done(struct job *job);

struct chunk_job *chunk_new(struct haul *t, uint32_t chunk, enum chunk_how how)
{
	struct holding *img = t->image;
	struct chunk_job *c = calloc(1, sizeof *c);
	ASSERT(c);
	c->haul = t;
	c->desc = holding_desc(img);
	c->layout = c->desc->layout;
	c->stored = img->stored;
	c->listing = img->listing;
	c->host = holding_host(img);
	c->label = c->desc->name;
	c->cancel = t->cancel ? t->cancel : t->daemon->halt;
	c->disk_direct = t->daemon->disk && disk_is_direct(t->daemon->disk, NULL);
	c->huge = t->daemon->shm.huge;
	c->how = how;
	c->to_disk = t->way == WAY_REMOTE_DISK;
	c->mend = img->stored && disk_image_complete(img->stored); /* one that is being filled has another writer */
	c->chunk = chunk;
	c->dst = holding_host(img) ? segment_chunk(holding_host(img), c->layout, chunk) : NULL;
	if (how != CHUNK_STREAM)
		c->has_want = holding_chunk_hash(img, chunk, &c->want);
	return c;
}

void chunk_submit(struct chunk_job *c)
{
	struct haul *t = c->haul;
	struct daemon *d = t->daemon;
	ASSERT(c->how != CHUNK_STORE || c->has_want);
	bool lane = c->how == CHUNK_FILES || c->how == CHUNK_DISK;
	c->job.class = t->class;
	c->job.deadline = t->deadline;
	c->job.run = chunk_run;
	c->job.done = chunk_done;
	t->outstanding++;
	pool_submit(lane ? d->read : c->how == CHUNK_STORE ? d->write : d->net, &c->job);
}

static enum chunk_how how_for(const struct haul *t, uint32_t chunk)
{
	switch (t->way) {
	case WAY_FILES_HOST:
		return CHUNK_FILES;
	case WAY_DISK_HOST:
		return CHUNK_DISK;
	case WAY_HOST_DISK:
		return CHUNK_STORE;
	case WAY_REMOTE_DISK:
		return CHUNK_PASS;
	case WAY_REMOTE_HOST:
		break;
	case WAY_HOST_GPU:
		NEVER();
	}
	/* What an interrupted download has left on disk need not be fetched again, unless bytes between tensors, which the
	 * disk image does not hold, are needed for a whole file's digest. */
	if (t->gaps && holding_layout(t->image)->gap_bytes)
		return CHUNK_NET;
	const struct holding *img = t->image;
	return img->stored && !img->suspect && disk_image_has(img->stored, chunk) ? CHUNK_DISK : CHUNK_NET;
}

/* The haul that still fills the copy this one reads; NULL when that one is complete. */
static const struct haul *leader_of(const struct haul *t)
{
	return t->follows ? haul_find(t->daemon, t->follows) : NULL;
}

/* Whether the chunk has to be moved at all, and may be now. */
enum readiness { CHUNK_SKIP, CHUNK_WAIT, CHUNK_GO };

bool haul_finds_on_host(const struct haul *t, uint32_t chunk)
{
	struct hash128 ignored;
	/* Not on record: the load it came with has failed, and this one is about to be cancelled. */
	return holding_host(t->image)->readable[chunk] && holding_chunk_hash(t->image, chunk, &ignored);
}

static enum readiness chunk_readiness(const struct haul *t, uint32_t chunk)
{
	const struct holding *img = t->image;
	if (fills_host(t) && holding_host(img)->landed[chunk])
		return CHUNK_SKIP;
	if (t->way == WAY_DISK_HOST) {
		/* What is still being downloaded to disk may be read chunk by chunk, unless whole files are checked at its end.
		 * A chunk that will never come means that the brain is about to cancel this. */
		const struct haul *leader = leader_of(t);
		bool there = img->stored && disk_image_has(img->stored, chunk);
		return there && !(leader && leader->heads) ? CHUNK_GO : CHUNK_WAIT;
	}
	if (fills_host(t))
		return CHUNK_GO;
	bool anew = t->gaps && holding_layout(img)->gap_bytes;
	if (disk_image_has(img->stored, chunk) && !anew)
		return CHUNK_SKIP;
	if (t->way == WAY_HOST_DISK && !haul_finds_on_host(t, chunk))
		return CHUNK_WAIT;
	return CHUNK_GO;
}

void haul_chunk_was_there(struct haul *t, uint32_t chunk)
{
	struct trace_load *l = trace_of(t);
	if (l)
		l->chunks_resumed++;
	t->done_bytes += layout_chunk(holding_layout(t->image), chunk).bytes;
}

static void submit_window(struct haul *t)
{
	uint32_t n = holding_layout(t->image)->n_chunks;
	while (t->next < n && t->outstanding < window_of(t)) {
		uint32_t chunk = haul_chunk_at(t, t->next);
		enum readiness r = chunk_readiness(t, chunk);
		if (r == CHUNK_WAIT)
			return;
		t->next++;
		if (r == CHUNK_SKIP) {
			haul_chunk_was_there(t, chunk);
			continue;
		}
		enum chunk_how how = how_for(t, chunk);
		if (how == CHUNK_DISK && t->way == WAY_REMOTE_HOST)
			metrics_add(M_resumes_journal, t->resumed++ == 0);
		chunk_submit(chunk_new(t, chunk, how));
	}
}

/* A server without ranges: one job brings everything. */
static void submit_stream(struct haul *t)
{
	uint32_t n = holding_layout(t->image)->n_chunks;
	t->next = n;
	t->stream_hash = calloc(MAX(n, 1u), sizeof *t->stream_hash);
	ASSERT(t->stream_hash);
	daemon_degraded(t->daemon, "no-ranges", "%s: the server does not do byte ranges; one connection, no cut-through",
		holding_label(t->image));
	metrics_add(M_fallback_no_ranges, 1);
	chunk_submit(chunk_new(t, 0, CHUNK_STREAM));
}

static bool needs_stream(const struct haul *t)
{
	bool remote = t->way == WAY_REMOTE_HOST || t->way == WAY_REMOTE_DISK;
	return remote && t->image->listing && t->image->listing->no_ranges && t->next == 0;
}

static enum metric bytes_metric(const struct haul *t)
{
	switch (t->way) {
	case WAY_DISK_HOST:
		return M_promotion_bytes_disk_host;
	case WAY_HOST_DISK:
		return M_promotion_bytes_host_disk;
	case WAY_REMOTE_DISK:
		return M_promotion_bytes_remote_disk;
	case WAY_HOST_GPU:
		return M_promotion_bytes_host_gpu;
	default:
		return M_promotion_bytes_remote_host;
	}
}

void haul_kick_followers(const struct haul *t)
{
	struct haul *f;
	for (size_t at = 0; (f = idmap_next(&t->daemon->hauls, &at));)
		if (f->follows == t->id && f->stage == STAGE_CHUNKS)
			haul_advance(f);
}

void haul_kick_readers(const struct holding *img, uint8_t tier)
{
	struct haul *f;
	for (size_t at = 0; (f = idmap_next(&img->daemon->hauls, &at));)
		if (f->image == img && f->from == tier && f->stage == STAGE_CHUNKS)
			haul_advance(f);
	beside_advance(img->daemon->beside, img);
}

void haul_chunk_readable(struct haul *t, uint32_t chunk)
{
	segment_set_readable(holding_host(t->image), holding_layout(t->image), chunk);
	haul_kick_followers(t);
	beside_advance(t->daemon->beside, t->image);
}

static void account(struct haul *t, uint64_t image_bytes)
{
	struct trace_load *l = trace_of(t);
	uint64_t now = clock_now();
	t->done++;
	t->done_bytes += image_bytes;
	if (l) {
		l->bytes += image_bytes;
		l->last_byte_ns = now;
		if (!l->first_byte_ns)
			l->first_byte_ns = now;
	}
	metrics_add(bytes_metric(t), image_bytes);
	cache_landed(t->daemon->cache, now, t->id, t->done_bytes);
}

/* What was not on record when the job was made may be now: another haul of the same model has brought the chunk. */
static bool matches_record(struct haul *t, uint32_t chunk, struct hash128 hash)
{
	struct hash128 want;
	struct fault why;
	if (!holding_chunk_hash(t->image, chunk, &want) || hash_equal(want, hash))
		return true;
	fault_set(&why, TRIMS_E_MISMATCH, "chunk %u does not match the digest on record", chunk);
	metrics_add(M_verify_failures_remote, 1);
	haul_fail(t, &why);
	return false;
}

static void chunk_landed(struct haul *t, uint32_t chunk, struct hash128 hash)
{
	struct holding *img = t->image;
	const struct layout *l = holding_layout(img);
	if (t->failed || !matches_record(t, chunk, hash))
		return;
	if (t->way != WAY_HOST_DISK) /* else it came from the record */
		holding_set_chunk_hash(img, chunk, hash, t->id, t->way == WAY_REMOTE_DISK);
	account(t, layout_chunk(l, chunk).bytes);
	if (!fills_host(t)) {
		haul_kick_followers(t);
		return;
	}
	holding_host(img)->landed[chunk] = true;
	holding_host(img)->n_landed++;
	if (!t->sha || sha_check_passed(t->sha, chunk))
		haul_chunk_readable(t, chunk);
	if (t->sha)
		sha_check_landed(t->sha, chunk);
}

void haul_chunk_back(struct haul *t)
{
	t->outstanding--;
}

void haul_chunk_up(struct haul *t, uint32_t chunk, const struct fault *failure)
{
	const struct layout *l = holding_layout(t->image);
	struct segment *to = t->image->copies[t->to];
	t->outstanding--;
	if (failure) {
		haul_fail(t, failure);
		return;
	}
	to->landed[chunk] = true;
	to->n_landed++;
	account(t, layout_chunk(l, chunk).bytes);
	segment_set_readable(to, l, chunk);
	uint32_t piece = to->pieces->of_chunk[chunk];
	if (!to->next.n_pieces) /* nobody has the next one yet */
		session_publish(t->daemon->sessions, to->edition, piece, segment_watermarks(to)[piece]);
}

static void count_moved(const struct chunk_job *c)
{
	enum metric m = c->how == CHUNK_STORE ? M_write_bytes_disk : c->how == CHUNK_DISK ? M_read_bytes_disk
										      : M_read_bytes_remote;
	metrics_add(m, c->moved_bytes);
}

/* A damaged chunk of the disk image is fetched again where that is possible; of any other origin it ends the load. */
static bool try_repair(struct chunk_job *c)
{
	struct haul *t = c->haul;
	struct trace_load *l = trace_of(t);
	if (l)
		l->chunks_bad++;
	metrics_add(c->how == CHUNK_DISK ? M_verify_failures_disk : M_verify_failures_remote, 1);
	if (c->how != CHUNK_DISK || haul_is_over(t))
		return false;
	log_warn("disk", "%s: %s; fetching it from the source again", holding_label(t->image), c->why.text);
	finish_repair(t, c->chunk);
	return true;
}

/* It was measured by what a haul had put on record that has been found out since: asked for again, by the record as it is
 * now.  That haul is over, so this happens once for each at most. */
static bool was_misjudged(const struct chunk_job *c)
{
	struct hash128 want;
	bool downloaded = c->how == CHUNK_NET || c->how == CHUNK_PASS;
	return downloaded && c->has_want && !haul_is_over(c->haul) &&
		!(holding_chunk_hash(c->haul->image, c->chunk, &want) && hash_equal(want, c->want));
}

static void stream_landed(struct haul *t)
{
	uint32_t n = holding_layout(t->image)->n_chunks;
	for (uint32_t i = 0; i < n && !haul_is_over(t); i++)
		if (!fills_host(t) || !holding_host(t->image)->landed[i])
			chunk_landed(t, i, t->stream_hash[i]);
}

static void chunk_done(struct job *job)
{
	struct chunk_job *c = container_of(job, struct chunk_job, job);
	struct haul *t = c->haul;
	t->outstanding--;
	if (!job->withdrawn) {
		count_moved(c);
		if (c->result == -EBADMSG && was_misjudged(c))
			chunk_submit(chunk_new(t, c->chunk, c->how));
		else if (c->result == -EBADMSG && try_repair(c))
			;
		else if (c->result)
			haul_fail(t, &c->why);
		else if (c->how == CHUNK_STREAM)
			stream_landed(t);
		else
			chunk_landed(t, c->chunk, c->how == CHUNK_STORE ? c->want : c->hash);
	}
	free(c);
	haul_advance(t);
	engine_pump(t->daemon);
}

/* ---- the whole ---- */

static bool all_chunks_in(const struct haul *t)
{
	uint32_t n = holding_layout(t->image)->n_chunks;
	bool begun = t->way == WAY_HOST_GPU ? upload_has_begun_all(t) : t->next == n;
	if (!begun || t->outstanding)
		return false;
	return !t->sha || sha_check_complete(t->sha);
}

void haul_advance(struct haul *t)
{
	if (t->in_chunks || t->stage != STAGE_CHUNKS)
		return;
	t->in_chunks = true;
	if (!haul_is_over(t)) {
		if (needs_stream(t))
			submit_stream(t);
		else if (t->way == WAY_HOST_GPU)
			upload_advance(t);
		else
			submit_window(t);
	}
	t->in_chunks = false;
	if (haul_is_over(t) ? t->outstanding == 0 : all_chunks_in(t)) {
		t->stage = STAGE_FINISH;
		finish_start(t);
	}
}

static enum haul_way way_for(const struct daemon *d, const struct cache_effect *fx, const struct holding *img)
{
	if (fx->from == BRAIN_REMOTE && fx->to == BRAIN_HOST)
		return holding_desc(img)->in_place ? WAY_FILES_HOST : WAY_REMOTE_HOST;
	if (fx->from == BRAIN_REMOTE && fx->to == BRAIN_DISK)
		return WAY_REMOTE_DISK;
	if (fx->from == BRAIN_DISK && fx->to == BRAIN_HOST)
		return WAY_DISK_HOST;
	if (fx->from == BRAIN_HOST && devices_of_tier(d, fx->to) >= 0)
		return WAY_HOST_GPU;
	ASSERT(fx->from == BRAIN_HOST && fx->to == BRAIN_DISK);
	return WAY_HOST_DISK;
}

static void copy_order(struct haul *t, const struct pieces *p)
{
	size_t bytes = holding_layout(t->image)->n_chunks * sizeof *t->order;
	if (!p->order)
		return;
	t->order = malloc(bytes);
	ASSERT(t->order);
	memcpy(t->order, p->order, bytes);
}

static void order_by(struct haul *t, uint64_t number, bool device)
{
	struct plan *plan = plans_get(t->daemon->plans, number);
	if (plan)
		t->order = plans_host_order(t->daemon, holding_layout(t->image), plan, device);
	plan_put(&plan);
}

/* A load of a device, and those on the way there, go by the order of its plan. */
static void take_order(struct haul *t, uint64_t plan)
{
	if (t->way == WAY_HOST_GPU)
		copy_order(t, t->image->copies[t->to]->pieces);
	else if (fills_host(t) && plan)
		order_by(t, plan, gpu_count(t->daemon->gpu) > 0);
}

/* What has been begun stands first, as it was: in image order. */
static void keep_begun(const struct haul *t)
{
	uint32_t n = holding_layout(t->image)->n_chunks, at = t->next;
	uint32_t *rest = malloc(n * sizeof *rest);
	ASSERT(rest);
	for (uint32_t i = 0, k = 0; i < n; i++)
		if (t->order[i] >= t->next)
			rest[k++] = t->order[i];
	for (uint32_t i = 0; i < at; i++)
		t->order[i] = i;
	memcpy(t->order + at, rest, (n - at) * sizeof *rest);
	free(rest);
}

/* Not one that follows a download to disk: it would wait for chunks that come last there. */
static bool can_be_arranged(const struct haul *t)
{
	return fills_host(t) && !t->order && !haul_is_over(t) && t->stage < STAGE_FINISH &&
		t->next < holding_layout(t->image)->n_chunks && !leader_of(t);
}

void haul_arrange(struct holding *img, uint64_t plan, bool device)
{
	struct haul *t;
	for (size_t at = 0; (t = idmap_next(&img->daemon->hauls, &at));) {
		if (t->image != img || !can_be_arranged(t))
			continue;
		order_by(t, plan, device);
		if (!t->order)
			continue;
		keep_begun(t);
		struct trace_load *l = trace_of(t);
		if (l)
			l->plan = plan;
	}
}

static void begin_trace(struct haul *t, const struct cache_effect *fx)
{
	struct trace_load *l = trace_begin(&t->image->trace, t->id);
	struct cache_tier_view v;
	cache_tier(t->daemon->cache, fx->from, &v);
	l->from = v.kind;
	cache_tier(t->daemon->cache, fx->to, &v);
	l->to = v.kind;
	l->class = fx->class;
	l->plan = t->order ? fx->plan : 0;
}

void haul_start(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = holding_by_model(d, fx->model);
	ASSERT(img);
	struct haul *t = calloc(1, sizeof *t);
	ASSERT(t);
	t->magic = HAUL_MAGIC;
	t->daemon = d;
	t->image = holding_get(img);
	img->n_hauls++;
	t->id = fx->transfer;
	t->copy = fx->copy;
	t->from = fx->from;
	t->to = fx->to;
	t->class = fx->class;
	t->deadline = fx->deadline;
	t->user = fx->user;
	t->way = way_for(d, fx, img);
	t->follows = fx->follows;
	idmap_set(&d->hauls, t->id, t);
	take_order(t, fx->plan);
	begin_trace(t, fx);
	profiler_yield(d);
	log_info("load", "%s: %s to %s (%s)", holding_label(img), tier_kind_name(trace_of(t)->from),
		tier_kind_name(trace_of(t)->to), t->class == CLASS_DEMAND ? "demand" : t->class == CLASS_PREFETCH
		? "prefetch" : "write-through");
	prepare_start(t);
}

void haul_cancel(struct daemon *d, uint64_t id)
{
	struct haul *t = haul_find(d, id);
	if (!t || haul_is_over(t))
		return;
	t->cancelled = true;
	fault_set(&t->error, TRIMS_E_CANCELLED, "nobody waits for it any more");
	if (t->cancel)
		source_cancel_set(t->cancel);
	upload_cancel(t);
	haul_advance(t);
}

void haul_reclass(struct daemon *d, const struct cache_effect *fx)
{
	struct haul *t = haul_find(d, fx->transfer);
	if (!t)
		return;
	/* At most a window of chunks is queued with the old rank: what is not submitted yet carries the new one. */
	t->class = fx->class;
	t->deadline = fx->deadline;
	t->user = fx->user;
	upload_reclass(t);
}

size_t haul_cancel_all(struct daemon *d)
{
	size_t n = 0;
	struct haul *t;
	for (size_t at = 0; (t = idmap_next(&d->hauls, &at)); n++)
		if (!haul_is_over(t)) {
			haul_cancel(d, t->id);
			at = 0, n = 0;
		}
	return n;
}
