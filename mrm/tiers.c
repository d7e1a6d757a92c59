/* tiers.c - see tiers.h. */
#include "mrm/tiers.h"

#include "mrm/clock.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/gpu.h"
#include "mrm/plans.h"
#include "shared/log.h"

#include <inttypes.h>

#define DEVICE_LOADS 64

static void on_edge(void *ctx, uint64_t model, uint8_t tier, enum copy_state from, enum copy_state to, const char *why)
{
	log_debug("state", "model %" PRIu64 " tier %u: %s -> %s (%s)", model, tier, copy_state_name(from),
		copy_state_name(to), why);
}

void tiers_config(struct daemon *d, const struct config *c, struct cache_config *out)
{
	static struct cache_tier_config tiers[CACHE_MAX_TIERS];
	static struct cache_link_config links[CACHE_MAX_TIERS + 1];
	uint32_t devices = gpu_count(d->gpu);
	tiers[BRAIN_REMOTE] = (struct cache_tier_config){.kind = TIER_REMOTE};
	tiers[BRAIN_DISK] = (struct cache_tier_config){.kind = TIER_DISK, .capacity_bytes = c->disk_bytes};
	tiers[BRAIN_HOST] = (struct cache_tier_config){.kind = TIER_HOST, .capacity_bytes = c->host_bytes};
	links[0] = (struct cache_link_config){BRAIN_REMOTE, BRAIN_HOST, 4, 500 * MIB};
	links[1] = (struct cache_link_config){BRAIN_REMOTE, BRAIN_DISK, 4, 500 * MIB};
	links[2] = (struct cache_link_config){BRAIN_DISK, BRAIN_HOST, 4, 2 * GIB};
	links[3] = (struct cache_link_config){BRAIN_HOST, BRAIN_DISK, 4, GIB};
	/* Every load of a device may run at once: the link scheduler shares the link out by the piece. */
	for (uint32_t i = 0; i < devices; i++) {
		tiers[BRAIN_GPU + i] = (struct cache_tier_config){.kind = TIER_GPU, .device = i,
			.capacity_bytes = devices_capacity(d, c, i)};
		links[4 + i] = (struct cache_link_config){BRAIN_HOST, (uint8_t)(BRAIN_GPU + i), DEVICE_LOADS, devices_bytes_per_s(d, i)};
	}
	*out = (struct cache_config){
		.tiers = tiers,
		.n_tiers = BRAIN_GPU + devices,
		.links = links,
		.n_links = 4 + devices,
		.policy = c->policy,
		.min_residency_ns = c->min_residency,
		.ttl_ns = c->ttl,
		.half_life_ns = c->half_life,
		.revalidate_ns = c->revalidate,
		.negative_ns = c->negative,
		.max_names = (uint32_t)c->max_models,
		.max_waiters = (uint32_t)c->max_waiters,
		.promote = true,
		.dedup = c->dedup,
		.hash_seed = (uint32_t)d->boot_lo,
		.first_copy = clock_unix() / NS_PER_US, /* no run makes a million copies a second */
		.on_edge = on_edge,
		.device_size = plans_device_size,
		.plan_ref = plans_ref,
		.ctx = d,
	};
}
