/* yard_export.c - see yard.h: opens and closes another process's device memory, allocation by allocation, with nothing but the
 * calls that it takes. */
#include "shared/check.h"
#include "shared/own.h"
#include "shared/seqpacket.h"
#include "tools/bench/export.h"
#include "tools/bench/gpu.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>

struct yard_export {
	const struct gpu *g;
	pid_t pid;
	int peer;
	struct export_order order;
	struct export_answer answer;
	int fds[YARD_EXPORT_MAX];
	/* while open */
	cu_ptr at[YARD_EXPORT_MAX];
	cu_mem_handle handle[YARD_EXPORT_MAX];
};

static void start_owner(struct yard_export *y, const struct bench_options *o)
{
	char program[LAB_PATH];
	int pair[2];
	snprintf(program, sizeof program, "%s/trims-bench-export", o->bin_dir);
	int e = seqpacket_pair(pair);
	if (e)
		die_errno(-e, "making a pair of sockets");
	pid_t parent = getpid();
	y->pid = fork();
	if (y->pid < 0)
		die_errno(errno, "fork");
	if (y->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent && dup2(pair[1], 3) == 3)
			execl(program, program, o->driver ? o->driver : "", (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	y->peer = pair[0];
}

void yard_export_start(struct yard_export **out, const struct bench_options *o, const struct gpu *g, uint32_t kind,
	const uint64_t *bytes, uint32_t n)
{
	struct yard_export *y = calloc(1, sizeof *y);
	uint32_t n_fds = 0;
	ASSERT(y && n <= YARD_EXPORT_MAX);
	y->g = g;
	y->order.kind = kind;
	y->order.n = n;
	memcpy(y->order.bytes, bytes, n * sizeof *bytes);
	start_owner(y, o);
	if (seqpacket_send(y->peer, &y->order, sizeof y->order, NULL, 0, 0) ||
	    seqpacket_recv(y->peer, &y->answer, sizeof y->answer, y->fds, YARD_EXPORT_MAX, &n_fds, 0) != sizeof y->answer)
		die("the process that was to own the yardstick's memory is gone");
	if (*y->answer.error)
		die("the yardstick's memory: %s", y->answer.error);
	if (kind == TRIMS_EXPORT_VMM_FD && n_fds != n)
		die("the yardstick's memory came with %u descriptors instead of %u", n_fds, n);
	*out = y;
}

static void open_descriptors(struct yard_export *y)
{
	const struct gpu *g = y->g;
	const struct cu_mem_access access = {.location = {.type = CU_AT_DEVICE, .id = g->device}, .flags = CU_PROT_READ};
	for (uint32_t i = 0; i < y->order.n; i++) {
		uint64_t bytes = y->order.bytes[i];
		GPU_MUST(g, mem_import, &y->handle[i], (void *)(uintptr_t)y->fds[i], CU_HANDLE_FD);
		GPU_MUST(g, mem_address_reserve, &y->at[i], bytes, YARD_EXPORT_ALIGN, 0, 0);
		GPU_MUST(g, mem_map, y->at[i], bytes, 0, y->handle[i], 0);
		GPU_MUST(g, mem_set_access, y->at[i], bytes, &access, 1);
	}
}

static void close_descriptors(struct yard_export *y)
{
	const struct gpu *g = y->g;
	for (uint32_t i = 0; i < y->order.n; i++) {
		GPU_MUST(g, mem_unmap, y->at[i], y->order.bytes[i]);
		GPU_MUST(g, mem_address_free, y->at[i], y->order.bytes[i]);
		GPU_MUST(g, mem_release, y->handle[i]);
	}
}

void yard_export_open(struct yard_export *y)
{
	if (y->order.kind == TRIMS_EXPORT_VMM_FD) {
		open_descriptors(y);
		return;
	}
	for (uint32_t i = 0; i < y->order.n; i++)
		GPU_MUST(y->g, ipc_open_mem_handle, &y->at[i], y->answer.handles[i], CU_IPC_LAZY_PEER);
}

void yard_export_close(struct yard_export *y)
{
	if (y->order.kind == TRIMS_EXPORT_VMM_FD) {
		close_descriptors(y);
		return;
	}
	for (uint32_t i = 0; i < y->order.n; i++)
		GPU_MUST(y->g, ipc_close_mem_handle, y->at[i]);
}

void yard_export_stop(struct yard_export **p)
{
	struct yard_export *y = *p;
	for (uint32_t i = 0; y->order.kind == TRIMS_EXPORT_VMM_FD && i < y->order.n; i++)
		close(y->fds[i]);
	close(y->peer);
	if (waitpid(y->pid, NULL, 0) != y->pid)
		die_errno(errno, "waiting for the process that owned the yardstick's memory");
	free(STEAL(*p));
}
