/* plan.c - the option --plan: a plan file for the model of the command line. */
#include "client/trims.h"
#include "tools/ctl/ctl.h"
#include "tools/plan_file.h"

/* A lease for a look at the tensors' names: on what is there or else, if that is wanted, on what begins to come and is given up
 * again. */
static int look(struct ctl *c, trims_model **out)
{
	struct trims_open_options o = {.size = sizeof o, .flags = TRIMS_OPEN_NO_LOAD | TRIMS_OPEN_NO_WAIT};
	int r = trims_open(c->trims, c->args[0], &o, out);
	if (r == -TRIMS_E_NOT_FOUND && !(c->given & OPT_resident)) {
		o.flags = TRIMS_OPEN_NO_WAIT | TRIMS_OPEN_BACKGROUND;
		r = trims_open(c->trims, c->args[0], &o, out);
	}
	return r ? ctl_fail_trims(c) : CTL_DONE;
}

/* {name: number} of the model's tensors. */
static int fetch_numbers(struct ctl *c, json_t **out)
{
	trims_model *model;
	struct trims_tensor t;
	uint32_t n = 0;
	int r = look(c, &model);
	if (r != CTL_DONE)
		return r;
	*out = json_object();
	bool good = trims_tensor_count(model, &n) == 0;
	for (uint32_t i = 0; good && i < n; i++) {
		good = trims_tensor(model, i, &t) == 0;
		if (good)
			json_object_set_new(*out, t.name, json_integer(i));
	}
	if (!good)
		r = ctl_fail_trims(c);
	trims_close(&model);
	return r;
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
