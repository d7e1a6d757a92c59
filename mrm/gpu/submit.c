/* submit.c - see submit.h.
 *
 * The link scheduler and the lists of flows are under one lock, which is held for microseconds and never over a driver call.
 * A chunk belongs to the loop, then (gpu_flow_submit) to its link's thread, then to the loop again.
 * Keeps: the scheduler is told that a piece is done before its chunk goes home, so a flow of which nothing is out has nothing
 * in flight; pieces are told in the order they were picked; what a piece's copy reads stays until its event is over. */
#include "mrm/gpu/submit_impl.h"

#include "mrm/clock.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPIN_NS (50 * NS_PER_US)      /* then the thread sleeps: a piece takes 40 to 200 us */
#define DOZE_NS (100 * NS_PER_US)     /* with room for one more in flight: new work must not wait for the old */
#define IDLE_NS NS_PER_S
#define COPY_TELLS (64 * KIB)         /* a copy by the CPU of less than that is no measurement */

/* ---- the lock ---- */

void links_lock(struct gpu_links *l)
{
	pthread_mutex_lock(&l->lock);
}

void links_unlock(struct gpu_links *l)
{
	uint64_t kicks = linksched_kicks(l->sched);
	pthread_mutex_unlock(&l->lock);
	for (uint32_t d = 0; kicks && d < l->n; d++)
		for (int i = 0; i < GPU_DIRECTIONS; i++)
			if (kicks >> l->link[d][i].index & 1)
				pool_kick(l->link[d][i].pool);
}

static void add_waits(struct gpu_waits *out, const struct linksched_flow_view *v)
{
	out->waits += v->waits;
	out->longest_ns = MAX(out->longest_ns, v->wait_max_ns);
	out->capped_ns += v->capped_ns;
	for (unsigned i = 0; i < LINK_WAITS; i++)
		out->waited_ns[i] += v->waited_ns[i];
}

/* The scheduler has forgotten the flow. */
static void flow_ended(struct gpu_flow *f, const struct linksched_flow_view *last)
{
	add_waits(&f->waits, last);
	f->id = 0;
}

/* ---- chunks come and go ---- */

static void send_home(struct link *k, struct gpu_chunk *c)
{
	list_del(&c->job.node);
	pool_finish(k->mine, &c->job);
}

static void accept_chunks(struct link *k)
{
	struct job *job;
	while ((job = pool_take(k->mine, false))) {
		struct gpu_chunk *c = container_of(job, struct gpu_chunk, job);
		struct gpu_flow *f = c->flow;
		list_add_tail(&job->node, &f->chunks);
		links_lock(k->all);
		if (!f->cancelled && linksched_ready(k->all->sched, clock_now(), f->id, c->bytes))
			NEVER(); /* more than the flow was made for */
		k->called_back |= f->cancelled || f->called_back;
		links_unlock(k->all);
	}
}

static bool in_flight(const struct link *k, const struct gpu_chunk *c)
{
	for (uint32_t i = 0; i < k->n_flight; i++)
		if (k->flight[i].chunk == c)
			return true;
	return false;
}

/* Under the lock; the scheduler hears that the flow has so much less. */
static void call_back(struct gpu_flow *f, uint64_t bytes)
{
	struct linksched_flow_view last;
	if (!bytes || !f->id || f->cancelled)
		return;
	f->bytes -= bytes;
	int e = linksched_call_back(f->link->all->sched, clock_now(), f->id, bytes, &last);
	ASSERT(!e);
	if (last.id)
		flow_ended(f, &last);
}

/* Under the lock; nobody else's flows are on its link. */
static bool is_alone(const struct gpu_flow *f)
{
	struct linksched_link_view v;
	int e = linksched_link_view(f->link->all->sched, f->link->index, &v);
	ASSERT(!e);
	return v.flows == (f->id ? 1 : 0);
}

/* Under the lock.  Those of a cancelled flow, but for what the engine works on; of one that was called back likewise where others
 * would be served before the rest of a chunk, else those of which nothing was picked. */
static void collect_of(struct link *k, struct gpu_flow *f, struct list *out)
{
	bool whole = !f->cancelled && is_alone(f);
	struct list keep;
	uint64_t bytes = 0;
	list_init(&keep);
	while (!list_empty(&f->chunks)) {
		struct gpu_chunk *c = list_first(&f->chunks, struct gpu_chunk, job.node);
		bool stays = whole ? c->picked_bytes > 0 : in_flight(k, c);
		list_del(&c->job.node);
		list_add_tail(&c->job.node, stays ? &keep : out);
		if (c->called_back || (stays && whole))
			continue;
		c->called_back = true;
		bytes += c->bytes - c->picked_bytes;
	}
	while (!list_empty(&keep)) {
		struct list *c = keep.next;
		list_del(c);
		list_add_tail(c, &f->chunks);
	}
	call_back(f, bytes);
}

/* Under the lock. */
static void collect_called_back(struct link *k, struct list *out)
{
	list_for_each(n, &k->flows) {
		struct gpu_flow *f = list_entry(n, struct gpu_flow, node);
		if (f->cancelled || f->called_back)
			collect_of(k, f, out);
	}
}

static void send_called_back(struct link *k)
{
	struct list home;
	list_init(&home);
	links_lock(k->all);
	if (k->called_back)
		collect_called_back(k, &home);
	k->called_back = false;
	links_unlock(k->all);
	while (!list_empty(&home)) {
		struct gpu_chunk *c = list_first(&home, struct gpu_chunk, job.node);
		c->job.withdrawn = true;
		send_home(k, c);
	}
}

/* What is to go home went out of the scheduler's sight when it came, or does so here, before the next piece is picked. */
static void look_for_work(struct link *k)
{
	accept_chunks(k);
	send_called_back(k);
}

/* ---- pieces ---- */

static void chunk_failed(struct gpu_chunk *c, int e, const struct fault *why)
{
	if (c->result)
		return;
	c->result = e;
	c->why = *why;
}

static int make_buffer(struct link *k, uint32_t slot, struct fault *why)
{
	void *p = NULL;
	cu_result r = k->all->gpu->cu->mem_host_alloc(&p, BUFFER_BYTES, CU_HOST_PORTABLE);
	if (r)
		return gpu_failed(k->all->gpu, k->device, r, "cuMemHostAlloc", why);
	k->buffer[slot] = p;
	return 0;
}

/* One that could not be had at start (no-copy-ring) is made here, where others wait meanwhile. */
static int get_buffer(struct link *k, uint32_t slot, struct fault *why)
{
	atomic_fetch_add_explicit(&k->buffered, 1, memory_order_relaxed);
	if (k->buffer[slot])
		return 0;
	atomic_fetch_add_explicit(&k->late_buffers, 1, memory_order_relaxed);
	return make_buffer(k, slot, why);
}

/* An estimate that trusts bad news at once and good ones slowly: too large a piece breaks a promise, too small a one costs little.  What
 * is short says more about the clock than about copying. */
static void note_copy(struct link *k, uint64_t bytes, uint64_t ns)
{
	uint64_t was = atomic_load_explicit(&k->copy_bytes_per_s, memory_order_relaxed), now = bytes * NS_PER_S / MAX(ns, 1u);
	if (bytes < COPY_TELLS && was)
		return;
	uint64_t then = !was ? now : now < was ? was - (was - now) / 2 : was + (now - was) / 16;
	atomic_store_explicit(&k->copy_bytes_per_s, MAX(then, 1u), memory_order_relaxed);
}

static void copy_by_cpu(struct link *k, const struct flight *x, void *to, const void *from)
{
	uint64_t began = clock_now();
	memcpy(to, from, x->pick.bytes);
	uint64_t ns = clock_now() - began;
	note_copy(k, x->pick.bytes, ns);
	if (ns > x->copy_ns_most)
		atomic_fetch_add_explicit(&k->slow_copies, 1, memory_order_relaxed);
}

/* A copy that is asked for takes microseconds, unless the driver makes this thread wait for what another one does in it:
 * registering host memory, loading code. */
static void note_call(struct link *k, uint64_t ns)
{
	if (ns <= k->bound_ns / IN_FLIGHT)
		return;
	atomic_fetch_add_explicit(&k->slow_calls, 1, memory_order_relaxed);
	if (ns > atomic_load_explicit(&k->slowest_call_ns, memory_order_relaxed)) /* nobody else writes it */
		atomic_store_explicit(&k->slowest_call_ns, ns, memory_order_relaxed);
}

static struct gpu_copy copy_of(const struct link *k, const struct flight *x)
{
	return (struct gpu_copy){k->device, k->stream, k->event[x->slot]};
}

static int start_copy(struct link *k, struct flight *x, struct fault *why)
{
	struct gpu *g = k->all->gpu;
	struct gpu_chunk *c = x->chunk;
	uint64_t bytes = x->pick.bytes, at = c->at + x->offset;
	uint8_t *host = c->host + x->offset;
	int e = gpu_enter(g, k->device, why);
	e = e || !x->buffered ? e : get_buffer(k, x->slot, why);
	if (e)
		return e;
	if (x->buffered && k->direction == GPU_H2D)
		copy_by_cpu(k, x, k->buffer[x->slot], host);
	host = x->buffered ? k->buffer[x->slot] : host;
	bool up = k->direction == GPU_H2D;
	uint64_t began = clock_now();
	cu_result r = up ? g->cu->memcpy_htod_async(at, host, bytes, k->stream)
			 : g->cu->memcpy_dtoh_async(host, at, bytes, k->stream);
	note_call(k, clock_now() - began);
	if (r)
		return gpu_failed(g, k->device, r, up ? "cuMemcpyHtoDAsync" : "cuMemcpyDtoHAsync", why);
	const struct gpu_copy copy = copy_of(k, x);
	return gpu_copy_mark(g, &copy, &x->over, why);
}

/* The chunk of the flow that the piece's first byte is in. */
static struct gpu_chunk *chunk_of(struct gpu_flow *f)
{
	list_for_each(n, &f->chunks) {
		struct gpu_chunk *c = list_entry(n, struct gpu_chunk, job.node);
		if (c->picked_bytes < c->bytes)
			return c;
	}
	NEVER();
}

/* A piece ends where its chunk does, or the submitter's own buffer, or what it may copy in a row. */
static void fit(struct link *k, struct flight *x)
{
	uint64_t room = x->chunk->bytes - x->chunk->picked_bytes;
	if (!x->buffered && x->pick.bytes <= room)
		return;
	links_lock(k->all);
	if (x->buffered) {
		uint64_t rate = atomic_load_explicit(&k->copy_bytes_per_s, memory_order_relaxed);
		room = MIN(room, MIN(linksched_copied_bytes(k->all->sched, k->index, MAX(rate, 1u)), (uint64_t)BUFFER_BYTES));
		x->copy_ns_most = k->bound_ns / IN_FLIGHT;
	}
	if (x->pick.bytes > room)
		linksched_trim(k->all->sched, clock_now(), &x->pick, room);
	links_unlock(k->all);
}

static void submit(struct link *k, const struct linksched_pick *pick)
{
	struct flight *x = &k->flight[k->n_flight];
	struct gpu_flow *f = (struct gpu_flow *)(uintptr_t)pick->tag;
	CHECK_OBJ(f, FLOW_MAGIC);
	struct gpu_chunk *c = chunk_of(f);
	struct link *other = &k->all->link[k->device][!k->direction];
	*x = (struct flight){.pick = *pick, .chunk = c, .offset = c->picked_bytes, .queued = k->n_flight > 0,
		.buffered = !c->registered || k->direction == GPU_D2H, .slot = k->next_slot,
		.duplex = atomic_load_explicit(&other->in_flight, memory_order_relaxed) > 0};
	fit(k, x);
	c->picked_bytes += x->pick.bytes;
	k->next_slot = (k->next_slot + 1) % ARRAY_LEN(k->event);
	struct fault why;
	int e = c->result ? c->result : start_copy(k, x, &why); /* after a failed piece the rest is only taken off the books */
	if (e) {
		chunk_failed(c, e, &why);
		x->over = true;
		atomic_fetch_add_explicit(&k->failed, 1, memory_order_relaxed);
	}
	atomic_fetch_add_explicit(&k->copies, 1, memory_order_relaxed);
	if (x->buffered && k->direction == GPU_H2D)
		atomic_fetch_add_explicit(&k->unregistered_bytes, x->pick.bytes, memory_order_relaxed);
	atomic_store_explicit(&k->in_flight, ++k->n_flight, memory_order_relaxed);
}

/* The engine's own time for a piece that was queued behind another one is what passed between their ends; not for one that the
 * submitter filled a buffer for meanwhile. */
static void measure(struct link *k, const struct flight *x)
{
	float ms = 0;
	if (x->over || !x->queued || k->last_slot < 0 || (x->buffered && k->direction == GPU_H2D))
		return;
	const struct cuda *cu = k->all->gpu->cu;
	if (cu->event_elapsed_time(&ms, k->event[k->last_slot], k->event[x->slot]) || !(ms > 0))
		return;
	links_lock(k->all);
	linksched_measured(k->all->sched, clock_now(), k->index, x->pick.bytes, (uint64_t)((double)ms * 1e6), x->duplex);
	links_unlock(k->all);
}

static void finish_piece(struct link *k)
{
	struct flight x = k->flight[0];
	struct gpu_chunk *c = x.chunk;
	struct gpu_flow *f = c->flow;
	struct linksched_flow_view last;
	if (!c->result && x.buffered && k->direction == GPU_D2H)
		copy_by_cpu(k, &x, c->host + x.offset, k->buffer[x.slot]);
	measure(k, &x);
	k->last_slot = x.over ? -1 : (int)x.slot;
	memmove(&k->flight[0], &k->flight[1], sizeof k->flight[0] * (k->n_flight - 1));
	atomic_store_explicit(&k->in_flight, --k->n_flight, memory_order_relaxed);
	c->done_bytes += x.pick.bytes;
	links_lock(k->all);
	bool ended = linksched_done(k->all->sched, clock_now(), &x.pick, &last);
	if (ended)
		flow_ended(f, &last);
	bool goes = f->cancelled || c->called_back;
	links_unlock(k->all);
	if (c->done_bytes == c->bytes) {
		send_home(k, c);
	} else if (goes && !in_flight(k, c)) {
		c->job.withdrawn = true;
		send_home(k, c);
	}
}

/* Whether the oldest piece in flight is over. */
static bool is_over(struct link *k, bool wait)
{
	struct flight *x = &k->flight[0];
	const struct gpu_copy copy = copy_of(k, x);
	struct fault why;
	int over = x->over ? 1 : gpu_copy_is_over(k->all->gpu, &copy, wait, &x->over, &why);
	if (over < 0) {
		chunk_failed(x->chunk, over, &why);
		atomic_fetch_add_explicit(&k->failed, 1, memory_order_relaxed);
	}
	return over != 0;
}

/* Puts in flight what the scheduler gives.  Returns how long to wait when nothing happens. */
static uint64_t fill(struct link *k)
{
	while (k->n_flight < IN_FLIGHT) {
		struct linksched_pick pick;
		look_for_work(k); /* what has come while a piece was copied goes before the next one */
		uint64_t until = 0, now = clock_now();
		links_lock(k->all);
		enum linksched_answer a = linksched_next(k->all->sched, now, k->index, &pick, &until);
		k->bound_ns = linksched_bound_ns(k->all->sched, k->index);
		links_unlock(k->all);
		if (a == LINKSCHED_NOTHING)
			return IDLE_NS;
		if (a == LINKSCHED_UNTIL)
			return until > now ? MIN(until - now, (uint64_t)IDLE_NS) : 0;
		submit(k, &pick);
	}
	return IDLE_NS;
}

static void await_piece(struct link *k, uint64_t patience)
{
	uint64_t since = clock_now();
	while (!is_over(k, false)) {
		if (clock_now() - since < SPIN_NS)
			continue;
		if (k->n_flight == IN_FLIGHT) {
			is_over(k, true);
			break;
		}
		if (pool_wait(k->mine, MIN(patience, (uint64_t)DOZE_NS)))
			return; /* something has come that may go beside it */
		if (patience < DOZE_NS)
			return; /* so has the time of something that was here */
	}
}

/* The daemon ends: what was not begun goes back. */
static void send_all_back(struct link *k)
{
	links_lock(k->all);
	list_for_each(n, &k->flows)
		list_entry(n, struct gpu_flow, node)->cancelled = true;
	k->called_back = true;
	links_unlock(k->all);
	send_called_back(k);
}

static void serve(struct pool *p, void *worker)
{
	struct link *k = worker;
	k->mine = p;
	for (;;) {
		look_for_work(k);
		while (k->n_flight && is_over(k, false))
			finish_piece(k);
		bool closing = pool_is_closing(p);
		uint64_t patience = closing ? 0 : fill(k);
		if (k->n_flight)
			await_piece(k, patience);
		else if (closing)
			break;
		else
			pool_wait(p, patience);
	}
	send_all_back(k);
}

/* ---- the thread's own things ---- */

static void worker_free(void **worker)
{
	struct link *k = *worker;
	const struct cuda *cu = k->all->gpu->cu;
	*worker = NULL;
	gpu_enter_again(k->all->gpu, k->device);
	for (size_t i = 0; i < ARRAY_LEN(k->event); i++)
		if (k->event[i])
			GPU_AGAIN(cu->event_destroy(k->event[i]));
	if (k->stream)
		GPU_AGAIN(cu->stream_destroy(k->stream));
}

/* Of no priority: copies know none.  What the driver refuses once is asked again. */
static cu_result make_stream(struct link *k)
{
	const struct cuda *cu = k->all->gpu->cu;
	cu_result r = GPU_AGAIN(cu->stream_create(&k->stream, CU_STREAM_NO_NULL_SYNC));
	for (size_t i = 0; !r && i < ARRAY_LEN(k->event); i++)
		r = GPU_AGAIN(cu->event_create(&k->event[i], CU_EVENT_BLOCKING));
	return r;
}

/* Without a stream the device is out of use; the others go on. */
static int worker_new(void **out, void *ctx)
{
	struct link *k = ctx;
	struct gpu *g = k->all->gpu;
	struct fault why;
	cu_result r = gpu_enter_again(g, k->device) ? make_stream(k) : CU_E_INVALID_CONTEXT;
	if (r && !gpu_lost(g, k->device)) {
		gpu_failed(g, k->device, r, "a stream and its events", &why);
		gpu_give_up(g, k->device, &why);
	}
	*out = k;
	return 0;
}

/* ---- links ---- */

struct linksched_calibration links_calibration(const struct gpu_calibration *c, enum gpu_direction d)
{
	/* A machine that stood still while it was measured must not look like one that always does. */
	return (struct linksched_calibration){
		.bytes_per_s = MIN(MAX(c->bytes_per_s[d], (uint64_t)MIB), LINKSCHED_MAX_RATE),
		.duplex = MIN(MAX(c->duplex[d], 10u), 1000u),
		.overhead_ns = MIN(c->overhead_ns, (uint64_t)NS_PER_MS),
		.submit_ns = MIN(c->submit_ns, (uint64_t)NS_PER_MS),
	};
}

static int add_link(struct gpu_links *l, uint32_t device, enum gpu_direction d, const struct gpu_calibration *c)
{
	struct link *k = &l->link[device][d];
	*k = (struct link){.all = l, .device = device, .direction = d, .last_slot = -1};
	list_init(&k->flows);
	struct linksched_link_config o = {.calibration = links_calibration(c, d)};
	if (d == GPU_D2H && c->duplex[GPU_H2D] < 1000) {
		/* What goes the other way costs the way to the device that much. */
		o.hops[0].node = linksched_link_node(l->sched, l->link[device][GPU_H2D].index);
		o.hops[0].charge = 1000 - c->duplex[GPU_H2D];
		o.n_hops = 1;
	}
	o.n_hops += gpu_tree_hops(&l->tree, device, d, o.hops + o.n_hops, LINKSCHED_MAX_HOPS - o.n_hops);
	l->calibration[device][d] = o.calibration;
	return linksched_link_add(l->sched, &o, &k->index);
}

/* From one buffer to another; the first time makes the pages known. */
static void time_ring(struct link *k)
{
	for (int i = 0; i < 2; i++) {
		uint64_t began = clock_now();
		memcpy(k->buffer[i], k->buffer[2], BUFFER_BYTES);
		atomic_store(&k->copy_bytes_per_s, BUFFER_BYTES * NS_PER_S / MAX(clock_now() - began, 1u));
	}
}

/* Pinning pages takes milliseconds: done now, it is in nobody's way. */
static void make_ring(struct link *k)
{
	int e = gpu_enter(k->all->gpu, k->device, &k->no_ring);
	for (uint32_t i = 0; !e && i < ARRAY_LEN(k->buffer); i++)
		e = make_buffer(k, i, &k->no_ring);
	if (e)
		return;
	k->no_ring = (struct fault){0};
	time_ring(k);
}

/* Also of a lost device: it is the host's memory. */
static void free_ring(struct link *k)
{
	if (k->all)
		gpu_enter_again(k->all->gpu, k->device);
	for (uint32_t i = 0; i < ARRAY_LEN(k->buffer); i++)
		if (k->buffer[i])
			GPU_AGAIN(k->all->gpu->cu->mem_free_host(k->buffer[i]));
}

static int start_link(struct link *k, struct jobs *back)
{
	snprintf(k->name, sizeof k->name, "gpu%" PRIu32 "-%s", k->device, k->direction == GPU_H2D ? "up" : "down");
	const struct pool_ops ops = {.name = k->name, .worker_new = worker_new, .worker_free = worker_free, .serve = serve,
		.ctx = k};
	return pool_new(&k->pool, back, &ops, 1);
}

int gpu_links_new(struct gpu_links **out, struct gpu *g, struct jobs *back, const struct gpu_links_options *options,
	struct fault *why)
{
	struct gpu_links *l = calloc(1, sizeof *l);
	struct linksched_config config = {.in_flight = IN_FLIGHT, .target_ns = options->target_ns,
		.user_bytes_per_s = options->user_bytes_per_s, .user_share = options->user_share};
	if (!l)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the links"), -ENOMEM;
	l->gpu = g;
	pthread_mutex_init(&l->lock, NULL);
	list_init(&l->reservations);
	l->born_ns = clock_now();
	l->user_bytes_per_s = options->user_bytes_per_s;
	l->user_share = options->user_share;
	l->direct_share = options->direct_share;
	int e = linksched_new(&l->sched, &config);
	e = e ? e : gpu_tree_build(&l->tree, l->sched, g, options->calibration, &options->rates);
	for (uint32_t i = 0; !e && i < gpu_count(g); i++)
		for (int d = 0; !e && d < GPU_DIRECTIONS; d++)
			e = add_link(l, i, (enum gpu_direction)d, &options->calibration[i]);
	for (uint32_t i = 0; !e && i < gpu_count(g); i++)
		for (int d = 0; d < GPU_DIRECTIONS; d++)
			make_ring(&l->link[i][d]);
	/* The threads look at all links: they start when these are there. */
	for (uint32_t i = 0; !e && i < gpu_count(g); i++)
		for (int d = 0; !e && d < GPU_DIRECTIONS; d++)
			e = start_link(&l->link[i][d], back);
	l->n = e ? 0 : gpu_count(g);
	if (e) {
		fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "cannot start the devices' submitters");
		gpu_links_free(&l);
		return e;
	}
	*out = l;
	return 0;
}

void gpu_links_free(struct gpu_links **lp)
{
	struct gpu_links *l = *lp;
	if (!l)
		return;
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		for (int d = 0; d < GPU_DIRECTIONS; d++)
			pool_free(&l->link[i][d].pool);
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		for (int d = 0; d < GPU_DIRECTIONS; d++)
			free_ring(&l->link[i][d]);
	ASSERT(list_empty(&l->reservations));
	*lp = NULL;
	linksched_free(&l->sched);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* ---- flows ---- */

static enum link_class link_class_of(enum load_class class)
{
	return class == CLASS_DEMAND ? LINK_DEMAND : class == CLASS_PREFETCH ? LINK_PREFETCH : LINK_DEMOTION;
}

/* Under the lock. */
static int schedule(struct gpu_flow *f, uint64_t bytes)
{
	struct linksched_flow o = {.class = link_class_of(f->class), .link = f->link->index, .user = f->user, .bytes = bytes,
		.deadline = f->deadline, .tag = (uint64_t)(uintptr_t)f};
	if (f->source != GPU_TREE_NONE)
		o.hops[o.n_hops++] = (struct linksched_hop){.node = f->source, .charge = 1000};
	f->bytes = bytes;
	return linksched_add(f->link->all->sched, clock_now(), &o, &f->id);
}

static int too_many(const struct link *k, int e, struct fault *why)
{
	fault_set(why, TRIMS_E_LIMIT, "the link of %s has too many transfers", gpu_facts(k->all->gpu, k->device)->uuid);
	return e;
}

int gpu_flow_new(struct gpu_flow **out, struct gpu_links *l, const struct gpu_flow_options *options, struct fault *why)
{
	struct link *k = &l->link[options->device][options->direction];
	struct gpu_flow *f = calloc(1, sizeof *f);
	if (!f)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a flow"), -ENOMEM;
	*f = (struct gpu_flow){.magic = FLOW_MAGIC, .link = k, .class = options->class, .deadline = options->deadline,
		.user = options->user, .helps = options->helps};
	list_init(&f->chunks);
	snprintf(f->label, sizeof f->label, "%s", options->label ? options->label : "");
	f->source = options->source == GPU_SOURCE_HOST ? GPU_TREE_NONE
		: gpu_tree_find(&l->tree, options->source == GPU_SOURCE_DISK ? GPU_NODE_DISK : GPU_NODE_NET);
	links_lock(l);
	int e = schedule(f, options->bytes);
	if (!e)
		list_add_tail(&f->node, &k->flows);
	links_unlock(l);
	if (e) {
		free(f);
		return too_many(k, e, why);
	}
	*out = f;
	return 0;
}

int gpu_flow_more(struct gpu_flow *f, uint64_t bytes, struct fault *why)
{
	struct gpu_links *l = f->link->all;
	struct linksched_flow_view last;
	int e = 0;
	CHECK_OBJ(f, FLOW_MAGIC);
	links_lock(l);
	if (f->id && !f->cancelled) {
		f->bytes += bytes;
		e = linksched_resize(l->sched, clock_now(), f->id, f->bytes, &last);
		ASSERT(!e && !last.id);
	} else if (!f->cancelled) {
		e = schedule(f, bytes);
	}
	links_unlock(l);
	return e ? too_many(f->link, e, why) : 0;
}

void gpu_flow_less(struct gpu_flow *f, uint64_t bytes)
{
	struct gpu_links *l = f->link->all;
	struct linksched_flow_view last = {0};
	CHECK_OBJ(f, FLOW_MAGIC);
	links_lock(l);
	if (f->id && !f->cancelled && bytes < f->bytes) {
		f->bytes -= bytes;
		int e = linksched_resize(l->sched, clock_now(), f->id, f->bytes, &last);
		ASSERT(!e);
	} else if (f->id && !f->cancelled) {
		linksched_cancel(l->sched, clock_now(), f->id, &last); /* it has had nothing, and will not */
	}
	if (last.id)
		flow_ended(f, &last);
	links_unlock(l);
}

void gpu_flow_call_back(struct gpu_flow *f)
{
	CHECK_OBJ(f, FLOW_MAGIC);
	links_lock(f->link->all);
	f->called_back = f->link->called_back = true;
	links_unlock(f->link->all);
	pool_kick(f->link->pool);
}

bool gpu_flow_is_alone(const struct gpu_flow *f)
{
	links_lock(f->link->all);
	bool alone = is_alone(f);
	links_unlock(f->link->all);
	return alone;
}

void gpu_flow_cancel(struct gpu_flow *f)
{
	struct link *k = f->link;
	struct linksched_flow_view last;
	links_lock(k->all);
	if (f->id && !f->cancelled && linksched_cancel(k->all->sched, clock_now(), f->id, &last))
		flow_ended(f, &last);
	f->cancelled = true;
	k->called_back = true;
	links_unlock(k->all);
	pool_kick(k->pool);
}

void gpu_flow_free(struct gpu_flow **fp)
{
	struct gpu_flow *f = *fp;
	struct linksched_flow_view last;
	if (!f)
		return;
	CHECK_OBJ(f, FLOW_MAGIC);
	links_lock(f->link->all);
	bool gone = !f->id || linksched_cancel(f->link->all->sched, clock_now(), f->id, &last);
	ASSERT(gone && list_empty(&f->chunks));
	list_del(&f->node);
	links_unlock(f->link->all);
	f->magic = 0;
	free(f);
	*fp = NULL;
}

void gpu_flow_submit(struct gpu_flow *f, struct gpu_chunk *chunk)
{
	CHECK_OBJ(f, FLOW_MAGIC);
	chunk->flow = f;
	chunk->picked_bytes = chunk->done_bytes = 0;
	chunk->called_back = false;
	chunk->result = 0;
	pool_submit(f->link->pool, &chunk->job);
}

void gpu_flow_reclass(struct gpu_flow *f, enum load_class class, uint64_t deadline, uint32_t user)
{
	struct gpu_links *l = f->link->all;
	links_lock(l);
	f->class = class;
	f->deadline = deadline;
	f->user = user;
	if (f->id) {
		linksched_reclass(l->sched, clock_now(), f->id, link_class_of(class), deadline);
		linksched_charge(l->sched, clock_now(), f->id, user);
	}
	links_unlock(l);
	pool_kick(f->link->pool);
}

void gpu_flow_filled(struct gpu_flow *f)
{
	struct gpu_links *l = f->link->all;
	if (f->source == GPU_TREE_NONE)
		return;
	links_lock(l);
	if (f->id)
		linksched_leave(l->sched, clock_now(), f->id, f->source);
	f->source = GPU_TREE_NONE;
	links_unlock(l);
}

/* ---- settings and figures that change ---- */

void gpu_links_limit_users(struct gpu_links *l, uint64_t bytes_per_s, uint32_t share)
{
	links_lock(l);
	int e = linksched_limit_users(l->sched, clock_now(), bytes_per_s, share);
	ASSERT(!e); /* options.def has the same limits */
	l->user_bytes_per_s = bytes_per_s;
	l->user_share = share;
	links_unlock(l);
}

void gpu_links_limit_direct(struct gpu_links *l, uint32_t share)
{
	links_lock(l);
	l->direct_share = share;
	links_unlock(l);
}

void gpu_links_calibrate(struct gpu_links *l, uint32_t device, const struct gpu_calibration *c)
{
	uint64_t rates[GPU_MAX_DEVICES][GPU_DIRECTIONS] = {{0}};
	links_lock(l);
	for (int d = 0; d < GPU_DIRECTIONS; d++) {
		l->calibration[device][d] = links_calibration(c, (enum gpu_direction)d);
		int e = linksched_calibrate(l->sched, clock_now(), l->link[device][d].index, &l->calibration[device][d]);
		ASSERT(!e);
	}
	for (uint32_t i = 0; i < l->n; i++)
		for (int d = 0; d < GPU_DIRECTIONS; d++)
			rates[i][d] = l->calibration[i][d].bytes_per_s;
	gpu_tree_follow(&l->tree, l->sched, clock_now(), rates);
	l->doubtful[device] = false;
	l->probes[device]++;
	links_unlock(l);
}

void gpu_links_learn(struct gpu_links *l, uint32_t node, uint64_t bytes_per_s)
{
	links_lock(l);
	const struct gpu_node *n = &l->tree.node[node];
	for (uint32_t i = 0; i < l->n; i++)
		if (n->devices >> i & 1)
			bytes_per_s = MAX(bytes_per_s, l->calibration[i][n->way].bytes_per_s);
	gpu_tree_learn(&l->tree, l->sched, clock_now(), node, bytes_per_s);
	links_unlock(l);
}

void gpu_links_doubt(struct gpu_links *l, uint32_t device, bool doubtful)
{
	links_lock(l);
	l->doubtful[device] = doubtful;
	links_unlock(l);
}

bool gpu_links_idle(struct gpu_links *l, uint32_t device)
{
	struct linksched_link_view v;
	uint32_t flows = 0;
	links_lock(l);
	for (int d = 0; d < GPU_DIRECTIONS; d++)
		flows += linksched_link_view(l->sched, l->link[device][d].index, &v) ? 0 : v.flows;
	links_unlock(l);
	return !flows;
}

void gpu_flow_waits(const struct gpu_flow *f, struct gpu_waits *out)
{
	struct gpu_links *l = f->link->all;
	struct linksched_flow_view v;
	links_lock(l);
	*out = f->waits;
	if (f->id && !linksched_flow_view(l->sched, f->id - 1, &v) && v.id == f->id)
		add_waits(out, &v);
	links_unlock(l);
}
