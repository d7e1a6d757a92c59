/* transfer.h - carries out one transfer of the brain: a model's bytes from one tier to the next, chunk by chunk.
 *
 * Stages: PREPARE (a worker finds the source again, opens files, begins the disk image), CHUNKS (a window of chunk jobs on
 * the pools), FINISH (a worker computes the digest, commits), then cache_transfer_done().  A chunk becomes readable when
 * its hash matched what is on record and, for files whose source states a SHA-256, when the whole file matched.
 * A cancel or a failure lets the jobs under way come home and skips the rest; what has landed stays.
 *
 * Thread: loop; workers see a transfer only through the jobs they were given. */
#ifndef MRM_TRANSFER_H
#define MRM_TRANSFER_H

#include "mrm/image.h"
#include "mrm/io/reader.h"

struct sha_check;

enum transfer_way { WAY_FILES_HOST, WAY_REMOTE_HOST, WAY_DISK_HOST, WAY_HOST_DISK, WAY_REMOTE_DISK };
enum transfer_stage { STAGE_PREPARE, STAGE_CHUNKS, STAGE_FINISH };

#define TRANSFER_MAGIC 0x5452414eu

struct transfer {
	uint32_t magic;
	struct daemon *daemon;
	struct image *image;       /* referenced */
	uint64_t id, copy;
	uint8_t from, to;
	enum transfer_way way;
	enum transfer_stage stage;
	enum load_class class;
	uint64_t deadline;
	uint32_t next;             /* first chunk not yet given to a job */
	uint32_t outstanding;      /* jobs */
	uint32_t done;             /* chunks finished */
	uint64_t done_bytes;
	uint32_t resumed;          /* chunks taken from an earlier, interrupted download */
	bool cancelled, failed;
	struct fault error;
	struct source_cancel *cancel;
	struct reader_span *files; /* [n_weights] fd and direct of WAY_FILES_HOST; fd -1 otherwise */
	uint32_t n_files;
	uint8_t *gaps;             /* layout->gap_bytes of file bytes in no tensor; NULL when nobody checks whole files */
	struct hash128 *stream_hash; /* [n_chunks], filled by a CHUNK_STREAM job */
	struct source_bytes *heads; /* [n_weights], kept for the check of files that went straight to disk */
	struct sha_check *sha;     /* NULL: no file of it has a SHA-256 to be checked */
	bool in_chunks;            /* guards against re-entry */
};

/* Starts; failures are reported to the brain like any other end. */
void transfer_start(struct daemon *d, const struct cache_effect *fx);
void transfer_cancel(struct daemon *d, uint64_t id);
void transfer_reclass(struct daemon *d, uint64_t id, enum load_class class, uint64_t deadline);
struct transfer *transfer_find(struct daemon *d, uint64_t id);
/* The host copy has more readable chunks (or all): the disk image that follows it goes on. */
void transfer_kick(struct transfer *t);
/* First failure wins; later ones are consequences. */
void transfer_fail(struct transfer *t, const struct fault *why);
bool transfer_is_over(const struct transfer *t); /* cancelled or failed */
/* Submits what the window allows, or moves to the next stage. */
void transfer_advance(struct transfer *t);
/* A landed chunk that nothing else has to check. */
void transfer_chunk_readable(struct transfer *t, uint32_t chunk);
/* All are cancelled; returns how many there are. */
size_t transfer_cancel_all(struct daemon *d);

#endif
