/* evict_cost.c - the least (expected uses x reload time) per byte first.
 * Rates are logarithms already (rate.h), so the product and the quotient are a sum and a difference. */
#include "cache/evict.h"

#include "cache/rate.h"

static int64_t cost_key(const struct evict_subject *s)
{
	return s->rate + rate_log2(s->reload_ns + 1) - rate_log2(s->bytes + 1);
}

const struct evict_ops evict_cost = {.name = "cost", .evicts = true, .wants_reload = true, .key = cost_key};
