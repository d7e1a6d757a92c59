/* plan.c - the option --plan: a plan file for the model of the command line. */
#include "client/trims.h"
#include "tools/ctl/ctl.h"
#include "tools/plan_file.h"

/* {name: number} of a model's tensors, as `show` lists them. */
static int fetch_numbers(struct ctl *c, json_t **out)
{
	const struct trims_open_options look = {.size = sizeof look, .flags = TRIMS_OPEN_NO_LOAD};
	trims_model *model = NULL;
	json_t *report, *row;
	size_t i;
	/* The daemon tells about models that it knows: being asked for one is enough for that, it need not be there. */
	if (trims_open(c->trims, c->args[0], &look, &model) && trims_last_error()->code != TRIMS_E_NOT_FOUND)
		return ctl_fail_trims(c);
	trims_close(&model);
	int r = ctl_report(c, REPORT_SHOW, c->args[0], &report);
	if (r != CTL_DONE)
		return r;
	*out = json_object();
	json_array_foreach(json_object_get(report, "tensors"), i, row) {
		const char *name = json_string_value(json_object_get(row, "name"));
		if (name)
			json_object_set_new(*out, name, json_integer((json_int_t)i));
	}
	json_decref(report);
	return CTL_DONE;
}

int ctl_read_plan(struct ctl *c, struct plan_file *out)
{
	struct fault why = {0};
	json_t *numbers = NULL;
	*out = (struct plan_file){0};
	json_t *file = c->plan ? plan_file_load(c->plan, &why) : NULL;
	if (c->plan && !file)
		return ctl_fail(c, &why);
	int r = ctl_connect(c);
	if (r == CTL_DONE && file && plan_file_has_names(file))
		r = fetch_numbers(c, &numbers);
	if (r == CTL_DONE && file && plan_file_read(out, file, c->args[0], numbers, &why))
		r = ctl_fail(c, &why);
	json_decref(numbers);
	json_decref(file);
	return r;
}
