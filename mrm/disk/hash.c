/* hash.c - see hash.h.  The digest's input is written field by field, lengths first, so that no two models share
 * one. */
#include "mrm/disk/hash.h"

#include "mrm/disk/bytes.h"
#include "mrm/disk/desc.h"
#include "shared/check.h"

#include <string.h>
#include <xxhash.h>

struct hash128 chunk_hash(const void *bytes, size_t n)
{
	XXH128_hash_t h = XXH3_128bits(bytes, n);
	return (struct hash128){h.high64, h.low64};
}

struct chunk_hasher *chunk_hasher_new(void)
{
	return (struct chunk_hasher *)XXH3_createState();
}

void chunk_hasher_free(struct chunk_hasher **h)
{
	XXH3_freeState((XXH3_state_t *)*h);
	*h = NULL;
}

void chunk_hasher_begin(struct chunk_hasher *h)
{
	XXH3_128bits_reset((XXH3_state_t *)h);
}

void chunk_hasher_add(struct chunk_hasher *h, const void *bytes, size_t n)
{
	XXH3_128bits_update((XXH3_state_t *)h, bytes, n);
}

struct hash128 chunk_hasher_end(const struct chunk_hasher *h)
{
	XXH128_hash_t out = XXH3_128bits_digest((const XXH3_state_t *)h);
	return (struct hash128){out.high64, out.low64};
}

struct hash128 seeded_hash(const void *bytes, size_t n, uint64_t seed)
{
	XXH128_hash_t h = XXH3_128bits_withSeed(bytes, n, seed);
	return (struct hash128){h.high64, h.low64};
}

static void add_u64(XXH3_state_t *s, uint64_t v)
{
	uint8_t b[8];
	store_u64(b, v);
	XXH3_128bits_update(s, b, sizeof b);
}

static void add_hash(XXH3_state_t *s, struct hash128 h)
{
	add_u64(s, h.lo);
	add_u64(s, h.hi);
}

static void add_text(XXH3_state_t *s, const char *text)
{
	size_t n = strlen(text);
	add_u64(s, n);
	XXH3_128bits_update(s, text, n);
}

static void add_tensor(XXH3_state_t *s, const struct tensor *t)
{
	add_text(s, t->name);
	add_u64(s, t->dtype);
	add_u64(s, t->rank);
	for (uint32_t i = 0; i < t->rank; i++)
		add_u64(s, t->shape[i]);
	add_u64(s, t->extent);
	add_u64(s, t->offset);
	add_u64(s, t->bytes);
}

struct hash128 image_digest(const struct image_desc *desc, const struct hash128 *chunks)
{
	const struct layout *l = desc->layout;
	XXH3_state_t *s = XXH3_createState();
	ASSERT(s);
	XXH3_128bits_reset(s);
	add_u64(s, IMAGE_LAYOUT_VERSION);
	add_u64(s, l->n_chunks);
	for (uint32_t i = 0; i < l->n_chunks; i++)
		add_hash(s, chunks[i]);
	add_u64(s, l->n_tensors);
	for (uint32_t i = 0; i < l->n_tensors; i++)
		add_tensor(s, &l->tensors[i]);
	add_u64(s, desc->n_sides);
	for (uint32_t i = 0; i < desc->n_sides; i++) {
		add_text(s, desc->sides[i].name);
		add_u64(s, desc->sides[i].bytes);
		add_hash(s, desc->sides[i].hash);
	}
	XXH128_hash_t h = XXH3_128bits_digest(s);
	XXH3_freeState(s);
	return h.high64 || h.low64 ? (struct hash128){h.high64, h.low64} : (struct hash128){0, 1};
}
