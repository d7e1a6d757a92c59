/* upload.h - what a haul from the host copy to a device has of its own: which chunks go over which link, and those on their
 * way.  It follows the host copy: a chunk goes up as soon as it is readable there.
 *
 * Each link that the plan names has a part of the chunks, and goes through it in the plan's order without regard to the
 * others.  Over another device's link, the helper's, a chunk goes to a slot of that device's staging (peer.h) and is taken from
 * there (relay.h); on that link it ranks a class lower than the load, since those it was made for go first.  When the
 * device's own link has nothing left of its part, it takes chunks that were not begun yet from the ends of the others, and in the
 * end those that wait for a helper's link: a busy helper costs time, never the load.
 *
 * Where a helper cannot be used, what it was to bring comes over the own link; the haul does not fail by it:
 *   pt-no-such-device  the plan names a device that is not here, or lost
 *   pt-no-peer         the device cannot take from its memory
 *   pt-no-staging      it has no memory for what is on its way
 *   pt-helper-lost     it failed in the middle, or its link has too many transfers
 *
 * Thread: loop. */
#ifndef MRM_GPU_UPLOAD_H
#define MRM_GPU_UPLOAD_H

#include "mrm/haul.h"

struct upload;

/* Fails the haul when the device is lost or its link has too many transfers. */
void upload_begin(struct haul *t);
/* Begins what can be begun; chunks come home through haul_chunk_up(). */
void upload_advance(struct haul *t);
/* No chunk is left that was not begun. */
bool upload_has_begun_all(const struct haul *t);
void upload_reclass(struct haul *t);
/* What has not been begun comes home at once. */
void upload_cancel(struct haul *t);
/* Nothing of it is out any more; notes in the trace how long it waited for whom.  NULL-safe. */
void upload_end(struct haul *t);

#endif
