/* cpu_linear.c - products with weight matrices.
 * The result's features are shared out among threads; weights that are no floats become floats in blocks that stay in the
 * cache, each time they are used.  A product with a single row is a matrix-vector product, which BLAS does at the speed of
 * memory. */
#include "tools/run/cpu.h"

#include "shared/image.h"

#include <cblas.h>

#define BLOCK 64u  /* features that are widened at a time, and the grain that threads share by */
#define FEW_ROWS 1u

struct job {
	const struct call *call;
	float *y, *scratch;
	size_t rows, in, out, stride, scratch_each;
};

/* Features [from, to) of all rows; `w` holds them as floats, `ld` apart. */
static void product(const struct job *j, const float *w, size_t ld, size_t from, size_t to)
{
	int rows = (int)j->rows, in = (int)j->in, n = (int)(to - from);
	const float *x = j->call->x;
	bool transposed = j->call->layer->transposed;
	float *y = j->y + from;
	if (j->rows <= FEW_ROWS)
		cblas_sgemv(CblasRowMajor, transposed ? CblasTrans : CblasNoTrans, transposed ? in : n, transposed ? n : in, 1, w,
			(int)ld, x, 1, 0, y, 1);
	else
		cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasNoTrans : CblasTrans, rows, n, in, 1, x, in, w,
			(int)ld, 0, y, (int)j->stride);
}

static void widen_block(const struct job *j, size_t from, size_t n, float *out)
{
	const struct operand *w = &j->call->w[0];
	if (!j->call->layer->transposed)
		math_widen(w, from * j->in, n * j->in, out);
	else
		for (size_t i = 0; i < j->in; i++)
			math_widen(w, i * j->out + from, n, out + i * n);
}

static void multiply(const struct job *j, uint32_t part, size_t from, size_t to)
{
	const struct operand *w = &j->call->w[0];
	bool transposed = j->call->layer->transposed;
	if (w->dtype == DTYPE_F32) {
		const float *data = w->data;
		product(j, transposed ? data + from : data + from * j->in, transposed ? j->out : j->in, from, to);
		return;
	}
	float *block = j->scratch + part * j->scratch_each;
	for (size_t at = from; at < to; at += BLOCK) {
		size_t n = MIN(to - at, (size_t)BLOCK);
		widen_block(j, at, n, block);
		product(j, block, transposed ? n : j->in, at, at + n);
	}
}

static void linear_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct job *j = arg;
	const struct call *call = j->call;
	size_t from, to;
	float bias[BLOCK];
	pool_share(j->out, BLOCK, part, parts, &from, &to);
	if (from == to)
		return;
	multiply(j, part, from, to);
	for (size_t at = from; at < to; at += BLOCK) {
		size_t n = MIN(to - at, (size_t)BLOCK);
		if (call->w[1].data)
			math_widen(&call->w[1], at, n, bias);
		for (size_t r = 0; r < j->rows; r++)
			math_finish_row(j->y + r * j->stride + at, call->w[1].data ? bias : NULL,
				call->x2 ? call->x2 + r * j->stride + call->layer->column + at : NULL, n,
				(enum act)call->layer->act);
	}
}

size_t cpu_linear_scratch(const struct cpu *c, const struct call *call)
{
	return call->w[0].dtype == DTYPE_F32 ? 0 : (size_t)pool_threads(c->pool) * call->xs.c * BLOCK;
}

int cpu_linear(struct backend *b, const struct call *call, struct fault *why)
{
	struct cpu *c = container_of(b, struct cpu, base);
	struct job j = {
		.call = call,
		.y = call->y + call->layer->column,
		.scratch = c->scratch,
		.rows = (size_t)call->xs.n * call->xs.t,
		.in = call->xs.c,
		.out = call->layer->width,
		.stride = call->ys.c,
		.scratch_each = (size_t)call->xs.c * BLOCK,
	};
	pool_run(c->pool, linear_part, &j);
	return 0;
}
