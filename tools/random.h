/* random.h - numbers that look random: the same everywhere for a seed, so that a seed names an input, a model, a course of arrivals.
 * Not for secrets.  Thread: any; a state is its owner's. */
#ifndef TOOLS_RANDOM_H
#define TOOLS_RANDOM_H

#include <stdint.h>

/* SplitMix64 (Steele, Lea and Flood, 2014).  Any state is a good one to begin with. */
static inline uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Above 0, below 1. */
static inline double random_unit(uint64_t *state)
{
	return ((double)(random_next(state) >> 11) + 0.5) / (double)((uint64_t)1 << 53);
}

#endif
