/* xxh3_core.h - the steps of XXH3-128 (seed 0, more than 240 bytes, a multiple of 64) as eight lanes take them, for the
 * kernel and for the test that runs the same steps on the CPU.  After the specification of XXH3 (doc/xxhash_spec.md of
 * xxHash 0.8.2); stated here in the terms of that text.
 * Thread: pure. */
#ifndef MRM_GPU_KERNEL_XXH3_CORE_H
#define MRM_GPU_KERNEL_XXH3_CORE_H

#ifdef __CUDACC__
#define XXH3_FN static __device__ __forceinline__
#define XXH3_TABLE static __constant__
#else
#define XXH3_FN static inline
#define XXH3_TABLE static const
#endif

typedef unsigned int xxh3_u32;
typedef unsigned long long xxh3_u64;

enum { XXH3_LANES = 8, XXH3_STRIPE = 64, XXH3_STRIPES = 16 }; /* lanes; bytes of a stripe; stripes of a block */

#define XXH3_P32_1 0x9E3779B1ull
#define XXH3_P32_2 0x85EBCA77ull
#define XXH3_P32_3 0xC2B2AE3Dull
#define XXH3_P64_1 0x9E3779B185EBCA87ull
#define XXH3_P64_2 0xC2B2AE3D27D4EB4Full
#define XXH3_P64_3 0x165667B19E3779F9ull
#define XXH3_P64_4 0x85EBCA77C2B2AE63ull
#define XXH3_P64_5 0x27D4EB2F165667C5ull
#define XXH3_AVALANCHE 0x165667919E3779F9ull

/* The default secret, 192 bytes as little-endian words. */
XXH3_TABLE xxh3_u64 xxh3_secret[24] = {
	0xBE4BA423396CFEB8ull, 0x1CAD21F72C81017Cull, 0xDB979083E96DD4DEull, 0x1F67B3B7A4A44072ull,
	0x78E5C0CC4EE679CBull, 0x2172FFCC7DD05A82ull, 0x8E2443F7744608B8ull, 0x4C263A81E69035E0ull,
	0xCB00C391BB52283Cull, 0xA32E531B8B65D088ull, 0x4EF90DA297486471ull, 0xD8ACDEA946EF1938ull,
	0x3F349CE33F76FAA8ull, 0x1D4F0BC7C7BBDCF9ull, 0x3159B4CD4BE0518Aull, 0x647378D9C97E9FC8ull,
	0xC3EBD33483ACC5EAull, 0xEB6313FAFFA081C5ull, 0x49DAF0B751DD0D17ull, 0x9E68D429265516D3ull,
	0xFCA1477D58BE162Bull, 0xCE31D07AD1B8F88Full, 0x280416958F3ACB45ull, 0x7E404BBBCAFBD7AFull,
};

/* 64 bits of the secret from any of its bytes on. */
XXH3_FN xxh3_u64 xxh3_secret_at(xxh3_u32 byte)
{
	xxh3_u32 word = byte / 8, bits = byte % 8 * 8;
	return bits ? xxh3_secret[word] >> bits | xxh3_secret[word + 1] << (64 - bits) : xxh3_secret[word];
}

/* What the lanes begin with. */
XXH3_TABLE xxh3_u64 xxh3_begin[XXH3_LANES] = {XXH3_P32_3, XXH3_P64_1, XXH3_P64_2, XXH3_P64_3, XXH3_P64_4, XXH3_P32_2,
	XXH3_P64_5, XXH3_P32_1};

/* One stripe: `own` is this lane's word of it, `partner` that of the lane whose number differs in the lowest bit. */
XXH3_FN xxh3_u64 xxh3_step(xxh3_u64 acc, xxh3_u64 own, xxh3_u64 partner, xxh3_u64 key)
{
	xxh3_u64 keyed = own ^ key;
	return acc + partner + (xxh3_u64)(xxh3_u32)keyed * (keyed >> 32);
}

/* After a block. */
XXH3_FN xxh3_u64 xxh3_scramble(xxh3_u64 acc, xxh3_u32 lane)
{
	return (acc ^ acc >> 47 ^ xxh3_secret[16 + lane]) * XXH3_P32_1;
}

/* The key of the last stripe, which overlaps the one before it. */
XXH3_FN xxh3_u64 xxh3_last_key(xxh3_u32 lane)
{
	return xxh3_secret_at(192 - 64 - 7 + 8 * lane);
}

XXH3_FN xxh3_u64 xxh3_fold(xxh3_u64 a, xxh3_u64 b)
{
#ifdef __CUDACC__
	return a * b ^ __umul64hi(a, b);
#else
	unsigned __int128 p = (unsigned __int128)a * b;
	return (xxh3_u64)p ^ (xxh3_u64)(p >> 64);
#endif
}

XXH3_FN xxh3_u64 xxh3_merge(const xxh3_u64 *acc, xxh3_u32 secret_byte, xxh3_u64 sum)
{
	for (xxh3_u32 i = 0; i < 4; i++)
		sum += xxh3_fold(acc[2 * i] ^ xxh3_secret_at(secret_byte + 16 * i),
			acc[2 * i + 1] ^ xxh3_secret_at(secret_byte + 16 * i + 8));
	sum = (sum ^ sum >> 37) * XXH3_AVALANCHE;
	return sum ^ sum >> 32;
}

/* The digest's halves from the eight lanes' sums. */
XXH3_FN xxh3_u64 xxh3_low(const xxh3_u64 *acc, xxh3_u64 bytes)
{
	return xxh3_merge(acc, 11, bytes * XXH3_P64_1);
}

XXH3_FN xxh3_u64 xxh3_high(const xxh3_u64 *acc, xxh3_u64 bytes)
{
	return xxh3_merge(acc, 192 - 64 - 11, ~(bytes * XXH3_P64_2));
}

#endif
