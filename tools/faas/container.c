/* container.c - see container.h.
 * The child builds its root on a small tmpfs: every entry of the image is bound into it read-only, so the image needs no mount
 * points and several containers can share it.  Whatever fails there is told to the parent through a pipe that exec closes. */
#include "tools/faas/container.h"

#include "shared/base.h"
#include "shared/own.h"
#include "tools/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

/* The child's way to say what went wrong. */
struct report {
	int fd;
	uint64_t started;
};

/* In the child: tells the parent, and ends. */
static _Noreturn void give_up(const struct report *r, const char *what, const char *path)
{
	struct fault why;
	fault_errno(&why, TRIMS_E_NO_SYSTEM, errno, "%s%s%s", what, *path ? " " : "", path);
	if (write(r->fd, &why, sizeof why) != sizeof why)
		_exit(126);
	_exit(127);
}

static void must(const struct report *r, int result, const char *what, const char *path)
{
	if (result < 0)
		give_up(r, what, path);
}

/* Where `path` of the inside is before the root is changed. */
static void find_place(const struct report *r, const char *root, const char *path, char out[PATH_MAX])
{
	if (snprintf(out, PATH_MAX, "%s%s", root, path) < PATH_MAX)
		return;
	errno = ENAMETOOLONG;
	give_up(r, "making a place for", path);
}

static void make_parents(const struct report *r, char *path)
{
	for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			give_up(r, "making the directory", path);
		*at = '/';
	}
}

/* A place of the same kind, file or directory, for something to be bound to. */
static void make_place(const struct report *r, const char *from, char *to)
{
	struct stat st;
	must(r, stat(from, &st), "looking at", from);
	make_parents(r, to);
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(to, 0755) < 0 && errno != EEXIST)
			give_up(r, "making the directory", to);
		return;
	}
	OWN_FD int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	must(r, fd, "making the file", to);
}

/* mount_setattr() leaves alone what else the mount was made with: a user namespace must not take that off. */
static void bind_into(const struct report *r, const char *root, const struct container_bind *b)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | (b->writable ? 0 : MOUNT_ATTR_RDONLY)};
	char to[PATH_MAX];
	find_place(r, root, b->to, to);
	make_place(r, b->from, to);
	must(r, mount(b->from, to, NULL, MS_BIND | MS_REC, NULL), "mounting", b->from);
	must(r, mount_setattr(AT_FDCWD, to, AT_RECURSIVE, &attr, sizeof attr), "making read-only", b->from);
}

static void bind_image(const struct report *r, const char *root, const char *image)
{
	DIR *d = opendir(image);
	struct dirent *e;
	must(r, d ? 0 : -1, "opening the image", image);
	while ((e = readdir(d))) {
		char from[PATH_MAX], to[NAME_MAX + 2];
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(to, sizeof to, "/%s", e->d_name);
		find_place(r, image, to, from);
		bind_into(r, root, &(struct container_bind){.from = from, .to = to});
	}
	closedir(d);
}

static void mount_new(const struct report *r, const char *root, const char *type, const char *path, unsigned long flags,
	const char *data)
{
	char to[PATH_MAX];
	find_place(r, root, path, to);
	must(r, mkdir(to, 0755), "making the directory", to);
	must(r, mount(type, to, type, MS_NOSUID | MS_NODEV | flags, data), "mounting", path);
}

/* What a program expects anywhere: a few devices, its own processes, a place for temporary files. */
static void furnish(const struct report *r, const char *root)
{
	static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/urandom"};
	for (size_t i = 0; i < ARRAY_LEN(devices); i++)
		bind_into(r, root, &(struct container_bind){.from = devices[i], .to = devices[i], .writable = true});
	mount_new(r, root, "proc", "/proc", MS_NOEXEC, NULL);
	mount_new(r, root, "tmpfs", "/tmp", 0, "size=64m,mode=1777");
}

/* The old root is stacked below the new one by pivot_root(".", ".") and taken off. */
static void enter(const struct report *r, const char *root)
{
	must(r, chdir(root), "entering", root);
	must(r, (int)syscall(SYS_pivot_root, ".", "."), "changing the root to", root);
	must(r, umount2(".", MNT_DETACH), "leaving the old root", "");
	must(r, mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL), "making read-only", "/");
	must(r, chdir("/"), "entering", "/");
}

static void build_root(const struct report *r, const struct container *c, const char *root)
{
	must(r, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "leaving the host's mounts", "");
	must(r, mount("tmpfs", root, "tmpfs", MS_NOSUID, "size=1m,mode=755"), "mounting", root);
	bind_image(r, root, c->image);
	furnish(r, root);
	for (int i = 0; i < c->n_binds; i++)
		bind_into(r, root, &c->binds[i]);
	enter(r, root);
}

static _Noreturn void start_program(const struct report *r, const struct container *c)
{
	char started[48], execed[48], *envp[256];
	size_t n = 0;
	while (n < ARRAY_LEN(envp) - 3 && c->envp[n]) {
		envp[n] = c->envp[n];
		n++;
	}
	snprintf(started, sizeof started, CONTAINER_ENV_STARTED "=%" PRIu64, r->started);
	envp[n++] = started;
	envp[n++] = execed;
	envp[n] = NULL;
	must(r, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up privileges", "");
	must(r, close_range(3, ~0u, CLOSE_RANGE_CLOEXEC), "giving up what the caller has open", "");
	snprintf(execed, sizeof execed, CONTAINER_ENV_EXECED "=%" PRIu64, clock_ns());
	execve(c->argv[0], c->argv, envp);
	give_up(r, "starting", c->argv[0]);
}

static _Noreturn void child(const struct container *c, const char *root, int mapped, int told, uint64_t started)
{
	const struct report r = {told, started};
	char go;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(mapped, &go, 1) != 1) /* the parent is gone */
		_exit(127);
	build_root(&r, c, root);
	must(&r, sethostname("function", 8), "naming the host", "");
	start_program(&r, c);
}

static int write_map(pid_t pid, const char *file, const char *text, struct fault *why)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
	OWN_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "%s", path);
	return 0;
}

static int map_ids(pid_t pid, struct fault *why)
{
	char uid[64], gid[64];
	snprintf(uid, sizeof uid, "%d %u 1\n", CONTAINER_ID, (unsigned)geteuid());
	snprintf(gid, sizeof gid, "%d %u 1\n", CONTAINER_ID, (unsigned)getegid());
	int r = write_map(pid, "setgroups", "deny", why); /* or the kernel lets nobody but root map groups */
	r = r ? r : write_map(pid, "gid_map", gid, why);
	return r ? r : write_map(pid, "uid_map", uid, why);
}

/* fork() into namespaces. */
static pid_t fork_apart(void)
{
	struct clone_args args = {.flags = NAMESPACES, .exit_signal = SIGCHLD};
	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

/* What the child has to say until its program runs: nothing, when all is well. */
static int listen_to(int told, struct fault *why)
{
	ssize_t n;
	do
		n = read(told, why, sizeof *why);
	while (n < 0 && errno == EINTR);
	return n == 0 ? 0 : n == sizeof *why ? -EPROTO : fault_set(why, TRIMS_E_NO_SYSTEM, "the container ended while it was made");
}

static int start_at(const struct container *c, const char *root, uint64_t started, pid_t *pid, struct fault *why)
{
	int mapped[2], told[2];
	if (pipe2(mapped, O_CLOEXEC))
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "a pipe");
	OWN_FD int mapped_in = mapped[0], mapped_out = mapped[1];
	if (pipe2(told, O_CLOEXEC))
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "a pipe");
	OWN_FD int told_in = told[0], told_out = told[1];
	*pid = fork_apart();
	if (*pid < 0)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "user, PID, mount, network, IPC and host-name namespaces");
	if (*pid == 0) {
		close(mapped_out);
		child(c, root, mapped_in, told_out, started);
	}
	close(steal_fd(&told_out));
	int r = map_ids(*pid, why);
	if (!r && write(mapped_out, "", 1) != 1)
		r = fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "the container ended while it was made");
	close(steal_fd(&mapped_out));
	r = r ? r : listen_to(told_in, why);
	if (r) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	return r;
}

int container_start(const struct container *c, pid_t *pid, struct fault *why)
{
	uint64_t started = clock_ns();
	const char *base = getenv("TMPDIR");
	char root[PATH_MAX];
	if (snprintf(root, sizeof root, "%s/trims-faas-XXXXXX", base && *base ? base : "/tmp") >= (int)sizeof root || !mkdtemp(root))
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "a directory for the root in %s", base && *base ? base : "/tmp");
	int r = start_at(c, root, started, pid, why);
	rmdir(root); /* what is mounted on it is so in the child's eyes alone */
	return r;
}
