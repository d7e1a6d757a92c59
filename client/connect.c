/* connect.c - how a connection begins, begins again, and ends.
 * Keeps: the socket is closed only when no thread is inside a call on it. */
#include "client/conn_impl.h"

#include "client/fail.h"
#include "client/gpu.h"
#include "client/model.h"
#include "client/options.h"
#include "shared/own.h"
#include "shared/seqpacket.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define DEFAULT_TIMEOUT_NS (10 * NS_PER_S)

/* Counted by a fork handler, so that telling a child from its parent costs no system call on each open. */
static _Atomic uint32_t forks;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void forked(void)
{
	forks++;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forked);
}

bool conn_foreign(const trims_conn *c)
{
	return c->forks != atomic_load_explicit(&forks, memory_order_relaxed);
}

static int connect_failed(const char *path, int err)
{
	enum trims_code code = TRIMS_E_DISCONNECTED;
	if (err == -EACCES || err == -EPERM)
		code = TRIMS_E_DENIED;
	else if (err == -EAGAIN)
		code = TRIMS_E_TIMED_OUT;
	else if (err == -ENAMETOOLONG || err == -EINVAL)
		code = TRIMS_E_BAD_REQUEST;
	else if (err == -EMFILE || err == -ENFILE)
		code = TRIMS_E_NO_SYSTEM;
	return fail_errno(code, -err, "cannot connect to %s", path);
}

static int send_hello(int fd, const char *program)
{
	struct msg m;
	uint8_t bytes[MSG_MAX_BYTES];
	int no_fds[1];
	uint32_t n_fds;
	msg_init(&m, MSG_HELLO, 1);
	m.u.hello.version_min = m.u.hello.version_max = MSG_VERSION;
	MSG_SET_TEXT(m.u.hello.program, program);
	ssize_t len = msg_encode(&m, bytes, sizeof bytes, no_fds, &n_fds);
	/* The socket is new: there is room, and whoever does not read it times out below. */
	return len < 0 ? (int)len : seqpacket_send(fd, bytes, (size_t)len, NULL, 0, 0);
}

static int read_answer(int fd, uint64_t deadline, struct msg *out)
{
	uint8_t bytes[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n_fds;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int r;
	do {
		uint64_t now = conn_now(), left = now < deadline ? deadline - now : 0;
		struct timespec ts = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
		r = ppoll(&p, 1, deadline == CONN_NEVER ? NULL : &ts, NULL);
	} while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r < 0 ? -errno : -ETIME;
	ssize_t len = seqpacket_recv(fd, bytes, sizeof bytes, fds, MSG_MAX_FDS, &n_fds, MSG_DONTWAIT);
	if (len <= 0)
		return len < 0 ? (int)len : -ECONNRESET;
	return msg_decode(bytes, (size_t)len, fds, n_fds, out);
}

/* Introduces the client.  On success the connection's facts about the daemon are set. */
static int handshake(struct trims_conn *c, int fd, uint64_t deadline)
{
	struct msg m;
	int r = send_hello(fd, c->program);
	/* A daemon that turns us away may close before it has read HELLO; why is then still there to be read. */
	if (r == 0 || r == -EPIPE || r == -ECONNRESET)
		r = read_answer(fd, deadline, &m);
	if (r == -ETIME)
		return fail(TRIMS_E_TIMED_OUT, "%s: nobody answered in time", c->path);
	if (r == -EPROTO)
		return fail(TRIMS_E_PROTOCOL, "%s: what answered does not speak this protocol", c->path);
	if (r < 0)
		return fail_errno(TRIMS_E_DISCONNECTED, -r, "%s: no welcome", c->path);
	if (m.type == MSG_FAULT && m.u.fault.code)
		return fail((enum trims_code)m.u.fault.code, "%s", m.u.fault.text);
	if (m.type != MSG_WELCOME || m.request != 1) {
		r = fail(TRIMS_E_PROTOCOL, "%s: answered HELLO with %s", c->path, msg_type_name(m.type));
		msg_fini(&m);
		return r;
	}
	if (m.u.welcome.version != MSG_VERSION)
		return fail(TRIMS_E_VERSION, "%s: the daemon wants protocol version %u, this library speaks %u", c->path,
			m.u.welcome.version, MSG_VERSION);
	c->boot_hi = m.u.welcome.boot_hi;
	c->boot_lo = m.u.welcome.boot_lo;
	c->identity_hi = m.u.welcome.identity_hi;
	c->identity_lo = m.u.welcome.identity_lo;
	return 0;
}

/* Connects and introduces; the caller has the lock, or the only reference. */
static int begin(struct trims_conn *c)
{
	uint64_t deadline = conn_deadline(c->timeout_ns);
	OWN_FD int fd = -1;
	int r = seqpacket_connect(c->path, deadline == CONN_NEVER ? 0 : c->timeout_ns, &fd);
	if (r < 0)
		return connect_failed(c->path, r);
	r = handshake(c, fd, deadline);
	if (r < 0)
		return r;
	c->fd = steal_fd(&fd);
	c->last_request = 1; /* HELLO */
	c->epoch++;
	c->dead = false;
	return 0;
}

/* With the lock: ends the connection and closes its socket once every thread has left it. */
static void end(struct trims_conn *c, const char *why)
{
	conn_kill(c, TRIMS_E_DISCONNECTED, why);
	while (c->users && c->dead)
		pthread_cond_wait(&c->idle, &c->lock);
	if (c->dead) /* else another thread has reconnected meanwhile */
		own_close_fd(&c->fd);
}

static int conn_new(struct trims_conn **out, const char *path, const struct trims_connect_options *o)
{
	struct trims_conn *c = calloc(1, sizeof *c);
	if (!c || !(c->path = strdup(path))) {
		free(c);
		return fail(TRIMS_E_NO_MEMORY, "no memory for a connection");
	}
	pthread_once(&fork_once, watch_forks);
	c->forks = forks;
	msg_set_text(c->program, sizeof c->program, o->program ? o->program : program_invocation_short_name);
	c->timeout_ns = o->timeout_ns ? o->timeout_ns : DEFAULT_TIMEOUT_NS;
	c->request_timeout_ns = o->request_timeout_ns;
	c->refs = 1;
	c->fd = -1;
	c->dead = true;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->idle, NULL);
	list_init(&c->calls);
	list_init(&c->abandoned);
	list_init(&c->unsent);
	pthread_mutex_init(&c->gpu_lock, NULL);
	pthread_mutex_init(&c->models_lock, NULL);
	list_init(&c->models);
	*out = c;
	return 0;
}

void conn_ref(trims_conn *c)
{
	atomic_fetch_add(&c->refs, 1);
}

void conn_unref(trims_conn *c)
{
	if (atomic_fetch_sub(&c->refs, 1) != 1)
		return;
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->idle);
	pthread_mutex_destroy(&c->gpu_lock);
	pthread_mutex_destroy(&c->models_lock);
	free(c->path);
	free(c);
}

int trims_connect(const char *socket_path, const struct trims_connect_options *options, trims_conn **out)
{
	struct trims_connect_options o;
	struct trims_conn *c = NULL;
	if (!socket_path)
		socket_path = getenv("TRIMS_SOCKET");
	if (!socket_path || !*socket_path)
		socket_path = TRIMS_DEFAULT_SOCKET;
	int r = options_read(&o, sizeof o, options, "trims_connect_options");
	if (r == 0)
		r = conn_new(&c, socket_path, &o);
	if (r < 0)
		return r;
	r = begin(c);
	if (r < 0) {
		conn_unref(c);
		return r;
	}
	*out = c;
	return 0;
}

int trims_check(trims_conn *c)
{
	pthread_mutex_lock(&c->lock);
	uint32_t epoch = c->epoch;
	pthread_mutex_unlock(&c->lock);
	return conn_alive(c, epoch);
}

/* With the lock: begins the next life; *same: with the daemon of the last one, come back. */
static int begin_again(struct trims_conn *c, bool *same)
{
	uint64_t hi = c->identity_hi, lo = c->identity_lo;
	end(c, "reconnecting");
	if (!c->dead) /* another thread was faster */
		return 0;
	int r = begin(c);
	*same = r == 0 && (hi | lo) && hi == c->identity_hi && lo == c->identity_lo;
	return r;
}

int trims_reconnect(trims_conn *c)
{
	bool same = false;
	if (conn_foreign(c))
		return fail(TRIMS_E_DISCONNECTED, "the connection belongs to the process that this one was forked from");
	if (trims_check(c) == 0)
		return 0;
	gpu_session_end(c);
	pthread_mutex_lock(&c->lock);
	int r = c->dead ? begin_again(c, &same) : 0;
	pthread_mutex_unlock(&c->lock);
	if (same)
		models_claim(c, conn_deadline(c->timeout_ns));
	return r;
}

void trims_disconnect(trims_conn **conn)
{
	struct trims_conn *c = conn ? STEAL(*conn) : NULL;
	if (!c || conn_foreign(c))
		return; /* in a forked child the lock may be held for ever: let exec or exit clean up */
	pthread_mutex_lock(&c->lock);
	end(c, "this process disconnected");
	pthread_mutex_unlock(&c->lock);
	gpu_session_end(c);
	conn_unref(c);
}
