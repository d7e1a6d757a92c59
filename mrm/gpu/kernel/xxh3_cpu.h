/* xxh3_cpu.h - the kernel's own order of steps (lane_sum() in xxh3.cu), one lane after the other on the CPU.  The test
 * compares it with libxxhash, and the program that checks real devices compares the kernel with it and needs no library.
 * Thread: pure. */
#ifndef MRM_GPU_KERNEL_XXH3_CPU_H
#define MRM_GPU_KERNEL_XXH3_CPU_H

#include "mrm/gpu/kernel/xxh3_core.h"

#include <stddef.h>
#include <string.h>

static inline void xxh3_cpu_stripe(xxh3_u64 *acc, const unsigned char *at, const xxh3_u64 *keys)
{
	xxh3_u64 own[XXH3_LANES];
	memcpy(own, at, sizeof own);
	for (xxh3_u32 lane = 0; lane < XXH3_LANES; lane++)
		acc[lane] = xxh3_step(acc[lane], own[lane], own[lane ^ 1], keys[lane]);
}

/* n: more than 240, a multiple of 64. */
static inline void xxh3_cpu(const void *bytes, size_t n, xxh3_u64 *high, xxh3_u64 *low)
{
	const unsigned char *at = bytes;
	xxh3_u64 acc[XXH3_LANES], last[XXH3_LANES];
	memcpy(acc, xxh3_begin, sizeof acc);
	size_t stripes = (n - 1) / XXH3_STRIPE;
	for (size_t i = 0; i < stripes; i++) {
		xxh3_cpu_stripe(acc, at + i * XXH3_STRIPE, xxh3_secret + i % XXH3_STRIPES);
		for (xxh3_u32 lane = 0; lane < XXH3_LANES && i % XXH3_STRIPES == XXH3_STRIPES - 1; lane++)
			acc[lane] = xxh3_scramble(acc[lane], lane);
	}
	for (xxh3_u32 lane = 0; lane < XXH3_LANES; lane++)
		last[lane] = xxh3_last_key(lane);
	xxh3_cpu_stripe(acc, at + n - XXH3_STRIPE, last); /* ends where the bytes end */
	*high = xxh3_high(acc, n);
	*low = xxh3_low(acc, n);
}

#endif
