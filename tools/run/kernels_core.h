/* kernels_core.h - the arithmetic of the kernels, as one thread (lane) of `lanes` does it for one row.  Compiles for the
 * device and for the CPU: the simulated driver runs these very functions, lane by lane, so all that is left to a device
 * are threads and the tree they add up in (kernels.cu).
 * Keeps: a lane reads and writes its own items alone, in rising order, so that a row may be worked on in place. */
#ifndef TOOLS_RUN_KERNELS_CORE_H
#define TOOLS_RUN_KERNELS_CORE_H

#include "tools/run/kernels.h"

#include <math.h>
#include <string.h>

#ifdef __CUDACC__
#define KERNEL_FN static __device__ __forceinline__
#else
#define KERNEL_FN static inline
#endif

KERNEL_FN float kernel_from_bits(uint32_t bits)
{
	float f;
	memcpy(&f, &bits, sizeof f);
	return f;
}

/* Exponent and fraction move to their places, and a multiplication by 2^112 corrects the exponent's bias, subnormals
 * included; infinities and NaNs get the exponent that they have in a float. */
KERNEL_FN float kernel_half(uint32_t h)
{
	float f = kernel_from_bits((h & 0x7fff) << 13) * 5192296858534827628530496329220096.0f;
	uint32_t bits;
	memcpy(&bits, &f, sizeof bits);
	return kernel_from_bits(bits | ((h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0) | (h & 0x8000) << 16);
}

KERNEL_FN float kernel_value(struct kernel_weight w, uint64_t i)
{
	if (w.dtype == KERNEL_F16)
		return kernel_half(((const uint16_t *)w.data)[i]);
	if (w.dtype == KERNEL_BF16)
		return kernel_from_bits((uint32_t)((const uint16_t *)w.data)[i] << 16);
	return ((const float *)w.data)[i];
}

KERNEL_FN float kernel_activate(float y, uint32_t act)
{
	switch (act) {
	case KERNEL_RELU:
		return y > 0 ? y : 0;
	case KERNEL_GELU:
		return 0.5f * y * (1 + erff(y * 0.70710678f));
	case KERNEL_GELU_TANH:
		return 0.5f * y * (1 + tanhf(0.79788456f * (y + 0.044715f * y * y * y)));
	case KERNEL_TANH:
		return tanhf(y);
	default:
		return y;
	}
}

KERNEL_FN void kernel_embed_lane(const struct kernel_embed *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	uint64_t from = (uint64_t)a->index[row] * a->all.width;
	float *y = a->y + row * a->all.width;
	for (uint32_t i = lane; i < a->all.width; i += lanes)
		y[i] = (a->add ? y[i] : 0) + kernel_value(a->table, from + i);
}

KERNEL_FN void kernel_widen_lane(const struct kernel_widen *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	for (uint32_t i = lane; i < a->all.width; i += lanes)
		a->y[row * a->all.width + i] = kernel_value(a->from, row * a->all.width + i);
}

KERNEL_FN void kernel_finish_lane(const struct kernel_finish *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	uint64_t at = row * a->stride + a->column;
	for (uint32_t i = lane; i < a->all.width; i += lanes) {
		float y = a->y[at + i] + (a->bias.data ? kernel_value(a->bias, i) : 0);
		y = kernel_activate(y, a->act);
		a->y[at + i] = a->x2 ? y + a->x2[at + i] : y;
	}
}

KERNEL_FN void kernel_channel_lane(const struct kernel_channel *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	uint64_t c = row % a->channels, at = row * a->all.width;
	float scale = kernel_value(a->scale, c) / sqrtf(kernel_value(a->variance, c) + a->eps);
	float shift = kernel_value(a->shift, c) - kernel_value(a->mean, c) * scale;
	for (uint32_t i = lane; i < a->all.width; i += lanes) {
		float y = a->y[at + i] * scale + shift + (a->x2 ? a->x2[at + i] : 0);
		a->y[at + i] = kernel_activate(y, a->act);
	}
}

KERNEL_FN void kernel_cache_lane(const struct kernel_cache *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	uint64_t c = a->all.width, n = row / a->tokens, token = row % a->tokens;
	const float *x = a->x + row * 3 * c;
	uint64_t to = (n * a->room + a->past + token) * c;
	for (uint32_t i = lane; i < a->all.width; i += lanes) {
		a->k[to + i] = x[c + i];
		a->v[to + i] = x[2 * c + i];
	}
}

KERNEL_FN void kernel_maxpool_lane(const struct kernel_maxpool *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	const float *x = a->x + row * a->h * a->w;
	for (uint32_t i = lane; i < a->all.width; i += lanes) {
		float top = -INFINITY;
		for (uint32_t ky = 0; ky < a->kernel; ky++)
			for (uint32_t kx = 0; kx < a->kernel; kx++) {
				/* Outside on the near sides wraps around and is as far outside as on the others. */
				uint32_t iy = i / a->out_w * a->stride + ky - a->pad, ix = i % a->out_w * a->stride + kx - a->pad;
				if (iy < a->h && ix < a->w && x[(uint64_t)iy * a->w + ix] > top)
					top = x[(uint64_t)iy * a->w + ix];
			}
		a->y[row * a->all.width + i] = top;
	}
}

KERNEL_FN void kernel_pick_lane(const struct kernel_pick *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	uint64_t token = a->last ? (uint64_t)a->lengths[row] - 1 : 0;
	const float *x = a->x + (row * a->tokens + token) * a->all.width;
	for (uint32_t i = lane; i < a->all.width; i += lanes)
		a->y[row * a->all.width + i] = x[i];
}

KERNEL_FN void kernel_mean_lane(const struct kernel_mean *a, uint64_t row, uint32_t lane, uint32_t lanes)
{
	uint32_t n = (uint32_t)a->lengths[row];
	const float *x = a->x + row * a->tokens * a->all.width;
	for (uint32_t i = lane; i < a->all.width; i += lanes) {
		float sum = 0;
		for (uint32_t k = 0; k < n; k++)
			sum += x[(uint64_t)k * a->all.width + i];
		a->y[row * a->all.width + i] = sum / (float)n;
	}
}

/* ---- what is added up over a row: each lane's part, and then what is done with the sum of all ---- */

KERNEL_FN float kernel_norm_item(const struct kernel_norm *a, uint64_t at)
{
	return a->x2 ? a->x[at] + a->x2[at] : a->x[at];
}

KERNEL_FN float kernel_norm_sum(const struct kernel_norm *a, uint64_t row, uint32_t lane)
{
	float sum = 0;
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES)
		sum += kernel_norm_item(a, row * a->all.width + i);
	return sum;
}

KERNEL_FN float kernel_norm_spread(const struct kernel_norm *a, uint64_t row, uint32_t lane, float mean)
{
	float sum = 0;
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES) {
		float off = kernel_norm_item(a, row * a->all.width + i) - mean;
		sum += off * off;
	}
	return sum;
}

KERNEL_FN void kernel_norm_write(const struct kernel_norm *a, uint64_t row, uint32_t lane, float mean, float spread)
{
	float by = 1 / sqrtf(spread / (float)a->all.width + a->eps);
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES) {
		uint64_t at = row * a->all.width + i;
		a->y[at] = (kernel_norm_item(a, at) - mean) * by * kernel_value(a->scale, i) + kernel_value(a->shift, i);
	}
}

/* Keys that a query sees. */
KERNEL_FN uint32_t kernel_softmax_seen(const struct kernel_softmax *a, uint64_t row)
{
	if (a->lengths)
		return (uint32_t)a->lengths[row / a->queries / a->heads];
	return a->past + (uint32_t)(row % a->queries) + 1;
}

KERNEL_FN float kernel_softmax_top(const struct kernel_softmax *a, uint64_t row, uint32_t lane)
{
	uint32_t seen = kernel_softmax_seen(a, row);
	float top = -INFINITY;
	for (uint32_t i = lane; i < seen; i += KERNEL_LANES)
		top = fmaxf(top, a->scores[row * a->all.width + i]);
	return top;
}

KERNEL_FN float kernel_softmax_sum(const struct kernel_softmax *a, uint64_t row, uint32_t lane, float top)
{
	uint32_t seen = kernel_softmax_seen(a, row);
	float sum = 0;
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES) {
		float e = i < seen ? expf(a->scores[row * a->all.width + i] - top) : 0;
		a->scores[row * a->all.width + i] = e;
		sum += e;
	}
	return sum;
}

KERNEL_FN void kernel_softmax_write(const struct kernel_softmax *a, uint64_t row, uint32_t lane, float sum)
{
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES)
		a->scores[row * a->all.width + i] *= 1 / sum;
}

KERNEL_FN float kernel_avgpool_sum(const struct kernel_avgpool *a, uint64_t row, uint32_t lane)
{
	float sum = 0;
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES)
		sum += a->x[row * a->all.width + i];
	return sum;
}

KERNEL_FN float kernel_unit_sum(const struct kernel_unit *a, uint64_t row, uint32_t lane)
{
	float sum = 0;
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES) {
		float x = a->x[row * a->all.width + i];
		sum += x * x;
	}
	return sum;
}

KERNEL_FN void kernel_unit_write(const struct kernel_unit *a, uint64_t row, uint32_t lane, float sum)
{
	/* As PyTorch's normalize: never a division by less than this. */
	float by = 1 / fmaxf(sqrtf(sum), 1e-12f);
	for (uint32_t i = lane; i < a->all.width; i += KERNEL_LANES)
		a->y[row * a->all.width + i] = a->x[row * a->all.width + i] * by;
}

#endif
