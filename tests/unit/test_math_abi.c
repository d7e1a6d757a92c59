/* test_math_abi.c - tools/run/cublas.def, cudnn.def and mathlib.h against the libraries' own headers, row by row: signatures,
 * symbols, numbers, types.  Everything is decided while compiling and told while running, so that a toolkit that changed
 * does not break a build.  A library whose headers are not there is skipped. */
#include "tools/run/mathlib.h"

#include "tests/unit/unit.h"

#include <string.h>

#if __has_include(<cublas_v2.h>) && __has_include(<library_types.h>)
#define HAVE_CUBLAS 1
#include <cublas_v2.h>
#else
#define HAVE_CUBLAS 0
#endif
#if HAVE_CUBLAS && __has_include(<cudnn.h>)
#define HAVE_CUDNN 1
#include <cudnn.h>
#else
#define HAVE_CUDNN 0
#endif

#if !HAVE_CUBLAS
int main(void)
{
	printf("1..0 # SKIP no cuBLAS headers were there to compile this against\n");
	return 0;
}
#else

#define TEXT(x) #x
#define EXPANDED(x) TEXT(x)
#define IS_SIGNED(type) ((type)-1 < (type)1)
#define KIND(type) __builtin_classify_type(*(type *)0)

struct pair {
	const char *what;
	long long ours, theirs;
};

#define CONSTANT(what, a, b) {what, (long long)(a), (long long)(b)},
#define INTEGER(a, b) CONSTANT("size of " #b, sizeof(a), sizeof(b)) CONSTANT("sign of " #b, IS_SIGNED(a), IS_SIGNED(b))
#define HANDLE(a, b) CONSTANT("size of " #b, sizeof(a), sizeof(b)) CONSTANT("kind of " #b, KIND(a), KIND(b))

static const struct pair pairs[] = {
	CONSTANT("CUBLAS_STATUS_SUCCESS", 0, CUBLAS_STATUS_SUCCESS)
#define MATH_CONST(name, value, theirs) CONSTANT(#theirs, name, theirs)
#include "tools/run/cublas.def"
	INTEGER(math_status, cublasStatus_t)
	INTEGER(blas_transpose, cublasOperation_t)
	INTEGER(blas_mode, cublasMath_t)
	INTEGER(blas_type, cudaDataType)
	INTEGER(blas_compute, cublasComputeType_t)
	INTEGER(blas_algorithm, cublasGemmAlgo_t)
	HANDLE(blas_handle, cublasHandle_t)
	HANDLE(math_stream, cudaStream_t)
#if HAVE_CUDNN
	CONSTANT("CUDNN_STATUS_SUCCESS", 0, CUDNN_STATUS_SUCCESS)
#define MATH_CONST(name, value, theirs) CONSTANT(#theirs, name, theirs)
#include "tools/run/cudnn.def"
	INTEGER(math_status, cudnnStatus_t)
	INTEGER(dnn_layout, cudnnTensorFormat_t)
	INTEGER(dnn_type, cudnnDataType_t)
	INTEGER(dnn_conv_mode, cudnnConvolutionMode_t)
	INTEGER(dnn_math, cudnnMathType_t)
	INTEGER(dnn_algorithm, cudnnConvolutionFwdAlgo_t)
	HANDLE(dnn_handle, cudnnHandle_t)
	HANDLE(dnn_tensor, cudnnTensorDescriptor_t)
	HANDLE(dnn_filter, cudnnFilterDescriptor_t)
	HANDLE(dnn_conv, cudnnConvolutionDescriptor_t)
#endif
};

/* From here on our names mean the libraries' types, and each row is declared once more. */
#define blas_transpose cublasOperation_t
#define blas_mode cublasMath_t
#define blas_type cudaDataType
#define blas_compute cublasComputeType_t
#define blas_algorithm cublasGemmAlgo_t
#define blas_handle cublasHandle_t
#define math_stream cudaStream_t
#define dnn_layout cudnnTensorFormat_t
#define dnn_type cudnnDataType_t
#define dnn_conv_mode cudnnConvolutionMode_t
#define dnn_math cudnnMathType_t
#define dnn_algorithm cudnnConvolutionFwdAlgo_t
#define dnn_handle cudnnHandle_t
#define dnn_tensor cudnnTensorDescriptor_t
#define dnn_filter cudnnFilterDescriptor_t
#define dnn_conv cudnnConvolutionDescriptor_t

#define MATH(field, symbol, arguments) typedef cublasStatus_t(*blas_row_##field) arguments;
#include "tools/run/cublas.def"
#if HAVE_CUDNN
#define MATH(field, symbol, arguments) typedef cudnnStatus_t(*dnn_row_##field) arguments;
#include "tools/run/cudnn.def"
#endif

static const struct row {
	const char *symbol;
	bool same;
} rows[] = {
#define MATH(field, symbol, arguments) {#symbol, __builtin_types_compatible_p(blas_row_##field, __typeof__(&(symbol)))},
#include "tools/run/cublas.def"
#if HAVE_CUDNN
#define MATH(field, symbol, arguments) {#symbol, __builtin_types_compatible_p(dnn_row_##field, __typeof__(&(symbol)))},
#include "tools/run/cudnn.def"
#endif
};

START_TEST(numbers_and_types_are_the_libraries)
{
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		ck_assert_msg(pairs[i].ours == pairs[i].theirs, "%s: %lld here, %lld in the header", pairs[i].what, pairs[i].ours,
			pairs[i].theirs);
}
END_TEST

START_TEST(every_entry_has_the_libraries_signature)
{
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		ck_assert_msg(rows[i].same, "%s is not what the header declares", rows[i].symbol);
}
END_TEST

/* The header's name of the newest version of those that have versions. */
START_TEST(versioned_symbols_are_the_newest)
{
	ck_assert_str_eq(EXPANDED(cublasCreate), "cublasCreate_v2");
	ck_assert_str_eq(EXPANDED(cublasDestroy), "cublasDestroy_v2");
	ck_assert_str_eq(EXPANDED(cublasSetStream), "cublasSetStream_v2");
	ck_assert_str_eq(EXPANDED(cublasSetWorkspace), "cublasSetWorkspace_v2");
}
END_TEST

static void math_abi(Suite *s)
{
	UNIT_CASE(s, "abi", numbers_and_types_are_the_libraries, every_entry_has_the_libraries_signature,
		versioned_symbols_are_the_newest);
}

UNIT_MAIN("math_abi", math_abi)
#endif
