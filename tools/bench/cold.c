/* cold.c - trims-bench cold: trims-run bench on a model of the zoo, with a daemon of its own that has measured it: cold starts on a
 * GPU, every mode against a private load, and what was predicted beside what came.  Needs a GPU. */
#include "tools/bench/cold.h"

#include "tools/bench/zoo.h"
#include "tools/program.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define MODEL_SEED 7
#define USUAL_ROUNDS 20u
#define USUAL_MODEL "bert-base"
#define HOST_BYTES "8G"
#define EVEN 0.02               /* ratios that near to 1 say neither */

static const struct zoo_model *choose(const struct bench_options *o)
{
	const char *name = o->only ? o->only : USUAL_MODEL;
	const struct zoo_model *model = zoo_find(name, strlen(name));
	if (!model)
		die("--only %s: no such model", name);
	return model;
}

/* The daemon's copy and a private one may be there at once: on the device, and in memory, beside the file's pages. */
static void check_room(const struct gpu *g, const struct zoo_model *model)
{
	uint64_t bytes = zoo_bytes(model);
	if (!gpu_holds_two(gpu_free_bytes(g), bytes))
		skip("%s: the device has no room for two copies of %" PRIu64 " MiB", model->name, bytes / MIB);
	if (3 * bytes > host_available_bytes())
		skip("%s: the machine has no room for three copies of %" PRIu64 " MiB", model->name, bytes / MIB);
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
		die("the model could not be profiled: see profile.log (--keep)");
}

struct race {
	const char *model, *folder, *modes;
	uint64_t budget_ns; /* of the rounds; 0: none */
};

static json_t *run_modes(const struct bench_options *o, const struct mrm *m, const struct race *race)
{
	char rounds[16], warmups[16], budget[32], *text;
	size_t bytes, n = 14;
	struct fault why;
	uint32_t count = o->rounds ? o->rounds : USUAL_ROUNDS;
	snprintf(rounds, sizeof rounds, "%" PRIu32, count);
	snprintf(warmups, sizeof warmups, "%" PRIu32, MAX(count / 10, 1u));
	const char *argv[20] = {NULL, "bench", race->model, "--json", "--socket", m->socket, "--device", "cuda:0", "--file", race->folder,
		"--rounds", rounds, "--warmups", warmups};
	if (race->budget_ns) {
		snprintf(budget, sizeof budget, "%.3fs", (double)race->budget_ns / (double)NS_PER_S);
		argv[n++] = "--budget";
		argv[n++] = budget;
	}
	if (race->modes) {
		argv[n++] = "--modes";
		argv[n++] = race->modes;
	}
	if (program_run("trims-run", argv, &text, &bytes, &why))
		die("%s", why.text);
	json_t *report = json_loadb(text, bytes, 0, NULL);
	free(text);
	if (!report)
		die("trims-run bench printed no JSON");
	return report;
}

/* Modes by their names, so that figures can be found (bench.def). */
static json_t *shape(json_t *report)
{
	json_t *modes = json_object(), *row;
	json_int_t failed = 0;
	size_t i;
	json_array_foreach(json_object_get(report, "modes"), i, row) {
		failed += json_integer_value(json_object_get(row, "failed"));
		json_object_set(modes, json_string_value(json_object_get(row, "mode")), row);
	}
	json_object_set_new(report, "failed", json_integer(failed));
	json_object_set_new(report, "modes", modes);
	return report;
}

json_t *cold_report(const struct bench_options *o, struct gpu *g, const char *modes)
{
	const struct zoo_model *model = choose(o);
	uint64_t began = bench_now_ns();
	char models[LAB_PATH], folder[LAB_PATH], source[LAB_PATH + 8];
	struct mrm m;
	check_room(g, model);
	json_t *about = gpu_result(g);
	gpu_close(g);
	lab_path(o, models, "models");
	lab_mkdir(models);
	lab_path(o, folder, "models/%s", model->name);
	lab_mkdir(folder);
	zoo_write(model, folder, MODEL_SEED);
	snprintf(source, sizeof source, "dir:%s", models);
	gpu_mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", HOST_BYTES, NULL});
	take_profile(o, &m, model->name);
	uint64_t took = bench_now_ns() - began;
	const struct race race = {model->name, folder, modes, !o->budget_ns ? 0 : took < o->budget_ns ? o->budget_ns - took : 1};
	json_t *report = shape(run_modes(o, &m, &race));
	json_object_update_missing(report, about);
	json_decref(about);
	mrm_stop(&m);
	return report;
}

static const json_t *mode_of(const json_t *report, const char *mode)
{
	return json_object_get(json_object_get(report, "modes"), mode);
}

json_t *cold_over_pipeline(const json_t *report, const char *mode)
{
	json_t *over = json_deep_copy(json_object_get(mode_of(report, mode), "over_pipeline"));
	return over ? over : json_null();
}

/* Whether the planner chose right: to read from the host where that is no slower, not to where it is no faster. */
static json_t *agree(const json_t *report, const json_t *over)
{
	const json_t *measured = json_object_get(over, "measured"), *predicted = json_object_get(over, "predicted");
	if (!json_is_number(measured) || !json_is_number(predicted))
		return json_null();
	bool chosen = json_is_true(json_object_get(mode_of(report, "dha"), "planned"));
	double v = json_number_value(measured);
	return json_boolean(chosen ? v >= 1 - EVEN : v <= 1 + EVEN);
}

json_t *bench_cold(const struct bench_options *o)
{
	struct gpu g;
	gpu_open(o, &g);
	json_t *report = cold_report(o, &g, NULL), *over = cold_over_pipeline(report, "dha");
	if (json_is_object(over)) {
		json_object_set_new(over, "agree", agree(report, over));
		json_object_set(over, "planned", json_object_get(mode_of(report, "dha"), "planned"));
	}
	json_object_set_new(report, "dha_over_pipeline", over);
	return report;
}
