/* link.c - how fast bytes move.  A copy takes a copy engine of its device for as long as it lasts; engines know no
 * priority: the stream that has one keeps it while its next operation wants it and can go on at once, then the longest
 * waiting one is served.  On the way a copy shares each link with the others that run in the same direction, and with
 * those in the opposite one where the coupling factor says so.  Keeps: with `speed unlimited` nothing sleeps, and order is
 * the same. */
#include "tools/simcuda/sim.h"
#include "tools/simcuda/simcuda.h"

#include <errno.h>
#include <string.h>

enum { DIRECTION_UP, DIRECTION_DOWN };

#define PIECE (256 * KIB)
#define PIECE_UNLIMITED (64 * MIB)
#define SLEEP_LEAST_NS (30 * NS_PER_US) /* shorter debts are carried on, also into the engine's next copy */
#define CREDIT_NS (2 * NS_PER_MS)       /* how much of a late piece later ones may make good */
#define HANDOVER_NS (200 * NS_PER_US)   /* an engine that was free for longer was idle */

struct path {
	struct hop {
		struct link *link;
		int direction;
	} hops[4];
	int n;
	double most; /* GB/s, whatever the links could do; 0: no more than they */
};

void link_init(void)
{
	for (unsigned i = 0; i < sim.topology.n_devices; i++) {
		struct sim_device *d = &sim.devices[i];

		d->pcie.gbps = d->config->gbps;
		for (int e = 0; e < ENGINES; e++)
			list_init(&d->engines[e].waiting);
	}
	for (unsigned i = 0; i < sim.topology.n_switches; i++)
		sim.switches[i].gbps = sim.topology.switches[i].gbps;
	for (unsigned i = 0; i < sim.topology.n_nvlinks; i++)
		sim.nvlinks[i].gbps = sim.topology.nvlinks[i].gbps;
}

static struct sim_device *device_at(cu_ptr addr)
{
	struct range *r = range_at(addr);

	return r ? r->device : NULL;
}

struct engine *link_engine(const struct op *op)
{
	struct sim_device *to = device_at(op->to), *from = device_at(op->from), *d = from ? from : to;
	int e = !from ? ENGINE_DOWN : !to ? ENGINE_UP : ENGINE_PEER;

	if (op->kind != OP_COPY || to == from)
		return NULL; /* within a device there is room for everybody */
	if (d->config->engines == 1)
		e = ENGINE_UP;
	else if (d->config->engines == 2 && e == ENGINE_PEER)
		e = ENGINE_UP;
	return &d->engines[e];
}

static void add_hop(struct path *p, struct link *link, int direction)
{
	p->hops[p->n++] = (struct hop){link, direction};
}

static struct link *uplink(const struct sim_device *d)
{
	return d->config->switch_number >= 0 ? &sim.switches[d->config->switch_number] : NULL;
}

static struct link *nvlink(const struct sim_device *a, const struct sim_device *b)
{
	for (unsigned i = 0; i < sim.topology.n_nvlinks; i++) {
		const struct topology_nvlink *l = &sim.topology.nvlinks[i];

		if ((l->a == a->ordinal && l->b == b->ordinal) || (l->a == b->ordinal && l->b == a->ordinal))
			return &sim.nvlinks[i];
	}
	return NULL;
}

static void find_path(struct path *p, const struct op *op)
{
	struct sim_device *to = device_at(op->to), *from = device_at(op->from);
	struct link *direct = to && from && to != from ? nvlink(from, to) : NULL;
	bool same_switch = to && from && uplink(to) == uplink(from);

	*p = (struct path){.most = op->pageable ? sim.topology.pageable_gbps : 0};
	if (to == from)
		return;
	if (direct) {
		add_hop(p, direct, from->ordinal < to->ordinal);
		return;
	}
	if (from) {
		add_hop(p, &from->pcie, DIRECTION_UP);
		if (uplink(from) && !same_switch)
			add_hop(p, uplink(from), DIRECTION_UP);
	}
	if (to) {
		if (uplink(to) && !same_switch)
			add_hop(p, uplink(to), DIRECTION_DOWN);
		add_hop(p, &to->pcie, DIRECTION_DOWN);
	}
}

/* Bytes a nanosecond, as things are now; 0: no limit. */
static double rate(const struct path *p)
{
	double best = p->most;

	for (int i = 0; i < p->n; i++) {
		const struct link *l = p->hops[i].link;
		int direction = p->hops[i].direction;
		double share = l->gbps / l->active[direction];

		if (l->active[!direction])
			share *= sim.topology.duplex;
		best = best == 0 || share < best ? share : best;
	}
	return best * sim.topology.speed;
}

static void occupy(struct path *p, int by)
{
	for (int i = 0; i < p->n; i++)
		p->hops[i].link->active[p->hops[i].direction] += by;
}

static bool my_turn(const struct engine *e, const struct cu_stream_object *s)
{
	if (e->busy)
		return false;
	if (e->kept_for)
		return e->kept_for == s;
	return list_first(&e->waiting, struct cu_stream_object, turn) == s;
}

static void leave_others(const struct cu_stream_object *s, const struct engine *but)
{
	for (unsigned i = 0; i < sim.topology.n_devices; i++)
		for (int k = 0; k < ENGINES; k++) {
			struct engine *e = &sim.devices[i].engines[k];

			if (e == but || e->kept_for != s)
				continue;
			e->kept_for = NULL;
			pthread_cond_broadcast(&sim.done);
		}
}

void link_leave(const struct cu_stream_object *s)
{
	leave_others(s, NULL);
}

static bool take(struct engine *e, struct cu_stream_object *s)
{
	list_add_tail(&s->turn, &e->waiting);
	while (!context_state(s->ctx) && !my_turn(e, s))
		sim_wait();
	list_del(&s->turn);
	if (e->kept_for == s)
		e->kept_for = NULL;
	if (context_state(s->ctx)) {
		pthread_cond_broadcast(&sim.done);
		return false;
	}
	e->busy = true;
	return true;
}

static void give(struct engine *e, struct cu_stream_object *s, const struct op *op)
{
	struct list *next = op->node.next;

	e->busy = false;
	e->given_ns = sim_now();
	e->kept_for = next != &s->ops && link_engine(list_entry(next, struct op, node)) == e ? s : NULL;
	pthread_cond_broadcast(&sim.done);
}

static void sleep_until(double ns)
{
	struct timespec t = {.tv_sec = (time_t)((uint64_t)ns / NS_PER_S), .tv_nsec = (long)((uint64_t)ns % NS_PER_S)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* Sleeping is never exact: what a copy ended too early or too late counts for the one that follows on its heels. */
static double begin(const struct engine *e)
{
	uint64_t now = sim_now();

	if (!e || now - e->given_ns > HANDOVER_NS)
		return (double)now;
	return MAX(e->due_ns, (double)(now - HANDOVER_NS));
}

/* Moves it piece by piece, never ahead of what the links allow. */
static void move_paced(struct cu_stream_object *s, const struct op *op, const struct path *p, struct engine *e)
{
	double due = begin(e) + (double)sim.topology.overhead_ns / sim.topology.speed;

	for (size_t at = 0, part; at < op->bytes && !context_state(s->ctx); at += part) {
		double bytes_per_ns = rate(p);

		part = MIN(PIECE, op->bytes - at);
		pthread_mutex_unlock(&sim.lock);
		memcpy((char *)range_cpu(op->to) + at, (char *)range_cpu(op->from) + at, part);
		due += bytes_per_ns > 0 ? (double)part / bytes_per_ns : 0;
		due = MAX(due, (double)(sim_now() - CREDIT_NS));
		if (due > (double)(sim_now() + SLEEP_LEAST_NS))
			sleep_until(due);
		pthread_mutex_lock(&sim.lock);
	}
	if (e)
		e->due_ns = due;
}

static void move_at_once(struct cu_stream_object *s, const struct op *op)
{
	for (size_t at = 0, part; at < op->bytes && !context_state(s->ctx); at += part) {
		part = MIN(PIECE_UNLIMITED, op->bytes - at);
		pthread_mutex_unlock(&sim.lock);
		memmove((char *)range_cpu(op->to) + at, (char *)range_cpu(op->from) + at, part);
		pthread_mutex_lock(&sim.lock);
	}
}

void link_copy(struct cu_stream_object *s, const struct op *op)
{
	struct engine *e = link_engine(op);
	struct path p;

	leave_others(s, e);
	if (e && !take(e, s))
		return;
	find_path(&p, op);
	sim.copying++;
	if (sim.topology.speed > 0 && (p.n || p.most > 0)) {
		occupy(&p, 1);
		move_paced(s, op, &p, e);
		occupy(&p, -1);
	} else {
		move_at_once(s, op);
	}
	sim.copying--;
	if (e)
		give(e, s, op);
}

EXPORT int simcuda_copying(void)
{
	int n;

	pthread_mutex_lock(&sim.lock);
	n = sim.copying;
	pthread_mutex_unlock(&sim.lock);
	return n;
}
