/* samples.c - see samples.h. */
#include "tools/samples.h"

#include "shared/base.h"
#include "shared/check.h"

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

void samples_fini(struct samples *s)
{
	free(s->v);
	*s = (struct samples){0};
}
