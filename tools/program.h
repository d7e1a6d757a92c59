/* program.h - runs trims-run for a command.  Thread: main.  Owns nothing. */
#ifndef TOOLS_PROGRAM_H
#define TOOLS_PROGRAM_H

#include "shared/error.h"

#include <stddef.h>

/* Runs the program of that name that lies beside this one, or else is found by $PATH, until it ends.  argv[0] is replaced.  Its
 * standard error is ours.  *out: what it wrote, with a NUL behind it, the caller's to free().  -EPROTO when it could not be started
 * or did not end with status 0. */
int program_run(const char *name, const char *argv[], char **out, size_t *bytes, struct fault *why);

#endif
