/* samples.h - numbers of which the median is wanted.  Thread: any, one owner; zeroed is empty. */
#ifndef TOOLS_SAMPLES_H
#define TOOLS_SAMPLES_H

#include <stddef.h>

struct samples {
	double *v;
	size_t n, cap;
};

void samples_add(struct samples *s, double value);
/* These sort, and want at least one. */
double samples_median(struct samples *s);
/* The value below which `share` of them lie. */
double samples_quantile(struct samples *s, double share);
void samples_fini(struct samples *s);

#endif
