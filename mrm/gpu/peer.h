/* peer.h - which devices take from each other's memory, and the memory in which a device holds what is on its way to another
 * one: staging, in slots of a chunk.
 *
 * Both are settled at start.  A device has staging when some other device can take from it: --pt-staging bytes, at most a
 * sixteenth of its memory or --gpu-bytes; that is gone from what its tier may hold.
 *
 * Thread: made and freed on the main thread; slots are the loop's; the rest is read-only in between, for any thread.
 * Owns: staging, and the right to peer access of the daemon's contexts. */
#ifndef MRM_GPU_PEER_H
#define MRM_GPU_PEER_H

#include "mrm/gpu/gpu.h"

struct gpu_peers;

/* bound_bytes: --gpu-bytes.  What cannot be had is not there, and the functions below say why: -ENOMEM alone. */
int gpu_peers_new(struct gpu_peers **out, struct gpu *g, uint64_t staging_bytes, uint64_t bound_bytes,
	struct fault *why);
/* No slot is in use, no copy under way. */
void gpu_peers_free(struct gpu_peers **p);

/* Whether device `to` takes from `from`: 0 or -ENODEV. */
int gpu_peers_reach(const struct gpu_peers *p, uint32_t to, uint32_t from, struct fault *why);
/* What that moves a second, as measured at start; 0: it was not, as between simulated devices that take no time. */
uint64_t gpu_peers_bytes_per_s(const struct gpu_peers *p, uint32_t to, uint32_t from);
/* Whether all they have in common on the way to the host is the CPU: no bridge of PCIe. */
bool gpu_peers_apart(const struct gpu_peers *p, uint32_t a, uint32_t b);

/* 0, or -ENODATA and why there is none. */
int gpu_peers_staging(const struct gpu_peers *p, uint32_t device, struct fault *why);
struct gpu_staging_facts {
	uint64_t bytes;
	uint32_t slots, in_use, most_in_use;
};
void gpu_peers_staging_view(const struct gpu_peers *p, uint32_t device, struct gpu_staging_facts *out);
/* False: all are in use, or there are none. */
bool gpu_peers_take_slot(struct gpu_peers *p, uint32_t device, uint64_t *at);
/* Nothing reads or writes it any more. */
void gpu_peers_give_slot(struct gpu_peers *p, uint32_t device, uint64_t at);

#endif
