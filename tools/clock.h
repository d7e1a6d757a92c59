/* clock.h - monotonic time.  Thread: any. */
#ifndef TOOLS_CLOCK_H
#define TOOLS_CLOCK_H

#include "shared/base.h"

#include <time.h>

static inline uint64_t clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

#endif
