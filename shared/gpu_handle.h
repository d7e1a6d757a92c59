/* gpu_handle.h - how device memory crosses the socket: handle records, session pages, canaries.
 *
 * Pieces: what is resident on the device of a copy, each an allocation of its own: `bytes` bytes at most of one extent of the
 * tensor table, from `offset` on.  A copy that is resident whole has one piece per extent, in the table's order, from 0 on; of
 * one that was provisioned by a plan (plan_wire.h) pieces come in any order, do not overlap, and leave out what is read from
 * the host tier.
 *
 * Handle records: a memory file sealed by the daemon (no size or content changes), holding struct gpu_handle[n], one per
 * piece; little-endian.  kind is the same in all of them and is OPENED.export:
 *   GPU_HANDLE_VMM_FD    the piece's memory is the descriptor at the record's place behind the records (OPENED.fds[3 + i],
 *                        CANARY.fds[1]): cuMemImportFromShareableHandle(), then mapped whole with read access.
 *   GPU_HANDLE_CUDA_IPC  ipc is a CUipcMemHandle, for cuIpcOpenMemHandle(); no descriptors.
 *   GPU_HANDLE_MEMORY_FILE  the piece's memory is the descriptor, likewise, of a memory file that may be mapped writable, and
 *                        registered with a driver then.
 * A canary is one piece, of no extent: its extent and offset are 0.
 * OPENED as the answer to DIRECT: pieces are on the host and may overlap with those on the device; together both have every
 * tensor whole.
 * The same OPENED.copy always has the same pieces: a copy that has grown or shrunk has another number, and while a lease
 * lasts, none of the pieces that it came with goes.
 *
 * Session page: one per connection that attached, made and sealed in size by the daemon, written by the daemon (and, once
 * it is dead, by the client's watchdog), mapped read-write by the client and registered with its driver.  It is an array
 * of 64-bit slots: gpu_slot[OPENED.slot + i] is how many checked bytes of piece i are in device memory, counted from
 * the piece's start; it only grows, so a stream waits for "at least" (cuStreamWaitValue64, GEQ).  GPU_SLOT_ENDED wakes
 * everybody and promises nothing: the copy is complete, or poisoned, or its lease is gone; the progress page's state says
 * which.  A slot belongs to one lease from OPENED until the daemon has read its CLOSE.  The page's last slot is never handed
 * out: the client tries out on it whether a store by a CPU wakes a stream.
 *
 * Rules: nothing here may be trusted by the side that reads it.  A client checks the size of the records against the
 * table, kind, and that pieces begin inside their extents; a daemon never reads a session page.
 * Thread: any.  Owns nothing. */
#ifndef SHARED_GPU_HANDLE_H
#define SHARED_GPU_HANDLE_H

#include <stddef.h>
#include <stdint.h>

enum gpu_handle_kind {
	GPU_HANDLE_NONE = 0,
	GPU_HANDLE_VMM_FD = 1,
	GPU_HANDLE_CUDA_IPC = 2,
	GPU_HANDLE_MEMORY_FILE = 3 /* of direct access alone */
};
/* DIRECT.way: memory on the host in which devices read what a plan left there, when they cannot register the host copy. */
enum gpu_direct_way {
	GPU_DIRECT_NUMA = 1,    /* the driver's: pieces are GPU_HANDLE_VMM_FD */
	GPU_DIRECT_TRUSTED = 2, /* GPU_HANDLE_MEMORY_FILE: writable, for users that the daemon trusts */
	GPU_DIRECT_WAYS
};
#define GPU_EXPORT_BIT(kind) (1u << ((kind) - 1)) /* ATTACH.exports */

#define GPU_IPC_BYTES 64          /* sizeof(CUipcMemHandle) */
#define GPU_EXTENT_ALIGN ((uint64_t)2 << 20) /* pieces take whole multiples of this on a device */
#define GPU_MAX_PIECES 128        /* of one copy */
#define GPU_SLOT_NONE UINT32_MAX  /* OPENED.slot: the session page is full; wait on the progress page */
#define GPU_SLOT_ENDED INT64_MAX
#define GPU_UUID_CHARS 40         /* "GPU-" and 36 of hex digits and dashes */

struct gpu_handle {
	uint32_t kind;            /* enum gpu_handle_kind */
	uint32_t extent;          /* of the tensor table */
	uint64_t bytes;           /* of the allocation: what to reserve and map; past the piece's end there are zeros */
	uint64_t generation;      /* OPENED.copy: no two allocations of one daemon, restarts included, have the same pair of
	                           * generation and place; what a client caches opened handles by, since drivers reuse addresses
	                           * and handle bytes */
	uint64_t offset;          /* in the extent, of the piece's first byte: a multiple of IMAGE_CHUNK_BYTES */
	uint64_t used;            /* of `bytes`, the piece's: how many bytes of the extent it has */
	uint8_t ipc[GPU_IPC_BYTES]; /* zero unless GPU_HANDLE_CUDA_IPC */
};

_Static_assert(sizeof(struct gpu_handle) == 104, "wire format");
_Static_assert(offsetof(struct gpu_handle, bytes) == 8 && offsetof(struct gpu_handle, generation) == 16 &&
	offsetof(struct gpu_handle, offset) == 24 && offsetof(struct gpu_handle, ipc) == 40, "wire format");

/* What a canary holds as its 64-bit little-endian word i: splitmix64 of seed + i. */
static inline uint64_t gpu_canary_word(uint64_t seed, uint64_t i)
{
	uint64_t z = seed + i + 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

#endif
