/* uring.c - the io_uring engine.
 * Keeps: at most `room` pieces are in the ring, so the completion queue cannot overflow; the wake event's poll is armed
 * whenever the owner may block. */
#include "mrm/io/engine.h"

#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define URING_MAGIC 0x75726731u
#define MIN_ENTRIES 32

struct uring {
	uint32_t magic;
	struct io_uring ring;
	bool have_ring, fixed, armed;
	int event;
	uint32_t room, running;
};

static void uring_close(void *engine)
{
	struct uring *u = engine;
	if (!u)
		return;
	CHECK_OBJ(u, URING_MAGIC);
	ASSERT(u->running == 0);
	if (u->have_ring)
		io_uring_queue_exit(&u->ring);
	own_close_fd(&u->event);
	u->magic = 0;
	free(u);
}

/* Registered buffers spare the kernel a walk over the pages at each read.  Going without is slower, not wrong. */
static void register_buffers(struct uring *u, uint32_t depth, const struct engine_buffer *buffers,
	struct reader_mode *mode)
{
	struct iovec v[READER_MAX_DEPTH];
	for (uint32_t i = 0; i < depth; i++)
		v[i] = (struct iovec){buffers[i].base, buffers[i].bytes};
	int r = io_uring_register_buffers(&u->ring, v, depth);
	u->fixed = mode->fixed_buffers = r == 0;
	if (r == -ENOMEM)
		snprintf(mode->why, sizeof mode->why,
			"buffers are not registered: the limit on locked memory is too low");
	else if (r < 0)
		snprintf(mode->why, sizeof mode->why, "buffers are not registered: errno %d", -r);
}

static int uring_open(void **engine, uint32_t depth, const struct engine_buffer *buffers, struct reader_mode *mode)
{
	struct uring *u = calloc(1, sizeof *u);
	if (!u)
		return -ENOMEM;
	u->magic = URING_MAGIC;
	u->room = MAX(depth * 2, (uint32_t)MIN_ENTRIES);
	u->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = u->event < 0 ? -errno : io_uring_queue_init(u->room + 1, &u->ring, 0);
	if (r < 0) {
		uring_close(u);
		return r;
	}
	u->have_ring = true;
	if (buffers)
		register_buffers(u, depth, buffers, mode);
	*engine = u;
	return 0;
}

static bool uring_start(void *engine, struct piece *p)
{
	struct uring *u = engine;
	if (u->running == u->room)
		return false;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	if (!sqe)
		return false;
	struct attempt a = piece_attempt(p);
	if (u->fixed && p->buffer >= 0)
		io_uring_prep_read_fixed(sqe, p->fd, a.dst, a.bytes, a.off, p->buffer);
	else
		io_uring_prep_read(sqe, p->fd, a.dst, a.bytes, a.off);
	io_uring_sqe_set_data(sqe, p);
	u->running++;
	return true;
}

static void uring_flush(void *engine)
{
	struct uring *u = engine;
	while (io_uring_submit(&u->ring) == -EINTR)
		;
}

/* The poll on the wake event; its completion carries no piece. */
static void arm(struct uring *u)
{
	if (u->armed)
		return;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	if (!sqe) /* the queue is full of reads: their completions come first, and it is armed then */
		return;
	io_uring_prep_poll_add(sqe, u->event, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
	u->armed = true;
}

/* True when it was a wake-up. */
static bool take_wake(struct uring *u)
{
	uint64_t n;
	u->armed = false;
	return read(u->event, &n, sizeof n) == sizeof n;
}

/* Waits for one completion at least, except when the kernel wants to be asked again. */
static void wait_one(struct uring *u)
{
	int r = io_uring_submit_and_wait(&u->ring, 1);
	ASSERT(r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY);
}

static int uring_reap(void *engine, bool block, struct piece **out)
{
	struct uring *u = engine;
	for (;;) {
		struct io_uring_cqe *cqe = NULL;
		int r = io_uring_peek_cqe(&u->ring, &cqe);
		if (r == -EAGAIN && block) {
			arm(u);
			wait_one(u);
			continue;
		}
		if (r < 0)
			return r;
		struct piece *p = io_uring_cqe_get_data(cqe);
		int32_t res = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		if (p) {
			u->running--;
			p->res = res;
			*out = p;
			return 0;
		}
		if (take_wake(u))
			return -EAGAIN;
	}
}

static void uring_wake(void *engine)
{
	struct uring *u = engine;
	const uint64_t one = 1;
	ssize_t ignored = write(u->event, &one, sizeof one); /* fails only when it is signalled anyway */
	(void)ignored;
}

const struct engine_ops engine_uring = {uring_open, uring_close, uring_start, uring_flush, uring_reap, uring_wake};
