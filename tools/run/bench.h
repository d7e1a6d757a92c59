/* bench.h - what the files of trims-run bench share.
 * Thread: main.  Owns: run_bench() owns the struct bench and all in it. */
#ifndef TOOLS_RUN_BENCH_H
#define TOOLS_RUN_BENCH_H

#include "client/trims.h"
#include "tools/function.h"
#include "tools/run/run.h"

#include <limits.h>

#define BENCH_MAX_FILES 64 /* weight files of a model: its shards */

struct bench_mode {
	enum mode mode;
	struct function_cell cell;
	struct samples from_open; /* ms, from asking for the model to the first result: what a plan predicts */
	char why[FAULT_TEXT_MAX]; /* the first run that failed: its words */
	uint32_t streak;          /* failed runs since the last good one, or the beginning */
	bool good, given_up;      /* some run came to a result; none ever did, or it is left out, and it is no longer tried */
	bool left_out;            /* by its plan there is nothing that makes it a mode of its own: not tried at all, `why` says it */
	int plan;                 /* memory file; -1: none */
	uint64_t device_bytes, helper_bytes; /* of modes that follow a plan, in the last good run; helper: over other GPUs' links */
	double predicted;         /* ms; 0: nothing is */
};

struct bench {
	const struct run *r;
	struct trims_conn *conn;
	char program[PATH_MAX];
	char uuid[64];     /* of the GPU; empty: the CPU's memory */
	bool simulated;
	uint64_t bytes;    /* of the model */
	char source[256];  /* where the daemon has it from */
	char files[BENCH_MAX_FILES][PATH_MAX];
	uint32_t n_files;
	struct bench_mode modes[MODE_COUNT];
	uint32_t n_modes;
	uint32_t warmups, rounds; /* done */
	bool out_of_time;
	int there;         /* state hit: by which kind of copy (bench_kind()) the device has the model; -1: by none */
	char digest[40];   /* of the first good run */
	char plan_note[FAULT_TEXT_MAX]; /* why nothing is predicted; empty: it is */
	bool has_tables;   /* by its profile: of which a run needs a few rows */
};

/* ---- bench_state.c ---- */

/* The files that mode private reads, whose pages are looked after. */
int bench_find_files(struct bench *b, struct fault *why);
/* Asks the daemon what it has and where from, and brings the model to the host so that the first round begins as the others. */
int bench_first_look(struct bench *b, struct fault *why);
/* "cold" or "warm": how the page cache has to have those files. */
const char *bench_page_cache(const struct bench *b);
/* Before a run of that mode: the model's copies and the page cache are as the state says, or there is no run.  first: runs the
 * mode once, for state hit. */
int bench_prepare(struct bench *b, struct bench_mode *m, int (*first)(struct bench *b, struct bench_mode *m, struct fault *why),
	struct fault *why);
/* Whether the daemon had it as the state says, by what the run tells. */
int bench_check_state(const struct bench *b, const struct bench_mode *m, const json_t *report, struct fault *why);

/* ---- bench_plan.c ---- */

/* Has trims-ctl plan from the daemon's profile, for all modes; b->plan_note says why not.  A mode that the plan leaves nothing to do is
 * left out; but dha then reads tables from the host all the same, without a plan: that is what the planner is asked about. */
void bench_plan(struct bench *b);

/* ---- bench_tell.c ---- */

json_t *bench_json(struct bench *b);
void bench_text(struct bench *b, FILE *out);

#endif
