/* session.h - the GPU side of client connections: ATTACH, the trial imports that choose how device memory is shared with a
 * client (canaries), and session pages, on whose slots a client's streams wait.
 *
 * A connection has no session until its ATTACH was answered by ATTACHED.  One that has attaches again to try another device.  A session page is a memfd that the client maps
 * writable and registers with its driver; the daemon only ever stores to it and believes nothing it reads there.  A slot
 * has the watermark of one piece of one lease; it never goes back while the lease lasts, and INT64_MAX means that nothing
 * more will come: the client then looks at the copy's progress page, which is always written first.
 *
 * Bounds: one session and one page per connection, SESSION_SLOTS slots per page, SESSION_VERDICTS remembered verdicts, one
 * canary per device and export.
 *
 * Thread: loop; canaries are made by misc workers.  Ownership: the daemon owns struct sessions, a connection its session. */
#ifndef MRM_GPU_SESSION_H
#define MRM_GPU_SESSION_H

#include "mrm/gpu/memory.h"
#include "mrm/shm.h"
#include "shared/msg.h"
#include "shared/pieces.h"

#include <stdatomic.h>

#define SESSION_SLOTS 4096
#define SESSION_NO_SLOT UINT32_MAX
#define SESSION_VERDICTS 256

struct conn;
struct daemon;
struct segment;
struct session;
struct sessions;

/* ---- the daemon's ---- */

int sessions_new(struct sessions **out, struct daemon *d, struct fault *why);
/* After the last connection and after the pools: frees the canaries. */
void sessions_free(struct sessions **s);

/* The piece of the copy (as clients number it: its edition) has that many readable bytes; call it after the progress page was
 * written. */
void session_publish(struct sessions *s, uint64_t copy, uint32_t piece, uint64_t watermark);
/* Nothing more will come for this copy (failed, evicted while loading). */
void session_poison(struct sessions *s, uint64_t copy);

/* ---- a connection's: called by dispatch.c, conn.c and engine.c ---- */

/* Answers with CANARY, ATTACHED or FAULT, now or later. */
void session_attach(struct conn *c, uint64_t request, const struct msg_attach *m);
void session_verdict(struct conn *c, uint64_t request, const struct msg_verdict *m);
/* True when `request` was an ATTACH under way: it is over, and has been answered CANCELLED. */
bool session_cancel(struct conn *c, uint64_t request);
/* The connection has ended: its streams are let go.  NULL is fine. */
void session_free(struct session **s);

/* What a request for a model on tier gpu means: sets device and device_mask of what the brain is asked.  "": any device that
 * the client sees.  BAD_REQUEST: it must attach first; NO_TIER: no such device here, or the client does not see it. */
int session_device(struct conn *c, const char *uuid, struct cache_open *ask, struct fault *why);

/* ---- a lease's ---- */

/* The sealed memory that OPENED carries for copies on a GPU: struct gpu_handle of the first n pieces.  p NULL: memory that is
 * of no image. */
int session_records_new(struct shm_region *out, const struct gpu_memory *m, const struct pieces *p, uint32_t n,
	uint64_t edition, const struct shm_options *options, struct fault *why);
/* Adds to OPENED, which has table and progress page already, what only copies on a GPU have; descriptors are borrowed. */
void session_fill_opened(struct msg_opened *o, const struct gpu *g, const struct segment *copy);
/* Takes slots for a lease on a copy that is still loading, one per piece, and sets them to the watermarks; the first
 * one's number, or SESSION_NO_SLOT when the page has no room or the connection no session: its client waits on the CPU.
 * They stay taken until session_unwatch(): a stream may wait on one long after the copy is complete. */
uint32_t session_watch(struct conn *c, uint64_t lease, uint64_t copy, const _Atomic uint64_t *watermark,
	uint32_t n);
/* The lease has gone back; harmless for a lease without slots. */
void session_unwatch(struct conn *c, uint64_t lease);

/* How many sessions there are by export, for reports. */
uint32_t sessions_count(const struct sessions *s, enum gpu_export export);

#endif
