/* options.h - reads an option struct of a caller that may be older or newer than this library. */
#ifndef CLIENT_OPTIONS_H
#define CLIENT_OPTIONS_H

#include "client/fail.h"

#include <string.h>

/* The struct begins with its size.  Copies what both know to dst and zeroes the rest; what only the caller knows must be
 * zero there, since it asks for something this library cannot do.  NULL is all zero. */
static inline int options_read(void *dst, size_t dst_size, const void *src, const char *what)
{
	size_t size;
	memset(dst, 0, dst_size);
	if (!src)
		return 0;
	memcpy(&size, src, sizeof size);
	if (size < sizeof size || size > 4096)
		return fail(TRIMS_E_BAD_REQUEST, "struct %s: its size is not set", what);
	for (size_t i = dst_size; i < size; i++)
		if (((const char *)src)[i])
			return fail(TRIMS_E_UNSUPPORTED, "struct %s has a field that this library does not know", what);
	memcpy(dst, src, size < dst_size ? size : dst_size);
	return 0;
}

#endif
