/* child.h - becoming another program.  Thread: the only one of a process that was just forked. */
#ifndef TOOLS_CHILD_H
#define TOOLS_CHILD_H

#include <sys/types.h>

/* In a child of `parent`: is argv[0] from now on (by $PATH without a slash), reads nothing, and is killed when the parent ends.  out,
 * err: its standard output and standard error; both may be the caller's own. */
_Noreturn void child_become(pid_t parent, int out, int err, const char *const argv[]);

#endif
