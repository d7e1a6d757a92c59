/* report.h - what reports say about devices: JSON values for mrm/report.c and mrm/doctor.c.  Whatever could be taken for a
 * measurement says whether the device is simulated.  Thread: loop. */
#ifndef MRM_GPU_REPORT_H
#define MRM_GPU_REPORT_H

#include "mrm/daemon.h"
#include "mrm/gpu/submit.h"

#include <jansson.h>

/* The report `links`: each device's two directions, and the transfers on them.  There must be a device. */
json_t *gpu_report_links(const struct daemon *d);
/* What a row of the report `tiers` has more when it is a device's. */
void gpu_report_tier(const struct daemon *d, uint32_t device, json_t *row);
/* How long a load waited on its link, and for whom. */
json_t *gpu_report_waits(const struct gpu_waits *w);

#endif
