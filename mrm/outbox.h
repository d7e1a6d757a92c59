/* outbox.h - what a connection is sent: the replies that wait in the daemon, and the descriptors that wait in the kernel.
 *
 * The kernel bounds how many descriptors a user's processes may have sent that nobody received yet (by the sender's
 * limit on open files, unless it is privileged).  So those are a common good: a peer that does not read must not use
 * them up.  Each outbox has at most OUTBOX_MAX_UNREAD in flight, and when all together have half of what the kernel
 * allows, only a peer that has read everything is sent more.  What may not go waits in the queue, which is bounded too.
 * What is in flight stays so when the daemon hangs up: it is gone when the peer has read it, or has hung up itself.
 * Thread: loop.  Owns the queue with duplicates of its descriptors; the socket stays the caller's. */
#ifndef MRM_OUTBOX_H
#define MRM_OUTBOX_H

#include "shared/list.h"
#include "shared/msg.h"

#define OUTBOX_MAX_REPLIES 64               /* that wait in the queue */
#define OUTBOX_MAX_UNREAD (2 * MSG_MAX_FDS) /* descriptors in flight */

/* Shared by all outboxes. */
struct outbox_ledger {
	uint64_t max_unread, unread; /* in flight; the latter at most */
	uint64_t max_queued, queued; /* duplicates in queues */
};

struct outbox {
	struct outbox_ledger *ledger;
	int socket;
	struct list queue;
	uint32_t n_queued;
	uint32_t queued_fds;
	uint32_t unread_fds; /* in flight, at most: sent since everything was last seen to be read */
	bool held;           /* the next one may not go before the peer has read; nobody tells when it has */
};

/* Shares out `descriptors`, the process's limit on open files. */
void outbox_ledger_init(struct outbox_ledger *l, uint64_t descriptors);
void outbox_init(struct outbox *o, struct outbox_ledger *l, int socket);
/* Drops what waits.  What is in flight stays on the ledger until outbox_is_read(). */
void outbox_fini(struct outbox *o);

/* 0: sent, or in the queue.  -ENOBUFS: the queue is full; -EMFILE: no descriptors are left for queues; else the peer is
 * gone. */
int outbox_send(struct outbox *o, const void *bytes, size_t len, const int *fds, uint32_t n_fds);
/* Sends what may go.  0, or why the peer is gone.  Afterwards either nothing waits, or it is held, or the socket is full. */
int outbox_flush(struct outbox *o);
/* The peer has read all that was sent, or is gone. */
bool outbox_is_read(struct outbox *o);

#endif
