/* e2e.c - trims-bench e2e: from "the function is asked for" to "here is the result", with the daemon and without.
 * A function is a process of its own, trims-run infer; nothing is warm in it.  What is compared runs back to back, and who goes
 * first changes from round to round: machines drift, and a ratio of neighbours does not.
 * Keeps: every run either counts or is counted as failed; the page cache is as a case says, or there is no number. */
#include "tools/bench/e2e.h"

#include "shared/check.h"
#include "shared/own.h"
#include "tools/bench/gpu.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 32
#define MODEL_SEED 7

/* By the size of a model: its rounds, and how often in each a hit is compared with the ideal, which is the closest of the races. */
static const struct effort {
	uint64_t below;
	uint32_t rounds, hits;
} efforts[] = {{128 * MIB, 24, 4}, {512 * MIB, 15, 4}, {2 * GIB, 7, 5}, {UINT64_MAX, 5, 5}};

static const char *const case_keys[] = {
#define CASE(NAME, key, doc) #key,
#include "tools/bench/e2e.def"
};

const char *e2e_case_key(unsigned which)
{
	return case_keys[which];
}

/* ---- one function ---- */

void e2e_start(const struct bench_options *o, struct function *f, uint64_t asked_ns, const char *const args[])
{
	char program[LAB_PATH];
	OWN_FD int log = lab_log(o, "function");
	snprintf(program, sizeof program, "%s/trims-run", o->own_dir);
	const struct function_options how = {.program = program, .driver = o->driver, .err = log};
	int r = function_start(&how, f, asked_ns, args);
	if (r)
		die_errno(-r, "starting a function");
}

bool e2e_finish(struct function *f, struct function_run *out)
{
	struct fault why;
	bool good = function_finish(f, out, &why) == 0;
	json_decref(STEAL(out->report));
	return good;
}

/* ---- the cases of one model ---- */

struct stage {
	const struct bench_options *o;
	struct mrm near, far; /* with the directory as its source, with nginx */
	trims_conn *near_conn, *far_conn;
	int port; /* 0: there is no nginx or no curl, hence no remote case */
	bool gpu;
	uint64_t device_bytes; /* that it has free */
};

struct course {
	const struct stage *s;
	bool gpu; /* and it has room for the daemon's copy and another one */
	struct e2e_row *row;
	char file[LAB_PATH], served[LAB_PATH], copy[LAB_PATH], tokens[16]; /* what the directory has, nginx, curl has fetched */
};

/* Weights: 0 where they are in memory already. */
static void warm_memory(uint64_t weights)
{
	struct fault why;
	if (function_warm_memory(weights, &why))
		die("e2e: %s", why.text);
}

static bool run(const struct course *c, const char *device, const char *const how[], uint64_t asked_ns, struct function_run *out)
{
	const char *args[MAX_ARGS] = {"--device", device, "--tokens", c->tokens};
	struct function f;
	size_t n = c->row->model->tokens ? 4 : 2;
	for (; *how && n < MAX_ARGS - 1; how++)
		args[n++] = *how;
	args[n] = NULL;
	e2e_start(c->s->o, &f, asked_ns, args);
	bool good = e2e_finish(&f, out);
	c->row->simulated |= good && out->simulated;
	return good;
}

/* r NULL: it failed. */
static void add(struct course *c, enum e2e_case which, const struct function_run *r)
{
	function_cell_add(&c->row->cells[which], r);
	c->row->last[which] = r ? r->total : 0;
}

static void run_shared(struct course *c, enum e2e_case which, const struct mrm *m, const char *mode, const char *device)
{
	struct function_run r;
	bool good = run(c, device, (const char *const[]){"--socket", m->socket, "--mode", mode, c->row->model->name, NULL}, 0, &r);
	add(c, which, good ? &r : NULL);
}

/* What it took, and what it would have taken with the weights there. */
static void run_private(struct course *c, enum e2e_case which, enum e2e_case ideal, const char *device)
{
	struct function_run r;
	const char *const how[] = {"--mode", "private", "--file", c->file, NULL};
	warm_memory(c->row->bytes);
	bool good = run(c, device, how, 0, &r);
	if (which < E2E_CASES)
		add(c, which, good ? &r : NULL);
	if (good) {
		r.total -= r.part[FUNCTION_OPEN] + r.part[FUNCTION_WAIT];
		r.part[FUNCTION_OPEN] = r.part[FUNCTION_WAIT] = 0;
	}
	if (ideal < E2E_CASES)
		add(c, ideal, good ? &r : NULL);
}

static void run_remote_alone(struct course *c)
{
	char url[LAB_PATH + 64];
	snprintf(url, sizeof url, "http://127.0.0.1:%d/%s/model.safetensors", c->s->port, c->row->model->name);
	const char *const curl[] = {"curl", "--silent", "--show-error", "--fail", "--output", c->copy, url, NULL};
	warm_memory(c->row->bytes);
	uint64_t asked = bench_now_ns();
	pid_t pid = lab_spawn(c->s->o, "curl", curl);
	int status;
	if (waitpid(pid, &status, 0) != pid || status)
		die("e2e: curl failed: see curl.log (--keep)");
	uint64_t fetched = bench_now_ns();
	struct function_run r;
	bool good = run(c, "cpu", (const char *const[]){"--mode", "private", "--file", c->copy, NULL}, asked, &r);
	if (good) { /* the process was asked for when curl was done */
		double fetch = (double)(fetched - asked) / 1e6;
		r.part[FUNCTION_PROCESS] -= fetch;
		r.part[FUNCTION_WAIT] += fetch;
	}
	add(c, E2E_CASE_PRIVATE_REMOTE, good ? &r : NULL);
	unlink(c->copy);
}

/* ---- one run of each case, with the state that it says made before it.  Where the daemon is not asked, it has nothing in memory: the
 * others find as much free memory as they would alone. ---- */

static void private_cold(struct course *c)
{
	lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
	model_make_cold(c->file);
	run_private(c, E2E_CASE_PRIVATE_COLD, E2E_CASES, "cpu");
}

static void miss_disk(struct course *c)
{
	lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
	model_make_cold(c->file);
	warm_memory(c->row->bytes);
	run_shared(c, E2E_CASE_MISS_DISK, &c->s->near, "pipeline", "cpu");
}

static void private_warm(struct course *c)
{
	lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
	model_make_warm(c->file);
	run_private(c, E2E_CASE_PRIVATE_WARM, E2E_CASE_IDEAL, "cpu");
}

static void host_hit(struct course *c)
{
	trims_model *held = lab_open(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
	mrm_settle(&c->s->near);
	warm_memory(0);
	run_shared(c, E2E_CASE_HOST_HIT, &c->s->near, "resident", "cpu");
	trims_close(&held);
}

static void gpu_hit(struct course *c)
{
	trims_model *held = lab_open(c->s->near_conn, c->row->model->name, TRIMS_TIER_GPU);
	mrm_settle(&c->s->near);
	warm_memory(0);
	run_shared(c, E2E_CASE_GPU_HIT, &c->s->near, "resident", "cuda:0");
	trims_close(&held);
}

static void forget(struct course *c)
{
	if (c->gpu)
		lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_GPU);
	lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
}

static void gpu_private_warm(struct course *c)
{
	forget(c);
	model_make_warm(c->file);
	run_private(c, E2E_CASE_GPU_PRIVATE_WARM, E2E_CASE_GPU_IDEAL, "cuda:0");
}

static void gpu_host_hit(struct course *c)
{
	lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_GPU);
	trims_model *held = lab_open(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
	mrm_settle(&c->s->near);
	warm_memory(0);
	run_shared(c, E2E_CASE_GPU_HOST_HIT, &c->s->near, "pipeline", "cuda:0");
	trims_close(&held);
}

static void gpu_private_cold(struct course *c)
{
	forget(c);
	model_make_cold(c->file);
	run_private(c, E2E_CASE_GPU_PRIVATE_COLD, E2E_CASES, "cuda:0");
}

static void gpu_miss_disk(struct course *c)
{
	forget(c);
	model_make_cold(c->file);
	warm_memory(c->row->bytes);
	run_shared(c, E2E_CASE_GPU_MISS_DISK, &c->s->near, "pipeline", "cuda:0");
}

static void empty_far(struct course *c)
{
	lab_evict(c->s->far_conn, c->row->model->name, TRIMS_TIER_HOST);
	lab_evict(c->s->far_conn, c->row->model->name, TRIMS_TIER_DISK);
}

static void miss_remote(struct course *c)
{
	warm_memory(c->row->bytes);
	run_shared(c, E2E_CASE_MISS_REMOTE, &c->s->far, "pipeline", "cpu");
	mrm_settle(&c->s->far); /* the disk tier's copy is complete; nothing of the file waits in a socket any more */
	empty_far(c);
}

/* ---- rounds ---- */

typedef void step(struct course *c);

static void race(struct course *c, bool turned, step *one, step *other)
{
	(turned ? other : one)(c);
	(turned ? one : other)(c);
}

static void gpu_round(struct course *c, uint32_t round, uint32_t hits)
{
	bool turned = round % 2;
	race(c, turned, gpu_private_cold, gpu_miss_disk);
	e2e_compare(c->row, E2E_GPU_MISS_DISK);
	for (uint32_t i = 0; i < hits; i++, turned = !turned) {
		race(c, turned, gpu_hit, gpu_private_warm);
		e2e_compare(c->row, E2E_GPU_HIT);
		e2e_compare(c->row, E2E_GPU_HIT_OVER_WARM);
	}
	race(c, turned, gpu_host_hit, gpu_private_warm);
	e2e_compare(c->row, E2E_GPU_HOST_HIT);
}

static void one_round(struct course *c, uint32_t round, uint32_t hits)
{
	bool turned = round % 2;
	race(c, turned, private_cold, miss_disk);
	e2e_compare(c->row, E2E_MISS_DISK);
	for (uint32_t i = 0; i < hits; i++, turned = !turned) {
		race(c, turned, host_hit, private_warm);
		e2e_compare(c->row, E2E_HOST_HIT);
		e2e_compare(c->row, E2E_HIT_OVER_WARM);
		e2e_compare(c->row, E2E_HIT_OVER_COLD);
	}
	if (c->gpu)
		gpu_round(c, round, hits);
	if (!c->s->port)
		return;
	lab_evict(c->s->near_conn, c->row->model->name, TRIMS_TIER_HOST);
	model_make_cold(c->file); /* the largest would push what nginx serves out of the page cache */
	model_make_warm(c->served);
	race(c, round % 2, miss_remote, run_remote_alone);
	e2e_compare(c->row, E2E_MISS_REMOTE);
}

static const struct effort *effort_of(uint64_t bytes)
{
	const struct effort *e = efforts;
	while (bytes >= e->below)
		e++;
	return e;
}

/* Files of a model, and those that go when it is done: the open loop wants small ones again. */
static void make_files(struct course *c)
{
	const struct bench_options *o = c->s->o;
	const char *name = c->row->model->name;
	lab_path(o, c->file, "models/%s", name);
	c->row->bytes = zoo_write(c->row->model, c->file, MODEL_SEED);
	lab_path(o, c->served, "remote/%s", name);
	zoo_write_config(c->row->model, c->served);
	lab_path(o, c->copy, "fetched");
	lab_mkdir(c->copy);
	zoo_write_config(c->row->model, c->copy);
	lab_path(o, c->file, "models/%s/model.safetensors", name);
	lab_path(o, c->served, "remote/%s/model.safetensors", name);
	lab_path(o, c->copy, "fetched/model.safetensors");
	if (c->s->port)
		lab_copy(c->file, c->served); /* no link: pages that a server has sent cannot be dropped for a while */
}

static void remove_files(const struct course *c)
{
	unlink(c->served);
	if (c->row->bytes > E2E_LARGEST)
		unlink(c->file);
}

static bool has_room(const struct stage *s, const struct e2e_row *row)
{
	return s->gpu && gpu_holds_two(s->device_bytes, row->bytes);
}

/* end_ns: no round begins that would not be done by then, but for the first; 0: there is no end. */
static void measure(const struct stage *s, struct e2e_row *row, uint64_t end_ns)
{
	struct course c = {.s = s, .row = row};
	make_files(&c);
	c.gpu = has_room(s, row);
	const struct effort *e = effort_of(row->bytes);
	uint32_t rounds = s->o->rounds ? s->o->rounds : e->rounds;
	snprintf(c.tokens, sizeof c.tokens, "%" PRIu32, row->model->tokens);
	struct function_run warm;
	run(&c, "cpu", (const char *const[]){"--mode", "private", "--file", c.file, NULL}, 0, &warm); /* programs and libraries */
	for (uint64_t longest = 0, began; row->rounds < rounds; row->rounds++) {
		began = bench_now_ns();
		if (row->rounds && end_ns && began + longest > end_ns)
			break;
		lab_progress(row->model->name, row->rounds, rounds);
		one_round(&c, row->rounds, MIN(e->hits, rounds));
		longest = MAX(longest, bench_now_ns() - began);
	}
	lab_progress(NULL, 0, 0);
	forget(&c); /* the next one wants tiers that have nothing */
	remove_files(&c);
}

static void start_daemons(struct stage *s)
{
	char near[LAB_PATH + 8], far[64];
	const char *driver = s->o->driver ? s->o->driver : "";
	snprintf(near, sizeof near, "dir:%s/models", s->o->lab);
	snprintf(far, sizeof far, "http://127.0.0.1:%d", s->port);
	if (s->gpu)
		mrm_start(s->o, &s->near, (const char *const[]){"--source", near, "--host-bytes", "8G", "--cuda-driver", driver, NULL});
	else
		mrm_start(s->o, &s->near, (const char *const[]){"--source", near, "--host-bytes", "8G", "--gpu", "off", NULL});
	s->near_conn = lab_connect(&s->near);
	if (!s->port)
		return;
	mrm_start(s->o, &s->far, (const char *const[]){"--source", far, "--host-bytes", "8G", "--disk-bytes", "16G", "--gpu", "off", NULL});
	s->far_conn = lab_connect(&s->far);
}

/* --only: names, separated by commas. */
static size_t choose(const struct bench_options *o, struct e2e_row *rows)
{
	size_t n = 0;
	for (uint32_t i = 0; !o->only && i < zoo_n; i++)
		rows[n++].model = &zoo[i];
	for (const char *name = o->only; name; name = strchr(name, ',') ? strchr(name, ',') + 1 : NULL) {
		size_t len = strcspn(name, ",");
		const struct zoo_model *model = zoo_find(name, len);
		if (!model)
			die("e2e: --only %s: no model %.*s", o->only, (int)len, name);
		for (size_t k = 0; k < n; k++)
			if (rows[k].model == model)
				die("e2e: --only %s: twice the same model", o->only);
		rows[n++].model = model;
	}
	return n;
}

/* What the device has free, before anything of this benchmark is on it. */
static uint64_t ask_device(const struct bench_options *o)
{
	struct gpu g;
	gpu_open(o, &g);
	uint64_t bytes = gpu_free_bytes(&g);
	gpu_close(&g);
	return bytes;
}

static json_t *left_out(const struct stage *s, const struct e2e_row *rows, size_t n)
{
	char text[512] = "";
	if (!s->port)
		snprintf(text, sizeof text, "the remote cases: nginx and curl are not both here");
	for (size_t i = 0; i < n; i++)
		if (s->gpu && !has_room(s, &rows[i]))
			snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s on the GPU: no room for two copies", *text ? "; " : "",
				rows[i].model->name);
	return *text ? json_string(text) : NULL;
}

static json_int_t fewest_rounds(const struct e2e_row *rows, size_t n)
{
	uint32_t fewest = rows[0].rounds;
	for (size_t i = 1; i < n; i++)
		fewest = MIN(fewest, rows[i].rounds);
	return fewest;
}

static void row_fini(struct e2e_row *row)
{
	for (unsigned k = 0; k < E2E_CASES; k++)
		function_cell_fini(&row->cells[k]);
	for (unsigned k = 0; k < E2E_RATIOS; k++)
		samples_fini(&row->ratios[k]);
}

json_t *bench_e2e(const struct bench_options *o)
{
	struct stage s = {.o = o, .gpu = o->driver != NULL};
	uint64_t began = bench_now_ns();
	struct e2e_row *rows = calloc(zoo_n, sizeof *rows);
	char models[LAB_PATH], remote[LAB_PATH];
	ASSERT(rows);
	size_t n = choose(o, rows);
	lab_path(o, models, "models");
	lab_mkdir(models);
	lab_path(o, remote, "remote");
	lab_mkdir(remote);
	for (size_t i = 0; i < n; i++) {
		char folder[LAB_PATH];
		lab_path(o, folder, "models/%s", rows[i].model->name);
		lab_mkdir(folder);
		lab_path(o, folder, "remote/%s", rows[i].model->name);
		lab_mkdir(folder);
	}
	if (s.gpu)
		s.device_bytes = ask_device(o);
	s.port = lab_has("nginx") && lab_has("curl") ? nginx_start(o, remote) : 0;
	start_daemons(&s);
	for (size_t i = 0; i < n; i++) /* each model has its part of what there is in all */
		measure(&s, &rows[i], o->budget_ns ? began + o->budget_ns / n * (i + 1) : 0);
	json_t *concurrent = e2e_open_loop(o, &s.near, s.near_conn, rows, n);
	json_t *result = e2e_figures(rows, n);
	json_object_set_new(result, "open_loop", concurrent);
	json_object_set_new(result, "rounds", json_integer(fewest_rounds(rows, n)));
	json_t *missing = left_out(&s, rows, n);
	if (missing)
		json_object_set_new(result, "left_out", missing);
	if (o->out)
		e2e_write(o->out, rows, n, concurrent);
	trims_disconnect(&s.near_conn);
	mrm_stop(&s.near);
	if (s.port) {
		trims_disconnect(&s.far_conn);
		mrm_stop(&s.far);
	}
	for (size_t i = 0; i < n; i++)
		row_fini(&rows[i]);
	free(rows);
	return result;
}
