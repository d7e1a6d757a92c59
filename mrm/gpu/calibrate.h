/* calibrate.h - what a device's link to the host does: measured once per device and driver, then read from the cache
 * directory; and again, when what it does turns out to be something else.
 * Thread: the main thread, before the loop, except where said. */
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
	uint32_t spread;                      /* thousandths that measurements of the same rate lay apart */
	bool measured;                        /* false: assumed, `reason` says why */
	bool stored;                          /* read from an earlier run's file */
	char reason[FAULT_TEXT_MAX];
};

/* Measurements of an idle link agree within a quarter; those that do not were made beside somebody else's copies. */
#define GPU_CALIBRATION_DOUBT 250 /* thousandths */

static inline bool gpu_calibration_is_steady(const struct gpu_calibration *c)
{
	return c->spread <= GPU_CALIBRATION_DOUBT;
}

/* dir: the cache directory, where steady figures are kept under gpu_calibration_path(); NULL: nowhere.  Takes at most a
 * second.  A measurement that fails gives cautious figures, with the reason. */
void gpu_calibrate(struct gpu *g, uint32_t device, const char *dir, struct gpu_calibration *out);

/* Measures again while the daemon works, so gently that bounds hold: never more than the two pieces of piece_bytes in flight
 * each way that a demand may find there, and only as long as go_on(ctx) says so, which is asked before each.  Takes some
 * tens of ms.  Any thread but the loop's.  -EBUSY: told to stop; else -errno with *why. */
int gpu_calibrate_again(struct gpu *g, uint32_t device, uint64_t piece_bytes, bool (*go_on)(void *ctx), void *ctx,
	struct gpu_calibration *out, struct fault *why);

/* What an uplink moves that way with all of these devices (a bit each) copying at once, as gently.  -EAGAIN: measurements did not
 * agree. */
int gpu_calibrate_together(struct gpu *g, uint64_t devices, enum gpu_direction way, uint64_t piece_bytes, bool (*go_on)(void *ctx),
	void *ctx, uint64_t *bytes_per_s, struct fault *why);

/* By the device's UUID, the driver's version, and generation and width of the link: a card in another slot is another
 * link ("gen0x0": a machine that does not tell). */
void gpu_calibration_path(const struct gpu *g, uint32_t device, const char *dir, char *path, size_t size);
/* False: there is none, or it makes no sense. */
bool gpu_calibration_load(const char *path, struct gpu_calibration *out);
/* Keeps it where it makes sense: steady figures of a real device.  A failure is logged. */
void gpu_calibration_keep(const struct gpu *g, uint32_t device, const char *dir, const struct gpu_calibration *c);
/* Whatever they are.  0 or -errno. */
int gpu_calibration_save(const char *path, const struct gpu_calibration *c);

#endif
