/* hash.c - see hash.h.
 * Keeps: the kernel is there with all that a launch needs, or nothing of it is; when a run is over, well or not, the device
 * no longer touches what it was given. */
#include "mrm/gpu/hash.h"

#include "mrm/gpu/device.h"
#include "shared/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What the kernel reads and writes: registered host memory. */
struct exchange {
	struct hash_piece pieces[GPU_HASH_BATCH];
	struct hash_result results[GPU_HASH_BATCH];
};

struct gpu_hasher {
	struct gpu *gpu;
	uint32_t device;
	pthread_mutex_t lock; /* of all that follows */
	cu_module module;
	cu_stream stream;
	struct exchange *exchange;
	cu_ptr at;            /* where the device sees it */
	cu_function kernel;   /* not NULL: all of it is there */
};

int gpu_hasher_new(struct gpu_hasher **out, struct gpu *g, uint32_t device, struct fault *why)
{
	struct gpu_hasher *h = calloc(1, sizeof *h);
	if (!h)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory to check a device's copies with"), -ENOMEM;
	h->gpu = g;
	h->device = device;
	pthread_mutex_init(&h->lock, NULL);
	*out = h;
	return 0;
}

/* Of a lost device it has gone with the context. */
static void unload(struct gpu_hasher *h)
{
	const struct cuda *cu = h->gpu->cu;
	if (gpu_enter_again(h->gpu, h->device)) {
		if (h->stream)
			GPU_AGAIN(cu->stream_destroy(h->stream));
		if (h->exchange)
			GPU_AGAIN(cu->mem_free_host(h->exchange));
		if (h->module)
			GPU_AGAIN(cu->module_unload(h->module));
	}
	h->stream = NULL;
	h->exchange = NULL;
	h->module = NULL;
	h->kernel = NULL;
}

void gpu_hasher_free(struct gpu_hasher **hp)
{
	struct gpu_hasher *h = *hp;
	if (!h)
		return;
	unload(h);
	pthread_mutex_destroy(&h->lock);
	free(h);
	*hp = NULL;
}

static int load_module(struct gpu_hasher *h, cu_function *kernel, struct fault *why)
{
	const struct cuda *cu = h->gpu->cu;
	if (!cu->module_load_data || !cu->module_get_function || !cu->module_unload || !cu->launch_kernel)
		return fault_set(why, TRIMS_E_UNSUPPORTED, "the driver has no entries for kernels"), -ENOTSUP;
	cu_result r = cu->module_load_data(&h->module, hash_kernel_ptx);
	if (r) {
		h->module = NULL;
		return gpu_failed(h->gpu, h->device, r, "cuModuleLoadData", why);
	}
	r = cu->module_get_function(kernel, h->module, HASH_KERNEL);
	return r ? gpu_failed(h->gpu, h->device, r, "cuModuleGetFunction", why) : 0;
}

static int make_exchange(struct gpu_hasher *h, struct fault *why)
{
	const struct cuda *cu = h->gpu->cu;
	cu_result r = cu->stream_create(&h->stream, CU_STREAM_NO_NULL_SYNC);
	if (r) {
		h->stream = NULL;
		return gpu_failed(h->gpu, h->device, r, "cuStreamCreate", why);
	}
	r = cu->mem_host_alloc((void **)&h->exchange, sizeof *h->exchange, CU_HOST_MAPPED);
	if (r) {
		h->exchange = NULL;
		return gpu_failed(h->gpu, h->device, r, "cuMemHostAlloc", why);
	}
	r = cu->mem_host_get_device_pointer(&h->at, h->exchange, 0);
	return r ? gpu_failed(h->gpu, h->device, r, "cuMemHostGetDevicePointer", why) : 0;
}

static int load(struct gpu_hasher *h, struct fault *why)
{
	cu_function kernel;
	if (h->kernel)
		return 0;
	int e = load_module(h, &kernel, why);
	e = e ? e : make_exchange(h, why);
	if (e)
		unload(h);
	else
		h->kernel = kernel;
	return e;
}

static int launch(struct gpu_hasher *h, uint32_t n, struct fault *why)
{
	const struct cuda *cu = h->gpu->cu;
	cu_ptr pieces = h->at + offsetof(struct exchange, pieces), results = h->at + offsetof(struct exchange, results);
	void *arguments[] = {&pieces, &n, &results};
	unsigned blocks = MAX((n + HASH_KERNEL_PIECES - 1) / HASH_KERNEL_PIECES, 1u);
	cu_result r = cu->launch_kernel(h->kernel, blocks, 1, 1, HASH_KERNEL_THREADS, 1, 1, 0, h->stream, arguments, NULL);
	if (r)
		return gpu_failed(h->gpu, h->device, r, "cuLaunchKernel", why);
	r = cu->stream_synchronize(h->stream);
	if (!r)
		return 0;
	int e = gpu_failed(h->gpu, h->device, r, "cuStreamSynchronize", why);
	return gpu_drain(h->gpu, h->device, h->stream) ? 0 : e;
}

static int run_locked(struct gpu_hasher *h, const struct hash_piece *pieces, uint32_t n, struct hash128 *out,
	struct fault *why)
{
	int e = gpu_enter(h->gpu, h->device, why);
	e = e ? e : load(h, why);
	if (e)
		return e;
	if (n)
		memcpy(h->exchange->pieces, pieces, n * sizeof *pieces);
	e = launch(h, n, why);
	for (uint32_t i = 0; !e && i < n; i++)
		out[i] = (struct hash128){.hi = h->exchange->results[i].hi, .lo = h->exchange->results[i].lo};
	return e;
}

int gpu_hasher_prepare(struct gpu_hasher *h, struct fault *why)
{
	pthread_mutex_lock(&h->lock);
	int e = run_locked(h, NULL, 0, NULL, why);
	pthread_mutex_unlock(&h->lock);
	return e;
}

int gpu_hasher_run(struct gpu_hasher *h, const struct hash_piece *pieces, uint32_t n, struct hash128 *out, struct fault *why)
{
	ASSERT(n && n <= GPU_HASH_BATCH);
	for (uint32_t i = 0; i < n; i++)
		ASSERT(pieces[i].at % 256 == 0 && pieces[i].bytes % 64 == 0 && pieces[i].bytes > 240);
	pthread_mutex_lock(&h->lock);
	int e = run_locked(h, pieces, n, out, why);
	pthread_mutex_unlock(&h->lock);
	return e;
}
