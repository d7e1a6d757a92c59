/* relay.h - copies from one device's memory to another's: the second half of the way of bytes that come over a helper's link.
 *
 * One thread per device that takes, in that device's context; at most two copies in flight, the next one is chosen by class and
 * deadline.  A copy comes home when nothing reads its source or writes its target any more, however it ended: only then may
 * either be used for something else.
 *
 * Thread: loop.  Ownership: a copy is moved in and moved back. */
#ifndef MRM_GPU_RELAY_H
#define MRM_GPU_RELAY_H

#include "mrm/gpu/gpu.h"
#include "mrm/jobs.h"

struct gpu_peers;
struct gpu_relays;

struct gpu_relay_copy {
	struct job job;        /* class, deadline and done() are the caller's; withdrawn: nothing was copied */
	uint32_t from_device;
	uint64_t from, to, bytes;
	/* the way home */
	int result;            /* 0 or -errno with `why` */
	struct fault why;
};

/* A thread for each device that takes from another one. */
int gpu_relays_new(struct gpu_relays **out, struct gpu *g, const struct gpu_peers *peers, struct jobs *back,
	struct fault *why);
/* Copies that are out come home, withdrawn when they were not begun. */
void gpu_relays_free(struct gpu_relays **r);
/* `to` is memory of this device, which takes (gpu_peers_reach()). */
void gpu_relay_submit(struct gpu_relays *r, uint32_t device, struct gpu_relay_copy *copy);

struct gpu_relay_facts {
	uint64_t copies, failed, bytes; /* bytes: of those that went well */
};
void gpu_relays_view(const struct gpu_relays *r, uint32_t device, struct gpu_relay_facts *out);

#endif
