/* engine.c - see engine.h. */
#include "mrm/engine.h"

#include "mrm/clock.h"
#include "mrm/conn.h"
#include "mrm/resolve.h"
#include "mrm/haul.h"
#include "mrm/verify.h"
#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory and files of copies ---- */

struct copy_job {
	struct job job;
	struct daemon *daemon;
	struct holding *image; /* referenced */
	uint64_t model, generation;
	uint8_t tier;
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
	if (!j->result)
		j->result = segment_new(&j->copy, l, j->generation, j->tier == j->daemon->tier_host, j->label, o, &j->why);
}

static void allocated(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct daemon *d = j->daemon;
	struct holding *img = j->image;
	struct segment **slot = j->tier == d->tier_disk ? &img->disk : &img->host;
	if (job->withdrawn) {
		j->result = -ECANCELED;
		fault_set(&j->why, TRIMS_E_STOPPING, "the daemon is stopping");
	}
	if (!j->result) {
		if (img->table.fd < 0)
			img->table = shm_take(&j->table);
		/* A page of an earlier copy on disk may be left: its clients keep their own mapping of it. */
		segment_free(slot);
		*slot = j->copy;
		img->trace.alloc_ns = job->finished_ns - job->queued_ns;
	}
	cache_alloc_done(d->cache, clock_now(), j->model, j->tier, j->generation, j->result ? &j->why : NULL);
	copy_job_end(j);
}

static void submit(struct copy_job *j, void (*run)(struct job *, void *), void (*done)(struct job *))
{
	j->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(j->daemon->misc, &j->job);
}

static void fx_alloc(struct daemon *d, const struct cache_effect *fx)
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
	segment_free(&j->copy);
	if (j->leaving && disk_image_drop(&j->leaving, &j->why))
		log_warn("disk", "%s: %s", j->label, j->why.text);
}

static void freed(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	struct daemon *d = j->daemon;
	if (job->withdrawn)
		run_free(job, NULL);
	holding_drop_table(j->image);
	cache_freed(d->cache, clock_now(), j->model, j->tier, j->generation);
	engine_names_changed(d);
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

static void fx_free(struct daemon *d, const struct cache_effect *fx)
{
	struct copy_job *j = copy_job_new(d, fx);
	struct holding *img = j->image;
	if (fx->to == d->tier_disk) {
		holding_keep_hashes(img);
		j->copy = STEAL(img->disk);
		j->leaving = img->leaving = STEAL(img->stored);
	} else {
		j->copy = STEAL(img->host);
		holding_settle_hashes(img);
	}
	submit(j, j->leaving ? run_rescue : run_free, j->leaving ? rescued : freed);
}

/* ---- answers ---- */

static struct segment *copy_on(struct daemon *d, struct holding *img, uint8_t tier)
{
	return tier == d->tier_disk ? img->disk : img->host;
}

/* A complete copy on disk keeps no page and no table: they are made for the answer. */
static int make_page(struct daemon *d, struct holding *img, uint64_t generation, struct segment **out, struct fault *why)
{
	int e = img->table.fd < 0 ? holding_build_table(holding_layout(img), &d->shm, &img->table, why) : 0;
	e = e ? e : segment_new(out, holding_layout(img), generation, false, holding_label(img), &d->shm, why);
	if (!e)
		segment_set_ready(*out, holding_layout(img), img->digest);
	return e;
}

static void send_opened(struct conn *c, const struct cache_effect *fx, const struct holding *img, const struct segment *copy,
	enum tier_kind kind)
{
	struct msg m;
	msg_init(&m, MSG_OPENED, fx->request);
	m.u.opened.lease = fx->lease;
	m.u.opened.copy = fx->copy;
	m.u.opened.tier = kind;
	m.u.opened.hit = fx->hit;
	m.u.opened.digest_hi = img->digest.hi;
	m.u.opened.digest_lo = img->digest.lo;
	m.u.opened.image_bytes = holding_layout(img)->image_bytes;
	m.u.opened.slot = GPU_SLOT_NONE;
	struct msg_fds *fds = &m.u.opened.fds;
	fds->fd[fds->n++] = img->table.fd;
	fds->fd[fds->n++] = copy->page.fd;
	for (uint32_t i = 0; i < copy->n_extents; i++)
		fds->fd[fds->n++] = copy->extents[i].fd;
	conn_reply(c, &m);
}

static void count_open(struct daemon *d, const struct cache_effect *fx, const struct conn_pending *p)
{
	bool disk = fx->to == d->tier_disk;
	if (fx->hit)
		metrics_add(disk ? M_requests_disk_hit : M_requests_host_hit, 1);
	else if (fx->joined)
		metrics_add(disk ? M_requests_disk_coalesced : M_requests_host_coalesced, 1);
	else
		metrics_add(disk ? M_requests_disk_miss : M_requests_host_miss, 1);
	metrics_observe_ns(fx->hit ? M_open_hit : M_open_miss, clock_now() - p->since_ns);
}

static void fx_grant(struct daemon *d, const struct cache_effect *fx)
{
	if (fx->owner & VERIFY_OWNER) {
		verify_granted(d, fx);
		return;
	}
	struct conn *c = server_conn(d->server, fx->owner);
	struct holding *img = holding_by_model(d, fx->model);
	struct fault why;
	ASSERT(img);
	struct conn_pending pending;
	if (!c || !conn_take(c, fx->request, &pending)) {
		cache_close(d->cache, clock_now(), fx->owner, fx->lease);
		return;
	}
	struct segment *made = NULL, *copy = copy_on(d, img, fx->to);
	if (!copy && make_page(d, img, fx->copy, &made, &why)) {
		cache_close(d->cache, clock_now(), fx->owner, fx->lease);
		conn_reply_fault(c, fx->request, why.code, why.text);
		return;
	}
	conn_leases_add(c, 1);
	count_open(d, fx, &pending);
	send_opened(c, fx, img, copy ? copy : made, fx->to == d->tier_disk ? TIER_DISK : TIER_HOST);
	if (made) {
		segment_free(&made);
		holding_drop_table(img);
	}
}

static void fx_refuse(struct daemon *d, const struct cache_effect *fx)
{
	if (fx->owner & VERIFY_OWNER) {
		verify_refused(d, fx);
		return;
	}
	struct conn *c = server_conn(d->server, fx->owner);
	struct conn_pending pending;
	if (!c || !conn_take(c, fx->request, &pending))
		return;
	if (pending.is_open)
		metrics_add(pending.tier == TIER_DISK ? M_requests_disk_error : M_requests_host_error, 1);
	conn_reply_fault(c, fx->request, fx->error.code, fx->error.text);
}

static void fx_accept(struct daemon *d, const struct cache_effect *fx)
{
	struct conn *c = server_conn(d->server, fx->owner);
	if (!c || !conn_end(c, fx->request))
		return;
	struct msg m;
	msg_init(&m, MSG_DONE, fx->request);
	conn_reply(c, &m);
}

static void fx_poison(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = holding_by_model(d, fx->model);
	struct segment *copy = img ? copy_on(d, img, fx->to) : NULL;
	if (copy && copy->generation == fx->copy)
		segment_poison(copy, &fx->error);
}

static void reference_dropped(struct job *job)
{
	struct copy_job *j = container_of(job, struct copy_job, job);
	if (job->withdrawn)
		run_free(job, NULL);
	copy_job_end(j);
}

void engine_forget_reference(struct holding *img)
{
	if (!img->stored || !img->desc->in_place)
		return;
	struct copy_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->daemon = img->daemon;
	j->image = holding_get(img);
	j->table.fd = -1;
	j->leaving = STEAL(img->stored);
	snprintf(j->label, sizeof j->label, "%s", img->desc->name);
	j->job = (struct job){.run = run_free, .done = reference_dropped, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	holding_when_alone(img, &j->job);
}

static void fx_forget(struct daemon *d, const struct cache_effect *fx)
{
	struct holding *img = idmap_take(&d->images, fx->model);
	if (!img)
		return;
	ASSERT(img->model == fx->model);
	img->model = 0;
	engine_forget_reference(img);
	holding_settle(img);
}

static void carry_out(struct daemon *d, const struct cache_effect *fx)
{
	switch (fx->kind) {
	case FX_RESOLVE:
		resolve_start(d, fx->name, fx->name_text);
		break;
	case FX_ALLOC:
		fx_alloc(d, fx);
		break;
	case FX_START:
		haul_start(d, fx);
		if (d->stopping)
			haul_cancel(d, fx->transfer);
		break;
	case FX_RECLASS:
		haul_reclass(d, fx->transfer, fx->class, fx->deadline);
		break;
	case FX_CANCEL:
		haul_cancel(d, fx->transfer);
		break;
	case FX_FREE:
		fx_free(d, fx);
		break;
	case FX_GRANT:
		fx_grant(d, fx);
		break;
	case FX_REFUSE:
		fx_refuse(d, fx);
		break;
	case FX_ACCEPT:
		fx_accept(d, fx);
		break;
	case FX_POISON:
		fx_poison(d, fx);
		break;
	case FX_FORGET:
		fx_forget(d, fx);
		break;
	default:
		NEVER();
	}
}

void engine_pump(struct daemon *d)
{
	if (d->pumping)
		return;
	d->pumping = true;
	struct cache_effect fx;
	while (cache_next_effect(d->cache, &fx))
		carry_out(d, &fx);
	d->pumping = false;
}

/* ---- configuration ---- */

static void on_edge(void *ctx, uint64_t model, uint8_t tier, enum copy_state from, enum copy_state to, const char *why)
{
	log_debug("state", "model %" PRIu64 " tier %u: %s -> %s (%s)", model, tier, copy_state_name(from),
		copy_state_name(to), why);
}

void engine_cache_config(struct daemon *d, const struct config *c, struct cache_config *out)
{
	static struct cache_tier_config tiers[3];
	static struct cache_link_config links[5];
	tiers[0] = (struct cache_tier_config){.kind = TIER_REMOTE};
	tiers[1] = (struct cache_tier_config){.kind = TIER_DISK, .capacity_bytes = c->disk_bytes};
	tiers[2] = (struct cache_tier_config){.kind = TIER_HOST, .capacity_bytes = c->host_bytes};
	links[0] = (struct cache_link_config){0, 2, 4, 500 * MIB};
	links[1] = (struct cache_link_config){0, 1, 4, 500 * MIB};
	links[2] = (struct cache_link_config){1, 2, 4, 2 * GIB};
	links[3] = (struct cache_link_config){2, 1, 4, GIB};
	*out = (struct cache_config){
		.tiers = tiers,
		.n_tiers = 3,
		.links = links,
		.n_links = 4,
		.policy = c->policy,
		.min_residency_ns = c->min_residency,
		.ttl_ns = c->ttl,
		.half_life_ns = c->half_life,
		.revalidate_ns = c->revalidate,
		.negative_ns = c->negative,
		.max_names = (uint32_t)c->max_models,
		.max_waiters = (uint32_t)c->max_waiters,
		.promote = true,
		.dedup = c->dedup,
		.hash_seed = (uint32_t)d->boot_lo,
		.on_edge = on_edge,
		.ctx = d,
	};
	d->tier_remote = 0;
	d->tier_disk = 1;
	d->tier_host = 2;
}

/* ---- what the disk tier held at start ---- */

static struct source *source_by_url(struct daemon *d, const char *url)
{
	for (size_t i = 0; i < d->n_sources; i++)
		if (!strcmp(source_url(d->sources[i]), url))
			return d->sources[i];
	return NULL;
}

static void adopt_image(struct daemon *d, struct disk_image *stored)
{
	const struct image_desc *desc = disk_image_desc(stored);
	struct holding *img;
	int e = holding_new(&img, d, desc->fingerprint_hi, desc->fingerprint_lo);
	ASSERT(!e);
	img->stored = stored;
	img->desc = image_desc_ref(desc);
	img->source = source_by_url(d, desc->source);
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
	metrics_add(disk_image_complete(stored) ? M_disk_adopted_complete : M_disk_adopted_partial, 1);
	if (img->digest.hi | img->digest.lo)
		cache_identified(d->cache, clock_now(), img->model, img->digest.hi, img->digest.lo);
}

void engine_adopt(struct daemon *d)
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

void engine_names_changed(struct daemon *d)
{
	d->names_dirty = true;
}

bool engine_names_save(struct daemon *d)
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
