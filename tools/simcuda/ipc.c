/* ipc.c - handles of classic memory, in the old way.  A handle says whose memory at which address it means and nothing else,
 * so fresh memory at a freed address has the same handle: users need a generation of their own.  Keeps: a handle opens
 * while its owner lives and has not freed it; the process with the owner's PID cannot open it, whatever namespace it is in. */
#include "tools/simcuda/sim.h"

#include <string.h>
#include <sys/mman.h>

#define IPC_MAGIC 0x6370697564636d73u

struct ipc {
	uint64_t magic, owner, key, bytes;
	struct cu_uuid uuid;
	uint32_t pid, reserved[3];
};

_Static_assert(sizeof(struct ipc) == sizeof(struct cu_ipc_mem_handle), "a handle's layout");

EXPORT cu_result cuIpcGetMemHandle(struct cu_ipc_mem_handle *handle, cu_ptr ptr)
{
	struct ipc ipc = {.magic = IPC_MAGIC, .owner = sim.owner, .pid = (uint32_t)getpid()};
	struct range *r;

	ENTER(ipc_get_mem_handle, NEEDS_CONTEXT);
	r = range_at(ptr);
	if (!handle || !r || r->kind != RANGE_CLASSIC || r->base != ptr || r->leaving)
		return CU_E_INVALID_VALUE;
	ipc.key = r->base;
	ipc.bytes = r->bytes;
	ipc.uuid = r->device->config->uuid;
	memcpy(handle, &ipc, sizeof ipc);
	return CU_OK;
}

/* An open of the same handle that lasts. */
static struct range *opened(const struct cu_ipc_mem_handle *handle)
{
	struct range *r;
	size_t i = 0;

	while ((r = range_each(&i)))
		if (r->kind == RANGE_IPC && !r->leaving && !memcmp(&r->handle, handle, sizeof *handle))
			return r;
	return NULL;
}

static struct sim_device *find_device(const struct ipc *ipc)
{
	for (unsigned i = 0; i < sim.topology.n_devices; i++)
		if (!memcmp(&sim.devices[i].config->uuid, &ipc->uuid, sizeof ipc->uuid))
			return &sim.devices[i];
	return NULL;
}

static cu_result map(struct range *r, const struct ipc *ipc)
{
	cu_result result = CU_E_INVALID_HANDLE;
	OWN_FD int fd = -1;
	void *at;

	r->bytes = ipc->bytes;
	r->mapped = align_up(ipc->bytes, SIM_PAGE);
	fd = store_find(r->device, ipc->owner, ipc->key, r->mapped, &result, &r->inode);
	if (fd < 0)
		return result;
	/* No argument says how: an importer may always write. */
	at = mmap(NULL, r->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return CU_E_MAP_FAILED;
	r->base = (cu_ptr)(uintptr_t)at;
	r->fd = fd;
	result = range_add(r, NULL);
	if (result)
		munmap(at, r->mapped);
	else
		(void)steal_fd(&fd);
	return result;
}

EXPORT cu_result cuIpcOpenMemHandle_v2(cu_ptr *ptr, struct cu_ipc_mem_handle handle, unsigned flags)
{
	struct range *r, fresh = {.kind = RANGE_IPC, .fd = -1, .opens = 1, .handle = handle};
	struct ipc ipc;
	cu_result result;

	ENTER(ipc_open_mem_handle, NEEDS_CONTEXT);
	memcpy(&ipc, &handle, sizeof ipc);
	if (!ptr || flags != CU_IPC_LAZY_PEER)
		return CU_E_INVALID_VALUE;
	if (ipc.magic != IPC_MAGIC || !ipc.bytes || ipc.bytes > (uint64_t)1 << 46)
		return CU_E_INVALID_HANDLE;
	if (ipc.pid == (uint32_t)getpid())
		return CU_E_INVALID_CONTEXT;
	fresh.device = find_device(&ipc);
	fresh.ctx = call.ctx;
	if (!fresh.device)
		return CU_E_INVALID_DEVICE;
	if (fresh.device != call.ctx->device && !device_reaches(call.ctx->device, fresh.device))
		return CU_E_PEER_ACCESS_UNSUPPORTED;
	r = opened(&handle);
	if (r && r->ctx != call.ctx) /* one context per device and process */
		return CU_E_INVALID_CONTEXT;
	if (r) {
		r->opens++;
		*ptr = r->base;
		return CU_OK;
	}
	result = map(&fresh, &ipc);
	if (!result)
		*ptr = fresh.base;
	return result;
}

EXPORT cu_result cuIpcCloseMemHandle(cu_ptr ptr)
{
	struct range *r;

	ENTER(ipc_close_mem_handle, NEEDS_CONTEXT);
	r = range_at(ptr);
	if (!r || r->kind != RANGE_IPC || r->base != ptr || r->leaving)
		return CU_E_INVALID_VALUE;
	if (--r->opens == 0 && range_quiet(r))
		memory_end(r);
	return CU_OK;
}
