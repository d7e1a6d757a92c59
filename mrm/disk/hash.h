/* hash.h - the two hashes of a model: of a chunk, and of everything.
 * Thread: any; a chunk_hasher by one at a time. */
#ifndef MRM_DISK_HASH_H
#define MRM_DISK_HASH_H

#include "shared/base.h"

struct image_desc;

/* XXH3-128.  Stored little-endian, low half first. */
struct hash128 {
	uint64_t hi, lo;
};

static inline bool hash_equal(struct hash128 a, struct hash128 b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

/* Of a chunk's image bytes (decoded, padding included), or of any other bytes. */
struct hash128 chunk_hash(const void *bytes, size_t n);

/* The same of bytes that come in pieces. */
struct chunk_hasher;
struct chunk_hasher *chunk_hasher_new(void);
void chunk_hasher_free(struct chunk_hasher **h);
void chunk_hasher_begin(struct chunk_hasher *h);
void chunk_hasher_add(struct chunk_hasher *h, const void *bytes, size_t n);
struct hash128 chunk_hasher_end(const struct chunk_hasher *h);

/* The model's identity: its chunks' hashes [desc->layout->n_chunks], its tensors' names, types, shapes and places,
 * its side files' names and contents, and IMAGE_LAYOUT_VERSION.  Not in it: where the model came from, what its
 * weight files are called, how chunks are stored.  Never {0, 0}, which stands for "not known" elsewhere. */
struct hash128 image_digest(const struct image_desc *desc, const struct hash128 *chunks);

#endif
