/* evict_never.c - complete copies stay until they are closed for good by hand or TTL.  What a cancelled load left behind
 * still makes room: nobody could open it without loading. */
#include "cache/evict.h"

static int64_t never_key(const struct evict_subject *s)
{
	return s->last_use;
}

const struct evict_ops evict_never = {.name = "never", .evicts = false, .key = never_key};
