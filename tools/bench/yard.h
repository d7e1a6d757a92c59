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

/* fork, exec, wait for a clean end. */
uint64_t yard_run_ns(const char *const argv[]);

#endif
