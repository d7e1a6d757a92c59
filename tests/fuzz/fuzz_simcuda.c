/* fuzz_simcuda.c - bytes as a list of calls to the simulated driver, good ones and bad ones: stale handles, addresses that
 * are off, sizes that do not fit, work that is still queued on what is taken away.  Each call takes a byte for its kind,
 * one for a slot and one for its argument.  Whatever they do, nothing may crash or hang, and once everything is given back
 * the device must have every byte again. */
#include "shared/base.h"
#include "shared/check.h"
#include "shared/cuda.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CALLS 300
#define SLOTS 8
#define GRANULE (2 * MIB)
#define TOTAL GIB

static struct cuda *cu;
static char directory[64];
static unsigned char host[16 * 4096] __attribute__((aligned(4096)));
static uint64_t word __attribute__((aligned(4096))); /* waits find all they wait for */

static struct state {
	cu_context ctx[SLOTS];
	cu_ptr classic[SLOTS], reserved[SLOTS];
	cu_mem_handle blocks[SLOTS];
	cu_stream streams[SLOTS];
	cu_event events[SLOTS];
	int fds[SLOTS];
} st;

static void remove_directory(void)
{
	DIR *d = opendir(directory);
	struct dirent *e;

	while (d && (e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct fault why = {0};

	snprintf(directory, sizeof directory, "/dev/shm/simcuda-fuzz-XXXXXX");
	ASSERT(mkdtemp(directory));
	setenv("SIMCUDA_DIR", directory, 1);
	unsetenv("SIMCUDA");
	unsetenv("SIMCUDA_FAULTS");
	atexit(remove_directory);
	if (cuda_load(&cu, SIMCUDA_LIBRARY, &why))
		fprintf(stderr, "%s\n", why.text);
	ASSERT(cu);
	return 0;
}

static void memory(uint8_t kind, uint8_t i, uint8_t arg)
{
	const struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .handle_types = arg & 9,
		.location = {1 + (arg >> 4 & 3), arg >> 6}};

	switch (kind) {
	case 0:
		if (!st.classic[i] && cu->mem_alloc(&st.classic[i], (size_t)arg * 5000))
			st.classic[i] = 0;
		break;
	case 1:
		if (!cu->mem_free(st.classic[i] + (arg == 1)))
			st.classic[i] = 0;
		break;
	case 2:
		if (!st.blocks[i] && cu->mem_create(&st.blocks[i], (size_t)(arg & 3) * GRANULE + (arg == 255), &prop, 0))
			st.blocks[i] = 0;
		break;
	case 3:
		cu->mem_release(st.blocks[i]); /* and the stale handle stays for later */
		if (arg & 1)
			st.blocks[i] = 0;
		break;
	case 4:
		if (st.fds[i] < 0 && cu->mem_export(&st.fds[i], st.blocks[arg % SLOTS], CU_HANDLE_FD, 0))
			st.fds[i] = -1;
		break;
	default:
		if (!st.blocks[i] && cu->mem_import(&st.blocks[i], (void *)(intptr_t)st.fds[arg % SLOTS], CU_HANDLE_FD))
			st.blocks[i] = 0;
		else if (arg & 128 && st.fds[i] >= 0)
			st.fds[i] = (close(st.fds[i]), -1);
	}
}

static void addresses(uint8_t kind, uint8_t i, uint8_t arg)
{
	cu_ptr at = st.reserved[i] + (arg & 3) * GRANULE + (arg == 250);
	size_t bytes = (size_t)(1 + (arg >> 2 & 3)) * GRANULE;
	const struct cu_mem_access access = {{1 + (arg >> 7) * 2, 0}, arg >> 5 & 3};

	switch (kind) {
	case 0:
		if (!st.reserved[i] && cu->mem_address_reserve(&st.reserved[i], 4 * GRANULE, (size_t)1 << (arg & 31), 0, 0))
			st.reserved[i] = 0;
		break;
	case 1:
		cu->mem_map(at, bytes, arg == 7, st.blocks[(arg >> 4) % SLOTS], 0);
		break;
	case 2:
		cu->mem_unmap(at, bytes);
		break;
	case 3:
		cu->mem_set_access(at, bytes, &access, 1);
		break;
	default:
		if (!cu->mem_address_free(st.reserved[i], bytes))
			st.reserved[i] = 0;
	}
}

static cu_ptr place(uint8_t arg)
{
	uint8_t i = arg % SLOTS;

	return (arg & 8 ? st.classic[i] : st.reserved[i]) + (cu_ptr)(arg >> 4) * 4096;
}

static void work(uint8_t kind, uint8_t i, uint8_t arg)
{
	size_t bytes = (size_t)(arg >> 3) * 1000;
	cu_stream s = arg & 1 ? st.streams[i] : NULL;

	switch (kind) {
	case 0:
		cu->memcpy_htod_async(place(arg), host + bytes, bytes, s);
		break;
	case 1:
		cu->memcpy_dtoh_async(host + bytes, place(arg), bytes, s);
		break;
	case 2:
		cu->memcpy_dtod_async(place(arg), place((uint8_t)~arg), bytes, s);
		break;
	case 3:
		cu->memset_d8_async(place(arg), arg, bytes, s);
		break;
	case 4:
		cu->stream_write_value_64(s, place(arg), arg, 0);
		break;
	case 5:
		cu->stream_wait_value_64(s, (cu_ptr)(uintptr_t)&word, arg, CU_WAIT_GEQ);
		break;
	case 6:
		cu->event_record(st.events[i], s);
		break;
	case 7:
		cu->stream_wait_event(s, st.events[arg % SLOTS], 0);
		break;
	case 8:
		cu->stream_synchronize(s);
		break;
	case 9:
		cu->mem_host_register(host + (arg & 15) * 4096, (size_t)(1 + (arg >> 4 & 3)) * 4096 - (arg >> 7), 0);
		break;
	case 10:
		cu->mem_host_unregister(host + (arg & 15) * 4096);
		break;
	default:
		cu->mem_host_register(&word, sizeof word, CU_REGISTER_MAPPED);
	}
}

static void objects(uint8_t kind, uint8_t i, uint8_t arg)
{
	switch (kind) {
	case 0:
		cu->stream_create(&st.streams[i], arg & 1);
		break;
	case 1:
		cu->stream_destroy(st.streams[i]);
		break;
	case 2:
		if (!st.events[i] && cu->event_create(&st.events[i], arg & 2))
			st.events[i] = NULL;
		break;
	case 3:
		cu->event_destroy(st.events[i]);
		st.events[i] = arg & 1 ? NULL : st.events[i];
		break;
	case 4:
		if (!st.ctx[i] && cu->ctx_create(&st.ctx[i], 0, 0))
			st.ctx[i] = NULL;
		break;
	case 5:
		if (!cu->ctx_destroy(st.ctx[i]))
			st.ctx[i] = NULL;
		break;
	case 6:
		cu->ctx_set_current(st.ctx[i]);
		break;
	default:
		cu->stream_query((cu_stream)(uintptr_t)(arg * 0x0101010101010101u));
		cu->mem_free(arg * 0x0101010101010101u);
		cu->mem_release(arg * 0x0101010101010101u);
	}
}

static void start(void)
{
	cu_context primary;

	st = (struct state){0};
	for (int i = 0; i < SLOTS; i++)
		st.fds[i] = -1;
	word = INT64_MAX;
	ASSERT(!cu->primary_ctx_retain(&primary, 0) && !cu->ctx_push_current(primary));
}

/* Contexts take their memory, streams and registrations along; the rest belongs to the process. */
static void give_back(void)
{
	cu_context left;

	for (int i = 0; i < SLOTS; i++)
		if (st.ctx[i])
			ASSERT(!cu->ctx_destroy(st.ctx[i]));
	ASSERT(!cu->primary_ctx_release(0));
	while (!cu->ctx_pop_current(&left))
		;
	for (int i = 0; i < SLOTS; i++) {
		for (int k = 0; st.reserved[i] && k < 4; k++)
			for (size_t n = 1; n < 4; n++)
				cu->mem_unmap(st.reserved[i] + (cu_ptr)k * GRANULE, n * GRANULE);
		if (st.reserved[i])
			ASSERT(!cu->mem_address_free(st.reserved[i], 4 * GRANULE));
		if (st.blocks[i])
			cu->mem_release(st.blocks[i]);
		if (st.events[i])
			cu->event_destroy(st.events[i]);
		if (st.fds[i] >= 0)
			close(st.fds[i]);
	}
}

static void verify(void)
{
	size_t left, total;
	cu_context primary;

	ASSERT(!cu->primary_ctx_retain(&primary, 0) && !cu->ctx_push_current(primary));
	ASSERT(!cu->mem_get_info(&left, &total) && left == TOTAL && total == TOTAL);
	ASSERT(!cu->primary_ctx_release(0) && !cu->ctx_pop_current(&primary));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	start();
	for (size_t i = 0; i + 2 < size && i < 3 * CALLS; i += 3) {
		uint8_t kind = data[i] / 4 % 12, slot = data[i + 1] % SLOTS, arg = data[i + 2];

		if (data[i] % 4 == 0)
			memory(kind % 6, slot, arg);
		else if (data[i] % 4 == 1)
			addresses(kind % 5, slot, arg);
		else if (data[i] % 4 == 2)
			work(kind, slot, arg);
		else
			objects(kind % 8, slot, arg);
	}
	give_back();
	verify();
	return 0;
}
