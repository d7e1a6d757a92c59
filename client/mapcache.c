/* mapcache.c - see mapcache.h.
 * Keeps, under the one lock: a mapping is in its bucket exactly while refs is above 0; a descriptor is closed as soon as
 * what it stands for is mapped; `image` and `progress` are published only when whole and then stay.
 * Nothing the daemon wrote is believed: sizes are compared with the files' own before anything is read. */
#include "client/mapcache.h"

#include "client/fail.h"
#include "shared/list.h"
#include "shared/own.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define BUCKETS 256
#define HUGE_PAGE ((uint64_t)2 << 20)
#define EAGER_FD 256 /* a process that has this many descriptors open would run out by leaving more of them waiting */

#define HUGE_BYTES (2 * MIB)
#define IMAGE_BYTES_MAX ((uint64_t)1 << 46) /* more than fits into anybody's address space; keeps sums below from overflowing */

enum { FD_TABLE, FD_PROGRESS, FD_EXTENTS };

struct mapping {
	struct list node;
	uint64_t boot_hi, boot_lo, copy;
	uint64_t image_bytes;
	uint32_t tier, refs;
	struct mapped_image image_;
	const struct mapped_image *_Atomic image; /* NULL: not mapped */
	struct progress_page *_Atomic progress;   /* NULL: not mapped */
	uint32_t n_fds;
	int fd[]; /* -1 once used up */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct list buckets[BUCKETS];

static void take(void)
{
	pthread_mutex_lock(&lock);
}

static void give(void)
{
	pthread_mutex_unlock(&lock);
}

static void set_up(void)
{
	for (unsigned i = 0; i < BUCKETS; i++)
		list_init(&buckets[i]);
	pthread_atfork(take, give, give); /* a child may open models of its own */
}

static struct list *bucket(uint64_t copy)
{
	pthread_once(&once, set_up);
	return &buckets[copy % BUCKETS];
}

/* ---- mapping ---- */

static int map_failed(void)
{
	return fail_errno(TRIMS_E_NO_MEMORY, errno, "cannot map the model");
}

/* Maps a whole file, read-only. */
static int map_file(int fd, uint64_t at_least, const char *what, void **out, uint64_t *bytes)
{
	struct stat st;
	if (fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size < at_least)
		return fail(TRIMS_E_PROTOCOL, "the daemon's %s is too short", what);
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return map_failed();
	*out = p;
	*bytes = (uint64_t)st.st_size;
	return 0;
}

/* Whether n records of that size lie inside the table at an aligned offset. */
static bool inside(uint64_t off, uint64_t n, uint64_t size, uint64_t align, uint64_t table_bytes)
{
	uint64_t bytes, end;
	return off % align == 0 && !mul_overflows(n, size, &bytes) && !add_overflows(off, bytes, &end) && end <= table_bytes;
}

/* Checks header and extents and fills *im; costs the same for any number of tensors.  Records and names are checked one
 * by one where they are read (tensor.c). */
static bool read_table(struct mapped_image *im, const struct mapping *m, const struct table_header *mapped, uint64_t bytes)
{
	struct table_header h;
	memcpy(&h, mapped, sizeof h);
	if (h.magic != TABLE_MAGIC || h.version != TABLE_VERSION || h.table_bytes > bytes ||
		h.n_extents > PROGRESS_MAX_EXTENTS ||
		!inside(h.extents_off, h.n_extents, sizeof(struct table_extent), 8, h.table_bytes) ||
		!inside(h.tensors_off, h.n_tensors, sizeof(struct table_tensor), 8, h.table_bytes) ||
		!inside(h.by_name_off, h.n_tensors, sizeof(uint32_t), 4, h.table_bytes) ||
		!inside(h.names_off, h.names_bytes, 1, 1, h.table_bytes))
		return false;
	const char *at = (const char *)mapped;
	*im = (struct mapped_image){.table = mapped, .table_bytes = bytes, .n_tensors = h.n_tensors,
		.n_extents = h.n_extents, .extents = (const void *)(at + h.extents_off),
		.tensors = (const void *)(at + h.tensors_off), .by_name = (const void *)(at + h.by_name_off),
		.names = at + h.names_off, .names_bytes = h.names_bytes};
	uint64_t end = 0;
	for (uint32_t i = 0; i < h.n_extents; i++)
		if (im->extents[i].image_off != end || im->extents[i].bytes % 4096 ||
			add_overflows(end, im->extents[i].bytes, &end))
			return false;
	return end == h.image_bytes && end <= IMAGE_BYTES_MAX && (m->tier == TRIMS_TIER_DISK || end == m->image_bytes);
}

/* Where the extents go in one range of addresses: in order, those that can be mapped by huge pages at a boundary of one. */
static uint64_t place_extents(const struct mapped_image *im, uint64_t offsets[])
{
	uint64_t end = 0;
	for (uint32_t i = 0; i < im->n_extents; i++) {
		offsets[i] = im->extents[i].bytes >= HUGE_BYTES ? align_up(end, HUGE_BYTES) : end;
		end = offsets[i] + im->extents[i].bytes;
	}
	return end;
}

static int map_extent(const struct mapped_image *im, uint32_t i, int fd, char *at)
{
	struct stat st;
	uint64_t bytes = im->extents[i].bytes;
	if (fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return fail(TRIMS_E_PROTOCOL, "the memory of extent %u is too short", i);
	if (bytes && mmap(at, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return map_failed();
	return 0;
}

static int map_extents(struct mapped_image *im, const struct mapping *m)
{
	uint64_t offsets[PROGRESS_MAX_EXTENTS];
	int r = 0;
	if (m->tier != TRIMS_TIER_HOST || m->image_bytes == 0)
		return 0;
	if (m->n_fds - FD_EXTENTS != im->n_extents)
		return fail(TRIMS_E_PROTOCOL, "the daemon gave %u extents of %u", m->n_fds - FD_EXTENTS, im->n_extents);
	uint64_t bytes = place_extents(im, offsets) + HUGE_BYTES; /* room to align the first one */
	char *range = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (range == MAP_FAILED)
		return map_failed();
	char *base = (char *)align_up((uintptr_t)range, HUGE_BYTES);
	for (uint32_t i = 0; i < im->n_extents && r == 0; i++) {
		r = map_extent(im, i, m->fd[FD_EXTENTS + i], base + offsets[i]);
		im->extent_at[i] = base + offsets[i];
	}
	if (r < 0) {
		munmap(range, bytes);
		return r;
	}
	im->range = range;
	im->range_bytes = bytes;
	return 0;
}

static int map_image(struct mapping *m)
{
	struct mapped_image im;
	void *table;
	uint64_t bytes;
	int r = map_file(m->fd[FD_TABLE], sizeof(struct table_header), "tensor table", &table, &bytes);
	if (r < 0)
		return r;
	if (!read_table(&im, m, table, bytes))
		r = fail(TRIMS_E_PROTOCOL, "the daemon's tensor table makes no sense");
	else
		r = map_extents(&im, m);
	if (r < 0) {
		munmap(table, bytes);
		return r;
	}
	for (uint32_t i = 0; i < m->n_fds; i++)
		if (i != FD_PROGRESS)
			own_close_fd(&m->fd[i]);
	m->image_ = im;
	atomic_store_explicit(&m->image, &m->image_, memory_order_release);
	return 0;
}

static int map_progress(struct mapping *m)
{
	void *p;
	uint64_t bytes;
	int r = map_file(m->fd[FD_PROGRESS], PROGRESS_BYTES, "progress page", &p, &bytes);
	if (r < 0)
		return r;
	struct progress_page *page = p;
	if (bytes != PROGRESS_BYTES || page->magic != PROGRESS_MAGIC || page->version != PROGRESS_VERSION ||
		page->copy != m->copy || page->extents > PROGRESS_MAX_EXTENTS) {
		munmap(p, bytes);
		return fail(TRIMS_E_PROTOCOL, "the daemon's progress page makes no sense");
	}
	own_close_fd(&m->fd[FD_PROGRESS]);
	atomic_store_explicit(&m->progress, page, memory_order_release);
	return 0;
}

int mapping_image(struct mapping *m, const struct mapped_image **out)
{
	int r = 0;
	if (!atomic_load_explicit(&m->image, memory_order_acquire)) {
		take();
		if (!m->image)
			r = map_image(m);
		give();
	}
	if (r == 0)
		*out = m->image;
	return r;
}

int mapping_progress(struct mapping *m, struct progress_page **out)
{
	int r = 0;
	if (!atomic_load_explicit(&m->progress, memory_order_acquire)) {
		take();
		if (!m->progress)
			r = map_progress(m);
		give();
	}
	if (r == 0)
		*out = m->progress;
	return r;
}

/* ---- references ---- */

static struct mapping *find(const struct list *head, const struct conn_life *life, const struct msg_opened *o)
{
	list_for_each(it, head) {
		struct mapping *m = list_entry(it, struct mapping, node);
		if (m->copy == o->copy && m->boot_hi == life->boot_hi && m->boot_lo == life->boot_lo && m->tier == o->tier &&
			m->image_bytes == o->image_bytes)
			return m;
	}
	return NULL;
}

static struct mapping *make(const struct conn_life *life, struct msg_opened *o)
{
	size_t fds_bytes = o->fds.n * sizeof(int);
	struct mapping *m = malloc(sizeof *m + fds_bytes);
	if (!m)
		return NULL;
	*m = (struct mapping){.boot_hi = life->boot_hi, .boot_lo = life->boot_lo, .copy = o->copy,
		.image_bytes = o->image_bytes, .tier = o->tier, .n_fds = o->fds.n};
	memcpy(m->fd, o->fds.fd, fds_bytes);
	o->fds.n = 0;
	return m;
}

static void unmap(struct mapping *m)
{
	const struct mapped_image *im = m->image;
	msg_close_fds(m->fd, m->n_fds);
	if (m->progress)
		munmap(m->progress, PROGRESS_BYTES);
	if (im) {
		if (im->range)
			munmap(im->range, im->range_bytes);
		munmap((void *)im->table, im->table_bytes);
	}
	free(m);
}

int mapping_get(const struct conn_life *life, struct msg_opened *o, struct mapping **out)
{
	struct list *head = bucket(o->copy);
	if (o->fds.n < FD_EXTENTS || o->tier < TRIMS_TIER_DISK || o->tier > TRIMS_TIER_GPU) {
		msg_close_fds(o->fds.fd, o->fds.n);
		return fail(TRIMS_E_UNSUPPORTED, "this library cannot use a copy of tier %u with %u handles", o->tier, o->fds.n);
	}
	take();
	struct mapping *m = find(head, life, o);
	if (!m && (m = make(life, o)))
		list_add_head(&m->node, head);
	int r = m ? 0 : fail(TRIMS_E_NO_MEMORY, "no memory for a mapping");
	if (m)
		m->refs++;
	if (m && m->fd[FD_TABLE] >= EAGER_FD)
		r = map_image(m);
	if (r == 0 && m->fd[FD_PROGRESS] >= EAGER_FD)
		r = map_progress(m);
	give();
	msg_close_fds(o->fds.fd, o->fds.n); /* make() has left none */
	if (r < 0)
		mapping_put(&m);
	else
		*out = m;
	return r;
}

void mapping_put(struct mapping **p)
{
	struct mapping *m = *p;
	*p = NULL;
	if (!m)
		return;
	take();
	bool last = --m->refs == 0;
	if (last)
		list_del(&m->node);
	give();
	if (last)
		unmap(m);
}
