/* cuda_backend.h - what the parts of the CUDA backend share.
 * Everything runs on one stream, in the order it was given, so calls need no other order between them.  Thread: the
 * backend's; the device's primary context is current on it from open() to close(). */
#ifndef TOOLS_RUN_CUDA_BACKEND_H
#define TOOLS_RUN_CUDA_BACKEND_H

#include "tools/run/backend.h"
#include "tools/run/kernels.h"
#include "tools/run/mathlib.h"

/* Host memory that this backend registered, whole pages. */
struct cuda_span {
	uintptr_t from, to;
};

/* The pass that was asked for last. */
struct cuda_graph {
	struct call *calls; /* NULL: none */
	uint32_t n;
	cu_graph_exec exec; /* NULL: it was asked for once */
};

/* cuDNN and the descriptors that each convolution sets anew. */
struct cuda_dnn {
	struct cudnn lib;
	dnn_handle handle;
	dnn_tensor x, y;
	dnn_filter w;
	dnn_conv conv;
	bool ready;
};

struct cuda_backend {
	struct backend base;
	struct cuda *cu;
	cu_device device;
	cu_context ctx; /* NULL: not retained */
	cu_stream stream;
	cu_module module;
	cu_function kernels[KERNEL_COUNT];
	struct cublas blas;
	blas_handle blas_handle;
	cu_ptr blas_workspace;
	struct cuda_dnn dnn;
	cu_ptr scratch; /* grows in prepare() */
	size_t scratch_bytes;
	struct cuda_span *spans;
	uint32_t n_spans;
	struct cuda_graph graph;
	cu_event stamps[BACKEND_STAMPS];
};

static inline struct cuda_backend *cuda_of(struct backend *b)
{
	return container_of(b, struct cuda_backend, base);
}

/* -EPROTO with *why unless `result` is CU_OK. */
static inline int cuda_check(const struct cuda_backend *c, cu_result result, const char *what, struct fault *why)
{
	return result ? cuda_fault(c->cu, result, what, why) : 0;
}

/* ---- cuda_ops.c ---- */

/* `arguments` is struct kernel_<name>, which begins with struct kernel_rows; copied. */
int cuda_launch(struct cuda_backend *c, enum kernel k, void *arguments, struct fault *why);
/* Loads the kernels and cuBLAS; what cuda_ops_end() ends. */
int cuda_ops_begin(struct cuda_backend *c, struct fault *why);
void cuda_ops_end(struct cuda_backend *c);
struct kernel_weight cuda_weight(const struct operand *o);
uint32_t cuda_act(const struct layer *l); /* enum kernel_act */
/* A matrix as floats: itself, or the first of scratch, which is filled then. */
int cuda_widen(struct cuda_backend *c, const struct operand *o, const float **out, struct fault *why);
size_t cuda_widen_bytes(const struct operand *o);
/* Bytes of scratch that a call needs. */
int cuda_scratch(struct cuda_backend *c, const struct call *call, size_t *bytes, struct fault *why);

#define OP(NAME, name, weights, doc) int cuda_##name(struct backend *b, const struct call *call, struct fault *why);
#include "tools/run/ops.def"
#undef OP

/* ---- cuda_conv.c ---- */

/* Opens cuDNN on the first call. */
int cuda_conv_scratch(struct cuda_backend *c, const struct call *call, size_t *bytes, struct fault *why);
void cuda_conv_end(struct cuda_backend *c);

/* ---- cuda_graph.c ---- */

int cuda_run_all(struct backend *b, const struct call *calls, uint32_t n, struct fault *why);
/* Nothing of the graph is true any more: memory that they use is going. */
void cuda_graph_drop(struct cuda_backend *c);
/* NULL: the driver can; else why it cannot. */
const char *cuda_graph_missing(const struct cuda_backend *c);

#endif
