/* cpu_math.c - the loops over floats that no BLAS has.  Compiled for speed (meson.build): sums may be reordered, as one
 * compiler did it once and for all, so results are the same in every run.  No input is infinite or NaN unless weights are. */
#include "tools/run/cpu.h"

#include "shared/image.h"

#include <math.h>
#include <string.h>

static void widen_bf16(const uint16_t *from, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t bits = (uint32_t)from[i] << 16;
		memcpy(&out[i], &bits, sizeof bits);
	}
}

/* Exponent and fraction move to their places, and a multiplication by 2^112 corrects the exponent's bias, subnormals
 * included; infinities and NaNs get the exponent that they have in a float. */
static void widen_f16(const uint16_t *from, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t h = from[i], bits = (h & 0x7fff) << 13;
		float f;
		memcpy(&f, &bits, sizeof f);
		f *= 0x1p112f;
		memcpy(&bits, &f, sizeof bits);
		bits |= (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
		bits |= (h & 0x8000) << 16;
		memcpy(&out[i], &bits, sizeof bits);
	}
}

void math_widen(const struct operand *w, uint64_t first, size_t n, float *out)
{
	switch (w->dtype) {
	case DTYPE_F16:
		widen_f16((const uint16_t *)w->data + first, n, out);
		break;
	case DTYPE_BF16:
		widen_bf16((const uint16_t *)w->data + first, n, out);
		break;
	default:
		memcpy(out, (const float *)w->data + first, n * sizeof *out);
	}
}

static void activate(float *y, size_t n, enum act act)
{
	const float root_half = 0.70710678f, root_two_pi = 0.79788456f; /* sqrt(1/2), sqrt(2/pi) */
	switch (act) {
	case ACT_RELU:
		for (size_t i = 0; i < n; i++)
			y[i] = y[i] > 0 ? y[i] : 0;
		break;
	case ACT_GELU:
		for (size_t i = 0; i < n; i++)
			y[i] = 0.5f * y[i] * (1 + erff(y[i] * root_half));
		break;
	case ACT_GELU_TANH:
		for (size_t i = 0; i < n; i++)
			y[i] = 0.5f * y[i] * (1 + tanhf(root_two_pi * (y[i] + 0.044715f * y[i] * y[i] * y[i])));
		break;
	case ACT_TANH:
		for (size_t i = 0; i < n; i++)
			y[i] = tanhf(y[i]);
		break;
	case ACT_NONE:
		break;
	}
}

void math_add(float *y, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] += x[i];
}

void math_scale(float *y, float by, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] *= by;
}

float math_dot(const float *a, const float *b, size_t n)
{
	float sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

void math_finish_row(float *y, const float *bias, const float *x2, size_t n, enum act act)
{
	if (bias)
		math_add(y, bias, n);
	activate(y, n, act);
	if (x2)
		math_add(y, x2, n);
}

void math_finish_channel(float *y, float scale, float shift, const float *x2, size_t n, enum act act)
{
	if (x2)
		for (size_t i = 0; i < n; i++)
			y[i] = y[i] * scale + shift + x2[i];
	else
		for (size_t i = 0; i < n; i++)
			y[i] = y[i] * scale + shift;
	activate(y, n, act);
}

void math_softmax(float *v, size_t n)
{
	float top = v[0], sum = 0;
	for (size_t i = 1; i < n; i++)
		top = v[i] > top ? v[i] : top;
	for (size_t i = 0; i < n; i++) {
		v[i] = expf(v[i] - top);
		sum += v[i];
	}
	math_scale(v, 1 / sum, n);
}

void math_norm_row(float *y, const float *x, const float *x2, const float *scale, const float *shift, size_t n, float eps)
{
	float mean = 0, variance = 0;
	for (size_t i = 0; i < n; i++) {
		y[i] = x2 ? x[i] + x2[i] : x[i];
		mean += y[i];
	}
	mean /= (float)n;
	for (size_t i = 0; i < n; i++)
		variance += (y[i] - mean) * (y[i] - mean);
	float by = 1 / sqrtf(variance / (float)n + eps);
	for (size_t i = 0; i < n; i++)
		y[i] = (y[i] - mean) * by * scale[i] + shift[i];
}
