/* copy.h - a copy of a model, complete, among kept descriptors: its memory, and a record that says what they are.
 *
 * The record is put last and dropped first: where there is one, the copy is whole.  It carries everything that serving the
 * copy takes (description, layout, chunk hashes, digest), so neither source nor disk tier is needed for it; side files'
 * contents are not in it.  Nothing a record says is believed before its checksum matched and the layout was built anew, and
 * nothing of the bytes before they were compared with its hashes, which is the taker's business.
 *
 * Thread: kept_copy_put() and kept_copy_drop() on workers; the rest on the main thread at start. */
#ifndef MRM_KEEP_COPY_H
#define MRM_KEEP_COPY_H

#include "cache/cache.h"
#include "mrm/disk/desc.h"
#include "mrm/keep/keep.h"

struct kept_copy {
	enum tier_kind tier;     /* HOST or GPU */
	char device[65];         /* GPU: its UUID */
	uint64_t generation;     /* the brain's number of the copy, as clients know it */
	struct hash128 digest;
	struct image_desc *desc; /* a reference */
	struct hash128 *hashes;  /* [layout->n_chunks]; {0, 0}: not known, of chunks that a part does not have */
	uint32_t n_fds;
	int *fds;                /* [n_fds] of extents; on a device, of pieces (shared/pieces.h) */
	void *plan;              /* what a device's copy was made by (shared/plan_wire.h), owned; NULL: no plan */
	uint64_t plan_bytes;
	bool whole;              /* and there is more of it than the plan wants: all */
};

/* Frees what it points to and closes the descriptors that are left in fds. */
void kept_copy_fini(struct kept_copy *c);
/* Copies the plan. */
void kept_copy_set_plan(struct kept_copy *c, const void *plan, uint64_t bytes, bool whole);
/* Gives all of it to the place that keeps; descriptors stay the caller's.  On failure nothing of it is kept. */
int kept_copy_put(struct keep *k, const struct kept_copy *c, struct fault *why);
void kept_copy_drop(struct keep *k, uint64_t generation, uint32_t n_fds);
/* Takes the next whole copy out of what was found; -ENOENT: there is none left, and whatever else was found has been
 * dropped.  *cursor starts at 0. */
int kept_copy_next(struct keep *k, size_t *cursor, struct kept_copy *out);

/* The record itself, for tests and fuzzing. */
int kept_record_encode(const struct kept_copy *c, uint8_t **out, size_t *bytes, struct fault *why);
/* fds are all -1 then. */
int kept_record_decode(const uint8_t *in, size_t n, struct kept_copy *out, struct fault *why);

#endif
