/* spawn.c - trims-bench spawn: what trims adds to the life of a short process; libtrims linked both ways. */
#include "tools/bench/lab.h"
#include "tools/bench/yard.h"

#include <limits.h>
#include <string.h>

static json_t *measure(const struct bench_options *o, const struct mrm *m, const char *program)
{
	char path[PATH_MAX];
	struct samples bare = {0}, with = {0};
	uint32_t rounds = o->rounds ? o->rounds : 500;
	snprintf(path, sizeof path, "%s/%s", o->bin_dir, program);
	const char *nothing[] = {path, NULL};
	const char *open[] = {path, "open", m->socket, "bench", NULL};
	for (uint32_t i = 0; i < rounds + 20; i++) {
		uint64_t a = yard_run_ns(nothing), b = yard_run_ns(open);
		if (i >= 20) { /* the first ones warm up */
			samples_add(&bare, (double)a / 1e3);
			samples_add(&with, (double)b / 1e3);
		}
	}
	double a = samples_median(&bare), b = samples_median(&with);
	json_t *result = json_pack("{s:f,s:f,s:f,s:i}", "yardstick_us", a, "spawn_us", b, "added_us", b - a, "samples",
		(int)with.n);
	samples_fini(&bare);
	samples_fini(&with);
	return result;
}

json_t *bench_spawn(const struct bench_options *o)
{
	const struct model_spec spec = {.bytes = 64 * MIB, .n_tensors = 64, .seed = 2};
	struct mrm m;
	char path[LAB_PATH], source[LAB_PATH + 8];
	lab_path(o, path, "models");
	lab_mkdir(path);
	lab_path(o, path, "models/bench");
	lab_mkdir(path);
	lab_path(o, path, "models/bench/model.safetensors");
	model_write(path, &spec);
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", "1G", NULL});
	trims_conn *conn = lab_connect(&m);
	trims_model *model = lab_open(conn, "bench", TRIMS_TIER_HOST);
	json_t *linked_static = measure(o, &m, "trims-bench-client-static");
	json_t *result = measure(o, &m, "trims-bench-client"); /* the shared object: what users link */
	json_object_set_new(result, "static", linked_static);
	trims_close(&model);
	trims_disconnect(&conn);
	mrm_stop(&m);
	return result;
}
