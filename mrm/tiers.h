/* tiers.h - the tiers and links of this machine, as the brain is told of them.  Thread: loop. */
#ifndef MRM_TIERS_H
#define MRM_TIERS_H

#include "mrm/daemon.h"

/* The arrays are static: good until the next call. */
void tiers_config(struct daemon *d, const struct config *c, struct cache_config *out);

#endif
