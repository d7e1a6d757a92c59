/* trace.h - why a load took as long as it took: the last loads of a model, by stage.
 * Thread: loop.  Zeroed is empty; a model that was never loaded takes no memory for it. */
#ifndef MRM_TRACE_H
#define MRM_TRACE_H

#include "cache/cache.h"
#include "mrm/gpu/submit.h"

#define TRACE_KEPT 8

/* A stage's time runs from the end of the one before; 0: did not happen. */
struct trace_load {
	uint64_t transfer;
	enum tier_kind from, to;
	enum load_class class;
	uint64_t started_unix_ns, started_ns, prepared_ns, first_byte_ns, last_byte_ns, ended_ns; /* ended_ns 0: running */
	uint64_t resolve_ns, alloc_ns, verify_ns; /* before the start; spent in whole-file digests */
	uint64_t bytes;
	uint32_t chunks_bad, chunks_resumed;
	uint64_t plan;          /* whose order it follows; 0: the image's */
	uint64_t helper_bytes;  /* of `bytes`, over other devices' links */
	uint32_t taken_back;    /* chunks that were to come that way, and came over the device's own */
	struct gpu_waits link;  /* how long it waited on a device's link, and for whom */
	struct fault error; /* code NONE: it went well */
};

struct trace {
	struct trace_load *load; /* [TRACE_KEPT]; NULL before the first */
	uint32_t n; /* ever; the newest is load[(n - 1) % TRACE_KEPT] */
	uint64_t resolve_ns, alloc_ns; /* of what comes next */
};

/* A fresh entry, the oldest makes room; borrowed, good until TRACE_KEPT more were begun. */
struct trace_load *trace_begin(struct trace *t, uint64_t transfer);
/* NULL when it was pushed out meanwhile. */
struct trace_load *trace_find(struct trace *t, uint64_t transfer);
void trace_fini(struct trace *t);

#endif
