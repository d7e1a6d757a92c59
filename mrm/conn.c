/* conn.c - see conn.h.
 * Keeps: after `ending` is set nothing is read, sent or dispatched any more; the object stays until conn_reap(), and before
 * that its socket until the peer has read what is in flight. */
#include "mrm/conn.h"

#include "mrm/clock.h"
#include "mrm/dispatch.h"
#include "mrm/engine.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/session.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/seqpacket.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONN_MAGIC 0x434f4e4eu
#define MESSAGES_PER_TURN 16  /* then the others get theirs */
#define MAX_GROUPS 256

struct conn {
	uint32_t magic;
	struct server *server;
	struct account *account;
	uint64_t id;
	struct seqpacket_peer peer;
	struct list dead_node; /* in the server's dead or lingering ones */
	ev_io io;
	bool greeted, ending, admin;
	char program[65];
	uint32_t leases;
	struct outbox out;
	struct list held_node; /* in the server's list of those whose outbox is held */
	uint32_t n_pending, n_opening; /* the latter are OPENs */
	struct conn_pending *pending;
	uint32_t cap_pending;
	uint64_t next_ticket;
	struct session *session; /* NULL: not attached to a GPU */
};

uint64_t conn_id(const struct conn *c)
{
	return c->id;
}

struct daemon *conn_daemon(const struct conn *c)
{
	return c->server->daemon;
}

bool conn_is_admin(const struct conn *c)
{
	return c->admin;
}

uid_t conn_uid(const struct conn *c)
{
	return c->peer.uid;
}

int conn_pid(const struct conn *c)
{
	return (int)c->peer.pid;
}

const char *conn_program(const struct conn *c)
{
	return c->program;
}

struct session **conn_session(struct conn *c)
{
	return &c->session;
}

static enum metric message_metric(uint16_t type)
{
	switch (type) {
#define MSG(NAME, name, type_, direction, doc)                                                                        \
	case MSG_##NAME:                                                                                              \
		return M_messages_##name;
#include "shared/messages.def"
	default:
		return M_protocol_errors;
	}
}

/* Each message is a line of the log at level debug, and costs a comparison at the others. */
static void trace_message(const struct conn *c, const char *way, const struct msg *m)
{
	char line[400];
	if (!log_wants(LOG_DEBUG))
		return;
	msg_print(m, line, sizeof line);
	log_debug("msg", "%s #%" PRIu64 " %s: %s", way, c->id, c->program, line);
}

static void watch(struct conn *c, int events)
{
	struct ev_loop *loop = c->server->daemon->loop;
	if (ev_is_active(&c->io) && (c->io.events & (EV_READ | EV_WRITE)) == events)
		return;
	ev_io_stop(loop, &c->io);
	ev_io_set(&c->io, c->io.fd, events);
	ev_io_start(loop, &c->io);
}

/* What the state of the outbox asks for: to be told when the socket takes more, or to be looked at in a while. */
static void watch_output(struct conn *c)
{
	struct server *s = c->server;
	bool waits = !list_empty(&c->out.queue);
	watch(c, waits && !c->out.held ? EV_READ | EV_WRITE : EV_READ);
	if (!c->out.held)
		list_del(&c->held_node);
	else if (!list_hooked(&c->held_node))
		list_add_tail(&c->held_node, &s->held);
	if (c->out.held)
		server_look(s);
}

/* The end of the connection's last trace here: nothing of it is in flight any more, or the daemon stops. */
static void bury(struct conn *c)
{
	close(c->io.fd);
	c->account->conns--;
	server_account_put(c->server, c->account);
	list_del(&c->dead_node);
	list_add_tail(&c->dead_node, &c->server->dead);
}

/* The peer hears that it is over, but what it has not read still counts against this user: for the kernel, so here too. */
static void linger(struct conn *c)
{
	shutdown(c->io.fd, SHUT_RDWR);
	c->server->n_lingering++;
	list_add_tail(&c->dead_node, &c->server->lingering);
	server_look(c->server);
}

/* Ends the connection: leases go back at once, the object follows when no callback of it can be on the stack. */
static void conn_end_now(struct conn *c)
{
	if (c->ending)
		return;
	struct server *s = c->server;
	struct daemon *d = s->daemon;
	c->ending = true;
	session_free(&c->session);
	integrity_conn_gone(d->integrity, c->id);
	ev_io_stop(d->loop, &c->io);
	list_del(&c->held_node);
	outbox_fini(&c->out);
	idmap_take(&s->conns, c->id);
	s->n_conns--;
	c->account->leases -= c->leases;
	c->account->opening -= c->n_opening;
	s->n_leases -= c->leases;
	if (d->stopping || outbox_is_read(&c->out))
		bury(c);
	else
		linger(c);
	log_debug("conn", "#%" PRIu64 " %s (pid %d) is gone with %u leases", c->id, c->program, (int)c->peer.pid,
		c->leases);
	ASSERT(c->leases <= cache_owner_leases(d->cache, c->id)); /* grants may be on their way here */
	cache_owner_gone(d->cache, clock_now(), c->id);
	engine_pump(d);
}

void conn_reap(struct list *dead)
{
	while (!list_empty(dead)) {
		struct conn *c = list_first(dead, struct conn, dead_node);
		list_del(&c->dead_node);
		free(c->pending);
		c->magic = 0;
		free(c);
	}
}

void conn_free(struct conn **c)
{
	if (*c)
		conn_end_now(*c);
	*c = NULL;
}

/* Whoever may connect can have itself dropped thousands of times a second. */
static struct log_limit drops = {.period_ns = 10 * NS_PER_S, .most = 20};

static void drop(struct conn *c, enum metric counter, const char *why)
{
	if (c->ending)
		return;
	metrics_add(counter, 1);
	log_limited(&drops, clock_now(), LOG_INFO, "conn", "#%" PRIu64 " %s (uid %u, pid %d) dropped: %s", c->id, c->program,
		(unsigned)c->peer.uid, (int)c->peer.pid, why);
	conn_end_now(c);
}

/* The daemon's last word on a socket.  It goes ahead of what is queued, which will never be sent. */
static void last_word(int fd, enum trims_code code, const char *text)
{
	struct msg m;
	uint8_t buf[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n_fds;
	msg_init(&m, MSG_FAULT, 0);
	m.u.fault.code = code;
	if (MSG_SET_STR(m.u.fault.text, text) < 0)
		MSG_SET_STR(m.u.fault.text, error_text(code));
	ssize_t len = msg_encode(&m, buf, sizeof buf, fds, &n_fds);
	ASSERT(len > 0);
	metrics_add(metrics_fault(code), 1);
	metrics_add(M_messages_fault, 1);
	seqpacket_send(fd, buf, (size_t)len, fds, 0, MSG_DONTWAIT);
}

static void drop_deaf(struct conn *c)
{
	char text[160];
	snprintf(text, sizeof text, "it does not read its answers: %" PRIu32 " wait, %" PRIu32 " descriptors with them, and %"
		PRIu32 " more are unread", c->out.n_queued, c->out.queued_fds, c->out.unread_fds);
	last_word(c->io.fd, TRIMS_E_LIMIT, text);
	drop(c, M_dropped_slow_reader, text);
}

/* Descriptors have run out.  Whoever has most of them in its queue has to go, which may be this one. */
static bool make_room(struct conn *c)
{
	struct conn *worst = c, *other;
	for (size_t at = 0; (other = idmap_next(&c->server->conns, &at));)
		if (other->out.queued_fds > worst->out.queued_fds)
			worst = other;
	if (worst->out.queued_fds == 0)
		drop(c, M_dropped_system, "out of descriptors");
	else
		drop_deaf(worst);
	return worst != c;
}

void conn_reply(struct conn *c, const struct msg *m)
{
	CHECK_OBJ(c, CONN_MAGIC);
	if (c->ending)
		return;
	uint8_t buf[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n_fds;
	ssize_t len = msg_encode(m, buf, sizeof buf, fds, &n_fds);
	ASSERT(len > 0);
	metrics_add(message_metric(m->type), 1);
	trace_message(c, "to", m);
	int e = outbox_send(&c->out, buf, (size_t)len, fds, n_fds);
	if (e == -EMFILE && make_room(c))
		e = outbox_send(&c->out, buf, (size_t)len, fds, n_fds);
	if (c->ending)
		return;
	if (e == -ENOBUFS || e == -EMFILE)
		drop_deaf(c);
	else if (e < 0)
		conn_end_now(c);
	else
		watch_output(c);
}

void conn_reply_fault(struct conn *c, uint64_t request, enum trims_code code, const char *text)
{
	struct msg m;
	msg_init(&m, MSG_FAULT, request);
	m.u.fault.code = code;
	metrics_add(metrics_fault(code), 1);
	if (MSG_SET_STR(m.u.fault.text, text) < 0)
		MSG_SET_STR(m.u.fault.text, error_text(code));
	conn_reply(c, &m);
}

static void flush(struct conn *c)
{
	if (outbox_flush(&c->out) < 0)
		conn_end_now(c);
	else
		watch_output(c);
}

bool conn_look(struct server *s)
{
	struct list now;
	list_init(&now);
	while (!list_empty(&s->held)) {
		struct list *node = s->held.next;
		list_del(node);
		list_add_tail(node, &now);
	}
	while (!list_empty(&now)) {
		struct conn *c = list_first(&now, struct conn, held_node);
		list_del(&c->held_node);
		flush(c); /* is held again, perhaps */
	}
	list_for_each_safe(it, &s->lingering) {
		struct conn *c = list_entry(it, struct conn, dead_node);
		if (s->daemon->stopping || outbox_is_read(&c->out)) {
			s->n_lingering--;
			bury(c);
		}
	}
	return !list_empty(&s->held) || !list_empty(&s->lingering);
}

static uint32_t pending_index(const struct conn *c, uint64_t request)
{
	uint32_t i = 0;
	while (i < c->n_pending && c->pending[i].request != request)
		i++;
	return i;
}

static bool is_pending(const struct conn *c, uint64_t request)
{
	return request && pending_index(c, request) < c->n_pending;
}

static uint64_t begin(struct conn *c, const struct conn_pending *p)
{
	if (!p->request || is_pending(c, p->request)) {
		conn_violation(c, "a request id is 0 or in use already");
		return 0;
	}
	if (c->n_pending >= c->server->daemon->config->max_pending) {
		conn_reply_fault(c, p->request, TRIMS_E_LIMIT, "too many unanswered requests on this connection");
		return 0;
	}
	if (c->n_pending == c->cap_pending) {
		c->cap_pending = c->cap_pending ? c->cap_pending * 2 : 4;
		c->pending = realloc(c->pending, c->cap_pending * sizeof *c->pending);
		ASSERT(c->pending);
	}
	c->pending[c->n_pending] = *p;
	c->pending[c->n_pending++].ticket = ++c->next_ticket;
	c->n_opening += p->is_open;
	c->account->opening += p->is_open;
	return c->next_ticket;
}

uint64_t conn_begin(struct conn *c, uint64_t request)
{
	return begin(c, &(struct conn_pending){.request = request});
}

uint64_t conn_begin_open(struct conn *c, uint64_t request, enum tier_kind tier)
{
	return begin(c, &(struct conn_pending){
		.request = request, .since_ns = clock_now(), .is_open = true, .tier = tier});
}

uint64_t conn_begin_claim(struct conn *c, uint64_t request, enum tier_kind tier)
{
	return begin(c, &(struct conn_pending){
		.request = request, .since_ns = clock_now(), .is_open = true, .is_claim = true, .tier = tier});
}

static bool take(struct conn *c, uint32_t i, struct conn_pending *out)
{
	if (i == c->n_pending)
		return false;
	*out = c->pending[i];
	c->pending[i] = c->pending[--c->n_pending];
	c->n_opening -= out->is_open;
	c->account->opening -= out->is_open;
	return true;
}

bool conn_take(struct conn *c, uint64_t request, struct conn_pending *out)
{
	return take(c, pending_index(c, request), out);
}

static uint32_t ticket_index(const struct conn *c, uint64_t ticket)
{
	uint32_t i = 0;
	while (i < c->n_pending && c->pending[i].ticket != ticket)
		i++;
	return i;
}

bool conn_redeem(struct conn *c, uint64_t ticket)
{
	struct conn_pending p;
	return take(c, ticket_index(c, ticket), &p) && p.request;
}

bool conn_wants(const struct conn *c, uint64_t ticket)
{
	uint32_t i = ticket_index(c, ticket);
	return i < c->n_pending && c->pending[i].request;
}

void conn_cancel(struct conn *c, uint64_t request)
{
	uint32_t i = pending_index(c, request);
	if (!request || i == c->n_pending)
		return;
	c->pending[i].request = 0;
	conn_reply_fault(c, request, TRIMS_E_CANCELLED, "cancelled by the client");
}

bool conn_end(struct conn *c, uint64_t request)
{
	struct conn_pending ignored;
	return conn_take(c, request, &ignored);
}

bool conn_may_lease(struct conn *c, struct fault *why)
{
	const struct config *cfg = c->server->daemon->config;
	/* Pending opens count: each of them may become a lease. */
	if (c->leases + c->n_opening >= cfg->max_leases) {
		fault_set(why, TRIMS_E_LIMIT, "this connection has %u leases; max-leases-per-conn is %" PRIu64, c->leases,
			cfg->max_leases);
		return false;
	}
	if (!server_is_exempt(c->peer.uid) && c->account->leases + c->account->opening >= cfg->max_leases_uid) {
		fault_set(why, TRIMS_E_LIMIT, "user %u has %u leases; max-leases-per-uid is %" PRIu64,
			(unsigned)c->peer.uid, c->account->leases, cfg->max_leases_uid);
		return false;
	}
	return true;
}

void conn_leases_add(struct conn *c, int n)
{
	c->leases += (uint32_t)n;
	c->account->leases += (uint32_t)n;
	c->server->n_leases += (uint32_t)n;
}

void conn_violation(struct conn *c, const char *what)
{
	if (c->ending)
		return;
	metrics_add(M_protocol_errors, 1);
	last_word(c->io.fd, TRIMS_E_PROTOCOL, what);
	drop(c, M_dropped_protocol, what);
}

static void greet(struct conn *c, const struct msg *m)
{
	if (m->u.hello.version_min > MSG_VERSION || m->u.hello.version_max < MSG_VERSION) {
		char text[128];
		snprintf(text, sizeof text, "this daemon speaks protocol version %d, the client %u to %u", MSG_VERSION,
			m->u.hello.version_min, m->u.hello.version_max);
		conn_reply_fault(c, m->request, TRIMS_E_VERSION, text);
		drop(c, M_dropped_handshake, "no common version");
		return;
	}
	c->greeted = true;
	snprintf(c->program, sizeof c->program, "%s", m->u.hello.program);
	dispatch_hello(c, m->request, &m->u.hello);
}

/* One datagram.  False when there is nothing more to read now. */
static bool receive(struct conn *c)
{
	uint8_t buf[MSG_MAX_BYTES];
	int fds[SEQPACKET_MAX_FDS];
	uint32_t n_fds;
	ssize_t len = seqpacket_recv(c->io.fd, buf, sizeof buf, fds, SEQPACKET_MAX_FDS, &n_fds, MSG_DONTWAIT);
	if (len == -EAGAIN || len == -EINTR)
		return false;
	if (len == -EPROTO) {
		conn_violation(c, "a datagram longer than any message");
		return false;
	}
	if (len <= 0) {
		conn_end_now(c);
		return false;
	}
	struct msg m;
	enum msg_direction dir;
	if (msg_decode(buf, (size_t)len, fds, n_fds, &m) < 0) {
		conn_violation(c, "a malformed message");
		return false;
	}
	trace_message(c, "from", &m);
	if (msg_direction(m.type, &dir) < 0 || dir != MSG_C2D || (m.type == MSG_HELLO) == c->greeted)
		conn_violation(c, "a message that has no place here");
	else if (!c->greeted)
		greet(c, &m);
	else
		dispatch(c, &m);
	msg_fini(&m);
	metrics_add(message_metric(m.type), 1);
	return !c->ending;
}

static void on_io(struct ev_loop *loop, ev_io *w, int revents)
{
	struct conn *c = w->data;
	CHECK_OBJ(c, CONN_MAGIC);
	if (revents & EV_WRITE)
		flush(c);
	for (int i = 0; !c->ending && (revents & EV_READ) && i < MESSAGES_PER_TURN; i++)
		if (!receive(c))
			break;
}

static bool in_group(int fd, gid_t primary, gid_t wanted)
{
	gid_t groups[MAX_GROUPS];
	socklen_t len = sizeof groups;
	if (wanted == SERVER_NO_GROUP || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		len = 0;
	for (size_t i = 0; i < len / sizeof *groups; i++)
		if (groups[i] == wanted)
			return true;
	return wanted != SERVER_NO_GROUP && primary == wanted;
}

/* Says no on a socket that never becomes a connection. */
static int refuse(int fd, const char *text)
{
	last_word(fd, TRIMS_E_TOO_MANY_CONNS, text);
	metrics_add(M_dropped_limit, 1);
	close(fd);
	return -EUSERS;
}

int conn_new(struct server *s, int fd)
{
	const struct config *cfg = s->daemon->config;
	struct seqpacket_peer peer;
	if (seqpacket_peer(fd, &peer) < 0) {
		close(fd);
		return -ENOTCONN;
	}
	if (s->n_conns + s->n_lingering >= cfg->max_conns)
		return refuse(fd, "the daemon has max-conns connections");
	if (fd >= s->first_spare)
		return refuse(fd, "the daemon has no descriptor to spare for another connection");
	struct account *a = server_account(s, peer.uid);
	if (!server_is_exempt(peer.uid) && a->conns >= cfg->max_conns_uid) {
		server_account_put(s, a);
		return refuse(fd, "this user has max-conns-per-uid connections");
	}
	struct conn *c = calloc(1, sizeof *c);
	ASSERT(c);
	c->magic = CONN_MAGIC;
	c->server = s;
	c->account = a;
	c->id = s->next_conn++;
	c->peer = peer;
	c->admin = server_is_exempt(peer.uid) || in_group(fd, peer.gid, s->admin_group);
	outbox_init(&c->out, &s->ledger, fd);
	list_init(&c->held_node);
	list_init(&c->dead_node);
	strcpy(c->program, "?");
	a->conns++;
	s->n_conns++;
	metrics_add(M_connections, 1);
	idmap_set(&s->conns, c->id, c);
	ev_io_init(&c->io, on_io, fd, EV_READ);
	c->io.data = c;
	ev_io_start(s->daemon->loop, &c->io);
	log_debug("conn", "#%" PRIu64 " uid %u pid %d", c->id, (unsigned)peer.uid, (int)peer.pid);
	return 0;
}
