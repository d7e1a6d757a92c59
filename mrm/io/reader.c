/* reader.c - slots, spans and pieces; see reader.h.
 *
 * Keeps: a slot is FREE, RUNNING (its pieces are queued here or with the engine), DONE (in the ready queue) or TAKEN
 * (its owner looks at the bytes).  slot->pending counts pieces that have not ended; the slot becomes DONE when it
 * reaches zero.  A direct piece's offset, address and length are multiples of READER_ALIGN at every attempt. */
#include "mrm/io/reader.h"

#include "mrm/io/engine.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#define READER_MAGIC 0x72646572u
#define HUGE_PAGE ((uint64_t)2 << 20)
/* A slot has room for this many widened ranges of buffer_bytes in all. */
#define USUAL_SPANS 8
#define PIECE_MAX_BYTES ((uint64_t)1 << 30) /* one read(2) moves less than 2 GiB */

enum slot_state { SLOT_FREE, SLOT_RUNNING, SLOT_DONE, SLOT_TAKEN };

struct slot {
	enum slot_state state;
	uint32_t index;
	uint32_t n, cap, pending;
	struct piece *pieces;     /* [cap] */
	const uint8_t **data;     /* [cap] */
	uint8_t *buf;             /* of the reader's mapping */
	uint8_t *large;           /* instead of buf, for this submission only */
	size_t large_bytes;
	bool straight;            /* reads into the caller's memory */
	struct slot *next_ready;
	struct reader_done done;
};

struct reader {
	uint32_t magic;
	const struct engine_ops *ops;
	void *engine;
	struct reader_mode mode;
	uint32_t depth, in_flight, taken;
	size_t slot_bytes;
	uint8_t *map;
	size_t map_bytes;
	struct slot *slots;
	struct piece *todo, **todo_last;
	struct slot *ready, **ready_last;
};

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- making and unmaking ---- */

/* One huge-page-aligned mapping for all slots, touched now: the first read should not pay for it. */
static int map_slots(struct reader *r)
{
	r->map_bytes = align_up(r->slot_bytes * r->depth, HUGE_PAGE);
	size_t raw_bytes = r->map_bytes + HUGE_PAGE;
	uint8_t *raw = mmap(NULL, raw_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw == MAP_FAILED)
		return -errno;
	uint8_t *base = (uint8_t *)align_up((uintptr_t)raw, HUGE_PAGE);
	if (base > raw)
		munmap(raw, (size_t)(base - raw));
	size_t tail = (size_t)(raw + raw_bytes - (base + r->map_bytes));
	if (tail)
		munmap(base + r->map_bytes, tail);
	madvise(base, r->map_bytes, MADV_HUGEPAGE);
	madvise(base, r->map_bytes, MADV_POPULATE_WRITE);
	r->map = base;
	for (uint32_t i = 0; i < r->depth; i++)
		r->slots[i].buf = base + i * r->slot_bytes;
	return 0;
}

void reader_rest(struct reader *r)
{
	CHECK_OBJ(r, READER_MAGIC);
	for (uint32_t i = 0; i < r->depth; i++)
		if (r->slots[i].state != SLOT_FREE)
			return;
	/* Registered memory stays with the kernel, which would go on reading into pages that are no longer here. */
	if (!r->mode.fixed_buffers)
		madvise(r->map, r->map_bytes, MADV_DONTNEED);
}

static int open_engine(struct reader *r, const struct reader_options *o)
{
	struct engine_buffer buffers[READER_MAX_DEPTH];
	for (uint32_t i = 0; i < r->depth; i++)
		buffers[i] = (struct engine_buffer){r->slots[i].buf, r->slot_bytes};
	int err = 0;
	if (!o->no_uring) {
		r->ops = &engine_uring;
		r->mode.engine = READER_URING;
		err = r->ops->open(&r->engine, r->depth, o->no_fixed ? NULL : buffers, &r->mode);
		if (err == 0)
			return 0;
		snprintf(r->mode.why, sizeof r->mode.why, "io_uring refused: errno %d", -err);
	} else {
		snprintf(r->mode.why, sizeof r->mode.why, "io_uring switched off");
	}
	r->ops = &engine_pread;
	r->mode.engine = READER_PREAD;
	return r->ops->open(&r->engine, r->depth, NULL, &r->mode);
}

int reader_new(struct reader **out, uint32_t depth, uint64_t buffer_bytes, const struct reader_options *options,
	struct fault *why)
{
	static const struct reader_options defaults;
	depth = depth ? depth : READER_DEPTH;
	if (depth > READER_MAX_DEPTH || buffer_bytes == 0 || buffer_bytes > READER_MAX_BYTES) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "a reader of depth %u with slots of %llu bytes", depth,
			(unsigned long long)buffer_bytes);
		return -EINVAL;
	}
	struct reader *r = calloc(1, sizeof *r);
	ASSERT(r);
	r->magic = READER_MAGIC;
	r->depth = depth;
	r->slot_bytes = align_up(buffer_bytes, READER_ALIGN) + USUAL_SPANS * 2 * READER_ALIGN;
	r->todo_last = &r->todo;
	r->ready_last = &r->ready;
	r->slots = calloc(depth, sizeof *r->slots);
	ASSERT(r->slots);
	for (uint32_t i = 0; i < depth; i++)
		r->slots[i].index = i;
	int err = map_slots(r);
	if (err == 0)
		err = open_engine(r, options ? options : &defaults);
	if (err < 0) {
		reader_free(&r);
		fault_errno(why, TRIMS_E_NO_SYSTEM, -err, "cannot set up a file reader of depth %u", depth);
		return err;
	}
	*out = r;
	return 0;
}

static void slot_fini(struct slot *s)
{
	free(s->pieces);
	free(s->data);
	if (s->large)
		munmap(s->large, s->large_bytes);
}

void reader_free(struct reader **p)
{
	struct reader *r = *p;
	if (!r)
		return;
	CHECK_OBJ(r, READER_MAGIC);
	struct reader_done done;
	while (r->in_flight)
		if (reader_wait(r, true, &done) == 0)
			reader_release(r, &done);
	if (r->engine)
		r->ops->close(r->engine);
	for (uint32_t i = 0; r->slots && i < r->depth; i++)
		slot_fini(&r->slots[i]);
	if (r->map)
		munmap(r->map, r->map_bytes);
	free(r->slots);
	r->magic = 0;
	free(r);
	*p = NULL;
}

/* ---- files ---- */

/* Direct reads here are multiples of READER_ALIGN; a file system that wants more gets none. */
static bool fits_alignment(int fd)
{
#ifdef STATX_DIOALIGN
	struct statx sx;
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN))
		return sx.stx_dio_offset_align && sx.stx_dio_offset_align <= READER_ALIGN &&
			sx.stx_dio_mem_align <= READER_ALIGN;
#endif
	return true;
}

int reader_open_file_at(int dir_fd, const char *path, int *fd, bool *direct)
{
	int got = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_DIRECT | O_NOCTTY);
	if (got >= 0 && fits_alignment(got)) {
		*fd = got;
		*direct = true;
		return 0;
	}
	if (got >= 0)
		close(got);
	else if (errno != EINVAL)
		return -errno;
	got = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (got < 0)
		return -errno;
	*fd = got;
	*direct = false;
	return 0;
}

int reader_open_file(const char *path, int *fd, bool *direct)
{
	return reader_open_file_at(AT_FDCWD, path, fd, direct);
}

void reader_forget(const struct reader_span *span)
{
	if (!span->direct)
		posix_fadvise(span->fd, (off_t)span->off, (off_t)span->bytes, POSIX_FADV_DONTNEED);
}

/* ---- submitting ---- */

static void todo_add(struct reader *r, struct piece *p)
{
	p->next = NULL;
	*r->todo_last = p;
	r->todo_last = &p->next;
}

/* Gives the engine what it takes.  `next` is read before, since the engine may queue the piece by it. */
static void start_pieces(struct reader *r)
{
	bool any = false;
	while (r->todo) {
		struct piece *next = r->todo->next;
		if (!r->ops->start(r->engine, r->todo))
			break;
		any = true;
		if (!(r->todo = next))
			r->todo_last = &r->todo;
	}
	if (any)
		r->ops->flush(r->engine);
}

static void slot_end(struct reader *r, struct slot *s)
{
	s->state = SLOT_DONE;
	s->done.done_ns = now_ns();
	s->next_ready = NULL;
	*r->ready_last = s;
	r->ready_last = &s->next_ready;
}

static struct slot *free_slot(struct reader *r)
{
	for (uint32_t i = 0; i < r->depth; i++)
		if (r->slots[i].state == SLOT_FREE)
			return &r->slots[i];
	return NULL;
}

static void slot_reserve(struct slot *s, uint32_t n)
{
	if (n <= s->cap)
		return;
	free(s->pieces);
	free(s->data);
	s->cap = n;
	s->pieces = calloc(n, sizeof *s->pieces);
	s->data = calloc(n, sizeof *s->data);
	ASSERT(s->pieces && s->data);
}

static void slot_begin(struct reader *r, struct slot *s, uint64_t tag, uint32_t n, bool straight)
{
	s->state = SLOT_RUNNING;
	s->n = s->pending = n;
	s->straight = straight;
	s->done = (struct reader_done){.tag = tag, .n = straight ? 0 : n, .data = straight ? NULL : s->data,
		.slot = s->index, .submitted_ns = now_ns()};
	r->in_flight++;
	for (uint32_t i = 0; i < n; i++) {
		s->done.bytes += s->pieces[i].need;
		todo_add(r, &s->pieces[i]);
	}
	if (n == 0)
		slot_end(r, s);
	start_pieces(r);
}

/* The range widened for a direct read. */
static int widen(const struct reader_span *span, uint64_t *off, uint64_t *bytes)
{
	uint64_t end;
	if (span->bytes == 0 || add_overflows(span->off, span->bytes, &end) || end > INT64_MAX - READER_ALIGN)
		return -EINVAL;
	*off = align_down(span->off, READER_ALIGN);
	*bytes = align_up(end, READER_ALIGN) - *off;
	return *bytes > PIECE_MAX_BYTES ? -E2BIG : 0;
}

static int measure(const struct reader_span *spans, uint32_t n, uint64_t *total)
{
	uint64_t sum = 0, off, bytes;
	if (n > READER_MAX_SPANS)
		return -E2BIG;
	for (uint32_t i = 0; i < n; i++) {
		int r = widen(&spans[i], &off, &bytes);
		if (r < 0)
			return r;
		sum += bytes;
		if (sum > READER_MAX_BYTES)
			return -E2BIG;
	}
	*total = sum;
	return 0;
}

static int slot_memory(struct reader *r, struct slot *s, uint64_t bytes)
{
	if (bytes <= r->slot_bytes)
		return 0;
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -ENOMEM;
	s->large = m;
	s->large_bytes = bytes;
	return 0;
}

int reader_submit(struct reader *r, uint64_t tag, const struct reader_span *spans, uint32_t n)
{
	uint64_t total;
	struct slot *s = free_slot(r);
	if (!s)
		return -EBUSY;
	int err = measure(spans, n, &total);
	if (err == 0)
		err = slot_memory(r, s, total);
	if (err < 0)
		return err;
	slot_reserve(s, n);
	uint8_t *at = s->large ? s->large : s->buf;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t off = 0, bytes = 0;
		int never = widen(&spans[i], &off, &bytes);
		ASSERT(never == 0); /* measured above */
		uint64_t lead = spans[i].off - off;
		s->pieces[i] = (struct piece){.slot = s, .fd = spans[i].fd, .direct = spans[i].direct, .off = off,
			.buffer = s->large ? -1 : (int)s->index, .want = (uint32_t)bytes,
			.need = (uint32_t)(lead + spans[i].bytes), .span = i, .dst = at};
		s->data[i] = at + lead;
		at += bytes;
	}
	slot_begin(r, s, tag, n, false);
	return 0;
}

int reader_submit_direct(struct reader *r, uint64_t tag, const struct reader_span *span, uint8_t *dst)
{
	uint64_t off, bytes;
	if (((uintptr_t)dst | span->off | span->bytes) % READER_ALIGN)
		return -EINVAL;
	struct slot *s = free_slot(r);
	if (!s)
		return -EBUSY;
	int err = widen(span, &off, &bytes);
	if (err < 0)
		return err;
	slot_reserve(s, 1);
	s->pieces[0] = (struct piece){.slot = s, .fd = span->fd, .direct = span->direct, .off = off, .buffer = -1,
		.want = (uint32_t)bytes, .need = (uint32_t)bytes, .dst = dst};
	slot_begin(r, s, tag, 1, true);
	return 0;
}

/* ---- completing ---- */

static void piece_fail(struct piece *p, int err)
{
	struct reader_done *d = &p->slot->done;
	if (d->result == 0) { /* the first failure is the one to tell */
		d->result = err;
		d->bad_span = p->span;
		d->bad_off = p->off + p->got;
	}
}

/* Some file systems take O_DIRECT at open and refuse the read.  The descriptor is made a buffered one. */
static bool fall_back(struct reader *r, struct piece *p)
{
	int flags = fcntl(p->fd, F_GETFL);
	if (!p->direct || flags < 0)
		return false;
	p->direct = false;
	if (flags & O_DIRECT) {
		if (fcntl(p->fd, F_SETFL, flags & ~O_DIRECT) < 0)
			return false;
		r->mode.fell_back++;
		log_warn("io", "a file refuses direct reads; it is read through the page cache");
	}
	return true;
}

/* What one attempt brought.  True: the piece has to go on. */
static bool piece_advance(struct reader *r, struct piece *p)
{
	if (p->res == -EINTR || p->res == -EAGAIN)
		return true;
	if (p->res == -EINVAL && fall_back(r, p))
		return true;
	if (p->res < 0) {
		piece_fail(p, p->res);
		return false;
	}
	p->got += (uint32_t)p->res;
	if (p->got >= p->need)
		return false;
	/* Short of what is needed: the file ends here, or (rarely) the kernel stopped in between.  A direct read that
	 * stops off the grid has met the end. */
	if (p->res == 0 || (p->direct && p->got % READER_ALIGN)) {
		piece_fail(p, -ENODATA);
		return false;
	}
	return true;
}

static void piece_end(struct reader *r, struct piece *p)
{
	struct slot *s = p->slot;
	if (piece_advance(r, p) && s->done.result == 0) {
		todo_add(r, p);
		return;
	}
	ASSERT(s->state == SLOT_RUNNING && s->pending > 0);
	if (--s->pending == 0)
		slot_end(r, s);
}

int reader_wait(struct reader *r, bool block, struct reader_done *out)
{
	while (!r->ready) {
		struct piece *p;
		start_pieces(r);
		int err = r->ops->reap(r->engine, block, &p);
		if (err < 0)
			return err;
		piece_end(r, p);
	}
	start_pieces(r);
	struct slot *s = r->ready;
	if (!(r->ready = s->next_ready))
		r->ready_last = &r->ready;
	s->state = SLOT_TAKEN;
	r->in_flight--;
	*out = s->done;
	return 0;
}

void reader_release(struct reader *r, const struct reader_done *done)
{
	ASSERT(done->slot < r->depth);
	struct slot *s = &r->slots[done->slot];
	ASSERT(s->state == SLOT_TAKEN);
	if (s->large)
		munmap(s->large, s->large_bytes);
	s->large = NULL;
	s->state = SLOT_FREE;
}

void reader_wake(struct reader *r)
{
	r->ops->wake(r->engine);
}

int reader_fault(const struct reader_done *done, const char *path, struct fault *why)
{
	unsigned long long at = done->bad_off;
	if (done->result == -ENODATA)
		fault_set(why, TRIMS_E_CHANGED, "%s: ends at byte %llu, where more was expected", path, at);
	else
		fault_errno(why, TRIMS_E_DISK_ERROR, -done->result, "%s: reading at byte %llu", path, at);
	return done->result;
}

/* ---- inspection ---- */

bool reader_has_room(const struct reader *r)
{
	for (uint32_t i = 0; i < r->depth; i++)
		if (r->slots[i].state == SLOT_FREE)
			return true;
	return false;
}

uint32_t reader_in_flight(const struct reader *r)
{
	return r->in_flight;
}

const struct reader_mode *reader_mode(const struct reader *r)
{
	return &r->mode;
}

const char *reader_engine_name(enum reader_engine e)
{
	return e == READER_URING ? "io_uring" : "pread";
}
