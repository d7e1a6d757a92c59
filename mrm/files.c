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
	uint64_t conn, request, ticket;
	uint32_t side;
	struct shm_region region;
	uint64_t bytes;
	int result;
	struct fault why;
};

static void hand_out(struct file_job *f, const uint8_t *data)
{
	const struct image_side *side = &f->desc->sides[f->side];
	char name[200];
	snprintf(name, sizeof name, "mrm:%s:%s", f->desc->name, side->name);
	f->bytes = side->bytes;
	f->result = shm_new_filled(&f->region, name, data, side->bytes, &f->daemon->shm, &f->why);
}

static void run(struct job *job, void *worker)
{
	struct file_job *f = container_of(job, struct file_job, job);
	const struct image_side *side = &f->desc->sides[f->side];
	const uint8_t *data = side->data ? side->data : f->side_data ? f->side_data[f->side] : NULL;
	OWN_MEM uint8_t *read = NULL;
	if (!data && f->stored)
		f->result = disk_image_side(f->stored, f->side, &read, &f->why);
	else if (!data)
		f->result = (fault_set(&f->why, TRIMS_E_DISK_ERROR, "%s of %s was damaged on disk when its copy there was dropped",
			side->name, f->desc->name), -EBADMSG);
	if (!f->result)
		hand_out(f, data ? data : read);
}

/* A side file that is damaged on disk, or was when its copy there was dropped, comes from the source again. */
static void run_again(struct job *job, void *worker)
{
	struct file_job *f = container_of(job, struct file_job, job);
	const struct source_cancel *halt = f->daemon->halt;
	OWN(source_listing_free) struct source_listing *found = NULL;
	OWN_MEM uint8_t *read = NULL;
	struct fault damage = f->why, why;
	struct source_worker *w = net_source(worker);
	int e = f->listing ? 0 : resolve_again(f->desc, f->source, w, halt, &found, &why);
	e = e ? e : resolve_side(f->desc, f->side, f->listing ? f->listing : found, w, halt, &read, &why);
	metrics_add(M_verify_failures_disk, 1);
	f->result = e;
	if (e) {
		fault_set(&f->why, TRIMS_E_MISMATCH, "%.200s; it cannot be fetched again: %.250s", damage.text, why.text);
		return;
	}
	metrics_add(M_chunk_refetches, 1);
	if (f->stored && disk_image_rewrite_side(f->stored, f->side, read, &why))
		log_warn("disk", "%s of %s was fetched again but could not be written back: %s", f->desc->sides[f->side].name,
			f->desc->name, why.text);
	hand_out(f, read);
}

static void done(struct job *job)
{
	struct file_job *f = container_of(job, struct file_job, job);
	struct conn *c = server_conn(f->daemon->server, f->conn);
	if (c && conn_wants(c, f->ticket) && !job->withdrawn && f->result == -EBADMSG && job->run == run) {
		f->job = (struct job){.run = run_again, .done = done, .class = CLASS_DEMAND, .deadline = 0};
		pool_submit(f->daemon->find, &f->job);
		return;
	}
	if (c && conn_redeem(c, f->ticket)) {
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

void files_start(struct conn *c, uint64_t request, uint64_t ticket, uint64_t lease, const char *path)
{
	struct daemon *d = conn_daemon(c);
	struct holding *img = holding_by_model(d, cache_lease_model(d->cache, conn_id(c), lease));
	if (!img) {
		conn_redeem(c, ticket);
		conn_reply_fault(c, request, TRIMS_E_NO_LEASE, error_text(TRIMS_E_NO_LEASE));
		return;
	}
	const struct image_desc *desc = holding_desc(img);
	uint32_t i = 0;
	while (i < desc->n_sides && strcmp(desc->sides[i].name, path))
		i++;
	if (i == desc->n_sides) {
		conn_redeem(c, ticket);
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
	f->ticket = ticket;
	f->side = i;
	f->region.fd = -1;
	f->side_data = img->side_data;
	f->stored = img->stored ? img->stored : img->leaving;
	f->source = img->source;
	f->listing = img->listing;
	f->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(d->misc, &f->job); /* one that is at hand does not wait for sources */
}
