/* cuda_conv.c - convolutions by cuDNN, batch norm behind them by a kernel.  cuDNN is opened when a model has a convolution.
 * Keeps: one algorithm for all (implicit GEMM with precomputed indices: deterministic, no workspace to speak of), in fp32
 * without tensor cores. */
#include "tools/run/cuda_backend.h"

#include "tools/clock.h"

#include <stdio.h>
#include <string.h>

static int check(math_status status, const char *what, struct fault *why)
{
	return status ? mathlib_fault(what, status, why) : 0;
}

static int create(struct cuda_backend *c, struct fault *why)
{
	struct cuda_dnn *d = &c->dnn;
	int r = check(d->lib.create(&d->handle), "cudnnCreate", why);
	if (!r)
		r = check(d->lib.set_stream(d->handle, c->stream), "cudnnSetStream", why);
	if (!r)
		r = check(d->lib.create_tensor(&d->x), "cudnnCreateTensorDescriptor", why);
	if (!r)
		r = check(d->lib.create_tensor(&d->y), "cudnnCreateTensorDescriptor", why);
	if (!r)
		r = check(d->lib.create_filter(&d->w), "cudnnCreateFilterDescriptor", why);
	return r ? r : check(d->lib.create_conv(&d->conv), "cudnnCreateConvolutionDescriptor", why);
}

static int open_dnn(struct cuda_backend *c, struct fault *why)
{
	if (c->dnn.ready)
		return 0;
	uint64_t began = clock_ns();
	int r = mathlib_cudnn(&c->dnn.lib, c->cu->simulated, why);
	if (!r)
		r = create(c, why);
	c->dnn.ready = !r;
	c->base.library_ns += clock_ns() - began;
	size_t used = strlen(c->base.note);
	snprintf(c->base.note + used, sizeof c->base.note - used, "; %s", c->dnn.lib.path);
	return r;
}

void cuda_conv_end(struct cuda_backend *c)
{
	struct cuda_dnn *d = &c->dnn;
	if (d->conv)
		d->lib.destroy_conv(d->conv);
	if (d->w)
		d->lib.destroy_filter(d->w);
	if (d->y)
		d->lib.destroy_tensor(d->y);
	if (d->x)
		d->lib.destroy_tensor(d->x);
	if (d->handle)
		d->lib.destroy(d->handle);
}

static int describe_tensor(const struct cuda_dnn *d, dnn_tensor tensor, struct shape s, struct fault *why)
{
	return check(d->lib.set_tensor(tensor, DNN_NCHW, DNN_F32, (int)s.n, (int)s.c, (int)s.h, (int)s.w),
		"cudnnSetTensor4dDescriptor", why);
}

static int describe(const struct cuda_dnn *d, const struct call *call, struct fault *why)
{
	const struct layer *l = call->layer;
	int k = (int)l->kernel, pad = (int)l->pad, stride = (int)l->stride;
	int r = describe_tensor(d, d->x, call->xs, why);
	if (!r)
		r = describe_tensor(d, d->y, call->ys, why);
	if (!r)
		r = check(d->lib.set_filter(d->w, DNN_F32, DNN_NCHW, (int)call->ys.c, (int)call->xs.c, k, k),
			"cudnnSetFilter4dDescriptor", why);
	if (!r)
		r = check(d->lib.set_conv(d->conv, pad, pad, stride, stride, 1, 1, DNN_CROSS_CORRELATION, DNN_F32),
			"cudnnSetConvolution2dDescriptor", why);
	return r ? r : check(d->lib.set_math(d->conv, DNN_NO_TENSOR_CORES), "cudnnSetConvolutionMathType", why);
}

/* Widened weights first, then cuDNN's workspace. */
int cuda_conv_scratch(struct cuda_backend *c, const struct call *call, size_t *bytes, struct fault *why)
{
	size_t workspace = 0;
	int r = open_dnn(c, why);
	if (!r)
		r = describe(&c->dnn, call, why);
	if (!r)
		r = check(c->dnn.lib.conv_workspace(c->dnn.handle, c->dnn.x, c->dnn.w, c->dnn.conv, c->dnn.y, DNN_PRECOMPUTED_GEMM,
			&workspace), "cudnnGetConvolutionForwardWorkspaceSize", why);
	*bytes = cuda_widen_bytes(&call->w[0]) + workspace;
	return r;
}

static int convolve(struct cuda_backend *c, const struct call *call, const float *w, struct fault *why)
{
	const struct cuda_dnn *d = &c->dnn;
	const float one = 1, zero = 0;
	size_t used = cuda_widen_bytes(&call->w[0]);
	int r = describe(d, call, why);
	return r ? r : check(d->lib.conv(d->handle, &one, d->x, call->x, d->w, w, d->conv, DNN_PRECOMPUTED_GEMM,
		(void *)(uintptr_t)(c->scratch + used), c->scratch_bytes - used, &zero, d->y, call->y), "cudnnConvolutionForward",
		why);
}

int cuda_conv(struct backend *b, const struct call *call, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	const float *w;
	struct kernel_channel k = {
		.all = {(uint64_t)call->ys.n * call->ys.c, call->ys.h * call->ys.w},
		.scale = cuda_weight(&call->w[1]),
		.shift = cuda_weight(&call->w[2]),
		.mean = cuda_weight(&call->w[3]),
		.variance = cuda_weight(&call->w[4]),
		.x2 = call->x2,
		.y = call->y,
		.channels = call->ys.c,
		.act = cuda_act(call->layer),
		.eps = call->layer->eps,
	};
	int r = cuda_widen(c, &call->w[0], &w, why);
	if (!r)
		r = convolve(c, call, w, why);
	return r ? r : cuda_launch(c, KERNEL_channel, &k, why);
}
