/* event.c - events.  Keeps: an event stands for its last record; what waits for it waits for the record that was the last
 * when the wait was queued. */
#include "tools/simcuda/sim.h"

void event_ref(struct cu_event_object *e)
{
	e->refs++;
}

void event_unref(struct cu_event_object *e)
{
	if (--e->refs)
		return;
	context_unref(e->ctx);
	free(e);
}

static struct cu_event_object *event_of(cu_event handle)
{
	return handle_get(HANDLE_EVENT, (uint64_t)(uintptr_t)handle);
}

EXPORT cu_result cuEventCreate(cu_event *event, unsigned flags)
{
	struct cu_event_object *e;

	ENTER(event_create, NEEDS_CONTEXT);
	if (!event || flags & ~7u || (flags & CU_EVENT_SHARED && !(flags & CU_EVENT_NO_TIMING)))
		return CU_E_INVALID_VALUE;
	if (flags & CU_EVENT_SHARED) /* events of several processes are not simulated */
		return CU_E_NOT_SUPPORTED;
	e = calloc(1, sizeof *e);
	if (!e)
		return CU_E_OUT_OF_MEMORY;
	*e = (struct cu_event_object){.ctx = call.ctx, .flags = flags, .refs = 1};
	e->handle = (cu_event)(uintptr_t)handle_new(HANDLE_EVENT, e);
	if (!e->handle) {
		free(e);
		return CU_E_OUT_OF_MEMORY;
	}
	context_ref(e->ctx);
	*event = e->handle;
	return CU_OK;
}

EXPORT cu_result cuEventDestroy_v2(cu_event handle)
{
	struct cu_event_object *e;

	ENTER(event_destroy, NEEDS_CONTEXT);
	e = event_of(handle);
	if (!e)
		return CU_E_INVALID_HANDLE;
	handle_end(HANDLE_EVENT, (uint64_t)(uintptr_t)handle);
	event_unref(e);
	return CU_OK;
}

static cu_result push_event(struct cu_stream_object *s, enum op_kind kind, enum sim_call which, struct cu_event_object *e,
	uint64_t record)
{
	struct op *op = op_new(kind, which);

	if (op) {
		op->event = e;
		op->record = record;
		event_ref(e);
	}
	return stream_push(s, op);
}

EXPORT cu_result cuEventRecord(cu_event handle, cu_stream stream)
{
	struct cu_event_object *e;
	struct cu_stream_object *s;
	cu_result r;

	ENTER(event_record, NEEDS_CONTEXT);
	e = event_of(handle);
	if (!e)
		return CU_E_INVALID_HANDLE;
	r = stream_of(call.ctx, stream, &s);
	if (r)
		return r;
	if (s->ctx != e->ctx)
		return CU_E_INVALID_HANDLE;
	r = push_event(s, OP_RECORD, CALL_event_record, e, e->recorded + 1);
	if (!r)
		e->recorded++;
	return r;
}

EXPORT cu_result cuStreamWaitEvent(cu_stream stream, cu_event handle, unsigned flags)
{
	struct cu_event_object *e;
	struct cu_stream_object *s;
	cu_result r;

	ENTER(stream_wait_event, NEEDS_CONTEXT);
	e = event_of(handle);
	if (!e)
		return CU_E_INVALID_HANDLE;
	if (flags)
		return CU_E_INVALID_VALUE;
	r = stream_of(call.ctx, stream, &s);
	return r ? r : push_event(s, OP_WAIT_EVENT, CALL_stream_wait_event, e, e->recorded);
}

EXPORT cu_result cuEventQuery(cu_event handle)
{
	struct cu_event_object *e;
	cu_result r;

	ENTER(event_query, NEEDS_INIT);
	e = event_of(handle);
	if (!e)
		return CU_E_INVALID_HANDLE;
	r = context_state(e->ctx);
	if (r)
		return r;
	return e->done < e->recorded ? CU_E_NOT_READY : CU_OK;
}

EXPORT cu_result cuEventSynchronize(cu_event handle)
{
	struct cu_event_object *e;
	uint64_t record;
	cu_result r;

	ENTER(event_synchronize, NEEDS_CONTEXT);
	e = event_of(handle);
	if (!e)
		return CU_E_INVALID_HANDLE;
	record = e->recorded;
	event_ref(e);
	while (!(r = context_state(e->ctx)) && e->done < record)
		sim_wait();
	event_unref(e);
	return r;
}

EXPORT cu_result cuEventElapsedTime(float *ms, cu_event start, cu_event end)
{
	struct cu_event_object *a, *b;

	ENTER(event_elapsed_time, NEEDS_CONTEXT);
	a = event_of(start);
	b = event_of(end);
	if (!ms)
		return CU_E_INVALID_VALUE;
	if (!a || !b || a->ctx != b->ctx || (a->flags | b->flags) & CU_EVENT_NO_TIMING || !a->recorded || !b->recorded)
		return CU_E_INVALID_HANDLE;
	if (a->done < a->recorded || b->done < b->recorded)
		return CU_E_NOT_READY;
	*ms = (float)(((double)b->at_ns - (double)a->at_ns) / 1e6);
	return CU_OK;
}
