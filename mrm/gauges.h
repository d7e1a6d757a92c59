/* gauges.h - what the metrics segment shows of states that others keep: tiers, connections, the brain's and the sources'
 * counters.  Thread: loop. */
#ifndef MRM_GAUGES_H
#define MRM_GAUGES_H

#include "mrm/daemon.h"

/* Copies all of it. */
void gauges_update(struct daemon *d);

#endif
