/* integrity.h - device memory is checked before it goes from one user to another.
 *
 * Clients map it read-only of their own will: the driver knows no other protection.  So a copy remembers the users whose last
 * lease on it has ended, and before a lease is granted to anybody else, its bytes are compared with the digests on record.
 * What has changed is dropped and loaded again, counted, and whoever had it is named.  Users who hold a copy at the same time
 * trust each other that long.
 *
 * Thread: loop. */
#ifndef MRM_GPU_INTEGRITY_H
#define MRM_GPU_INTEGRITY_H

#include "mrm/conn.h"
#include "mrm/holding.h"

struct integrity;

struct integrity *integrity_new(struct daemon *d);
void integrity_free(struct integrity **i);

/* Of a GRANT on a device's copy: true when it has to wait for a check; engine_grant() is called for it afterwards, or the
 * brain is asked again for another copy. */
bool integrity_defers(struct integrity *i, struct conn *c, const struct cache_effect *fx);
/* The lease was given to the client. */
void integrity_granted(struct integrity *i, struct conn *c, const struct cache_effect *fx);
/* It has gone back; harmless for a lease on another tier. */
void integrity_closed(struct integrity *i, uint64_t lease);
/* With all its leases. */
void integrity_conn_gone(struct integrity *i, uint64_t conn);
/* Which copy on a device, of which tier, the lease is on; false: none. */
bool integrity_lease(const struct integrity *i, uint64_t lease, uint8_t *tier, uint64_t *copy);
/* Whether somebody has had it, and let go of it, since it was checked last, and nobody has it now. */
bool integrity_was_had(const struct integrity *i, uint64_t copy);
/* The copy is going, or begins anew: nothing more is remembered of it. */
void integrity_forget(struct integrity *i, uint64_t copy);

#endif
