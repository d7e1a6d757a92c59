/* test_hash_kernel.c - the kernel's steps, lane by lane on the CPU, give the digest that libxxhash gives.  What only a
 * device can show, shuffles and loads, is an item of tests/gpu/run. */
#include "mrm/gpu/kernel/ptx.h"
#include "mrm/gpu/kernel/xxh3_cpu.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static void compare(const uint8_t *bytes, size_t n)
{
	XXH128_hash_t want = XXH3_128bits(bytes, n);
	xxh3_u64 high, low;
	xxh3_cpu(bytes, n, &high, &low);
	ck_assert_msg(high == want.high64 && low == want.low64, "%zu bytes: %016llx%016llx, not %016llx%016llx", n, high, low,
		(unsigned long long)want.high64, (unsigned long long)want.low64);
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
