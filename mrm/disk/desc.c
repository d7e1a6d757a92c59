/* desc.c - see desc.h and README.md ("description").
 * Keeps: one encoding per description.  Tensors are written in image order and refused in any other; the layout is
 * never written, but built again by the same function. */
#include "mrm/disk/desc.h"

#include "mrm/disk/bytes.h"
#include "shared/own.h"
#include "shared/utf8.h"

#include <errno.h>
#include <inttypes.h>

/* The least that one of each takes when encoded, for bounding counts before anything is allocated. */
#define MIN_FILE_BYTES 28
#define MIN_SIDE_BYTES 28
#define MIN_TENSOR_BYTES 32

enum { FLAG_IN_PLACE = 1 };
enum { FILE_SHA256 = 1 };

void image_desc_new(struct image_desc **out)
{
	*out = calloc(1, sizeof **out);
	ASSERT(*out);
	(*out)->refs = 1;
}

struct image_desc *image_desc_ref(const struct image_desc *shared)
{
	struct image_desc *d = (struct image_desc *)shared; /* the count is not part of what is described */
	d->refs++;
	return d;
}

void image_desc_free(struct image_desc **p)
{
	struct image_desc *d = *p;
	*p = NULL;
	if (!d || --d->refs)
		return;
	for (uint32_t i = 0; d->files && i < d->n_files; i++) {
		free(d->files[i].path);
		free(d->files[i].version);
	}
	for (uint32_t i = 0; d->sides && i < d->n_sides; i++) {
		free(d->sides[i].name);
		free(d->sides[i].data);
	}
	free(d->files);
	free(d->sides);
	free(d->source);
	free(d->name);
	free(d->revision);
	layout_free(&d->layout);
	free(d);
}

/* ---- checking ---- */

static int check_text(const char *text, const char *what, struct fault *why)
{
	if (!text)
		return fault_set(why, TRIMS_E_BAD_MODEL, "the %s is missing", what);
	if (strlen(text) > DESC_MAX_TEXT)
		return fault_set(why, TRIMS_E_BAD_MODEL, "the %s is longer than %d bytes", what, DESC_MAX_TEXT);
	return 0;
}

static int check_sides(const struct image_desc *d, struct fault *why)
{
	uint64_t total = 0;
	if (d->n_sides > DESC_MAX_SIDES)
		return fault_set(why, TRIMS_E_BAD_MODEL, "%u small files beside the weights, at most %d are kept",
			d->n_sides, DESC_MAX_SIDES);
	for (uint32_t i = 0; i < d->n_sides; i++) {
		int r = check_text(d->sides[i].name, "name of a side file", why);
		if (r < 0)
			return r;
		total += MIN(d->sides[i].bytes, DESC_MAX_SIDE_BYTES + 1);
		for (uint32_t j = 0; j < i; j++)
			if (!strcmp(d->sides[i].name, d->sides[j].name))
				return fault_set(why, TRIMS_E_BAD_MODEL, "side file %.200s is there twice",
					d->sides[i].name);
	}
	if (total > DESC_MAX_SIDE_BYTES)
		return fault_set(why, TRIMS_E_BAD_MODEL,
			"the small files beside the weights take more than %" PRIu64 " bytes", DESC_MAX_SIDE_BYTES);
	return 0;
}

int image_desc_check(const struct image_desc *d, struct fault *why)
{
	int r = check_text(d->source, "source", why);
	if (r == 0)
		r = check_text(d->name, "model name", why);
	if (r == 0)
		r = check_text(d->revision, "revision", why);
	if (r == 0 && (!d->layout || d->n_files == 0 || d->n_files > IMAGE_MAX_FILES ||
		d->layout->n_files != d->n_files))
		r = fault_set(why, TRIMS_E_BAD_MODEL, "%u weight files, or they do not match the layout", d->n_files);
	for (uint32_t i = 0; r == 0 && i < d->n_files; i++) {
		r = check_text(d->files[i].path, "path of a weight file", why);
		if (r == 0)
			r = check_text(d->files[i].version, "version of a weight file", why);
	}
	return r < 0 ? r : check_sides(d, why);
}

/* ---- encoding ---- */

static void encode_file(struct out *o, const struct image_desc *d, uint32_t i)
{
	const struct image_file *f = &d->files[i];
	out_text(o, f->path);
	out_text(o, f->version);
	out_u64(o, d->layout->file_bytes[i]);
	out_u64(o, d->layout->data_start[i]);
	out_u32(o, f->has_sha256 ? FILE_SHA256 : 0);
	if (f->has_sha256)
		out_bytes(o, f->sha256, sizeof f->sha256);
}

static void encode_tensor(struct out *o, const struct tensor *t)
{
	out_text(o, t->name);
	out_u32(o, t->dtype);
	out_u32(o, t->file);
	out_u64(o, t->file_off);
	out_u64(o, t->bytes);
	out_u32(o, t->rank);
	for (uint32_t i = 0; i < t->rank; i++)
		out_u64(o, t->shape[i]);
}

int image_desc_encode(const struct image_desc *d, uint8_t **out, size_t *bytes, struct fault *why)
{
	struct out o = {0};
	int r = image_desc_check(d, why);
	if (r < 0)
		return r;
	out_u64(&o, d->fingerprint_hi);
	out_u64(&o, d->fingerprint_lo);
	out_u32(&o, d->in_place ? FLAG_IN_PLACE : 0);
	out_text(&o, d->source);
	out_text(&o, d->name);
	out_text(&o, d->revision);
	out_u32(&o, d->n_files);
	for (uint32_t i = 0; i < d->n_files; i++)
		encode_file(&o, d, i);
	out_u32(&o, d->n_sides);
	for (uint32_t i = 0; i < d->n_sides; i++) {
		out_text(&o, d->sides[i].name);
		out_u64(&o, d->sides[i].bytes);
		out_hash(&o, d->sides[i].hash);
	}
	out_u32(&o, d->layout->n_tensors);
	for (uint32_t i = 0; i < d->layout->n_tensors; i++)
		encode_tensor(&o, &d->layout->tensors[i]);
	if (o.n > DESC_MAX_BYTES) {
		free(o.p);
		return fault_set(why, TRIMS_E_BAD_MODEL, "the model's description takes more than %" PRIu64 " bytes",
			DESC_MAX_BYTES);
	}
	*out = o.p;
	*bytes = o.n;
	return 0;
}

/* ---- decoding ---- */

struct sizes {
	uint64_t *file_bytes, *data_start;
};

static bool decode_files(struct in *in, struct image_desc *d, struct sizes *sizes)
{
	d->n_files = in_count(in, IMAGE_MAX_FILES, MIN_FILE_BYTES);
	d->files = calloc((size_t)d->n_files + 1, sizeof *d->files);
	sizes->file_bytes = calloc((size_t)d->n_files + 1, sizeof(uint64_t));
	sizes->data_start = calloc((size_t)d->n_files + 1, sizeof(uint64_t));
	ASSERT(d->files && sizes->file_bytes && sizes->data_start);
	for (uint32_t i = 0; i < d->n_files && !in->bad; i++) {
		struct image_file *f = &d->files[i];
		f->path = in_text(in, DESC_MAX_TEXT);
		f->version = in_text(in, DESC_MAX_TEXT);
		sizes->file_bytes[i] = in_u64(in);
		sizes->data_start[i] = in_u64(in);
		uint32_t flags = in_u32(in);
		f->has_sha256 = flags & FILE_SHA256;
		const uint8_t *sha = f->has_sha256 ? in_bytes(in, sizeof f->sha256) : NULL;
		if (sha)
			memcpy(f->sha256, sha, sizeof f->sha256);
		if (flags & ~(uint32_t)FILE_SHA256)
			in->bad = true;
	}
	return !in->bad;
}

static bool decode_sides(struct in *in, struct image_desc *d)
{
	d->n_sides = in_count(in, DESC_MAX_SIDES, MIN_SIDE_BYTES);
	d->sides = calloc((size_t)d->n_sides + 1, sizeof *d->sides);
	ASSERT(d->sides);
	for (uint32_t i = 0; i < d->n_sides && !in->bad; i++) {
		d->sides[i].name = in_text(in, DESC_MAX_TEXT);
		d->sides[i].bytes = in_u64(in);
		d->sides[i].hash = in_hash(in);
	}
	return !in->bad;
}

static bool decode_tensor(struct in *in, struct tensor *t)
{
	t->name = in_text(in, IMAGE_MAX_NAME);
	t->dtype = in_u32(in);
	t->file = in_u32(in);
	t->file_off = in_u64(in);
	t->bytes = in_u64(in);
	t->rank = in_u32(in);
	if (in->bad || t->rank > IMAGE_MAX_RANK || !utf8_valid(t->name, strlen(t->name)))
		return false;
	for (uint32_t i = 0; i < t->rank; i++)
		t->shape[i] = in_u64(in);
	return !in->bad;
}

static bool decode_tensors(struct in *in, struct tensor_list *list)
{
	uint32_t n = in_count(in, IMAGE_MAX_TENSORS, MIN_TENSOR_BYTES);
	list->v = calloc((size_t)n + 1, sizeof *list->v);
	ASSERT(list->v);
	list->cap = n + 1;
	while (list->n < n)
		if (!decode_tensor(in, &list->v[list->n++]))
			return false;
	return !in->bad;
}

/* Order as decoded, to be compared with the order that layout_build() gives them. */
static uint64_t *list_places(const struct tensor_list *list)
{
	uint64_t *places = calloc((size_t)list->n + 1, sizeof *places);
	ASSERT(places);
	for (uint32_t i = 0; i < list->n; i++)
		places[i] = (uint64_t)(uintptr_t)list->v[i].name;
	return places;
}

static int build(struct image_desc *d, struct tensor_list *list, const struct sizes *sizes, struct fault *why)
{
	OWN_MEM const char **names = calloc((size_t)d->n_files + 1, sizeof *names);
	OWN_MEM uint64_t *places = list_places(list);
	ASSERT(names);
	for (uint32_t i = 0; i < d->n_files; i++)
		names[i] = d->files[i].path;
	int r = layout_build(&d->layout, list, sizes->file_bytes, sizes->data_start, names, d->n_files, why);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < d->layout->n_tensors; i++)
		if ((uint64_t)(uintptr_t)d->layout->tensors[i].name != places[i])
			return fault_set(why, TRIMS_E_DISK_ERROR, "the tensors are not in image order");
	return 0;
}

static bool decode_top(struct in *in, struct image_desc *d)
{
	d->fingerprint_hi = in_u64(in);
	d->fingerprint_lo = in_u64(in);
	uint32_t flags = in_u32(in);
	d->in_place = flags & FLAG_IN_PLACE;
	d->source = in_text(in, DESC_MAX_TEXT);
	d->name = in_text(in, DESC_MAX_TEXT);
	d->revision = in_text(in, DESC_MAX_TEXT);
	return !in->bad && !(flags & ~(uint32_t)FLAG_IN_PLACE);
}

int image_desc_decode(const uint8_t *bytes, size_t n, struct image_desc **out, struct fault *why)
{
	struct in in = {bytes, n, n > DESC_MAX_BYTES};
	struct sizes sizes = {0};
	struct tensor_list list = {0};
	OWN(image_desc_free) struct image_desc *d = NULL;
	int r = 0;
	image_desc_new(&d);
	if (!decode_top(&in, d) || !decode_files(&in, d, &sizes) || !decode_sides(&in, d) ||
		!decode_tensors(&in, &list) || in.n)
		r = fault_set(why, TRIMS_E_DISK_ERROR,
			"a description is cut short, too long or malformed at its byte %zu", n - in.n);
	if (r == 0)
		r = build(d, &list, &sizes, why);
	if (r == 0)
		r = image_desc_check(d, why);
	tensor_list_fini(&list);
	free(sizes.file_bytes);
	free(sizes.data_start);
	if (r == 0)
		*out = STEAL(d);
	return r;
}

uint64_t image_desc_disk_bytes(const struct image_desc *d)
{
	/* Names and texts are bounded by their own sizes; per chunk 64 bytes of journal and 32 of manifest. */
	uint64_t text = 4096, sides = 0;
	for (uint32_t i = 0; i < d->layout->n_tensors; i++)
		text += MIN_TENSOR_BYTES + strlen(d->layout->tensors[i].name) + 8 * IMAGE_MAX_RANK;
	for (uint32_t i = 0; i < d->n_files; i++)
		text += MIN_FILE_BYTES + 64 + strlen(d->files[i].path) + strlen(d->files[i].version);
	for (uint32_t i = 0; i < d->n_sides; i++) {
		text += MIN_SIDE_BYTES + strlen(d->sides[i].name);
		sides += d->sides[i].bytes;
	}
	text += strlen(d->source) + strlen(d->name) + strlen(d->revision);
	uint64_t data = d->in_place ? 0 : d->layout->image_bytes;
	/* The journal and the manifest hold the description each, and for a moment there are both. */
	return data + align_up(sides, 4096) + 2 * align_up(text + 64 * (uint64_t)d->layout->n_chunks, 4096) + 4 * 4096;
}
