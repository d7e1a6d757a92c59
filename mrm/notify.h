/* notify.h - what systemd asks of a service, when the environment says it is there: socket activation, readiness,
 * watchdog (sd_listen_fds(3), sd_notify(3)); spoken directly, the protocol is a datagram.  Thread: loop. */
#ifndef MRM_NOTIFY_H
#define MRM_NOTIFY_H

#include "shared/base.h"

/* The one listening SOCK_SEQPACKET socket passed by LISTEN_FDS; -ENOENT when none was passed, -EINVAL when what was
 * passed is something else.  Clears the variables. */
int notify_listen_fd(int *out);
/* Sends e.g. "READY=1"; without NOTIFY_SOCKET nothing happens. */
void notify_send(const char *state);
/* As "RELOADING=1" with the time stamp that Type=notify-reload wants. */
void notify_reloading(void);
/* Half of WATCHDOG_USEC in seconds, 0.0 when no watchdog waits for this process. */
double notify_watchdog_interval(void);

#endif
