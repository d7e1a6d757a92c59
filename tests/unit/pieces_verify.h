/* pieces_verify.h - what is true of the pieces of any layout and any plan that fits it.  Used by unit tests and fuzz targets; the
 * first that is not ends the program.  Thread: any.  Owns nothing. */
#ifndef TESTS_UNIT_PIECES_VERIFY_H
#define TESTS_UNIT_PIECES_VERIFY_H

#include "shared/check.h"
#include "shared/pieces.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A layout of one file whose tensors have these sizes. */
static inline struct layout *pieces_layout(const uint64_t *bytes, uint32_t n)
{
	struct tensor_list list = {.v = calloc(n, sizeof(struct tensor)), .n = n, .cap = n};
	const char *name = "m.safetensors";
	uint64_t at = 4096, start = 4096;
	struct layout *l = NULL;
	struct fault why;
	ASSERT(list.v);
	for (uint32_t i = 0; i < n; i++) {
		char text[16];
		snprintf(text, sizeof text, "t%04u", i);
		list.v[i] = (struct tensor){.name = strdup(text), .dtype = DTYPE_U8, .rank = 1, .shape = {bytes[i]}, .file_off = at,
			.bytes = bytes[i]};
		at += bytes[i];
	}
	ASSERT(!layout_build(&l, &list, &at, &start, &name, 1, &why));
	return l;
}

/* A plan that a test may fill in; its caller frees it. */
static inline struct plan_head *pieces_plan(uint32_t n_entries)
{
	struct plan_head *p = calloc(1, sizeof *p + n_entries * sizeof(struct plan_entry));
	ASSERT(p);
	memcpy(p->magic, PLAN_WIRE_MAGIC, sizeof p->magic);
	p->version = PLAN_WIRE_VERSION;
	p->n_entries = n_entries;
	return p;
}

static inline void verify_tiling(const struct pieces *p, const struct layout *l)
{
	uint32_t chunks = 0;
	ASSERT(p->n >= l->n_extents && p->n <= PIECES_MAX && p->n_head < p->n_plan && p->n_plan <= p->n);
	for (uint32_t i = 0; i < p->n; i++) {
		const struct image_piece *v = &p->v[i];
		uint64_t bytes = 0;
		ASSERT(v->n && v->offset == (v->first - l->extent_chunk[v->extent]) * IMAGE_CHUNK_BYTES);
		for (uint32_t c = v->first; c < v->first + v->n; c++) {
			ASSERT(c < l->n_chunks && layout_chunk(l, c).extent == v->extent && p->of_chunk[c] == i);
			ASSERT(pieces_chunk(p, p->order ? chunks : c) == c);
			bytes += layout_chunk(l, c).bytes;
			chunks++;
		}
		ASSERT(bytes == v->bytes);
	}
	ASSERT(chunks == l->n_chunks && pieces_chunks(p, p->n) == chunks);
	ASSERT(pieces_bytes(p, p->n, 1) == l->image_bytes);
}

/* What is to be loaded lies whole in pieces of the device. */
static inline void verify_residency(const struct pieces *p, const struct layout *l, const struct plan_head *plan)
{
	bool *host = calloc(l->n_tensors + 1, sizeof *host);
	ASSERT(host);
	for (uint32_t i = 0; plan && i < plan->n_entries; i++)
		host[plan_entries(plan)[i].tensor] = plan_entries(plan)[i].place == PLAN_PLACE_DHA;
	for (uint32_t t = 0; t < l->n_tensors; t++) {
		const struct tensor *x = &l->tensors[t];
		uint32_t first = l->extent_chunk[x->extent] + (uint32_t)(x->offset / IMAGE_CHUNK_BYTES);
		uint32_t last = l->extent_chunk[x->extent] + (uint32_t)((x->offset + x->bytes - 1) / IMAGE_CHUNK_BYTES);
		for (uint32_t c = first; x->bytes && !host[t] && c <= last; c++)
			ASSERT(p->of_chunk[c] < p->n_plan);
	}
	free(host);
}

/* A chunk comes over the link of the tensor in it that is needed first; tensors that are not named need none but the own. */
static inline void verify_links(const struct pieces *p, const struct layout *l, const struct plan_head *plan)
{
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		struct layout_chunk k = layout_chunk(l, c);
		uint32_t want = 0, padding = true;
		for (uint32_t i = plan->n_entries; i-- > 0;) {
			const struct plan_entry *e = &plan_entries(plan)[i];
			const struct tensor *t = &l->tensors[e->tensor];
			if (!t->bytes || t->extent != k.extent || t->offset >= k.offset + k.bytes || t->offset + t->bytes <= k.offset)
				continue;
			padding = false;
			want = e->place == PLAN_PLACE_LOAD ? e->link : want;
		}
		ASSERT(padding || pieces_link(p, c) == want);
		ASSERT(pieces_link(p, c) <= plan->n_helpers);
	}
}

static inline void verify_pieces(const struct layout *l, const struct plan_head *plan, bool whole_runs)
{
	struct pieces *p = NULL;
	struct fault why;
	ASSERT(!pieces_build(&p, l, plan, whole_runs, &why));
	verify_tiling(p, l);
	verify_residency(p, l, plan);
	if (plan)
		verify_links(p, l, plan);
	for (uint32_t c = 0; !plan && c < l->n_chunks; c++)
		ASSERT(!pieces_link(p, c));
	for (uint32_t i = 1; whole_runs && i < p->n_plan; i++)
		for (uint32_t j = 0; j < p->n_plan; j++)
			ASSERT(p->v[i].extent != p->v[j].extent || p->v[i].first != p->v[j].first + p->v[j].n);
	pieces_free(&p);
	ASSERT(!p);
}

#endif
