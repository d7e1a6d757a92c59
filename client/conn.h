/* conn.h - one connection to the daemon, used by any number of threads at once.
 *
 * Requests carry an id and may all be in flight together.  There is no reader thread: of the threads that wait for an
 * answer one leads, that is, reads the socket and hands each answer to its owner; the others sleep.  A leader that has
 * its own answer wakes the next.
 *
 * Thread: any, for all functions.  Ownership: counted; the caller of trims_connect() has one reference, each open model
 * another, so that a model may outlive trims_disconnect(). */
#ifndef CLIENT_CONN_H
#define CLIENT_CONN_H

#include "client/trims.h"
#include "shared/msg.h"

#include <pthread.h>

#define CONN_NEVER UINT64_MAX

/* Which life of the connection an answer came in: a reconnect begins another, perhaps with another daemon. */
struct conn_life {
	uint32_t epoch;
	uint64_t boot_hi, boot_lo; /* the daemon's run */
};

struct gpu_session;
struct list;

/* A point in time on the monotonic clock, CONN_NEVER for TRIMS_FOREVER. */
uint64_t conn_deadline(uint64_t timeout_ns);
uint64_t conn_now(void);

/* Sends *request (its id is set here, unless it goes on with an earlier one and has that one's) and waits for the answer,
 * which must be of type `expected` (for ATTACHED, CANARY will do as well).  On success *reply is
 * the caller's to msg_fini(), and *life says in which life it came; a caller whose request is about a lease sets
 * life->epoch to that lease's, else to 0.  After the deadline the request is cancelled: TIMED_OUT, and what its late answer
 * carries is given back. */
int conn_call(trims_conn *c, struct msg *request, enum msg_type expected, uint64_t deadline, struct msg *reply,
	struct conn_life *life);
/* The deadline of a request that has none of its own. */
uint64_t conn_request_deadline(const trims_conn *c);
/* Gives a lease back, unless it went with its epoch.  Not for a foreign connection. */
void conn_close_lease(trims_conn *c, uint32_t epoch, uint64_t lease);
/* 0 when the connection still lives in that epoch; else its error.  Reads what the daemon has sent if nobody else is
 * reading, so a death is noticed by threads that make no request. */
int conn_alive(trims_conn *c, uint32_t epoch);
/* The same as a question: no failure is recorded. */
bool conn_is_alive(trims_conn *c, uint32_t epoch);
/* Which life it is in now. */
void conn_life(trims_conn *c, struct conn_life *out);
/* Another descriptor of that life's socket, for a watchdog to poll; DISCONNECTED when that life is over. */
int conn_dup_socket(trims_conn *c, uint32_t epoch, int *out);
/* Ends the connection because of something its peer sent; returns the failure. */
int conn_broken(trims_conn *c, uint32_t epoch, const char *what);
/* True in a process that did not make the connection but was forked since: it must not touch the socket. */
bool conn_foreign(const trims_conn *c);

/* The connection's GPU session, with the lock that guards it; gpu_session.c uses it. */
struct gpu_session **conn_gpu(trims_conn *c, pthread_mutex_t **lock);
/* Its open models, for reconnecting: (struct trims_model).node.  Under a lock of their own. */
struct list *conn_models_lock(trims_conn *c);
void conn_models_unlock(trims_conn *c);

void conn_ref(trims_conn *c);
void conn_unref(trims_conn *c);

#endif
