/* finish.c - the end of a transfer. */
#include "mrm/finish.h"

#include "mrm/catalog.h"
#include "mrm/clock.h"
#include "mrm/copies.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/upload.h"
#include "mrm/engine.h"
#include "mrm/kept.h"
#include "mrm/sha.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct finish {
	struct job job;
	struct haul *haul;
	bool good;                  /* every chunk is in */
	const struct image_desc *desc;
	const struct source_listing *listing;
	uint8_t *const *side_data;
	struct disk *disk;
	struct disk_image *stored;
	struct hash128 *hashes;     /* [n_chunks] of a copy in memory; {0, 0}: not known, and the copy does not have the chunk */
	bool all_known;             /* hashes has all of them */
	struct hash128 known, digest; /* from before ({0, 0}: none); found */
	struct disk_image *reference; /* made for a model that is read in place, */
	struct holding *image;        /* after the haul, which is gone then; referenced */
	int result;
	struct fault why;
};

/* The files must still be what they were when their first byte was read. */
static int check_files(struct finish *f)
{
	for (uint32_t i = 0; i < f->haul->n_files; i++) {
		int e = source_check_local(f->listing, i, f->haul->files[i].fd, &f->why);
		if (e)
			return e;
	}
	return 0;
}

/* The checksums of a model that is read in place outlive the daemon as an image without data. */
static void write_reference(struct finish *f)
{
	struct image_desc *copy;
	struct fault why;
	int e = holding_clone_desc(f->desc, f->side_data, &copy, &why);
	e = e ? e : disk_image_begin(f->disk, &copy, &f->reference, &why);
	for (uint32_t i = 0; !e && i < f->desc->layout->n_chunks; i++)
		e = disk_image_put(f->reference, i, NULL, f->hashes[i], &why);
	e = e ? e : disk_image_commit(f->reference, &f->digest, &why);
	if (!e)
		return;
	log_warn("disk", "the checksums of %s will not survive a restart: %s", f->desc->name, why.text);
	metrics_add(M_fallback_disk_write_failed, 1);
	if (f->reference)
		disk_image_drop(&f->reference, NULL);
	f->reference = NULL;
}

static int digest_piece(EVP_MD_CTX *ctx, struct finish *f, const struct layout_piece *piece, uint8_t *buf,
	uint32_t *have)
{
	const struct layout *l = f->desc->layout;
	if (piece->is_gap)
		return EVP_DigestUpdate(ctx, f->haul->gaps + piece->offset, piece->bytes) ? 0 : -EIO;
	uint64_t done = 0;
	while (done < piece->bytes) {
		uint64_t at = piece->offset + done;
		if (source_cancel_is_set(f->haul->cancel))
			return fault_set(&f->why, TRIMS_E_CANCELLED, "cancelled"), -ECANCELED;
		uint32_t chunk = l->extent_chunk[piece->extent] + (uint32_t)(at / IMAGE_CHUNK_BYTES);
		if (*have != chunk) {
			int e = disk_image_read(f->stored, chunk, buf, &f->why);
			if (e)
				return e;
			*have = chunk;
		}
		uint64_t in = at % IMAGE_CHUNK_BYTES, n = MIN(IMAGE_CHUNK_BYTES - in, piece->bytes - done);
		if (!EVP_DigestUpdate(ctx, buf + in, n))
			return -EIO;
		done += n;
	}
	return 0;
}

static int sha_of_file(struct finish *f, uint32_t file, uint8_t *buf, uint8_t out[32])
{
	const struct layout *l = f->desc->layout;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint32_t have = UINT32_MAX;
	int e = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
		EVP_DigestUpdate(ctx, f->haul->heads[file].data, f->haul->heads[file].bytes) ? 0 : -EIO;
	struct layout_piece p;
	for (uint64_t at = l->data_start[file]; !e && layout_next_piece(l, file, at, &p); at += p.bytes)
		e = digest_piece(ctx, f, &p, buf, &have);
	if (!e)
		EVP_DigestFinal_ex(ctx, out, NULL);
	EVP_MD_CTX_free(ctx);
	return e;
}

/* Bytes that went to disk without passing through a host copy: read back, and compared with what the source states. */
static int check_disk_files(struct finish *f)
{
	uint8_t *buf = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_BYTES);
	int e = buf ? 0 : -ENOMEM;
	fault_set(&f->why, TRIMS_E_NO_MEMORY, "no memory to check whole files with");
	for (uint32_t i = 0; !e && i < f->desc->n_files; i++) {
		uint8_t found[32];
		if (!f->desc->files[i].has_sha256)
			continue;
		e = sha_of_file(f, i, buf, found);
		if (!e && memcmp(found, f->desc->files[i].sha256, sizeof found)) {
			fault_set(&f->why, TRIMS_E_MISMATCH,
				"%s: the bytes received do not have the SHA-256 that the source states",
				f->desc->files[i].path);
			metrics_add(M_verify_failures_remote, 1);
			e = -EBADMSG;
		}
	}
	free(buf);
	return e;
}

/* Chunks that were not on record were compared with nothing: together they must still be what the model was. */
static int check_identity(struct finish *f, struct hash128 digest)
{
	if (!(f->known.hi | f->known.lo) || hash_equal(f->known, digest))
		return 0;
	metrics_add(M_verify_failures_remote, 1);
	fault_set(&f->why, TRIMS_E_MISMATCH, "%s: the bytes received are not those that the model had before", f->desc->name);
	return -EBADMSG;
}

/* Before the commit: an image that is complete is believed. */
static int check_stored(struct finish *f)
{
	uint32_t n = f->desc->layout->n_chunks;
	OWN_MEM struct hash128 *hashes = calloc(MAX(n, 1u), sizeof *hashes);
	ASSERT(hashes);
	for (uint32_t i = 0; i < n; i++) {
		if (!disk_image_hash(f->stored, i, &hashes[i]))
			return fault_errno(&f->why, TRIMS_E_DISK_ERROR, ENOENT, "chunk %u of %s", i, f->desc->name), -ENOENT;
	}
	return check_identity(f, image_digest(f->desc, hashes));
}

static void run_disk(struct finish *f)
{
	if (!f->stored)
		return;
	struct fault why;
	if (!f->good) {
		if (disk_image_flush(f->stored, &why))
			log_warn("disk", "%s: what has landed may not survive a crash: %s", f->desc->name, why.text);
		return;
	}
	if (f->haul->heads)
		f->result = check_disk_files(f);
	if (!f->result)
		f->result = check_stored(f);
	if (!f->result)
		f->result = disk_image_commit(f->stored, &f->digest, &f->why);
}

static void run_host(struct finish *f)
{
	if (f->haul->way == WAY_FILES_HOST)
		f->result = check_files(f);
	if (f->result)
		return;
	f->digest = f->known;
	if (!f->all_known)
		return; /* of what a part consists of, each chunk was compared with the host's */
	f->digest = image_digest(f->desc, f->hashes);
	f->result = check_identity(f, f->digest);
}

static void run(struct job *job, void *worker)
{
	struct finish *f = container_of(job, struct finish, job);
	struct haul *t = f->haul;
	if (t->way == WAY_HOST_DISK || t->way == WAY_REMOTE_DISK)
		run_disk(f);
	else if (f->good)
		run_host(f);
	for (uint32_t i = 0; i < t->n_files; i++)
		if (t->files[i].fd >= 0)
			close(t->files[i].fd);
}

static void haul_free(struct haul *t)
{
	idmap_take(&t->daemon->hauls, t->id);
	t->image->n_hauls--;
	holding_settle_hashes(t->image);
	haul_kick_followers(t); /* what they read is complete now, or they are told to stop */
	upload_end(t);
	sha_check_free(&t->sha);
	for (uint32_t i = 0; t->heads && i < holding_desc(t->image)->n_files; i++)
		free(t->heads[i].data);
	free(t->heads);
	source_cancel_free(&t->cancel);
	free(t->files);
	if (t->way == WAY_REMOTE_DISK)
		free(t->gaps);
	free(t->stream_hash);
	free(t->order);
	holding_put(&t->image);
	t->magic = 0;
	free(t);
}

static enum metric seconds_metric(const struct haul *t)
{
	switch (t->way) {
	case WAY_DISK_HOST:
		return M_load_disk_host;
	case WAY_HOST_DISK:
		return M_load_host_disk;
	case WAY_REMOTE_DISK:
		return M_load_remote_disk;
	case WAY_HOST_GPU:
		return M_load_host_gpu;
	default:
		return M_load_remote_host;
	}
}

static void record_end(struct haul *t, const struct fault *error)
{
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	if (!l)
		return;
	l->ended_ns = clock_now();
	if (error)
		l->error = *error;
	else
		metrics_observe_ns(seconds_metric(t), l->ended_ns - l->started_ns);
	bool simulated = t->way == WAY_HOST_GPU && gpu_is_simulated(t->daemon->gpu);
	log_info("load", "%s: %s to %s%s %s after %.3f s, %.1f MB%s%s", holding_label(t->image), tier_kind_name(l->from),
		tier_kind_name(l->to), simulated ? " (simulated)" : "", !error ? "done" : t->cancelled ? "cancelled" : "failed",
		(double)(l->ended_ns - l->started_ns) / 1e9, (double)l->bytes / 1e6, error ? ": " : "",
		error ? error->text : "");
}

/* The model's identity is known: clients see it, and the brain may find that it has the content already. */
static void identify(struct haul *t, struct hash128 digest)
{
	struct holding *img = t->image;
	if (!(digest.hi | digest.lo))
		return;
	img->digest = digest;
	cache_identified(t->daemon->cache, clock_now(), img->model, digest.hi, digest.lo);
}

static void make_ready(struct haul *t, const struct hash128 *hashes)
{
	struct holding *img = t->image;
	struct segment *c = img->copies[t->to];
	uint64_t old = 0;
	uint32_t old_pieces = 0;
	if (c && c->next.n_pieces) {
		old = c->edition; /* the next one is kept instead */
		old_pieces = c->n_pieces;
		metrics_add(M_gpu_grown, 1);
		metrics_add(M_gpu_grown_bytes, pieces_bytes(c->pieces, c->next.n_pieces, 1) - segment_bytes(c));
	}
	if (c)
		segment_set_ready(c, holding_layout(img), img->digest);
	if (t->to != BRAIN_DISK) {
		kept_put(img, t->to, hashes, old, old_pieces);
		return;
	}
	segment_free(&img->copies[t->to]); /* later opens get a page of their own */
	holding_drop_table(img);
	cache_disk_size(t->daemon->cache, img->model, disk_image_bytes(img->stored));
}

/* What has landed of a load that was broken off is kept for the next one, but on a device somebody may have had it in hands:
 * nothing of it counts then, and whoever comes gets a page that says so. */
static void begin_anew(struct haul *t)
{
	struct daemon *d = t->daemon;
	struct segment *c = t->image->copies[t->to];
	struct fault why;
	if (c->next.n_pieces || !integrity_was_had(d->integrity, t->copy))
		return;
	if (segment_begin_anew(c, holding_layout(t->image), holding_label(t->image), &d->shm, &why))
		cache_corrupt(d->cache, clock_now(), t->image->model, t->to);
	else
		integrity_forget(d->integrity, t->copy);
}

/* ---- the checksums of a model that is read in place ---- */

static void run_reference(struct job *job, void *worker)
{
	write_reference(container_of(job, struct finish, job));
}

static void reference_written(struct job *job)
{
	struct finish *f = container_of(job, struct finish, job);
	f->image->referencing = false;
	if (f->reference)
		f->image->stored = f->reference;
	if (!f->image->model) /* forgotten while they were written */
		copies_forget_reference(f->image);
	catalog_changed(f->image->daemon);
	holding_put(&f->image);
	free(f->hashes);
	free(f);
}

/* Behind everything else: its syncs are not what a first open should wait for.  True when it took f over. */
static bool begin_reference(struct finish *f, struct holding *img)
{
	if (!f->disk || img->stored || img->referencing || !f->all_known || !f->desc->in_place)
		return false;
	img->referencing = true;
	f->image = holding_get(img);
	f->job = (struct job){
		.run = run_reference, .done = reference_written, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	pool_submit(img->daemon->write, &f->job);
	return true;
}

static void finished(struct job *job)
{
	struct finish *f = container_of(job, struct finish, job);
	struct haul *t = f->haul;
	struct daemon *d = t->daemon;
	if (f->result == -EBADMSG)
		t->cancelled = false; /* wrong bytes are not kept for a later load, as those of a cancelled one are */
	if (f->result)
		haul_fail(t, &f->why);
	bool good = f->good && !f->result;
	if (good) {
		t->cancelled = t->failed = false;
		t->image->digest = f->digest;
		make_ready(t, f->hashes);
	}
	t->image->doubtful |= t->failed && t->way != WAY_HOST_GPU;
	if (t->failed && t->way == WAY_HOST_DISK) {
		daemon_degraded(d, "disk-write-failed", "%s", t->error.text);
		metrics_add(M_fallback_disk_write_failed, 1);
	}
	if (t->way == WAY_HOST_GPU && !good && t->cancelled)
		begin_anew(t);
	record_end(t, good ? NULL : &t->error);
	/* While the daemon stops, the brain would take a load that was cut short for one that failed, and drop what has landed. */
	if (good || !d->stopping)
		cache_transfer_done(d->cache, clock_now(), t->id, good ? NULL : &t->error);
	/* What an earlier, interrupted download has left on disk may be what was wrong. */
	bool partial = t->image->stored && !disk_image_complete(t->image->stored);
	if (!good && t->error.code == TRIMS_E_MISMATCH && t->way == WAY_REMOTE_HOST && partial)
		cache_corrupt(d->cache, clock_now(), t->image->model, BRAIN_DISK);
	if (good && t->image->model)
		identify(t, t->image->digest);
	if (!good || !begin_reference(f, t->image)) {
		free(f->hashes);
		free(f);
	}
	haul_free(t);
	catalog_changed(d);
	engine_pump(d);
}

/* All have landed; but what a haul that this one followed has taken back is not on record any more.  What a copy on a device
 * does not have need not be known yet. */
static struct hash128 *collect_hashes(struct haul *t, bool *all)
{
	const struct holding *img = t->image;
	const struct segment *to = t->way == WAY_HOST_GPU ? img->copies[t->to] : NULL;
	uint32_t n = holding_layout(img)->n_chunks;
	struct hash128 *h = calloc(MAX(n, 1u), sizeof *h);
	struct fault why;
	ASSERT(h);
	*all = true;
	for (uint32_t i = 0; i < n; i++) {
		if (holding_chunk_hash(img, i, &h[i]))
			continue;
		*all = false;
		if (to && !segment_wants(to, i))
			continue;
		fault_set(&why, TRIMS_E_MISMATCH, "chunk %u came from a download that brought wrong bytes", i);
		haul_fail(t, &why);
		free(h);
		return NULL;
	}
	return h;
}

void finish_start(struct haul *t)
{
	struct holding *img = t->image;
	struct finish *f = calloc(1, sizeof *f);
	ASSERT(f);
	f->haul = t;
	f->desc = holding_desc(img);
	f->listing = img->listing;
	f->side_data = img->side_data;
	f->disk = t->daemon->disk;
	f->stored = img->stored;
	f->known = img->digest;
	bool to_disk = t->way == WAY_HOST_DISK || t->way == WAY_REMOTE_DISK;
	if (!to_disk && !haul_is_over(t))
		f->hashes = collect_hashes(t, &f->all_known);
	f->good = !haul_is_over(t);
	f->job = (struct job){.run = run, .done = finished, .class = CLASS_DEMAND, .deadline = 0};
	/* Syncing an image, or reading all of it again, takes long: whoever waits for memory must not wait for that. */
	pool_submit(to_disk ? t->daemon->write : t->daemon->misc, &f->job);
}
