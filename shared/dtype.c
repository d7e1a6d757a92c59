/* dtype.c - the element types of dtypes.def, by number.  Keeps: no row means no type, never a guess at a size. */
#include "shared/image.h"

#include <string.h>

static const struct dtype_row rows[] = {
#define DTYPE(number, NAME, st, ggml, elems, bytes) [number] = {#NAME, st, ggml, elems, bytes},
#include "shared/dtypes.def"
#undef DTYPE
};

const struct dtype_row *dtype_row(uint32_t dtype)
{
	return dtype < ARRAY_LEN(rows) && rows[dtype].name ? &rows[dtype] : NULL;
}

const char *dtype_name(uint32_t dtype)
{
	const struct dtype_row *row = dtype_row(dtype);
	return row ? row->name : "?";
}

uint32_t dtype_by_st(const char *st)
{
	for (uint32_t d = 0; d < ARRAY_LEN(rows); d++)
		if (rows[d].st && !strcmp(rows[d].st, st))
			return d;
	return DTYPE_NONE;
}

uint32_t dtype_by_ggml(uint32_t ggml)
{
	for (uint32_t d = 0; d < ARRAY_LEN(rows); d++)
		if (rows[d].name && rows[d].ggml >= 0 && (uint32_t)rows[d].ggml == ggml)
			return d;
	return DTYPE_NONE;
}
