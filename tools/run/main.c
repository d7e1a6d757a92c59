/* main.c - trims-run: takes the command line apart and calls the command's function. */
#include "tools/run/run.h"

#include "tools/clock.h"
#include "tools/run/cpu.h"
#include "tools/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CMDLINE_PROGRAM "trims-run"
#define CMDLINE_COMMANDS "tools/run/commands.def"
#define CMDLINE_OPTIONS "tools/run/options.def"
#define CMDLINE_INTO struct run
#define CMDLINE_FUNCTION(name) run_##name
#include "tools/cmdline_tables.def"

/* ---- saying no ---- */

void run_print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putchar('\n');
}

int run_fail(const struct run *r, const struct fault *why)
{
	return cmdline_fail(&line, r->given & OPT_json, why);
}

int run_usage(const struct run *r, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int e = cmdline_usage(&line, r->given & OPT_json, fmt, ap);
	va_end(ap);
	return e;
}

/* ---- the command line ---- */

/* Numbers of amounts are bounded: what they make the program allocate is checked again where it is known. */
static int parse_number(struct run *r, unsigned bit, const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || n < least || n > most)
		return run_usage(r, "--%s: %s is no number from %llu to %llu", options[bit].name, text,
			(unsigned long long)least, (unsigned long long)most);
	*out = n;
	return 0;
}

static int parse_amount(struct run *r, unsigned bit, const char *text, uint32_t most, uint32_t *out)
{
	uint64_t n = 0;
	int e = parse_number(r, bit, text, 1, most, &n);
	*out = (uint32_t)n;
	return e;
}

static bool has_batch(const struct run *r, unsigned long n)
{
	uint32_t i = 0;
	while (i < r->n_batches && r->batches[i] != n)
		i++;
	return i < r->n_batches;
}

static int parse_batches(struct run *r, const char *text)
{
	for (r->n_batches = 0; r->n_batches < RUN_MAX_BATCHES; r->n_batches++, text++) {
		char *end;
		unsigned long n = strtoul(text, &end, 10);
		if (end == text || *text == '-' || n < 1 || n > 4096 || (*end && *end != ',') || has_batch(r, n))
			break;
		r->batches[r->n_batches] = (uint32_t)n;
		text = end;
		if (!*end) {
			r->n_batches++;
			return 0;
		}
	}
	return run_usage(r, "--batches: not at most %u numbers from 1 to 4096, each once", RUN_MAX_BATCHES);
}

static int parse_device(struct run *r, const char *text)
{
	size_t digits = strncmp(text, "cuda:", 5) == 0 ? strspn(text + 5, "0123456789") : 0;
	if (strcmp(text, "cpu") != 0 && (digits < 1 || digits > 3 || text[5 + digits]))
		return run_usage(r, "--device: %s is neither cpu nor cuda:N", text);
	r->device = text;
	return 0;
}

static int parse_backend(struct run *r, const char *text)
{
	if (!backend_find(text))
		return run_usage(r, "--backend: %s is neither cpu nor cuda", text);
	r->backend = text;
	return 0;
}

static int parse_mode(struct run *r, const char *text)
{
	r->mode = mode_find(text);
	if (r->mode == MODE_COUNT)
		return run_usage(r, "--mode: %s is none of resident, pipeline, dha, pt, pt+dha, private", text);
	return 0;
}

static int parse_modes(struct run *r, const char *text)
{
	unsigned seen = 0;
	for (r->n_modes = 0;; text++) {
		char name[16];
		size_t n = strcspn(text, ",");
		snprintf(name, sizeof name, "%.*s", (int)MIN(n, sizeof name - 1), text);
		enum mode mode = n < sizeof name ? mode_find(name) : MODE_COUNT;
		if (mode == MODE_COUNT || seen & 1u << mode)
			return run_usage(r, "--modes: not a list, each once, of resident, pipeline, dha, pt, pt+dha, private");
		seen |= 1u << mode;
		r->modes[r->n_modes++] = mode;
		text += n;
		if (!*text)
			return 0;
	}
}

static int parse_state(struct run *r, const char *text)
{
	if (strcmp(text, "hit") != 0 && strcmp(text, "miss") != 0)
		return run_usage(r, "--state: %s is neither hit nor miss", text);
	r->state = strcmp(text, "hit") == 0 ? BENCH_HIT : BENCH_MISS;
	return 0;
}

static int parse_rounds(struct run *r, unsigned bit, const char *text, uint64_t least, uint32_t *out)
{
	uint64_t n = 0;
	int e = parse_number(r, bit, text, least, 1000000, &n);
	*out = (uint32_t)n;
	return e;
}

static int parse_budget(struct run *r, const char *text)
{
	if (text_parse_ns(text, &r->budget_ns) || r->budget_ns == 0)
		return run_usage(r, "--budget: %s is no time", text);
	return 0;
}

/* Of bench alone. */
static int take_bench_option(struct run *r, unsigned bit, const char *value)
{
	switch (bit) {
	case OPT_bit_modes:
		return parse_modes(r, value);
	case OPT_bit_warmups:
		return parse_rounds(r, bit, value, 0, &r->warmups);
	case OPT_bit_rounds:
		return parse_rounds(r, bit, value, 1, &r->rounds);
	case OPT_bit_budget:
		return parse_budget(r, value);
	case OPT_bit_state:
		return parse_state(r, value);
	default:
		return 0;
	}
}

static int take_option(void *into, unsigned bit, const char *value)
{
	struct run *r = into;
	switch (bit) {
	case OPT_bit_socket:
		r->socket = value;
		return 0;
	case OPT_bit_device:
		return parse_device(r, value);
	case OPT_bit_backend:
		return parse_backend(r, value);
	case OPT_bit_mode:
		return parse_mode(r, value);
	case OPT_bit_plan:
		r->plan = value;
		return 0;
	case OPT_bit_file:
		r->file = value;
		return 0;
	case OPT_bit_input:
		r->input = value;
		return 0;
	case OPT_bit_output:
		r->output = value;
		return 0;
	case OPT_bit_batch:
		return parse_amount(r, bit, value, 4096, &r->batch);
	case OPT_bit_batches:
		return parse_batches(r, value);
	case OPT_bit_tokens:
		return parse_amount(r, bit, value, 1u << 20, &r->tokens);
	case OPT_bit_repeat:
		return parse_amount(r, bit, value, 1u << 20, &r->repeat);
	case OPT_bit_generate:
		return parse_amount(r, bit, value, 1u << 20, &r->generate);
	case OPT_bit_threads:
		return parse_amount(r, bit, value, 256, &r->threads);
	case OPT_bit_seed:
		return parse_number(r, bit, value, 0, UINT64_MAX, &r->seed);
	default:
		return take_bench_option(r, bit, value);
	}
}

/* Where the weights come from: every command wants to know. */
static int check_model(struct run *r, const struct cmdline_words *words)
{
	r->model = words->n_args ? words->args[0] : NULL;
	if (!r->model == (r->mode != MODE_PRIVATE))
		return run_usage(r, "%s wants the name of a model, or with --mode private its --file", commands[words->command].name);
	return 0;
}

static uint64_t env_ns(const char *name)
{
	const char *env = getenv(name);
	return env ? strtoull(env, NULL, 10) : 0;
}

/* When somebody asked for this process: as $TRIMS_STARTED_NS says (CLOCK_MONOTONIC), or when the kernel started it, which it
 * counts in ticks of its own (10 ms, usually). */
static uint64_t started_ns(uint64_t now)
{
	unsigned long long n = env_ns("TRIMS_STARTED_NS");
	struct timespec boot, mono;
	FILE *f = n ? NULL : fopen("/proc/self/stat", "re");
	if (f) {
		/* Field 22, in ticks since boot; the name in field 2 is ours and has no blank. */
		if (fscanf(f, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &n) != 1)
			n = 0;
		fclose(f);
		clock_gettime(CLOCK_BOOTTIME, &boot);
		clock_gettime(CLOCK_MONOTONIC, &mono);
		uint64_t slept = (uint64_t)(boot.tv_sec - mono.tv_sec) * NS_PER_S + (uint64_t)boot.tv_nsec - (uint64_t)mono.tv_nsec;
		n = n * (NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK)) - slept;
	}
	return n && n < now ? n : now;
}

int main(int argc, char **argv)
{
	cpu_end_library_threads();
	const char *env = getenv("TRIMS_SOCKET");
	struct run r = {
		.socket = env && *env ? env : NULL,
		.device = "cpu",
		.input = "random",
		.mode = MODE_RESIDENT,
		.batch = 1,
		.batches = {1},
		.n_batches = 1,
		.repeat = 1,
		.generate = 1,
		.modes = {MODE_RESIDENT, MODE_PIPELINE, MODE_DHA, MODE_PT, MODE_PT_DHA, MODE_PRIVATE},
		.n_modes = MODE_COUNT,
		.warmups = 2,
		.rounds = 20,
		.main_ns = clock_ns(),
	};
	r.started_ns = started_ns(r.main_ns);
	r.execed_ns = env_ns("TRIMS_EXECED_NS");
	if (r.execed_ns < r.started_ns || r.execed_ns > r.main_ns)
		r.execed_ns = 0; /* of somebody else's container */
	struct cmdline_words words;
	int e = cmdline_parse(&line, argc, argv, &r, &r.given, &words);
	if (!e && words.command >= 0) {
		e = check_model(&r, &words);
		e = e ? e : functions[words.command](&r);
	}
	return cmdline_end(&line, e);
}
