/* main.c - trims-ctl: takes the command line apart and calls the command's function.
 * Keeps: an option that a command does not know is refused, never ignored. */
#include "client/trims.h"
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
	const char *name, *arguments, *help;
	int fewest, most;
	unsigned options;
	int (*run)(struct ctl *c);
} commands[] = {
#define COMMAND(name, fewest, most, arguments, options, help) {#name, arguments, help, fewest, most, options, ctl_##name},
#include "tools/ctl/commands.def"
#undef COMMAND
};

static const struct option options[] = {
#define OPTION(name, argument, help) {#name, (argument) ? required_argument : no_argument, NULL, OPT_bit_##name},
#include "tools/ctl/options.def"
#undef OPTION
	{NULL, 0, NULL, 0},
};

static const struct option_text {
	const char *name, *argument, *help;
} option_texts[] = {
#define OPTION(name, argument, help) {#name, argument, help},
#include "tools/ctl/options.def"
#undef OPTION
};

static void print_help(FILE *out)
{
	struct grid *g = grid_new("lll");
	fputs("usage: trims-ctl [--socket PATH] [--json] COMMAND [ARGUMENT ...] [OPTION ...]\n\ncommands:\n", out);
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
	fputs("\nexit status: 0 done, 1 refused, 2 usage, 3 daemon unreachable.  See trims-ctl(1).\n", out);
	grid_free(&g);
}

static int parse_tier(struct ctl *c, const char *text)
{
	static const char *const names[] = {
#define TIER(number, NAME, name, doc) [number] = #name,
#include "shared/tiers.def"
#undef TIER
	};
	for (uint32_t i = 1; i < ARRAY_LEN(names); i++)
		if (strcmp(text, names[i]) == 0) {
			c->tier = i;
			return 0;
		}
	return ctl_usage(c, "--tier: %s is no tier; one of disk, host, gpu", text);
}

static int parse_number(struct ctl *c, const char *option, const char *text, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || n == 0)
		return ctl_usage(c, "--%s: %s is no number above 0", option, text);
	*out = n;
	return 0;
}

static int take_option(struct ctl *c, int bit, const char *value)
{
	c->given |= 1u << bit;
	switch (bit) {
	case OPT_bit_socket:
		c->socket = value;
		return 0;
	case OPT_bit_tier:
		return parse_tier(c, value);
	case OPT_bit_device:
		c->device = value;
		return 0;
	case OPT_bit_plan:
		c->plan = value;
		return 0;
	case OPT_bit_count:
		return parse_number(c, "count", value, &c->count);
	case OPT_bit_batch:
		return parse_number(c, "batch", value, &c->batch);
	case OPT_bit_profile:
		c->profile = value;
		return 0;
	case OPT_bit_measured:
		c->measured = value;
		return 0;
	case OPT_bit_batches:
		c->batches = value;
		return 0;
	case OPT_bit_machine:
		c->machine = value;
		return 0;
	case OPT_bit_policy:
		c->policy = value;
		return 0;
	case OPT_bit_svg:
		c->svg = value;
		return 0;
	case OPT_bit_interval:
		if (text_parse_ns(value, &c->interval_ns) || c->interval_ns < 10 * NS_PER_MS)
			return ctl_usage(c, "--interval: %s is no time of 10ms or more", value);
		return 0;
	default:
		return 0;
	}
}

static int parse_options(struct ctl *c, int argc, char **argv)
{
	opterr = 0;
	for (int bit; (bit = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
		if (bit == ':')
			return ctl_usage(c, "%s wants a value", argv[optind - 1]);
		if (bit == '?')
			return ctl_usage(c, "unknown option %s", argv[optind - 1]);
		int r = take_option(c, bit == 'h' ? OPT_bit_help : bit, optarg);
		if (r)
			return r;
	}
	return 0;
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(name, commands[i].name) == 0)
			return &commands[i];
	return NULL;
}

static int check_command(const struct ctl *c, const struct command *cmd)
{
	unsigned surplus = c->given & ~(cmd->options | OPT_socket | OPT_json);
	if (surplus)
		return ctl_usage(c, "%s knows no option --%s", cmd->name, option_texts[__builtin_ctz(surplus)].name);
	if (c->n_args < cmd->fewest || c->n_args > cmd->most)
		return ctl_usage(c, cmd->most ? "%s wants %s" : "%s takes no argument%s", cmd->name, cmd->arguments);
	return 0;
}

static int run(struct ctl *c, int argc, char **argv)
{
	int r = parse_options(c, argc, argv);
	if (r)
		return r;
	if (c->given & OPT_help) {
		print_help(stdout);
		return CTL_DONE;
	}
	if (c->given & OPT_version) {
		puts("trims-ctl " TRIMS_VERSION);
		return CTL_DONE;
	}
	if (optind == argc)
		return ctl_usage(c, "no command; trims-ctl --help lists them");
	const struct command *cmd = find_command(argv[optind]);
	if (!cmd)
		return ctl_usage(c, "unknown command %s; trims-ctl --help lists them", argv[optind]);
	c->args = argv + optind + 1;
	c->n_args = argc - optind - 1;
	r = check_command(c, cmd);
	return r ? r : cmd->run(c);
}

int main(int argc, char **argv)
{
	const char *env = getenv("TRIMS_SOCKET");
	struct ctl c = {
		.socket = env && *env ? env : "/run/trims/mrm.sock",
		.interval_ns = NS_PER_S,
	};
	int r = run(&c, argc, argv);
	trims_disconnect(&c.trims);
	/* Output that could not be written is no success: a full disk or a closed pipe behind `cat`. */
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "trims-ctl: writing standard output: %s\n", strerror(errno));
		return r ? r : CTL_REFUSED;
	}
	return r;
}
