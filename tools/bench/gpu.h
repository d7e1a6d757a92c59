/* gpu.h - the bench's own view of a device: the driver by shared/cuda's table, one context, and what fits.
 * Thread: gpu_open() and gpu_close() on the main thread; the calls of GPU_MUST wherever gpu_enter() was called.
 * Owns: the driver's table and the primary context.  A failed call ends the benchmark. */
#ifndef TOOLS_BENCH_GPU_H
#define TOOLS_BENCH_GPU_H

#include "shared/cuda.h"
#include "tools/bench/lab.h"

struct gpu {
	struct cuda *cu;
	cu_device device; /* the driver's first */
	cu_context ctx;   /* current on the thread that opened it */
	char name[128], uuid[CUDA_UUID_TEXT];
};

/* Ends the benchmark as skipped where there is no device. */
void gpu_open(const struct bench_options *o, struct gpu *out);
void gpu_close(struct gpu *g);
/* Makes the context current on this thread. */
void gpu_enter(const struct gpu *g);

/* GPU_MUST(g, mem_alloc, &ptr, bytes): dies with the driver's words unless it answers CU_OK. */
#define GPU_MUST(g, entry, ...) gpu_must((g), (g)->cu->entry(__VA_ARGS__), #entry)
void gpu_must(const struct gpu *g, cu_result r, const char *what);

uint64_t gpu_free_bytes(const struct gpu *g);
/* A device with so much free memory has room for the daemon's copy of a model and a private one, beside contexts and activations. */
bool gpu_holds_two(uint64_t free_bytes, uint64_t model_bytes);
/* Page-locked memory, every page of it written. */
void *gpu_host_alloc(const struct gpu *g, uint64_t bytes);
/* What this machine could still give to processes. */
uint64_t host_available_bytes(void);

/* A result's first keys: simulated, gpu, driver. */
json_t *gpu_result(const struct gpu *g);

/* A daemon that uses the same driver; args: further options, NULL at the end. */
void gpu_mrm_start(const struct bench_options *o, struct mrm *out, const char *const args[]);
/* Opens on that device and waits for all bytes; flags: enum trims_open_flags. */
trims_model *gpu_lab_open(trims_conn *conn, const struct gpu *g, const char *name, uint32_t flags);

#endif
