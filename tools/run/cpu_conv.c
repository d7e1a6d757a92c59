/* cpu_conv.c - convolutions and pools over images in memory order n, c, h, w.
 * A convolution is a product with the matrix of all k x k patches (im2col); a 1x1 of stride 1 has the image itself as
 * that matrix.  Threads share the patches, then the result's channels or pixels, whichever are more. */
#include "tools/run/cpu.h"

#include "shared/image.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

struct job {
	const struct call *call;
	const float *image, *w; /* w NULL: to be widened into `wide` */
	const float *patches;
	float *columns, *wide, *y;
	size_t k, pixels; /* k: rows of the matrix of patches */
	uint32_t n;
};

static bool is_plain(const struct layer *l)
{
	return l->kernel == 1 && l->stride == 1 && l->pad == 0;
}

static size_t patch_floats(const struct call *call)
{
	const struct layer *l = call->layer;
	return is_plain(l) ? 0 : (size_t)call->xs.c * l->kernel * l->kernel * call->ys.h * call->ys.w;
}

static size_t wide_floats(const struct call *call)
{
	return call->w[0].dtype == DTYPE_F32 ? 0 : (size_t)(call->w[0].rows * call->w[0].columns);
}

size_t cpu_conv_scratch(const struct cpu *c, const struct call *call)
{
	return align_up(patch_floats(call), CPU_ALIGN) + wide_floats(call);
}

/* One row of the matrix of patches: channel, and place (ky, kx) in the kernel. */
static void patch_row(const struct job *j, size_t row)
{
	const struct layer *l = j->call->layer;
	struct shape xs = j->call->xs, ys = j->call->ys;
	size_t area = (size_t)l->kernel * l->kernel, ky = row % area / l->kernel, kx = row % l->kernel;
	const float *from = j->image + row / area * xs.h * xs.w;
	float *to = j->columns + row * j->pixels;
	for (size_t oy = 0; oy < ys.h; oy++, to += ys.w) {
		size_t y = oy * l->stride + ky - l->pad; /* wraps when it is above the image */
		if (y >= xs.h) {
			memset(to, 0, ys.w * sizeof *to);
			continue;
		}
		for (size_t ox = 0; ox < ys.w; ox++) {
			size_t x = ox * l->stride + kx - l->pad;
			to[ox] = x < xs.w ? from[y * xs.w + x] : 0;
		}
	}
}

static void patch_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct job *j = arg;
	size_t from, to;
	pool_share(j->k, 1, part, parts, &from, &to);
	for (size_t row = from; row < to; row++)
		patch_row(j, row);
}

static void widen_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct job *j = arg;
	const struct operand *w = &j->call->w[0];
	size_t from, to;
	pool_share((size_t)(w->rows * w->columns), 64, part, parts, &from, &to);
	math_widen(w, from, to - from, j->wide + from);
}

static float one(const struct operand *w, size_t at)
{
	float v;
	math_widen(w, at, 1, &v);
	return v;
}

/* Channels [c0, c1), pixels [p0, p1). */
static void product(const struct job *j, size_t c0, size_t c1, size_t p0, size_t p1)
{
	const struct call *call = j->call;
	float *y = j->y + c0 * j->pixels + p0;
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(c1 - c0), (int)(p1 - p0), (int)j->k, 1, j->w + c0 * j->k,
		(int)j->k, j->patches + p0, (int)j->pixels, 0, y, (int)j->pixels);
	const float *x2 = call->x2 ? call->x2 + ((size_t)j->n * call->ys.c + c0) * j->pixels + p0 : NULL;
	for (size_t c = c0; c < c1; c++, y += j->pixels, x2 = x2 ? x2 + j->pixels : NULL) {
		float scale = one(&call->w[1], c) / sqrtf(one(&call->w[4], c) + call->layer->eps);
		float shift = one(&call->w[2], c) - one(&call->w[3], c) * scale;
		math_finish_channel(y, scale, shift, x2, p1 - p0, (enum act)call->layer->act);
	}
}

static void product_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct job *j = arg;
	size_t channels = j->call->ys.c, from, to;
	if (j->pixels >= channels) {
		pool_share(j->pixels, 16, part, parts, &from, &to);
		if (from < to)
			product(j, 0, channels, from, to);
	} else {
		pool_share(channels, 16, part, parts, &from, &to);
		if (from < to)
			product(j, from, to, 0, j->pixels);
	}
}

int cpu_conv(struct backend *b, const struct call *call, struct fault *why)
{
	struct cpu *c = container_of(b, struct cpu, base);
	struct job j = {
		.call = call,
		.w = call->w[0].data,
		.columns = c->scratch,
		.wide = c->scratch + align_up(patch_floats(call), CPU_ALIGN),
		.k = (size_t)call->w[0].columns,
		.pixels = (size_t)call->ys.h * call->ys.w,
	};
	if (call->w[0].dtype != DTYPE_F32) {
		pool_run(c->pool, widen_part, &j);
		j.w = j.wide;
	}
	for (j.n = 0; j.n < call->xs.n; j.n++) {
		j.image = call->x + (size_t)j.n * call->xs.c * call->xs.h * call->xs.w;
		j.y = call->y + (size_t)j.n * call->ys.c * j.pixels;
		j.patches = is_plain(call->layer) ? j.image : j.columns;
		if (!is_plain(call->layer))
			pool_run(c->pool, patch_part, &j);
		pool_run(c->pool, product_part, &j);
	}
	return 0;
}

/* ---- pools ---- */

static float maximum(const struct layer *l, const float *image, struct shape xs, size_t oy, size_t ox)
{
	float top = -INFINITY;
	for (size_t ky = 0; ky < l->kernel; ky++)
		for (size_t kx = 0; kx < l->kernel; kx++) {
			size_t y = oy * l->stride + ky - l->pad, x = ox * l->stride + kx - l->pad;
			if (y < xs.h && x < xs.w && image[y * xs.w + x] > top)
				top = image[y * xs.w + x];
		}
	return top;
}

static void maxpool_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct call *call = arg;
	struct shape xs = call->xs, ys = call->ys;
	size_t from, to;
	pool_share((size_t)xs.n * xs.c, 1, part, parts, &from, &to);
	for (size_t plane = from; plane < to; plane++) {
		const float *image = call->x + plane * xs.h * xs.w;
		float *y = call->y + plane * ys.h * ys.w;
		for (size_t oy = 0; oy < ys.h; oy++)
			for (size_t ox = 0; ox < ys.w; ox++)
				*y++ = maximum(call->layer, image, xs, oy, ox);
	}
}

int cpu_maxpool(struct backend *b, const struct call *call, struct fault *why)
{
	struct call copy = *call;
	pool_run(container_of(b, struct cpu, base)->pool, maxpool_part, &copy);
	return 0;
}

int cpu_avgpool(struct backend *b, const struct call *call, struct fault *why)
{
	size_t planes = (size_t)call->xs.n * call->xs.c, pixels = (size_t)call->xs.h * call->xs.w;
	for (size_t p = 0; p < planes; p++) {
		float sum = 0;
		for (size_t i = 0; i < pixels; i++)
			sum += call->x[p * pixels + i];
		call->y[p] = sum / (float)pixels;
	}
	return 0;
}
