/* context.c - contexts and which one is current on a thread.  Keeps: a destroyed context's handle names nothing; threads on
 * which it is current are told CONTEXT_IS_DESTROYED. */
#include "tools/simcuda/sim.h"

#include <string.h>

/* Handles, not pointers: what is current may have been destroyed. */
static _Thread_local struct {
	cu_context handles[SIM_CURRENT_MAX];
	unsigned depth;
} current;

struct cu_context_object *context_of(cu_context handle)
{
	return handle_get(HANDLE_CONTEXT, (uint64_t)(uintptr_t)handle);
}

struct cu_context_object *context_current(void)
{
	return current.depth ? context_of(current.handles[current.depth - 1]) : NULL;
}

cu_result context_enter(struct cu_context_object **ctx)
{
	*ctx = context_current();
	if (*ctx)
		return context_state(*ctx);
	return current.depth && current.handles[current.depth - 1] ? CU_E_CONTEXT_IS_DESTROYED : CU_E_INVALID_CONTEXT;
}

void context_ref(struct cu_context_object *ctx)
{
	ctx->refs++;
}

void context_unref(struct cu_context_object *ctx)
{
	if (--ctx->refs == 0)
		free(ctx);
}

cu_result context_state(const struct cu_context_object *ctx)
{
	cu_result lost = store_lost(ctx->device);

	if (ctx->destroyed)
		return CU_E_CONTEXT_IS_DESTROYED;
	return ctx->error ? ctx->error : lost;
}

void context_fail(struct cu_context_object *ctx, cu_result result)
{
	if (!ctx->error)
		ctx->error = result;
	pthread_cond_broadcast(&sim.done);
}

static void context_key(struct store_tail *tail, const struct cu_context_object *ctx)
{
	*tail = (struct store_tail){.uuid = ctx->device->config->uuid,
		.key = (uint64_t)(uintptr_t)ctx->handle,
		.bytes = ctx->device->config->context_bytes};
}

/* Contexts cost memory of their own, as much as the topology says. */
static cu_result take_share(struct cu_context_object *ctx)
{
	struct store_tail tail;
	uint64_t inode;

	ctx->lease = -1;
	if (!ctx->device->config->context_bytes)
		return CU_OK;
	context_key(&tail, ctx);
	return store_create(ctx->device, STORE_CONTEXT, &tail, &ctx->lease, &inode);
}

static cu_result create(struct sim_device *d, struct cu_context_object **out)
{
	struct cu_context_object *ctx;
	cu_result r;

	if (device_attr(d, CU_ATTR_COMPUTE_MODE) == CU_MODE_PROHIBITED)
		return CU_E_DEVICE_UNAVAILABLE;
	ctx = calloc(1, sizeof *ctx);
	if (!ctx)
		return CU_E_OUT_OF_MEMORY;
	ctx->device = d;
	ctx->refs = 1;
	list_init(&ctx->streams);
	list_init(&ctx->modules);
	ctx->handle = (cu_context)(uintptr_t)handle_new(HANDLE_CONTEXT, ctx);
	if (!ctx->handle) {
		free(ctx);
		return CU_E_OUT_OF_MEMORY;
	}
	r = take_share(ctx);
	if (r) {
		handle_end(HANDLE_CONTEXT, (uint64_t)(uintptr_t)ctx->handle);
		free(ctx);
		return r;
	}
	list_add_tail(&ctx->node, &sim.contexts);
	*out = ctx;
	return CU_OK;
}

/* The lock may be free for moments while ranges get quiet, so the search starts over each time. */
static void end_ranges(struct cu_context_object *ctx)
{
	struct range *r;
	size_t i = 0;

	while ((r = range_each(&i))) {
		if (r->ctx != ctx || !range_quiet(r))
			continue;
		memory_end(r);
		i = 0;
	}
}

static void destroy(struct cu_context_object *ctx)
{
	ctx->destroyed = true;
	list_del(&ctx->node);
	handle_end(HANDLE_CONTEXT, (uint64_t)(uintptr_t)ctx->handle);
	pthread_cond_broadcast(&sim.done);
	while (!list_empty(&ctx->streams)) {
		struct cu_stream_object *s = list_first(&ctx->streams, struct cu_stream_object, node);

		list_del(&s->node);
		if (!s->dying)
			stream_kill(s);
	}
	ctx->null_stream = NULL;
	kernel_end_modules(ctx);
	end_ranges(ctx);
	if (ctx->lease >= 0)
		store_remove(ctx->device, STORE_CONTEXT, (uint64_t)(uintptr_t)ctx->handle,
			ctx->device->config->context_bytes, ctx->lease);
	context_unref(ctx);
}

EXPORT cu_result cuDevicePrimaryCtxRetain(cu_context *ctx, cu_device device)
{
	struct sim_device *d;
	cu_result r;

	ENTER(primary_ctx_retain, NEEDS_INIT);
	d = sim_device(device);
	if (!ctx)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	r = store_lost(d);
	if (!r && !d->primary)
		r = create(d, &d->primary);
	if (r)
		return r;
	d->primary_refs++;
	*ctx = d->primary->handle;
	return CU_OK;
}

EXPORT cu_result cuDevicePrimaryCtxRelease_v2(cu_device device)
{
	struct sim_device *d;
	struct cu_context_object *ctx;

	ENTER(primary_ctx_release, NEEDS_INIT);
	d = sim_device(device);
	if (!d)
		return CU_E_INVALID_DEVICE;
	if (!d->primary_refs)
		return CU_E_INVALID_CONTEXT;
	if (--d->primary_refs)
		return CU_OK;
	ctx = STEAL(d->primary);
	destroy(ctx);
	return CU_OK;
}

EXPORT cu_result cuDevicePrimaryCtxGetState(cu_device device, unsigned *flags, int *active)
{
	struct sim_device *d;

	ENTER(primary_ctx_get_state, NEEDS_INIT);
	d = sim_device(device);
	if (!flags || !active)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	*flags = 0;
	*active = d->primary != NULL;
	return CU_OK;
}

static cu_result push(cu_context handle)
{
	if (current.depth == SIM_CURRENT_MAX)
		return CU_E_INVALID_VALUE;
	current.handles[current.depth++] = handle;
	return CU_OK;
}

EXPORT cu_result cuCtxCreate_v2(cu_context *out, unsigned flags, cu_device device)
{
	struct cu_context_object *ctx;
	struct sim_device *d;
	cu_result r;

	ENTER(ctx_create, NEEDS_INIT);
	d = sim_device(device);
	if (!out || flags > 0xff)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	r = store_lost(d);
	r = r ? r : create(d, &ctx);
	if (r)
		return r;
	*out = ctx->handle;
	return push(ctx->handle);
}

EXPORT cu_result cuCtxDestroy_v2(cu_context handle)
{
	struct cu_context_object *ctx;

	ENTER(ctx_destroy, NEEDS_INIT);
	ctx = context_of(handle);
	if (!ctx)
		return CU_E_INVALID_CONTEXT;
	if (ctx == ctx->device->primary)
		return CU_E_INVALID_CONTEXT;
	if (current.depth && current.handles[current.depth - 1] == handle)
		current.depth--;
	destroy(ctx);
	return CU_OK;
}

EXPORT cu_result cuCtxSetCurrent(cu_context handle)
{
	ENTER(ctx_set_current, NEEDS_INIT);
	if (handle && !context_of(handle))
		return CU_E_INVALID_CONTEXT;
	if (!handle) {
		current.depth -= current.depth ? 1 : 0;
		return CU_OK;
	}
	if (!current.depth)
		return push(handle);
	current.handles[current.depth - 1] = handle;
	return CU_OK;
}

EXPORT cu_result cuCtxGetCurrent(cu_context *handle)
{
	ENTER(ctx_get_current, NEEDS_INIT);
	if (!handle)
		return CU_E_INVALID_VALUE;
	*handle = current.depth ? current.handles[current.depth - 1] : NULL;
	return CU_OK;
}

EXPORT cu_result cuCtxPushCurrent_v2(cu_context handle)
{
	ENTER(ctx_push_current, NEEDS_INIT);
	return context_of(handle) ? push(handle) : CU_E_INVALID_CONTEXT;
}

EXPORT cu_result cuCtxPopCurrent_v2(cu_context *handle)
{
	ENTER(ctx_pop_current, NEEDS_INIT);
	if (!current.depth)
		return CU_E_INVALID_CONTEXT;
	current.depth--;
	if (handle)
		*handle = current.handles[current.depth];
	return CU_OK;
}

EXPORT cu_result cuCtxGetDevice(cu_device *device)
{
	ENTER(ctx_get_device, NEEDS_CONTEXT);
	if (!device)
		return CU_E_INVALID_VALUE;
	*device = call.ctx->device->ordinal;
	return CU_OK;
}

EXPORT cu_result cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	ENTER(ctx_get_stream_priority_range, NEEDS_CONTEXT);
	if (least)
		*least = 0;
	if (greatest)
		*greatest = -5;
	return CU_OK;
}

cu_result context_sync(struct cu_context_object *ctx)
{
	uint64_t until = sim.ops;
	cu_result r = context_state(ctx);

	context_ref(ctx);
	for (struct list *it = ctx->streams.next; !r && it != &ctx->streams;) {
		struct cu_stream_object *s = list_entry(it, struct cu_stream_object, node);
		bool idle = list_empty(&s->ops) || list_first(&s->ops, struct op, node)->number > until;

		if (!idle)
			sim_wait();
		r = context_state(ctx);
		it = idle ? it->next : ctx->streams.next; /* the list may have changed meanwhile */
	}
	context_unref(ctx);
	return r;
}

EXPORT cu_result cuCtxSynchronize(void)
{
	ENTER(ctx_synchronize, NEEDS_CONTEXT);
	return context_sync(call.ctx);
}

EXPORT cu_result cuCtxEnablePeerAccess(cu_context handle, unsigned flags)
{
	struct cu_context_object *peer;

	ENTER(ctx_enable_peer_access, NEEDS_CONTEXT);
	peer = context_of(handle);
	if (flags)
		return CU_E_INVALID_VALUE;
	if (!peer || peer->device == call.ctx->device)
		return CU_E_INVALID_CONTEXT;
	if (!device_reaches(call.ctx->device, peer->device))
		return CU_E_PEER_ACCESS_UNSUPPORTED;
	if (call.ctx->peers >> peer->device->ordinal & 1)
		return CU_E_PEER_ACCESS_ALREADY_ENABLED;
	call.ctx->peers |= 1u << peer->device->ordinal;
	return CU_OK;
}

EXPORT cu_result cuCtxDisablePeerAccess(cu_context handle)
{
	struct cu_context_object *peer;

	ENTER(ctx_disable_peer_access, NEEDS_CONTEXT);
	peer = context_of(handle);
	if (!peer)
		return CU_E_INVALID_CONTEXT;
	if (!(call.ctx->peers >> peer->device->ordinal & 1))
		return CU_E_PEER_ACCESS_NOT_ENABLED;
	call.ctx->peers &= ~(1u << peer->device->ordinal);
	return CU_OK;
}
