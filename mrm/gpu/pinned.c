/* pinned.c - see pinned.h.
 * Keeps: at most one piece of a copy is being worked on, by slices that make its pages side by side and then one
 * registration; n_out counts those jobs, and each of them holds the copy.  An address that the driver still takes for
 * registered is never given to other memory: a copy from there would read the pages that were there before. */
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
	uint32_t by;                 /* the device whose context did it */
};

struct gpu_pins {
	struct daemon *daemon;
	struct holding *image;       /* whose host copy it is; jobs hold a reference, and take the layout from it */
	struct segment *host;
	uint32_t readers, reading[GPU_MAX_DEVICES]; /* hauls, in all and by device */
	uint32_t n, next;            /* pieces; all before that are begun, or done */
	uint32_t wanted;             /* the one that somebody waits for; any other than WAIT: none */
	struct piece *at_work;       /* its pages are being made, or it is being registered; NULL: none */
	struct piece *piece;
	uint32_t n_out;              /* jobs */
	uint32_t n_slices;           /* of them, pages of the piece at work */
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

static struct gpu_pins *pins_new(struct holding *img)
{
	struct gpu_pins *p = calloc(1, sizeof *p);
	ASSERT(p);
	const struct layout *l = holding_layout(img);
	p->daemon = img->daemon;
	p->image = img;
	p->host = holding_host(img);
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

static uint8_t *address_of(const struct gpu_pins *p, const struct piece *piece)
{
	return (uint8_t *)p->host->extents[piece->extent].map + piece->offset;
}

/* Inside the context of a device.  One that went with its context is off, too. */
static int take_off(struct gpu_pins *p, struct piece *piece, uint32_t device, struct fault *why)
{
	struct gpu *g = p->daemon->gpu;
	cu_result r = GPU_AGAIN(g->cu->mem_host_unregister(address_of(p, piece)));
	piece->registered = r && r != CU_E_HOST_MEMORY_NOT_REGISTERED;
	return piece->registered ? gpu_failed(g, device, r, "cuMemHostUnregister", why) : 0;
}

static void run_register(struct job *job, void *worker)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct gpu_pins *p = j->pins;
	struct gpu *g = p->daemon->gpu;
	uint32_t device = j->piece->by;
	j->result = gpu_enter(g, device, &j->why);
	if (!j->result && j->piece->registered)
		j->result = take_off(p, j->piece, device, &j->why);
	if (j->result)
		return;
	cu_result r = g->cu->mem_host_register(address_of(p, j->piece), j->piece->bytes, CU_REGISTER_PORTABLE);
	/* A copy that outlived an earlier daemon can only be read: few systems register that. */
	if (r && gpu_facts(g, device)->register_read_only)
		r = g->cu->mem_host_register(address_of(p, j->piece), j->piece->bytes,
			CU_REGISTER_PORTABLE | CU_REGISTER_READ_ONLY);
	if (r)
		j->result = gpu_failed(g, device, r, "cuMemHostRegister", &j->why);
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

/* Whose context registers the next piece; the registration is every device's.  One that reads, and works if any of them
 * does. */
static uint32_t registrar(const struct gpu_pins *p)
{
	uint32_t found = 0;
	for (uint32_t i = 0; i < gpu_count(p->daemon->gpu); i++) {
		if (!p->reading[i])
			continue;
		found = i;
		if (!gpu_lost(p->daemon->gpu, i))
			break;
	}
	return found;
}

static void begin_register(struct gpu_pins *p, struct piece *piece);

static void registered(struct job *job)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct gpu_pins *p = j->pins;
	struct daemon *d = p->daemon;
	bool good = !job->withdrawn && !j->result;
	if (!good && !job->withdrawn && gpu_lost(d->gpu, j->piece->by) && p->readers && !gpu_lost(d->gpu, registrar(p))) {
		begin_register(p, j->piece); /* it was the device, and another one reads, too */
		job_ends(j);
		return;
	}
	j->piece->state = good ? GPU_PIN_READY : GPU_PIN_REFUSED;
	p->at_work = NULL;
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
	piece->by = registrar(p);
	submit(p, j, run_register, registered);
}

static void pages_made(struct job *job)
{
	struct pin_job *j = container_of(job, struct pin_job, job);
	struct gpu_pins *p = j->pins;
	if (--p->n_slices == 0 && p->readers)
		begin_register(p, j->piece);
	else if (p->n_slices == 0)
		p->at_work = NULL; /* for the next reader */
	job_ends(j);
}

/* The next piece, when none is under way and somebody still reads. */
static void advance(struct gpu_pins *p)
{
	while (p->next < p->n && p->piece[p->next].state != GPU_PIN_WAIT)
		p->next++; /* of those that are made again */
	if (p->next == p->n || p->at_work || !p->readers)
		return;
	struct piece *piece = &p->piece[p->piece[p->wanted].state == GPU_PIN_WAIT ? p->wanted : p->next];
	p->at_work = piece;
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

/* What a registration is worth to others when the context that made it has died is nowhere written: nobody reads now, so it is
 * made again by a device that works. */
static void renew(struct gpu_pins *p)
{
	for (uint32_t i = p->n; i-- > 0;) {
		if (p->piece[i].state == GPU_PIN_WAIT || !gpu_lost(p->daemon->gpu, p->piece[i].by))
			continue;
		p->piece[i].state = GPU_PIN_WAIT;
		p->next = MIN(p->next, i);
	}
}

void gpu_pins_join(struct holding *img, uint32_t device)
{
	struct segment *host = holding_host(img);
	if (!host->pins)
		host->pins = pins_new(img);
	struct gpu_pins *p = host->pins;
	if (!p->readers && !p->n_out)
		renew(p);
	p->readers++;
	p->reading[device]++;
	if (!p->n_out)
		advance(p);
}

void gpu_pins_leave(struct holding *img, uint32_t device)
{
	struct gpu_pins *p = holding_host(img)->pins;
	ASSERT(p->readers > 0 && p->reading[device] > 0);
	p->readers--;
	p->reading[device]--;
}

void gpu_pins_want(const struct segment *host, uint32_t chunk)
{
	struct gpu_pins *p = host->pins;
	p->wanted = (uint32_t)(piece_of(p, chunk) - p->piece);
}

enum gpu_pin gpu_pins_look(const struct segment *host, uint32_t chunk)
{
	return piece_of(host->pins, chunk)->state;
}

/* In the context that registered it, or, where that has died, in any that lives: the driver knows it by its address. */
static void undo(struct gpu_pins *p, struct piece *piece)
{
	struct gpu *g = p->daemon->gpu;
	struct fault why;
	uint32_t device = piece->by;
	for (uint32_t i = 0; i < gpu_count(g) && gpu_lost(g, device); i++)
		device = i;
	int e = gpu_enter_again(g, device) ? take_off(p, piece, device, &why) : gpu_enter(g, device, &why);
	if (!e)
		return;
	log_error("gpu", "%" PRIu64 " bytes of host memory stay registered: %s", piece->bytes, why.text);
	atomic_fetch_add_explicit(&g->stuck_bytes, piece->bytes, memory_order_relaxed);
}

void gpu_pins_free(struct segment *host)
{
	struct gpu_pins *p = host ? host->pins : NULL;
	if (!p)
		return;
	ASSERT(!p->n_out);
	for (uint32_t i = 0; i < p->n; i++)
		if (p->piece[i].registered)
			undo(p, &p->piece[i]);
	for (uint32_t i = 0; i < p->n; i++)
		if (p->piece[i].registered)
			host->extents[p->piece[i].extent].map = NULL; /* stays mapped: the pages are pinned, the address is taken */
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
