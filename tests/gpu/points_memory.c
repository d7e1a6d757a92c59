/* points_memory.c - the device itself, VMM calls, contexts, host-NUMA memory. */
#include "tests/gpu/points.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int attr(struct point_lab *lab, uint32_t which)
{
	int value = -1;
	return lab->cu->device_get_attribute(&value, which, lab->device) ? -1 : value;
}

void point_device(struct point_lab *lab)
{
	char name[128] = "?", uuid[CUDA_UUID_TEXT];
	struct cu_uuid id;
	size_t total = 0;
	MUST(lab, device_get_name, name, sizeof name, lab->device);
	MUST(lab, device_get_uuid, &id, lab->device);
	MUST(lab, device_total_mem, &total, lab->device);
	cuda_uuid_text(&id, uuid);
	out_text("name", name);
	out_text("uuid", uuid);
	out_number("total_bytes", (double)total);
	out_number("driver_version", lab->cu->driver_version);
	out_number("devices", lab->cu->n_devices);
#define CU_ATTR(number, attribute, theirs) out_number(#attribute, attr(lab, number));
#include "shared/cuda.def"
}

enum { CREATE, EXPORT, IMPORT, RESERVE, MAP, ACCESS, UNMAP, FREE, RELEASE, CALLS };
static const char *const call_names[CALLS] = {"create_us", "export_us", "import_us", "reserve_us", "map_us", "access_us",
	"unmap_us", "free_us", "release_us"};

static void timed_round(struct point_lab *lab, uint64_t bytes, double us[CALLS])
{
	struct cu_mem_prop prop = fd_prop(lab);
	const struct cu_mem_access access = {.location = prop.location, .flags = CU_PROT_READ};
	cu_mem_handle made, imported;
	cu_ptr at;
	int fd;
	double t = now_us();
#define LAP(call) us[call] = now_us() - t; t = now_us()
	MUST(lab, mem_create, &made, bytes, &prop, 0);
	LAP(CREATE);
	MUST(lab, mem_export, &fd, made, CU_HANDLE_FD, 0);
	LAP(EXPORT);
	MUST(lab, mem_import, &imported, (void *)(uintptr_t)fd, CU_HANDLE_FD);
	LAP(IMPORT);
	MUST(lab, mem_address_reserve, &at, bytes, VMM_ALIGNMENT, 0, 0);
	LAP(RESERVE);
	MUST(lab, mem_map, at, bytes, 0, imported, 0);
	LAP(MAP);
	MUST(lab, mem_set_access, at, bytes, &access, 1);
	LAP(ACCESS);
	MUST(lab, mem_unmap, at, bytes);
	LAP(UNMAP);
	MUST(lab, mem_address_free, at, bytes);
	LAP(FREE);
	close(fd);
	MUST(lab, mem_release, imported);
	t = now_us();
	MUST(lab, mem_release, made);
	LAP(RELEASE);
#undef LAP
}

/* As much as half of what is free allows. */
static bool fits(struct point_lab *lab, uint64_t bytes)
{
	size_t free_bytes, total;
	MUST(lab, mem_get_info, &free_bytes, &total);
	return bytes <= free_bytes / 2;
}

void point_vmm_times(struct point_lab *lab)
{
	static const uint64_t sizes[] = {2 * MIB, 64 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB};
	enum { ROUNDS = 9 };
	for (size_t s = 0; s < ARRAY_LEN(sizes) && fits(lab, sizes[s]); s++) {
		double us[ROUNDS][CALLS], one[ROUNDS];
		for (int r = 0; r < ROUNDS; r++)
			timed_round(lab, sizes[s], us[r]);
		for (int c = 0; c < CALLS; c++) {
			for (int r = 0; r < ROUNDS; r++)
				one[r] = us[r][c];
			out_number(sized(call_names[c], sizes[s]), median(one, ROUNDS));
		}
	}
}

void point_vmm_read_only(struct point_lab *lab)
{
	struct vmm made, reader;
	uint64_t value = 1;
	cu_flags64 rights = 0;
	vmm_make(lab, 2 * MIB, &made);
	pattern_write(lab, made.at, made.bytes, 1);
	vmm_import(lab, made.fd, made.bytes, CU_PROT_READ, &reader);
	const struct cu_mem_location here = {.type = CU_AT_DEVICE, .id = lab->device};
	out_flag("readable", pattern_read(lab, reader.at, reader.bytes, 1));
	out_result(lab, "get_access", lab->cu->mem_get_access(&rights, &here, reader.at));
	out_number("rights", (double)rights);
	out_result(lab, "memset", lab->cu->memset_d8(reader.at, 0, 4096));
	out_result(lab, "memset_then", lab->cu->ctx_synchronize());
	out_result(lab, "copy_in", lab->cu->memcpy_htod(reader.at, &value, sizeof value));
	out_result(lab, "copy_in_then", lab->cu->ctx_synchronize());
	out_flag("unharmed", pattern_read(lab, made.at, made.bytes, 1));
	out_flag("still_works", pattern_read(lab, reader.at, reader.bytes, 1));
	vmm_drop(lab, &reader);
	vmm_drop(lab, &made);
}

/* What the library asks for where all of a model's memory comes in whole GiB. */
static void try_aligned(struct point_lab *lab)
{
	cu_ptr at;
	cu_result r = lab->cu->mem_address_reserve(&at, GIB, GIB, 0, 0);
	out_result(lab, "reserve_aligned_1g", r);
	if (!r)
		MUST(lab, mem_address_free, at, GIB);
}

void point_vmm_granularity(struct point_lab *lab)
{
	static const char *const names[] = {"minimum", "recommended"};
	for (uint32_t option = 0; option < 2; option++) {
		struct cu_mem_prop prop = fd_prop(lab);
		char key[64];
		size_t bytes = 0;
		snprintf(key, sizeof key, "device_%s", names[option]);
		MUST(lab, mem_get_allocation_granularity, &bytes, &prop, option);
		out_number(key, (double)bytes);
		prop.location = (struct cu_mem_location){.type = CU_AT_HOST_NUMA, .id = MAX(attr(lab, CU_ATTR_HOST_NUMA_NODE), 0)};
		snprintf(key, sizeof key, "host_numa_%s_result", names[option]);
		cu_result r = lab->cu->mem_get_allocation_granularity(&bytes, &prop, option);
		out_result(lab, key, r);
		snprintf(key, sizeof key, "host_numa_%s", names[option]);
		if (!r)
			out_number(key, (double)bytes);
	}
	try_aligned(lab);
}

static uint64_t used(struct point_lab *lab)
{
	size_t free_bytes, total;
	MUST(lab, mem_get_info, &free_bytes, &total);
	return total - free_bytes;
}

void point_context_cost(struct point_lab *lab)
{
	int peer, fd;
	uint64_t before = used(lab);
	role_start(lab, "vmm_owner", &peer);
	tell(peer, 2 * MIB, -1);
	hear(peer, &fd);
	uint64_t after = used(lab);
	close(fd);
	out_number("context_mib", ((double)after - (double)before - 2.0 * MIB) / MIB);
	out_number("first_context_mib", (double)before / MIB);
	tell(peer, 0, -1);
}

void point_host_numa(struct point_lab *lab)
{
	const uint64_t bytes = 64 * MIB;
	struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD,
		.location = {.type = CU_AT_HOST_NUMA, .id = MAX(attr(lab, CU_ATTR_HOST_NUMA_NODE), 0)}};
	const struct cu_mem_access device = {.location = {.type = CU_AT_DEVICE, .id = lab->device}, .flags = CU_PROT_READ};
	const struct cu_mem_access host = {.location = prop.location, .flags = CU_PROT_READWRITE};
	cu_mem_handle made, imported;
	cu_ptr at, again;
	int fd = -1;
	out_number("attribute_141", attr(lab, CU_ATTR_HOST_NUMA_VMM));
	cu_result r = lab->cu->mem_create(&made, bytes, &prop, 0);
	out_result(lab, "create", r);
	if (r)
		return;
	r = lab->cu->mem_export(&fd, made, CU_HANDLE_FD, 0);
	out_result(lab, "export", r);
	if (r)
		return;
	MUST(lab, mem_address_reserve, &at, bytes, VMM_ALIGNMENT, 0, 0);
	MUST(lab, mem_map, at, bytes, 0, made, 0);
	r = lab->cu->mem_set_access(at, bytes, &host, 1);
	out_result(lab, "host_access", r);
	if (!r)
		pattern_fill((void *)(uintptr_t)at, bytes, 3);
	r = lab->cu->mem_import(&imported, (void *)(uintptr_t)fd, CU_HANDLE_FD);
	out_result(lab, "import", r);
	if (r)
		return;
	MUST(lab, mem_address_reserve, &again, bytes, VMM_ALIGNMENT, 0, 0);
	MUST(lab, mem_map, again, bytes, 0, imported, 0);
	r = lab->cu->mem_set_access(again, bytes, &device, 1);
	out_result(lab, "device_read_only", r);
	if (!r)
		out_flag("device_reads_it", pattern_read(lab, again, bytes, 3));
}
