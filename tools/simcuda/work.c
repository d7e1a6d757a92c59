/* work.c - whatever computes in a stream's order: kernels, and what the simulated libraries do.
 * Keeps: the addresses that work uses are checked when its turn comes, where a bad one is the sticky error it is on a
 * device, and stay there while it runs; work itself is never written, so a graph can run it again. */
#include "tools/simcuda/sim.h"

#include <string.h>

struct work {
	unsigned refs;
	const struct simcuda_work *kind;
	size_t bytes;
	_Alignas(16) unsigned char data[];
};

static struct work *work_new(const struct simcuda_work *kind, const void *data, size_t bytes)
{
	struct work *w = malloc(sizeof *w + bytes);

	if (!w)
		return NULL;
	*w = (struct work){.refs = 1, .kind = kind, .bytes = bytes};
	memcpy(w->data, data, bytes);
	return w;
}

void work_ref(struct work *w)
{
	w->refs++;
}

void work_unref(struct work *w)
{
	if (!--w->refs)
		free(w);
}

cu_result work_push(struct cu_stream_object *s, enum sim_call which, const struct simcuda_work *kind, const void *data,
	size_t bytes)
{
	struct op *op = op_new(OP_WORK, which);

	if (op)
		op->work = work_new(kind, data, bytes);
	if (op && !op->work) {
		free(op);
		op = NULL;
	}
	return stream_push(s, op);
}

/* Until *done spans are pinned and their pointers are ones that the CPU can use. */
static cu_result take_spans(const struct sim_device *d, struct simcuda_span *spans, unsigned n, unsigned *done)
{
	for (*done = 0; *done < n; ++*done) {
		struct simcuda_span *span = &spans[*done];
		cu_ptr at;

		memcpy(&at, span->pointer, sizeof at);
		if (!range_reach(d, at, span->bytes, span->writes))
			return CU_E_ILLEGAL_ADDRESS;
		range_pin(at, span->bytes);
		span->at = at;
		*(void **)span->pointer = range_cpu(at);
	}
	return CU_OK;
}

cu_result work_run(struct cu_stream_object *s, const struct op *op)
{
	struct simcuda_span spans[SIMCUDA_SPANS];
	void *data = malloc(op->work->bytes);
	unsigned done = 0;
	cu_result r;

	if (!data)
		return CU_E_OUT_OF_MEMORY;
	memcpy(data, op->work->data, op->work->bytes);
	r = take_spans(s->ctx->device, spans, op->work->kind->spans(data, spans), &done);
	if (!r) {
		pthread_mutex_unlock(&sim.lock);
		op->work->kind->run(data);
		pthread_mutex_lock(&sim.lock);
	}
	while (done > 0) {
		done--;
		range_unpin(spans[done].at, spans[done].bytes);
	}
	free(data);
	return r;
}

EXPORT int simcuda_work(void *stream, const struct simcuda_work *kind, const void *data, size_t bytes)
{
	struct cu_stream_object *s;
	cu_result r;

	ENTER(launch_kernel, NEEDS_CONTEXT);
	r = stream_of(call.ctx, stream, &s);
	return (int)(r ? r : work_push(s, CALL_launch_kernel, kind, data, bytes));
}
