/* table_find.h - a tensor by its name, from the table's index and nothing else.  Thread: any.  Owns nothing. */
#ifndef TESTS_UNIT_TABLE_FIND_H
#define TESTS_UNIT_TABLE_FIND_H

#include "shared/table.h"

#include <string.h>

/* Its number, -1 if there is none.  The table has passed table_check(). */
static inline int64_t table_find(const struct table_header *t, const char *name, size_t len)
{
	const uint32_t *by_name = (const void *)((const char *)t + t->by_name_off);
	for (uint32_t low = 0, high = t->n_tensors; low < high;) {
		uint32_t mid = low + (high - low) / 2;
		const struct table_tensor *x = &table_tensors(t)[by_name[mid]];
		size_t both = len < x->name_len ? len : x->name_len;
		int order = memcmp(name, table_name(t, x), both);
		if (order == 0 && len == x->name_len)
			return by_name[mid];
		if (order < 0 || (order == 0 && len < x->name_len))
			high = mid;
		else
			low = mid + 1;
	}
	return -1;
}

#endif
