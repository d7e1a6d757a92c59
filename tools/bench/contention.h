/* contention.h - the two halves of trims-bench contention, and what both of them draw.
 * Thread: main.  Curves belong to whoever made them. */
#ifndef TOOLS_BENCH_CONTENTION_H
#define TOOLS_BENCH_CONTENTION_H

#include "tools/bench/stress.h"

#define PRESSURES (STRESS_MAX_PRESSURE + 1)
#define CURVE_POINTS 29

/* Of one cell: values below which curve_shares[i] of them lie. */
struct curve {
	double us[CURVE_POINTS];
	double mean_us;
	size_t n;
};
extern const double curve_shares[CURVE_POINTS];
void curve_take(struct curve *c, struct samples *us);
/* The point of a curve for that share, which has to be one of curve_shares. */
double curve_at(const struct curve *c, double share);

/* What goes to files, when there is a place for them. */
struct contention_files {
	const char *dir; /* NULL: nowhere */
	const char *gpu; /* its name, on every line */
	FILE *csv;
};
void contention_csv(const struct contention_files *f, const char *where, const char *memory, const char *direction,
	const char *arm, uint32_t pressure, const struct curve *c);
/* A new file of the directory. */
FILE *contention_file(const struct contention_files *f, const char *name);

/* In the daemon: opens of a small model on the device while p prefetches of large ones run. */
json_t *contention_inside(const struct bench_options *o, const struct gpu *g, const struct contention_files *files,
	uint64_t budget_ns);

#endif
