/* npy.h - arrays in NumPy's .npy format, version 1 to 3 (NEP 1), little-endian and in C order; and .bin, nothing but the
 * elements.  Thread: any.  Owns its bytes; npy_fini(). */
#ifndef TOOLS_RUN_NPY_H
#define TOOLS_RUN_NPY_H

#include "shared/base.h"
#include "shared/error.h"

#define NPY_MAX_RANK 4

enum npy_kind { NPY_F32, NPY_I32, NPY_I64 };

struct npy {
	enum npy_kind kind;
	uint32_t rank;
	uint64_t shape[NPY_MAX_RANK]; /* none is 0 */
	const void *data;
	void *bytes; /* of the whole file */
};

/* raw: what a .bin file holds; it is one row.  BAD_REQUEST, LIMIT above most_bytes. */
int npy_read(const char *path, enum npy_kind raw, uint64_t most_bytes, struct npy *out, struct fault *why);
void npy_fini(struct npy *a);
/* Of bytes that somebody else has; *out borrows them.  For tests. */
int npy_parse(const void *bytes, size_t n, struct npy *out, struct fault *why);

uint64_t npy_elements(const struct npy *a);
/* Element i of whole numbers. */
int64_t npy_whole(const struct npy *a, size_t i);

#endif
