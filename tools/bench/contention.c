/* contention.c - trims-bench contention: what a demand copy waits for while the link is under load, by who decides what goes
 * next: nobody (A), stream priority (B), pieces queued in advance (C), the link scheduler just in time (D), and with its
 * token buckets (E).  The load is that of the PCIe study (stress.h).
 * A wait is what a demand took beyond the median of the same arm without load; `engine` is measured by the submitter, from
 * being asked for until the engine has done all that was ahead.
 * Keeps: the arms take turns at each pressure, so that what changes on the machine changes for all of them. */
#include "tools/bench/contention.h"

#include "shared/check.h"
#include "tools/bench/fit.h"
#include "tools/svg.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define MEMORIES 2
#define TOP_WEIGHT 3 /* the highest pressure is what goals are about: it gets more of a budget */
#define MAX_RHO 0.99
#define CALLS 300u /* unless --calls says how many */

static const char *const memories[MEMORIES] = {"pinned", "pageable"};
static const char *const directions[STRESS_DIRECTIONS] = {"h2d", "d2h", "both"};
static const char *const arms[ARMS] = {"A", "B", "C", "D", "E"};
static const char *const arm_names[ARMS] = {"A plain streams", "B stream priority", "C pieces queued in advance",
	"D just in time", "E just in time, buckets"};
static const char *const pressure_names[PRESSURES] = {"p = 0", "p = 1", "p = 2", "p = 3", "p = 4", "p = 5", "p = 6", "p = 7",
	"p = 8"};

const double curve_shares[CURVE_POINTS] = {0, .01, .02, .05, .1, .15, .2, .25, .3, .35, .4, .45, .5, .55, .6, .65, .7, .75, .8,
	.85, .9, .925, .95, .96, .97, .98, .99, .995, 1};

struct cell {
	struct curve latency, engine;
	uint32_t calls;
	double load_gbps, all_gbps;
};

/* One memory and direction. */
struct block {
	struct cell cell[ARMS][PRESSURES];
};

struct contention {
	const struct bench_options *o;
	const struct gpu *g;
	struct contention_files files;
	struct stress *stress;
	struct link_rates rates;
	struct block block[MEMORIES][STRESS_DIRECTIONS];
	bool asked[MEMORIES]; /* for */
	uint64_t end_ns;      /* of all cells; 0: no budget */
	uint32_t weight_left; /* of cells to come */
};

/* ---- curves ---- */

void curve_take(struct curve *c, struct samples *us)
{
	double sum = 0;
	*c = (struct curve){.n = us->n};
	if (us->n == 0)
		return;
	for (size_t i = 0; i < us->n; i++)
		sum += us->v[i];
	for (size_t i = 0; i < CURVE_POINTS; i++)
		c->us[i] = samples_quantile(us, curve_shares[i]);
	c->mean_us = sum / (double)us->n;
}

double curve_at(const struct curve *c, double share)
{
	for (size_t i = 0; i < CURVE_POINTS; i++)
		if (fabs(curve_shares[i] - share) < 1e-9)
			return c->us[i];
	NEVER();
}

static double wait_at(const struct block *b, enum stress_arm a, uint32_t p, double share)
{
	return fmax(curve_at(&b->cell[a][p].latency, share) - curve_at(&b->cell[a][0].latency, 0.5), 0);
}

/* ---- running ---- */

static uint32_t weight_of(uint32_t pressure)
{
	return pressure == STRESS_MAX_PRESSURE ? TOP_WEIGHT : 1;
}

/* Its part of what is left. */
static uint64_t limit_of(struct contention *c, uint32_t pressure)
{
	uint64_t now = bench_now_ns(), weight = weight_of(pressure);
	uint64_t left = c->end_ns > now ? c->end_ns - now : 1;
	uint64_t limit = c->end_ns ? MAX(left * weight / c->weight_left, 1u) : 0;
	c->weight_left -= (uint32_t)weight;
	return limit;
}

static void run_cell(struct contention *c, uint32_t memory, enum stress_direction d, enum stress_arm a, uint32_t p)
{
	const struct stress_cell what = {.arm = a, .direction = d, .pageable = memory == 1, .pressure = p,
		.calls = c->o->calls ? c->o->calls : CALLS, .limit_ns = limit_of(c, p)};
	struct stress_outcome o;
	struct cell *cell = &c->block[memory][d].cell[a][p];
	stress_run(c->stress, &what, &o);
	*cell = (struct cell){.calls = o.calls, .load_gbps = o.load_gbps, .all_gbps = o.all_gbps};
	curve_take(&cell->latency, &o.latency_us);
	curve_take(&cell->engine, &o.engine_us);
	contention_csv(&c->files, "streams", memories[memory], directions[d], arms[a], p, &cell->latency);
	stress_outcome_fini(&o);
}

static void run_all(struct contention *c, uint64_t budget_ns)
{
	uint32_t wanted = (uint32_t)c->asked[0] + c->asked[1], total = wanted * STRESS_DIRECTIONS * ARMS * (PRESSURES - 1 + TOP_WEIGHT);
	c->weight_left = total;
	c->end_ns = budget_ns ? bench_now_ns() + budget_ns : 0;
	for (uint32_t m = 0; m < MEMORIES; m++)
		for (uint32_t d = 0; c->asked[m] && d < STRESS_DIRECTIONS; d++)
			for (uint32_t p = 0; p < PRESSURES; p++) {
				lab_progress("contention", total - c->weight_left, total);
				for (uint32_t a = 0; a < ARMS; a++)
					run_cell(c, m, (enum stress_direction)d, (enum stress_arm)a, p);
			}
	lab_progress(NULL, 0, 0);
}

/* ---- fits ---- */

static json_t *fit_json(const struct fit *f)
{
	return json_pack("{s:f,s:f,s:f}", "a", f->a, "b", f->b, "rms_us", f->rms);
}

/* The mean time of a demand by pressure, against the three curves it is said to follow. */
struct fits {
	double rho[PRESSURES], queue[PRESSURES], square[PRESSURES], mean_us[PRESSURES];
	struct fit by_queue, by_square, by_exp;
};

static void fit_block(const struct block *b, enum stress_arm a, struct fits *f)
{
	double most = 0;
	for (uint32_t p = 0; p < PRESSURES; p++)
		most = fmax(most, b->cell[a][p].all_gbps);
	for (uint32_t p = 0; p < PRESSURES; p++) {
		f->rho[p] = most > 0 ? fmin(b->cell[a][p].load_gbps / most, MAX_RHO) : 0;
		f->queue[p] = 1 / (1 - f->rho[p]);
		f->square[p] = (double)p * p;
		f->mean_us[p] = b->cell[a][p].latency.mean_us;
	}
	fit_line(f->queue, f->mean_us, PRESSURES, &f->by_queue);
	fit_line(f->square, f->mean_us, PRESSURES, &f->by_square);
	fit_exp(f->rho, f->mean_us, PRESSURES, &f->by_exp);
}

static json_t *fits_json(const struct block *b, enum stress_arm a)
{
	struct fits f;
	fit_block(b, a, &f);
	const char *best = f.by_queue.rms <= f.by_square.rms && f.by_queue.rms <= f.by_exp.rms ? "a+b/(1-rho)"
		: f.by_square.rms <= f.by_exp.rms ? "a+b*p^2" : "a*e^(b*rho)";
	return json_pack("{s:o,s:o,s:o,s:s}", "a+b/(1-rho)", fit_json(&f.by_queue), "a+b*p^2", fit_json(&f.by_square),
		"a*e^(b*rho)", fit_json(&f.by_exp), "best", best);
}

/* ---- figures ---- */

#define BY_PRESSURE(json, key, value)                                                                                  \
	do {                                                                                                          \
		json_t *list_ = json_array();                                                                         \
		for (uint32_t p = 0; p < PRESSURES; p++)                                                              \
			json_array_append_new(list_, value);                                                          \
		json_object_set_new(json, key, list_);                                                                \
	} while (0)

static json_t *arm_json(const struct block *b, enum stress_arm a)
{
	json_t *j = json_object();
	const struct cell *c = b->cell[a];
	BY_PRESSURE(j, "p50_us", json_real(curve_at(&c[p].latency, 0.5)));
	BY_PRESSURE(j, "p99_us", json_real(curve_at(&c[p].latency, 0.99)));
	BY_PRESSURE(j, "max_us", json_real(curve_at(&c[p].latency, 1)));
	BY_PRESSURE(j, "wait_p99_us", json_real(wait_at(b, a, p, 0.99)));
	if (c[0].engine.n) {
		BY_PRESSURE(j, "engine_p99_us", json_real(curve_at(&c[p].engine, 0.99)));
		BY_PRESSURE(j, "engine_max_us", json_real(curve_at(&c[p].engine, 1)));
	}
	BY_PRESSURE(j, "gbps", json_real(c[p].all_gbps));
	BY_PRESSURE(j, "load_gbps", json_real(c[p].load_gbps));
	BY_PRESSURE(j, "calls", json_integer(c[p].calls));
	BY_PRESSURE(j, "demands", json_integer((json_int_t)c[p].latency.n));
	json_object_set_new(j, "fits", fits_json(b, a));
	return j;
}

static json_t *blocks_json(const struct contention *c)
{
	json_t *all = json_object();
	for (uint32_t m = 0; m < MEMORIES; m++) {
		if (!c->asked[m])
			continue;
		json_t *memory = json_object();
		for (uint32_t d = 0; d < STRESS_DIRECTIONS; d++) {
			json_t *direction = json_object();
			for (uint32_t a = 0; a < ARMS; a++)
				json_object_set_new(direction, arms[a], arm_json(&c->block[m][d], (enum stress_arm)a));
			json_object_set_new(memory, directions[d], direction);
		}
		json_object_set_new(all, memories[m], memory);
	}
	return all;
}

/* The study's 300, or what of them the time was enough for. */
static uint32_t fewest_calls(const struct contention *c)
{
	uint32_t fewest = UINT32_MAX;
	for (uint32_t m = 0; m < MEMORIES; m++)
		for (uint32_t d = 0; c->asked[m] && d < STRESS_DIRECTIONS; d++)
			for (uint32_t a = 0; a < ARMS; a++)
				for (uint32_t p = 1; p < PRESSURES; p++)
					fewest = MIN(fewest, c->block[m][d].cell[a][p].calls);
	return fewest;
}

/* What it is held to: page-locked, to the device, at the highest pressure. */
static void judge_streams(const struct contention *c, json_t *result)
{
	const struct block *b = &c->block[0][STRESS_H2D];
	const struct cell *a = b->cell[ARM_NONE], *d = b->cell[ARM_JIT];
	uint32_t p = STRESS_MAX_PRESSURE;
	double bound = (double)stress_bound_ns(c->stress) / 1e3, ours = wait_at(b, ARM_JIT, p, 0.99);
	json_object_set_new(result, "bound_us", json_real(bound));
	json_object_set_new(result, "engine_max_us", json_real(curve_at(&d[p].engine, 1)));
	json_object_set_new(result, "p99_of_bound", json_real(curve_at(&d[p].engine, 0.99) / bound));
	json_object_set_new(result, "max_of_bound", json_real(curve_at(&d[p].engine, 1) / bound));
	json_object_set_new(result, "throughput", json_real(d[p].all_gbps / a[p].all_gbps));
	json_object_set_new(result, "p99_gain", json_real(wait_at(b, ARM_NONE, p, 0.99) / fmax(ours, 1)));
	json_object_set_new(result, "p99_gain_by_priority",
		json_real(wait_at(b, ARM_NONE, p, 0.99) / fmax(wait_at(b, ARM_PRIORITY, p, 0.99), 1)));
	json_object_set_new(result, "p99_gain_by_pieces",
		json_real(wait_at(b, ARM_NONE, p, 0.99) / fmax(wait_at(b, ARM_QUEUED, p, 0.99), 1)));
	json_object_set_new(result, "chunk_bytes", json_integer((json_int_t)stress_chunk_bytes(c->stress)));
	json_object_set_new(result, "link", json_pack("{s:f,s:f,s:i,s:i,s:I,s:I}", "h2d_gbps",
		(double)c->rates.bytes_per_s[UP] / 1e9, "d2h_gbps", (double)c->rates.bytes_per_s[DOWN] / 1e9, "h2d_duplex",
		(int)c->rates.duplex[UP], "d2h_duplex", (int)c->rates.duplex[DOWN], "overhead_ns",
		(json_int_t)c->rates.overhead_ns, "submit_ns", (json_int_t)c->rates.submit_ns));
}

/* ---- files ---- */

FILE *contention_file(const struct contention_files *f, const char *name)
{
	return lab_create(f->dir, name);
}

void contention_csv(const struct contention_files *f, const char *where, const char *memory, const char *direction,
	const char *arm, uint32_t pressure, const struct curve *c)
{
	for (size_t i = 0; f->csv && c->n && i < CURVE_POINTS; i++)
		fprintf(f->csv, "%s,%s,%s,%s,%s,%" PRIu32 ",%zu,%g,%.2f\n", f->gpu, where, memory, direction, arm, pressure, c->n,
			curve_shares[i], c->us[i]);
}

/* A page for each memory and direction, a chart for each arm, a line for each pressure. */
static void draw_curves(const struct contention *c, uint32_t m, uint32_t d)
{
	struct svg_line lines[ARMS][PRESSURES];
	struct svg_chart charts[ARMS];
	char name[64], title[256];
	const struct block *b = &c->block[m][d];
	for (uint32_t a = 0; a < ARMS; a++) {
		for (uint32_t p = 0; p < PRESSURES; p++)
			lines[a][p] = (struct svg_line){pressure_names[p], b->cell[a][p].latency.us, curve_shares, CURVE_POINTS};
		bool bounded = a >= ARM_JIT && d == STRESS_H2D;
		double idle = curve_at(&b->cell[a][0].latency, 0.5);
		charts[a] = (struct svg_chart){.title = arm_names[a], .x_title = "time of an 8 MiB demand, us", .y_title =
			"share of demands", .log_x = true, .lines = lines[a], .n_lines = PRESSURES, .mark = "unloaded + B",
			.mark_x = bounded ? idle + (double)stress_bound_ns(c->stress) / 1e3 : 0};
	}
	snprintf(name, sizeof name, "contention-%s-%s.svg", memories[m], directions[d]);
	snprintf(title, sizeof title, "%s: load %s, %s memory", c->g->name, directions[d], memories[m]);
	FILE *f = contention_file(&c->files, name);
	svg_write(f, title, charts, ARMS, 3);
	fclose(f);
}

/* A chart for each memory and direction, a line for each arm. */
static void draw_p99(const struct contention *c)
{
	static double pressure[PRESSURES], p99[MEMORIES][STRESS_DIRECTIONS][ARMS][PRESSURES];
	struct svg_line lines[MEMORIES][STRESS_DIRECTIONS][ARMS];
	struct svg_chart charts[MEMORIES * STRESS_DIRECTIONS];
	char titles[MEMORIES * STRESS_DIRECTIONS][32], title[256];
	uint32_t n = 0;
	for (uint32_t m = 0; m < MEMORIES; m++)
		for (uint32_t d = 0; d < STRESS_DIRECTIONS; d++) {
			if (!c->asked[m])
				continue;
			uint32_t i = n++;
			for (uint32_t a = 0; a < ARMS; a++) {
				for (uint32_t p = 0; p < PRESSURES; p++) {
					pressure[p] = p;
					p99[m][d][a][p] = curve_at(&c->block[m][d].cell[a][p].latency, 0.99);
				}
				lines[m][d][a] = (struct svg_line){arms[a], pressure, p99[m][d][a], PRESSURES};
			}
			snprintf(titles[i], sizeof titles[i], "%s, %s", memories[m], directions[d]);
			charts[i] = (struct svg_chart){.title = titles[i], .x_title = "pressure", .y_title =
				"99 % of demands below, us", .log_y = true, .lines = lines[m][d], .n_lines = ARMS};
		}
	snprintf(title, sizeof title, "%s: 8 MiB demands under load, by arm", c->g->name);
	FILE *f = contention_file(&c->files, "contention-p99.svg");
	svg_write(f, title, charts, n, STRESS_DIRECTIONS);
	fclose(f);
}

static void open_files(const struct bench_options *o, struct contention *c)
{
	c->files = (struct contention_files){.dir = o->out, .gpu = c->g->name};
	if (!o->out)
		return;
	lab_mkdir(o->out);
	c->files.csv = contention_file(&c->files, "contention.csv");
	fputs("device,where,memory,direction,arm,pressure,demands,share,us\n", c->files.csv);
}

/* ---- the whole ---- */

static void run_streams(struct contention *c, uint64_t budget_ns, json_t *result)
{
	if (stress_device_bytes(STRESS_MAX_PRESSURE) + 192 * MIB > gpu_free_bytes(c->g))
		skip("contention: the device has no room for eight blocks of 32 MiB in each direction");
	link_rates(c->g, &c->rates);
	stress_new(&c->stress, c->g, &c->rates, STRESS_MAX_PRESSURE);
	run_all(c, budget_ns);
	if (c->asked[0])
		judge_streams(c, result);
	json_object_set_new(result, "fewest_calls", json_integer(fewest_calls(c)));
	json_object_set_new(result, "streams", blocks_json(c));
	if (c->files.dir) {
		for (uint32_t m = 0; m < MEMORIES; m++)
			for (uint32_t d = 0; c->asked[m] && d < STRESS_DIRECTIONS; d++)
				draw_curves(c, m, d);
		draw_p99(c);
	}
	stress_free(&c->stress);
}

json_t *bench_contention(const struct bench_options *o)
{
	struct gpu g;
	struct contention *c = calloc(1, sizeof *c);
	ASSERT(c);
	const char *only = o->only ? o->only : "";
	bool all = !*only, inside = all || strcmp(only, "inside") == 0, both = all || strcmp(only, "streams") == 0;
	for (uint32_t m = 0; m < MEMORIES; m++)
		c->asked[m] = both || strcmp(only, memories[m]) == 0;
	bool streams = c->asked[0] || c->asked[1];
	if (!streams && !inside)
		die("contention: --only wants streams, pinned or pageable, or inside");
	gpu_open(o, &g);
	json_t *result = gpu_result(&g);
	c->o = o;
	c->g = &g;
	open_files(o, c);
	if (streams)
		run_streams(c, inside ? o->budget_ns / 4 * 3 : o->budget_ns, result);
	if (inside)
		json_object_set_new(result, "inside", contention_inside(o, &g, &c->files, streams ? o->budget_ns / 4 : o->budget_ns));
	if (c->files.csv && fclose(c->files.csv))
		die_errno(errno, "writing the curves to %s", o->out);
	free(c);
	gpu_close(&g);
	return result;
}
