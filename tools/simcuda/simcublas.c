/* simcublas.c - the simulated cuBLAS: products of fp32 matrices, columns first. */
#include "tools/simcuda/mathsim.h"

#include "shared/base.h"

#include <dlfcn.h>
#include <stdlib.h>

enum { NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

EXPORT extern const int simcublas_version;
const int simcublas_version = 1;

struct blas_context {
	mathsim_work *work;
	math_stream stream;
	bool pedantic;
};

struct matrix {
	const float *at;
	uint32_t transposed;
	size_t ld, stride, columns, rows; /* columns and rows: as it lies in memory */
};

struct product {
	struct matrix a, b;
	float *c;
	size_t m, n, k, ld, stride, batch;
	float alpha;
};

mathsim_work *mathsim_driver(void)
{
	const char *path = getenv("TRIMS_CUDA_DRIVER");
	void *dl = dlopen(path ? path : CUDA_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	return dl ? (mathsim_work *)dlsym(dl, "simcuda_work") : NULL;
}

EXPORT math_status cublasCreate_v2(blas_handle *handle)
{
	mathsim_work *work = mathsim_driver();
	if (!handle || !work)
		return NOT_INITIALIZED;
	*handle = calloc(1, sizeof **handle);
	if (!*handle)
		return ALLOC_FAILED;
	(*handle)->work = work;
	return 0;
}

EXPORT math_status cublasDestroy_v2(blas_handle handle)
{
	free(handle);
	return handle ? 0 : NOT_INITIALIZED;
}

EXPORT math_status cublasSetStream_v2(blas_handle handle, math_stream stream)
{
	handle->stream = stream;
	return 0;
}

EXPORT math_status cublasSetWorkspace_v2(blas_handle handle, void *workspace, size_t bytes)
{
	return (uintptr_t)workspace % 256 ? INVALID_VALUE : 0;
}

EXPORT math_status cublasSetMathMode(blas_handle handle, blas_mode mode)
{
	handle->pedantic = mode == BLAS_PEDANTIC;
	return handle->pedantic ? 0 : NOT_SUPPORTED;
}

/* ---- products ---- */

static size_t floats_of(size_t rows, size_t columns, size_t ld, size_t stride, size_t batch)
{
	return (batch - 1) * stride + (columns - 1) * ld + rows;
}

static struct simcuda_span matrix_span(struct matrix *m, size_t batch)
{
	return (struct simcuda_span){
		.pointer = &m->at,
		.bytes = floats_of(m->rows, m->columns, m->ld, m->stride, batch) * sizeof(float),
	};
}

static unsigned product_spans(void *data, struct simcuda_span *spans)
{
	struct product *p = data;
	spans[0] = matrix_span(&p->a, p->batch);
	spans[1] = matrix_span(&p->b, p->batch);
	spans[2] = (struct simcuda_span){
		.pointer = &p->c,
		.bytes = floats_of(p->m, p->n, p->ld, p->stride, p->batch) * sizeof(float),
		.writes = 1,
	};
	return 3;
}

static float dot(const struct product *p, const float *a, const float *b)
{
	size_t step_a = p->a.transposed ? 1 : p->a.ld, step_b = p->b.transposed ? p->b.ld : 1;
	float sum = 0;
	for (size_t k = 0; k < p->k; k++)
		sum += a[k * step_a] * b[k * step_b];
	return sum;
}

static void product_run(void *data)
{
	const struct product *p = data;
	for (size_t i = 0; i < p->batch; i++)
		for (size_t n = 0; n < p->n; n++)
			for (size_t m = 0; m < p->m; m++) {
				const float *a = p->a.at + i * p->a.stride + m * (p->a.transposed ? p->a.ld : 1);
				const float *b = p->b.at + i * p->b.stride + n * (p->b.transposed ? 1 : p->b.ld);
				p->c[i * p->stride + n * p->ld + m] = p->alpha * dot(p, a, b);
			}
}

static struct matrix matrix_of(const void *at, blas_transpose trans, int ld, long long stride, int rows, int columns)
{
	bool t = trans == BLAS_TRANSPOSE;
	return (struct matrix){at, t, (size_t)ld, (size_t)stride, (size_t)(t ? rows : columns), (size_t)(t ? columns : rows)};
}

EXPORT math_status cublasGemmStridedBatchedEx(blas_handle handle, blas_transpose trans_a, blas_transpose trans_b, int m, int n,
	int k, const void *alpha, const void *a, blas_type type_a, int ld_a, long long stride_a, const void *b, blas_type type_b,
	int ld_b, long long stride_b, const void *beta, void *c, blas_type type_c, int ld_c, long long stride_c, int batch,
	blas_compute compute, blas_algorithm algorithm)
{
	static const struct simcuda_work kind = {product_spans, product_run};
	if (!handle)
		return NOT_INITIALIZED;
	if (type_a != BLAS_F32 || type_b != BLAS_F32 || type_c != BLAS_F32 || compute != BLAS_F32_PEDANTIC || !handle->pedantic ||
		algorithm != BLAS_ANY_ALGORITHM || *(const float *)beta != 0)
		return NOT_SUPPORTED;
	struct product p = {
		.a = matrix_of(a, trans_a, ld_a, stride_a, m, k), .b = matrix_of(b, trans_b, ld_b, stride_b, k, n), .c = c,
		.m = (size_t)m, .n = (size_t)n, .k = (size_t)k, .ld = (size_t)ld_c, .stride = (size_t)stride_c,
		.batch = (size_t)batch, .alpha = *(const float *)alpha,
	};
	if (m < 0 || n < 0 || k < 0 || batch < 0 || p.a.ld < MAX(p.a.rows, (size_t)1) || p.b.ld < MAX(p.b.rows, (size_t)1) ||
		p.ld < MAX(p.m, (size_t)1))
		return INVALID_VALUE;
	if (!m || !n || !k || !batch)
		return 0;
	return handle->work(handle->stream, &kind, &p, sizeof p) ? EXECUTION_FAILED : 0;
}

EXPORT math_status cublasGemmEx(blas_handle handle, blas_transpose trans_a, blas_transpose trans_b, int m, int n, int k,
	const void *alpha, const void *a, blas_type type_a, int ld_a, const void *b, blas_type type_b, int ld_b, const void *beta,
	void *c, blas_type type_c, int ld_c, blas_compute compute, blas_algorithm algorithm)
{
	return cublasGemmStridedBatchedEx(handle, trans_a, trans_b, m, n, k, alpha, a, type_a, ld_a, 0, b, type_b, ld_b, 0, beta, c,
		type_c, ld_c, 0, 1, compute, algorithm);
}
