/* probe.h - doubts about what devices were calibrated to, and measuring again; and measuring what they share.
 *
 * A calibration made beside somebody else's copies would set bounds and shares for as long as its file lives.  So one is in
 * doubt when its measurements did not agree, when it could not be made, or when a link's pieces take a quarter more or less
 * time than it says (calibration-doubtful); then the device is measured again as soon as nothing is to be copied there or by a
 * device that shares a switch with it, one of these at a time, so gently that bounds hold, and what was found taken over and kept.  Measurements that do not agree either are dropped, and
 * tried again later and later.
 *
 * A switch's uplink that was assumed is measured once, when none of the devices below it is in doubt or has anything to copy: with
 * all of them at once, as gently.  It keeps what was assumed until measurements agree.
 *
 * Thread: loop. */
#ifndef MRM_GPU_PROBE_H
#define MRM_GPU_PROBE_H

#include "mrm/daemon.h"
#include "mrm/gpu/calibrate.h"

struct gpu_probes;

/* calibration: [gpu_count()], brought up to date by probes; outlives them. */
struct gpu_probes *gpu_probes_new(struct daemon *d, struct gpu_calibration *calibration);
/* No probe is under way: their pool's jobs have come home. */
void gpu_probes_free(struct gpu_probes **p);
/* Every now and then: doubts what is to be doubted, measures where it is idle. */
void gpu_probes_look(struct gpu_probes *p);

#endif
