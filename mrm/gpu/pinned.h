/* pinned.h - host copies that devices read from: registered with the driver, once, in pieces.
 *
 * A piece is part of one extent and ends at a chunk's edge, so no chunk straddles two registrations; the first ones are
 * small, so that a load that has just begun need not wait for a gigabyte's pages.  A piece's pages are all made before it is
 * registered (collapsing them into huge ones has to come first, and the driver would fault them in one by one).  What cannot
 * be registered is copied through the submitters' own buffers instead: fallback host-not-registered.
 *
 * Thread: loop; the work is done by the devices' workers.  Ownership: a host copy owns its pins; they go before it does. */
#ifndef MRM_GPU_PINNED_H
#define MRM_GPU_PINNED_H

#include "mrm/holding.h"

struct gpu_pins;

enum gpu_pin {
	GPU_PIN_WAIT,    /* its piece is on its way */
	GPU_PIN_READY,   /* the chunk is in registered memory */
	GPU_PIN_REFUSED, /* it is not and will not be */
};

/* Somebody reads the image's host copy for a device: pieces not registered yet are, in order unless one is wanted, until gpu_pins_leave().  The
 * hauls that read it are advanced when a piece is ready. */
void gpu_pins_join(struct holding *img, uint32_t device);
void gpu_pins_leave(struct holding *img, uint32_t device);
/* The next piece is the one with this chunk, unless that is under way. */
void gpu_pins_want(const struct segment *host, uint32_t chunk);
enum gpu_pin gpu_pins_look(const struct segment *host, uint32_t chunk);

/* Takes off what is registered, once nobody holds the copy (copies_hold()).  What the driver does not let go of, because no
 * device works any more, stays mapped and pinned until the daemon ends: fallback host-stays-registered.  Worker, or the main
 * thread at the end. */
void gpu_pins_free(struct segment *host);

/* How much is registered, for reports. */
uint64_t gpu_pins_bytes(const struct segment *host);

#endif
