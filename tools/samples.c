/* samples.c - see samples.h. */
#include "tools/samples.h"

#include "shared/base.h"
#include "shared/check.h"

#include <math.h>
#include <stdlib.h>

void samples_add(struct samples *s, double value)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 256;
		s->v = realloc(s->v, s->cap * sizeof *s->v);
		ASSERT(s->v);
	}
	s->v[s->n++] = value;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double samples_quantile(struct samples *s, double share)
{
	ASSERT(s->n > 0);
	qsort(s->v, s->n, sizeof *s->v, by_value);
	size_t i = (size_t)(share * (double)(s->n - 1) + 0.5);
	return s->v[MIN(i, s->n - 1)];
}

double samples_median(struct samples *s)
{
	double upper = samples_quantile(s, 0.5);
	return s->n % 2 ? upper : (s->v[s->n / 2 - 1] + s->v[s->n / 2]) / 2;
}

/* Of n fair coins, how few heads are no longer as rare as one time in forty, or rarer. */
static size_t rare_heads(size_t n)
{
	double below = 0;
	size_t k = 0;
	for (;; k++) {
		below += exp(lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) - (double)n * M_LN2);
		if (below > 0.025)
			return k; /* that many is not rare any more, less is */
	}
}

void samples_median_interval(struct samples *s, double *low, double *high)
{
	*low = samples_quantile(s, 0);
	*high = samples_quantile(s, 1);
	size_t outside = rare_heads(s->n); /* values at either end that the median is not beyond */
	if (!outside)
		return;
	*low = s->v[outside - 1];
	*high = s->v[s->n - outside];
}

void samples_fini(struct samples *s)
{
	free(s->v);
	*s = (struct samples){0};
}
