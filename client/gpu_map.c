/* gpu_map.c - the device memory of copies; see gpu.h.
 *
 * vmm-fd: one reservation of addresses for a model, its extents mapped in order, one call for read access to all of them.
 * cuda-ipc: every handle opened by itself, in one context: the driver allows a process to open a handle in one context per
 * device, and counts how often, so this is the only place that opens one.
 *
 * Keeps: memory is in `copies` exactly while refs is above 0 (and its canary is not: `mapped once` is about copies);
 * whatever was mapped, imported or opened before a call failed is given back. */
#include "client/gpu.h"

#include "client/fail.h"
#include "client/memory.h"
#include "shared/own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define RANGE_MAX ((uint64_t)1 << 46) /* keeps sums below from overflowing */

struct gpu_memory {
	struct list node; /* in copies; unhooked: nobody else knows of it */
	uint32_t refs;
	uint64_t boot_hi, boot_lo, copy;
	struct gpu_driver *driver; /* a reference of its own */
	struct gpu_device *device;
	uint32_t kind;
	cu_context ctx;  /* cuda-ipc: where it is open */
	cu_ptr range;    /* vmm-fd: the reservation */
	uint64_t range_bytes;
	uint32_t n_mapped, n; /* extents so far, and in all */
	struct gpu_extent {
		cu_ptr at;
		uint64_t bytes;
	} extent[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list copies = {&copies, &copies};

/* ---- handle records ---- */

static int bad_records(void)
{
	return fail(TRIMS_E_PROTOCOL, "the daemon's handle records make no sense");
}

int gpu_records_read(int fd, uint32_t kind, uint32_t n_fds, struct gpu_handle **out, uint32_t *n)
{
	struct stat st;
	char *bytes;
	uint64_t sum = 0;
	if (fstat(fd, &st) || st.st_size < 0 || st.st_size % (off_t)sizeof(struct gpu_handle) ||
		(uint64_t)st.st_size > PROGRESS_MAX_EXTENTS * sizeof(struct gpu_handle))
		return bad_records();
	int r = memory_read(fd, (uint64_t)st.st_size, &bytes);
	if (r < 0)
		return r;
	struct gpu_handle *h = (void *)bytes;
	*n = (uint32_t)((size_t)st.st_size / sizeof *h);
	bool good = n_fds == (kind == GPU_HANDLE_VMM_FD ? *n : 0);
	for (uint32_t i = 0; i < *n && good; i++)
		good = h[i].kind == kind && h[i].bytes && !add_overflows(sum, h[i].bytes, &sum) && sum <= RANGE_MAX;
	if (!good) {
		free(bytes);
		return bad_records();
	}
	*out = h;
	return 0;
}

/* ---- vmm-fd ---- */

/* The handle is not needed once the memory is mapped: the mapping keeps it. */
static int map_extent(struct gpu_memory *m, uint32_t i, int fd)
{
	const struct cuda *cu = m->driver->cu;
	struct gpu_extent *e = &m->extent[i];
	cu_mem_handle handle;
	cu_result r = cu->mem_import(&handle, (void *)(intptr_t)fd, CU_HANDLE_FD);
	if (r)
		return gpu_failed(m->driver, r, "cuMemImportFromShareableHandle");
	r = cu->mem_map(e->at, e->bytes, 0, handle, 0);
	cu_result released = GPU_UNDO(cu->mem_release(handle));
	if (r)
		return gpu_failed(m->driver, r, "cuMemMap");
	m->n_mapped++;
	return released ? gpu_failed(m->driver, released, "cuMemRelease") : 0;
}

static int map_extents(struct gpu_memory *m, const struct gpu_source *from)
{
	const struct cuda *cu = m->driver->cu;
	uint64_t end = 0;
	for (uint32_t i = 0; i < m->n; i++)
		end += from->handles[i].bytes;
	if (end == 0)
		return 0;
	cu_result r = cu->mem_address_reserve(&m->range, end, 0, 0, 0);
	if (r)
		return gpu_failed(m->driver, r, "cuMemAddressReserve");
	m->range_bytes = end;
	end = 0;
	for (uint32_t i = 0; i < m->n; i++) {
		m->extent[i] = (struct gpu_extent){.at = m->range + end, .bytes = from->handles[i].bytes};
		int e = map_extent(m, i, from->fds[i]);
		if (e < 0)
			return e;
		end += m->extent[i].bytes;
	}
	struct cu_mem_access access = {.location = {CU_AT_DEVICE, m->device->ordinal}, .flags = CU_PROT_READ};
	r = cu->mem_set_access(m->range, m->range_bytes, &access, 1);
	return r ? gpu_failed(m->driver, r, "cuMemSetAccess") : 0;
}

static void unmap_extents(struct gpu_memory *m)
{
	const struct cuda *cu = m->driver->cu;
	while (m->n_mapped) {
		m->n_mapped--;
		GPU_UNDO(cu->mem_unmap(m->extent[m->n_mapped].at, m->extent[m->n_mapped].bytes));
	}
	if (m->range_bytes)
		GPU_UNDO(cu->mem_address_free(m->range, m->range_bytes));
	m->range_bytes = 0;
}

/* ---- cuda-ipc ---- */

static int open_failed(struct gpu_memory *m, cu_result r)
{
	struct fault why;
	cuda_fault(m->driver->cu, r, "cuIpcOpenMemHandle", &why);
	if (r != CU_E_INVALID_CONTEXT)
		return fail_fault(&why);
	return fail(TRIMS_E_UNSUPPORTED, "%s; a process cannot open its own handles, those of a process that has the same "
		"number in another PID namespace, or one that it has open in another context", why.text);
}

static int open_handles(struct gpu_memory *m, const struct gpu_source *from)
{
	const struct cuda *cu = m->driver->cu;
	for (uint32_t i = 0; i < m->n; i++) {
		struct cu_ipc_mem_handle handle;
		_Static_assert(sizeof handle == sizeof from->handles[i].ipc, "the driver's size");
		memcpy(&handle, from->handles[i].ipc, sizeof handle);
		cu_result r = cu->ipc_open_mem_handle(&m->extent[i].at, handle, CU_IPC_LAZY_PEER);
		if (r)
			return open_failed(m, r);
		m->extent[i].bytes = from->handles[i].bytes;
		m->n_mapped++;
	}
	return 0;
}

static void close_handles(struct gpu_memory *m)
{
	while (m->n_mapped) {
		m->n_mapped--;
		GPU_UNDO(m->driver->cu->ipc_close_mem_handle(m->extent[m->n_mapped].at));
	}
}

/* ---- both ---- */

static void forget(struct gpu_memory *m)
{
	gpu_driver_put(&m->driver);
	free(m);
}

static void unmap(struct gpu_memory *m)
{
	struct gpu_scope scope = {0};
	if (m->kind == GPU_HANDLE_VMM_FD)
		unmap_extents(m); /* wants no context */
	else if (gpu_enter_to_undo(m->driver, m->ctx, &scope))
		close_handles(m); /* else they went with their context */
	gpu_leave(&scope);
	forget(m);
}

static int map_in_scope(const struct gpu_source *from, const struct gpu_scope *scope, struct gpu_memory **out)
{
	struct gpu_driver *driver = NULL;
	int r = gpu_driver_get(&driver);
	if (r < 0)
		return r;
	struct gpu_memory *m = calloc(1, sizeof *m + from->n * sizeof m->extent[0]);
	if (!m) {
		gpu_driver_put(&driver);
		return fail(TRIMS_E_NO_MEMORY, "no memory for a mapping");
	}
	*m = (struct gpu_memory){.refs = 1, .driver = driver, .device = from->device, .kind = from->kind, .ctx = scope->ctx,
		.n = from->n};
	list_init(&m->node);
	r = m->kind == GPU_HANDLE_VMM_FD ? map_extents(m, from) : open_handles(m, from);
	if (r == 0) {
		*out = m;
		return 0;
	}
	if (m->kind == GPU_HANDLE_VMM_FD)
		unmap_extents(m);
	else
		close_handles(m);
	forget(m);
	return r;
}

int gpu_memory_map(const struct gpu_source *from, struct gpu_memory **out)
{
	struct gpu_scope scope = {0};
	int r = gpu_enter(from->driver, from->device, &scope);
	if (r == 0)
		r = map_in_scope(from, &scope, out);
	gpu_leave(&scope);
	return r;
}

static struct gpu_memory *find(const struct conn_life *life, uint64_t copy, const struct gpu_source *from)
{
	list_for_each(it, &copies) {
		struct gpu_memory *m = list_entry(it, struct gpu_memory, node);
		if (m->copy == copy && m->boot_hi == life->boot_hi && m->boot_lo == life->boot_lo &&
			m->device == from->device && m->kind == from->kind && m->n == from->n)
			return m;
	}
	return NULL;
}

static int get_in_scope(const struct conn_life *life, uint64_t copy, const struct gpu_source *from,
	const struct gpu_scope *scope, struct gpu_memory **out)
{
	struct gpu_memory *m = find(life, copy, from);
	if (m && m->kind == GPU_HANDLE_CUDA_IPC && m->ctx != scope->ctx)
		return fail(TRIMS_E_UNSUPPORTED, "copy %llu is open in another context of this process, and CUDA IPC handles can "
			"be open in one context per device only", (unsigned long long)copy);
	if (m) {
		m->refs++;
		*out = m;
		return 0;
	}
	int r = map_in_scope(from, scope, &m);
	if (r < 0)
		return r;
	m->boot_hi = life->boot_hi;
	m->boot_lo = life->boot_lo;
	m->copy = copy;
	list_add_head(&m->node, &copies);
	*out = m;
	return 0;
}

int gpu_memory_get(const struct conn_life *life, uint64_t copy, const struct gpu_source *from, struct gpu_memory **out)
{
	struct gpu_scope scope = {0};
	int r = gpu_enter(from->driver, from->device, &scope);
	if (r < 0)
		return r;
	pthread_mutex_lock(&lock);
	r = get_in_scope(life, copy, from, &scope, out);
	pthread_mutex_unlock(&lock);
	gpu_leave(&scope);
	return r;
}

void gpu_memory_put(struct gpu_memory **p)
{
	struct gpu_memory *m = STEAL(*p);
	if (!m)
		return;
	/* Unmapped under the lock: a handle must be closed before it can be opened in another context. */
	pthread_mutex_lock(&lock);
	if (--m->refs == 0) {
		list_del(&m->node);
		unmap(m);
	}
	pthread_mutex_unlock(&lock);
}

bool gpu_memory_at(const struct gpu_memory *m, uint32_t extent, uint64_t offset, uint64_t bytes, cu_ptr *out)
{
	uint64_t end;
	if (extent >= m->n || add_overflows(offset, bytes, &end) || end > m->extent[extent].bytes)
		return false;
	*out = m->extent[extent].at + offset;
	return true;
}
