/* beside.h - what plans leave on the host, once more, in memory that clients' devices can read where they cannot register the host
 * copy: beside it, since that stays sealed.
 *
 *   dha-host-numa  memory of the driver on the device's NUMA node (cuMemCreate), a descriptor per piece as of device memory, one for
 *                  all clients.  They map it read-only; as with device memory the driver enforces no more than that, so it
 *                  is compared with its digests before another user gets it.
 *   dha-trusted    memory files that a client may map writable, as registering wants it: a copy per user, for users whom
 *                  --direct-trusted names alone.  What a process writes there, processes of the same user read.
 *
 * A copy goes with one copy on a device and its plan: chunks that have bytes of tensors which are not on the device.  It is made when
 * a client asks for it, filled from the host copy as that arrives (each chunk compared with its digest where it has been
 * put), kept for the next client, and freed with the copy on the device, or for another one when --direct-bytes is reached.  It does
 * not outlive the daemon, except for those who have it mapped.
 *
 * Thread: loop. */
#ifndef MRM_GPU_BESIDE_H
#define MRM_GPU_BESIDE_H

#include "mrm/conn.h"
#include "mrm/holding.h"

#include <jansson.h>

struct beside;

/* --direct-trusted as it was checked. */
struct beside *beside_new(struct daemon *d);
/* After the pools, before the images. */
void beside_free(struct beside **b);
/* Users by name or number, or `self`, separated by commas; -EINVAL. */
int beside_check_users(const char *text, struct fault *why);
void beside_reload(struct beside *b);

/* Answers DIRECT: OPENED, now or later, or FAULT. */
void beside_ask(struct conn *c, uint64_t request, const struct msg_direct *m);
/* The lease on a device's copy is gone. */
void beside_left(struct beside *b, uint64_t lease);
/* That copy (its generation) is gone. */
void beside_forget(struct beside *b, uint64_t copy);
/* More of the host copy can be read, perhaps.  NULL: nobody is there whom it concerns. */
void beside_advance(struct beside *b, const struct holding *img);

/* A row for each copy of that model. */
json_t *beside_rows(const struct beside *b, const struct holding *img);
void beside_doctor(const struct beside *b, void (*check)(json_t *checks, const char *name, const char *state, const char *fmt,
	...) __attribute__((format(printf, 4, 5))), json_t *checks);

/* Compares one copy of that model, with a number above *after, with its digests; false: there is none that is complete.  done() later:
 * what it is called, chunks and how many of them are damaged; a damaged copy is dropped. */
bool beside_verify(struct beside *b, const struct holding *img, uint64_t *after,
	void (*done)(void *ctx, const char *way, uint32_t n_chunks, uint32_t n_bad, uint64_t bytes), void *ctx);

#endif
