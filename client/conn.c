/* conn.c - requests and answers; see conn.h.  Connecting and ending are in connect.c.
 * Keeps, under the lock: a call is in `calls` exactly while it waits for its answer; at most one thread reads; `fd` does
 * not change while `users` is above 0; once `dead`, nothing is sent and `why` says the reason. */
#include "client/conn_impl.h"

#include "client/fail.h"
#include "shared/seqpacket.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ABANDONED_MAX 1024  /* unanswered requests that were given up, before the connection is */
#define ROOM_WAIT_MS 1000   /* how long CLOSE may wait for a daemon that does not read */

struct call {
	struct list node; /* in conn.calls */
	uint64_t request;
	struct msg *reply;
	bool answered;
	pthread_cond_t changed; /* answered, or the connection died, or it is this thread's turn to lead */
};

struct abandoned { /* its answer may still come */
	struct list node;
	uint64_t request;
};

struct parcel { /* a message without an answer that found no room */
	struct list node;
	size_t len;
	uint8_t bytes[MSG_HEADER_BYTES + 8];
};

struct datagram {
	ssize_t len; /* or -errno */
	uint32_t n_fds;
	int fds[MSG_MAX_FDS];
	uint8_t bytes[MSG_MAX_BYTES];
};

uint64_t conn_now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t conn_deadline(uint64_t timeout_ns)
{
	uint64_t at;
	if (timeout_ns == TRIMS_FOREVER || add_overflows(conn_now(), timeout_ns, &at))
		return CONN_NEVER;
	return at;
}

/* False when the deadline passed first. */
static bool poll_until(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	for (;;) {
		uint64_t now = deadline == CONN_NEVER ? 0 : conn_now();
		uint64_t left = deadline == CONN_NEVER || now >= deadline ? 0 : deadline - now;
		struct timespec ts = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
		int r = ppoll(&p, 1, deadline == CONN_NEVER ? NULL : &ts, NULL);
		if (r > 0)
			return true;
		if (r == 0)
			return false;
		if (errno != EINTR)
			return true; /* let the call itself fail */
	}
}

/* ---- the end ---- */

static void free_nodes(struct list *head)
{
	list_for_each_safe(it, head) {
		list_del(it);
		free(it); /* the node is the first member of all of them */
	}
}
_Static_assert(offsetof(struct abandoned, node) == 0 && offsetof(struct parcel, node) == 0, "see free_nodes");

void conn_kill(struct trims_conn *c, enum trims_code code, const char *text)
{
	if (c->dead)
		return;
	c->dead = true;
	fault_set(&c->why, code, "%s", text);
	shutdown(c->fd, SHUT_RDWR); /* wakes whoever reads */
	free_nodes(&c->abandoned);
	free_nodes(&c->unsent);
	c->n_abandoned = 0;
	list_for_each(it, &c->calls)
		pthread_cond_signal(&list_entry(it, struct call, node)->changed);
}

int conn_broken(trims_conn *c, uint32_t epoch, const char *what)
{
	pthread_mutex_lock(&c->lock);
	if (c->epoch == epoch)
		conn_kill(c, TRIMS_E_PROTOCOL, what);
	pthread_mutex_unlock(&c->lock);
	return fail(TRIMS_E_PROTOCOL, "%s", what);
}

/* ---- sending ---- */

static void send_failed(struct trims_conn *c, int err)
{
	char buf[128], text[192];
	snprintf(text, sizeof text, "the connection to the daemon is gone: %s", strerror_r(-err, buf, sizeof buf));
	conn_kill(c, TRIMS_E_DISCONNECTED, text);
}

/* Sends the parcels in order; false when some are left. */
static bool flush_unsent(struct trims_conn *c)
{
	list_for_each_safe(it, &c->unsent) {
		struct parcel *p = list_entry(it, struct parcel, node);
		int r = seqpacket_send(c->fd, p->bytes, p->len, NULL, 0, MSG_DONTWAIT);
		if (r == -EAGAIN)
			return false;
		if (r < 0) {
			send_failed(c, r); /* frees the parcels */
			return true;
		}
		list_del(&p->node);
		free(p);
	}
	return true;
}

/* Sends a message that is not answered, now or as soon as there is room.  A daemon that does not read for a moment is
 * waited for, with the lock: nobody else could send either. */
static void post(struct trims_conn *c, enum msg_type type, uint64_t value)
{
	struct msg m;
	struct parcel p;
	int no_fds[1], r = -EAGAIN;
	uint32_t n_fds;

	msg_init(&m, type, ++c->last_request);
	if (type == MSG_CLOSE)
		m.u.close.lease = value;
	else
		m.u.cancel.target = value;
	p.len = (size_t)msg_encode(&m, p.bytes, sizeof p.bytes, no_fds, &n_fds);
	for (int tries = 0; tries < 2 && !c->dead && r == -EAGAIN; tries++) {
		if (flush_unsent(c) && !c->dead)
			r = seqpacket_send(c->fd, p.bytes, p.len, NULL, 0, MSG_DONTWAIT);
		if (r == -EAGAIN && tries == 0)
			poll_until(c->fd, POLLOUT, conn_deadline(ROOM_WAIT_MS * NS_PER_MS));
	}
	if (c->dead || r == 0)
		return;
	struct parcel *kept = r == -EAGAIN ? malloc(sizeof *kept) : NULL;
	if (!kept) {
		send_failed(c, r == -EAGAIN ? -ENOMEM : r); /* the daemon takes everything back when it sees the end */
		return;
	}
	*kept = p;
	list_add_tail(&kept->node, &c->unsent);
}

/* Sends a request, waiting for room until the deadline without the lock.  0 or -ETIME; a death shows in c->dead. */
static int send_request(struct trims_conn *c, const struct msg *m, uint64_t deadline)
{
	uint8_t bytes[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n_fds;
	ssize_t len = msg_encode(m, bytes, sizeof bytes, fds, &n_fds);

	if (len < 0)
		return (int)len;
	while (!c->dead) {
		int r = -EAGAIN;
		if (flush_unsent(c) && !c->dead)
			r = seqpacket_send(c->fd, bytes, (size_t)len, fds, n_fds, MSG_DONTWAIT);
		if (r == 0 || c->dead)
			return 0;
		if (r != -EAGAIN) {
			send_failed(c, r);
			return 0;
		}
		int fd = c->fd;
		pthread_mutex_unlock(&c->lock);
		bool room = poll_until(fd, POLLOUT, deadline);
		pthread_mutex_lock(&c->lock);
		if (!room)
			return -ETIME;
	}
	return 0;
}

/* ---- receiving ---- */

static struct call *find_call(struct trims_conn *c, uint64_t request)
{
	list_for_each(it, &c->calls) {
		struct call *call = list_entry(it, struct call, node);
		if (call->request == request)
			return call;
	}
	return NULL;
}

static bool forget_abandoned(struct trims_conn *c, uint64_t request)
{
	list_for_each_safe(it, &c->abandoned) {
		struct abandoned *a = list_entry(it, struct abandoned, node);
		if (a->request != request)
			continue;
		list_del(&a->node);
		free(a);
		c->n_abandoned--;
		return true;
	}
	return false;
}

/* A message that nobody waits for: the daemon's farewell, or the late answer to a request that was given up. */
static void deliver_stray(struct trims_conn *c, struct msg *m)
{
	if (m->type == MSG_FAULT && m->request == 0) {
		uint32_t code = m->u.fault.code ? m->u.fault.code : TRIMS_E_DISCONNECTED;
		conn_kill(c, (enum trims_code)code, m->u.fault.text);
	} else if (!forget_abandoned(c, m->request)) {
		conn_kill(c, TRIMS_E_PROTOCOL, "the daemon answered a request that was not made");
	} else if (m->type == MSG_OPENED) {
		post(c, MSG_CLOSE, m->u.opened.lease);
	}
	msg_fini(m);
}

static void deliver_failure(struct trims_conn *c, int err)
{
	if (err == -EAGAIN)
		return;
	if (err == -EPROTO)
		conn_kill(c, TRIMS_E_PROTOCOL, "a message came cut short: it is not one of this protocol, or this "
			"process has no file descriptors left");
	else if (err == 0)
		conn_kill(c, TRIMS_E_DISCONNECTED, "the daemon ended the connection");
	else
		send_failed(c, err);
}

/* Hands a datagram to the call it answers. */
static void deliver(struct trims_conn *c, const struct datagram *d)
{
	struct msg stray;
	enum msg_direction direction;
	uint64_t request = 0;

	if (d->len <= 0) {
		deliver_failure(c, (int)d->len);
		return;
	}
	if (d->len >= MSG_HEADER_BYTES)
		memcpy(&request, d->bytes + 8, sizeof request);
	struct call *call = find_call(c, le64toh(request));
	struct msg *m = call ? call->reply : &stray;
	if (msg_decode(d->bytes, (size_t)d->len, d->fds, d->n_fds, m) < 0) {
		conn_kill(c, TRIMS_E_PROTOCOL, "the daemon sent something that is no message");
	} else if (msg_direction(m->type, &direction) < 0 || direction != MSG_D2C) {
		msg_fini(m);
		conn_kill(c, TRIMS_E_PROTOCOL, "the daemon sent a message that only clients send");
	} else if (call) {
		list_del(&call->node);
		call->answered = true;
		pthread_cond_signal(&call->changed);
	} else {
		deliver_stray(c, m);
	}
}

static void receive(int fd, struct datagram *d, uint64_t deadline)
{
	int flags = deadline == CONN_NEVER ? 0 : MSG_DONTWAIT;
	d->len = -EAGAIN;
	if (deadline == CONN_NEVER || poll_until(fd, POLLIN, deadline))
		d->len = seqpacket_recv(fd, d->bytes, sizeof d->bytes, d->fds, MSG_MAX_FDS, &d->n_fds, flags);
}

/* Reads one datagram for everybody; called and returns with the lock, which it lets go in between. */
static void lead(struct trims_conn *c, uint64_t deadline)
{
	struct datagram d;
	int fd = c->fd;

	c->reading = true;
	pthread_mutex_unlock(&c->lock);
	receive(fd, &d, deadline);
	pthread_mutex_lock(&c->lock);
	c->reading = false;
	deliver(c, &d);
}

static void hand_over_lead(struct trims_conn *c)
{
	if (!c->reading && !list_empty(&c->calls))
		pthread_cond_signal(&list_first(&c->calls, struct call, node)->changed);
}

static void follow(struct trims_conn *c, struct call *call, uint64_t deadline)
{
	if (deadline == CONN_NEVER) {
		pthread_cond_wait(&call->changed, &c->lock);
		return;
	}
	struct timespec ts = {.tv_sec = (time_t)(deadline / NS_PER_S), .tv_nsec = (long)(deadline % NS_PER_S)};
	pthread_cond_clockwait(&call->changed, &c->lock, CLOCK_MONOTONIC, &ts);
}

/* Takes back what the daemon has said to nobody in particular. */
static void pump(struct trims_conn *c)
{
	struct datagram d;
	do {
		d.len = seqpacket_recv(c->fd, d.bytes, sizeof d.bytes, d.fds, MSG_MAX_FDS, &d.n_fds, MSG_DONTWAIT);
		deliver(c, &d);
	} while (d.len > 0 && !c->dead);
}

/* ---- calls ---- */

static void give_up(struct trims_conn *c, struct call *call)
{
	list_del(&call->node);
	struct abandoned *a = c->n_abandoned < ABANDONED_MAX ? malloc(sizeof *a) : NULL;
	if (!a) {
		conn_kill(c, TRIMS_E_DISCONNECTED, "the daemon leaves too many requests unanswered");
		return;
	}
	a->request = call->request;
	list_add_tail(&a->node, &c->abandoned);
	c->n_abandoned++;
	post(c, MSG_CANCEL, call->request);
}

/* Returns 0 with the answer in call->reply, or a failure. */
static int await(struct trims_conn *c, struct call *call, uint64_t deadline)
{
	while (!call->answered && !c->dead) {
		if (deadline != CONN_NEVER && conn_now() >= deadline) {
			give_up(c, call);
			return fail(TRIMS_E_TIMED_OUT, "the daemon did not answer in time");
		}
		if (c->reading)
			follow(c, call, deadline);
		else
			lead(c, deadline);
	}
	if (call->answered)
		return 0;
	list_del(&call->node);
	return fail_fault(&c->why);
}

static int exchange(struct trims_conn *c, struct msg *request, uint64_t deadline, struct msg *reply)
{
	struct call call = {.reply = reply, .changed = PTHREAD_COND_INITIALIZER};
	if (c->dead)
		return fail_fault(&c->why);
	if (!request->request)
		request->request = ++c->last_request;
	call.request = request->request;
	list_add_tail(&call.node, &c->calls);
	int r = send_request(c, request, deadline);
	if (r < 0)
		list_del(&call.node); /* it was not sent, so nothing is to be taken back */
	if (r == -ETIME)
		r = fail(TRIMS_E_TIMED_OUT, "the daemon did not take the request in time");
	else if (r < 0)
		r = fail(TRIMS_E_BAD_REQUEST, "the request has a text that is not UTF-8");
	else
		r = await(c, &call, deadline);
	hand_over_lead(c);
	pthread_cond_destroy(&call.changed);
	return r;
}

static int check_reply(struct trims_conn *c, uint32_t epoch, const struct msg *request, struct msg *reply,
	enum msg_type expected)
{
	if (reply->type == expected || (expected == MSG_ATTACHED && reply->type == MSG_CANARY))
		return 0;
	if (reply->type == MSG_FAULT && reply->u.fault.code)
		return fail((enum trims_code)reply->u.fault.code, "%s", reply->u.fault.text);
	char text[128];
	snprintf(text, sizeof text, "the daemon answered %s with %s", msg_type_name(request->type),
		msg_type_name(reply->type));
	msg_fini(reply);
	return conn_broken(c, epoch, text);
}

static int lease_is_past(void)
{
	return fail(TRIMS_E_DISCONNECTED, "the lease went with an earlier connection");
}

int conn_call(trims_conn *c, struct msg *request, enum msg_type expected, uint64_t deadline, struct msg *reply,
	struct conn_life *life)
{
	if (conn_foreign(c))
		return fail(TRIMS_E_DISCONNECTED, "the connection belongs to the process that this one was forked from");
	pthread_mutex_lock(&c->lock);
	struct conn_life now = {.epoch = c->epoch, .boot_hi = c->boot_hi, .boot_lo = c->boot_lo};
	bool past = life->epoch && life->epoch != now.epoch;
	c->users++;
	int r = past ? lease_is_past() : exchange(c, request, deadline, reply);
	if (--c->users == 0 && c->dead)
		pthread_cond_broadcast(&c->idle);
	pthread_mutex_unlock(&c->lock);
	if (r == 0)
		r = check_reply(c, now.epoch, request, reply, expected);
	if (r == 0)
		*life = now;
	return r;
}

uint64_t conn_request_deadline(const trims_conn *c)
{
	return conn_deadline(c->request_timeout_ns ? c->request_timeout_ns : TRIMS_FOREVER);
}

void conn_close_lease(trims_conn *c, uint32_t epoch, uint64_t lease)
{
	pthread_mutex_lock(&c->lock);
	if (!c->dead && c->epoch == epoch)
		post(c, MSG_CLOSE, lease);
	pthread_mutex_unlock(&c->lock);
}

/* With the lock: notices what the daemon has said or that it is gone, unless somebody is reading anyway. */
static void look(struct trims_conn *c)
{
	if (c->dead || c->reading)
		return;
	flush_unsent(c);
	if (!c->dead)
		pump(c);
}

int conn_alive(trims_conn *c, uint32_t epoch)
{
	int r = 0;
	if (conn_foreign(c))
		return fail(TRIMS_E_DISCONNECTED, "the connection belongs to the process that this one was forked from");
	pthread_mutex_lock(&c->lock);
	look(c);
	if (c->dead)
		r = fail_fault(&c->why);
	else if (c->epoch != epoch)
		r = lease_is_past();
	pthread_mutex_unlock(&c->lock);
	return r;
}

bool conn_is_alive(trims_conn *c, uint32_t epoch)
{
	if (conn_foreign(c))
		return false;
	pthread_mutex_lock(&c->lock);
	look(c);
	bool alive = !c->dead && c->epoch == epoch;
	pthread_mutex_unlock(&c->lock);
	return alive;
}

void conn_life(trims_conn *c, struct conn_life *out)
{
	pthread_mutex_lock(&c->lock);
	*out = (struct conn_life){.epoch = c->epoch, .boot_hi = c->boot_hi, .boot_lo = c->boot_lo};
	pthread_mutex_unlock(&c->lock);
}

int conn_dup_socket(trims_conn *c, uint32_t epoch, int *out)
{
	int r = 0;
	pthread_mutex_lock(&c->lock);
	if (c->dead)
		r = fail_fault(&c->why);
	else if (c->epoch != epoch)
		r = lease_is_past();
	else if ((*out = fcntl(c->fd, F_DUPFD_CLOEXEC, 3)) < 0)
		r = fail_errno(TRIMS_E_NO_SYSTEM, errno, "no descriptor for the GPU session's thread");
	pthread_mutex_unlock(&c->lock);
	return r;
}

struct gpu_session **conn_gpu(trims_conn *c, pthread_mutex_t **lock)
{
	*lock = &c->gpu_lock;
	return &c->gpu;
}

struct list *conn_models_lock(trims_conn *c)
{
	pthread_mutex_lock(&c->models_lock);
	return &c->models;
}

void conn_models_unlock(trims_conn *c)
{
	pthread_mutex_unlock(&c->models_lock);
}
