/* copycheck.h - compares chunks of a copy on a device with the hashes on record: by the kernel, where the copy is, or, where
 * that cannot be had (fallback no-hash-kernel), by reading it back over its link.
 * Thread: loop.  The copy is held and the image referenced meanwhile. */
#ifndef MRM_GPU_COPYCHECK_H
#define MRM_GPU_COPYCHECK_H

#include "mrm/holding.h"

#define COPYCHECK_NAMED 64 /* damaged chunks that are told by number */

struct copycheck_result {
	uint32_t n_chunks, n_bad;   /* n_bad: of those that were looked at */
	uint32_t bad[COPYCHECK_NAMED];
	int error;                  /* it could not be looked at to its end: -errno with `why`; -ECANCELED */
	struct fault why;
};

struct copycheck_options {
	struct holding *image;
	uint8_t tier;
	uint32_t first, n;          /* chunks */
	bool landed;                /* only those that have arrived when it comes to them */
	enum load_class class;
	uint64_t deadline;
	/* Asked now and then; false: stop.  May be NULL. */
	bool (*wanted)(void *ctx);
	void (*done)(void *ctx, const struct copycheck_result *result); /* once, later */
	void *ctx;
};

/* Of these chunks, those that the copy has are compared; all their bytes must have arrived, unless `landed`.  One whose hash is not on record ends the check with an error. */
void copycheck_start(struct daemon *d, const struct copycheck_options *options);

/* For those who look: whether the check is to go on; else the result says why not. */
bool copycheck_goes_on(struct daemon *d, const struct copycheck_options *o, struct copycheck_result *result);
/* Of these, how many the copy has. */
uint32_t copycheck_count(const struct copycheck_options *options);
void copycheck_found(struct copycheck_result *result, uint32_t chunk);

#endif
