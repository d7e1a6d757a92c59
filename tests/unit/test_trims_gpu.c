/* test_trims_gpu.c - the GPU half of libtrims against a daemon that behaves and the simulated driver: addresses, contexts,
 * sharing, streams that wait, private copies, both exports, death and reconnecting, threads, fork.
 * Every test ends with the device bytes, descriptors and threads it began with. */
#include "tests/unit/gpu_fixture.h"

static void setup_of(uint32_t kind)
{
	gpu_setup(kind);
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}

static void setup_vmm(void)
{
	setup_of(GPU_HANDLE_VMM_FD);
}

static void setup_ipc(void)
{
	setup_of(GPU_HANDLE_CUDA_IPC);
}

static void settle(void)
{
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0);
}

static void teardown(void)
{
	settle();
	ck_assert_int_eq(fake.leases, 0);
	trims_disconnect(&conn);
	gpu_check_clean("the test");
	gpu_teardown();
}

static int try_open(const char *name, uint32_t flags, const char *device, trims_model **out)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU, .flags = flags, .device = device};
	*out = NULL;
	return trims_open(conn, name, &o, out);
}

static trims_model *opened(const char *name, uint32_t flags)
{
	trims_model *m;
	ck_assert_msg(try_open(name, flags, NULL, &m) == 0, "%s", trims_last_error()->text);
	return m;
}

static trims_model *loading(void)
{
	return opened("m1", TRIMS_OPEN_NO_WAIT);
}

static struct trims_info info_of(trims_model *m)
{
	struct trims_info info = {.size = sizeof info};
	ck_assert_int_eq(trims_info(m, &info), 0);
	return info;
}

static void check_bytes(trims_model *m, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct trims_tensor t;
		uint8_t back[FAKE_TENSORS_MAX * 10];
		ck_assert_msg(trims_tensor(m, i, &t) == 0, "%s", trims_last_error()->text);
		ck_assert_int_eq(trims_read(m, i, 0, back, t.bytes), 0);
		for (uint64_t b = 0; b < t.bytes; b++)
			ck_assert_uint_eq(back[b], i);
	}
}

/* ---- opening ---- */

START_TEST(a_model_on_a_gpu_has_device_addresses)
{
	struct trims_tensor t, first;
	uint8_t byte[1];
	trims_model *m = opened("m0", 0);
	check_bytes(m, 12);
	ck_assert_int_eq(trims_tensor(m, 0, &first), 0);
	for (uint32_t i = 0; i < 12; i++) {
		ck_assert_int_eq(trims_tensor(m, i, &t), 0);
		ck_assert_uint_eq((uintptr_t)t.data - (uintptr_t)first.data,
			i / 4 * FAKE_GPU_BYTES + i % 4 * FAKE_TENSOR_STRIDE);
	}
	struct trims_info info = info_of(m);
	ck_assert_uint_eq(info.tier, TRIMS_TIER_GPU);
	ck_assert_uint_eq(info.export_kind, TRIMS_EXPORT_VMM_FD);
	ck_assert_uint_eq(info.stream_wait, TRIMS_STREAM_WAIT_NONE);
	ck_assert_uint_eq(info.simulated, 1);
	ck_assert_uint_eq(info.leased, 1);
	ck_assert_str_eq(info.device, gpu.uuid);
	ck_assert_int_eq(trims_read(m, 0, 5, byte, 6), -TRIMS_E_BAD_REQUEST);
	ck_assert_int_eq(trims_read(m, 0, UINT64_MAX, byte, 1), -TRIMS_E_BAD_REQUEST);
	trims_close(&m);
	ck_assert_str_eq(gpu.text, "");
	ck_assert_uint_eq(gpu.good, 1);
	ck_assert_uint_eq(gpu.attach.u.attach.exports, 3);
	ck_assert_uint_eq(gpu.attach.u.attach.simulated, 1);
	ck_assert_uint_eq(gpu.attach.u.attach.pid, (uint32_t)getpid());
	ck_assert_ptr_nonnull(strstr(gpu.attach.u.attach.devices, gpu.uuid));
	ck_assert_uint_eq(strlen(gpu.attach.u.attach.devices), 2 * (CUDA_UUID_TEXT - 1) + 1);
}
END_TEST

START_TEST(a_connection_attaches_once_and_a_copy_is_mapped_once)
{
	struct trims_tensor x, y;
	trims_model *a = opened("m0", 0);
	uint64_t imports = fake_gpu_calls("cuMemImportFromShareableHandle");
	unsigned fds = open_fds();
	trims_model *b = opened("m0", 0);
	ck_assert_uint_eq(fake_gpu_calls("cuMemImportFromShareableHandle"), imports);
	ck_assert_uint_eq(open_fds(), fds);
	trims_model *c = opened("m2", 0);
	ck_assert_uint_eq(fake_gpu_calls("cuMemImportFromShareableHandle"), imports + 1);
	ck_assert_int_eq(gpu.attaches, 1);
	ck_assert_int_eq(trims_tensor(a, 3, &x), 0);
	ck_assert_int_eq(trims_tensor(b, 3, &y), 0);
	ck_assert_ptr_eq(x.data, y.data);
	trims_close(&a);
	check_bytes(b, 12);
	trims_close(&b);
	trims_close(&c);
	ck_assert_uint_eq(fake_gpu_calls("cuMemRelease"), fake_gpu_calls("cuMemImportFromShareableHandle") +
		fake_gpu_calls("cuMemCreate"));
}
END_TEST

START_TEST(what_is_shared_cannot_be_written)
{
	struct trims_tensor t;
	trims_model *m = opened("m0", 0);
	ck_assert_int_eq(trims_tensor(m, 1, &t), 0);
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	ck_assert_int_ne(gpu.cu->memset_d8((uintptr_t)t.data, 0xff, 1), CU_OK);
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	check_bytes(m, 12);
	trims_close(&m);
}
END_TEST

START_TEST(a_device_is_found_by_its_uuid)
{
	trims_model *m;
	ck_assert_int_eq(try_open("m0", 0, gpu.uuid, &m), 0);
	trims_close(&m);
	ck_assert_int_eq(trims_open(conn, "m0", &(struct trims_open_options){.size = sizeof(struct trims_open_options)}, &m), 0);
	ck_assert_uint_eq(info_of(m).tier, TRIMS_TIER_HOST);
	ck_assert_int_eq(trims_wait_stream(m, 0, NULL), -TRIMS_E_BAD_REQUEST);
	void *p;
	ck_assert_int_eq(trims_private(m, 0, &p), -TRIMS_E_BAD_REQUEST);
	check_bytes(m, 12); /* trims_read() reads any tier */
	trims_close(&m);
}
END_TEST

START_TEST(without_a_driver_only_gpus_are_missing)
{
	trims_model *m;
	setenv("TRIMS_CUDA_DRIVER", "/nowhere/libcuda.so.1", 1);
	ck_assert_int_eq(try_open("m0", 0, NULL, &m), -TRIMS_E_NO_TIER);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "/nowhere/libcuda.so.1"));
	ck_assert_int_eq(gpu.attaches, 0);
	ck_assert_int_eq(trims_open(conn, "m0", NULL, &m), 0);
	trims_close(&m);
	setenv("TRIMS_CUDA_DRIVER", SIMCUDA_LIBRARY, 1);
	m = opened("m0", 0);
	trims_close(&m);
}
END_TEST

/* ---- contexts ---- */

static int primary_is_active(int device)
{
	unsigned flags;
	int active;
	FAKE_CU(gpu.cu->primary_ctx_get_state(device, &flags, &active));
	return active;
}

START_TEST(the_callers_context_is_used_and_stays_current)
{
	cu_context mine, other;
	FAKE_CU(gpu.cu->ctx_create(&other, 0, 1));
	FAKE_CU(gpu.cu->ctx_create(&mine, 0, 0));
	ck_assert_ptr_eq(gpu_current(), mine);
	uint64_t retained = fake_gpu_calls("cuDevicePrimaryCtxRetain");
	trims_model *m = loading();
	ck_assert_ptr_eq(gpu_current(), mine);
	ck_assert_int_eq(trims_wait_stream(m, 0, NULL), 0);
	fake_gpu_end(&copies[1], 0);
	FAKE_CU(gpu.cu->ctx_synchronize());
	trims_close(&m);
	trims_disconnect(&conn);
	ck_assert_ptr_eq(gpu_current(), mine);
	ck_assert_uint_eq(fake_gpu_calls("cuDevicePrimaryCtxRetain"), retained);

	/* One of another device is put aside and comes back. */
	FAKE_CU(gpu.cu->ctx_set_current(other));
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	m = opened("m0", 0);
	check_bytes(m, 12);
	ck_assert_ptr_eq(gpu_current(), other);
	trims_close(&m);
	trims_disconnect(&conn);
	ck_assert_ptr_eq(gpu_current(), other);
	ck_assert_uint_gt(fake_gpu_calls("cuDevicePrimaryCtxRetain"), retained);
	ck_assert_uint_eq(fake_gpu_calls("cuDevicePrimaryCtxRelease"), fake_gpu_calls("cuDevicePrimaryCtxRetain") - 1);
	ck_assert_int_eq(primary_is_active(1), 0);
	FAKE_CU(gpu.cu->ctx_destroy(mine));
	FAKE_CU(gpu.cu->ctx_destroy(other));
	FAKE_CU(gpu.cu->ctx_set_current(NULL));
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}
END_TEST

START_TEST(ipc_handles_are_opened_once_and_in_one_context)
{
	cu_context mine, popped;
	trims_model *a = opened("m0", 0), *b, *c;
	ck_assert_uint_eq(info_of(a).export_kind, TRIMS_EXPORT_CUDA_IPC);
	check_bytes(a, 12);
	uint64_t opens = fake_gpu_calls("cuIpcOpenMemHandle");
	b = opened("m0", 0);
	ck_assert_uint_eq(fake_gpu_calls("cuIpcOpenMemHandle"), opens);
	FAKE_CU(gpu.cu->ctx_create(&mine, 0, 0));
	ck_assert_int_eq(try_open("m0", 0, NULL, &c), -TRIMS_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "another context"));
	ck_assert_int_eq(try_open("m2", 0, NULL, &c), 0); /* another copy may be */
	check_bytes(b, 12); /* read in the other context */
	trims_close(&a);
	trims_close(&b); /* closed in the one it was opened in */
	ck_assert_ptr_eq(gpu_current(), mine);
	ck_assert_int_eq(try_open("m0", 0, NULL, &a), 0); /* now it may be here */
	FAKE_CU(gpu.cu->ctx_pop_current(&popped));
	trims_close(&c);
	trims_close(&a);
	ck_assert_ptr_null(gpu_current());
	trims_disconnect(&conn);
	FAKE_CU(gpu.cu->ctx_destroy(mine));
	ck_assert_uint_eq(fake_gpu_calls("cuIpcOpenMemHandle"), fake_gpu_calls("cuIpcCloseMemHandle"));
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}
END_TEST

START_TEST(ones_own_ipc_handle_is_refused_with_a_reason)
{
	const struct fake_piece p = {.bytes = FAKE_GPU_BYTES};
	struct fake_gpu_memory own = {0};
	uint8_t *content = malloc(FAKE_GPU_BYTES);
	trims_model *m;
	fake_gpu_pattern(content);
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	fake_gpu_add(gpu.cu, &own, GPU_HANDLE_CUDA_IPC, 1, &p, content);
	ck_assert_int_eq(pwrite(gpu.canary.records, own.handle, sizeof own.handle[0], 0), sizeof own.handle[0]);
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	ck_assert_int_eq(try_open("m0", 0, NULL, &m), -TRIMS_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(gpu.text, "a process cannot open its own handles"));
	ck_assert_uint_eq(gpu.good, 0);
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->mem_free(own.at[0]));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	free(content);
}
END_TEST

/* ---- waiting ---- */

struct stream {
	cu_stream s;
	uint8_t *got; /* pinned: a copy to other memory would wait by itself */
};

/* A stream of the caller, which copies a tensor's first byte behind what it is made to wait for. */
static void stream_begin(struct stream *s, trims_model *m, uint32_t index)
{
	struct trims_tensor t;
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->mem_host_alloc((void **)&s->got, 1, 0));
	*s->got = 0xee;
	FAKE_CU(gpu.cu->stream_create(&s->s, CU_STREAM_NO_NULL_SYNC));
	ck_assert_int_eq(trims_tensor(m, index == TRIMS_ALL_TENSORS ? 0 : index, &t), 0);
	ck_assert_msg(trims_wait_stream(m, index, s->s) == 0, "%s", trims_last_error()->text);
	FAKE_CU(gpu.cu->memcpy_dtoh_async(s->got, (uintptr_t)t.data, 1, s->s));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
}

static cu_result stream_look(struct stream *s)
{
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	cu_result r = gpu.cu->stream_query(s->s);
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	return r;
}

/* What it has copied. */
static uint8_t stream_end(struct stream *s)
{
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->stream_synchronize(s->s));
	FAKE_CU(gpu.cu->stream_destroy(s->s));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	return *s->got; /* which is not freed: that would wait for every stream */
}

START_TEST(a_stream_waits_for_a_tensor_and_for_all)
{
	struct stream one, two, all;
	trims_model *m = loading();
	ck_assert_uint_eq(info_of(m).stream_wait, TRIMS_STREAM_WAIT_GPU);
	ck_assert_str_eq(info_of(m).note, "");
	stream_begin(&one, m, 0);
	stream_begin(&two, m, 2);
	stream_begin(&all, m, TRIMS_ALL_TENSORS);
	fake_gpu_land(&copies[1], 0, 0, 9);
	ck_assert_int_eq(stream_look(&one), CU_E_NOT_READY);
	fake_gpu_land(&copies[1], 0, 0, 10);
	ck_assert_uint_eq(stream_end(&one), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 0, 0), 0);
	ck_assert_int_eq(stream_look(&two), CU_E_NOT_READY);
	fake_gpu_land(&copies[1], 0, 1, 2 * FAKE_TENSOR_STRIDE);
	ck_assert_uint_eq(stream_end(&two), 2);
	ck_assert_int_eq(stream_look(&all), CU_E_NOT_READY);
	fake_gpu_land(&copies[1], 0, 0, 2 * FAKE_TENSOR_STRIDE);
	stream_end(&all);
	ck_assert_int_eq(trims_wait(m, 0), 0);
	ck_assert_int_eq(trims_wait_stream(m, 3, NULL), 0); /* there is nothing of it to wait for */
	fake_ready(&copies[1]);
	ck_assert_int_eq(trims_wait(m, 0), 0);
	ck_assert_int_eq(trims_wait_stream(m, TRIMS_ALL_TENSORS, NULL), 0);
	ck_assert_int_eq(trims_wait_stream(m, 4, NULL), -TRIMS_E_NO_TENSOR);
	trims_close(&m);
}
END_TEST

START_TEST(a_stream_that_is_captured_does_not_wait_and_its_capture_goes_on)
{
	cu_graph graph;
	cu_stream s;
	trims_model *m = loading();
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	FAKE_CU(gpu.cu->stream_begin_capture(s, CU_CAPTURE_THREAD));
	ck_assert_int_eq(trims_wait_stream(m, 0, s), -TRIMS_E_BAD_REQUEST);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "before the capture"));
	fake_gpu_land(&copies[1], 0, 0, 2 * FAKE_TENSOR_STRIDE);
	fake_gpu_land(&copies[1], 0, 1, 2 * FAKE_TENSOR_STRIDE);
	fake_ready(&copies[1]);
	ck_assert_int_eq(trims_wait_stream(m, 0, s), 0); /* nothing is left to wait for */
	FAKE_CU(gpu.cu->stream_end_capture(s, &graph));
	FAKE_CU(gpu.cu->graph_destroy(graph));
	FAKE_CU(gpu.cu->stream_destroy(s));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	trims_close(&m);
}
END_TEST

/* All that a client calls, while this thread or another one captures. */
static void *use_models(void *ignored)
{
	void *p;
	trims_model *m = opened("m0", 0), *n = loading();
	ck_assert_uint_eq(info_of(n).stream_wait, TRIMS_STREAM_WAIT_GPU);
	check_bytes(m, 1);
	ck_assert_msg(trims_private(m, 1, &p) == 0, "%s", trims_last_error()->text);
	trims_close(&n);
	trims_close(&m);
	return ignored;
}

START_TEST(what_somebody_captures_is_not_spoilt)
{
	const bool here = _i & 1, all_mind = _i & 2;
	cu_graph graph;
	cu_stream s;
	pthread_t thread;
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	FAKE_CU(gpu.cu->stream_begin_capture(s, all_mind ? CU_CAPTURE_GLOBAL : CU_CAPTURE_THREAD));
	if (here) {
		use_models(NULL);
	} else {
		ck_assert_int_eq(pthread_create(&thread, NULL, use_models, NULL), 0);
		pthread_join(thread, NULL);
	}
	FAKE_CU(gpu.cu->stream_end_capture(s, &graph));
	FAKE_CU(gpu.cu->graph_destroy(graph));
	FAKE_CU(gpu.cu->stream_destroy(s));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
}
END_TEST

START_TEST(a_stream_of_another_device_can_wait_as_well)
{
	cu_context other;
	cu_stream s;
	trims_model *m = loading();
	FAKE_CU(gpu.cu->ctx_create(&other, 0, 1));
	FAKE_CU(gpu.cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	FAKE_CU(gpu.cu->ctx_pop_current(&other));
	ck_assert_int_eq(trims_wait_stream(m, 0, s), 0);
	ck_assert_ptr_null(gpu_current());
	FAKE_CU(gpu.cu->ctx_push_current(other));
	ck_assert_int_eq(gpu.cu->stream_query(s), CU_E_NOT_READY);
	fake_gpu_land(&copies[1], 0, 0, 10);
	FAKE_CU(gpu.cu->stream_synchronize(s));
	FAKE_CU(gpu.cu->stream_destroy(s));
	trims_close(&m);
	FAKE_CU(gpu.cu->ctx_destroy(other));
	FAKE_CU(gpu.cu->ctx_set_current(NULL));
}
END_TEST

START_TEST(a_failed_load_lets_the_stream_go_and_the_wait_says_why)
{
	struct stream s;
	trims_model *m = loading();
	stream_begin(&s, m, 1);
	fake_poison(&copies[1], TRIMS_E_MISMATCH, "chunk 1 does not match");
	fake_gpu_end(&copies[1], 0);
	stream_end(&s);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_wait_stream(m, 1, NULL), -TRIMS_E_MISMATCH);
	trims_close(&m);
}
END_TEST

START_TEST(a_dead_daemon_lets_every_stream_go)
{
	struct stream tensor, all;
	struct trims_tensor t;
	trims_model *m = loading(), *ready = opened("m0", 0);
	fake_gpu_land(&copies[1], 0, 0, 10);
	stream_begin(&tensor, m, 2);
	stream_begin(&all, m, TRIMS_ALL_TENSORS);
	fake_stop(&fake);
	stream_end(&tensor);
	stream_end(&all);
	ck_assert_int_eq(trims_wait_tensor(m, 0, 0), 0); /* it had come */
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(trims_wait_stream(m, 2, NULL), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(trims_wait_stream(ready, TRIMS_ALL_TENSORS, NULL), 0);
	ck_assert_int_eq(trims_tensor(ready, 0, &t), 0);
	check_bytes(ready, 12); /* memory of vmm-fd stays */
	ck_assert_uint_eq(info_of(ready).leased, 0);
	trims_close(&m);
	trims_close(&ready);
	fake.leases = 0; /* that daemon's */
	fake_start(&fake, fake_gpu_serve, copies, ARRAY_LEN(copies));
	ck_assert_int_eq(trims_reconnect(conn), 0);
}
END_TEST

START_TEST(disconnecting_lets_every_stream_go)
{
	struct stream s;
	trims_model *m = loading();
	stream_begin(&s, m, TRIMS_ALL_TENSORS);
	trims_disconnect(&conn);
	stream_end(&s);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_DISCONNECTED);
	trims_close(&m);
	fake.leases--; /* it went with the connection */
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}
END_TEST

static void *land_all(void *arg)
{
	fake_gpu_land(&copies[1], 0, 0, 2 * FAKE_TENSOR_STRIDE);
	fake_gpu_land(&copies[1], 0, 1, 2 * FAKE_TENSOR_STRIDE);
	fake_ready(&copies[1]);
	return NULL;
}

/* What may keep a stream from waiting; each must be told. */
static const char *const no_waits[] = {"cuStreamWaitValue64=801", "cuMemHostRegister=1", "cuMemHostGetDevicePointer=1",
	"cuStreamCreate:2=2"};

START_TEST(where_streams_cannot_wait_the_call_does)
{
	pthread_t thread;
	struct stream s;
	fake_gpu_script(no_waits[_i]);
	trims_model *m = loading();
	struct trims_info info = info_of(m);
	ck_assert_uint_eq(info.stream_wait, TRIMS_STREAM_WAIT_CPU);
	ck_assert_ptr_eq(strstr(info.note, "wait-on-cpu: "), info.note);
	ck_assert_ptr_nonnull(strstr(info.note, "CUDA_ERROR_"));
	pthread_create(&thread, NULL, land_all, NULL);
	stream_begin(&s, m, TRIMS_ALL_TENSORS);
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), 0); /* when the call has returned, the bytes are there */
	pthread_join(thread, NULL);
	stream_end(&s);
	fake_gpu_script("");
	trims_close(&m);
}
END_TEST

/* On such a driver nothing may be left behind that waits for ever: whatever frees memory would wait with it. */
START_TEST(where_the_cpu_wakes_no_stream_none_is_left_waiting)
{
	struct trims_tensor t;
	void *p;
	SIMCUDA(void (*)(int), "simcuda_deafen")(1);
	trims_model *m = loading();
	ck_assert_uint_eq(info_of(m).stream_wait, TRIMS_STREAM_WAIT_CPU);
	ck_assert_ptr_nonnull(strstr(info_of(m).note, "does not wake"));
	ck_assert_int_eq(SIMCUDA(int (*)(void), "simcuda_waiting")(), 0);
	fake_gpu_land(&copies[1], 0, 0, 2 * FAKE_TENSOR_STRIDE);
	ck_assert_int_eq(trims_tensor(m, 0, &t), 0);
	ck_assert_int_eq(trims_private(m, 0, &p), 0); /* which is freed with the model */
	trims_close(&m);
	SIMCUDA(void (*)(int), "simcuda_deafen")(0);
}
END_TEST

START_TEST(without_a_slot_the_call_waits)
{
	gpu.slot = FAKE_GPU_SLOTS;
	trims_model *m = loading();
	ck_assert_uint_eq(info_of(m).stream_wait, TRIMS_STREAM_WAIT_CPU);
	ck_assert_ptr_nonnull(strstr(info_of(m).note, "no slot"));
	fake_ready(&copies[1]);
	ck_assert_int_eq(trims_wait_stream(m, TRIMS_ALL_TENSORS, NULL), 0);
	trims_close(&m);
}
END_TEST

START_TEST(the_watchdog_comes_with_the_first_gpu_and_goes_with_the_connection)
{
	ck_assert(watchdogs_gone());
	trims_model *m = opened("m0", 0), *n = opened("m2", 0);
	ck_assert_uint_eq(watchdogs(), 1);
	trims_close(&m);
	trims_close(&n);
	ck_assert_uint_eq(watchdogs(), 1);
	trims_disconnect(&conn);
	ck_assert(watchdogs_gone());
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}
END_TEST

/* ---- private copies ---- */

START_TEST(a_private_copy_may_be_written)
{
	void *p, *again, *other, *empty;
	uint8_t byte;
	trims_model *m = opened("m0", 0), *second = opened("m0", 0);
	ck_assert_int_eq(trims_private(m, 3, &p), 0);
	ck_assert_int_eq(trims_private(m, 3, &again), 0);
	ck_assert_ptr_eq(p, again);
	ck_assert_int_eq(trims_private(second, 3, &other), 0);
	ck_assert_ptr_ne(p, other);
	ck_assert_int_eq(trims_private(m, 11, &empty), 0);
	ck_assert_int_eq(trims_private(m, 12, &empty), -TRIMS_E_NO_TENSOR);
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->memcpy_dtoh(&byte, (uintptr_t)p, 1));
	ck_assert_uint_eq(byte, 3);
	FAKE_CU(gpu.cu->memset_d8((uintptr_t)p, 0x55, 40));
	FAKE_CU(gpu.cu->memcpy_dtoh(&byte, (uintptr_t)other, 1));
	ck_assert_uint_eq(byte, 3);
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	check_bytes(m, 12);
	trims_close(&m);
	trims_close(&second);
}
END_TEST

/* ---- the daemon comes back ---- */

static void restart(bool keeps)
{
	fake_stop(&fake);
	fake.leases = 0;
	gpu.keeps = keeps;
	fake_start(&fake, fake_gpu_serve, copies, ARRAY_LEN(copies));
}

START_TEST(leases_are_claimed_from_the_same_daemon_come_back)
{
	struct trims_open_options host = {.size = sizeof host, .tier = TRIMS_TIER_HOST};
	trims_model *a = opened("m0", 0), *b = opened("m2", 0), *arriving = loading(), *h;
	ck_assert_int_eq(trims_open(conn, "m0", &host, &h), 0);
	restart(true);
	ck_assert_uint_eq(info_of(a).leased, 0);
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(gpu.claims, 3); /* not the one that had not arrived */
	ck_assert_int_eq(gpu.attaches, 2);
	ck_assert_int_eq(fake.leases, 3);
	ck_assert_uint_eq(info_of(a).leased, 1);
	ck_assert_uint_eq(info_of(b).leased, 1);
	ck_assert_uint_eq(info_of(h).leased, 1);
	ck_assert_uint_eq(info_of(arriving).leased, 0);
	check_bytes(a, 12);
	ck_assert_int_eq(trims_wait(arriving, 0), -TRIMS_E_DISCONNECTED);
	trims_close(&arriving);
	trims_close(&a);
	trims_close(&b);
	trims_close(&h);
}
END_TEST

START_TEST(without_a_lease_memory_stays_all_the_same)
{
	trims_model *a = opened("m0", 0);
	restart(false);
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(gpu.claims, 1);
	ck_assert_uint_eq(info_of(a).leased, 0);
	check_bytes(a, 12);
	fake.identity++;
	restart(true);
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(gpu.claims, 1); /* another daemon is not asked */
	check_bytes(a, 12);
	trims_close(&a);
}
END_TEST

START_TEST(ipc_memory_ends_with_the_daemon)
{
	struct trims_tensor t;
	struct stream s;
	trims_model *a = opened("m0", 0), *m = loading();
	ck_assert_int_eq(trims_tensor(a, 0, &t), 0);
	stream_begin(&s, m, TRIMS_ALL_TENSORS);
	restart(true);
	stream_end(&s);
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(gpu.claims, 0);
	ck_assert_int_eq(trims_tensor(a, 0, &t), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(trims_wait(a, 0), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_CONN);
	ck_assert_int_eq(trims_wait_stream(a, TRIMS_ALL_TENSORS, NULL), -TRIMS_E_DISCONNECTED);
	trims_close(&m);
	trims_close(&a);
	a = opened("m0", 0);
	check_bytes(a, 12);
	trims_close(&a);
}
END_TEST

/* ---- threads and processes ---- */

static void *open_and_close(void *arg)
{
	for (int i = 0; i < 20; i++) {
		trims_model *m = opened(i % 2 ? "m0" : "m2", 0);
		void *p;
		check_bytes(m, i % 2 ? 12 : 1);
		ck_assert_int_eq(trims_private(m, 0, &p), 0);
		trims_close(&m);
	}
	return NULL;
}

START_TEST(threads_share_a_connection)
{
	pthread_t thread[4];
	for (size_t i = 0; i < ARRAY_LEN(thread); i++)
		pthread_create(&thread[i], NULL, open_and_close, NULL);
	for (size_t i = 0; i < ARRAY_LEN(thread); i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(gpu.attaches, 1);
}
END_TEST

START_TEST(a_forked_child_is_told_that_drivers_do_not_survive_it)
{
#ifdef UNIT_THREAD_SANITIZER
	return; /* it knows nothing of close_range(), and takes the child's connection for one that is in use */
#endif
	trims_model *m = opened("m0", 0), *n = NULL;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		trims_conn *own = NULL;
		struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU};
		bool good = trims_connect(fake.path, NULL, &own) == 0 && trims_open(own, "m0", &o, &n) == -TRIMS_E_UNSUPPORTED &&
			strstr(trims_last_error()->text, "forked") && trims_open(own, "m0", NULL, &n) == 0 &&
			trims_open(conn, "m0", &o, &n) == -TRIMS_E_DISCONNECTED;
		trims_close(&m);
		trims_disconnect(&conn);
		_exit(good ? 0 : 1);
	}
	int status;
	waitpid(child, &status, 0);
	ck_assert_int_eq(status, 0);
	fake.leases--; /* the child's */
	check_bytes(m, 12);
	trims_close(&m);
}
END_TEST

static void with(Suite *s, const char *name, void (*setup)(void), const TTest *const *tests, size_t n)
{
	TCase *c = tcase_create(name);
	tcase_add_checked_fixture(c, setup, teardown);
	for (size_t i = 0; i < n; i++)
		tcase_add_test(c, tests[i]);
	if (setup == setup_vmm)
		tcase_add_loop_test(c, where_streams_cannot_wait_the_call_does, 0, ARRAY_LEN(no_waits));
	if (setup == setup_vmm)
		tcase_add_loop_test(c, what_somebody_captures_is_not_spoilt, 0, 4);
	suite_add_tcase(s, c);
}

static void trims_gpu(Suite *s)
{
	const TTest *const vmm[] = {a_model_on_a_gpu_has_device_addresses, a_connection_attaches_once_and_a_copy_is_mapped_once,
		what_is_shared_cannot_be_written, a_device_is_found_by_its_uuid, without_a_driver_only_gpus_are_missing,
		the_callers_context_is_used_and_stays_current, a_stream_waits_for_a_tensor_and_for_all,
		a_stream_that_is_captured_does_not_wait_and_its_capture_goes_on,
		a_stream_of_another_device_can_wait_as_well, a_failed_load_lets_the_stream_go_and_the_wait_says_why,
		a_dead_daemon_lets_every_stream_go, disconnecting_lets_every_stream_go, without_a_slot_the_call_waits,
		where_the_cpu_wakes_no_stream_none_is_left_waiting,
		the_watchdog_comes_with_the_first_gpu_and_goes_with_the_connection, a_private_copy_may_be_written,
		leases_are_claimed_from_the_same_daemon_come_back, without_a_lease_memory_stays_all_the_same,
		threads_share_a_connection, a_forked_child_is_told_that_drivers_do_not_survive_it};
	const TTest *const ipc[] = {ipc_handles_are_opened_once_and_in_one_context,
		ones_own_ipc_handle_is_refused_with_a_reason, ipc_memory_ends_with_the_daemon, threads_share_a_connection};
	with(s, "vmm-fd", setup_vmm, vmm, ARRAY_LEN(vmm));
	with(s, "cuda-ipc", setup_ipc, ipc, ARRAY_LEN(ipc));
}

UNIT_MAIN("trims_gpu", trims_gpu)
