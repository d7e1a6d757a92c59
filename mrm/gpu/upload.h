/* upload.h - what a haul from the host copy to a device has of its own: its flow on the device's link, and the chunks on
 * their way.  It follows the host copy: a chunk goes up as soon as it is readable there.  Thread: loop. */
#ifndef MRM_GPU_UPLOAD_H
#define MRM_GPU_UPLOAD_H

#include "mrm/haul.h"

struct upload;

/* Fails the haul when the device is lost or its link has too many transfers. */
void upload_begin(struct haul *t);
/* Whether the chunk's memory is where a device reads from, or never will be. */
bool upload_may_go(const struct haul *t, uint32_t chunk);
/* Comes home through haul_chunk_up(). */
void upload_submit(struct haul *t, uint32_t chunk);
void upload_reclass(struct haul *t);
/* What has not been begun comes home at once. */
void upload_cancel(struct haul *t);
/* Nothing of it is out any more; notes in the trace how long it waited for whom.  NULL-safe. */
void upload_end(struct haul *t);

#endif
