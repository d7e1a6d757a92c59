/* copy.c - see copy.h.  Keeps: when copy_bulk() returns, its stores are ordered before any later one of this thread, as
 * memcpy()'s are. */
#include "shared/copy.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

#define LINE 64
#define WORTH_BYTES 4096 /* below, the caches win */

void copy_bulk(uint8_t *dst, const uint8_t *src, size_t n)
{
	if (n < WORTH_BYTES) {
		memcpy(dst, src, n);
		return;
	}
	size_t at = -(uintptr_t)dst % LINE;
	memcpy(dst, src, at);
	for (; at + LINE <= n; at += LINE) {
		const __m128i *from = (const void *)(src + at);
		__m128i *to = (void *)(dst + at);
		__m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
		__m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
		_mm_stream_si128(to, a);
		_mm_stream_si128(to + 1, b);
		_mm_stream_si128(to + 2, c);
		_mm_stream_si128(to + 3, d);
	}
	_mm_sfence();
	memcpy(dst + at, src + at, n - at);
}
#else
void copy_bulk(uint8_t *dst, const uint8_t *src, size_t n)
{
	memcpy(dst, src, n);
}
#endif
