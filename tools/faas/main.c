/* main.c - trims-faas: starts one function in a container of its own, waits for it, ends as it ended.
 *
 *   trims-faas --image DIR [--socket PATH] [--bind FROM:TO]... [--bind-rw FROM:TO]... [--env NAME=VALUE]... -- PROGRAM [ARG]...
 *
 * Exit: the program's status, 128 + N when signal N ended it, 2 usage, 125 the container could not be made. */
#include "shared/base.h"
#include "shared/own.h"
#include "tools/faas/container.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENV_MAX 200

static const char help[] =
	"usage: trims-faas --image DIR [OPTION]... -- PROGRAM [ARG]...\n"
	"Starts PROGRAM (a path inside) in user, PID, mount, network, IPC and host-name namespaces of its own.\n"
	"  --image DIR           its root file system, read-only; tools/faas/make-image makes one\n"
	"  --socket PATH         the daemon's socket, put at " CONTAINER_SOCKET " and named in TRIMS_SOCKET\n"
	"  --bind FROM:TO        something else of the host, read-only (--bind-rw: writable)\n"
	"  --env NAME=VALUE      the environment is empty otherwise\n"
	"Exit: the program's status, 128 + N after signal N, 2 usage, 125 no container.\n";

struct options {
	struct container container;
	char *env[ENV_MAX + 1];
	int n_env;
};

static int usage(const char *what, const char *which)
{
	fprintf(stderr, "trims-faas: %s%s\n%s", what, which, help);
	return 2;
}

static int add_bind(struct options *o, const char *from, const char *to, bool writable)
{
	if (o->container.n_binds == CONTAINER_BINDS || to[0] != '/' || !to[1] || strstr(to, ".."))
		return usage("not to be mounted: ", to);
	o->container.binds[o->container.n_binds++] = (struct container_bind){from, to, writable};
	return 0;
}

/* FROM:TO; the argument is cut in two. */
static int parse_bind(struct options *o, char *text, bool writable)
{
	char *colon = strchr(text, ':');
	if (!colon)
		return usage("not FROM:TO: ", text);
	*colon = '\0';
	return add_bind(o, text, colon + 1, writable);
}

static int add_env(struct options *o, char *text)
{
	if (o->n_env == ENV_MAX || !strchr(text, '='))
		return usage("not NAME=VALUE, or one too many: ", text);
	o->env[o->n_env++] = text;
	return 0;
}

static int parse_one(struct options *o, int option, char *value)
{
	static char socket_env[] = "TRIMS_SOCKET=" CONTAINER_SOCKET;
	int r;
	switch (option) {
	case 'i':
		o->container.image = value;
		return 0;
	case 's':
		r = add_bind(o, value, CONTAINER_SOCKET, false);
		return r ? r : add_env(o, socket_env);
	case 'b':
	case 'w':
		return parse_bind(o, value, option == 'w');
	case 'e':
		return add_env(o, value);
	case 'h':
		fputs(help, stdout);
		exit(0);
	default:
		fputs(help, stderr);
		return 2;
	}
}

static int parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {{"image", 1, NULL, 'i'}, {"socket", 1, NULL, 's'}, {"bind", 1, NULL, 'b'},
		{"bind-rw", 1, NULL, 'w'}, {"env", 1, NULL, 'e'}, {"help", 0, NULL, 'h'}, {0}};
	int option, r = 0;
	while (!r && (option = getopt_long(argc, argv, "+", names, NULL)) >= 0)
		r = parse_one(o, option, optarg);
	if (r)
		return r;
	if (!o->container.image)
		return usage("no image", "");
	if (optind == argc)
		return usage("no program", "");
	o->container.argv = argv + optind;
	o->container.envp = o->env;
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {0};
	struct fault why;
	pid_t pid;
	int status, r = parse(&o, argc, argv);
	if (r)
		return r;
	if (container_start(&o.container, &pid, &why)) {
		fprintf(stderr, "trims-faas: %s\n", why.text);
		return 125;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
