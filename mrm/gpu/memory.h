/* memory.h - a copy's memory on one device: an allocation per extent, exported once.
 *
 * vmm-fd: cuMemCreate, mapped read-write in the daemon, and one descriptor that is handed to clients again and again; it
 * lives as long as anybody holds a descriptor or a mapping.  cuda-ipc: a cuMemAlloc of whole 2 MiB pages and its handle; it
 * ends with the daemon.
 * New memory is zero, up to the allocation's end: whoever maps it sees the model's bytes as they arrive and nobody else's.
 *
 * Thread: made, freed, written and read by workers (driver calls); asked by the loop.  One owner at a time. */
#ifndef MRM_GPU_MEMORY_H
#define MRM_GPU_MEMORY_H

#include "mrm/gpu/gpu.h"
#include "shared/gpu_handle.h"

struct gpu_memory;

/* generation: the brain's number of the copy, for handles (a driver may give old handle bytes to new memory).
 * NO_MEMORY when the device has no room left; nothing is left behind then. */
int gpu_memory_new(struct gpu_memory **out, struct gpu *g, uint32_t device, enum gpu_export export,
	const uint64_t *extent_bytes, uint32_t n_extents, uint64_t generation, struct fault *why);
/* Of vmm-fd memory that is held by its descriptors, after a restart: one per extent, taken over, also on failure. */
int gpu_memory_adopt(struct gpu_memory **out, struct gpu *g, uint32_t device, const int *fds, const uint64_t *extent_bytes,
	uint32_t n_extents, uint64_t generation, struct fault *why);
void gpu_memory_free(struct gpu_memory **m);

uint32_t gpu_memory_device(const struct gpu_memory *m);
enum gpu_export gpu_memory_export(const struct gpu_memory *m);
uint64_t gpu_memory_generation(const struct gpu_memory *m);
uint32_t gpu_memory_extents(const struct gpu_memory *m);
/* Of the allocation: the extent's bytes rounded up. */
uint64_t gpu_memory_bytes(const struct gpu_memory *m, uint32_t extent);
/* Of those, the extent's. */
uint64_t gpu_memory_used(const struct gpu_memory *m, uint32_t extent);
/* Where it is on the device. */
uint64_t gpu_memory_address(const struct gpu_memory *m, uint32_t extent);
/* vmm-fd: borrowed; -1 of other kinds. */
int gpu_memory_fd(const struct gpu_memory *m, uint32_t extent);
/* cuda-ipc: the handle; zeros of other kinds. */
void gpu_memory_ipc(const struct gpu_memory *m, uint32_t extent, uint8_t out[GPU_IPC_BYTES]);

/* A few bytes, at once, past every schedule: canaries.  Workers. */
int gpu_memory_write(struct gpu_memory *m, uint32_t extent, uint64_t offset, const void *from, uint64_t bytes,
	struct fault *why);
int gpu_memory_read(struct gpu_memory *m, uint32_t extent, uint64_t offset, void *to, uint64_t bytes, struct fault *why);

#endif
