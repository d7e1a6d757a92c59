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
	uint8_t *span_buf; /* where a chunk's file ranges land */
	uint64_t span_cap;
	uint8_t *chunk_buf; /* a chunk that only passes through */
};

void chunk_populate(const struct chunk_job *c)
{
	if (!segment_populate(c->host, c->layout, c->chunk, c->huge))
		metrics_add(M_fallback_no_hugepages, 1);
}

void chunk_check(struct chunk_job *c, const uint8_t *bytes, uint64_t n)
{
	c->hash = chunk_hash(bytes, n);
	c->result = 0;
	if (c->has_want && !hash_equal(c->hash, c->want)) {
		fault_set(&c->why, TRIMS_E_MISMATCH, "chunk %u does not match the digest on record", c->chunk);
		c->result = -EBADMSG;
	}
}

static uint8_t *span_buffer(struct net_worker *w, uint64_t bytes)
{
	if (bytes > w->span_cap) {
		free(w->span_buf);
		w->span_cap = align_up(bytes, MIB);
		w->span_buf = malloc(w->span_cap);
		if (!w->span_buf)
			w->span_cap = 0;
	}
	return w->span_buf;
}

static void fail(struct chunk_job *c, int e, enum trims_code code, const char *text)
{
	fault_set(&c->why, code, "%s", text);
	c->result = e;
}

/* Fetches the chunk's file ranges and lays its bytes out at dst. */
static void fetch(struct chunk_job *c, struct net_worker *w, uint8_t *dst)
{
	const struct layout *l = c->layout;
	struct layout_span spans[IMAGE_MAX_FILES];
	const uint8_t *data[IMAGE_MAX_FILES];
	uint32_t n = layout_spans(l, c->chunk, spans, IMAGE_MAX_FILES);
	uint64_t total = 0;
	for (uint32_t i = 0; i < n; i++)
		total += spans[i].bytes;
	uint8_t *buf = span_buffer(w, total);
	if (total && !buf) {
		fail(c, -ENOMEM, TRIMS_E_NO_MEMORY, "no memory for a chunk's ranges");
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		c->result = source_read(w->source, c->listing, spans[i].file, spans[i].off, spans[i].bytes, buf,
			c->cancel, &c->why);
		if (c->result)
			return;
		data[i] = buf;
		buf += spans[i].bytes;
	}
	c->moved_bytes = total;
	layout_gather(l, c->chunk, spans, data, n, dst, c->haul->gaps);
	chunk_check(c, dst, layout_chunk(l, c->chunk).bytes);
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
	struct chunk_job *job;
	const struct layout *layout;
	struct segment *host;
	uint32_t file, chunk;   /* the chunk being filled */
	uint64_t at;            /* offset in the file */
	uint8_t *buf;           /* ranges of the chunk, of all its files */
	uint8_t *scratch;       /* a chunk that does not stay in memory */
	struct layout_span spans[IMAGE_MAX_FILES];
	uint64_t had[IMAGE_MAX_FILES];
	uint32_t n_spans;
};

static void stream_begin_chunk(struct stream *s)
{
	s->n_spans = s->chunk < s->layout->n_chunks
		? layout_spans(s->layout, s->chunk, s->spans, IMAGE_MAX_FILES) : 0;
	memset(s->had, 0, sizeof s->had[0] * s->n_spans);
}

static bool stream_chunk_full(const struct stream *s)
{
	for (uint32_t i = 0; i < s->n_spans; i++)
		if (s->had[i] < s->spans[i].bytes)
			return false;
	return s->chunk < s->layout->n_chunks;
}

/* A chunk that is in memory already may have readers: it is not touched, only its gaps are taken. */
static void stream_place(struct stream *s, const uint8_t *const *data)
{
	struct chunk_job *c = s->job;
	bool keep = c->to_disk || s->host->landed[s->chunk];
	c->chunk = s->chunk;
	c->dst = keep ? s->scratch : segment_chunk(s->host, s->layout, s->chunk);
	if (!keep)
		chunk_populate(c);
	layout_gather(s->layout, s->chunk, s->spans, data, s->n_spans, c->dst, c->haul->gaps);
	chunk_check(c, c->dst, layout_chunk(s->layout, s->chunk).bytes);
	if (!c->result && c->to_disk && !disk_image_has(c->stored, s->chunk))
		c->result = disk_image_put(c->stored, s->chunk, c->dst, c->hash, &c->why);
}

static int stream_end_chunk(struct stream *s)
{
	const uint8_t *data[IMAGE_MAX_FILES], *p = s->buf;
	for (uint32_t i = 0; i < s->n_spans; i++) {
		data[i] = p;
		p += s->spans[i].bytes;
	}
	stream_place(s, data);
	if (s->job->result)
		return s->job->result;
	s->job->haul->stream_hash[s->chunk++] = s->job->hash;
	stream_begin_chunk(s);
	return 0;
}

/* Spans tile each file in chunk order, so the next bytes belong to this chunk's span of the file or to nothing (the
 * head). */
static int stream_sink(void *ctx, const uint8_t *bytes, size_t n)
{
	struct stream *s = ctx;
	s->job->moved_bytes += n;
	while (n) {
		uint32_t i = 0;
		uint64_t before = 0;
		while (i < s->n_spans && s->spans[i].file != s->file)
			before += s->spans[i++].bytes;
		uint64_t start = i < s->n_spans ? s->spans[i].off : UINT64_MAX;
		if (s->at < start) {
			uint64_t skip = MIN(start - s->at, (uint64_t)n);
			s->at += skip, bytes += skip, n -= skip;
			continue;
		}
		uint64_t take = MIN(s->spans[i].bytes - s->had[i], (uint64_t)n);
		memcpy(s->buf + before + s->had[i], bytes, take);
		s->had[i] += take, s->at += take, bytes += take, n -= take;
		while (stream_chunk_full(s)) {
			int e = stream_end_chunk(s);
			if (e)
				return e;
		}
	}
	return 0;
}

static void run_stream(struct chunk_job *c, struct net_worker *w)
{
	const struct layout *l = c->layout;
	if (!chunk_buffer(c, w))
		return;
	OWN_MEM struct stream *s = calloc(1, sizeof *s);
	OWN_MEM uint8_t *buf = malloc(layout_max_span_bytes(l) + 1);
	if (!s || !buf) {
		fail(c, -ENOMEM, TRIMS_E_NO_MEMORY, "no memory for a stream's chunk");
		return;
	}
	*s = (struct stream){.job = c, .layout = l, .host = c->host, .buf = buf, .scratch = w->chunk_buf};
	stream_begin_chunk(s);
	while (stream_chunk_full(s)) /* chunks of padding alone */
		if (stream_end_chunk(s))
			return;
	for (s->file = 0; s->file < l->n_files; s->file++) {
		s->at = 0;
		c->result = source_stream(w->source, c->listing, s->file, 0, UINT64_MAX, stream_sink, s,
			c->cancel, &c->why);
		if (c->result)
			return;
	}
	if (s->chunk < l->n_chunks)
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
	free(w->span_buf);
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
	int e = source_worker_new(&w->source, clock_unix() + atomic_fetch_add(&counter, 1));
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
