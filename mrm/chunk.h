/* chunk.h - the job that brings one chunk from one place to another, and the worker contexts it runs in.
 * Thread: made and ended on the loop; run on a lane (reads), a net worker or a write worker.  The destination belongs to
 * the job while it runs: nobody reads it before it came home. */
#ifndef MRM_CHUNK_H
#define MRM_CHUNK_H

#include "mrm/haul.h"

enum chunk_how {
	CHUNK_FILES,   /* local files -> memory (lane) */
	CHUNK_DISK,    /* disk image -> memory (lane) */
	CHUNK_NET,     /* remote -> memory */
	CHUNK_STREAM,  /* remote without ranges: every chunk -> memory or disk image, by one job */
	CHUNK_REPAIR,  /* remote -> memory, and over the damaged chunk in the disk image if that is complete */
	CHUNK_STORE,   /* memory -> disk image */
	CHUNK_PASS,    /* remote -> disk image, nothing kept in memory */
};

struct chunk_job {
	struct job job;
	struct haul *haul;
	/* What the image had when the job was made; a worker never looks into the image itself. */
	const struct layout *layout;
	const struct image_desc *desc;
	struct disk_image *stored;
	const struct source_listing *listing;
	struct segment *host;
	const struct source_cancel *cancel;
	const char *label;
	bool disk_direct, huge, to_disk, mend; /* mend: a repaired chunk goes to the disk image, too */
	enum chunk_how how;
	uint32_t chunk;
	uint8_t *dst;              /* for CHUNK_STORE: where the bytes are */
	bool has_want;
	struct hash128 want, hash; /* on record; found */
	/* the way home */
	int result;                /* 0 or -errno with `why`; -EBADMSG: the bytes are damaged */
	struct fault why;
	uint64_t moved_bytes;      /* as stored at the place they came from or went to */
};

/* A job for the chunk as the transfer's image is now, and on its way. */
struct chunk_job *chunk_new(struct haul *t, uint32_t chunk, enum chunk_how how);
void chunk_submit(struct chunk_job *c);

/* ---- lanes: workers that keep several reads in flight ---- */

struct lane_options {
	uint32_t depth;
	bool no_uring;
};

extern const struct pool_ops lane_pool; /* ctx: struct lane_options */
/* What the lanes of a pool use; the same for all. */
struct reader_mode lane_mode(void);

/* ---- net and write workers ---- */

struct net_worker; /* a source_worker and buffers */
extern const struct pool_ops net_pool;
struct source_worker *net_source(struct net_worker *w);

extern const struct pool_ops write_pool;

/* run() of the kinds that are not read by lanes; worker: struct net_worker or NULL. */
void chunk_run(struct job *job, void *worker);

/* segment_populate() of the destination. */
void chunk_populate(const struct chunk_job *c);
/* Lays the chunk out at dst from its files' bytes, and hashes it in passing: chunk_hasher_end(), once it is full. */
void chunk_fill_begin(const struct chunk_job *c, struct layout_fill *f, uint8_t *dst, uint8_t *gaps,
	struct chunk_hasher *hasher);
/* Compares the chunk's hash, and says what is wrong.  Sets result. */
void chunk_check(struct chunk_job *c, struct hash128 hash);

#endif
