/* pinned.c - see pinned.h.
 * Keeps: at most one piece of a copy is being worked on, by slices that make its pages side by side and then one
 * registration; n_out counts those jobs, and each of them holds the copy. */
#include "mrm/gpu/pinned.h"

#include "mrm/copies.h"
#include "mrm/gpu/device.h"
#include "mrm/haul.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define PIECE_BYTES GIB              /* background registration of more than that holds up other users of the driver */
#define FIRST_PIECE_BYTES (64 * MIB)
#define SLICE_CHUNKS 16u             /* pages that one worker makes in a row */

struct piece {
	uint32_t extent, chunk, end; /* chunks [chunk, end) */
	uint64_t offset, bytes;      /* in the extent */
	enum gpu_pin state;
	bool registered;
};

struct gpu_pins {
	struct daemon *daemon;
	struct holding *image;       /* whose host copy it is; jobs hold a reference, and take the layout from it */
	struct segment *host;
	uint32_t device;             /* whose context registers; the registration is every device's */
	uint32_t readers;            /* hauls */
	uint32_t n, next;            /* pieces; the first that is not begun */
	struct piece *piece;
	uint32_t n_out;              /* jobs */
	uint32_t n_slices;           /* of them, pages of piece next - 1 */
};

struct pin_job {
	struct job job;
	struct gpu_pins *pins;
	struct holding *image;       /* referenced */
	const struct layout *layout;
	struct piece *piece;
	uint32_t chunk, end;         /* slice */
	int result;
	struct fault why;
};

static void advance(struct gpu_pins *p);

/* ---- pieces ---- */

static void add_piece(struct gpu_pins *p, const struct layout *l, uint32_t extent, uint32_t chunk, uint32_t end)
{
	struct layout_chunk first = layout_chunk(l, chunk), last = layout_chunk(l, end - 1);
	p->piece[p->n++] = (struct piece){.extent = extent, .chunk = chunk, .end = end, .offset = first.offset,
		.bytes = last.offset + last.bytes - first.offset};
}

static void cut(struct gpu_pins *p, const struct layout *l)
{
	uint64_t want = FIRST_PIECE_BYTES;
	for (uint32_t x = 0; x < l->n_extents; x++)
		for (uint32_t c = l->extent_chunk[x]; c < l->extent_chunk[x + 1];) {
			uint32_t n = (uint32_t)(want / IMAGE_CHUNK_BYTES), left = l->extent_chunk[x + 1] - c;
			add_piece(p, l, x, c, c + MIN(n, left));
			c += MIN(n, left);
			want = MIN(want * 4, (uint64_t)PIECE_BYTES);
		}
}

static struct gpu_pins *pins_new(struct holding *img, uint32_t device)
{
	struct gpu_pins *p = calloc(1, sizeof *p);
	ASSERT(p);
	const struct layout *l = holding_layout(img);
	p->daemon = img->daemon;
	p->image = img;
	p->host = holding_host(img);
	p->device = device;
	/* At most one more piece per extent than its gigabytes, and three small ones. */
	p->piece = calloc(l->n_extents + l->image_bytes / PIECE_BYTES + 4, sizeof *p->piece);
	ASSERT(p->piece);
	cut(p, l);
	return p;
}

static const struct piece *piece_of(const struct gpu_pins *p, uint32_t chunk)
{
	uint32_t lo = 0, hi = p->n;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (p->piece[mid].chunk <= chunk)
			lo = mid;
		else
			hi = mid;
	}
	return &p->piece[lo];
}

/* ---- work ---- */

static void run_pages(struct job *job, void *worker)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct daemon *d = j->pins->daemon;
	for (uint32_t c = j->chunk; c < j->end; c++)
		if (!segment_populate(j->pins->host, j->layout, c, d->shm.huge))
			metrics_add(M_fallback_no_hugepages, 1);
}

static void run_register(struct job *job, void *worker)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct gpu_pins *p = j->pins;
	struct gpu *g = p->daemon->gpu;
	uint8_t *at = (uint8_t *)p->host->extents[j->piece->extent].map + j->piece->offset;
	j->result = gpu_enter(g, p->device, &j->why);
	if (j->result)
		return;
	cu_result r = g->cu->mem_host_register(at, j->piece->bytes, CU_REGISTER_PORTABLE);
	/* A copy that outlived an earlier daemon can only be read: few systems register that. */
	if (r && gpu_facts(g, p->device)->register_read_only)
		r = g->cu->mem_host_register(at, j->piece->bytes, CU_REGISTER_PORTABLE | CU_REGISTER_READ_ONLY);
	if (r)
		j->result = gpu_failed(g, p->device, r, "cuMemHostRegister", &j->why);
	else
		j->piece->registered = true;
}

/* The pins may be gone afterwards. */
static void job_ends(struct pin_job *j)
{
	struct gpu_pins *p = j->pins;
	p->n_out--;
	copies_let_go(p->daemon, p->host);
	holding_put(&j->image);
	free(j);
}

static void submit(struct gpu_pins *p, struct pin_job *j, void (*run)(struct job *, void *), void (*done)(struct job *))
{
	j->pins = p;
	j->image = holding_get(p->image);
	j->layout = holding_layout(p->image);
	j->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	p->n_out++;
	copies_hold(p->host);
	pool_submit(p->daemon->pin, &j->job);
}

static void kick_readers(struct gpu_pins *p)
{
	struct haul *t;
	for (size_t at = 0; (t = idmap_next(&p->daemon->hauls, &at));)
		if (t->way == WAY_HOST_GPU && holding_host(t->image) == p->host)
			haul_advance(t);
}

static void registered(struct job *job)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct gpu_pins *p = j->pins;
	struct daemon *d = p->daemon;
	bool good = !job->withdrawn && !j->result;
	j->piece->state = good ? GPU_PIN_READY : GPU_PIN_REFUSED;
	if (!good && !job->withdrawn) {
		daemon_degraded(d, "host-not-registered", "%s", j->why.text);
		metrics_add(M_fallback_unregistered, 1);
	}
	if (p->readers) {
		advance(p);
		kick_readers(p);
	}
	job_ends(j);
}

static void begin_register(struct gpu_pins *p, struct piece *piece)
{
	struct pin_job *j = calloc(1, sizeof *j);
	ASSERT(j);
	j->piece = piece;
	submit(p, j, run_register, registered);
}

static void pages_made(struct job *job)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct gpu_pins *p = j->pins;
	if (--p->n_slices == 0 && p->readers)
		begin_register(p, j->piece);
	else if (p->n_slices == 0)
		p->next--; /* for the next reader */
	job_ends(j);
}

/* The next piece, when none is under way and somebody still reads. */
static void advance(struct gpu_pins *p)
{
	if (p->next == p->n || p->n_slices || !p->readers)
		return;
	struct piece *piece = &p->piece[p->next++];
	for (uint32_t c = piece->chunk; c < piece->end; c += SLICE_CHUNKS) {
		struct pin_job *j = calloc(1, sizeof *j);
		ASSERT(j);
		j->piece = piece;
		j->chunk = c;
		j->end = MIN(c + SLICE_CHUNKS, piece->end);
		p->n_slices++;
		submit(p, j, run_pages, pages_made);
	}
}

/* ---- what others see ---- */

void gpu_pins_join(struct holding *img, uint32_t device)
{
	struct segment *host = holding_host(img);
	if (!host->pins)
		host->pins = pins_new(img, device);
	struct gpu_pins *p = host->pins;
	p->readers++;
	if (!p->n_out)
		advance(p);
}

void gpu_pins_leave(struct holding *img)
{
	struct gpu_pins *p = holding_host(img)->pins;
	ASSERT(p->readers > 0);
	p->readers--;
}

enum gpu_pin gpu_pins_look(const struct segment *host, uint32_t chunk)
{
	return piece_of(host->pins, chunk)->state;
}

void gpu_pins_free(struct segment *host)
{
	struct gpu_pins *p = host ? host->pins : NULL;
	struct fault why;
	if (!p)
		return;
	ASSERT(!p->n_out);
	struct gpu *g = p->daemon->gpu;
	bool entered = gpu_enter_again(g, p->device);
	for (uint32_t i = 0; entered && i < p->n; i++) {
		if (!p->piece[i].registered)
			continue;
		uint8_t *at = (uint8_t *)host->extents[p->piece[i].extent].map + p->piece[i].offset;
		cu_result r = GPU_AGAIN(g->cu->mem_host_unregister(at)); /* memory must not be unmapped under a registration */
		if (r && gpu_failed(g, p->device, r, "cuMemHostUnregister", &why))
			log_error("gpu", "%" PRIu64 " bytes of host memory stay registered: %s", p->piece[i].bytes, why.text);
	}
	free(p->piece);
	free(p);
	host->pins = NULL;
}

uint64_t gpu_pins_bytes(const struct segment *host)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; host && host->pins && i < host->pins->n; i++)
		sum += host->pins->piece[i].state == GPU_PIN_READY ? host->pins->piece[i].bytes : 0;
	return sum;
}
