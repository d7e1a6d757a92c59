/* table.h - the tensor table: one immutable, read-only memory file per model that a client maps and uses in place.
 *
 * Little-endian, fixed-size records; no parsing.  Written by table_build() in the daemon, read by libtrims.
 * Layout: header, extents[], tensors[] (execution order), by_name[] (u32 indices sorted by name bytes), names.
 * Every offset is from the start of the table; table_check() validates all of them in one pass over the records. */
#ifndef SHARED_TABLE_H
#define SHARED_TABLE_H

#include "shared/base.h"

#define TABLE_MAGIC 0x4c425454u /* "TTBL" */
#define TABLE_VERSION 1
#define TABLE_MAX_RANK 8

struct table_header {
	uint32_t magic, version;
	uint64_t table_bytes;
	uint64_t image_bytes;
	uint32_t n_extents, n_tensors;
	uint64_t extents_off, tensors_off, by_name_off, names_off;
	uint64_t names_bytes;
};

struct table_extent {
	uint64_t bytes;
	uint64_t image_off; /* where it starts when all extents are laid end to end */
};

struct table_tensor {
	uint64_t name_off; /* from names_off; NUL-terminated */
	uint32_t name_len;
	uint32_t dtype;
	uint32_t rank;
	uint32_t extent;
	uint64_t offset;   /* in the extent, multiple of 256 */
	uint64_t bytes;
	uint64_t shape[TABLE_MAX_RANK];
};

struct layout;

/* Bytes the table of a layout takes; table_build() writes exactly that many at dst (8-aligned). */
uint64_t table_bytes(const struct layout *l);
void table_build(const struct layout *l, void *dst);
/* 0, or -EPROTO when anything points outside. */
int table_check(const void *table, uint64_t bytes);

static inline const struct table_extent *table_extents(const struct table_header *t)
{
	return (const void *)((const char *)t + t->extents_off);
}
static inline const struct table_tensor *table_tensors(const struct table_header *t)
{
	return (const void *)((const char *)t + t->tensors_off);
}
static inline const char *table_name(const struct table_header *t, const struct table_tensor *x)
{
	return (const char *)t + t->names_off + x->name_off;
}
#endif
