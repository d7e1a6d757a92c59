/* layout_verify.h - carries a layout out on files that are byte arrays and compares everything with them.  Used by unit
 * tests and fuzz targets; the first difference ends the program.  Thread: any.  Owns nothing. */
#ifndef TESTS_UNIT_LAYOUT_VERIFY_H
#define TESTS_UNIT_LAYOUT_VERIFY_H

#include "shared/check.h"
#include "shared/image.h"
#include "tests/unit/table_find.h"

#include <stdlib.h>
#include <string.h>

static inline void *verify_alloc(uint64_t bytes)
{
	void *p = malloc(bytes ? bytes : 1);
	ASSERT(p);
	memset(p, 0xa5, bytes); /* so that padding which nobody zeroed is seen */
	return p;
}

static inline uint64_t verify_extent_start(const struct layout *l, uint32_t extent)
{
	uint64_t at = 0;
	for (uint32_t e = 0; e < extent; e++)
		at += l->extent_bytes[e];
	return at;
}

/* Extents and chunks tile the image, tensors are placed as promised. */
static inline void verify_shape(const struct layout *l)
{
	uint64_t at = 0, total = 0;
	uint32_t extent = 0;
	ASSERT(l->n_extents >= 1 && l->n_extents <= IMAGE_MAX_EXTENTS && l->n_chunks >= l->n_extents);
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		struct layout_chunk k = layout_chunk(l, c);
		if (k.extent != extent) {
			ASSERT(k.extent == extent + 1 && at == l->extent_bytes[extent]);
			extent = k.extent;
			at = 0;
		}
		ASSERT(k.offset == at && k.bytes > 0 && k.bytes <= IMAGE_CHUNK_BYTES);
		at += k.bytes;
		ASSERT(at == l->extent_bytes[extent] || k.bytes == IMAGE_CHUNK_BYTES);
		total += k.bytes;
	}
	for (uint32_t e = 0; e < l->n_extents; e++)
		ASSERT(l->extent_bytes[e] % (e + 1 < l->n_extents ? IMAGE_HUGE_PAGE : IMAGE_PAGE) == 0);
	ASSERT(extent == l->n_extents - 1 && at == l->extent_bytes[extent] && total == l->image_bytes);
	uint64_t used = 0;
	uint32_t tensors_here = 0;
	for (uint32_t i = 0; i < l->n_tensors; i++) {
		const struct tensor *t = &l->tensors[i];
		if (i && t->extent != l->tensors[i - 1].extent)
			used = tensors_here = 0;
		ASSERT(t->extent < l->n_extents && t->offset % IMAGE_TENSOR_ALIGN == 0 && t->offset >= used);
		ASSERT(t->offset - used < IMAGE_TENSOR_ALIGN);
		used = t->offset + t->bytes;
		tensors_here += t->bytes > 0;
		ASSERT(used <= l->extent_bytes[t->extent]);
		ASSERT(l->extent_bytes[t->extent] <= IMAGE_EXTENT_BYTES || tensors_here <= 1);
	}
}

/* What a chunk's bytes looked like in passing. */
struct verify_seen {
	uint64_t n, sum;
};

static inline void verify_see(void *ctx, const uint8_t *bytes, uint64_t n)
{
	struct verify_seen *s = ctx;
	ASSERT(n > 0);
	for (uint64_t i = 0; i < n; i++)
		s->sum = s->sum * 31 + bytes[i];
	s->n += n;
}

/* All at once, or in pieces of ever other sizes. */
static inline void verify_fill(const struct layout *l, uint32_t chunk, const struct layout_span *spans,
	const uint8_t *const *src, uint32_t n_spans, uint8_t *dst, uint8_t *gaps)
{
	struct layout_fill f;
	struct verify_seen seen = {0}, there = {0};
	uint64_t piece = 1 + chunk % 7, bytes = layout_chunk(l, chunk).bytes;
	layout_fill_begin(&f, l, chunk, dst, gaps, verify_see, &seen);
	if (chunk % 2)
		layout_gather(&f, spans, src, n_spans);
	for (uint32_t i = 0; chunk % 2 == 0 && i < n_spans; i++)
		for (uint64_t at = 0; at < spans[i].bytes; piece = 1 + piece * 7919 % 100003) {
			uint64_t n = MIN(piece, spans[i].bytes - at);
			ASSERT(!layout_fill_is_full(&f));
			uint64_t taken = layout_fill_put(&f, src[i] + at, n);
			ASSERT(taken == n);
			at += n;
		}
	uint8_t one_more = 0;
	ASSERT(layout_fill_is_full(&f) && layout_fill_put(&f, &one_more, 1) == 0);
	verify_see(&there, dst, bytes);
	ASSERT(seen.n == bytes && seen.sum == there.sum);
}

/* Gathers every chunk from its spans alone; the spans of a file must tile it behind its head. */
static inline void verify_gather(const struct layout *l, const uint8_t *const *files, uint8_t *image, uint8_t *gaps)
{
	struct layout_span *spans = verify_alloc(sizeof *spans * l->n_files);
	const uint8_t **src = verify_alloc(sizeof *src * l->n_files);
	uint64_t *covered = verify_alloc(sizeof *covered * l->n_files);
	memcpy(covered, l->data_start, sizeof *covered * l->n_files);
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		struct layout_chunk k = layout_chunk(l, c);
		uint64_t sum = 0;
		uint32_t n = layout_spans(l, c, spans, l->n_files);
		ASSERT(n <= l->n_files);
		for (uint32_t i = 0; i < n; i++) {
			ASSERT(!i || spans[i].file > spans[i - 1].file);
			ASSERT(spans[i].bytes > 0 && spans[i].off == covered[spans[i].file]);
			covered[spans[i].file] += spans[i].bytes;
			ASSERT(covered[spans[i].file] <= l->file_bytes[spans[i].file]);
			sum += spans[i].bytes;
			uint8_t *copy = verify_alloc(spans[i].bytes); /* of its own, so that a read beyond it is seen */
			memcpy(copy, files[spans[i].file] + spans[i].off, spans[i].bytes);
			src[i] = copy;
		}
		ASSERT(sum <= k.bytes + l->gap_bytes);
		verify_fill(l, c, spans, src, n, image + verify_extent_start(l, k.extent) + k.offset, gaps);
		for (uint32_t i = 0; i < n; i++)
			free((void *)src[i]);
	}
	for (uint32_t f = 0; f < l->n_files; f++)
		ASSERT(covered[f] == l->file_bytes[f]);
	free(covered);
	free(src);
	free(spans);
}

/* Each tensor's bytes are the file's, everything between tensors is zero. */
static inline void verify_tensors(const struct layout *l, const uint8_t *const *files, uint8_t *image)
{
	for (uint32_t i = 0; i < l->n_tensors; i++) {
		const struct tensor *t = &l->tensors[i];
		uint8_t *bytes = image + verify_extent_start(l, t->extent) + t->offset;
		ASSERT(!memcmp(bytes, files[t->file] + t->file_off, t->bytes));
		memset(bytes, 0, t->bytes);
	}
	for (uint64_t i = 0; i < l->image_bytes; i++)
		ASSERT(!image[i]);
}

/* The pieces put each file together again. */
static inline void verify_pieces(const struct layout *l, const uint8_t *const *files, const uint8_t *image,
	const uint8_t *gaps)
{
	struct layout_piece p;
	for (uint32_t f = 0; f < l->n_files; f++) {
		uint64_t at = l->data_start[f];
		for (; layout_next_piece(l, f, at, &p); at += p.bytes) {
			const uint8_t *from = p.is_gap ? gaps + p.offset : image + verify_extent_start(l, p.extent) + p.offset;
			ASSERT(p.bytes > 0 && p.bytes <= l->file_bytes[f] - at);
			ASSERT(!memcmp(from, files[f] + at, p.bytes));
			struct layout_piece half; /* starting in the middle gives the rest of the same piece */
			ASSERT(layout_next_piece(l, f, at + p.bytes / 2, &half));
			ASSERT(half.is_gap == p.is_gap && half.bytes == p.bytes - p.bytes / 2 &&
				half.offset == p.offset + p.bytes / 2);
		}
		ASSERT(at == l->file_bytes[f]);
	}
}

/* The table says the same as the layout, and finds every name. */
static inline void verify_table(const struct layout *l)
{
	uint64_t bytes = table_bytes(l);
	struct table_header *h = verify_alloc(bytes);
	table_build(l, h);
	ASSERT(!table_check(h, bytes));
	ASSERT(h->n_tensors == l->n_tensors && h->n_extents == l->n_extents && h->image_bytes == l->image_bytes);
	for (uint32_t i = 0; i < l->n_tensors; i++) {
		const struct tensor *t = &l->tensors[i];
		const struct table_tensor *x = &table_tensors(h)[i];
		ASSERT(!strcmp(table_name(h, x), t->name) && x->name_len == strlen(t->name));
		ASSERT(x->dtype == t->dtype && x->rank == t->rank && x->extent == t->extent && x->offset == t->offset &&
			x->bytes == t->bytes && !memcmp(x->shape, t->shape, sizeof *t->shape * t->rank));
		ASSERT(table_find(h, t->name, x->name_len) == i);
	}
	ASSERT(table_find(h, "\xff no such tensor", 16) == -1 && table_find(h, "", 0) == -1);
	free(h);
}

/* files[i] holds l->file_bytes[i] bytes. */
static inline void layout_verify(const struct layout *l, const uint8_t *const *files)
{
	verify_shape(l);
	uint8_t *image = verify_alloc(l->image_bytes), *gaps = verify_alloc(l->gap_bytes);
	verify_gather(l, files, image, gaps);
	verify_pieces(l, files, image, gaps);
	verify_tensors(l, files, image);
	verify_table(l);
	free(gaps);
	free(image);
}

#endif
