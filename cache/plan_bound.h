/* plan_bound.h - how good a partial plan can still become.
 *
 * A partial plan that has decided on the layers before i is at (f, z): the frontier of its part's link and the run time.
 * Whatever follows, its total is at least any mean of
 *   z + the run times of the rest, and
 *   f + the link times of the layers before a cut + the run times of those behind it
 * (no layer ends before the frontier that it leaves), where each layer takes what is least in that mean, link time is spread
 * over this link and those that are still free, and loaded bytes beyond the bound on memory are fined, which no plan pays.
 * And once z is far enough ahead of f, the rest runs without a stall: its total is then known.
 * Thread: the caller's.  Owns: the struct owns its arrays. */
#ifndef CACHE_PLAN_BOUND_H
#define CACHE_PLAN_BOUND_H

#include "cache/plan_impl.h"

#define PLAN_BOUND_LINES 40

/* Of one link as the current one of a part, with some others still free. */
struct plan_bound {
	uint32_t n_lines, share;         /* share: 1 + links still free */
	struct plan_bound_line {
		uint32_t weight;         /* of z, in 64ths */
		uint64_t fine;           /* of a loaded byte, in 2^-32 of 64ths */
		int64_t *rest;           /* of the layers from i on, in 64ths, less the fine of all memory */
	} lines[PLAN_BOUND_LINES];
	int64_t *ahead;                  /* z - f from which the layers from i on do not stall */
	uint64_t *run;                   /* the least time in which they can run */
	uint64_t *run_bytes;             /* that are loaded for it */
	uint64_t *must_bytes;            /* that are loaded in any case */
};

/* k: index of the current link; free_links: bits of those still free; cut: a layer where stalls may end. */
void plan_bound_init(struct plan_bound *b, const struct plan_problem *q, unsigned k, unsigned free_links, uint32_t cut,
	bool memory);
void plan_bound_fini(struct plan_bound *b);
/* Lower bound on the total of a plan that is at (f, z) before layer i, with m bytes loaded. */
uint64_t plan_bound_total(const struct plan_bound *b, uint32_t i, uint64_t f, uint64_t z, uint64_t m);
/* The choice that runs a layer in the least time. */
bool plan_runs_by_dha(const struct plan_item *item);

#endif
