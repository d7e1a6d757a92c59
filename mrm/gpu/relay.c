/* relay.c - see relay.h.
 * Keeps: a copy goes home after its event, or after its stream was drained, or when its target's device is lost. */
#include "mrm/gpu/relay.h"

#include "mrm/clock.h"
#include "mrm/gpu/device.h"
#include "mrm/gpu/peer.h"
#include "shared/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IN_FLIGHT 2
#define SPIN_NS (50 * NS_PER_US)  /* then the thread sleeps: a chunk takes 30 us over NVLink */
#define DOZE_NS (100 * NS_PER_US) /* with room for one more in flight */
#define IDLE_NS NS_PER_S

struct flight {
	struct gpu_relay_copy *copy;
	uint32_t slot;                /* its event */
	bool over;                    /* nothing to wait for */
};

struct relay {
	struct gpu *gpu;
	uint32_t device;
	char name[24];
	struct pool *pool;            /* one thread; the loop's pointer */
	/* the thread's */
	struct pool *mine;
	cu_stream stream;
	cu_event event[IN_FLIGHT];
	struct flight flight[IN_FLIGHT];
	uint32_t n, next_slot;
	struct fault broken;          /* it has no stream: nothing can be copied */
	_Atomic uint64_t copies, failed, bytes;
};

struct gpu_relays {
	uint32_t n;
	struct relay relay[GPU_MAX_DEVICES];
};

static void failed(struct relay *r, struct flight *x, int e, const struct fault *why)
{
	x->copy->result = e;
	x->copy->why = *why;
	atomic_fetch_add_explicit(&r->failed, 1, memory_order_relaxed);
}

static struct gpu_copy copy_of(const struct relay *r, const struct flight *x)
{
	return (struct gpu_copy){r->device, r->stream, r->event[x->slot]};
}

static int start_copy(struct relay *r, struct flight *x, struct fault *why)
{
	struct gpu *g = r->gpu;
	const struct gpu_relay_copy *c = x->copy;
	if (gpu_lost(g, c->from_device)) {
		gpu_loss(g, c->from_device, why);
		return -ENODEV;
	}
	if (r->broken.code) {
		*why = r->broken;
		return -EIO;
	}
	int e = gpu_enter(g, r->device, why);
	if (e)
		return e;
	cu_result result = g->cu->memcpy_peer_async(c->to, g->device[r->device].context, c->from,
		g->device[c->from_device].context, c->bytes, r->stream);
	if (result)
		return gpu_failed_between(g, r->device, c->from_device, result, "cuMemcpyPeerAsync", why);
	const struct gpu_copy copy = copy_of(r, x);
	return gpu_copy_mark(g, &copy, &x->over, why);
}

static void begin(struct relay *r, struct gpu_relay_copy *c)
{
	struct flight *x = &r->flight[r->n++];
	struct fault why;
	*x = (struct flight){.copy = c, .slot = r->next_slot};
	r->next_slot = (r->next_slot + 1) % IN_FLIGHT;
	c->result = 0;
	atomic_fetch_add_explicit(&r->copies, 1, memory_order_relaxed);
	int e = start_copy(r, x, &why);
	if (!e)
		return;
	failed(r, x, e, &why);
	x->over = true;
}

/* Whether the oldest copy in flight is over. */
static bool is_over(struct relay *r, bool wait)
{
	struct flight *x = &r->flight[0];
	const struct gpu_copy copy = copy_of(r, x);
	struct fault why;
	int over = x->over ? 1 : gpu_copy_is_over(r->gpu, &copy, wait, &x->over, &why);
	if (over < 0)
		failed(r, x, over, &why);
	x->over |= over != 0;
	return x->over;
}

static void finish(struct relay *r)
{
	struct gpu_relay_copy *c = r->flight[0].copy;
	memmove(&r->flight[0], &r->flight[1], sizeof r->flight[0] * --r->n);
	if (!c->result)
		atomic_fetch_add_explicit(&r->bytes, c->bytes, memory_order_relaxed);
	pool_finish(r->mine, &c->job);
}

static void await_copy(struct relay *r)
{
	uint64_t since = clock_now();
	while (!is_over(r, false)) {
		if (clock_now() - since < SPIN_NS)
			continue;
		if (r->n == IN_FLIGHT)
			is_over(r, true);
		else if (pool_wait(r->mine, DOZE_NS))
			return; /* something has come that may go beside it */
	}
}

static void serve(struct pool *p, void *worker)
{
	struct relay *r = worker;
	struct job *job;
	r->mine = p;
	for (;;) {
		while (r->n && is_over(r, false))
			finish(r);
		while (r->n < IN_FLIGHT && (job = pool_take(p, false)))
			begin(r, container_of(job, struct gpu_relay_copy, job));
		if (r->n)
			await_copy(r);
		else if (pool_is_closing(p))
			return;
		else
			pool_wait(p, IDLE_NS);
	}
}

static void worker_free(void **worker)
{
	struct relay *r = *worker;
	*worker = NULL;
	if (!gpu_enter_again(r->gpu, r->device))
		return;
	for (size_t i = 0; i < IN_FLIGHT; i++)
		if (r->event[i])
			GPU_AGAIN(r->gpu->cu->event_destroy(r->event[i]));
	if (r->stream)
		GPU_AGAIN(r->gpu->cu->stream_destroy(r->stream));
}

/* Without a stream each copy fails, and says so. */
static int worker_new(void **out, void *ctx)
{
	struct relay *r = ctx;
	const struct cuda *cu = r->gpu->cu;
	*out = r;
	if (!gpu_enter_again(r->gpu, r->device)) {
		gpu_enter(r->gpu, r->device, &r->broken);
		return 0;
	}
	cu_result result = GPU_AGAIN(cu->stream_create(&r->stream, CU_STREAM_NO_NULL_SYNC));
	for (size_t i = 0; !result && i < IN_FLIGHT; i++)
		result = GPU_AGAIN(cu->event_create(&r->event[i], CU_EVENT_BLOCKING | CU_EVENT_NO_TIMING));
	if (result)
		gpu_failed(r->gpu, r->device, result, "a stream and its events", &r->broken);
	return 0;
}

static bool takes(const struct gpu *g, const struct gpu_peers *peers, uint32_t device)
{
	struct fault why;
	for (uint32_t i = 0; i < gpu_count(g); i++)
		if (!gpu_peers_reach(peers, device, i, &why))
			return true;
	return false;
}

int gpu_relays_new(struct gpu_relays **out, struct gpu *g, const struct gpu_peers *peers, struct jobs *back,
	struct fault *why)
{
	struct gpu_relays *all = calloc(1, sizeof *all);
	int e = all ? 0 : -ENOMEM;
	for (uint32_t i = 0; !e && i < gpu_count(g); i++) {
		struct relay *r = &all->relay[i];
		*r = (struct relay){.gpu = g, .device = i};
		if (!takes(g, peers, i))
			continue;
		snprintf(r->name, sizeof r->name, "gpu%" PRIu32 "-peer", i);
		const struct pool_ops ops = {.name = r->name, .worker_new = worker_new, .worker_free = worker_free, .serve = serve,
			.ctx = r};
		e = pool_new(&r->pool, back, &ops, 1);
	}
	if (e) {
		fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "cannot start the threads that copy between devices");
		gpu_relays_free(&all);
		return e;
	}
	*out = all;
	return 0;
}

void gpu_relays_free(struct gpu_relays **rp)
{
	if (!*rp)
		return;
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		pool_free(&(*rp)->relay[i].pool);
	free(*rp);
	*rp = NULL;
}

void gpu_relay_submit(struct gpu_relays *r, uint32_t device, struct gpu_relay_copy *copy)
{
	pool_submit(r->relay[device].pool, &copy->job);
}

void gpu_relays_view(const struct gpu_relays *r, uint32_t device, struct gpu_relay_facts *out)
{
	const struct relay *x = &r->relay[device];
	*out = (struct gpu_relay_facts){.copies = atomic_load(&x->copies), .failed = atomic_load(&x->failed),
		.bytes = atomic_load(&x->bytes)};
}
