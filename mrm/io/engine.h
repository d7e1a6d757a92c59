/* engine.h - how pieces of reads reach the kernel; private to mrm/io.
 *
 * A piece is one contiguous read.  reader.c cuts submissions into pieces, an engine carries them out in any order.
 * Thread: the reader's owner, except wake (any thread).  Ownership: pieces belong to their slots; an engine borrows a
 * piece between start and reap. */
#ifndef MRM_IO_ENGINE_H
#define MRM_IO_ENGINE_H

#include "mrm/io/reader.h"

struct piece {
	struct piece *next;  /* in the reader's or the engine's queue */
	struct slot *slot;
	int fd;
	int buffer;          /* index of the registered buffer that dst lies in, -1: none */
	bool direct;
	uint64_t off;        /* as widened */
	uint32_t want, need; /* bytes to ask for; bytes without which it failed */
	uint32_t got;        /* bytes so far */
	uint32_t span;
	uint8_t *dst;
	int32_t res;         /* of the last attempt: bytes or -errno */
};

struct engine_buffer {
	uint8_t *base;
	size_t bytes;
};

struct engine_ops {
	/* -ENOSYS, -EPERM, -EACCES: this machine does not have it.  Registers the buffers where it can
	 * (mode->fixed_buffers). */
	int (*open)(void **engine, uint32_t depth, const struct engine_buffer *buffers, struct reader_mode *mode);
	void (*close)(void *engine); /* nothing is in flight */
	/* Queues piece->want - piece->got bytes; false: full, reap first. */
	bool (*start)(void *engine, struct piece *piece);
	/* Hands what was queued to the kernel; what it does not take now goes along with the next flush or reap. */
	void (*flush)(void *engine);
	/* One finished piece with ->res.  -EAGAIN: none (or woken, when blocking). */
	int (*reap)(void *engine, bool block, struct piece **out);
	void (*wake)(void *engine);
};

extern const struct engine_ops engine_uring, engine_pread;

/* The memory and file range of the piece's next attempt: what was got already is not read again. */
struct attempt {
	uint8_t *dst;
	uint64_t off;
	uint32_t bytes;
};
static inline struct attempt piece_attempt(const struct piece *p)
{
	return (struct attempt){p->dst + p->got, p->off + p->got, p->want - p->got};
}

#endif
