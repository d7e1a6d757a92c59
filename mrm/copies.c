/* copies.c - see copies.h.
 * Keeps: memory is made and unmade by workers; a copy hangs in its holding from cache_alloc_done() to the brain's FREE. */
#include "mrm/copies.h"

#include "mrm/catalog.h"
#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/kept.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/pinned.h"
#include "mrm/gpu/session.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct copy_job {
	struct job job;
	struct daemon *daemon;
	struct holding *image; /* referenced */
	uint64_t model, generation;
	uint8_t tier;
	int device; /* -1: not on one */
	const struct image_desc *desc;
	char label[128];
	/* what is made */
	struct shm_region table;
	struct segment *copy;
	int result;
	struct fault why;
	struct disk_image *leaving;
	uint8_t **side_data; /* [n_sides] rescued from it */
};

static struct copy_job *copy_job_new(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = holding_by_model(d, fx->model);
	ASSERT(img);
	struct copy_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->daemon = d;
	j->image = holding_get(img);
	j->model = fx->model;
	j->generation = fx->copy;
	j->tier = fx->to;
	j->device = devices_of_tier(d, fx->to);
	j->desc = img->desc;
	j->table.fd = -1;
	snprintf(j->label, sizeof j->label, "%s", holding_label(img));
	return j;
}

static void copy_job_end(struct copy_job *j)
{
	struct daemon *d = j->daemon;
	shm_fini(&j->table);
	holding_put(&j->image);
	free(j);
	engine_pump(d);
}

/* The table is made with each copy: whether another tier's copy keeps the one there is now is not known before the end. */
static void run_alloc(struct job *job, void *worker)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	const struct shm_options *o = &j->daemon->shm;
	const struct layout *l = j->desc->layout;
	j->result = holding_build_table(l, o, &j->table, &j->why);
	enum segment_kind kind = j->device >= 0 ? SEGMENT_DEVICE : j->tier == j->daemon->tier_host ? SEGMENT_HOST
		: SEGMENT_PAGE;
	if (!j->result)
		j->result = segment_new(&j->copy, l, j->generation, kind, j->label, o, &j->why);
	if (j->result || j->device < 0)
		return;
	struct gpu *g = j->daemon->gpu;
	uint32_t device = (uint32_t)j->device;
	j->result = gpu_memory_new(&j->copy->device, g, device, gpu_facts(g, device)->export, l->extent_bytes, l->n_extents,
		j->generation, &j->why);
	if (!j->result)
		j->result = session_records_new(&j->copy->records, j->copy->device, o, &j->why);
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
		img->trace.alloc_ns = job->finished_ns - job->queued_ns;
	}
	devices_check(d);
	cache_alloc_done(d->cache, clock_now(), j->model, j->tier, j->generation, j->result ? &j->why : NULL);
	copy_job_end(j);
}

static void submit(struct copy_job *j, void (*run)(struct job *, void *), void (*done)(struct job *))
{
	j->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(j->daemon->misc, &j->job);
}

void copies_alloc(struct daemon *d, const struct cache_effect *fx)
{
	submit(copy_job_new(d, fx), run_alloc, allocated);
}

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
		kept_drop(j->daemon, j->copy);
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
	if (fx->to == d->tier_disk) {
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
	session_poison(d->sessions, fx->copy); /* behind the page: who is woken looks there */
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
	struct copy_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->daemon = img->daemon;
	j->image = holding_get(img);
	j->device = -1;
	j->table.fd = -1;
	j->leaving = STEAL(img->stored);
	snprintf(j->label, sizeof j->label, "%s", img->desc->name);
	j->job = (struct job){.run = run_free, .done = reference_dropped, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	holding_when_alone(img, &j->job);
}
