/* cpu.h - what the parts of the CPU backend share.  Thread: that of the backend's caller, and the pool's inside pool_run(). */
#ifndef TOOLS_RUN_CPU_H
#define TOOLS_RUN_CPU_H

#include "tools/run/backend.h"
#include "tools/run/pool.h"

#define CPU_ALIGN 256

struct cpu {
	struct backend base;
	struct pool *pool;
	float *scratch; /* grows in prepare() */
	size_t scratch_floats;
	uint64_t stamps[BACKEND_STAMPS];
};

/* The earlier the better: until then they take cores from whoever works, the daemon included.  open() does it, too. */
void cpu_end_library_threads(void);

/* Floats of scratch that a call needs. */
size_t cpu_linear_scratch(const struct cpu *c, const struct call *call);
size_t cpu_attend_scratch(const struct cpu *c, const struct call *call);
size_t cpu_conv_scratch(const struct cpu *c, const struct call *call);

int cpu_linear(struct backend *b, const struct call *call, struct fault *why);
int cpu_attend(struct backend *b, const struct call *call, struct fault *why);
int cpu_conv(struct backend *b, const struct call *call, struct fault *why);
int cpu_maxpool(struct backend *b, const struct call *call, struct fault *why);
int cpu_avgpool(struct backend *b, const struct call *call, struct fault *why);

/* ---- cpu_math.c ---- */

/* n values of a weight from element `first` on as floats. */
void math_widen(const struct operand *w, uint64_t first, size_t n, float *out);
/* y = act(y + bias) (+ x2); bias, x2 NULL: none. */
void math_finish_row(float *y, const float *bias, const float *x2, size_t n, enum act act);
/* y = act(y * scale + shift (+ x2)) with one scale for all. */
void math_finish_channel(float *y, float scale, float shift, const float *x2, size_t n, enum act act);
/* Softmax of v[0 .. n), in place. */
void math_softmax(float *v, size_t n);
/* y = layer norm of x (+ x2). */
void math_norm_row(float *y, const float *x, const float *x2, const float *scale, const float *shift, size_t n, float eps);
float math_dot(const float *a, const float *b, size_t n);
void math_add(float *y, const float *x, size_t n);
void math_scale(float *y, float by, size_t n);

#endif
