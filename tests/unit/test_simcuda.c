/* test_simcuda.c - the simulated driver within one process: devices, contexts, memory of devices and host. */
#include "tests/unit/simcuda_fixture.h"

#include "tools/simcuda/simcuda.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

START_TEST(devices_are_what_the_topology_says)
{
	size_t bytes;
	char name[128], bus[32];
	struct cu_uuid a, b;
	struct cuda *cu;
	int value;

	sim_topology("# two\nset driver=12040\n"
		     "device name=\"A B\" bytes=64M uuid=GPU-00112233-4455-6677-8899-aabbccddeeff attr.113=1\n"
		     "device bytes=32M numa=1 attr.VMM_FD=0\n");
	cu = sim_load();
	ck_assert_int_eq(cu->n_devices, 2);
	ck_assert_int_eq(cu->driver_version, 12040);
	ck_assert_ptr_null(cu->memcpy_batch_async); /* is of CUDA 12.8 */
	ok(cu->device_get_name(name, sizeof name, 0));
	ck_assert_str_eq(name, "simulated A B");
	ok(cu->device_get_name(name, sizeof name, 1));
	ck_assert_str_eq(name, "simulated GPU");
	ok(cu->device_total_mem(&bytes, 1));
	ck_assert_uint_eq(bytes, 32 * MIB);
	ok(cu->device_get_uuid(&a, 0));
	ok(cu->device_get_uuid(&b, 1));
	ck_assert_int_eq(a.bytes[0], 0);
	ck_assert_int_eq((unsigned char)a.bytes[15], 0xff);
	ck_assert_int_ne(memcmp(&a, &b, sizeof a), 0);
	ok(cu->device_get_attribute(&value, CU_ATTR_READ_ONLY_REGISTER, 0));
	ck_assert_int_eq(value, 1);
	ok(cu->device_get_attribute(&value, CU_ATTR_READ_ONLY_REGISTER, 1));
	ck_assert_int_eq(value, 0);
	ok(cu->device_get_attribute(&value, CU_ATTR_VMM_FD, 1));
	ck_assert_int_eq(value, 0);
	ok(cu->device_get_attribute(&value, CU_ATTR_HOST_NUMA_NODE, 1));
	ck_assert_int_eq(value, 1);
	ok(cu->device_get_pci_bus_id(bus, sizeof bus, 1));
	ck_assert_str_eq(bus, "0000:02:00.0");
	fails(cu->device_get_name(name, sizeof name, 2), CU_E_INVALID_DEVICE);
	fails(cu->device_get_attribute(&value, 0, 0), CU_E_INVALID_VALUE);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_topology_that_makes_no_sense_is_no_gpu)
{
	static const char *const bad[] = {"", "device bytes=1K\n", "device switch=s0\n", "device frob=1\n", "gpu\n",
		"device\nnvlink 0 1\n", "set speed=-1\ndevice\n", "device attr.nothing=1\n", "device uuid=12\n"};
	struct fault why;
	struct cuda *cu;

	/* each in a process of its own: a driver is initialised once */
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			sim_topology(bad[i]);
			_exit(cuda_load(&cu, SIMCUDA_LIBRARY, &why) == -ENODEV && strstr(why.text, "cuInit") ? 0 : 1);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(status == 0, "\"%s\" was accepted", bad[i]);
	}
}
END_TEST

START_TEST(without_a_context_there_is_no_memory)
{
	struct cuda *cu = sim_load();
	size_t left, total;
	cu_context ctx;
	cu_stream s;
	cu_ptr p;

	fails(cu->mem_alloc(&p, 4096), CU_E_INVALID_CONTEXT);
	fails(cu->mem_get_info(&left, &total), CU_E_INVALID_CONTEXT);
	fails(cu->stream_create(&s, 0), CU_E_INVALID_CONTEXT);
	fails(cu->ctx_synchronize(), CU_E_INVALID_CONTEXT);
	ok(cu->ctx_get_current(&ctx));
	ck_assert_ptr_null(ctx);
	fails(cu->ctx_pop_current(&ctx), CU_E_INVALID_CONTEXT);
	fails(cu->ctx_set_current((cu_context)cu), CU_E_INVALID_CONTEXT);
	cuda_free(&cu);
}
END_TEST

START_TEST(primary_contexts_are_counted)
{
	struct cuda *cu = sim_load();
	cu_context a, b, c;
	unsigned flags;
	int active;
	cu_ptr p;

	fails(cu->primary_ctx_release(0), CU_E_INVALID_CONTEXT);
	ok(cu->primary_ctx_retain(&a, 0));
	ok(cu->primary_ctx_retain(&b, 0));
	ck_assert_ptr_eq(a, b);
	ok(cu->ctx_push_current(a));
	ok(cu->mem_alloc(&p, 1000));
	ok(cu->primary_ctx_release(0));
	ok(cu->primary_ctx_get_state(0, &flags, &active));
	ck_assert_int_eq(active, 1);
	ok(cu->primary_ctx_release(0));
	ok(cu->primary_ctx_get_state(0, &flags, &active));
	ck_assert_int_eq(active, 0);
	fails(cu->mem_free(p), CU_E_CONTEXT_IS_DESTROYED);
	ok(cu->ctx_pop_current(&c));
	ck_assert_ptr_eq(c, a);
	fails(cu->ctx_push_current(a), CU_E_INVALID_CONTEXT);
	ok(cu->primary_ctx_retain(&b, 0)); /* its memory is there again */
	ok(cu->ctx_push_current(b));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_thread_has_its_own_stack_of_contexts)
{
	struct cuda *cu = sim_start();
	cu_context primary, own, seen;
	cu_device d;

	ok(cu->ctx_get_current(&primary));
	ok(cu->ctx_create(&own, 0, 0));
	ok(cu->ctx_get_current(&seen));
	ck_assert_ptr_eq(seen, own);
	ok(cu->ctx_get_device(&d));
	ck_assert_int_eq(d, 0);
	ok(cu->ctx_pop_current(&seen));
	ok(cu->ctx_get_current(&seen));
	ck_assert_ptr_eq(seen, primary);
	fails(cu->ctx_destroy(primary), CU_E_INVALID_CONTEXT);
	ok(cu->ctx_destroy(own));
	fails(cu->ctx_destroy(own), CU_E_INVALID_CONTEXT);
	cuda_free(&cu);
}
END_TEST

START_TEST(memory_is_counted_and_copied)
{
	struct cuda *cu = sim_start();
	static uint64_t host[8192], back[8192];
	cu_ptr a, b, base;
	size_t bytes;

	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	ok(cu->mem_alloc(&a, sizeof host));
	ok(cu->mem_alloc(&b, 4 * MIB));
	ck_assert_uint_eq(b % (2 * MIB), 0);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - sizeof host - 4 * MIB);
	sim_pattern(host, sizeof host, 1);
	ok(cu->memcpy_htod(a, host, sizeof host));
	ok(cu->memcpy_dtod(b + 4096, a, sizeof host));
	ok(cu->memset_d8(b + 4096, 0, 8));
	ok(cu->memcpy_dtoh(back, b + 4096, sizeof host));
	ck_assert_uint_eq(back[0], 0);
	back[0] = host[0];
	ck_assert_int_eq(memcmp(host, back, sizeof host), 0);
	ok(cu->mem_get_address_range(&base, &bytes, b + 12345));
	ck_assert_uint_eq(base, b);
	ck_assert_uint_eq(bytes, 4 * MIB);
	ok(cu->mem_free(a));
	ok(cu->mem_free(b));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

START_TEST(bad_ranges_and_double_frees_are_errors)
{
	struct cuda *cu = sim_start();
	static char host[8192];
	cu_ptr a, b;

	ok(cu->mem_alloc(&a, 4096));
	ok(cu->mem_alloc(&b, 4096));
	fails(cu->memcpy_htod(a, host, 4097), CU_E_INVALID_VALUE);
	fails(cu->memcpy_htod(a + 1, host, 4096), CU_E_INVALID_VALUE);
	fails(cu->memcpy_htod(MIN(a, b), host, 8192), CU_E_INVALID_VALUE); /* neighbours, but two */
	fails(cu->memcpy_htod(a - 1, host, 2), CU_E_INVALID_VALUE);
	fails(cu->memcpy_htod(UINT64_MAX - 1, host, 8), CU_E_INVALID_VALUE);
	fails(cu->memcpy_htod(a, NULL, 8), CU_E_INVALID_VALUE);
	fails(cu->memset_d8(a, 0, 4097), CU_E_INVALID_VALUE);
	fails(cu->mem_free(a + 1), CU_E_INVALID_VALUE);
	fails(cu->mem_free(0), CU_E_INVALID_VALUE);
	ok(cu->mem_free(a));
	fails(cu->mem_free(a), CU_E_INVALID_VALUE);
	fails(cu->memcpy_dtoh(host, a, 8), CU_E_INVALID_VALUE);
	fails(cu->mem_alloc(&a, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_alloc(&a, 2 * GIB), CU_E_OUT_OF_MEMORY);
	fails(cu->mem_alloc(&a, GIB), CU_E_OUT_OF_MEMORY); /* b is there */
	cuda_free(&cu);
}
END_TEST

START_TEST(freed_addresses_are_used_again)
{
	struct cuda *cu = sim_start();
	cu_ptr a, b, c;

	ok(cu->mem_alloc(&a, 2 * MIB));
	ok(cu->mem_alloc(&b, 2 * MIB));
	ok(cu->mem_free(a));
	ok(cu->mem_alloc(&c, 2 * MIB));
	ck_assert_uint_eq(a, c);
	cuda_free(&cu);
}
END_TEST

START_TEST(contexts_may_cost_memory)
{
	struct cuda *cu;
	cu_context own;

	sim_topology("device bytes=64M context=10M\n");
	cu = sim_start();
	ck_assert_uint_eq(sim_free_bytes(cu), 54 * MIB);
	ok(cu->ctx_create(&own, 0, 0));
	ck_assert_uint_eq(sim_free_bytes(cu), 44 * MIB);
	ok(cu->ctx_destroy(own));
	ck_assert_uint_eq(sim_free_bytes(cu), 54 * MIB);
	cuda_free(&cu);
}
END_TEST

START_TEST(host_memory_is_registered_once)
{
	struct cuda *cu = sim_start();
	char *m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cu_ptr seen;

	fails(cu->mem_host_get_device_pointer(&seen, m, 0), CU_E_INVALID_VALUE);
	ok(cu->mem_host_register(m, 8192, CU_REGISTER_PORTABLE));
	fails(cu->mem_host_register(m, 8192, 0), CU_E_HOST_MEMORY_ALREADY_REGISTERED);
	fails(cu->mem_host_register(m + 4096, 8192, 0), CU_E_HOST_MEMORY_ALREADY_REGISTERED);
	ok(cu->mem_host_register(m + 8192, 4096, 0));
	fails(cu->mem_host_get_device_pointer(&seen, m + 100, 0), CU_E_INVALID_VALUE); /* nobody asked for one */
	ok(cu->mem_host_unregister(m + 8192));
	ok(cu->mem_host_register(m + 8192, 4096, CU_REGISTER_MAPPED));
	ok(cu->mem_host_get_device_pointer(&seen, m + 8192 + 100, 0));
	ck_assert_uint_eq(seen, (cu_ptr)(uintptr_t)m + 8192 + 100);
	fails(cu->mem_host_unregister(m + 4096), CU_E_HOST_MEMORY_NOT_REGISTERED);
	ok(cu->mem_host_unregister(m));
	fails(cu->mem_host_unregister(m), CU_E_HOST_MEMORY_NOT_REGISTERED);
	fails(cu->mem_host_register(m, 0, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_host_register(m, 4096, 64), CU_E_INVALID_VALUE);
	fails(cu->mem_host_register(m, (size_t)1 << 39, 0), CU_E_OUT_OF_MEMORY);
	munmap(m + 65536, 4096);
	fails(cu->mem_host_register(m + 61440, 3 * 4096, 0), CU_E_INVALID_VALUE); /* a hole in it */
	cuda_free(&cu);
}
END_TEST

START_TEST(read_only_memory_is_registered_where_the_attribute_allows)
{
	struct cuda *cu;
	char *m = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cu_ptr d;

	cu = sim_start();
	fails(cu->mem_host_register(m, 4096, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_host_register(m, 4096, CU_REGISTER_READ_ONLY), CU_E_NOT_SUPPORTED);
	SIM_CONTROL(cu, simcuda_script, simcuda_script)("attr:READ_ONLY_REGISTER=1");
	ok(cu->mem_host_register(m, 4096, CU_REGISTER_READ_ONLY));
	ok(cu->mem_alloc(&d, 4096));
	ok(cu->memcpy_htod(d, m, 4096));
	fails(cu->memcpy_dtoh(m, d, 4096), CU_E_INVALID_VALUE);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_copy_stays_within_one_registration)
{
	struct cuda *cu = sim_start();
	char *m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cu_stream s;
	cu_ptr d;

	ok(cu->mem_alloc(&d, 1 << 20));
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	ok(cu->mem_host_register(m, 8192, 0));
	ok(cu->mem_host_register(m + 8192, 8192, 0));
	ok(cu->memcpy_htod_async(d, m, 8192, s));
	fails(cu->memcpy_htod_async(d, m + 4096, 8192, s), CU_E_INVALID_VALUE);
	fails(cu->memcpy_htod_async(d, m + 12288, 8192, s), CU_E_INVALID_VALUE);  /* out of it */
	ok(cu->memcpy_htod_async(d, m + 16384, 8192, s)); /* pageable */
	fails(cu->memcpy_dtoh_async(m + 4096, d, 8192, s), CU_E_INVALID_VALUE);
	ok(cu->stream_synchronize(s));
	cuda_free(&cu);
}
END_TEST

START_TEST(devices_may_see_host_memory_elsewhere)
{
	struct cuda *cu;
	static uint64_t word __attribute__((aligned(4096)));
	cu_stream s;
	cu_ptr seen;

	sim_topology("device bytes=64M attr.SAME_HOST_POINTER=0\n");
	cu = sim_start();
	ok(cu->mem_host_register(&word, 8, CU_REGISTER_MAPPED));
	ok(cu->mem_host_get_device_pointer(&seen, &word, 0));
	ck_assert_uint_ne(seen, (cu_ptr)(uintptr_t)&word);
	ok(cu->stream_create(&s, 0));
	fails(cu->stream_write_value_64(s, (cu_ptr)(uintptr_t)&word, 7, 0), CU_E_INVALID_VALUE);
	ok(cu->stream_write_value_64(s, seen, 7, 0));
	ok(cu->stream_synchronize(s));
	ck_assert_uint_eq(word, 7);
	cuda_free(&cu);
}
END_TEST

START_TEST(host_allocations_are_pinned_memory)
{
	struct cuda *cu = sim_start();
	cu_ptr d;
	void *p;

	ok(cu->mem_host_alloc(&p, 100000, CU_HOST_PORTABLE));
	ok(cu->mem_alloc(&d, 100000));
	memset(p, 7, 100000);
	ok(cu->memcpy_htod(d, p, 100000));
	memset(p, 0, 100000);
	ok(cu->memcpy_dtoh(p, d, 100000));
	ck_assert_int_eq(((char *)p)[99999], 7);
	fails(cu->mem_host_register(p, 4096, 0), CU_E_HOST_MEMORY_ALREADY_REGISTERED);
	fails(cu->mem_free_host((char *)p + 1), CU_E_INVALID_VALUE);
	ok(cu->mem_free_host(p));
	fails(cu->mem_free_host(p), CU_E_INVALID_VALUE);
	cuda_free(&cu);
}
END_TEST

START_TEST(pointers_tell_what_they_are)
{
	struct cuda *cu = sim_start();
	cu_pointer_attr both[2] = {CU_POINTER_MEMORY, CU_POINTER_DEVICE};
	uint32_t kind;
	int device, legacy;
	void *values[2] = {&kind, &device}, *host;
	cu_ptr d;

	ok(cu->mem_alloc(&d, 4096));
	ok(cu->mem_host_alloc(&host, 4096, 0));
	ok(cu->pointer_get_attribute(&kind, CU_POINTER_MEMORY, d + 5));
	ck_assert_uint_eq(kind, CU_MEMORY_DEVICE);
	ok(cu->pointer_get_attribute(&legacy, CU_POINTER_LEGACY_IPC, d));
	ck_assert_int_eq(legacy, 1);
	ok(cu->pointer_get_attribute(&kind, CU_POINTER_MEMORY, (cu_ptr)(uintptr_t)host));
	ck_assert_uint_eq(kind, CU_MEMORY_HOST);
	fails(cu->pointer_get_attribute(&kind, CU_POINTER_MEMORY, 4096), CU_E_INVALID_VALUE);
	ok(cu->pointer_get_attributes(2, both, values, 4096)); /* unknown: no error, no kind */
	ck_assert_uint_eq(kind, 0);
	cuda_free(&cu);
}
END_TEST

START_TEST(there_are_no_kernels_but_one)
{
	struct cuda *cu = sim_start();
	cu_module module;

	fails(cu->module_load_data(&module, "x"), CU_E_NOT_SUPPORTED);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_child_of_fork_cannot_use_the_driver)
{
	struct cuda *cu = sim_start();
	int n, status;
	pid_t pid = fork();

	if (!pid)
		_exit(cu->device_get_count(&n) == CU_E_NOT_INITIALIZED && cu->init(0) == CU_E_NOT_INITIALIZED ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ok(cu->device_get_count(&n));
	cuda_free(&cu);
}
END_TEST

struct racer {
	struct cuda *cu;
	cu_context ctx;
	uint64_t seed;
	bool failed;
};

static void *race(void *arg)
{
	struct racer *me = arg;
	uint64_t words[512], back[512];
	cu_ptr p;
	cu_stream s;
	bool good = !me->cu->ctx_set_current(me->ctx) && !me->cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC);

	for (int i = 0; good && i < 40; i++) {
		size_t bytes = sizeof words + unit_random(&me->seed) % (4 * MIB);

		sim_pattern(words, sizeof words, me->seed);
		good = !me->cu->mem_alloc(&p, bytes) && !me->cu->memcpy_htod_async(p, words, sizeof words, s) &&
			!me->cu->memcpy_dtoh_async(back, p, sizeof back, s) && !me->cu->stream_synchronize(s) &&
			!memcmp(words, back, sizeof words) && !me->cu->mem_free(p);
	}
	me->failed = !good || me->cu->stream_destroy(s);
	return NULL;
}

START_TEST(threads_work_side_by_side)
{
	struct cuda *cu = sim_start();
	struct racer racers[4];
	pthread_t threads[4];

	for (int i = 0; i < 4; i++) {
		racers[i] = (struct racer){.cu = cu, .seed = unit_seed() + (uint64_t)i};
		ok(cu->ctx_get_current(&racers[i].ctx));
		ck_assert_int_eq(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		ck_assert(!racers[i].failed);
	}
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

static void devices(Suite *s)
{
	UNIT_CASE(s, "devices", devices_are_what_the_topology_says, a_topology_that_makes_no_sense_is_no_gpu);
}

static void contexts(Suite *s)
{
	UNIT_CASE(s, "contexts", without_a_context_there_is_no_memory, primary_contexts_are_counted,
		a_thread_has_its_own_stack_of_contexts, contexts_may_cost_memory, a_child_of_fork_cannot_use_the_driver,
		there_are_no_kernels_but_one, threads_work_side_by_side);
}

static void memory(Suite *s)
{
	UNIT_CASE(s, "memory", memory_is_counted_and_copied, bad_ranges_and_double_frees_are_errors,
		freed_addresses_are_used_again, pointers_tell_what_they_are);
}

static void host(Suite *s)
{
	UNIT_CASE(s, "host", host_memory_is_registered_once, read_only_memory_is_registered_where_the_attribute_allows,
		a_copy_stays_within_one_registration, devices_may_see_host_memory_elsewhere,
		host_allocations_are_pinned_memory);
}

SIM_MAIN("simcuda", devices, contexts, memory, host)
