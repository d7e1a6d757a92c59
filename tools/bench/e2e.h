/* e2e.h - what the files of trims-bench e2e share: one function run, its split, and the table of cases.
 * Thread: main. */
#ifndef TOOLS_BENCH_E2E_H
#define TOOLS_BENCH_E2E_H

#include "tools/bench/lab.h"
#include "tools/bench/zoo.h"

/* Where the time of a function went, from "it is asked for" to "here is the result", in milliseconds. */
enum e2e_part {
#define PART(NAME, key, doc) E2E_##NAME,
#include "tools/bench/e2e.def"
#undef PART
	E2E_PARTS
};

enum e2e_case {
#define CASE(NAME, key, doc) E2E_CASE_##NAME,
#include "tools/bench/e2e.def"
#undef CASE
	E2E_CASES
};

const char *e2e_part_key(unsigned part);
const char *e2e_case_key(unsigned which);

struct e2e_run {
	double total, part[E2E_PARTS];
	bool simulated; /* by a simulated device */
};

/* All runs of one case of one model. */
struct e2e_cell {
	struct samples total, part[E2E_PARTS];
	uint32_t failed;
};

struct e2e_row {
	const struct zoo_model *model;
	uint64_t bytes;
	bool simulated; /* some of it */
	struct e2e_cell cells[E2E_CASES];
};

/* A function that was started, trims-run infer, and what it prints. */
struct e2e_function {
	pid_t pid; /* 0: none */
	int out;
	uint64_t asked_ns;
};

/* args: what follows `trims-run infer --json`, NULL at the end.  asked_ns: since when the caller waits; 0: now. */
void e2e_start(const struct bench_options *o, struct e2e_function *f, uint64_t asked_ns, const char *const args[]);
/* Waits for it.  False: it failed; its last words are in the lab's function.log. */
bool e2e_finish(struct e2e_function *f, struct e2e_run *out);
void e2e_add(struct e2e_cell *c, bool good, const struct e2e_run *r);

/* ---- e2e_report.c ---- */

/* Figures of all rows, with the geometric means and worst cases that bench.def asks for. */
json_t *e2e_figures(struct e2e_row *rows, size_t n);
/* DIR/e2e.md, e2e.csv, e2e.svg. */
void e2e_write(const char *dir, struct e2e_row *rows, size_t n, const json_t *concurrent);

/* ---- e2e_open_loop.c ---- */

/* Functions that arrive whether or not others are done, with the daemon and without: latency from the arrival on. */
json_t *e2e_open_loop(const struct bench_options *o, const struct mrm *m, struct e2e_row *rows, size_t n);

#endif
