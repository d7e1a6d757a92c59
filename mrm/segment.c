/* segment.c - see segment.h. */
#include "mrm/segment.h"

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

static void wake_all(struct segment *c)
{
	struct progress_page *p = page_of(c);
	atomic_fetch_add_explicit(&p->wake, 1, memory_order_release);
	syscall(SYS_futex, &p->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* What has arrived of a copy, on host or on a device. */
static int new_chunks(struct segment *c, const struct layout *l, struct fault *why)
{
	c->n_chunks = l->n_chunks;
	c->edge = calloc(MAX(l->n_extents, 1u), sizeof *c->edge);
	c->landed = calloc(MAX(l->n_chunks, 1u), sizeof *c->landed);
	c->readable = calloc(MAX(l->n_chunks, 1u), sizeof *c->readable);
	if (!c->edge || !c->landed || !c->readable)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %u chunks", l->n_chunks), -ENOMEM;
	memcpy(c->edge, l->extent_chunk, l->n_extents * sizeof *c->edge);
	c->n_extents = l->n_extents;
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

static int new_page(struct segment *c, const struct layout *l, const char *label, const struct shm_options *options,
	struct fault *why)
{
	char name[220];
	snprintf(name, sizeof name, "mrm:%s:progress", label);
	int e = shm_new(&c->page, name, PROGRESS_BYTES, options, why);
	if (e)
		return e;
	struct progress_page *p = page_of(c);
	p->magic = PROGRESS_MAGIC;
	p->version = PROGRESS_VERSION;
	p->copy = c->generation;
	p->extents = c->n_extents;
	p->image_bytes = l->image_bytes;
	return 0;
}

int segment_new(struct segment **out, const struct layout *l, uint64_t generation, enum segment_kind kind,
	const char *label, const struct shm_options *options, struct fault *why)
{
	struct segment *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->generation = generation;
	c->page.fd = c->records.fd = -1;
	pthread_mutex_init(&c->pages.lock, NULL);
	pthread_cond_init(&c->pages.made, NULL);
	char name[220];
	snprintf(name, sizeof name, "mrm:%s", label);
	int e = kind != SEGMENT_PAGE ? new_chunks(c, l, why) : 0;
	e = e ? e : new_page(c, l, label, options, why);
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
	int e = new_page(c, l, label, options, why);
	if (e) {
		c->page = old;
		return e;
	}
	shm_fini(&old);
	memset(c->landed, 0, c->n_chunks * sizeof *c->landed);
	memset(c->readable, 0, c->n_chunks * sizeof *c->readable);
	memcpy(c->edge, l->extent_chunk, l->n_extents * sizeof *c->edge);
	c->n_landed = c->n_readable = 0;
	c->landed_bytes = 0;
	return 0;
}

void segment_free(struct segment **cp)
{
	struct segment *c = *cp;
	if (!c)
		return;
	ASSERT(!c->device && !c->pins && !c->users);
	for (uint32_t i = 0; c->extents && i < c->n_extents; i++)
		shm_fini(&c->extents[i]);
	shm_fini(&c->page);
	shm_fini(&c->records);
	pthread_cond_destroy(&c->pages.made);
	pthread_mutex_destroy(&c->pages.lock);
	free(c->pages.state);
	free(c->extents);
	free(c->edge);
	free(c->landed);
	free(c->readable);
	free(c->gaps);
	free(c);
	*cp = NULL;
}

void segment_set_landed(struct segment *c)
{
	for (uint32_t i = 0; i < c->n_chunks; i++)
		c->landed[i] = true;
	c->n_landed = c->n_chunks;
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
	int e = segment_new(&c, l, generation, SEGMENT_DEVICE, label, options, why);
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
	return atomic_load_explicit(&page_of(c)->state, memory_order_relaxed) == PROGRESS_READY;
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

void segment_set_readable(struct segment *c, const struct layout *l, uint32_t chunk)
{
	ASSERT(c->n_extents && c->landed[chunk]);
	if (c->readable[chunk])
		return;
	c->readable[chunk] = true;
	c->n_readable++;
	struct layout_chunk k = layout_chunk(l, chunk);
	c->landed_bytes += k.bytes;
	struct progress_page *p = page_of(c);
	atomic_store_explicit(&p->landed, c->landed_bytes, memory_order_relaxed);
	uint32_t end = l->extent_chunk[k.extent + 1], before = c->edge[k.extent];
	while (c->edge[k.extent] < end && c->readable[c->edge[k.extent]])
		c->edge[k.extent]++;
	if (c->edge[k.extent] == before)
		return;
	struct layout_chunk last = layout_chunk(l, c->edge[k.extent] - 1);
	atomic_store_explicit(&p->watermark[k.extent], last.offset + last.bytes, memory_order_release);
	wake_all(c);
}

const _Atomic uint64_t *segment_watermarks(const struct segment *c)
{
	return page_of(c)->watermark;
}

void segment_set_ready(struct segment *c, const struct layout *l, struct hash128 digest)
{
	struct progress_page *p = page_of(c);
	for (uint32_t i = 0; i < c->n_extents; i++) {
		c->edge[i] = l->extent_chunk[i + 1];
		atomic_store_explicit(&p->watermark[i], l->extent_bytes[i], memory_order_release);
	}
	for (uint32_t i = 0; i < c->n_chunks; i++)
		c->landed[i] = c->readable[i] = true;
	c->n_landed = c->n_readable = c->n_chunks;
	c->landed_bytes = c->n_extents ? l->image_bytes : 0;
	free(STEAL(c->gaps));
	atomic_store_explicit(&p->landed, l->image_bytes, memory_order_relaxed);
	atomic_store_explicit(&p->digest_hi, digest.hi, memory_order_relaxed);
	atomic_store_explicit(&p->digest_lo, digest.lo, memory_order_relaxed);
	atomic_store_explicit(&p->state, PROGRESS_READY, memory_order_release);
	wake_all(c);
}

void segment_poison(struct segment *c, const struct fault *why)
{
	struct progress_page *p = page_of(c);
	if (atomic_load_explicit(&p->state, memory_order_relaxed) != PROGRESS_LOADING)
		return;
	snprintf(p->error_text, sizeof p->error_text, "%s", why->text);
	atomic_store_explicit(&p->error, (uint32_t)why->code, memory_order_relaxed);
	atomic_store_explicit(&p->state, PROGRESS_POISONED, memory_order_release);
	wake_all(c);
}
