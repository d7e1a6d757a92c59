/* sim.c - start, the way into every entry, and finding entries.  Keeps: nothing of the simulation is touched before cuInit
 * succeeded, after fork() in the child, or from within a host function. */
#include "tools/simcuda/sim.h"
#include "tools/simcuda/simcuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

struct sim sim = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
_Thread_local bool sim_in_host_fn;
EXPORT extern const int simcuda_version;
const int simcuda_version = SIMCUDA_VERSION;

static const struct {
	const char *name, *symbol;
	int version;
	void *entry;
} entries[CALLS] = {
#define CU(field, name_, symbol_, version_, need, arguments) {#name_, #symbol_, version_, (void *)symbol_},
#include "shared/cuda.def"
};

const char *sim_call_name(enum sim_call which)
{
	return entries[which].name;
}

const char *sim_call_symbol(enum sim_call which)
{
	return entries[which].symbol;
}

uint64_t sim_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void sim_say(const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	fprintf(stderr, "simcuda (simulated GPUs): %s\n", text);
}

struct sim_device *sim_device(cu_device ordinal)
{
	return ordinal >= 0 && ordinal < (int)sim.topology.n_devices ? &sim.devices[ordinal] : NULL;
}

static void after_fork(void)
{
	atomic_store(&sim.forked, true);
}

/* Addresses for classic allocations: a region of their own, so that those which were freed are used again soon. */
static bool start_device(int ordinal)
{
	struct sim_device *d = &sim.devices[ordinal];
	const struct topology_device *config = &sim.topology.devices[ordinal];
	size_t bytes = align_up(2 * config->bytes, SIM_GRANULE) + SIM_GRANULE;
	void *arena = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*d = (struct sim_device){.config = config, .ordinal = ordinal};
	if (arena == MAP_FAILED)
		return false;
	d->arena = align_up((cu_ptr)(uintptr_t)arena, SIM_GRANULE);
	d->arena_bytes = bytes - SIM_GRANULE;
	return true;
}

static cu_result start(void)
{
	struct fault why = {0};
	cu_result r;

	if (!topology_read(&sim.topology, getenv("SIMCUDA"), &why)) {
		sim_say("%s", why.text);
		return CU_E_INVALID_VALUE;
	}
	if (getrandom(&sim.owner, sizeof sim.owner, 0) != sizeof sim.owner || pthread_atfork(NULL, NULL, after_fork))
		return CU_E_OPERATING_SYSTEM;
	list_init(&sim.contexts);
	r = store_open();
	for (int i = 0; !r && i < (int)sim.topology.n_devices; i++)
		r = start_device(i) ? CU_OK : CU_E_OPERATING_SYSTEM;
	if (!r)
		link_init();
	return r;
}

cu_result sim_enter(struct call *call, enum sim_call which, enum sim_needs needs)
{
	cu_result r;

	if (sim_in_host_fn)
		return CU_E_NOT_PERMITTED;
	if (atomic_load(&sim.forked))
		return CU_E_NOT_INITIALIZED;
	if (needs != NEEDS_NOTHING && !atomic_load(&sim.ready))
		return CU_E_NOT_INITIALIZED;
	atomic_fetch_add(&sim.counts[which], 1);
	store_count(which);
	r = fault_call(which, false);
	if (r)
		return r;
	pthread_mutex_lock(&sim.lock);
	call->locked = true;
	if (needs == NEEDS_CONTEXT)
		r = context_enter(&call->ctx);
	return r;
}

void sim_leave(struct call *call)
{
	if (call->locked)
		pthread_mutex_unlock(&sim.lock);
}

EXPORT cu_result cuInit(unsigned flags)
{
	ENTER(init, NEEDS_NOTHING);
	if (flags)
		return CU_E_INVALID_VALUE;
	if (!atomic_load(&sim.ready)) {
		sim.start = start();
		atomic_store(&sim.ready, sim.start == CU_OK);
	}
	return sim.start;
}

EXPORT cu_result cuDriverGetVersion(int *version)
{
	ENTER(driver_get_version, NEEDS_INIT);
	if (!version)
		return CU_E_INVALID_VALUE;
	*version = sim.topology.driver_version;
	return CU_OK;
}

/* The newest ABI of that name which caller and driver both know. */
static cu_query_status look_up(const char *name, void **found, int version)
{
	cu_query_status status = CU_QUERY_NOT_FOUND;
	int best = -1;

	for (int i = 0; i < CALLS; i++) {
		if (strcmp(entries[i].name, name) || entries[i].version > sim.topology.driver_version)
			continue;
		status = status == CU_QUERY_FOUND ? status : CU_QUERY_TOO_NEW;
		if (entries[i].version > version || (best >= 0 && entries[i].version < entries[best].version))
			continue;
		status = CU_QUERY_FOUND;
		best = i;
	}
	*found = best >= 0 ? entries[best].entry : NULL;
	return status;
}

EXPORT cu_result cuGetProcAddress_v2(const char *name, void **found, int version, cu_word flags, cu_query_status *status)
{
	cu_query_status got;

	ENTER(get_proc_address_v2, NEEDS_INIT);
	if (!name || !found || version > sim.topology.driver_version || flags > 1)
		return CU_E_INVALID_VALUE;
	got = look_up(name, found, version);
	if (status)
		*status = got;
	return CU_OK;
}

EXPORT cu_result cuGetProcAddress(const char *name, void **found, int version, cu_word flags)
{
	ENTER(get_proc_address, NEEDS_INIT);
	if (!name || !found || version > sim.topology.driver_version || flags > 1)
		return CU_E_INVALID_VALUE;
	return look_up(name, found, version) == CU_QUERY_FOUND ? CU_OK : CU_E_NOT_FOUND;
}

EXPORT cu_result cuGetErrorName(cu_result result, const char **name)
{
	ENTER(get_error_name, NEEDS_NOTHING);
	if (!name)
		return CU_E_INVALID_VALUE;
	*name = cuda_name(NULL, result);
	return CU_OK;
}

EXPORT cu_result cuGetErrorString(cu_result result, const char **text)
{
	ENTER(get_error_string, NEEDS_NOTHING);
	if (!text)
		return CU_E_INVALID_VALUE;
	*text = cuda_text(NULL, result);
	return CU_OK;
}

EXPORT uint64_t simcuda_count(const char *name)
{
	uint64_t n = 0;

	for (int i = 0; i < CALLS; i++)
		if (!strcmp(entries[i].name, name) || !strcmp(entries[i].symbol, name))
			n += atomic_load(&sim.counts[i]);
	return n;
}

EXPORT int simcuda_lose(int ordinal, int result)
{
	struct sim_device *d = sim_device(ordinal);

	if (!d)
		return -1;
	store_set_lost(d, (cu_result)result);
	pthread_mutex_lock(&sim.lock);
	pthread_cond_broadcast(&sim.done);
	pthread_mutex_unlock(&sim.lock);
	return 0;
}

EXPORT int simcuda_mend(int ordinal)
{
	struct sim_device *d = sim_device(ordinal);

	if (!d)
		return -1;
	store_set_lost(d, CU_OK);
	return 0;
}
