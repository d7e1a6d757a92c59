/* cold.c - trims-bench cold: trims-run bench on a model of the zoo, with a daemon of its own that has measured it: cold starts on a
 * GPU, every mode against a private load, and what was predicted beside what came.  Needs a GPU. */
#include "tools/bench/gpu.h"
#include "tools/bench/zoo.h"
#include "tools/program.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define MODEL_SEED 7
#define USUAL_ROUNDS 20u
#define USUAL_MODEL "bert-base"

static const struct zoo_model *choose(const struct bench_options *o)
{
	const char *name = o->only ? o->only : USUAL_MODEL;
	for (uint32_t i = 0; i < zoo_n; i++)
		if (strcmp(zoo[i].name, name) == 0)
			return &zoo[i];
	die("cold: --only %s: no such model", name);
}

/* What the planner knows: measured on this device, now. */
static void take_profile(const struct bench_options *o, const struct mrm *m, const char *model)
{
	char ctl[LAB_PATH];
	int status;
	snprintf(ctl, sizeof ctl, "%s/trims-ctl", o->own_dir);
	const char *const argv[] = {ctl, "profile", model, "--socket", m->socket, "--device", "cuda:0", NULL};
	pid_t pid = lab_spawn(o, "profile", argv);
	if (waitpid(pid, &status, 0) != pid || status)
		die("cold: the model could not be profiled: see profile.log (--keep)");
}

static json_t *run_modes(const struct bench_options *o, const struct mrm *m, const char *model, const char *folder)
{
	char rounds[16], warmups[16], budget[32], *text;
	size_t bytes, n = 14;
	struct fault why;
	uint32_t count = o->rounds ? o->rounds : USUAL_ROUNDS;
	snprintf(rounds, sizeof rounds, "%" PRIu32, count);
	snprintf(warmups, sizeof warmups, "%" PRIu32, MAX(count / 10, 1u));
	const char *argv[20] = {NULL, "bench", model, "--json", "--socket", m->socket, "--device", "cuda:0", "--file", folder, "--rounds",
		rounds, "--warmups", warmups};
	if (o->budget_ns) {
		snprintf(budget, sizeof budget, "%.3fs", (double)o->budget_ns / (double)NS_PER_S);
		argv[n++] = "--budget";
		argv[n++] = budget;
	}
	if (program_run("trims-run", argv, &text, &bytes, &why))
		die("cold: %s", why.text);
	json_t *report = json_loadb(text, bytes, 0, NULL);
	free(text);
	if (!report)
		die("cold: trims-run bench printed no JSON");
	return report;
}

/* Modes by their names, so that figures can be found (bench.def); and whether the planner knew what reading from the host is worth. */
static json_t *shape(json_t *report)
{
	json_t *modes = json_object(), *row;
	json_int_t failed = 0;
	size_t i;
	json_array_foreach(json_object_get(report, "modes"), i, row) {
		failed += json_integer_value(json_object_get(row, "failed"));
		json_object_set(modes, json_string_value(json_object_get(row, "mode")), row);
	}
	json_object_set(report, "dha_over_pipeline", json_object_get(json_object_get(modes, "dha"), "over_pipeline"));
	json_object_set_new(report, "failed", json_integer(failed));
	json_object_set_new(report, "modes", modes);
	return report;
}

json_t *bench_cold(const struct bench_options *o)
{
	const struct zoo_model *model = choose(o);
	char models[LAB_PATH], folder[LAB_PATH], source[LAB_PATH + 8];
	struct mrm m;
	struct gpu g;
	gpu_open(o, &g);
	json_t *about = gpu_result(&g);
	gpu_close(&g); /* nothing of this process shall be on the device */
	lab_path(o, models, "models");
	lab_mkdir(models);
	lab_path(o, folder, "models/%s", model->name);
	lab_mkdir(folder);
	zoo_write(model, folder, MODEL_SEED);
	snprintf(source, sizeof source, "dir:%s", models);
	gpu_mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", "8G", NULL});
	take_profile(o, &m, model->name);
	json_t *report = shape(run_modes(o, &m, model->name, folder));
	json_object_update_missing(report, about);
	json_decref(about);
	mrm_stop(&m);
	return report;
}
