/* fit.c - see fit.h. */
#include "tools/bench/fit.h"

#include <math.h>

#define B_STEP 0.01
#define B_MOST 64.0

static double rms_of(double squares, size_t n)
{
	return sqrt(squares / (double)n);
}

void fit_line(const double *f, const double *y, size_t n, struct fit *out)
{
	double mf = 0, my = 0, ff = 0, fy = 0, squares = 0;
	for (size_t i = 0; i < n; i++) {
		mf += f[i] / (double)n;
		my += y[i] / (double)n;
	}
	for (size_t i = 0; i < n; i++) {
		ff += (f[i] - mf) * (f[i] - mf);
		fy += (f[i] - mf) * (y[i] - my);
	}
	double b = ff > 0 ? fy / ff : 0, a = my - b * mf;
	for (size_t i = 0; i < n; i++)
		squares += (y[i] - a - b * f[i]) * (y[i] - a - b * f[i]);
	*out = (struct fit){.a = a, .b = b, .rms = rms_of(squares, n)};
}

/* The best a for this b, and what it misses. */
static struct fit fit_exp_at(double b, const double *x, const double *y, size_t n)
{
	double ey = 0, ee = 0, squares = 0;
	for (size_t i = 0; i < n; i++) {
		ey += exp(b * x[i]) * y[i];
		ee += exp(2 * b * x[i]);
	}
	double a = ey / ee;
	for (size_t i = 0; i < n; i++)
		squares += (y[i] - a * exp(b * x[i])) * (y[i] - a * exp(b * x[i]));
	return (struct fit){.a = a, .b = b, .rms = rms_of(squares, n)};
}

void fit_exp(const double *x, const double *y, size_t n, struct fit *out)
{
	*out = fit_exp_at(0, x, y, n);
	for (double b = B_STEP; b <= B_MOST; b += B_STEP) {
		struct fit f = fit_exp_at(b, x, y, n);
		if (f.rms < out->rms)
			*out = f;
	}
}
