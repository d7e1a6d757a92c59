/* points_gate.c - which calls wait for a stream that waits for a value in memory.  Nowhere is it written: a driver may synchronise
 * inside calls that give memory or load code, and whoever makes such a call while a model is still loading waits for it then. */
#include "tests/gpu/points.h"

#include "mrm/gpu/kernel/ptx.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES (2 * MIB)
#define PATIENCE_US 200e3

/* What calls find ready, made while nothing waits. */
struct things {
	struct point_lab *lab;
	cu_stream stream; /* not the one that waits */
	cu_event event;
	cu_ptr memory, kept;
	void *pinned, *pages;
	struct vmm mapped, fresh; /* fresh: an address and memory that is not mapped there */
	cu_module module;
};

static cu_result make_stream(struct things *t)
{
	cu_stream s;
	cu_result r = t->lab->cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC);
	return r ? r : t->lab->cu->stream_destroy(s);
}

static cu_result record(struct things *t)
{
	cu_result r = t->lab->cu->event_record(t->event, t->stream);
	return r ? r : t->lab->cu->event_synchronize(t->event);
}

static cu_result copy(struct things *t)
{
	cu_result r = t->lab->cu->memcpy_htod_async(t->kept, t->pinned, 4096, t->stream);
	return r ? r : t->lab->cu->stream_synchronize(t->stream);
}

static cu_result allocate(struct things *t)
{
	return t->lab->cu->mem_alloc(&t->memory, BYTES);
}

static cu_result release(struct things *t)
{
	return t->lab->cu->mem_free(t->memory);
}

static cu_result allocate_host(struct things *t)
{
	void *at;
	cu_result r = t->lab->cu->mem_host_alloc(&at, BYTES, CU_HOST_PORTABLE);
	return r ? r : t->lab->cu->mem_free_host(at);
}

static cu_result register_host(struct things *t)
{
	return t->lab->cu->mem_host_register(t->pages, BYTES, CU_REGISTER_PORTABLE | CU_REGISTER_MAPPED);
}

static cu_result unregister_host(struct things *t)
{
	return t->lab->cu->mem_host_unregister(t->pages);
}

static cu_result map_memory(struct things *t)
{
	const struct cu_mem_access access = {.location = {CU_AT_DEVICE, t->lab->device}, .flags = CU_PROT_READ};
	cu_result r = t->lab->cu->mem_map(t->fresh.at, BYTES, 0, t->fresh.handle, 0);
	return r ? r : t->lab->cu->mem_set_access(t->fresh.at, BYTES, &access, 1);
}

static cu_result unmap_memory(struct things *t)
{
	return t->lab->cu->mem_unmap(t->mapped.at, BYTES);
}

static cu_result load_code(struct things *t)
{
	return t->lab->cu->module_load_data(&t->module, hash_kernel_ptx);
}

/* Of no pieces: what counts is that it is the function's first. */
static cu_result first_launch(struct things *t)
{
	cu_function f;
	uint32_t n = 0;
	void *args[] = {&t->kept, &n, &t->kept};
	cu_result r = t->lab->cu->module_get_function(&f, t->module, HASH_KERNEL);
	if (!r)
		r = t->lab->cu->launch_kernel(f, 1, 1, 1, HASH_KERNEL_THREADS, 1, 1, 0, t->stream, args, NULL);
	return r ? r : t->lab->cu->stream_synchronize(t->stream);
}

static const struct act {
	const char *name;
	cu_result (*call)(struct things *t);
} acts[] = {
	{"stream_create", make_stream}, {"event_record", record}, {"copy", copy}, {"mem_alloc", allocate}, {"mem_free", release},
	{"mem_host_alloc", allocate_host}, {"mem_host_register", register_host}, {"mem_host_unregister", unregister_host},
	{"mem_map_and_access", map_memory}, {"mem_unmap", unmap_memory}, {"module_load", load_code}, {"first_launch", first_launch},
};

struct attempt {
	struct things *things;
	const struct act *act;
	cu_result result;
	_Atomic bool done;
};

static void *attempt(void *data)
{
	struct attempt *a = data;
	struct point_lab *lab = a->things->lab;
	MUST(lab, ctx_set_current, lab->ctx);
	a->result = a->act->call(a->things);
	atomic_store(&a->done, true);
	return NULL;
}

/* The call is made while the stream waits; whether it came back before the stream was let go. */
static bool comes_back(struct attempt *a, cu_stream gated, cu_ptr slot, _Atomic uint64_t *page, uint64_t value)
{
	struct point_lab *lab = a->things->lab;
	pthread_t thread;
	MUST(lab, stream_wait_value_64, gated, slot, value, CU_WAIT_GEQ);
	if (pthread_create(&thread, NULL, attempt, a))
		give_up("no thread");
	for (double until = now_us() + PATIENCE_US; !atomic_load(&a->done) && now_us() < until;)
		;
	bool back = atomic_load(&a->done);
	atomic_store(page, value);
	pthread_join(thread, NULL);
	MUST(lab, stream_synchronize, gated);
	return back;
}

static void prepare(struct things *t)
{
	struct point_lab *lab = t->lab;
	struct cu_mem_prop prop = fd_prop(lab);
	MUST(lab, stream_create, &t->stream, CU_STREAM_NO_NULL_SYNC);
	MUST(lab, event_create, &t->event, 0);
	MUST(lab, mem_alloc, &t->kept, BYTES);
	t->pinned = pinned(lab, BYTES);
	t->pages = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t->pages == MAP_FAILED)
		give_up("no memory");
	memset(t->pages, 1, BYTES);
	memset(t->pinned, 1, BYTES);
	vmm_make(lab, BYTES, &t->mapped);
	MUST(lab, mem_create, &t->fresh.handle, BYTES, &prop, 0);
	MUST(lab, mem_address_reserve, &t->fresh.at, BYTES, VMM_ALIGNMENT, 0, 0);
}

void point_gate_blocks(struct point_lab *lab)
{
	struct things t = {.lab = lab};
	cu_stream gated;
	cu_ptr slot;
	_Atomic uint64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		give_up("no memory");
	MUST(lab, mem_host_register, (void *)page, 4096, CU_REGISTER_PORTABLE | CU_REGISTER_MAPPED);
	MUST(lab, mem_host_get_device_pointer, &slot, (void *)page, 0);
	MUST(lab, stream_create, &gated, CU_STREAM_NO_NULL_SYNC);
	prepare(&t);
	for (size_t i = 0; i < ARRAY_LEN(acts); i++) {
		struct attempt a = {.things = &t, .act = &acts[i]};
		bool back = comes_back(&a, gated, slot, page, i + 1);
		out_text(acts[i].name, a.result ? cuda_name(lab->cu, a.result) : back ? "goes on" : "waits");
	}
}
