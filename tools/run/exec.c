/* exec.c - the walk over the layers.
 * Keeps: calls are the same in every mode, but for where weights are; so are results. */
#include "tools/run/exec.h"

#include "tools/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* All calls of one kind of pass: the prompt's, or one token's. */
struct program {
	struct call *calls;
	uint32_t t;
};

struct exec {
	struct backend *backend;
	const struct net *net;
	struct weights *weights;
	uint32_t n, t, room, past;
	struct program prompt, step; /* step: made when it is first needed */
	float *slots[NET_SLOTS];
	size_t slot_floats[NET_SLOTS];
	int32_t *index[INDEX_KINDS], *lengths; /* in the backend's memory */
	float **caches;                        /* [2 * n_caches]: k and v in turn */
	int32_t *positions, *types, *ones;     /* [n * room], here; as they are from put() to the end of the pass */
	bool timed;
	uint64_t *layer_ns, *began_ns;
};

static int take(struct exec *e, size_t bytes, void *out, struct fault *why)
{
	return e->backend->ops->alloc(e->backend, bytes, out, why);
}

/* ---- making ---- */

static int alloc_caches(struct exec *e, struct fault *why)
{
	uint32_t n = 2 * e->net->n_caches;
	size_t bytes = (size_t)e->n * e->room * e->net->cache_width * sizeof(float);
	if (!n)
		return 0;
	e->caches = calloc(n, sizeof *e->caches);
	if (!e->caches)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the caches' list");
	int r = 0;
	for (uint32_t i = 0; !r && i < n; i++)
		r = take(e, bytes, &e->caches[i], why);
	return r;
}

static int alloc_all(struct exec *e, struct fault *why)
{
	int r = 0;
	for (unsigned i = 0; !r && i < NET_SLOTS; i++)
		if (e->slot_floats[i])
			r = take(e, e->slot_floats[i] * sizeof(float), &e->slots[i], why);
	for (unsigned i = 0; !r && e->net->input == NET_TOKENS && i < INDEX_KINDS; i++)
		r = take(e, (size_t)e->n * e->room * sizeof(int32_t), &e->index[i], why);
	if (!r)
		r = take(e, e->n * sizeof(int32_t), &e->lengths, why);
	return r ? r : alloc_caches(e, why);
}

static void fill_call(const struct exec *e, const struct layer *l, struct call *c)
{
	c->layer = l;
	c->x = l->op == OP_EMBED ? NULL : e->slots[l->x];
	c->x2 = l->x2 == SLOT_NONE ? NULL : e->slots[l->x2];
	c->y = e->slots[l->y];
	c->lengths = e->lengths;
	if (l->op == OP_EMBED)
		c->index = e->index[l->index];
	if (l->op == OP_ATTEND && l->causal) {
		c->cache_tokens = e->room;
		c->cache_k = e->caches[2 * l->cache];
		c->cache_v = e->caches[2 * l->cache + 1];
	}
}

/* The calls of passes over t tokens.  Attention is prepared for as many as there can be in its cache. */
static int make_program(struct exec *e, uint32_t t, struct program *p, size_t slots[NET_SLOTS], struct fault *why)
{
	uint32_t layers = e->net->n_layers;
	struct shape *x = calloc(2 * (size_t)layers, sizeof *x);
	p->calls = calloc(layers, sizeof *p->calls);
	p->t = t;
	if (!x || !p->calls) {
		free(x);
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %u calls", layers);
	}
	struct shape *y = x + layers;
	net_shapes(e->net, e->n, t, x, y, slots);
	for (uint32_t i = 0; i < layers; i++) {
		p->calls[i].xs = x[i];
		p->calls[i].ys = y[i];
	}
	free(x);
	return 0;
}

static int prepare(struct exec *e, struct program *p, struct fault *why)
{
	for (uint32_t i = 0; i < e->net->n_layers; i++) {
		fill_call(e, &e->net->layers[i], &p->calls[i]);
		memcpy(p->calls[i].w, weights_operands(e->weights, i), sizeof p->calls[i].w);
		p->calls[i].past = e->room - p->t;
	}
	return e->backend->ops->prepare(e->backend, p->calls, e->net->n_layers, why);
}

int exec_new(struct backend *b, const struct net *net, struct weights *w, uint32_t n, uint32_t t, uint32_t more,
	struct exec **out, struct fault *why)
{
	struct exec *e = calloc(1, sizeof *e);
	if (!e)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a pass");
	*e = (struct exec){.backend = b, .net = net, .weights = w, .n = n, .t = t, .room = t + more};
	e->layer_ns = calloc(net->n_layers, sizeof *e->layer_ns);
	e->began_ns = calloc(net->n_layers, sizeof *e->began_ns);
	e->positions = calloc((size_t)n * e->room, sizeof *e->positions);
	e->types = calloc((size_t)n * e->room, sizeof *e->types);
	e->ones = calloc(n, sizeof *e->ones);
	bool all = e->layer_ns && e->began_ns && e->positions && e->types && e->ones;
	int r = all ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a pass");
	for (uint32_t i = 0; !r && i < n; i++)
		e->ones[i] = 1;
	if (!r)
		r = make_program(e, t, &e->prompt, e->slot_floats, why);
	if (!r)
		r = alloc_all(e, why);
	if (!r)
		r = prepare(e, &e->prompt, why);
	if (r)
		exec_free(&e);
	else
		*out = e;
	return r;
}

void exec_free(struct exec **out)
{
	struct exec *e = *out;
	if (!e)
		return;
	const struct backend_ops *ops = e->backend->ops;
	for (unsigned i = 0; i < NET_SLOTS; i++)
		ops->free(e->backend, e->slots[i]);
	for (unsigned i = 0; i < INDEX_KINDS; i++)
		ops->free(e->backend, e->index[i]);
	for (uint32_t i = 0; e->caches && i < 2 * e->net->n_caches; i++)
		ops->free(e->backend, e->caches[i]);
	ops->free(e->backend, e->lengths);
	free(e->caches);
	free(e->prompt.calls);
	free(e->step.calls);
	free(e->layer_ns);
	free(e->began_ns);
	free(e->positions);
	free(e->types);
	free(e->ones);
	free(e);
	*out = NULL;
}

/* ---- input ---- */

static int put(struct exec *e, void *to, const void *from, size_t bytes, struct fault *why)
{
	return e->backend->ops->put(e->backend, to, from, bytes, why);
}

/* Positions go up by one a token; all tokens are of type 0. */
static int put_positions(struct exec *e, uint32_t t, uint32_t first, struct fault *why)
{
	size_t bytes = (size_t)e->n * t * sizeof *e->positions;
	for (uint32_t i = 0; i < e->n * t; i++)
		e->positions[i] = (int32_t)(e->net->first_position + first + i % t);
	int r = put(e, e->index[INDEX_POSITION], e->positions, bytes, why);
	return r ? r : put(e, e->index[INDEX_TYPE], e->types, bytes, why);
}

int exec_put_tokens(struct exec *e, const int32_t *tokens, const int32_t *lengths, struct fault *why)
{
	int r = put(e, e->index[INDEX_TOKEN], tokens, (size_t)e->n * e->t * sizeof *tokens, why);
	if (!r)
		r = put(e, e->lengths, lengths, e->n * sizeof *lengths, why);
	e->past = 0;
	return r ? r : put_positions(e, e->t, 0, why);
}

int exec_put_image(struct exec *e, const float *image, struct fault *why)
{
	struct shape s = {e->n, 1, e->net->channels, e->net->pixels, e->net->pixels};
	e->past = 0;
	return put(e, e->slots[0], image, shape_elements(s) * sizeof *image, why);
}

/* ---- passes ---- */

static int run_layer(struct exec *e, struct call *c, uint32_t i, struct fault *why)
{
	const struct backend_ops *ops = e->backend->ops;
	int r = weights_layer(e->weights, i, why);
	if (e->timed)
		e->began_ns[i] = clock_ns();
	if (!r && e->timed)
		r = ops->stamp(e->backend, 0, why);
	if (!r)
		r = ops->run[c->layer->op](e->backend, c, why);
	if (!r && e->timed)
		r = ops->stamp(e->backend, 1, why) || ops->finish(e->backend, why) ? -EPROTO : 0;
	if (!r && e->timed)
		e->layer_ns[i] = ops->between_ns(e->backend, 0, 1);
	return r;
}

static int run_program(struct exec *e, struct program *p, struct fault *why)
{
	const struct backend_ops *ops = e->backend->ops;
	int r = weights_start(e->weights, why);
	bool whole = ops->run_all && !e->timed && weights_all_there(e->weights);
	for (uint32_t i = 0; i < e->net->n_layers; i++) {
		memcpy(p->calls[i].w, weights_operands(e->weights, i), sizeof p->calls[i].w);
		p->calls[i].past = e->past;
	}
	for (uint32_t i = 0; !r && !whole && i < e->net->n_layers; i++)
		r = run_layer(e, &p->calls[i], i, why);
	if (!r && whole)
		r = ops->run_all(e->backend, p->calls, e->net->n_layers, why);
	if (!r)
		r = ops->finish(e->backend, why);
	return r ? r : weights_settle(e->weights, why);
}

int exec_pass(struct exec *e, struct fault *why)
{
	int r = run_program(e, &e->prompt, why);
	e->past = e->t;
	return r;
}

int exec_step(struct exec *e, const int32_t *tokens, struct fault *why)
{
	int r = 0;
	if (e->past == e->room)
		return fault_set(why, TRIMS_E_LIMIT, "no room for another token");
	if (!e->step.calls)
		r = make_program(e, 1, &e->step, NULL, why) || prepare(e, &e->step, why) ? -EPROTO : 0;
	if (!r)
		r = put(e, e->lengths, e->ones, e->n * sizeof *e->ones, why);
	if (!r)
		r = put(e, e->index[INDEX_TOKEN], tokens, e->n * sizeof *tokens, why);
	if (!r)
		r = put_positions(e, 1, e->past, why);
	if (!r)
		r = run_program(e, &e->step, why);
	e->past++;
	return r;
}

int exec_result(struct exec *e, float *out, struct fault *why)
{
	return e->backend->ops->get(e->backend, out, e->slots[e->net->result], (size_t)e->n * e->net->result_width * sizeof *out,
		why);
}

void exec_time_layers(struct exec *e, bool on)
{
	e->timed = on;
}

uint64_t exec_layer_began_ns(const struct exec *e, uint32_t layer)
{
	return e->began_ns[layer];
}

uint64_t exec_layer_ns(const struct exec *e, uint32_t layer)
{
	return e->layer_ns[layer];
}
