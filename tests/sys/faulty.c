/* faulty.c - preloaded into mrm, makes the disk fail under one directory at a chosen call.
 *   FAULTY_DIR=PATH          calls on files below it are counted, in the order they are made
 *   FAULTY_AT=N              the Nth (from 1) is the one; with FAULTY_ON also all that follow
 *   FAULTY_DO=kill|EIO|ENOSPC|hang|count
 *   FAULTY_COUNT=FILE        "count": the number so far is kept here, so that a test knows how far N goes; "hang": so that
 *                            it knows that the call was reached
 * Calls counted: those that change a file or a name, and syncs.  kill: the process ends before the call, as in a power
 * cut in which everything earlier reached the disk.  Thread: any; the count is atomic. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static _Atomic unsigned long calls;

static void keep_count(unsigned long n)
{
	const char *path = getenv("FAULTY_COUNT");
	char text[24];
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	snprintf(text, sizeof text, "%020lu\n", n);
	if (syscall(SYS_pwrite64, fd, text, strlen(text), 0L) < 0)
		abort();
	close(fd);
}

/* True when this call is to fail, with errno set. */
static bool hit(void)
{
	const char *what = getenv("FAULTY_DO"), *at = getenv("FAULTY_AT");
	unsigned long n = atomic_fetch_add(&calls, 1) + 1, wanted = at ? strtoul(at, NULL, 10) : 0;

	if (!what)
		return false;
	if (strcmp(what, "count") == 0) {
		keep_count(n);
		return false;
	}
	if (n != wanted && !(n > wanted && getenv("FAULTY_ON")))
		return false;
	if (strcmp(what, "kill") == 0)
		kill(getpid(), SIGKILL);
	while (strcmp(what, "hang") == 0) {
		keep_count(n);
		pause();
	}
	errno = strcmp(what, "ENOSPC") == 0 ? ENOSPC : EIO;
	return true;
}

static bool below(const char *path)
{
	const char *dir = getenv("FAULTY_DIR");

	return dir && strncmp(path, dir, strlen(dir)) == 0;
}

static bool hit_fd(int fd)
{
	char link[64], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	if (n <= 0)
		return false;
	path[n] = 0;
	return below(path) && hit();
}

static bool hit_at(int dir, const char *name)
{
	if (name[0] == '/' || dir == AT_FDCWD)
		return below(name) && hit();
	return hit_fd(dir);
}

/* Defines a wrapper that asks `condition` first, then calls the real thing. */
#define WRAP(type, name, params, args, condition)                                                                     \
	EXPORT type name params;                                                                                      \
	type name params                                                                                              \
	{                                                                                                             \
		static type(*real) params;                                                                            \
		if (!real)                                                                                            \
			*(void **)&real = dlsym(RTLD_NEXT, #name);                                                    \
		if (condition)                                                                                        \
			return -1;                                                                                    \
		return real args;                                                                                     \
	}

WRAP(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n), hit_fd(fd))
WRAP(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at), hit_fd(fd))
WRAP(ssize_t, pwrite64, (int fd, const void *p, size_t n, off64_t at), (fd, p, n, at), hit_fd(fd))
WRAP(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), hit_fd(fd))
WRAP(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at), hit_fd(fd))
WRAP(ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t at), (fd, v, n, at), hit_fd(fd))
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), hit_fd(fd))
WRAP(int, ftruncate64, (int fd, off64_t n), (fd, n), hit_fd(fd))
WRAP(int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n), hit_fd(fd))
WRAP(int, fallocate64, (int fd, int mode, off64_t at, off64_t n), (fd, mode, at, n), hit_fd(fd))
WRAP(int, fsync, (int fd), (fd), hit_fd(fd))
WRAP(int, fdatasync, (int fd), (fd), hit_fd(fd))
WRAP(int, rename, (const char *from, const char *to), (from, to), below(to) && hit())
WRAP(int, renameat, (int fd, const char *from, int td, const char *to), (fd, from, td, to), hit_at(td, to))
WRAP(int, unlink, (const char *path), (path), below(path) && hit())
WRAP(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), hit_at(fd, path))
WRAP(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), hit_at(fd, path))
