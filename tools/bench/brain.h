/* brain.h - the brain alone, with hands that answer at once.  Thread: the caller's. */
#ifndef TOOLS_BENCH_BRAIN_H
#define TOOLS_BENCH_BRAIN_H

/* Events a second that one core gets through. */
double brain_events_per_s(void);

#endif
