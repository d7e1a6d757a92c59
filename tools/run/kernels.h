/* kernels.h - what the kernels of the CUDA backend are launched with: shared by kernels.cu, by who launches them
 * (cuda_ops.c) and by the simulated driver, which runs the same arithmetic (kernels_core.h) on the CPU.
 *
 * A kernel takes one struct by value.  It works on `rows` rows of `width` items: a grid of (blocks for rows, blocks for a row's
 * items, 1) blocks of KERNEL_LANES threads; any number of blocks does all the work, with WHOLE kernels one in the second
 * place.  Pointers are device addresses.  Nothing depends on how many blocks there are: results are the same to the bit.
 * Compiles as C and as CUDA C++.  Thread: data. */
#ifndef TOOLS_RUN_KERNELS_H
#define TOOLS_RUN_KERNELS_H

#include <stdint.h>

#define KERNEL_LANES 256
#define KERNEL_PREFIX "trims_run_"

struct kernel_rows {
	uint64_t rows;
	uint32_t width;
};

enum kernel_dtype { KERNEL_F32, KERNEL_F16, KERNEL_BF16 };
enum kernel_act { KERNEL_PLAIN, KERNEL_RELU, KERNEL_GELU, KERNEL_GELU_TANH, KERNEL_TANH };

struct kernel_weight {
	const void *data; /* NULL: none */
	uint32_t dtype;   /* enum kernel_dtype */
};

/* y[row] = table[index[row]], or is added to it. */
struct kernel_embed {
	struct kernel_rows all;
	struct kernel_weight table;
	uint64_t table_rows; /* who launches has checked the indices */
	const int32_t *index;
	float *y;
	uint32_t add;
};

/* y = from as floats. */
struct kernel_widen {
	struct kernel_rows all;
	struct kernel_weight from;
	float *y;
};

/* y[row][column ..] = act(y + bias) + x2; rows are `stride` apart. */
struct kernel_finish {
	struct kernel_rows all;
	struct kernel_weight bias;
	const float *x2; /* NULL: none; laid out as y */
	float *y;
	uint32_t stride, column, act;
};

/* A row is the plane of one channel: y = act(batch norm(y) + x2). */
struct kernel_channel {
	struct kernel_rows all;
	struct kernel_weight scale, shift, mean, variance;
	const float *x2;
	float *y;
	uint32_t channels, act;
	float eps;
};

/* A row is a token: k and v of x (q, k, v side by side, `width` each) go behind what the caches hold. */
struct kernel_cache {
	struct kernel_rows all;
	const float *x;
	float *k, *v;
	uint32_t tokens, past, room; /* of a sequence: in x; in the cache; what that has room for */
};

/* A row is a plane; width: pixels of y. */
struct kernel_maxpool {
	struct kernel_rows all;
	const float *x;
	float *y;
	uint32_t h, w, out_w, kernel, stride, pad;
};

/* A row is a sequence of x. */
struct kernel_pick {
	struct kernel_rows all;
	const float *x;
	const int32_t *lengths;
	float *y;
	uint32_t tokens, last;
};

struct kernel_mean {
	struct kernel_rows all;
	const float *x;
	const int32_t *lengths;
	float *y;
	uint32_t tokens;
};

/* y = layer norm of x + x2; y may be either. */
struct kernel_norm {
	struct kernel_rows all;
	struct kernel_weight scale, shift;
	const float *x, *x2;
	float *y;
	float eps;
};

/* A row is a query of one head of one sequence: softmax over the keys that it sees, 0 for the others. */
struct kernel_softmax {
	struct kernel_rows all; /* width: keys */
	const int32_t *lengths; /* NULL: causal */
	float *scores;
	uint32_t heads, queries, past;
};

/* A row is a plane of `width` pixels. */
struct kernel_avgpool {
	struct kernel_rows all;
	const float *x;
	float *y;
};

struct kernel_unit {
	struct kernel_rows all;
	const float *x;
	float *y; /* may be x */
};

enum kernel {
#define KERNEL(name, kind) KERNEL_##name,
#include "tools/run/kernels.def"
#undef KERNEL
	KERNEL_COUNT
};

extern const char run_kernels_ptx[]; /* NUL-terminated */

#endif
