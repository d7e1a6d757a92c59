/* files.c - see files.h. */
#include "mrm/files.h"

#include "mrm/chunk.h"
#include "mrm/holding.h"
#include "mrm/resolve.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct file_job {
	struct job job;
	struct daemon *daemon;
	struct holding *image; /* referenced */
	const struct image_desc *desc;
	uint8_t *const *side_data;
	struct disk_image *stored;
	struct source *source;
	const struct source_listing *listing;
	uint64_t conn, request;
	uint32_t side;
	struct shm_region region;
	uint64_t bytes;
	int result;
	struct fault why;
};

/* The bytes as the source has them, when they still are what the model was taken in with. */
static int fetch(struct file_job *f, struct source_worker *w, const struct source_listing *listing, uint8_t *buf)
{
	const struct image_side *side = &f->desc->sides[f->side];
	int e = source_read(w, listing, listing->n_weights + f->side, 0, side->bytes, buf, f->daemon->halt, &f->why);
	if (e)
		return e;
	if (!hash_equal(chunk_hash(buf, side->bytes), side->hash))
		return fault_set(&f->why, TRIMS_E_CHANGED, "%s of %s is another file at its source now", side->name,
			f->desc->name), -ESTALE;
	return 0;
}

/* A side file that is damaged on disk, or was when its copy there was dropped, comes from the source again. */
static int refetch(struct file_job *f, struct source_worker *w, uint8_t **out)
{
	const struct image_side *side = &f->desc->sides[f->side];
	OWN(source_listing_free) struct source_listing *found = NULL;
	struct fault damage = f->why, why;
	metrics_add(M_verify_failures_disk, 1);
	OWN_MEM uint8_t *buf = malloc(side->bytes + 1);
	int e = buf ? 0 : -ENOMEM;
	if (!e && !f->listing)
		e = resolve_again(f->desc, f->source, w, f->daemon->halt, &found, &f->why);
	e = e ? e : fetch(f, w, f->listing ? f->listing : found, buf);
	if (e) {
		why = f->why;
		fault_set(&f->why, TRIMS_E_MISMATCH, "%.200s; it cannot be fetched again: %.250s", damage.text, why.text);
		return e;
	}
	metrics_add(M_chunk_refetches, 1);
	if (f->stored && disk_image_rewrite_side(f->stored, f->side, buf, &why))
		log_warn("disk", "%s of %s was fetched again but could not be written back: %s", side->name, f->desc->name,
			why.text);
	*out = STEAL(buf);
	return 0;
}

static void run(struct job *job, void *worker)
{
	struct file_job *f = container_of(job, struct file_job, job);
	const struct image_side *side = &f->desc->sides[f->side];
	const uint8_t *data = side->data ? side->data : f->side_data ? f->side_data[f->side] : NULL;
	OWN_MEM uint8_t *read = NULL;
	f->bytes = side->bytes;
	if (!data && f->stored)
		f->result = disk_image_side(f->stored, f->side, &read, &f->why);
	else if (!data)
		f->result = (fault_set(&f->why, TRIMS_E_DISK_ERROR, "%s of %s was damaged on disk when its copy there was dropped",
			side->name, f->desc->name), -EBADMSG);
	if (f->result == -EBADMSG)
		f->result = refetch(f, net_source(worker), &read);
	if (f->result)
		return;
	char name[200];
	snprintf(name, sizeof name, "mrm:%s:%s", f->desc->name, side->name);
	f->result = shm_new_filled(&f->region, name, data ? data : read, side->bytes, &f->daemon->shm, &f->why);
}

static void done(struct job *job)
{
	struct file_job *f = container_of(job, struct file_job, job);
	struct conn *c = server_conn(f->daemon->server, f->conn);
	if (c && conn_end(c, f->request)) {
		if (job->withdrawn || f->result) {
			conn_reply_fault(c, f->request, job->withdrawn ? TRIMS_E_STOPPING : f->why.code,
				job->withdrawn ? "the daemon is stopping" : f->why.text);
		} else {
			struct msg m;
			msg_init(&m, MSG_FILED, f->request);
			m.u.filed.bytes = f->bytes;
			m.u.filed.fds.n = 1;
			m.u.filed.fds.fd[0] = f->region.fd;
			conn_reply(c, &m);
		}
	}
	shm_fini(&f->region);
	holding_put(&f->image);
	free(f);
}

void files_start(struct conn *c, uint64_t request, uint64_t lease, const char *path)
{
	struct daemon *d = conn_daemon(c);
	struct holding *img = holding_by_model(d, cache_lease_model(d->cache, conn_id(c), lease));
	if (!img) {
		conn_end(c, request);
		conn_reply_fault(c, request, TRIMS_E_NO_LEASE, error_text(TRIMS_E_NO_LEASE));
		return;
	}
	const struct image_desc *desc = holding_desc(img);
	uint32_t i = 0;
	while (i < desc->n_sides && strcmp(desc->sides[i].name, path))
		i++;
	if (i == desc->n_sides) {
		conn_end(c, request);
		conn_reply_fault(c, request, TRIMS_E_NO_FILE, error_text(TRIMS_E_NO_FILE));
		return;
	}
	struct file_job *f = calloc(1, sizeof *f);
	ASSERT(f);
	f->daemon = d;
	f->image = holding_get(img);
	f->desc = desc;
	f->conn = conn_id(c);
	f->request = request;
	f->side = i;
	f->region.fd = -1;
	f->side_data = img->side_data;
	f->stored = img->stored ? img->stored : img->leaving;
	f->source = img->source;
	f->listing = img->listing;
	f->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(d->find, &f->job);
}
