/* desc.h - what the disk tier knows of a model besides its bytes, and how that is written down.
 * Thread: a struct image_desc is plain memory of its owner; immutable once an image has taken it over.
 * Ownership: every pointer in it is on the heap and belongs to it. */
#ifndef MRM_DISK_DESC_H
#define MRM_DISK_DESC_H

#include "mrm/disk/hash.h"
#include "shared/error.h"
#include "shared/image.h"

#define DESC_MAX_TEXT 4096                      /* bytes of a name, address, path, revision or version */
#define DESC_MAX_SIDES 256                      /* side files of a model */
#define DESC_MAX_SIDE_BYTES ((uint64_t)64 << 20) /* of all side files of a model together */
#define DESC_MAX_BYTES ((uint64_t)256 << 20)     /* of an encoded description */

/* A weight file as it was found at the source; its size and where its data starts are in the layout. */
struct image_file {
	char *path;       /* relative to the model at its source */
	char *version;    /* whatever tells two versions apart there: an ETag, or mtime and inode */
	bool has_sha256;  /* the source stated one */
	uint8_t sha256[32];
};

/* A small file that travels with the model.  `data` holds the content until an image has stored it, then it is
 * NULL. */
struct image_side {
	char *name;
	uint8_t *data;
	uint64_t bytes;
	struct hash128 hash; /* chunk_hash(data, bytes) */
};

struct image_desc {
	_Atomic uint32_t refs; /* image_desc_ref() */
	uint64_t fingerprint_hi, fingerprint_lo; /* of the source's files and versions: the image's key on disk */
	bool in_place;     /* the bytes stay at the source (dir:); only hashes and side files are kept */
	char *source;      /* the address it came from */
	char *name;        /* the name it was first asked for by */
	char *revision;    /* "" when the source has none */
	struct image_file *files;
	uint32_t n_files;  /* == layout->n_files */
	struct image_side *sides;
	uint32_t n_sides;
	struct layout *layout;
};

/* Zeroed; the caller fills it with heap memory. */
void image_desc_new(struct image_desc **out);
/* One more owner of a description that nobody changes any more; each ends with image_desc_free().  Any thread. */
struct image_desc *image_desc_ref(const struct image_desc *d);
/* NULL and half-filled ones are fine. */
void image_desc_free(struct image_desc **d);
/* -EPROTO: a part is missing, too long or repeated (*why says which).  Encoding wants a description that passes. */
int image_desc_check(const struct image_desc *d, struct fault *why);

/* Writes the description (side files: names, sizes and hashes only) to a fresh heap block. */
int image_desc_encode(const struct image_desc *d, uint8_t **out, size_t *bytes, struct fault *why);
/* The inverse.  There is one encoding per description: what decodes encodes to the same bytes.  Nothing in `in` is
 * trusted, no allocation exceeds a small multiple of n, and the layout is built anew from the tensors. */
int image_desc_decode(const uint8_t *in, size_t n, struct image_desc **out, struct fault *why);

/* At most this many bytes does the image take on disk, however its chunks are coded.  A chunk that is put twice or
 * repaired at a new place comes on top. */
uint64_t image_desc_disk_bytes(const struct image_desc *d);

#endif
