/* gpu_fixture.h - a daemon that shares three models on a device, and a client's connection to it: the beginning and the end of
 * tests of the GPU half of libtrims.  m0: ready; m1: loading; m2: ready, one extent.
 * Thread: the test's. */
#ifndef TESTS_UNIT_GPU_FIXTURE_H
#define TESTS_UNIT_GPU_FIXTURE_H

#include "client/trims.h"
#include "tests/unit/fake_gpu.h"
#include "tests/unit/unit.h"

static struct fake fake;
static struct fake_copy copies[FAKE_GPU_COPIES];
static trims_conn *conn; /* the test's own */
static unsigned fds_before;
static uint64_t free_before;

static inline void gpu_setup(uint32_t kind)
{
	fake_gpu_driver_setup();
	fake_copy_init(&copies[0], 300, 3, 4);
	fake_copy_init(&copies[1], 301, 2, 2);
	fake_copy_init(&copies[2], 302, 1, 1);
	fake_ready(&copies[0]);
	fake_ready(&copies[2]);
	fake_gpu_init(kind, copies, ARRAY_LEN(copies));
	fake = (struct fake){0};
	fake_start(&fake, fake_gpu_serve, copies, ARRAY_LEN(copies));
	free_before = fake_gpu_free_bytes();
	fds_before = open_fds();
}

static inline cu_context gpu_current(void)
{
	cu_context ctx = NULL;
	FAKE_CU(gpu.cu->ctx_get_current(&ctx));
	return ctx;
}

/* Nothing of the client is left. */
static inline void gpu_check_clean(const char *after)
{
	ck_assert_msg(!gpu_current(), "%s: a context is current", after);
	ck_assert_msg(fake_gpu_free_bytes() == free_before, "%s: %" PRIu64 " device bytes are left", after,
		free_before - fake_gpu_free_bytes());
	ck_assert_msg(watchdogs_gone(), "%s: a thread is left", after);
}

static inline void gpu_teardown(void)
{
	fake_stop(&fake);
	ck_assert_uint_eq(open_fds(), fds_before - 2); /* the listener and the event */
	fake_gpu_fini(ARRAY_LEN(copies));
	for (size_t i = 0; i < ARRAY_LEN(copies); i++)
		fake_copy_fini(&copies[i]);
	fake_gpu_driver_teardown();
}

#endif
