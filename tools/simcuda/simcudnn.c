/* simcudnn.c - the simulated cuDNN: forward convolutions of fp32 images in the order n, c, h, w. */
#include "tools/simcuda/mathsim.h"

#include "shared/base.h"

#include <stdlib.h>

enum { NOT_INITIALIZED = 1001, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, ALLOC_FAILED = 2003, EXECUTION_FAILED = 5000 };

#define WORKSPACE_BYTES 4096u /* so that who forgets it is found out */

struct dnn_context {
	mathsim_work *work;
	math_stream stream;
};

struct dnn_tensor_object {
	int n, c, h, w;
};

struct dnn_filter_object {
	int k, c, h, w;
};

struct dnn_conv_object {
	int pad_h, pad_w, step_h, step_w;
};

struct convolution {
	struct dnn_tensor_object xs, ys;
	struct dnn_filter_object ws;
	struct dnn_conv_object how;
	const float *x, *w;
	float *y, *workspace;
};

static math_status make(void *out, size_t bytes)
{
	void *p = calloc(1, bytes);
	*(void **)out = p;
	return p ? 0 : ALLOC_FAILED;
}

static math_status unmake(void *p)
{
	free(p);
	return p ? 0 : BAD_PARAM;
}

EXPORT math_status cudnnCreate(dnn_handle *handle)
{
	mathsim_work *work = mathsim_driver();
	math_status s = work ? make(handle, sizeof **handle) : (math_status)NOT_INITIALIZED;
	if (!s)
		(*handle)->work = work;
	return s;
}

EXPORT math_status cudnnDestroy(dnn_handle handle)
{
	return unmake(handle);
}

EXPORT math_status cudnnSetStream(dnn_handle handle, math_stream stream)
{
	handle->stream = stream;
	return 0;
}

EXPORT math_status cudnnCreateTensorDescriptor(dnn_tensor *tensor)
{
	return make(tensor, sizeof **tensor);
}

EXPORT math_status cudnnDestroyTensorDescriptor(dnn_tensor tensor)
{
	return unmake(tensor);
}

EXPORT math_status cudnnSetTensor4dDescriptor(dnn_tensor tensor, dnn_layout layout, dnn_type type, int n, int c, int h, int w)
{
	if (layout != DNN_NCHW || type != DNN_F32)
		return NOT_SUPPORTED;
	*tensor = (struct dnn_tensor_object){n, c, h, w};
	return n > 0 && c > 0 && h > 0 && w > 0 ? 0 : BAD_PARAM;
}

EXPORT math_status cudnnCreateFilterDescriptor(dnn_filter *filter)
{
	return make(filter, sizeof **filter);
}

EXPORT math_status cudnnDestroyFilterDescriptor(dnn_filter filter)
{
	return unmake(filter);
}

EXPORT math_status cudnnSetFilter4dDescriptor(dnn_filter filter, dnn_type type, dnn_layout layout, int k, int c, int h, int w)
{
	if (layout != DNN_NCHW || type != DNN_F32)
		return NOT_SUPPORTED;
	*filter = (struct dnn_filter_object){k, c, h, w};
	return k > 0 && c > 0 && h > 0 && w > 0 ? 0 : BAD_PARAM;
}

EXPORT math_status cudnnCreateConvolutionDescriptor(dnn_conv *conv)
{
	return make(conv, sizeof **conv);
}

EXPORT math_status cudnnDestroyConvolutionDescriptor(dnn_conv conv)
{
	return unmake(conv);
}

EXPORT math_status cudnnSetConvolution2dDescriptor(dnn_conv conv, int pad_h, int pad_w, int u, int v, int dilation_h,
	int dilation_w, dnn_conv_mode mode, dnn_type type)
{
	if (dilation_h != 1 || dilation_w != 1 || mode != DNN_CROSS_CORRELATION || type != DNN_F32)
		return NOT_SUPPORTED;
	*conv = (struct dnn_conv_object){pad_h, pad_w, u, v};
	return pad_h >= 0 && pad_w >= 0 && u > 0 && v > 0 ? 0 : BAD_PARAM;
}

EXPORT math_status cudnnSetConvolutionMathType(dnn_conv conv, dnn_math math)
{
	return math == DNN_NO_TENSOR_CORES ? 0 : NOT_SUPPORTED;
}

static bool fits(const struct dnn_tensor_object *x, const struct dnn_filter_object *w, const struct dnn_conv_object *how,
	const struct dnn_tensor_object *y)
{
	return x->n == y->n && x->c == w->c && y->c == w->k && y->h == (x->h + 2 * how->pad_h - w->h) / how->step_h + 1 &&
		y->w == (x->w + 2 * how->pad_w - w->w) / how->step_w + 1;
}

EXPORT math_status cudnnGetConvolutionForwardWorkspaceSize(dnn_handle handle, dnn_tensor x, dnn_filter w, dnn_conv conv,
	dnn_tensor y, dnn_algorithm algorithm, size_t *bytes)
{
	*bytes = WORKSPACE_BYTES;
	return algorithm == DNN_PRECOMPUTED_GEMM && fits(x, w, conv, y) ? 0 : BAD_PARAM;
}

/* ---- convolutions ---- */

static size_t tensor_bytes(const struct dnn_tensor_object *t)
{
	return (size_t)t->n * (size_t)t->c * (size_t)t->h * (size_t)t->w * sizeof(float);
}

static unsigned spans(void *data, struct simcuda_span *s)
{
	struct convolution *j = data;
	size_t w = (size_t)j->ws.k * (size_t)j->ws.c * (size_t)j->ws.h * (size_t)j->ws.w * sizeof(float);
	s[0] = (struct simcuda_span){.pointer = &j->x, .bytes = tensor_bytes(&j->xs)};
	s[1] = (struct simcuda_span){.pointer = &j->w, .bytes = w};
	s[2] = (struct simcuda_span){.pointer = &j->y, .bytes = tensor_bytes(&j->ys), .writes = 1};
	s[3] = (struct simcuda_span){.pointer = &j->workspace, .bytes = WORKSPACE_BYTES, .writes = 1};
	return 4;
}

/* One channel of the kernel around one pixel of the result. */
static float around(const struct convolution *j, const float *x, const float *w, int oy, int ox)
{
	float sum = 0;
	for (int ky = 0; ky < j->ws.h; ky++)
		for (int kx = 0; kx < j->ws.w; kx++) {
			int y = oy * j->how.step_h + ky - j->how.pad_h, at = ox * j->how.step_w + kx - j->how.pad_w;
			if (y >= 0 && y < j->xs.h && at >= 0 && at < j->xs.w)
				sum += x[y * j->xs.w + at] * w[ky * j->ws.w + kx];
		}
	return sum;
}

static void plane(const struct convolution *j, const float *x, const float *w, float *y)
{
	for (int oy = 0; oy < j->ys.h; oy++)
		for (int ox = 0; ox < j->ys.w; ox++) {
			float sum = 0;
			for (int c = 0; c < j->xs.c; c++)
				sum += around(j, x + c * j->xs.h * j->xs.w, w + c * j->ws.h * j->ws.w, oy, ox);
			y[oy * j->ys.w + ox] = sum;
		}
}

static void run(void *data)
{
	const struct convolution *j = data;
	for (int n = 0; n < j->ys.n; n++)
		for (int k = 0; k < j->ys.c; k++)
			plane(j, j->x + (size_t)n * (size_t)(j->xs.c * j->xs.h * j->xs.w), j->w + k * j->ws.c * j->ws.h * j->ws.w,
				j->y + ((size_t)n * (size_t)j->ys.c + (size_t)k) * (size_t)(j->ys.h * j->ys.w));
}

EXPORT math_status cudnnConvolutionForward(dnn_handle handle, const void *alpha, dnn_tensor x_as, const void *x, dnn_filter w_as,
	const void *w, dnn_conv conv, dnn_algorithm algorithm, void *workspace, size_t bytes, const void *beta, dnn_tensor y_as, void *y)
{
	static const struct simcuda_work kind = {spans, run};
	struct convolution j = {*x_as, *y_as, *w_as, *conv, x, w, y, workspace};
	if (algorithm != DNN_PRECOMPUTED_GEMM || bytes < WORKSPACE_BYTES || *(const float *)alpha != 1 || *(const float *)beta != 0 ||
		!fits(x_as, w_as, conv, y_as))
		return BAD_PARAM;
	return handle->work(handle->stream, &kind, &j, sizeof j) ? EXECUTION_FAILED : 0;
}
