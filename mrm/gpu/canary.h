/* canary.h - small pieces of device memory with a known pattern, one per device and way of sharing, on which clients find
 * out what they can import.  Made when first wanted, by a worker, and made anew when a client has spoiled one.
 * Thread: loop.  Ownership: struct canaries owns them; a canary_wait is a member of whoever waits. */
#ifndef MRM_GPU_CANARY_H
#define MRM_GPU_CANARY_H

#include "mrm/gpu/gpu.h"
#include "shared/list.h"
#include "shared/msg.h"

struct canaries;
struct canary;
struct daemon;

struct canary_wait {
	struct list node;
	/* The canary is there; made_anew: it is another than the one that was doubted.  NULL: it could not be made, *why says
	 * why not. */
	void (*ready)(struct canary_wait *w, const struct canary *c, bool made_anew, const struct fault *why);
};

struct canaries *canaries_new(struct daemon *d);
/* After the pools. */
void canaries_free(struct canaries **c);

void canary_wait_init(struct canary_wait *w,
	void (*ready)(struct canary_wait *, const struct canary *, bool, const struct fault *));
/* Calls w->ready() now or later.  doubted: somebody says that its bytes are wrong; it is read back first. */
void canary_get(struct canaries *all, uint32_t device, enum gpu_export export, bool doubted, struct canary_wait *w);
/* Nobody waits any more; harmless when nobody did. */
void canary_unwait(struct canary_wait *w);

/* Fills the message; descriptors are borrowed. */
void canary_fill(const struct canary *c, struct msg_canary *m);

#endif
