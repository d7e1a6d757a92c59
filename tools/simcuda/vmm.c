/* vmm.c - allocations apart from addresses.  A block is this process's handle of an allocation, which itself is a file
 * (store.c); exporting is dup(), importing keeps the descriptor, so the kernel knows who holds it.  Keeps: a block lives
 * while its handle or a mapping of it does. */
#include "tools/simcuda/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

struct vmm_block {
	uint64_t handle; /* 0: released */
	struct sim_device *device; /* NULL: the host's memory */
	struct store_tail tail;
	uint64_t inode;
	int fd;
	unsigned mappings;
};

/* Reserved addresses. */
struct reservation {
	struct list node;
	cu_ptr base;
	size_t bytes;
};

static struct list reservations = {&reservations, &reservations};

uint32_t vmm_handle_types(const struct vmm_block *b)
{
	return b ? b->tail.prop.handle_types : 0;
}

static void put(struct vmm_block *b)
{
	if (b->handle || b->mappings)
		return;
	store_drop(b->device, b->device ? STORE_VMM : STORE_HOST, &b->tail, b->fd);
	free(b);
}

static bool any_device_has(unsigned attr)
{
	for (unsigned i = 0; i < sim.topology.n_devices; i++)
		if (device_attr(&sim.devices[i], attr))
			return true;
	return false;
}

static cu_result check_device(const struct cu_mem_prop *prop, struct sim_device **d)
{
	*d = sim_device(prop->location.id);
	if (!*d)
		return CU_E_INVALID_DEVICE;
	if (!device_attr(*d, CU_ATTR_VMM) || (prop->handle_types & CU_HANDLE_FD && !device_attr(*d, CU_ATTR_VMM_FD)))
		return CU_E_NOT_SUPPORTED;
	return store_lost(*d);
}

/* Which memory the properties mean. */
static cu_result check_prop(const struct cu_mem_prop *prop, struct sim_device **d)
{
	*d = NULL;
	if (!prop || prop->type != CU_ALLOCATION_PINNED || prop->windows || prop->handle_types & ~9u)
		return CU_E_INVALID_VALUE;
	if (prop->handle_types & CU_HANDLE_FABRIC)
		return CU_E_NOT_PERMITTED; /* no fabric is simulated */
	switch (prop->location.type) {
	case CU_AT_DEVICE:
		return check_device(prop, d);
	case CU_AT_HOST: /* cannot be shared */
		if (prop->handle_types)
			return CU_E_INVALID_VALUE;
		return any_device_has(CU_ATTR_HOST_VMM) ? CU_OK : CU_E_NOT_SUPPORTED;
	case CU_AT_HOST_NUMA:
		if (prop->location.id < 0)
			return CU_E_INVALID_VALUE;
		return any_device_has(CU_ATTR_HOST_NUMA_VMM) ? CU_OK : CU_E_NOT_SUPPORTED;
	default:
		return CU_E_INVALID_VALUE;
	}
}

EXPORT cu_result cuMemGetAllocationGranularity(size_t *bytes, const struct cu_mem_prop *prop, cu_granularity option)
{
	struct sim_device *d;
	cu_result r;

	ENTER(mem_get_allocation_granularity, NEEDS_INIT);
	r = check_prop(prop, &d);
	if (r || !bytes || option > CU_GRANULARITY_BEST)
		return r ? r : CU_E_INVALID_VALUE;
	*bytes = SIM_GRANULE;
	return CU_OK;
}

/* Takes fd. */
static cu_result block_new(struct sim_device *d, const struct store_tail *tail, int fd, uint64_t inode,
	cu_mem_handle *handle)
{
	struct vmm_block *b = calloc(1, sizeof *b);
	uint64_t h = b ? handle_new(HANDLE_BLOCK, b) : 0;

	if (!h) {
		free(b);
		close(fd);
		return CU_E_OUT_OF_MEMORY;
	}
	*b = (struct vmm_block){.handle = h, .device = d, .tail = *tail, .inode = inode, .fd = fd};
	*handle = h;
	return CU_OK;
}

EXPORT cu_result cuMemCreate(cu_mem_handle *handle, size_t bytes, const struct cu_mem_prop *prop, cu_flags64 flags)
{
	struct store_tail tail = {0};
	struct sim_device *d;
	uint64_t inode = 0;
	int fd = -1;
	cu_result r;

	ENTER(mem_create, NEEDS_INIT);
	r = check_prop(prop, &d);
	if (r || !handle || !bytes || bytes % SIM_GRANULE || flags)
		return r ? r : CU_E_INVALID_VALUE;
	if (d)
		tail.uuid = d->config->uuid;
	tail.bytes = bytes;
	tail.key = ++sim.ids;
	tail.owner = sim.owner;
	tail.prop = *prop;
	pthread_mutex_unlock(&sim.lock); /* it takes a while, and nobody knows of the block yet */
	r = store_create(d, d ? STORE_VMM : STORE_HOST, &tail, &fd, &inode);
	pthread_mutex_lock(&sim.lock);
	return r ? r : block_new(d, &tail, fd, inode, handle);
}

static struct vmm_block *block_of(cu_mem_handle handle)
{
	return handle_get(HANDLE_BLOCK, handle);
}

EXPORT cu_result cuMemRelease(cu_mem_handle handle)
{
	struct vmm_block *b;

	ENTER(mem_release, NEEDS_INIT);
	b = block_of(handle);
	if (!b)
		return CU_E_INVALID_VALUE;
	handle_end(HANDLE_BLOCK, handle);
	b->handle = 0;
	put(b);
	return CU_OK;
}

EXPORT cu_result cuMemGetAllocationPropertiesFromHandle(struct cu_mem_prop *prop, cu_mem_handle handle)
{
	struct vmm_block *b;

	ENTER(mem_get_properties, NEEDS_INIT);
	b = block_of(handle);
	if (!prop || !b)
		return CU_E_INVALID_VALUE;
	*prop = b->tail.prop;
	if (b->device)
		prop->location.id = b->device->ordinal;
	return CU_OK;
}

EXPORT cu_result cuMemExportToShareableHandle(void *shareable, cu_mem_handle handle, cu_handle_type type, cu_flags64 flags)
{
	struct vmm_block *b;
	int fd;

	ENTER(mem_export, NEEDS_INIT);
	b = block_of(handle);
	if (!shareable || !b || flags || !(b->tail.prop.handle_types & type))
		return CU_E_INVALID_VALUE;
	if (type != CU_HANDLE_FD)
		return CU_E_NOT_SUPPORTED;
	if (b->device && store_lost(b->device))
		return store_lost(b->device);
	fd = dup(b->fd); /* nobody promises that programs which are executed do not get it */
	if (fd < 0)
		return CU_E_OPERATING_SYSTEM;
	*(int *)shareable = fd;
	return CU_OK;
}

static struct sim_device *device_by_uuid(const struct cu_uuid *uuid)
{
	for (unsigned i = 0; i < sim.topology.n_devices; i++)
		if (!memcmp(&sim.devices[i].config->uuid, uuid, sizeof *uuid))
			return &sim.devices[i];
	return NULL;
}

EXPORT cu_result cuMemImportFromShareableHandle(cu_mem_handle *handle, void *shareable, cu_handle_type type)
{
	struct store_tail tail;
	struct sim_device *d = NULL;
	uint64_t inode;
	cu_result r;
	int fd;

	ENTER(mem_import, NEEDS_INIT);
	if (!handle || (type != CU_HANDLE_FD && type != CU_HANDLE_FABRIC))
		return CU_E_INVALID_VALUE;
	if (type != CU_HANDLE_FD)
		return CU_E_NOT_SUPPORTED;
	r = store_tail_of((int)(intptr_t)shareable, &tail, &inode);
	if (r)
		return r;
	if (tail.prop.location.type == CU_AT_DEVICE) {
		d = device_by_uuid(&tail.uuid);
		if (!d)
			return CU_E_INVALID_DEVICE;
		r = check_device(&(struct cu_mem_prop){.location.id = d->ordinal, .handle_types = CU_HANDLE_FD}, &d);
		if (r)
			return r;
	}
	if (!d && !any_device_has(CU_ATTR_HOST_NUMA_VMM))
		return CU_E_NOT_SUPPORTED;
	fd = fcntl((int)(intptr_t)shareable, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? CU_E_OPERATING_SYSTEM : block_new(d, &tail, fd, inode, handle);
}

static struct reservation *reservation_with(cu_ptr base, size_t bytes)
{
	list_for_each(it, &reservations) {
		struct reservation *r = list_entry(it, struct reservation, node);

		if (base >= r->base && bytes <= r->bytes && base - r->base <= r->bytes - bytes)
			return r;
	}
	return NULL;
}

/* An aligned piece of a larger mapping; the rest goes back.  What the alignment is when nobody asks for one is nowhere written, so
 * memory cannot be mapped there: it is a page off. */
static cu_ptr reserve(size_t bytes, size_t alignment, cu_ptr wanted)
{
	size_t whole = bytes + MAX(alignment, SIM_GRANULE) + SIM_PAGE;
	void *at = mmap(range_cpu(wanted), whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cu_ptr start = (cu_ptr)(uintptr_t)at;
	cu_ptr base = alignment || wanted ? align_up(start, MAX(alignment, SIM_PAGE)) : align_up(start, SIM_GRANULE) + SIM_PAGE;

	if (at == MAP_FAILED)
		return 0;
	if (base > start)
		munmap(at, base - start);
	if (start + whole > base + bytes)
		munmap(range_cpu(base + bytes), start + whole - base - bytes);
	return base;
}

EXPORT cu_result cuMemAddressReserve(cu_ptr *ptr, size_t bytes, size_t alignment, cu_ptr wanted, cu_flags64 flags)
{
	struct reservation *r;

	ENTER(mem_address_reserve, NEEDS_INIT);
	if (!ptr || !bytes || bytes % SIM_PAGE || bytes > (size_t)1 << 46 || alignment & (alignment - 1) || flags ||
		alignment > (size_t)1 << 40 || wanted % SIM_PAGE)
		return CU_E_INVALID_VALUE;
	r = calloc(1, sizeof *r);
	if (!r)
		return CU_E_OUT_OF_MEMORY;
	r->bytes = bytes;
	r->base = reserve(bytes, alignment, wanted);
	if (!r->base) {
		free(r);
		return CU_E_OUT_OF_MEMORY;
	}
	list_add_tail(&r->node, &reservations);
	*ptr = r->base;
	return CU_OK;
}

EXPORT cu_result cuMemAddressFree(cu_ptr ptr, size_t bytes)
{
	struct reservation *r;

	ENTER(mem_address_free, NEEDS_INIT);
	r = ptr ? reservation_with(ptr, bytes) : NULL;
	if (!r || r->base != ptr || r->bytes != bytes || range_first_in(ptr, bytes))
		return CU_E_INVALID_VALUE;
	munmap(range_cpu(ptr), bytes);
	list_del(&r->node);
	free(r);
	return CU_OK;
}

EXPORT cu_result cuMemMap(cu_ptr ptr, size_t bytes, size_t offset, cu_mem_handle handle, cu_flags64 flags)
{
	struct range r = {.base = ptr, .bytes = bytes, .mapped = bytes, .kind = RANGE_VMM, .fd = -1};
	cu_result result;

	ENTER(mem_map, NEEDS_INIT);
	r.block = block_of(handle);
	if (!r.block || offset || flags || !bytes || ptr % SIM_GRANULE || bytes > r.block->tail.bytes ||
		!reservation_with(ptr, bytes) || range_first_in(ptr, bytes))
		return CU_E_INVALID_VALUE;
	if (bytes != r.block->tail.bytes) /* part of an allocation */
		return CU_E_NOT_SUPPORTED;
	if (r.block->device && store_lost(r.block->device))
		return store_lost(r.block->device);
	r.device = r.block->device;
	r.inode = r.block->inode;
	/* No access before cuMemSetAccess. */
	if (mmap(range_cpu(ptr), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, r.block->fd, 0) == MAP_FAILED)
		return CU_E_OUT_OF_MEMORY;
	result = range_add(&r, NULL);
	if (!result)
		r.block->mappings++;
	return result;
}

/* The range is made of whole mappings, one after the other? */
static bool is_whole(cu_ptr ptr, size_t bytes)
{
	if (!bytes || ptr + bytes < ptr)
		return false;
	while (bytes) {
		struct range *r = range_at(ptr);

		if (!r || r->kind != RANGE_VMM || r->base != ptr || r->bytes > bytes || r->leaving)
			return false;
		ptr += r->bytes;
		bytes -= r->bytes;
	}
	return true;
}

static void unmap(struct range *r)
{
	struct vmm_block *b = r->block;
	void *at = mmap(range_cpu(r->base), r->bytes, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	ASSERT(at != MAP_FAILED);
	range_remove(r);
	b->mappings--;
	put(b);
}

EXPORT cu_result cuMemUnmap(cu_ptr ptr, size_t bytes)
{
	ENTER(mem_unmap, NEEDS_INIT);
	if (!is_whole(ptr, bytes))
		return CU_E_INVALID_VALUE;
	while (bytes) {
		struct range *r = range_at(ptr);
		size_t part = r ? r->bytes : 0;

		if (!r || !range_quiet(r))
			return CU_E_INVALID_VALUE; /* two threads unmap the same */
		unmap(r);
		ptr += part;
		bytes -= part;
	}
	return CU_OK;
}

/* May this place be given that access to this mapping? */
static cu_result check_access(const struct range *r, const struct cu_mem_access *a)
{
	const struct sim_device *d;

	if (a->flags != CU_PROT_NONE && a->flags != CU_PROT_READ && a->flags != CU_PROT_READWRITE)
		return CU_E_INVALID_VALUE;
	if (a->location.type == CU_AT_HOST || a->location.type == CU_AT_HOST_NUMA)
		return r->device ? CU_E_INVALID_VALUE : CU_OK; /* no CPU access to memory of devices */
	if (a->location.type != CU_AT_DEVICE)
		return CU_E_INVALID_VALUE;
	d = sim_device(a->location.id);
	if (!d || (r->device && r->device != d && !device_reaches(d, r->device)))
		return CU_E_INVALID_DEVICE;
	return store_lost(d);
}

/* The CPU may do here what some device may: that is how tests look into device memory. */
static cu_result grant(struct range *r, const struct cu_mem_access *a)
{
	uint32_t bit = a->location.type == CU_AT_DEVICE ? 1u << a->location.id : 1u << 31;
	int prot;

	r->readers = a->flags & 1 ? r->readers | bit : r->readers & ~bit;
	r->writers = a->flags & 2 ? r->writers | bit : r->writers & ~bit;
	prot = (r->readers ? PROT_READ : 0) | (r->writers ? PROT_WRITE : 0);
	return mprotect(range_cpu(r->base), r->bytes, prot) ? CU_E_OPERATING_SYSTEM : CU_OK;
}

EXPORT cu_result cuMemSetAccess(cu_ptr ptr, size_t bytes, const struct cu_mem_access *access, size_t n)
{
	cu_result result = CU_OK;
	struct range *r;

	ENTER(mem_set_access, NEEDS_INIT);
	if (!access || !n || !is_whole(ptr, bytes))
		return CU_E_INVALID_VALUE;
	for (cu_ptr at = ptr; !result && at < ptr + bytes; at += r->bytes) {
		r = range_at(at);
		for (size_t i = 0; i < n && !result; i++)
			result = check_access(r, &access[i]);
	}
	for (cu_ptr at = ptr; !result && at < ptr + bytes; at += r->bytes) {
		r = range_at(at);
		for (size_t i = 0; i < n && !result; i++)
			result = grant(r, &access[i]);
	}
	return result;
}

EXPORT cu_result cuMemGetAccess(cu_flags64 *flags, const struct cu_mem_location *location, cu_ptr ptr)
{
	uint32_t bit;
	struct range *r;

	ENTER(mem_get_access, NEEDS_INIT);
	r = range_at(ptr);
	if (!flags || !location || !r || r->kind != RANGE_VMM ||
		(location->type == CU_AT_DEVICE && !sim_device(location->id)))
		return CU_E_INVALID_VALUE;
	bit = location->type == CU_AT_DEVICE ? 1u << location->id : 1u << 31;
	*flags = (r->readers & bit ? CU_PROT_READ : 0u) | (r->writers & bit ? CU_PROT_READWRITE : 0u);
	return CU_OK;
}
