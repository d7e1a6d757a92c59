/* cmdline.c - see cmdline.h. */
#include "tools/cmdline.h"

#include "shared/check.h"
#include "tools/text.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* ---- saying no ---- */

static void say(const struct cmdline *line, bool json, const char *code, const char *scope, const char *text)
{
	fprintf(stderr, "%s: ", line->program);
	text_put_clean(stderr, text);
	fputc('\n', stderr);
	json_t *e = json ? json_pack("{s:{s:s,s:s,s:s}}", "error", "code", code, "scope", scope, "text", text) : NULL;
	if (!e)
		return;
	json_dumpf(e, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(e);
}

int cmdline_fail(const struct cmdline *line, bool json, const struct fault *why)
{
	enum trims_scope scope = error_scope(why->code);
	say(line, json, error_name(why->code), error_scope_name(scope), why->text[0] ? why->text : error_text(why->code));
	return scope == TRIMS_SCOPE_REQUEST ? CMDLINE_REFUSED : CMDLINE_UNREACHABLE;
}

int cmdline_usage(const struct cmdline *line, bool json, const char *fmt, va_list ap)
{
	char text[FAULT_TEXT_MAX];
	vsnprintf(text, sizeof text, fmt, ap);
	say(line, json, "USAGE", "request", text);
	return CMDLINE_USAGE;
}

__attribute__((format(printf, 3, 4))) static int refuse(const struct cmdline *line, unsigned given, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int r = cmdline_usage(line, given & line->json, fmt, ap);
	va_end(ap);
	return r;
}

int cmdline_end(const struct cmdline *line, int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	fprintf(stderr, "%s: writing standard output: %s\n", line->program, strerror(errno)); /* a full disk, a closed pipe */
	return status ? status : CMDLINE_REFUSED;
}

/* ---- taking it apart ---- */

static void print_help(const struct cmdline *line, FILE *out)
{
	struct grid *g = grid_new("lll");
	fprintf(out, "usage: %s [--socket PATH] [--json] COMMAND [ARGUMENT ...] [OPTION ...]\n\ncommands:\n", line->program);
	for (unsigned i = 0; i < line->n_commands; i++) {
		grid_add(g, "  %s", line->commands[i].name);
		grid_add(g, "%s", line->commands[i].arguments);
		grid_add(g, "%s", line->commands[i].help);
	}
	grid_print(g, out);
	fputs("\noptions:\n", out);
	for (unsigned i = 0; i < line->n_options; i++) {
		grid_add(g, "  --%s", line->options[i].name);
		grid_add(g, "%s", line->options[i].argument ? line->options[i].argument : "");
		grid_add(g, "%s", line->options[i].help);
	}
	grid_print(g, out);
	fprintf(out, "\nexit status: 0 done, 1 refused, 2 usage, 3 daemon unreachable.  See %s(1).\n", line->program);
	grid_free(&g);
}

/* What getopt_long() stopped at: a letter, a name that there is not, or one that takes no value and was given one. */
static int refuse_option(const struct cmdline *line, unsigned given, const char *word)
{
	if (optopt > ' ' && optopt < 127 && strncmp(word, "--", 2))
		return refuse(line, given, "unknown option -%c", optopt);
	if (strchr(word, '=') && (unsigned)optopt < line->n_options && !strncmp(word + 2, line->options[optopt].name, strlen(line->options[optopt].name)))
		return refuse(line, given, "--%s takes no value", line->options[optopt].name);
	return refuse(line, given, "unknown option %s", word);
}

static int parse_options(const struct cmdline *line, int argc, char **argv, void *into, unsigned *given)
{
	struct option options[CMDLINE_MAX_OPTIONS + 1] = {0};
	ASSERT(line->n_options <= CMDLINE_MAX_OPTIONS); /* and below 'h', ':' and '?', which getopt_long() returns as well */
	for (unsigned i = 0; i < line->n_options; i++)
		options[i] = (struct option){line->options[i].name, line->options[i].argument ? required_argument : no_argument, NULL, (int)i};
	opterr = 0;
	for (int option; (option = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
		if (option == ':')
			return refuse(line, *given, "%s wants a value", argv[optind - 1]);
		if (option == '?')
			return refuse_option(line, *given, argv[optind - 1]);
		*given |= option == 'h' ? line->help : 1u << option;
		int r = option == 'h' ? 0 : line->take(into, (unsigned)option, optarg);
		if (r)
			return r;
	}
	return 0;
}

static int find_command(const struct cmdline *line, const char *name)
{
	for (unsigned i = 0; i < line->n_commands; i++)
		if (strcmp(name, line->commands[i].name) == 0)
			return (int)i;
	return -1;
}

static int check_command(const struct cmdline *line, unsigned given, const struct cmdline_command *cmd, int n_args)
{
	unsigned surplus = given & ~(cmd->options | line->common);
	if (surplus)
		return refuse(line, given, "%s knows no option --%s", cmd->name, line->options[__builtin_ctz(surplus)].name);
	if (n_args >= cmd->fewest && n_args <= cmd->most)
		return 0;
	if (!cmd->most)
		return refuse(line, given, "%s takes no argument", cmd->name);
	return refuse(line, given, cmd->fewest ? "%s wants %s" : "%s takes %s", cmd->name, cmd->arguments);
}

int cmdline_parse(const struct cmdline *line, int argc, char **argv, void *into, unsigned *given, struct cmdline_words *out)
{
	*out = (struct cmdline_words){.command = -1};
	int r = parse_options(line, argc, argv, into, given);
	if (r)
		return r;
	if (*given & line->help) {
		print_help(line, stdout);
		return 0;
	}
	if (*given & line->version) {
		printf("%s " TRIMS_VERSION "\n", line->program);
		return 0;
	}
	if (optind == argc)
		return refuse(line, *given, "no command; %s --help lists them", line->program);
	int command = find_command(line, argv[optind]);
	if (command < 0)
		return refuse(line, *given, "unknown command %s; %s --help lists them", argv[optind], line->program);
	*out = (struct cmdline_words){command, argc - optind - 1, argv + optind + 1};
	return check_command(line, *given, &line->commands[command], out->n_args);
}
