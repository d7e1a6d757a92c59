/* devices.h - the daemon's side of its devices: their tiers, what they may hold, and what happens when one fails for good.
 * Thread: loop (devices_start() and devices_stop() on the main thread, before and after it). */
#ifndef MRM_GPU_DEVICES_H
#define MRM_GPU_DEVICES_H

#include "mrm/daemon.h"

#include <jansson.h>

struct devices;
struct gpu_hasher;

/* Finds driver and devices and what they can hold.  Fails when the settings name what is not there. */
int devices_start(struct daemon *d, struct fault *why);
/* With pools and brain in place: submitters, and the timer that looks again at what is free. */
int devices_run(struct daemon *d, struct fault *why);
/* Takes over the settings that SIGHUP may change. */
void devices_reload(struct daemon *d);
/* Ends the submitters: what is with them comes home. */
void devices_stop_links(struct daemon *d);
/* Copies on devices must be gone, and the pools that work for them. */
void devices_stop(struct daemon *d);

/* What the device's tier may hold by now. */
uint64_t devices_capacity(const struct daemon *d, const struct config *c, uint32_t device);
/* What its link from the host does, as calibrated. */
uint64_t devices_bytes_per_s(const struct daemon *d, uint32_t device);
/* The brain's tier of a device, and the other way round (-1: a tier of another kind). */
static inline uint8_t devices_tier(uint32_t device)
{
	return (uint8_t)(BRAIN_GPU + device);
}
int devices_of_tier(const struct daemon *d, uint8_t tier);
/* After something on a device has failed, or what devices read was freed: tells the brain and whoever waits when a device is lost,
 * and names what stays behind. */
void devices_check(struct daemon *d);

/* Who hashes on the device. */
struct gpu_hasher *devices_hasher(const struct daemon *d, uint32_t device);

/* Rows for the doctor report. */
void devices_doctor(struct daemon *d, void (*check)(json_t *checks, const char *name, const char *state, const char *fmt,
	...) __attribute__((format(printf, 4, 5))), json_t *checks);

#endif
