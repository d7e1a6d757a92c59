/* copycheck.c - see copycheck.h.
 * Keeps: one batch at a time is with a worker; the end is told once, by this file or by the read-back that took over. */
#include "mrm/gpu/copycheck.h"

#include "mrm/copies.h"
#include "mrm/engine.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/hash.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/readback.h"
#include "shared/check.h"
#include "shared/metrics.h"

#include <errno.h>
#include <stdlib.h>

struct copycheck {
	struct job job;
	struct daemon *daemon;
	struct copycheck_options options;
	struct holding *image; /* referenced */
	struct segment *copy;  /* held */
	struct copycheck_result result;
	/* the batch */
	struct gpu_hasher *hasher;
	uint32_t next, n;
	uint32_t chunk[GPU_HASH_BATCH];
	struct hash_piece pieces[GPU_HASH_BATCH];
	struct hash128 want[GPU_HASH_BATCH], got[GPU_HASH_BATCH];
	int error;
	struct fault why;
};

bool copycheck_goes_on(struct daemon *d, const struct copycheck_options *o, struct copycheck_result *result)
{
	if (!d->stopping && (!o->wanted || o->wanted(o->ctx)))
		return true;
	result->error = -ECANCELED;
	fault_set(&result->why, d->stopping ? TRIMS_E_STOPPING : TRIMS_E_CANCELLED,
		d->stopping ? "the daemon is stopping" : "nobody waits for it any more");
	return false;
}

void copycheck_found(struct copycheck_result *result, uint32_t chunk)
{
	if (result->n_bad < COPYCHECK_NAMED)
		result->bad[result->n_bad] = chunk;
	result->n_bad++;
}

uint32_t copycheck_count(const struct copycheck_options *o)
{
	const struct segment *copy = o->image->copies[o->tier];
	uint32_t n = 0;
	for (uint32_t i = o->first; i < o->first + o->n; i++)
		n += segment_has(copy, i);
	return n;
}

static void end(struct copycheck *c)
{
	struct daemon *d = c->daemon;
	copies_let_go(d, c->copy);
	devices_check(d);
	c->options.done(c->options.ctx, &c->result);
	holding_put(&c->image);
	free(c);
	engine_pump(d);
}

/* All of it again, by reading back; what is wrong with the device itself comes out there, too. */
static void take_other_way(struct copycheck *c)
{
	struct daemon *d = c->daemon;
	uint32_t device = gpu_memory_device(c->copy->device);
	if (!gpu_lost(d->gpu, device)) {
		daemon_degraded(d, "no-hash-kernel", "%s: copies are checked by reading them back: %.300s",
			gpu_facts(d->gpu, device)->uuid, c->why.text);
		metrics_add(M_fallback_no_hash_kernel, 1);
	}
	readback_start(d, &c->options);
	copies_let_go(d, c->copy);
	holding_put(&c->image);
	free(c);
}

static void run_batch(struct job *job, void *worker)
{
	struct copycheck *c = container_of(job, struct copycheck, job);
	c->error = !c->n ? 0 : gpu_hasher_run(c->hasher, c->pieces, c->n, c->got, &c->why);
}

static void begin_batch(struct copycheck *c);

static void hashed(struct job *job)
{
	struct copycheck *c = container_of(job, struct copycheck, job);
	if (job->withdrawn) {
		fault_set(&c->result.why, TRIMS_E_STOPPING, "the daemon is stopping");
		c->result.error = -ECANCELED;
	}
	if (c->result.error || !copycheck_goes_on(c->daemon, &c->options, &c->result)) {
		end(c);
		return;
	}
	if (c->error) {
		take_other_way(c);
		return;
	}
	for (uint32_t i = 0; i < c->n; i++)
		if (!hash_equal(c->got[i], c->want[i]))
			copycheck_found(&c->result, c->chunk[i]);
	metrics_add(M_device_chunks_kernel, c->n);
	if (c->next < c->options.first + c->options.n)
		begin_batch(c);
	else
		end(c);
}

static void add_chunk(struct copycheck *c, uint32_t chunk)
{
	struct layout_chunk k = layout_chunk(holding_layout(c->image), chunk);
	c->result.error = holding_want_hash(c->image, chunk, &c->want[c->n], &c->result.why);
	c->pieces[c->n] = (struct hash_piece){.at = segment_device_chunk(c->copy, k, chunk), .bytes = k.bytes};
	c->chunk[c->n++] = chunk;
}

static void begin_batch(struct copycheck *c)
{
	uint32_t end = c->options.first + c->options.n;
	for (c->n = 0; c->n < GPU_HASH_BATCH && c->next < end && !c->result.error; c->next++)
		if (segment_has(c->copy, c->next) && (!c->options.landed || c->copy->landed[c->next]))
			add_chunk(c, c->next);
	if (c->result.error)
		c->n = 0; /* the job alone, which tells it */
	c->job = (struct job){.run = run_batch, .done = hashed, .class = c->options.class, .deadline = c->options.deadline};
	pool_submit(c->daemon->misc, &c->job);
}

void copycheck_start(struct daemon *d, const struct copycheck_options *options)
{
	struct copycheck *c = calloc(1, sizeof *c);
	ASSERT(c);
	c->daemon = d;
	c->options = *options;
	c->image = holding_get(options->image);
	c->copy = options->image->copies[options->tier];
	c->hasher = devices_hasher(d, gpu_memory_device(c->copy->device));
	c->next = options->first;
	c->result.n_chunks = copycheck_count(options);
	copies_hold(c->copy);
	begin_batch(c);
}
