/* seqpacket.c - see seqpacket.h.
 * Keeps: a received descriptor is either in the caller's array or closed; an interrupted call is repeated. */
#include "shared/seqpacket.h"

#include "shared/own.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * SEQPACKET_MAX_FDS)];
};

static int address(const char *path, struct sockaddr_un *out, socklen_t *len)
{
	size_t n = strlen(path);
	if (n == 0)
		return -EINVAL;
	if (n >= sizeof out->sun_path)
		return -ENAMETOOLONG;
	out->sun_family = AF_UNIX;
	memcpy(out->sun_path, path, n + 1);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
	if (path[0] == '@') { /* abstract: a leading NUL, and the length says where it ends */
		out->sun_path[0] = 0;
		--*len;
	}
	return 0;
}

int seqpacket_listen(const char *path, int backlog, int *out)
{
	struct sockaddr_un addr;
	socklen_t len;
	int r = address(path, &addr, &len);
	if (r < 0)
		return r;
	OWN_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, len) || listen(fd, backlog))
		return -errno;
	*out = steal_fd(&fd);
	return 0;
}

int seqpacket_accept(int listener, int *out)
{
	int fd;
	do
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return -errno;
	*out = fd;
	return 0;
}

/* A Unix connect() waits for the backlog for as long as the send timeout says. */
static int set_send_timeout(int fd, uint64_t ns)
{
	uint64_t us = ns / NS_PER_US + (ns % NS_PER_US != 0);
	struct timeval tv = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) ? -errno : 0;
}

int seqpacket_connect(const char *path, uint64_t timeout_ns, int *out)
{
	struct sockaddr_un addr;
	socklen_t len;
	int r = address(path, &addr, &len);
	if (r < 0)
		return r;
	OWN_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (timeout_ns && (r = set_send_timeout(fd, timeout_ns)) < 0)
		return r;
	do
		r = connect(fd, (struct sockaddr *)&addr, len) ? -errno : 0;
	while (r == -EINTR);
	if (r < 0)
		return r;
	*out = steal_fd(&fd);
	return 0;
}

int seqpacket_pair(int out[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, out) ? -errno : 0;
}

int seqpacket_send(int fd, const void *buf, size_t len, const int *fds, uint32_t n, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	if (n > SEQPACKET_MAX_FDS)
		return -EINVAL;
	if (n) {
		h.msg_control = control.bytes;
		h.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		*c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n)};
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	do
		sent = n ? sendmsg(fd, &h, flags | MSG_NOSIGNAL) : send(fd, buf, len, flags | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

/* Moves the descriptors of all control messages to fds; what does not fit is closed and makes the result false. */
static bool collect(struct msghdr *h, int *fds, uint32_t max, uint32_t *n)
{
	bool fits = true;
	*n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < got; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (*n < max) {
				fds[(*n)++] = fd;
			} else {
				close(fd);
				fits = false;
			}
		}
	}
	return fits;
}

ssize_t seqpacket_recv(int fd, void *buf, size_t cap, int *fds, uint32_t max, uint32_t *n, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = buf, .iov_len = cap};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes};
	ssize_t got;

	*n = 0;
	max = MIN(max, SEQPACKET_MAX_FDS);
	bool reset = false;
	do {
		/* Exact, not CMSG_SPACE: its padding would let the kernel hand over one more than asked for. */
		h.msg_controllen = max ? CMSG_LEN(sizeof(int) * max) : 0;
		got = recvmsg(fd, &h, flags | MSG_CMSG_CLOEXEC);
		/* A peer that left with our datagrams unread resets the connection; what it said before is still behind that. */
	} while (got < 0 && (errno == EINTR || (errno == ECONNRESET && !reset && (reset = true))));
	if (got < 0)
		return -errno;
	bool fits = collect(&h, fds, max, n);
	if (fits && !(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return got;
	while (*n)
		close(fds[--*n]);
	return -EPROTO;
}

int seqpacket_peer(int fd, struct seqpacket_peer *out)
{
	struct ucred cred;
	socklen_t len = sizeof cred;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return -errno;
	*out = (struct seqpacket_peer){.pid = cred.pid, .uid = cred.uid, .gid = cred.gid};
	return 0;
}
