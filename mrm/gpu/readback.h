/* readback.h - reads a copy on a device back over its link, chunk by chunk, and compares it with the hashes on record.
 * Thread: loop.  The copy is held and the image referenced meanwhile. */
#ifndef MRM_GPU_READBACK_H
#define MRM_GPU_READBACK_H

#include "mrm/holding.h"

#define READBACK_NAMED 64 /* damaged chunks that are told by number */

struct readback;

struct readback_result {
	uint32_t n_chunks, n_bad;   /* n_bad: of those that were read */
	uint32_t bad[READBACK_NAMED];
	int error;                  /* it could not be read to its end: -errno with `why`; -ECANCELED */
	struct fault why;
};

struct readback_options {
	struct holding *image;
	uint8_t tier;
	enum load_class class;
	uint64_t deadline;
	/* Asked now and then; false: stop.  May be NULL. */
	bool (*wanted)(void *ctx);
	void (*done)(void *ctx, const struct readback_result *result); /* once, later */
	void *ctx;
};

/* The copy must be complete, with all its hashes on record. */
void readback_start(struct daemon *d, const struct readback_options *options);

#endif
