/* cuda.c - the CUDA backend: device, memory, waits and time.  What computes is in cuda_ops.c and cuda_conv.c.
 * Keeps: the host waits for the device in get() and finish() alone; errors of queued work come out there. */
#include "tools/run/cuda_backend.h"

#include "client/trims.h"
#include "shared/image.h"
#include "tools/clock.h"
#include "tools/run/fail_trims.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGN 256u

/* ---- opening ---- */

static int open_context(struct cuda_backend *c, int ordinal, struct fault *why)
{
	const char *path = getenv("TRIMS_CUDA_DRIVER");
	int r = cuda_load(&c->cu, path && *path ? path : NULL, why);
	if (r)
		return r == -ENOMEM ? fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the driver's table") : -EPROTO;
	r = cuda_check(c, c->cu->device_get(&c->device, ordinal), "cuDeviceGet", why);
	if (!r)
		r = cuda_check(c, c->cu->primary_ctx_retain(&c->ctx, c->device), "cuDevicePrimaryCtxRetain", why);
	if (!r)
		r = cuda_check(c, c->cu->ctx_set_current(c->ctx), "cuCtxSetCurrent", why);
	return r ? r : cuda_check(c, c->cu->stream_create(&c->stream, CU_STREAM_NO_NULL_SYNC), "cuStreamCreate", why);
}

static void cuda_close(struct backend *b);

static int cuda_open(const struct backend_options *options, struct backend **out, struct fault *why)
{
	uint64_t began = clock_ns();
	struct cuda_backend *c = calloc(1, sizeof *c);
	if (!c)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the CUDA backend");
	c->base.ops = &backend_cuda;
	int r = open_context(c, options->device, why);
	uint64_t ready = clock_ns();
	c->base.context_ns = ready - began;
	if (!r)
		r = cuda_ops_begin(c, why);
	c->base.library_ns = clock_ns() - ready;
	if (r) {
		cuda_close(&c->base);
		return r;
	}
	const char *missing = cuda_graph_missing(c);
	snprintf(c->base.note, sizeof c->base.note, "%s%s%s", c->blas.path, missing ? "; no graphs: " : "", missing ? missing : "");
	*out = &c->base;
	return 0;
}

static void unhost(struct backend *b)
{
	struct cuda_backend *c = cuda_of(b);
	if (c->n_spans)
		c->cu->stream_synchronize(c->stream);
	while (c->n_spans)
		c->cu->mem_host_unregister((void *)c->spans[--c->n_spans].from);
	free(c->spans);
	c->spans = NULL;
}

/* Nothing here can fail in a way that anybody could act on: the process gives the device up. */
static void close_context(struct cuda_backend *c)
{
	c->cu->stream_synchronize(c->stream);
	cuda_graph_drop(c);
	cuda_conv_end(c);
	cuda_ops_end(c);
	unhost(&c->base);
	for (size_t i = 0; i < BACKEND_STAMPS; i++)
		if (c->stamps[i])
			c->cu->event_destroy(c->stamps[i]);
	if (c->scratch)
		c->cu->mem_free(c->scratch);
	if (c->stream)
		c->cu->stream_destroy(c->stream);
	c->cu->ctx_set_current(NULL);
	c->cu->primary_ctx_release(c->device);
}

static void cuda_close(struct backend *b)
{
	struct cuda_backend *c = cuda_of(b);
	if (c->cu && c->ctx)
		close_context(c);
	if (c->cu)
		cuda_free(&c->cu);
	free(c);
}

/* ---- memory ---- */

static int cuda_alloc(struct backend *b, size_t bytes, void **out, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	cu_ptr p = 0;
	int r = cuda_check(c, c->cu->mem_alloc(&p, MAX(bytes, (size_t)ALIGN)), "cuMemAlloc", why);
	*out = r ? NULL : (void *)(uintptr_t)p;
	return r;
}

static void cuda_free_memory(struct backend *b, void *p)
{
	if (p)
		cuda_of(b)->cu->mem_free((cu_ptr)(uintptr_t)p); /* waits for what uses it */
}

/* Staged memory is read when its turn has come, pageable memory whenever the driver likes. */
static int cuda_put(struct backend *b, void *to, const void *from, size_t bytes, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	if (!bytes)
		return 0;
	return cuda_check(c, c->cu->memcpy_htod_async((cu_ptr)(uintptr_t)to, from, bytes, c->stream), "cuMemcpyHtoDAsync", why);
}

static int cuda_finish(struct backend *b, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	return cuda_check(c, c->cu->stream_synchronize(c->stream), "cuStreamSynchronize", why);
}

static int cuda_get(struct backend *b, void *to, const void *from, size_t bytes, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	int r = 0;
	if (bytes)
		r = cuda_check(c, c->cu->memcpy_dtoh_async(to, (cu_ptr)(uintptr_t)from, bytes, c->stream), "cuMemcpyDtoHAsync", why);
	return r ? r : cuda_finish(b, why);
}

static int cuda_stage(struct backend *b, size_t bytes, void **out, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	return cuda_check(c, c->cu->mem_host_alloc(out, MAX(bytes, (size_t)1), CU_HOST_PORTABLE), "cuMemHostAlloc", why);
}

static void cuda_unstage(struct backend *b, void *p)
{
	if (p)
		cuda_of(b)->cu->mem_free_host(p);
}

/* ---- weights ---- */

static int cuda_wait(struct backend *b, struct trims_model *model, uint32_t tensor, struct fault *why)
{
	if (trims_wait_stream(model, tensor, cuda_of(b)->stream) == 0)
		return 0;
	return fail_trims(why);
}

static int has_attr(struct cuda_backend *c, enum cu_attr_number attr, const char *lacks, struct fault *why)
{
	int value = 0;
	int r = cuda_check(c, c->cu->device_get_attribute(&value, attr, c->device), "cuDeviceGetAttribute", why);
	return r || value ? r : fault_set(why, TRIMS_E_UNSUPPORTED, "reading host memory from the device: %s", lacks);
}

/* Registrations that have a byte of the span go, and it grows by theirs: a page is registered once, and a kernel's operand
 * must not run from one registration into the next. */
static int take_over(struct cuda_backend *c, struct cuda_span *span, struct fault *why)
{
	int r = 0;
	for (uint32_t i = 0; !r && i < c->n_spans;) {
		struct cuda_span *old = &c->spans[i];
		if (old->to <= span->from || span->to <= old->from) {
			i++;
			continue;
		}
		r = cuda_finish(&c->base, why);
		if (!r)
			r = cuda_check(c, c->cu->mem_host_unregister((void *)old->from), "cuMemHostUnregister", why);
		*span = (struct cuda_span){MIN(old->from, span->from), MAX(old->to, span->to)};
		*old = c->spans[--c->n_spans];
		i = 0; /* what was passed by may touch the longer one */
	}
	return r;
}

static int register_span(struct cuda_backend *c, struct cuda_span span, struct fault *why)
{
	struct cuda_span *grown = realloc(c->spans, (c->n_spans + 1) * sizeof *grown);
	if (!grown)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a registration");
	c->spans = grown;
	int r = take_over(c, &span, why);
	if (!r)
		r = cuda_check(c, c->cu->mem_host_register((void *)span.from, span.to - span.from,
			CU_REGISTER_MAPPED | CU_REGISTER_PORTABLE | CU_REGISTER_READ_ONLY), "cuMemHostRegister", why);
	if (!r)
		c->spans[c->n_spans++] = span;
	return r;
}

static bool is_registered(const struct cuda_backend *c, struct cuda_span span)
{
	for (uint32_t i = 0; i < c->n_spans; i++)
		if (c->spans[i].from <= span.from && span.to <= c->spans[i].to)
			return true;
	return false;
}

static int cuda_host(struct backend *b, const void *data, size_t bytes, const void **out, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)data;
	struct cuda_span span = {from / page * page, (from + bytes + page - 1) / page * page};
	*out = data;
	if (!bytes || is_registered(c, span))
		return 0;
	int r = has_attr(c, CU_ATTR_READ_ONLY_REGISTER, "it cannot register memory that nobody may write", why);
	if (!r)
		r = has_attr(c, CU_ATTR_SAME_HOST_POINTER, "it sees registered memory at another address", why);
	return r ? r : register_span(c, span, why);
}

/* ---- passes ---- */

static int cuda_prepare(struct backend *b, const struct call *calls, uint32_t n, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	size_t most = 0;
	for (uint32_t i = 0; i < n; i++) {
		size_t bytes = 0;
		int r = cuda_scratch(c, &calls[i], &bytes, why);
		if (r)
			return r;
		most = MAX(most, bytes);
	}
	if (most <= c->scratch_bytes)
		return 0;
	int r = cuda_finish(b, why);
	cuda_graph_drop(c);
	if (!r && c->scratch)
		r = cuda_check(c, c->cu->mem_free(c->scratch), "cuMemFree", why);
	c->scratch = 0;
	c->scratch_bytes = 0;
	if (!r)
		r = cuda_check(c, c->cu->mem_alloc(&c->scratch, most), "cuMemAlloc", why);
	if (!r)
		c->scratch_bytes = most;
	return r;
}

static int cuda_stamp(struct backend *b, uint32_t i, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	int r = 0;
	if (!c->stamps[i])
		r = cuda_check(c, c->cu->event_create(&c->stamps[i], 0), "cuEventCreate", why);
	return r ? r : cuda_check(c, c->cu->event_record(c->stamps[i], c->stream), "cuEventRecord", why);
}

static uint64_t cuda_between(struct backend *b, uint32_t from, uint32_t to)
{
	struct cuda_backend *c = cuda_of(b);
	float ms = 0;
	return c->cu->event_elapsed_time(&ms, c->stamps[from], c->stamps[to]) ? 0 : (uint64_t)((double)ms * 1e6);
}

const struct backend_ops backend_cuda = {
	.name = "cuda",
	.open = cuda_open,
	.close = cuda_close,
	.alloc = cuda_alloc,
	.free = cuda_free_memory,
	.put = cuda_put,
	.get = cuda_get,
	.stage = cuda_stage,
	.unstage = cuda_unstage,
	.wait = cuda_wait,
	.host = cuda_host,
	.unhost = unhost,
	.prepare = cuda_prepare,
	.run = {
#define OP(NAME, name, weights, doc) [OP_##NAME] = cuda_##name,
#include "tools/run/ops.def"
#undef OP
	},
	.run_all = cuda_run_all,
	.finish = cuda_finish,
	.stamp = cuda_stamp,
	.between_ns = cuda_between,
};
