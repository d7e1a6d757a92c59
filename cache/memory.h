/* memory.h - the brain's own small memory.  Metadata that cannot be had ends the program: these never return NULL.
 * Thread: any. */
#ifndef CACHE_MEMORY_H
#define CACHE_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shared/check.h"

/* Zeroed. */
static inline void *memory_new(size_t bytes)
{
	void *p = calloc(1, bytes);
	ASSERT(p);
	return p;
}

static inline void *memory_copy(const void *from, size_t bytes)
{
	void *p = malloc(bytes ? bytes : 1);
	ASSERT(p);
	return memcpy(p, from, bytes);
}

/* Doubles an array of *cap elements (8 at first) and its *cap; the new half is not cleared. */
static inline void *memory_grow(void *array, size_t *cap, size_t element_bytes)
{
	size_t more = *cap ? *cap * 2 : 8;
	ASSERT(more > *cap && more <= SIZE_MAX / element_bytes);
	void *p = realloc(array, more * element_bytes);
	ASSERT(p);
	*cap = more;
	return p;
}

static inline void memory_free(void *p)
{
	free(p);
}

#endif
