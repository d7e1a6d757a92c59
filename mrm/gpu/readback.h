/* readback.h - the way of copycheck.h that needs nothing of a device but copies: chunks are read back over its link, one by
 * one and under the link scheduler, and hashed by workers.  Thread: loop. */
#ifndef MRM_GPU_READBACK_H
#define MRM_GPU_READBACK_H

#include "mrm/gpu/copycheck.h"

/* As copycheck_start(), which decides. */
void readback_start(struct daemon *d, const struct copycheck_options *options);

#endif
