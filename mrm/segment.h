/* segment.h - one copy of a model in memory as clients see it: pieces and a progress page; of a copy on disk: the page alone.
 *
 * Pieces are extents on the host.  On a device they are what shared/pieces.h made of them, and a copy may have a prefix of
 * them: what its plan wants there, less when its tail was given back, or all.  What is there under one number (edition) never
 * changes; a copy that grows gets the next page and records beside those it has until all of it has arrived.
 *
 * Thread: loop, except that workers write into memory they were given a chunk of, that making and freeing (which
 * take long) are done by workers on copies nobody else can see, and that segment_populate() is for any thread.
 * Keeps: a watermark only ever grows, and covers verified bytes only. */
#ifndef MRM_SEGMENT_H
#define MRM_SEGMENT_H

#include "mrm/disk/hash.h"
#include "mrm/shm.h"
#include "shared/pieces.h"
#include "shared/progress.h"

#include <pthread.h>

/* Which chunks' pages exist. */
struct segment_pages {
	pthread_mutex_t lock;
	pthread_cond_t made;
	uint8_t *state;              /* [n_chunks] enum in segment.c; NULL: adopted */
};

enum segment_kind {
	SEGMENT_PAGE,                /* on disk: the progress page alone */
	SEGMENT_HOST,
	SEGMENT_DEVICE,              /* pieces are in `device`; whoever made the segment frees that first */
};

struct gpu_memory;
struct gpu_pins;
struct job;
struct plan;

/* What a copy has under one number. */
struct segment_edition {
	uint64_t number;
	uint32_t n_pieces;           /* 0: none */
	struct shm_region page;      /* struct progress_page */
	struct shm_region records;   /* on a device: struct gpu_handle[n_pieces], for clients */
};

struct segment {
	uint64_t generation;
	uint64_t edition;            /* at first the generation */
	struct shm_region page;      /* struct progress_page */
	struct pieces *pieces;       /* NULL: on disk */
	uint32_t n_pieces;           /* of them, what this edition has; 0: on disk */
	bool cut;                    /* it had more, and waits for the next edition: its page says nothing */
	bool regrowing;              /* what was left of it is in an edition that is being filled */
	struct segment_edition next; /* to which it is growing while this one serves */
	struct shm_region *extents;  /* NULL unless on host */
	struct gpu_memory *device;   /* at least n_pieces */
	struct shm_region records;   /* of `device`: struct gpu_handle[n_pieces], for clients */
	struct plan *plan;           /* a reference; NULL: made without one */
	struct gpu_pins *pins;       /* of a host copy that devices read; taken off before it is freed */
	struct segment_pages pages;
	uint32_t n_chunks;
	bool *landed;                /* [n_chunks] bytes are there and matched what was known of them */
	bool *readable;              /* [n_chunks] landed, and nothing further has to be checked */
	bool *helped;                /* [n_chunks] landed, over another device's link */
	uint32_t n_landed, n_readable;
	uint64_t landed_bytes;       /* of readable chunks */
	uint64_t helper_bytes;       /* of helped ones */
	uint32_t *edge;              /* [pieces->n] first chunk of the piece that is not readable */
	uint32_t users;              /* jobs that read it without a lease or a haul; see copies_hold() */
	struct job *when_unused;     /* frees it */
	uint8_t *gaps;               /* file bytes in no tensor that came with landed chunks; NULL: nobody asked for them */
};

/* generation is shown to clients; label names the memory.  pieces: of a device's copy, moved in, also on failure. */
int segment_new(struct segment **out, const struct layout *l, uint64_t generation, enum segment_kind kind,
	struct pieces *pieces, const char *label, const struct shm_options *options, struct fault *why);
/* A complete copy that outlived another daemon, by its extents' descriptors: host memory that was sealed then and can only be
 * read now.  Takes them over (fds become -1), also on failure.  Every chunk has landed, none is readable. */
int segment_adopt(struct segment **out, const struct layout *l, uint64_t generation, int *fds, const char *label,
	const struct shm_options *options, struct fault *why);
/* Likewise of a segment made for device memory that is there already. */
void segment_set_landed(struct segment *c);
void segment_free(struct segment **c);
/* Nothing of a copy that nobody holds counts as landed any more, and who gets it next gets another page.  On failure it is as it
 * was. */
int segment_begin_anew(struct segment *c, const struct layout *l, const char *label, const struct shm_options *options,
	struct fault *why);

/* ---- editions: of copies on devices ---- */

/* A page that says what has arrived of the first n pieces; records are the caller's to add.  Any thread while nothing arrives. */
int segment_edition_new(struct segment_edition *out, const struct segment *c, const struct layout *l, uint64_t number,
	uint32_t n, const char *label, const struct shm_options *options, struct fault *why);
void segment_edition_fini(struct segment_edition *e);
/* Takes it over: at once, when nobody has the one there is, */
void segment_replace(struct segment *c, struct segment_edition *e);
/* or when it is complete; the copy is ready and serves until then. */
void segment_grow(struct segment *c, struct segment_edition *e);
/* What lies behind the first n pieces is no part of it any more, nor is an edition it was growing to; nor does count what of an
 * earlier daemon's copy was not checked yet. */
void segment_cut(struct segment *c, const struct layout *l, uint32_t n);
/* Pieces that it has, or will have when it has grown. */
static inline uint32_t segment_wanted_pieces(const struct segment *c)
{
	return c->next.n_pieces ? c->next.n_pieces : c->n_pieces;
}
static inline bool segment_wants(const struct segment *c, uint32_t chunk)
{
	return c->pieces->of_chunk[chunk] < segment_wanted_pieces(c);
}
static inline bool segment_has(const struct segment *c, uint32_t chunk)
{
	return c->pieces->of_chunk[chunk] < c->n_pieces;
}
/* Bytes of the image that it has when it is complete. */
uint64_t segment_bytes(const struct segment *c);

/* All of it can be read. */
bool segment_is_ready(const struct segment *c);

/* Where the bytes of a chunk that it has, or will have, are on the device. */
uint64_t segment_device_chunk(const struct segment *c, struct layout_chunk k, uint32_t chunk);
/* Where the chunk's bytes belong; NULL when not on host. */
uint8_t *segment_chunk(const struct segment *c, const struct layout *l, uint32_t chunk);
/* Makes sure that the chunk's pages exist before it is filled: faulting them one by one costs several times as much.  The
 * first caller makes them, one who comes meanwhile waits.  False when huge pages were wanted, not to be had, and this is
 * the first time that this chunk is asked for. */
bool segment_populate(struct segment *c, const struct layout *l, uint32_t chunk, bool huge);
/* The chunk may be read by clients from now on: moves the watermark and wakes whoever waits. */
void segment_set_readable(struct segment *c, const struct layout *l, uint32_t chunk);
/* The chunk came over another device's link; before it can be read. */
void segment_set_helped(struct segment *c, const struct layout *l, uint32_t chunk);
/* What clients and their streams wait for, of the edition that is being filled: readable bytes from each piece's start. */
const _Atomic uint64_t *segment_watermarks(const struct segment *c);
/* A complete copy: all watermarks at their ends.  One that was growing has the next edition from now on. */
void segment_set_ready(struct segment *c, const struct layout *l, struct hash128 digest);
/* A failed one. */
void segment_poison(struct segment *c, const struct fault *why);

#endif
