/* server.h - the listening socket, the connections, and what each user may have at once.
 * Thread: loop.  Owns the connections. */
#ifndef MRM_SERVER_H
#define MRM_SERVER_H

#include "mrm/daemon.h"
#include "mrm/outbox.h"
#include "shared/list.h"

#include <sys/types.h>

struct conn;

#define SERVER_NO_GROUP ((gid_t)-1)

/* What one uid holds; kept while it holds something. */
struct account {
	uid_t uid;
	uint32_t conns, leases, opening; /* opening: OPENs that may become leases */
};

struct server {
	struct daemon *daemon;
	int listener;
	bool activated; /* the socket is systemd's: never unlinked here */
	char *path;
	gid_t admin_group;
	ev_io accept;
	ev_timer pause; /* out of descriptors: stop accepting for a moment */
	bool starved; /* the last accept failed so, which was logged */
	struct idmap conns;    /* conn id -> struct conn */
	struct idmap accounts; /* uid + 1 -> struct account */
	uint64_t next_conn;
	struct list dead;      /* connections to free when the loop is back at its own level */
	ev_prepare reap;
	struct outbox_ledger ledger;
	int first_spare;       /* descriptors from here on are not for connections: files and memory need some, too */
	struct list held;      /* connections that get no more before they have read */
	struct list lingering; /* ended ones whose peers have descriptors to read; they count towards limits */
	ev_timer look;         /* while there are such; the kernel tells nobody when a peer reads */
	uint32_t n_conns, n_leases, n_lingering;
};

/* -EADDRINUSE: another daemon answers on the socket.  A stale socket file is replaced. */
int server_new(struct server **out, struct daemon *d, struct fault *why);
void server_free(struct server **s);
/* Takes over what a reload has changed.  Asking for a group may block for long: not done for each connection. */
void server_reload(struct server *s);
/* Closes the listener and tells every client that the daemon is stopping. */
void server_stop(struct server *s);
/* Has conn_look() called in a while, until there is nobody to look at. */
void server_look(struct server *s);
/* NULL when it has gone. */
struct conn *server_conn(struct server *s, uint64_t id);
struct account *server_account(struct server *s, uid_t uid);
void server_account_put(struct server *s, struct account *a);
bool server_is_exempt(uid_t uid);

#endif
