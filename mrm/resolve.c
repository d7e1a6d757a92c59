/* resolve.c - see resolve.h.
 * Two steps: find (is there such a model, in which version?), then describe (read its headers), the second only for a
 * version that is not known yet.  Where headers are at hand, a name that leads nowhere yet is described at once: that
 * costs less than asking the loop whether it must be. */
#include "mrm/resolve.h"

#include "mrm/catalog.h"
#include "mrm/chunk.h"
#include "mrm/clock.h"
#include "mrm/engine.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/name.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct search {
	struct job job;
	struct daemon *daemon;
	uint64_t name_id;
	char name[CACHE_NAME_MAX + 1], base[CACHE_NAME_MAX + 1], revision[CACHE_NAME_MAX + 1];
	struct source_listing *listing;
	struct source_description *description;
	bool is_new; /* the name leads to no model yet */
	uint64_t started_ns;
	int result;
	struct fault why;
};

static void search_free(struct search *s)
{
	source_description_free(&s->description);
	source_listing_free(&s->listing);
	free(s);
}

/* A client may ask for what fails as often as it likes. */
static struct log_limit failures = {.period_ns = 10 * NS_PER_S, .most = 50};

/* Every source is asked until one has it.  A source that fails does not hide the next ones, but when nobody has the
 * model its failure is the answer: "not found" would be a guess. */
static void ask_sources(struct search *s, void *worker)
{
	struct daemon *d = s->daemon;
	s->result = -ENOENT;
	fault_set(&s->why, TRIMS_E_NOT_FOUND, "%s: no source of %zu has it", s->name, d->n_sources);
	if (!d->n_sources) { /* nobody can say that it does not exist: what is cached stays */
		s->result = -EHOSTUNREACH;
		fault_set(&s->why, TRIMS_E_UNREACHABLE, "%s: no source is configured", s->name);
	}
	for (size_t i = 0; i < d->n_sources; i++) {
		struct fault why;
		int e = source_resolve(d->sources[i], net_source(worker), s->base, s->revision, d->halt, &s->listing, &why);
		metrics_add(e && e != -ENOENT ? M_source_requests_failed : M_source_requests_done, 1);
		if (!e) {
			s->result = 0;
			return;
		}
		if (e == -ENOENT)
			continue;
		log_limited(&failures, clock_now(), LOG_WARN, "source", "%s at %s: %s", s->name, source_url(d->sources[i]), why.text);
		if (s->result == -ENOENT) {
			s->result = e;
			s->why = why;
		}
	}
}

static void describe_found(struct search *s, void *worker)
{
	s->result = source_describe(net_source(worker), s->listing, s->daemon->halt, &s->description, &s->why);
	metrics_add(s->result ? M_source_requests_failed : M_source_requests_done, 1);
}

static void run_find(struct job *job, void *worker)
{
	struct search *s = container_of(job, struct search, job);
	ask_sources(s, worker);
	if (!s->result && s->is_new && s->listing->in_place)
		describe_found(s, worker);
}

static void run_describe(struct job *job, void *worker)
{
	describe_found(container_of(job, struct search, job), worker);
}

/* ---- what was found becomes a description ---- */

static char *copy_text(const char *text)
{
	char *copy = strdup(text ? text : "");
	ASSERT(copy);
	return copy;
}

static void take_files(struct image_desc *desc, const struct source_listing *l)
{
	desc->n_files = l->n_weights;
	desc->files = calloc(MAX(l->n_weights, 1u), sizeof *desc->files);
	ASSERT(desc->files);
	for (uint32_t i = 0; i < l->n_weights; i++) {
		desc->files[i].path = copy_text(l->files[i].path);
		desc->files[i].version = copy_text(l->files[i].version);
		desc->files[i].has_sha256 = l->files[i].has_sha256;
		memcpy(desc->files[i].sha256, l->files[i].sha256, sizeof desc->files[i].sha256);
	}
}

static void take_sides(struct image_desc *desc, const struct source_listing *l, struct source_description *d)
{
	desc->n_sides = l->n_files - l->n_weights;
	desc->sides = calloc(MAX(desc->n_sides, 1u), sizeof *desc->sides);
	ASSERT(desc->sides);
	for (uint32_t i = 0; i < desc->n_sides; i++) {
		struct image_side *side = &desc->sides[i];
		side->name = copy_text(l->files[l->n_weights + i].path);
		side->bytes = d->side[i].bytes;
		side->data = STEAL(d->side[i].data);
		if (!side->data)
			side->data = calloc(1, 1);
		side->hash = chunk_hash(side->data, side->bytes);
	}
}

static struct image_desc *describe(const struct source_listing *l, struct source_description *d)
{
	struct image_desc *desc;
	image_desc_new(&desc);
	ASSERT(desc);
	desc->fingerprint_hi = l->fingerprint_hi;
	desc->fingerprint_lo = l->fingerprint_lo;
	desc->in_place = l->in_place;
	desc->source = copy_text(source_url(l->source));
	desc->name = copy_text(l->name);
	desc->revision = copy_text(l->revision);
	desc->layout = STEAL(d->layout);
	take_files(desc, l);
	take_sides(desc, l, d);
	return desc;
}

/* ---- the loop's side ---- */

static void answer(struct search *s, struct holding *img)
{
	struct daemon *d = s->daemon;
	uint64_t now = clock_now(), model = 0;
	struct cache_model_info info;
	source_left_out_fini(&img->left_out);
	img->left_out = s->listing->left_out;
	s->listing->left_out = (struct source_left_out){0};
	if (!img->listing)
		img->listing = STEAL(s->listing);
	img->source = img->listing->source;
	img->trace.resolve_ns = now - s->started_ns;
	holding_info(img, &info);
	holding_get(img);
	cache_resolved(d->cache, now, s->name_id, &info, &model);
	/* A model that turned out to have another one's bytes is that other model now, under its holding. */
	if (model && !holding_by_model(d, model)) {
		ASSERT(!img->model);
		img->model = model;
		idmap_set(&d->images, model, img);
	}
	holding_put(&img);
	catalog_changed(d);
}

static void fail(struct search *s)
{
	if (s->job.withdrawn)
		fault_set(&s->why, TRIMS_E_STOPPING, "the daemon is stopping");
	cache_resolve_failed(s->daemon->cache, clock_now(), s->name_id, &s->why);
}

/* Another name may have led to the same files meanwhile. */
static struct holding *described_holding(struct search *s)
{
	struct holding *img = holding_by_fingerprint(s->daemon, s->listing->fingerprint_hi, s->listing->fingerprint_lo);
	if (!img) {
		int e = holding_new(&img, s->daemon, s->listing->fingerprint_hi, s->listing->fingerprint_lo);
		ASSERT(!e);
	}
	if (!holding_desc(img))
		img->desc = describe(s->listing, s->description);
	return img;
}

static void described(struct job *job)
{
	struct search *s = container_of(job, struct search, job);
	struct daemon *d = s->daemon;
	if (job->withdrawn || s->result)
		fail(s);
	else
		answer(s, described_holding(s));
	search_free(s);
	engine_pump(d);
}

static void submit(struct search *s, void (*run)(struct job *, void *), void (*done)(struct job *))
{
	s->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = CACHE_NEVER};
	pool_submit(s->daemon->find, &s->job);
}

static void found(struct job *job)
{
	struct search *s = container_of(job, struct search, job);
	struct daemon *d = s->daemon;
	if (job->withdrawn || s->result || s->description) {
		described(job);
		return;
	}
	struct holding *img = holding_by_fingerprint(d, s->listing->fingerprint_hi, s->listing->fingerprint_lo);
	if (!img || !holding_desc(img)) {
		submit(s, run_describe, described);
		return;
	}
	answer(s, img);
	search_free(s);
	engine_pump(d);
}

void resolve_start(struct daemon *d, uint64_t name_id, const char *name)
{
	struct search *s = calloc(1, sizeof *s);
	ASSERT(s);
	s->daemon = d;
	s->name_id = name_id;
	s->is_new = !cache_find(d->cache, name);
	s->started_ns = clock_now();
	snprintf(s->name, sizeof s->name, "%s", name);
	int e = name_split(name, s->base, s->revision, NULL);
	ASSERT(!e); /* checked when it came in */
	submit(s, run_find, found);
}

int resolve_again(const struct image_desc *desc, struct source *source, struct source_worker *w,
	const struct source_cancel *cancel, struct source_listing **out, struct fault *why)
{
	if (!source)
		return fault_set(why, TRIMS_E_UNREACHABLE, "%s came from %s, which is no configured source any more", desc->name,
			desc->source), -EHOSTUNREACH;
	struct source_listing *l;
	int e = source_resolve(source, w, desc->name, desc->revision, cancel, &l, why);
	if (e)
		return e;
	if (l->fingerprint_hi != desc->fingerprint_hi || l->fingerprint_lo != desc->fingerprint_lo) {
		source_listing_free(&l);
		return fault_set(why, TRIMS_E_CHANGED, "%s is another version at %s now", desc->name, desc->source), -ESTALE;
	}
	*out = l;
	return 0;
}

int resolve_side(const struct image_desc *desc, uint32_t side, const struct source_listing *listing, struct source_worker *w,
	const struct source_cancel *cancel, uint8_t **out, struct fault *why)
{
	const struct image_side *s = &desc->sides[side];
	OWN_MEM uint8_t *buf = malloc(s->bytes + 1);
	if (!buf)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %s", s->name), -ENOMEM;
	int e = source_read(w, listing, listing->n_weights + side, 0, s->bytes, buf, cancel, why);
	if (e)
		return e;
	if (!hash_equal(chunk_hash(buf, s->bytes), s->hash))
		return fault_set(why, TRIMS_E_CHANGED, "%s of %s is another file at its source now", s->name, desc->name), -ESTALE;
	*out = STEAL(buf);
	return 0;
}
