/* bytes.h - little-endian fields in and out of memory, for the daemon's own records (mrm/disk, mrm/keep).
 * Writing grows a heap block and cannot fail.  Reading is bounded: the first field that is not there makes `bad` stick,
 * and everything read after it is zero or NULL, so a decoder checks once at the end of a group.
 * Thread: the owner's.  Ownership: out.p is the owner's heap block; in borrows. */
#ifndef MRM_DISK_BYTES_H
#define MRM_DISK_BYTES_H

#include "mrm/disk/hash.h"
#include "shared/check.h"

#include <stdlib.h>
#include <string.h>

static inline void store_u32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline void store_u64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline void store_hash(uint8_t *p, struct hash128 h)
{
	store_u64(p, h.lo);
	store_u64(p + 8, h.hi);
}

static inline uint32_t fetch_u32(const uint8_t *p)
{
	uint32_t v = 0;
	for (int i = 0; i < 4; i++)
		v |= (uint32_t)p[i] << (8 * i);
	return v;
}

static inline uint64_t fetch_u64(const uint8_t *p)
{
	return fetch_u32(p) | (uint64_t)fetch_u32(p + 4) << 32;
}

static inline struct hash128 fetch_hash(const uint8_t *p)
{
	return (struct hash128){.lo = fetch_u64(p), .hi = fetch_u64(p + 8)};
}

/* XXH3-128 with a seed, so that records of one journal mean nothing in another (hash.c). */
struct hash128 seeded_hash(const void *bytes, size_t n, uint64_t seed);

struct out {
	uint8_t *p;
	size_t n, cap;
};

static inline uint8_t *out_room(struct out *o, size_t n)
{
	if (o->cap - o->n < n) {
		o->cap = MAX(o->cap * 2, o->n + n + 256);
		o->p = realloc(o->p, o->cap);
		ASSERT(o->p);
	}
	uint8_t *at = o->p + o->n;
	o->n += n;
	return at;
}

static inline void out_u32(struct out *o, uint32_t v)
{
	store_u32(out_room(o, 4), v);
}

static inline void out_u64(struct out *o, uint64_t v)
{
	store_u64(out_room(o, 8), v);
}

static inline void out_hash(struct out *o, struct hash128 h)
{
	store_hash(out_room(o, 16), h);
}

static inline void out_bytes(struct out *o, const void *bytes, size_t n)
{
	if (n)
		memcpy(out_room(o, n), bytes, n);
}

static inline void out_text(struct out *o, const char *text)
{
	size_t n = strlen(text);
	out_u32(o, (uint32_t)n);
	out_bytes(o, text, n);
}

struct in {
	const uint8_t *p;
	size_t n; /* left */
	bool bad;
};

static inline const uint8_t *in_bytes(struct in *i, size_t n)
{
	if (i->bad || i->n < n) {
		i->bad = true;
		return NULL;
	}
	const uint8_t *at = i->p;
	i->p += n;
	i->n -= n;
	return at;
}

static inline uint32_t in_u32(struct in *i)
{
	const uint8_t *p = in_bytes(i, 4);
	return p ? fetch_u32(p) : 0;
}

static inline uint64_t in_u64(struct in *i)
{
	const uint8_t *p = in_bytes(i, 8);
	return p ? fetch_u64(p) : 0;
}

static inline struct hash128 in_hash(struct in *i)
{
	const uint8_t *p = in_bytes(i, 16);
	return p ? fetch_hash(p) : (struct hash128){0, 0};
}

/* A fresh string of at most max bytes, without NUL inside; NULL (and bad) otherwise. */
static inline char *in_text(struct in *i, size_t max)
{
	uint32_t n = in_u32(i);
	const uint8_t *p = n <= max ? in_bytes(i, n) : NULL;
	if (!p || memchr(p, 0, n)) {
		i->bad = true;
		return NULL;
	}
	char *text = malloc((size_t)n + 1);
	ASSERT(text);
	memcpy(text, p, n);
	text[n] = 0;
	return text;
}

/* A count of things that take at least `each` bytes of what is left: an array of that many is then safe to allocate. */
static inline uint32_t in_count(struct in *i, uint32_t max, size_t each)
{
	uint32_t n = in_u32(i);
	if (n > max || (uint64_t)n * each > i->n) {
		i->bad = true;
		return 0;
	}
	return n;
}

#endif
