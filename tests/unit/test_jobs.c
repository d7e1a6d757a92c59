/* test_jobs.c - mrm/jobs: every job comes home once, best first, whatever becomes of its pool. */
#include "mrm/clock.h"
#include "mrm/jobs.h"
#include "shared/base.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <ev.h>
#include <semaphore.h>
#include <stdatomic.h>

#define MANY 5000

struct fixture {
	struct ev_loop *loop;
	struct jobs *jobs;
	struct pool *pool;
	sem_t held, release; /* of the job that keeps a worker busy */
	unsigned n_ran, n_home, n_withdrawn;
	uint32_t order[MANY];
};

struct task {
	struct job job;
	struct fixture *fx;
	uint32_t number;
	_Atomic unsigned ran;
	unsigned home;
};

static void run(struct job *job, void *worker)
{
	atomic_fetch_add(&container_of(job, struct task, job)->ran, 1);
}

static void home(struct job *job)
{
	struct task *t = container_of(job, struct task, job);
	struct fixture *fx = t->fx;
	ck_assert_uint_eq(++t->home, 1);
	ck_assert_uint_eq(atomic_load(&t->ran), !job->withdrawn);
	if (!job->withdrawn) {
		ck_assert_uint_le(job->queued_ns, job->started_ns);
		ck_assert_uint_le(job->started_ns, job->finished_ns);
		fx->order[fx->n_ran++] = t->number;
	}
	fx->n_withdrawn += job->withdrawn;
	fx->n_home++;
}

static void init(struct fixture *fx, size_t threads)
{
	static const struct pool_ops ops = {.name = "test"};
	*fx = (struct fixture){.loop = ev_loop_new(EVFLAG_AUTO)};
	ck_assert_int_eq(jobs_new(&fx->jobs, fx->loop), 0);
	ck_assert_int_eq(pool_new(&fx->pool, fx->jobs, &ops, threads), 0);
	ck_assert_uint_eq(pool_threads(fx->pool), threads);
	sem_init(&fx->held, 0, 0);
	sem_init(&fx->release, 0, 0);
}

static void fini(struct fixture *fx)
{
	pool_free(&fx->pool);
	ck_assert_ptr_null(fx->pool);
	jobs_free(&fx->jobs);
	ck_assert_ptr_null(fx->jobs);
	ev_loop_destroy(fx->loop);
	sem_destroy(&fx->held);
	sem_destroy(&fx->release);
}

static void submit(struct fixture *fx, struct task *t, uint32_t number, enum load_class class, uint64_t deadline)
{
	t->fx = fx;
	t->number = number;
	t->job = (struct job){.run = run, .done = home, .class = class, .deadline = deadline};
	pool_submit(fx->pool, &t->job);
}

static void hold(struct job *job, void *worker)
{
	struct task *t = container_of(job, struct task, job);
	sem_post(&t->fx->held);
	sem_wait(&t->fx->release);
	atomic_fetch_add(&t->ran, 1);
}

/* Keeps the only worker busy until fx->release. */
static void occupy(struct fixture *fx, struct task *t)
{
	*t = (struct task){.fx = fx, .number = UINT32_MAX, .job = {.run = hold, .done = home}};
	pool_submit(fx->pool, &t->job);
	sem_wait(&fx->held);
}

static bool ranks_before(const struct task *a, const struct task *b)
{
	if (a->job.class != b->job.class)
		return a->job.class < b->job.class;
	if (a->job.deadline != b->job.deadline)
		return a->job.deadline < b->job.deadline;
	return a->number < b->number;
}

START_TEST(jobs_run_by_class_deadline_and_age)
{
	enum { N = 300 };
	struct fixture fx;
	struct task busy;
	static struct task tasks[N];
	uint64_t seed = unit_seed();
	init(&fx, 1);
	occupy(&fx, &busy);
	for (uint32_t i = 0; i < N; i++)
		submit(&fx, &tasks[i], i, (enum load_class)(unit_random(&seed) % CLASS_N), unit_random(&seed) % 5);
	sem_post(&fx.release);
	while (jobs_outstanding(fx.jobs))
		jobs_wait(fx.jobs, NS_PER_S);
	ck_assert_uint_eq(fx.n_ran, N + 1);
	ck_assert_uint_eq(fx.order[0], UINT32_MAX);
	for (uint32_t i = 2; i <= N; i++)
		ck_assert_msg(ranks_before(&tasks[fx.order[i - 1]], &tasks[fx.order[i]]), "place %u", i);
	fini(&fx);
}
END_TEST

START_TEST(the_loop_brings_every_job_home_once)
{
	struct fixture fx;
	static struct task tasks[MANY];
	init(&fx, 8);
	for (uint32_t i = 0; i < MANY; i++)
		submit(&fx, &tasks[i], i, CLASS_DEMAND, 0);
	ck_assert_uint_eq(jobs_outstanding(fx.jobs), MANY);
	while (jobs_outstanding(fx.jobs))
		ev_run(fx.loop, EVRUN_ONCE);
	ck_assert_uint_eq(fx.n_ran, MANY);
	ck_assert_uint_eq(fx.n_home, MANY);
	fini(&fx);
}
END_TEST

START_TEST(what_a_closing_pool_has_not_begun_is_withdrawn)
{
	enum { N = 100 };
	struct fixture fx;
	struct task busy;
	static struct task tasks[N];
	init(&fx, 1);
	occupy(&fx, &busy);
	for (uint32_t i = 0; i < N; i++)
		submit(&fx, &tasks[i], i, CLASS_DEMAND, 0);
	sem_post(&fx.release); /* pool_free() waits for the busy one; it may take some more before it sees the end */
	pool_free(&fx.pool);
	jobs_collect(fx.jobs);
	ck_assert_uint_eq(fx.n_home, N + 1);
	ck_assert_uint_eq(fx.n_ran + fx.n_withdrawn, N + 1);
	ck_assert_uint_eq(jobs_outstanding(fx.jobs), 0);
	fini(&fx);
}
END_TEST

struct chain {
	struct task task;
	unsigned left;
};

static void next(struct job *job)
{
	struct chain *c = container_of(container_of(job, struct task, job), struct chain, task);
	if (c->left-- == 0)
		return;
	c->task.job = (struct job){.run = run, .done = next};
	pool_submit(c->task.fx->pool, &c->task.job);
}

START_TEST(a_job_may_be_submitted_again_by_its_own_done)
{
	struct fixture fx;
	init(&fx, 4);
	struct chain chains[10];
	for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
		chains[i] = (struct chain){.task.fx = &fx, .left = 200};
		chains[i].task.job = (struct job){.run = run, .done = next};
		pool_submit(fx.pool, &chains[i].task.job);
	}
	while (jobs_outstanding(fx.jobs))
		jobs_wait(fx.jobs, NS_PER_S);
	for (size_t i = 0; i < ARRAY_LEN(chains); i++)
		ck_assert_uint_eq(atomic_load(&chains[i].task.ran), 201);
	fini(&fx);
}
END_TEST

START_TEST(waiting_ends_with_the_first_job_that_comes_or_when_the_time_is_up)
{
	struct fixture fx;
	struct task task;
	init(&fx, 1);
	occupy(&fx, &task);
	uint64_t began = clock_now();
	jobs_wait(fx.jobs, 20 * NS_PER_MS);
	ck_assert_uint_ge(clock_now() - began, 20 * NS_PER_MS);
	jobs_wait(fx.jobs, 0);
	ck_assert_uint_eq(fx.n_home, 0);
	ck_assert_uint_eq(jobs_outstanding(fx.jobs), 1);
	sem_post(&fx.release);
	jobs_wait(fx.jobs, 3600 * NS_PER_S); /* the test's own time would be up first */
	ck_assert_uint_eq(fx.n_home, 1);
	ck_assert_uint_eq(jobs_outstanding(fx.jobs), 0);
	fini(&fx);
}
END_TEST

static _Atomic int alive, made;

static int count_worker(void **out, void *ctx)
{
	const int *fail_at = ctx;
	if (atomic_fetch_add(&made, 1) == *fail_at)
		return -ENOMEM;
	atomic_fetch_add(&alive, 1);
	*out = &alive;
	return 0;
}

static void drop_worker(void **worker)
{
	ck_assert_ptr_eq(*worker, &alive);
	atomic_fetch_sub(&alive, 1);
	*worker = NULL;
}

START_TEST(a_worker_that_cannot_be_had_fails_the_pool_and_leaves_nothing)
{
	for (int fail_at = 0; fail_at < 5; fail_at++) {
		struct pool_ops ops = {.name = "test", .worker_new = count_worker, .worker_free = drop_worker, .ctx = &fail_at};
		struct fixture fx;
		struct pool *p = NULL;
		init(&fx, 1);
		made = 0;
		ck_assert_int_eq(pool_new(&p, fx.jobs, &ops, 5), -EAGAIN);
		ck_assert_ptr_null(p);
		ck_assert_int_eq(alive, 0);
		fini(&fx);
	}
}
END_TEST

static void see_worker(struct job *job, void *worker)
{
	ck_assert_ptr_eq(worker, &alive);
	run(job, worker);
}

START_TEST(workers_get_what_was_made_for_them)
{
	int never = -1;
	struct pool_ops ops = {.name = "test", .worker_new = count_worker, .worker_free = drop_worker, .ctx = &never};
	struct fixture fx;
	init(&fx, 1);
	pool_free(&fx.pool);
	ck_assert_int_eq(pool_new(&fx.pool, fx.jobs, &ops, 3), 0);
	ck_assert_int_eq(alive, 3);
	struct task t = {.fx = &fx, .job = {.run = see_worker, .done = home}};
	pool_submit(fx.pool, &t.job);
	while (jobs_outstanding(fx.jobs))
		jobs_wait(fx.jobs, NS_PER_S);
	fini(&fx);
	ck_assert_int_eq(alive, 0);
}
END_TEST

/* Takes up to four at a time and finishes the newest first. */
static void serve(struct pool *p, void *worker)
{
	struct job *held[4];
	size_t n = 0;
	for (;;) {
		struct job *job;
		while (n < ARRAY_LEN(held) && (job = pool_take(p, n == 0)))
			held[n++] = job;
		if (!n && pool_is_closing(p))
			return;
		if (n) {
			held[n - 1]->run(held[n - 1], worker);
			pool_finish(p, held[--n]);
		}
	}
}

START_TEST(a_worker_may_hold_several_jobs)
{
	static struct task tasks[MANY];
	struct pool_ops ops = {.name = "test", .serve = serve};
	struct fixture fx;
	init(&fx, 1);
	pool_free(&fx.pool);
	ck_assert_int_eq(pool_new(&fx.pool, fx.jobs, &ops, 4), 0);
	for (uint32_t i = 0; i < MANY; i++)
		submit(&fx, &tasks[i], i, CLASS_DEMAND, 0);
	while (jobs_outstanding(fx.jobs))
		jobs_wait(fx.jobs, NS_PER_S);
	ck_assert_uint_eq(fx.n_ran, MANY);
	fini(&fx);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "jobs", jobs_run_by_class_deadline_and_age, the_loop_brings_every_job_home_once,
		what_a_closing_pool_has_not_begun_is_withdrawn, a_job_may_be_submitted_again_by_its_own_done,
		waiting_ends_with_the_first_job_that_comes_or_when_the_time_is_up);
	UNIT_CASE(suite, "workers", a_worker_that_cannot_be_had_fails_the_pool_and_leaves_nothing,
		workers_get_what_was_made_for_them, a_worker_may_hold_several_jobs);
}

UNIT_MAIN("jobs", all)
