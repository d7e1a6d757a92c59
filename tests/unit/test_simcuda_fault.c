/* test_simcuda_fault.c - the fault script: what fails, stalls, dies or loses a device, and when. */
#include "tests/unit/simcuda_fixture.h"

#include "tools/simcuda/simcuda.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

static void script(const struct cuda *cu, const char *text)
{
	ck_assert_int_eq(SIM_CONTROL(cu, simcuda_script, simcuda_script)(text), 0);
}

START_TEST(the_nth_call_of_a_name_fails)
{
	struct cuda *cu = sim_start();
	cu_ptr p;
	int n;

	script(cu, "cuMemAlloc:2=2,cuMemFree_v2:1=1,cuDeviceGetCount:2-3=999");
	ok(cu->mem_alloc(&p, 4096));
	fails(cu->mem_alloc(&p, 4096), CU_E_OUT_OF_MEMORY);
	ok(cu->mem_alloc(&p, 4096));
	fails(cu->mem_free(p), CU_E_INVALID_VALUE);
	ok(cu->mem_free(p));
	ok(cu->device_get_count(&n));
	fails(cu->device_get_count(&n), CU_E_UNKNOWN);
	fails(cu->device_get_count(&n), CU_E_UNKNOWN);
	ok(cu->device_get_count(&n));
	script(cu, "*=3");
	fails(cu->mem_alloc(&p, 4096), CU_E_NOT_INITIALIZED);
	ok(cu->mem_alloc(&p, 4096));
	script(cu, "cuMemAlloc:*=2");
	for (int i = 0; i < 5; i++)
		fails(cu->mem_alloc(&p, 4096), CU_E_OUT_OF_MEMORY);
	script(cu, NULL);
	ok(cu->mem_alloc(&p, 4096));
	ck_assert_uint_eq(SIM_CONTROL(cu, simcuda_count, simcuda_count)("cuMemAlloc"), 11);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_script_that_makes_no_sense_is_refused)
{
	static const char *const bad[] = {"cuMemAlloc", "cuMemAlloc:0=2", "cuNothing:1=2", "cuMemAlloc:1=frob",
		"cuMemAlloc:x=2", "attr:nothing=1", "cuMemAlloc:1=0", "cuMemAlloc:3-2=2"};
	struct cuda *cu = sim_start();

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(SIM_CONTROL(cu, simcuda_script, simcuda_script)(bad[i]) == -1, "%s", bad[i]);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_bad_script_of_the_environment_is_no_gpu)
{
	struct fault why;
	struct cuda *cu;

	setenv("SIMCUDA_FAULTS", "cuMemAlloc:first=2", 1);
	ck_assert_int_eq(cuda_load(&cu, SIMCUDA_LIBRARY, &why), -ENODEV);
}
END_TEST

START_TEST(starting_may_fail)
{
	struct fault why;
	struct cuda *cu;

	setenv("SIMCUDA_FAULTS", "cuInit:1=100", 1);
	ck_assert_int_eq(cuda_load(&cu, SIMCUDA_LIBRARY, &why), -ENODEV);
	ck_assert_ptr_nonnull(strstr(why.text, "NO_DEVICE"));
	ck_assert_int_eq(cuda_load(&cu, SIMCUDA_LIBRARY, &why), 0);
	cuda_free(&cu);
}
END_TEST

struct caller {
	struct cuda *cu;
	atomic_int done;
	cu_result result;
};

static void *ask(void *arg)
{
	struct caller *c = arg;
	int n;

	c->result = c->cu->device_get_count(&n);
	atomic_store(&c->done, 1);
	return NULL;
}

static bool exists(const char *name)
{
	char path[200];

	snprintf(path, sizeof path, "%s/%s", sim_directory, name);
	return access(path, F_OK) == 0;
}

START_TEST(a_stalled_call_waits_and_holds_nobody_up)
{
	struct cuda *cu = sim_start();
	struct caller c = {.cu = cu};
	pthread_t thread;
	char mark[64];
	cu_ptr p;

	script(cu, "cuDeviceGetCount:1=stall");
	ck_assert_int_eq(pthread_create(&thread, NULL, ask, &c), 0);
	while (!SIM_CONTROL(cu, simcuda_stalled, simcuda_stalled)())
		usleep(100);
	snprintf(mark, sizeof mark, "stalled.%d.cuDeviceGetCount", (int)getpid());
	ck_assert(exists(mark));
	ok(cu->mem_alloc(&p, 4096));
	ck_assert_int_eq(atomic_load(&c.done), 0);
	SIM_CONTROL(cu, simcuda_release, simcuda_release)();
	pthread_join(thread, NULL);
	ck_assert_int_eq(c.result, CU_OK);
	ck_assert(!exists(mark));
	cuda_free(&cu);
}
END_TEST

START_TEST(a_file_releases_stalls_of_all_processes)
{
	struct cuda *cu = sim_start();
	struct caller c = {.cu = cu};
	pthread_t thread;
	char path[200];

	script(cu, "cuDeviceGetCount:*=stall");
	ck_assert_int_eq(pthread_create(&thread, NULL, ask, &c), 0);
	while (!SIM_CONTROL(cu, simcuda_stalled, simcuda_stalled)())
		usleep(100);
	snprintf(path, sizeof path, "%s/release", sim_directory);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	pthread_join(thread, NULL);
	unlink(path);
	script(cu, "cuDeviceGetCount:1=stall:20"); /* for some time */
	c.done = 0;
	ask(&c);
	ck_assert_int_eq(c.result, CU_OK);
	cuda_free(&cu);
}
END_TEST

START_TEST(an_operation_fails_later_than_its_call)
{
	struct cuda *cu = sim_start();
	cu_stream s;
	cu_event e;
	cu_ptr p;

	ok(cu->mem_alloc(&p, 4096));
	ok(cu->stream_create(&s, 0));
	ok(cu->event_create(&e, 0));
	script(cu, "~cuMemsetD8Async:2=719");
	ok(cu->memset_d8_async(p, 1, 1, s));
	ok(cu->stream_synchronize(s));
	ok(cu->memset_d8_async(p, 1, 1, s));
	cu->event_record(e, s); /* may know already */
	fails(cu->stream_synchronize(s), CU_E_LAUNCH_FAILED);
	fails(cu->event_query(e), CU_E_LAUNCH_FAILED);
	fails(cu->mem_free(p), CU_E_LAUNCH_FAILED);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_stalled_operation_keeps_what_is_behind_it)
{
	struct cuda *cu = sim_start();
	cu_stream a, b;
	cu_ptr p;

	ok(cu->mem_alloc(&p, 4096));
	ok(cu->stream_create(&a, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_create(&b, CU_STREAM_NO_NULL_SYNC));
	script(cu, "~cuMemsetD8Async:1=stall");
	ok(cu->memset_d8_async(p, 1, 1, a));
	while (!SIM_CONTROL(cu, simcuda_stalled, simcuda_stalled)())
		usleep(100);
	ok(cu->memset_d8_async(p + 1, 1, 1, b));
	ok(cu->stream_synchronize(b));
	fails(cu->stream_query(a), CU_E_NOT_READY);
	SIM_CONTROL(cu, simcuda_release, simcuda_release)();
	ok(cu->stream_synchronize(a));
	cuda_free(&cu);
}
END_TEST

static void see_loss(int socket)
{
	struct cuda *cu = sim_start();
	char told;
	cu_ptr p;

	sim_say_ready(socket);
	sim_receive(socket, &told, 1);
	_exit(cu->mem_alloc(&p, 4096) == CU_E_ECC_UNCORRECTABLE ? 0 : 1);
}

START_TEST(a_lost_device_is_lost_for_everybody_and_others_go_on)
{
	struct sim_child c;
	const struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .location = {CU_AT_DEVICE, 0}};
	struct cuda *cu;
	cu_mem_handle h;
	cu_context second;
	cu_stream s;
	cu_ptr p;

	sim_topology("device bytes=64M\ndevice bytes=64M\n");
	c = sim_fork(see_loss);
	sim_await_ready(c.socket);
	cu = sim_start();
	ok(cu->primary_ctx_retain(&second, 1));
	ok(cu->mem_alloc(&p, 4096));
	ok(cu->stream_create(&s, 0));
	script(cu, "cuMemcpyDtoD:1=lose:214");
	fails(cu->memcpy_dtod(p, p, 8), CU_E_ECC_UNCORRECTABLE);
	fails(cu->mem_free(p), CU_E_ECC_UNCORRECTABLE);
	fails(cu->stream_query(s), CU_E_ECC_UNCORRECTABLE);
	fails(cu->mem_create(&h, 2 * MIB, &prop, 0), CU_E_ECC_UNCORRECTABLE);
	ok(cu->ctx_set_current(second));
	ok(cu->mem_alloc(&p, 4096));
	sim_send(c.socket, "x", 1, -1);
	ck_assert_int_eq(sim_reap(&c), 0);
	ck_assert_int_eq(SIM_CONTROL(cu, simcuda_mend, simcuda_mend)(0), 0);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_gate_on_a_lost_device_opens)
{
	static uint64_t word __attribute__((aligned(4096)));
	struct cuda *cu = sim_start();
	cu_stream s;

	ok(cu->mem_host_register(&word, 8, 0));
	ok(cu->stream_create(&s, 0));
	ok(cu->stream_wait_value_64(s, (cu_ptr)(uintptr_t)&word, 1, 0));
	sim_await_waiting(cu, 1);
	SIM_CONTROL(cu, simcuda_lose, simcuda_lose)(0, CU_E_LAUNCH_FAILED);
	fails(cu->stream_synchronize(s), CU_E_LAUNCH_FAILED);
	SIM_CONTROL(cu, simcuda_mend, simcuda_mend)(0);
	cuda_free(&cu);
}
END_TEST

static void die(int socket)
{
	struct cuda *cu = sim_start();
	cu_ptr p;

	script(cu, "cuMemAlloc:3=kill");
	for (;;)
		ok(cu->mem_alloc(&p, 8 * MIB));
}

START_TEST(a_process_dies_at_a_call)
{
	struct sim_child c = sim_fork(die);
	struct cuda *cu;

	ck_assert_int_eq(sim_reap(&c), -SIGKILL);
	cu = sim_start();
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

START_TEST(attributes_are_denied)
{
	const struct cu_mem_prop prop = {
		.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD, .location = {CU_AT_DEVICE, 0}};
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	int value;

	script(cu, "attr:VMM_FD=0,attr:125=0@1,attr:40=1");
	ok(cu->device_get_attribute(&value, CU_ATTR_VMM_FD, 0));
	ck_assert_int_eq(value, 0);
	ok(cu->device_get_attribute(&value, CU_ATTR_IPC_EVENT, 0)); /* another device's */
	ck_assert_int_eq(value, 1);
	ok(cu->device_get_attribute(&value, CU_ATTR_COPY_ENGINES, 0));
	ck_assert_int_eq(value, 1);
	fails(cu->mem_create(&h, 2 * MIB, &prop, 0), CU_E_NOT_SUPPORTED);
	cuda_free(&cu);
}
END_TEST

START_TEST(calls_are_counted_where_others_can_read_it)
{
	char path[200], row[64];
	struct cuda *cu;
	bool found = false;
	FILE *f;

	setenv("SIMCUDA_COUNT", sim_directory, 1);
	cu = sim_start();
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	snprintf(path, sizeof path, "%s/%d.calls", sim_directory, (int)getpid());
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	while (!found && fread(row, sizeof row, 1, f) == 1)
		found = !strcmp(row, "cuMemGetInfo_v2") && *(uint64_t *)(void *)(row + 56) == 1;
	ck_assert(found);
	fclose(f);
	cuda_free(&cu);
}
END_TEST

static void failures(Suite *s)
{
	UNIT_CASE(s, "failures", the_nth_call_of_a_name_fails, a_script_that_makes_no_sense_is_refused,
		a_bad_script_of_the_environment_is_no_gpu, starting_may_fail, an_operation_fails_later_than_its_call,
		a_process_dies_at_a_call, attributes_are_denied, calls_are_counted_where_others_can_read_it);
}

static void stalls(Suite *s)
{
	UNIT_CASE(s, "stalls", a_stalled_call_waits_and_holds_nobody_up, a_file_releases_stalls_of_all_processes,
		a_stalled_operation_keeps_what_is_behind_it);
}

static void loss(Suite *s)
{
	UNIT_CASE(s, "loss", a_lost_device_is_lost_for_everybody_and_others_go_on, a_gate_on_a_lost_device_opens);
}

SIM_MAIN("simcuda_fault", failures, stalls, loss)
