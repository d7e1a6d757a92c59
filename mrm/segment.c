/* segment.c - see segment.h. */
#include "mrm/segment.h"

#include "mrm/gpu/memory.h"
#include "mrm/plans.h"
#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct progress_page *page_of(const struct segment *c)
{
	return c->page.map;
}

/* Of the edition that chunks arrive for. */
static struct progress_page *filling(const struct segment *c)
{
	return c->next.n_pieces ? c->next.page.map : c->page.map;
}

static void wake_all(struct progress_page *p)
{
	atomic_fetch_add_explicit(&p->wake, 1, memory_order_release);
	syscall(SYS_futex, &p->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void begin_edges(struct segment *c)
{
	for (uint32_t i = 0; i < c->pieces->n; i++)
		c->edge[i] = c->pieces->v[i].first;
}

/* What has arrived of a copy, on host or on a device. */
static int new_chunks(struct segment *c, const struct layout *l, struct pieces *pieces, struct fault *why)
{
	int e = pieces ? 0 : pieces_build(&pieces, l, NULL, false, why);
	if (e)
		return e;
	c->pieces = pieces;
	c->n_pieces = pieces->n_plan;
	c->n_chunks = l->n_chunks;
	c->edge = calloc(pieces->n, sizeof *c->edge);
	c->landed = calloc(MAX(l->n_chunks, 1u), sizeof *c->landed);
	c->readable = calloc(MAX(l->n_chunks, 1u), sizeof *c->readable);
	c->helped = calloc(MAX(l->n_chunks, 1u), sizeof *c->helped);
	if (!c->edge || !c->landed || !c->readable || !c->helped)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %u chunks", l->n_chunks), -ENOMEM;
	begin_edges(c);
	return 0;
}

static int new_extents(struct segment *c, const struct layout *l, const char *label, const struct shm_options *options,
	struct fault *why)
{
	c->pages.state = calloc(MAX(l->n_chunks, 1u), sizeof *c->pages.state);
	c->extents = calloc(MAX(l->n_extents, 1u), sizeof *c->extents);
	if (!c->pages.state || !c->extents)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %u chunks", l->n_chunks), -ENOMEM;
	int e = 0;
	for (uint32_t i = 0; i < l->n_extents; i++)
		c->extents[i].fd = -1;
	for (uint32_t i = 0; !e && i < l->n_extents; i++)
		e = shm_new(&c->extents[i], label, l->extent_bytes[i], options, why);
	return e;
}

static int new_page(struct shm_region *out, const struct layout *l, uint64_t edition, uint32_t n_pieces, const char *label,
	const struct shm_options *options, struct fault *why)
{
	char name[220];
	snprintf(name, sizeof name, "mrm:%s:progress", label);
	int e = shm_new(out, name, PROGRESS_BYTES, options, why);
	if (e)
		return e;
	struct progress_page *p = out->map;
	p->magic = PROGRESS_MAGIC;
	p->version = PROGRESS_VERSION;
	p->copy = edition;
	p->extents = n_pieces;
	p->image_bytes = l->image_bytes;
	return 0;
}

int segment_new(struct segment **out, const struct layout *l, uint64_t generation, enum segment_kind kind,
	struct pieces *pieces, const char *label, const struct shm_options *options, struct fault *why)
{
	struct segment *c = calloc(1, sizeof *c);
	ASSERT(c && (!pieces || kind == SEGMENT_DEVICE));
	c->generation = c->edition = generation;
	c->page.fd = c->records.fd = c->next.page.fd = c->next.records.fd = -1;
	pthread_mutex_init(&c->pages.lock, NULL);
	pthread_cond_init(&c->pages.made, NULL);
	char name[220];
	snprintf(name, sizeof name, "mrm:%s", label);
	int e = kind != SEGMENT_PAGE ? new_chunks(c, l, pieces, why) : 0;
	e = e ? e : new_page(&c->page, l, generation, c->n_pieces, label, options, why);
	if (!e && kind == SEGMENT_HOST)
		e = new_extents(c, l, name, options, why);
	if (e)
		segment_free(&c);
	else
		*out = c;
	return e;
}

int segment_begin_anew(struct segment *c, const struct layout *l, const char *label, const struct shm_options *options,
	struct fault *why)
{
	struct shm_region old = shm_take(&c->page);
	int e = new_page(&c->page, l, c->edition, c->n_pieces, label, options, why);
	if (e) {
		c->page = old;
		return e;
	}
	shm_fini(&old);
	memset(c->landed, 0, c->n_chunks * sizeof *c->landed);
	memset(c->readable, 0, c->n_chunks * sizeof *c->readable);
	memset(c->helped, 0, c->n_chunks * sizeof *c->helped);
	begin_edges(c);
	c->regrowing = false;
	c->n_landed = c->n_readable = 0;
	c->landed_bytes = c->helper_bytes = 0;
	return 0;
}

void segment_free(struct segment **cp)
{
	struct segment *c = *cp;
	if (!c)
		return;
	ASSERT(!c->device && !c->pins && !c->users);
	for (uint32_t i = 0; c->extents && i < c->n_pieces; i++)
		shm_fini(&c->extents[i]);
	shm_fini(&c->page);
	shm_fini(&c->records);
	segment_edition_fini(&c->next);
	pieces_free(&c->pieces);
	plan_put(&c->plan);
	pthread_cond_destroy(&c->pages.made);
	pthread_mutex_destroy(&c->pages.lock);
	free(c->pages.state);
	free(c->extents);
	free(c->edge);
	free(c->landed);
	free(c->readable);
	free(c->helped);
	free(c->gaps);
	free(c);
	*cp = NULL;
}

void segment_set_landed(struct segment *c)
{
	for (uint32_t i = 0; i < c->n_chunks; i++)
		c->landed[i] = segment_has(c, i);
	c->n_landed = pieces_chunks(c->pieces, c->n_pieces);
}

static int adopt_extents(struct segment *c, const struct layout *l, int *fds, struct fault *why)
{
	c->extents = calloc(MAX(l->n_extents, 1u), sizeof *c->extents);
	ASSERT(c->extents);
	int e = 0;
	for (uint32_t i = 0; i < l->n_extents; i++) {
		int fd = steal_fd(&fds[i]);
		if (!e)
			e = shm_adopt(&c->extents[i], fd, l->extent_bytes[i], why);
		else
			close(fd);
		if (e)
			c->extents[i].fd = -1;
	}
	return e;
}

int segment_adopt(struct segment **out, const struct layout *l, uint64_t generation, int *fds, const char *label,
	const struct shm_options *options, struct fault *why)
{
	struct segment *c = NULL;
	/* Made as if for a device: its extents are not to be allocated. */
	int e = segment_new(&c, l, generation, SEGMENT_DEVICE, NULL, label, options, why);
	e = e ? e : adopt_extents(c, l, fds, why);
	if (e) {
		segment_free(&c);
		return e;
	}
	segment_set_landed(c);
	*out = c;
	return 0;
}

bool segment_is_ready(const struct segment *c)
{
	return !c->cut && atomic_load_explicit(&page_of(c)->state, memory_order_relaxed) == PROGRESS_READY;
}

/* ---- editions ---- */

void segment_edition_fini(struct segment_edition *e)
{
	shm_fini(&e->page);
	shm_fini(&e->records);
	e->n_pieces = 0;
}

/* How far the piece is readable without a hole, from its start. */
static uint64_t watermark_of(const struct segment *c, const struct layout *l, uint32_t piece)
{
	const struct image_piece *v = &c->pieces->v[piece];
	uint32_t edge = c->edge[piece];
	return edge == v->first + v->n ? v->bytes : layout_chunk(l, edge).offset - v->offset;
}

int segment_edition_new(struct segment_edition *out, const struct segment *c, const struct layout *l, uint64_t number,
	uint32_t n, const char *label, const struct shm_options *options, struct fault *why)
{
	*out = (struct segment_edition){.number = number, .n_pieces = n, .page = {.fd = -1}, .records = {.fd = -1}};
	int e = new_page(&out->page, l, number, n, label, options, why);
	if (e)
		return e;
	struct progress_page *p = out->page.map;
	for (uint32_t i = 0; i < n; i++)
		atomic_store_explicit(&p->watermark[i], watermark_of(c, l, i), memory_order_relaxed);
	atomic_store_explicit(&p->landed, c->landed_bytes, memory_order_relaxed);
	atomic_store_explicit(&p->helper_bytes, c->helper_bytes, memory_order_relaxed);
	return 0;
}

void segment_replace(struct segment *c, struct segment_edition *e)
{
	shm_fini(&c->page);
	shm_fini(&c->records);
	c->page = shm_take(&e->page);
	c->records = shm_take(&e->records);
	c->edition = e->number;
	c->n_pieces = e->n_pieces;
	c->regrowing = c->cut;
	c->cut = false;
	e->n_pieces = 0;
}

void segment_grow(struct segment *c, struct segment_edition *e)
{
	ASSERT(!c->next.n_pieces && segment_is_ready(c));
	c->next = *e;
	*e = (struct segment_edition){.page = {.fd = -1}, .records = {.fd = -1}};
}

void segment_cut(struct segment *c, const struct layout *l, uint32_t n)
{
	segment_edition_fini(&c->next);
	c->cut = n < c->n_pieces;
	c->n_pieces = n;
	for (uint32_t k = 0; c->cut && k < c->n_chunks; k++)
		if (c->landed[k] && !c->readable[k]) { /* not checked yet, and nobody goes on with it */
			c->landed[k] = false;
			c->n_landed--;
		}
	for (uint32_t i = n; i < c->pieces->n; i++) {
		const struct image_piece *v = &c->pieces->v[i];
		for (uint32_t k = v->first; k < v->first + v->n; k++) {
			c->n_landed -= c->landed[k];
			c->n_readable -= c->readable[k];
			c->landed_bytes -= c->readable[k] ? layout_chunk(l, k).bytes : 0;
			c->helper_bytes -= c->helped[k] ? layout_chunk(l, k).bytes : 0;
			c->landed[k] = c->readable[k] = c->helped[k] = false;
		}
		c->edge[i] = v->first;
	}
}

uint64_t segment_bytes(const struct segment *c)
{
	return pieces_bytes(c->pieces, c->n_pieces, 1);
}

uint64_t segment_device_chunk(const struct segment *c, struct layout_chunk k, uint32_t chunk)
{
	uint32_t piece = c->pieces->of_chunk[chunk];
	return gpu_memory_address(c->device, piece) + k.offset - c->pieces->v[piece].offset;
}

uint8_t *segment_chunk(const struct segment *c, const struct layout *l, uint32_t chunk)
{
	if (!c->extents)
		return NULL;
	struct layout_chunk k = layout_chunk(l, chunk);
	return (uint8_t *)c->extents[k.extent].map + k.offset;
}

enum { PAGES_NONE, PAGES_UNDER_WAY, PAGES_THERE };

bool segment_populate(struct segment *c, const struct layout *l, uint32_t chunk, bool huge)
{
	struct segment_pages *p = &c->pages;
	if (!p->state)
		return true; /* taken back from an earlier daemon: they are there, and can only be read */
	pthread_mutex_lock(&p->lock);
	while (p->state[chunk] == PAGES_UNDER_WAY)
		pthread_cond_wait(&p->made, &p->lock);
	bool mine = p->state[chunk] == PAGES_NONE;
	if (mine)
		p->state[chunk] = PAGES_UNDER_WAY;
	pthread_mutex_unlock(&p->lock);
	if (!mine)
		return true;
	bool good = shm_populate(segment_chunk(c, l, chunk), layout_chunk(l, chunk).bytes, huge);
	pthread_mutex_lock(&p->lock);
	p->state[chunk] = PAGES_THERE;
	pthread_cond_broadcast(&p->made);
	pthread_mutex_unlock(&p->lock);
	return good || !huge;
}

/* Loads that follow a plan leave holes, which a watermark stops at. */
static bool tell_chunk(const struct segment *c, struct progress_page *p, uint32_t chunk)
{
	if (!c->extents || chunk >= PROGRESS_MAX_CHUNKS)
		return false;
	atomic_fetch_or_explicit(&p->chunk[chunk / 64], (uint64_t)1 << chunk % 64, memory_order_release);
	return true;
}

void segment_set_readable(struct segment *c, const struct layout *l, uint32_t chunk)
{
	ASSERT(c->pieces && c->landed[chunk]);
	if (c->readable[chunk])
		return;
	c->readable[chunk] = true;
	c->n_readable++;
	c->landed_bytes += layout_chunk(l, chunk).bytes;
	struct progress_page *p = filling(c);
	atomic_store_explicit(&p->landed, c->landed_bytes, memory_order_relaxed);
	uint32_t i = c->pieces->of_chunk[chunk], before = c->edge[i];
	const struct image_piece *v = &c->pieces->v[i];
	while (c->edge[i] < v->first + v->n && c->readable[c->edge[i]])
		c->edge[i]++;
	bool told = tell_chunk(c, p, chunk);
	if (c->edge[i] > before)
		atomic_store_explicit(&p->watermark[i], watermark_of(c, l, i), memory_order_release);
	if (told || c->edge[i] > before)
		wake_all(p);
}

void segment_set_helped(struct segment *c, const struct layout *l, uint32_t chunk)
{
	ASSERT(!c->readable[chunk] && !c->helped[chunk]);
	c->helped[chunk] = true;
	c->helper_bytes += layout_chunk(l, chunk).bytes;
	atomic_store_explicit(&filling(c)->helper_bytes, c->helper_bytes, memory_order_relaxed);
}

const _Atomic uint64_t *segment_watermarks(const struct segment *c)
{
	return filling(c)->watermark;
}

static void set_pieces_ready(struct segment *c)
{
	struct progress_page *p = page_of(c);
	for (uint32_t i = 0; i < c->n_pieces; i++) {
		const struct image_piece *v = &c->pieces->v[i];
		c->edge[i] = v->first + v->n;
		memset(c->landed + v->first, true, v->n * sizeof *c->landed);
		memset(c->readable + v->first, true, v->n * sizeof *c->readable);
		atomic_store_explicit(&p->watermark[i], v->bytes, memory_order_release);
	}
	c->n_landed = c->n_readable = pieces_chunks(c->pieces, c->n_pieces);
	c->landed_bytes = segment_bytes(c);
	c->regrowing = false;
	free(STEAL(c->gaps));
}

void segment_set_ready(struct segment *c, const struct layout *l, struct hash128 digest)
{
	if (c->next.n_pieces)
		segment_replace(c, &c->next);
	struct progress_page *p = page_of(c);
	if (c->pieces)
		set_pieces_ready(c);
	atomic_store_explicit(&p->landed, c->pieces ? c->landed_bytes : l->image_bytes, memory_order_relaxed);
	atomic_store_explicit(&p->digest_hi, digest.hi, memory_order_relaxed);
	atomic_store_explicit(&p->digest_lo, digest.lo, memory_order_relaxed);
	atomic_store_explicit(&p->state, PROGRESS_READY, memory_order_release);
	wake_all(p);
}

void segment_poison(struct segment *c, const struct fault *why)
{
	struct progress_page *p = page_of(c);
	if (atomic_load_explicit(&p->state, memory_order_relaxed) != PROGRESS_LOADING)
		return;
	snprintf(p->error_text, sizeof p->error_text, "%s", why->text);
	atomic_store_explicit(&p->error, (uint32_t)why->code, memory_order_relaxed);
	atomic_store_explicit(&p->state, PROGRESS_POISONED, memory_order_release);
	wake_all(p);
}
