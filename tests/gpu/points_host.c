/* points_host.c - registering host memory, and stream waits on it. */
#include "tests/gpu/points.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PIECE (64 * MIB)

static int memory(uint64_t bytes)
{
	int fd = memfd_create("gpu_points", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		give_up("no memfd");
	return fd;
}

static void *map(int fd, uint64_t bytes, int prot, int flags)
{
	void *at = mmap(NULL, bytes, prot, flags, fd, 0);
	if (at == MAP_FAILED)
		give_up("no mapping");
	return at;
}

static void try_register(struct point_lab *lab, const char *key, void *at, unsigned flags)
{
	cu_result r = lab->cu->mem_host_register(at, PIECE, flags);
	out_result(lab, key, r);
	if (!r)
		MUST(lab, mem_host_unregister, at);
}

void point_register_read_only(struct point_lab *lab)
{
	int value = -1, fd = memory(PIECE);
	void *rw = map(fd, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED);
	pattern_fill(rw, PIECE, 1);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		give_up("no seals");
	void *ro = map(fd, PIECE, PROT_READ, MAP_SHARED);
	MUST(lab, device_get_attribute, &value, CU_ATTR_READ_ONLY_REGISTER, lab->device);
	out_number("attribute_113", value);
	try_register(lab, "shared_ro_with_flag", ro, CU_REGISTER_PORTABLE | CU_REGISTER_READ_ONLY);
	try_register(lab, "shared_ro_plain", ro, CU_REGISTER_PORTABLE);
	try_register(lab, "writable_of_sealed", rw, CU_REGISTER_PORTABLE);
	void *own = map(fd, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	try_register(lab, "private_writable", own, CU_REGISTER_PORTABLE);
}

void point_register_protect(struct point_lab *lab)
{
	int fd = memory(PIECE);
	cu_ptr at;
	void *rw = map(fd, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED);
	pattern_fill(rw, PIECE, 5);
	MUST(lab, mem_host_register, rw, PIECE, CU_REGISTER_PORTABLE);
	out_flag("mprotect", mprotect(rw, PIECE, PROT_READ) == 0);
	MUST(lab, mem_alloc, &at, PIECE);
	cu_result r = lab->cu->memcpy_htod(at, rw, PIECE);
	out_result(lab, "copy_after", r);
	if (!r)
		out_flag("whole", pattern_read(lab, at, PIECE, 5));
	out_result(lab, "unregister", lab->cu->mem_host_unregister(rw));
}

/* Pages of the kind are made first; what cannot be made is told as a negative time. */
static double register_seconds(struct point_lab *lab, uint64_t bytes, bool populate, bool collapse)
{
	int fd = memory(bytes);
	void *at = map(fd, bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
	bool made = (!populate || !madvise(at, bytes, MADV_POPULATE_WRITE)) && (!collapse || !madvise(at, bytes, MADV_COLLAPSE));
	double t = now_us();
	MUST(lab, mem_host_register, at, bytes, CU_REGISTER_PORTABLE);
	double s = (now_us() - t) / 1e6;
	MUST(lab, mem_host_unregister, at);
	munmap(at, bytes);
	close(fd);
	return made ? s : -1;
}

void point_register_cost(struct point_lab *lab)
{
	const uint64_t bytes = lab->cu->simulated ? 64 * MIB : GIB;
	double per_gib = (double)GIB / (double)bytes;
	out_number("untouched_s_per_gib", register_seconds(lab, bytes, false, false) * per_gib);
	out_number("base_pages_made_s_per_gib", register_seconds(lab, bytes, true, false) * per_gib);
	out_number("huge_pages_s_per_gib", register_seconds(lab, bytes, true, true) * per_gib);
}

/* ---- waits ---- */

struct waiter {
	_Atomic double woken_us; /* 0: not yet */
};

static void note_time(void *data)
{
	struct waiter *w = data;
	atomic_store(&w->woken_us, now_us());
}

/* The time at which a stream that waits for `value` at `slot` goes on after act(); 0: it did not within a second. */
static double wake_us(struct point_lab *lab, cu_ptr slot, uint64_t value, void (*act)(void *), void *data)
{
	struct waiter w = {0};
	cu_stream stream, other;
	MUST(lab, stream_create, &stream, CU_STREAM_NO_NULL_SYNC);
	MUST(lab, stream_create, &other, CU_STREAM_NO_NULL_SYNC); /* now: see gate_blocks */
	MUST(lab, stream_wait_value_64, stream, slot, value, CU_WAIT_GEQ);
	MUST(lab, launch_host_func, stream, note_time, &w);
	for (double until = now_us() + 20e3; now_us() < until;) /* let it reach the wait */
		if (lab->cu->stream_query(stream) != CU_E_NOT_READY)
			give_up("the stream did not wait");
	double t = now_us();
	act(data);
	while (!atomic_load(&w.woken_us) && now_us() - t < 1e6)
		;
	double woken = atomic_load(&w.woken_us);
	if (!woken) { /* let it go by the way that is known to work */
		MUST(lab, stream_write_value_64, other, slot, value, CU_WRITE_FENCED);
		MUST(lab, stream_synchronize, other);
	}
	MUST(lab, stream_destroy, other);
	MUST(lab, stream_synchronize, stream);
	MUST(lab, stream_destroy, stream);
	return woken ? woken - t : 0;
}

struct store {
	_Atomic uint64_t *at;
	uint64_t value;
};

static void store_value(void *data)
{
	const struct store *s = data;
	atomic_store(s->at, s->value);
}

void point_wait_wake(struct point_lab *lab)
{
	enum { ROUNDS = 21 };
	double us[ROUNDS];
	size_t woken = 0;
	cu_ptr slot;
	int fd = memory(4096);
	_Atomic uint64_t *page = map(fd, 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
	_Atomic uint64_t *second = map(fd, 4096, PROT_READ | PROT_WRITE, MAP_SHARED); /* as the daemon has it */
	MUST(lab, mem_host_register, (void *)page, 4096, CU_REGISTER_PORTABLE | CU_REGISTER_MAPPED);
	MUST(lab, mem_host_get_device_pointer, &slot, (void *)page, 0);
	for (uint64_t r = 0; r < ROUNDS; r++) {
		struct store s = {.at = second, .value = r + 1};
		double t = wake_us(lab, slot, r + 1, store_value, &s);
		if (t > 0)
			us[woken++] = t;
	}
	out_number("rounds", ROUNDS);
	out_number("woken", (double)woken);
	if (woken)
		out_number("wake_and_host_function_us", median(us, woken));
	struct store poison = {.at = second, .value = INT64_MAX};
	out_flag("poison_wakes", wake_us(lab, slot, ROUNDS + 5, store_value, &poison) > 0);
}

struct device_act {
	struct point_lab *lab;
	cu_ptr slot;
	uint64_t *value; /* pinned */
	cu_stream stream;
	int how;
};

static void act_on_device(void *data)
{
	struct device_act *a = data;
	cu_result r = a->how == 0 ? a->lab->cu->memcpy_htod_async(a->slot, a->value, 8, a->stream)
		: a->how == 1	  ? a->lab->cu->memset_d8_async(a->slot, 0x55, 8, a->stream)
				  : a->lab->cu->stream_write_value_64(a->stream, a->slot, *a->value, CU_WRITE_FENCED);
	must(a->lab, r, "the act");
}

void point_wait_device_flag(struct point_lab *lab)
{
	static const char *const keys[] = {"copy_wakes_us", "memset_wakes_us", "write_value_wakes_us"};
	for (int how = 0; how < 3; how++) {
		struct device_act a = {.lab = lab, .value = pinned(lab, 8), .how = how};
		*a.value = how == 1 ? 0x5555555555555555 : 7;
		MUST(lab, mem_alloc, &a.slot, 2 * MIB);
		MUST(lab, memset_d8, a.slot, 0, 8);
		MUST(lab, ctx_synchronize);
		MUST(lab, stream_create, &a.stream, CU_STREAM_NO_NULL_SYNC);
		act_on_device(&a); /* once before: what a driver loads for it, it may not load while a stream waits */
		MUST(lab, stream_synchronize, a.stream);
		MUST(lab, memset_d8, a.slot, 0, 8);
		MUST(lab, ctx_synchronize);
		out_number(keys[how], wake_us(lab, a.slot, *a.value, act_on_device, &a)); /* 0: it did not */
		MUST(lab, stream_destroy, a.stream);
		MUST(lab, mem_free, a.slot);
		MUST(lab, mem_free_host, a.value);
	}
}
