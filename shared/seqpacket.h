/* seqpacket.h - SOCK_SEQPACKET Unix sockets that carry datagrams and descriptors.
 * Thread: any.  Every descriptor made here is close-on-exec.  Descriptors to send are borrowed, received ones belong to
 * the caller.  Functions return 0 (or bytes) or -errno. */
#ifndef SHARED_SEQPACKET_H
#define SHARED_SEQPACKET_H

#include "shared/base.h"

#include <sys/types.h>

/* Binds and listens, non-blocking.  A path that begins with '@' is an abstract address.  -ENAMETOOLONG: longer than an
 * address holds; -EADDRINUSE: something is there, and whether it is stale is the caller's business. */
int seqpacket_listen(const char *path, int backlog, int *out);
/* Takes the next connection, non-blocking as well.  -EAGAIN: none is waiting. */
int seqpacket_accept(int listener, int *out);
/* Connects; waits at most timeout_ns (0: for ever) for room in the listener's backlog, -EAGAIN when there was none.
 * The socket is blocking; what it sends keeps that bound. */
int seqpacket_connect(const char *path, uint64_t timeout_ns, int *out);
/* Two connected ends, blocking. */
int seqpacket_pair(int out[2]);

/* Sends one datagram with n descriptors (n <= SEQPACKET_MAX_FDS).  flags: 0 or MSG_DONTWAIT.  Never raises SIGPIPE.
 * -EAGAIN: no room and MSG_DONTWAIT. */
#define SEQPACKET_MAX_FDS 253 /* the kernel's own bound */
int seqpacket_send(int fd, const void *buf, size_t len, const int *fds, uint32_t n, int flags);
/* Receives one datagram into buf and at most max of its descriptors into fds.  Returns its bytes, 0 when the peer is
 * gone (or sent an empty datagram, which no message is).  -EPROTO: the datagram was longer than cap, or carried more
 * descriptors than max: all of them are closed then. */
ssize_t seqpacket_recv(int fd, void *buf, size_t cap, int *fds, uint32_t max, uint32_t *n, int flags);

/* Who connected, as the kernel saw it then. */
struct seqpacket_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};
int seqpacket_peer(int fd, struct seqpacket_peer *out);

#endif
