/* talk.c - trims-ctl's side of libtrims: connection, reports, and the commands that ask for one thing. */
#include "client/trims.h"
#include "tools/ctl/ctl.h"
#include "tools/plan_file.h"
#include "tools/text.h"

#include <stdlib.h>
#include <string.h>

int ctl_fail_trims(struct ctl *c)
{
	const struct trims_error *e = trims_last_error();
	struct fault f = {.code = (enum trims_code)e->code};
	snprintf(f.text, sizeof f.text, "%s", e->text);
	return ctl_fail(c, &f);
}

int ctl_connect(struct ctl *c)
{
	const struct trims_connect_options options = {.size = sizeof options, .program = "trims-ctl"};
	if (c->trims || trims_connect(c->socket, &options, &c->trims) == 0)
		return CTL_DONE;
	/* Whatever the reason, the daemon was not reached: a refused connect is exit status 3, too. */
	ctl_fail_trims(c);
	return CTL_UNREACHABLE;
}

static int parse_report(struct ctl *c, const char *text, size_t bytes, json_t **out)
{
	json_error_t error;
	*out = json_loadb(text, bytes, 0, &error);
	if (json_is_object(*out))
		return CTL_DONE;
	json_decref(*out);
	struct fault f;
	fault_set(&f, TRIMS_E_PROTOCOL, "the daemon sent a report that is no JSON object: %s", error.text);
	return ctl_fail(c, &f);
}

static int fetch_page(struct ctl *c, enum report report, const char *model, uint64_t *cursor, json_t **out)
{
	char *text;
	size_t bytes;
	if (trims_query(c->trims, (uint32_t)report, model, *cursor, &text, &bytes, cursor))
		return ctl_fail_trims(c);
	int r = parse_report(c, text, bytes, out);
	free(text);
	return r;
}

/* Arrays that are whole on every page of `show` and must not be repeated. */
static void drop_repeated(json_t *page)
{
	static const char *const keys[] = {"names", "files", "left_out", "extents", "profiles"};
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		json_object_del(page, keys[i]);
}

int ctl_report(struct ctl *c, enum report report, const char *model, json_t **out)
{
	uint64_t cursor = 0;
	json_t *whole, *page;
	int r = ctl_connect(c);
	if (r == CTL_DONE)
		r = fetch_page(c, report, model, &cursor, &whole);
	if (r != CTL_DONE)
		return r;
	while (cursor) {
		uint64_t before = cursor;
		r = fetch_page(c, report, model, &cursor, &page);
		if (r != CTL_DONE) {
			json_decref(whole);
			return r;
		}
		if (report == REPORT_SHOW)
			drop_repeated(page);
		ctl_merge_page(whole, page);
		json_decref(page);
		if (cursor && cursor <= before)
			break; /* a cursor that does not move would never end */
	}
	*out = whole;
	return CTL_DONE;
}

static int show_report(struct ctl *c, enum report report, void (*render)(const json_t *, FILE *))
{
	json_t *value;
	int r = ctl_report(c, report, c->n_args ? c->args[0] : NULL, &value);
	if (r != CTL_DONE)
		return r;
	if (c->given & OPT_json)
		print_json(value);
	else
		render(value, stdout);
	json_decref(value);
	return CTL_DONE;
}

int ctl_ls(struct ctl *c)
{
	return show_report(c, REPORT_LS, render_ls);
}

int ctl_show(struct ctl *c)
{
	return show_report(c, REPORT_SHOW, render_show);
}

int ctl_trace(struct ctl *c)
{
	return show_report(c, REPORT_TRACE, render_trace);
}

/* What the machine has, then the tiers: two reports, one answer. */
int ctl_doctor(struct ctl *c)
{
	json_t *doctor, *tiers;
	int r = ctl_report(c, REPORT_DOCTOR, NULL, &doctor);
	if (r != CTL_DONE)
		return r;
	r = ctl_report(c, REPORT_TIERS, NULL, &tiers);
	if (r == CTL_DONE) {
		if (c->given & OPT_json) {
			ctl_merge_page(doctor, tiers);
			print_json(doctor);
		} else {
			render_doctor(doctor, stdout);
			putchar('\n');
			render_tiers(tiers, stdout);
		}
		json_decref(tiers);
	}
	json_decref(doctor);
	return r;
}

int ctl_verify(struct ctl *c)
{
	char *text;
	size_t bytes;
	json_t *report;
	int r = ctl_connect(c);
	if (r != CTL_DONE)
		return r;
	if (trims_verify(c->trims, c->args[0], &text, &bytes))
		return ctl_fail_trims(c);
	r = parse_report(c, text, bytes, &report);
	free(text);
	if (r != CTL_DONE)
		return r;
	if (c->given & OPT_json)
		print_json(report);
	else
		render_verify(report, stdout);
	if (!verify_is_ok(report)) {
		fprintf(stderr, "trims-ctl: a copy of the model is damaged\n");
		r = CTL_REFUSED;
	}
	json_decref(report);
	return r;
}

/* ---- commands answered by a sentence ---- */

typedef int sentence_fn(trims_conn *conn, const char *name, uint32_t tier, const char *device, char *text, size_t text_size);

static int say_done(struct ctl *c, const char *text)
{
	if (c->given & OPT_json) {
		json_t *done = json_pack("{s:s,s:s}", "result", "done", "text", text);
		print_json(done);
		json_decref(done);
	} else {
		text_put_clean(stdout, text[0] ? text : "done");
		putchar('\n');
	}
	return CTL_DONE;
}

static int do_one(struct ctl *c, sentence_fn *fn)
{
	char text[TRIMS_MAX_TEXT] = "";
	int r = ctl_connect(c);
	if (r != CTL_DONE)
		return r;
	return fn(c->trims, c->args[0], c->tier, c->device, text, sizeof text) ? ctl_fail_trims(c) : say_done(c, text);
}

int ctl_prefetch(struct ctl *c)
{
	char text[TRIMS_MAX_TEXT] = "";
	struct plan_file file;
	int r = ctl_read_plan(c, &file);
	if (r != CTL_DONE)
		return r;
	r = trims_prefetch(c->trims, c->args[0], c->tier, c->device, c->plan ? &file.plan : NULL, text, sizeof text);
	plan_file_fini(&file);
	return r ? ctl_fail_trims(c) : say_done(c, text);
}

int ctl_pin(struct ctl *c)
{
	return do_one(c, trims_pin);
}

int ctl_unpin(struct ctl *c)
{
	return do_one(c, trims_unpin);
}

int ctl_evict(struct ctl *c)
{
	return do_one(c, trims_evict);
}
