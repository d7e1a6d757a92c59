/* graph.c - what a stream would have done, kept to be done again.
 * Keeps: a stream that is captured runs nothing; what cannot be captured ends the capture, which then gives no graph; a graph is
 * in `captures` while it is being captured. */
#include "tools/simcuda/sim.h"

struct graph {
	struct list ops;
	uint64_t handle; /* 0: it is being captured */
	bool broken;
	struct list node;
	cu_capture_mode mode;
	pthread_t by;
};

static struct list captures = {&captures, &captures};
static _Thread_local cu_capture_mode mode_of_thread = CU_CAPTURE_GLOBAL;

static struct graph *graph_new(void)
{
	struct graph *g = calloc(1, sizeof *g);

	if (g) {
		list_init(&g->ops);
		list_init(&g->node);
	}
	return g;
}

void graph_free(struct graph *g)
{
	while (!list_empty(&g->ops)) {
		struct op *op = list_first(&g->ops, struct op, node);

		list_del(&op->node);
		op_free(op);
	}
	list_del(&g->node);
	free(g);
}

/* Events would make forks and joins, which no graph has here; waits for memory and writes to it are nodes as others are. */
static bool can_be_kept(const struct op *op)
{
	return op->kind != OP_RECORD && op->kind != OP_WAIT_EVENT;
}

cu_result graph_keep(struct graph *g, struct op *op)
{
	if (can_be_kept(op) && !g->broken) {
		list_add_tail(&op->node, &g->ops);
		return CU_OK;
	}
	g->broken = true;
	op_free(op);
	return CU_E_STREAM_CAPTURE_UNSUPPORTED;
}

cu_result graph_refuse(struct graph *g)
{
	g->broken = true;
	return CU_E_STREAM_CAPTURE_UNSUPPORTED;
}

cu_result graph_unsafe(void)
{
	if (mode_of_thread == CU_CAPTURE_RELAXED)
		return CU_OK;
	list_for_each(it, &captures) {
		struct graph *g = list_entry(it, struct graph, node);
		bool mine = pthread_equal(g->by, pthread_self());

		if (mine ? g->mode != CU_CAPTURE_RELAXED : mode_of_thread == CU_CAPTURE_GLOBAL && g->mode == CU_CAPTURE_GLOBAL)
			return graph_refuse(g);
	}
	return CU_OK;
}

EXPORT cu_result cuThreadExchangeStreamCaptureMode(cu_capture_mode *mode)
{
	cu_capture_mode before = mode_of_thread;

	ENTER(thread_exchange_capture_mode, NEEDS_INIT);
	if (!mode || *mode > CU_CAPTURE_RELAXED)
		return CU_E_INVALID_VALUE;
	mode_of_thread = *mode;
	*mode = before;
	return CU_OK;
}

static struct op *op_copy(const struct op *op)
{
	struct op *copy = op_new(op->kind, op->call);

	if (!copy)
		return NULL;
	*copy = *op;
	list_init(&copy->node);
	if (copy->work)
		work_ref(copy->work);
	return copy;
}

EXPORT cu_result cuStreamBeginCapture_v2(cu_stream handle, cu_capture_mode mode)
{
	struct cu_stream_object *s;
	cu_result r;

	ENTER(stream_begin_capture, NEEDS_CONTEXT);
	if (mode > CU_CAPTURE_RELAXED)
		return CU_E_INVALID_VALUE;
	r = stream_of(call.ctx, handle, &s);
	if (r)
		return r;
	if (s == s->ctx->null_stream)
		return CU_E_STREAM_CAPTURE_UNSUPPORTED;
	if (s->capture)
		return CU_E_ILLEGAL_STATE;
	s->capture = graph_new();
	if (!s->capture)
		return CU_E_OUT_OF_MEMORY;
	s->capture->mode = mode;
	s->capture->by = pthread_self();
	list_add_tail(&s->capture->node, &captures);
	return CU_OK;
}

EXPORT cu_result cuStreamIsCapturing(cu_stream handle, cu_capture_status *status)
{
	struct cu_stream_object *s;
	cu_result r;

	ENTER(stream_is_capturing, NEEDS_CONTEXT);
	if (!status)
		return CU_E_INVALID_VALUE;
	r = stream_of(call.ctx, handle, &s);
	if (!r)
		*status = !s->capture ? CU_CAPTURE_NONE : s->capture->broken ? CU_CAPTURE_BROKEN : CU_CAPTURE_ACTIVE;
	return r;
}

EXPORT cu_result cuStreamEndCapture(cu_stream handle, cu_graph *graph)
{
	struct cu_stream_object *s;
	struct graph *g;
	cu_result r;

	ENTER(stream_end_capture, NEEDS_CONTEXT);
	if (!graph)
		return CU_E_INVALID_VALUE;
	*graph = NULL;
	r = stream_of(call.ctx, handle, &s);
	if (r)
		return r;
	g = s->capture;
	if (!g)
		return CU_E_ILLEGAL_STATE;
	s->capture = NULL;
	list_del(&g->node);
	r = g->broken ? CU_E_STREAM_CAPTURE_INVALIDATED : CU_OK;
	g->handle = r ? 0 : handle_new(HANDLE_GRAPH, g);
	if (!g->handle) {
		graph_free(g);
		return r ? r : CU_E_OUT_OF_MEMORY;
	}
	*graph = (cu_graph)(uintptr_t)g->handle;
	return CU_OK;
}

EXPORT cu_result cuGraphInstantiateWithFlags(cu_graph_exec *exec, cu_graph graph, cu_flags64 flags)
{
	struct graph *g, *e;

	ENTER(graph_instantiate, NEEDS_CONTEXT);
	g = handle_get(HANDLE_GRAPH, (uint64_t)(uintptr_t)graph);
	if (!exec || flags || !g)
		return CU_E_INVALID_VALUE;
	e = graph_new();
	if (!e)
		return CU_E_OUT_OF_MEMORY;
	list_for_each(it, &g->ops) {
		struct op *op = op_copy(list_entry(it, struct op, node));

		e->broken = e->broken || !op;
		if (op)
			list_add_tail(&op->node, &e->ops);
	}
	e->handle = e->broken ? 0 : handle_new(HANDLE_GRAPH_EXEC, e);
	if (!e->handle) {
		graph_free(e);
		return CU_E_OUT_OF_MEMORY;
	}
	*exec = (cu_graph_exec)(uintptr_t)e->handle;
	return CU_OK;
}

EXPORT cu_result cuGraphLaunch(cu_graph_exec exec, cu_stream handle)
{
	struct cu_stream_object *s;
	struct graph *e;
	cu_result r;

	ENTER(graph_launch, NEEDS_CONTEXT);
	e = handle_get(HANDLE_GRAPH_EXEC, (uint64_t)(uintptr_t)exec);
	if (!e)
		return CU_E_INVALID_VALUE;
	r = stream_of(call.ctx, handle, &s);
	if (!r && s->capture) /* graphs in graphs are not simulated */
		r = graph_refuse(s->capture);
	list_for_each(it, &e->ops)
		r = r ? r : stream_push(s, op_copy(list_entry(it, struct op, node)));
	return r;
}

static cu_result destroy(enum handle_kind kind, uint64_t handle)
{
	struct graph *g = handle_get(kind, handle);

	if (!g)
		return CU_E_INVALID_VALUE;
	handle_end(kind, handle);
	graph_free(g);
	return CU_OK;
}

EXPORT cu_result cuGraphExecDestroy(cu_graph_exec exec)
{
	ENTER(graph_exec_destroy, NEEDS_INIT);
	return destroy(HANDLE_GRAPH_EXEC, (uint64_t)(uintptr_t)exec);
}

EXPORT cu_result cuGraphDestroy(cu_graph graph)
{
	ENTER(graph_destroy, NEEDS_INIT);
	return destroy(HANDLE_GRAPH, (uint64_t)(uintptr_t)graph);
}
