/* backend.h - who computes: a table of functions over memory of its own, one per operation of ops.def.
 *
 * The executor (exec.c) walks a net's layers, waits for a layer's weights and hands a `struct call` to run[op].  Everything a
 * call points to is memory that the backend can use: activations from alloc(), weights from the model's copy on the
 * device, host memory that host() has made readable, or alloc() and put().
 *
 * A backend may work behind the caller's back (a stream): calls run in the order they are given, get() and finish() wait.
 * Errors may come that late.  The same calls with the same bytes give the same bits, whatever addresses they have (weights
 * and activations are aligned to 256 bytes everywhere) and however many weights were there at the start.
 *
 * Activations are fp32 everywhere; weights are fp32, fp16 or bf16 and used as fp32 values.
 *
 * Functions return 0, or -EPROTO with *why.  Thread: one at a time. */
#ifndef TOOLS_RUN_BACKEND_H
#define TOOLS_RUN_BACKEND_H

#include "tools/run/net.h"

struct trims_model;

/* One weight of a call. */
struct operand {
	const void *data; /* NULL: the layer has none in this role */
	uint32_t dtype;   /* enum dtype */
	uint64_t rows, columns; /* of a matrix; a vector has one row; of a convolution's W: out and in * k * k */
};

struct call {
	const struct layer *layer;
	struct shape xs, ys;    /* of x and y; x2 has y's */
	const float *x, *x2;    /* x2 NULL: nothing to add */
	float *y;               /* neither x nor x2, but for NORM (may be either) and UNIT (may be x) */
	struct operand w[NET_MAX_WEIGHTS];
	/* of sequences; the arrays are in the backend's memory */
	const int32_t *index;   /* EMBED: [n * t] rows of the table */
	const int32_t *lengths; /* [n] tokens of each sequence that count: ATTEND (not causal), MEAN, PICK; the rest is padding */
	uint32_t past;          /* ATTEND, causal: tokens in the cache, which get the new ones behind them */
	uint32_t cache_tokens;  /* tokens that a sequence's part of the cache has room for */
	float *cache_k, *cache_v; /* [n][cache_tokens][c] */
};

struct backend_options {
	uint32_t threads; /* CPU: 0: one a core.  Results of one number of threads are equal to the bit */
	int device;       /* CUDA: ordinal in this process */
};

struct backend {
	const struct backend_ops *ops;
	uint64_t library_ns; /* what opening it took for the math library */
	uint64_t context_ns; /* and for the device's context; 0: has none */
	uint64_t graph_launches; /* passes that run_all() ran as one graph */
	char note[512];      /* whose libraries, and what it does without; may be empty */
	const char *degraded; /* "name: sentence" of a lesser way that it goes, said on standard error too; NULL: none */
};

struct backend_ops {
	const char *name;
	int (*open)(const struct backend_options *options, struct backend **out, struct fault *why);
	void (*close)(struct backend *b); /* after it has finished what it was given */

	/* Memory of 256-byte alignment; its bytes are undefined. */
	int (*alloc)(struct backend *b, size_t bytes, void **out, struct fault *why);
	void (*free)(struct backend *b, void *p);
	/* Copies from and to the process's memory.  put() may return before it is done, and the bytes stay as they are until finish():
	 * drivers do not say when they read pageable memory.  get() waits. */
	int (*put)(struct backend *b, void *to, const void *from, size_t bytes, struct fault *why);
	int (*get)(struct backend *b, void *to, const void *from, size_t bytes, struct fault *why);

	/* Pinned memory of this process, aligned to pages: what put() then takes at full speed without a copy of its own, and what run[]
	 * can read.  For files on their way (mode private) and for copies that are to be read from the host.  NULL where there is no way
	 * to go (the CPU). */
	int (*stage)(struct backend *b, size_t bytes, void **out, struct fault *why);
	void (*unstage)(struct backend *b, void *p);

	/* Whatever is given from now on waits until that tensor of a model on the device is there.  A wait that was only queued says
	 * nothing about success: the executor asks trims_wait() when it has finished. */
	int (*wait)(struct backend *b, struct trims_model *model, uint32_t tensor, struct fault *why);
	/* Makes `bytes` of host memory, of which nothing is ever written, readable by run[]: where, says *out.  UNSUPPORTED where
	 * the device cannot. */
	int (*host)(struct backend *b, const void *data, size_t bytes, const void **out, struct fault *why);

	/* Before any of that memory goes: host() is as if it had never been asked.  NULL: nothing to do. */
	void (*unhost)(struct backend *b);

	/* Told all calls that one pass consists of, before the first: time to find scratch memory.  Weights' data is not set. */
	int (*prepare)(struct backend *b, const struct call *calls, uint32_t n, struct fault *why);
	int (*run[OP_COUNT])(struct backend *b, const struct call *call, struct fault *why);
	/* All calls of a pass whose weights are all there, at once (a graph, say); equal to run[] one by one.  NULL: there is no
	 * better way. */
	int (*run_all)(struct backend *b, const struct call *calls, uint32_t n, struct fault *why);
	int (*finish)(struct backend *b, struct fault *why);

	/* Marks a moment in what is being run, 0 <= i < BACKEND_STAMPS; after finish(), the time between two moments. */
	int (*stamp)(struct backend *b, uint32_t i, struct fault *why);
	uint64_t (*between_ns)(struct backend *b, uint32_t from, uint32_t to);
};

#define BACKEND_STAMPS 4096

/* "cpu", "cuda"; NULL: this build has none of that name. */
const struct backend_ops *backend_find(const char *name);
extern const struct backend_ops backend_cpu, backend_cuda;

#endif
