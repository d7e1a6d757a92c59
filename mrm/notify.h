/* notify.h - what systemd asks of a service, when the environment says it is there: socket activation, readiness,
 * watchdog, its descriptor store (sd_listen_fds(3), sd_notify(3)); spoken directly, the protocol is a datagram.
 * Thread: loop, but for notify_send() and notify_send_fd(): any. */
#ifndef MRM_NOTIFY_H
#define MRM_NOTIFY_H

#include "shared/base.h"

/* What LISTEN_FDS passes is read, and the variables cleared, by the first call of one of the next two.
 * Descriptors whose name in LISTEN_FDNAMES begins with this are what the store gives back. */
#define NOTIFY_STORED "trims."

/* The one listening SOCK_SEQPACKET socket among the others; -ENOENT when none was passed, -EINVAL when what was passed is
 * something else. */
int notify_listen_fd(int *out);
/* The next descriptor from the store, close-on-exec, the caller's; false when there is none left.  name gets what follows the
 * prefix. */
bool notify_take_stored(int *fd, char *name, size_t size);
/* Sends e.g. "READY=1"; without NOTIFY_SOCKET nothing happens. */
void notify_send(const char *state);
/* The same with a descriptor; 0 or -errno, -ENOENT without NOTIFY_SOCKET. */
int notify_send_fd(const char *state, int fd);
/* As "RELOADING=1" with the time stamp that Type=notify-reload wants. */
void notify_reloading(void);
/* Half of WATCHDOG_USEC in seconds, 0.0 when no watchdog waits for this process. */
double notify_watchdog_interval(void);

#endif
