/* points_lab.c - device memory, host memory and patterns for the points; see points.h. */
#include "tests/gpu/points.h"

#include "shared/gpu_handle.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cu_mem_prop fd_prop(const struct point_lab *lab)
{
	return (struct cu_mem_prop){.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD,
		.location = {.type = CU_AT_DEVICE, .id = lab->device}};
}

static void map(struct point_lab *lab, uint32_t prot, struct vmm *v)
{
	const struct cu_mem_access access = {.location = {.type = CU_AT_DEVICE, .id = lab->device}, .flags = prot};
	MUST(lab, mem_address_reserve, &v->at, v->bytes, VMM_ALIGNMENT, 0, 0);
	MUST(lab, mem_map, v->at, v->bytes, 0, v->handle, 0);
	MUST(lab, mem_set_access, v->at, v->bytes, &access, 1);
}

void vmm_make(struct point_lab *lab, uint64_t bytes, struct vmm *v)
{
	struct cu_mem_prop prop = fd_prop(lab);
	*v = (struct vmm){.bytes = bytes, .fd = -1};
	MUST(lab, mem_create, &v->handle, bytes, &prop, 0);
	MUST(lab, mem_export, &v->fd, v->handle, CU_HANDLE_FD, 0);
	map(lab, CU_PROT_READWRITE, v);
}

void vmm_import(struct point_lab *lab, int fd, uint64_t bytes, uint32_t prot, struct vmm *v)
{
	*v = (struct vmm){.bytes = bytes, .fd = -1};
	MUST(lab, mem_import, &v->handle, (void *)(uintptr_t)fd, CU_HANDLE_FD);
	map(lab, prot, v);
}

void vmm_drop(struct point_lab *lab, struct vmm *v)
{
	MUST(lab, mem_unmap, v->at, v->bytes);
	MUST(lab, mem_address_free, v->at, v->bytes);
	MUST(lab, mem_release, v->handle);
	if (v->fd >= 0)
		close(v->fd);
}

void *pinned(struct point_lab *lab, uint64_t bytes)
{
	void *at;
	MUST(lab, mem_host_alloc, &at, bytes, CU_HOST_PORTABLE | CU_HOST_MAPPED);
	return at;
}

void pattern_fill(void *at, uint64_t bytes, uint64_t seed)
{
	for (uint64_t i = 0; i < bytes / 8; i++)
		((uint64_t *)at)[i] = gpu_canary_word(seed, i);
}

bool pattern_holds(const void *at, uint64_t bytes, uint64_t seed)
{
	for (uint64_t i = 0; i < bytes / 8; i++)
		if (((const uint64_t *)at)[i] != gpu_canary_word(seed, i))
			return false;
	return true;
}

void pattern_write(struct point_lab *lab, cu_ptr at, uint64_t bytes, uint64_t seed)
{
	void *host = pinned(lab, bytes);
	pattern_fill(host, bytes, seed);
	MUST(lab, memcpy_htod, at, host, bytes);
	MUST(lab, ctx_synchronize);
	MUST(lab, mem_free_host, host);
}

bool pattern_read(struct point_lab *lab, cu_ptr at, uint64_t bytes, uint64_t seed)
{
	void *host = pinned(lab, bytes);
	memset(host, 0, bytes);
	MUST(lab, memcpy_dtoh, host, at, bytes);
	MUST(lab, ctx_synchronize);
	bool same = pattern_holds(host, bytes, seed);
	MUST(lab, mem_free_host, host);
	return same;
}
