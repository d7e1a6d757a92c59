/* progress.h - the progress page: one read-only shared page per (model, tier) copy, written by the daemon's loop
 * thread alone, read and waited on by any number of client threads.
 *
 * Order of an update: chunks and watermarks (release), then `wake` + 1, then FUTEX_WAKE.  A reader that saw watermark[e] >= end of
 * a tensor, or on tier host all of its chunks, may read those bytes.  On tier gpu a watermark is a piece's (gpu_handle.h), not an extent's.  `state` only moves LOADING -> READY or LOADING -> POISONED; after READY every
 * watermark equals its extent's bytes.  POISONED: the load failed, `error` says why, bytes under the watermarks and
 * in marked chunks stay valid, nothing more will arrive. */
#ifndef SHARED_PROGRESS_H
#define SHARED_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>

#define PROGRESS_MAGIC 0x47525054u /* "TPRG" */
#define PROGRESS_VERSION 1
#define PROGRESS_BYTES 4096
#define PROGRESS_MAX_EXTENTS 128
#define PROGRESS_MAX_CHUNKS 16384u /* 64 GiB of an image; behind them watermarks alone tell */

enum progress_state { PROGRESS_LOADING, PROGRESS_READY, PROGRESS_POISONED };

struct progress_page {
	uint32_t magic, version;
	_Atomic uint32_t wake;  /* the futex word */
	_Atomic uint32_t state; /* enum progress_state */
	_Atomic uint32_t error; /* errors.def, set before POISONED */
	uint32_t extents;       /* watermarks: extents, or pieces of a copy on a device */
	uint64_t copy;          /* generation number, as in OPENED */
	uint64_t image_bytes;
	_Atomic uint64_t landed; /* checked bytes in all, for progress bars; not in order */
	_Atomic uint64_t digest_hi, digest_lo; /* set before READY */
	_Atomic uint64_t watermark[PROGRESS_MAX_EXTENTS]; /* checked bytes from its start, without a hole */
	char error_text[512]; /* set before POISONED */
	_Atomic uint64_t helper_bytes; /* of those that landed, on a device: over other devices' links */
	/* On tier host, bit c % 64 of [c / 64]: chunk c can be read, whatever the watermark says.  Chunks are IMAGE_CHUNK_BYTES
	 * each, counted through the extents, each of which begins one. */
	_Atomic uint64_t chunk[PROGRESS_MAX_CHUNKS / 64];
};

_Static_assert(sizeof(struct progress_page) <= PROGRESS_BYTES, "the progress page is one page");

#endif
