/* cmd_top.c - trims-ctl top: two snapshots of the shared counters, the second less the first, again and again.
 * Keeps: never talks to the daemon.  On a terminal each view overwrites the last; otherwise views follow each other. */
#include "shared/metrics.h"
#include "tools/clock.h"
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What happened between two snapshots: gauges as they are now, everything else as the difference. */
struct view {
	struct metrics_snapshot now, change;
	double seconds;
};

static double per_s(const struct view *v, enum metric m)
{
	return (double)v->change.values[m] / v->seconds;
}

static void subtract(struct view *v, const struct metrics_snapshot *before)
{
	v->change = v->now;
	for (size_t i = 0; i < METRICS_SLOTS; i++)
		v->change.values[i] = v->now.values[i] >= before->values[i] ? v->now.values[i] - before->values[i] : 0;
}

/* ---- text ---- */

static void print_title(const struct view *v, FILE *out)
{
	const uint64_t *n = v->now.values;
	char text[TEXT_NUMBER];
	if (v->now.alive)
		fprintf(out, "mrm %s  pid %d  up %s", v->now.version, (int)v->now.pid,
			text_ns(text, v->now.updated_unix_ns - MIN(v->now.start_unix_ns, v->now.updated_unix_ns)));
	else
		fprintf(out, "mrm %s  pid %d  DEAD since %s UTC", v->now.version, (int)v->now.pid,
			text_time(text, v->now.updated_unix_ns));
	fprintf(out, "  clients %" PRIu64 "  leases %" PRIu64 "  models %" PRIu64 "  transfers %" PRIu64 "\n\n",
		n[M_clients], n[M_leases], n[M_models], n[M_transfers_active]);
}

static void add_tier(struct grid *g, const char *name, const uint64_t *capacity, const uint64_t *n, const enum metric *rest,
	size_t n_rest)
{
	char text[TEXT_NUMBER];
	grid_add(g, "%s", name);
	grid_add(g, "%s", text_bytes(text, *capacity));
	grid_add(g, "%.0f%%", *capacity ? 100.0 * (double)n[rest[0]] / (double)*capacity : 0.0);
	for (size_t i = 0; i < n_rest; i++)
		grid_add(g, "%s", text_bytes(text, n[rest[i]]));
}

static void print_tiers(const struct view *v, FILE *out)
{
	const uint64_t *n = v->now.values;
	static const enum metric disk[] = {M_tier_used_disk, M_tier_pinned_disk, M_tier_leased_disk, M_tier_draining_disk};
	static const enum metric host[] = {M_tier_used_host, M_tier_pinned_host, M_tier_leased_host, M_tier_draining_host};
	static const enum metric gpu[] = {M_tier_used_gpu, M_tier_pinned_gpu, M_tier_leased_gpu, M_tier_draining_gpu};
	struct grid *g = grid_new("lrrrrrrr");
	static const char *const titles[] = {"TIER", "CAPACITY", "FULL", "USED", "PINNED", "LEASED", "DRAINING", "COPIES"};
	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s", titles[i]);
	if (n[M_gpu_devices] + n[M_gpu_simulated]) {
		add_tier(g, n[M_gpu_simulated] ? "gpu (simulated)" : "gpu", &n[M_tier_capacity_gpu], n, gpu, ARRAY_LEN(gpu));
		grid_add(g, "%" PRIu64, n[M_tier_copies_gpu]);
	}
	add_tier(g, "host", &n[M_tier_capacity_host], n, host, ARRAY_LEN(host));
	grid_add(g, "%" PRIu64, n[M_tier_copies_host]);
	add_tier(g, "disk", &n[M_tier_capacity_disk], n, disk, ARRAY_LEN(disk));
	grid_add(g, "%" PRIu64, n[M_tier_copies_disk]);
	grid_print(g, out);
	grid_free(&g);
}

static void add_speed(void *ctx, const struct metric_view *m)
{
	struct grid *g = ctx;
	char half[TEXT_NUMBER], most[TEXT_NUMBER];
	if (m->kind != METRIC_HISTOGRAM || m->count == 0 || strncmp(m->field, "loop_", 5) == 0)
		return;
	grid_add(g, *m->labels ? "%s{%s}" : "%s%s", m->name, m->labels);
	grid_add(g, "%" PRIu64, m->count);
	grid_add(g, "50%% <= %s", text_ns(half, metrics_quantile_ns(m, 500)));
	grid_add(g, "99%% <= %s", text_ns(most, metrics_quantile_ns(m, 990)));
}

static void print_traffic(const struct view *v, FILE *out)
{
	char a[TEXT_NUMBER], b[TEXT_NUMBER], c[TEXT_NUMBER], d[TEXT_NUMBER], e[TEXT_NUMBER];
	const uint64_t *n = v->now.values;
	fprintf(out, "\nopens/s  hit %.1f  miss %.1f  joined %.1f  refused %.1f    evictions/s %.1f%s\n",
		per_s(v, M_requests_gpu_hit) + per_s(v, M_requests_host_hit) + per_s(v, M_requests_disk_hit),
		per_s(v, M_requests_gpu_miss) + per_s(v, M_requests_host_miss) + per_s(v, M_requests_disk_miss),
		per_s(v, M_requests_gpu_coalesced) + per_s(v, M_requests_host_coalesced) + per_s(v, M_requests_disk_coalesced),
		per_s(v, M_requests_gpu_error) + per_s(v, M_requests_host_error) + per_s(v, M_requests_disk_error),
		per_s(v, M_evictions_gpu_room) + per_s(v, M_evictions_host_room) + per_s(v, M_evictions_disk_room),
		n[M_gpu_simulated] ? "    (with simulated devices)" : "");
	fprintf(out, "landed   remote>host %s  remote>disk %s  disk>host %s  host>disk %s\n",
		text_rate(a, (uint64_t)per_s(v, M_promotion_bytes_remote_host)),
		text_rate(b, (uint64_t)per_s(v, M_promotion_bytes_remote_disk)),
		text_rate(c, (uint64_t)per_s(v, M_promotion_bytes_disk_host)),
		text_rate(d, (uint64_t)per_s(v, M_promotion_bytes_host_disk)));
	if (n[M_gpu_devices] + n[M_gpu_simulated])
		fprintf(out, "         host>gpu %s%s\n", text_rate(e, (uint64_t)per_s(v, M_promotion_bytes_host_gpu)),
			n[M_gpu_simulated] ? " (simulated)" : "");
}

/* Counters that should stand still; shown once they moved, with what the whole run has seen. */
static void add_trouble(void *ctx, const struct metric_view *m)
{
	static const char *const families[] = {"trims_fallback_total", "trims_faults_total", "trims_verify_failures_total",
		"trims_connections_dropped_total", "trims_source_retries_total"};
	struct grid *g = ctx;
	for (size_t i = 0; i < ARRAY_LEN(families); i++)
		if (strcmp(m->name, families[i]) == 0 && m->value) {
			grid_add(g, "%s{%s}", m->name, m->labels);
			grid_add(g, "%" PRIu64, m->value);
		}
}

static void print_view(const struct view *v, FILE *out)
{
	struct grid *g = grid_new("lrll");
	print_title(v, out);
	print_tiers(v, out);
	print_traffic(v, out);
	fputc('\n', out);
	metrics_visit(&v->change, add_speed, g);
	grid_print(g, out);
	grid_free(&g);
	g = grid_new("lr");
	fputc('\n', out);
	metrics_visit(&v->now, add_trouble, g);
	grid_print(g, out);
	grid_free(&g);
}

/* ---- JSON: one line per view ---- */

struct json_view {
	json_t *now, *per_s;
	double seconds;
};

static void add_now(void *ctx, const struct metric_view *m)
{
	if (m->kind != METRIC_HISTOGRAM)
		json_object_set_new(ctx, m->field, json_integer((json_int_t)m->value));
}

static void add_rate(void *ctx, const struct metric_view *m)
{
	struct json_view *j = ctx;
	uint64_t n = m->kind == METRIC_HISTOGRAM ? m->count : m->value;
	if (m->kind != METRIC_GAUGE && n)
		json_object_set_new(j->per_s, m->field, json_real((double)n / j->seconds));
}

static void print_view_json(const struct view *v)
{
	struct json_view j = {json_object(), json_object(), v->seconds};
	metrics_visit(&v->now, add_now, j.now);
	metrics_visit(&v->change, add_rate, &j);
	json_t *whole = json_pack("{s:b,s:b,s:i,s:f,s:o,s:o}", "alive", v->now.alive, "simulated",
		v->now.values[M_gpu_simulated] > 0, "pid", (int)v->now.pid, "seconds",
		v->seconds, "values", j.now, "per_s", j.per_s);
	if (whole)
		json_dumpf(whole, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(whole);
}

/* ---- the loop ---- */

static void show(const struct ctl *c, const struct view *v)
{
	static bool again;
	if (c->given & OPT_json) {
		print_view_json(v);
	} else if (isatty(STDOUT_FILENO)) {
		fputs("\033[H\033[2J", stdout);
		print_view(v, stdout);
	} else {
		if (again)
			putchar('\n');
		print_view(v, stdout);
	}
	again = true;
	fflush(stdout);
}

static void pause_ns(uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

/* A restarted daemon has a new segment; counters then start again. */
static void follow(const struct ctl *c, struct metrics_reader **r, struct metrics_snapshot *before)
{
	struct metrics_reader *newer;
	if (metrics_replaced(*r) && metrics_open(&newer, c->socket, NULL) == 0) {
		metrics_reader_free(r);
		*r = newer;
		metrics_read(*r, before);
	}
}

int ctl_top(struct ctl *c)
{
	static struct metrics_snapshot before;
	static struct view v;
	struct metrics_reader *r;
	struct fault why = {.code = TRIMS_E_NO_MEMORY};
	if (metrics_open(&r, c->socket, &why))
		return ctl_fail(c, &why);
	metrics_read(r, &before);
	uint64_t then = clock_ns();
	for (uint64_t i = 0; c->count == 0 || i < c->count; i++) {
		pause_ns(c->interval_ns);
		follow(c, &r, &before);
		metrics_read(r, &v.now);
		uint64_t now = clock_ns();
		v.seconds = (double)MAX(now - then, 1) / 1e9;
		subtract(&v, &before);
		show(c, &v);
		if (ferror(stdout))
			break;
		before = v.now;
		then = now;
	}
	metrics_reader_free(&r);
	return CTL_DONE;
}
