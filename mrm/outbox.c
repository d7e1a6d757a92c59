/* outbox.c - see outbox.h.
 * Keeps: replies leave in the order they came; the ledger's sums are those of its outboxes; unread_fds never is less than
 * what the kernel counts for this socket. */
#include "mrm/outbox.h"

#include "shared/check.h"
#include "shared/metrics.h"
#include "shared/seqpacket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

struct queued {
	struct list node;
	uint32_t n_fds;
	size_t len;
	int fds[MSG_MAX_FDS];
	uint8_t bytes[];
};

void outbox_ledger_init(struct outbox_ledger *l, uint64_t descriptors)
{
	*l = (struct outbox_ledger){
		.max_unread = MAX(descriptors / 2, (uint64_t)MSG_MAX_FDS),
		.max_queued = MAX(descriptors / 4, (uint64_t)MSG_MAX_FDS),
	};
}

void outbox_init(struct outbox *o, struct outbox_ledger *l, int socket)
{
	*o = (struct outbox){.ledger = l, .socket = socket};
	list_init(&o->queue);
}

static void queued_free(struct outbox *o, struct queued *q)
{
	list_del(&q->node);
	o->n_queued--;
	o->queued_fds -= q->n_fds;
	o->ledger->queued -= q->n_fds;
	msg_close_fds(q->fds, q->n_fds);
	free(q);
}

void outbox_fini(struct outbox *o)
{
	while (!list_empty(&o->queue))
		queued_free(o, list_first(&o->queue, struct queued, node));
	o->held = false;
}

bool outbox_is_read(struct outbox *o)
{
	int unread;
	if (o->unread_fds == 0)
		return true;
	if (ioctl(o->socket, SIOCOUTQ, &unread) == 0 && unread > 0)
		return false;
	o->ledger->unread -= o->unread_fds;
	o->unread_fds = 0;
	return true;
}

static bool may_go(const struct outbox *o, uint32_t n_fds)
{
	return o->unread_fds + n_fds <= OUTBOX_MAX_UNREAD &&
		(o->unread_fds == 0 || o->ledger->unread + n_fds <= o->ledger->max_unread);
}

/* -EBUSY: not before the peer has read, or, when it has read everything, others of this user. */
static int send_one(struct outbox *o, const void *bytes, size_t len, const int *fds, uint32_t n_fds)
{
	if (n_fds && !may_go(o, n_fds) && !outbox_is_read(o))
		return -EBUSY;
	int e = seqpacket_send(o->socket, bytes, len, fds, n_fds, MSG_DONTWAIT);
	if (e == -ETOOMANYREFS)
		return -EBUSY;
	if (e == 0) {
		o->unread_fds += n_fds;
		o->ledger->unread += n_fds;
	}
	return e == -ENOBUFS ? -EAGAIN : e;
}

static int enqueue(struct outbox *o, const void *bytes, size_t len, const int *fds, uint32_t n_fds)
{
	if (o->n_queued >= OUTBOX_MAX_REPLIES)
		return -ENOBUFS;
	if (o->ledger->queued + n_fds > o->ledger->max_queued)
		return -EMFILE;
	struct queued *q = malloc(sizeof *q + len);
	ASSERT(q);
	memcpy(q->bytes, bytes, len);
	q->len = len;
	for (q->n_fds = 0; q->n_fds < n_fds; q->n_fds++) {
		q->fds[q->n_fds] = fcntl(fds[q->n_fds], F_DUPFD_CLOEXEC, 3);
		if (q->fds[q->n_fds] < 0) {
			msg_close_fds(q->fds, q->n_fds);
			free(q);
			return -EMFILE;
		}
	}
	list_init(&q->node);
	list_add_tail(&q->node, &o->queue);
	o->n_queued++;
	o->queued_fds += n_fds;
	o->ledger->queued += n_fds;
	return 0;
}

int outbox_flush(struct outbox *o)
{
	o->held = false;
	while (!list_empty(&o->queue)) {
		struct queued *q = list_first(&o->queue, struct queued, node);
		int e = send_one(o, q->bytes, q->len, q->fds, q->n_fds);
		o->held = e == -EBUSY;
		if (e)
			return e == -EAGAIN || e == -EBUSY ? 0 : e;
		queued_free(o, q);
	}
	return 0;
}

int outbox_send(struct outbox *o, const void *bytes, size_t len, const int *fds, uint32_t n_fds)
{
	int e = outbox_flush(o); /* the peer may have read meanwhile */
	if (e)
		return e;
	bool waits = !list_empty(&o->queue);
	e = waits ? -EAGAIN : send_one(o, bytes, len, fds, n_fds);
	if (e != -EAGAIN && e != -EBUSY)
		return e;
	o->held |= e == -EBUSY;
	if (o->held)
		metrics_add(M_replies_held, 1);
	return enqueue(o, bytes, len, fds, n_fds);
}
