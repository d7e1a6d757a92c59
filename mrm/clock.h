/* clock.h - the daemon's clocks.  Thread: any. */
#ifndef MRM_CLOCK_H
#define MRM_CLOCK_H

#include "shared/base.h"

#include <time.h>

static inline uint64_t clock_read(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Monotonic ns: the brain's time. */
static inline uint64_t clock_now(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

/* ns since 1970, for people. */
static inline uint64_t clock_unix(void)
{
	return clock_read(CLOCK_REALTIME);
}

#endif
