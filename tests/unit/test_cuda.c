/* test_cuda.c - finding a driver, and each way in which there is none. */
#include "shared/cuda.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define STUB "/usr/local/cuda/lib64/stubs/libcuda.so"

/* Loading must fail with -ENODEV and one sentence that has this in it. */
static void expect_no_gpu(const char *path, const char *sentence)
{
	struct cuda *cu = NULL;
	struct fault why = {0};

	ck_assert_int_eq(cuda_load(&cu, path, &why), -ENODEV);
	ck_assert_ptr_null(cu);
	ck_assert_int_eq(why.code, TRIMS_E_NO_TIER);
	ck_assert_msg(strstr(why.text, sentence), "\"%s\" lacks \"%s\"", why.text, sentence);
}

START_TEST(a_driver_with_all_entries_is_loaded)
{
	struct cuda *cu;
	struct fault why = {0};

	setenv("FAKE_COUNT", "3", 1);
	ck_assert_msg(cuda_load(&cu, FAKE_DRIVER, &why) == 0, "%s", why.text);
	ck_assert_int_eq(cu->n_devices, 3);
	ck_assert_int_eq(cu->driver_version, 11080);
	ck_assert(!cu->simulated);
	ck_assert_str_eq(cu->path, FAKE_DRIVER);
	ck_assert_int_eq(cu->mem_free(0), CU_OK);
	ck_assert_ptr_null(cu->memcpy_batch_async); /* is of CUDA 12.8, and not required */
	cuda_free(&cu);
	ck_assert_ptr_null(cu);
	cuda_free(&cu);
	ck_assert_int_eq(cuda_load(&cu, FAKE_DRIVER, NULL), 0); /* and again */
	cuda_free(&cu);
}
END_TEST

START_TEST(no_library_is_no_gpu)
{
	expect_no_gpu("/nowhere/libcuda.so.1", "/nowhere/libcuda.so.1");
}
END_TEST

START_TEST(a_path_that_is_too_long_is_no_gpu)
{
	char path[400];

	memset(path, 'x', sizeof path - 1);
	path[sizeof path - 1] = 0;
	expect_no_gpu(path, "too long");
}
END_TEST

START_TEST(a_library_that_is_no_driver_is_no_gpu)
{
	expect_no_gpu("libm.so.6", "not a CUDA driver");
}
END_TEST

START_TEST(the_toolkits_stub_is_no_gpu)
{
	if (access(STUB, R_OK)) {
		printf("# no toolkit here: the stub library was not tried\n");
		return;
	}
	expect_no_gpu(STUB, "STUB_LIBRARY (34)");
}
END_TEST

START_TEST(a_driver_that_fails_to_start_is_no_gpu)
{
	setenv("FAKE_INIT", "100", 1);
	expect_no_gpu(FAKE_DRIVER, "cuInit: CUDA_ERROR_NO_DEVICE (100)");
	setenv("FAKE_INIT", "803", 1);
	expect_no_gpu(FAKE_DRIVER, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)");
	setenv("FAKE_INIT", "12345", 1);
	expect_no_gpu(FAKE_DRIVER, "unknown CUDA error (12345)");
}
END_TEST

START_TEST(no_device_is_no_gpu)
{
	setenv("FAKE_COUNT", "0", 1);
	expect_no_gpu(FAKE_DRIVER, "no device");
}
END_TEST

START_TEST(a_required_entry_that_is_missing_is_named)
{
	setenv("FAKE_MISSING", "cuMemCreate", 1);
	expect_no_gpu(FAKE_DRIVER, "(for CUDA 11.8) lacks cuMemCreate as of CUDA 10.2");
}
END_TEST

START_TEST(success_without_an_address_is_missing)
{
	setenv("FAKE_NULL", "cuStreamWaitValue64", 1);
	expect_no_gpu(FAKE_DRIVER, "lacks cuStreamWaitValue64 as of CUDA 11.7");
}
END_TEST

START_TEST(an_entry_that_needs_a_newer_version_is_missing)
{
	setenv("FAKE_OLD", "cuIpcOpenMemHandle", 1);
	expect_no_gpu(FAKE_DRIVER, "lacks cuIpcOpenMemHandle as of CUDA 11.0");
}
END_TEST

START_TEST(an_optional_entry_may_be_missing)
{
	struct cuda *cu;

	setenv("FAKE_MISSING", "cuModuleLoadData", 1);
	ck_assert_int_eq(cuda_load(&cu, FAKE_DRIVER, NULL), 0);
	ck_assert_ptr_null(cu->module_load_data);
	ck_assert_ptr_nonnull(cu->module_unload);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_driver_that_will_not_look_up_is_no_gpu)
{
	setenv("FAKE_PROC", "801", 1);
	expect_no_gpu(FAKE_DRIVER, "cuGetProcAddress: CUDA_ERROR_NOT_SUPPORTED (801)");
}
END_TEST

START_TEST(a_result_becomes_a_sentence)
{
	struct fault why;

	ck_assert_int_eq(cuda_fault(NULL, CU_E_OUT_OF_MEMORY, "cuMemCreate of 2097152 bytes", &why), -EPROTO);
	ck_assert_str_eq(why.text, "cuMemCreate of 2097152 bytes: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory");
	ck_assert_int_eq(why.code, TRIMS_E_NO_MEMORY);
	cuda_fault(NULL, CU_E_LAUNCH_FAILED, "x", &why);
	ck_assert_int_eq(why.code, TRIMS_E_NO_TIER);
	cuda_fault(NULL, CU_E_NOT_SUPPORTED, "x", &why);
	ck_assert_int_eq(why.code, TRIMS_E_UNSUPPORTED);
	cuda_fault(NULL, CU_E_INVALID_VALUE, "x", &why);
	ck_assert_int_eq(why.code, TRIMS_E_GPU_ERROR);
	ck_assert(cuda_lost(CU_E_ILLEGAL_ADDRESS));
	ck_assert(cuda_lost((cu_result)710)); /* after these cuda.h, too, wants a new process or a new context */
	ck_assert(cuda_lost((cu_result)721));
	ck_assert(cuda_lost((cu_result)810));
	ck_assert(cuda_lost((cu_result)911));
	ck_assert(!cuda_lost(CU_E_NOT_READY));
	ck_assert(!cuda_lost(CU_OK));
	ck_assert_str_eq(cuda_name(NULL, CU_OK), "CUDA_SUCCESS");
	ck_assert_str_eq(cuda_name(NULL, (cu_result)12345), "unknown CUDA error");
}
END_TEST

START_TEST(a_uuid_is_written_as_everybody_writes_it)
{
	const struct cu_uuid uuid = {{1, 0x23, 0x45, 0x67, (char)0x89, (char)0xab, (char)0xcd, (char)0xef, 0, 1, 2, 3, 4, 5, 6, 7}};
	char text[CUDA_UUID_TEXT];

	cuda_uuid_text(&uuid, text);
	ck_assert_str_eq(text, "GPU-01234567-89ab-cdef-0001-020304050607");
}
END_TEST

static void loading(Suite *s)
{
	UNIT_CASE(s, "loading", a_driver_with_all_entries_is_loaded, an_optional_entry_may_be_missing);
}

static void no_gpu(Suite *s)
{
	UNIT_CASE(s, "no gpu", no_library_is_no_gpu, a_path_that_is_too_long_is_no_gpu,
		a_library_that_is_no_driver_is_no_gpu, the_toolkits_stub_is_no_gpu, a_driver_that_fails_to_start_is_no_gpu,
		no_device_is_no_gpu, a_required_entry_that_is_missing_is_named, success_without_an_address_is_missing,
		an_entry_that_needs_a_newer_version_is_missing, a_driver_that_will_not_look_up_is_no_gpu);
}

static void words(Suite *s)
{
	UNIT_CASE(s, "words", a_result_becomes_a_sentence, a_uuid_is_written_as_everybody_writes_it);
}

UNIT_MAIN("cuda", loading, no_gpu, words)
