/* canary.c - see canary.h.
 * Keeps: while a job is at a canary its memory is the job's alone, and everybody who wants it waits; a spoiled one is never
 * repaired but replaced, since whoever has spoiled it may still have it mapped. */
#include "mrm/gpu/canary.h"

#include "mrm/daemon.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/session.h"
#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define CANARY_BYTES (2 * MIB) /* the smallest allocation there is */
#define WORDS (CANARY_BYTES / sizeof(uint64_t))

struct trial {
	struct gpu_memory *memory; /* NULL: not made */
	struct shm_region records;
	uint64_t seed;
};

struct canary {
	struct canaries *all;
	uint32_t device;
	enum gpu_export export;
	struct trial trial;
	bool at_work;
	struct list waiting;
};

struct canaries {
	struct daemon *daemon;
	uint64_t made; /* so far: the next one's generation */
	struct canary canary[GPU_MAX_DEVICES][2];
};

struct canary_job {
	struct job job;
	struct canary *canary;
	uint64_t generation;
	struct trial trial;
	bool made_anew;
	int result;
	struct fault why;
};

static void trial_free(struct trial *t)
{
	gpu_memory_free(&t->memory);
	shm_fini(&t->records);
	t->records = (struct shm_region){.fd = -1};
}

struct canaries *canaries_new(struct daemon *d)
{
	struct canaries *all = calloc(1, sizeof *all);
	ASSERT(all);
	all->daemon = d;
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		for (uint32_t e = 0; e < 2; e++) {
			struct canary *c = &all->canary[i][e];
			*c = (struct canary){.all = all, .device = i, .export = (enum gpu_export)(GPU_EXPORT_VMM_FD + e)};
			c->trial.records.fd = -1;
			list_init(&c->waiting);
		}
	return all;
}

void canaries_free(struct canaries **p)
{
	struct canaries *all = STEAL(*p);
	if (!all)
		return;
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		for (uint32_t e = 0; e < 2; e++) {
			ASSERT(!all->canary[i][e].at_work);
			trial_free(&all->canary[i][e].trial);
		}
	free(all);
}

/* ---- on a worker ---- */

/* 1: as it was written; 0: not. */
static int is_intact(struct trial *t, struct fault *why)
{
	OWN_MEM uint64_t *words = malloc(CANARY_BYTES);
	ASSERT(words);
	int e = gpu_memory_read(t->memory, 0, 0, words, CANARY_BYTES, why);
	for (uint64_t i = 0; !e && i < WORDS; i++)
		if (words[i] != gpu_canary_word(t->seed, i))
			return 0;
	return e ? e : 1;
}

static int make(struct canary_job *j)
{
	struct canary *c = j->canary;
	struct daemon *d = c->all->daemon;
	struct trial *t = &j->trial;
	uint64_t bytes = CANARY_BYTES;
	OWN_MEM uint64_t *words = malloc(CANARY_BYTES);
	ASSERT(words);
	if (getrandom(&t->seed, sizeof t->seed, 0) != sizeof t->seed)
		t->seed = j->generation * 0x9e3779b97f4a7c15u; /* it tells memory apart, it keeps no secret */
	for (uint64_t i = 0; i < WORDS; i++)
		words[i] = gpu_canary_word(t->seed, i);
	int e = gpu_memory_new(&t->memory, d->gpu, c->device, c->export, &bytes, 1, &j->why);
	e = e ? e : gpu_memory_write(t->memory, 0, 0, words, CANARY_BYTES, &j->why);
	return e ? e : session_records_new(&t->records, t->memory, NULL, 1, j->generation, &d->shm, &j->why);
}

static void run(struct job *job, void *worker)
{
	struct canary_job *j = container_of(job, struct canary_job, job);
	int intact = j->trial.memory ? is_intact(&j->trial, &j->why) : 0;
	if (intact) {
		j->result = MIN(intact, 0);
		return;
	}
	trial_free(&j->trial);
	j->made_anew = true;
	j->result = make(j);
	if (j->result)
		trial_free(&j->trial);
}

/* ---- on the loop ---- */

static void done(struct job *job)
{
	struct canary_job *j = container_of(job, struct canary_job, job);
	struct canary *c = j->canary;
	struct list now = {&now, &now};
	if (job->withdrawn) {
		j->result = -ECANCELED;
		fault_set(&j->why, TRIMS_E_STOPPING, "the daemon is stopping");
	}
	c->trial = j->trial;
	c->at_work = false;
	while (!list_empty(&c->waiting)) { /* whoever comes while they are called is not among them */
		struct list *node = c->waiting.next;
		list_del(node);
		list_add_tail(node, &now);
	}
	while (!list_empty(&now)) {
		struct canary_wait *w = list_first(&now, struct canary_wait, node);
		list_del(&w->node);
		w->ready(w, j->result ? NULL : c, j->made_anew, &j->why);
	}
	free(j);
}

static void start(struct canary *c)
{
	struct canary_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	j->canary = c;
	j->generation = UINT64_MAX - c->all->made++; /* no copy will ever have it */
	j->trial = c->trial;
	c->trial = (struct trial){.records = {.fd = -1}};
	c->at_work = true;
	pool_submit(c->all->daemon->misc, &j->job);
}

void canary_wait_init(struct canary_wait *w,
	void (*ready)(struct canary_wait *, const struct canary *, bool, const struct fault *))
{
	list_init(&w->node);
	w->ready = ready;
}

void canary_get(struct canaries *all, uint32_t device, enum gpu_export export, bool doubted, struct canary_wait *w)
{
	struct canary *c = &all->canary[device][export - GPU_EXPORT_VMM_FD];
	if (!c->at_work && c->trial.memory && !doubted) {
		w->ready(w, c, false, NULL);
		return;
	}
	list_add_tail(&w->node, &c->waiting);
	if (!c->at_work)
		start(c);
}

void canary_unwait(struct canary_wait *w)
{
	list_del(&w->node);
}

void canary_fill(const struct canary *c, struct msg_canary *m)
{
	const struct gpu_facts *f = gpu_facts(c->all->daemon->gpu, c->device);
	m->export = c->export;
	MSG_SET_STR(m->device, f->uuid);
	m->bytes = CANARY_BYTES;
	m->seed = c->trial.seed;
	m->fds = (struct msg_fds){.n = 1, .fd = {c->trial.records.fd}};
	if (c->export == GPU_EXPORT_VMM_FD)
		m->fds.fd[m->fds.n++] = gpu_memory_fd(c->trial.memory, 0);
}
