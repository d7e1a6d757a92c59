/* codec.h - how a chunk is kept in a data file.
 * Thread: any.  Owns nothing. */
#ifndef MRM_DISK_CODEC_H
#define MRM_DISK_CODEC_H

#include "shared/base.h"

/* File format: append, never renumber. */
enum codec {
	CODEC_RAW = 0, /* the image bytes themselves */
	CODEC_LZ4 = 1, /* one LZ4 block */
	CODEC_N
};

/* Upper bound of what coding n bytes may need as room. */
size_t codec_bound(size_t n);
/* LZ4-codes n bytes when that makes at most max_bytes of them; else returns 0.  dst holds codec_bound(n) bytes. */
size_t codec_squeeze(const uint8_t *src, size_t n, size_t max_bytes, uint8_t *dst);
/* A guess from a few slices (about 64 KiB in all) whether coding would save at least a tenth. */
bool codec_promising(const uint8_t *src, size_t n);

/* Restores exactly dst_bytes at dst.  -EBADMSG: src is not that.  Never reads behind src + n, never writes behind
 * dst + dst_bytes.  src == dst is allowed for CODEC_RAW (nothing is moved). */
int disk_chunk_decode(uint32_t codec, const uint8_t *src, size_t n, uint8_t *dst, size_t dst_bytes);

#endif
