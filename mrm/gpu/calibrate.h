/* calibrate.h - what a device's link to the host does: measured once per device and driver, then read from the cache
 * directory.
 * Thread: the main thread, before the loop. */
#ifndef MRM_GPU_CALIBRATE_H
#define MRM_GPU_CALIBRATE_H

#include "mrm/gpu/gpu.h"

enum gpu_direction { GPU_H2D, GPU_D2H, GPU_DIRECTIONS };

static inline const char *gpu_direction_name(enum gpu_direction d)
{
	return d == GPU_H2D ? "h2d" : "d2h";
}

struct gpu_calibration {
	uint64_t bytes_per_s[GPU_DIRECTIONS]; /* alone */
	uint32_t duplex[GPU_DIRECTIONS];      /* thousandths of that while the other direction is busy */
	uint64_t overhead_ns;                 /* before a piece that is not queued behind another */
	uint64_t submit_ns;                   /* what submitting one takes */
	bool measured;                        /* false: assumed, `reason` says why */
	bool stored;                          /* read from an earlier run's file */
	char reason[FAULT_TEXT_MAX];
};

/* dir: the cache directory, where the figures are kept under the device's UUID and the driver's version; NULL: nowhere.
 * Takes at most a second.  A measurement that fails gives cautious figures, with the reason. */
void gpu_calibrate(struct gpu *g, uint32_t device, const char *dir, struct gpu_calibration *out);

#endif
