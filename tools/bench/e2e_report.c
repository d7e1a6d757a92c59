/* e2e_report.c - the figures of trims-bench e2e: JSON, tables, bars. */
#include "tools/bench/e2e.h"

#include "shared/own.h"
#include "tools/svg.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static double total_of(struct e2e_row *r, enum e2e_case which)
{
	struct function_cell *c = &r->cells[which];
	return c->total.n ? samples_median(&c->total) : 0;
}

static const struct ratio {
	const char *key;
	enum e2e_case which, other;
} ratios[] = {
#define RATIO(NAME, key, WHICH, OTHER) {#key, E2E_CASE_##WHICH, E2E_CASE_##OTHER},
#include "tools/bench/e2e.def"
};

void e2e_compare(struct e2e_row *row, enum e2e_ratio which)
{
	double a = row->last[ratios[which].which], b = row->last[ratios[which].other];
	if (a > 0 && b > 0)
		samples_add(&row->ratios[which], b / a);
}

/* How many times as fast: the median of its pairs.  0: there are none. */
static double speed(struct e2e_row *r, unsigned which)
{
	return r->ratios[which].n ? samples_median(&r->ratios[which]) : 0;
}

static json_t *ratio_json(struct samples *s)
{
	double low, high;
	samples_median_interval(s, &low, &high);
	return json_pack("{s:f,s:f,s:f,s:f,s:f,s:i}", "median", samples_median(s), "median_low", low, "median_high", high, "lowest",
		samples_quantile(s, 0), "highest", samples_quantile(s, 1), "pairs", (int)s->n);
}

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
	json_t *out = json_pack("{s:I,s:i,s:i}", "bytes", (json_int_t)r->bytes, "tokens", (int)r->model->tokens, "rounds",
		(int)r->rounds);
	for (unsigned k = 0; k < E2E_CASES; k++)
		if (r->cells[k].total.n || r->cells[k].failed)
			json_object_set_new(out, e2e_case_key(k), cell_json(&r->cells[k]));
	json_t *compared = json_object();
	for (unsigned i = 0; i < E2E_RATIOS; i++)
		if (r->ratios[i].n)
			json_object_set_new(compared, ratios[i].key, ratio_json(&r->ratios[i]));
	json_object_set_new(out, "times_as_fast", compared);
	return out;
}

struct summary {
	double geomean, worst;
	const char *where;
	int models;
};

/* Over all models that have it. */
static struct summary summarise(struct e2e_row *rows, size_t n, unsigned which)
{
	struct summary s = {.worst = INFINITY, .where = ""};
	double logs = 0;
	for (size_t i = 0; i < n; i++) {
		double v = speed(&rows[i], which);
		if (v <= 0)
			continue;
		logs += log(v);
		s.models++;
		s.where = v < s.worst ? rows[i].model->name : s.where;
		s.worst = fmin(s.worst, v);
	}
	s.geomean = s.models ? exp(logs / s.models) : 0;
	return s;
}

/* What sharing costs: of a hit's time, the part in which nothing is done but to connect, to open and to wait for what is there.  The
 * worst model's; negative: there is none. */
static double sharing(struct e2e_row *rows, size_t n)
{
	static const enum function_part parts[] = {FUNCTION_CONNECT, FUNCTION_OPEN, FUNCTION_WAIT};
	double worst = -1;
	for (size_t i = 0; i < n; i++) {
		struct function_cell *c = &rows[i].cells[E2E_CASE_GPU_HIT];
		double sum = 0;
		for (size_t p = 0; c->total.n && p < ARRAY_LEN(parts); p++)
			sum += samples_median(&c->part[parts[p]]);
		if (c->total.n)
			worst = fmax(worst, sum / samples_median(&c->total));
	}
	return worst;
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
	for (unsigned i = 0; i < E2E_RATIOS; i++) {
		struct summary s = summarise(rows, n, i);
		if (s.models)
			json_object_set_new(out, ratios[i].key, json_pack("{s:f,s:f,s:s}", "geomean", s.geomean, "worst", s.worst,
				"worst_model", s.where));
	}
	if (sharing(rows, n) >= 0)
		json_object_set_new(json_object_get(out, "gpu_hit"), "sharing", json_real(sharing(rows, n)));
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

static bool has_ratio(struct e2e_row *rows, size_t n, unsigned which)
{
	return summarise(rows, n, which).models > 0;
}

static void write_ratio(FILE *f, struct samples *s)
{
	double low, high;
	if (!s->n) {
		fputs(" | -", f);
		return;
	}
	samples_median_interval(s, &low, &high);
	fprintf(f, " | %.3f (%.2f to %.2f, %zu)", samples_median(s), low, high, s->n);
}

static void write_summary(FILE *f, struct e2e_row *rows, size_t n, bool worst)
{
	fprintf(f, "| **%s**", worst ? "worst" : "geometric mean");
	for (unsigned q = 0; q < E2E_RATIOS; q++) {
		struct summary s = summarise(rows, n, q);
		if (s.models)
			fprintf(f, " | **%.3f**", worst ? s.worst : s.geomean);
	}
	fputs(" |\n", f);
}

static void write_ratios(FILE *f, struct e2e_row *rows, size_t n)
{
	fputs("\nTimes as fast (above 1: faster): the median of pairs that ran back to back (where it lies with 95 % certainty, pairs).\n\n| model", f);
	for (unsigned q = 0; q < E2E_RATIOS; q++)
		if (has_ratio(rows, n, q))
			fprintf(f, " | %s / %s", e2e_case_key(ratios[q].which), e2e_case_key(ratios[q].other));
	fputs(" |\n|---", f);
	for (unsigned q = 0; q < E2E_RATIOS; q++)
		if (has_ratio(rows, n, q))
			fputs("|---", f);
	fputs("|\n", f);
	for (size_t i = 0; i < n; i++) {
		fprintf(f, "| %s", rows[i].model->name);
		for (unsigned q = 0; q < E2E_RATIOS; q++)
			if (has_ratio(rows, n, q))
				write_ratio(f, &rows[i].ratios[q]);
		fputs(" |\n", f);
	}
	write_summary(f, rows, n, false);
	write_summary(f, rows, n, true);
}

static void write_ratios_csv(FILE *f, struct e2e_row *rows, size_t n)
{
	fputs("model,case,other,pairs,median,median_low,median_high,lowest,highest\n", f);
	for (size_t i = 0; i < n; i++)
		for (unsigned q = 0; q < E2E_RATIOS; q++) {
			struct samples *s = &rows[i].ratios[q];
			double low, high;
			if (!s->n)
				continue;
			samples_median_interval(s, &low, &high);
			fprintf(f, "%s,%s,%s,%zu,%.4f,%.4f,%.4f,%.4f,%.4f\n", rows[i].model->name, e2e_case_key(ratios[q].which),
				e2e_case_key(ratios[q].other), s->n, samples_median(s), low, high, samples_quantile(s, 0), samples_quantile(s, 1));
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

/* A figure means nothing without the machine that it is from. */
static void write_machine(FILE *f)
{
	struct utsname u;
	char line[256], cpu[256] = "unknown processor";
	FILE *info = fopen("/proc/cpuinfo", "re");
	while (info && fgets(line, sizeof line, info))
		if (sscanf(line, "model name%*[^:]: %255[^\n]", cpu) == 1)
			break;
	if (info)
		fclose(info);
	fprintf(f, "# trims-bench e2e, trims %s\n\n%s, %ld cores, %ld GiB, %s %s.\n\n", TRIMS_VERSION, cpu, sysconf(_SC_NPROCESSORS_ONLN),
		sysconf(_SC_PHYS_PAGES) / (long)(GIB / (uint64_t)sysconf(_SC_PAGESIZE)), uname(&u) ? "?" : u.sysname, uname(&u) ? "?" : u.release);
}

static void close_file(FILE *f, const char *dir)
{
	bool bad = ferror(f);
	if (fclose(f) || bad)
		die_errno(errno, "writing to %s", dir);
}

void e2e_write(const char *dir, struct e2e_row *rows, size_t n, const json_t *concurrent)
{
	FILE *md = lab_create(dir, "e2e.md"), *csv = lab_create(dir, "e2e.csv"), *svg = lab_create(dir, "e2e.svg");
	FILE *ratios_csv = lab_create(dir, "e2e-ratios.csv");
	write_machine(md);
	write_table(md, rows, n);
	write_ratios(md, rows, n);
	char *text = json_dumps(concurrent, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	fprintf(md, "\nOpen loop, several functions at once:\n\n```\n%s\n```\n", text ? text : "");
	free(text);
	write_csv(csv, rows, n);
	write_ratios_csv(ratios_csv, rows, n);
	write_bars(svg, rows, n);
	close_file(md, dir);
	close_file(csv, dir);
	close_file(ratios_csv, dir);
	close_file(svg, dir);
}
