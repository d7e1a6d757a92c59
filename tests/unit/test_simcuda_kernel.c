/* test_simcuda_kernel.c - the digest kernel under the simulated driver: modules, launches, and what a bad one does. */
#include "mrm/gpu/kernel/ptx.h"
#include "tests/unit/simcuda_fixture.h"

#include "tools/simcuda/simcuda.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define PIECES 5
#define PIECE_BYTES (64 * KIB)

struct bench {
	struct cuda *cu;
	cu_module module;
	cu_function kernel;
	cu_ptr data, pieces, results;
	uint32_t n;
	uint64_t words[PIECES * PIECE_BYTES / 8];
	struct hash_piece piece[PIECES];
};

static struct bench b;

static void bench_new(void)
{
	b.cu = sim_start();
	b.n = PIECES;
	ok(b.cu->module_load_data(&b.module, hash_kernel_ptx));
	ok(b.cu->module_get_function(&b.kernel, b.module, HASH_KERNEL));
	ok(b.cu->mem_alloc(&b.data, sizeof b.words));
	ok(b.cu->mem_alloc(&b.pieces, sizeof b.piece));
	ok(b.cu->mem_alloc(&b.results, PIECES * sizeof(struct hash_result)));
	sim_pattern(b.words, sizeof b.words, 7);
	ok(b.cu->memcpy_htod(b.data, b.words, sizeof b.words));
	for (uint32_t i = 0; i < PIECES; i++)
		b.piece[i] = (struct hash_piece){.at = b.data + i * PIECE_BYTES, .bytes = PIECE_BYTES - 64 * i};
}

static cu_result launch(unsigned grid, unsigned block)
{
	void *arguments[] = {&b.pieces, &b.n, &b.results};

	ok(b.cu->memcpy_htod(b.pieces, b.piece, sizeof b.piece));
	return b.cu->launch_kernel(b.kernel, grid, 1, 1, block, 1, 1, 0, NULL, arguments, NULL);
}

START_TEST(digests_are_those_of_the_bytes)
{
	struct hash_result got[PIECES];

	bench_new();
	ok(launch(1, HASH_KERNEL_THREADS));
	ok(b.cu->memcpy_dtoh(got, b.results, sizeof got));
	for (uint32_t i = 0; i < PIECES; i++) {
		XXH128_hash_t want = XXH3_128bits((char *)b.words + i * PIECE_BYTES, b.piece[i].bytes);

		ck_assert_uint_eq(got[i].hi, want.high64);
		ck_assert_uint_eq(got[i].lo, want.low64);
	}
	ok(b.cu->module_unload(b.module));
	cuda_free(&b.cu);
}
END_TEST

START_TEST(a_launch_of_the_wrong_shape_is_refused)
{
	bench_new();
	fails(launch(1, 32), CU_E_INVALID_VALUE); /* four pieces would be done of five */
	fails(launch(1, 48), CU_E_INVALID_VALUE); /* half a warp */
	fails(launch(0, 64), CU_E_INVALID_VALUE);
	fails(launch(1, 2048), CU_E_INVALID_VALUE);
	ok(launch(2, 32));
	ok(b.cu->ctx_synchronize());
	cuda_free(&b.cu);
}
END_TEST

START_TEST(modules_and_functions_are_what_was_loaded)
{
	cu_function other;

	bench_new();
	fails(b.cu->module_load_data(&b.module, ".visible .entry another("), CU_E_NOT_SUPPORTED);
	fails(b.cu->module_get_function(&other, b.module, "another"), CU_E_NOT_FOUND);
	ok(b.cu->module_unload(b.module));
	fails(b.cu->module_unload(b.module), CU_E_INVALID_HANDLE);
	fails(launch(1, HASH_KERNEL_THREADS), CU_E_INVALID_HANDLE);
	cuda_free(&b.cu);
}
END_TEST

/* Each in a test, that is a process, of its own: the error stays. */
static void ends_in(cu_result result)
{
	ok(launch(1, HASH_KERNEL_THREADS));
	fails(b.cu->ctx_synchronize(), result);
	fails(b.cu->mem_alloc(&b.data, 4096), result);
}

START_TEST(a_piece_outside_of_memory_is_a_sticky_error)
{
	bench_new();
	b.piece[3].at += sizeof b.words * 16;
	ends_in(CU_E_ILLEGAL_ADDRESS);
}
END_TEST

START_TEST(results_to_nowhere_are_a_sticky_error)
{
	bench_new();
	b.results = 4096;
	ends_in(CU_E_ILLEGAL_ADDRESS);
}
END_TEST

START_TEST(a_piece_of_the_wrong_shape_is_a_sticky_error)
{
	bench_new();
	b.piece[2].at += 8;
	ends_in(CU_E_MISALIGNED_ADDRESS);
}
END_TEST

START_TEST(the_fault_script_knows_modules_and_launches)
{
	bench_new();
	ck_assert_int_eq(SIM_CONTROL(b.cu, simcuda_script, simcuda_script)("cuModuleLoadData:*=801,cuLaunchKernel:1=2,~cuLaunchKernel:1=719"), 0);
	fails(b.cu->module_load_data(&b.module, hash_kernel_ptx), CU_E_NOT_SUPPORTED);
	fails(launch(1, HASH_KERNEL_THREADS), CU_E_OUT_OF_MEMORY);
	ends_in(CU_E_LAUNCH_FAILED);
}
END_TEST

static void kernel(Suite *s)
{
	UNIT_CASE(s, "kernel", digests_are_those_of_the_bytes, a_launch_of_the_wrong_shape_is_refused,
		modules_and_functions_are_what_was_loaded, a_piece_outside_of_memory_is_a_sticky_error,
		results_to_nowhere_are_a_sticky_error, a_piece_of_the_wrong_shape_is_a_sticky_error,
		the_fault_script_knows_modules_and_launches);
}

SIM_MAIN("simcuda_kernel", kernel)
