/* kept.h - copies in memory that outlive the daemon (mrm/keep): given away when they are complete, taken back at the next start.
 *
 * A copy that was taken back is served at once, but nothing of it is believed: its progress page begins anew, and a chunk is
 * readable when its bytes have matched the hash on record.  Damage ends it like a failed load; the next open loads it again.
 * Clients that still have it mapped say so (CLAIM) and get their lease back.
 *
 * Thread: loop, but kept_start(), kept_adopt() and kept_stop(): main thread before and after it. */
#ifndef MRM_KEPT_H
#define MRM_KEPT_H

#include "mrm/holding.h"

/* Before there are threads and before the driver is loaded. */
int kept_start(struct daemon *d, struct fault *why);
/* With brain, devices and pools in place, before the disk tier is adopted. */
void kept_adopt(struct daemon *d);
/* Checks what was adopted, in the background, on workers. */
void kept_check(struct daemon *d);
void kept_stop(struct daemon *d);

/* The copy on that tier is complete, and its chunks have these hashes: it is given away, by a worker.  old: the edition from
 * which it has grown, which had so many pieces and goes; 0: none. */
void kept_put(struct holding *img, uint8_t tier, const struct hash128 *hashes, uint64_t old, uint32_t old_pieces);
/* That edition of a copy goes; once nobody holds the copy, since it may still be on its way there.  Any thread. */
void kept_drop(struct daemon *d, uint64_t edition, uint32_t n_pieces);
/* Whether copies of that tier are given away; for the doctor report. */
const char *kept_where(const struct daemon *d);

/* The model of a copy of that number that was taken back, for CLAIM; 0: there was none. */
uint64_t kept_model(const struct daemon *d, uint64_t copy);

#endif
