/* rate.h - how often a model is wanted, as one number that need not be aged.
 *
 * The expected use rate is a sum over past uses, each halved every half-life.  All such sums fade alike, so
 *     log2(sum at t) + t / half_life
 * does not change until the next use, and orders models for good: that is the key kept here, in 1/65536 steps.
 * Integer arithmetic only; the same on every machine.  Thread: any. */
#ifndef CACHE_RATE_H
#define CACHE_RATE_H

#include "shared/base.h"

#define RATE_ONE 65536                /* a factor of two, or one half-life */
#define RATE_NEVER (INT64_MIN / 4)    /* the key of what was never used; far enough from the edge to add to */

/* log2(x) in 1/65536 steps; x > 0. */
int64_t rate_log2(uint64_t x);
/* t / half_life in the same steps; t may be before the clock's start. */
int64_t rate_time(int64_t t_ns, uint64_t half_life_ns);
/* The key after one more use at rate_time `t`. */
int64_t rate_use(int64_t key, int64_t t);

#endif
