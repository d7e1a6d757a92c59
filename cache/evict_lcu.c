/* evict_lcu.c - the least commonly used since it was loaded first. */
#include "cache/evict.h"

static int64_t lcu_key(const struct evict_subject *s)
{
	return (int64_t)s->uses;
}

const struct evict_ops evict_lcu = {.name = "lcu", .evicts = true, .key = lcu_key};
