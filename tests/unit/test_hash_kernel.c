/* test_hash_kernel.c - the kernel's steps, lane by lane on the CPU, give the digest that libxxhash gives.  What only a
 * device can show, shuffles and loads, is an item of tests/gpu/run. */
#include "mrm/gpu/kernel/ptx.h"
#include "mrm/gpu/kernel/xxh3_core.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static void stripe(xxh3_u64 *acc, const uint8_t *at, const xxh3_u64 *keys)
{
	xxh3_u64 own[XXH3_LANES];
	memcpy(own, at, sizeof own);
	for (xxh3_u32 lane = 0; lane < XXH3_LANES; lane++)
		acc[lane] = xxh3_step(acc[lane], own[lane], own[lane ^ 1], keys[lane]);
}

/* The kernel's own order of steps, see lane_sum() in xxh3.cu. */
static XXH128_hash_t in_lanes(const uint8_t *bytes, size_t n)
{
	xxh3_u64 acc[XXH3_LANES], last[XXH3_LANES];
	memcpy(acc, xxh3_begin, sizeof acc);
	size_t stripes = (n - 1) / XXH3_STRIPE;
	for (size_t i = 0; i < stripes; i++) {
		stripe(acc, bytes + i * XXH3_STRIPE, xxh3_secret + i % XXH3_STRIPES);
		for (xxh3_u32 lane = 0; lane < XXH3_LANES && i % XXH3_STRIPES == XXH3_STRIPES - 1; lane++)
			acc[lane] = xxh3_scramble(acc[lane], lane);
	}
	for (xxh3_u32 lane = 0; lane < XXH3_LANES; lane++)
		last[lane] = xxh3_last_key(lane);
	stripe(acc, bytes + n - XXH3_STRIPE, last);
	return (XXH128_hash_t){.low64 = xxh3_low(acc, n), .high64 = xxh3_high(acc, n)};
}

static void compare(const uint8_t *bytes, size_t n)
{
	XXH128_hash_t want = XXH3_128bits(bytes, n), got = in_lanes(bytes, n);
	ck_assert_msg(XXH128_isEqual(want, got), "%zu bytes: %016llx%016llx, not %016llx%016llx", n,
		(unsigned long long)got.high64, (unsigned long long)got.low64, (unsigned long long)want.high64,
		(unsigned long long)want.low64);
}

START_TEST(every_multiple_of_64_up_to_some_blocks)
{
	uint8_t bytes[8192];
	uint64_t state = unit_seed();
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)unit_random(&state);
	for (size_t n = 256; n <= sizeof bytes; n += XXH3_STRIPE)
		compare(bytes, n);
}
END_TEST

START_TEST(chunks_as_images_have_them)
{
	static const size_t sizes[] = {4096, 1 << 20, (4 << 20) - 4096, 4 << 20};
	uint8_t *bytes = malloc(4 << 20);
	uint64_t state = unit_seed();
	ck_assert_ptr_nonnull(bytes);
	for (size_t i = 0; i < 4 << 20; i++)
		bytes[i] = (uint8_t)unit_random(&state);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		compare(bytes, sizes[i]);
	free(bytes);
}
END_TEST

START_TEST(the_text_has_the_kernel_in_it)
{
	ck_assert_ptr_nonnull(strstr(hash_kernel_ptx, ".visible .entry " HASH_KERNEL "("));
	ck_assert_ptr_nonnull(strstr(hash_kernel_ptx, ".version 6.4\n.target sm_70\n"));
}
END_TEST

static void hash_kernel(Suite *s)
{
	UNIT_CASE(s, "hash kernel", every_multiple_of_64_up_to_some_blocks, chunks_as_images_have_them,
		the_text_has_the_kernel_in_it);
}

UNIT_MAIN("hash_kernel", hash_kernel)
