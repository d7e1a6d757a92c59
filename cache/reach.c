/* reach.c - how much of a copy is on its device: what plans make of it.
 * A plan leaves part of an image on the host, and may name a beginning that is worth keeping when the rest makes room. */
#include "cache/brain.h"

struct cache_device_size device_size(const struct cache *c, const struct model *m, uint64_t plan)
{
	struct cache_device_size s = {.plan_bytes = m->info.gpu_bytes, .all_bytes = m->info.gpu_bytes};
	if (plan && c->config.device_size)
		c->config.device_size(c->config.ctx, &m->info, plan, &s);
	s.plan_bytes = MIN(s.plan_bytes, BYTES_LIMIT);
	s.all_bytes = MIN(MAX(s.all_bytes, s.plan_bytes), BYTES_LIMIT);
	if (s.head_bytes >= s.plan_bytes)
		s.head_bytes = 0;
	return s;
}
