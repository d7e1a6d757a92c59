/* test_simcuda_stream.c - streams, events, host functions, words to wait for; devices side by side; what links allow. */
#include "tests/unit/simcuda_fixture.h"

#include "tools/simcuda/simcuda.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* A gate: the stream's further work waits until it is opened. */
struct gate {
	_Atomic uint64_t word __attribute__((aligned(4096)));
	char rest[4088];
};

static struct gate *gate_new(struct cuda *cu)
{
	struct gate *g = mmap(NULL, sizeof *g, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert(g != MAP_FAILED);
	ok(cu->mem_host_register(g, sizeof *g, CU_REGISTER_MAPPED));
	return g;
}

static void gate_close(struct cuda *cu, struct gate *g, cu_stream s)
{
	cu_ptr p;

	atomic_store(&g->word, 0);
	ok(cu->mem_host_get_device_pointer(&p, g, 0));
	ok(cu->stream_wait_value_64(s, p, 1, CU_WAIT_GEQ));
}

static void gate_open(struct gate *g)
{
	atomic_store(&g->word, 1);
}

START_TEST(a_stream_works_behind_its_callers_back_and_in_order)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	static char host[4096] __attribute__((aligned(4096))), back[4096] __attribute__((aligned(4096)));
	cu_event before, after;
	cu_stream s;
	cu_ptr d;
	float ms;

	ok(cu->mem_host_register(host, sizeof host, 0));
	ok(cu->mem_host_register(back, sizeof back, 0));
	ok(cu->mem_alloc(&d, sizeof host));
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	ok(cu->event_create(&before, 0));
	ok(cu->event_create(&after, 0));
	ok(cu->event_query(after)); /* never recorded */
	ok(cu->event_record(before, s));
	gate_close(cu, g, s);
	memset(host, 1, sizeof host);
	ok(cu->memcpy_htod_async(d, host, sizeof host, s));
	ok(cu->memcpy_dtoh_async(back, d, sizeof back, s));
	ok(cu->event_record(after, s));
	ok(cu->event_synchronize(before));
	fails(cu->stream_query(s), CU_E_NOT_READY);
	fails(cu->event_query(after), CU_E_NOT_READY);
	fails(cu->event_elapsed_time(&ms, before, after), CU_E_NOT_READY);
	memset(host, 2, sizeof host); /* nothing was read yet */
	gate_open(g);
	ok(cu->event_synchronize(after));
	ok(cu->stream_query(s));
	ck_assert_int_eq(back[4095], 2);
	ok(cu->event_elapsed_time(&ms, before, after));
	ck_assert(ms >= 0);
	ok(cu->stream_destroy(s));
	fails(cu->stream_synchronize(s), CU_E_INVALID_HANDLE);
	ok(cu->event_destroy(after));
	fails(cu->event_query(after), CU_E_INVALID_HANDLE);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_copy_of_unregistered_memory_waits_for_itself)
{
	struct cuda *cu = sim_start();
	static char host[100000];
	cu_stream s;
	cu_ptr d;

	ok(cu->mem_alloc(&d, sizeof host));
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	for (int i = 0; i < 100; i++) {
		ok(cu->memcpy_htod_async(d, host, sizeof host, s));
		ok(cu->stream_query(s));
	}
	cuda_free(&cu);
}
END_TEST

START_TEST(a_stream_waits_for_an_event_of_another)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	cu_stream a, b;
	cu_event e;
	cu_ptr d;

	ok(cu->mem_alloc(&d, 8));
	ok(cu->stream_create(&a, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_create(&b, CU_STREAM_NO_NULL_SYNC));
	ok(cu->event_create(&e, CU_EVENT_NO_TIMING));
	ok(cu->stream_wait_event(b, e, 0)); /* not recorded: nothing to wait for */
	ok(cu->stream_synchronize(b));
	gate_close(cu, g, a);
	ok(cu->memset_d8_async(d, 1, 1, a));
	ok(cu->event_record(e, a));
	ok(cu->stream_wait_event(b, e, 0));
	ok(cu->event_destroy(e)); /* the wait keeps it */
	ok(cu->memset_d8_async(d, 2, 1, b));
	fails(cu->stream_query(b), CU_E_NOT_READY);
	gate_open(g);
	ok(cu->stream_synchronize(b));
	gate_open(g);
	ck_assert_int_eq(*(char *)(uintptr_t)d, 2);
	cuda_free(&cu);
}
END_TEST

/* What waits for a record must not miss it because an older one, on a slower stream, ends after it. */
START_TEST(an_event_stands_for_its_last_record_whichever_ends_last)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	cu_stream slow, fast;
	cu_event e;

	ok(cu->event_create(&e, CU_EVENT_NO_TIMING));
	ok(cu->stream_create(&slow, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_create(&fast, CU_STREAM_NO_NULL_SYNC));
	gate_close(cu, g, slow);
	ok(cu->event_record(e, slow));
	ok(cu->event_record(e, fast));
	ok(cu->event_synchronize(e));
	gate_open(g);
	ok(cu->stream_synchronize(slow));
	ok(cu->event_query(e));
	ok(cu->stream_wait_event(slow, e, 0));
	ok(cu->stream_synchronize(slow));
	cuda_free(&cu);
}
END_TEST

START_TEST(the_null_stream_is_a_fence_for_blocking_streams)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	cu_stream blocking, free_one;
	cu_ptr d;

	ok(cu->mem_alloc(&d, 8));
	ok(cu->stream_create(&blocking, 0));
	ok(cu->stream_create(&free_one, CU_STREAM_NO_NULL_SYNC));
	gate_close(cu, g, blocking);
	ok(cu->memset_d8_async(d, 1, 1, NULL));
	ok(cu->memset_d8_async(d + 1, 1, 1, blocking)); /* behind the null stream's */
	fails(cu->stream_query(NULL), CU_E_NOT_READY);
	ok(cu->memset_d8_async(d + 2, 1, 1, free_one));
	ok(cu->stream_synchronize(free_one)); /* does not care */
	fails(cu->stream_query(NULL), CU_E_NOT_READY);
	gate_open(g);
	ok(cu->stream_synchronize(NULL));
	ok(cu->ctx_synchronize());
	ok(cu->stream_query(blocking));
	cuda_free(&cu);
}
END_TEST

struct told {
	struct cuda *cu;
	atomic_int calls;
	cu_result inside;
};

static void on_host(void *data)
{
	struct told *t = data;
	size_t left, total;

	t->inside = t->cu->mem_get_info(&left, &total);
	atomic_fetch_add(&t->calls, 1);
}

/* An engine that waits for the next copy of the stream that had it: the order of the null stream comes before that, ... */
START_TEST(an_engine_is_not_kept_for_a_stream_that_has_to_wait)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	static char host[3 * 4096] __attribute__((aligned(4096)));
	cu_stream s;
	cu_ptr d;

	ok(cu->mem_host_register(host, sizeof host, 0));
	ok(cu->mem_alloc(&d, sizeof host));
	ok(cu->stream_create(&s, 0));
	gate_close(cu, g, s);
	ok(cu->memcpy_htod_async(d, host, 4096, s));
	ok(cu->memcpy_htod_async(d + 4096, host + 4096, 4096, NULL));
	ok(cu->memcpy_htod_async(d + 8192, host + 8192, 4096, s));
	gate_open(g);
	ok(cu->stream_synchronize(NULL));
	ok(cu->stream_synchronize(s));
	cuda_free(&cu);
}
END_TEST

/* ... and it may never come, since it fails before, and its context with it. */
START_TEST(an_engine_is_not_kept_for_a_copy_that_fails)
{
	struct cuda *cu = sim_start();
	struct gate *g;
	static char host[4096] __attribute__((aligned(4096)));
	cu_context own;
	cu_stream s;
	cu_ptr d, other;

	ok(cu->mem_alloc(&other, sizeof host));
	ok(cu->memcpy_htod(other, host, sizeof host));
	ok(cu->ctx_create(&own, 0, 0));
	g = gate_new(cu);
	ok(cu->mem_host_register(host, sizeof host, 0));
	ok(cu->mem_alloc(&d, sizeof host));
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	ck_assert_int_eq(SIM_CONTROL(cu, simcuda_script, simcuda_script)("~cuMemcpyHtoDAsync:2=719"), 0);
	gate_close(cu, g, s);
	ok(cu->memcpy_htod_async(d, host, sizeof host, s));
	ok(cu->memcpy_htod_async(d, host, sizeof host, s));
	gate_open(g);
	fails(cu->stream_synchronize(s), 719);
	ok(cu->ctx_destroy(own));
	ok(cu->memcpy_htod(other, host, sizeof host)); /* in the primary context, and by the same engine */
	cuda_free(&cu);
}
END_TEST

START_TEST(host_functions_run_in_order_and_must_not_call)
{
	struct cuda *cu = sim_start();
	struct told told = {.cu = cu};
	cu_stream s;

	ok(cu->stream_create(&s, 0));
	for (int i = 0; i < 10; i++)
		ok(cu->launch_host_func(s, on_host, &told));
	ok(cu->stream_synchronize(s));
	ck_assert_int_eq(atomic_load(&told.calls), 10);
	ck_assert_int_eq(told.inside, CU_E_NOT_PERMITTED);
	fails(cu->launch_host_func(s, NULL, NULL), CU_E_INVALID_VALUE);
	cuda_free(&cu);
}
END_TEST

static bool passes(struct cuda *cu, cu_stream s, cu_ptr word, struct gate *g, uint64_t seen, uint64_t value,
	unsigned flags)
{
	bool passed;

	atomic_store(&g->word, seen);
	ok(cu->stream_wait_value_64(s, word, value, flags));
	for (passed = false; !passed;) {
		passed = cu->stream_query(s) == CU_OK;
		if (!passed && SIM_CONTROL(cu, simcuda_waiting, simcuda_waiting)() == 1)
			break;
	}
	if (passed)
		return true;
	atomic_store(&g->word, value + (flags == CU_WAIT_AND ? 0 : 1)); /* lets GEQ, AND go on */
	return false;
}

START_TEST(words_are_compared_as_documented)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	cu_stream s;
	cu_ptr w;

	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	ok(cu->mem_host_get_device_pointer(&w, g, 0));
	ck_assert(passes(cu, s, w, g, 5, 5, CU_WAIT_GEQ));
	ck_assert(passes(cu, s, w, g, INT64_MAX, 5, CU_WAIT_GEQ)); /* the poison */
	ck_assert(!passes(cu, s, w, g, 4, 5, CU_WAIT_GEQ));
	ok(cu->stream_synchronize(s));
	ck_assert(!passes(cu, s, w, g, UINT64_MAX, 5, CU_WAIT_GEQ)); /* signed: -1 */
	ok(cu->stream_synchronize(s));
	ck_assert(passes(cu, s, w, g, 5, 5, CU_WAIT_EQ));
	ck_assert(passes(cu, s, w, g, 6, 2, CU_WAIT_AND));
	ck_assert(!passes(cu, s, w, g, 4, 2, CU_WAIT_AND));
	ok(cu->stream_synchronize(s));
	ck_assert(passes(cu, s, w, g, 1, 2, CU_WAIT_NOR));
	fails(cu->stream_wait_value_64(s, w + 4, 1, 0), CU_E_INVALID_VALUE);
	fails(cu->stream_wait_value_64(s, w + 4096, 1, 0), CU_E_INVALID_VALUE);
	SIM_CONTROL(cu, simcuda_script, simcuda_script)("attr:MEM_OPS_64=0");
	fails(cu->stream_wait_value_64(s, w, 1, 0), CU_E_NOT_SUPPORTED);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_store_wakes_on_host_memory_but_not_on_device_memory)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	cu_stream on_host_word, on_device_word, writer;
	cu_ptr host, device;

	ok(cu->mem_host_get_device_pointer(&host, g, 0));
	ok(cu->mem_alloc(&device, 8));
	ok(cu->memset_d8(device, 0, 8));
	ok(cu->stream_create(&on_host_word, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_create(&on_device_word, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_create(&writer, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_wait_value_64(on_host_word, host, 9, 0));
	ok(cu->stream_wait_value_64(on_device_word, device, 9, 0));
	sim_await_waiting(cu, 2);
	atomic_store((_Atomic uint64_t *)(uintptr_t)device, 9);
	atomic_store(&g->word, 9);
	ok(cu->stream_synchronize(on_host_word));
	fails(cu->stream_query(on_device_word), CU_E_NOT_READY);
	ok(cu->stream_write_value_64(writer, device, 9, 0));
	ok(cu->stream_synchronize(on_device_word));
	cuda_free(&cu);
}
END_TEST

START_TEST(a_destroyed_stream_finishes_its_work)
{
	struct cuda *cu = sim_start();
	struct gate *g = gate_new(cu);
	cu_stream s;
	cu_event e;
	cu_ptr d;

	ok(cu->mem_alloc(&d, 8));
	ok(cu->event_create(&e, 0));
	for (int i = 1; i < 20; i++) {
		ok(cu->stream_create(&s, 0));
		gate_close(cu, g, s);
		ok(cu->memset_d8_async(d, (unsigned char)i, 1, s));
		ok(cu->event_record(e, s));
		ok(cu->stream_destroy(s));
		fails(cu->stream_query(s), CU_E_INVALID_HANDLE);
		fails(cu->event_query(e), CU_E_NOT_READY);
		gate_open(g);
		ok(cu->ctx_synchronize()); /* waits for it all the same */
		ok(cu->event_query(e));
		ck_assert_int_eq(*(char *)(uintptr_t)d, i);
	}
	cuda_free(&cu);
}
END_TEST

START_TEST(freeing_waits_for_queued_work_and_unmapped_work_is_an_error)
{
	struct cuda *cu = sim_start();
	const struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .location = {CU_AT_DEVICE, 0}};
	const struct cu_mem_access access = {{CU_AT_DEVICE, 0}, CU_PROT_READWRITE};
	struct gate *g = gate_new(cu);
	cu_mem_handle h;
	cu_stream s;
	cu_ptr p;

	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	for (int i = 0; i < 20; i++) {
		ok(cu->mem_alloc(&p, 1 << 20));
		ok(cu->memset_d8_async(p, 1, 1 << 20, s));
		ok(cu->mem_free(p));
	}
	ok(cu->mem_create(&h, 2 * MIB, &prop, 0));
	ok(cu->mem_address_reserve(&p, 2 * MIB, 2 * MIB, 0, 0));
	ok(cu->mem_map(p, 2 * MIB, 0, h, 0));
	ok(cu->mem_set_access(p, 2 * MIB, &access, 1));
	gate_close(cu, g, s);
	ok(cu->memset_d8_async(p, 1, 1, s));
	ok(cu->mem_unmap(p, 2 * MIB));
	gate_open(g);
	fails(cu->stream_synchronize(s), CU_E_ILLEGAL_ADDRESS);
	fails(cu->mem_alloc(&p, 4096), CU_E_ILLEGAL_ADDRESS); /* it sticks */
	fails(cu->ctx_synchronize(), CU_E_ILLEGAL_ADDRESS);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_destroyed_context_ends_what_waits)
{
	struct cuda *cu = sim_start();
	struct gate *g;
	cu_context own;
	cu_stream s;
	cu_event e;

	ok(cu->ctx_create(&own, 0, 0));
	g = gate_new(cu);
	ok(cu->stream_create(&s, 0));
	ok(cu->event_create(&e, 0));
	gate_close(cu, g, s);
	ok(cu->event_record(e, s));
	ok(cu->ctx_destroy(own));
	fails(cu->event_query(e), CU_E_CONTEXT_IS_DESTROYED);
	fails(cu->stream_query(s), CU_E_INVALID_HANDLE);
	ok(cu->event_destroy(e));
	cuda_free(&cu);
}
END_TEST

START_TEST(peers_are_who_share_a_switch_or_an_nvlink)
{
	static uint64_t words[1000], back[1000];
	struct cuda *cu;
	cu_context ctx[4];
	cu_stream s;
	cu_ptr a, b;
	int can;

	sim_topology("switch s0 gbps=20\n"
		     "device bytes=16M switch=s0\ndevice bytes=16M switch=s0\ndevice bytes=16M\ndevice bytes=16M\n"
		     "nvlink 2 3 gbps=100\n");
	cu = sim_load();
	for (int i = 0; i < 4; i++)
		ok(cu->primary_ctx_retain(&ctx[i], i));
	ok(cu->device_can_access_peer(&can, 0, 1));
	ck_assert_int_eq(can, 1);
	ok(cu->device_can_access_peer(&can, 3, 2));
	ck_assert_int_eq(can, 1);
	ok(cu->device_can_access_peer(&can, 0, 2));
	ck_assert_int_eq(can, 0);
	ok(cu->ctx_set_current(ctx[0]));
	fails(cu->ctx_enable_peer_access(ctx[2], 0), CU_E_PEER_ACCESS_UNSUPPORTED);
	fails(cu->ctx_disable_peer_access(ctx[1]), CU_E_PEER_ACCESS_NOT_ENABLED);
	ok(cu->ctx_enable_peer_access(ctx[1], 0));
	fails(cu->ctx_enable_peer_access(ctx[1], 0), CU_E_PEER_ACCESS_ALREADY_ENABLED);
	fails(cu->ctx_enable_peer_access(ctx[0], 0), CU_E_INVALID_CONTEXT);
	sim_pattern(words, sizeof words, 3);
	ok(cu->mem_alloc(&a, sizeof words));
	ok(cu->memcpy_htod(a, words, sizeof words));
	ok(cu->stream_create(&s, 0));
	ok(cu->ctx_push_current(ctx[2]));
	ok(cu->mem_alloc(&b, sizeof words));
	ok(cu->memcpy_peer_async(b, ctx[2], a, ctx[0], sizeof words, s));
	ok(cu->stream_synchronize(s));
	ok(cu->memcpy_dtoh(back, b, sizeof back));
	ck_assert_int_eq(memcmp(words, back, sizeof words), 0);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_batch_copies_all_or_says_which_not)
{
	struct cuda *cu = sim_start();
	struct cu_copy_attrs attrs = {.source_order = CU_ORDER_STREAM};
	static char host[2][4096];
	size_t bytes[2] = {4096, 4096}, first = 0, failed;
	cu_ptr to[2], from[2] = {(cu_ptr)(uintptr_t)host[0], (cu_ptr)(uintptr_t)host[1]};
	cu_stream s;

	ck_assert_ptr_nonnull(cu->memcpy_batch_async);
	memset(host[0], 1, 4096);
	memset(host[1], 2, 4096);
	ok(cu->mem_alloc(&to[0], 4096));
	ok(cu->mem_alloc(&to[1], 4096));
	ok(cu->stream_create(&s, 0));
	fails(cu->memcpy_batch_async(to, from, bytes, 2, &attrs, &first, 1, &failed, NULL), CU_E_INVALID_VALUE);
	ok(cu->memcpy_batch_async(to, from, bytes, 2, &attrs, &first, 1, &failed, s));
	ok(cu->stream_synchronize(s));
	ck_assert_int_eq(*(char *)(uintptr_t)(to[1] + 4095), 2);
	bytes[1] = 4097;
	fails(cu->memcpy_batch_async(to, from, bytes, 2, &attrs, &first, 1, &failed, s), CU_E_INVALID_VALUE);
	ck_assert_uint_eq(failed, 1);
	cuda_free(&cu);
}
END_TEST

/* --- time --- */

#define TIMED (16 * MIB)

struct timed {
	struct cuda *cu;
	void *host;
	cu_ptr device;
	cu_stream stream[2];
	cu_event start, end;
};

static void timed_start(struct timed *t, const char *topology)
{
	sim_topology(topology);
	t->cu = sim_start();
	ok(t->cu->mem_host_alloc(&t->host, 2 * TIMED, 0));
	ok(t->cu->mem_alloc(&t->device, 2 * TIMED));
	for (int i = 0; i < 2; i++)
		ok(t->cu->stream_create(&t->stream[i], CU_STREAM_NO_NULL_SYNC));
	ok(t->cu->event_create(&t->start, 0));
	ok(t->cu->event_create(&t->end, 0));
}

/* Milliseconds of a copy down. */
static double timed_copy(struct timed *t)
{
	struct cuda *cu = t->cu;
	float ms;

	ok(cu->event_record(t->start, t->stream[0]));
	ok(cu->memcpy_htod_async(t->device, t->host, TIMED, t->stream[0]));
	ok(cu->event_record(t->end, t->stream[0]));
	ok(cu->ctx_synchronize());
	ok(cu->event_elapsed_time(&ms, t->start, t->end));
	return ms;
}

/* Milliseconds of a copy down, all of it while others go up; 0: the machine was busy with something else meanwhile. */
static double copy_against(struct timed *t)
{
	struct cuda *cu = t->cu;
	int (*copying)(void) = (int (*)(void))sim_symbol(cu, "simcuda_copying");
	bool overlapped;
	float ms;

	for (int i = 0; i < 6; i++)
		ok(cu->memcpy_dtoh_async((char *)t->host + TIMED, t->device + TIMED, TIMED, t->stream[1]));
	while (!copying())
		usleep(100);
	ok(cu->event_record(t->start, t->stream[0]));
	ok(cu->memcpy_htod_async(t->device, t->host, TIMED, t->stream[0]));
	ok(cu->event_record(t->end, t->stream[0]));
	ok(cu->event_synchronize(t->end));
	overlapped = cu->stream_query(t->stream[1]) == CU_E_NOT_READY;
	ok(cu->ctx_synchronize());
	ok(cu->event_elapsed_time(&ms, t->start, t->end));
	return overlapped ? ms : 0;
}

/* Lower bounds only: a loaded machine may be slower than the links, never faster. */
START_TEST(a_link_is_never_faster_than_it_is)
{
	OWN_MEM void *pageable = malloc(TIMED);
	double against = 0;
	struct timed t;
	float ms;

	timed_start(&t, "set speed=1 overhead_us=100 duplex=0.5 pageable_gbps=0.5\ndevice gbps=1 bytes=64M\n");
	ck_assert_double_ge(timed_copy(&t), TIMED / 1e6);
	for (int i = 0; i < 50 && against == 0; i++)
		against = copy_against(&t);
	ck_assert_double_ge(against, 1.5 * TIMED / 1e6); /* both directions share */
	ok(t.cu->event_record(t.start, NULL));
	ok(t.cu->memcpy_htod(t.device, memset(pageable, 1, TIMED), TIMED));
	ok(t.cu->event_record(t.end, NULL));
	ok(t.cu->event_synchronize(t.end));
	ok(t.cu->event_elapsed_time(&ms, t.start, t.end));
	ck_assert_double_ge(ms, 2 * TIMED / 1e6);
	cuda_free(&t.cu);
}
END_TEST

START_TEST(devices_below_a_switch_share_its_uplink)
{
	static const char *const topology = "set speed=1\nswitch s0 gbps=1\ndevice gbps=20 bytes=64M switch=s0\n"
					    "device gbps=20 bytes=64M switch=s0\nnvlink 0 1 gbps=2\n";
	cu_context second;
	cu_stream s;
	struct timed t;
	struct cuda *cu;
	cu_ptr d;
	float ms;

	timed_start(&t, topology);
	cu = t.cu;
	ok(cu->ctx_create(&second, 0, 1));
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	ok(cu->mem_alloc(&d, TIMED));
	ok(cu->event_record(t.start, t.stream[0]));
	ok(cu->event_synchronize(t.start)); /* before either begins */
	ok(cu->memcpy_htod_async(d, t.host, TIMED, s)); /* to the other device */
	ok(cu->memcpy_htod_async(t.device, t.host, TIMED, t.stream[0]));
	ok(cu->stream_synchronize(s));
	ok(cu->event_record(t.end, t.stream[0])); /* behind both */
	ok(cu->event_synchronize(t.end));
	ok(cu->event_elapsed_time(&ms, t.start, t.end));
	ck_assert_double_ge(ms, 1.9 * TIMED / 1e6);
	ok(cu->event_record(t.start, t.stream[1]));
	ok(cu->memcpy_dtod_async(d, t.device, TIMED, t.stream[1])); /* not over the switch */
	ok(cu->event_record(t.end, t.stream[1]));
	ok(cu->event_synchronize(t.end));
	ok(cu->event_elapsed_time(&ms, t.start, t.end));
	ck_assert_double_ge(ms, TIMED / 2e6 - 0.1);
	cuda_free(&t.cu);
}
END_TEST

START_TEST(copies_down_take_turns_on_one_engine)
{
	struct timed t;
	struct cuda *cu;
	struct gate *g;
	cu_event done[4];
	float ms;

	timed_start(&t, "set speed=1\ndevice gbps=2 bytes=64M\n");
	cu = t.cu;
	g = gate_new(cu);
	for (int i = 0; i < 4; i++)
		ok(cu->event_create(&done[i], 0));
	/* Three copies in stream 0 and one in stream 1, which comes when the first of them runs: it waits for all three. */
	gate_close(cu, g, t.stream[0]);
	for (int i = 0; i < 3; i++)
		ok(cu->memcpy_htod_async(t.device, t.host, TIMED, t.stream[0]));
	ok(cu->event_record(done[0], t.stream[0]));
	ok(cu->event_record(t.start, t.stream[1]));
	ok(cu->event_synchronize(t.start));
	gate_open(g);
	while (!SIM_CONTROL(cu, simcuda_copying, simcuda_copying)())
		usleep(100);
	ok(cu->memcpy_htod_async(t.device + TIMED, t.host, 4096, t.stream[1]));
	ok(cu->event_record(done[1], t.stream[1]));
	ok(cu->ctx_synchronize());
	ok(cu->event_elapsed_time(&ms, done[0], done[1]));
	ck_assert_msg(ms >= -0.5, "the small copy overtook by %f ms", (double)-ms);
	cuda_free(&t.cu);
}
END_TEST

static void streams(Suite *s)
{
	UNIT_CASE(s, "streams", a_stream_works_behind_its_callers_back_and_in_order,
		a_copy_of_unregistered_memory_waits_for_itself, a_stream_waits_for_an_event_of_another,
		an_event_stands_for_its_last_record_whichever_ends_last, the_null_stream_is_a_fence_for_blocking_streams,
		an_engine_is_not_kept_for_a_stream_that_has_to_wait, an_engine_is_not_kept_for_a_copy_that_fails,
		host_functions_run_in_order_and_must_not_call,
		a_batch_copies_all_or_says_which_not);
}

static void words(Suite *s)
{
	UNIT_CASE(s, "words", words_are_compared_as_documented, a_store_wakes_on_host_memory_but_not_on_device_memory);
}

static void ends(Suite *s)
{
	UNIT_CASE(s, "ends", freeing_waits_for_queued_work_and_unmapped_work_is_an_error,
		a_destroyed_context_ends_what_waits, a_destroyed_stream_finishes_its_work);
}

static void links(Suite *s)
{
	UNIT_CASE(s, "links", peers_are_who_share_a_switch_or_an_nvlink, a_link_is_never_faster_than_it_is,
		devices_below_a_switch_share_its_uplink, copies_down_take_turns_on_one_engine);
}

SIM_MAIN("simcuda_stream", streams, words, ends, links)
