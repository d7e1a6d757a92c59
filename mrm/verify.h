/* verify.h - answers VERIFY: reads every byte of a model's copies and compares digests.  Each copy is held by a lease of
 * the daemon's own meanwhile; a damaged one is dropped and loaded again by the next open.  Thread: loop. */
#ifndef MRM_VERIFY_H
#define MRM_VERIFY_H

#include "mrm/conn.h"

#define VERIFY_OWNER ((uint64_t)1 << 63) /* owners with this bit are verifications, not connections */

void verify_start(struct conn *c, uint64_t request, uint64_t ticket, const char *name);
/* The brain's answer to a verification's own open. */
void verify_granted(struct daemon *d, const struct cache_effect *fx);
void verify_refused(struct daemon *d, const struct cache_effect *fx);
/* Shutdown: forgets all. */
void verify_stop(struct daemon *d);

#endif
