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
/* An interval that holds the median of all that there could have been with 95 % certainty, whatever their distribution (order
 * statistics, exact); with less than 6 the lowest and the highest. */
void samples_median_interval(struct samples *s, double *low, double *high);
void samples_fini(struct samples *s);

#endif
