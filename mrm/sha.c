/* sha.c - see sha.h.
 * Keeps: file[i].offset bytes of the file are in its context; they all were in landed chunks. */
#include "mrm/sha.h"

#include "mrm/clock.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES (16 * MIB) /* one job's share: keeps the other checks going */

struct sha_file {
	struct job job;
	struct sha_check *check;
	uint32_t index;
	bool wanted, passed, running;
	EVP_MD_CTX *ctx;
	uint64_t offset, limit; /* hashed so far; where this job stops */
	uint32_t first, next, end; /* chunks with bytes of it: [first, end); all before next have landed */
	uint8_t found[32];
	bool ended;
};

struct sha_check {
	struct haul *haul;
	const struct layout *layout;
	const struct segment *host;
	struct source_bytes *heads;
	uint32_t n_files;
	struct sha_file *file;
};

bool sha_check_wanted(const struct holding *img)
{
	const struct image_desc *desc = holding_desc(img);
	bool stated = false;
	for (uint32_t i = 0; i < desc->n_files; i++)
		stated |= desc->files[i].has_sha256;
	return stated && !(img->stored && disk_image_complete(img->stored)) && !(img->digest.hi | img->digest.lo);
}

void sha_check_free(struct sha_check **sp)
{
	struct sha_check *s = *sp;
	if (!s)
		return;
	for (uint32_t i = 0; i < s->n_files; i++) {
		ASSERT(!s->file[i].running);
		EVP_MD_CTX_free(s->file[i].ctx);
		free(s->heads[i].data);
	}
	free(s->heads);
	free(s->file);
	free(s);
	*sp = NULL;
}

/* Files lie in the image one after the other, so each has a run of chunks. */
static void find_chunks(struct sha_check *s)
{
	struct layout_span spans[IMAGE_MAX_FILES];
	for (uint32_t c = 0; c < s->layout->n_chunks; c++) {
		uint32_t n = layout_spans(s->layout, c, spans, IMAGE_MAX_FILES);
		for (uint32_t i = 0; i < n; i++) {
			struct sha_file *f = &s->file[spans[i].file];
			if (!f->end)
				f->first = f->next = c;
			f->end = c + 1;
		}
	}
}

static int begin_file(struct sha_file *f, const struct image_desc *desc, const struct source_bytes *head)
{
	f->wanted = desc->files[f->index].has_sha256;
	f->passed = !f->wanted;
	f->offset = desc->layout->data_start[f->index];
	if (!f->wanted)
		return 0;
	f->ctx = EVP_MD_CTX_new();
	return f->ctx && EVP_DigestInit_ex(f->ctx, EVP_sha256(), NULL) && EVP_DigestUpdate(f->ctx, head->data, head->bytes)
		? 0 : -EIO;
}

int sha_check_new(struct sha_check **out, struct haul *t, struct source_bytes *heads, struct fault *why)
{
	const struct image_desc *desc = holding_desc(t->image);
	struct sha_check *s = calloc(1, sizeof *s);
	ASSERT(s);
	s->haul = t;
	s->layout = desc->layout;
	s->host = holding_host(t->image);
	s->heads = heads;
	s->n_files = desc->n_files;
	s->file = calloc(desc->n_files, sizeof *s->file);
	ASSERT(s->file);
	find_chunks(s);
	for (uint32_t i = 0; i < desc->n_files; i++) {
		s->file[i].check = s;
		s->file[i].index = i;
		if (begin_file(&s->file[i], desc, &heads[i])) {
			sha_check_free(&s);
			return fault_set(why, TRIMS_E_INTERNAL, "SHA-256 is not to be had"), -EIO;
		}
	}
	*out = s;
	return 0;
}

static const uint8_t *piece_bytes(const struct sha_check *s, const struct layout_piece *p)
{
	if (p->is_gap)
		return s->haul->gaps + p->offset;
	return (const uint8_t *)s->host->extents[p->extent].map + p->offset;
}

static void run(struct job *job, void *worker)
{
	struct sha_file *f = container_of(job, struct sha_file, job);
	struct layout_piece p;
	while (f->offset < f->limit && layout_next_piece(f->check->layout, f->index, f->offset, &p)) {
		uint64_t n = MIN(p.bytes, f->limit - f->offset);
		EVP_DigestUpdate(f->ctx, piece_bytes(f->check, &p), n);
		f->offset += n;
	}
	if (f->offset == f->check->layout->file_bytes[f->index]) {
		unsigned len = sizeof f->found;
		EVP_DigestFinal_ex(f->ctx, f->found, &len);
		f->ended = true;
	}
}

/* Where the file's landed bytes end without a hole. */
static uint64_t contiguous_edge(struct sha_file *f)
{
	const struct sha_check *s = f->check;
	struct layout_span spans[IMAGE_MAX_FILES];
	for (; f->next < f->end; f->next++) {
		if (s->host->landed[f->next])
			continue;
		uint32_t n = layout_spans(s->layout, f->next, spans, IMAGE_MAX_FILES);
		for (uint32_t i = 0; i < n; i++)
			if (spans[i].file == f->index)
				return spans[i].off;
	}
	return s->layout->file_bytes[f->index];
}

static void done(struct job *job);

static void go_on(struct sha_file *f)
{
	struct sha_check *s = f->check;
	if (!f->wanted || f->running || f->ended || haul_is_over(s->haul))
		return;
	uint64_t edge = contiguous_edge(f), size = s->layout->file_bytes[f->index];
	if (edge <= f->offset && f->offset < size)
		return;
	f->limit = MIN(edge, f->offset + STEP_BYTES);
	f->running = true;
	f->job = (struct job){.run = run, .done = done, .class = s->haul->class, .deadline = s->haul->deadline};
	s->haul->outstanding++;
	pool_submit(s->haul->daemon->misc, &f->job);
}

static void judge(struct sha_file *f)
{
	struct haul *t = f->check->haul;
	const struct image_file *file = &holding_desc(t->image)->files[f->index];
	if (memcmp(f->found, file->sha256, sizeof f->found)) {
		struct fault why;
		fault_set(&why, TRIMS_E_MISMATCH, "%s: the bytes received do not have the SHA-256 that the source states",
			file->path);
		metrics_add(M_verify_failures_remote, 1);
		haul_fail(t, &why);
		return;
	}
	f->passed = true;
	for (uint32_t c = f->first; c < f->end; c++)
		if (f->check->host->landed[c] && !f->check->host->readable[c] && sha_check_passed(f->check, c))
			haul_chunk_readable(t, c);
}

static void done(struct job *job)
{
	struct sha_file *f = container_of(job, struct sha_file, job);
	struct haul *t = f->check->haul;
	f->running = false;
	t->outstanding--;
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	if (l && !job->withdrawn)
		l->verify_ns += job->finished_ns - job->started_ns;
	if (f->ended && !haul_is_over(t))
		judge(f);
	else
		go_on(f);
	haul_advance(t);
}

void sha_check_go_on(struct sha_check *s)
{
	for (uint32_t i = 0; i < s->n_files; i++)
		go_on(&s->file[i]);
}

void sha_check_landed(struct sha_check *s, uint32_t chunk)
{
	for (uint32_t i = 0; i < s->n_files; i++)
		if (chunk == s->file[i].next)
			go_on(&s->file[i]);
}

bool sha_check_passed(const struct sha_check *s, uint32_t chunk)
{
	struct layout_span spans[IMAGE_MAX_FILES];
	uint32_t n = layout_spans(s->layout, chunk, spans, IMAGE_MAX_FILES);
	for (uint32_t i = 0; i < n; i++)
		if (!s->file[spans[i].file].passed)
			return false;
	return true;
}

bool sha_check_complete(const struct sha_check *s)
{
	for (uint32_t i = 0; i < s->n_files; i++)
		if (!s->file[i].passed)
			return false;
	return true;
}
