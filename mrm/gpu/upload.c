/* upload.c - see upload.h. */
#include "mrm/gpu/upload.h"

#include "mrm/engine.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/pinned.h"
#include "mrm/gpu/submit.h"
#include "shared/check.h"
#include "shared/own.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW 8 /* chunks that a submitter has to choose its next piece from */

struct upload {
	uint32_t device;
	struct gpu_flow *flow; /* NULL: nothing was left to move */
	uint32_t *chunk;       /* [n] to be moved, in the order of the haul */
	uint32_t next, n;
	bool joined;           /* reads the host copy's pins */
	bool filled;           /* nothing brings the host copy any more */
};

struct up_chunk {
	struct gpu_chunk chunk;
	struct haul *haul;
	uint32_t number;
};

/* Which chunks there are to move is settled: nobody else fills the copy meanwhile, and it wants no others.  Returns their bytes. */
static uint64_t gather(struct haul *t)
{
	const struct layout *l = holding_layout(t->image);
	const struct segment *to = t->image->copies[t->to];
	struct upload *u = t->upload;
	uint64_t sum = 0;
	u->chunk = calloc(MAX(l->n_chunks, 1u), sizeof *u->chunk);
	ASSERT(u->chunk);
	for (uint32_t i = 0; i < l->n_chunks; i++) {
		uint32_t c = haul_chunk_at(t, i);
		if (!segment_wants(to, c))
			continue;
		if (to->landed[c]) {
			haul_chunk_was_there(t, c);
			continue;
		}
		u->chunk[u->n++] = c;
		sum += layout_chunk(l, c).bytes;
	}
	return sum;
}

/* What still fills the host copy that it reads. */
static enum gpu_source source_of(const struct haul *t)
{
	const struct haul *leader = t->follows ? haul_find(t->daemon, t->follows) : NULL;
	if (!leader)
		return GPU_SOURCE_HOST;
	return leader->way == WAY_REMOTE_HOST ? GPU_SOURCE_NET : GPU_SOURCE_DISK;
}

void upload_begin(struct haul *t)
{
	struct daemon *d = t->daemon;
	struct upload *u = calloc(1, sizeof *u);
	struct fault why;
	ASSERT(u);
	t->upload = u;
	u->device = (uint32_t)devices_of_tier(d, t->to);
	if (gpu_lost(d->gpu, u->device)) {
		gpu_loss(d->gpu, u->device, &why);
		haul_fail(t, &why);
		return;
	}
	struct gpu_flow_options o = {.device = u->device, .direction = GPU_H2D, .class = t->class, .deadline = t->deadline,
		.user = t->user, .source = source_of(t), .bytes = gather(t), .label = holding_label(t->image)};
	if (o.bytes && gpu_flow_new(&u->flow, d->links, &o, &why)) {
		haul_fail(t, &why);
		return;
	}
	gpu_pins_join(t->image, u->device);
	u->joined = true;
}

/* Its bytes are there, in memory that a device reads from, or that never will be such. */
static bool may_go(const struct haul *t, uint32_t chunk)
{
	const struct segment *host = holding_host(t->image);
	if (!haul_finds_on_host(t, chunk))
		return false;
	if (gpu_pins_look(host, chunk) != GPU_PIN_WAIT)
		return true;
	gpu_pins_want(host, chunk);
	return false;
}

static void up_done(struct job *job)
{
	struct up_chunk *c = container_of(job, struct up_chunk, chunk.job);
	struct haul *t = c->haul;
	struct daemon *d = t->daemon;
	if (c->chunk.result)
		devices_check(d);
	haul_chunk_up(t, c->number, job->withdrawn, c->chunk.result ? &c->chunk.why : NULL);
	free(c);
	haul_advance(t);
	engine_pump(d);
}

static void submit(struct haul *t, uint32_t chunk)
{
	const struct layout *l = holding_layout(t->image);
	struct segment *host = holding_host(t->image);
	struct layout_chunk k = layout_chunk(l, chunk);
	struct up_chunk *c = calloc(1, sizeof *c);
	ASSERT(c);
	c->haul = t;
	c->number = chunk;
	c->chunk.job = (struct job){.done = up_done, .class = t->class, .deadline = t->deadline};
	c->chunk.at = segment_device_chunk(t->image->copies[t->to], k, chunk);
	c->chunk.host = segment_chunk(host, l, chunk);
	c->chunk.bytes = k.bytes;
	c->chunk.registered = gpu_pins_look(host, chunk) == GPU_PIN_READY;
	if (!t->upload->filled && source_of(t) == GPU_SOURCE_HOST) {
		gpu_flow_filled(t->upload->flow);
		t->upload->filled = true;
	}
	t->outstanding++;
	gpu_flow_submit(t->upload->flow, &c->chunk);
}

void upload_advance(struct haul *t)
{
	struct upload *u = t->upload;
	while (u->next < u->n && t->outstanding < WINDOW && may_go(t, u->chunk[u->next]))
		submit(t, u->chunk[u->next++]);
}

bool upload_has_begun_all(const struct haul *t)
{
	return t->upload->next == t->upload->n;
}

void upload_reclass(struct haul *t)
{
	if (t->upload && t->upload->flow)
		gpu_flow_reclass(t->upload->flow, t->class, t->deadline, t->user);
}

void upload_cancel(struct haul *t)
{
	if (t->upload && t->upload->flow)
		gpu_flow_cancel(t->upload->flow);
}

void upload_end(struct haul *t)
{
	struct upload *u = STEAL(t->upload);
	if (!u)
		return;
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	if (u->flow && l)
		gpu_flow_waits(u->flow, &l->link);
	if (u->joined)
		gpu_pins_leave(t->image, u->device);
	gpu_flow_free(&u->flow);
	free(u->chunk);
	free(u);
}
