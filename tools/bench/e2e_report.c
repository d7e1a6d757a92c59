/* e2e_report.c - the figures of trims-bench e2e: JSON, tables, bars. */
#include "tools/bench/e2e.h"

#include "shared/own.h"
#include "tools/svg.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static double total_of(struct e2e_row *r, enum e2e_case which)
{
	struct function_cell *c = &r->cells[which];
	return c->total.n ? samples_median(&c->total) : 0;
}

/* How many times as fast as `other` it is: above 1 it is faster.  0: one of them has no figure. */
static double speed(struct e2e_row *r, enum e2e_case which, enum e2e_case other)
{
	double a = total_of(r, which), b = total_of(r, other);
	return a > 0 && b > 0 ? b / a : 0;
}

static const struct ratio {
	const char *key;
	enum e2e_case which, other;
} ratios[] = {
	{"miss_disk", E2E_CASE_MISS_DISK, E2E_CASE_PRIVATE_COLD},
	{"miss_remote", E2E_CASE_MISS_REMOTE, E2E_CASE_PRIVATE_REMOTE},
	{"host_hit", E2E_CASE_HOST_HIT, E2E_CASE_IDEAL},
	{"host_hit_over_cold", E2E_CASE_HOST_HIT, E2E_CASE_PRIVATE_COLD},
	{"host_hit_over_warm", E2E_CASE_HOST_HIT, E2E_CASE_PRIVATE_WARM},
	{"gpu_hit", E2E_CASE_GPU_HIT, E2E_CASE_GPU_IDEAL},
};

static json_t *cell_json(struct function_cell *c)
{
	json_t *parts = json_object();
	for (unsigned p = 0; p < FUNCTION_PARTS; p++)
		json_object_set_new(parts, function_part_key(p), json_real(c->total.n ? samples_median(&c->part[p]) : 0));
	return json_pack("{s:f,s:i,s:i,s:o}", "total_ms", c->total.n ? samples_median(&c->total) : 0.0, "runs", (int)c->total.n,
		"failed", (int)c->failed, "parts_ms", parts);
}

static json_t *row_json(struct e2e_row *r)
{
	json_t *out = json_pack("{s:I,s:i}", "bytes", (json_int_t)r->bytes, "tokens", (int)r->model->tokens);
	for (unsigned k = 0; k < E2E_CASES; k++)
		if (r->cells[k].total.n || r->cells[k].failed)
			json_object_set_new(out, e2e_case_key(k), cell_json(&r->cells[k]));
	for (size_t i = 0; i < ARRAY_LEN(ratios); i++)
		if (speed(r, ratios[i].which, ratios[i].other) > 0)
			json_object_set_new(json_object_get(out, e2e_case_key(ratios[i].which)), ratios[i].key,
				json_real(speed(r, ratios[i].which, ratios[i].other)));
	return out;
}

/* Geometric mean and worst over all models that have both figures. */
static void add_ratio(json_t *out, const struct ratio *q, struct e2e_row *rows, size_t n)
{
	double logs = 0, worst = INFINITY;
	const char *where = "";
	int count = 0;
	for (size_t i = 0; i < n; i++) {
		double v = speed(&rows[i], q->which, q->other);
		if (v <= 0)
			continue;
		logs += log(v);
		count++;
		where = v < worst ? rows[i].model->name : where;
		worst = fmin(worst, v);
	}
	if (count)
		json_object_set_new(out, q->key, json_pack("{s:f,s:f,s:s}", "geomean", exp(logs / count), "worst", worst, "worst_model", where));
}

json_t *e2e_figures(struct e2e_row *rows, size_t n)
{
	json_t *models = json_object(), *out = json_object();
	uint32_t failed = 0;
	bool simulated = false;
	for (size_t i = 0; i < n; i++) {
		simulated |= rows[i].simulated;
		json_object_set_new(models, rows[i].model->name, row_json(&rows[i]));
		for (unsigned k = 0; k < E2E_CASES; k++)
			failed += rows[i].cells[k].failed;
	}
	if (simulated)
		json_object_set_new(out, "simulated", json_true());
	for (size_t i = 0; i < ARRAY_LEN(ratios); i++)
		add_ratio(out, &ratios[i], rows, n);
	json_object_set_new(out, "failed", json_integer(failed));
	json_object_set_new(out, "models", models);
	return out;
}

/* ---- files ---- */

static void write_csv(FILE *f, struct e2e_row *rows, size_t n)
{
	fputs("model,bytes,case,runs,failed,total_ms", f);
	for (unsigned p = 0; p < FUNCTION_PARTS; p++)
		fprintf(f, ",%s_ms", function_part_key(p));
	fputc('\n', f);
	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < E2E_CASES; k++) {
			struct function_cell *c = &rows[i].cells[k];
			if (!c->total.n && !c->failed)
				continue;
			fprintf(f, "%s,%" PRIu64 ",%s,%zu,%" PRIu32 ",%.3f", rows[i].model->name, rows[i].bytes, e2e_case_key(k), c->total.n,
				c->failed, total_of(&rows[i], k));
			for (unsigned p = 0; p < FUNCTION_PARTS; p++)
				fprintf(f, ",%.3f", c->total.n ? samples_median(&c->part[p]) : 0.0);
			fputc('\n', f);
		}
}

static void write_number(FILE *f, double v, int digits)
{
	fputs(" | ", f);
	if (v > 0)
		fprintf(f, "%.*f", digits, v);
	else
		fputs("-", f);
}

static bool has_case(struct e2e_row *rows, size_t n, unsigned which)
{
	for (size_t i = 0; i < n; i++)
		if (rows[i].cells[which].total.n)
			return true;
	return false;
}

static void write_table(FILE *f, struct e2e_row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (rows[i].simulated)
			fprintf(f, "**%s: simulated device; no figure of it is a measurement.**\n\n", rows[i].model->name);
	fputs("Milliseconds from asking for the process to its first result, medians; page cache as each case says.\n\n| model | MiB", f);
	for (unsigned k = 0; k < E2E_CASES; k++)
		if (has_case(rows, n, k))
			fprintf(f, " | %s", e2e_case_key(k));
	fputs(" | failed |\n|---|---|---", f);
	for (unsigned k = 0; k < E2E_CASES; k++)
		if (has_case(rows, n, k))
			fputs("|---", f);
	fputs("|\n", f);
	for (size_t i = 0; i < n; i++) {
		uint32_t failed = 0;
		fprintf(f, "| %s | %" PRIu64, rows[i].model->name, rows[i].bytes / MIB);
		for (unsigned k = 0; k < E2E_CASES; k++) {
			failed += rows[i].cells[k].failed;
			if (has_case(rows, n, k))
				write_number(f, total_of(&rows[i], k), 1);
		}
		fprintf(f, " | %" PRIu32 " |\n", failed);
	}
}

static void write_ratios(FILE *f, struct e2e_row *rows, size_t n)
{
	fputs("\nTimes as fast (above 1: faster).\n\n| model", f);
	for (size_t q = 0; q < ARRAY_LEN(ratios); q++)
		fprintf(f, " | %s / %s", e2e_case_key(ratios[q].which), e2e_case_key(ratios[q].other));
	fputs(" |\n|---", f);
	for (size_t q = 0; q < ARRAY_LEN(ratios); q++)
		fputs("|---", f);
	fputs("|\n", f);
	for (size_t i = 0; i < n; i++) {
		fprintf(f, "| %s", rows[i].model->name);
		for (size_t q = 0; q < ARRAY_LEN(ratios); q++)
			write_number(f, speed(&rows[i], ratios[q].which, ratios[q].other), 2);
		fputs(" |\n", f);
	}
}

static void write_bars(FILE *f, struct e2e_row *rows, size_t n)
{
	const char *names[FUNCTION_PARTS];
	struct svg_panel *panels = calloc(n, sizeof *panels);
	struct svg_bar *all = calloc(n * E2E_CASES, sizeof *all);
	double(*lengths)[FUNCTION_PARTS] = calloc(n * E2E_CASES, sizeof *lengths);
	for (unsigned p = 0; p < FUNCTION_PARTS; p++)
		names[p] = function_part_key(p);
	for (size_t i = 0; i < n && panels && all && lengths; i++) {
		struct svg_panel *b = &panels[i];
		*b = (struct svg_panel){.title = rows[i].model->name, .bars = &all[i * E2E_CASES]};
		for (unsigned k = 0; k < E2E_CASES; k++) {
			struct function_cell *c = &rows[i].cells[k];
			double *v = lengths[i * E2E_CASES + k];
			if (!c->total.n)
				continue;
			for (unsigned p = 0; p < FUNCTION_PARTS; p++)
				v[p] = samples_median(&c->part[p]);
			all[i * E2E_CASES + b->n_bars++] = (struct svg_bar){e2e_case_key(k), v};
		}
	}
	if (panels && all && lengths)
		svg_write_bars(f, "from asking for the process to its first result, ms", names, FUNCTION_PARTS, panels, n);
	free(panels);
	free(all);
	free(lengths);
}

void e2e_write(const char *dir, struct e2e_row *rows, size_t n, const json_t *concurrent)
{
	FILE *md = lab_create(dir, "e2e.md"), *csv = lab_create(dir, "e2e.csv"), *svg = lab_create(dir, "e2e.svg");
	write_table(md, rows, n);
	write_ratios(md, rows, n);
	char *text = json_dumps(concurrent, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	fprintf(md, "\nOpen loop, several functions at once:\n\n```\n%s\n```\n", text ? text : "");
	free(text);
	write_csv(csv, rows, n);
	write_bars(svg, rows, n);
	if (ferror(md) || ferror(csv) || ferror(svg))
		die_errno(errno, "writing to %s", dir);
	fclose(md);
	fclose(csv);
	fclose(svg);
}
