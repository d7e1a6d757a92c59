/* cmdline.h - command lines of the kind `PROGRAM COMMAND [ARGUMENT ...] [OPTION ...]`, taken apart by tables, and how such a
 * program says no: a sentence on stderr, with --json an object on stdout as well, and an exit status.
 * A program makes the tables from its commands.def and options.def; what runs a command is its own business, by the row's index.
 * Keeps: an option that a command does not know is refused, never ignored; nothing of a command line reaches the terminal uncleaned.
 * Thread: main.  Owns: nothing; words point into argv. */
#ifndef TOOLS_CMDLINE_H
#define TOOLS_CMDLINE_H

#include "shared/base.h"
#include "shared/error.h"

#include <stdarg.h>

#define CMDLINE_MAX_OPTIONS 32 /* a bit each */

enum cmdline_exit { CMDLINE_DONE = 0, CMDLINE_REFUSED = 1, CMDLINE_USAGE = 2, CMDLINE_UNREACHABLE = 3 };

struct cmdline_command {
	const char *name, *arguments, *help;
	int fewest, most; /* arguments */
	unsigned options; /* that it knows beside those of all commands */
};

struct cmdline_option {
	const char *name, *argument, *help; /* argument NULL: it takes none */
};

struct cmdline {
	const char *program;
	const struct cmdline_command *commands;
	const struct cmdline_option *options;
	unsigned n_commands, n_options;
	unsigned common;              /* options that every command knows, as bits */
	unsigned json, help, version; /* which those are, as bits */
	/* Keeps the value of an option (its row's index) in `into`.  0, or what cmdline_usage() returned. */
	int (*take)(void *into, unsigned option, const char *value);
};

struct cmdline_words {
	int command; /* its row's index; -1: nothing is left to be done (--help, --version) */
	int n_args;
	char *const *args;
};

/* *given: a bit for each option that was seen, set before its value is taken.  0, or an exit status after saying why. */
int cmdline_parse(const struct cmdline *line, int argc, char **argv, void *into, unsigned *given, struct cmdline_words *out);

/* Says why a command failed; json: on stdout, too.  UNREACHABLE for scope CONN or DAEMON, else REFUSED. */
int cmdline_fail(const struct cmdline *line, bool json, const struct fault *why);
/* As above for a command line that makes no sense: USAGE. */
int cmdline_usage(const struct cmdline *line, bool json, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
/* The status to exit with after all is printed: output that could not be written is no success. */
int cmdline_end(const struct cmdline *line, int status);

#endif
