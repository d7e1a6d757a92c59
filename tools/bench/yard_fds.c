/* yard_fds.c - a bare SOCK_SEQPACKET round trip that passes descriptors between two processes.
 * Keeps: requests and replies are as long as OPEN and OPENED; both ends block; nothing is allocated or looked up. */
#include "shared/check.h"
#include "shared/msg.h"
#include "tools/bench/bench.h"
#include "tools/bench/yard.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct yard_fds {
	int socket;
	pid_t server;
	uint32_t n_fds;
	size_t request_bytes, reply_bytes;
};

/* Room for the widest list of descriptors a message may carry. */
union control {
	char space[CMSG_SPACE(MSG_MAX_FDS * sizeof(int))];
	struct cmsghdr align;
};

static size_t encoded_bytes(const struct msg *m)
{
	static uint8_t buf[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n;
	ssize_t bytes = msg_encode(m, buf, sizeof buf, fds, &n);
	ASSERT(bytes > 0);
	return (size_t)bytes;
}

static void measure_messages(struct yard_fds *y)
{
	static struct msg m;
	msg_init(&m, MSG_OPEN, 1);
	MSG_SET_STR(m.u.open.model, "bench");
	y->request_bytes = encoded_bytes(&m);
	msg_init(&m, MSG_OPENED, 1);
	y->reply_bytes = encoded_bytes(&m);
}

static _Noreturn void serve(const struct yard_fds *y, int socket)
{
	char data[512];
	union control control = {0};
	struct iovec iov = {data, y->reply_bytes};
	struct msghdr reply = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
		.msg_controllen = CMSG_SPACE(y->n_fds * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&reply);
	*c = (struct cmsghdr){.cmsg_len = CMSG_LEN(y->n_fds * sizeof(int)), .cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS};
	for (uint32_t i = 0; i < y->n_fds; i++) {
		int fd = memfd_create("yardstick", MFD_CLOEXEC);
		memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
	}
	memset(data, 0, sizeof data);
	while (recv(socket, data, sizeof data, 0) > 0)
		if (sendmsg(socket, &reply, MSG_NOSIGNAL) < 0)
			_exit(1);
	_exit(0);
}

void yard_fds_start(struct yard_fds **out, uint32_t n_fds)
{
	int ends[2];
	struct yard_fds *y = calloc(1, sizeof *y);
	ASSERT(y && n_fds <= MSG_MAX_FDS);
	y->n_fds = n_fds;
	measure_messages(y);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		die_errno(errno, "socketpair");
	y->server = fork();
	if (y->server < 0)
		die_errno(errno, "fork");
	if (y->server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[0]);
		serve(y, ends[1]);
	}
	close(ends[1]);
	y->socket = ends[0];
	*out = y;
}

static void close_passed(struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
		for (size_t at = 0; c->cmsg_type == SCM_RIGHTS && CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
			close(fd);
		}
}

uint64_t yard_fds_trip_ns(struct yard_fds *y)
{
	char data[512] = {0};
	union control control;
	struct iovec iov = {data, sizeof data};
	struct msghdr reply = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
		.msg_controllen = sizeof control};
	uint64_t started = bench_now_ns();
	if (send(y->socket, data, y->request_bytes, MSG_NOSIGNAL) < 0)
		die_errno(errno, "the yardstick's request");
	ssize_t n = recvmsg(y->socket, &reply, MSG_CMSG_CLOEXEC);
	if (n != (ssize_t)y->reply_bytes)
		die_errno(n < 0 ? errno : EPROTO, "the yardstick's reply");
	close_passed(&reply);
	return bench_now_ns() - started;
}

pid_t yard_fds_server(const struct yard_fds *y)
{
	return y->server;
}

void yard_fds_stop(struct yard_fds **y)
{
	if (!*y)
		return;
	close((*y)->socket);
	waitpid((*y)->server, NULL, 0);
	free(*y);
	*y = NULL;
}
