/* layout.c - see image.h.
 * Keeps, of a built layout:
 *   - tensors are sorted by (file, file_off), so place in the image grows with place in the files; that makes every
 *     question here a binary search and the spans of a chunk contiguous;
 *   - behind each file's head every byte belongs to exactly one tensor or one gap;
 *   - gaps are sorted by (file, file_off) and by chunk at once.
 * The tensors' input order does not matter: ties (zero-size tensors) are broken by name. */
#include "shared/image.h"

#include "shared/check.h"
#include "shared/copy.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct fault *why)
{
	return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the layout of a model");
}

void tensor_list_fini(struct tensor_list *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		free(l->v[i].name);
	free(l->v);
	*l = (struct tensor_list){0};
}

void layout_free(struct layout **p)
{
	struct layout *l = *p;
	*p = NULL;
	if (!l)
		return;
	tensor_list_fini(&(struct tensor_list){.v = l->tensors, .n = l->n_tensors});
	free(l->extent_bytes);
	free(l->extent_chunk);
	free(l->file_bytes);
	free(l->data_start);
	free(l->gaps);
	free(l->by_name);
	free(l);
}

/* ---- building ---- */

static int cmp_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* Zero-size tensors come first at their offset, so that the last tensor at an offset is the one that has its bytes. */
static int cmp_place(const void *va, const void *vb)
{
	const struct tensor *a = va, *b = vb;
	int d = cmp_u64(a->file, b->file);
	if (!d)
		d = cmp_u64(a->file_off, b->file_off);
	if (!d)
		d = (a->bytes > 0) - (b->bytes > 0);
	return d ? d : strcmp(a->name, b->name);
}

static void sort_tensors(struct layout *l)
{
	uint32_t i = 1;
	while (i < l->n_tensors && cmp_place(&l->tensors[i - 1], &l->tensors[i]) <= 0)
		i++;
	if (i < l->n_tensors)
		qsort(l->tensors, l->n_tensors, sizeof *l->tensors, cmp_place);
}

static int cmp_name(const void *va, const void *vb, void *tensors)
{
	const struct tensor *t = tensors;
	return strcmp(t[*(const uint32_t *)va].name, t[*(const uint32_t *)vb].name);
}

static int sort_names(struct layout *l, const char *const *file_names, struct fault *why)
{
	l->by_name = calloc((size_t)l->n_tensors + 1, sizeof *l->by_name);
	if (!l->by_name)
		return no_memory(why);
	for (uint32_t i = 0; i < l->n_tensors; i++)
		l->by_name[i] = i;
	qsort_r(l->by_name, l->n_tensors, sizeof *l->by_name, cmp_name, l->tensors);
	for (uint32_t i = 1; i < l->n_tensors; i++) {
		const struct tensor *a = &l->tensors[l->by_name[i - 1]], *b = &l->tensors[l->by_name[i]];
		if (!strcmp(a->name, b->name))
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: tensor \"%.200s\": %s has a tensor of this name, too",
				file_names[MAX(a->file, b->file)], a->name, file_names[MIN(a->file, b->file)]);
	}
	return 0;
}

/* What a file claims about itself before any tensor is looked at. */
static int check_files(const struct layout *l, const char *const *file_names, struct fault *why)
{
	for (uint32_t f = 0; f < l->n_files; f++) {
		if (l->data_start[f] > l->file_bytes[f])
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: its header ends at byte %" PRIu64 " of %" PRIu64,
				file_names[f], l->data_start[f], l->file_bytes[f]);
		if (l->file_bytes[f] / IMAGE_CHUNK_BYTES >= IMAGE_MAX_CHUNKS)
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: its size of %" PRIu64 " bytes is beyond what an image holds",
				file_names[f], l->file_bytes[f]);
	}
	return 0;
}

static int check_tensors(const struct layout *l, const char *const *file_names, struct fault *why)
{
	const struct tensor *before = NULL;
	for (uint32_t i = 0; i < l->n_tensors; before = &l->tensors[i++]) {
		const struct tensor *t = &l->tensors[i];
		if (t->file >= l->n_files)
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: tensor \"%.200s\": lies in file %" PRIu32 " of %" PRIu32,
				file_names[0], t->name, t->file, l->n_files);
		const char *name = file_names[t->file];
		uint64_t end = l->file_bytes[t->file];
		if (t->file_off < l->data_start[t->file] || t->file_off > end || t->bytes > end - t->file_off)
			return fault_set(why, TRIMS_E_BAD_MODEL,
				"%s: tensor \"%.200s\": %" PRIu64 " bytes at %" PRIu64 " lie outside the file's data [%" PRIu64
				", %" PRIu64 ")", name, t->name, t->bytes, t->file_off, l->data_start[t->file], end);
		if (before && before->file == t->file && t->file_off < before->file_off + before->bytes)
			return fault_set(why, TRIMS_E_BAD_MODEL,
				"%s: tensor \"%.200s\": begins at byte %" PRIu64 ", inside tensor \"%.100s\", which ends at %" PRIu64,
				name, t->name, t->file_off, before->name, before->file_off + before->bytes);
	}
	return 0;
}

/* Ends the extent that is being filled; `used` bytes of it are. */
static void close_extent(struct layout *l, uint64_t used, uint64_t align)
{
	uint64_t bytes = align_up(MAX(used, 1), align);
	l->extent_bytes[l->n_extents++] = bytes;
	l->image_bytes += bytes;
}

static int place_tensors(struct layout *l, const char *const *file_names, struct fault *why)
{
	uint64_t used = 0;
	for (uint32_t i = 0; i < l->n_tensors; i++) {
		struct tensor *t = &l->tensors[i];
		uint64_t at = align_up(used, IMAGE_TENSOR_ALIGN);
		if (t->bytes && used && (t->bytes > IMAGE_EXTENT_BYTES || at > IMAGE_EXTENT_BYTES - t->bytes)) {
			if (l->n_extents + 1 == IMAGE_MAX_EXTENTS)
				return fault_set(why, TRIMS_E_BAD_MODEL,
					"%s: tensor \"%.200s\": does not fit into the image's %d extents", file_names[t->file],
					t->name, IMAGE_MAX_EXTENTS);
			close_extent(l, used, IMAGE_HUGE_PAGE);
			at = 0;
		}
		t->extent = l->n_extents;
		t->offset = at;
		used = at + t->bytes;
	}
	close_extent(l, used, IMAGE_PAGE);
	return 0;
}

static int number_chunks(struct layout *l, const char *const *file_names, struct fault *why)
{
	uint64_t n = 0;
	for (uint32_t e = 0; e < l->n_extents; e++) {
		l->extent_chunk[e] = (uint32_t)n;
		n += (l->extent_bytes[e] + IMAGE_CHUNK_BYTES - 1) / IMAGE_CHUNK_BYTES;
		if (n > IMAGE_MAX_CHUNKS)
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: an image of more than %" PRIu64 " bytes is not supported",
				file_names[0], IMAGE_MAX_CHUNKS * IMAGE_CHUNK_BYTES);
	}
	l->extent_chunk[l->n_extents] = l->n_chunks = (uint32_t)n;
	return 0;
}

static uint32_t chunk_of(const struct layout *l, const struct tensor *t, uint64_t byte)
{
	return l->extent_chunk[t->extent] + (uint32_t)((t->offset + byte) / IMAGE_CHUNK_BYTES);
}

static int add_gap(struct layout *l, uint32_t *cap, const struct layout_gap *gap, const char *file_name,
	struct fault *why)
{
	if (!gap->bytes)
		return 0;
	if (gap->bytes > IMAGE_MAX_GAP_BYTES - l->gap_bytes)
		return fault_set(why, TRIMS_E_BAD_MODEL,
			"%s: %" PRIu64 " bytes at %" PRIu64 " belong to no tensor, more than the %" PRIu64 " a model may have",
			file_name, gap->bytes, gap->file_off, IMAGE_MAX_GAP_BYTES);
	if (l->n_gaps == *cap) {
		uint32_t grown = *cap ? *cap * 2 : 16;
		struct layout_gap *v = reallocarray(l->gaps, grown, sizeof *v);
		if (!v)
			return no_memory(why);
		l->gaps = v;
		*cap = grown;
	}
	l->gaps[l->n_gaps] = *gap;
	l->gaps[l->n_gaps++].gap_off = l->gap_bytes;
	l->gap_bytes += gap->bytes;
	return 0;
}

/* A gap goes with the tensor behind it, a file's last one with the tensor before it; in a file without bytes of tensors,
 * with the last tensor of the files before. */
static int find_gaps(struct layout *l, const char *const *file_names, struct fault *why)
{
	uint32_t cap = 0, i = 0, chunk = 0;
	int r = 0;
	for (uint32_t f = 0; f < l->n_files && !r; f++) {
		uint64_t end = l->data_start[f];
		for (; i < l->n_tensors && l->tensors[i].file == f && !r; i++) {
			const struct tensor *t = &l->tensors[i];
			if (!t->bytes)
				continue;
			struct layout_gap gap = {
				.file = f, .file_off = end, .bytes = t->file_off - end, .chunk = chunk_of(l, t, 0)};
			r = add_gap(l, &cap, &gap, file_names[f], why);
			end = t->file_off + t->bytes;
			chunk = chunk_of(l, t, t->bytes - 1);
		}
		if (!r) {
			struct layout_gap tail = {
				.file = f, .file_off = end, .bytes = l->file_bytes[f] - end, .chunk = chunk};
			r = add_gap(l, &cap, &tail, file_names[f], why);
		}
	}
	return r;
}

/* Takes the list over and copies what the caller keeps. */
static struct layout *layout_alloc(struct tensor_list *list, const uint64_t *file_bytes, const uint64_t *data_start,
	uint32_t n_files)
{
	struct layout *l = calloc(1, sizeof *l);
	if (!l)
		return NULL;
	l->tensors = list->v;
	l->n_tensors = list->n;
	*list = (struct tensor_list){0};
	l->n_files = n_files;
	l->extent_bytes = calloc(IMAGE_MAX_EXTENTS, sizeof *l->extent_bytes);
	l->extent_chunk = calloc(IMAGE_MAX_EXTENTS + 1, sizeof *l->extent_chunk);
	l->file_bytes = calloc(n_files, sizeof *l->file_bytes);
	l->data_start = calloc(n_files, sizeof *l->data_start);
	if (!l->extent_bytes || !l->extent_chunk || !l->file_bytes || !l->data_start) {
		layout_free(&l);
		return NULL;
	}
	memcpy(l->file_bytes, file_bytes, n_files * sizeof *file_bytes);
	memcpy(l->data_start, data_start, n_files * sizeof *data_start);
	return l;
}

/* p with room for n elements of that size and no more.  It stays as it is where memory cannot be given back. */
static void *trimmed(void *p, size_t n, size_t bytes)
{
	void *less = p ? realloc(p, MAX(n * bytes, 1u)) : NULL;
	if (!less)
		return p;
	return less;
}

/* A daemon knows many models, and most have one extent. */
static void trim(struct layout *l)
{
	l->tensors = trimmed(l->tensors, l->n_tensors, sizeof *l->tensors);
	l->extent_bytes = trimmed(l->extent_bytes, l->n_extents, sizeof *l->extent_bytes);
	l->extent_chunk = trimmed(l->extent_chunk, l->n_extents + 1, sizeof *l->extent_chunk);
	l->gaps = trimmed(l->gaps, l->n_gaps, sizeof *l->gaps);
}

static int check_counts(const struct tensor_list *list, const char *const *file_names, uint32_t n_files,
	struct fault *why)
{
	if (!n_files || n_files > IMAGE_MAX_FILES)
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s: a model of %" PRIu32 " weight files; 1 to %d are possible",
			n_files ? file_names[0] : "(no file)", n_files, IMAGE_MAX_FILES);
	if (list->n > IMAGE_MAX_TENSORS)
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s: a model of %" PRIu32 " tensors; at most %" PRIu32 " are possible",
			file_names[0], list->n, IMAGE_MAX_TENSORS);
	if (list->stated && list->stated != list->n)
		return fault_set(why, TRIMS_E_BAD_MODEL,
			"%s: states that the model has %" PRIu32 " tensors in all its files, but they hold %" PRIu32, file_names[0],
			list->stated, list->n);
	return 0;
}

static int build(struct layout *l, const char *const *file_names, struct fault *why)
{
	sort_tensors(l);
	int r = check_files(l, file_names, why);
	if (!r)
		r = check_tensors(l, file_names, why);
	if (!r)
		r = sort_names(l, file_names, why);
	if (!r)
		r = place_tensors(l, file_names, why);
	if (!r)
		r = number_chunks(l, file_names, why);
	if (!r)
		r = find_gaps(l, file_names, why);
	if (!r)
		trim(l);
	return r;
}

int layout_build(struct layout **out, struct tensor_list *list, const uint64_t *file_bytes, const uint64_t *data_start,
	const char *const *file_names, uint32_t n_files, struct fault *why)
{
	int r = check_counts(list, file_names, n_files, why);
	struct layout *l = r ? NULL : layout_alloc(list, file_bytes, data_start, n_files);
	tensor_list_fini(list); /* empty by now, unless something failed */
	if (r)
		return r;
	if (!l)
		return no_memory(why);
	r = build(l, file_names, why);
	if (r)
		layout_free(&l);
	else
		*out = l;
	return r;
}

/* ---- asking ---- */

struct layout_chunk layout_chunk(const struct layout *l, uint32_t chunk)
{
	ASSERT(chunk < l->n_chunks);
	uint32_t lo = 0, hi = l->n_extents;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (l->extent_chunk[mid] <= chunk)
			lo = mid;
		else
			hi = mid;
	}
	uint64_t off = (chunk - l->extent_chunk[lo]) * IMAGE_CHUNK_BYTES;
	return (struct layout_chunk){
		.extent = lo, .offset = off, .bytes = MIN(IMAGE_CHUNK_BYTES, l->extent_bytes[lo] - off)};
}

/* A stretch of one file that goes into one chunk as it is. */
struct part {
	uint32_t file;
	uint64_t off, bytes; /* in the file */
	bool is_gap;
	uint64_t at; /* in the chunk, or in the gap buffer */
};

/* Walks a chunk's parts in file order. */
struct walk {
	const struct layout *l;
	struct layout_chunk c;
	uint32_t chunk, tensor, gap; /* the next ones to look at */
};

/* The tensor that holds the chunk's first byte, or the first one behind it. */
static uint32_t first_tensor(const struct layout *l, const struct layout_chunk *c)
{
	uint32_t lo = 0, hi = l->n_tensors;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct tensor *t = &l->tensors[mid];
		if (t->extent < c->extent || (t->extent == c->extent && t->offset <= c->offset))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? lo - 1 : 0;
}

static uint32_t first_gap(const struct layout *l, uint32_t chunk)
{
	uint32_t lo = 0, hi = l->n_gaps;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (l->gaps[mid].chunk < chunk)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct walk walk_start(const struct layout *l, uint32_t chunk)
{
	struct walk w = {.l = l, .c = layout_chunk(l, chunk), .chunk = chunk};
	w.tensor = first_tensor(l, &w.c);
	w.gap = first_gap(l, chunk);
	return w;
}

/* The next tensor part, not yet taken. */
static bool peek_tensor(struct walk *w, struct part *out)
{
	for (; w->tensor < w->l->n_tensors; w->tensor++) {
		const struct tensor *t = &w->l->tensors[w->tensor];
		uint64_t c_end = w->c.offset + w->c.bytes;
		if (t->extent > w->c.extent || (t->extent == w->c.extent && t->offset >= c_end))
			return false;
		if (t->extent < w->c.extent || !t->bytes || t->offset + t->bytes <= w->c.offset)
			continue;
		uint64_t from = MAX(t->offset, w->c.offset), to = MIN(t->offset + t->bytes, c_end);
		*out = (struct part){
			.file = t->file,
			.off = t->file_off + (from - t->offset),
			.bytes = to - from,
			.at = from - w->c.offset,
		};
		return true;
	}
	return false;
}

static bool peek_gap(const struct walk *w, struct part *out)
{
	if (w->gap >= w->l->n_gaps || w->l->gaps[w->gap].chunk != w->chunk)
		return false;
	const struct layout_gap *g = &w->l->gaps[w->gap];
	*out = (struct part){.file = g->file, .off = g->file_off, .bytes = g->bytes, .is_gap = true, .at = g->gap_off};
	return true;
}

static bool walk_next(struct walk *w, struct part *out)
{
	struct part gap;
	bool has_tensor = peek_tensor(w, out), has_gap = peek_gap(w, &gap);
	if (has_gap && (!has_tensor || gap.file < out->file || (gap.file == out->file && gap.off < out->off))) {
		*out = gap;
		w->gap++;
		return true;
	}
	if (has_tensor)
		w->tensor++;
	return has_tensor;
}

uint32_t layout_spans(const struct layout *l, uint32_t chunk, struct layout_span *out, uint32_t max)
{
	uint32_t n = 0;
	struct part p;
	for (struct walk w = walk_start(l, chunk); walk_next(&w, &p);) {
		if (n && out[n - 1].file == p.file) {
			ASSERT(out[n - 1].off + out[n - 1].bytes == p.off);
			out[n - 1].bytes += p.bytes;
			continue;
		}
		ASSERT(n < max);
		out[n++] = (struct layout_span){.file = p.file, .off = p.off, .bytes = p.bytes};
	}
	return n;
}

/* Small enough that a piece which was looked at is still in the caches when it is copied. */
#define PIECE_BYTES (64 * KIB)

/* Zeros up to `end`. */
static void fill_padding(struct layout_fill *f, uint64_t end)
{
	uint64_t from = f->filled;
	memset(f->dst + from, 0, end - from);
	f->filled = end;
	if (f->seen && end > from)
		f->seen(f->ctx, f->dst + from, end - from);
}

/* Goes on with the chunk's next part; what lies between it and the part before is padding. */
static void fill_next(struct layout_fill *f)
{
	struct walk w = {f->layout, f->c, f->chunk, f->tensor, f->gap};
	struct part p = {.at = f->c.bytes};
	walk_next(&w, &p);
	f->tensor = w.tensor;
	f->gap = w.gap;
	f->left = p.bytes;
	f->in_gap = p.is_gap;
	if (p.is_gap) {
		f->at = f->gap_buf ? f->gap_buf + p.at : NULL;
		return;
	}
	fill_padding(f, p.at);
	f->at = f->dst + p.at;
}

void layout_fill_begin(struct layout_fill *f, const struct layout *l, uint32_t chunk, uint8_t *dst, uint8_t *gap_buf,
	layout_seen_fn seen, void *ctx)
{
	struct walk w = walk_start(l, chunk);
	*f = (struct layout_fill){.layout = l, .c = w.c, .chunk = chunk, .tensor = w.tensor, .gap = w.gap, .dst = dst,
		.gap_buf = gap_buf, .seen = seen, .ctx = ctx};
	fill_next(f);
}

static void fill_piece(struct layout_fill *f, const uint8_t *bytes, uint64_t n)
{
	if (f->seen && !f->in_gap)
		f->seen(f->ctx, bytes, n);
	if (f->at) {
		copy_bulk(f->at, bytes, n);
		f->at += n;
	}
	f->filled += f->in_gap ? 0 : n;
	f->left -= n;
	if (!f->left)
		fill_next(f);
}

uint64_t layout_fill_put(struct layout_fill *f, const uint8_t *bytes, uint64_t n)
{
	uint64_t taken = 0;
	while (f->left && taken < n) {
		uint64_t piece = MIN(MIN(f->left, n - taken), PIECE_BYTES);
		fill_piece(f, bytes + taken, piece);
		taken += piece;
	}
	return taken;
}

bool layout_fill_is_full(const struct layout_fill *f)
{
	return !f->left;
}

void layout_gather(struct layout_fill *f, const struct layout_span *spans, const uint8_t *const *src, uint32_t n_spans)
{
	for (uint32_t i = 0; i < n_spans; i++) {
		uint64_t taken = layout_fill_put(f, src[i], spans[i].bytes);
		ASSERT(taken == spans[i].bytes);
	}
	ASSERT(layout_fill_is_full(f));
}

/* The last tensor that begins at or before this place, NULL when there is none in the file. */
static const struct tensor *tensor_before(const struct layout *l, uint32_t file, uint64_t off)
{
	uint32_t lo = 0, hi = l->n_tensors;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct tensor *t = &l->tensors[mid];
		if (t->file < file || (t->file == file && t->file_off <= off))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && l->tensors[lo - 1].file == file ? &l->tensors[lo - 1] : NULL;
}

static const struct layout_gap *gap_before(const struct layout *l, uint32_t file, uint64_t off)
{
	uint32_t lo = 0, hi = l->n_gaps;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct layout_gap *g = &l->gaps[mid];
		if (g->file < file || (g->file == file && g->file_off <= off))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && l->gaps[lo - 1].file == file ? &l->gaps[lo - 1] : NULL;
}

bool layout_next_piece(const struct layout *l, uint32_t file, uint64_t from, struct layout_piece *out)
{
	ASSERT(file < l->n_files && from >= l->data_start[file]);
	if (from >= l->file_bytes[file])
		return false;
	const struct tensor *t = tensor_before(l, file, from);
	if (t && from - t->file_off < t->bytes) {
		uint64_t skip = from - t->file_off;
		*out = (struct layout_piece){.extent = t->extent, .offset = t->offset + skip, .bytes = t->bytes - skip};
		return true;
	}
	const struct layout_gap *g = gap_before(l, file, from);
	ASSERT(g && from - g->file_off < g->bytes);
	uint64_t skip = from - g->file_off;
	*out = (struct layout_piece){.is_gap = true, .offset = g->gap_off + skip, .bytes = g->bytes - skip};
	return true;
}
