/* points_survive.c - what is left of memory when the process that made it is killed. */
#include "tests/gpu/points.h"

#include "shared/seqpacket.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES (64 * MIB)
#define SEED 17

static void open_driver(struct point_lab *lab)
{
	struct fault why;
	if (cuda_load(&lab->cu, lab->driver, &why))
		give_up("%s", why.text);
	MUST(lab, device_get, &lab->device, 0);
	MUST(lab, primary_ctx_retain, &lab->ctx, lab->device);
	MUST(lab, ctx_set_current, lab->ctx);
}

/* Hears a size, makes that much, fills it, tells its descriptor, then lives until it is told or killed. */
void role_vmm_owner(struct point_lab *lab, int peer)
{
	struct vmm v;
	open_driver(lab);
	vmm_make(lab, hear(peer, NULL), &v);
	pattern_write(lab, v.at, v.bytes, SEED);
	tell(peer, v.bytes, v.fd);
	hear(peer, NULL);
}

/* Hears a descriptor, tells whether what is behind it is whole. */
static void share(struct point_lab *lab, int peer, struct vmm *v)
{
	int fd;
	uint64_t bytes = hear(peer, &fd);
	open_driver(lab);
	vmm_import(lab, fd, bytes, CU_PROT_READ, v);
	close(fd);
	tell(peer, pattern_read(lab, v->at, bytes, SEED), -1);
}

void role_vmm_reader(struct point_lab *lab, int peer)
{
	struct vmm v;
	share(lab, peer, &v);
}

/* Never touches the driver: has an owner make memory and die, waits while nobody has the driver open, then has a reader look. */
void role_fd_holder(struct point_lab *lab, int peer)
{
	int owner, reader, fd, status;
	pid_t pid = role_start(lab, "vmm_owner", &owner);
	tell(owner, BYTES, -1);
	uint64_t bytes = hear(owner, &fd);
	hear(peer, NULL);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	tell(peer, 1, -1);
	hear(peer, NULL);
	role_start(lab, "vmm_reader", &reader);
	tell(reader, bytes, fd);
	tell(peer, hear(reader, NULL), -1);
}

void point_owner_killed(struct point_lab *lab)
{
	struct vmm v;
	int owner, fd, status;
	pid_t pid = role_start(lab, "vmm_owner", &owner);
	tell(owner, BYTES, -1);
	uint64_t bytes = hear(owner, &fd);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	vmm_import(lab, fd, bytes, CU_PROT_READ, &v);
	out_flag("whole_after_kill", pattern_read(lab, v.at, bytes, SEED));
	close(fd);
	out_flag("whole_without_descriptor", pattern_read(lab, v.at, bytes, SEED));
	vmm_drop(lab, &v);
}

void point_all_gone(struct point_lab *lab)
{
	int holder;
	role_start(lab, "fd_holder", &holder);
	tell(holder, 1, -1);
	hear(holder, NULL);
	tell(holder, 1, -1);
	out_flag("whole_after_all_had_gone", hear(holder, NULL) == 1);
}

/* ---- checkpoints ---- */

/* Entries that this project does not use, and so are in no table of its own: whether others can use them beside shared memory. */
typedef cu_result (*checkpoint_call)(int pid, void *arguments);

enum { LOCK, CHECKPOINT, RESTORE, UNLOCK, STEPS };
static const char *const step_names[STEPS] = {"Lock", "Checkpoint", "Restore", "Unlock"};

static bool find_steps(struct point_lab *lab, checkpoint_call step[STEPS])
{
	cu_query_status status;
	for (int i = 0; i < STEPS; i++) {
		char name[64];
		snprintf(name, sizeof name, "cuCheckpointProcess%s", step_names[i]);
		if (!lab->cu->get_proc_address_v2 || lab->cu->get_proc_address_v2(name, (void **)&step[i], 12080, 0, &status) || !step[i])
			return false;
	}
	return true;
}

/* Tells it once more when it is asked. */
void role_vmm_sharer(struct point_lab *lab, int peer)
{
	struct vmm v;
	share(lab, peer, &v);
	hear(peer, NULL);
	tell(peer, pattern_read(lab, v.at, v.bytes, SEED), -1);
}

/* What it has to say after that, if it is still there: a driver may end a process that it cannot restore. */
static bool is_whole_after(int peer)
{
	uint64_t word = 1;
	int none;
	uint32_t n = 0;
	return !seqpacket_send(peer, &word, sizeof word, NULL, 0, 0) &&
		seqpacket_recv(peer, &word, sizeof word, &none, 0, &n, 0) == sizeof word && word == 1;
}

void point_checkpoint(struct point_lab *lab)
{
	checkpoint_call step[STEPS] = {NULL};
	struct vmm v;
	int sharer;
	bool there = find_steps(lab, step);
	out_flag("entries", there); /* without them it shows that nothing else harms what is shared */
	vmm_make(lab, BYTES, &v);
	pattern_write(lab, v.at, v.bytes, SEED);
	pid_t pid = role_start(lab, "vmm_sharer", &sharer);
	tell(sharer, v.bytes, v.fd);
	out_flag("whole_before", hear(sharer, NULL) == 1);
	uint64_t lock[8] = {10000 /* ms, below 32 bits of zeros */}, nothing[8] = {0};
	cu_result r[STEPS];
	r[LOCK] = there ? step[LOCK](pid, lock) : CU_E_NOT_SUPPORTED;
	r[CHECKPOINT] = r[LOCK] ? r[LOCK] : step[CHECKPOINT](pid, nothing);
	r[RESTORE] = r[CHECKPOINT] ? r[CHECKPOINT] : step[RESTORE](pid, nothing);
	r[UNLOCK] = r[LOCK] ? r[LOCK] : step[UNLOCK](pid, nothing);
	for (int i = 0; i < STEPS; i++)
		out_result(lab, step_names[i], r[i]);
	out_flag("whole_after", is_whole_after(sharer));
	out_flag("owner_s_whole", pattern_read(lab, v.at, v.bytes, SEED));
}

/* ---- legacy handles ---- */

/* Hears a size, tells its own handle, then frees on one word and makes the same again on the next, telling that handle. */
void role_ipc_owner(struct point_lab *lab, int peer)
{
	struct cu_ipc_mem_handle handle;
	cu_ptr at;
	open_driver(lab);
	uint64_t bytes = hear(peer, NULL);
	for (;;) {
		MUST(lab, mem_alloc, &at, bytes);
		pattern_write(lab, at, MIN(bytes, 2 * MIB), SEED);
		double t = now_us();
		MUST(lab, ipc_get_mem_handle, &handle, at);
		tell(peer, (uint64_t)((now_us() - t) * 1e3), -1);
		tell_bytes(peer, &handle, sizeof handle);
		bytes = hear(peer, NULL);
		MUST(lab, mem_free, at);
		if (!bytes)
			return;
	}
}

void role_ipc_reader(struct point_lab *lab, int peer)
{
	struct cu_ipc_mem_handle handle;
	cu_ptr at;
	open_driver(lab);
	hear_bytes(peer, &handle, sizeof handle);
	MUST(lab, ipc_open_mem_handle, &at, handle, CU_IPC_LAZY_PEER);
	tell(peer, pattern_read(lab, at, 2 * MIB, SEED), -1);
	hear(peer, NULL);
	/* Its owner has been killed meanwhile. */
	void *host = pinned(lab, 2 * MIB);
	cu_result r = lab->cu->memcpy_dtoh(host, at, 2 * MIB);
	tell(peer, (uint64_t)r, -1);
	tell(peer, !r && pattern_holds(host, 2 * MIB, SEED), -1);
}

static double next_handle(int owner, uint64_t bytes, struct cu_ipc_mem_handle *handle)
{
	if (bytes)
		tell(owner, bytes, -1);
	double us = (double)hear(owner, NULL) / 1e3;
	hear_bytes(owner, handle, sizeof *handle);
	return us;
}

void point_ipc_times(struct point_lab *lab)
{
	static const uint64_t sizes[] = {2 * MIB, 256 * MIB, GIB, 4 * GIB};
	struct cu_ipc_mem_handle handle, before;
	size_t free_bytes, total;
	int owner;
	bool again = false;
	role_start(lab, "ipc_owner", &owner);
	MUST(lab, mem_get_info, &free_bytes, &total);
	for (size_t s = 0; s < ARRAY_LEN(sizes) && sizes[s] <= free_bytes / 2; s++) {
		double open_us[5], close_us[5], get_us = 0;
		for (int r = 0; r < 5; r++) {
			cu_ptr at;
			get_us = next_handle(owner, sizes[s], &handle);
			again = again || (r && !memcmp(&handle, &before, sizeof handle));
			before = handle;
			double t = now_us();
			MUST(lab, ipc_open_mem_handle, &at, handle, CU_IPC_LAZY_PEER);
			open_us[r] = now_us() - t;
			t = now_us();
			MUST(lab, ipc_close_mem_handle, at);
			close_us[r] = now_us() - t;
		}
		out_number(sized("get_us", sizes[s]), get_us);
		out_number(sized("open_us", sizes[s]), median(open_us, 5));
		out_number(sized("close_us", sizes[s]), median(close_us, 5));
	}
	out_flag("handle_bytes_come_again", again);
	tell(owner, 0, -1);
}

void point_ipc_owner_killed(struct point_lab *lab)
{
	struct cu_ipc_mem_handle handle;
	int owner, reader, status;
	pid_t pid = role_start(lab, "ipc_owner", &owner);
	next_handle(owner, 64 * MIB, &handle);
	role_start(lab, "ipc_reader", &reader);
	tell_bytes(reader, &handle, sizeof handle);
	out_flag("whole_before", hear(reader, NULL) == 1);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	tell(reader, 1, -1);
	out_result(lab, "read_after", (cu_result)hear(reader, NULL));
	out_flag("whole_after", hear(reader, NULL) == 1);
}
