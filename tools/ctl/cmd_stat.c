/* cmd_stat.c - trims-ctl stat: the daemon's counters, read from its shared-memory segment.
 * Keeps: never talks to the daemon, so it works when the daemon is dead, and says so. */
#include "shared/metrics.h"
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

static const char *const kinds[] = {[METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge",
	[METRIC_HISTOGRAM] = "histogram"};
static const char *const units[] = {[METRIC_UNIT_NONE] = "", [METRIC_UNIT_BYTES] = "bytes", [METRIC_UNIT_NS] = "ns"};

static void add_json(void *ctx, const struct metric_view *v)
{
	json_t *m = json_pack("{s:s,s:s,s:s,s:s}", "name", v->name, "labels", v->labels, "kind", kinds[v->kind], "unit",
		units[v->unit]);
	if (v->kind == METRIC_HISTOGRAM) {
		json_t *buckets = json_array();
		for (unsigned i = 0; i <= METRICS_BUCKETS; i++)
			json_array_append_new(buckets, json_integer((json_int_t)v->buckets[i]));
		json_object_set_new(m, "count", json_integer((json_int_t)v->count));
		json_object_set_new(m, "sum", json_integer((json_int_t)v->sum_ns));
		json_object_set_new(m, "buckets", buckets);
	} else {
		json_object_set_new(m, "value", json_integer((json_int_t)v->value));
	}
	json_object_set_new(ctx, v->field, m);
}

static void print_stat_json(const struct metrics_snapshot *s)
{
	json_t *metrics = json_object();
	metrics_visit(s, add_json, metrics);
	json_t *whole = json_pack("{s:b,s:b,s:i,s:s,s:s,s:I,s:I,s:o}", "alive", s->alive,
		"simulated", s->values[M_gpu_simulated] > 0, "pid", (int)s->pid, "version",
		s->version, "socket", s->socket_path, "started_unix_ns", (json_int_t)s->start_unix_ns,
		"updated_unix_ns", (json_int_t)s->updated_unix_ns, "metrics", metrics);
	if (whole)
		print_json(whole);
	json_decref(whole);
}

static void add_histogram(struct grid *g, const struct metric_view *v)
{
	char mean[TEXT_NUMBER], half[TEXT_NUMBER], most[TEXT_NUMBER];
	grid_add(g, "%" PRIu64, v->count);
	grid_add(g, "mean %s, 50%% <= %s, 99%% <= %s", text_ns(mean, v->sum_ns / v->count),
		text_ns(half, metrics_quantile_ns(v, 500)), text_ns(most, metrics_quantile_ns(v, 990)));
}

static void add_row(void *ctx, const struct metric_view *v)
{
	struct grid *g = ctx;
	char text[TEXT_NUMBER];
	/* Gauges always; counters once they moved, or the table would be a page of zeros. */
	if (v->kind != METRIC_GAUGE && (v->kind == METRIC_HISTOGRAM ? v->count : v->value) == 0)
		return;
	grid_add(g, *v->labels ? "%s{%s}" : "%s%s", v->name, v->labels);
	if (v->kind == METRIC_HISTOGRAM) {
		add_histogram(g, v);
		return;
	}
	if (v->unit == METRIC_UNIT_NS) {
		grid_add(g, "%" PRIu64, v->value / NS_PER_S);
		grid_add(g, "%s", text_time(text, v->value));
		return;
	}
	grid_add(g, "%" PRIu64, v->value);
	grid_add(g, "%s", v->unit == METRIC_UNIT_BYTES && v->value >= KIB ? text_bytes(text, v->value) : "");
}

static void print_stat(const struct metrics_snapshot *s)
{
	char when[TEXT_NUMBER];
	struct grid *g = grid_new("lrl");
	if (s->alive)
		printf("mrm %s, pid %d, running since %s UTC\n\n", s->version, (int)s->pid, text_time(when, s->start_unix_ns));
	else
		printf("mrm %s, pid %d, is dead; last heard of %s UTC\n\n", s->version, (int)s->pid,
			text_time(when, s->updated_unix_ns));
	metrics_visit(s, add_row, g);
	grid_print(g, stdout);
	grid_free(&g);
}

int ctl_stat(struct ctl *c)
{
	static struct metrics_snapshot s;
	struct metrics_reader *r;
	struct fault why = {.code = TRIMS_E_NO_MEMORY};
	if (metrics_open(&r, c->socket, &why))
		return ctl_fail(c, &why);
	metrics_read(r, &s);
	metrics_reader_free(&r);
	if (c->given & OPT_prometheus)
		metrics_prometheus(&s, stdout);
	else if (c->given & OPT_json)
		print_stat_json(&s);
	else
		print_stat(&s);
	if (!s.alive)
		fprintf(stderr, "trims-ctl: the daemon of socket %s (pid %d) is dead; these are its last numbers\n",
			c->socket, (int)s.pid);
	return CTL_DONE;
}
