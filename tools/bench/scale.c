/* scale.c - trims-bench scale: does an open stay as fast when the daemon knows much?
 * Two daemons side by side, asked in turn: one with ten models and one connection; one with 100,000 models it has
 * resolved, 1,000 connections and 10,000 leases.  And the brain alone (brain.c).
 * While opens are timed, this process and both daemons' loops share one core: where the scheduler would put them differs
 * from run to run by more than what is looked for. */
#include "shared/metrics.h"
#include "tools/bench/brain.h"
#include "tools/bench/lab.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FEW_MODELS 10
#define CONNECTIONS 1000
#define LEASES_EACH 10
#define SMALL_MODELS 100 /* that can be opened; the others are larger than the host tier, so that knowing them is all */
#define SMALL_BYTES 2048
#define LARGE_BYTES (MIB + 64 * KIB)
#define HOST_BYTES "1M"
#define BLOCK 100
#define PER_DIRECTORY 10
#define PROGRESS_EVERY 1000

static void model_name(char out[64], unsigned i)
{
	snprintf(out, 64, "d%u/m%u.safetensors", i / PER_DIRECTORY, i);
}

static void make_models(const struct bench_options *o, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char path[LAB_PATH], name[64];
		if (i % PROGRESS_EVERY == 0)
			lab_progress("writing models", i, n);
		if (i % PER_DIRECTORY == 0) {
			lab_path(o, path, "models/d%u", i / PER_DIRECTORY);
			lab_mkdir(path);
		}
		model_name(name, i);
		lab_path(o, path, "models/%s", name);
		bool small = i < SMALL_MODELS;
		model_write(path, &(struct model_spec){.bytes = small ? SMALL_BYTES : LARGE_BYTES, .n_tensors = 1,
			.hole = !small, .seed = 1000 + i});
	}
}

/* Makes them known: found at the source, their headers read, refused as too large for the host tier. */
static void meet_models(trims_conn *conn, unsigned from, unsigned n)
{
	const struct trims_open_options options = {.size = sizeof options, .tier = TRIMS_TIER_HOST};
	for (unsigned i = from; i < n; i++) {
		char name[64];
		if (i % PROGRESS_EVERY == 0)
			lab_progress("making them known", i, n);
		model_name(name, i);
		trims_model *model;
		if (trims_open(conn, name, &options, &model) != -TRIMS_E_TOO_LARGE)
			die("scale: a model larger than the host tier was not refused as such: %s", trims_last_error()->text);
	}
}

static uint64_t resident_bytes(const struct mrm *m)
{
	char path[64];
	unsigned long long total, resident;
	snprintf(path, sizeof path, "/proc/%d/statm", (int)m->pid);
	FILE *f = fopen(path, "re");
	if (!f || fscanf(f, "%llu %llu", &total, &resident) != 2)
		die("scale: %s cannot be read", path);
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* As the daemon counts them itself, at its next tick. */
static uint64_t known_models(const struct mrm *m, uint64_t want)
{
	static struct metrics_snapshot s;
	struct metrics_reader *r;
	struct fault why;
	if (metrics_open(&r, m->socket, &why))
		die("scale: %s", why.text);
	for (uint64_t end = bench_now_ns() + 10 * NS_PER_S; bench_now_ns() < end; poll(NULL, 0, 50)) {
		metrics_read(r, &s);
		if (s.values[M_models] >= want)
			break;
	}
	metrics_reader_free(&r);
	if (s.values[M_models] < want)
		die("scale: the daemon knows only %llu models", (unsigned long long)s.values[M_models]);
	return s.values[M_models];
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
	/* Names stay valid for the run. */
	mrm_start(o, m, (const char *const[]){"--source", source, "--host-bytes", HOST_BYTES, "--min-residency", "0",
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
			/* Not those that are measured: this process shares one mapping of whatever it has open. */
			model_name(name, FEW_MODELS + (i + k) % (SMALL_MODELS - FEW_MODELS));
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
	const pid_t all[] = {0, few->pid, many->pid};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		lab_place(all[i], lab_core(0));
	touch_models(to_few, FEW_MODELS);
	touch_models(to_many, FEW_MODELS);
	add_opens(to_few, &warm_up);
	add_opens(to_many, &warm_up);
	for (uint32_t r = 0; r < rounds; r++) {
		add_opens(to_few, a);
		add_opens(to_many, b);
	}
	lab_place(0, -1);
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
	make_models(o, o->models);
	start_daemon(o, &few);
	start_daemon(o, &many);
	trims_conn *conn = lab_connect(&many);
	touch_models(conn, SMALL_MODELS);
	unsigned met = o->models - SMALL_MODELS;
	uint64_t started = bench_now_ns(), before = resident_bytes(&many);
	meet_models(conn, SMALL_MODELS, o->models);
	double meet_us = (double)(bench_now_ns() - started) / 1e3 / met;
	double model_bytes = ((double)resident_bytes(&many) - (double)before) / met;
	trims_disconnect(&conn);
	uint64_t known = known_models(&many, o->models);
	lab_progress(NULL, 0, 0);
	crowd_gather(&many, crowd);
	measure(&few, &many, o->rounds ? o->rounds : 50, &a, &b);
	crowd_leave(crowd);
	free(crowd);
	mrm_stop(&few);
	mrm_stop(&many);
	double x = samples_median(&a), y = samples_median(&b);
	json_t *result = json_pack("{s:f,s:f,s:f,s:i,s:i,s:i,s:f,s:f,s:f}", "yardstick_us", x, "open_us", y, "ratio", y / x,
		"models", (int)known, "connections", CONNECTIONS, "leases", CONNECTIONS * LEASES_EACH, "meet_us", meet_us,
		"bytes_per_model", model_bytes, "brain_events_per_s", brain_events_per_s());
	samples_fini(&a);
	samples_fini(&b);
	return result;
}
