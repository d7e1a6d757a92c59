/* store.h - the disk store's insides, shared by its files; private to mrm/disk.
 *
 * Locks: disk->lock guards the list of images and the pool of buffers; image->lock guards the chunk records, the
 * pending records and where the next bytes go; image->repair_lock makes manifest rewrites one at a time.  Order:
 * repair_lock, then image->lock; disk->lock is taken last and alone, and so is disk->profiles_lock.  Nothing blocks on the disk under disk->lock. */
#ifndef MRM_DISK_STORE_H
#define MRM_DISK_STORE_H

#include "mrm/disk/disk.h"
#include "mrm/disk/manifest.h"
#include "shared/list.h"

#include <pthread.h>
#include <sys/stat.h>
#include <stdatomic.h>

#define STEM_CHARS 32 /* a fingerprint in hex: the stem of an image's file names */
#define SYNC_BYTES_DEFAULT ((uint64_t)64 << 20)

struct disk_counters {
#define STAT(name, doc) _Atomic uint64_t name;
#include "mrm/disk/stats.def"
#undef STAT
};

struct buffer {
	struct list node;
	uint8_t *bytes; /* page-aligned, BUFFER_BYTES */
};

#define PRINT_BUCKETS 16384 /* short chains for the hundred thousand models a machine may know */

struct disk {
	uint32_t magic;
	char *dir;
	int lock_fd, dir_fd, images_fd;
	struct disk_options options;
	bool direct;
	char why_not_direct[96];
	uint64_t identity_hi, identity_lo;
	pthread_mutex_t lock;
	struct list images, buffers;
	struct list by_print[PRINT_BUCKETS]; /* the images again, by fingerprint */
	pthread_mutex_t profiles_lock; /* a profile gets its name, or a damaged one loses it */
	int adopt_error; /* disk_open() only: why nothing more may be judged */
	struct disk_name *names;
	uint32_t n_names;
	struct disk_counters count;
};

struct pending {
	uint32_t chunk;
	struct chunk_record record;
};

struct disk_image {
	uint32_t magic;
	struct list node; /* in disk->images */
	struct list print_node;
	struct disk *disk;
	char stem[STEM_CHARS + 1];
	char *path;       /* of the data file, for people */
	struct image_desc *desc;
	struct hash128 head_hash; /* of the encoded description: whether another one is the same */

	pthread_mutex_t repair_lock, lock;
	_Atomic bool complete;
	struct hash128 digest;
	int data_fd, journal_fd; /* -1: not open */
	uint32_t n_chunks, n_had;
	struct chunk_record *chunks; /* [n_chunks] */
	uint8_t *had;                /* [n_chunks] */
	uint64_t next_off;           /* where the next chunk goes */
	uint64_t journal_off, seed;
	struct pending *pending;     /* written, not yet in the journal */
	uint32_t n_pending, cap_pending;
	uint64_t pending_bytes;
	/* compress auto: chunks in a row that did not shrink; since the last sample */
	_Atomic uint32_t misses, skipped;
};

#define DISK_MAGIC 0x6469736bu
#define IMAGE_MAGIC 0x696d6167u

/* ---- store.c ---- */

void image_free(struct disk_image **img);
/* A page-aligned buffer that holds any coded chunk; from the pool.  NULL: no memory. */
struct buffer *buffer_take(struct disk *d);
void buffer_give(struct disk *d, struct buffer *b);

/* ---- files.c ---- */

/* The step has been taken, or (CHUNK_WRITE) is about to be.  0, or what a test wants it to have failed with. */
int disk_step(enum disk_point p);
/* "<stem>.<kind>", kind one of these. */
#define FILE_DATA "data"
#define FILE_MANIFEST "manifest"
#define FILE_JOURNAL "journal"
#define FILE_SIDES "sides"
#define FILE_NAME_MAX 64
void image_file_name(char out[FILE_NAME_MAX], const struct disk_image *img, const char *kind);
int image_open(const struct disk_image *img, const char *kind, int flags);
/* -ENOENT is success. */
int image_unlink(const struct disk_image *img, const char *kind);

/* Whole file to the heap, with room for a NUL behind it; -EFBIG when it is larger than max. */
int file_read(int dir_fd, const char *name, uint64_t max, uint8_t **out, size_t *bytes);
/* As file_read(); *st: which file it was, where it could be opened (else st_ino is 0). */
int file_read_which(int dir_fd, const char *name, uint64_t max, uint8_t **out, size_t *bytes, struct stat *st);
/* Unlinks the name if it is still that file's: one that has taken its place stays.  Whoever replaces it must not run meanwhile. */
void file_unlink_same(int dir_fd, const char *name, const struct stat *st);
/* All bytes at off, or -errno; EINTR and short writes are dealt with. */
int file_write_at(int fd, const uint8_t *bytes, size_t n, uint64_t off);
/* All bytes at off; -ENODATA: the file ends before. */
int file_read_at(int fd, uint8_t *bytes, size_t n, uint64_t off);

/* Three steps after which a test may want the program dead. */
struct replace_points {
	enum disk_point written, synced, renamed;
};
/* Writes a temporary file, syncs it, gives it its name; syncing the directory is the caller's.  The old file stays on
 * failure. */
int file_replace(int dir_fd, const char *name, const uint8_t *bytes, size_t n, struct replace_points points);

/* ---- image.c ---- */

/* Opens the data file when it is not open; under image->lock. */
int image_open_data(struct disk_image *img);
/* Makes the new image's record of an adopted or begun description: takes *desc over. */
struct disk_image *image_new(struct disk *d, struct image_desc **desc);
struct list *store_bucket(struct disk *d, uint64_t fingerprint_lo);
void image_link(struct disk_image *img);
/* Codes a chunk as the options say.  *out is `bytes` itself or lies in `b`; *room is out's length padded with zeros. */
void image_code(struct disk_image *img, const uint8_t *bytes, size_t n, struct buffer *b, const uint8_t **out,
	struct chunk_record *record);
/* Writes a coded chunk at record->off, through the buffer when O_DIRECT wants that. */
int image_write(struct disk_image *img, const uint8_t *out, const struct chunk_record *record, struct buffer *b);
int image_write_manifest(struct disk_image *img, const struct chunk_record *chunks, uint64_t data_bytes,
	struct hash128 digest, struct fault *why);
/* Removes every file of it.  The first errno, negated. */
int image_remove_files(struct disk_image *img);
/* fault_errno with the path, counted. */
int image_fault(struct disk_image *img, int err, const char *doing, struct fault *why);

#endif
