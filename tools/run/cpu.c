/* cpu.c - the CPU backend: OpenBLAS for products, threads of our own around it.
 * Keeps: everything is done when a call returns.  OpenBLAS is told to use one thread, so that who computes what depends on
 * pool.h alone. */
#include "tools/run/cpu.h"

#include "client/trims.h"
#include "tools/clock.h"
#include "tools/run/fail_trims.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 256u /* floats of a row that are added at a time */

static struct cpu *cpu_of(struct backend *b)
{
	return container_of(b, struct cpu, base);
}

/* Of OpenBLAS's flavours the serial one and OpenMP's have buffers without locks: threads of ours would overwrite each other's.
 * What is lacking goes to *degraded. */
static uint32_t usable_threads(const struct backend_options *options, const char **degraded)
{
	static const char one_thread[] = "openblas-one-thread: this flavour of OpenBLAS cannot be called by several threads, so one "
		"computes; the package libopenblas0-pthread has the one that can";
	if (openblas_get_parallel() == OPENBLAS_THREAD || options->threads == 1)
		return options->threads;
	fprintf(stderr, "trims-run: %s\n", one_thread);
	*degraded = one_thread;
	return 1;
}

/* Not in cblas.h, but in the library since its first versions, for forks; weak, as other flavours have no threads. */
extern int blas_thread_shutdown_(void) __attribute__((weak));

/* OpenBLAS starts its threads when it is loaded, before main(), and each looks for work for 2^26 ticks of the clock, giving its core
 * up again and again, before it sleeps: that is 26 ms here, all of a small model's first pass, and it had made half of the first
 * passes of BERT-base take 135 ms instead of 80.  They would have nothing to do anyway. */
void cpu_end_library_threads(void)
{
	if (openblas_get_num_threads() == 1)
		return;
	openblas_set_num_threads(1); /* first: it would start them again */
	if (blas_thread_shutdown_)
		blas_thread_shutdown_();
}

static int cpu_open(const struct backend_options *options, struct backend **out, struct fault *why)
{
	uint64_t began = clock_ns();
	struct cpu *c = calloc(1, sizeof *c);
	if (!c)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the CPU backend");
	cpu_end_library_threads();
	const char *degraded = NULL;
	int r = pool_new(usable_threads(options, &degraded), &c->pool);
	if (r) {
		free(c);
		return fault_set(why, TRIMS_E_NO_SYSTEM, "threads cannot be started: %s", strerror(-r));
	}
	c->base = (struct backend){.ops = &backend_cpu, .library_ns = clock_ns() - began, .degraded = degraded};
	*out = &c->base;
	return 0;
}

static void cpu_close(struct backend *b)
{
	struct cpu *c = cpu_of(b);
	pool_free(&c->pool);
	free(c->scratch);
	free(c);
}

static int cpu_alloc(struct backend *b, size_t bytes, void **out, struct fault *why)
{
	void *p;
	if (posix_memalign(&p, CPU_ALIGN, MAX(bytes, (size_t)CPU_ALIGN)))
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %zu bytes", bytes);
	*out = p;
	return 0;
}

static void cpu_free(struct backend *b, void *p)
{
	free(p);
}

static int cpu_copy(struct backend *b, void *to, const void *from, size_t bytes, struct fault *why)
{
	memcpy(to, from, bytes);
	return 0;
}

static int cpu_wait(struct backend *b, struct trims_model *model, uint32_t tensor, struct fault *why)
{
	if (trims_wait_tensor(model, tensor, TRIMS_FOREVER) == 0)
		return 0;
	return fail_trims(why);
}

static int cpu_host(struct backend *b, const void *data, size_t bytes, const void **out, struct fault *why)
{
	*out = data;
	return 0;
}

static size_t scratch_of(const struct cpu *c, const struct call *call)
{
	switch (call->layer->op) {
	case OP_LINEAR:
		return cpu_linear_scratch(c, call);
	case OP_ATTEND:
		return cpu_attend_scratch(c, call);
	case OP_CONV:
		return cpu_conv_scratch(c, call);
	case OP_NORM:
		return 2 * (size_t)call->xs.c;
	default:
		return 0;
	}
}

static int cpu_prepare(struct backend *b, const struct call *calls, uint32_t n, struct fault *why)
{
	struct cpu *c = cpu_of(b);
	size_t most = 0;
	for (uint32_t i = 0; i < n; i++)
		most = MAX(most, scratch_of(c, &calls[i]));
	if (most <= c->scratch_floats)
		return 0;
	free(c->scratch);
	c->scratch = NULL;
	c->scratch_floats = 0;
	void *p = NULL;
	if (cpu_alloc(b, most * sizeof(float), &p, why))
		return -EPROTO;
	c->scratch = p;
	c->scratch_floats = most;
	return 0;
}

static int cpu_finish(struct backend *b, struct fault *why)
{
	return 0;
}

static int cpu_stamp(struct backend *b, uint32_t i, struct fault *why)
{
	cpu_of(b)->stamps[i] = clock_ns();
	return 0;
}

static uint64_t cpu_between(struct backend *b, uint32_t from, uint32_t to)
{
	return cpu_of(b)->stamps[to] - cpu_of(b)->stamps[from];
}

/* ---- operations that are a loop ---- */

static int cpu_embed(struct backend *b, const struct call *call, struct fault *why)
{
	size_t width = call->ys.c, rows = (size_t)call->ys.n * call->ys.t;
	float some[PIECE];
	for (size_t i = 0; i < rows; i++) {
		float *y = call->y + i * width;
		uint64_t row = (uint64_t)call->index[i] * width;
		if (!call->layer->add)
			math_widen(&call->w[0], row, width, y);
		for (size_t at = 0, n; call->layer->add && at < width; at += n) {
			n = MIN(width - at, (size_t)PIECE);
			math_widen(&call->w[0], row + at, n, some);
			math_add(y + at, some, n);
		}
	}
	return 0;
}

struct norm {
	const struct call *call;
	const float *scale, *shift;
};

static void norm_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct norm *j = arg;
	size_t width = j->call->ys.c, from, to;
	pool_share((size_t)j->call->ys.n * j->call->ys.t, 1, part, parts, &from, &to);
	for (size_t i = from * width; i < to * width; i += width)
		math_norm_row(j->call->y + i, j->call->x + i, j->call->x2 ? j->call->x2 + i : NULL, j->scale, j->shift, width,
			j->call->layer->eps);
}

static int cpu_norm(struct backend *b, const struct call *call, struct fault *why)
{
	struct cpu *c = cpu_of(b);
	size_t width = call->ys.c;
	struct norm j = {call, c->scratch, c->scratch + width};
	math_widen(&call->w[0], 0, width, c->scratch);
	math_widen(&call->w[1], 0, width, c->scratch + width);
	pool_run(c->pool, norm_part, &j);
	return 0;
}

static int cpu_pick(struct backend *b, const struct call *call, struct fault *why)
{
	size_t width = call->xs.c, t = call->xs.t;
	for (size_t i = 0; i < call->xs.n; i++) {
		size_t token = call->layer->last ? (size_t)call->lengths[i] - 1 : 0;
		memcpy(call->y + i * width, call->x + (i * t + token) * width, width * sizeof *call->y);
	}
	return 0;
}

static int cpu_mean(struct backend *b, const struct call *call, struct fault *why)
{
	size_t width = call->xs.c, t = call->xs.t;
	for (size_t i = 0; i < call->xs.n; i++) {
		float *y = call->y + i * width;
		memset(y, 0, width * sizeof *y);
		for (size_t k = 0; k < (size_t)call->lengths[i]; k++)
			math_add(y, call->x + (i * t + k) * width, width);
		math_scale(y, 1 / (float)call->lengths[i], width);
	}
	return 0;
}

static int cpu_unit(struct backend *b, const struct call *call, struct fault *why)
{
	size_t width = call->xs.c, rows = (size_t)call->xs.n * call->xs.t;
	for (size_t i = 0; i < rows; i++) {
		float *y = call->y + i * width;
		if (y != call->x + i * width)
			memcpy(y, call->x + i * width, width * sizeof *y);
		/* As PyTorch's normalize: never a division by less than this. */
		math_scale(y, 1 / fmaxf(sqrtf(math_dot(y, y, width)), 1e-12f), width);
	}
	return 0;
}

const struct backend_ops backend_cpu = {
	.name = "cpu",
	.open = cpu_open,
	.close = cpu_close,
	.alloc = cpu_alloc,
	.free = cpu_free,
	.put = cpu_copy,
	.get = cpu_copy,
	.wait = cpu_wait,
	.host = cpu_host,
	.prepare = cpu_prepare,
	.run = {
#define OP(NAME, name, weights, doc) [OP_##NAME] = cpu_##name,
#include "tools/run/ops.def"
#undef OP
	},
	.finish = cpu_finish,
	.stamp = cpu_stamp,
	.between_ns = cpu_between,
};
