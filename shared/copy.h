/* copy.h - copies of bulk data that go past the caches.
 * Thread: any.  Owns nothing. */
#ifndef SHARED_COPY_H
#define SHARED_COPY_H

#include <stddef.h>
#include <stdint.h>

/* As memcpy(), for bytes that this core will not look at again soon: where the machine has such stores, long copies are
 * written around the caches.  That spares the memory reading what is overwritten anyway, a third of a copy's traffic, and
 * leaves the caches to others. */
void copy_bulk(uint8_t *dst, const uint8_t *src, size_t n);

#endif
