/* manifest.h - the bytes of the store's own files: manifest, journal, catalog.  Pure code, no I/O; private to mrm/disk.
 * README.md has the tables.  Every decoder is bounded and trusts nothing; what it accepts encodes to the same bytes.
 * Thread: any.  Ownership: outputs are heap blocks of the caller. */
#ifndef MRM_DISK_MANIFEST_H
#define MRM_DISK_MANIFEST_H

#include "mrm/disk/desc.h"

#define DISK_ALIGN 4096 /* chunks in a data file, for O_DIRECT */
#define JOURNAL_RECORD_BYTES 64
#define CHECK_BYTES 16 /* the hash at the end of each */

/* Where a chunk is and what it holds. */
struct chunk_record {
	struct hash128 hash;
	uint64_t off;
	uint32_t stored_bytes;
	uint32_t codec;
};

static inline uint64_t chunk_room(const struct chunk_record *c)
{
	return align_up(c->stored_bytes, DISK_ALIGN);
}

/* Whether a record can be true of this chunk of the layout. */
bool chunk_record_fits(const struct chunk_record *c, const struct layout *l, uint32_t chunk);

/* ---- manifest: a complete image ---- */

struct manifest {
	struct image_desc *desc;
	struct chunk_record *chunks; /* [desc->layout->n_chunks] */
	uint64_t data_bytes;         /* exact size of the data file */
	struct hash128 digest;
};

void manifest_fini(struct manifest *m);
int manifest_encode(const struct manifest *m, uint8_t **out, size_t *bytes, struct fault *why);
int manifest_decode(const uint8_t *in, size_t n, struct manifest *out, struct fault *why);
/* Without the checksum and without comparing the digest with the contents: what is left is the structure (fuzzing). */
int manifest_decode_unchecked(const uint8_t *in, size_t n, struct manifest *out, struct fault *why);
/* More bytes than any manifest or journal head has. */
#define MANIFEST_MAX_BYTES (DESC_MAX_BYTES + 64 * (uint64_t)IMAGE_MAX_CHUNKS)

/* ---- journal: a partial image ---- */

/* The head is written once; records follow it without gaps. */
int journal_head_encode(const struct image_desc *d, uint8_t **out, size_t *bytes, struct fault *why);
/* *head_bytes: where the records begin; *seed: for them. */
int journal_head_decode(const uint8_t *in, size_t n, struct image_desc **desc, size_t *head_bytes, uint64_t *seed,
	struct fault *why);
uint64_t journal_seed(const uint8_t *head, size_t bytes);
void journal_record_encode(uint32_t chunk, const struct chunk_record *c, uint64_t seed,
	uint8_t out[JOURNAL_RECORD_BYTES]);
/* False: torn, damaged, or of another journal. */
bool journal_record_decode(const uint8_t in[JOURNAL_RECORD_BYTES], uint64_t seed, uint32_t *chunk,
	struct chunk_record *out);

/* ---- catalog: names ---- */

struct disk_name;
#define CATALOG_MAX_BYTES ((uint64_t)1 << 30)

void disk_names_free(struct disk_name *names, uint32_t n);
int catalog_encode(const struct disk_name *names, uint32_t n, uint8_t **out, size_t *bytes, struct fault *why);
int catalog_decode(const uint8_t *in, size_t n, struct disk_name **out, uint32_t *count, struct fault *why);

#endif
