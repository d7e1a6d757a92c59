/* haul.h - carries out one transfer of the brain: a model's bytes from one tier to the next, chunk by chunk.
 *
 * Stages: PREPARE (a worker finds the source again, opens files, begins the disk image), CHUNKS (a window of chunk jobs on
 * the pools), FINISH (a worker computes the digest, commits), then cache_transfer_done().  A chunk becomes readable when
 * its hash matched what is on record and, for files whose source states a SHA-256, when the whole file matched.
 * A cancel or a failure lets the jobs under way come home and skips the rest; what has landed stays.
 *
 * Thread: loop; workers see a transfer only through the jobs they were given. */
#ifndef MRM_HAUL_H
#define MRM_HAUL_H

#include "mrm/holding.h"
#include "mrm/io/reader.h"

struct sha_check;
struct upload;

enum haul_way { WAY_FILES_HOST, WAY_REMOTE_HOST, WAY_DISK_HOST, WAY_HOST_DISK, WAY_REMOTE_DISK, WAY_HOST_GPU };
enum haul_stage { STAGE_PREPARE, STAGE_CHUNKS, STAGE_FINISH };

#define HAUL_MAGIC 0x4841554cu

struct haul {
	uint32_t magic;
	struct daemon *daemon;
	struct holding *image;       /* referenced */
	uint64_t id, copy;
	uint64_t follows;          /* the haul that fills the copy this one reads; 0: none did when it began */
	uint8_t from, to;
	enum haul_way way;
	enum haul_stage stage;
	enum load_class class;
	uint64_t deadline;
	uint32_t user;             /* who is charged with its bytes on a device's link; CACHE_NOBODY */
	uint32_t *order;           /* [n_chunks] by a plan; NULL: in image order */
	uint32_t next;             /* in that order, the first chunk not yet given to a job; not of WAY_HOST_GPU */
	uint32_t outstanding;      /* jobs */
	uint32_t done;             /* chunks finished */
	uint64_t done_bytes;
	uint32_t resumed;          /* chunks taken from an earlier, interrupted download */
	bool cancelled, failed;
	struct fault error;
	struct source_cancel *cancel;
	struct reader_span *files; /* [n_weights] fd and direct of WAY_FILES_HOST; fd -1 otherwise */
	uint32_t n_files;
	uint8_t *gaps;             /* layout->gap_bytes of file bytes in no tensor; NULL when nobody checks whole files; the host
	                            * copy's where there is one, since they have to outlive a load that is broken off */
	struct hash128 *stream_hash; /* [n_chunks], filled by a CHUNK_STREAM job */
	struct source_bytes *heads; /* [n_weights], kept for the check of files that went straight to disk */
	struct upload *upload;     /* of WAY_HOST_GPU */
	struct sha_check *sha;     /* NULL: no file of it has a SHA-256 to be checked */
	bool in_chunks;            /* guards against re-entry */
};

/* Starts; failures are reported to the brain like any other end. */
void haul_start(struct daemon *d, const struct cache_effect *fx);
void haul_cancel(struct daemon *d, uint64_t id);
/* A load of the host copy that follows no plan does so from here on, with what has not been begun.  device: one is filled from it. */
void haul_arrange(struct holding *img, uint64_t plan, bool device);
void haul_reclass(struct daemon *d, const struct cache_effect *fx);
struct haul *haul_find(struct daemon *d, uint64_t id);
/* More of what it brings can be read (or all): hauls that follow it go on. */
void haul_kick_followers(const struct haul *t);
/* Likewise those that read a copy which is being checked anew. */
void haul_kick_readers(const struct holding *img, uint8_t tier);
/* First failure wins; later ones are consequences. */
void haul_fail(struct haul *t, const struct fault *why);
bool haul_is_over(const struct haul *t); /* cancelled or failed */
/* The chunk that is the i-th to be moved. */
static inline uint32_t haul_chunk_at(const struct haul *t, uint32_t i)
{
	return t->order ? t->order[i] : i;
}
/* Whether the host copy has the chunk, for one that goes from there. */
bool haul_finds_on_host(const struct haul *t, uint32_t chunk);
/* The chunk need not be moved: it landed in an earlier haul that was broken off. */
void haul_chunk_was_there(struct haul *t, uint32_t chunk);
/* Submits what the window allows, or moves to the next stage. */
void haul_advance(struct haul *t);
/* A landed chunk that nothing else has to check. */
void haul_chunk_readable(struct haul *t, uint32_t chunk);
/* A chunk of WAY_HOST_GPU has come home: on the device, or failed; */
void haul_chunk_up(struct haul *t, uint32_t chunk, const struct fault *failure);
/* or neither: it was called back, or goes another way. */
void haul_chunk_back(struct haul *t);
/* All are cancelled; returns how many there are. */
size_t haul_cancel_all(struct daemon *d);

#endif
