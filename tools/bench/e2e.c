/* e2e.c - trims-bench e2e: from "the function is asked for" to "here is the result", with the daemon and without.
 * A function is a process of its own, trims-run infer; nothing is warm in it.  All cases of a model take turns in one round.
 * Keeps: every run either counts or is counted as failed; the page cache is as a case says, or there is no number. */
#include "tools/bench/e2e.h"

#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 32
#define MODEL_SEED 7

static const char *const case_keys[] = {
#define CASE(NAME, key, doc) #key,
#include "tools/bench/e2e.def"
#undef CASE
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
	int port;
	bool gpu;
};

struct course {
	const struct stage *s;
	struct e2e_row *row;
	char file[LAB_PATH], copy[LAB_PATH], tokens[16];
};

static void warm_memory(const struct course *c)
{
	struct fault why;
	if (function_warm_memory(c->row->bytes, &why))
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

static void run_case(struct course *c, enum e2e_case which, const char *device, const char *const how[], uint64_t asked_ns)
{
	struct function_run r;
	bool good = run(c, device, how, asked_ns, &r);
	function_cell_add(&c->row->cells[which], good ? &r : NULL);
}

static void run_shared(struct course *c, enum e2e_case which, const struct mrm *m, const char *mode, const char *device)
{
	warm_memory(c);
	run_case(c, which, device, (const char *const[]){"--socket", m->socket, "--mode", mode, c->row->model->name, NULL}, 0);
}

/* What it took, and what it would have taken with the weights there. */
static void run_private(struct course *c, enum e2e_case which, enum e2e_case ideal, const char *device)
{
	struct function_run r;
	const char *const how[] = {"--mode", "private", "--file", c->file, NULL};
	warm_memory(c);
	bool good = run(c, device, how, 0, &r);
	if (which < E2E_CASES)
		function_cell_add(&c->row->cells[which], good ? &r : NULL);
	if (good) {
		r.total -= r.part[FUNCTION_OPEN] + r.part[FUNCTION_WAIT];
		r.part[FUNCTION_OPEN] = r.part[FUNCTION_WAIT] = 0;
	}
	if (ideal < E2E_CASES)
		function_cell_add(&c->row->cells[ideal], good ? &r : NULL);
}

static void run_remote_alone(struct course *c)
{
	char url[LAB_PATH + 64];
	snprintf(url, sizeof url, "http://127.0.0.1:%d/%s/model.safetensors", c->s->port, c->row->model->name);
	const char *const curl[] = {"curl", "--silent", "--show-error", "--fail", "--output", c->copy, url, NULL};
	warm_memory(c);
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
	function_cell_add(&c->row->cells[E2E_CASE_PRIVATE_REMOTE], good ? &r : NULL);
	unlink(c->copy);
}

static void on_device(struct course *c)
{
	const struct stage *s = c->s;
	if (!s->gpu)
		return;
	trims_model *held = lab_open(s->near_conn, c->row->model->name, TRIMS_TIER_GPU);
	run_shared(c, E2E_CASE_GPU_HIT, &s->near, "resident", "cuda:0");
	trims_close(&held);
	run_private(c, E2E_CASES, E2E_CASE_GPU_IDEAL, "cuda:0");
}

static void one_round(struct course *c)
{
	const struct stage *s = c->s;
	const char *name = c->row->model->name;
	model_make_cold(c->file);
	run_private(c, E2E_CASE_PRIVATE_COLD, E2E_CASES, "cpu");
	lab_evict(s->near_conn, name, TRIMS_TIER_HOST);
	model_make_cold(c->file);
	run_shared(c, E2E_CASE_MISS_DISK, &s->near, "pipeline", "cpu");
	trims_model *held = lab_open(s->near_conn, name, TRIMS_TIER_HOST);
	mrm_settle(&s->near);
	run_shared(c, E2E_CASE_HOST_HIT, &s->near, "resident", "cpu");
	trims_close(&held);
	on_device(c);
	lab_evict(s->near_conn, name, TRIMS_TIER_HOST); /* or private loads would have less memory than they have alone */
	model_make_warm(c->file);
	run_private(c, E2E_CASE_PRIVATE_WARM, E2E_CASE_IDEAL, "cpu");
	lab_evict(s->far_conn, name, TRIMS_TIER_HOST);
	lab_evict(s->far_conn, name, TRIMS_TIER_DISK);
	run_shared(c, E2E_CASE_MISS_REMOTE, &s->far, "pipeline", "cpu");
	mrm_settle(&s->far); /* the disk tier's copy is complete; nothing of the file waits in a socket any more */
	lab_evict(s->far_conn, name, TRIMS_TIER_HOST);
	lab_evict(s->far_conn, name, TRIMS_TIER_DISK);
	run_remote_alone(c);
}

static void measure(const struct stage *s, struct e2e_row *row)
{
	struct course c = {.s = s, .row = row};
	lab_path(s->o, c.file, "models/%s", row->model->name);
	row->bytes = zoo_write(row->model, c.file, MODEL_SEED);
	lab_path(s->o, c.copy, "remote/%s", row->model->name);
	zoo_write_config(row->model, c.copy);
	lab_path(s->o, c.file, "models/%s/model.safetensors", row->model->name);
	lab_path(s->o, c.copy, "remote/%s/model.safetensors", row->model->name);
	lab_copy(c.file, c.copy); /* no link: pages that a server has sent cannot be dropped for a while */
	model_make_warm(c.copy);
	lab_path(s->o, c.copy, "fetched");
	lab_mkdir(c.copy);
	zoo_write_config(row->model, c.copy);
	lab_path(s->o, c.copy, "fetched/model.safetensors");
	uint32_t rounds = s->o->rounds ? s->o->rounds : row->bytes > GIB ? 3 : 9;
	snprintf(c.tokens, sizeof c.tokens, "%" PRIu32, row->model->tokens);
	struct function_run warm;
	run(&c, "cpu", (const char *const[]){"--mode", "private", "--file", c.file, NULL}, 0, &warm); /* programs and libraries */
	for (uint32_t i = 0; i < rounds; i++) {
		lab_progress(row->model->name, i, rounds);
		one_round(&c);
	}
	lab_progress(NULL, 0, 0);
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
	mrm_start(s->o, &s->far, (const char *const[]){"--source", far, "--host-bytes", "8G", "--disk-bytes", "16G", "--gpu", "off", NULL});
	s->near_conn = lab_connect(&s->near);
	s->far_conn = lab_connect(&s->far);
}

static size_t choose(const struct bench_options *o, struct e2e_row *rows)
{
	size_t n = 0;
	for (uint32_t i = 0; i < zoo_n; i++)
		if (!o->only || strcmp(o->only, zoo[i].name) == 0)
			rows[n++].model = &zoo[i];
	if (!n)
		die("e2e: --only %s: no such model", o->only);
	return n;
}

json_t *bench_e2e(const struct bench_options *o)
{
	struct stage s = {.o = o, .gpu = o->driver != NULL};
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
	s.port = nginx_start(o, remote);
	start_daemons(&s);
	for (size_t i = 0; i < n; i++)
		measure(&s, &rows[i]);
	json_t *concurrent = e2e_open_loop(o, &s.near, rows, n);
	json_t *result = e2e_figures(rows, n);
	json_object_set_new(result, "open_loop", concurrent);
	if (o->out)
		e2e_write(o->out, rows, n, concurrent);
	trims_disconnect(&s.near_conn);
	trims_disconnect(&s.far_conn);
	mrm_stop(&s.near);
	mrm_stop(&s.far);
	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < E2E_CASES; k++)
			function_cell_fini(&rows[i].cells[k]);
	free(rows);
	return result;
}
