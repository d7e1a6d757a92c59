/* chunk.c - chunk jobs of the net and write workers, and what all kinds share. */
#include "mrm/chunk.h"

#include "mrm/clock.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct net_worker {
	struct source_worker *source;
	struct chunk_hasher *hasher;
	uint8_t *chunk_buf; /* a chunk that only passes through */
};

void chunk_populate(const struct chunk_job *c)
{
	if (!segment_populate(c->host, c->layout, c->chunk, c->huge))
		metrics_add(M_fallback_no_hugepages, 1);
}

static void hash_seen(void *ctx, const uint8_t *bytes, uint64_t n)
{
	chunk_hasher_add(ctx, bytes, n);
}

void chunk_fill_begin(const struct chunk_job *c, struct layout_fill *f, uint8_t *dst, uint8_t *gaps,
	struct chunk_hasher *hasher)
{
	chunk_hasher_begin(hasher);
	layout_fill_begin(f, c->layout, c->chunk, dst, gaps, hash_seen, hasher);
}

void chunk_check(struct chunk_job *c, struct hash128 hash)
{
	c->hash = hash;
	c->result = 0;
	if (c->has_want && !hash_equal(c->hash, c->want)) {
		fault_set(&c->why, TRIMS_E_MISMATCH, "chunk %u does not match the digest on record", c->chunk);
		c->result = -EBADMSG;
	}
}

static void fail(struct chunk_job *c, int e, enum trims_code code, const char *text)
{
	fault_set(&c->why, code, "%s", text);
	c->result = e;
}

/* What arrives goes right to its place in the chunk. */
static int fetch_sink(void *ctx, const uint8_t *bytes, size_t n)
{
	uint64_t taken = layout_fill_put(ctx, bytes, n);
	ASSERT(taken == n); /* a source sends what it was asked for */
	return 0;
}

/* Fetches the chunk's file ranges and lays its bytes out at dst. */
static void fetch(struct chunk_job *c, struct net_worker *w, uint8_t *dst)
{
	struct layout_span spans[IMAGE_MAX_FILES];
	struct layout_fill fill;
	uint32_t n = layout_spans(c->layout, c->chunk, spans, IMAGE_MAX_FILES);
	chunk_fill_begin(c, &fill, dst, c->haul->gaps, w->hasher);
	for (uint32_t i = 0; i < n; i++) {
		c->result = source_stream(w->source, c->listing, spans[i].file, spans[i].off,
			spans[i].off + spans[i].bytes, fetch_sink, &fill, c->cancel, &c->why);
		if (c->result)
			return;
		c->moved_bytes += spans[i].bytes;
	}
	ASSERT(layout_fill_is_full(&fill));
	chunk_check(c, chunk_hasher_end(w->hasher));
}

static void run_net(struct chunk_job *c, struct net_worker *w)
{
	chunk_populate(c);
	fetch(c, w, c->dst);
}

static void run_repair(struct chunk_job *c, struct net_worker *w)
{
	fetch(c, w, c->dst);
	if (c->result || !c->mend)
		return;
	struct fault why;
	int e = disk_image_rewrite(c->stored, c->chunk, c->dst, c->hash, &why);
	if (e)
		log_warn("disk", "chunk %u of %s was fetched again but could not be written back: %s", c->chunk,
			disk_image_path(c->stored), why.text);
	metrics_add(M_chunk_refetches, 1);
}

static uint8_t *chunk_buffer(struct chunk_job *c, struct net_worker *w)
{
	if (!w->chunk_buf)
		w->chunk_buf = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_BYTES);
	if (!w->chunk_buf)
		fail(c, -ENOMEM, TRIMS_E_NO_MEMORY, "no memory for a chunk");
	return w->chunk_buf;
}

static void run_pass(struct chunk_job *c, struct net_worker *w)
{
	uint8_t *buf = chunk_buffer(c, w);
	if (!buf)
		return;
	fetch(c, w, buf);
	if (!c->result)
		c->result = disk_image_put(c->stored, c->chunk, buf, c->hash, &c->why);
}

static void run_store(struct chunk_job *c)
{
	c->moved_bytes = layout_chunk(c->layout, c->chunk).bytes;
	c->result = disk_image_put(c->stored, c->chunk, c->dst, c->want, &c->why);
}

/* ---- a server without ranges: the files once, in order ---- */

struct stream {
	struct chunk_job *job;  /* .chunk: the one that is being filled */
	struct segment *host;
	uint64_t head;          /* bytes of the file's head still to come: they belong to no chunk */
	uint8_t *scratch;       /* a chunk that does not stay in memory */
	struct chunk_hasher *hasher;
	struct layout_fill fill;
};

/* A chunk that is in memory already may have readers: it is not touched, only its gaps are taken. */
static void stream_begin_chunk(struct stream *s)
{
	struct chunk_job *c = s->job;
	bool keep = c->to_disk || s->host->landed[c->chunk];
	c->dst = keep ? s->scratch : segment_chunk(s->host, c->layout, c->chunk);
	if (!keep)
		chunk_populate(c);
	chunk_fill_begin(c, &s->fill, c->dst, c->haul->gaps, s->hasher);
}

static void stream_end_chunk(struct stream *s)
{
	struct chunk_job *c = s->job;
	chunk_check(c, chunk_hasher_end(s->hasher));
	if (!c->result && c->to_disk && !disk_image_has(c->stored, c->chunk))
		c->result = disk_image_put(c->stored, c->chunk, c->dst, c->hash, &c->why);
	c->haul->stream_hash[c->chunk] = c->hash;
}

static bool stream_is_complete(const struct stream *s)
{
	return s->job->chunk == s->job->layout->n_chunks;
}

/* Ends the chunks that are full, those of padding alone among them. */
static int stream_go_on(struct stream *s)
{
	while (!stream_is_complete(s) && layout_fill_is_full(&s->fill)) {
		stream_end_chunk(s);
		if (s->job->result)
			return s->job->result;
		if (++s->job->chunk < s->job->layout->n_chunks)
			stream_begin_chunk(s);
	}
	return 0;
}

/* Behind their heads the files' bytes are the chunks' bytes, in the same order. */
static int stream_sink(void *ctx, const uint8_t *bytes, size_t n)
{
	struct stream *s = ctx;
	uint64_t at = MIN(s->head, n);
	s->job->moved_bytes += n;
	s->head -= at;
	while (at < n && !stream_is_complete(s)) {
		at += layout_fill_put(&s->fill, bytes + at, n - at);
		int e = stream_go_on(s);
		if (e)
			return e;
	}
	return 0;
}

static void run_stream(struct chunk_job *c, struct net_worker *w)
{
	const struct layout *l = c->layout;
	if (!chunk_buffer(c, w))
		return;
	struct stream s = {.job = c, .host = c->host, .scratch = w->chunk_buf, .hasher = w->hasher};
	c->chunk = 0;
	stream_begin_chunk(&s);
	c->result = stream_go_on(&s);
	for (uint32_t i = 0; i < l->n_files && !c->result; i++) {
		s.head = l->data_start[i];
		c->result = source_stream(w->source, c->listing, i, 0, UINT64_MAX, stream_sink, &s, c->cancel, &c->why);
	}
	if (!c->result && !stream_is_complete(&s))
		fail(c, -EPROTO, TRIMS_E_BAD_SOURCE, "the files ended before the model did");
}

void chunk_run(struct job *job, void *worker)
{
	struct chunk_job *c = container_of(job, struct chunk_job, job);
	switch (c->how) {
	case CHUNK_NET:
		run_net(c, worker);
		break;
	case CHUNK_STREAM:
		run_stream(c, worker);
		break;
	case CHUNK_REPAIR:
		run_repair(c, worker);
		break;
	case CHUNK_PASS:
		run_pass(c, worker);
		break;
	case CHUNK_STORE:
		run_store(c);
		break;
	default:
		NEVER();
	}
}

/* ---- workers ---- */

static void net_free(void **worker)
{
	struct net_worker *w = *worker;
	if (!w)
		return;
	source_worker_free(&w->source);
	chunk_hasher_free(&w->hasher);
	free(w->chunk_buf);
	free(w);
	*worker = NULL;
}

static int net_new(void **out, void *ctx)
{
	static _Atomic uint64_t counter;
	void *made = calloc(1, sizeof(struct net_worker));
	if (!made)
		return -ENOMEM;
	struct net_worker *w = made;
	w->hasher = chunk_hasher_new();
	int e = w->hasher ? source_worker_new(&w->source, clock_unix() + atomic_fetch_add(&counter, 1)) : -ENOMEM;
	if (e)
		net_free(&made);
	else
		*out = w;
	return e;
}

struct source_worker *net_source(struct net_worker *w)
{
	return w->source;
}

const struct pool_ops net_pool = {.name = "mrm-net", .worker_new = net_new, .worker_free = net_free};
const struct pool_ops write_pool = {.name = "mrm-write"};
