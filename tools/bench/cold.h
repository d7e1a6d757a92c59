/* cold.h - cold starts of a model of the zoo by trims-run bench, with a daemon of its own that has measured it: what trims-bench cold and
 * pt share.  Thread: main. */
#ifndef TOOLS_BENCH_COLD_H
#define TOOLS_BENCH_COLD_H

#include "tools/bench/gpu.h"

/* The report of trims-run bench with its modes by name.  modes: those that take turns, NULL: all.  g is closed: nothing of this process
 * shall be on the device.  All of it takes about o->budget_ns, unless that is 0, with fewer rounds if need be.  Ends the benchmark as skipped
 * where device or machine have no room for the model. */
json_t *cold_report(const struct bench_options *o, struct gpu *g, const char *modes);
/* One over another, both from the open on, measured and predicted; of report["modes"]. */
json_t *cold_over_pipeline(const json_t *report, const char *mode);

#endif
