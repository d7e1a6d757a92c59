/* function.h - a function as benchmarks see it: trims-run infer, a process of its own in which nothing is warm, and where its time
 * went.  Thread: any.  Owns: a struct function its process and its pipe, from function_start() to function_finish(). */
#ifndef TOOLS_FUNCTION_H
#define TOOLS_FUNCTION_H

#include "shared/base.h"
#include "shared/error.h"
#include "tools/samples.h"

#include <jansson.h>
#include <sys/types.h>

/* Where the time went, from "it is asked for" to "here is the result". */
enum function_part {
#define PART(NAME, key, doc) FUNCTION_##NAME,
#include "tools/function.def"
#undef PART
	FUNCTION_PARTS
};

const char *function_part_key(unsigned part);

struct function_options {
	const char *program; /* trims-run */
	const char *driver;  /* of CUDA; NULL: as the caller's environment says */
	int err;             /* its standard error; the caller's own will do */
};

struct function {
	pid_t pid; /* 0: none */
	int out;
	uint64_t asked_ns;
};

struct function_run {
	double total, part[FUNCTION_PARTS]; /* ms */
	bool simulated;                     /* by a simulated device */
	json_t *report;                     /* all that it said; the caller's; NULL: it failed */
};

/* args: what follows `trims-run infer --json`, NULL at the end.  asked_ns: since when the caller waits; 0: now.  -errno. */
int function_start(const struct function_options *o, struct function *f, uint64_t asked_ns, const char *const args[]);
/* Touches as much free memory as one may use that takes so many bytes for weights; 0: they are in memory already.  Virtual machines
 * lose free pages to their host after a while, and a first touch then costs a hundred times as much: so every one finds what it
 * would on a machine that is used. */
int function_warm_memory(uint64_t weights, struct fault *why);
/* Waits for it.  -EPROTO: it failed, with its last words. */
int function_finish(struct function *f, struct function_run *out, struct fault *why);

/* All runs of one kind: those that came to a result, and how many did not. */
struct function_cell {
	struct samples total, part[FUNCTION_PARTS];
	uint32_t failed;
};

/* r NULL: a failed one. */
void function_cell_add(struct function_cell *c, const struct function_run *r);
void function_cell_fini(struct function_cell *c);

#endif
