/* ptx.h - the kernels that the daemon brings along, as PTX text for cuModuleLoadData().  Thread: constant data. */
#ifndef MRM_GPU_KERNEL_PTX_H
#define MRM_GPU_KERNEL_PTX_H

#include <stdint.h>

/* trims_hash_chunks(const struct hash_piece *pieces, uint32_t n, struct hash_result *out), all in device memory:
 * out[i] = XXH3-128 of pieces[i].  A piece is 256-byte aligned, a multiple of 64 and more than 240 bytes.
 * A grid of HASH_KERNEL_THREADS threads a block, HASH_KERNEL_PIECES(threads) pieces a block. */
#define HASH_KERNEL "trims_hash_chunks"
#define HASH_KERNEL_THREADS 64
#define HASH_KERNEL_PIECES (HASH_KERNEL_THREADS / 8)

struct hash_piece {
	uint64_t at, bytes;
};

struct hash_result {
	uint64_t hi, lo;
};

extern const char hash_kernel_ptx[]; /* NUL-terminated */

#endif
