/* keep.c - see keep.h.  Keeps: with a helper, `lock` is held over one question and its answer. */
#include "mrm/keep/keep.h"

#include "mrm/keep/helper.h"
#include "mrm/notify.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"
#include "shared/seqpacket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_NS (10 * NS_PER_S)

struct keep {
	enum keep_where where;
	char path[PATH_MAX];
	uint64_t hold_ns;
	pthread_mutex_t lock;
	int helper; /* connection; -1: it has gone */
	struct kept_list found;
};

const char *keep_where_name(enum keep_where where)
{
	return where == KEEP_SYSTEMD ? "systemd" : where == KEEP_HELPER ? "helper" : "nowhere";
}

enum keep_where keep_where(const struct keep *k)
{
	return k->where;
}

struct kept *keep_found(struct keep *k, size_t *n)
{
	*n = k->found.n;
	return k->found.v;
}

/* ---- the helper ---- */

static int ask(struct keep *k, enum helper_op op, const char *name, int fd)
{
	struct helper_msg m = {.op = op, .hold_ns = k->hold_ns};
	snprintf(m.name, sizeof m.name, "%s", name);
	if (k->helper < 0)
		return -ENOTCONN;
	return seqpacket_send(k->helper, &m, sizeof m, fd >= 0 ? &fd : NULL, fd >= 0 ? 1 : 0, 0);
}

static int hear(struct keep *k, struct helper_msg *m, int *fd)
{
	uint32_t n = 0;
	*fd = -1;
	ssize_t got = seqpacket_recv(k->helper, m, sizeof *m, fd, 1, &n, 0);
	if (got < 0)
		return (int)got;
	if (got != (ssize_t)sizeof *m || !memchr(m->name, 0, sizeof m->name)) {
		if (n)
			close(*fd);
		return -EPROTO;
	}
	return 0;
}

static void lose(struct keep *k)
{
	close(k->helper);
	k->helper = -1;
}

/* A question that is answered by DONE. */
static int ask_done(struct keep *k, enum helper_op op, const char *name, int fd)
{
	struct helper_msg m;
	int stray = -1;
	pthread_mutex_lock(&k->lock);
	int e = ask(k, op, name, fd);
	e = e ? e : hear(k, &m, &stray);
	if (e && k->helper >= 0)
		lose(k);
	pthread_mutex_unlock(&k->lock);
	if (stray >= 0)
		close(stray);
	return e ? e : m.result;
}

static int hear_list(struct keep *k)
{
	for (;;) {
		struct helper_msg m;
		int fd, e = hear(k, &m, &fd);
		if (e)
			return e;
		if (m.op == HELPER_DONE) {
			own_close_fd(&fd);
			return m.result;
		}
		if (m.op != HELPER_ITEM || fd < 0 || kept_list_add(&k->found, m.name, fd)) {
			own_close_fd(&fd);
			return -EPROTO;
		}
	}
}

static void forget_found(struct keep *k)
{
	for (size_t i = 0; i < k->found.n; i++)
		own_close_fd(&k->found.v[i].fd);
	k->found.n = 0;
}

static int meet_helper(struct keep *k)
{
	int e = seqpacket_connect(k->path, PATIENCE_NS, &k->helper);
	if (e) {
		k->helper = -1;
		return e;
	}
	const struct timeval patience = {.tv_sec = (time_t)(PATIENCE_NS / NS_PER_S)};
	struct seqpacket_peer peer;
	e = seqpacket_peer(k->helper, &peer);
	if (!e && peer.uid != geteuid())
		e = -EPERM;
	if (!e && setsockopt(k->helper, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
		e = -errno;
	e = e ? e : ask(k, HELPER_LIST, "", -1);
	e = e ? e : hear_list(k);
	if (e) {
		lose(k);
		forget_found(k);
	}
	return e;
}

/* What is left of the daemon in the helper: nothing but the listener.  Not even standard error, on whose end somebody may
 * wait. */
static _Noreturn void become_helper(int listener, uint64_t hold_ns)
{
	int null = open("/dev/null", O_RDWR);
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	listener = dup2(listener, 3);
	syscall(SYS_close_range, 4, ~0u, 0);
	prctl(PR_SET_NAME, "mrm-keep");
	if (chdir("/") < 0 || listener < 0)
		_exit(1);
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
	helper_run(listener, hold_ns);
}

/* Twice, so that nobody has to wait for it. */
static int fork_helper(int listener, uint64_t hold_ns)
{
	pid_t child = fork();
	if (child < 0)
		return -errno;
	if (child == 0) {
		setsid();
		pid_t helper = fork();
		if (helper == 0)
			become_helper(listener, hold_ns);
		_exit(helper < 0);
	}
	int status;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

static int start_helper(struct keep *k)
{
	int listener;
	unlink(k->path); /* nobody answered there, and the directory is locked */
	int e = seqpacket_listen(k->path, 8, &listener);
	if (e)
		return e;
	if (chmod(k->path, 0600) < 0)
		e = -errno;
	e = e ? e : fork_helper(listener, k->hold_ns);
	close(listener);
	return e ? e : meet_helper(k);
}

static int use_helper(struct keep *k, struct fault *why)
{
	k->where = KEEP_HELPER;
	int e = meet_helper(k);
	if (!e)
		log_info("keep", "a helper of an earlier daemon holds %zu descriptors", k->found.n);
	else
		e = start_helper(k);
	if (e)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "%s: no helper that keeps descriptors", k->path), e;
	return 0;
}

/* ---- systemd's store ---- */

static int use_systemd(struct keep *k, struct fault *why)
{
	k->where = KEEP_SYSTEMD;
	if (!getenv("NOTIFY_SOCKET"))
		return fault_set(why, TRIMS_E_NO_SYSTEM, "keep-fds: no service manager is there (NOTIFY_SOCKET is not set)"),
		       -ENOENT;
	int fd;
	char name[KEEP_NAME_MAX + 1];
	while (notify_take_stored(&fd, name, sizeof name))
		if (kept_list_add(&k->found, name, fd)) {
			close(fd);
			return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for kept descriptors"), -ENOMEM;
		}
	if (k->found.n)
		log_info("keep", "the service manager holds %zu descriptors of an earlier daemon", k->found.n);
	return 0;
}

static int put_systemd(const char *name, int fd)
{
	char text[KEEP_NAME_MAX + 64];
	snprintf(text, sizeof text, "FDSTORE=1\nFDPOLL=0\nFDNAME=" NOTIFY_STORED "%s", name);
	return notify_send_fd(text, fd);
}

/* ---- both ---- */

int keep_new(struct keep **out, const struct keep_options *o, struct fault *why)
{
	struct keep *k = calloc(1, sizeof *k);
	if (!k)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory"), -ENOMEM;
	k->helper = -1;
	k->hold_ns = o->hold_ns;
	pthread_mutex_init(&k->lock, NULL);
	const char *store = getenv("FDSTORE"); /* how many systemd takes, since version 254 */
	bool offered = store && strtol(store, NULL, 10) > 0;
	int e = 0;
	if ((size_t)snprintf(k->path, sizeof k->path, "%s/%s", o->dir, HELPER_SOCKET) >= sizeof k->path)
		e = fault_errno(why, TRIMS_E_NO_SYSTEM, ENAMETOOLONG, "%.64s...", o->dir);
	else if (!strcmp(o->mode, "helper"))
		e = use_helper(k, why);
	else if (!strcmp(o->mode, "systemd") || (!strcmp(o->mode, "auto") && offered))
		e = use_systemd(k, why);
	if (e) {
		keep_free(&k, false);
		return e;
	}
	*out = k;
	return 0;
}

int keep_put(struct keep *k, const char *name, int fd, struct fault *why)
{
	ASSERT(strlen(name) <= KEEP_NAME_MAX);
	int e = k->where == KEEP_HELPER ? ask_done(k, HELPER_PUT, name, fd)
		: k->where == KEEP_SYSTEMD ? put_systemd(name, fd)
					   : -ENOTCONN;
	if (e)
		fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "%s: not kept for the next daemon", name);
	return e;
}

void keep_drop(struct keep *k, const char *name)
{
	char text[KEEP_NAME_MAX + 64];
	if (k->where == KEEP_HELPER) {
		ask_done(k, HELPER_DROP, name, -1);
	} else if (k->where == KEEP_SYSTEMD) {
		snprintf(text, sizeof text, "FDSTOREREMOVE=1\nFDNAME=" NOTIFY_STORED "%s", name);
		notify_send(text);
	}
}

void keep_free(struct keep **kp, bool clean)
{
	struct keep *k = *kp;
	if (!k)
		return;
	if (k->helper >= 0) {
		if (clean) {
			unlink(k->path);
			ask(k, HELPER_END, "", -1);
		}
		lose(k);
	}
	forget_found(k);
	free(k->found.v);
	pthread_mutex_destroy(&k->lock);
	free(k);
	*kp = NULL;
}
