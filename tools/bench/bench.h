/* bench.h - what the benchmarks share.
 *
 * A benchmark runs in a worker process; its parent owns the temporary directory and removes it whatever happens to the
 * worker (main.c).  So a benchmark that cannot go on calls die() or skip() and leaves everything where it is.
 * Thread: main, unless a function says otherwise. */
#ifndef TOOLS_BENCH_BENCH_H
#define TOOLS_BENCH_BENCH_H

#include "shared/base.h"
#include "tools/samples.h"

#include <jansson.h>

enum bench_exit { BENCH_OK = 0, BENCH_BEYOND = 1, BENCH_USAGE = 2, BENCH_FAILED = 3, BENCH_SKIPPED = 77 };

struct bench_options {
	bool json;
	bool keep;            /* leave the temporary directory, with the daemons' logs, to be looked at */
	const char *mrm;      /* the daemon's program */
	const char *bin_dir;  /* where this program's helpers are */
	const char *own_dir;  /* where this program lies, and trims-run */
	const char *lab;      /* the temporary directory */
	uint64_t bytes;       /* of the model; 0: the benchmark's own, see bench_bytes() */
	uint32_t rounds;      /* of each measurement; 0: the benchmark's own */
	uint32_t models;      /* that the daemon of scale knows */
	const char *only;     /* one case of load or contention, models of cold, pt and e2e; NULL: all */
	const char *driver;   /* of CUDA, as cuda_load() takes it */
	const char *out;      /* where contention writes its curves; NULL: nowhere */
	uint32_t calls;       /* of contention's load function at each pressure, of e2e's open loop; 0: the benchmark's own */
	uint64_t budget_ns;   /* for all of contention's cells together, for the whole of cold, pt and e2e; 0: none */
};

/* Returns the figures as an object; never NULL. */
#define BENCH(name, doc) json_t *bench_##name(const struct bench_options *o);
#define FIGURE(bench, key, sense, goal, limit, doc)
#define FACT(bench, key, doc)
#include "tools/bench/bench.def"
#undef BENCH
#undef FIGURE
#undef FACT

/* One sentence on stderr, exit status BENCH_FAILED. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
void die_errno(int err, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));
/* One sentence on stderr, exit status BENCH_SKIPPED: this machine lacks what is to be measured. */
void skip(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* What libtrims last failed with. */
void die_trims(const char *doing) __attribute__((noreturn));

uint64_t bench_now_ns(void);
static inline uint64_t bench_bytes(const struct bench_options *o, uint64_t usual)
{
	return o->bytes ? o->bytes : usual;
}

#endif
