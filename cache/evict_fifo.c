/* evict_fifo.c - first loaded first, however much it is used. */
#include "cache/evict.h"

static int64_t fifo_key(const struct evict_subject *s)
{
	return (int64_t)s->loaded_at;
}

const struct evict_ops evict_fifo = {.name = "fifo", .evicts = true, .key = fifo_key};
