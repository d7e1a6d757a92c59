/* stream.c - streams: a queue of operations and a thread that runs them.
 * Keeps: the operations of a stream run one at a time and in order; the null stream's keep order with those of the
 * context's blocking streams; what is queued on a context that died is dropped; a destroyed stream finishes first. */
#include "tools/simcuda/sim.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>

void sim_wait(void)
{
	struct timespec soon;

	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_nsec += 10 * (long)NS_PER_MS;
	soon.tv_sec += soon.tv_nsec / (long)NS_PER_S;
	soon.tv_nsec %= (long)NS_PER_S;
	pthread_cond_timedwait(&sim.done, &sim.lock, &soon);
}

cu_result stream_new(struct cu_context_object *ctx, unsigned flags, int priority, struct cu_stream_object **out)
{
	struct cu_stream_object *s = calloc(1, sizeof *s);

	if (!s)
		return CU_E_OUT_OF_MEMORY;
	s->handle = (cu_stream)(uintptr_t)handle_new(HANDLE_STREAM, s);
	if (!s->handle) {
		free(s);
		return CU_E_OUT_OF_MEMORY;
	}
	s->ctx = ctx;
	s->blocking = !(flags & CU_STREAM_NO_NULL_SYNC);
	s->priority = priority;
	s->refs = 1;
	list_init(&s->ops);
	list_init(&s->turn);
	pthread_cond_init(&s->work, NULL);
	list_add_tail(&s->node, &ctx->streams);
	context_ref(ctx);
	*out = s;
	return CU_OK;
}

void stream_unref(struct cu_stream_object *s)
{
	if (--s->refs)
		return;
	ASSERT(list_empty(&s->ops) && !s->running);
	if (s->capture)
		graph_free(s->capture);
	pthread_cond_destroy(&s->work);
	context_unref(s->ctx);
	free(s);
}

void stream_kill(struct cu_stream_object *s)
{
	handle_end(HANDLE_STREAM, (uint64_t)(uintptr_t)s->handle);
	s->dying = true;
	if (!s->running) /* else it counts until its work is done */
		list_del(&s->node);
	pthread_cond_signal(&s->work);
	stream_unref(s);
}

cu_result stream_of(struct cu_context_object *current, cu_stream handle, struct cu_stream_object **out)
{
	if ((uintptr_t)handle > 1) { /* 0 and 1 are the null stream */
		*out = handle_get(HANDLE_STREAM, (uint64_t)(uintptr_t)handle);
		return *out ? context_state((*out)->ctx) : CU_E_INVALID_HANDLE;
	}
	if (!current)
		return CU_E_INVALID_CONTEXT;
	if (!current->null_stream) {
		cu_result r = stream_new(current, 0, 0, &current->null_stream);

		if (r)
			return r;
	}
	*out = current->null_stream;
	return CU_OK;
}

struct op *op_new(enum op_kind kind, enum sim_call which)
{
	struct op *op = calloc(1, sizeof *op);

	if (op) {
		op->kind = kind;
		op->call = which;
		list_init(&op->node);
	}
	return op;
}

void op_free(struct op *op)
{
	if (op->event)
		event_unref(op->event);
	if (op->work)
		work_unref(op->work);
	free(op);
}

static bool has_older(const struct cu_stream_object *s, uint64_t number)
{
	return !list_empty(&s->ops) && list_first(&s->ops, struct op, node)->number < number;
}

/* Something that was queued before it on the other side of the null stream's fence? */
static bool is_fenced(const struct cu_stream_object *s, const struct op *op)
{
	struct cu_stream_object *null_stream = s->ctx->null_stream;

	if (!s->blocking || !null_stream)
		return false;
	if (s != null_stream)
		return has_older(null_stream, op->number);
	list_for_each(it, &s->ctx->streams) {
		struct cu_stream_object *other = list_entry(it, struct cu_stream_object, node);

		if (other != s && other->blocking && has_older(other, op->number))
			return true;
	}
	return false;
}

static void serve_one(struct cu_stream_object *s, struct op *op)
{
	cu_result r = CU_OK;

	while (!context_state(s->ctx) && is_fenced(s, op)) {
		link_leave(s);
		sim_wait();
	}
	if (!context_state(s->ctx))
		r = op_run(s, op);
	if (r)
		context_fail(s->ctx, r);
	if (context_state(s->ctx))
		link_leave(s);
	list_del(&op->node);
	op_free(op);
	pthread_cond_broadcast(&sim.done);
}

static void *serve(void *arg)
{
	struct cu_stream_object *s = arg;

	prctl(PR_SET_TIMERSLACK, 1); /* sleeps are what links are made of */
	pthread_mutex_lock(&sim.lock);
	for (;;) {
		while (list_empty(&s->ops) && !s->dying)
			pthread_cond_wait(&s->work, &sim.lock);
		if (list_empty(&s->ops))
			break;
		serve_one(s, list_first(&s->ops, struct op, node));
	}
	s->running = false;
	list_del(&s->node);
	stream_unref(s);
	pthread_mutex_unlock(&sim.lock);
	return NULL;
}

/* Signals are the program's, not ours. */
static bool start_thread(struct cu_stream_object *s)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;
	int e;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	e = pthread_create(&thread, &attr, serve, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return !e;
}

cu_result stream_push(struct cu_stream_object *s, struct op *op)
{
	if (!op)
		return CU_E_OUT_OF_MEMORY;
	if (s->capture)
		return graph_keep(s->capture, op);
	if (!s->running) {
		s->refs++;
		s->running = start_thread(s);
		if (!s->running) {
			s->refs--;
			op_free(op);
			return CU_E_OPERATING_SYSTEM;
		}
	}
	op->number = s->last = ++sim.ops;
	list_add_tail(&op->node, &s->ops);
	pthread_cond_signal(&s->work);
	return CU_OK;
}

cu_result stream_wait_for(struct cu_stream_object *s, uint64_t number)
{
	cu_result r;

	if (s->capture)
		return graph_refuse(s->capture);
	s->refs++;
	while (!(r = context_state(s->ctx)) && has_older(s, number + 1))
		sim_wait();
	stream_unref(s);
	return r;
}

static cu_result create(struct cu_context_object *ctx, cu_stream *stream, unsigned flags, int priority)
{
	struct cu_stream_object *s;
	cu_result r;

	if (!stream || flags & ~(unsigned)CU_STREAM_NO_NULL_SYNC)
		return CU_E_INVALID_VALUE;
	r = stream_new(ctx, flags, priority, &s);
	if (!r)
		*stream = s->handle;
	return r;
}

EXPORT cu_result cuStreamCreate(cu_stream *stream, unsigned flags)
{
	ENTER(stream_create, NEEDS_CONTEXT);
	return create(call.ctx, stream, flags, 0);
}

EXPORT cu_result cuStreamCreateWithPriority(cu_stream *stream, unsigned flags, int priority)
{
	ENTER(stream_create_with_priority, NEEDS_CONTEXT);
	return create(call.ctx, stream, flags, MAX(-5, MIN(0, priority)));
}

EXPORT cu_result cuStreamDestroy_v2(cu_stream handle)
{
	struct cu_stream_object *s;

	ENTER(stream_destroy, NEEDS_CONTEXT);
	s = handle_get(HANDLE_STREAM, (uint64_t)(uintptr_t)handle);
	if (!s || s == s->ctx->null_stream)
		return CU_E_INVALID_HANDLE;
	stream_kill(s);
	return CU_OK;
}

/* With the null stream the blocking ones count as well. */
static bool is_busy(const struct cu_stream_object *s)
{
	if (s != s->ctx->null_stream)
		return !list_empty(&s->ops);
	list_for_each(it, &s->ctx->streams) {
		struct cu_stream_object *other = list_entry(it, struct cu_stream_object, node);

		if (other->blocking && !list_empty(&other->ops))
			return true;
	}
	return false;
}

EXPORT cu_result cuStreamQuery(cu_stream handle)
{
	struct cu_stream_object *s;
	cu_result r;

	ENTER(stream_query, NEEDS_CONTEXT);
	r = stream_of(context_current(), handle, &s);
	if (r)
		return r;
	return is_busy(s) ? CU_E_NOT_READY : CU_OK;
}

EXPORT cu_result cuStreamSynchronize(cu_stream handle)
{
	struct cu_stream_object *s;
	cu_result r;

	ENTER(stream_synchronize, NEEDS_CONTEXT);
	r = stream_of(context_current(), handle, &s);
	if (r)
		return r;
	if (s == s->ctx->null_stream) { /* an operation that does nothing is behind all that counts */
		r = stream_push(s, op_new(OP_HOST, CALL_stream_synchronize));
		if (r)
			return r;
	}
	return stream_wait_for(s, s->last);
}

EXPORT cu_result cuStreamGetCtx(cu_stream handle, cu_context *ctx)
{
	struct cu_stream_object *s;
	cu_result r;

	ENTER(stream_get_ctx, NEEDS_INIT);
	if (!ctx)
		return CU_E_INVALID_VALUE;
	r = stream_of(context_current(), handle, &s);
	if (!r)
		*ctx = s->ctx->handle;
	return r;
}

EXPORT cu_result cuLaunchHostFunc(cu_stream handle, cu_host_fn fn, void *data)
{
	struct cu_stream_object *s;
	struct op *op;
	cu_result r;

	ENTER(launch_host_func, NEEDS_CONTEXT);
	if (!fn)
		return CU_E_INVALID_VALUE;
	r = stream_of(call.ctx, handle, &s);
	if (r)
		return r;
	op = op_new(OP_HOST, CALL_launch_host_func);
	if (op) {
		op->fn = fn;
		op->data = data;
	}
	return stream_push(s, op);
}

/* Stream waits and writes: 64 bits in memory that devices see. */
static cu_result push_word(struct cu_context_object *ctx, enum op_kind kind, enum sim_call which, cu_stream handle,
	cu_ptr addr, cu_word value, unsigned flags)
{
	struct cu_stream_object *s;
	struct op *op;
	cu_result r = stream_of(ctx, handle, &s);

	if (r)
		return r;
	if (!device_attr(s->ctx->device, CU_ATTR_MEM_OPS_64))
		return CU_E_NOT_SUPPORTED;
	if (addr % sizeof value || range_check(s->ctx->device, addr, sizeof value, kind == OP_WRITE_VALUE))
		return CU_E_INVALID_VALUE;
	op = op_new(kind, which);
	if (op) {
		op->to = addr;
		op->value = value;
		op->flags = flags;
	}
	return stream_push(s, op);
}

EXPORT cu_result cuStreamWaitValue64_v2(cu_stream handle, cu_ptr addr, cu_word value, unsigned flags)
{
	ENTER(stream_wait_value_64, NEEDS_CONTEXT);
	if (flags & ~(unsigned)(CU_WAIT_NOR | CU_WAIT_FLUSH))
		return CU_E_INVALID_VALUE;
	if ((flags & 3) == CU_WAIT_NOR && !device_attr(call.ctx->device, CU_ATTR_WAIT_NOR))
		return CU_E_NOT_SUPPORTED;
	if (flags & CU_WAIT_FLUSH && !device_attr(call.ctx->device, CU_ATTR_FLUSH_REMOTE_WRITES))
		return CU_E_NOT_SUPPORTED;
	return push_word(call.ctx, OP_WAIT_VALUE, CALL_stream_wait_value_64, handle, addr, value, flags);
}

EXPORT cu_result cuStreamWriteValue64_v2(cu_stream handle, cu_ptr addr, cu_word value, unsigned flags)
{
	ENTER(stream_write_value_64, NEEDS_CONTEXT);
	if (flags & ~(unsigned)CU_WRITE_UNFENCED)
		return CU_E_INVALID_VALUE;
	return push_word(call.ctx, OP_WRITE_VALUE, CALL_stream_write_value_64, handle, addr, value, flags);
}
