/* jit.c - see jit.h.
 * Keeps: the lock is never held over a driver call; pieces end in the order they were picked; a piece's buffer is not used
 * again before its event is over: there is one more of them than pieces in flight. */
#include "tools/bench/jit.h"

#include "cache/linksched.h"
#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define IN_FLIGHT 2
#define SLOTS (IN_FLIGHT + 1)
#define SPIN_NS (50 * NS_PER_US)  /* then the thread sleeps */
#define DOZE_NS (100 * NS_PER_US) /* with room for one more in flight */
#define IDLE_NS NS_PER_S

/* A piece that the engine has. */
struct flight {
	struct linksched_pick pick;
	uint32_t slot;
};

struct side {
	struct jit *all;
	enum way way;
	uint32_t link;
	pthread_t thread;
	pthread_cond_t called;   /* something has come, or the scheduler has kicked */
	bool kicked;             /* under the lock */
	/* the thread's */
	cu_stream stream;
	cu_event event[SLOTS];
	uint8_t *buffer[SLOTS];  /* made when pageable memory first comes */
	struct flight flight[IN_FLIGHT];
	uint32_t n_flight, next_slot;
};

struct jit {
	const struct gpu *g;
	pthread_mutex_t lock;
	pthread_cond_t over;     /* a copy is */
	struct linksched *sched; /* under the lock */
	bool closing;
	struct side side[WAYS];
};

/* ---- the lock ---- */

static void lock(struct jit *j)
{
	pthread_mutex_lock(&j->lock);
}

static void unlock(struct jit *j)
{
	uint64_t kicks = linksched_kicks(j->sched);
	for (int w = 0; w < WAYS; w++)
		if (kicks >> j->side[w].link & 1) {
			j->side[w].kicked = true;
			pthread_cond_signal(&j->side[w].called);
		}
	pthread_mutex_unlock(&j->lock);
}

/* Until called, or for that long; under the lock. */
static void wait_called(struct side *s, uint64_t ns)
{
	uint64_t until = bench_now_ns() + ns;
	const struct timespec t = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
	while (!s->kicked && !s->all->closing)
		if (pthread_cond_timedwait(&s->called, &s->all->lock, &t) == ETIMEDOUT)
			break;
	s->kicked = false;
}

/* ---- pieces ---- */

static struct jit_copy *copy_of(const struct linksched_pick *p)
{
	return (struct jit_copy *)(uintptr_t)p->tag;
}

static uint8_t *buffer_of(struct side *s, uint32_t slot)
{
	if (!s->buffer[slot])
		s->buffer[slot] = gpu_host_alloc(s->all->g, jit_chunk_bytes(s->all));
	return s->buffer[slot];
}

static void submit(struct side *s, const struct linksched_pick *pick)
{
	const struct gpu *g = s->all->g;
	struct jit_copy *c = copy_of(pick);
	uint32_t slot = s->next_slot;
	uint8_t *host = c->host + pick->offset;
	if (c->pageable && s->way == UP)
		host = memcpy(buffer_of(s, slot), host, pick->bytes);
	else if (c->pageable)
		host = buffer_of(s, slot);
	if (s->way == UP)
		GPU_MUST(g, memcpy_htod_async, c->device + pick->offset, host, pick->bytes, s->stream);
	else
		GPU_MUST(g, memcpy_dtoh_async, host, c->device + pick->offset, pick->bytes, s->stream);
	GPU_MUST(g, event_record, s->event[slot], s->stream);
	if (s->n_flight == 0 && pick->offset == 0)
		c->started_ns = bench_now_ns();
	s->flight[s->n_flight++] = (struct flight){.pick = *pick, .slot = slot};
	s->next_slot = (slot + 1) % SLOTS;
}

static void finish_oldest(struct side *s)
{
	struct flight x = s->flight[0];
	struct jit_copy *c = copy_of(&x.pick);
	struct linksched_flow_view last;
	if (c->pageable && s->way == DOWN)
		memcpy(c->host + x.pick.offset, s->buffer[x.slot], x.pick.bytes);
	memmove(&s->flight[0], &s->flight[1], sizeof s->flight[0] * --s->n_flight);
	uint64_t now = bench_now_ns();
	if (s->n_flight && s->flight[0].pick.offset == 0)
		copy_of(&s->flight[0].pick)->started_ns = now;
	lock(s->all);
	if (linksched_done(s->all->sched, now, &x.pick, &last)) {
		c->ended_ns = now;
		c->over = true;
		pthread_cond_broadcast(&s->all->over);
	}
	unlock(s->all);
}

static bool oldest_is_over(struct side *s)
{
	cu_result r = s->all->g->cu->event_query(s->event[s->flight[0].slot]);
	if (r != CU_E_NOT_READY)
		gpu_must(s->all->g, r, "event_query");
	return r == CU_OK;
}

static void await_piece(struct side *s)
{
	for (uint64_t since = bench_now_ns(); bench_now_ns() - since < SPIN_NS;)
		if (oldest_is_over(s)) {
			finish_oldest(s);
			return;
		}
	if (s->n_flight == IN_FLIGHT) {
		GPU_MUST(s->all->g, event_synchronize, s->event[s->flight[0].slot]);
		finish_oldest(s);
		return;
	}
	lock(s->all);
	wait_called(s, DOZE_NS);
	unlock(s->all);
}

/* Gives the engine what the scheduler says, or sleeps when there is nothing at all.  False: the end. */
static bool fill(struct side *s)
{
	while (s->n_flight < IN_FLIGHT) {
		struct linksched_pick pick;
		uint64_t until = 0, now = bench_now_ns();
		lock(s->all);
		enum linksched_answer a = linksched_next(s->all->sched, now, s->link, &pick, &until);
		bool closing = s->all->closing;
		if (a != LINKSCHED_PICK && s->n_flight == 0 && !closing)
			wait_called(s, a == LINKSCHED_NOTHING ? IDLE_NS : until > now ? MIN(until - now, IDLE_NS) : 0);
		unlock(s->all);
		if (a == LINKSCHED_PICK)
			submit(s, &pick);
		else if (s->n_flight)
			return true;
		else if (closing)
			return false;
	}
	return true;
}

static void *serve(void *arg)
{
	struct side *s = arg;
	const struct gpu *g = s->all->g;
	gpu_enter(g);
	while (fill(s))
		await_piece(s);
	for (int i = 0; i < SLOTS; i++)
		if (s->buffer[i])
			GPU_MUST(g, mem_free_host, s->buffer[i]);
	return NULL;
}

/* ---- copies ---- */

void jit_start(struct jit *j, struct jit_copy *c)
{
	uint64_t id;
	c->over = false;
	c->started_ns = c->ended_ns = 0;
	c->asked_ns = bench_now_ns();
	const struct linksched_flow flow = {.link = j->side[c->way].link, .user = LINKSCHED_ANYBODY, .bytes = c->bytes,
		.ready = c->bytes, .deadline = LINKSCHED_NEVER, .tag = (uintptr_t)c,
		.class = c->demand ? LINK_DEMAND : c->way == UP ? LINK_PREFETCH : LINK_DEMOTION};
	lock(j);
	int r = linksched_add(j->sched, c->asked_ns, &flow, &id);
	ASSERT(r == 0);
	j->side[c->way].kicked = true;
	pthread_cond_signal(&j->side[c->way].called);
	unlock(j);
}

void jit_wait(struct jit *j, struct jit_copy *c)
{
	lock(j);
	while (!c->over)
		pthread_cond_wait(&j->over, &j->lock);
	unlock(j);
}

uint64_t jit_bound_ns(const struct jit *j)
{
	return linksched_bound_ns(j->sched, j->side[UP].link);
}

uint64_t jit_chunk_bytes(const struct jit *j)
{
	return MAX(linksched_chunk_bytes(j->sched, j->side[UP].link), linksched_chunk_bytes(j->sched, j->side[DOWN].link));
}

/* ---- life ---- */

static void add_side(struct jit *j, enum way w, const struct link_rates *r, bool buckets)
{
	struct side *s = &j->side[w];
	struct linksched_link_config config = {.share = buckets ? 900 : 1000, .calibration = {
		.bytes_per_s = MIN(r->bytes_per_s[w], LINKSCHED_MAX_RATE), .duplex = r->duplex[w],
		.overhead_ns = MIN(r->overhead_ns, NS_PER_MS), .submit_ns = MIN(r->submit_ns, NS_PER_MS)}};
	if (buckets && w == DOWN && r->duplex[UP] < 1000) {
		config.hops[0].node = linksched_link_node(j->sched, j->side[UP].link);
		config.hops[0].charge = 1000 - r->duplex[UP];
		config.n_hops = 1;
	}
	*s = (struct side){.all = j, .way = w};
	if (linksched_link_add(j->sched, &config, &s->link))
		die("the link's figures make no sense: %.1f GB/s, %u thousandths beside the other way",
			(double)r->bytes_per_s[w] / 1e9, r->duplex[w]);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->called, &attr);
	pthread_condattr_destroy(&attr);
	GPU_MUST(j->g, stream_create, &s->stream, CU_STREAM_NO_NULL_SYNC);
	for (int i = 0; i < SLOTS; i++)
		GPU_MUST(j->g, event_create, &s->event[i], CU_EVENT_BLOCKING | CU_EVENT_NO_TIMING);
}

void jit_new(struct jit **out, const struct gpu *g, const struct link_rates *rates, bool buckets)
{
	struct jit *j = calloc(1, sizeof *j);
	const struct linksched_config config = {.in_flight = IN_FLIGHT};
	ASSERT(j);
	j->g = g;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->over, NULL);
	int r = linksched_new(&j->sched, &config);
	ASSERT(r == 0);
	for (int w = 0; w < WAYS; w++)
		add_side(j, (enum way)w, rates, buckets);
	for (int w = 0; w < WAYS; w++) {
		r = pthread_create(&j->side[w].thread, NULL, serve, &j->side[w]);
		if (r)
			die_errno(r, "pthread_create");
	}
	*out = j;
}

void jit_free(struct jit **p)
{
	struct jit *j = STEAL(*p);
	lock(j);
	j->closing = true;
	for (int w = 0; w < WAYS; w++)
		pthread_cond_signal(&j->side[w].called);
	unlock(j);
	for (int w = 0; w < WAYS; w++) {
		struct side *s = &j->side[w];
		pthread_join(s->thread, NULL);
		GPU_MUST(j->g, stream_destroy, s->stream);
		for (int i = 0; i < SLOTS; i++)
			GPU_MUST(j->g, event_destroy, s->event[i]);
		pthread_cond_destroy(&s->called);
	}
	linksched_free(&j->sched);
	pthread_cond_destroy(&j->over);
	pthread_mutex_destroy(&j->lock);
	free(j);
}
