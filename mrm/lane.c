/* lane.c - read workers: each takes chunk jobs while its reader has room, and finishes them as their reads end.
 * Keeps: every job taken is sent home once; job[tag] is the one of the read with that tag until it is looked at. */
#include "mrm/chunk.h"

#include "mrm/disk/codec.h"
#include "shared/check.h"
#include "shared/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A usual chunk's ranges; larger ones get a buffer of their own from the reader. */
#define SLOT_BYTES (IMAGE_CHUNK_BYTES + 64 * KIB)
/* A lane without work for this long gives its buffers back, and finds new pages as it needs them.  That is also why they
 * are not registered with the kernel: into huge pages that gains nothing one could measure. */
#define IDLE_NS NS_PER_S

struct lane {
	struct reader *reader;
	uint32_t depth, max_spans;
	struct layout_span *spans; /* [max_spans], scratch */
	struct reader_span *reads;
	struct chunk_hasher *hasher;
	struct chunk_job *job[READER_MAX_DEPTH];
	struct reader_done ready[READER_MAX_DEPTH]; /* read, not looked at; the oldest first */
	uint32_t n_ready;
};

static struct reader_mode mode_seen;
static pthread_mutex_t mode_lock = PTHREAD_MUTEX_INITIALIZER;

struct reader_mode lane_mode(void)
{
	pthread_mutex_lock(&mode_lock);
	struct reader_mode m = mode_seen;
	pthread_mutex_unlock(&mode_lock);
	return m;
}

static void lane_free(void **worker)
{
	struct lane *l = *worker;
	if (!l)
		return;
	reader_free(&l->reader);
	free(l->spans);
	free(l->reads);
	chunk_hasher_free(&l->hasher);
	free(l);
	*worker = NULL;
}

static int lane_new(void **out, void *ctx)
{
	const struct lane_options *o = ctx;
	struct reader_options ro = {.no_uring = o->no_uring, .no_fixed = true};
	struct fault why;
	void *made = calloc(1, sizeof(struct lane));
	if (!made)
		return -ENOMEM;
	struct lane *l = made;
	l->depth = MIN(o->depth, (uint32_t)READER_MAX_DEPTH);
	l->max_spans = IMAGE_MAX_FILES;
	l->spans = calloc(l->max_spans, sizeof *l->spans);
	l->reads = calloc(l->max_spans, sizeof *l->reads);
	l->hasher = chunk_hasher_new();
	int e = l->spans && l->reads && l->hasher ? reader_new(&l->reader, l->depth, SLOT_BYTES, &ro, &why) : -ENOMEM;
	if (e) {
		lane_free(&made);
		return e;
	}
	pthread_mutex_lock(&mode_lock);
	mode_seen = *reader_mode(l->reader);
	pthread_mutex_unlock(&mode_lock);
	*out = l;
	return 0;
}

static uint64_t chunk_bytes(const struct chunk_job *c)
{
	return layout_chunk(c->layout, c->chunk).bytes;
}

static int submit_files(struct lane *l, struct chunk_job *c, uint64_t tag)
{
	const struct layout *layout = c->layout;
	uint32_t n = layout_spans(layout, c->chunk, l->spans, l->max_spans);
	for (uint32_t i = 0; i < n; i++) {
		const struct reader_span *file = &c->haul->files[l->spans[i].file];
		l->reads[i] = (struct reader_span){file->fd, file->direct, l->spans[i].off, l->spans[i].bytes};
		c->moved_bytes += l->spans[i].bytes;
	}
	return reader_submit(l->reader, tag, l->reads, n);
}

static int submit_disk(struct lane *l, struct chunk_job *c, uint64_t tag)
{
	struct disk_extent at;
	int e = disk_image_chunk(c->stored, c->chunk, &at);
	if (e)
		return e;
	c->moved_bytes = at.stored_bytes;
	struct reader_span span = {at.fd, c->disk_direct, at.off, at.stored_bytes};
	/* Into base pages a disk transfers slower than through a buffer: its requests have room for few segments. */
	if (c->huge && at.codec == CODEC_RAW && at.stored_bytes == chunk_bytes(c) && at.stored_bytes % READER_ALIGN == 0)
		return reader_submit_direct(l->reader, tag, &span, c->dst);
	return reader_submit(l->reader, tag, &span, 1);
}

static void submit(struct lane *l, struct pool *p, struct chunk_job *c)
{
	uint64_t tag = 0;
	while (l->job[tag])
		tag++;
	if (source_cancel_is_set(c->cancel)) {
		fault_set(&c->why, TRIMS_E_CANCELLED, "cancelled");
		c->result = -ECANCELED;
		pool_finish(p, &c->job);
		return;
	}
	chunk_populate(c);
	int e = c->how == CHUNK_FILES ? submit_files(l, c, tag) : submit_disk(l, c, tag);
	if (e) {
		fault_errno(&c->why, TRIMS_E_DISK_ERROR, -e, "chunk %u of %s", c->chunk, c->label);
		c->result = e;
		pool_finish(p, &c->job);
		return;
	}
	l->job[tag] = c;
}

static const char *path_of(const struct chunk_job *c, uint32_t span, struct lane *l)
{
	if (c->how == CHUNK_DISK)
		return disk_image_path(c->stored);
	uint32_t n = layout_spans(c->layout, c->chunk, l->spans, l->max_spans);
	return span < n ? c->desc->files[l->spans[span].file].path : "?";
}

static void finish_files(struct lane *l, struct chunk_job *c, const struct reader_done *done)
{
	const struct layout *layout = c->layout;
	uint32_t n = layout_spans(layout, c->chunk, l->spans, l->max_spans);
	struct layout_fill fill;
	chunk_fill_begin(c, &fill, c->dst, NULL, l->hasher);
	layout_gather(&fill, l->spans, done->data, n);
	chunk_check(c, chunk_hasher_end(l->hasher));
	for (uint32_t i = 0; i < n; i++) {
		const struct reader_span *file = &c->haul->files[l->spans[i].file];
		reader_forget(&(struct reader_span){file->fd, file->direct, l->spans[i].off, l->spans[i].bytes});
	}
}

static void finish_disk(struct chunk_job *c, const struct reader_done *done)
{
	struct disk_extent at;
	uint64_t n = chunk_bytes(c);
	int e = disk_image_chunk(c->stored, c->chunk, &at);
	if (!e && done->data)
		e = disk_chunk_decode(at.codec, done->data[0], at.stored_bytes, c->dst, n);
	if (e) {
		disk_image_check_hash(c->stored, c->chunk, NULL, &c->why);
		c->result = -EBADMSG;
		return;
	}
	reader_forget(&(struct reader_span){at.fd, c->disk_direct, at.off, at.stored_bytes});
	c->has_want = true;
	c->want = at.hash;
	chunk_check(c, chunk_hash(c->dst, n));
	if (c->result == -EBADMSG)
		disk_image_check_hash(c->stored, c->chunk, &c->hash, &c->why);
}

static void finish(struct lane *l, struct pool *p, const struct reader_done *done)
{
	struct chunk_job *c = l->job[done->tag];
	l->job[done->tag] = NULL;
	if (done->result) {
		reader_fault(done, path_of(c, done->bad_span, l), &c->why);
		c->result = c->how == CHUNK_DISK ? -EBADMSG : done->result;
	} else if (c->how == CHUNK_FILES) {
		finish_files(l, c, done);
	} else {
		finish_disk(c, done);
	}
	reader_release(l->reader, done);
	pool_finish(p, &c->job);
}

/* Half of the slots are read into while the others are looked at: a disk that ends several reads at once has the next ones
 * before any of these is looked at. */
static void lane_fill(struct lane *l, struct pool *p)
{
	struct job *job;
	while (reader_in_flight(l->reader) < (l->depth + 1) / 2 && reader_has_room(l->reader) &&
	       (job = pool_take(p, !reader_in_flight(l->reader) && !l->n_ready)))
		submit(l, p, container_of(job, struct chunk_job, job));
}

/* Takes what has ended; waits for one read when there is nothing to look at. */
static void lane_reap(struct lane *l)
{
	while (reader_in_flight(l->reader) && reader_wait(l->reader, !l->n_ready, &l->ready[l->n_ready]) == 0)
		l->n_ready++;
}

static void lane_finish_one(struct lane *l, struct pool *p)
{
	struct reader_done done = l->ready[0];
	memmove(l->ready, l->ready + 1, --l->n_ready * sizeof *l->ready);
	finish(l, p, &done);
}

static void lane_serve(struct pool *p, void *worker)
{
	struct lane *l = worker;
	for (;;) {
		if (!reader_in_flight(l->reader) && !l->n_ready && !pool_wait(p, IDLE_NS))
			reader_rest(l->reader);
		lane_fill(l, p);
		lane_reap(l);
		lane_fill(l, p);
		if (l->n_ready)
			lane_finish_one(l, p);
		else if (!reader_in_flight(l->reader) && pool_is_closing(p))
			return;
	}
}

const struct pool_ops lane_pool = {
	.name = "mrm-read",
	.worker_new = lane_new,
	.worker_free = lane_free,
	.serve = lane_serve,
};
