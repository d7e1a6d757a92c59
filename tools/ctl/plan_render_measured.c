/* plan_render_measured.c - a prediction beside what trims-run infer --layers measured.  See plan_render.h. */
#include "tools/ctl/plan_render.h"

#include "tools/text.h"

#include <string.h>

static uint64_t ns_of(const json_t *row, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(row, key));
	return v > 0 ? (uint64_t)v : 0;
}

static const char *name_of(const json_t *row)
{
	const char *name = json_string_value(json_object_get(row, "name"));
	return name ? name : "";
}

int plan_measured_check(const struct planned *p, const json_t *measured, const char *path, struct fault *why)
{
	const json_t *layers = json_object_get(measured, "layers"), *row;
	json_int_t batch = json_integer_value(json_object_get(measured, "batch"));
	size_t i;
	if (json_array_size(layers) != p->profile->n_layers)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: it has times of %zu layers, the profile has %u; they come from trims-run "
			"infer --layers --json", path, json_array_size(layers), p->profile->n_layers);
	if (batch != (json_int_t)p->profile->batch)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: it ran a batch of %lld, the plan is for one of %u", path, (long long)batch,
			p->profile->batch);
	json_array_foreach(layers, i, row) {
		if (strcmp(name_of(row), p->profile->names[i]))
			return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: layer %zu is %.100s, that of the profile is %.100s", path, i, name_of(row),
				p->profile->names[i]);
		if (!ns_of(row, "end_ns") || ns_of(row, "end_ns") < ns_of(row, "begin_ns"))
			return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: layer %zu has no times", path, i);
	}
	return 0;
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* Above 0: it took longer than predicted. */
static int64_t error_ns(uint64_t measured, uint64_t predicted)
{
	return (int64_t)(measured - predicted);
}

void plan_measured_text(const struct planned *p, const json_t *measured, FILE *out)
{
	static const char *const titles[] = {"#", "LAYER", "PREDICTED", "", "MEASURED", "", "ERROR"};
	struct grid *g = grid_new("rlrrrrr");
	const json_t *layers = json_object_get(measured, "layers"), *row;
	size_t i;
	for (i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s", titles[i]);
	json_array_foreach(layers, i, row) {
		const struct plan_step *s = &p->steps[i];
		grid_add(g, "%zu", i);
		grid_add(g, "%s", p->profile->names[i]);
		grid_add(g, "%.3f", ms(s->exec_begin_ns));
		grid_add(g, "%.3f", ms(s->exec_end_ns));
		grid_add(g, "%.3f", ms(ns_of(row, "begin_ns")));
		grid_add(g, "%.3f", ms(ns_of(row, "end_ns")));
		grid_add(g, "%+.3f", (double)error_ns(ns_of(row, "end_ns"), s->exec_end_ns) / 1e6);
	}
	fputc('\n', out);
	grid_print(g, out);
	grid_free(&g);
	uint64_t total = ns_of(json_array_get(layers, p->profile->n_layers - 1), "end_ns");
	fprintf(out, "measured %.3f ms, predicted %.3f ms: %+.1f %%%s\n", ms(total), ms(p->figures.total_ns),
		100.0 * (double)error_ns(total, p->figures.total_ns) / (double)MAX(p->figures.total_ns, 1),
		json_is_true(json_object_get(measured, "simulated")) ? " (simulated device: no measurement)" : "");
}

json_t *plan_measured_json(const struct planned *p, const json_t *measured)
{
	const json_t *layers = json_object_get(measured, "layers"), *row;
	json_t *rows = json_array();
	size_t i;
	json_array_foreach(layers, i, row) {
		const struct plan_step *s = &p->steps[i];
		json_array_append_new(rows, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "name", p->profile->names[i], "predicted_begin_ns",
			(json_int_t)s->exec_begin_ns, "predicted_end_ns", (json_int_t)s->exec_end_ns, "begin_ns",
			(json_int_t)ns_of(row, "begin_ns"), "end_ns", (json_int_t)ns_of(row, "end_ns"), "error_ns",
			(json_int_t)error_ns(ns_of(row, "end_ns"), s->exec_end_ns)));
	}
	uint64_t total = ns_of(json_array_get(layers, p->profile->n_layers - 1), "end_ns");
	return json_pack("{s:I, s:I, s:b, s:o}", "total_ns", (json_int_t)total, "error_ns",
		(json_int_t)error_ns(total, p->figures.total_ns), "simulated", (int)json_is_true(json_object_get(measured, "simulated")),
		"layers", rows);
}
