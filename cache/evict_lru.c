/* evict_lru.c - least recently used first. */
#include "cache/evict.h"

static int64_t lru_key(const struct evict_subject *s)
{
	return s->last_use;
}

const struct evict_ops evict_lru = {.name = "lru", .evicts = true, .key = lru_key};
