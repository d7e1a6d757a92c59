/* plan_bound.h - which partial plans can still become better than the best one known.
 *
 * A partial plan that has decided on the layers before i, with a part open, is at (f, z): the frontier of the part's link and
 * the run time.  No layer ends before the frontier that it leaves behind.  So for each layer j >= i of the part, the run time
 * before a later layer s is at least
 *   f + the link times of the layers i to j + the run times of those behind j and before s,
 * and at least z + the run times of all of them.  Hence it is at least any mean of these, with each layer taking what is least
 * in that mean: a line.  Its weights say, per layer, how much of the mean is still on the link.  Where memory is bounded, a line
 * may fine loaded bytes: no plan pays more than the fine of all memory.
 * At s the plan ends, or a part on a free link begins, with f = 0 and a run time that must pass the lines of that part.
 * What is allowed before a layer is what is allowed behind it less its cost, the best of its choices; a layer that is loaded
 * behind one that is not pays the overhead of a piece.  So a state is tested in a few multiplications.
 * And once z is far enough ahead of f, the rest runs without a stall: its total is then known.
 * Thread: the caller's.  Owns: a bound owns its arrays. */
#ifndef CACHE_PLAN_BOUND_H
#define CACHE_PLAN_BOUND_H

#include "cache/plan_impl.h"

#define PLAN_BOUND_LINES 16
#define PLAN_BOUND_ONE 65536 /* weights are parts of it */

struct plan_bound_line {
	uint32_t *weight;    /* of the link, at each layer and behind the last; falls */
	int64_t *allowed[2]; /* the most that a state before i may have, in ns / PLAN_BOUND_ONE; [1]: with a piece open */
	uint64_t fine;       /* of a loaded byte, in 2^-16 of these */
};

/* Of one usable link as the current one. */
struct plan_bound {
	unsigned link;
	uint32_t n_lines;
	struct plan_bound_line lines[PLAN_BOUND_LINES];
	int64_t *ahead;      /* z - f from which the layers from i on do not stall */
	uint64_t *run;       /* the least time in which they can run */
	uint64_t *run_bytes; /* that are loaded for it */
	uint64_t *must_bytes; /* that are loaded in any case */
};

/* A stretch of layers for which lines shall be sharp: a part of a good plan, and the run time before it. */
struct plan_stretch {
	uint32_t from, to;
	uint64_t run;
};

/* fine: plan_bound_fine() of that link where memory is bounded, else 0; wide: what is spent on it pays. */
void plan_bound_init(struct plan_bound *b, const struct plan_problem *q, unsigned link, const struct plan_stretch *stretch,
	uint64_t fine, bool wide);
/* The fine of a byte that says most about plans over one link alone. */
uint64_t plan_bound_fine(const struct plan_problem *q, unsigned link);
void plan_bound_fini(struct plan_bound *b);
/* The highest run time with which a part may begin before layer i to end up below what the lines allow; negative: none. */
int64_t plan_bound_entry(const struct plan_bound *b, uint32_t i, uint64_t m);
/* Sets what is allowed: plans must end below `below`; next[n_next]: parts that may follow, themselves set already. */
void plan_bound_allow(struct plan_bound *b, const struct plan_problem *q, uint64_t below, const struct plan_bound *const *next,
	unsigned n_next);
/* How far (f, z, m) before layer i, with a piece open or not, is from what is allowed, in ns / PLAN_BOUND_ONE: positive, it
 * cannot lead there. */
int64_t plan_bound_excess(const struct plan_bound *b, uint32_t i, uint64_t f, uint64_t z, uint64_t m, bool open);
/* The choice that runs a layer in the least time. */
bool plan_runs_by_dha(const struct plan_item *item);

#endif
