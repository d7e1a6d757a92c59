/* copies.c - see copies.h.
 * Keeps: memory is made and unmade by workers; a copy hangs in its holding from cache_alloc_done() to the brain's FREE. */
#include "mrm/copies.h"

#include "mrm/catalog.h"
#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/kept.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/pinned.h"
#include "mrm/gpu/session.h"
#include "mrm/plans.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct copy_job {
	struct job job;
	struct daemon *daemon;
	struct holding *image; /* referenced */
	uint64_t model, generation, number; /* the last: what the answer names, the edition's */
	uint8_t tier;
	int device; /* -1: not on one */
	struct plan *plan; /* a reference; NULL: none */
	const struct image_desc *desc;
	char label[128];
	/* what is made */
	struct shm_region table;
	struct segment *copy; /* of one that grows or is cut: the holding's, which nobody else changes meanwhile */
	uint32_t n_pieces;    /* of a copy that changes: as many as it is to have */
	struct segment_edition edition; /* of one that grows: the next */
	uint64_t bytes;       /* of one that is cut: then, */
	uint64_t old;         /* and what it was known by, and how many pieces that had; 0: that goes on */
	uint32_t old_pieces;
	int result;
	struct fault why;
	struct disk_image *leaving;
	uint8_t **side_data; /* [n_sides] rescued from it */
};

/* One that owns nothing yet: a descriptor of 0 would be somebody else's. */
static struct copy_job *copy_job_blank(struct holding *img, const char *label)
{
	struct copy_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->daemon = img->daemon;
	j->image = holding_get(img);
	j->device = -1;
	j->table.fd = j->edition.page.fd = j->edition.records.fd = -1;
	snprintf(j->label, sizeof j->label, "%s", label);
	return j;
}

static struct copy_job *copy_job_new(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = holding_by_model(d, fx->model);
	ASSERT(img);
	struct copy_job *j = copy_job_blank(img, holding_label(img));
	j->model = fx->model;
	j->generation = fx->copy;
	j->number = fx->edition;
	j->tier = fx->to;
	j->device = devices_of_tier(d, fx->to);
	j->desc = img->desc;
	j->plan = plans_get(d->plans, fx->plan);
	return j;
}

static void copy_job_end(struct copy_job *j)
{
	struct daemon *d = j->daemon;
	shm_fini(&j->table);
	segment_edition_fini(&j->edition);
	plan_put(&j->plan);
	holding_put(&j->image);
	free(j);
	engine_pump(d);
}

/* ---- copies begin ---- */

static int run_alloc_device(struct copy_job *j)
{
	struct gpu *g = j->daemon->gpu;
	uint32_t device = (uint32_t)j->device;
	const struct pieces *p = j->copy->pieces;
	uint64_t bytes[PIECES_MAX];
	for (uint32_t i = 0; i < j->copy->n_pieces; i++)
		bytes[i] = p->v[i].bytes;
	int e = gpu_memory_new(&j->copy->device, g, device, gpu_facts(g, device)->export, bytes, j->copy->n_pieces, &j->why);
	return e ? e : session_records_new(&j->copy->records, j->copy->device, p, j->copy->n_pieces, j->generation,
		&j->daemon->shm, &j->why);
}

/* The table is made with each copy: whether another tier's copy keeps the one there is now is not known before the end. */
static void run_alloc(struct job *job, void *worker)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	const struct shm_options *o = &j->daemon->shm;
	const struct layout *l = j->desc->layout;
	j->result = holding_build_table(l, o, &j->table, &j->why);
	enum segment_kind kind = j->device >= 0 ? SEGMENT_DEVICE : j->tier == BRAIN_HOST ? SEGMENT_HOST
		: SEGMENT_PAGE;
	struct pieces *pieces = NULL;
	if (!j->result && j->device >= 0)
		j->result = plans_pieces(j->daemon, l, j->plan, &pieces, &j->why);
	if (!j->result)
		j->result = segment_new(&j->copy, l, j->generation, kind, pieces, j->label, o, &j->why);
	if (!j->result && j->device >= 0)
		j->result = run_alloc_device(j);
	if (j->result) {
		copies_release(j->copy);
		segment_free(&j->copy);
	}
}

static void allocated(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct daemon *d = j->daemon;
	struct holding *img = j->image;
	struct segment **slot = &img->copies[j->tier];
	if (job->withdrawn) {
		j->result = -ECANCELED;
		fault_set(&j->why, TRIMS_E_STOPPING, "the daemon is stopping");
	}
	if (!j->result) {
		if (img->table.fd < 0)
			img->table = shm_take(&j->table);
		/* A page of an earlier copy on disk may be left: its clients keep their own mapping of it. */
		ASSERT(!*slot || !(*slot)->extents);
		segment_free(slot);
		*slot = j->copy;
		j->copy->plan = j->copy->pieces && j->copy->pieces->order ? STEAL(j->plan) : NULL;
		img->trace.alloc_ns = job->finished_ns - job->queued_ns;
	}
	devices_check(d);
	cache_alloc_done(d->cache, clock_now(), j->model, j->tier, j->number, j->result ? &j->why : NULL);
	copy_job_end(j);
}

static void submit(struct copy_job *j, void (*run)(struct job *, void *), void (*done)(struct job *))
{
	j->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(j->daemon->misc, &j->job);
}

static bool plan_fits(struct copy_job *j)
{
	struct fault why;
	if (!j->plan || !plan_check_model(j->plan->head, j->desc->layout->n_tensors, &why))
		return true;
	daemon_degraded(j->daemon, "plan-not-fitting", "%s: %s; all of it is loaded", j->label, why.text);
	metrics_add(M_fallback_plan_unfit, 1);
	return false;
}

/* ---- copies grow ---- */

static void run_grow(struct job *job, void *worker)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct segment *c = j->copy;
	const struct pieces *p = c->pieces;
	uint64_t bytes[PIECES_MAX];
	uint32_t n = j->n_pieces - c->n_pieces;
	for (uint32_t i = 0; i < n; i++)
		bytes[i] = p->v[c->n_pieces + i].bytes;
	j->result = segment_edition_new(&j->edition, c, j->desc->layout, j->number, j->n_pieces, j->label,
		&j->daemon->shm, &j->why);
	if (!j->result)
		j->result = gpu_memory_grow(c->device, bytes, n, &j->why);
	if (j->result)
		return;
	j->result = session_records_new(&j->edition.records, c->device, p, j->n_pieces, j->number, &j->daemon->shm,
		&j->why);
	if (j->result)
		gpu_memory_shrink(c->device, c->n_pieces);
}

static void grown(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct daemon *d = j->daemon;
	struct segment *c = j->copy;
	if (job->withdrawn) {
		j->result = -ECANCELED;
		fault_set(&j->why, TRIMS_E_STOPPING, "the daemon is stopping");
	}
	if (!j->result && segment_is_ready(c))
		segment_grow(c, &j->edition);
	else if (!j->result)
		segment_replace(c, &j->edition);
	copies_let_go(d, c);
	devices_check(d);
	cache_alloc_done(d->cache, clock_now(), j->model, j->tier, j->number, j->result ? &j->why : NULL);
	copy_job_end(j);
}

static uint32_t pieces_within(const struct pieces *p, enum copy_reach reach)
{
	return reach == REACH_ALL ? p->n : reach == REACH_PLAN ? p->n_plan : p->n_head;
}

static void grow(struct daemon *d, const struct cache_effect *fx)
{
	struct copy_job *j = copy_job_new(d, fx);
	j->copy = j->image->copies[fx->to];
	ASSERT(j->copy && j->copy->device && j->copy->generation == fx->copy);
	j->n_pieces = pieces_within(j->copy->pieces, fx->reach);
	copies_hold(j->copy);
	if (fx->reach != REACH_ALL || segment_is_ready(j->copy)) {
		submit(j, run_grow, grown);
		return;
	}
	/* It came from an earlier daemon: clients wait on the page it has. */
	fault_set(&j->why, TRIMS_E_BUSY, "%s is still being checked", j->label);
	j->result = -EBUSY;
	grown(&j->job);
}

void copies_alloc(struct daemon *d, const struct cache_effect *fx)
{
	if (fx->grow) {
		grow(d, fx);
		return;
	}
	struct copy_job *j = copy_job_new(d, fx);
	if (j->device < 0 || !plan_fits(j))
		plan_put(&j->plan);
	submit(j, run_alloc, allocated);
}

/* ---- copies are cut ---- */

static void run_cut(struct job *job, void *worker)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	if (j->old)
		kept_drop(j->daemon, j->old, j->old_pieces);
	gpu_memory_shrink(j->copy->device, j->n_pieces);
}

static void was_cut(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct daemon *d = j->daemon;
	if (job->withdrawn)
		run_cut(job, NULL);
	cache_trimmed(d->cache, clock_now(), j->model, j->tier, j->number, j->bytes);
	copy_job_end(j);
}

/* What is left of a copy that was all there, or is still: nobody has it, and who comes next gets a page that says so. */
static void reopen(struct copy_job *j, const struct cache_effect *fx)
{
	struct daemon *d = j->daemon;
	struct segment *c = j->copy;
	const struct layout *l = j->desc->layout;
	int e = segment_edition_new(&j->edition, c, l, fx->edition, c->n_pieces, j->label, &d->shm, &j->why);
	e = e ? e : session_records_new(&j->edition.records, c->device, c->pieces, c->n_pieces, fx->edition, &d->shm, &j->why);
	if (e) {
		log_warn("gpu", "%s: it cannot be served any more: %s", j->label, j->why.text);
		cache_corrupt(d->cache, clock_now(), j->model, j->tier);
		return;
	}
	segment_replace(c, &j->edition);
	segment_set_ready(c, l, j->image->digest);
}

void copies_trim(struct daemon *d, const struct cache_effect *fx)
{
	struct copy_job *j = copy_job_new(d, fx);
	struct segment *c = j->copy = j->image->copies[fx->to];
	ASSERT(c && c->device && c->generation == fx->copy);
	bool was_ready = segment_is_ready(c);
	j->n_pieces = pieces_within(c->pieces, fx->reach);
	j->bytes = fx->bytes;
	if (j->n_pieces < c->n_pieces) {
		j->old = c->edition;
		j->old_pieces = c->n_pieces;
		metrics_add(M_gpu_trimmed, 1);
		metrics_add(M_gpu_trimmed_bytes, pieces_bytes(c->pieces, c->n_pieces, 1) - pieces_bytes(c->pieces, j->n_pieces, 1));
	}
	segment_cut(c, j->desc->layout, MIN(j->n_pieces, c->n_pieces));
	if (c->cut && fx->reach == REACH_PLAN && was_ready)
		reopen(j, fx);
	else if (c->cut && fx->reach == REACH_PLAN) /* it was still being checked, and that has ended */
		cache_corrupt(d->cache, clock_now(), j->model, j->tier);
	j->job = (struct job){.run = run_cut, .done = was_cut, .class = CLASS_DEMAND, .deadline = 0};
	if (c->users)
		c->when_unused = &j->job;
	else
		pool_submit(d->misc, &j->job);
}

/* ---- copies end ---- */

/* A copy in memory goes in one step.  Of an image on disk, what only that has is taken first (side files' contents are
 * needed to write it again; one that is damaged is missed then), and it goes when nobody reads it any more. */

static void run_rescue(struct job *job, void *worker)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	j->side_data = calloc(MAX(j->desc->n_sides, 1u), sizeof *j->side_data);
	ASSERT(j->side_data);
	for (uint32_t i = 0; i < j->desc->n_sides; i++)
		if (!j->desc->sides[i].data && disk_image_side(j->leaving, i, &j->side_data[i], &j->why))
			log_warn("disk", "%s: %s", j->label, j->why.text);
}

static void run_free(struct job *job, void *worker)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	if (j->copy)
		kept_drop(j->daemon, j->copy->edition, j->copy->n_pieces);
	copies_release(j->copy);
	segment_free(&j->copy);
	if (j->leaving && disk_image_drop(&j->leaving, &j->why))
		log_warn("disk", "%s: %s", j->label, j->why.text);
}

void copies_release(struct segment *copy)
{
	if (!copy)
		return;
	gpu_memory_free(&copy->device);
	gpu_pins_free(copy);
}

static void freed(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct daemon *d = j->daemon;
	if (job->withdrawn)
		run_free(job, NULL);
	holding_drop_table(j->image);
	devices_check(d);
	cache_freed(d->cache, clock_now(), j->model, j->tier, j->generation);
	catalog_changed(d);
	copy_job_end(j);
}

static void rescued(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct holding *img = j->image;
	holding_take_sides(img, STEAL(j->side_data));
	img->leaving = NULL;
	j->job = (struct job){.run = run_free, .done = freed, .class = CLASS_DEMAND, .deadline = 0};
	holding_when_alone(img, &j->job);
}

void copies_free(struct daemon *d, const struct cache_effect *fx)
{
	struct copy_job *j = copy_job_new(d, fx);
	struct holding *img = j->image;
	j->copy = STEAL(img->copies[fx->to]);
	integrity_forget(d->integrity, fx->copy);
	beside_forget(d->beside, fx->copy);
	if (fx->to == BRAIN_DISK) {
		holding_keep_hashes(img);
		j->leaving = img->leaving = STEAL(img->stored);
		img->suspect = false;
	} else {
		holding_settle_hashes(img);
	}
	if (!j->copy || !j->copy->users) {
		submit(j, j->leaving ? run_rescue : run_free, j->leaving ? rescued : freed);
		return;
	}
	ASSERT(!j->leaving); /* that is a page alone */
	j->job = (struct job){.run = run_free, .done = freed, .class = CLASS_DEMAND, .deadline = 0};
	j->copy->when_unused = &j->job;
}

void copies_hold(struct segment *s)
{
	s->users++;
}

void copies_let_go(struct daemon *d, struct segment *s)
{
	ASSERT(s->users > 0);
	if (--s->users == 0 && s->when_unused)
		pool_submit(d->misc, STEAL(s->when_unused));
}

void copies_poison(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = holding_by_model(d, fx->model);
	struct segment *copy = img ? img->copies[fx->to] : NULL;
	if (copy && copy->generation == fx->copy)
		segment_poison(copy, &fx->error);
	/* Behind the page: who is woken looks there. */
	session_poison(d->sessions, copy && copy->generation == fx->copy ? copy->edition : fx->copy);
}

static void reference_dropped(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	if (job->withdrawn)
		run_free(job, NULL);
	copy_job_end(j);
}

void copies_forget_reference(struct holding *img)
{
	if (!img->stored || !img->desc->in_place)
		return;
	struct copy_job *j = copy_job_blank(img, img->desc->name);
	j->leaving = STEAL(img->stored);
	j->job = (struct job){.run = run_free, .done = reference_dropped, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	holding_when_alone(img, &j->job);
}
