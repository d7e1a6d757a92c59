/* mathlib.h - cuBLAS and cuDNN as tables of entry points, found at run time; nothing of a toolkit is needed to build, and a
 * process that has no convolution never opens cuDNN.  Types and numbers are the libraries' ABI under names of our own.
 * A simulated driver goes with the simulated library alone and a real one with real ones (mathlib_open() sees to it).
 * Thread: a table is constant.  Owns: nothing is ever unloaded, since these libraries do not survive it. */
#ifndef TOOLS_RUN_MATHLIB_H
#define TOOLS_RUN_MATHLIB_H

#include "shared/cuda.h"

/* Enumerations of the libraries: a C enum without negative values is an unsigned int there, with them an int. */
typedef uint32_t math_status, blas_transpose, blas_mode, blas_type, blas_compute;
typedef int32_t blas_algorithm;
typedef uint32_t dnn_layout, dnn_type, dnn_conv_mode, dnn_math, dnn_algorithm;
typedef cu_stream math_stream;
typedef struct blas_context *blas_handle;
typedef struct dnn_context *dnn_handle;
typedef struct dnn_tensor_object *dnn_tensor;
typedef struct dnn_filter_object *dnn_filter;
typedef struct dnn_conv_object *dnn_conv;

enum math_constant {
#define MATH_CONST(name, value, theirs) name = value,
#include "tools/run/cublas.def"
#define MATH_CONST(name, value, theirs) name = value,
#include "tools/run/cudnn.def"
};

struct cublas {
#define MATH(field, symbol, arguments) math_status(*field) arguments;
#include "tools/run/cublas.def"
	char path[256]; /* as it was found */
};

struct cudnn {
#define MATH(field, symbol, arguments) math_status(*field) arguments;
#include "tools/run/cudnn.def"
	char path[256];
};

/* Fills a table in.  $TRIMS_CUBLAS and $TRIMS_CUDNN name a library to take instead of the usual names, newest first.
 * UNSUPPORTED: none is there, it lacks an entry, or one of driver and library is simulated and the other is not. */
int mathlib_cublas(struct cublas *out, bool simulated, struct fault *why);
int mathlib_cudnn(struct cudnn *out, bool simulated, struct fault *why);
/* "cublasGemmEx: status 13"; returns -EPROTO. */
int mathlib_fault(const char *what, math_status status, struct fault *why);

/* What the simulated library has and real ones do not. */
#define MATHLIB_SIMULATED "simcublas_version"

#endif
