/* finish.h - the ends of a transfer: what a worker prepares before the first chunk and seals after the last, and the
 * repair of damaged chunks in between.  Thread: loop. */
#ifndef MRM_FINISH_H
#define MRM_FINISH_H

#include "mrm/haul.h"

/* Leads to STAGE_CHUNKS, or to finish_start() when it fails. */
void prepare_start(struct haul *t);
/* All chunks are in, or the transfer is over: computes the digest, commits or flushes the disk image, answers the brain and
 * frees the transfer. */
void finish_start(struct haul *t);
/* Fetches a damaged chunk of the disk image from the source. */
void finish_repair(struct haul *t, uint32_t chunk);

#endif
