/* bench_plan.c - plans for the modes that follow one, and what is predicted of each mode: by trims-ctl plan, from the profile that
 * the daemon keeps.  See bench.h.
 * Keeps: a mode runs by the very plan that its prediction is of. */
#include "tools/run/bench.h"

#include "shared/own.h"
#include "tools/program.h"
#include "tools/run/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What each mode does, as planners call it (cache/planpolicies.def). */
static const char *const policies[MODE_COUNT] = {
	[MODE_RESIDENT] = "load-all",
	[MODE_PIPELINE] = "pipelined",
	[MODE_DHA] = "dha",
	[MODE_PT] = "pt",
	[MODE_PT_DHA] = "best",
};

static bool has_tables(const json_t *profile)
{
	size_t i;
	json_t *layer;
	json_array_foreach(json_object_get(profile, "layers"), i, layer) {
		const char *op = json_string_value(json_object_get(layer, "op"));
		if (op && strcmp(op, op_name(OP_EMBED)) == 0)
			return true;
	}
	return false;
}

/* Whether there is a profile for the device: it is no failure that there is none. */
static bool has_profile(struct bench *b)
{
	bool found = false;
	for (uint64_t cursor = 0, next = 1; !found && next; cursor = next) {
		char *text;
		size_t bytes, i, k;
		json_t *row, *uuid;
		if (trims_query(b->conn, TRIMS_REPORT_PROFILE, b->r->model, cursor, &text, &bytes, &next))
			return false;
		json_t *page = json_loadb(text, bytes, 0, NULL);
		free(text);
		json_array_foreach(json_object_get(page, "profiles"), i, row) {
			json_array_foreach(json_object_get(row, "devices"), k, uuid)
				found = found || strcmp(json_string_value(uuid) ? json_string_value(uuid) : "", b->uuid) == 0;
			b->has_tables = b->has_tables || has_tables(json_object_get(row, "profile"));
		}
		json_decref(page);
	}
	return found;
}

static int ask(struct bench *b, const char *policy, json_t **out, char **text, size_t *bytes, struct fault *why)
{
	char batch[16];
	snprintf(batch, sizeof batch, "%u", b->r->batch);
	const char *argv[16] = {NULL, "plan", b->r->model, "--json", "--device", b->uuid, "--batch", batch, "--policy", policy};
	if (b->r->socket) {
		argv[10] = "--socket";
		argv[11] = b->r->socket;
	}
	int r = program_run("trims-ctl", argv, text, bytes, why);
	if (r)
		return r;
	*out = json_loadb(*text, *bytes, 0, NULL);
	if (*out)
		return 0;
	free(*text);
	return fault_set(why, TRIMS_E_PROTOCOL, "trims-ctl plan printed no JSON");
}

/* A file without a name, which trims-run inherits. */
static int keep(struct bench_mode *m, const char *text, size_t bytes, struct fault *why)
{
	m->plan = memfd_create("plan", 0);
	if (m->plan >= 0 && write(m->plan, text, bytes) == (ssize_t)bytes)
		return 0;
	fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "a file for the plan");
	if (m->plan >= 0)
		close(m->plan);
	m->plan = -1;
	return -EIO;
}

/* Whether a tensor of the plan is in that place, or comes over another link than the device's own. */
static bool has_any(const json_t *plan, bool (*is)(const json_t *row))
{
	size_t i;
	json_t *row;
	json_array_foreach(json_object_get(json_object_get(plan, "plan"), "tensors"), i, row)
		if (is(row))
			return true;
	return false;
}

static bool is_on_host(const json_t *row)
{
	const char *place = json_string_value(json_object_get(row, "place"));
	return place && strcmp(place, "dha") == 0;
}

static bool is_helped(const json_t *row)
{
	return json_integer_value(json_object_get(row, "link")) > 0;
}

/* What the mode is about and the plan has nothing of; NULL: there is something of everything. */
static const char *lacking(const struct bench_mode *m, const json_t *plan)
{
	if ((m->mode == MODE_PT || m->mode == MODE_PT_DHA) && !has_any(plan, is_helped))
		return "by the plan, nothing is loaded over another link";
	if ((m->mode == MODE_DHA || m->mode == MODE_PT_DHA) && !has_any(plan, is_on_host))
		return "by the plan, nothing is read from the host";
	return NULL;
}

static int follow(struct bench *b, struct bench_mode *m, const json_t *plan, const char *text, size_t bytes, struct fault *why)
{
	const char *lacks = lacking(m, plan);
	if (!lacks)
		return keep(m, text, bytes, why);
	if (m->mode == MODE_DHA && b->has_tables)
		return 0;
	m->left_out = m->given_up = true;
	snprintf(m->why, sizeof m->why, "left out: %s", lacks);
	return 0;
}

static int plan_mode(struct bench *b, struct bench_mode *m, struct fault *why)
{
	char *text;
	size_t bytes;
	json_t *plan;
	int r = ask(b, policies[m->mode], &plan, &text, &bytes, why);
	if (r)
		return r;
	m->predicted = (double)json_integer_value(json_object_get(json_object_get(plan, "predicted"), "total_ns")) / 1e6;
	if (m->mode != MODE_RESIDENT && m->mode != MODE_PIPELINE)
		r = follow(b, m, plan, text, bytes, why);
	json_decref(plan);
	free(text);
	return r;
}

void bench_plan(struct bench *b)
{
	struct fault why = {0};
	if (!b->uuid[0])
		fault_set(&why, TRIMS_E_NO_TIER, "predictions are for GPUs");
	else if (b->r->state == BENCH_HIT)
		fault_set(&why, TRIMS_E_NO_TIER, "predictions are of misses");
	else if (!has_profile(b))
		fault_set(&why, TRIMS_E_NOT_FOUND, "the daemon has no profile of %.200s for %s: trims-ctl profile takes one", b->r->model,
			b->r->device);
	for (uint32_t i = 0; !why.text[0] && i < b->n_modes; i++)
		if (policies[b->modes[i].mode])
			plan_mode(b, &b->modes[i], &why);
	snprintf(b->plan_note, sizeof b->plan_note, "%s", why.text);
}
