/* dtype.c - element types for people, from dtypes.def. */
#include "client/fail.h"
#include "client/trims.h"
#include "shared/base.h"

static const struct {
	const char *name;
	uint32_t elements, bytes;
} rows[] = {
#define DTYPE(number, NAME, st, ggml, elems, bytes_) [number] = {#NAME, elems, bytes_},
#include "shared/dtypes.def"
#undef DTYPE
};

const char *trims_dtype_name(uint32_t dtype)
{
	return dtype < ARRAY_LEN(rows) && rows[dtype].name ? rows[dtype].name : "?";
}

int trims_dtype_block(uint32_t dtype, uint32_t *elements, uint32_t *bytes)
{
	if (dtype >= ARRAY_LEN(rows) || !rows[dtype].name)
		return fail(TRIMS_E_UNSUPPORTED, "this library does not know dtype %u", dtype);
	*elements = rows[dtype].elements;
	*bytes = rows[dtype].bytes;
	return 0;
}
