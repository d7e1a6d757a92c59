/* tensor.c - what is where in a model.
 * The table is used in place, and its records are checked one by one as they are asked for: a full check would make the
 * first access as slow as the table is long, and nothing but the records in question can do harm. */
#include "client/model.h"

#include "client/fail.h"
#include "client/gpu.h"

#include <string.h>

#define TENSOR_ALIGN 256

static int bad_record(trims_model *m, uint32_t index)
{
	return fail(TRIMS_E_PROTOCOL, "copy %llu: record %u of the tensor table makes no sense", (unsigned long long)m->copy,
		index);
}

/* NULL when the record's name is not a NUL-terminated text inside the table. */
static const char *record_name(const struct mapped_image *im, const struct table_tensor *t)
{
	uint64_t end;
	if (add_overflows(t->name_off, t->name_len, &end) || end >= im->names_bytes || im->names[end] != 0)
		return NULL;
	return im->names + t->name_off;
}

/* Copies a record out, so that what was checked is what is used. */
static int read_record(trims_model *m, const struct mapped_image *im, uint32_t index, struct table_tensor *t)
{
	uint64_t end;
	if (index >= im->n_tensors)
		return fail(TRIMS_E_NO_TENSOR, "the model has %u tensors, there is no number %u", im->n_tensors, index);
	memcpy(t, &im->tensors[index], sizeof *t);
	if (t->rank > TRIMS_MAX_RANK || t->extent >= im->n_extents || t->offset % TENSOR_ALIGN ||
		add_overflows(t->offset, t->bytes, &end) || end > im->extents[t->extent].bytes || !record_name(im, t))
		return bad_record(m, index);
	return 0;
}

static struct tensor_place place_of(const struct table_tensor *t)
{
	return (struct tensor_place){.extent = t->extent, .offset = t->offset, .end = t->bytes ? t->offset + t->bytes : 0};
}

int model_tensor_place(trims_model *m, uint32_t index, struct tensor_place *out)
{
	const struct mapped_image *im;
	struct table_tensor t;
	int r = mapping_image(m->mapping, &im);
	if (r == 0)
		r = read_record(m, im, index, &t);
	if (r == 0)
		*out = place_of(&t);
	return r;
}

int trims_tensor_count(trims_model *m, uint32_t *out)
{
	const struct mapped_image *im;
	int r = mapping_image(m->mapping, &im);
	if (r == 0)
		*out = im->n_tensors;
	return r;
}

int trims_tensor(trims_model *m, uint32_t index, struct trims_tensor *out)
{
	const struct mapped_image *im;
	struct table_tensor t;
	int r = mapping_image(m->mapping, &im);
	if (r < 0 || (r = read_record(m, im, index, &t)) < 0)
		return r;
	*out = (struct trims_tensor){.name = record_name(im, &t), .index = index, .dtype = t.dtype, .rank = t.rank,
		.bytes = t.bytes};
	memcpy(out->shape, t.shape, t.rank * sizeof t.shape[0]);
	struct tensor_place place = place_of(&t);
	if (m->gpu)
		return gpu_address(m, &place, out);
	if (im->extent_at[t.extent])
		out->data = im->extent_at[t.extent] + t.offset;
	return 0;
}

int trims_read(trims_model *m, uint32_t index, uint64_t offset, void *to, size_t bytes)
{
	struct trims_tensor t;
	uint64_t end;
	int r = trims_tensor(m, index, &t);
	if (r < 0)
		return r;
	if (add_overflows(offset, bytes, &end) || end > t.bytes)
		return fail(TRIMS_E_BAD_REQUEST, "tensor \"%.200s\" has %llu bytes", t.name, (unsigned long long)t.bytes);
	if (m->tier == TRIMS_TIER_DISK)
		return fail(TRIMS_E_UNSUPPORTED, "a model on tier disk cannot be read; open it on another tier");
	if (bytes == 0)
		return 0;
	if (m->gpu)
		return gpu_read(m, &t, offset, to, bytes);
	memcpy(to, (const char *)t.data + offset, bytes);
	return 0;
}

static int compare(const char *name, size_t len, const char *other, uint32_t other_len)
{
	int r = memcmp(name, other, MIN(len, other_len));
	return r ? r : (len > other_len) - (len < other_len);
}

int trims_tensor_by_name(trims_model *m, const char *name, struct trims_tensor *out)
{
	const struct mapped_image *im;
	size_t len = strlen(name);
	int r = mapping_image(m->mapping, &im);
	if (r < 0)
		return r;
	for (uint32_t low = 0, high = im->n_tensors; low < high;) {
		uint32_t mid = low + (high - low) / 2, index = im->by_name[mid];
		struct table_tensor t;
		if (index >= im->n_tensors)
			return bad_record(m, index);
		if ((r = read_record(m, im, index, &t)) < 0)
			return r;
		int order = compare(name, len, record_name(im, &t), t.name_len);
		if (order == 0)
			return trims_tensor(m, index, out);
		if (order < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return fail(TRIMS_E_NO_TENSOR, "the model has no tensor \"%.200s\"", name);
}
