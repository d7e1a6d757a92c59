/* op.c - what the operations of a stream do when their turn comes.  Keeps: addresses are checked once more, since the
 * program may have freed them meanwhile: that is the sticky error it is on a device. */
#include "tools/simcuda/sim.h"

#include <string.h>

#define POLL_FIRST_NS (20 * NS_PER_US)
#define POLL_MOST_NS (250 * NS_PER_US)

static bool holds(cu_word seen, cu_word value, unsigned flags)
{
	switch (flags & 3) {
	case CU_WAIT_GEQ:
		return (int64_t)(seen - value) >= 0;
	case CU_WAIT_EQ:
		return seen == value;
	case CU_WAIT_AND:
		return (seen & value) != 0;
	default:
		return ~(seen | value) != 0;
	}
}

static bool is_host_range(const struct range *r)
{
	return r->kind == RANGE_REGISTERED || r->kind == RANGE_HOST;
}

static _Atomic uint64_t host_bell; /* for all words of host memory, of this process */
static uint64_t deaf_since;        /* what it was when streams were made deaf */

/* The counter that stream writes to this word ring; NULL for registered host memory, where any store is seen. */
static _Atomic uint64_t *bell_of(cu_ptr addr)
{
	struct range *r = range_at(addr);

	if (is_host_range(r))
		return sim.deaf ? &host_bell : NULL;
	return store_bell(r->inode, addr - r->base);
}

static void doze(uint64_t *ns)
{
	struct timespec t = {.tv_nsec = (long)*ns};

	pthread_mutex_unlock(&sim.lock);
	nanosleep(&t, NULL);
	pthread_mutex_lock(&sim.lock);
	*ns = MIN(*ns * 3 / 2, POLL_MOST_NS);
}

struct wait {
	uint64_t heard; /* of the bell */
	bool looked;
};

/* CU_E_NOT_READY: not yet. */
static cu_result look(struct cu_stream_object *s, const struct op *op, struct wait *w)
{
	_Atomic uint64_t *bell;
	uint64_t rung;

	if (!range_reach(s->ctx->device, op->to, sizeof op->value, false))
		return CU_E_ILLEGAL_ADDRESS;
	bell = bell_of(op->to);
	rung = bell ? atomic_load(bell) : 0;
	if (bell && w->looked && rung == w->heard)
		return CU_E_NOT_READY;
	w->heard = rung;
	if (!(bell == &host_bell && rung == deaf_since) &&
		holds(atomic_load_explicit((_Atomic cu_word *)range_cpu(op->to), memory_order_acquire), op->value, op->flags))
		return CU_OK;
	sim.waiting += !w->looked;
	w->looked = true;
	return CU_E_NOT_READY;
}

/* On device memory a plain store of the CPU wakes nothing: after the first look, only a stream write makes it look again. */
static cu_result wait_value(struct cu_stream_object *s, const struct op *op)
{
	struct wait w = {0};
	uint64_t ns = POLL_FIRST_NS;
	cu_result r = CU_E_NOT_READY;

	while (r == CU_E_NOT_READY && !context_state(s->ctx)) {
		r = look(s, op, &w);
		if (r == CU_E_NOT_READY)
			doze(&ns);
	}
	sim.waiting -= w.looked;
	return r == CU_E_NOT_READY ? CU_OK : r;
}

EXPORT void simcuda_deafen(int on)
{
	pthread_mutex_lock(&sim.lock);
	sim.deaf = on;
	deaf_since = atomic_load(&host_bell);
	pthread_mutex_unlock(&sim.lock);
}

EXPORT int simcuda_waiting(void)
{
	int n;

	pthread_mutex_lock(&sim.lock);
	n = sim.waiting;
	pthread_mutex_unlock(&sim.lock);
	return n;
}

static cu_result write_value(struct cu_stream_object *s, const struct op *op)
{
	_Atomic uint64_t *bell;

	if (!range_reach(s->ctx->device, op->to, sizeof op->value, true))
		return CU_E_ILLEGAL_ADDRESS;
	atomic_store_explicit((_Atomic cu_word *)range_cpu(op->to), op->value, memory_order_release);
	bell = bell_of(op->to);
	if (bell)
		atomic_fetch_add(bell, 1);
	return CU_OK;
}

static void call_host(const struct op *op)
{
	if (!op->fn)
		return;
	pthread_mutex_unlock(&sim.lock);
	sim_in_host_fn = true;
	op->fn(op->data);
	sim_in_host_fn = false;
	pthread_mutex_lock(&sim.lock);
}

static cu_result set_bytes(struct cu_stream_object *s, const struct op *op)
{
	if (!range_reach(s->ctx->device, op->to, op->bytes, true))
		return CU_E_ILLEGAL_ADDRESS;
	range_pin(op->to, op->bytes);
	pthread_mutex_unlock(&sim.lock);
	memset(range_cpu(op->to), (int)op->value, op->bytes);
	pthread_mutex_lock(&sim.lock);
	range_unpin(op->to, op->bytes);
	return CU_OK;
}

/* As the entry checked it; host memory that is not registered is the program's business. */
static bool is_there(const struct cu_stream_object *s, cu_ptr addr, size_t bytes, bool write)
{
	struct range *r = range_at(addr);
	bool pageable;

	if (!r || (is_host_range(r) && !(addr & HOST_ALIAS)))
		return !range_host(addr, bytes, write, &pageable);
	return range_reach(r->kind == RANGE_VMM || !r->device ? s->ctx->device : r->device, addr, bytes, write);
}

static cu_result copy(struct cu_stream_object *s, const struct op *op)
{
	bool to, from;

	if (!is_there(s, op->to, op->bytes, true) || !is_there(s, op->from, op->bytes, false))
		return CU_E_ILLEGAL_ADDRESS;
	to = range_pin(op->to, op->bytes);
	from = range_pin(op->from, op->bytes);
	link_copy(s, op);
	if (from)
		range_unpin(op->from, op->bytes);
	if (to)
		range_unpin(op->to, op->bytes);
	return CU_OK;
}

static cu_result dispatch(struct cu_stream_object *s, struct op *op)
{
	switch (op->kind) {
	case OP_COPY:
		return copy(s, op);
	case OP_SET:
		return set_bytes(s, op);
	case OP_HOST:
		call_host(op);
		return CU_OK;
	case OP_RECORD:
		if (op->record > op->event->done) { /* a later record may have been faster, on another stream */
			op->event->done = op->record;
			op->event->at_ns = sim_now();
		}
		return CU_OK;
	case OP_WAIT_EVENT:
		while (!context_state(s->ctx) && op->event->done < op->record)
			sim_wait();
		return context_state(op->event->ctx) ? CU_E_LAUNCH_FAILED : CU_OK;
	case OP_WAIT_VALUE:
		return wait_value(s, op);
	case OP_WRITE_VALUE:
		return write_value(s, op);
	case OP_HASH:
		return kernel_hash(s, op);
	case OP_WORK:
		return work_run(s, op);
	}
	NEVER();
}

cu_result op_run(struct cu_stream_object *s, struct op *op)
{
	cu_result r;

	pthread_mutex_unlock(&sim.lock);
	r = fault_call(op->call, true);
	pthread_mutex_lock(&sim.lock);
	if (r)
		return r;
	return context_state(s->ctx) ? CU_OK : dispatch(s, op);
}
