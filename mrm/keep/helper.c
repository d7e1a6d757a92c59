/* helper.c - see helper.h.  Keeps: every slot below n holds one descriptor and its name; one daemon at a time is served. */
#include "mrm/keep/helper.h"

#include "mrm/clock.h"
#include "shared/seqpacket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define SEND_PATIENCE_S 10 /* for a daemon that does not read what it asked for */

struct helper {
	int listener, daemon; /* daemon -1: none is connected */
	uint64_t hold_ns, until; /* until: when to give up waiting for one */
	struct kept_list kept;
};

int kept_list_add(struct kept_list *l, const char *name, int fd)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct kept *more = realloc(l->v, cap * sizeof *more);
		if (!more)
			return -ENOMEM;
		l->v = more;
		l->cap = cap;
	}
	struct kept *k = &l->v[l->n++];
	snprintf(k->name, sizeof k->name, "%s", name);
	k->fd = fd;
	return 0;
}

static struct kept *find(struct helper *h, const char *name)
{
	for (size_t i = 0; i < h->kept.n; i++)
		if (!strcmp(h->kept.v[i].name, name))
			return &h->kept.v[i];
	return NULL;
}

static int put(struct helper *h, const char *name, int fd)
{
	struct kept *slot = find(h, name);
	if (slot) {
		close(slot->fd);
		slot->fd = fd;
		return 0;
	}
	return h->kept.n == KEEP_MAX ? -ENOSPC : kept_list_add(&h->kept, name, fd);
}

static void drop(struct helper *h, const char *name)
{
	struct kept *slot = find(h, name);
	if (!slot)
		return;
	close(slot->fd);
	*slot = h->kept.v[--h->kept.n];
}

static void hang_up(struct helper *h)
{
	close(h->daemon);
	h->daemon = -1;
	h->until = clock_now() + h->hold_ns;
}

static bool say(struct helper *h, enum helper_op op, int result, const struct kept *item)
{
	struct helper_msg m = {.op = op, .result = result};
	if (item)
		memcpy(m.name, item->name, sizeof m.name);
	return seqpacket_send(h->daemon, &m, sizeof m, item ? &item->fd : NULL, item ? 1 : 0, 0) == 0;
}

static bool list(struct helper *h)
{
	bool there = true;
	for (size_t i = 0; i < h->kept.n && there; i++)
		there = say(h, HELPER_ITEM, 0, &h->kept.v[i]);
	return there && say(h, HELPER_DONE, 0, NULL);
}

/* False when the daemon is to be hung up on. */
static bool obey(struct helper *h, const struct helper_msg *m, int *fd)
{
	int result = -EINVAL;
	switch (m->op) {
	case HELPER_PUT:
		if (*fd >= 0)
			result = put(h, m->name, *fd);
		if (!result)
			*fd = -1;
		return say(h, HELPER_DONE, result, NULL);
	case HELPER_DROP:
		drop(h, m->name);
		return say(h, HELPER_DONE, 0, NULL);
	case HELPER_LIST:
		h->hold_ns = m->hold_ns;
		return list(h);
	default:
		return false;
	}
}

/* One message of the daemon; false when the helper is to end. */
static bool serve(struct helper *h)
{
	struct helper_msg m;
	int fd = -1;
	uint32_t n = 0;
	ssize_t got = seqpacket_recv(h->daemon, &m, sizeof m, &fd, 1, &n, 0);
	bool whole = got == (ssize_t)sizeof m && memchr(m.name, 0, sizeof m.name);
	bool end = whole && m.op == HELPER_END;
	if (!end && !(whole && obey(h, &m, &fd)))
		hang_up(h);
	if (n && fd >= 0)
		close(fd);
	return !end;
}

static void answer(struct helper *h)
{
	struct seqpacket_peer peer;
	int fd;
	if (seqpacket_accept(h->listener, &fd) < 0)
		return;
	const struct timeval patience = {.tv_sec = SEND_PATIENCE_S};
	if (seqpacket_peer(fd, &peer) < 0 || peer.uid != geteuid() || fcntl(fd, F_SETFL, 0) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0) {
		close(fd);
		return;
	}
	if (h->daemon >= 0)
		close(h->daemon); /* whoever locks the cache directory is the daemon; the other one is about to notice */
	h->daemon = fd;
}

static int wait_ms(const struct helper *h)
{
	uint64_t now = clock_now();
	if (h->daemon >= 0)
		return -1;
	if (h->until <= now)
		return 0;
	return (int)MIN((h->until - now) / NS_PER_MS + 1, (uint64_t)3600 * 1000);
}

void helper_run(int listener, uint64_t hold_ns)
{
	struct helper h = {.listener = listener, .daemon = -1, .hold_ns = hold_ns, .until = clock_now() + hold_ns};
	for (;;) {
		struct pollfd p[2] = {{.fd = listener, .events = POLLIN}, {.fd = h.daemon, .events = POLLIN}};
		int ready = poll(p, 2, wait_ms(&h));
		if (ready < 0 && errno != EINTR)
			break;
		if (ready == 0 && h.daemon < 0 && clock_now() >= h.until)
			break;
		if (ready > 0 && p[1].revents && !serve(&h))
			break;
		if (ready > 0 && p[0].revents)
			answer(&h);
	}
	/* The socket file stays: it may be another helper's by now, and whoever holds the directory's lock replaces it. */
	_exit(0);
}
