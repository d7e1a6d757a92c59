/* gauges.c - see gauges.h. */
#include "mrm/gauges.h"

#include "mrm/disk/disk.h"
#include "mrm/gpu/gpu.h"
#include "mrm/server.h"
#include "mrm/source/source.h"
#include "shared/metrics.h"

/* A kind's numbers are the sums over its tiers: there may be several devices. */
struct kind_metrics {
	enum tier_kind kind;
	enum metric capacity, used, pinned, leased, draining, copies, evicted[CACHE_EVICTED_N];
};

static const struct kind_metrics kinds[] = {
	{TIER_DISK, M_tier_capacity_disk, M_tier_used_disk, M_tier_pinned_disk, M_tier_leased_disk, M_tier_draining_disk,
		M_tier_copies_disk, {
#define EVICTION(NAME, name, why) [CACHE_EVICTED_##NAME] = M_evictions_disk_##name,
#include "cache/evictions.def"
#undef EVICTION
		}},
	{TIER_HOST, M_tier_capacity_host, M_tier_used_host, M_tier_pinned_host, M_tier_leased_host, M_tier_draining_host,
		M_tier_copies_host, {
#define EVICTION(NAME, name, why) [CACHE_EVICTED_##NAME] = M_evictions_host_##name,
#include "cache/evictions.def"
#undef EVICTION
		}},
	{TIER_GPU, M_tier_capacity_gpu, M_tier_used_gpu, M_tier_pinned_gpu, M_tier_leased_gpu, M_tier_draining_gpu,
		M_tier_copies_gpu, {
#define EVICTION(NAME, name, why) [CACHE_EVICTED_##NAME] = M_evictions_gpu_##name,
#include "cache/evictions.def"
#undef EVICTION
		}},
};

static void add(struct cache_tier_view *sum, const struct cache_tier_view *v)
{
	sum->capacity_bytes += v->capacity_bytes;
	sum->used_bytes += v->used_bytes;
	sum->pinned_bytes += v->pinned_bytes;
	sum->leased_bytes += v->leased_bytes;
	sum->draining_bytes += v->draining_bytes;
	sum->copies += v->copies;
	for (int i = 0; i < CACHE_EVICTED_N; i++)
		sum->evicted[i] += v->evicted[i];
}

static void kind(struct daemon *d, const struct kind_metrics *m)
{
	struct cache_tier_view sum = {0}, v;
	for (size_t t = 0; t < cache_n_tiers(d->cache); t++) {
		cache_tier(d->cache, (uint8_t)t, &v);
		if (v.kind == m->kind)
			add(&sum, &v);
	}
	metrics_set(m->capacity, sum.capacity_bytes);
	metrics_set(m->used, sum.used_bytes);
	metrics_set(m->pinned, sum.pinned_bytes);
	metrics_set(m->leased, sum.leased_bytes);
	metrics_set(m->draining, sum.draining_bytes);
	metrics_set(m->copies, sum.copies);
	for (int i = 0; i < CACHE_EVICTED_N; i++)
		metrics_set(m->evicted[i], sum.evicted[i]);
}

static void brain(struct daemon *d)
{
	const struct cache_stats *s = cache_stats(d->cache);
	metrics_set(M_loads_done, s->loads_done);
	metrics_set(M_loads_failed, s->loads_failed);
	metrics_set(M_loads_cancelled, s->loads_cancelled);
	metrics_set(M_loads_preempted, s->loads_preempted);
	metrics_set(M_prefetch_used, s->prefetch_used);
	metrics_set(M_prefetch_wasted, s->prefetch_wasted);
	metrics_set(M_promotions, s->promotions);
	metrics_set(M_pins_retried, s->pins_retried);
	metrics_set(M_residency_waits, s->residency_waits);
	metrics_set(M_alloc_retries, s->alloc_retries);
	metrics_set(M_merged, s->merged);
	while (metrics_value(M_fallback_persist_skipped) < s->persist_skipped) {
		daemon_degraded(d, "persist-skipped", "a model from a remote source did not get onto the disk tier: no room, or given up");
		metrics_add(M_fallback_persist_skipped, 1);
	}
}

/* What a source does in a degraded way it names and logs itself. */
static void source_fallbacks(struct daemon *d)
{
	static const struct {
		enum metric metric;
		size_t offset;
	} rows[] = {
#define COUNTER(name, doc)
#define DEGRADED(name, text, doc) {M_fallback_##name, offsetof(struct source_counters, degraded_##name)},
#include "mrm/source/source_counters.def"
#undef COUNTER
	};
	for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
		uint64_t sum = 0;
		for (size_t i = 0; i < d->n_sources; i++)
			sum += atomic_load_explicit((_Atomic uint64_t *)((char *)source_counters(d->sources[i]) + rows[r].offset),
				memory_order_relaxed);
		if (rows[r].metric != M_fallback_no_ranges) /* counted once per load, by the haul */
			metrics_set(rows[r].metric, sum);
	}
}

static void disk(struct daemon *d)
{
	struct disk_stats s;
	disk_stats(d->disk, &s);
	metrics_set(M_disk_set_aside, s.set_aside);
	metrics_set(M_disk_names_lost, s.names_lost);
	metrics_set(M_disk_torn, s.torn);
	metrics_set(M_disk_write_errors, s.write_errors);
	metrics_set(M_disk_relocated, s.relocated);
	metrics_set(M_disk_profiles_lost, s.profiles_lost);
}

static void sources(struct daemon *d)
{
	uint64_t stalls = 0, throttled = 0, retries = 0, resumes = 0;
	for (size_t i = 0; i < d->n_sources; i++) {
		const struct source_counters *c = source_counters(d->sources[i]);
		stalls += atomic_load_explicit(&c->stalls, memory_order_relaxed);
		throttled += atomic_load_explicit(&c->throttled, memory_order_relaxed);
		retries += atomic_load_explicit(&c->retries, memory_order_relaxed);
		resumes += atomic_load_explicit(&c->resumes, memory_order_relaxed);
	}
	metrics_set(M_source_retries_stalled, stalls);
	metrics_set(M_source_retries_throttled, throttled);
	metrics_set(M_source_retries_broken, retries > stalls + throttled ? retries - stalls - throttled : 0);
	metrics_set(M_resumes_range, resumes);
}

void gauges_update(struct daemon *d)
{
	/* First: it is what marks the others as simulated. */
	metrics_set(gpu_is_simulated(d->gpu) ? M_gpu_simulated : M_gpu_devices, gpu_count(d->gpu));
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		kind(d, &kinds[i]);
	brain(d);
	disk(d);
	sources(d);
	source_fallbacks(d);
	metrics_set(M_clients, d->server ? d->server->n_conns : 0);
	metrics_set(M_leases, d->server ? d->server->n_leases : 0);
	metrics_set(M_models, d->images.n);
	metrics_set(M_transfers_active, d->hauls.n);
	metrics_touch(d->metrics);
}
