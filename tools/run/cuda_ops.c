/* cuda_ops.c - operations on a GPU: products by cuBLAS, everything else by kernels.
 * Keeps: the same call with the same bytes is the same launches, whatever mode; products are of fp32 numbers in fp32
 * (pedantic: no TF32), in one stream and with a workspace of our own, which is what cuBLAS asks for to be deterministic.
 *
 * cuBLAS counts columns first: our row-major matrix of r rows and c columns is its matrix of c rows and r columns, so
 * y = x W^T is asked for as y^T = W x^T. */
#include "tools/run/cuda_backend.h"

#include "shared/image.h"

#include <math.h>
#include <string.h>

#define WORKSPACE_BYTES (32u << 20) /* what cuBLAS recommends for the newest devices; older ones want less */
#define MOST_ROW_BLOCKS 65535u
#define MOST_BLOCKS_A_ROW 64u

/* ---- kernels ---- */

static const struct {
	const char *entry;
	bool spread;
} kernels[] = {
#define SPREAD true
#define WHOLE false
#define KERNEL(name, kind) {KERNEL_PREFIX #name, kind},
#include "tools/run/kernels.def"
#undef KERNEL
#undef SPREAD
#undef WHOLE
};

int cuda_launch(struct cuda_backend *c, enum kernel k, void *arguments, struct fault *why)
{
	const struct kernel_rows *all = arguments;
	void *pointers[] = {arguments};
	if (!all->rows || !all->width)
		return 0;
	unsigned rows = (unsigned)MIN(all->rows, (uint64_t)MOST_ROW_BLOCKS);
	unsigned spread = kernels[k].spread ? MIN((all->width + KERNEL_LANES - 1) / KERNEL_LANES, MOST_BLOCKS_A_ROW) : 1;
	return cuda_check(c, c->cu->launch_kernel(c->kernels[k], rows, spread, 1, KERNEL_LANES, 1, 1, 0, c->stream, pointers, NULL),
		kernels[k].entry, why);
}

static int load_kernels(struct cuda_backend *c, struct fault *why)
{
	if (!c->cu->module_load_data || !c->cu->module_get_function || !c->cu->launch_kernel || !c->cu->module_unload)
		return fault_set(why, TRIMS_E_UNSUPPORTED, "the driver has no modules: trims-run cannot compute with it");
	int r = cuda_check(c, c->cu->module_load_data(&c->module, run_kernels_ptx), "cuModuleLoadData", why);
	for (unsigned k = 0; !r && k < KERNEL_COUNT; k++)
		r = cuda_check(c, c->cu->module_get_function(&c->kernels[k], c->module, kernels[k].entry), "cuModuleGetFunction", why);
	return r;
}

/* ---- cuBLAS ---- */

static int blas_check(math_status status, const char *what, struct fault *why)
{
	return status ? mathlib_fault(what, status, why) : 0;
}

static int open_blas(struct cuda_backend *c, struct fault *why)
{
	int r = mathlib_cublas(&c->blas, c->cu->simulated, why);
	if (!r)
		r = blas_check(c->blas.create(&c->blas_handle), "cublasCreate", why);
	if (!r)
		r = cuda_check(c, c->cu->mem_alloc(&c->blas_workspace, WORKSPACE_BYTES), "cuMemAlloc", why);
	if (!r)
		r = blas_check(c->blas.set_stream(c->blas_handle, c->stream), "cublasSetStream", why);
	if (!r) /* after the stream, which would take its own back */
		r = blas_check(c->blas.set_workspace(c->blas_handle, (void *)(uintptr_t)c->blas_workspace, WORKSPACE_BYTES),
			"cublasSetWorkspace", why);
	return r ? r : blas_check(c->blas.set_math_mode(c->blas_handle, BLAS_PEDANTIC), "cublasSetMathMode", why);
}

int cuda_ops_begin(struct cuda_backend *c, struct fault *why)
{
	int r = load_kernels(c, why);
	return r ? r : open_blas(c, why);
}

void cuda_ops_end(struct cuda_backend *c)
{
	if (c->blas_handle)
		c->blas.destroy(c->blas_handle);
	if (c->blas_workspace)
		c->cu->mem_free(c->blas_workspace);
	if (c->module)
		c->cu->module_unload(c->module);
}

/* A matrix as cuBLAS sees it, and where the next one of a batch is. */
struct matrix {
	const float *at;
	bool transposed;
	uint32_t ld;
	size_t next;
};

/* y (m x n, columns `ld` apart) = alpha a b; a: m x k, b: k x n. */
struct product {
	uint32_t m, n, k;
	float alpha;
	struct matrix a, b;
	float *y;
	uint32_t ld;
	size_t next;
	uint32_t batch;
};

static int multiply(struct cuda_backend *c, const struct product *p, struct fault *why)
{
	const float zero = 0;
	blas_transpose ta = p->a.transposed ? BLAS_TRANSPOSE : BLAS_NO_TRANSPOSE;
	blas_transpose tb = p->b.transposed ? BLAS_TRANSPOSE : BLAS_NO_TRANSPOSE;
	if (p->batch == 1)
		return blas_check(c->blas.gemm(c->blas_handle, ta, tb, (int)p->m, (int)p->n, (int)p->k, &p->alpha, p->a.at, BLAS_F32,
			(int)p->a.ld, p->b.at, BLAS_F32, (int)p->b.ld, &zero, p->y, BLAS_F32, (int)p->ld, BLAS_F32_PEDANTIC,
			BLAS_ANY_ALGORITHM), "cublasGemmEx", why);
	return blas_check(c->blas.gemm_strided(c->blas_handle, ta, tb, (int)p->m, (int)p->n, (int)p->k, &p->alpha, p->a.at,
		BLAS_F32, (int)p->a.ld, (long long)p->a.next, p->b.at, BLAS_F32, (int)p->b.ld, (long long)p->b.next, &zero, p->y,
		BLAS_F32, (int)p->ld, (long long)p->next, (int)p->batch, BLAS_F32_PEDANTIC, BLAS_ANY_ALGORITHM),
		"cublasGemmStridedBatchedEx", why);
}

/* ---- weights ---- */

struct kernel_weight cuda_weight(const struct operand *o)
{
	enum kernel_dtype dtype = o->dtype == DTYPE_F16 ? KERNEL_F16 : o->dtype == DTYPE_BF16 ? KERNEL_BF16 : KERNEL_F32;
	return (struct kernel_weight){o->data, dtype};
}

size_t cuda_widen_bytes(const struct operand *o)
{
	return o->dtype == DTYPE_F32 ? 0 : align_up(o->rows * o->columns * sizeof(float), 256);
}

int cuda_widen(struct cuda_backend *c, const struct operand *o, const float **out, struct fault *why)
{
	struct kernel_widen k = {
		.all = {o->rows, (uint32_t)o->columns},
		.from = cuda_weight(o),
		.y = (float *)(uintptr_t)c->scratch,
	};
	*out = o->dtype == DTYPE_F32 ? o->data : k.y;
	return o->dtype == DTYPE_F32 ? 0 : cuda_launch(c, KERNEL_widen, &k, why);
}

/* ---- operations ---- */

int cuda_embed(struct backend *b, const struct call *call, struct fault *why)
{
	struct kernel_embed k = {
		.all = {(uint64_t)call->ys.n * call->ys.t, call->ys.c},
		.table = cuda_weight(&call->w[0]),
		.table_rows = call->w[0].rows,
		.index = call->index,
		.y = call->y,
		.add = call->layer->add,
	};
	return cuda_launch(cuda_of(b), KERNEL_embed, &k, why);
}

int cuda_norm(struct backend *b, const struct call *call, struct fault *why)
{
	struct kernel_norm k = {
		.all = {(uint64_t)call->ys.n * call->ys.t, call->ys.c},
		.scale = cuda_weight(&call->w[0]),
		.shift = cuda_weight(&call->w[1]),
		.x = call->x,
		.x2 = call->x2,
		.y = call->y,
		.eps = call->layer->eps,
	};
	return cuda_launch(cuda_of(b), KERNEL_norm, &k, why);
}

uint32_t cuda_act(const struct layer *l)
{
	static const uint8_t acts[] = {[ACT_NONE] = KERNEL_PLAIN, [ACT_RELU] = KERNEL_RELU, [ACT_GELU] = KERNEL_GELU,
		[ACT_GELU_TANH] = KERNEL_GELU_TANH, [ACT_TANH] = KERNEL_TANH};
	return acts[l->act];
}

int cuda_linear(struct backend *b, const struct call *call, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	const struct layer *l = call->layer;
	const float *w;
	int r = cuda_widen(c, &call->w[0], &w, why);
	struct product p = {
		.m = l->width, .n = call->xs.n * call->xs.t, .k = call->xs.c, .alpha = 1, .batch = 1,
		.a = {.at = w, .transposed = !l->transposed, .ld = l->transposed ? l->width : call->xs.c},
		.b = {.at = call->x, .ld = call->xs.c},
		.y = call->y + l->column, .ld = call->ys.c,
	};
	struct kernel_finish k = {
		.all = {p.n, l->width},
		.bias = cuda_weight(&call->w[1]),
		.x2 = call->x2,
		.y = call->y,
		.stride = call->ys.c,
		.column = l->column,
		.act = cuda_act(l),
	};
	if (!r)
		r = multiply(c, &p, why);
	return r || (!k.bias.data && !k.x2 && k.act == KERNEL_PLAIN) ? r : cuda_launch(c, KERNEL_finish, &k, why);
}

/* What attention reads and writes of one sequence, all heads. */
struct attention {
	const float *q, *k, *v;
	float *y, *scores;
	uint32_t width, heads, row, kv_row, queries, keys;
};

static struct attention attention_of(const struct cuda_backend *c, const struct call *call, uint32_t n)
{
	uint32_t wide = call->ys.c, t = call->xs.t;
	const float *x = call->x + (size_t)n * t * 3 * wide;
	struct attention a = {
		.q = x, .k = x + wide, .v = x + 2 * wide, .y = call->y + (size_t)n * t * wide,
		.width = wide / call->layer->heads, .heads = call->layer->heads, .row = 3 * wide, .kv_row = 3 * wide,
		.queries = t, .keys = t, /* also those that are padding: the softmax gives them nothing */
	};
	if (call->layer->causal) {
		a.k = call->cache_k + (size_t)n * call->cache_tokens * wide;
		a.v = call->cache_v + (size_t)n * call->cache_tokens * wide;
		a.kv_row = wide;
		a.keys = call->past + t;
	}
	a.scores = (float *)(uintptr_t)c->scratch + (size_t)n * a.heads * a.queries * a.keys;
	return a;
}

static int score(struct cuda_backend *c, const struct attention *a, struct fault *why)
{
	struct product p = {
		.m = a->keys, .n = a->queries, .k = a->width, .alpha = 1 / sqrtf((float)a->width), .batch = a->heads,
		.a = {.at = a->k, .transposed = true, .ld = a->kv_row, .next = a->width},
		.b = {.at = a->q, .ld = a->row, .next = a->width},
		.y = a->scores, .ld = a->keys, .next = (size_t)a->queries * a->keys,
	};
	return multiply(c, &p, why);
}

static int weigh(struct cuda_backend *c, const struct attention *a, struct fault *why)
{
	struct product p = {
		.m = a->width, .n = a->queries, .k = a->keys, .alpha = 1, .batch = a->heads,
		.a = {.at = a->v, .ld = a->kv_row, .next = a->width},
		.b = {.at = a->scores, .ld = a->keys, .next = (size_t)a->queries * a->keys},
		.y = a->y, .ld = a->width * a->heads, .next = a->width,
	};
	return multiply(c, &p, why);
}

static int store_in_cache(struct cuda_backend *c, const struct call *call, struct fault *why)
{
	struct kernel_cache k = {
		.all = {(uint64_t)call->xs.n * call->xs.t, call->ys.c},
		.x = call->x,
		.k = call->cache_k,
		.v = call->cache_v,
		.tokens = call->xs.t,
		.past = call->past,
		.room = call->cache_tokens,
	};
	return call->layer->causal ? cuda_launch(c, KERNEL_cache, &k, why) : 0;
}

int cuda_attend(struct backend *b, const struct call *call, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	struct attention a = attention_of(c, call, 0);
	struct kernel_softmax k = {
		.all = {(uint64_t)call->xs.n * a.heads * a.queries, a.keys},
		.lengths = call->layer->causal ? NULL : call->lengths,
		.scores = a.scores,
		.heads = a.heads,
		.queries = a.queries,
		.past = call->past,
	};
	int r = store_in_cache(c, call, why);
	for (uint32_t n = 0; !r && n < call->xs.n; n++) {
		a = attention_of(c, call, n);
		r = score(c, &a, why);
	}
	if (!r)
		r = cuda_launch(c, KERNEL_softmax, &k, why);
	for (uint32_t n = 0; !r && n < call->xs.n; n++) {
		a = attention_of(c, call, n);
		r = weigh(c, &a, why);
	}
	return r;
}

int cuda_maxpool(struct backend *b, const struct call *call, struct fault *why)
{
	const struct layer *l = call->layer;
	struct kernel_maxpool k = {
		.all = {(uint64_t)call->xs.n * call->xs.c, call->ys.h * call->ys.w},
		.x = call->x, .y = call->y, .h = call->xs.h, .w = call->xs.w, .out_w = call->ys.w,
		.kernel = l->kernel, .stride = l->stride, .pad = l->pad,
	};
	return cuda_launch(cuda_of(b), KERNEL_maxpool, &k, why);
}

int cuda_avgpool(struct backend *b, const struct call *call, struct fault *why)
{
	struct kernel_avgpool k = {{(uint64_t)call->xs.n * call->xs.c, call->xs.h * call->xs.w}, call->x, call->y};
	return cuda_launch(cuda_of(b), KERNEL_avgpool, &k, why);
}

int cuda_pick(struct backend *b, const struct call *call, struct fault *why)
{
	struct kernel_pick k = {
		.all = {call->xs.n, call->xs.c},
		.x = call->x, .lengths = call->lengths, .y = call->y, .tokens = call->xs.t, .last = call->layer->last,
	};
	return cuda_launch(cuda_of(b), KERNEL_pick, &k, why);
}

int cuda_mean(struct backend *b, const struct call *call, struct fault *why)
{
	struct kernel_mean k = {{call->xs.n, call->xs.c}, call->x, call->lengths, call->y, call->xs.t};
	return cuda_launch(cuda_of(b), KERNEL_mean, &k, why);
}

int cuda_unit(struct backend *b, const struct call *call, struct fault *why)
{
	struct kernel_unit k = {{(uint64_t)call->xs.n * call->xs.t, call->xs.c}, call->x, call->y};
	return cuda_launch(cuda_of(b), KERNEL_unit, &k, why);
}

/* ---- scratch ---- */

int cuda_scratch(struct cuda_backend *c, const struct call *call, size_t *bytes, struct fault *why)
{
	const struct layer *l = call->layer;
	size_t keys = l->causal ? call->past + call->xs.t : call->xs.t;
	if (l->op == OP_CONV)
		return cuda_conv_scratch(c, call, bytes, why);
	if (l->op == OP_LINEAR)
		*bytes = cuda_widen_bytes(&call->w[0]);
	else
		*bytes = l->op == OP_ATTEND ? (size_t)call->xs.n * l->heads * call->xs.t * keys * sizeof(float) : 0;
	return 0;
}
