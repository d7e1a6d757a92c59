/* table.c - see table.h.
 * Keeps: table_bytes() and table_build() agree to the byte, and whatever table_check() accepted can be walked, and its
 * names be read as strings, without leaving the table.  It does not check the order of by_name: a wrong order makes a
 * lookup miss, it cannot make one stray. */
#include "shared/table.h"

#include "shared/check.h"
#include "shared/image.h"

#include <errno.h>
#include <string.h>

_Static_assert(TABLE_MAX_RANK == IMAGE_MAX_RANK, "a record holds every tensor's shape");
_Static_assert(sizeof(struct table_header) == 72 && sizeof(struct table_extent) == 16 &&
		sizeof(struct table_tensor) == 104, "records are a format between processes");

/* The header of a layout's table: all offsets, and the size in all. */
static struct table_header plan(const struct layout *l)
{
	struct table_header h = {
		.magic = TABLE_MAGIC,
		.version = TABLE_VERSION,
		.image_bytes = l->image_bytes,
		.n_extents = l->n_extents,
		.n_tensors = l->n_tensors,
	};
	h.extents_off = sizeof h;
	h.tensors_off = h.extents_off + (uint64_t)l->n_extents * sizeof(struct table_extent);
	h.by_name_off = h.tensors_off + (uint64_t)l->n_tensors * sizeof(struct table_tensor);
	h.names_off = h.by_name_off + (uint64_t)l->n_tensors * sizeof(uint32_t);
	for (uint32_t i = 0; i < l->n_tensors; i++)
		h.names_bytes += strlen(l->tensors[i].name) + 1;
	h.table_bytes = align_up(h.names_off + h.names_bytes, 8);
	return h;
}

uint64_t table_bytes(const struct layout *l)
{
	return plan(l).table_bytes;
}

static void build_extents(const struct layout *l, struct table_extent *out)
{
	uint64_t at = 0;
	for (uint32_t e = 0; e < l->n_extents; e++) {
		out[e] = (struct table_extent){.bytes = l->extent_bytes[e], .image_off = at};
		at += l->extent_bytes[e];
	}
}

static void build_tensors(const struct layout *l, struct table_tensor *out, char *names)
{
	uint64_t at = 0;
	for (uint32_t i = 0; i < l->n_tensors; i++) {
		const struct tensor *t = &l->tensors[i];
		size_t len = strlen(t->name);
		out[i] = (struct table_tensor){
			.name_off = at,
			.name_len = (uint32_t)len,
			.dtype = t->dtype,
			.rank = t->rank,
			.extent = t->extent,
			.offset = t->offset,
			.bytes = t->bytes,
		};
		memcpy(out[i].shape, t->shape, sizeof(uint64_t) * t->rank);
		memcpy(names + at, t->name, len + 1);
		at += len + 1;
	}
}

void table_build(const struct layout *l, void *dst)
{
	struct table_header h = plan(l);
	char *base = dst;
	ASSERT((uintptr_t)dst % 8 == 0);
	memcpy(base, &h, sizeof h);
	build_extents(l, (void *)(base + h.extents_off));
	build_tensors(l, (void *)(base + h.tensors_off), base + h.names_off);
	memcpy(base + h.by_name_off, l->by_name, sizeof(uint32_t) * l->n_tensors);
	memset(base + h.names_off + h.names_bytes, 0, h.table_bytes - h.names_off - h.names_bytes);
}

/* n records of `size` bytes at off lie behind the header, inside the table, and are aligned for direct use. */
static bool section_fits(const struct table_header *t, uint64_t off, uint64_t n, uint64_t size)
{
	return off >= sizeof *t && off <= t->table_bytes && off % 4 == 0 && n <= (t->table_bytes - off) / size;
}

static bool header_fits(const struct table_header *t, uint64_t bytes)
{
	return t->magic == TABLE_MAGIC && t->version == TABLE_VERSION && t->table_bytes == bytes &&
		section_fits(t, t->extents_off, t->n_extents, sizeof(struct table_extent)) && t->extents_off % 8 == 0 &&
		section_fits(t, t->tensors_off, t->n_tensors, sizeof(struct table_tensor)) && t->tensors_off % 8 == 0 &&
		section_fits(t, t->by_name_off, t->n_tensors, sizeof(uint32_t)) &&
		section_fits(t, t->names_off, t->names_bytes, 1);
}

static bool extents_fit(const struct table_header *t)
{
	const struct table_extent *x = table_extents(t);
	uint64_t at = 0;
	for (uint32_t e = 0; e < t->n_extents; e++) {
		if (x[e].image_off != at || x[e].bytes % IMAGE_PAGE || add_overflows(at, x[e].bytes, &at))
			return false;
	}
	return at == t->image_bytes;
}

static bool tensor_fits(const struct table_header *t, const struct table_tensor *x)
{
	if (x->rank > TABLE_MAX_RANK || x->extent >= t->n_extents || x->offset % IMAGE_TENSOR_ALIGN)
		return false;
	uint64_t room = table_extents(t)[x->extent].bytes;
	if (x->offset > room || x->bytes > room - x->offset)
		return false;
	if (x->name_off >= t->names_bytes || x->name_len >= t->names_bytes - x->name_off)
		return false;
	return table_name(t, x)[x->name_len] == '\0';
}

static const uint32_t *by_name(const struct table_header *t)
{
	return (const void *)((const char *)t + t->by_name_off);
}

int table_check(const void *table, uint64_t bytes)
{
	const struct table_header *t = table;
	if (bytes < sizeof *t || !header_fits(t, bytes) || !extents_fit(t))
		return -EPROTO;
	for (uint32_t i = 0; i < t->n_tensors; i++)
		if (!tensor_fits(t, &table_tensors(t)[i]) || by_name(t)[i] >= t->n_tensors)
			return -EPROTO;
	return 0;
}
