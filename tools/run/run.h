/* run.h - what the commands of trims-run share: the command line, exit codes, and a model that is ready to be run.
 * Thread: main.  Owns: main() owns the struct run; a session owns what it opened. */
#ifndef TOOLS_RUN_RUN_H
#define TOOLS_RUN_RUN_H

#include "shared/device_class.h"
#include "tools/cmdline.h"
#include "tools/run/exec.h"

enum run_exit {
	RUN_DONE = CMDLINE_DONE,
	RUN_REFUSED = CMDLINE_REFUSED,
	RUN_USAGE = CMDLINE_USAGE,
	RUN_UNREACHABLE = CMDLINE_UNREACHABLE
};

enum {
#define OPTION(name, argument, help) OPT_bit_##name,
#include "tools/run/options.def"
#undef OPTION
};
enum run_option {
#define OPTION(name, argument, help) OPT_##name = 1 << OPT_bit_##name,
#include "tools/run/options.def"
#undef OPTION
};

#define RUN_MAX_BATCHES 16

/* What a benchmark's runs begin with. */
enum bench_state { BENCH_MISS, BENCH_HIT };

struct run {
	unsigned given; /* enum run_option bits */
	const char *socket, *model, *plan, *file, *input, *output;
	const char *device; /* as given: "cpu", "cuda:0" */
	const char *backend; /* NULL: whoever is usual for the device */
	enum mode mode;
	bool both; /* see weights_options */
	uint32_t batches[RUN_MAX_BATCHES], n_batches;
	uint32_t batch, tokens, repeat, generate, threads; /* tokens 0: not given */
	uint64_t seed;
	enum mode modes[MODE_COUNT]; /* of bench, each once */
	uint32_t n_modes, warmups, rounds;
	uint64_t budget_ns; /* 0: none */
	enum bench_state state;
	uint64_t started_ns, main_ns; /* when this process was asked for, and when main() began */
	uint64_t execed_ns; /* when its container was made; 0: it has none, or nobody says */
};

#define COMMAND(name, fewest, most, arguments, options, help) int run_##name(struct run *r);
#include "tools/run/commands.def"
#undef COMMAND

/* One sentence on stderr; with --json also {"error": ...} on stdout.  Returns the exit code that fits. */
int run_fail(const struct run *r, const struct fault *why);
/* As above for a command line that makes no sense. */
int run_usage(const struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void run_print_json(const json_t *value);

/* ---- session.c ---- */

/* A model with everything that runs it. */
struct session {
	const struct backend_ops *ops;
	struct backend *backend;
	struct weights *weights;
	struct net *net;
	char uuid[64]; /* of the GPU; empty: the CPU's memory */
	char class[DEVICE_CLASS_BYTES]; /* of the GPU */
	uint32_t driver;                /* its driver's version, 13000 for 13.0 */
	uint64_t build_ns; /* from configuration to layers */
};

/* The UUID of the GPU that --device names; empty: the CPU's memory is meant. */
int session_find_uuid(const struct run *r, char uuid[64], bool *simulated, struct fault *why);
/* Opens model and net, with no backend yet; then the backend, and binds the two.  Bytes are on their way in between. */
int session_open(struct session *s, const struct run *r, struct fault *why);
int session_bind(struct session *s, const struct run *r, struct fault *why);
void session_close(struct session *s);

#endif
