/* jobs.h - worker pools.  A job is moved to a pool and moved back: between jobs_submit() and its done() only the worker
 * touches it.  Several pools share one way back to the loop (one ev_async).
 *
 * Thread: submit and done on the loop thread; run on a worker of the pool.
 * Order: by class, deadline, then age. */
#ifndef MRM_JOBS_H
#define MRM_JOBS_H

#include "cache/cache.h"
#include "shared/list.h"

#include <pthread.h>

struct ev_loop;
struct jobs; /* the way back */
struct pool;

struct job {
	struct list node;
	struct pool *pool;
	enum load_class class;
	uint64_t deadline, seq;
	/* On a worker; `worker` is what the pool's worker_new made for this thread. */
	void (*run)(struct job *job, void *worker);
	/* On the loop thread, afterwards, or when the pool closed first (withdrawn).  Owns the job from here on. */
	void (*done)(struct job *job);
	uint64_t queued_ns, started_ns, finished_ns;
	bool withdrawn; /* run() was never called */
};

int jobs_new(struct jobs **out, struct ev_loop *loop);
/* All pools must be gone. */
void jobs_free(struct jobs **j);
/* Runs done() of everything that came back; the loop does it by itself, shutdown calls it, too. */
void jobs_collect(struct jobs *j);
/* Jobs submitted whose done() has not run. */
uint64_t jobs_outstanding(const struct jobs *j);
/* Blocks until something came back or `timeout_ns` passed, then collects. */
void jobs_wait(struct jobs *j, uint64_t timeout_ns);

struct pool_ops {
	const char *name;                           /* at most 11 characters: the threads' names */
	int (*worker_new)(void **out, void *ctx);   /* on the new thread; may be NULL */
	void (*worker_free)(void **worker);         /* may be NULL */
	/* Instead of taking jobs one by one: called on the worker until it returns; must return when pool_take() gives NULL
	 * with wait = true.  For workers that keep several jobs in flight.  May be NULL. */
	void (*serve)(struct pool *pool, void *worker);
	void *ctx;
};

/* -errno when a thread or a worker cannot be had (nothing is left behind). */
int pool_new(struct pool **out, struct jobs *back, const struct pool_ops *ops, size_t threads);
/* Withdraws what was not taken, lets running jobs finish, joins. */
void pool_free(struct pool **p);
void pool_submit(struct pool *p, struct job *job);
/* For serve(): the best job, NULL when there is none (wait = false) or the pool is closing. */
struct job *pool_take(struct pool *p, bool wait);
/* Until there is a job to take, somebody kicks, or the pool closes; false when nothing of this happened in time. */
bool pool_wait(struct pool *p, uint64_t timeout_ns);
/* A serve() that waits looks again at what it waits for.  Any thread; a kick that finds nobody waiting is kept. */
void pool_kick(struct pool *p);
/* For serve(): no more jobs will come. */
bool pool_is_closing(struct pool *p);
/* For serve(): the job is finished, send it home. */
void pool_finish(struct pool *p, struct job *job);
size_t pool_threads(const struct pool *p);

#endif
