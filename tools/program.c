/* program.c - see program.h. */
#include "tools/program.h"

#include "shared/own.h"

#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

static void beside(char path[PATH_MAX], const char *name)
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = 0;
	char *slash = strrchr(path, '/');
	size_t room = slash ? (size_t)(path + PATH_MAX - slash) - 1 : 0;
	if (!slash || strlen(name) >= room)
		*path = 0;
	else
		strcpy(slash + 1, name);
}

static int start(const char *name, const char *argv[], int out, pid_t *pid)
{
	char path[PATH_MAX];
	posix_spawn_file_actions_t actions;
	beside(path, name);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	argv[0] = name;
	int e = *path && access(path, X_OK) == 0 ? posix_spawn(pid, path, &actions, NULL, (char *const *)argv, environ) :
						   posix_spawnp(pid, name, &actions, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return e;
}

static int read_all(int fd, char **out, size_t *bytes, struct fault *why)
{
	struct stat st;
	OWN_MEM char *text = fstat(fd, &st) ? NULL : malloc((size_t)st.st_size + 1);
	if (!text || pread(fd, text, (size_t)st.st_size, 0) != st.st_size)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for what a program wrote");
	*bytes = (size_t)st.st_size;
	text[*bytes] = 0;
	*out = STEAL(text);
	return 0;
}

int program_run(const char *name, const char *argv[], char **out, size_t *bytes, struct fault *why)
{
	OWN_FD int fd = memfd_create(name, MFD_CLOEXEC);
	pid_t pid;
	int status;
	if (fd < 0)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "no memory file"), -EPROTO;
	int e = start(name, argv, fd, &pid);
	if (e)
		return fault_errno(why, TRIMS_E_UNSUPPORTED, e, "%s cannot be started", name), -EPROTO;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "waiting for %s", name), -EPROTO;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return fault_set(why, TRIMS_E_UNSUPPORTED, WIFEXITED(status) ? "%s ended with status %d" : "%s was ended by signal %d", name,
			WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	return read_all(fd, out, bytes, why);
}
