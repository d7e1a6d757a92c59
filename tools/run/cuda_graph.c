/* cuda_graph.c - a pass as one graph.
 * A pass that is asked for a second time with the very same calls is captured and from then on launched as a whole;
 * the first time it runs call by call, so that a cold start pays for no graph.
 * Keeps: a graph's launches are those of its calls one by one, hence its result; a graph dies before memory it uses. */
#include "tools/run/cuda_backend.h"

#include <stdlib.h>
#include <string.h>

const char *cuda_graph_missing(const struct cuda_backend *c)
{
	const struct cuda *cu = c->cu;
	bool all = cu->stream_begin_capture && cu->stream_end_capture && cu->graph_instantiate && cu->graph_launch &&
		cu->graph_exec_destroy && cu->graph_destroy;
	return all ? NULL : "the driver has none";
}

void cuda_graph_drop(struct cuda_backend *c)
{
	if (c->graph.exec)
		c->cu->graph_exec_destroy(c->graph.exec);
	free(c->graph.calls);
	c->graph = (struct cuda_graph){0};
}

static int run_each(struct cuda_backend *c, const struct call *calls, uint32_t n, struct fault *why)
{
	int r = 0;
	for (uint32_t i = 0; !r && i < n; i++)
		r = backend_cuda.run[calls[i].layer->op](&c->base, &calls[i], why);
	return r;
}

/* A decoder's steps differ in how much is in the cache: none comes again. */
static bool is_step(const struct call *calls, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (calls[i].layer->causal && calls[i].past)
			return true;
	return false;
}

static int remember(struct cuda_backend *c, const struct call *calls, uint32_t n, struct fault *why)
{
	cuda_graph_drop(c);
	c->graph.calls = malloc(n * sizeof *calls);
	if (!c->graph.calls)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a graph's calls");
	memcpy(c->graph.calls, calls, n * sizeof *calls);
	c->graph.n = n;
	return 0;
}

static int capture(struct cuda_backend *c, struct cuda_graph *g, struct fault *why)
{
	cu_graph graph = NULL;
	int r = cuda_check(c, c->cu->stream_begin_capture(c->stream, CU_CAPTURE_THREAD), "cuStreamBeginCapture", why);
	if (r)
		return r;
	r = run_each(c, g->calls, g->n, why);
	cu_result e = c->cu->stream_end_capture(c->stream, &graph); /* in any case */
	if (!r)
		r = cuda_check(c, e, "cuStreamEndCapture", why);
	if (!r)
		r = cuda_check(c, c->cu->graph_instantiate(&g->exec, graph, 0), "cuGraphInstantiate", why);
	if (graph)
		c->cu->graph_destroy(graph);
	return r;
}

int cuda_run_all(struct backend *b, const struct call *calls, uint32_t n, struct fault *why)
{
	struct cuda_backend *c = cuda_of(b);
	struct cuda_graph *g = &c->graph;
	if (cuda_graph_missing(c) || is_step(calls, n))
		return run_each(c, calls, n, why);
	if (!g->calls || g->n != n || memcmp(g->calls, calls, n * sizeof *calls) != 0) {
		int r = remember(c, calls, n, why);
		return r ? r : run_each(c, calls, n, why);
	}
	int r = g->exec ? 0 : capture(c, g, why);
	if (!r)
		r = cuda_check(c, c->cu->graph_launch(g->exec, c->stream), "cuGraphLaunch", why);
	c->base.graph_launches += !r;
	return r;
}
