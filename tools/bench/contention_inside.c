/* contention_inside.c - see contention.h: what a demand open of a small model waits for while the daemon brings large ones to the
 * same device for nobody (TRIMS_OPEN_BACKGROUND, the class of a prefetch).
 * Keeps: every model is in host memory all the time, so only ways to the device are taken; an open that ended when no large
 * one was on its way any more does not count. */
#include "tools/bench/contention.h"

#include "shared/check.h"
#include "tools/svg.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define SMALL_BYTES (8 * MIB)
#define LARGE_BYTES GIB
#define DEMANDS 200 /* at each pressure, unless its time is up */
#define MIN_DEMANDS 3
#define MIN_ROUNDS 3
#define MAX_ROUNDS 800
#define GAP_NS NS_PER_MS
#define SMALL "small"

struct inside {
	const struct gpu *g;
	trims_conn *conn;
	trims_model *held[STRESS_MAX_PRESSURE + 1];  /* in host memory */
	trims_model *going[STRESS_MAX_PRESSURE];     /* to the device */
	struct samples opens;
};

static const char *large_name(uint32_t i)
{
	static char name[16];
	snprintf(name, sizeof name, "large-%" PRIu32, i);
	return name;
}

static void make_model(const struct bench_options *o, const char *name, uint64_t bytes, uint32_t seed, bool hole)
{
	char path[LAB_PATH];
	lab_path(o, path, "models/%s", name);
	lab_mkdir(path);
	lab_path(o, path, "models/%s/model.safetensors", name);
	model_write(path, &(struct model_spec){.bytes = bytes, .n_tensors = 16, .hole = hole, .seed = seed});
}

static bool is_going(trims_model *m)
{
	struct trims_progress progress;
	if (trims_progress(m, &progress))
		die_trims("contention");
	if (progress.state == TRIMS_STATE_FAILED)
		die("contention: a large model did not get to the device");
	return progress.state == TRIMS_STATE_LOADING;
}

static bool all_going(const struct inside *in, uint32_t pressure)
{
	for (uint32_t i = 0; i < pressure; i++)
		if (is_going(in->going[i]))
			return true;
	return pressure == 0;
}

static void evict(struct inside *in, const char *name)
{
	int r = trims_evict(in->conn, name, TRIMS_TIER_GPU, NULL, NULL, 0);
	if (r && r != -TRIMS_E_NOT_FOUND)
		die_trims("contention");
}

static void one_demand(struct inside *in, uint32_t pressure)
{
	struct trims_info info = {.size = sizeof info};
	evict(in, SMALL);
	nanosleep(&(struct timespec){.tv_nsec = GAP_NS}, NULL);
	uint64_t asked = bench_now_ns();
	trims_model *m = gpu_lab_open(in->conn, in->g, SMALL, 0);
	double us = (double)(bench_now_ns() - asked) / 1e3;
	if (trims_info(m, &info))
		die_trims("contention");
	if (info.hit)
		die("contention: the small model was not evicted, this would measure a hit");
	trims_close(&m);
	if (all_going(in, pressure))
		samples_add(&in->opens, us);
}

/* Sends p large ones on their way, and asks for the small one until they are there. */
static void one_round(struct inside *in, uint32_t pressure)
{
	for (uint32_t i = 0; i < pressure; i++)
		in->going[i] = gpu_lab_open(in->conn, in->g, large_name(i), TRIMS_OPEN_NO_WAIT | TRIMS_OPEN_BACKGROUND);
	do
		one_demand(in, pressure);
	while (pressure && all_going(in, pressure));
	for (uint32_t i = 0; i < pressure; i++)
		trims_close(&in->going[i]);
	for (uint32_t i = 0; i < pressure; i++)
		evict(in, large_name(i));
	lab_evict(in->conn, SMALL, TRIMS_TIER_GPU); /* waits until all is given back */
}

static void measure(struct inside *in, uint32_t pressure, uint64_t limit_ns)
{
	uint64_t end = bench_now_ns() + limit_ns;
	for (uint32_t rounds = 0; in->opens.n < DEMANDS && rounds < MAX_ROUNDS; rounds++) {
		if (limit_ns && bench_now_ns() >= end && (in->opens.n >= MIN_DEMANDS || rounds >= MIN_ROUNDS))
			break;
		one_round(in, pressure);
	}
}

/* B of the way to the device, and the longest wait of a demand that found no other, as the daemon reports them; 0: it does
 * not. */
static double reported_bound_us(trims_conn *conn, const struct gpu *g, double *longest_us)
{
	char *text;
	size_t bytes, i;
	uint64_t next;
	double bound = 0;
	json_t *row;
	if (trims_query(conn, TRIMS_REPORT_LINKS, NULL, 0, &text, &bytes, &next))
		return 0;
	json_t *report = json_loadb(text, bytes, 0, NULL);
	free(text);
	json_array_foreach(json_object_get(report, "links"), i, row) {
		const char *uuid = json_string_value(json_object_get(row, "device"));
		const char *way = json_string_value(json_object_get(row, "direction"));
		if (!uuid || !way || strcmp(uuid, g->uuid) != 0 || strcmp(way, "h2d") != 0)
			continue;
		bound = json_number_value(json_object_get(row, "bound_ns")) / 1e3;
		*longest_us = json_number_value(json_object_get(row, "alone_wait_max_ns")) / 1e3;
	}
	json_decref(report);
	return bound;
}

static uint64_t large_bytes(const struct bench_options *o, const struct gpu *g)
{
	uint64_t device = gpu_free_bytes(g) / 10 * 7 / STRESS_MAX_PRESSURE, host = host_available_bytes() / 2 / STRESS_MAX_PRESSURE;
	uint64_t bytes = align_down(MIN(MIN(device, host), bench_bytes(o, LARGE_BYTES)), 2 * MIB);
	if (bytes < SMALL_BYTES)
		skip("contention: neither the device nor the machine has room for eight large models");
	return bytes;
}

static void hold_all(struct inside *in)
{
	for (uint32_t i = 0; i < STRESS_MAX_PRESSURE; i++)
		in->held[i] = lab_open(in->conn, large_name(i), TRIMS_TIER_HOST);
	in->held[STRESS_MAX_PRESSURE] = lab_open(in->conn, SMALL, TRIMS_TIER_HOST);
}

static void draw(const struct contention_files *files, const struct curve curves[PRESSURES], double bound_us)
{
	static const char *const names[PRESSURES] = {"idle", "1 prefetch", "2", "3", "4", "5", "6", "7", "8"};
	struct svg_line lines[PRESSURES];
	char title[256];
	for (uint32_t p = 0; p < PRESSURES; p++)
		lines[p] = (struct svg_line){names[p], curves[p].us, curve_shares, curves[p].n ? CURVE_POINTS : 0};
	const struct svg_chart chart = {.title = "open of an 8 MiB model", .x_title = "time of an open, us", .y_title =
		"share of opens", .log_x = true, .lines = lines, .n_lines = PRESSURES, .mark = "unloaded + B",
		.mark_x = bound_us > 0 ? curve_at(&curves[0], 0.5) + bound_us : 0};
	snprintf(title, sizeof title, "%s: opens beside prefetches, in the daemon", files->gpu);
	FILE *f = contention_file(files, "contention-daemon.svg");
	svg_write(f, title, &chart, 1, 1);
	fclose(f);
}

static json_t *figures(const struct curve curves[PRESSURES], double bound_us)
{
	json_t *j = json_object(), *n = json_array();
	static const struct {
		const char *key;
		double share;
	} shown[] = {{"p50_us", 0.5}, {"p99_us", 0.99}, {"max_us", 1}};
	for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
		json_t *list = json_array();
		for (uint32_t p = 0; p < PRESSURES; p++)
			json_array_append_new(list, curves[p].n ? json_real(curve_at(&curves[p], shown[i].share)) : json_null());
		json_object_set_new(j, shown[i].key, list);
	}
	for (uint32_t p = 0; p < PRESSURES; p++)
		json_array_append_new(n, json_integer((json_int_t)curves[p].n));
	json_object_set_new(j, "opens", n);
	const struct curve *top = &curves[STRESS_MAX_PRESSURE];
	double wait = top->n ? curve_at(top, 0.99) - curve_at(&curves[0], 0.5) : 0;
	if (top->n)
		json_object_set_new(j, "wait_p99_us", json_real(wait));
	if (top->n && bound_us > 0) {
		json_object_set_new(j, "bound_us", json_real(bound_us));
		json_object_set_new(j, "p99_of_bound", json_real(wait / bound_us));
	}
	return j;
}

json_t *contention_inside(const struct bench_options *o, const struct gpu *g, const struct contention_files *files,
	uint64_t budget_ns)
{
	struct mrm m;
	struct inside in = {.g = g};
	struct curve curves[PRESSURES] = {0};
	char dir[LAB_PATH], source[LAB_PATH + 8], room[32];
	uint64_t large = large_bytes(o, g), began = bench_now_ns();
	lab_path(o, dir, "models");
	lab_mkdir(dir);
	make_model(o, SMALL, SMALL_BYTES, STRESS_MAX_PRESSURE, false);
	for (uint32_t i = 0; i < STRESS_MAX_PRESSURE; i++)
		make_model(o, large_name(i), large, i, true);
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	snprintf(room, sizeof room, "%" PRIu64, (STRESS_MAX_PRESSURE + 1) * (large + 16 * MIB));
	gpu_mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", room, NULL});
	in.conn = lab_connect(&m);
	hold_all(&in);
	one_round(&in, STRESS_MAX_PRESSURE); /* registers every host copy */
	in.opens.n = 0;
	for (uint32_t p = 0; p < PRESSURES; p++) {
		uint64_t now = bench_now_ns(), left = began + budget_ns > now ? began + budget_ns - now : 1;
		lab_progress("contention in the daemon", p, PRESSURES);
		measure(&in, p, budget_ns ? left / (PRESSURES - p) + 1 : 0);
		curve_take(&curves[p], &in.opens);
		contention_csv(files, "daemon", "host tier", "h2d", "D", p, &curves[p]);
		in.opens.n = 0;
	}
	lab_progress(NULL, 0, 0);
	double longest = 0, bound = reported_bound_us(in.conn, g, &longest);
	for (size_t i = 0; i < ARRAY_LEN(in.held); i++)
		trims_close(&in.held[i]);
	trims_disconnect(&in.conn);
	mrm_stop(&m);
	if (files->dir)
		draw(files, curves, bound);
	samples_fini(&in.opens);
	json_t *result = figures(curves, bound);
	json_object_set_new(result, "engine_max_us", json_real(longest));
	json_object_set_new(result, "large_bytes", json_integer((json_int_t)large));
	return result;
}
