/* disk.h - the disk tier: a directory of model images that survives any crash.
 *
 * An image is absent, partial (some chunks; resumable) or complete.  See README.md for the files and for why no
 * crash can leave anything else.  Bytes are checked when they are read, not when the store is opened: whoever
 * decodes a chunk calls disk_image_check() before anybody else may see it.
 *
 * Thread: everything here is synchronous and may block on the disk; call it from workers, except where marked
 * (mem): those only look at memory.  disk_open, disk_close and disk_next: one thread at a time.  Different images:
 * any threads, in parallel.  One image: put, rewrite, chunk, check, has, side and the inspections may run in
 * parallel from any number of threads; commit, flush and drop of it must be alone.
 * Ownership: the disk owns its images; a pointer stays good until disk_image_drop() or disk_close().  Returned
 * descriptors and descriptions are borrowed for as long.
 * Errors: 0 or -errno, with the sentence in *why (NULL: not wanted).  After -ENOSPC, -EDQUOT or -EIO the store is
 * consistent and the image is what it was before the call. */
#ifndef MRM_DISK_DISK_H
#define MRM_DISK_DISK_H

#include "mrm/disk/codec.h"
#include "mrm/disk/desc.h"

struct disk;
struct disk_image;

enum disk_compress { DISK_COMPRESS_AUTO, DISK_COMPRESS_ALWAYS, DISK_COMPRESS_NEVER };

struct disk_options {
	enum disk_compress compress;
	uint64_t sync_bytes; /* of data between two syncs: what a crash may cost; 0: 64 MiB */
	bool no_direct;      /* do not try O_DIRECT */
};

/* "auto", "always", "never"; -EINVAL for others. */
int disk_compress_parse(const char *text, enum disk_compress *out);

/* Creates dir (its parent must exist) and the layout in it, locks it (-EBUSY: another daemon has it, *why names
 * the pid), removes leftovers, adopts every image whose manifest is whole and whose files have the size it says.
 * Damaged images are removed, counted and logged. */
int disk_open(struct disk **out, const char *dir, const struct disk_options *options, struct fault *why);
/* Writes down what partial images have (best effort, logged), frees everything, unlocks. */
void disk_close(struct disk **d);

/* (mem) Walks the images: NULL gives the first; NULL at the end.  Take the next before dropping one. */
struct disk_image *disk_next(struct disk *d, struct disk_image *prev);
/* (mem) NULL: none of that fingerprint. */
struct disk_image *disk_find(struct disk *d, uint64_t fingerprint_hi, uint64_t fingerprint_lo);
/* (mem) True when data is read and written with O_DIRECT; false is the named state "buffered", *why_not says why. */
bool disk_is_direct(const struct disk *d, const char **why_not);

/* (mem) What tells this directory from any other, made with it and the same for as long as it exists: clients know by it
 * that the daemon they talk to is the one that they knew, started again. */
void disk_identity(const struct disk *d, uint64_t *hi, uint64_t *lo);

/* ---- names ---- */

struct disk_name {
	char *name, *source, *revision;
	uint64_t fingerprint_hi, fingerprint_lo;
	uint64_t last_use_s; /* wall clock, seconds since 1970; 0: not known */
};

/* (mem) The catalog as it was at disk_open(), at most DISK_MAX_NAMES; borrowed until disk_close().  Names may
 * point to fingerprints without an image.  A damaged catalog is rebuilt from the manifests' names. */
#define DISK_MAX_NAMES ((uint32_t)1 << 20)
uint32_t disk_names(const struct disk *d, const struct disk_name **out);
/* Replaces the catalog, atomically and durably.  One call at a time. */
int disk_names_save(struct disk *d, const struct disk_name *names, uint32_t n, struct fault *why);

/* ---- writing an image ---- */

/* Takes *desc over (emptied in every case).  A partial image with the same description is resumed; one with another
 * description of that fingerprint is dropped first.  -EEXIST: complete already.
 * in_place: nothing is written before commit. */
int disk_image_begin(struct disk *d, struct image_desc **desc, struct disk_image **out, struct fault *why);
/* Stores a chunk: layout_chunk().bytes bytes whose chunk_hash() is hash (not checked again here).  Page-aligned
 * bytes are written without a copy.  in_place: only the hash is kept, bytes may be NULL.  A chunk that is there
 * already is replaced. The chunk counts as had at once, and after a crash if a later sync covered it. */
int disk_image_put(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct hash128 hash,
	struct fault *why);
/* Makes every chunk put so far survive a crash: for an ingest that stops half way. */
int disk_image_flush(struct disk_image *img, struct fault *why);
/* Makes the image complete and durable: every chunk must be there (-ENODATA).  *digest is the model's identity. */
int disk_image_commit(struct disk_image *img, struct hash128 *digest, struct fault *why);
/* Removes the image and frees it; descriptors handed out by disk_image_chunk() must not be in use any more.  When
 * a file cannot be removed the fault says so, the image is gone from the store all the same and disk_open() will
 * try again. */
int disk_image_drop(struct disk_image **img, struct fault *why);

/* ---- reading ---- */

struct disk_extent {
	int fd;                /* O_DIRECT when disk_is_direct(); -1 for in_place images */
	uint64_t off;          /* multiple of 4096; the file reaches to off + align_up(stored_bytes, 4096) */
	uint32_t stored_bytes;
	uint32_t codec;
	struct hash128 hash;
};

/* (mem) Where a chunk is.  -ENOENT: not there (yet); -EINVAL: no such chunk.  In-place images give the hash only. */
int disk_image_chunk(struct disk_image *img, uint32_t chunk, struct disk_extent *out);
/* (mem) Its hash alone, which is known however the data fares.  False: the chunk is not there. */
bool disk_image_hash(struct disk_image *img, uint32_t chunk, struct hash128 *out);
/* Hashes a chunk's decoded bytes and compares.  -EBADMSG: damaged: counted and logged; do not show them to anyone. */
int disk_image_check(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct fault *why);
/* As disk_image_check() when the caller has the hash or knows that the chunk would not decode (hash NULL). */
int disk_image_check_hash(struct disk_image *img, uint32_t chunk, const struct hash128 *hash, struct fault *why);
/* Reads, decodes and checks one chunk into dst, by plain reads: repair, tests, verification.  Needs no reader. */
int disk_image_read(struct disk_image *img, uint32_t chunk, uint8_t *dst, struct fault *why);
/* Content of side file i on the heap, checked.  -EBADMSG: damaged (counted). */
int disk_image_side(struct disk_image *img, uint32_t i, uint8_t **out, struct fault *why);

/* Replaces a damaged chunk by good bytes: in place when they take the same room and the disk takes them, else at a
 * new place.  On a complete image `hash` must be the one on record (-EINVAL): identity does not change.  Durable
 * when it returns. */
int disk_image_rewrite(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct hash128 hash,
	struct fault *why);
/* Likewise for side file i; bytes must match its hash (-EINVAL). */
int disk_image_rewrite_side(struct disk_image *img, uint32_t i, const uint8_t *bytes, struct fault *why);

/* Closes what it keeps open between reads of a complete image; the next read opens it again.  Must be alone, and no
 * descriptor handed out by disk_image_chunk() may be in use any more. */
void disk_image_rest(struct disk_image *img);

/* ---- inspection (mem) ---- */

bool disk_image_complete(const struct disk_image *img);
bool disk_image_has(const struct disk_image *img, uint32_t chunk);
uint32_t disk_image_chunks(const struct disk_image *img); /* had */
const struct image_desc *disk_image_desc(const struct disk_image *img);
/* Of a complete image; {0, 0} for a partial one. */
struct hash128 disk_image_digest(const struct disk_image *img);
/* Bytes its files take on the disk. */
uint64_t disk_image_bytes(const struct disk_image *img);
/* Where a person finds it. */
const char *disk_image_path(const struct disk_image *img);

struct disk_stats {
#define STAT(name, doc) uint64_t name;
#include "mrm/disk/stats.def"
#undef STAT
};
void disk_stats(const struct disk *d, struct disk_stats *out);

/* ---- for tests ---- */

enum disk_point {
#define POINT(NAME, name, doc) DISK_POINT_##NAME,
#include "mrm/disk/points.def"
#undef POINT
	DISK_POINT_N
};
const char *disk_point_name(enum disk_point p);
/* Called at every step on the thread that takes it; what it returns (0 or -errno) is that step's fate.  Process-
 * wide. */
void disk_set_hook(int (*hook)(void *ctx, enum disk_point point), void *ctx);

#endif
