/* memory.c - classic allocations, host memory, and what is known about a pointer.  Keeps: freed addresses are given out
 * again first, so a stale pointer or IPC handle meets fresh memory, as it does with a real driver. */
#include "tools/simcuda/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define REGISTER_MAX ((size_t)512 << 30) /* one real driver refuses pieces of this size */

static size_t alignment_of(size_t bytes)
{
	return bytes >= SIM_GRANULE ? SIM_GRANULE : SIM_PAGE;
}

/* The lowest gap of the device's arena that is large enough; 0: none. */
static cu_ptr find_gap(const struct sim_device *d, size_t bytes)
{
	cu_ptr at = d->arena, end = d->arena + d->arena_bytes;
	size_t alignment = alignment_of(bytes);

	while (at + bytes <= end) {
		struct range *r = range_first_in(at, bytes);

		if (!r)
			return at;
		at = align_up(r->base + r->mapped, alignment);
	}
	return 0;
}

static cu_result allocate(struct cu_context_object *ctx, size_t bytes, cu_ptr *ptr)
{
	struct sim_device *d = ctx->device;
	struct range r = {.bytes = bytes, .kind = RANGE_CLASSIC, .device = d, .ctx = ctx, .fd = -1};
	struct store_tail tail = {.uuid = d->config->uuid};
	cu_result result;

	if (bytes > d->config->bytes)
		return CU_E_OUT_OF_MEMORY;
	r.mapped = tail.bytes = align_up(bytes, SIM_PAGE);
	r.base = tail.key = find_gap(d, r.mapped);
	if (!r.base)
		return CU_E_OUT_OF_MEMORY;
	result = store_create(d, STORE_CLASSIC, &tail, &r.fd, &r.inode);
	if (result)
		return result;
	if (mmap(range_cpu(r.base), r.mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r.fd, 0) == MAP_FAILED)
		result = CU_E_OUT_OF_MEMORY;
	else
		result = range_add(&r, NULL);
	if (result)
		store_remove(d, STORE_CLASSIC, r.base, r.mapped, r.fd);
	else
		*ptr = r.base;
	return result;
}

static void hide(const struct range *r)
{
	void *at = mmap(range_cpu(r->base), r->mapped, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	ASSERT(at != MAP_FAILED);
}

void memory_end(struct range *r)
{
	switch (r->kind) {
	case RANGE_CLASSIC:
		hide(r);
		store_remove(r->device, STORE_CLASSIC, r->base, r->mapped, r->fd);
		break;
	case RANGE_IPC:
		close(r->fd);
		munmap(range_cpu(r->base), r->mapped);
		break;
	case RANGE_HOST:
		munmap(range_cpu(r->base), r->mapped);
		break;
	case RANGE_REGISTERED:
	case RANGE_VMM:
		break;
	}
	range_remove(r);
}

/* The range of this kind that starts at exactly this address. */
static struct range *starts_at(cu_ptr base, enum range_kind kind)
{
	struct range *r = base ? range_at(base) : NULL;

	return r && r->kind == kind && r->base == base ? r : NULL;
}

/* Freeing waits for the work that is queued, also for a stream that waits at a gate. */
static cu_result release(struct cu_context_object *current, cu_ptr base, enum range_kind kind)
{
	struct range *r = starts_at(base, kind);
	struct cu_context_object *owner;
	cu_result result;

	if (!r)
		return CU_E_INVALID_VALUE;
	result = graph_unsafe();
	if (result)
		return result;
	owner = r->ctx;
	context_ref(current); /* the lock is free meanwhile, and anything may end */
	result = context_sync(owner);
	if (!result && owner != current)
		result = context_sync(current);
	context_unref(current);
	r = starts_at(base, kind);
	if (result || !r || !range_quiet(r))
		return result ? result : CU_E_INVALID_VALUE;
	memory_end(r);
	return CU_OK;
}

EXPORT cu_result cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
	ENTER(mem_get_info, NEEDS_CONTEXT);
	if (!free_bytes || !total)
		return CU_E_INVALID_VALUE;
	*total = call.ctx->device->config->bytes;
	*free_bytes = *total - store_used(call.ctx->device);
	return CU_OK;
}

EXPORT cu_result cuMemAlloc_v2(cu_ptr *ptr, size_t bytes)
{
	cu_result r;

	ENTER(mem_alloc, NEEDS_CONTEXT);
	r = ptr && bytes ? graph_unsafe() : CU_E_INVALID_VALUE;
	return r ? r : allocate(call.ctx, bytes, ptr);
}

EXPORT cu_result cuMemFree_v2(cu_ptr ptr)
{
	ENTER(mem_free, NEEDS_CONTEXT);
	return release(call.ctx, ptr, RANGE_CLASSIC);
}

EXPORT cu_result cuMemGetAddressRange_v2(cu_ptr *base, size_t *bytes, cu_ptr ptr)
{
	struct range *r;

	ENTER(mem_get_address_range, NEEDS_CONTEXT);
	r = range_at(ptr);
	if (!r || r->kind == RANGE_REGISTERED)
		return CU_E_NOT_FOUND;
	if (base)
		*base = r->base;
	if (bytes)
		*bytes = r->bytes;
	return CU_OK;
}

EXPORT cu_result cuMemHostAlloc(void **ptr, size_t bytes, unsigned flags)
{
	struct range r = {.bytes = bytes, .kind = RANGE_HOST, .fd = -1};
	cu_result result;
	void *at;

	ENTER(mem_host_alloc, NEEDS_CONTEXT);
	if (!ptr || !bytes || bytes > (size_t)1 << 46 ||
		flags & ~(unsigned)(CU_HOST_PORTABLE | CU_HOST_MAPPED | CU_HOST_WRITE_COMBINED))
		return CU_E_INVALID_VALUE;
	result = graph_unsafe();
	if (result)
		return result;
	r.mapped = align_up(bytes, SIM_PAGE);
	r.ctx = call.ctx;
	r.has_device_pointer = flags & CU_HOST_MAPPED;
	at = mmap(NULL, r.mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return CU_E_OUT_OF_MEMORY;
	r.base = (cu_ptr)(uintptr_t)at;
	result = range_add(&r, NULL);
	if (result)
		munmap(at, r.mapped);
	else
		*ptr = at;
	return result;
}

EXPORT cu_result cuMemFreeHost(void *ptr)
{
	ENTER(mem_free_host, NEEDS_CONTEXT);
	return release(call.ctx, (cu_ptr)(uintptr_t)ptr, RANGE_HOST);
}

/* Is all of it mapped, and may the CPU write all of it? */
static bool is_mapped(cu_ptr from, cu_ptr end, bool *writable)
{
	FILE *f = fopen("/proc/self/maps", "re");
	OWN_MEM char *line = NULL;
	size_t room = 0;

	*writable = true;
	if (!f)
		return false;
	while (from < end && getline(&line, &room, f) > 0) {
		uint64_t low, high;
		char read, write;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %c%c", &low, &high, &read, &write) != 4 || high <= from)
			continue;
		if (low > from || read != 'r')
			break;
		*writable = *writable && write == 'w';
		from = high;
	}
	fclose(f);
	return from >= end;
}

static cu_result may_register(const struct cu_context_object *ctx, cu_ptr ptr, size_t bytes, unsigned flags)
{
	if (!ptr || !bytes || ptr + bytes < ptr || flags & ~15u)
		return CU_E_INVALID_VALUE;
	if (!device_attr(ctx->device, CU_ATTR_HOST_REGISTER))
		return CU_E_NOT_SUPPORTED;
	if (flags & CU_REGISTER_IO)
		return CU_E_NOT_PERMITTED;
	if (flags & CU_REGISTER_READ_ONLY && !device_attr(ctx->device, CU_ATTR_READ_ONLY_REGISTER))
		return CU_E_NOT_SUPPORTED;
	return bytes >= REGISTER_MAX ? CU_E_OUT_OF_MEMORY : CU_OK;
}

/* Every page of it is there afterwards and stays, as if the kernel had been asked to pin it. */
static cu_result populate(cu_ptr low, cu_ptr high, unsigned flags)
{
	bool writable, read_only = flags & CU_REGISTER_READ_ONLY;

	if (!is_mapped(low, high, &writable) || (!writable && !read_only))
		return CU_E_INVALID_VALUE;
	if (madvise(range_cpu(low), high - low, read_only ? 22 /* MADV_POPULATE_READ */ : 23 /* _WRITE */) &&
		errno == ENOMEM)
		return CU_E_OUT_OF_MEMORY;
	return CU_OK;
}

EXPORT cu_result cuMemHostRegister_v2(void *ptr, size_t bytes, unsigned flags)
{
	struct range r = {.base = (cu_ptr)(uintptr_t)ptr, .bytes = bytes, .kind = RANGE_REGISTERED, .fd = -1};
	cu_ptr low = align_down(r.base, SIM_PAGE), high = align_up(r.base + bytes, SIM_PAGE);
	cu_result result;

	ENTER(mem_host_register, NEEDS_CONTEXT);
	result = may_register(call.ctx, r.base, bytes, flags);
	result = result ? result : graph_unsafe();
	if (result)
		return result;
	if (range_first_in(low, high - low))
		return CU_E_HOST_MEMORY_ALREADY_REGISTERED;
	pthread_mutex_unlock(&sim.lock); /* it takes a while */
	result = populate(low, high, flags);
	pthread_mutex_lock(&sim.lock);
	if (result)
		return result;
	result = context_enter(&r.ctx);
	if (!result && range_first_in(low, high - low))
		result = CU_E_HOST_MEMORY_ALREADY_REGISTERED;
	r.cpu_read_only = flags & CU_REGISTER_READ_ONLY;
	r.has_device_pointer = flags & CU_REGISTER_MAPPED;
	r.mapped = bytes;
	return result ? result : range_add(&r, NULL);
}

EXPORT cu_result cuMemHostUnregister(void *ptr)
{
	struct range *r;

	ENTER(mem_host_unregister, NEEDS_CONTEXT);
	r = starts_at((cu_ptr)(uintptr_t)ptr, RANGE_REGISTERED);
	if (!r || !range_quiet(r))
		return CU_E_HOST_MEMORY_NOT_REGISTERED;
	memory_end(r);
	return CU_OK;
}

EXPORT cu_result cuMemHostGetDevicePointer_v2(cu_ptr *device_ptr, void *ptr, unsigned flags)
{
	cu_ptr addr = (cu_ptr)(uintptr_t)ptr;
	struct range *r;

	ENTER(mem_host_get_device_pointer, NEEDS_CONTEXT);
	r = range_at(addr);
	if (!device_ptr || flags || !r || !r->has_device_pointer)
		return CU_E_INVALID_VALUE;
	*device_ptr = device_attr(call.ctx->device, CU_ATTR_SAME_HOST_POINTER) ? addr : addr | HOST_ALIAS;
	return CU_OK;
}

static bool on_host(const struct range *r)
{
	return !r->device;
}

static cu_result attribute(const struct range *r, cu_pointer_attr attr, void *value)
{
	switch (attr) {
	case CU_POINTER_CONTEXT:
		*(cu_context *)value = r->ctx ? r->ctx->handle : NULL;
		return CU_OK;
	case CU_POINTER_MEMORY:
		*(uint32_t *)value = on_host(r) ? CU_MEMORY_HOST : CU_MEMORY_DEVICE;
		return CU_OK;
	case CU_POINTER_DEVICE:
		*(int *)value = r->device ? r->device->ordinal : r->ctx ? r->ctx->device->ordinal : 0;
		return CU_OK;
	case CU_POINTER_LEGACY_IPC:
		*(int *)value = r->kind == RANGE_CLASSIC;
		return CU_OK;
	case CU_POINTER_RANGE_START:
		*(cu_ptr *)value = r->base;
		return CU_OK;
	case CU_POINTER_RANGE_BYTES:
		*(size_t *)value = r->bytes;
		return CU_OK;
	case CU_POINTER_IS_MAPPED:
		*(int *)value = 1;
		return CU_OK;
	case CU_POINTER_HANDLE_TYPES:
		*(uint32_t *)value = vmm_handle_types(r->block);
		return CU_OK;
	default:
		return CU_E_INVALID_VALUE;
	}
}

EXPORT cu_result cuPointerGetAttribute(void *value, cu_pointer_attr attr, cu_ptr ptr)
{
	struct range *r;

	ENTER(pointer_get_attribute, NEEDS_CONTEXT);
	r = range_at(ptr);
	return value && r ? attribute(r, attr, value) : CU_E_INVALID_VALUE;
}

EXPORT cu_result cuPointerGetAttributes(unsigned n, cu_pointer_attr *attrs, void **values, cu_ptr ptr)
{
	static const struct range unknown = {0};
	struct range *r;
	cu_result result = CU_OK;

	ENTER(pointer_get_attributes, NEEDS_CONTEXT);
	if (!n || !attrs || !values)
		return CU_E_INVALID_VALUE;
	r = range_at(ptr);
	for (unsigned i = 0; i < n && !result; i++) {
		result = attribute(r ? r : &unknown, attrs[i], values[i]);
		/* Of a pointer that the driver does not know it says nothing, without an error. */
		if (!r && !result && (attrs[i] == CU_POINTER_MEMORY || attrs[i] == CU_POINTER_LEGACY_IPC ||
					     attrs[i] == CU_POINTER_IS_MAPPED))
			*(uint32_t *)values[i] = 0;
	}
	return result;
}
