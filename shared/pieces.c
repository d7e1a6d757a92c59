/* pieces.c - see pieces.h.
 * Keeps: the pieces of a layout cover each chunk once. */
#include "shared/pieces.h"

#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NEVER_LOADED UINT32_MAX
#define MIN_CHUNKS 2 /* of a piece that a change of order or link ends */

/* What is known of a chunk. */
struct chunk {
	uint32_t first; /* place in the order of execution of the first tensor in it that is loaded; NEVER_LOADED */
	uint32_t rank;  /* among the chunks that are loaded */
	uint8_t link;
	bool host;      /* a tensor in it is read from the host */
	bool head;
};

struct cutter {
	const struct layout *l;
	const struct plan_head *plan;
	struct chunk *chunk; /* [n_chunks] */
	uint32_t *ranked;    /* [n_loaded] chunks by rank */
	uint32_t n_loaded;
	bool whole_runs, cut_head;
	bool all;            /* what is read from the host counts as loaded */
	uint32_t min;        /* chunks before a change of order or link counts */
};

/* ---- from tensors to chunks ---- */

static void place_tensor(struct cutter *k, const struct tensor *t, uint32_t place, bool dha, uint8_t link)
{
	if (!t->bytes)
		return;
	uint32_t base = k->l->extent_chunk[t->extent];
	uint32_t end = base + (uint32_t)((t->offset + t->bytes - 1) / IMAGE_CHUNK_BYTES);
	for (uint32_t c = base + (uint32_t)(t->offset / IMAGE_CHUNK_BYTES); c <= end; c++) {
		struct chunk *x = &k->chunk[c];
		if (dha && !k->all) {
			x->host = true;
		} else if (place < x->first) {
			x->first = place;
			x->link = link;
		}
	}
}

static int place_tensors(struct cutter *k)
{
	const struct plan_entry *e = plan_entries(k->plan);
	OWN_MEM bool *named = calloc(MAX(k->l->n_tensors, 1u), sizeof *named);
	if (!named)
		return -ENOMEM;
	for (uint32_t i = 0; i < k->plan->n_entries; i++) {
		named[e[i].tensor] = true;
		place_tensor(k, &k->l->tensors[e[i].tensor], i, e[i].place == PLAN_PLACE_DHA, e[i].link);
	}
	for (uint32_t t = 0; t < k->l->n_tensors; t++)
		if (!named[t])
			place_tensor(k, &k->l->tensors[t], k->plan->n_entries + t, false, 0);
	return 0;
}

/* Chunks of padding alone go with what is before them; a device's copy has at least one chunk. */
static void place_rest(struct cutter *k)
{
	uint32_t any = 0;
	for (uint32_t x = 0; x < k->l->n_extents; x++)
		for (uint32_t c = k->l->extent_chunk[x]; c < k->l->extent_chunk[x + 1]; c++) {
			struct chunk *this = &k->chunk[c];
			if (this->first == NEVER_LOADED && !this->host) {
				const struct chunk *before = c > k->l->extent_chunk[x] ? this - 1 : NULL;
				this->first = before ? before->first : NEVER_LOADED - 1;
				this->link = before ? before->link : 0;
			}
			any += this->first != NEVER_LOADED;
		}
	if (!any)
		k->chunk[0].first = 0;
}

static int by_use(const void *a, const void *b, void *ctx)
{
	const struct chunk *chunk = ctx;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	if (chunk[x].first != chunk[y].first)
		return chunk[x].first < chunk[y].first ? -1 : 1;
	return x < y ? -1 : x > y;
}

static void rank(struct cutter *k)
{
	k->n_loaded = 0;
	for (uint32_t c = 0; c < k->l->n_chunks; c++)
		if (k->chunk[c].first != NEVER_LOADED)
			k->ranked[k->n_loaded++] = c;
	qsort_r(k->ranked, k->n_loaded, sizeof *k->ranked, by_use, k->chunk);
	uint64_t before = 0;
	for (uint32_t i = 0; i < k->n_loaded; i++) {
		struct chunk *x = &k->chunk[k->ranked[i]];
		x->rank = i;
		x->head = before < k->plan->keep_bytes;
		before += layout_chunk(k->l, k->ranked[i]).bytes;
	}
}

/* ---- cutting ---- */

static bool is_loaded(const struct cutter *k, uint32_t c)
{
	return k->chunk[c].first != NEVER_LOADED;
}

/* Whether a piece that has n chunks ends before chunk c of the same extent. */
static bool ends_before(const struct cutter *k, uint32_t c, uint32_t n)
{
	const struct chunk *a = &k->chunk[c - 1], *b = &k->chunk[c];
	if (is_loaded(k, c - 1) != is_loaded(k, c))
		return true;
	if (!is_loaded(k, c) || k->whole_runs)
		return false;
	if (k->cut_head && a->head != b->head)
		return true;
	return n >= k->min && (a->link != b->link || b->rank != a->rank + 1);
}

/* Calls fn for each piece, in image order; returns how many there are. */
static uint32_t cut(const struct cutter *k, void (*fn)(void *ctx, uint32_t extent, uint32_t first, uint32_t n), void *ctx)
{
	uint32_t pieces = 0;
	for (uint32_t x = 0; x < k->l->n_extents; x++)
		for (uint32_t c = k->l->extent_chunk[x], end = k->l->extent_chunk[x + 1]; c < end;) {
			uint32_t n = 1;
			while (c + n < end && !ends_before(k, c + n, n))
				n++;
			if (fn)
				fn(ctx, x, c, n);
			pieces++;
			c += n;
		}
	return pieces;
}

/* Chunks of the host in runs of at most n come to the device, too. */
static void fill_holes(struct cutter *k, uint32_t most)
{
	for (uint32_t x = 0; x < k->l->n_extents; x++)
		for (uint32_t c = k->l->extent_chunk[x], end = k->l->extent_chunk[x + 1]; c < end;) {
			uint32_t n = 1;
			while (c + n < end && is_loaded(k, c + n) == is_loaded(k, c))
				n++;
			if (!is_loaded(k, c) && n <= most) {
				uint32_t beside = c > k->l->extent_chunk[x] ? c - 1 : c + n < end ? c + n : c;
				uint32_t first = is_loaded(k, beside) ? k->chunk[beside].first : NEVER_LOADED - 1;
				for (uint32_t i = c; i < c + n; i++)
					k->chunk[i].first = first;
			}
			c += n;
		}
}

/* Coarser and coarser until there is room: first in the order, then in what is kept, in the end in what stays on the host. */
static void settle(struct cutter *k)
{
	k->cut_head = true;
	for (k->min = MIN_CHUNKS; cut(k, NULL, NULL) > PIECES_MAX && k->min < k->l->n_chunks;)
		k->min *= 2;
	if (cut(k, NULL, NULL) > PIECES_MAX)
		k->cut_head = false;
	uint32_t most = 1;
	for (; cut(k, NULL, NULL) > PIECES_MAX; most *= 2)
		fill_holes(k, most);
	if (most > 1) /* once, for no cut among these has looked at it: sorting is what takes the time */
		rank(k);
}

/* ---- the result ---- */

struct collector {
	const struct cutter *k;
	struct pieces *p;
	uint32_t rank[PIECES_MAX];
};

static void collect(void *ctx, uint32_t extent, uint32_t first, uint32_t n)
{
	struct collector *o = ctx;
	const struct cutter *k = o->k;
	struct layout_chunk from = layout_chunk(k->l, first), to = layout_chunk(k->l, first + n - 1);
	uint32_t at = o->p->n++, rank = UINT32_MAX;
	for (uint32_t c = first; c < first + n && is_loaded(k, c); c++)
		rank = MIN(rank, k->chunk[c].rank);
	while (at && o->rank[at - 1] > rank) { /* few, and mostly in order */
		o->rank[at] = o->rank[at - 1];
		o->p->v[at] = o->p->v[at - 1];
		at--;
	}
	o->rank[at] = rank;
	o->p->v[at] = (struct image_piece){.extent = extent, .first = first, .n = n, .offset = from.offset,
		.bytes = to.offset + to.bytes - from.offset};
}

static bool is_kept(const struct cutter *k, const struct image_piece *v)
{
	for (uint32_t c = v->first; c < v->first + v->n; c++)
		if (!k->chunk[c].head)
			return false;
	return true;
}

static void collect_all(const struct cutter *k, struct pieces *p)
{
	struct collector o = {.k = k, .p = p};
	cut(k, collect, &o);
	while (p->n_plan < p->n && is_loaded(k, p->v[p->n_plan].first))
		p->n_plan++;
	while (p->n_head < p->n_plan && is_kept(k, &p->v[p->n_head]))
		p->n_head++;
	if (p->n_head == p->n_plan)
		p->n_head = 0;
}

static int collect_links(const struct cutter *k, struct pieces *p)
{
	bool any = false;
	for (uint32_t c = 0; c < k->l->n_chunks; c++)
		any |= k->chunk[c].link > 0;
	if (!any)
		return 0;
	p->link = calloc(k->l->n_chunks, sizeof *p->link);
	for (uint32_t c = 0; p->link && c < k->l->n_chunks; c++)
		p->link[c] = k->chunk[c].link;
	return p->link ? 0 : -ENOMEM;
}

/* Each chunk's use, and the order of those that are loaded. */
static int rank_all(struct cutter *k)
{
	for (uint32_t c = 0; c < k->l->n_chunks; c++)
		k->chunk[c].first = NEVER_LOADED;
	int e = place_tensors(k);
	if (e)
		return e;
	place_rest(k);
	rank(k);
	return 0;
}

static int by_plan(const struct layout *l, const struct plan_head *plan, bool whole_runs, struct pieces *p)
{
	OWN_MEM struct chunk *chunk = calloc(l->n_chunks, sizeof *chunk);
	OWN_MEM uint32_t *ranked = calloc(l->n_chunks, sizeof *ranked);
	struct cutter k = {.l = l, .plan = plan, .chunk = chunk, .ranked = ranked, .whole_runs = whole_runs};
	int e = chunk && ranked ? rank_all(&k) : -ENOMEM;
	if (e)
		return e;
	settle(&k);
	collect_all(&k, p);
	return collect_links(&k, p);
}

/* The device's chunks in its order; each of the others before the first of them that is used later. */
static void merge(const struct cutter *k, const struct pieces *p, uint32_t *order)
{
	uint32_t n = k->l->n_chunks, n_device = pieces_chunks(p, p->n_plan), device = 0;
	for (uint32_t i = 0, at = 0; at < n;) {
		while (i < n && p->of_chunk[k->ranked[i]] < p->n_plan)
			i++;
		bool host = i < n && (device == n_device || i < k->chunk[pieces_chunk(p, device)].rank);
		order[at++] = host ? k->ranked[i++] : pieces_chunk(p, device++);
	}
}

int pieces_host_order(const struct layout *l, const struct plan_head *plan, const struct pieces *p, uint32_t *order)
{
	OWN_MEM struct chunk *chunk = calloc(MAX(l->n_chunks, 1u), sizeof *chunk);
	OWN_MEM uint32_t *ranked = calloc(MAX(l->n_chunks, 1u), sizeof *ranked);
	struct cutter k = {.l = l, .plan = plan, .chunk = chunk, .ranked = ranked, .all = true};
	int e = chunk && ranked ? rank_all(&k) : -ENOMEM;
	if (e)
		return e;
	ASSERT(k.n_loaded == l->n_chunks);
	if (p)
		merge(&k, p, order);
	else
		memcpy(order, ranked, l->n_chunks * sizeof *order);
	return 0;
}

static void by_extent(const struct layout *l, struct pieces *p)
{
	for (uint32_t x = 0; x < l->n_extents; x++)
		p->v[x] = (struct image_piece){.extent = x, .first = l->extent_chunk[x],
			.n = l->extent_chunk[x + 1] - l->extent_chunk[x], .bytes = l->extent_bytes[x]};
	p->n = p->n_plan = l->n_extents;
}

static void index_chunks(struct pieces *p)
{
	uint32_t at = 0;
	for (uint32_t i = 0; i < p->n; i++)
		for (uint32_t c = 0; c < p->v[i].n; c++) {
			p->of_chunk[p->v[i].first + c] = (uint8_t)i;
			if (p->order)
				p->order[at++] = p->v[i].first + c;
		}
}

int pieces_build(struct pieces **out, const struct layout *l, const struct plan_head *plan, bool whole_runs,
	struct fault *why)
{
	struct pieces *p = calloc(1, sizeof *p);
	int e = p ? 0 : -ENOMEM;
	if (!e)
		p->of_chunk = calloc(MAX(l->n_chunks, 1u), sizeof *p->of_chunk);
	if (!e && plan)
		p->order = calloc(MAX(l->n_chunks, 1u), sizeof *p->order);
	if (!e && (!p->of_chunk || (plan && !p->order)))
		e = -ENOMEM;
	if (!e && plan)
		e = by_plan(l, plan, whole_runs, p);
	else if (!e)
		by_extent(l, p);
	if (e) {
		pieces_free(&p);
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory to cut %u chunks into pieces", l->n_chunks), e;
	}
	index_chunks(p);
	*out = p;
	return 0;
}

void pieces_free(struct pieces **pp)
{
	struct pieces *p = *pp;
	if (!p)
		return;
	free(p->of_chunk);
	free(p->order);
	free(p->link);
	free(p);
	*pp = NULL;
}

uint64_t pieces_bytes(const struct pieces *p, uint32_t n, uint64_t granularity)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += align_up(p->v[i].bytes, granularity);
	return sum;
}

uint32_t pieces_chunks(const struct pieces *p, uint32_t n)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += p->v[i].n;
	return sum;
}
