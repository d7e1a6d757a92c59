/* bench.c - trims-run bench: cold starts of one model, mode against mode.  A run is a process of its own, trims-run infer; the modes take
 * turns in each round, and each begins one round in turn, so that whatever else the machine does is in all of them.
 * Keeps: a run that fails is counted, with its words; one that computed other bits than the first, or did not begin in the state
 * that is claimed, has failed. */
#include "tools/run/bench.h"

#include "shared/own.h"
#include "tools/clock.h"
#include "tools/run/fail_trims.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define HOPELESS 3 /* runs that fail at first: then a mode is not tried again */
#define MAX_ARGS 32

/* ---- one run ---- */

struct numbers {
	char batch[16], tokens[16], threads[16], seed[24], plan[32];
};

static void add(const char *args[MAX_ARGS], size_t *n, const char *option, const char *value)
{
	args[(*n)++] = option;
	args[(*n)++] = value;
}

static void make_args(const struct bench *b, const struct bench_mode *m, struct numbers *v, const char *args[MAX_ARGS])
{
	const struct run *r = b->r;
	size_t n = 0;
	snprintf(v->batch, sizeof v->batch, "%" PRIu32, r->batch);
	snprintf(v->tokens, sizeof v->tokens, "%" PRIu32, r->tokens);
	snprintf(v->threads, sizeof v->threads, "%" PRIu32, r->threads);
	snprintf(v->seed, sizeof v->seed, "%" PRIu64, r->seed);
	snprintf(v->plan, sizeof v->plan, "/proc/self/fd/%d", m->plan);
	add(args, &n, "--mode", mode_name(m->mode));
	add(args, &n, "--device", r->device);
	add(args, &n, "--batch", v->batch);
	add(args, &n, "--seed", v->seed);
	if (r->tokens)
		add(args, &n, "--tokens", v->tokens);
	if (r->given & OPT_threads)
		add(args, &n, "--threads", v->threads);
	if (r->backend)
		add(args, &n, "--backend", r->backend);
	if (m->plan >= 0)
		add(args, &n, "--plan", v->plan);
	if (m->mode == MODE_PRIVATE && r->file)
		add(args, &n, "--file", r->file);
	if (m->mode == MODE_PRIVATE && r->file)
		return;
	if (r->socket)
		add(args, &n, "--socket", r->socket);
	if (m->mode != MODE_PRIVATE)
		args[n++] = r->model;
}

static int run_mode(struct bench *b, struct bench_mode *m, struct function_run *out, struct fault *why)
{
	const struct function_options how = {.program = b->program, .err = STDERR_FILENO};
	const char *args[MAX_ARGS] = {NULL};
	struct numbers v = {.batch = ""};
	struct function f;
	make_args(b, m, &v, args);
	int r = function_start(&how, &f, 0, args);
	return r ? fault_errno(why, TRIMS_E_NO_SYSTEM, -r, "starting trims-run") : function_finish(&f, out, why);
}

/* For state hit: nobody looks at its times. */
static int run_unseen(struct bench *b, struct bench_mode *m, struct fault *why)
{
	struct function_run run = {0};
	int r = run_mode(b, m, &run, why);
	json_decref(run.report);
	return r;
}

/* All modes give the bits of the first one. */
static int check_digest(struct bench *b, const json_t *report, struct fault *why)
{
	const char *digest = json_string_value(json_object_get(report, "digest"));
	if (!b->digest[0])
		snprintf(b->digest, sizeof b->digest, "%s", digest ? digest : "");
	return digest && strcmp(digest, b->digest) == 0 ? 0 :
		fault_set(why, TRIMS_E_MISMATCH, "the result is another one than that of the first run");
}

static int run_once(struct bench *b, struct bench_mode *m, struct function_run *out, struct fault *why)
{
	*out = (struct function_run){0};
	int r = bench_prepare(b, m, run_unseen, why);
	if (!r)
		r = run_mode(b, m, out, why);
	if (!r)
		r = bench_check_state(b, m, out->report, why);
	if (!r)
		r = check_digest(b, out->report, why);
	if (r)
		b->there = -1;
	return r;
}

static void take(struct bench *b, struct bench_mode *m, const struct function_run *run)
{
	const json_t *times = json_object_get(run->report, "times");
	function_cell_add(&m->cell, run);
	samples_add(&m->from_open, (double)json_integer_value(json_object_get(times, "from_open_ns")) / 1e6);
	b->simulated = b->simulated || run->simulated;
	const json_t *plan = json_object_get(run->report, "plan");
	m->device_bytes = (uint64_t)json_integer_value(json_object_get(plan, "device_bytes"));
	m->helper_bytes = (uint64_t)json_integer_value(json_object_get(plan, "helper_bytes"));
}

static void turn(struct bench *b, struct bench_mode *m, bool counts)
{
	struct function_run run;
	struct fault why = {0};
	if (m->given_up)
		return;
	int r = run_once(b, m, &run, &why);
	if (r && !m->why[0])
		snprintf(m->why, sizeof m->why, "%s", why.text[0] ? why.text : error_text(why.code));
	m->good = m->good || !r;
	m->streak = r ? m->streak + 1 : 0;
	m->given_up = !m->good && m->streak >= HOPELESS;
	if (!r && counts)
		take(b, m, &run);
	else if (r) /* also while warming up: nothing that fails is dropped */
		m->cell.failed++;
	json_decref(run.report);
}

/* ---- all of them ---- */

static bool is_over(const struct bench *b, uint64_t began, uint32_t share)
{
	return b->r->budget_ns && clock_ns() - began >= b->r->budget_ns / share;
}

static bool any_left(const struct bench *b)
{
	for (uint32_t i = 0; i < b->n_modes; i++)
		if (!b->modes[i].given_up)
			return true;
	return false;
}

static void one_round(struct bench *b, uint32_t number, bool counts)
{
	for (uint32_t i = 0; i < b->n_modes; i++)
		turn(b, &b->modes[(i + number) % b->n_modes], counts);
}

/* Of a budget warming up may take a quarter. */
static void race(struct bench *b)
{
	const struct run *r = b->r;
	uint64_t began = clock_ns();
	while (b->warmups < r->warmups && any_left(b) && !is_over(b, began, 4))
		one_round(b, b->warmups++, false);
	b->out_of_time = b->warmups < r->warmups && any_left(b);
	while (b->rounds < r->rounds && any_left(b) && (b->rounds == 0 || !is_over(b, began, 1)))
		one_round(b, b->rounds++, true);
	b->out_of_time = b->out_of_time || (b->rounds < r->rounds && any_left(b));
}

static int find_self(struct bench *b, struct fault *why)
{
	ssize_t n = readlink("/proc/self/exe", b->program, sizeof b->program - 1);
	if (n < 0)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "/proc/self/exe");
	b->program[n] = 0;
	return 0;
}

static int prepare(struct bench *b, struct fault *why)
{
	const struct trims_connect_options options = {.size = sizeof options, .program = "trims-run"};
	int r = find_self(b, why);
	bool all = !(b->r->given & OPT_modes) && strcmp(b->r->device, "cpu") == 0;
	for (uint32_t i = 0; i < b->r->n_modes; i++)
		if (!all || !mode_follows_plan(b->r->modes[i]))
			b->modes[b->n_modes++] = (struct bench_mode){.mode = b->r->modes[i], .plan = -1};
	if (!r)
		r = session_find_uuid(b->r, b->uuid, &b->simulated, why);
	if (!r)
		r = bench_find_files(b, why);
	if (!r && trims_connect(b->r->socket, &options, &b->conn))
		r = fail_trims(why);
	if (!r)
		r = bench_first_look(b, why);
	if (!r)
		bench_plan(b);
	return r;
}

static bool any_good(const struct bench *b)
{
	for (uint32_t i = 0; i < b->n_modes; i++)
		if (b->modes[i].cell.total.n)
			return true;
	return false;
}

static void finish(struct bench *b)
{
	for (uint32_t i = 0; i < b->n_modes; i++) {
		function_cell_fini(&b->modes[i].cell);
		samples_fini(&b->modes[i].from_open);
		if (b->modes[i].plan >= 0)
			close(b->modes[i].plan);
	}
	trims_disconnect(&b->conn);
	free(b);
}

static void tell(struct bench *b)
{
	if (b->r->given & OPT_json) {
		json_t *j = bench_json(b);
		run_print_json(j);
		json_decref(j);
	} else {
		bench_text(b, stdout);
	}
}

int run_bench(struct run *r)
{
	struct bench *b = calloc(1, sizeof *b);
	struct fault why = {0};
	if (!b) {
		fault_set(&why, TRIMS_E_NO_MEMORY, "no memory for the books");
		return run_fail(r, &why);
	}
	b->r = r;
	b->there = -1;
	int e = prepare(b, &why);
	if (!e) {
		race(b);
		tell(b);
	}
	int status = e ? run_fail(r, &why) : any_good(b) ? RUN_DONE : RUN_REFUSED;
	finish(b);
	return status;
}
