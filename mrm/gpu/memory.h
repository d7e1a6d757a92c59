/* memory.h - a copy's memory on one device: an allocation per piece (shared/pieces.h), exported once.
 *
 * vmm-fd: cuMemCreate, mapped read-write in the daemon, and one descriptor that is handed to clients again and again; it
 * lives as long as anybody holds a descriptor or a mapping.  cuda-ipc: a cuMemAlloc of whole 2 MiB pages and its handle; it
 * ends with the daemon.
 * New memory is zero, up to the allocation's end: whoever maps it sees the model's bytes as they arrive and nobody else's.
 *
 * Thread: made, freed, grown, shrunk, written and read by workers (driver calls); asked by the loop, of pieces that are not on
 * their way in or out.  One owner at a time. */
#ifndef MRM_GPU_MEMORY_H
#define MRM_GPU_MEMORY_H

#include "mrm/gpu/gpu.h"
#include "shared/gpu_handle.h"

struct gpu_memory;

/* bytes: of the n pieces.  NO_MEMORY when the device has no room left; nothing is left behind then. */
int gpu_memory_new(struct gpu_memory **out, struct gpu *g, uint32_t device, enum gpu_export export, const uint64_t *bytes,
	uint32_t n, struct fault *why);
/* vmm-fd memory of the host instead, on the device's NUMA node, for devices to read: its addresses are the CPU's, too, and it
 * counts on no device.  UNSUPPORTED, GPU_ERROR or NO_MEMORY where the driver has none to give. */
int gpu_memory_new_on_host(struct gpu_memory **out, struct gpu *g, uint32_t device, const uint64_t *bytes, uint32_t n,
	struct fault *why);
/* Of vmm-fd memory that is held by its descriptors, after a restart: one per piece, taken over, also on failure. */
int gpu_memory_adopt(struct gpu_memory **out, struct gpu *g, uint32_t device, const int *fds, const uint64_t *bytes,
	uint32_t n, struct fault *why);
/* n pieces more, or, on failure, what there was before. */
int gpu_memory_grow(struct gpu_memory *m, const uint64_t *bytes, uint32_t n, struct fault *why);
/* The first n pieces stay. */
void gpu_memory_shrink(struct gpu_memory *m, uint32_t n);
void gpu_memory_free(struct gpu_memory **m);

uint32_t gpu_memory_device(const struct gpu_memory *m);
enum gpu_export gpu_memory_export(const struct gpu_memory *m);
/* Of the allocation: the piece's bytes rounded up. */
uint64_t gpu_memory_bytes(const struct gpu_memory *m, uint32_t piece);
/* Of those, the piece's. */
uint64_t gpu_memory_used(const struct gpu_memory *m, uint32_t piece);
/* Where it is on the device. */
uint64_t gpu_memory_address(const struct gpu_memory *m, uint32_t piece);
/* vmm-fd: borrowed; -1 of other kinds. */
int gpu_memory_fd(const struct gpu_memory *m, uint32_t piece);
/* cuda-ipc: the handle; zeros of other kinds. */
void gpu_memory_ipc(const struct gpu_memory *m, uint32_t piece, uint8_t out[GPU_IPC_BYTES]);

/* A few bytes, at once, past every schedule: canaries.  Workers. */
int gpu_memory_write(struct gpu_memory *m, uint32_t piece, uint64_t offset, const void *from, uint64_t bytes,
	struct fault *why);
int gpu_memory_read(struct gpu_memory *m, uint32_t piece, uint64_t offset, void *to, uint64_t bytes, struct fault *why);

#endif
