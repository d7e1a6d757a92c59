/* ctl.h - what the parts of trims-ctl share: the parsed command line, exit codes, ways to ask the daemon and to print.
 * Thread: main.  Owns: main() owns the struct ctl; commands own what they fetch. */
#ifndef TOOLS_CTL_CTL_H
#define TOOLS_CTL_CTL_H

#include "shared/base.h"
#include "shared/error.h"
#include "shared/reports.h"
#include "tools/cmdline.h"

#include <jansson.h>
#include <stdio.h>

enum ctl_exit {
	CTL_DONE = CMDLINE_DONE,
	CTL_REFUSED = CMDLINE_REFUSED,
	CTL_USAGE = CMDLINE_USAGE,
	CTL_UNREACHABLE = CMDLINE_UNREACHABLE
};

enum {
#define OPTION(name, argument, help) OPT_bit_##name,
#include "tools/ctl/options.def"
#undef OPTION
};
enum ctl_option {
#define OPTION(name, argument, help) OPT_##name = 1 << OPT_bit_##name,
#include "tools/ctl/options.def"
#undef OPTION
};

struct trims_conn;

struct ctl {
	unsigned given;         /* enum ctl_option bits */
	const char *socket;
	uint32_t tier;          /* tiers.def number; 0: not given */
	const char *device;     /* UUID; NULL: not given */
	const char *plan;       /* a plan file; NULL: not given */
	uint64_t interval_ns;
	uint64_t count;         /* 0: without end */
	const char *profile, *machine, *policy, *svg; /* NULL: not given */
	uint64_t batch;         /* 0: not given */
	const char *batches, *measured; /* NULL: not given */
	char *const *args;      /* the command's own; as many as its row allows */
	int n_args;
	struct trims_conn *trims; /* made by the first that needs it */
	bool tried_again;         /* after a model changed at its source while it was read */
};

#define COMMAND(name, fewest, most, arguments, options, help) int ctl_##name(struct ctl *c);
#include "tools/ctl/commands.def"
#undef COMMAND

/* ---- failing (main.c) ---- */

/* One sentence on stderr; with --json also {"error": ...} on stdout.  Returns the exit code that fits: UNREACHABLE for
 * scope CONN or DAEMON, else REFUSED. */
int ctl_fail(const struct ctl *c, const struct fault *f);
/* As above for a command line that makes no sense. */
int ctl_usage(const struct ctl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- the daemon (talk.c, the only one that knows libtrims beside cmd_open.c and plan.c) ---- */

/* Connects unless that was done already; 0, or an exit code after saying why. */
int ctl_connect(struct ctl *c);
/* Says what libtrims last failed with and returns the exit code. */
int ctl_fail_trims(struct ctl *c);
/* Fetches all pages of a report as one value (the arrays of later pages appended to those of the first); the caller
 * decrefs.  Returns an exit code. */
int ctl_report(struct ctl *c, enum report report, const char *model, json_t **out);
/* Connects and reads the plan that the command line names, for the model it names; empty without.  Returns an exit code. */
struct plan_file;
int ctl_read_plan(struct ctl *c, struct plan_file *out);

/* The stored profile that fits the command line's model and device best, with its key: a row of the report; the caller decrefs.
 * Returns an exit code. */
int ctl_stored_profile(struct ctl *c, json_t **out);
/* Which one it is and how old. */
void ctl_say_profile(const json_t *row, FILE *out);

/* ---- printing (render.c): each takes a report as the daemon sent it; missing members print as "-" ---- */

/* Appends the members of `page` to `whole`: arrays are extended, what is not an array stays as it was. */
void ctl_merge_page(json_t *whole, const json_t *page);
void render_ls(const json_t *report, FILE *out);
void render_show(const json_t *report, FILE *out);
void render_trace(const json_t *report, FILE *out);
void render_doctor(const json_t *report, FILE *out);
void render_verify(const json_t *report, FILE *out);
/* before: an earlier report and how long ago that was, for rates; NULL: none. */
void render_links(const json_t *report, const json_t *before, double seconds, FILE *out);
void render_tiers(const json_t *report, FILE *out);
/* {"state": "ok"} and so on: true when every copy a verify looked at was whole. */
bool verify_is_ok(const json_t *report);
void print_json(const json_t *value);

#endif
