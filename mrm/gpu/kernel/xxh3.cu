/* xxh3.cu - the digest of chunks that lie in device memory, the very one (XXH3-128) that the daemon keeps of every chunk:
 * a copy is checked where it is, at the speed of device memory, and nothing crosses the link but 16 bytes a chunk.
 *
 * Eight threads take a chunk, a warp four chunks.  A chunk is one long chain of stripes, so the speed comes from many chunks
 * at once and from the sixteen loads of a block being under way together.
 * xxh3.ptx is made from this by tools/ptx.py, so that neither building nor running trims wants a toolkit. */
#include "xxh3_core.h"

/* One chunk: 256-byte aligned, a multiple of 64 and more than 240 bytes. */
struct hash_piece {
	xxh3_u64 at, bytes;
};

struct hash_result {
	xxh3_u64 hi, lo;
};

static __device__ __forceinline__ xxh3_u64 stripe(xxh3_u64 acc, xxh3_u64 own, xxh3_u64 key, xxh3_u32 group)
{
	return xxh3_step(acc, own, __shfl_xor_sync(group, own, 1), key);
}

static __device__ xxh3_u64 lane_sum(const xxh3_u64 *words, xxh3_u64 bytes, xxh3_u32 lane, xxh3_u32 group)
{
	xxh3_u64 keys[XXH3_STRIPES], own[XXH3_STRIPES], acc = xxh3_begin[lane];
	const xxh3_u64 *at = words + lane;
	xxh3_u64 stripes = (bytes - 1) / XXH3_STRIPE;
#pragma unroll
	for (xxh3_u32 n = 0; n < XXH3_STRIPES; n++)
		keys[n] = xxh3_secret[n + lane];
	for (xxh3_u64 block = stripes / XXH3_STRIPES; block > 0; block--) {
#pragma unroll
		for (xxh3_u32 n = 0; n < XXH3_STRIPES; n++)
			own[n] = __ldcs(at + n * XXH3_LANES);
#pragma unroll
		for (xxh3_u32 n = 0; n < XXH3_STRIPES; n++)
			acc = stripe(acc, own[n], keys[n], group);
		acc = xxh3_scramble(acc, lane);
		at += XXH3_STRIPES * XXH3_LANES;
	}
	for (xxh3_u32 n = 0; n < stripes % XXH3_STRIPES; n++, at += XXH3_LANES)
		acc = stripe(acc, *at, xxh3_secret[n + lane], group);
	return stripe(acc, words[bytes / 8 - XXH3_LANES + lane], xxh3_last_key(lane), group);
}

/* Threads a block: a multiple of 32; 8 threads for each of n pieces. */
extern "C" __global__ void trims_hash_chunks(const struct hash_piece *pieces, xxh3_u32 n, struct hash_result *out)
{
	xxh3_u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
	xxh3_u32 lane = thread % XXH3_LANES, piece = thread / XXH3_LANES, group = 0xffu << (threadIdx.x & 24u);
	xxh3_u64 all[XXH3_LANES];
	if (piece >= n)
		return; /* the whole group of eight does */
	xxh3_u64 bytes = pieces[piece].bytes;
	xxh3_u64 acc = lane_sum((const xxh3_u64 *)pieces[piece].at, bytes, lane, group);
#pragma unroll
	for (int i = 0; i < XXH3_LANES; i++)
		all[i] = __shfl_sync(group, acc, i, XXH3_LANES);
	if (lane == 0) {
		out[piece].lo = xxh3_low(all, bytes);
		out[piece].hi = xxh3_high(all, bytes);
	}
}
