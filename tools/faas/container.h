/* container.h - one process as a FaaS platform starts it: user, PID, mount, network, IPC and host-name namespaces of its own, a
 * root file system that is the function's image (read-only) with a few things put into it, and the daemon's socket.
 *
 * No privilege is needed where the kernel lets users make namespaces.  The process is a plain user inside (uid and gid
 * CONTAINER_ID), without capabilities, and cannot gain any.  Outside it is whoever called.
 * Thread: a process with one thread.  See user_namespaces(7), pivot_root(2). */
#ifndef TOOLS_FAAS_CONTAINER_H
#define TOOLS_FAAS_CONTAINER_H

#include "shared/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CONTAINER_ID 1000
#define CONTAINER_BINDS 32
#define CONTAINER_SOCKET "/run/trims/mrm.sock" /* where the daemon's socket is inside */

struct container_bind {
	const char *from, *to; /* a file or directory outside; an absolute path inside */
	bool writable;
};

struct container {
	const char *image;       /* a directory: its entries are the root's */
	struct container_bind binds[CONTAINER_BINDS];
	int n_binds;
	char *const *argv;       /* argv[0] is a path inside */
	char *const *envp;       /* its whole environment but for the two below */
};

/* Told to the function in its environment, as CLOCK_MONOTONIC nanoseconds: when it was asked for, and when its container was
 * made and its program began to be loaded. */
#define CONTAINER_ENV_STARTED "TRIMS_STARTED_NS"
#define CONTAINER_ENV_EXECED "TRIMS_EXECED_NS"

/* Starts it; *pid is a child to wait for.  It dies when the caller does.  -EPROTO and *why: it could not be started, and
 * nothing is left of it. */
int container_start(const struct container *c, pid_t *pid, struct fault *why);

#endif
