/* upload.c - see upload.h.
 * Keeps: a chunk is in one part, or on its way; a slot of staging is given back when the copy from it is over, whatever became
 * of the haul meanwhile, and the haul ends after its last chunk: so nothing is written into memory that has another owner. */
#include "mrm/gpu/upload.h"

#include "mrm/engine.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/peer.h"
#include "mrm/gpu/pinned.h"
#include "mrm/gpu/relay.h"
#include "mrm/gpu/submit.h"
#include "mrm/plans.h"
#include "shared/check.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <stdlib.h>
#include <string.h>

#define OWN_WINDOW 8    /* chunks that the submitter has to choose its next piece from */
#define HELPER_WINDOW 4 /* of them three are with the helper's link, which is busy with two, and one is taken meanwhile */
#define TAKE_BACK_AT 1  /* the own link takes from the others when it has no more than that */
#define PARTS (1 + PLAN_WIRE_HELPERS)

/* What comes over one link.  The own link's is the first, and may get the others' chunks. */
struct part {
	uint32_t device;       /* whose link */
	struct gpu_flow *flow; /* NULL: it has had nothing yet */
	uint32_t *chunk, next, end; /* chunk[next, end): not begun */
	uint32_t out, on_link; /* on_link: of them, those that are not in staging yet */
	bool filled;           /* the flow knows that nothing brings the host copy any more */
	bool given_up;         /* a helper that failed */
	bool called_back;      /* nothing was left for the own link but what this one had not begun */
	bool wants_slot;       /* it would go on if it had one */
};

struct upload {
	uint32_t device;
	bool joined;           /* reads the host copy's pins */
	struct part part[PARTS];
	uint32_t n_parts;
};

struct up_chunk {
	struct gpu_chunk chunk;
	struct gpu_relay_copy relay; /* of one that comes over a helper */
	struct haul *haul;
	struct part *part;
	uint32_t number;
};

static bool is_helper(const struct haul *t, const struct part *p)
{
	return p != &t->upload->part[0];
}

static uint64_t bytes_of(const struct haul *t, uint32_t chunk)
{
	return layout_chunk(holding_layout(t->image), chunk).bytes;
}

/* ---- flows ---- */

/* What still fills the host copy that it reads. */
static enum gpu_source source_of(const struct haul *t)
{
	const struct haul *leader = t->follows ? haul_find(t->daemon, t->follows) : NULL;
	if (!leader)
		return GPU_SOURCE_HOST;
	return leader->way == WAY_REMOTE_HOST ? GPU_SOURCE_NET : GPU_SOURCE_DISK;
}

static enum load_class class_on(const struct haul *t, const struct part *p)
{
	return is_helper(t, p) && t->class < CLASS_PERSIST ? t->class + 1 : t->class;
}

/* The part has got so many bytes. */
static int part_gets(struct haul *t, struct part *p, uint64_t bytes, struct fault *why)
{
	if (p->flow)
		return gpu_flow_more(p->flow, bytes, why);
	struct gpu_flow_options o = {.device = p->device, .direction = GPU_H2D, .class = class_on(t, p), .deadline = t->deadline,
		.user = t->user, .source = source_of(t), .bytes = bytes, .label = holding_label(t->image),
		.helps = is_helper(t, p) ? 1 + t->upload->device : 0};
	return gpu_flow_new(&p->flow, t->daemon->links, &o, why);
}

/* ---- parts ---- */

static void degrade(struct haul *t, const char *name, enum metric counter, const struct fault *why)
{
	daemon_degraded(t->daemon, name, "%s: %.380s; its part comes over the device's own link", holding_label(t->image),
		why->text);
	metrics_add(counter, 1);
}

static bool is_usable(struct haul *t, const char *uuid, int device)
{
	struct daemon *d = t->daemon;
	struct fault why;
	if (device < 0) {
		fault_set(&why, TRIMS_E_NO_TIER, "its plan names %.*s, which is no device here", PLAN_WIRE_UUID, uuid);
		degrade(t, "pt-no-such-device", M_fallback_pt_no_device, &why);
	} else if (gpu_lost(d->gpu, (uint32_t)device)) {
		gpu_loss(d->gpu, (uint32_t)device, &why);
		degrade(t, "pt-no-such-device", M_fallback_pt_no_device, &why);
	} else if (gpu_peers_reach(d->peers, t->upload->device, (uint32_t)device, &why)) {
		degrade(t, "pt-no-peer", M_fallback_pt_no_peer, &why);
	} else if (gpu_peers_staging(d->peers, (uint32_t)device, &why)) {
		degrade(t, "pt-no-staging", M_fallback_pt_no_staging, &why);
	} else {
		return true;
	}
	return false;
}

static struct part *add_part(struct haul *t, uint32_t device)
{
	struct part *p = &t->upload->part[t->upload->n_parts++];
	*p = (struct part){.device = device, .chunk = calloc(MAX(holding_layout(t->image)->n_chunks, 1u), sizeof *p->chunk)};
	ASSERT(p->chunk);
	return p;
}

/* Of what the plan sends over a link that a chunk needs. */
static struct part *find_part(struct haul *t, uint32_t link)
{
	struct upload *u = t->upload;
	if (!link)
		return &u->part[0];
	const char *uuid = t->image->copies[t->to]->plan->head->helper[link - 1];
	int device = gpu_find(t->daemon->gpu, uuid);
	for (uint32_t i = 0; i < u->n_parts; i++)
		if ((int)u->part[i].device == device)
			return &u->part[i];
	return is_usable(t, uuid, device) ? add_part(t, (uint32_t)device) : &u->part[0];
}

/* Which chunks there are to move is settled: nobody else fills the copy meanwhile, and it wants no others. */
static void deal_chunks(struct haul *t, uint64_t bytes[PARTS])
{
	const struct segment *to = t->image->copies[t->to];
	struct part *of_link[PARTS] = {NULL};
	uint32_t n = holding_layout(t->image)->n_chunks;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t c = haul_chunk_at(t, i);
		if (!segment_wants(to, c))
			continue;
		if (to->landed[c]) {
			haul_chunk_was_there(t, c);
			continue;
		}
		uint32_t link = pieces_link(to->pieces, c);
		if (!of_link[link])
			of_link[link] = find_part(t, link);
		of_link[link]->chunk[of_link[link]->end++] = c;
		bytes[of_link[link] - t->upload->part] += bytes_of(t, c);
	}
}

/* All that was not begun of a helper's part goes over the own link instead. */
static void give_up(struct haul *t, struct part *p, const struct fault *why)
{
	struct part *own = &t->upload->part[0];
	struct fault refused;
	uint64_t bytes = 0;
	if (!p->given_up)
		degrade(t, "pt-helper-lost", M_fallback_pt_lost, why);
	p->given_up = true;
	p->wants_slot = false;
	for (; p->next < p->end; bytes += bytes_of(t, p->chunk[p->next++]))
		own->chunk[own->end++] = p->chunk[p->next];
	if (p->flow)
		gpu_flow_cancel(p->flow);
	if (bytes && part_gets(t, own, bytes, &refused))
		haul_fail(t, &refused);
}

void upload_begin(struct haul *t)
{
	struct daemon *d = t->daemon;
	struct upload *u = calloc(1, sizeof *u);
	struct fault why;
	uint64_t bytes[PARTS] = {0};
	ASSERT(u);
	t->upload = u;
	u->device = (uint32_t)devices_of_tier(d, t->to);
	add_part(t, u->device);
	if (gpu_lost(d->gpu, u->device)) {
		gpu_loss(d->gpu, u->device, &why);
		haul_fail(t, &why);
		return;
	}
	deal_chunks(t, bytes);
	if (bytes[0] && part_gets(t, &u->part[0], bytes[0], &why)) {
		haul_fail(t, &why);
		return;
	}
	for (uint32_t i = 1; i < u->n_parts; i++)
		if (bytes[i] && part_gets(t, &u->part[i], bytes[i], &why))
			give_up(t, &u->part[i], &why);
	gpu_pins_join(t->image, u->device);
	u->joined = true;
}

/* ---- chunks come home ---- */

/* What was to come over a helper comes over the own link. */
static void own_gets(struct haul *t, uint32_t chunk)
{
	struct part *own = &t->upload->part[0];
	struct fault why;
	own->chunk[own->end++] = chunk;
	if (part_gets(t, own, bytes_of(t, chunk), &why))
		haul_fail(t, &why);
}

static void own_takes_back(struct haul *t, uint32_t chunk)
{
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	if (l)
		l->taken_back++;
	metrics_add(M_helper_taken_back, 1);
	own_gets(t, chunk);
}

/* Whose load comes first gets the slot. */
static struct haul *first_waiting(struct daemon *d, uint32_t device, struct part **part)
{
	struct haul *best = NULL, *t;
	for (size_t at = 0; (t = idmap_next(&d->hauls, &at));) {
		for (uint32_t i = 1; t->upload && i < t->upload->n_parts; i++) {
			struct part *p = &t->upload->part[i];
			if (!p->wants_slot || p->device != device || (best && (best->class < t->class ||
				(best->class == t->class && best->deadline <= t->deadline))))
				continue;
			best = t;
			*part = p;
		}
	}
	return best;
}

static void slot_is_free(struct daemon *d, uint32_t device, uint64_t at)
{
	struct part *p;
	struct haul *t;
	gpu_peers_give_slot(d->peers, device, at);
	while ((t = first_waiting(d, device, &p))) {
		p->wants_slot = false;
		haul_advance(t);
		if (p->wants_slot) /* there is none left */
			return;
	}
}

static void chunk_ends(struct up_chunk *c)
{
	struct haul *t = c->haul;
	struct daemon *d = t->daemon;
	bool helper = is_helper(t, c->part);
	uint32_t device = c->part->device;
	uint64_t slot = c->chunk.at;
	c->part->out--;
	free(c);
	if (helper)
		slot_is_free(d, device, slot);
	haul_advance(t);
	engine_pump(d);
}

/* Of the way over a helper, either half: it failed, or was called back. */
static void not_helped(struct up_chunk *c, const struct fault *why)
{
	struct haul *t = c->haul;
	if (haul_is_over(t)) {
		haul_chunk_back(t);
	} else if (gpu_lost(t->daemon->gpu, t->upload->device)) {
		haul_chunk_up(t, c->number, why);
	} else {
		haul_chunk_back(t);
		give_up(t, c->part, why);
		metrics_add(M_helper_failed, 1);
		own_gets(t, c->number);
	}
	chunk_ends(c);
}

static void relayed(struct job *job)
{
	struct up_chunk *c = container_of(job, struct up_chunk, relay.job);
	struct haul *t = c->haul;
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	const struct fault *why = &c->relay.why;
	struct fault stopping;
	if (job->withdrawn) {
		fault_set(&stopping, TRIMS_E_STOPPING, "the daemon is stopping");
		why = &stopping;
	}
	if (c->relay.result)
		devices_check(t->daemon);
	if (job->withdrawn || c->relay.result || haul_is_over(t)) {
		not_helped(c, why);
		return;
	}
	if (l)
		l->helper_bytes += c->relay.bytes;
	metrics_add(M_helper_relayed, 1);
	metrics_add(M_helper_bytes, c->relay.bytes);
	segment_set_helped(t->image->copies[t->to], holding_layout(t->image), c->number);
	haul_chunk_up(t, c->number, NULL);
	chunk_ends(c);
}

static void was_called_back(struct up_chunk *c)
{
	haul_chunk_back(c->haul);
	own_takes_back(c->haul, c->number);
	chunk_ends(c);
}

/* It is in the helper's memory. */
static void begin_relay(struct up_chunk *c)
{
	struct haul *t = c->haul;
	struct layout_chunk k = layout_chunk(holding_layout(t->image), c->number);
	c->relay = (struct gpu_relay_copy){.job = {.done = relayed, .class = t->class, .deadline = t->deadline},
		.from_device = c->part->device, .from = c->chunk.at, .bytes = k.bytes,
		.to = segment_device_chunk(t->image->copies[t->to], k, c->number)};
	gpu_relay_submit(t->daemon->relays, t->upload->device, &c->relay);
}

static void helper_has(struct up_chunk *c)
{
	struct haul *t = c->haul;
	struct fault why = c->chunk.why;
	bool failed = c->chunk.result || c->part->given_up || haul_is_over(t);
	c->part->on_link--;
	if (!c->chunk.result)
		fault_set(&why, TRIMS_E_CANCELLED, "called back");
	if (c->chunk.job.withdrawn && c->part->called_back && !failed)
		was_called_back(c);
	else if (c->chunk.job.withdrawn || failed)
		not_helped(c, &why);
	else
		begin_relay(c);
}

static void up_done(struct job *job)
{
	struct up_chunk *c = container_of(job, struct up_chunk, chunk.job);
	struct haul *t = c->haul;
	if (c->chunk.result)
		devices_check(t->daemon);
	if (is_helper(t, c->part)) {
		helper_has(c);
		return;
	}
	c->part->on_link--;
	if (job->withdrawn)
		haul_chunk_back(t);
	else
		haul_chunk_up(t, c->number, c->chunk.result ? &c->chunk.why : NULL);
	chunk_ends(c);
}

/* ---- chunks go ---- */

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

static void submit(struct haul *t, struct part *p, uint64_t at)
{
	const struct layout *l = holding_layout(t->image);
	struct segment *host = holding_host(t->image);
	struct up_chunk *c = calloc(1, sizeof *c);
	ASSERT(c);
	c->haul = t;
	c->part = p;
	c->number = p->chunk[p->next++];
	c->chunk = (struct gpu_chunk){.job = {.done = up_done, .class = class_on(t, p), .deadline = t->deadline},
		.at = at, .host = segment_chunk(host, l, c->number), .bytes = bytes_of(t, c->number),
		.registered = gpu_pins_look(host, c->number) == GPU_PIN_READY};
	if (!p->filled && source_of(t) == GPU_SOURCE_HOST) {
		gpu_flow_filled(p->flow);
		p->filled = true;
	}
	p->out++;
	p->on_link++;
	t->outstanding++;
	gpu_flow_submit(p->flow, &c->chunk);
}

static void advance_helper(struct haul *t, struct part *p)
{
	uint64_t at;
	while (p->next < p->end && p->out < HELPER_WINDOW && may_go(t, p->chunk[p->next])) {
		p->wants_slot = !gpu_peers_take_slot(t->daemon->peers, p->device, &at);
		if (p->wants_slot)
			return;
		submit(t, p, at);
	}
}

/* The last chunk of who has the most left; false: nobody has one that may go. */
static bool take_back(struct haul *t)
{
	struct upload *u = t->upload;
	struct part *own = &u->part[0], *most = own;
	for (uint32_t i = 1; i < u->n_parts; i++)
		if (u->part[i].end - u->part[i].next > most->end - most->next)
			most = &u->part[i];
	if (most == own || !may_go(t, most->chunk[most->end - 1]))
		return false;
	uint32_t chunk = most->chunk[--most->end];
	gpu_flow_less(most->flow, bytes_of(t, chunk));
	most->wants_slot &= most->next < most->end;
	own_takes_back(t, chunk);
	return !haul_is_over(t);
}

/* The own link has done all it could get: what helpers' links have not begun is called back.  When it never had any, which is of
 * loads of a few chunks, a helper's link that nobody else uses has the time to begin. */
static void call_back(struct haul *t)
{
	struct upload *u = t->upload;
	if (u->part[0].out || !upload_has_begun_all(t))
		return;
	for (uint32_t i = 1; i < u->n_parts; i++) {
		struct part *p = &u->part[i];
		if (!p->on_link || p->called_back || p->given_up || (!u->part[0].next && gpu_flow_is_alone(p->flow)))
			continue;
		p->called_back = true;
		gpu_flow_call_back(p->flow);
	}
}

static void advance_own(struct haul *t)
{
	struct part *p = &t->upload->part[0];
	const struct layout *l = holding_layout(t->image);
	const struct segment *to = t->image->copies[t->to];
	while (p->out < OWN_WINDOW) {
		if (p->next == p->end && p->out > TAKE_BACK_AT)
			return;
		if (p->next == p->end && !take_back(t)) {
			call_back(t);
			return;
		}
		uint32_t chunk = p->chunk[p->next];
		if (!may_go(t, chunk))
			return;
		submit(t, p, segment_device_chunk(to, layout_chunk(l, chunk), chunk));
	}
}

void upload_advance(struct haul *t)
{
	struct upload *u = t->upload;
	for (uint32_t i = 1; i < u->n_parts; i++)
		advance_helper(t, &u->part[i]);
	advance_own(t);
}

bool upload_has_begun_all(const struct haul *t)
{
	const struct upload *u = t->upload;
	for (uint32_t i = 0; i < u->n_parts; i++)
		if (u->part[i].next < u->part[i].end)
			return false;
	return true;
}

/* ---- the whole ---- */

void upload_reclass(struct haul *t)
{
	struct upload *u = t->upload;
	for (uint32_t i = 0; u && i < u->n_parts; i++)
		if (u->part[i].flow)
			gpu_flow_reclass(u->part[i].flow, class_on(t, &u->part[i]), t->deadline, t->user);
}

void upload_cancel(struct haul *t)
{
	struct upload *u = t->upload;
	for (uint32_t i = 0; u && i < u->n_parts; i++) {
		u->part[i].wants_slot = false;
		if (u->part[i].flow)
			gpu_flow_cancel(u->part[i].flow);
	}
}

void upload_end(struct haul *t)
{
	struct upload *u = STEAL(t->upload);
	if (!u)
		return;
	struct trace_load *l = trace_find(&t->image->trace, t->id);
	if (u->part[0].flow && l)
		gpu_flow_waits(u->part[0].flow, &l->link);
	if (u->joined)
		gpu_pins_leave(t->image, u->device);
	for (uint32_t i = 0; i < u->n_parts; i++) {
		ASSERT(!u->part[i].out);
		gpu_flow_free(&u->part[i].flow);
		free(u->part[i].chunk);
	}
	free(u);
}
