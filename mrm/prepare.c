/* prepare.c - the start of a transfer, and repairs: both may have to find the model at its source again. */
#include "mrm/finish.h"

#include "mrm/chunk.h"
#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/gpu/upload.h"
#include "mrm/resolve.h"
#include "mrm/sha.h"
#include "shared/check.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct prepare {
	struct job job;
	struct haul *haul;
	bool want_listing, want_files, want_heads, want_sides, want_disk;
	uint32_t repair_chunk;
	/* borrowed */
	const struct image_desc *desc;
	uint8_t *const *side_data;
	struct source *source;
	const struct source_listing *listing;
	const struct source_cancel *cancel;
	struct disk *disk;
	/* made here */
	struct source_listing *found;
	struct source_bytes *heads;
	struct disk_image *stored;
	int result;
	struct fault why;
};

static int open_files(struct prepare *p, const struct source_listing *listing)
{
	struct haul *t = p->haul;
	for (uint32_t i = 0; i < p->desc->n_files; i++) {
		int fd;
		bool direct = true;
		int e = source_open_local(listing, i, O_DIRECT, &fd, &p->why);
		if (e == -EINVAL) {
			direct = false;
			e = source_open_local(listing, i, 0, &fd, &p->why);
		}
		if (e)
			return e;
		t->files[i].fd = fd;
		t->files[i].direct = direct;
	}
	return 0;
}

static int read_heads(struct prepare *p, const struct source_listing *listing, struct source_worker *w)
{
	uint32_t n = p->desc->n_files;
	p->heads = calloc(n, sizeof *p->heads);
	ASSERT(p->heads);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t bytes = p->desc->layout->data_start[i];
		p->heads[i].data = malloc(bytes + 1);
		p->heads[i].bytes = bytes;
		if (!p->heads[i].data)
			return fault_set(&p->why, TRIMS_E_NO_MEMORY, "no memory for a header"), -ENOMEM;
		int e = source_read(w, listing, i, 0, bytes, p->heads[i].data, p->cancel, &p->why);
		if (e)
			return e;
	}
	return 0;
}

/* Side files that were damaged when the image that had them was dropped. */
static int fetch_sides(struct prepare *p, struct image_desc *copy, const struct source_listing *listing,
	struct source_worker *w)
{
	int e = 0;
	for (uint32_t i = 0; !e && i < copy->n_sides; i++)
		if (!copy->sides[i].data && copy->sides[i].bytes)
			e = resolve_side(copy, i, listing, w, p->cancel, &copy->sides[i].data, &p->why);
	return e;
}

static int begin_disk(struct prepare *p, const struct source_listing *listing, struct source_worker *w)
{
	OWN(image_desc_free) struct image_desc *copy = NULL;
	int e = holding_clone_desc(p->desc, p->side_data, &copy, &p->why);
	if (!e && p->want_sides)
		e = fetch_sides(p, copy, listing, w);
	return e ? e : disk_image_begin(p->disk, &copy, &p->stored, &p->why);
}

static void run(struct job *job, void *worker)
{
	struct prepare *p = container_of(job, struct prepare, job);
	struct source_worker *w = worker ? net_source(worker) : NULL; /* NULL on write workers, which are asked for no source */
	const struct source_listing *listing = p->listing;
	if (p->want_listing) {
		p->result = resolve_again(p->desc, p->source, w, p->cancel, &p->found, &p->why);
		listing = p->found;
	}
	if (!p->result && p->want_files)
		p->result = open_files(p, listing);
	if (!p->result && p->want_heads)
		p->result = read_heads(p, listing, w);
	if (!p->result && p->want_disk)
		p->result = begin_disk(p, listing, w);
}

static void free_heads(struct prepare *p)
{
	for (uint32_t i = 0; p->heads && i < p->desc->n_files; i++)
		free(p->heads[i].data);
	free(p->heads);
	p->heads = NULL;
}

/* Keeps what the worker found; a listing that came meanwhile by another way stays. */
static void take_over(struct prepare *p)
{
	struct holding *img = p->haul->image;
	if (p->found && !img->listing)
		img->listing = STEAL(p->found);
	source_listing_free(&p->found);
	if (p->stored)
		img->stored = p->stored;
}

static void begin_sha(struct prepare *p)
{
	struct haul *t = p->haul;
	int e = sha_check_new(&t->sha, t, STEAL(p->heads), &p->why);
	if (e)
		haul_fail(t, &p->why);
}

static void begin_chunks(struct haul *t, uint64_t now)
{
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	if (l)
		l->prepared_ns = now;
	t->stage = STAGE_CHUNKS;
	if (t->sha)
		sha_check_go_on(t->sha); /* over what an earlier load has left */
	haul_advance(t);
}

static void prepared(struct job *job)
{
	struct prepare *p = container_of(job, struct prepare, job);
	struct haul *t = p->haul;
	struct daemon *d = t->daemon;
	t->outstanding--;
	take_over(p);
	if (p->result)
		haul_fail(t, &p->why);
	else if (p->heads && t->way == WAY_REMOTE_HOST && !haul_is_over(t))
		begin_sha(p);
	else if (p->heads)
		t->heads = STEAL(p->heads);
	free_heads(p);
	uint64_t now = job->finished_ns;
	free(p);
	begin_chunks(t, now);
	engine_pump(d);
}

static void repair_found(struct job *job)
{
	struct prepare *p = container_of(job, struct prepare, job);
	struct haul *t = p->haul;
	struct daemon *d = t->daemon;
	struct fault why = p->why;
	int result = job->withdrawn ? -ECANCELED : p->result;
	uint32_t chunk = p->repair_chunk;
	t->outstanding--;
	take_over(p);
	free(p);
	if (result) {
		struct fault both;
		fault_set(&both, TRIMS_E_MISMATCH, "chunk %u is damaged on disk and cannot be fetched again: %s", chunk,
			why.text);
		haul_fail(t, &both);
	} else if (!haul_is_over(t)) {
		chunk_submit(chunk_new(t, chunk, CHUNK_REPAIR));
	}
	haul_advance(t);
	engine_pump(d);
}

static struct prepare *prepare_new(struct haul *t)
{
	struct prepare *p = calloc(1, sizeof *p);
	ASSERT(p);
	p->haul = t;
	p->desc = holding_desc(t->image);
	p->side_data = t->image->side_data;
	p->source = t->image->source;
	p->listing = t->image->listing;
	p->cancel = t->cancel ? t->cancel : t->daemon->halt;
	p->disk = t->daemon->disk;
	p->job = (struct job){.run = run, .class = t->class, .deadline = t->deadline};
	return p;
}

static void prepare_submit(struct prepare *p, void (*done)(struct job *))
{
	struct daemon *d = p->haul->daemon;
	bool source = p->want_listing || p->want_files || p->want_heads || p->want_sides;
	p->job.done = done;
	p->haul->outstanding++;
	pool_submit(source ? d->find : d->write, &p->job);
}

static void alloc_scratch(struct haul *t, bool sha)
{
	const struct image_desc *desc = holding_desc(t->image);
	if (t->way == WAY_FILES_HOST) {
		t->n_files = desc->n_files;
		t->files = calloc(MAX(t->n_files, 1u), sizeof *t->files);
		ASSERT(t->files);
		for (uint32_t i = 0; i < t->n_files; i++)
			t->files[i].fd = -1;
	}
	if (!sha)
		return;
	struct segment *host = t->way == WAY_REMOTE_HOST ? holding_host(t->image) : NULL;
	t->gaps = host && host->gaps ? host->gaps : malloc(desc->layout->gap_bytes + 1);
	ASSERT(t->gaps);
	if (host)
		host->gaps = t->gaps;
}

/* ---- pages ahead of bytes ---- */

#define AHEAD_CHUNKS 16u /* one job's share: keeps others who want memory going */

/* A copy's pages are made before its bytes come, all of them in one go while the memory is at hand, rather than between
 * two receives or reads.  Chunks whose bytes are there first make their own. */
struct ahead {
	struct job job;
	struct haul *haul;
	struct segment *host;
	const struct layout *layout;
	const struct source_cancel *cancel;
	const uint32_t *order; /* the haul's, which does not end before this does; NULL: image order */
	bool huge;
	uint32_t next;
};

static void run_ahead(struct job *job, void *worker)
{
	struct ahead *a = container_of(job, struct ahead, job);
	uint32_t end = MIN(a->layout->n_chunks, a->next + AHEAD_CHUNKS);
	for (; a->next < end && !source_cancel_is_set(a->cancel); a->next++)
		if (!segment_populate(a->host, a->layout, a->order ? a->order[a->next] : a->next, a->huge))
			metrics_add(M_fallback_no_hugepages, 1);
}

static void submit_ahead(struct ahead *a);

static void ahead_done(struct job *job)
{
	struct ahead *a = container_of(job, struct ahead, job);
	struct haul *t = a->haul;
	struct daemon *d = t->daemon;
	t->outstanding--;
	if (!job->withdrawn && a->next < a->layout->n_chunks && !haul_is_over(t)) {
		submit_ahead(a);
		return;
	}
	free(a);
	haul_advance(t);
	engine_pump(d);
}

static void submit_ahead(struct ahead *a)
{
	a->job.class = a->haul->class;
	a->job.deadline = a->haul->deadline;
	a->haul->outstanding++;
	pool_submit(a->haul->daemon->misc, &a->job);
}

static void begin_ahead(struct haul *t)
{
	struct ahead *a = calloc(1, sizeof *a);
	ASSERT(a);
	*a = (struct ahead){.haul = t, .host = holding_host(t->image), .layout = holding_layout(t->image),
		.order = t->order, .cancel = t->cancel ? t->cancel : t->daemon->halt, .huge = t->daemon->shm.huge,
		.job = {.run = run_ahead, .done = ahead_done}};
	submit_ahead(a);
}

/* ---- the start ---- */

static bool lacks_sides(const struct holding *img)
{
	for (uint32_t i = 0; i < img->desc->n_sides; i++)
		if (img->desc->sides[i].bytes && !img->desc->sides[i].data && !(img->side_data && img->side_data[i]))
			return true;
	return false;
}

void prepare_start(struct haul *t)
{
	struct holding *img = t->image;
	bool remote = t->way == WAY_REMOTE_HOST || t->way == WAY_REMOTE_DISK || t->way == WAY_FILES_HOST;
	bool disk = (t->way == WAY_HOST_DISK || t->way == WAY_REMOTE_DISK) && !img->stored;
	bool sides = disk && lacks_sides(img);
	bool sha = (t->way == WAY_REMOTE_HOST || t->way == WAY_REMOTE_DISK) && sha_check_wanted(img);
	if (((t->way != WAY_HOST_DISK && t->way != WAY_HOST_GPU) || sides) && source_cancel_new(&t->cancel) < 0)
		t->cancel = NULL; /* out of descriptors: it can then only be cancelled between chunks */
	alloc_scratch(t, sha);
	if (t->way == WAY_REMOTE_HOST || t->way == WAY_FILES_HOST || t->way == WAY_DISK_HOST)
		begin_ahead(t);
	if (t->way == WAY_HOST_GPU)
		upload_begin(t);
	if (!remote && !disk) {
		begin_chunks(t, clock_now());
		return;
	}
	struct prepare *p = prepare_new(t);
	p->want_listing = (remote || sides) && !img->listing;
	p->want_files = t->way == WAY_FILES_HOST;
	p->want_heads = sha;
	p->want_sides = sides;
	p->want_disk = disk;
	prepare_submit(p, prepared);
}

void finish_repair(struct haul *t, uint32_t chunk)
{
	if (t->image->listing) {
		chunk_submit(chunk_new(t, chunk, CHUNK_REPAIR));
		return;
	}
	struct prepare *p = prepare_new(t);
	p->want_listing = true;
	p->repair_chunk = chunk;
	prepare_submit(p, repair_found);
}
