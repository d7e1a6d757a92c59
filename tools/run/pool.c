/* pool.c - a few threads behind a counter.
 * Keeps: a thread does exactly the part that has its number.  Threads look for work for a while before they sleep, since the
 * next layer's loop usually begins within microseconds. */
#include "tools/run/pool.h"

#include "shared/base.h"

#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOKS 2000 /* before sleeping: some 20 us */

struct pool {
	uint32_t threads, started;
	pool_fn *fn;
	void *arg;
	_Atomic uint32_t round; /* counts loops; odd-even means nothing */
	_Atomic uint32_t left;  /* threads still at it */
	atomic_bool over;
	pthread_t *ids;
	pthread_t caller; /* of the first loop, once `spread` */
	bool spread;
	cpu_set_t given;  /* cores of the process when the pool was made */
};

struct worker {
	struct pool *pool;
	uint32_t part;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static uint32_t next_change(_Atomic uint32_t *word, uint32_t seen)
{
	uint32_t now;
	for (int i = 0; i < LOOKS; i++) {
		if ((now = atomic_load_explicit(word, memory_order_acquire)) != seen)
			return now;
		__builtin_ia32_pause();
	}
	while ((now = atomic_load_explicit(word, memory_order_acquire)) == seen)
		futex_wait(word, seen);
	return now;
}

static void *work(void *arg)
{
	struct worker w = *(struct worker *)arg;
	struct pool *p = w.pool;
	free(arg);
	for (uint32_t round = 0;;) {
		round = next_change(&p->round, round);
		if (atomic_load(&p->over))
			return NULL;
		p->fn(p->arg, w.part, p->threads);
		if (atomic_fetch_sub_explicit(&p->left, 1, memory_order_release) == 1)
			futex_wake(&p->left);
	}
}

static uint32_t cores(struct pool *p)
{
	if (sched_getaffinity(0, sizeof p->given, &p->given))
		CPU_ZERO(&p->given);
	return (uint32_t)MAX(CPU_COUNT(&p->given), 1);
}

static int start(struct pool *p, uint32_t part)
{
	struct worker *w = malloc(sizeof *w);
	if (!w)
		return -ENOMEM;
	*w = (struct worker){p, part};
	int r = pthread_create(&p->ids[part], NULL, work, w);
	if (r) {
		free(w);
		return -r;
	}
	p->started++;
	return 0;
}

int pool_new(uint32_t threads, struct pool **out)
{
	struct pool *p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	uint32_t all = cores(p);
	p->threads = MIN(threads ? threads : all, POOL_MAX_THREADS);
	p->started = 1; /* the caller is part 0 */
	p->ids = calloc(p->threads, sizeof *p->ids);
	int r = p->ids ? 0 : -ENOMEM;
	for (uint32_t i = 1; !r && i < p->threads; i++)
		r = start(p, i);
	if (r)
		pool_free(&p);
	else
		*out = p;
	return r;
}

void pool_free(struct pool **pool)
{
	struct pool *p = *pool;
	if (!p)
		return;
	atomic_store(&p->over, true);
	atomic_fetch_add(&p->round, 1);
	futex_wake(&p->round);
	for (uint32_t i = 1; i < p->started; i++)
		pthread_join(p->ids[i], NULL);
	if (p->spread && pthread_equal(p->caller, pthread_self()))
		pthread_setaffinity_np(p->caller, sizeof p->given, &p->given);
	free(p->ids);
	free(p);
	*pool = NULL;
}

uint32_t pool_threads(const struct pool *pool)
{
	return pool->threads;
}

static void keep_on(pthread_t thread, int core)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(core, &one);
	pthread_setaffinity_np(thread, sizeof one, &one); /* refused: the scheduler goes on doing as it likes */
}

/* Where there is a thread for each core, each stays on its own from the first loop on: what the caller did before, a load by threads
 * that are gone or a wait, may have left all of them on one, and the scheduler takes longer to see it than a first pass. */
static void spread(struct pool *p)
{
	int mine = sched_getcpu(), core = 0;
	p->spread = true;
	p->caller = pthread_self();
	if (p->threads < 2 || p->threads != (uint32_t)CPU_COUNT(&p->given) || mine < 0 || !CPU_ISSET(mine, &p->given))
		return;
	keep_on(p->caller, mine);
	for (uint32_t i = 1; i < p->threads; i++, core++) {
		while (core == mine || !CPU_ISSET(core, &p->given))
			core++;
		keep_on(p->ids[i], core);
	}
}

void pool_run(struct pool *p, pool_fn *fn, void *arg)
{
	if (!p->spread)
		spread(p);
	p->fn = fn;
	p->arg = arg;
	if (p->threads > 1) {
		atomic_store_explicit(&p->left, p->threads - 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&p->round, 1, memory_order_release);
		futex_wake(&p->round);
	}
	fn(arg, 0, p->threads);
	for (uint32_t left = p->threads - 1; p->threads > 1 && (left = atomic_load_explicit(&p->left, memory_order_acquire));)
		next_change(&p->left, left);
}
