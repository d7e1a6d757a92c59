/* fit.h - least squares for the three curves that waits under load are said to follow.  Thread: any.  Owns nothing. */
#ifndef TOOLS_BENCH_FIT_H
#define TOOLS_BENCH_FIT_H

#include <stddef.h>

struct fit {
	double a, b;
	double rms; /* of what the curve misses, in units of y */
};

/* y = a + b f */
void fit_line(const double *f, const double *y, size_t n, struct fit *out);
/* y = a e^(b x), in y and not in its logarithm; b between 0 and 64. */
void fit_exp(const double *x, const double *y, size_t n, struct fit *out);

#endif
