/* segment.h - one copy of a model in memory as clients see it: extents and a progress page; of a copy on disk: the page alone.
 *
 * Thread: loop, except that workers write into extents they were given a chunk of, that making and freeing (which
 * take long) are done by workers on copies nobody else can see, and that segment_populate() is for any thread.
 * Keeps: a watermark only ever grows, and covers verified bytes only. */
#ifndef MRM_SEGMENT_H
#define MRM_SEGMENT_H

#include "mrm/disk/hash.h"
#include "mrm/shm.h"
#include "shared/image.h"
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
	SEGMENT_DEVICE,              /* extents are in `device`; whoever made the segment frees that first */
};

struct gpu_memory;
struct gpu_pins;
struct job;

struct segment {
	uint64_t generation;
	struct shm_region page;      /* struct progress_page */
	uint32_t n_extents;          /* 0: on disk */
	struct shm_region *extents;  /* NULL unless on host */
	struct gpu_memory *device;
	struct shm_region records;   /* of `device`: struct gpu_handle[n_extents], for clients */
	struct gpu_pins *pins;       /* of a host copy that devices read; taken off before it is freed */
	struct segment_pages pages;
	uint32_t n_chunks;
	bool *landed;                /* [n_chunks] bytes are there and matched what was known of them */
	bool *readable;              /* [n_chunks] landed, and nothing further has to be checked */
	uint32_t n_landed, n_readable;
	uint64_t landed_bytes;       /* of readable chunks */
	uint32_t *edge;              /* [n_extents] first chunk of the extent that is not readable */
	uint32_t users;              /* jobs that read it without a lease or a haul; see copies_hold() */
	struct job *when_unused;     /* frees it */
	uint8_t *gaps;               /* file bytes in no tensor that came with landed chunks; NULL: nobody asked for them */
};

/* generation is shown to clients; label names the memory. */
int segment_new(struct segment **out, const struct layout *l, uint64_t generation, enum segment_kind kind,
	const char *label, const struct shm_options *options, struct fault *why);
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
/* All of it can be read. */
bool segment_is_ready(const struct segment *c);

/* Where the chunk's bytes belong; NULL when not on host. */
uint8_t *segment_chunk(const struct segment *c, const struct layout *l, uint32_t chunk);
/* Makes sure that the chunk's pages exist before it is filled: faulting them one by one costs several times as much.  The
 * first caller makes them, one who comes meanwhile waits.  False when huge pages were wanted, not to be had, and this is
 * the first time that this chunk is asked for. */
bool segment_populate(struct segment *c, const struct layout *l, uint32_t chunk, bool huge);
/* The chunk may be read by clients from now on: moves the watermark and wakes whoever waits. */
void segment_set_readable(struct segment *c, const struct layout *l, uint32_t chunk);
/* What clients and their streams wait for: [n_extents] readable bytes from each extent's start. */
const _Atomic uint64_t *segment_watermarks(const struct segment *c);
/* A complete copy: all watermarks at their ends. */
void segment_set_ready(struct segment *c, const struct layout *l, struct hash128 digest);
/* A failed one. */
void segment_poison(struct segment *c, const struct fault *why);

#endif
