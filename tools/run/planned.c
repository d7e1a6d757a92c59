/* planned.c - see planned.h.
 * Keeps: a plan that comes back does what its mode is called for, no less and no more. */
#include "tools/run/planned.h"

#include "tools/run/fail_trims.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* {name: number} of the model's tensors. */
static json_t *number_tensors(trims_model *table)
{
	uint32_t n = 0;
	struct trims_tensor t;
	json_t *numbers = json_object();
	if (trims_tensor_count(table, &n))
		n = 0;
	for (uint32_t i = 0; i < n; i++)
		if (trims_tensor(table, i, &t) == 0)
			json_object_set_new(numbers, t.name, json_integer(i));
	return numbers;
}

static int read_file(const struct planned_wish *wish, trims_model *table, struct plan_file *out, struct fault *why)
{
	json_t *file = plan_file_load(wish->file, why);
	if (!file)
		return -EPROTO;
	json_t *numbers = plan_file_has_names(file) ? number_tensors(table) : NULL;
	int r = plan_file_read(out, file, wish->model, numbers, why);
	json_decref(numbers);
	json_decref(file);
	return r;
}

/* Whether all layers that read a tensor are tables. */
static bool is_only_table(const struct net *net, uint32_t tensor)
{
	for (uint32_t i = 0; i < net->n_layers; i++)
		for (unsigned role = 0; role < NET_MAX_WEIGHTS; role++)
			if (net->layers[i].w[role].tensor == tensor && net->layers[i].op != OP_EMBED)
				return false;
	return true;
}

/* direct: tables are read from the host. */
static int make_usual(const struct net *net, uint32_t n_tensors, bool direct, struct plan_file *out, struct fault *why)
{
	uint8_t *seen = calloc(n_tensors + 1, 1);
	out->entries = calloc(n_tensors + 1, sizeof *out->entries);
	uint32_t n = 0;
	for (uint32_t i = 0; seen && out->entries && i < net->n_layers; i++)
		for (unsigned role = 0; role < NET_MAX_WEIGHTS; role++) {
			uint32_t tensor = net->layers[i].w[role].tensor;
			if (tensor >= n_tensors || seen[tensor]++)
				continue;
			out->entries[n++] = (struct trims_plan_entry){
				.tensor = tensor,
				.place = direct && net->layers[i].op == OP_EMBED && is_only_table(net, tensor) ? TRIMS_PLAN_HOST
													    : TRIMS_PLAN_LOAD,
				.step = (uint16_t)MIN(i, (uint32_t)UINT16_MAX),
			};
		}
	bool ok = seen && out->entries;
	free(seen);
	out->plan = (struct trims_plan){.size = sizeof out->plan, .entries = out->entries, .n_entries = n};
	return ok ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a plan of %u tensors", n_tensors);
}

static int check(const struct planned_wish *wish, const struct trims_plan *plan, struct fault *why)
{
	uint32_t host = 0, links = 0;
	for (uint32_t i = 0; i < plan->n_entries; i++) {
		host += plan->entries[i].place == TRIMS_PLAN_HOST;
		links += plan->entries[i].link > 0;
	}
	if (!wish->host && host)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s: the plan has %u tensors read from the host", wish->mode, host);
	if (!wish->links && links)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s: the plan loads %u tensors over other links", wish->mode, links);
	if (wish->host && !host && !wish->file)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s: without --plan tables are what is read from the host, and this model "
			"has none", wish->mode);
	if (wish->host && !host)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s: by the plan, nothing is read from the host", wish->mode);
	if (wish->links && !links)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s: by the plan, nothing is loaded over another link", wish->mode);
	return 0;
}

int planned_make(const struct planned_wish *wish, const struct net *net, trims_model *table, struct plan_file *out,
	struct fault *why)
{
	uint32_t n = 0;
	*out = (struct plan_file){0};
	if (!wish->file && wish->links)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s follows a plan: name it with --plan", wish->mode);
	if (trims_tensor_count(table, &n))
		return fail_trims(why);
	int r = wish->file ? read_file(wish, table, out, why) : make_usual(net, n, true, out, why);
	if (!r)
		r = check(wish, &out->plan, why);
	if (r)
		plan_file_fini(out);
	return r;
}

int planned_order(const struct net *net, trims_model *table, struct plan_file *out, struct fault *why)
{
	uint32_t n = 0;
	*out = (struct plan_file){0};
	if (trims_tensor_count(table, &n))
		return fail_trims(why);
	int r = make_usual(net, n, false, out, why);
	if (r)
		plan_file_fini(out);
	return r;
}
