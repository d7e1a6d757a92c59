/* pread.c - the engine for machines that refuse io_uring: helper threads that call pread.
 * Keeps: todo, done, woken and stop are only touched under the lock; a piece is in one of the two queues or in one
 * helper's hands. */
#include "mrm/io/engine.h"

#include "shared/check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define PREAD_MAGIC 0x70726561u
#define MAX_HELPERS 8

struct queue {
	struct piece *first, **last;
};

struct helpers {
	uint32_t magic;
	pthread_mutex_t lock;
	pthread_cond_t work, news;
	struct queue todo, done;
	bool woken, stop;
	uint32_t running; /* owner only */
	uint32_t n;
	pthread_t threads[MAX_HELPERS];
};

static void queue_init(struct queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void queue_add(struct queue *q, struct piece *p)
{
	p->next = NULL;
	*q->last = p;
	q->last = &p->next;
}

static struct piece *queue_take(struct queue *q)
{
	struct piece *p = q->first;
	if (p && !(q->first = p->next))
		q->last = &q->first;
	return p;
}

static void *help(void *arg)
{
	struct helpers *h = arg;
	pthread_mutex_lock(&h->lock);
	for (;;) {
		struct piece *p = queue_take(&h->todo);
		if (!p && h->stop)
			break;
		if (!p) {
			pthread_cond_wait(&h->work, &h->lock);
			continue;
		}
		pthread_mutex_unlock(&h->lock);
		struct attempt a = piece_attempt(p);
		ssize_t n = pread(p->fd, a.dst, a.bytes, (off_t)a.off);
		p->res = n < 0 ? -errno : (int32_t)n;
		pthread_mutex_lock(&h->lock);
		queue_add(&h->done, p);
		pthread_cond_signal(&h->news);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static void pread_close(void *engine)
{
	struct helpers *h = engine;
	if (!h)
		return;
	CHECK_OBJ(h, PREAD_MAGIC);
	ASSERT(h->running == 0);
	pthread_mutex_lock(&h->lock);
	h->stop = true;
	pthread_cond_broadcast(&h->work);
	pthread_mutex_unlock(&h->lock);
	for (uint32_t i = 0; i < h->n; i++)
		pthread_join(h->threads[i], NULL);
	pthread_cond_destroy(&h->work);
	pthread_cond_destroy(&h->news);
	pthread_mutex_destroy(&h->lock);
	h->magic = 0;
	free(h);
}

/* Helpers take no signals: those are the loop thread's. */
static int start_helpers(struct helpers *h, uint32_t n)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = 0;
	while (h->n < n && (r = pthread_create(&h->threads[h->n], NULL, help, h)) == 0)
		h->n++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return h->n ? 0 : -r; /* fewer than wanted is slower, not wrong */
}

static int pread_open(void **engine, uint32_t depth, const struct engine_buffer *buffers, struct reader_mode *mode)
{
	struct helpers *h = calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->magic = PREAD_MAGIC;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->work, NULL);
	pthread_cond_init(&h->news, NULL);
	queue_init(&h->todo);
	queue_init(&h->done);
	int r = start_helpers(h, MIN(depth, (uint32_t)MAX_HELPERS));
	if (r < 0) {
		pread_close(h);
		return r;
	}
	*engine = h;
	return 0;
}

static bool pread_start(void *engine, struct piece *p)
{
	struct helpers *h = engine;
	pthread_mutex_lock(&h->lock);
	queue_add(&h->todo, p);
	pthread_cond_signal(&h->work);
	pthread_mutex_unlock(&h->lock);
	h->running++;
	return true;
}

static void pread_flush(void *engine)
{
	/* start has told a helper already */
}

static int pread_reap(void *engine, bool block, struct piece **out)
{
	struct helpers *h = engine;
	pthread_mutex_lock(&h->lock);
	while (block && !h->done.first && !h->woken)
		pthread_cond_wait(&h->news, &h->lock);
	struct piece *p = queue_take(&h->done);
	if (!p)
		h->woken = false;
	pthread_mutex_unlock(&h->lock);
	if (!p)
		return -EAGAIN;
	h->running--;
	*out = p;
	return 0;
}

static void pread_wake(void *engine)
{
	struct helpers *h = engine;
	pthread_mutex_lock(&h->lock);
	h->woken = true;
	pthread_cond_signal(&h->news);
	pthread_mutex_unlock(&h->lock);
}

const struct engine_ops engine_pread = {pread_open, pread_close, pread_start, pread_flush, pread_reap, pread_wake};
