/* holding.h - what the daemon keeps of a model beside the brain's record: its description, where it comes from, what is
 * known of its bytes, and its copies.
 *
 * Thread: loop.  Workers read `desc`, `listing`, `stored` and write into copies through jobs; each such job (or the haul or
 * verification behind it) holds a reference (holding_get).  The brain frees no copy that a transfer reads or fills; an image
 * on disk is read by others, too (files, resumed downloads), and is dropped when only the dropper's reference is left.
 * Ownership: the daemon's maps point to images without owning a reference; an image lives while it has a model record, an
 * image on disk, or references. */
#ifndef MRM_HOLDING_H
#define MRM_HOLDING_H

#include "mrm/segment.h"
#include "mrm/daemon.h"
#include "mrm/disk/disk.h"
#include "mrm/source/source.h"
#include "mrm/trace.h"

struct holding {
	uint32_t magic;
	uint32_t refs;
	struct daemon *daemon;
	uint64_t model;               /* the brain's id; 0: the brain does not know it now */
	uint64_t fingerprint_hi, fingerprint_lo;
	struct image_desc *desc;      /* a reference of its own; the stored image's when that is complete and at rest */
	uint8_t **side_data;          /* [n_sides] rescued from a stored image that was dropped; NULL: none were */
	struct source *source;        /* NULL: its source is not configured any more */
	struct source_listing *listing; /* NULL: not looked at in this run */
	struct source_left_out left_out; /* by the last look at the source; none when there was no look in this run */
	bool referencing;             /* its checksums are on their way to disk */
	struct disk_image *stored;    /* complete, partial, or in place (hashes only) */
	struct disk_image *leaving;   /* to be dropped; only it has the side files until side_data has taken over */
	struct job *when_alone;       /* see holding_when_alone() */
	struct hash128 *hashes;       /* [n_chunks], those that are known; NULL before the first */
	bool *has_hash;
	uint64_t *hash_by;            /* [n_chunks] the only haul that brought these bytes; 0: several did, or the disk tier has them */
	bool suspect;                 /* `stored` is partial, and of a haul that brought wrong bytes: on its way out, not believed */
	bool doubtful;                /* a load has failed since all hashes were last vouched for */
	uint32_t n_hauls;
	struct hash128 digest;        /* {0, 0}: not known */
	struct shm_region table;
	struct segment *copies[CACHE_MAX_TIERS]; /* by tier; of the disk tier only while it arrives, as a page */
	struct trace trace;
};

/* The maps learn of it. */
int holding_new(struct holding **out, struct daemon *d, uint64_t fingerprint_hi, uint64_t fingerprint_lo);
/* The one that the description describes, made if there is none. */
struct holding *holding_for_desc(struct daemon *d, const struct image_desc *desc);
struct holding *holding_get(struct holding *img);
void holding_put(struct holding **img);
/* Submits the job (to the misc workers) as soon as its own reference is the only one; one at a time. */
void holding_when_alone(struct holding *img, struct job *job);
struct holding *holding_by_model(struct daemon *d, uint64_t model);
struct holding *holding_by_fingerprint(struct daemon *d, uint64_t hi, uint64_t lo);

/* Whether there is a copy on host or on a device. */
bool holding_in_memory(const struct holding *img);
static inline struct segment *holding_host(const struct holding *img)
{
	return img->copies[BRAIN_HOST];
}

/* What it is made of. */
const struct image_desc *holding_desc(const struct holding *img);
const struct layout *holding_layout(const struct holding *img);
/* True when the chunk's hash is on record (from this run or from disk). */
bool holding_chunk_hash(const struct holding *img, uint32_t chunk, struct hash128 *out);
/* The same where there is nothing to be done without it: 0, or -ENODATA and a sentence. */
int holding_want_hash(const struct holding *img, uint32_t chunk, struct hash128 *out, struct fault *why);
/* As a haul found it, which has compared it with what is on record.  stored: it has put the chunk into the disk image, too, so
 * that being there is no other haul's word. */
void holding_set_chunk_hash(struct holding *img, uint32_t chunk, struct hash128 hash, uint64_t haul, bool stored);
/* The haul has brought wrong bytes: what it alone has put on record is forgotten, so that it fails no other haul. */
void holding_disown(struct holding *img, uint64_t haul);
/* Takes over those that only the stored image has: before it goes, while a host copy still wants to be verified. */
void holding_keep_hashes(struct holding *img);
/* Forgets doubtful hashes once no haul and no host copy refers to them. */
void holding_settle_hashes(struct holding *img);
/* Makes a tensor table's memory.  Any thread. */
int holding_build_table(const struct layout *l, const struct shm_options *options, struct shm_region *out,
	struct fault *why);
/* A deep copy of a description, by way of its encoding.  Side files' contents come along, from side_data where the
 * description has none. */
int holding_clone_desc(const struct image_desc *from, uint8_t *const *side_data, struct image_desc **out,
	struct fault *why);
/* One descriptor per known model would be too many: the table goes with the last copy; clients have their own mappings. */
void holding_drop_table(struct holding *img);
/* First name, for labels and logs; borrowed. */
const char *holding_label(const struct holding *img);
/* Keeps side files' contents that only the dropped stored image had; takes the array over. */
void holding_take_sides(struct holding *img, uint8_t **side_data);
/* What the brain wants to know of it. */
void holding_info(const struct holding *img, struct cache_model_info *out);
/* The brain has dropped its record, or the disk image has gone: forget it when nothing holds it. */
void holding_settle(struct holding *img);

#endif
