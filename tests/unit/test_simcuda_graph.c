/* test_simcuda_graph.c - captured work under the simulated driver, the kernels of trims-run as such, and what bad ones do. */
#include "tests/unit/simcuda_fixture.h"
#include "tools/run/kernels.h"

#include "tools/simcuda/simcuda.h"

#include <pthread.h>

#define WORDS 1024

static struct cuda *cu;
static cu_stream stream;
static cu_ptr from, to;
static uint64_t words[WORDS], got[WORDS];

static void bench_new(void)
{
	cu = sim_start();
	ok(cu->stream_create(&stream, CU_STREAM_NO_NULL_SYNC));
	ok(cu->mem_alloc(&from, sizeof words));
	ok(cu->mem_alloc(&to, sizeof words));
	sim_pattern(words, sizeof words, 3);
	ok(cu->memcpy_htod(from, words, sizeof words));
}

/* Zeros behind the first half, which comes from `from`. */
static cu_graph_exec half_copy(void)
{
	cu_graph graph, none;
	cu_graph_exec exec;

	ok(cu->stream_begin_capture(stream, CU_CAPTURE_THREAD));
	fails(cu->stream_begin_capture(stream, CU_CAPTURE_THREAD), CU_E_ILLEGAL_STATE);
	ok(cu->memset_d8_async(to, 0, sizeof words, stream));
	ok(cu->memcpy_dtod_async(to, from, sizeof words / 2, stream));
	ok(cu->stream_end_capture(stream, &graph));
	fails(cu->stream_end_capture(stream, &none), CU_E_ILLEGAL_STATE);
	fails(cu->graph_instantiate(&exec, graph, 1), CU_E_INVALID_VALUE);
	ok(cu->graph_instantiate(&exec, graph, 0));
	ok(cu->graph_destroy(graph));
	fails(cu->graph_destroy(graph), CU_E_INVALID_VALUE);
	return exec;
}

static void check_half(uint64_t seed)
{
	ok(cu->stream_synchronize(stream));
	ok(cu->memcpy_dtoh(got, to, sizeof got));
	ck_assert(sim_is_pattern(got, sizeof got / 2, seed));
	ck_assert_uint_eq(got[WORDS / 2], 0);
	ck_assert_uint_eq(got[WORDS - 1], 0);
}

START_TEST(a_graph_does_what_was_captured_each_time)
{
	bench_new();
	ok(cu->memset_d8(to, 0xff, sizeof words));
	cu_graph_exec exec = half_copy();
	ok(cu->memcpy_dtoh(got, to, sizeof got));
	ck_assert_uint_eq(got[0], UINT64_MAX); /* nothing ran */
	for (uint64_t seed = 4; seed < 7; seed++) {
		sim_pattern(words, sizeof words, seed);
		ok(cu->memcpy_htod(from, words, sizeof words));
		ok(cu->memset_d8(to, 0xff, sizeof words));
		ok(cu->graph_launch(exec, stream));
		check_half(seed);
	}
	ok(cu->graph_exec_destroy(exec));
	fails(cu->graph_launch(exec, stream), CU_E_INVALID_VALUE);
	fails(cu->graph_exec_destroy(exec), CU_E_INVALID_VALUE);
	ok(cu->stream_destroy(stream));
	cuda_free(&cu);
}
END_TEST

START_TEST(a_wait_that_was_captured_is_waited_for_each_time)
{
	cu_graph graph;
	cu_graph_exec exec;

	bench_new();
	ok(cu->memset_d8(to, 0, 8));
	ok(cu->stream_begin_capture(stream, CU_CAPTURE_THREAD));
	ok(cu->stream_wait_value_64(stream, to, 0, CU_WAIT_GEQ));
	ok(cu->stream_write_value_64(stream, to, 0xffffffffffffffff, 0));
	ok(cu->stream_end_capture(stream, &graph));
	ok(cu->graph_instantiate(&exec, graph, 0));
	ok(cu->graph_launch(exec, stream));
	ok(cu->stream_synchronize(stream));
	ok(cu->graph_launch(exec, stream)); /* it was there when it was captured, and is not now */
	sim_await_waiting(cu, 1);
	cu_stream other;
	ok(cu->stream_create(&other, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_write_value_64(other, to, 0, 0));
	ok(cu->stream_synchronize(stream));
	ok(cu->stream_destroy(other));
	ok(cu->graph_exec_destroy(exec));
	ok(cu->graph_destroy(graph));
	cuda_free(&cu);
}
END_TEST

START_TEST(what_cannot_be_captured_spoils_the_capture)
{
	cu_graph graph;
	cu_event event;

	bench_new();
	ok(cu->event_create(&event, 0));
	for (int i = 0; i < 5; i++) {
		cu_capture_status status;
		cu_ptr other;
		void *pinned;
		ok(cu->stream_begin_capture(stream, CU_CAPTURE_THREAD));
		ok(cu->memset_d8_async(to, 0, 8, stream));
		ok(cu->stream_is_capturing(stream, &status));
		ck_assert_uint_eq(status, CU_CAPTURE_ACTIVE);
		if (i == 0)
			fails(cu->stream_synchronize(stream), CU_E_STREAM_CAPTURE_UNSUPPORTED);
		else if (i == 1)
			fails(cu->event_record(event, stream), CU_E_STREAM_CAPTURE_UNSUPPORTED);
		else if (i == 2) /* a thread that captures may not call what may wait for other work */
			fails(cu->mem_alloc(&other, 4096), CU_E_STREAM_CAPTURE_UNSUPPORTED);
		else if (i == 3)
			fails(cu->mem_free(to), CU_E_STREAM_CAPTURE_UNSUPPORTED);
		else
			fails(cu->mem_host_alloc(&pinned, 4096, 0), CU_E_STREAM_CAPTURE_UNSUPPORTED);
		ok(cu->stream_is_capturing(stream, &status));
		ck_assert_uint_eq(status, CU_CAPTURE_BROKEN);
		fails(cu->memset_d8_async(to, 0, 8, stream), CU_E_STREAM_CAPTURE_UNSUPPORTED);
		fails(cu->stream_end_capture(stream, &graph), CU_E_STREAM_CAPTURE_INVALIDATED);
	}
	fails(cu->stream_begin_capture(NULL, CU_CAPTURE_THREAD), CU_E_STREAM_CAPTURE_UNSUPPORTED);
	ok(cu->memset_d8_async(to, 0, 8, stream)); /* the stream is as before */
	ok(cu->stream_synchronize(stream));
	ok(cu->event_destroy(event));
	ok(cu->stream_begin_capture(stream, CU_CAPTURE_THREAD));
	ok(cu->memset_d8_async(to, 0, 8, stream));
	ok(cu->stream_destroy(stream)); /* and takes its capture along */
	cuda_free(&cu);
}
END_TEST

/* A call that gives memory, made beside a capture. */
struct beside {
	cu_context ctx;
	cu_capture_mode mode; /* the caller's */
	cu_result result;
};

static void *call_beside(void *arg)
{
	struct beside *b = arg;
	cu_capture_mode mode = b->mode;
	cu_ptr p;
	ok(cu->ctx_set_current(b->ctx));
	ok(cu->thread_exchange_capture_mode(&mode));
	ck_assert_uint_eq(mode, CU_CAPTURE_GLOBAL); /* until somebody says otherwise */
	b->result = cu->mem_alloc(&p, 4096);
	if (!b->result)
		ok(cu->mem_free(p));
	ok(cu->thread_exchange_capture_mode(&mode));
	ck_assert_uint_eq(mode, b->mode);
	return NULL;
}

START_TEST(captures_mind_what_threads_call_beside_them)
{
	static const struct {
		cu_capture_mode capture, caller;
		bool here, spoils;
	} rows[] = {
		{CU_CAPTURE_GLOBAL, CU_CAPTURE_GLOBAL, false, true}, {CU_CAPTURE_GLOBAL, CU_CAPTURE_THREAD, false, false},
		{CU_CAPTURE_GLOBAL, CU_CAPTURE_RELAXED, false, false}, {CU_CAPTURE_GLOBAL, CU_CAPTURE_RELAXED, true, false},
		{CU_CAPTURE_THREAD, CU_CAPTURE_GLOBAL, false, false}, {CU_CAPTURE_THREAD, CU_CAPTURE_GLOBAL, true, true},
		{CU_CAPTURE_THREAD, CU_CAPTURE_THREAD, true, true}, {CU_CAPTURE_THREAD, CU_CAPTURE_RELAXED, true, false},
		{CU_CAPTURE_RELAXED, CU_CAPTURE_GLOBAL, false, false}, {CU_CAPTURE_RELAXED, CU_CAPTURE_GLOBAL, true, false},
	};
	cu_capture_mode wrong = 3;
	bench_new();
	fails(cu->thread_exchange_capture_mode(&wrong), CU_E_INVALID_VALUE);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct beside b = {.mode = rows[i].caller};
		cu_graph graph;
		pthread_t thread;
		ok(cu->ctx_get_current(&b.ctx));
		ok(cu->stream_begin_capture(stream, rows[i].capture));
		if (rows[i].here)
			call_beside(&b);
		else
			ck_assert_int_eq(pthread_create(&thread, NULL, call_beside, &b), 0);
		if (!rows[i].here)
			pthread_join(thread, NULL);
		ck_assert_msg(b.result == (rows[i].spoils ? CU_E_STREAM_CAPTURE_UNSUPPORTED : CU_OK), "row %zu: %u", i, b.result);
		cu_result end = cu->stream_end_capture(stream, &graph);
		ck_assert_msg(end == (rows[i].spoils ? CU_E_STREAM_CAPTURE_INVALIDATED : CU_OK), "row %zu: %u", i, end);
		if (!end)
			ok(cu->graph_destroy(graph));
	}
	cuda_free(&cu);
}
END_TEST

/* ---- kernels of trims-run ---- */

static cu_function kernel_of(const char *name)
{
	cu_module module;
	cu_function function;

	ok(cu->module_load_data(&module, run_kernels_ptx));
	ok(cu->module_get_function(&function, module, name));
	return function;
}

static cu_result unit(cu_function f, uint64_t rows, unsigned grid, unsigned spread, unsigned block, cu_ptr x)
{
	struct kernel_unit k = {{rows, 3}, (const float *)(uintptr_t)x, (float *)(uintptr_t)to};
	void *arguments[] = {&k};

	return cu->launch_kernel(f, grid, spread, 1, block, 1, 1, 0, stream, arguments, NULL);
}

START_TEST(a_kernel_works_on_all_rows)
{
	const float x[] = {3, 0, 4, 0, 0, 2, 0, 0, 0}, want[] = {0.6f, 0, 0.8f, 0, 0, 1, 0, 0, 0};
	float y[9];

	bench_new();
	cu_function f = kernel_of("trims_run_unit");
	ok(cu->memcpy_htod(from, x, sizeof x));
	for (unsigned grid = 1; grid <= 4; grid++) {
		ok(cu->memset_d8(to, 0xff, sizeof y));
		ok(unit(f, 3, grid, 1, KERNEL_LANES, from));
		ok(cu->stream_synchronize(stream));
		ok(cu->memcpy_dtoh(y, to, sizeof y));
		for (int i = 0; i < 9; i++)
			ck_assert_float_eq_tol(y[i], want[i], 1e-6f);
	}
	cuda_free(&cu);
}
END_TEST

START_TEST(a_kernel_of_another_shape_is_refused)
{
	bench_new();
	cu_function f = kernel_of("trims_run_unit");
	fails(unit(f, 1, 0, 1, KERNEL_LANES, from), CU_E_INVALID_VALUE);
	fails(unit(f, 1, 1, 1, KERNEL_LANES / 2, from), CU_E_INVALID_VALUE);
	fails(unit(f, 1, 1, 2, KERNEL_LANES, from), CU_E_INVALID_VALUE); /* its rows are one block's */
	cuda_free(&cu);
}
END_TEST

START_TEST(a_kernel_that_reaches_too_far_is_the_end_of_its_context)
{
	bench_new();
	cu_function f = kernel_of("trims_run_unit");
	ok(unit(f, sizeof words / 12, 1, 1, KERNEL_LANES, from + 256));
	fails(cu->stream_synchronize(stream), CU_E_ILLEGAL_ADDRESS);
	fails(cu->mem_alloc(&from, 8), CU_E_ILLEGAL_ADDRESS);
	cuda_free(&cu);
}
END_TEST

static void graphs(Suite *s)
{
	UNIT_CASE(s, "graphs", a_graph_does_what_was_captured_each_time, a_wait_that_was_captured_is_waited_for_each_time,
		what_cannot_be_captured_spoils_the_capture, captures_mind_what_threads_call_beside_them);
	UNIT_CASE(s, "kernels", a_kernel_works_on_all_rows, a_kernel_of_another_shape_is_refused,
		a_kernel_that_reaches_too_far_is_the_end_of_its_context);
}

SIM_MAIN("simcuda_graph", graphs)
