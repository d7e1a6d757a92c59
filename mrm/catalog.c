/* catalog.c - see catalog.h. */
#include "mrm/catalog.h"

#include "mrm/clock.h"
#include "mrm/engine.h"
#include "mrm/holding.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

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

/* ---- the catalog of names ---- */

struct names_job {
	struct job job;
	struct daemon *daemon;
	struct disk_name *names;
	uint32_t n, cap;
};

static void names_add(struct names_job *j, const char *name, const struct holding *img)
{
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
		.last_use_s = clock_unix() / NS_PER_S,
	};
}

static void names_run(struct job *job, void *worker)
{
	struct names_job *j = container_of(job, struct names_job, job);
	struct fault why;
	if (disk_names_save(j->daemon->disk, j->names, j->n, &why))
		log_warn("disk", "the catalog of names was not written: %s", why.text);
}

static void names_done(struct job *job)
{
	struct names_job *j = container_of(job, struct names_job, job);
	j->daemon->names_saving = false;
	while (j->n) {
		struct disk_name *n = &j->names[--j->n];
		free(n->name);
		free(n->source);
		free(n->revision);
	}
	free(j->names);
	free(j);
}

void catalog_changed(struct daemon *d)
{
	d->names_dirty = true;
}

bool catalog_save(struct daemon *d)
{
	/* Before everything is adopted the brain knows less than the catalog does. */
	if (!d->disk || !d->adopted || !d->names_dirty || d->names_saving)
		return false;
	struct names_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->daemon = d;
	for (uint64_t model = 0; cache_next_model(d->cache, &model);) {
		struct holding *img = holding_by_model(d, model);
		const char *name;
		for (uint32_t i = 0; img && img->stored && (name = cache_name(d->cache, model, i)); i++)
			names_add(j, name, img);
	}
	d->names_dirty = false;
	d->names_saving = true;
	j->job = (struct job){.run = names_run, .done = names_done, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	pool_submit(d->misc, &j->job);
	return true;
}
