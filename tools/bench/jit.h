/* jit.h - a small submitter of copies, as the daemon has one: one thread per direction, and the link scheduler that tells it
 * which piece is next.  What trims-bench contention compares with plain streams.
 * Thread: jit_new() and jit_free() on one; jit_start() and jit_wait() on any.  Owns its threads, streams and buffers; a copy's
 * memory is the caller's and stays until jit_wait() returns. */
#ifndef TOOLS_BENCH_JIT_H
#define TOOLS_BENCH_JIT_H

#include "tools/bench/gpu.h"

enum way { UP, DOWN, WAYS }; /* host to device, device to host */

/* What the links of a device do, measured by link_rates(). */
struct link_rates {
	uint64_t bytes_per_s[WAYS]; /* alone, page-locked */
	uint32_t duplex[WAYS];      /* thousandths of that while the other way is busy as well */
	uint64_t overhead_ns, submit_ns;
};
void link_rates(const struct gpu *g, struct link_rates *out);

struct jit_copy {
	enum way way;
	bool demand;      /* else what nobody waits for: prefetch up, demotion down */
	bool pageable;    /* host is not page-locked: goes through the submitter's own buffers */
	cu_ptr device;
	uint8_t *host;
	uint64_t bytes;
	uint64_t asked_ns, started_ns, ended_ns; /* out; started: the engine got to its first piece */
	bool over;
};

struct jit;

/* buckets: prefetch may fill nine tenths of the link, and what goes down is charged to the way up. */
void jit_new(struct jit **out, const struct gpu *g, const struct link_rates *rates, bool buckets);
void jit_free(struct jit **j);
void jit_start(struct jit *j, struct jit_copy *copy);
void jit_wait(struct jit *j, struct jit_copy *copy);
/* B of the way up: how long a demand that finds no other may wait for the engine. */
uint64_t jit_bound_ns(const struct jit *j);
uint64_t jit_chunk_bytes(const struct jit *j);

#endif
