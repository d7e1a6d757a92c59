/* cmd_profile.c - trims-ctl profile: has trims-run measure a model's layers and the daemon keep what it says; or prints what the
 * daemon keeps.  And what plan takes of that. */
#include "client/trims.h"
#include "tools/ctl/ctl.h"
#include "tools/program.h"
#include "tools/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *text_of(const json_t *row, const char *key)
{
	const char *text = json_string_value(json_object_get(row, key));
	return text ? text : "-";
}

static void age_of(const json_t *row, char out[TEXT_NUMBER])
{
	json_int_t then = json_integer_value(json_object_get(row, "stored_unix_s")), now = (json_int_t)time(NULL);
	if (now > then)
		text_ns(out, (uint64_t)(now - then) * NS_PER_S);
	else /* it is known in whole seconds */
		snprintf(out, TEXT_NUMBER, "under 1s");
}

/* ---- --show ---- */

static void print_rows(const json_t *report)
{
	static const char *const titles[] = {"DEVICE CLASS", "DRIVER", "EXECUTOR", "HERE", "LAYERS", "AGE"};
	struct grid *g = grid_new("llllrr");
	const json_t *row;
	size_t i;
	for (i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s", titles[i]);
	json_array_foreach(json_object_get(report, "profiles"), i, row) {
		char age[TEXT_NUMBER];
		const char *driver = text_of(row, "driver");
		age_of(row, age);
		grid_add(g, "%s", text_of(row, "device_class"));
		grid_add(g, "%s", *driver ? driver : "-");
		grid_add(g, "%s", text_of(row, "executor"));
		grid_add(g, "%s", json_array_size(json_object_get(row, "devices")) ? "yes" : "no");
		grid_add(g, "%zu", json_array_size(json_object_get(json_object_get(row, "profile"), "layers")));
		grid_add(g, "%s", age);
	}
	grid_print(g, stdout);
	grid_free(&g);
}

static int show(struct ctl *c)
{
	json_t *report;
	if (c->given & (OPT_device | OPT_batches))
		return ctl_usage(c, "profile --show prints all that there are: --device and --batches make no sense with it");
	int r = ctl_report(c, REPORT_PROFILE, c->args[0], &report);
	if (r != CTL_DONE)
		return r;
	if (c->given & OPT_json)
		print_json(report);
	else
		print_rows(report);
	json_decref(report);
	return CTL_DONE;
}

/* ---- measuring ---- */

static int measure(struct ctl *c, char **out, size_t *bytes)
{
	struct fault why;
	const char *argv[] = {NULL, "profile", c->args[0], "--socket", c->socket, "--device", c->device ? c->device : "cpu", "--batches",
		c->batches ? c->batches : "1", NULL};
	return program_run("trims-run", argv, out, bytes, &why) ? ctl_fail(c, &why) : CTL_DONE;
}

static int store(struct ctl *c, const char *text, size_t bytes)
{
	char said[TRIMS_MAX_TEXT];
	if (trims_put_profile(c->trims, c->args[0], text, bytes, said, sizeof said))
		return ctl_fail_trims(c);
	json_t *profile = json_loadb(text, bytes, 0, NULL);
	if (c->given & OPT_json) {
		print_json(profile);
	} else {
		fputs("stored for ", stdout);
		text_put_clean(stdout, text_of(profile, "device_class"));
		fputs(", ", stdout);
		text_put_clean(stdout, text_of(profile, "executor"));
		printf(": %zu layers\n", json_array_size(json_object_get(profile, "layers")));
	}
	json_decref(profile);
	return CTL_DONE;
}

int ctl_profile(struct ctl *c)
{
	char *text;
	size_t bytes;
	if (c->given & OPT_show)
		return show(c);
	int r = ctl_connect(c);
	if (r == CTL_DONE)
		r = measure(c, &text, &bytes);
	if (r != CTL_DONE)
		return r;
	r = store(c, text, bytes);
	free(text);
	return r;
}

/* ---- for plan ---- */

static bool is_for(const json_t *row, const char *device)
{
	const json_t *one, *devices = json_object_get(row, "devices");
	size_t i;
	json_array_foreach(devices, i, one)
		if (!strcmp(json_string_value(one) ? json_string_value(one) : "", device))
			return true;
	return false;
}

/* The youngest of the device's; of those that are here; of all. */
static const json_t *choose(const json_t *rows, const char *device)
{
	const json_t *best = NULL, *row;
	size_t i;
	bool here = false;
	json_array_foreach(rows, i, row) {
		bool is_here = json_array_size(json_object_get(row, "devices")) > 0;
		if (device ? is_for(row, device) : is_here || !here)
			best = row;
		here = here || is_here;
	}
	return best;
}

int ctl_stored_profile(struct ctl *c, json_t **out)
{
	struct fault why;
	json_t *report;
	int r = ctl_report(c, REPORT_PROFILE, c->args[0], &report);
	if (r != CTL_DONE)
		return r;
	*out = json_incref((json_t *)choose(json_object_get(report, "profiles"), c->device));
	if (!*out) {
		fault_set(&why, TRIMS_E_NOT_FOUND, "no profile of %s%s%s is stored: trims-ctl profile takes one, --profile FILE names one",
			c->args[0], c->device ? " for " : "", c->device ? c->device : "");
		r = ctl_fail(c, &why);
	}
	json_decref(report);
	return r;
}

void ctl_say_profile(const json_t *row, FILE *out)
{
	char age[TEXT_NUMBER];
	age_of(row, age);
	fputs("the stored profile of ", out);
	text_put_clean(out, text_of(row, "device_class"));
	fputs(", ", out);
	text_put_clean(out, text_of(row, "executor"));
	fprintf(out, ", %s old\n", age);
}
