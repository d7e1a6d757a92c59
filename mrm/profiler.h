/* profiler.h - takes profiles by itself: a model that was opened on a device of a class that none is stored for is measured by
 * `trims-run profile`, a child of the daemon and its client, when the machine has been idle for --profiler-idle.
 *
 * One at a time, at the lowest priorities (trims-run profile --background); ended when a load begins or somebody opens that model,
 * and tried again later, PROFILER_TRIES times at most.  What trims-run cannot run is not tried again.
 * Thread: loop.  Nothing here waits for the child. */
#ifndef MRM_PROFILER_H
#define MRM_PROFILER_H

#include "mrm/conn.h"

#define PROFILER_TRIES 5

/* --profiler: leaves d->profiler NULL where there is to be none, or no program (named: no-profiler).  Fails when a program that
 * was named is not there. */
int profiler_start(struct daemon *d, struct fault *why);
/* Ends the child and waits for that. */
void profiler_free(struct profiler **p);
/* The child is ended. */
void profiler_stop(struct daemon *d);

/* A lease was granted. */
void profiler_used(struct daemon *d, const struct conn *c, uint64_t model, uint8_t tier);
/* A load begins. */
void profiler_yield(struct daemon *d);
/* For doctor: "ok" or "off", and a sentence. */
const char *profiler_state(const struct daemon *d, const char **detail);

#endif
