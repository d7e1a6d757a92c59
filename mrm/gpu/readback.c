/* readback.c - see readback.h.
 * Keeps: n_out slots have a chunk on the link or at a worker; the end is told once, when it is 0 and nothing is left. */
#include "mrm/gpu/readback.h"

#include "mrm/copies.h"
#include "mrm/engine.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/submit.h"
#include "shared/check.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS 4

struct slot {
	struct gpu_chunk chunk;
	struct job hash;
	struct readback *all;
	uint32_t number;
	struct hash128 want;
	bool good;
	uint8_t *buffer;
};

struct readback {
	struct daemon *daemon;
	struct copycheck_options options;
	struct holding *image;  /* referenced */
	struct segment *copy;   /* held */
	const struct layout *layout;
	struct gpu_flow *flow;
	uint32_t next, stop, n_out; /* chunks */
	bool over;              /* nothing more is begun */
	struct copycheck_result result;
	struct job start;       /* tells a failure that was there before anything began */
	struct slot slot[SLOTS];
};

static void fail(struct readback *r, int e, const struct fault *why)
{
	r->over = true;
	if (r->result.error)
		return;
	r->result.error = e;
	r->result.why = *why;
}

static void end(struct readback *r)
{
	struct daemon *d = r->daemon;
	gpu_flow_free(&r->flow);
	for (int i = 0; i < SLOTS; i++)
		free(r->slot[i].buffer);
	copies_let_go(d, r->copy);
	devices_check(d);
	r->options.done(r->options.ctx, &r->result);
	holding_put(&r->image);
	free(r);
	engine_pump(d);
}

static void stop_if_unwanted(struct readback *r)
{
	if (r->over || copycheck_goes_on(r->daemon, &r->options, &r->result))
		return;
	r->over = true;
	gpu_flow_cancel(r->flow);
}

/* Whether a chunk that the copy has is left. */
static bool has_more(struct readback *r)
{
	while (r->next < r->stop && (!segment_has(r->copy, r->next) || (r->options.landed && !r->copy->landed[r->next])))
		r->next++;
	return r->next < r->stop;
}

static void begin_chunk(struct slot *s);

static void slot_free(struct slot *s)
{
	struct readback *r = s->all;
	r->n_out--;
	stop_if_unwanted(r);
	if (!r->over && has_more(r))
		begin_chunk(s);
	if (!r->n_out)
		end(r);
}

static void run_hash(struct job *job, void *worker)
{
	struct slot *s = container_of(job, struct slot, hash);
	s->good = hash_equal(chunk_hash(s->buffer, s->chunk.bytes), s->want);
}

static void hashed(struct job *job)
{
	struct slot *s = container_of(job, struct slot, hash);
	struct fault why;
	if (job->withdrawn) {
		fault_set(&why, TRIMS_E_STOPPING, "the daemon is stopping");
		fail(s->all, -ECANCELED, &why);
	} else {
		metrics_add(M_device_chunks_read_back, 1);
		if (!s->good)
			copycheck_found(&s->all->result, s->number);
	}
	slot_free(s);
}

static void read_chunk(struct job *job)
{
	struct slot *s = container_of(job, struct slot, chunk.job);
	struct readback *r = s->all;
	struct fault why;
	if (job->withdrawn || s->chunk.result) {
		if (job->withdrawn)
			fault_set(&why, TRIMS_E_CANCELLED, "called back");
		fail(r, job->withdrawn ? -ECANCELED : s->chunk.result, job->withdrawn ? &why : &s->chunk.why);
		slot_free(s);
		return;
	}
	s->hash = (struct job){.run = run_hash, .done = hashed, .class = r->options.class, .deadline = r->options.deadline};
	pool_submit(r->daemon->misc, &s->hash);
}

static void begin_chunk(struct slot *s)
{
	struct readback *r = s->all;
	struct fault why;
	s->number = r->next++;
	struct layout_chunk k = layout_chunk(r->layout, s->number);
	int e = holding_want_hash(r->image, s->number, &s->want, &why);
	if (e) {
		fail(r, e, &why);
		return;
	}
	s->chunk = (struct gpu_chunk){.at = segment_device_chunk(r->copy, k, s->number), .host = s->buffer,
		.bytes = k.bytes, .job = {.done = read_chunk, .class = r->options.class, .deadline = r->options.deadline}};
	r->n_out++;
	gpu_flow_submit(r->flow, &s->chunk);
}

static uint64_t bytes_of(const struct readback *r)
{
	uint64_t sum = 0;
	for (uint32_t i = r->next; i < r->stop; i++)
		sum += segment_has(r->copy, i) ? layout_chunk(r->layout, i).bytes : 0;
	return sum;
}

static void begin(struct readback *r)
{
	struct fault why;
	struct gpu_flow_options o = {.device = gpu_memory_device(r->copy->device), .direction = GPU_D2H,
		.class = r->options.class, .deadline = r->options.deadline, .bytes = bytes_of(r),
		.user = CACHE_NOBODY, .label = holding_label(r->image)};
	int e = 0;
	for (int i = 0; i < SLOTS; i++) {
		r->slot[i].all = r;
		r->slot[i].buffer = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_BYTES);
		if (!r->slot[i].buffer)
			e = -ENOMEM;
	}
	if (e)
		fault_set(&why, TRIMS_E_NO_MEMORY, "no memory to read a device's copy back");
	e = e ? e : gpu_flow_new(&r->flow, r->daemon->links, &o, &why);
	if (e) {
		fail(r, e, &why);
		return;
	}
	for (int i = 0; i < SLOTS && !r->over && has_more(r); i++)
		begin_chunk(&r->slot[i]);
}

/* Never calls done() from within readback_start(): who asks is in the middle of something. */
static void run_start(struct job *job, void *worker)
{
}

static void started(struct job *job)
{
	struct readback *r = container_of(job, struct readback, start);
	struct fault why;
	if (job->withdrawn) {
		fault_set(&why, TRIMS_E_STOPPING, "the daemon is stopping");
		fail(r, -ECANCELED, &why);
	} else {
		begin(r);
	}
	if (!r->n_out)
		end(r);
}

void readback_start(struct daemon *d, const struct copycheck_options *options)
{
	struct readback *r = calloc(1, sizeof *r);
	ASSERT(r);
	r->daemon = d;
	r->options = *options;
	r->image = holding_get(options->image);
	r->copy = options->image->copies[options->tier];
	r->layout = holding_layout(r->image);
	r->next = options->first;
	r->stop = options->first + options->n;
	r->result.n_chunks = copycheck_count(options);
	copies_hold(r->copy);
	r->start = (struct job){.run = run_start, .done = started, .class = options->class, .deadline = options->deadline};
	pool_submit(d->misc, &r->start);
}
