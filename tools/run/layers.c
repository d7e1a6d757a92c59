/* layers.c - trims-run layers: what a model is run as. */
#include "tools/run/run.h"

#include "shared/image.h"
#include "tools/text.h"

#include <stdlib.h>

struct shapes {
	struct shape *x, *y;
};

static void print_grid(const struct net *net, const struct shapes *s)
{
	struct grid *g = grid_new("rllrl");
	char bytes[TEXT_NUMBER];
	for (uint32_t i = 0; i < net->n_layers; i++) {
		const struct layer *l = &net->layers[i];
		grid_add(g, "%u", i);
		grid_add(g, "%s", l->name);
		grid_add(g, "%s", op_name(l->op));
		grid_add(g, "%s", l->weight_bytes ? text_bytes(bytes, l->weight_bytes) : "-");
		if (s->y[i].h * s->y[i].w > 1)
			grid_add(g, "%u x %u x %u x %u", s->y[i].n, s->y[i].c, s->y[i].h, s->y[i].w);
		else
			grid_add(g, "%u x %u x %u", s->y[i].n, s->y[i].t, s->y[i].c);
	}
	grid_print(g, stdout);
	grid_free(&g);
}

static void print_list(const struct net *net, const struct shapes *s)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < net->n_layers; i++) {
		const struct layer *l = &net->layers[i];
		json_t *tensors = json_array();
		for (unsigned role = 0; role < NET_MAX_WEIGHTS; role++)
			if (l->w[role].tensor != WEIGHT_NONE)
				json_array_append_new(tensors, json_integer(l->w[role].tensor));
		json_array_append_new(list, json_pack("{s:i,s:s,s:s,s:I,s:[i,i,i,i,i],s:o}", "index", (int)i, "name", l->name, "op",
			op_name(l->op), "bytes", (json_int_t)l->weight_bytes, "result", (int)s->y[i].n, (int)s->y[i].t, (int)s->y[i].c,
			(int)s->y[i].h, (int)s->y[i].w, "tensors", tensors));
	}
	json_t *j = json_pack("{s:s,s:o}", "family", net->family, "layers", list);
	run_print_json(j);
	json_decref(j);
}

int run_layers(struct run *r)
{
	struct session s = {0};
	struct fault why = {0};
	struct shapes shapes = {0};
	int e = session_open(&s, r, &why);
	if (!e && !(shapes.x = calloc(2 * (size_t)s.net->n_layers, sizeof *shapes.x)))
		e = fault_set(&why, TRIMS_E_NO_MEMORY, "no memory for shapes");
	if (!e) {
		shapes.y = shapes.x + s.net->n_layers;
		net_shapes(s.net, r->batch, r->tokens ? r->tokens : MIN(128u, MAX(s.net->max_tokens, 1u)), shapes.x, shapes.y, NULL);
		if (r->given & OPT_json)
			print_list(s.net, &shapes);
		else
			print_grid(s.net, &shapes);
	}
	free(shapes.x);
	session_close(&s);
	return e ? run_fail(r, &why) : RUN_DONE;
}
