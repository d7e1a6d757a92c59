/* gpu_driver.c - the process's CUDA driver, its devices, and contexts; see gpu.h.
 * Keeps: the driver is loaded while `users` is above 0; primary contexts that were retained are released with it. */
#include "client/gpu.h"

#include "client/fail.h"
#include "shared/own.h"

#include <stdlib.h>
#include <string.h>

#define LAST_SPECIAL_STREAM 2 /* 0, 1, 2: NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD: of whatever context is current */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct gpu_driver *loaded;
static unsigned users;
static _Atomic pid_t loader; /* the process that has initialised the driver: 0, or for ever */

int gpu_failed(const struct gpu_driver *d, cu_result result, const char *what)
{
	struct fault why;
	cuda_fault(d->cu, result, what, &why);
	return fail_fault(&why);
}

/* ---- loading ---- */

static int add_device(struct gpu_driver *d, int index)
{
	struct gpu_device *device = &d->device[d->n_devices];
	struct cu_uuid uuid;
	cu_result r = d->cu->device_get(&device->ordinal, index);
	if (r == CU_OK)
		r = d->cu->device_get_uuid(&uuid, device->ordinal);
	if (r)
		return gpu_failed(d, r, "cuDeviceGetUuid");
	cuda_uuid_text(&uuid, device->uuid);
	d->n_devices++;
	return 0;
}

static void unload(struct gpu_driver **p)
{
	struct gpu_driver *d = STEAL(*p);
	if (!d)
		return;
	for (uint32_t i = 0; i < d->n_devices; i++)
		if (d->device[i].primary)
			GPU_UNDO(d->cu->primary_ctx_release(d->device[i].ordinal));
	cuda_free(&d->cu);
	free(d);
}

static int load(struct gpu_driver **out)
{
	struct fault why = {0};
	const char *path = secure_getenv("TRIMS_CUDA_DRIVER"); /* it names code to be run */
	OWN(unload) struct gpu_driver *d = calloc(1, sizeof *d);
	if (!d)
		return fail(TRIMS_E_NO_MEMORY, "no memory for the driver's table");
	int r = cuda_load(&d->cu, path && *path ? path : NULL, &why);
	if (r < 0)
		return r == -ENOMEM ? fail(TRIMS_E_NO_MEMORY, "no memory for the driver's table") : fail_fault(&why);
	for (int i = 0; i < MIN(d->cu->n_devices, GPU_DEVICES_MAX); i++)
		if ((r = add_device(d, i)) < 0)
			return r;
	*out = STEAL(d);
	return 0;
}

/* A driver that a parent process has initialised is of no use here, nor may its locks be believed. */
static int check_fork(void)
{
	pid_t before = 0;
	if (atomic_compare_exchange_strong(&loader, &before, getpid()) || before == getpid())
		return 0;
	return fail(TRIMS_E_UNSUPPORTED, "the CUDA driver was initialised before this process was forked and does not work "
		"in it: execute a new program, or open models on a GPU in the child alone");
}

int gpu_driver_get(struct gpu_driver **out)
{
	int r = check_fork();
	if (r < 0)
		return r;
	pthread_mutex_lock(&lock);
	if (!loaded)
		r = load(&loaded);
	if (r == 0) {
		users++;
		*out = loaded;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

void gpu_driver_put(struct gpu_driver **d)
{
	if (!STEAL(*d))
		return;
	pthread_mutex_lock(&lock);
	if (--users == 0)
		unload(&loaded);
	pthread_mutex_unlock(&lock);
}

struct gpu_device *gpu_driver_find(struct gpu_driver *d, const char *uuid)
{
	for (uint32_t i = 0; i < d->n_devices; i++)
		if (!strcmp(d->device[i].uuid, uuid))
			return &d->device[i];
	return NULL;
}

/* ---- contexts ---- */

static int primary(struct gpu_driver *d, struct gpu_device *device, cu_context *out)
{
	cu_result r = CU_OK;
	pthread_mutex_lock(&lock);
	if (!device->primary)
		r = d->cu->primary_ctx_retain(&device->primary, device->ordinal);
	if (r)
		device->primary = NULL;
	*out = device->primary;
	pthread_mutex_unlock(&lock);
	return r ? gpu_failed(d, r, "cuDevicePrimaryCtxRetain") : 0;
}

/* Nothing here is meant for a graph.  A driver that cannot be asked minds as ever. */
void gpu_enter_none(struct gpu_driver *d, struct gpu_scope *s)
{
	cu_capture_mode mode = CU_CAPTURE_RELAXED;
	*s = (struct gpu_scope){.driver = d, .ordinal = -1};
	if (d->cu->thread_exchange_capture_mode && d->cu->thread_exchange_capture_mode(&mode) == CU_OK) {
		s->relaxed = true;
		s->mode = mode;
	}
}

static int push(struct gpu_driver *d, cu_context ctx, struct gpu_scope *s)
{
	cu_result r = d->cu->ctx_push_current(ctx);
	if (r) {
		gpu_leave(s);
		return gpu_failed(d, r, "cuCtxPushCurrent");
	}
	s->ctx = ctx;
	s->pushed = true;
	return 0;
}

int gpu_enter_context(struct gpu_driver *d, cu_context ctx, struct gpu_scope *s)
{
	cu_device ordinal;
	gpu_enter_none(d, s);
	int r = push(d, ctx, s);
	if (r < 0)
		return r;
	cu_result e = d->cu->ctx_get_device(&ordinal);
	if (e) {
		gpu_leave(s);
		return gpu_failed(d, e, "cuCtxGetDevice");
	}
	s->ordinal = ordinal;
	return 0;
}

bool gpu_enter_to_undo(struct gpu_driver *d, cu_context ctx, struct gpu_scope *s)
{
	for (int i = 0; i < GPU_UNDO_TRIES; i++)
		if (gpu_enter_context(d, ctx, s) == 0)
			return true;
	return false;
}

/* The caller's, if there is one. */
static cu_context current(struct gpu_driver *d, int *ordinal)
{
	cu_context ctx = NULL;
	cu_device device;
	if (d->cu->ctx_get_current(&ctx) || !ctx || d->cu->ctx_get_device(&device))
		return NULL;
	*ordinal = device;
	return ctx;
}

struct gpu_device *gpu_driver_likely(struct gpu_driver *d, const char *uuid)
{
	struct gpu_device *found = uuid ? gpu_driver_find(d, uuid) : NULL;
	int ordinal = -1;
	if (!found && current(d, &ordinal))
		for (uint32_t i = 0; i < d->n_devices; i++)
			if (d->device[i].ordinal == ordinal)
				found = &d->device[i];
	return found ? found : &d->device[0];
}

int gpu_enter(struct gpu_driver *d, struct gpu_device *device, struct gpu_scope *s)
{
	int ordinal = -1;
	gpu_enter_none(d, s);
	s->ctx = current(d, &ordinal);
	s->ordinal = device->ordinal;
	if (s->ctx && ordinal == device->ordinal)
		return 0;
	cu_context ctx;
	int r = primary(d, device, &ctx);
	if (r < 0)
		gpu_leave(s);
	return r < 0 ? r : push(d, ctx, s);
}

int gpu_enter_stream(struct gpu_driver *d, struct gpu_device *device, cu_stream stream, struct gpu_scope *s)
{
	cu_context ctx;
	if ((uintptr_t)stream <= LAST_SPECIAL_STREAM)
		return gpu_enter(d, device, s);
	cu_result r = d->cu->stream_get_ctx(stream, &ctx);
	return r ? gpu_failed(d, r, "cuStreamGetCtx") : gpu_enter_context(d, ctx, s);
}

void gpu_leave(struct gpu_scope *s)
{
	cu_context ignored;
	cu_capture_mode mode;
	if (s->pushed)
		GPU_UNDO(s->driver->cu->ctx_pop_current(&ignored));
	if (s->relaxed)
		GPU_UNDO((mode = s->mode, s->driver->cu->thread_exchange_capture_mode(&mode)));
	s->pushed = s->relaxed = false;
}

/* ---- copies ---- */

/* To the host, or not. */
static int copy(struct gpu_driver *d, void *to_host, cu_ptr to, cu_ptr from, size_t bytes)
{
	const struct cuda *cu = d->cu;
	cu_stream stream = NULL;
	const char *what = "cuStreamCreate";
	cu_result r = cu->stream_create(&stream, CU_STREAM_NO_NULL_SYNC);
	if (r)
		return gpu_failed(d, r, what);
	if (to_host) {
		what = "cuMemcpyDtoHAsync";
		r = cu->memcpy_dtoh_async(to_host, from, bytes, stream);
	} else {
		what = "cuMemcpyDtoDAsync";
		r = cu->memcpy_dtod_async(to, from, bytes, stream);
	}
	/* In any case: nothing may go on with the caller's memory behind its back. */
	cu_result synced = GPU_UNDO(cu->stream_synchronize(stream));
	if (!r && synced) {
		what = "cuStreamSynchronize";
		r = synced;
	}
	GPU_UNDO(cu->stream_destroy(stream));
	return r ? gpu_failed(d, r, what) : 0;
}

int gpu_copy_to_host(struct gpu_driver *d, void *to, cu_ptr from, size_t bytes)
{
	return copy(d, to, 0, from, bytes);
}

int gpu_copy_on_device(struct gpu_driver *d, cu_ptr to, cu_ptr from, size_t bytes)
{
	return copy(d, NULL, to, from, bytes);
}

#define HALF_BYTES (4 * MIB)

/* By turns through two halves of a pinned buffer, each with a stream of its own. */
static cu_result copy_by_halves(const struct cuda *cu, const cu_stream stream[2], char *buffer, cu_ptr to, const char *from, size_t bytes)
{
	cu_result r = CU_OK;
	for (size_t at = 0, n; at < bytes && r == CU_OK; at += n) {
		int half = at / HALF_BYTES & 1;
		n = MIN(bytes - at, HALF_BYTES);
		r = cu->stream_synchronize(stream[half]); /* it is being read */
		if (r == CU_OK) {
			memcpy(buffer + half * HALF_BYTES, from + at, n);
			r = cu->memcpy_htod_async(to + at, buffer + half * HALF_BYTES, n, stream[half]);
		}
	}
	return r;
}

/* Not from where it is: what drivers do with memory that is mapped for reading differs from fast to hanging. */
int gpu_copy_to_device(struct gpu_driver *d, cu_ptr to, const void *from, size_t bytes)
{
	const struct cuda *cu = d->cu;
	cu_stream stream[2] = {NULL, NULL};
	void *buffer = NULL;
	cu_result r = cu->mem_host_alloc(&buffer, MIN(bytes, 2 * HALF_BYTES), 0);
	if (r)
		return gpu_failed(d, r, "cuMemHostAlloc");
	for (int i = 0; i < 2 && r == CU_OK; i++)
		r = cu->stream_create(&stream[i], CU_STREAM_NO_NULL_SYNC);
	if (r == CU_OK)
		r = copy_by_halves(cu, stream, buffer, to, from, bytes);
	/* In any case: nothing may go on with the buffer behind its back. */
	for (int i = 0; i < 2 && stream[i]; i++) {
		cu_result synced = GPU_UNDO(cu->stream_synchronize(stream[i]));
		r = r ? r : synced;
		GPU_UNDO(cu->stream_destroy(stream[i]));
	}
	GPU_UNDO(cu->mem_free_host(buffer));
	return r ? gpu_failed(d, r, "cuMemcpyHtoDAsync") : 0;
}
