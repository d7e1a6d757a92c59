/* gpu_map.c - the device memory of copies; see gpu.h.
 *
 * A copy's memory comes in pieces, each of one extent, which need not cover it (shared/gpu_handle.h).
 * vmm-fd: one reservation of addresses for a model in which each piece has its place, so that a tensor may lie across pieces
 * that are neighbours; addresses of what is not there stay without memory.
 * memory files (direct access alone): mapped writable, since drivers register only that, registered, and then protected.
 * cuda-ipc: every handle opened by itself, in one context: the driver allows a process to open a handle in one context per
 * device, and counts how often, so this is the only place that opens one.
 *
 * Keeps: memory is in `copies` exactly while refs is above 0 (and its canary is not: `mapped once` is about copies);
 * whatever was mapped, imported or opened before a call failed is given back. */
#include "client/gpu.h"

#include "client/fail.h"
#include "client/memory.h"
#include "shared/own.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define RANGE_MAX ((uint64_t)1 << 46) /* keeps sums below from overflowing */

struct gpu_memory {
	struct list node; /* in copies; unhooked: nobody else knows of it */
	uint32_t refs;
	uint64_t boot_hi, boot_lo, copy;
	struct gpu_driver *driver; /* a reference of its own */
	struct gpu_device *device;
	uint32_t kind;
	cu_context ctx;  /* cuda-ipc: where it is open; files: where they are registered */
	cu_ptr range;    /* vmm-fd: the reservation */
	uint64_t range_bytes;
	uint32_t n_mapped, n; /* pieces so far, and in all */
	uint8_t by_place[GPU_MAX_PIECES];
	struct gpu_piece {
		uint32_t extent;
		uint64_t offset, used; /* in the extent */
		uint64_t bytes;        /* of the allocation */
		cu_ptr at;
		void *file;            /* mapped; NULL: not */
	} piece[]; /* in the order of the records */
};
_Static_assert(GPU_MAX_PIECES - 1 <= UINT8_MAX, "see by_place");

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
	if (fstat(fd, &st) || st.st_size < 0 || st.st_size % (off_t)sizeof(struct gpu_handle) ||
		(uint64_t)st.st_size > GPU_MAX_PIECES * sizeof(struct gpu_handle))
		return bad_records();
	int r = memory_read(fd, (uint64_t)st.st_size, &bytes);
	if (r < 0)
		return r;
	struct gpu_handle *h = (void *)bytes;
	*n = (uint32_t)((size_t)st.st_size / sizeof *h);
	bool good = n_fds == (kind == GPU_HANDLE_CUDA_IPC ? 0 : *n);
	for (uint32_t i = 0; i < *n && good; i++)
		good = h[i].kind == kind && h[i].extent < PROGRESS_MAX_EXTENTS && h[i].bytes && h[i].used <= h[i].bytes &&
			h[i].bytes <= RANGE_MAX && h[i].offset <= RANGE_MAX;
	if (!good) {
		free(bytes);
		return bad_records();
	}
	*out = h;
	return 0;
}

/* ---- pieces ---- */

static bool is_before(const struct gpu_piece *a, const struct gpu_piece *b)
{
	return a->extent < b->extent || (a->extent == b->extent && a->offset < b->offset);
}

/* Takes the records over and finds the order of places.  False: two pieces want the same place. */
static bool place_pieces(struct gpu_memory *m, const struct gpu_handle *h)
{
	for (uint32_t i = 0; i < m->n; i++) {
		m->piece[i] = (struct gpu_piece){.extent = h[i].extent, .offset = h[i].offset, .used = h[i].used, .bytes = h[i].bytes};
		uint32_t at = i;
		for (; at && is_before(&m->piece[i], &m->piece[m->by_place[at - 1]]); at--)
			m->by_place[at] = m->by_place[at - 1];
		m->by_place[at] = (uint8_t)i;
	}
	for (uint32_t i = 1; i < m->n; i++) {
		const struct gpu_piece *a = &m->piece[m->by_place[i - 1]], *b = &m->piece[m->by_place[i]];
		if (a->extent == b->extent && a->offset + a->bytes > b->offset)
			return false;
	}
	return true;
}

/* The first piece, in the order of places, that ends above that place. */
static uint32_t first_above(const struct gpu_memory *m, uint32_t extent, uint64_t offset)
{
	uint32_t low = 0, high = m->n;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct gpu_piece *p = &m->piece[m->by_place[middle]];
		if (p->extent > extent || (p->extent == extent && p->offset + p->used > offset))
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

bool gpu_memory_at(const struct gpu_memory *m, uint32_t extent, uint64_t offset, uint64_t bytes, cu_ptr *out)
{
	uint64_t end;
	uint32_t i = first_above(m, extent, offset);
	*out = 0;
	if (bytes == 0 && i < m->n && m->piece[m->by_place[i]].extent == extent && m->piece[m->by_place[i]].offset <= offset)
		*out = m->piece[m->by_place[i]].at + (offset - m->piece[m->by_place[i]].offset);
	if (bytes == 0)
		return true;
	if (add_overflows(offset, bytes, &end))
		return false;
	for (uint64_t at = offset; i < m->n; i++) {
		const struct gpu_piece *p = &m->piece[m->by_place[i]];
		if (p->extent != extent || p->offset > at || (at > offset && m->kind != GPU_HANDLE_VMM_FD))
			return false; /* a hole, or memory that has an address of its own */
		if (at == offset)
			*out = p->at + (offset - p->offset);
		at = p->offset + p->used;
		if (at >= end)
			return true;
	}
	return false;
}

bool gpu_memory_next(const struct gpu_memory *m, const struct tensor_place *place, struct gpu_need *need)
{
	uint32_t i = need->next ? need->next : place ? first_above(m, place->extent, place->offset) : 0;
	if (i >= m->n)
		return false;
	const struct gpu_piece *p = &m->piece[m->by_place[i]];
	if (place && (p->extent != place->extent || p->offset >= place->end))
		return false;
	*need = (struct gpu_need){.next = i + 1, .piece = m->by_place[i],
		.bytes = place ? MIN(place->end - p->offset, p->used) : p->used};
	return true;
}

uint64_t gpu_memory_bytes(const struct gpu_memory *m)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < m->n; i++)
		bytes += m->piece[i].used;
	return bytes;
}

uint32_t gpu_memory_pieces(const struct gpu_memory *m)
{
	return m->n;
}

/* ---- vmm-fd ---- */

/* The handle is not needed once the memory is mapped: the mapping keeps it. */
static int map_piece(struct gpu_memory *m, uint32_t i, int fd)
{
	const struct cuda *cu = m->driver->cu;
	struct gpu_piece *p = &m->piece[i];
	cu_mem_handle handle;
	cu_result r = cu->mem_import(&handle, (void *)(intptr_t)fd, CU_HANDLE_FD);
	if (r)
		return gpu_failed(m->driver, r, "cuMemImportFromShareableHandle");
	r = cu->mem_map(p->at, p->bytes, 0, handle, 0);
	cu_result released = GPU_UNDO(cu->mem_release(handle));
	if (r)
		return gpu_failed(m->driver, r, "cuMemMap");
	m->n_mapped++;
	return released ? gpu_failed(m->driver, released, "cuMemRelease") : 0;
}

/* Gives each piece its place behind m->range: extents end to end, as long as what is there of them reaches.  Returns the
 * bytes in all. */
static uint64_t lay_out(struct gpu_memory *m)
{
	uint64_t begin = 0, end = 0;
	for (uint32_t i = 0; i < m->n; i++) {
		struct gpu_piece *p = &m->piece[m->by_place[i]];
		if (i && p->extent != m->piece[m->by_place[i - 1]].extent)
			begin = end;
		p->at = m->range + begin + p->offset;
		end = begin + p->offset + p->bytes;
		if (end > RANGE_MAX)
			break;
	}
	return end;
}

/* One call for each stretch of addresses without a hole. */
static int let_read(struct gpu_memory *m)
{
	struct cu_mem_access access = {.location = {CU_AT_DEVICE, m->device->ordinal}, .flags = CU_PROT_READ};
	for (uint32_t i = 0; i < m->n;) {
		cu_ptr from = m->piece[m->by_place[i]].at, to = from;
		while (i < m->n && m->piece[m->by_place[i]].at == to)
			to += m->piece[m->by_place[i++]].bytes;
		cu_result r = m->driver->cu->mem_set_access(from, to - from, &access, 1);
		if (r)
			return gpu_failed(m->driver, r, "cuMemSetAccess");
	}
	return 0;
}

/* Drivers map memory at multiples of its granularity and do not say how they align reservations.  All that is mapped here is made
 * of whole granules, so what its sizes and places are multiples of is enough. */
static uint64_t alignment(const struct gpu_memory *m)
{
	uint64_t all = GIB;
	for (uint32_t i = 0; i < m->n; i++)
		all |= m->piece[i].bytes | m->piece[i].offset;
	return all & -all;
}

static int map_pieces(struct gpu_memory *m, const int *fds)
{
	uint64_t bytes = lay_out(m);
	if (bytes > RANGE_MAX)
		return bad_records();
	if (bytes == 0)
		return 0;
	cu_result r = m->driver->cu->mem_address_reserve(&m->range, bytes, alignment(m), 0, 0);
	if (r)
		return gpu_failed(m->driver, r, "cuMemAddressReserve");
	m->range_bytes = bytes;
	lay_out(m);
	for (uint32_t i = 0; i < m->n; i++) {
		int e = map_piece(m, i, fds[i]);
		if (e < 0)
			return e;
	}
	return let_read(m);
}

static void unmap_pieces(struct gpu_memory *m)
{
	const struct cuda *cu = m->driver->cu;
	while (m->n_mapped) {
		m->n_mapped--;
		GPU_UNDO(cu->mem_unmap(m->piece[m->n_mapped].at, m->piece[m->n_mapped].bytes));
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
		cu_result r = cu->ipc_open_mem_handle(&m->piece[i].at, handle, CU_IPC_LAZY_PEER);
		if (r)
			return open_failed(m, r);
		m->n_mapped++;
	}
	return 0;
}

static void close_handles(struct gpu_memory *m)
{
	while (m->n_mapped) {
		m->n_mapped--;
		GPU_UNDO(m->driver->cu->ipc_close_mem_handle(m->piece[m->n_mapped].at));
	}
}

/* ---- memory files ---- */

static int register_file(struct gpu_memory *m, struct gpu_piece *p, int fd)
{
	const struct cuda *cu = m->driver->cu;
	struct stat st;
	if (fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size < p->bytes)
		return bad_records();
	void *at = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return fail_errno(TRIMS_E_NO_MEMORY, errno, "cannot map memory for direct access");
	p->file = at;
	cu_result r = cu->mem_host_register(at, p->bytes, CU_REGISTER_PORTABLE | CU_REGISTER_MAPPED);
	if (r == CU_OK)
		m->n_mapped++;
	mprotect(at, p->bytes, PROT_READ); /* against accidents */
	if (r == CU_OK)
		r = cu->mem_host_get_device_pointer(&p->at, at, 0);
	return r ? gpu_failed(m->driver, r, "cuMemHostRegister") : 0;
}

static int register_files(struct gpu_memory *m, const int *fds)
{
	int r = 0;
	for (uint32_t i = 0; i < m->n && r == 0; i++)
		r = register_file(m, &m->piece[i], fds[i]);
	return r;
}

static void unregister_files(struct gpu_memory *m, bool there)
{
	for (uint32_t i = 0; i < m->n && m->piece[i].file; i++) {
		if (there && i < m->n_mapped)
			GPU_UNDO(m->driver->cu->mem_host_unregister(m->piece[i].file));
		munmap(m->piece[i].file, m->piece[i].bytes);
	}
}

/* ---- all ---- */

static void forget(struct gpu_memory *m)
{
	gpu_driver_put(&m->driver);
	free(m);
}

static void unmap(struct gpu_memory *m)
{
	struct gpu_scope scope = {0};
	if (m->kind == GPU_HANDLE_VMM_FD) {
		gpu_enter_none(m->driver, &scope);
		unmap_pieces(m);
	} else {
		bool there = gpu_enter_to_undo(m->driver, m->ctx, &scope);
		if (m->kind == GPU_HANDLE_MEMORY_FILE)
			unregister_files(m, there);
		else if (there)
			close_handles(m); /* else they went with their context */
	}
	gpu_leave(&scope);
	forget(m);
}

static int map_in_scope(const struct gpu_source *from, const struct gpu_scope *scope, struct gpu_memory **out)
{
	struct gpu_driver *driver = NULL;
	int r = gpu_driver_get(&driver);
	if (r < 0)
		return r;
	struct gpu_memory *m = calloc(1, sizeof *m + from->n * sizeof m->piece[0]);
	if (!m) {
		gpu_driver_put(&driver);
		return fail(TRIMS_E_NO_MEMORY, "no memory for a mapping");
	}
	*m = (struct gpu_memory){.refs = 1, .driver = driver, .device = from->device, .kind = from->kind, .ctx = scope->ctx,
		.n = from->n};
	list_init(&m->node);
	r = !place_pieces(m, from->handles) ? bad_records() : m->kind == GPU_HANDLE_VMM_FD ? map_pieces(m, from->fds) :
		m->kind == GPU_HANDLE_MEMORY_FILE ? register_files(m, from->fds) : open_handles(m, from);
	if (r == 0)
		*out = m;
	else
		unmap(m);
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
