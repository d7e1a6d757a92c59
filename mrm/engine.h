/* engine.h - carries out the brain's effects and tells it what became of them.  Thread: loop. */
#ifndef MRM_ENGINE_H
#define MRM_ENGINE_H

#include "mrm/daemon.h"

/* Carries out everything the brain wants by now.  After each call into the cache; harmless when nothing is pending, and
 * while it is running already. */
void engine_pump(struct daemon *d);
/* Gives a lease to its client, after what it had to wait for. */
void engine_grant(struct daemon *d, const struct cache_effect *fx);

#endif
