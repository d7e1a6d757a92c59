/* scale.c - trims-bench scale: does an open stay as fast when the daemon knows much?
 * Two daemons side by side, asked in turn: one with ten models and one connection; one with 100,000 models it has
 * resolved, 1,000 connections and 10,000 leases.  And the brain alone (brain.c). */
#include "tools/bench/brain.h"
#include "tools/bench/lab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MANY_MODELS 100000
#define FEW_MODELS 10
#define CONNECTIONS 1000
#define LEASES_EACH 10
#define MODEL_BYTES 2048
#define BLOCK 100
#define PER_DIRECTORY 1000

static void model_name(char out[64], unsigned i)
{
	snprintf(out, 64, "d%u/m%u.safetensors", i / PER_DIRECTORY, i);
}

static void make_models(const struct bench_options *o, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char path[LAB_PATH], name[64];
		if (i % PER_DIRECTORY == 0) {
			lab_path(o, path, "models/d%u", i / PER_DIRECTORY);
			lab_mkdir(path);
		}
		model_name(name, i);
		lab_path(o, path, "models/%s", name);
		model_write(path, &(struct model_spec){.bytes = MODEL_BYTES, .n_tensors = 1, .seed = 1000 + i});
	}
}

static void touch_models(trims_conn *conn, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char name[64];
		model_name(name, i);
		trims_model *model = lab_open(conn, name, TRIMS_TIER_HOST);
		trims_close(&model);
	}
}

static void start_daemon(const struct bench_options *o, struct mrm *m)
{
	char source[LAB_PATH + 8];
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	/* A host tier of two thousand models: the rest is known, and not resident.  Names stay valid for the run. */
	mrm_start(o, m, (const char *const[]){"--source", source, "--host-bytes", "8M", "--min-residency", "0",
		"--revalidate", "1h", "--max-models", "200000", "--log-level", "warn", NULL});
}

struct crowd {
	trims_conn *conns[CONNECTIONS];
	trims_model *models[CONNECTIONS][LEASES_EACH];
};

static void crowd_gather(const struct mrm *m, struct crowd *c)
{
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		c->conns[i] = lab_connect(m);
		for (unsigned k = 0; k < LEASES_EACH; k++) {
			char name[64];
			model_name(name, (i + k) % 100);
			c->models[i][k] = lab_open(c->conns[i], name, TRIMS_TIER_HOST);
		}
	}
}

static void crowd_leave(struct crowd *c)
{
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		for (unsigned k = 0; k < LEASES_EACH; k++)
			trims_close(&c->models[i][k]);
		trims_disconnect(&c->conns[i]);
	}
}

static void add_opens(trims_conn *conn, struct samples *s)
{
	char name[64];
	for (unsigned i = 0; i < BLOCK; i++) {
		model_name(name, i % FEW_MODELS);
		uint64_t started = bench_now_ns();
		trims_model *model = lab_open(conn, name, TRIMS_TIER_HOST);
		trims_close(&model);
		samples_add(s, (double)(bench_now_ns() - started) / 1e3);
	}
}

/* Connections and descriptors in this process: as many as the machine lets us have. */
static void raise_limits(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static void measure(const struct mrm *few, const struct mrm *many, uint32_t rounds, struct samples *a, struct samples *b)
{
	trims_conn *to_few = lab_connect(few), *to_many = lab_connect(many);
	struct samples warm_up = {0};
	touch_models(to_few, FEW_MODELS);
	touch_models(to_many, FEW_MODELS);
	add_opens(to_few, &warm_up);
	add_opens(to_many, &warm_up);
	for (uint32_t r = 0; r < rounds; r++) {
		add_opens(to_few, a);
		add_opens(to_many, b);
	}
	samples_fini(&warm_up);
	trims_disconnect(&to_few);
	trims_disconnect(&to_many);
}

json_t *bench_scale(const struct bench_options *o)
{
	struct mrm few, many;
	struct samples a = {0}, b = {0};
	struct crowd *crowd = calloc(1, sizeof *crowd);
	char dir[LAB_PATH];
	if (!crowd)
		die_errno(ENOMEM, "scale");
	raise_limits();
	lab_path(o, dir, "models");
	lab_mkdir(dir);
	make_models(o, MANY_MODELS);
	start_daemon(o, &few);
	start_daemon(o, &many);
	trims_conn *conn = lab_connect(&many);
	uint64_t started = bench_now_ns();
	touch_models(conn, MANY_MODELS);
	double first_open_us = (double)(bench_now_ns() - started) / 1e3 / MANY_MODELS;
	trims_disconnect(&conn);
	crowd_gather(&many, crowd);
	measure(&few, &many, o->rounds ? o->rounds : 50, &a, &b);
	crowd_leave(crowd);
	free(crowd);
	mrm_stop(&few);
	mrm_stop(&many);
	double x = samples_median(&a), y = samples_median(&b);
	json_t *result = json_pack("{s:f,s:f,s:f,s:i,s:i,s:i,s:f,s:f}", "yardstick_us", x, "open_us", y, "ratio", y / x,
		"models", MANY_MODELS, "connections", CONNECTIONS, "leases", CONNECTIONS * LEASES_EACH, "first_open_us",
		first_open_us, "brain_events_per_s", brain_events_per_s());
	samples_fini(&a);
	samples_fini(&b);
	return result;
}
