/* cmd_links.c - trims-ctl links: the daemon's report about its GPUs' links, once, or again and again with what moved between
 * two views.  On a terminal each view overwrites the last. */
#include "tools/clock.h"
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <time.h>
#include <unistd.h>

static double monotonic_s(void)
{
	return (double)clock_ns() / (double)NS_PER_S;
}

static void pause_ns(uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

static void show(const struct ctl *c, const json_t *report, const json_t *before, double seconds, bool watching)
{
	if (c->given & OPT_json) {
		if (watching) {
			json_dumpf(report, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			print_json(report);
		}
	} else {
		if (watching && isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		else if (before)
			putchar('\n');
		render_links(report, before, seconds, stdout);
	}
	fflush(stdout);
}

int ctl_links(struct ctl *c)
{
	bool watching = c->given & (OPT_interval | OPT_count);
	uint64_t views = !watching ? 1 : c->count ? c->count : UINT64_MAX;
	json_t *before = NULL;
	double then = 0;
	int rc = CTL_DONE;
	for (uint64_t i = 0; i < views && rc == CTL_DONE && !ferror(stdout); i++) {
		json_t *report = NULL;
		if (i)
			pause_ns(c->interval_ns);
		rc = ctl_report(c, REPORT_LINKS, "", &report);
		double now = monotonic_s();
		if (rc == CTL_DONE)
			show(c, report, before, now - then, watching);
		json_decref(before);
		before = report;
		then = now;
	}
	json_decref(before);
	return rc;
}
