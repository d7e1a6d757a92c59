/* memory.c - see memory.h.
 * Keeps: every step that was made is unmade once, whatever fails in between; memory is zero before anybody else can see it
 * (a client may map it while a load is filling it, and drivers give a process its own freed memory back as it was). */
#include "mrm/gpu/memory.h"

#include "mrm/gpu/device.h"
#include "shared/check.h"
#include "shared/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY_MAGIC 0x474d454du

struct allocation {
	cu_ptr at;              /* 0: none */
	uint64_t bytes, used;   /* of the allocation; of those, what was asked for */
	cu_mem_handle handle;
	bool has_handle, mapped;
	int fd;                 /* -1: none */
	struct cu_ipc_mem_handle ipc;
};

struct gpu_memory {
	uint32_t magic;
	struct gpu *gpu;
	uint32_t device, n;
	enum gpu_export export;
	bool on_host;             /* on the device's NUMA node, and on no device's books */
	uint64_t granularity;
	struct allocation *piece; /* [GPU_MAX_PIECES], so that those which are there stay where they are */
};

/* What is not given back is said, unless it goes with its device: this may be the first that hears of that. */
static bool undone(const struct gpu_memory *m, const struct allocation *x, cu_result r, const char *call)
{
	struct fault why;
	if (!r)
		return true;
	if (!gpu_lost(m->gpu, m->device))
		gpu_failed(m->gpu, m->device, r, call, &why);
	if (!gpu_lost(m->gpu, m->device))
		log_error("gpu", "%s: %" PRIu64 " bytes stay allocated: %s", m->gpu->device[m->device].facts.uuid, x->bytes, why.text);
	return false;
}

/* What the driver keeps is no copy's any more, and nobody's to use. */
static void settle(struct gpu_memory *m, const struct allocation *x, bool given_back)
{
	struct gpu_device *dev = &m->gpu->device[m->device];
	if (m->on_host)
		return;
	if (!given_back && !gpu_lost(m->gpu, m->device))
		atomic_fetch_add(&dev->stuck_bytes, x->bytes);
	atomic_fetch_sub(&dev->held_bytes, x->bytes);
}

static void piece_free(struct gpu_memory *m, struct allocation *x)
{
	const struct cuda *cu = m->gpu->cu;
	bool given_back = true;
	if (x->fd >= 0)
		close(x->fd);
	if (x->mapped)
		given_back = undone(m, x, GPU_AGAIN(cu->mem_unmap(x->at, x->bytes)), "cuMemUnmap");
	if (x->at && m->export == GPU_EXPORT_VMM_FD && given_back)
		given_back = undone(m, x, GPU_AGAIN(cu->mem_address_free(x->at, x->bytes)), "cuMemAddressFree");
	if (x->has_handle)
		given_back &= undone(m, x, GPU_AGAIN(cu->mem_release(x->handle)), "cuMemRelease");
	if (x->at && m->export == GPU_EXPORT_CUDA_IPC)
		given_back = undone(m, x, GPU_AGAIN(cu->mem_free(x->at)), "cuMemFree");
	settle(m, x, given_back);
}

static int failed(struct gpu_memory *m, const struct allocation *x, cu_result r, const char *call, struct fault *why)
{
	struct fault inner;
	int e = gpu_failed(m->gpu, m->device, r, call, &inner);
	fault_set(why, inner.code, "%s: %" PRIu64 " bytes: %.300s", m->gpu->device[m->device].facts.uuid, x->bytes, inner.text);
	return e;
}

static struct cu_mem_location location_of(const struct gpu_memory *m)
{
	return m->on_host ? (struct cu_mem_location){CU_AT_HOST_NUMA, m->gpu->device[m->device].facts.host_numa_node}
		: (struct cu_mem_location){CU_AT_DEVICE, m->gpu->device[m->device].ordinal};
}

static struct cu_mem_prop prop_of(const struct gpu_memory *m)
{
	return (struct cu_mem_prop){.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD, .location = location_of(m)};
}

/* Gives the handle's memory an address, readable and writable where it is: by the device, or by the CPU. */
static int piece_map(struct gpu_memory *m, struct allocation *x, struct fault *why)
{
	const struct cuda *cu = m->gpu->cu;
	struct cu_mem_access access = {.location = location_of(m), .flags = CU_PROT_READWRITE};
	/* Memory is mapped at multiples of its granularity, and what a reservation's own alignment is drivers do not say. */
	cu_result r = cu->mem_address_reserve(&x->at, x->bytes, m->granularity, 0, 0);
	if (r) {
		x->at = 0;
		return failed(m, x, r, "cuMemAddressReserve", why);
	}
	r = cu->mem_map(x->at, x->bytes, 0, x->handle, 0);
	if (r)
		return failed(m, x, r, "cuMemMap", why);
	x->mapped = true;
	r = cu->mem_set_access(x->at, x->bytes, &access, 1);
	return r ? failed(m, x, r, "cuMemSetAccess", why) : 0;
}

/* The mapping and the descriptor hold the memory from here on. */
static int drop_handle(struct gpu_memory *m, struct allocation *x, struct fault *why)
{
	cu_result r = m->gpu->cu->mem_release(x->handle);
	if (r)
		return failed(m, x, r, "cuMemRelease", why);
	x->has_handle = false;
	return 0;
}

static int make_vmm(struct gpu_memory *m, struct allocation *x, struct fault *why)
{
	const struct cuda *cu = m->gpu->cu;
	struct cu_mem_prop prop = prop_of(m);
	cu_result r = cu->mem_create(&x->handle, x->bytes, &prop, 0);
	if (r)
		return failed(m, x, r, "cuMemCreate", why);
	x->has_handle = true;
	int e = piece_map(m, x, why);
	if (e)
		return e;
	r = cu->mem_export(&x->fd, x->handle, CU_HANDLE_FD, 0);
	if (r) {
		x->fd = -1;
		return failed(m, x, r, "cuMemExportToShareableHandle", why);
	}
	/* A program that the daemon runs would keep the memory. */
	if (fcntl(x->fd, F_SETFD, FD_CLOEXEC) < 0)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "a descriptor of device memory"), -errno;
	return drop_handle(m, x, why);
}

static int make_ipc(struct gpu_memory *m, struct allocation *x, struct fault *why)
{
	const struct cuda *cu = m->gpu->cu;
	cu_result r = cu->mem_alloc(&x->at, x->bytes);
	if (r) {
		x->at = 0;
		return failed(m, x, r, "cuMemAlloc", why);
	}
	r = cu->ipc_get_mem_handle(&x->ipc, x->at);
	return r ? failed(m, x, r, "cuIpcGetMemHandle", why) : 0;
}

static int adopt_vmm(struct gpu_memory *m, struct allocation *x, struct fault *why)
{
	cu_result r = m->gpu->cu->mem_import(&x->handle, (void *)(intptr_t)x->fd, CU_HANDLE_FD);
	if (r)
		return failed(m, x, r, "cuMemImportFromShareableHandle", why);
	x->has_handle = true;
	int e = piece_map(m, x, why);
	return e ? e : drop_handle(m, x, why);
}

static int clear(struct gpu_memory *m, uint32_t first, struct fault *why)
{
	const struct cuda *cu = m->gpu->cu;
	cu_result r = CU_OK;
	for (uint32_t i = first; i < m->n && !r; i++)
		r = cu->memset_d8_async(m->piece[i].at, 0, m->piece[i].bytes, NULL);
	/* In any case: who fails here frees the memory, and nothing may still be writing to it. */
	cu_result synced = GPU_AGAIN(cu->stream_synchronize(NULL));
	if (r)
		return gpu_failed(m->gpu, m->device, r, "cuMemsetD8Async", why);
	return synced ? gpu_failed(m->gpu, m->device, synced, "cuStreamSynchronize", why) : 0;
}

/* And its pages are there when it is filled. */
static int clear_host(struct gpu_memory *m, uint32_t first)
{
	for (uint32_t i = first; i < m->n; i++)
		memset((void *)(uintptr_t)m->piece[i].at, 0, m->piece[i].bytes);
	return 0;
}

/* Whoever measures meanwhile does not believe what he sees. */
static void move_begins(struct gpu *g, uint32_t device)
{
	atomic_fetch_add(&g->device[device].moves_begun, 1);
}

static void move_ends(struct gpu *g, uint32_t device)
{
	atomic_fetch_add(&g->device[device].moves_ended, 1);
}

static int begin(struct gpu_memory **out, struct gpu *g, uint32_t device, enum gpu_export export, uint32_t n,
	struct fault *why)
{
	ASSERT(export != GPU_EXPORT_NONE && n > 0);
	struct gpu_memory *m = calloc(1, sizeof *m);
	struct allocation *x = calloc(GPU_MAX_PIECES, sizeof *x);
	if (!m || !x) {
		free(m);
		free(x);
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory to keep %u pieces by", n), -ENOMEM;
	}
	*m = (struct gpu_memory){.magic = MEMORY_MAGIC, .gpu = g, .device = device, .export = export, .piece = x,
		.granularity = g->device[device].facts.granularity_bytes};
	*out = m;
	return 0;
}

/* The next piece; it counts from here on, so that freeing sees it. */
static struct allocation *add_piece(struct gpu_memory *m, uint64_t bytes, int fd)
{
	ASSERT(m->n < GPU_MAX_PIECES);
	struct allocation *x = &m->piece[m->n++];
	*x = (struct allocation){.used = bytes, .bytes = align_up(bytes, m->granularity), .fd = fd};
	if (!m->on_host)
		atomic_fetch_add(&m->gpu->device[m->device].held_bytes, x->bytes);
	return x;
}

int gpu_memory_grow(struct gpu_memory *m, const uint64_t *bytes, uint32_t n, struct fault *why)
{
	uint32_t before = m->n;
	move_begins(m->gpu, m->device);
	int e = gpu_enter(m->gpu, m->device, why);
	for (uint32_t i = 0; !e && i < n; i++) {
		struct allocation *x = add_piece(m, bytes[i], -1);
		e = m->export == GPU_EXPORT_VMM_FD ? make_vmm(m, x, why) : make_ipc(m, x, why);
	}
	e = e ? e : m->on_host ? clear_host(m, before) : clear(m, before, why);
	if (e)
		gpu_memory_shrink(m, before);
	move_ends(m->gpu, m->device);
	return e;
}

void gpu_memory_shrink(struct gpu_memory *m, uint32_t n)
{
	move_begins(m->gpu, m->device);
	gpu_enter_again(m->gpu, m->device); /* of a lost device, descriptors and books are still to be settled */
	while (m->n > n)
		piece_free(m, &m->piece[--m->n]);
	move_ends(m->gpu, m->device);
}

int gpu_memory_new(struct gpu_memory **out, struct gpu *g, uint32_t device, enum gpu_export export, const uint64_t *bytes,
	uint32_t n, struct fault *why)
{
	struct gpu_memory *m = NULL;
	int e = begin(&m, g, device, export, n, why);
	e = e ? e : gpu_memory_grow(m, bytes, n, why);
	if (e)
		gpu_memory_free(&m);
	else
		*out = m;
	return e;
}

int gpu_memory_new_on_host(struct gpu_memory **out, struct gpu *g, uint32_t device, const uint64_t *bytes, uint32_t n,
	struct fault *why)
{
	struct gpu_memory *m = NULL;
	size_t granularity = 0;
	int e = begin(&m, g, device, GPU_EXPORT_VMM_FD, n, why);
	if (e)
		return e;
	m->on_host = true;
	struct cu_mem_prop prop = prop_of(m);
	cu_result r = g->cu->mem_get_allocation_granularity(&granularity, &prop, CU_GRANULARITY_MINIMUM);
	if (r)
		e = gpu_failed(g, device, r, "cuMemGetAllocationGranularity", why);
	m->granularity = MAX(m->granularity, (uint64_t)granularity);
	e = e ? e : gpu_memory_grow(m, bytes, n, why);
	if (e)
		gpu_memory_free(&m);
	else
		*out = m;
	return e;
}

int gpu_memory_adopt(struct gpu_memory **out, struct gpu *g, uint32_t device, const int *fds, const uint64_t *bytes,
	uint32_t n, struct fault *why)
{
	struct gpu_memory *m = NULL;
	uint32_t i = 0;
	move_begins(g, device);
	int e = gpu_enter(g, device, why);
	e = e ? e : begin(&m, g, device, GPU_EXPORT_VMM_FD, n, why);
	for (; !e && i < n; i++)
		e = adopt_vmm(m, add_piece(m, bytes[i], fds[i]), why);
	for (; i < n; i++) /* not reached: nobody else closes them */
		close(fds[i]);
	if (e)
		gpu_memory_free(&m);
	else
		*out = m;
	move_ends(g, device);
	return e;
}

void gpu_memory_free(struct gpu_memory **mp)
{
	struct gpu_memory *m = *mp;
	if (!m)
		return;
	CHECK_OBJ(m, MEMORY_MAGIC);
	gpu_memory_shrink(m, 0);
	free(m->piece);
	m->magic = 0;
	free(m);
	*mp = NULL;
}

uint32_t gpu_memory_device(const struct gpu_memory *m)
{
	return m->device;
}

enum gpu_export gpu_memory_export(const struct gpu_memory *m)
{
	return m->export;
}

uint64_t gpu_memory_bytes(const struct gpu_memory *m, uint32_t piece)
{
	ASSERT(piece < GPU_MAX_PIECES);
	return m->piece[piece].bytes;
}

uint64_t gpu_memory_used(const struct gpu_memory *m, uint32_t piece)
{
	ASSERT(piece < GPU_MAX_PIECES);
	return m->piece[piece].used;
}

uint64_t gpu_memory_address(const struct gpu_memory *m, uint32_t piece)
{
	ASSERT(piece < GPU_MAX_PIECES);
	return m->piece[piece].at;
}

int gpu_memory_fd(const struct gpu_memory *m, uint32_t piece)
{
	ASSERT(piece < GPU_MAX_PIECES);
	return m->piece[piece].fd;
}

void gpu_memory_ipc(const struct gpu_memory *m, uint32_t piece, uint8_t out[GPU_IPC_BYTES])
{
	ASSERT(piece < GPU_MAX_PIECES);
	memcpy(out, &m->piece[piece].ipc, GPU_IPC_BYTES);
}

static bool in_range(const struct gpu_memory *m, uint32_t piece, uint64_t offset, uint64_t bytes)
{
	uint64_t end;
	return piece < m->n && !add_overflows(offset, bytes, &end) && end <= m->piece[piece].bytes;
}

int gpu_memory_write(struct gpu_memory *m, uint32_t piece, uint64_t offset, const void *from, uint64_t bytes,
	struct fault *why)
{
	ASSERT(in_range(m, piece, offset, bytes));
	int e = gpu_enter(m->gpu, m->device, why);
	if (e)
		return e;
	cu_result r = m->gpu->cu->memcpy_htod(m->piece[piece].at + offset, from, bytes);
	if (r)
		return gpu_failed(m->gpu, m->device, r, "cuMemcpyHtoD", why);
	/* Of pageable memory that call returns when the bytes are staged; another process may look before they have arrived. */
	r = GPU_AGAIN(m->gpu->cu->stream_synchronize(NULL));
	return r ? gpu_failed(m->gpu, m->device, r, "cuStreamSynchronize", why) : 0;
}

int gpu_memory_read(struct gpu_memory *m, uint32_t piece, uint64_t offset, void *to, uint64_t bytes, struct fault *why)
{
	ASSERT(in_range(m, piece, offset, bytes));
	int e = gpu_enter(m->gpu, m->device, why);
	if (e)
		return e;
	cu_result r = m->gpu->cu->memcpy_dtoh(to, m->piece[piece].at + offset, bytes);
	return r ? gpu_failed(m->gpu, m->device, r, "cuMemcpyDtoH", why) : 0;
}
