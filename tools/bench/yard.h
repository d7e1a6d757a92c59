/* yard.h - what the benchmarks are measured against: the same work by the kernel's means alone.
 * Thread: main.  Owned by the caller. */
#ifndef TOOLS_BENCH_YARD_H
#define TOOLS_BENCH_YARD_H

#include "shared/base.h"

#include <sys/types.h>

/* A process that answers every datagram with one that carries n descriptors. */
struct yard_fds;
void yard_fds_start(struct yard_fds **out, uint32_t n_fds);
/* One round trip, its descriptors closed again; how long it took. */
uint64_t yard_fds_trip_ns(struct yard_fds *y);
pid_t yard_fds_server(const struct yard_fds *y);
void yard_fds_stop(struct yard_fds **y);

/* Reads a whole file with O_DIRECT, `depth` reads of 4 MiB in flight, and drops what it reads.  The time it took.
 * *how: "io_uring", or "pread threads" where the kernel refuses that.  Ends the benchmark where O_DIRECT is refused. */
uint64_t yard_read_ns(const char *path, uint32_t depth, const char **how);

/* As many reads as the daemon has in flight by default: 8 a reading thread, one thread per core, 2 to 4. */
uint32_t yard_daemon_depth(void);

/* Device memory of another process, opened and closed by the driver alone (see gpu_open.c). */
#define YARD_EXPORT_MAX 128
#define YARD_EXPORT_ALIGN ((uint64_t)2 * MIB)
struct bench_options;
struct gpu;
struct yard_export;
/* kind: enum trims_export; n allocations of these sizes, made by a process of its own. */
void yard_export_start(struct yard_export **out, const struct bench_options *o, const struct gpu *g, uint32_t kind,
	const uint64_t *bytes, uint32_t n);
void yard_export_open(struct yard_export *y);
void yard_export_close(struct yard_export *y);
void yard_export_stop(struct yard_export **y);

/* fork, exec, wait for a clean end. */
uint64_t yard_run_ns(const char *const argv[]);

#endif
