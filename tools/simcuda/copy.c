/* copy.c - the entries that copy and fill.  Keeps: every range is checked against what is known before anything is queued;
 * a copy of memory that is not registered returns when it is done, unless the device reads such memory itself: then nobody promises
 * that, and it does not. */
#include "tools/simcuda/sim.h"

struct copy {
	enum sim_call call;
	cu_ptr to, from;
	size_t bytes;
	bool to_host, from_host; /* by the entry's name */
	const struct sim_device *to_by, *from_by; /* whose rights count; NULL: the stream's device */
	cu_stream stream;
	bool waits;
};

static cu_result check(const struct copy *c, const struct cu_stream_object *s, bool *pageable)
{
	bool to_pageable = false, from_pageable = false;
	const struct sim_device *d = s->ctx->device;
	cu_result r;

	r = c->to_host ? range_host(c->to, c->bytes, true, &to_pageable)
		       : range_check(c->to_by ? c->to_by : d, c->to, c->bytes, true);
	if (r)
		return r;
	r = c->from_host ? range_host(c->from, c->bytes, false, &from_pageable)
			 : range_check(c->from_by ? c->from_by : d, c->from, c->bytes, false);
	*pageable = to_pageable || from_pageable;
	return r;
}

static cu_result submit(struct cu_context_object *ctx, const struct copy *c)
{
	struct cu_stream_object *s;
	struct op *op;
	bool pageable, waits;
	cu_result r = stream_of(ctx, c->stream, &s);

	if (r || !c->bytes)
		return r;
	r = check(c, s, &pageable);
	if (r)
		return r;
	op = op_new(OP_COPY, c->call);
	if (op) {
		op->to = c->to;
		op->from = c->from;
		op->bytes = c->bytes;
		op->pageable = pageable;
	}
	r = stream_push(s, op);
	waits = c->waits || (pageable && (c->to_host || !device_attr(s->ctx->device, CU_ATTR_PAGEABLE_ACCESS)));
	return r || !waits ? r : stream_wait_for(s, s->last);
}

static cu_ptr host(const void *p)
{
	return (cu_ptr)(uintptr_t)p;
}

EXPORT cu_result cuMemcpyHtoD_v2(cu_ptr to, const void *from, size_t bytes)
{
	ENTER(memcpy_htod, NEEDS_CONTEXT);
	return submit(call.ctx, &(struct copy){.call = CALL_memcpy_htod, .to = to, .from = host(from), .bytes = bytes,
					 .from_host = true, .waits = true});
}

EXPORT cu_result cuMemcpyDtoH_v2(void *to, cu_ptr from, size_t bytes)
{
	ENTER(memcpy_dtoh, NEEDS_CONTEXT);
	return submit(call.ctx, &(struct copy){.call = CALL_memcpy_dtoh, .to = host(to), .from = from, .bytes = bytes,
					 .to_host = true, .waits = true});
}

EXPORT cu_result cuMemcpyDtoD_v2(cu_ptr to, cu_ptr from, size_t bytes)
{
	ENTER(memcpy_dtod, NEEDS_CONTEXT);
	return submit(call.ctx,
		&(struct copy){.call = CALL_memcpy_dtod, .to = to, .from = from, .bytes = bytes, .waits = true});
}

EXPORT cu_result cuMemcpyHtoDAsync_v2(cu_ptr to, const void *from, size_t bytes, cu_stream stream)
{
	ENTER(memcpy_htod_async, NEEDS_CONTEXT);
	return submit(call.ctx, &(struct copy){.call = CALL_memcpy_htod_async, .to = to, .from = host(from),
					 .bytes = bytes, .from_host = true, .stream = stream});
}

EXPORT cu_result cuMemcpyDtoHAsync_v2(void *to, cu_ptr from, size_t bytes, cu_stream stream)
{
	ENTER(memcpy_dtoh_async, NEEDS_CONTEXT);
	return submit(call.ctx, &(struct copy){.call = CALL_memcpy_dtoh_async, .to = host(to), .from = from,
					 .bytes = bytes, .to_host = true, .stream = stream});
}

EXPORT cu_result cuMemcpyDtoDAsync_v2(cu_ptr to, cu_ptr from, size_t bytes, cu_stream stream)
{
	ENTER(memcpy_dtod_async, NEEDS_CONTEXT);
	return submit(call.ctx, &(struct copy){.call = CALL_memcpy_dtod_async, .to = to, .from = from, .bytes = bytes,
					 .stream = stream});
}

EXPORT cu_result cuMemcpyPeerAsync(cu_ptr to, cu_context to_ctx, cu_ptr from, cu_context from_ctx, size_t bytes,
	cu_stream stream)
{
	struct cu_context_object *a, *b;

	ENTER(memcpy_peer_async, NEEDS_CONTEXT);
	a = context_of(to_ctx);
	b = context_of(from_ctx);
	if (!a || !b)
		return CU_E_INVALID_CONTEXT;
	return submit(call.ctx, &(struct copy){.call = CALL_memcpy_peer_async, .to = to, .from = from, .bytes = bytes,
					 .to_by = a->device, .from_by = b->device, .stream = stream});
}

static bool is_host_pointer(cu_ptr addr)
{
	struct range *r = range_at(addr);

	return !r || r->kind == RANGE_REGISTERED || r->kind == RANGE_HOST;
}

EXPORT cu_result cuMemcpyBatchAsync(cu_ptr *to, cu_ptr *from, size_t *bytes, size_t n, struct cu_copy_attrs *attrs,
	size_t *first_of_attr, size_t n_attrs, size_t *failed, cu_stream stream)
{
	cu_result r = CU_OK;

	ENTER(memcpy_batch_async, NEEDS_CONTEXT);
	if (failed)
		*failed = SIZE_MAX;
	if (!to || !from || !bytes || !n || !attrs || !first_of_attr || !n_attrs || n_attrs > n || first_of_attr[0] ||
		(uintptr_t)stream <= 1)
		return CU_E_INVALID_VALUE;
	for (size_t i = 0; i < n_attrs; i++)
		if (attrs[i].source_order < CU_ORDER_STREAM || attrs[i].source_order > CU_ORDER_ANY)
			return CU_E_INVALID_VALUE;
	for (size_t i = 0; i < n && !r; i++) {
		r = submit(call.ctx, &(struct copy){.call = CALL_memcpy_batch_async, .to = to[i], .from = from[i],
				      .bytes = bytes[i], .to_host = is_host_pointer(to[i]),
				      .from_host = is_host_pointer(from[i]), .stream = stream});
		if (r && failed)
			*failed = i;
	}
	return r;
}

static cu_result fill(struct cu_context_object *ctx, enum sim_call which, cu_ptr ptr, unsigned char value, size_t bytes,
	cu_stream stream, bool waits)
{
	struct cu_stream_object *s;
	struct op *op;
	cu_result r = stream_of(ctx, stream, &s);

	if (r || !bytes)
		return r;
	if (range_check(s->ctx->device, ptr, bytes, true))
		return CU_E_INVALID_VALUE;
	op = op_new(OP_SET, which);
	if (op) {
		op->to = ptr;
		op->bytes = bytes;
		op->value = value;
	}
	r = stream_push(s, op);
	return r || !waits ? r : stream_wait_for(s, s->last);
}

EXPORT cu_result cuMemsetD8_v2(cu_ptr ptr, unsigned char value, size_t bytes)
{
	ENTER(memset_d8, NEEDS_CONTEXT);
	return fill(call.ctx, CALL_memset_d8, ptr, value, bytes, NULL, true);
}

EXPORT cu_result cuMemsetD8Async(cu_ptr ptr, unsigned char value, size_t bytes, cu_stream stream)
{
	ENTER(memset_d8_async, NEEDS_CONTEXT);
	return fill(call.ctx, CALL_memset_d8_async, ptr, value, bytes, stream, false);
}
