/* conn.h - one client connection: its requests, its leases (in the brain, owner = conn id), its limits.
 * Thread: loop.  Owned by the server; conn_free() ends the leases.  A reply never blocks: what must wait does
 * so in a bounded queue (outbox.h), and a client that does not read is told so and dropped. */
#ifndef MRM_CONN_H
#define MRM_CONN_H

#include "mrm/server.h"
#include "shared/error.h"
#include "shared/msg.h"

struct conn;
struct session;

/* Takes the socket over.  Refusals (limits) are answered with a FAULT and the socket is closed: -EUSERS. */
int conn_new(struct server *s, int fd);
void conn_free(struct conn **c);

/* Frees ended connections; where no callback of theirs can be running. */
void conn_reap(struct list *dead);

/* Looks whether peers have read: those whose answers are held back get more, those that are gone stop counting.  False when
 * there is nobody left to look at. */
bool conn_look(struct server *s);

uint64_t conn_id(const struct conn *c);
struct daemon *conn_daemon(const struct conn *c);
bool conn_is_admin(const struct conn *c);
uid_t conn_uid(const struct conn *c);
int conn_pid(const struct conn *c);
/* As it calls itself; for logs, and to tell one kind of client from another. */
const char *conn_program(const struct conn *c);
/* Its GPU session; *NULL before it attaches. */
struct session **conn_session(struct conn *c);
/* Descriptors in *m stay the caller's. May end the connection, but not before the caller returned to the loop. */
void conn_reply(struct conn *c, const struct msg *m);
void conn_reply_fault(struct conn *c, uint64_t request, enum trims_code code, const char *text);
/* A request that will be answered later: a ticket for it, which no other request of this connection ever gets.  0 (and
 * answered LIMIT or PROTOCOL) when there are too many or the id is in use. */
uint64_t conn_begin(struct conn *c, uint64_t request);
/* As conn_begin() for an OPEN: its time to the answer is measured. */
uint64_t conn_begin_open(struct conn *c, uint64_t request, enum tier_kind tier);
/* As conn_begin_open() for a CLAIM. */
uint64_t conn_begin_claim(struct conn *c, uint64_t request, enum tier_kind tier);
struct conn_pending {
	uint64_t request, ticket, since_ns; /* request 0: cancelled, but somebody works on it */
	bool is_open, is_claim; /* a claim is an open whose answer brings no descriptors */
	enum tier_kind tier; /* asked for by an OPEN */
};
/* The answer is being sent: forgets the request.  False when it was not pending.  out may be NULL. */
bool conn_end(struct conn *c, uint64_t request);
bool conn_take(struct conn *c, uint64_t request, struct conn_pending *out);
/* For what workers answer, who may take long: the client may have cancelled it and used its number again meanwhile.  The
 * work counts as pending until its ticket is redeemed. */
bool conn_redeem(struct conn *c, uint64_t ticket); /* true: is to be answered; the request is forgotten */
bool conn_wants(const struct conn *c, uint64_t ticket);
/* Answers CANCELLED.  Nothing when it is not pending: it was answered while the CANCEL was on its way. */
void conn_cancel(struct conn *c, uint64_t request);
/* Books leases for the connection and its user; false when that passes a limit (*why says which). */
bool conn_may_lease(struct conn *c, struct fault *why);
void conn_leases_add(struct conn *c, int n);
/* The peer broke the rules: FAULT(PROTOCOL), then the end. */
void conn_violation(struct conn *c, const char *what);

#endif
