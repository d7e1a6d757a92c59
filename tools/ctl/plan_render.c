/* plan_render.c - see plan_render.h. */
#include "tools/ctl/plan_render.h"

#include "tools/gantt.h"
#include "tools/text.h"

#include <inttypes.h>
#include <stdlib.h>

static const char *how_name(uint8_t how)
{
	return how == PLAN_DHA ? "host" : how == PLAN_NOTHING ? "nothing" : how & PLAN_JOIN ? "load, joined" : "load";
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* ---- text ---- */

static void text_head(const struct planned *p, FILE *out)
{
	const struct plan_figures *f = &p->figures;
	const struct plan_machine *m = &p->machine->plan;
	char bytes[TEXT_NUMBER], traffic[TEXT_NUMBER];
	text_put_clean(out, p->model);
	fprintf(out, ", batch %u, on ", p->profile->batch);
	text_put_clean(out, p->machine->name);
	fprintf(out, "\n%s: %.3f ms, of which %.3f ms stalled; %s loaded, %u of %u layers read from the host (%s of traffic)\n",
		plan_policy_name(p->policy), ms(f->total_ns), ms(f->stall_ns), text_bytes(bytes, f->resident_bytes), f->dha_layers,
		p->profile->n_layers, text_bytes(traffic, f->dha_bytes));
	if (!f->exact)
		fprintf(out, "not proven to be the shortest; none is under %.3f ms\n", ms(f->bound_ns));
	for (uint32_t k = 0; k < m->n_links; k++)
		if (f->link_bytes[k]) {
			fputs("over ", out);
			text_put_clean(out, p->machine->links[k]);
			fprintf(out, ": %s\n", text_bytes(bytes, f->link_bytes[k]));
		}
	fprintf(out, "with the first %u layers kept in device memory (%s), the rest delays nothing\n\n", p->keep_layers,
		text_bytes(bytes, p->keep_bytes));
}

/* A number of milliseconds, or nothing. */
static void add_ms(struct grid *g, bool shown, uint64_t ns)
{
	if (shown)
		grid_add(g, "%.3f", ms(ns));
	else
		grid_add(g, "%s", "");
}

static void text_layers(const struct planned *p, FILE *out)
{
	static const char *const titles[] = {"#", "LAYER", "BYTES", "HOW", "LINK", "LOAD", "", "RUN", "", "STALL"};
	struct grid *g = grid_new("rlrllrrrrr");
	char bytes[TEXT_NUMBER];
	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s", titles[i]);
	for (uint32_t i = 0; i < p->profile->n_layers; i++) {
		const struct plan_step *s = &p->steps[i];
		bool load = plan_is_load(p->how[i]), linked = load || p->how[i] == PLAN_DHA;
		grid_add(g, "%u", i);
		grid_add(g, "%s", p->profile->names[i]);
		grid_add(g, "%s", text_bytes(bytes, p->profile->layers[i].bytes));
		grid_add(g, "%s", how_name(p->how[i]));
		grid_add(g, "%s", load ? p->machine->links[plan_link(p->how[i])] : "");
		add_ms(g, linked, s->load_begin_ns);
		add_ms(g, linked, s->load_end_ns);
		grid_add(g, "%.3f", ms(s->exec_begin_ns));
		grid_add(g, "%.3f", ms(s->exec_end_ns));
		add_ms(g, s->stall_ns, s->stall_ns);
	}
	grid_print(g, out);
	grid_free(&g);
}

static void text_others(const struct planned *p, FILE *out)
{
	static const char *const titles[] = {"POLICY", "ms", "LOADED", "DHA", "ms BY DEEPPLAN'S MODEL", ""};
	struct grid *g = grid_new("lrrrrl");
	char bytes[TEXT_NUMBER];
	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s", titles[i]);
	for (unsigned i = 0; i < PLAN_POLICIES; i++) {
		const struct plan_other *o = &p->others[i];
		bool any = o->figures.total_ns;
		grid_add(g, "%s", plan_policy_name(i));
		grid_add(g, any ? "%.3f" : "no room", ms(o->figures.total_ns));
		grid_add(g, "%s", any ? text_bytes(bytes, o->figures.resident_bytes) : "");
		if (any)
			grid_add(g, "%u", o->figures.dha_layers);
		else
			grid_add(g, "%s", "");
		add_ms(g, any, o->uncharged_ns);
		grid_add(g, "%s", plan_policy_doc(i));
	}
	fputc('\n', out);
	grid_print(g, out);
	grid_free(&g);
}

void plan_render_text(const struct planned *p, FILE *out)
{
	text_head(p, out);
	text_layers(p, out);
	text_others(p, out);
}

/* ---- JSON ---- */

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* Links of other GPUs, numbered from 1 in the order of their indices; 0: the target's own. */
static unsigned helper_number(const struct planned *p, unsigned link)
{
	unsigned n = 0;
	for (unsigned k = 0; k <= link; k++)
		n += k != p->machine->plan.target && p->figures.link_bytes[k];
	return link == p->machine->plan.target ? 0 : n;
}

/* What an open takes: tensors in the order of execution. */
static json_t *json_plan(const struct planned *p)
{
	json_t *helpers = json_array(), *tensors = json_array();
	uint64_t total = MAX(p->figures.total_ns, 1);
	for (unsigned k = 0; k < p->machine->plan.n_links; k++)
		if (k != p->machine->plan.target && p->figures.link_bytes[k])
			json_array_append_new(helpers, json_string(p->machine->links[k]));
	for (uint32_t i = 0; i < p->profile->n_layers; i++) {
		const struct plan_layer *l = &p->profile->layers[i];
		bool load = plan_is_load(p->how[i]), named = p->how[i] != PLAN_NOTHING && !l->same_as;
		for (uint32_t t = 0; named && t < l->n_tensors; t++)
			json_array_append_new(tensors, json_pack("{s:s, s:s, s:i, s:i}", "tensor",
				p->profile->tensors[l->first_tensor + t], "place", load ? "load" : "dha", "link",
				load ? (int)helper_number(p, plan_link(p->how[i])) : 0, "step", (int)i));
	}
	return json_pack("{s:s, s:o, s:o, s:o, s:o}", "model", p->model, "keep_bytes", number(p->keep_bytes), "dha_bytes_per_s",
		number((uint64_t)((double)p->figures.dha_bytes * 1e9 / (double)total)), "helpers", helpers, "tensors", tensors);
}

static json_t *json_layers(const struct planned *p)
{
	json_t *layers = json_array();
	for (uint32_t i = 0; i < p->profile->n_layers; i++) {
		const struct plan_step *s = &p->steps[i];
		bool load = plan_is_load(p->how[i]);
		json_array_append_new(layers, json_pack("{s:s, s:o, s:s, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
			p->profile->names[i], "bytes", number(p->profile->layers[i].bytes), "place",
			load ? "load" : p->how[i] == PLAN_DHA ? "dha" : "nothing", "link",
			load ? json_string(p->machine->links[plan_link(p->how[i])]) : json_null(), "joined",
			(int)(load && (p->how[i] & PLAN_JOIN)), "load_begin_ns", number(s->load_begin_ns), "load_end_ns",
			number(s->load_end_ns), "ready_ns", number(s->ready_ns), "exec_begin_ns", number(s->exec_begin_ns),
			"exec_end_ns", number(s->exec_end_ns), "stall_ns", number(s->stall_ns)));
	}
	return layers;
}

static json_t *json_figures(const struct plan_figures *f)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:i, s:i, s:b, s:o}", "total_ns", number(f->total_ns), "stall_ns",
		number(f->stall_ns), "resident_bytes", number(f->resident_bytes), "dha_bytes", number(f->dha_bytes), "dha_layers",
		(int)f->dha_layers, "pieces", (int)f->pieces, "exact", (int)f->exact, "bound_ns", number(f->bound_ns));
}

static json_t *json_others(const struct planned *p)
{
	json_t *others = json_object();
	for (unsigned i = 0; i < PLAN_POLICIES; i++) {
		if (p->others[i].figures.total_ns == 0)
			continue;
		json_t *o = json_figures(&p->others[i].figures);
		json_object_set_new(o, "uncharged_ns", number(p->others[i].uncharged_ns));
		json_object_set_new(others, plan_policy_name(i), o);
	}
	return others;
}

json_t *plan_render_json(const struct planned *p)
{
	json_t *links = json_object();
	for (uint32_t k = 0; k < p->machine->plan.n_links; k++)
		if (p->figures.link_bytes[k])
			json_object_set_new(links, p->machine->links[k], number(p->figures.link_bytes[k]));
	return json_pack("{s:o, s:s, s:s, s:s, s:i, s:o, s:o, s:i, s:o, s:o}", "plan", json_plan(p), "model", p->model, "machine",
		p->machine->name, "policy", plan_policy_name(p->policy), "batch", (int)p->profile->batch, "predicted",
		json_figures(&p->figures), "link_bytes", links, "keep_layers", (int)p->keep_layers, "layers", json_layers(p),
		"policies", json_others(p));
}

/* ---- picture ---- */

void plan_render_gantt(const struct planned *p, FILE *out)
{
	enum { LOADS, TRAFFIC, RUNS, RUNS_BY_DHA };
	static const char *const kinds[] = {[LOADS] = "load", [TRAFFIC] = "traffic", [RUNS] = "run",
		[RUNS_BY_DHA] = "run from host"};
	const struct plan_machine *m = &p->machine->plan;
	const char *rows[PLAN_MAX_LINKS + 1];
	unsigned row_of[PLAN_MAX_LINKS] = {0}, n_rows = 0;
	size_t n = 0;
	struct gantt_bar *bars = calloc(2 * (size_t)p->profile->n_layers, sizeof *bars);
	char title[256];
	for (uint32_t k = 0; k < m->n_links; k++)
		if (k == m->target || p->figures.link_bytes[k]) {
			row_of[k] = n_rows;
			rows[n_rows++] = p->machine->links[k];
		}
	rows[n_rows] = "execution";
	for (uint32_t i = 0; bars && i < p->profile->n_layers; i++) {
		const struct plan_step *s = &p->steps[i];
		bool load = plan_is_load(p->how[i]), dha = p->how[i] == PLAN_DHA;
		unsigned row = row_of[load ? plan_link(p->how[i]) : m->target];
		bars[n++] = (struct gantt_bar){row, dha ? TRAFFIC : LOADS, s->load_begin_ns, s->load_end_ns, p->profile->names[i]};
		bars[n++] = (struct gantt_bar){n_rows, dha ? RUNS_BY_DHA : RUNS, s->exec_begin_ns, s->exec_end_ns,
			p->profile->names[i]};
	}
	snprintf(title, sizeof title, "%s, %s: %.2f ms predicted", p->model, plan_policy_name(p->policy), ms(p->figures.total_ns));
	gantt_write(out, title, rows, n_rows + 1, kinds, ARRAY_LEN(kinds), bars, n, p->figures.total_ns);
	free(bars);
}
