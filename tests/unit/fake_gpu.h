/* fake_gpu.h - what fake_mrm.h lacks for clients of a GPU: device memory of the simulated driver, shared as the daemon would
 * share it, canaries, session pages, claims.  fake_gpu_serve() is the well-behaved answer to every message.
 *
 * Memory of kind vmm-fd is made in this process, which may import it again; of kind cuda-ipc by a child, since a process
 * cannot open handles of its own.  No driver call is made after fake_gpu_init(), so fault scripts meet the client's alone.
 * Thread: fake_gpu_init() before fake_start(), in the test's. */
#ifndef TESTS_UNIT_FAKE_GPU_H
#define TESTS_UNIT_FAKE_GPU_H

#include "shared/cuda.h"
#include "shared/gpu_handle.h"
#include "tests/unit/fake_mrm.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#ifndef SIMCUDA_LIBRARY
#define SIMCUDA_LIBRARY "libsimcuda.so" /* the build says where it is */
#endif

#define FAKE_GPU_SLOTS 64
#define FAKE_GPU_COPIES 3
#define FAKE_GPU_BYTES GPU_EXTENT_ALIGN /* of the canary and of every extent that is not wide */
#define FAKE_GPU_PIECE_MAX (8 * MIB)
#define FAKE_GPU_SEED 77

struct fake_gpu_memory {
	uint32_t n;
	struct gpu_handle handle[FAKE_PIECES_MAX];
	cu_ptr at[FAKE_PIECES_MAX]; /* vmm-fd, in the daemon's mapping */
	int fd[FAKE_PIECES_MAX];
	int records;
};

struct fake_gpu {
	struct cuda *cu;
	cu_context ctx;
	char uuid[CUDA_UUID_TEXT]; /* of device 0, where everything is */
	uint32_t kind;
	struct fake_gpu_memory canary, copy[FAKE_GPU_COPIES];
	int page_fd;
	_Atomic int64_t *page;
	_Atomic uint32_t slot; /* the next lease's first one */
	_Atomic bool keeps;    /* copies survived the restart: claims are granted */
	_Atomic int attaches, verdicts, claims;
	uint32_t good;         /* the last verdict */
	char text[512];
	struct msg attach;     /* the last one */
	pid_t owner;           /* cuda-ipc: who has the memory */
	int owner_pipe;
};

static struct fake_gpu gpu;

#define FAKE_CU(call)                                                                                                 \
	do {                                                                                                          \
		cu_result fake_cu_ = (call);                                                                          \
		ck_assert_msg(fake_cu_ == CU_OK, "%s: %s", #call, cuda_name(NULL, fake_cu_));                         \
	} while (0)

static char folder[64]; /* of this test */

static inline unsigned entries(const char *path)
{
	unsigned n = 0;
	DIR *d = opendir(path);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static inline unsigned open_fds(void)
{
	return entries("/proc/self/fd");
}

static inline bool read_line(const char *thread, const char *file, const char *begins, char *line, size_t size)
{
	char path[300];
	snprintf(path, sizeof path, "/proc/self/task/%s/%s", thread, file);
	FILE *f = fopen(path, "re");
	bool found = false;
	while (f && !found && fgets(line, (int)size, f))
		found = !strncmp(line, begins, strlen(begins));
	if (f)
		fclose(f);
	return found;
}

/* Watchdogs, all of which must block all signals; the driver has threads of its own. */
static inline unsigned watchdogs(void)
{
	char line[128];
	unsigned n = 0;
	DIR *d = opendir("/proc/self/task");
	for (struct dirent *e; (e = readdir(d));)
		if (read_line(e->d_name, "comm", "trims-gpu", line, sizeof line)) {
			ck_assert(read_line(e->d_name, "status", "SigBlk:", line, sizeof line));
			/* 1 to 31 but KILL and STOP; what libc keeps for itself differs while a thread ends */
			ck_assert_uint_eq(strtoull(line + strlen("SigBlk:"), NULL, 16) & 0x7ffbfeff, 0x7ffbfeff);
			n++;
		}
	closedir(d);
	return n;
}

/* None is left.  One that was joined may be listed for a moment: the kernel tells who joins before it takes the thread off its list. */
static inline bool watchdogs_gone(void)
{
	for (int i = 0; watchdogs() && i < 10000; i++)
		usleep(1000);
	return watchdogs() == 0;
}

static inline void write_text(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "we");
	fputs(text, f);
	fclose(f);
}

/* A simulated driver of two devices with a state of its own, which $TRIMS_CUDA_DRIVER names. */
static inline void fake_gpu_driver_setup(void)
{
	char path[128];
	strcpy(folder, "/tmp/trims-gpu-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	write_text("topology", "device bytes=64M context=1M\ndevice bytes=64M context=1M\n");
	snprintf(path, sizeof path, "%s/topology", folder);
	setenv("SIMCUDA", path, 1);
	snprintf(path, sizeof path, "%s/state", folder);
	setenv("SIMCUDA_DIR", path, 1);
	setenv("TRIMS_CUDA_DRIVER", SIMCUDA_LIBRARY, 1);
}

/* With the simulated driver's state in it: a folder of files and one more. */
static inline void remove_folder(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	for (struct dirent *e; d && (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlinkat(fd, e->d_name, 0))
			remove_folder(fd, e->d_name);
	if (d)
		closedir(d);
	unlinkat(at, name, AT_REMOVEDIR);
}

static inline void fake_gpu_driver_teardown(void)
{
	remove_folder(AT_FDCWD, folder);
}

/* What simcuda exports beside the driver's entries. */
#define SIMCUDA(type, name) ((type)dlsym(gpu.cu->dl, name))

static inline void fake_gpu_script(const char *script)
{
	ck_assert_int_eq(SIMCUDA(int (*)(const char *), "simcuda_script")(script), 0);
}

static inline uint64_t fake_gpu_calls(const char *name)
{
	return SIMCUDA(uint64_t (*)(const char *), "simcuda_count")(name);
}

static inline uint64_t fake_gpu_free_bytes(void)
{
	size_t left = 0, total;
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->mem_get_info(&left, &total));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	return left;
}

/* Piece number i of a copy. */
static inline struct fake_piece fake_gpu_piece(const struct fake_copy *c, uint32_t i)
{
	uint64_t extent_bytes = c->n_tensors / c->n_extents * c->stride;
	return c->n_pieces ? c->piece[i] : (struct fake_piece){.extent = i, .bytes = extent_bytes};
}

static inline uint32_t fake_gpu_pieces(const struct fake_copy *c)
{
	return c->n_pieces ? c->n_pieces : c->n_extents;
}

/* What it holds: as fake_copy_init() does it, tensor by tensor. */
static inline void fake_gpu_content(const struct fake_copy *c, const struct fake_piece *p, uint8_t *out)
{
	uint32_t first = p->extent * (c->n_tensors / c->n_extents);
	memset(out, 0, align_up(p->bytes, GPU_EXTENT_ALIGN));
	for (uint64_t i = 0, n; i < p->bytes; i += n) {
		n = MIN(c->stride - (p->offset + i) % c->stride, p->bytes - i);
		memset(out + i, (int)(first + (p->offset + i) / c->stride), n);
	}
}

static inline void fake_gpu_pattern(uint8_t *out)
{
	for (uint64_t i = 0; i < FAKE_GPU_BYTES / 8; i++)
		((uint64_t *)(void *)out)[i] = gpu_canary_word(FAKE_GPU_SEED, i);
}

/* One allocation with these bytes. */
static inline void fake_gpu_add(const struct cuda *cu, struct fake_gpu_memory *m, uint32_t kind, uint64_t generation,
	const struct fake_piece *p, const uint8_t *content)
{
	uint32_t i = m->n++;
	uint64_t bytes = align_up(p->bytes, GPU_EXTENT_ALIGN);
	struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD, .location = {CU_AT_DEVICE, 0}};
	struct cu_mem_access access = {.location = {CU_AT_DEVICE, 0}, .flags = CU_PROT_READWRITE};
	cu_mem_handle handle;
	m->handle[i] = (struct gpu_handle){.kind = kind, .extent = p->extent, .bytes = bytes, .generation = generation,
		.offset = p->offset, .used = p->bytes};
	if (kind == GPU_HANDLE_VMM_FD) {
		FAKE_CU(cu->mem_create(&handle, bytes, &prop, 0));
		FAKE_CU(cu->mem_address_reserve(&m->at[i], bytes, 2 * MIB, 0, 0));
		FAKE_CU(cu->mem_map(m->at[i], bytes, 0, handle, 0));
		FAKE_CU(cu->mem_set_access(m->at[i], bytes, &access, 1));
		FAKE_CU(cu->mem_export(&m->fd[i], handle, CU_HANDLE_FD, 0));
		FAKE_CU(cu->mem_release(handle));
	} else {
		FAKE_CU(cu->mem_alloc(&m->at[i], bytes));
		FAKE_CU(cu->ipc_get_mem_handle((void *)m->handle[i].ipc, m->at[i]));
	}
	FAKE_CU(cu->memcpy_htod(m->at[i], content, bytes));
}

static inline void fake_gpu_make(const struct cuda *cu, const struct fake_copy *copies, uint32_t n)
{
	const struct fake_piece canary = {.bytes = FAKE_GPU_BYTES};
	uint8_t *content = malloc(FAKE_GPU_PIECE_MAX);
	fake_gpu_pattern(content);
	fake_gpu_add(cu, &gpu.canary, gpu.kind, 1, &canary, content);
	for (uint32_t c = 0; c < n; c++)
		for (uint32_t i = 0; i < fake_gpu_pieces(&copies[c]); i++) {
			struct fake_piece p = fake_gpu_piece(&copies[c], i);
			ck_assert_uint_le(p.bytes, FAKE_GPU_PIECE_MAX);
			fake_gpu_content(&copies[c], &p, content);
			fake_gpu_add(cu, &gpu.copy[c], gpu.kind, copies[c].number, &p, content);
		}
	free(content);
}

static inline void fake_gpu_driver(struct cuda **cu, cu_context *ctx)
{
	struct fault why = {0};
	ck_assert_msg(cuda_load(cu, getenv("TRIMS_CUDA_DRIVER"), &why) == 0, "%s", why.text);
	FAKE_CU((*cu)->primary_ctx_retain(ctx, 0));
	FAKE_CU((*cu)->ctx_push_current(*ctx));
}

/* The owner of cuda-ipc memory: makes it, says the handles, and lives until the pipe closes. */
static inline void fake_gpu_owner(const struct fake_copy *copies, uint32_t n, int say, int hear)
{
	struct cuda *cu;
	cu_context ctx;
	char end;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fake_gpu_driver(&cu, &ctx);
	fake_gpu_make(cu, copies, n);
	if (write(say, &gpu.canary, sizeof gpu.canary) > 0 && write(say, gpu.copy, sizeof gpu.copy) > 0)
		while (read(hear, &end, 1) < 0)
			;
	_exit(0);
}

static inline void fake_gpu_borrow(const struct fake_copy *copies, uint32_t n)
{
	int heard[2], said[2];
	ck_assert_int_eq(pipe(heard) | pipe(said), 0);
	gpu.owner = fork();
	ck_assert_int_ge(gpu.owner, 0);
	if (gpu.owner == 0) {
		close(heard[0]);
		close(said[1]);
		fake_gpu_owner(copies, n, heard[1], said[0]);
	}
	close(heard[1]);
	close(said[0]);
	ck_assert_int_eq(read(heard[0], &gpu.canary, sizeof gpu.canary), sizeof gpu.canary);
	ck_assert_int_eq(read(heard[0], gpu.copy, sizeof gpu.copy), sizeof gpu.copy);
	close(heard[0]);
	gpu.owner_pipe = said[1];
}

static inline int fake_gpu_records(const struct fake_gpu_memory *m)
{
	void *p;
	int fd = fake_memory("fake-records", m->n * sizeof m->handle[0], &p);
	memcpy(p, m->handle, m->n * sizeof m->handle[0]);
	munmap(p, m->n * sizeof m->handle[0]);
	return fd;
}

static inline void fake_gpu_page(void)
{
	void *p;
	gpu.page_fd = fake_memory("fake-session", FAKE_GPU_SLOTS * 8, &p);
	gpu.page = p;
}

/* $TRIMS_CUDA_DRIVER names the simulated driver.  Leaves no context current. */
static inline void fake_gpu_init(uint32_t kind, const struct fake_copy *copies, uint32_t n)
{
	struct cu_uuid uuid;
	gpu = (struct fake_gpu){.kind = kind, .owner_pipe = -1};
	if (kind == GPU_HANDLE_CUDA_IPC)
		fake_gpu_borrow(copies, n);
	fake_gpu_driver(&gpu.cu, &gpu.ctx);
	if (kind == GPU_HANDLE_VMM_FD)
		fake_gpu_make(gpu.cu, copies, n);
	FAKE_CU(gpu.cu->device_get_uuid(&uuid, 0));
	cuda_uuid_text(&uuid, gpu.uuid);
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	gpu.canary.records = fake_gpu_records(&gpu.canary);
	for (uint32_t c = 0; c < n; c++)
		gpu.copy[c].records = fake_gpu_records(&gpu.copy[c]);
	fake_gpu_page();
}

static inline void fake_gpu_drop(struct fake_gpu_memory *m)
{
	for (uint32_t i = 0; i < m->n && gpu.kind == GPU_HANDLE_VMM_FD; i++) {
		FAKE_CU(gpu.cu->mem_unmap(m->at[i], m->handle[i].bytes));
		FAKE_CU(gpu.cu->mem_address_free(m->at[i], m->handle[i].bytes));
		close(m->fd[i]);
	}
	close(m->records);
}

static inline void fake_gpu_fini(uint32_t n)
{
	fake_gpu_drop(&gpu.canary);
	for (uint32_t c = 0; c < n; c++)
		fake_gpu_drop(&gpu.copy[c]);
	munmap((void *)gpu.page, FAKE_GPU_SLOTS * 8);
	close(gpu.page_fd);
	if (gpu.owner_pipe >= 0) {
		close(gpu.owner_pipe);
		waitpid(gpu.owner, NULL, 0);
	}
	FAKE_CU(gpu.cu->primary_ctx_release(0));
	cuda_free(&gpu.cu);
}

/* ---- answers ---- */

static inline void fake_gpu_send_canary(int fd, uint64_t request)
{
	struct msg r;
	msg_init(&r, MSG_CANARY, request);
	r.u.canary.export = gpu.kind;
	r.u.canary.bytes = FAKE_GPU_BYTES;
	r.u.canary.seed = FAKE_GPU_SEED;
	MSG_SET_STR(r.u.canary.device, gpu.uuid);
	r.u.canary.fds = (struct msg_fds){.n = 1, .fd = {gpu.canary.records}};
	if (gpu.kind == GPU_HANDLE_VMM_FD)
		r.u.canary.fds.fd[r.u.canary.fds.n++] = gpu.canary.fd[0];
	fake_send(fd, &r);
}

static inline void fake_gpu_verdict(int fd, uint64_t request, const struct msg_verdict *v)
{
	struct msg r;
	gpu.good = v->good;
	snprintf(gpu.text, sizeof gpu.text, "%s", v->text);
	gpu.verdicts++;
	if (!v->good) {
		fake_fault(fd, request, TRIMS_E_UNSUPPORTED, v->text);
		return;
	}
	msg_init(&r, MSG_ATTACHED, request);
	r.u.attached.export = gpu.kind;
	r.u.attached.slots = FAKE_GPU_SLOTS;
	r.u.attached.fds = (struct msg_fds){.n = 1, .fd = {gpu.page_fd}};
	fake_send(fd, &r);
}

/* OPENED for copy number i, not yet sent. */
static inline void fake_gpu_opened(struct fake *f, uint32_t i, uint64_t request, struct msg *r)
{
	struct fake_copy *c = &f->copies[i];
	struct fake_gpu_memory *m = &gpu.copy[i];
	fake_opened(f, c, request, r);
	r->u.opened.tier = 3;
	r->u.opened.export = gpu.kind;
	MSG_SET_STR(r->u.opened.device, gpu.uuid);
	r->u.opened.slot = GPU_SLOT_NONE;
	uint32_t pieces = fake_gpu_pieces(c);
	if (!r->u.opened.hit && gpu.slot + pieces < FAKE_GPU_SLOTS) {
		r->u.opened.slot = gpu.slot;
		for (uint32_t k = 0; k < pieces; k++)
			atomic_store(&gpu.page[gpu.slot + k], (int64_t)atomic_load(&c->p->watermark[k]));
		gpu.slot += pieces;
	}
	r->u.opened.fds.n = 2;
	r->u.opened.fds.fd[r->u.opened.fds.n++] = m->records;
	for (uint32_t e = 0; e < m->n && gpu.kind == GPU_HANDLE_VMM_FD; e++)
		r->u.opened.fds.fd[r->u.opened.fds.n++] = m->fd[e];
}

static inline bool fake_gpu_claim(struct fake *f, int fd, const struct msg *m)
{
	struct msg r;
	gpu.claims++;
	for (uint32_t i = 0; gpu.keeps && i < f->n_copies; i++) {
		struct fake_copy *host = f->copies[i].host;
		if (f->copies[i].number != m->u.claim.copy && (!host || host->number != m->u.claim.copy))
			continue;
		fake_gpu_opened(f, i, m->request, &r);
		r.u.opened.tier = m->u.claim.tier;
		r.u.opened.copy = m->u.claim.copy;
		r.u.opened.fds.n = 0;
		f->leases++;
		fake_send(fd, &r);
		return true;
	}
	fake_fault(fd, m->request, TRIMS_E_NO_LEASE, "no such copy here any more");
	return true;
}

static inline bool fake_gpu_serve(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	switch (m->type) {
	case MSG_ATTACH:
		gpu.attaches++;
		gpu.attach = *m;
		fake_gpu_send_canary(fd, m->request);
		return true;
	case MSG_VERDICT:
		fake_gpu_verdict(fd, m->request, &m->u.verdict);
		return true;
	case MSG_CLAIM:
		return fake_gpu_claim(f, fd, m);
	case MSG_DIRECT:
		fake_fault(fd, m->request, TRIMS_E_UNSUPPORTED, "nothing is shared for direct access");
		return true;
	case MSG_OPEN:
		if (m->u.open.tier != 3 || m->u.open.model[0] != 'm' || (uint32_t)(m->u.open.model[1] - '0') >= f->n_copies)
			return fake_serve(f, fd, m);
		fake_gpu_opened(f, (uint32_t)(m->u.open.model[1] - '0'), m->request, &r);
		f->leases++;
		fake_send(fd, &r);
		return true;
	default:
		return fake_serve(f, fd, m);
	}
}

/* ---- loading: the page first, then the slots of every lease so far ---- */

static inline void fake_gpu_slots(struct fake_copy *c, uint32_t first, uint32_t extent, int64_t value)
{
	atomic_store(&gpu.page[first + extent], value);
}

static inline void fake_gpu_land(struct fake_copy *c, uint32_t first, uint32_t extent, uint64_t bytes)
{
	fake_land(c, extent, bytes);
	fake_gpu_slots(c, first, extent, (int64_t)bytes);
}

static inline void fake_gpu_end(struct fake_copy *c, uint32_t first)
{
	for (uint32_t i = 0; i < fake_gpu_pieces(c); i++)
		fake_gpu_slots(c, first, i, GPU_SLOT_ENDED);
}

#endif
