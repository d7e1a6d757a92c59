/* jobs.c - see jobs.h.  Keeps: a job hangs in at most one list; every submitted job comes home exactly once. */
#include "mrm/jobs.h"

#include "mrm/clock.h"
#include "shared/check.h"

#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct jobs {
	struct ev_loop *loop;
	ev_async wake;
	pthread_mutex_t lock;
	pthread_cond_t home;
	struct list finished;
	uint64_t outstanding; /* loop thread only */
};

struct pool {
	const struct pool_ops ops;
	struct jobs *back;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list queue; /* best first */
	bool closing, kicked;
	uint64_t seq;
	size_t n_threads, n_failed, n_ready;
	pthread_cond_t ready;
	pthread_t thread[64];
};

static void on_wake(struct ev_loop *loop, ev_async *w, int revents)
{
	jobs_collect(w->data);
}

static void monotonic_cond(pthread_cond_t *c)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

int jobs_new(struct jobs **out, struct ev_loop *loop)
{
	struct jobs *j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	j->loop = loop;
	pthread_mutex_init(&j->lock, NULL);
	monotonic_cond(&j->home);
	list_init(&j->finished);
	ev_async_init(&j->wake, on_wake);
	j->wake.data = j;
	ev_async_start(loop, &j->wake);
	*out = j;
	return 0;
}

void jobs_free(struct jobs **jp)
{
	struct jobs *j = *jp;
	if (!j)
		return;
	jobs_collect(j);
	ASSERT(j->outstanding == 0);
	ev_async_stop(j->loop, &j->wake);
	pthread_cond_destroy(&j->home);
	pthread_mutex_destroy(&j->lock);
	free(j);
	*jp = NULL;
}

uint64_t jobs_outstanding(const struct jobs *j)
{
	return j->outstanding;
}

void jobs_collect(struct jobs *j)
{
	struct list mine;
	list_init(&mine);
	pthread_mutex_lock(&j->lock);
	while (!list_empty(&j->finished)) {
		struct list *n = j->finished.next;
		list_del(n);
		list_add_tail(n, &mine);
	}
	pthread_mutex_unlock(&j->lock);
	while (!list_empty(&mine)) {
		struct job *job = list_first(&mine, struct job, node);
		list_del(&job->node);
		j->outstanding--;
		job->done(job);
	}
}

void jobs_wait(struct jobs *j, uint64_t timeout_ns)
{
	uint64_t until = clock_now() + timeout_ns;
	struct timespec ts = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
	pthread_mutex_lock(&j->lock);
	while (list_empty(&j->finished))
		if (pthread_cond_timedwait(&j->home, &j->lock, &ts))
			break;
	pthread_mutex_unlock(&j->lock);
	jobs_collect(j);
}

static void send_home(struct jobs *j, struct job *job)
{
	job->finished_ns = clock_now();
	pthread_mutex_lock(&j->lock);
	list_add_tail(&job->node, &j->finished);
	pthread_cond_signal(&j->home);
	pthread_mutex_unlock(&j->lock);
	ev_async_send(j->loop, &j->wake);
}

struct job *pool_take(struct pool *p, bool wait)
{
	struct job *job = NULL;
	pthread_mutex_lock(&p->lock);
	while (wait && !p->closing && list_empty(&p->queue))
		pthread_cond_wait(&p->work, &p->lock);
	if (!list_empty(&p->queue)) {
		job = list_first(&p->queue, struct job, node);
		list_del(&job->node);
		job->started_ns = clock_now();
	}
	pthread_mutex_unlock(&p->lock);
	return job;
}

bool pool_wait(struct pool *p, uint64_t timeout_ns)
{
	uint64_t until = clock_now() + timeout_ns;
	struct timespec ts = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
	int e = 0;
	pthread_mutex_lock(&p->lock);
	while (!e && !p->closing && !p->kicked && list_empty(&p->queue))
		e = pthread_cond_timedwait(&p->work, &p->lock, &ts);
	p->kicked = false;
	pthread_mutex_unlock(&p->lock);
	return e == 0;
}

void pool_kick(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->kicked = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
}

bool pool_is_closing(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	bool closing = p->closing;
	pthread_mutex_unlock(&p->lock);
	return closing;
}

void pool_finish(struct pool *p, struct job *job)
{
	send_home(p->back, job);
}

static void serve_one_by_one(struct pool *p, void *worker)
{
	struct job *job;
	while ((job = pool_take(p, true))) {
		job->run(job, worker);
		pool_finish(p, job);
	}
}

static void *thread_main(void *arg)
{
	struct pool *p = arg;
	void *worker = NULL;
	int e = p->ops.worker_new ? p->ops.worker_new(&worker, p->ops.ctx) : 0;
	pthread_mutex_lock(&p->lock);
	p->n_ready++;
	p->n_failed += e < 0;
	pthread_cond_signal(&p->ready);
	pthread_mutex_unlock(&p->lock);
	if (e < 0)
		return NULL;
	if (p->ops.serve)
		p->ops.serve(p, worker);
	else
		serve_one_by_one(p, worker);
	if (p->ops.worker_free)
		p->ops.worker_free(&worker);
	return NULL;
}

/* Workers take no signals: the loop thread does. */
static int start_thread(struct pool *p)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int e = -pthread_create(&p->thread[p->n_threads], NULL, thread_main, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (e)
		return e;
	char name[16];
	snprintf(name, sizeof name, "%s-%zu", p->ops.name, p->n_threads % 100);
	pthread_setname_np(p->thread[p->n_threads], name);
	p->n_threads++;
	return 0;
}

int pool_new(struct pool **out, struct jobs *back, const struct pool_ops *ops, size_t threads)
{
	ASSERT(threads > 0 && threads <= ARRAY_LEN(((struct pool *)0)->thread));
	struct pool *p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	*(struct pool_ops *)&p->ops = *ops;
	p->back = back;
	list_init(&p->queue);
	pthread_mutex_init(&p->lock, NULL);
	monotonic_cond(&p->work);
	pthread_cond_init(&p->ready, NULL);
	int e = 0;
	while (!e && p->n_threads < threads)
		e = start_thread(p);
	pthread_mutex_lock(&p->lock);
	while (p->n_ready < p->n_threads)
		pthread_cond_wait(&p->ready, &p->lock);
	if (p->n_failed)
		e = -EAGAIN;
	pthread_mutex_unlock(&p->lock);
	if (e) {
		pool_free(&p);
		return e;
	}
	*out = p;
	return 0;
}

void pool_free(struct pool **pp)
{
	struct pool *p = *pp;
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->closing = true;
	pthread_cond_broadcast(&p->work);
	while (!list_empty(&p->queue)) {
		struct job *job = list_first(&p->queue, struct job, node);
		list_del(&job->node);
		job->withdrawn = true;
		send_home(p->back, job);
	}
	pthread_mutex_unlock(&p->lock);
	for (size_t i = 0; i < p->n_threads; i++)
		pthread_join(p->thread[i], NULL);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->ready);
	pthread_mutex_destroy(&p->lock);
	free(p);
	*pp = NULL;
}

static bool ranks_before(const struct job *a, const struct job *b)
{
	if (a->class != b->class)
		return a->class < b->class;
	return a->deadline < b->deadline; /* equal: the older one stays in front */
}

void pool_submit(struct pool *p, struct job *job)
{
	list_init(&job->node);
	job->pool = p;
	job->withdrawn = false;
	job->queued_ns = clock_now();
	p->back->outstanding++;
	pthread_mutex_lock(&p->lock);
	ASSERT(!p->closing);
	job->seq = p->seq++;
	struct list *pos = &p->queue;
	while (pos->prev != &p->queue && ranks_before(job, list_entry(pos->prev, struct job, node)))
		pos = pos->prev;
	list_add_before(&job->node, pos);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

size_t pool_threads(const struct pool *p)
{
	return p->n_threads;
}
