/* e2e.h - what the files of trims-bench e2e share: one function run, its split, and the table of cases.
 * Thread: main. */
#ifndef TOOLS_BENCH_E2E_H
#define TOOLS_BENCH_E2E_H

#include "tools/bench/lab.h"
#include "tools/bench/zoo.h"
#include "tools/function.h"

enum e2e_case {
#define CASE(NAME, key, doc) E2E_CASE_##NAME,
#include "tools/bench/e2e.def"
	E2E_CASES
};

enum e2e_ratio {
#define RATIO(NAME, key, WHICH, OTHER) E2E_##NAME,
#include "tools/bench/e2e.def"
	E2E_RATIOS
};

#define E2E_LARGEST GIB /* of the open loop, where every process of the arm without the daemon has a copy of its own */

const char *e2e_case_key(unsigned which);

struct e2e_row {
	const struct zoo_model *model;
	uint64_t bytes;
	uint32_t rounds; /* done */
	bool simulated; /* some of it */
	struct function_cell cells[E2E_CASES];
	double last[E2E_CASES];            /* total of the last run; 0: there was none, or it failed */
	struct samples ratios[E2E_RATIOS]; /* one of each pair of neighbours */
};

/* The last runs of both its cases, as one more sample; none where one of them failed. */
void e2e_compare(struct e2e_row *row, enum e2e_ratio which);

/* As function_start() and function_finish(); what it writes to its standard error is in the lab's function.log. */
void e2e_start(const struct bench_options *o, struct function *f, uint64_t asked_ns, const char *const args[]);
bool e2e_finish(struct function *f, struct function_run *out);

/* ---- e2e_report.c ---- */

/* Figures of all rows, with the geometric means and worst cases that bench.def asks for. */
json_t *e2e_figures(struct e2e_row *rows, size_t n);
/* DIR/e2e.md, e2e.csv, e2e-ratios.csv, e2e.svg. */
void e2e_write(const char *dir, struct e2e_row *rows, size_t n, const json_t *concurrent);

/* ---- e2e_open_loop.c ---- */

/* Functions that arrive whether or not others are done, with the daemon and without: latency from the arrival on.  Where models ran
 * on a GPU, `gpu` has the same of functions there.  conn: to the daemon m. */
json_t *e2e_open_loop(const struct bench_options *o, const struct mrm *m, trims_conn *conn, struct e2e_row *rows, size_t n);

#endif
