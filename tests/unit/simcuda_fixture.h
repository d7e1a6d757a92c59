/* simcuda_fixture.h - what the tests of the simulated driver share: a directory of their own that plays the devices, a
 * topology, the loaded table, and children that load it themselves.  Each test is a process of its own, so whatever one
 * leaves behind is what a killed process leaves behind for the next.  Thread: main. */
#ifndef TESTS_UNIT_SIMCUDA_FIXTURE_H
#define TESTS_UNIT_SIMCUDA_FIXTURE_H

#include "shared/base.h"
#include "shared/cuda.h"
#include "shared/own.h"
#include "tests/unit/unit.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SIMCUDA_LIBRARY /* where the build put it */
#define SIMCUDA_LIBRARY "libsimcuda.so"
#endif

#define ok(call) ck_assert_int_eq((int)(call), CU_OK)
#define fails(call, result) ck_assert_int_eq((int)(call), result)

static char sim_directory[64];

static inline void sim_remove(void)
{
	DIR *d = opendir(sim_directory);
	struct dirent *e;

	while (d && (e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(sim_directory);
}

/* Before the suite runs, in the process that outlives all tests. */
static inline void sim_prepare(void)
{
	snprintf(sim_directory, sizeof sim_directory, "/dev/shm/simcuda-test-XXXXXX");
	if (!mkdtemp(sim_directory) || chmod(sim_directory, 01777))
		exit(EXIT_FAILURE);
	setenv("SIMCUDA_DIR", sim_directory, 1);
	unsetenv("SIMCUDA");
	unsetenv("SIMCUDA_FAULTS");
}

/* The topology of the processes that load the driver after this. */
static inline void sim_topology(const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof path, "%s/topology", sim_directory);
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	setenv("SIMCUDA", path, 1);
}

static inline struct cuda *sim_load(void)
{
	struct fault why = {0};
	struct cuda *cu = NULL;

	ck_assert_msg(cuda_load(&cu, SIMCUDA_LIBRARY, &why) == 0, "%s", why.text);
	ck_assert(cu->simulated);
	return cu;
}

/* And with device 0's primary context current. */
static inline struct cuda *sim_start(void)
{
	struct cuda *cu = sim_load();
	cu_context ctx;

	ok(cu->primary_ctx_retain(&ctx, 0));
	ok(cu->ctx_set_current(ctx));
	return cu;
}

#define SIM_CONTROL(cu, name, type) ((__typeof__(type) *)sim_symbol(cu, #name))
static inline void *sim_symbol(const struct cuda *cu, const char *name)
{
	void *at = dlsym(cu->dl, name);

	ck_assert_msg(at != NULL, "no %s", name);
	return at;
}

/* Until so many stream waits have found nothing yet. */
static inline void sim_await_waiting(const struct cuda *cu, int n)
{
	int (*waiting)(void) = (int (*)(void))sim_symbol(cu, "simcuda_waiting");

	while (waiting() < n)
		usleep(100);
}

static inline size_t sim_free_bytes(const struct cuda *cu)
{
	size_t left, total;

	ok(cu->mem_get_info(&left, &total));
	return left;
}

/* The k-th word of a test pattern. */
static inline uint64_t sim_word(uint64_t seed, uint64_t k)
{
	uint64_t state = seed + k * 0x9e3779b97f4a7c15u;

	return unit_random(&state);
}

static inline void sim_pattern(void *at, size_t bytes, uint64_t seed)
{
	for (size_t k = 0; k < bytes / 8; k++)
		((uint64_t *)at)[k] = sim_word(seed, k);
}

static inline bool sim_is_pattern(const void *at, size_t bytes, uint64_t seed)
{
	for (size_t k = 0; k < bytes / 8; k++)
		if (((const uint64_t *)at)[k] != sim_word(seed, k))
			return false;
	return true;
}

/* A child with a socket to it; it runs fn(socket) and exits.  To be called before the parent loads the driver. */
struct sim_child {
	pid_t pid;
	int socket;
};

static inline struct sim_child sim_fork(void (*fn)(int socket))
{
	struct sim_child c;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	c.pid = fork();
	ck_assert_int_ge(c.pid, 0);
	if (!c.pid) {
		close(pair[0]);
		fn(pair[1]);
		_exit(0);
	}
	close(pair[1]);
	c.socket = pair[0];
	return c;
}

/* Its exit status, or -signal. */
static inline int sim_reap(struct sim_child *c)
{
	int status;

	close(c->socket);
	ck_assert_int_eq(waitpid(c->pid, &status, 0), c->pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void sim_send(int socket, const void *data, size_t bytes, int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)data, bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		control.header =
			(struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
	}
	ck_assert_int_eq(sendmsg(socket, &m, MSG_NOSIGNAL), (ssize_t)bytes);
}

/* The descriptor that came along, or -1. */
static inline int sim_receive(int socket, void *data, size_t bytes)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {data, bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	int fd = -1;

	ck_assert_int_eq(recvmsg(socket, &m, MSG_CMSG_CLOEXEC), (ssize_t)bytes);
	if (CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
	return fd;
}

static inline void sim_say_ready(int socket)
{
	sim_send(socket, "r", 1, -1);
}

static inline void sim_await_ready(int socket)
{
	char c;

	sim_receive(socket, &c, 1);
}

#define SIM_MAIN(name, ...)                                                                                           \
	int main(void)                                                                                                \
	{                                                                                                             \
		unit_add_fn *const add[] = {__VA_ARGS__};                                                             \
		int failed;                                                                                           \
                                                                                                                      \
		sim_prepare();                                                                                        \
		failed = unit_run(name, add, sizeof add / sizeof *add);                                               \
		sim_remove();                                                                                         \
		return failed;                                                                                        \
	}

#endif
