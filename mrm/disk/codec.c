/* codec.c - see codec.h.  The only file that knows liblz4. */
#include "mrm/disk/codec.h"

#include "shared/check.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <string.h>

#define SLICES 4
#define SLICE_BYTES ((size_t)16 << 10)

size_t codec_bound(size_t n)
{
	ASSERT(n <= LZ4_MAX_INPUT_SIZE);
	return (size_t)LZ4_compressBound((int)n);
}

size_t codec_squeeze(const uint8_t *src, size_t n, size_t max_bytes, uint8_t *dst)
{
	ASSERT(n <= LZ4_MAX_INPUT_SIZE);
	/* Room for max_bytes only: liblz4 gives up as soon as it is full. */
	int got = LZ4_compress_default((const char *)src, (char *)dst, (int)n, (int)MIN(max_bytes, codec_bound(n)));
	return got > 0 ? (size_t)got : 0;
}

bool codec_promising(const uint8_t *src, size_t n)
{
	if (n <= SLICES * SLICE_BYTES)
		return true;
	uint8_t dst[LZ4_COMPRESSBOUND(SLICE_BYTES)];
	size_t step = (n - SLICE_BYTES) / (SLICES - 1), sum = 0;
	for (size_t i = 0; i < SLICES; i++)
		sum += (size_t)LZ4_compress_default((const char *)src + i * step, (char *)dst, SLICE_BYTES, sizeof dst);
	/* A slice cannot refer back to what is before it, so it does a little worse than the whole. */
	return sum < SLICES * SLICE_BYTES * 94 / 100;
}

int disk_chunk_decode(uint32_t codec, const uint8_t *src, size_t n, uint8_t *dst, size_t dst_bytes)
{
	switch (codec) {
	case CODEC_RAW:
		if (n != dst_bytes)
			return -EBADMSG;
		if (src != dst)
			memcpy(dst, src, n);
		return 0;
	case CODEC_LZ4:
		if (n > INT_MAX || dst_bytes > INT_MAX)
			return -EBADMSG;
		if (LZ4_decompress_safe((const char *)src, (char *)dst, (int)n, (int)dst_bytes) != (int)dst_bytes)
			return -EBADMSG;
		return 0;
	default:
		return -EBADMSG;
	}
}
