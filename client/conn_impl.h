/* conn_impl.h - the inside of a connection, for conn.c (requests) and connect.c (beginning and end) alone. */
#ifndef CLIENT_CONN_IMPL_H
#define CLIENT_CONN_IMPL_H

#include "client/conn.h"
#include "shared/error.h"
#include "shared/list.h"

#include <pthread.h>
#include <stdatomic.h>

#define CONN_PROGRAM_MAX 64

struct trims_conn {
	/* constant */
	uint32_t forks; /* as counted when it was made */
	char *path;
	char program[CONN_PROGRAM_MAX + 1];
	uint64_t timeout_ns, request_timeout_ns;

	_Atomic uint32_t refs;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t idle;  /* users came to 0 */
	int fd;               /* -1 after trims_disconnect() */
	uint32_t epoch;       /* which life this is: counts reconnects */
	uint64_t boot_hi, boot_lo;
	uint64_t identity_hi, identity_lo; /* of the daemon's cache directory */
	bool dead;
	struct fault why;
	uint64_t last_request;
	bool reading;
	unsigned users;        /* threads inside a call */
	struct list calls;     /* struct call */
	struct list abandoned; /* struct abandoned */
	uint32_t n_abandoned;
	struct list unsent; /* struct parcel */

	/* Taken before `lock`, never with it held. */
	pthread_mutex_t gpu_lock; /* guards gpu, and is held while it is made */
	struct gpu_session *gpu;  /* NULL: not attached */
	pthread_mutex_t models_lock;
	struct list models; /* (struct trims_model).node */
};

/* With the lock: marks it dead for this reason, wakes everybody.  The first reason stays. */
void conn_kill(struct trims_conn *c, enum trims_code code, const char *text);

#endif
