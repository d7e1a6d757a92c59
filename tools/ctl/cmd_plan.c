/* cmd_plan.c - trims-ctl plan: what cache/plan.h makes of a profile and a machine.  The daemon is asked only for what no file
 * was given for: the profile, the link of the device. */
#include "tools/ctl/ctl.h"
#include "shared/own.h"
#include "tools/ctl/plan_render.h"
#include "tools/plan_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The row of the link into the device; without one the first. */
static const json_t *find_link(const json_t *report, const char *device)
{
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(report, "links"), i, row) {
		const char *uuid = json_string_value(json_object_get(row, "device"));
		const char *direction = json_string_value(json_object_get(row, "direction"));
		if (uuid && direction && strcmp(direction, "h2d") == 0 && (!device || strcmp(uuid, device) == 0))
			return row;
	}
	return NULL;
}

static uint64_t number_of(const json_t *row, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(row, key));
	return v > 0 ? (uint64_t)v : 0;
}

/* The last thousandths of a link are kept from what is not a demand of its own device: cache/linksched.h. */
#define HELPERS_SHARE 900

static void take_link(struct machine *m, const json_t *row, uint64_t share)
{
	struct plan_link *l = &m->plan.links[m->plan.n_links];
	m->links[m->plan.n_links] = json_string_value(json_object_get(row, "device"));
	*l = (struct plan_link){.bytes_per_s = number_of(row, "bytes_per_s") / 1000 * share, .group = m->plan.n_links,
		.overhead_ns = number_of(row, "overhead_ns") + number_of(row, "submit_ns"),
		.busy = strcmp(json_string_value(json_object_get(row, "state")), "idle") != 0 || number_of(row, "flows")};
	m->plan.n_links++;
}

/* The row of a pair of devices. */
static const json_t *find_peer(const json_t *report, const char *device, const char *helper)
{
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(report, "peers"), i, row)
		if (!strcmp(json_string_value(json_object_get(row, "device")), device) &&
			!strcmp(json_string_value(json_object_get(row, "helper")), helper))
			return row;
	return NULL;
}

static bool has_staging(const json_t *report, const char *device)
{
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(report, "staging"), i, row)
		if (!strcmp(json_string_value(json_object_get(row, "device")), device))
			return number_of(row, "slots") > 0;
	return false;
}

/* Links that have a bridge of PCIe in common are of one group: that of the first of them. */
static void group_link(struct machine *m, unsigned link)
{
	for (unsigned i = 0; i < link; i++) {
		const json_t *pair = find_peer(m->json, m->links[i], m->links[link]);
		if (pair && !json_is_true(json_object_get(pair, "apart"))) {
			m->plan.links[link].group = m->plan.links[i].group;
			return;
		}
	}
}

/* Devices from whose memory the target takes, at a speed that was measured. */
static void take_helpers(struct machine *m)
{
	const json_t *row;
	size_t i;
	json_array_foreach(json_object_get(m->json, "links"), i, row) {
		const char *uuid = json_string_value(json_object_get(row, "device"));
		const char *direction = json_string_value(json_object_get(row, "direction"));
		const char *state = json_string_value(json_object_get(row, "state"));
		const json_t *pair = uuid ? find_peer(m->json, m->links[0], uuid) : NULL;
		if (!pair || !direction || !state || strcmp(direction, "h2d") || !strcmp(state, "lost") ||
			!json_is_true(json_object_get(pair, "reaches")) || !has_staging(m->json, uuid) ||
			m->plan.n_links == PLAN_MAX_LINKS)
			continue;
		unsigned link = m->plan.n_links;
		take_link(m, row, HELPERS_SHARE);
		m->plan.links[link].hop_bytes_per_s = number_of(pair, "bytes_per_s");
		group_link(m, link);
	}
}

/* What the daemon knows of the device's link, and of those over which others could help it. */
static int ask_machine(struct ctl *c, struct machine *out)
{
	struct fault f;
	int r = ctl_report(c, REPORT_LINKS, "", &out->json);
	if (r != CTL_DONE)
		return r;
	const json_t *row = find_link(out->json, c->device);
	if (!row || !json_is_string(json_object_get(row, "state"))) {
		fault_set(&f, TRIMS_E_NO_TIER, "the daemon has no link to %s", c->device ? c->device : "any device");
		return ctl_fail(c, &f);
	}
	out->name = json_string_value(json_object_get(row, "name"));
	out->name = out->name ? out->name : "";
	out->plan = (struct plan_machine){.dha = true, .chunk_bytes = number_of(row, "chunk_bytes")};
	take_link(out, row, 1000);
	take_helpers(out);
	return CTL_DONE;
}

static int get_machine(struct ctl *c, struct machine *out)
{
	struct fault f;
	if (!c->machine)
		return ask_machine(c, out);
	if (c->device)
		return ctl_usage(c, "--machine says which link is the target's: --device makes no sense with it");
	return machine_read(c->machine, out, &f) ? ctl_fail(c, &f) : CTL_DONE;
}

/* Of the file, or of what the daemon keeps. */
static int get_profile(struct ctl *c, struct profile *out, json_t **stored)
{
	struct fault f;
	uint32_t batch = (uint32_t)MIN(c->batch, UINT32_MAX);
	if (c->profile)
		return profile_read(c->profile, batch, out, &f) ? ctl_fail(c, &f) : CTL_DONE;
	int r = ctl_stored_profile(c, stored);
	if (r != CTL_DONE)
		return r;
	c->profile = "the stored profile";
	if (profile_take(json_incref(json_object_get(*stored, "profile")), c->profile, batch, out, &f)) {
		json_decref(STEAL(*stored));
		return ctl_fail(c, &f);
	}
	json_object_del(*stored, "profile");
	return CTL_DONE;
}

static int check(struct ctl *c, const struct profile *p, const struct machine *m)
{
	struct fault f;
	uint32_t layer;
	if (plan_check_profile(&p->plan, &layer))
		fault_set(&f, TRIMS_E_BAD_REQUEST, "%s: layer %u (%s) cannot be planned: its numbers are beyond what a layer can have",
			c->profile, layer, layer < p->n_layers ? p->names[layer] : "");
	else if (plan_check_machine(&m->plan))
		fault_set(&f, TRIMS_E_BAD_REQUEST, "%s: its numbers are no machine's", c->machine ? c->machine : "the daemon's link");
	else
		return CTL_DONE;
	return ctl_fail(c, &f);
}

static int write_svg(struct ctl *c, const struct planned *p)
{
	struct fault f;
	FILE *out = fopen(c->svg, "we");
	if (!out) {
		fault_errno(&f, TRIMS_E_DISK_ERROR, errno, "%s", c->svg);
		return ctl_fail(c, &f);
	}
	plan_render_gantt(p, out);
	bool failed = ferror(out);
	if (fclose(out) || failed) {
		fault_errno(&f, TRIMS_E_DISK_ERROR, errno, "%s", c->svg);
		return ctl_fail(c, &f);
	}
	return CTL_DONE;
}

static void compare(struct planned *p, uint8_t *how)
{
	struct plan_figures uncharged;
	for (unsigned i = 0; i < PLAN_POLICIES; i++) {
		struct plan_other *o = &p->others[i];
		if (plan_make((enum plan_policy)i, &p->profile->plan, &p->machine->plan, how, &o->figures)) {
			*o = (struct plan_other){0};
			continue;
		}
		plan_predict(&p->profile->plan, &p->machine->plan, how, 0, PLAN_UNCHARGED, NULL, &uncharged);
		o->uncharged_ns = uncharged.total_ns;
	}
}

/* NULL when the command line names none. */
static int read_measured(struct ctl *c, const struct planned *p, json_t **out)
{
	struct fault f;
	if (!c->measured)
		return CTL_DONE;
	*out = plan_file_load(c->measured, &f);
	if (*out && !plan_measured_check(p, *out, c->measured, &f))
		return CTL_DONE;
	json_decref(*out);
	return ctl_fail(c, &f);
}

static int plan(struct ctl *c, struct planned *p, uint8_t *how, struct plan_step *steps)
{
	const struct plan_profile *profile = &p->profile->plan;
	const struct plan_machine *machine = &p->machine->plan;
	struct plan_figures f;
	compare(p, how);
	int r = plan_make(p->policy, profile, machine, how, &p->figures);
	if (r) {
		struct fault why;
		fault_set(&why, r == -ENOSPC ? TRIMS_E_NO_ROOM : TRIMS_E_BAD_REQUEST, r == -ENOSPC ?
			"%s: what %s has to load is more than memory_bytes" : "%s: %s would take too long for any plan", p->model,
			plan_policy_name(p->policy));
		return ctl_fail(c, &why);
	}
	plan_predict(profile, machine, how, 0, PLAN_CHARGED, steps, &f);
	plan_keep(profile, machine, how, &p->keep_layers, &p->keep_bytes);
	p->how = how;
	p->steps = steps;
	json_t *measured = NULL;
	int e = read_measured(c, p, &measured);
	if (e != CTL_DONE)
		return e;
	if (c->given & OPT_json) {
		json_t *report = plan_render_json(p);
		if (measured)
			json_object_set_new(report, "measured", plan_measured_json(p, measured));
		if (p->stored)
			json_object_set(report, "profile", p->stored);
		print_json(report);
		json_decref(report);
	} else {
		if (p->stored)
			ctl_say_profile(p->stored, stdout);
		plan_render_text(p, stdout);
		if (measured)
			plan_measured_text(p, measured, stdout);
	}
	json_decref(measured);
	return c->svg ? write_svg(c, p) : CTL_DONE;
}

int ctl_plan(struct ctl *c)
{
	struct planned p = {.model = c->args[0], .policy = plan_policy_find(c->policy ? c->policy : "best")};
	struct profile profile = {0};
	struct machine machine = {0};
	if (p.policy == PLAN_POLICIES)
		return ctl_usage(c, "--policy: there is no %s; without --json the last table of plan names them", c->policy);
	int r = get_profile(c, &profile, &p.stored);
	if (r != CTL_DONE)
		return r;
	r = get_machine(c, &machine);
	r = r ? r : check(c, &profile, &machine);
	if (r == CTL_DONE) {
		uint8_t *how = calloc(profile.n_layers, 1);
		struct plan_step *steps = calloc(profile.n_layers, sizeof *steps);
		p.profile = &profile;
		p.machine = &machine;
		r = how && steps ? plan(c, &p, how, steps) : ctl_usage(c, "out of memory");
		free(how);
		free(steps);
	}
	profile_fini(&profile);
	machine_fini(&machine);
	json_decref(p.stored);
	return r;
}
