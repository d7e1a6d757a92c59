/* reader.h - reads ranges of files with several reads in flight, past the page cache.
 *
 * A reader has `depth` slots.  A submission takes one, reads one or several byte ranges and ends as one
 * completion; the bytes stay in the slot until it is released.  Ranges need no alignment: the reader widens them
 * to 4096 itself.
 * Two engines, chosen when the reader is made: "io_uring", or "pread" (helper threads) where the kernel refuses
 * io_uring.
 *
 * Thread: one owner (a worker, a "lane") calls everything; reader_wake() is for any thread.  Different readers
 * share nothing.
 * Ownership: the reader owns its slots' buffers; files and direct destinations are the caller's and must outlive
 * the completion.  reader_free() waits for what is in flight. */
#ifndef MRM_IO_READER_H
#define MRM_IO_READER_H

#include "shared/base.h"
#include "shared/error.h"

#define READER_ALIGN 4096
#define READER_DEPTH 8
#define READER_MAX_DEPTH 64
#define READER_MAX_SPANS 1024
#define READER_MAX_BYTES ((uint64_t)256 << 20) /* of one submission, widened */

struct reader;

struct reader_options {
	bool no_uring;  /* use the pread engine */
	bool no_fixed;  /* do not register the slots with the kernel */
};

struct reader_span {
	int fd;
	bool direct; /* as reader_open_file() said; disk_is_direct() for the disk tier's descriptors */
	uint64_t off, bytes;
};

struct reader_done {
	uint64_t tag;
	/* 0; -ENODATA: a file ended before the range did; else the read's -errno. */
	int result;
	uint32_t bad_span;           /* result != 0: which range */
	uint64_t bad_off;            /* and the file offset that could not be read */
	uint32_t n;                  /* ranges submitted; 0 for a direct submission */
	const uint8_t *const *data;  /* [n] their bytes, until reader_release(); direct: NULL */
	uint64_t bytes;              /* asked for, in all */
	uint64_t submitted_ns, done_ns; /* CLOCK_MONOTONIC */
	uint32_t slot;
};

/* buffer_bytes: what a slot holds without further ado; a larger submission gets a buffer of its own for its lifetime,
 * so size this for the usual chunk.  Widening is added by the reader.  depth 0: READER_DEPTH. */
int reader_new(struct reader **out, uint32_t depth, uint64_t buffer_bytes, const struct reader_options *options,
	struct fault *why);
void reader_free(struct reader **r);

/* Opens read-only, with O_DIRECT where the file system has it.  *direct false is the named state "buffered": the
 * page cache is used (and dropped behind by reader_forget()). */
int reader_open_file(const char *path, int *fd, bool *direct);
int reader_open_file_at(int dir_fd, const char *path, int *fd, bool *direct);
/* Drops a buffered file's pages in a range from the page cache; nothing for direct ones. */
void reader_forget(const struct reader_span *span);

/* True while a slot is free. */
bool reader_has_room(const struct reader *r);
uint32_t reader_in_flight(const struct reader *r); /* submitted and not yet returned by reader_wait() */

/* Starts reading; n may be 0 (completes at once).  -EBUSY: no slot is free; -E2BIG: over READER_MAX_SPANS or
 * READER_MAX_BYTES; -ENOMEM: no buffer for a large one. */
int reader_submit(struct reader *r, uint64_t tag, const struct reader_span *spans, uint32_t n);
/* Reads `span` right into dst: dst, off and bytes are multiples of READER_ALIGN (-EINVAL).  Takes a slot, too. */
int reader_submit_direct(struct reader *r, uint64_t tag, const struct reader_span *span, uint8_t *dst);

/* One completion, in the order they finish.  -EAGAIN: none yet (block false), or somebody called reader_wake().  With
 * nothing in flight a blocking wait waits for reader_wake(): a lane sleeps here and nowhere else. */
int reader_wait(struct reader *r, bool block, struct reader_done *out);
/* Gives the slot back; out->data is gone.  Every completion needs one. */
void reader_release(struct reader *r, const struct reader_done *done);
/* Gives the slots' memory back to the machine until submissions need it again; nothing while a slot is in use, or when the
 * slots are registered with the kernel. */
void reader_rest(struct reader *r);
/* Any thread, any time: makes a blocking reader_wait() return -EAGAIN, or the next one that would block. */
void reader_wake(struct reader *r);

/* The sentence for a failed completion: "path: ends at ... where a read of ... was expected" and such. */
/* Returns done->result. */
int reader_fault(const struct reader_done *done, const char *path, struct fault *why);

/* ---- inspection ---- */

enum reader_engine { READER_URING, READER_PREAD };

struct reader_mode {
	enum reader_engine engine;
	bool fixed_buffers;     /* slots are registered with the kernel */
	uint64_t fell_back;     /* files that took O_DIRECT when opened and refused it when read: buffered since */
	char why[96];           /* why not io_uring, or why not registered; "" */
};
/* What this reader uses; for its owner. */
const struct reader_mode *reader_mode(const struct reader *r);
const char *reader_engine_name(enum reader_engine e); /* "io_uring", "pread" */

#endif
