/* server.c - see server.h.  Keeps: n_conns equals the connections in the map; an account exists while it holds anything. */
#include "mrm/server.h"

#include "mrm/conn.h"
#include "mrm/notify.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/seqpacket.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 512
#define ACCEPTS_PER_TURN 64
#define LOOK_S 0.005
#define SPARE_FDS 64

bool server_is_exempt(uid_t uid)
{
	return uid == 0 || uid == geteuid();
}

struct account *server_account(struct server *s, uid_t uid)
{
	struct account *a = idmap_get(&s->accounts, (uint64_t)uid + 1);
	if (!a) {
		a = calloc(1, sizeof *a);
		ASSERT(a);
		a->uid = uid;
		idmap_set(&s->accounts, (uint64_t)uid + 1, a);
	}
	return a;
}

void server_account_put(struct server *s, struct account *a)
{
	if (!a->conns && !a->leases) {
		idmap_take(&s->accounts, (uint64_t)a->uid + 1);
		free(a);
	}
}

struct conn *server_conn(struct server *s, uint64_t id)
{
	return s ? idmap_get(&s->conns, id) : NULL;
}

static void on_pause_over(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct server *s = w->data;
	ev_io_start(loop, &s->accept);
}

static void on_look(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct server *s = w->data;
	if (!conn_look(s))
		ev_timer_stop(loop, w);
}

void server_look(struct server *s)
{
	if (!ev_is_active(&s->look) && !s->daemon->stopping)
		ev_timer_again(s->daemon->loop, &s->look);
}

static void on_accept(struct ev_loop *loop, ev_io *w, int revents)
{
	struct server *s = w->data;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		int fd;
		int e = seqpacket_accept(s->listener, &fd);
		if (e == -EMFILE || e == -ENFILE || e == -ENOMEM || e == -ENOBUFS) {
			/* The waiting connection stays readable: without a pause the loop would spin on it. */
			if (!s->starved)
				log_warn("server", "cannot accept: %s; trying again every 100 ms", strerror(-e));
			s->starved = true;
			ev_io_stop(loop, w);
			ev_timer_set(&s->pause, 0.1, 0);
			ev_timer_start(loop, &s->pause);
		}
		if (e)
			return;
		s->starved = false;
		conn_new(s, fd);
	}
}

/* Connections end while their own callback runs; they are freed here, where nobody holds them. */
static void on_reap(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct server *s = w->data;
	conn_reap(&s->dead);
}

/* A socket file that nobody answers on is left over from a daemon that was killed. */
static int listen_fresh(struct server *s, struct fault *why)
{
	int e = seqpacket_listen(s->path, BACKLOG, &s->listener);
	if (e == -EADDRINUSE && *s->path != '@') {
		int probe;
		e = seqpacket_connect(s->path, NS_PER_S, &probe);
		if (!e || e == -EAGAIN) {
			if (!e)
				close(probe);
			fault_set(why, TRIMS_E_BAD_REQUEST, "%s: another daemon is serving this socket", s->path);
			return -EADDRINUSE;
		}
		struct stat st;
		if (lstat(s->path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
			fault_set(why, TRIMS_E_BAD_REQUEST, "%s: is there and is no socket", s->path);
			return -EADDRINUSE;
		}
		if (unlink(s->path) < 0) {
			fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "%s: cannot replace the stale socket", s->path);
			return -EADDRINUSE;
		}
		log_info("server", "%s: replacing the socket of a daemon that is gone", s->path);
		e = seqpacket_listen(s->path, BACKLOG, &s->listener);
	}
	if (e) {
		fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "%s: cannot listen", s->path);
		return e;
	}
	mode_t mode = (mode_t)strtoul(s->daemon->config->socket_mode, NULL, 8);
	if (*s->path != '@' && chmod(s->path, mode & 0777) < 0) {
		fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "%s: cannot set mode %s", s->path,
			s->daemon->config->socket_mode);
		return -EPERM;
	}
	return 0;
}

static int listen_somehow(struct server *s, struct fault *why)
{
	int e = notify_listen_fd(&s->listener);
	if (!e) {
		s->activated = true;
		log_info("server", "listening on the socket passed by the service manager");
		return 0;
	}
	if (e != -ENOENT) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "LISTEN_FDS does not pass exactly one listening SOCK_SEQPACKET socket");
		return e;
	}
	return listen_fresh(s, why);
}

void server_reload(struct server *s)
{
	const char *name = s->daemon->config->admin_group;
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	struct group *g = *end ? getgrnam(name) : NULL;
	s->admin_group = !*name ? SERVER_NO_GROUP : !*end ? (gid_t)number : g ? g->gr_gid : SERVER_NO_GROUP;
	if (*end && !g)
		log_warn("server", "admin-group: there is no group \"%s\"", name);
}

int server_new(struct server **out, struct daemon *d, struct fault *why)
{
	struct server *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	s->daemon = d;
	s->listener = -1;
	s->next_conn = 1;
	s->path = strdup(d->config->socket);
	list_init(&s->dead);
	list_init(&s->held);
	list_init(&s->lingering);
	struct rlimit limit = {.rlim_cur = 1024};
	getrlimit(RLIMIT_NOFILE, &limit);
	outbox_ledger_init(&s->ledger, limit.rlim_cur);
	s->first_spare = (int)MIN(limit.rlim_cur - MIN(limit.rlim_cur / 4, (rlim_t)SPARE_FDS), (rlim_t)INT_MAX);
	ev_timer_init(&s->look, on_look, LOOK_S, LOOK_S);
	ev_io_init(&s->accept, on_accept, -1, EV_READ);
	ev_timer_init(&s->pause, on_pause_over, 0, 0);
	ev_prepare_init(&s->reap, on_reap);
	s->accept.data = s->pause.data = s->reap.data = s->look.data = s;
	server_reload(s);
	int e = s->path ? listen_somehow(s, why) : -ENOMEM;
	if (e) {
		server_free(&s);
		return e;
	}
	ev_io_set(&s->accept, s->listener, EV_READ);
	ev_io_start(d->loop, &s->accept);
	ev_prepare_start(d->loop, &s->reap);
	ev_unref(d->loop);
	*out = s;
	return 0;
}

static void stop_listening(struct server *s)
{
	ev_io_stop(s->daemon->loop, &s->accept);
	ev_timer_stop(s->daemon->loop, &s->pause);
	if (s->listener < 0)
		return;
	close(s->listener);
	s->listener = -1;
	if (!s->activated && *s->path != '@')
		unlink(s->path);
}

void server_stop(struct server *s)
{
	stop_listening(s);
	struct conn *c;
	for (size_t at = 0; (c = idmap_take_any(&s->conns, &at));) {
		conn_reply_fault(c, 0, TRIMS_E_STOPPING, "the daemon is stopping");
		metrics_add(M_dropped_stopping, 1);
		conn_free(&c);
	}
	conn_look(s);
	ev_timer_stop(s->daemon->loop, &s->look);
}

void server_free(struct server **sp)
{
	struct server *s = *sp;
	if (!s)
		return;
	stop_listening(s);
	struct conn *c;
	for (size_t at = 0; (c = idmap_take_any(&s->conns, &at));)
		conn_free(&c);
	ASSERT(s->n_conns == 0 && list_empty(&s->lingering));
	conn_reap(&s->dead);
	if (ev_is_active(&s->reap)) {
		ev_ref(s->daemon->loop);
		ev_prepare_stop(s->daemon->loop, &s->reap);
	}
	idmap_fini(&s->conns);
	idmap_fini(&s->accounts);
	free(s->path);
	free(s);
	*sp = NULL;
}
