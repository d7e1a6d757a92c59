/* export.c - trims-bench-export DRIVER: makes device memory and shares it, as descriptor 3 asks, until that is closed.
 * DRIVER: what cuda_load() takes; "" for the system's. */
#include "shared/seqpacket.h"
#include "tools/bench/export.h"

#include <stdio.h>
#include <string.h>

#define PEER 3

static struct cuda *cu;

static const char *say(cu_result r, const char *what)
{
	static struct fault why;
	if (!r)
		return "";
	cuda_fault(cu, r, what, &why);
	return why.text;
}

static const char *share_by_descriptor(uint64_t bytes, int *fd)
{
	const struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD,
		.location = {.type = CU_AT_DEVICE}};
	cu_mem_handle handle;
	cu_result r = cu->mem_create(&handle, bytes, &prop, 0);
	return r ? say(r, "cuMemCreate") : say(cu->mem_export(fd, handle, CU_HANDLE_FD, 0), "cuMemExportToShareableHandle");
}

static const char *share_by_handle(uint64_t bytes, struct cu_ipc_mem_handle *handle)
{
	cu_ptr at;
	cu_result r = cu->mem_alloc(&at, bytes);
	return r ? say(r, "cuMemAlloc") : say(cu->ipc_get_mem_handle(handle, at), "cuIpcGetMemHandle");
}

static const char *open_driver(const char *path)
{
	static struct fault why;
	cu_context ctx;
	if (cuda_load(&cu, *path ? path : NULL, &why))
		return why.text;
	cu_result r = cu->primary_ctx_retain(&ctx, 0);
	return r ? say(r, "cuDevicePrimaryCtxRetain") : say(cu->ctx_set_current(ctx), "cuCtxSetCurrent");
}

int main(int argc, char **argv)
{
	static struct export_answer answer;
	struct export_order order;
	int fds[YARD_EXPORT_MAX], no_fd;
	uint32_t n = 0;
	if (argc != 2 || seqpacket_recv(PEER, &order, sizeof order, &no_fd, 0, &n, 0) != sizeof order ||
	    order.n > YARD_EXPORT_MAX)
		return 2;
	const char *error = open_driver(argv[1]);
	bool by_descriptor = order.kind == TRIMS_EXPORT_VMM_FD;
	for (n = 0; n < order.n && !*error; n++)
		error = by_descriptor ? share_by_descriptor(order.bytes[n], &fds[n])
				      : share_by_handle(order.bytes[n], &answer.handles[n]);
	snprintf(answer.error, sizeof answer.error, "%s", error);
	if (seqpacket_send(PEER, &answer, sizeof answer, fds, by_descriptor && !*error ? n : 0, 0))
		return 1;
	seqpacket_recv(PEER, &order, sizeof order, &no_fd, 0, &n, 0); /* until the other end closes */
	return 0;
}
