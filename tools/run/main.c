/* main.c - trims-run: takes the command line apart and calls the command's function.
 * Keeps: an option that a command does not know is refused, never ignored. */
#include "tools/run/run.h"

#include "tools/run/clock.h"
#include "tools/text.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command {
	const char *name, *arguments, *help;
	int fewest, most;
	unsigned options;
	int (*run)(struct run *r);
} commands[] = {
#define COMMAND(name, fewest, most, arguments, options, help) {#name, arguments, help, fewest, most, options, run_##name},
#include "tools/run/commands.def"
#undef COMMAND
};

static const struct option options[] = {
#define OPTION(name, argument, help) {#name, (argument) ? required_argument : no_argument, NULL, OPT_bit_##name},
#include "tools/run/options.def"
#undef OPTION
	{NULL, 0, NULL, 0},
};

static const struct option_text {
	const char *name, *argument, *help;
} option_texts[] = {
#define OPTION(name, argument, help) {#name, argument, help},
#include "tools/run/options.def"
#undef OPTION
};

/* ---- saying no ---- */

void run_print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putchar('\n');
}

static void say(const struct run *r, const char *code, const char *scope, const char *text)
{
	fputs("trims-run: ", stderr);
	text_put_clean(stderr, text);
	fputc('\n', stderr);
	if (!(r->given & OPT_json))
		return;
	json_t *e = json_pack("{s:{s:s,s:s,s:s}}", "error", "code", code, "scope", scope, "text", text);
	if (e)
		run_print_json(e);
	json_decref(e);
}

int run_fail(const struct run *r, const struct fault *why)
{
	enum trims_scope scope = error_scope(why->code);
	say(r, error_name(why->code), error_scope_name(scope), why->text[0] ? why->text : error_text(why->code));
	return scope == TRIMS_SCOPE_REQUEST ? RUN_REFUSED : RUN_UNREACHABLE;
}

int run_usage(const struct run *r, const char *fmt, ...)
{
	char text[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	say(r, "USAGE", "request", text);
	return RUN_USAGE;
}

/* ---- the command line ---- */

static void print_help(FILE *out)
{
	struct grid *g = grid_new("lll");
	fputs("usage: trims-run [--socket PATH] [--json] COMMAND [ARGUMENT ...] [OPTION ...]\n\ncommands:\n", out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		grid_add(g, "  %s", commands[i].name);
		grid_add(g, "%s", commands[i].arguments);
		grid_add(g, "%s", commands[i].help);
	}
	grid_print(g, out);
	fputs("\noptions:\n", out);
	for (size_t i = 0; i < ARRAY_LEN(option_texts); i++) {
		grid_add(g, "  --%s", option_texts[i].name);
		grid_add(g, "%s", option_texts[i].argument ? option_texts[i].argument : "");
		grid_add(g, "%s", option_texts[i].help);
	}
	grid_print(g, out);
	fputs("\nexit status: 0 done, 1 refused, 2 usage, 3 daemon unreachable.  See trims-run(1).\n", out);
	grid_free(&g);
}

/* Numbers of amounts are bounded: what they make the program allocate is checked again where it is known. */
static int parse_number(struct run *r, int bit, const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || n < least || n > most)
		return run_usage(r, "--%s: %s is no number from %llu to %llu", option_texts[bit].name, text,
			(unsigned long long)least, (unsigned long long)most);
	*out = n;
	return 0;
}

static int parse_amount(struct run *r, int bit, const char *text, uint32_t most, uint32_t *out)
{
	uint64_t n = 0;
	int e = parse_number(r, bit, text, 1, most, &n);
	*out = (uint32_t)n;
	return e;
}

static int parse_batches(struct run *r, const char *text)
{
	for (r->n_batches = 0; r->n_batches < RUN_MAX_BATCHES; r->n_batches++, text++) {
		char *end;
		unsigned long n = strtoul(text, &end, 10);
		if (end == text || *text == '-' || n < 1 || n > 4096 || (*end && *end != ','))
			break;
		r->batches[r->n_batches] = (uint32_t)n;
		text = end;
		if (!*end) {
			r->n_batches++;
			return 0;
		}
	}
	return run_usage(r, "--batches: not at most %u numbers from 1 to 4096", RUN_MAX_BATCHES);
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

static int take_option(struct run *r, int bit, const char *value)
{
	r->given |= 1u << bit;
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
		return 0;
	}
}

static int parse_options(struct run *r, int argc, char **argv)
{
	opterr = 0;
	for (int bit; (bit = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
		if (bit == ':')
			return run_usage(r, "%s wants a value", argv[optind - 1]);
		if (bit == '?')
			return run_usage(r, "unknown option %s", argv[optind - 1]);
		int e = take_option(r, bit == 'h' ? OPT_bit_help : bit, optarg);
		if (e)
			return e;
	}
	return 0;
}

static int check_command(struct run *r, const struct command *cmd, int n_args, char **args)
{
	unsigned surplus = r->given & ~(cmd->options | OPT_socket | OPT_json);
	if (surplus)
		return run_usage(r, "%s knows no option --%s", cmd->name, option_texts[__builtin_ctz(surplus)].name);
	if (n_args < cmd->fewest || n_args > cmd->most)
		return run_usage(r, "%s takes %s", cmd->name, cmd->arguments);
	r->model = n_args ? args[0] : NULL;
	if (!r->model == (r->mode != MODE_PRIVATE))
		return run_usage(r, "%s wants the name of a model, or with --mode private its --file", cmd->name);
	return 0;
}

static int run(struct run *r, int argc, char **argv)
{
	int e = parse_options(r, argc, argv);
	if (e)
		return e;
	if (r->given & OPT_help) {
		print_help(stdout);
		return RUN_DONE;
	}
	if (r->given & OPT_version) {
		puts("trims-run " TRIMS_VERSION);
		return RUN_DONE;
	}
	if (optind == argc)
		return run_usage(r, "no command; trims-run --help lists them");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(argv[optind], commands[i].name) == 0) {
			e = check_command(r, &commands[i], argc - optind - 1, argv + optind + 1);
			return e ? e : commands[i].run(r);
		}
	return run_usage(r, "unknown command %s; trims-run --help lists them", argv[optind]);
}

/* When somebody asked for this process: as $TRIMS_STARTED_NS says (CLOCK_MONOTONIC), or when the kernel started it, which it
 * counts in ticks of its own (10 ms, usually). */
static uint64_t started_ns(uint64_t now)
{
	const char *env = getenv("TRIMS_STARTED_NS");
	unsigned long long n = env ? strtoull(env, NULL, 10) : 0;
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
		.main_ns = clock_ns(),
	};
	r.started_ns = started_ns(r.main_ns);
	int e = run(&r, argc, argv);
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "trims-run: writing standard output: %s\n", strerror(errno));
		return e ? e : RUN_REFUSED;
	}
	return e;
}
