/* gpu.h - the driver, its devices, and what can be asked of them without a word of CUDA: tiers of kind gpu have the tier
 * indices BRAIN_GPU + device.
 *
 * A machine without a driver or a device is no error: gpu_new() then gives a struct gpu of no devices that says why.  Only
 * what was asked for by name (a driver's path, the simulator) has to be there.
 *
 * Thread: gpu_new() and gpu_free() on the main thread before and after the loop.  Facts are read-only afterwards; whether a
 * device is lost may be asked and said on any thread.  Driver calls are made at start, by misc workers and by submitters,
 * never by the loop.
 * Owns: the driver's library, a retained primary context per device. */
#ifndef MRM_GPU_GPU_H
#define MRM_GPU_GPU_H

#include "cache/cache.h"
#include "mrm/gpu/export.h"
#include "mrm/gpu/place.h"
#include "shared/base.h"
#include "shared/error.h"

#define GPU_MAX_DEVICES (CACHE_MAX_TIERS - 3) /* remote, disk and host have one tier each */
#define GPU_UUID_TEXT 41                      /* "GPU-" and 36 characters, terminated */

struct gpu;

struct gpu_options {
	const char *mode;        /* auto, off, sim or sim:FILE */
	const char *driver;      /* path of the driver's library; empty: libcuda.so.1 */
	const char *export;      /* auto, vmm-fd or cuda-ipc */
};

/* One device, as it was at start. */
struct gpu_facts {
	char uuid[GPU_UUID_TEXT], name[128], pci[16];
	uint64_t total_bytes;
	uint64_t granularity_bytes;  /* allocations are multiples of it */
	struct gpu_place place;
	int copy_engines;
	bool can_vmm_fd, can_cuda_ipc;
	char no_vmm_fd[FAULT_TEXT_MAX]; /* why not; "" when it can */
	bool register_read_only;     /* attribute 113: read-only mappings can be registered */
	bool host_pointers;          /* attribute 91: registered memory has the host's address on the device, too */
	bool host_numa_vmm;          /* attribute 141 */
	int host_numa_node;          /* attribute 134 */
	enum gpu_export export;      /* what new copies on it are made for */
};

/* -ENODEV and the like only when the options name what is not there; *why is one sentence. */
int gpu_new(struct gpu **out, const struct gpu_options *options, struct fault *why);
void gpu_free(struct gpu **g);

uint32_t gpu_count(const struct gpu *g);
/* Why there is no device; "" when there is one. */
const char *gpu_absence(const struct gpu *g);
/* Why the i-th of the devices that are there and not used is not; NULL: there are no more. */
const char *gpu_left_out(const struct gpu *g, uint32_t i);
bool gpu_is_simulated(const struct gpu *g);
/* Copies take the time that a link takes: false for a simulator whose links are without limit. */
bool gpu_keeps_time(const struct gpu *g);
uint32_t gpu_driver_version(const struct gpu *g); /* 13000 is 13.0; 0 without a driver */
const char *gpu_driver_path(const struct gpu *g);
const struct gpu_facts *gpu_facts(const struct gpu *g, uint32_t device);
/* The device's index; -ENOENT. */
int gpu_find(const struct gpu *g, const char *uuid);
/* What this daemon's copies take on the device. */
uint64_t gpu_held_bytes(const struct gpu *g, uint32_t device);
/* Host memory that was freed and stays registered for want of a device that works. */
uint64_t gpu_stuck_bytes(const struct gpu *g);
/* Memory of the device that was freed and that its driver, which works otherwise, did not take back. */
uint64_t gpu_device_stuck_bytes(const struct gpu *g, uint32_t device);
/* What is free on the device and what this daemon's copies take, at one moment.  -EAGAIN: some of these came or went
 * meanwhile, and would count twice or not at all.  Any thread but the loop's. */
int gpu_measure(struct gpu *g, uint32_t device, uint64_t *free_bytes, uint64_t *held_bytes, struct fault *why);

/* A device that has failed for good (a sticky error) is lost until the daemon is started again: every later call for it
 * fails with the same sentence.  gpu_lost() is true from then on. */
bool gpu_lost(const struct gpu *g, uint32_t device);
/* Makes it so: it cannot even be set up. */
void gpu_give_up(struct gpu *g, uint32_t device, const struct fault *why);
/* Only when it is: the sentence. */
void gpu_loss(const struct gpu *g, uint32_t device, struct fault *out);

#endif
