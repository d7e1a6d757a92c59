/* upload.h - what a haul from the host copy to a device has of its own: its flow on the device's link, and the chunks on
 * their way.  It follows the host copy: a chunk goes up as soon as it is readable there.  Thread: loop. */
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
