/* export.h - what trims-bench and its helper that owns device memory (export.c) say to each other: one order, one answer.
 * A legacy handle cannot be opened where it was made, so the memory has to be another process's. */
#ifndef TOOLS_BENCH_EXPORT_H
#define TOOLS_BENCH_EXPORT_H

#include "client/trims.h"
#include "shared/cuda.h"
#include "tools/bench/yard.h"

struct export_order {
	uint32_t kind; /* enum trims_export */
	uint32_t n;
	uint64_t bytes[YARD_EXPORT_MAX];
};

/* With n descriptors for TRIMS_EXPORT_VMM_FD. */
struct export_answer {
	char error[FAULT_TEXT_MAX]; /* empty: none */
	struct cu_ipc_mem_handle handles[YARD_EXPORT_MAX];
};

#endif
