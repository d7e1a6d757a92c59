/* bench_tell.c - what trims-run bench found, as JSON and as a table.  See bench.h.
 * Keeps: what is of a simulated device says so wherever it is printed. */
#include "tools/run/bench.h"

#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

/* 0: there is none. */
static double median_or_0(struct samples *s)
{
	return s->n ? samples_median(s) : 0;
}

static struct bench_mode *find_mode(struct bench *b, enum mode mode)
{
	for (uint32_t i = 0; i < b->n_modes; i++)
		if (b->modes[i].mode == mode)
			return &b->modes[i];
	return NULL;
}

/* How many times as fast it is as another; 0: one of them has no figure. */
static double speed(double mine, double theirs)
{
	return mine > 0 && theirs > 0 ? theirs / mine : 0;
}

static double over_private(struct bench *b, struct bench_mode *m)
{
	struct bench_mode *private = find_mode(b, MODE_PRIVATE);
	return private ? speed(median_or_0(&m->cell.total), median_or_0(&private->cell.total)) : 0;
}

/* ---- JSON ---- */

static json_t *real_or_null(double v)
{
	return v > 0 ? json_real(v) : json_null();
}

static json_t *spread(struct samples *s)
{
	if (!s->n)
		return json_null();
	return json_pack("{s:f,s:f,s:f,s:f}", "median", samples_median(s), "p10", samples_quantile(s, 0.1), "p90",
		samples_quantile(s, 0.9), "p95", samples_quantile(s, 0.95));
}

static json_t *parts_json(struct function_cell *c)
{
	json_t *parts = json_object();
	for (unsigned p = 0; p < FUNCTION_PARTS; p++)
		json_object_set_new(parts, function_part_key(p), spread(&c->part[p]));
	return parts;
}

/* From asking for the model to the first result, beside what was predicted of that. */
static json_t *prediction_json(struct bench_mode *m)
{
	double measured = median_or_0(&m->from_open);
	if (m->predicted <= 0)
		return json_null();
	return json_pack("{s:f,s:o,s:o}", "from_open_ms", m->predicted, "measured_ms", real_or_null(measured), "measured_over_predicted",
		real_or_null(measured / m->predicted));
}

static json_t *over_pipeline_json(struct bench *b, struct bench_mode *m)
{
	struct bench_mode *pipeline = find_mode(b, MODE_PIPELINE);
	if (!pipeline)
		return json_null();
	return json_pack("{s:o,s:o}", "measured", real_or_null(speed(median_or_0(&m->from_open), median_or_0(&pipeline->from_open))),
		"predicted", real_or_null(speed(m->predicted, pipeline->predicted)));
}

static json_t *mode_json(struct bench *b, struct bench_mode *m)
{
	json_t *j = json_pack("{s:s,s:i,s:i,s:b,s:o,s:o,s:o,s:o,s:o}", "mode", mode_name(m->mode), "runs", (int)m->cell.total.n, "failed",
		(int)m->cell.failed, "given_up", (int)m->given_up, "total_ms", spread(&m->cell.total), "parts_ms", parts_json(&m->cell),
		"from_open_ms", spread(&m->from_open), "over_private", real_or_null(over_private(b, m)), "predicted", prediction_json(m));
	json_object_set_new(j, "left_out", json_boolean(m->left_out));
	if (m->why[0])
		json_object_set_new(j, "why", json_string(m->why));
	if (m->mode != MODE_PRIVATE)
		json_object_set_new(j, "over_pipeline", over_pipeline_json(b, m));
	if (mode_follows_plan(m->mode)) {
		json_object_set_new(j, "planned", json_boolean(m->plan >= 0));
		json_object_set_new(j, "device_bytes", json_integer((json_int_t)m->device_bytes));
		json_object_set_new(j, "helper_bytes", json_integer((json_int_t)m->helper_bytes));
	}
	return j;
}

json_t *bench_json(struct bench *b)
{
	const struct run *r = b->r;
	json_t *modes = json_array();
	for (uint32_t i = 0; i < b->n_modes; i++)
		json_array_append_new(modes, mode_json(b, &b->modes[i]));
	json_t *cache = json_pack("{s:s,s:i}", "state", b->n_files ? bench_page_cache(b) : "not looked after: no --file", "files",
		(int)b->n_files);
	return json_pack("{s:s,s:s,s:b,s:I,s:s,s:i,s:s,s:o,s:i,s:i,s:b,s:s,s:s,s:o}", "model", r->model, "device", r->device, "simulated",
		(int)b->simulated, "bytes", (json_int_t)b->bytes, "source", b->source, "batch", (int)r->batch, "state",
		r->state == BENCH_HIT ? "hit" : "miss", "page_cache", cache, "warmups", (int)b->warmups, "rounds", (int)b->rounds, "out_of_time",
		(int)b->out_of_time, "digest", b->digest, "prediction_note", b->plan_note, "modes", modes);
}

/* ---- text ---- */

static void add_ms(struct grid *g, double v)
{
	if (v > 0)
		grid_add(g, "%.2f", v);
	else
		grid_add(g, "-");
}

static void add_times(struct grid *g, struct samples *s)
{
	add_ms(g, median_or_0(s));
	add_ms(g, s->n ? samples_quantile(s, 0.1) : 0);
	add_ms(g, s->n ? samples_quantile(s, 0.9) : 0);
}

static void text_header(const struct bench *b, struct grid *g)
{
	static const char *const titles[] = {"MODE", "RUNS", "FAILED", "TOTAL", "P10", "P90", "/ PRIVATE"};
	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s%s", titles[i], i == 0 && b->simulated ? " (simulated)" : "");
	for (unsigned p = 0; p < FUNCTION_PARTS; p++)
		grid_add(g, "%s", function_part_key(p));
	grid_add(g, "FROM OPEN");
	grid_add(g, "PREDICTED");
}

static void text_mode(struct bench *b, struct bench_mode *m, struct grid *g)
{
	double ratio = over_private(b, m);
	grid_add(g, "%s%s", mode_name(m->mode), b->simulated ? " (simulated)" : "");
	grid_add(g, "%zu", m->cell.total.n);
	grid_add(g, "%" PRIu32 "%s", m->cell.failed, m->left_out ? ", left out" : m->given_up ? ", given up" : "");
	add_times(g, &m->cell.total);
	grid_add(g, ratio > 0 ? "%.2fx" : "-", ratio);
	for (unsigned p = 0; p < FUNCTION_PARTS; p++)
		add_ms(g, median_or_0(&m->cell.part[p]));
	add_ms(g, median_or_0(&m->from_open));
	add_ms(g, m->predicted);
}

static void text_head(const struct bench *b, FILE *out)
{
	char bytes[TEXT_NUMBER];
	if (b->simulated)
		fputs("simulated device: nothing of this is a measurement\n", out);
	text_put_clean(out, b->r->model);
	fprintf(out, ", %s, batch %" PRIu32 ", on %s, state %s; page cache %s; %" PRIu32 " warm-ups, %" PRIu32 " rounds%s\n",
		text_bytes(bytes, b->bytes), b->r->batch, b->r->device, b->r->state == BENCH_HIT ? "hit" : "miss",
		b->n_files ? bench_page_cache(b) : "not looked after (no --file)", b->warmups, b->rounds,
		b->out_of_time ? " (out of time)" : "");
	fputs("ms from asking for the process to its first result; medians; / PRIVATE: times as fast\n\n", out);
}

void bench_text(struct bench *b, FILE *out)
{
	char columns[7 + FUNCTION_PARTS + 2 + 1] = "l";
	memset(columns + 1, 'r', sizeof columns - 2);
	struct grid *g = grid_new(columns);
	text_head(b, out);
	text_header(b, g);
	for (uint32_t i = 0; i < b->n_modes; i++)
		text_mode(b, &b->modes[i], g);
	grid_print(g, out);
	grid_free(&g);
	for (uint32_t i = 0; i < b->n_modes; i++)
		if (b->modes[i].why[0]) {
			fprintf(out, "%s%s: ", mode_name(b->modes[i].mode), b->modes[i].left_out ? "" : " failed");
			text_put_clean(out, b->modes[i].why);
			fputc('\n', out);
		}
	if (b->plan_note[0]) {
		fputs("nothing is predicted: ", out);
		text_put_clean(out, b->plan_note);
		fputc('\n', out);
	}
}
