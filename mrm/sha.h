/* sha.h - SHA-256 of whole weight files whose source states one, computed from what has landed in memory, in file order,
 * while later bytes are still arriving.
 *
 * Until a file has passed, no chunk with bytes of it may be read by clients; a file that fails ends the transfer with
 * MISMATCH.  Thread: loop; hashing is done by jobs, one at a time per file. */
#ifndef MRM_SHA_H
#define MRM_SHA_H

#include "mrm/haul.h"

/* *out NULL: nothing to check (no digests stated, or all chunk hashes are on record from an ingest that checked them).
 * heads: [n_weights] each file's bytes before its data; taken over. */
int sha_check_new(struct sha_check **out, struct haul *t, struct source_bytes *heads, struct fault *why);
/* No job of it may be running. */
void sha_check_free(struct sha_check **s);
/* Weight files of the transfer's image that have to be checked. */
bool sha_check_wanted(const struct holding *img);
/* Hashes go on as far as they can: at the start over what an earlier load has left, and... */
void sha_check_go_on(struct sha_check *s);
/* ...when a chunk has landed. */
void sha_check_landed(struct sha_check *s, uint32_t chunk);
/* True when every file the chunk has bytes of needs no check or has passed. */
bool sha_check_passed(const struct sha_check *s, uint32_t chunk);
/* All files have passed. */
bool sha_check_complete(const struct sha_check *s);

#endif
