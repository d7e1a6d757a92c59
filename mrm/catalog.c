/* catalog.c - see catalog.h. */
#include "mrm/catalog.h"

#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/holding.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <stdlib.h>
#include <string.h>

/* ---- what the disk tier held at start ---- */

static void adopt_image(struct daemon *d, struct disk_image *stored)
{
	const struct image_desc *desc = disk_image_desc(stored);
	struct holding *img = holding_for_desc(d, desc);
	int e = 0;
	img->stored = stored;
	if (!(img->digest.hi | img->digest.lo)) /* else a copy in memory outlived the last daemon and has it */
		img->digest = disk_image_digest(stored);
	if (desc->in_place)
		return; /* found again by its fingerprint when somebody asks for it */
	struct cache_model_info info;
	holding_info(img, &info);
	e = cache_adopt(d->cache, clock_now(), NULL, &info, disk_image_bytes(stored), disk_image_complete(stored), 0,
		&img->model);
	if (e) {
		log_warn("disk", "%s does not fit into disk-bytes and is dropped", desc->name);
		metrics_add(M_disk_adopted_dropped, 1);
		img->stored = NULL;
		disk_image_drop(&stored, NULL);
		holding_settle(img);
		return;
	}
	idmap_set(&d->images, img->model, img);
	if (!disk_image_complete(stored))
		log_info("disk", "%s: %u of %u chunks are there from an earlier run", desc->name, disk_image_chunks(stored),
			desc->layout->n_chunks);
	metrics_add(disk_image_complete(stored) ? M_disk_adopted_complete : M_disk_adopted_partial, 1);
	if (img->digest.hi | img->digest.lo)
		cache_identified(d->cache, clock_now(), img->model, img->digest.hi, img->digest.lo);
}

void catalog_adopt(struct daemon *d)
{
	if (!d->disk)
		return;
	for (struct disk_image *i = disk_next(d->disk, NULL), *next; i; i = next) {
		next = disk_next(d->disk, i);
		adopt_image(d, i);
	}
	const struct disk_name *names;
	uint32_t n = disk_names(d->disk, &names), known = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct holding *img = holding_by_fingerprint(d, names[i].fingerprint_hi, names[i].fingerprint_lo);
		if (img && img->model && !cache_adopt_name(d->cache, clock_now(), names[i].name, img->model))
			known++;
	}
	engine_pump(d);
	d->adopted = true;
	log_info("disk", "%u names known from earlier runs", known);
}

/* ---- the catalog of names ----
 *
 * Gathered over turns of the loop: what changes meanwhile may be in it or not, but a name that stays is, and any change has
 * it written once more.  The file is replaced as a whole, so a daemon that is killed anywhere in this leaves the last one. */

#define NAMES_PER_TURN 1024 /* places looked at, a few 100 us */

struct names_job {
	struct job job;
	struct daemon *daemon;
	uint64_t cursor;
	uint64_t now_s;
	struct disk_name *names;
	uint32_t n, cap;
};

static void names_add(void *ctx, const char *name, uint64_t model)
{
	struct names_job *j = ctx;
	const struct holding *img = holding_by_model(j->daemon, model);
	if (!img || !img->stored)
		return;
	const struct image_desc *desc = holding_desc(img);
	if (j->n == j->cap) {
		j->cap = j->cap ? j->cap * 2 : 64;
		j->names = realloc(j->names, j->cap * sizeof *j->names);
		ASSERT(j->names);
	}
	j->names[j->n++] = (struct disk_name){
		.name = strdup(name),
		.source = strdup(desc->source),
		.revision = strdup(desc->revision),
		.fingerprint_hi = img->fingerprint_hi,
		.fingerprint_lo = img->fingerprint_lo,
		.last_use_s = j->now_s,
	};
}

/* By the worker if it can: with many names it takes longer than the loop has. */
static void names_forget(struct names_job *j)
{
	while (j->n) {
		struct disk_name *n = &j->names[--j->n];
		free(n->name);
		free(n->source);
		free(n->revision);
	}
	free(STEAL(j->names));
}

static void names_run(struct job *job, void *worker)
{
	struct names_job *j = container_of(job, struct names_job, job);
	struct fault why;
	if (disk_names_save(j->daemon->disk, j->names, j->n, &why))
		log_warn("disk", "the catalog of names was not written: %s", why.text);
	names_forget(j);
}

static void names_done(struct job *job)
{
	struct names_job *j = container_of(job, struct names_job, job);
	j->daemon->names_saving = false;
	names_forget(j);
	free(j);
}

void catalog_changed(struct daemon *d)
{
	d->names_dirty = true;
}

/* Before everything is adopted the brain knows less than the catalog does. */
static bool may_gather(const struct daemon *d)
{
	return d->disk && d->adopted && !d->names_saving && (d->names_dirty || d->names_gathered);
}

/* True when there are more. */
static bool gather(struct daemon *d)
{
	struct names_job *j = d->names_gathered;
	if (!j) {
		d->names_gathered = j = calloc(1, sizeof *j);
		ASSERT(j);
		j->daemon = d;
		j->now_s = clock_unix() / NS_PER_S;
		d->names_dirty = false; /* what changes from here on may have come too late */
	}
	if (cache_names_step(d->cache, &j->cursor, NAMES_PER_TURN, names_add, j))
		return true;
	d->names_gathered = NULL;
	d->names_saving = true;
	j->job = (struct job){.run = names_run, .done = names_done, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	pool_submit(d->misc, &j->job);
	return false;
}

bool catalog_turn(struct daemon *d)
{
	return may_gather(d) && gather(d);
}

void catalog_save(struct daemon *d)
{
	ASSERT(!d->names_saving);
	if (d->names_gathered) { /* begins anew: more may have changed */
		names_forget(d->names_gathered);
		free(STEAL(d->names_gathered));
		d->names_dirty = true;
	}
	while (may_gather(d) && gather(d))
		;
}
