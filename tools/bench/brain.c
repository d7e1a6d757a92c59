/* brain.c - how many events per second the brain gets through: opens, loads, evictions and closes over ten thousand
 * models of which a fifth fits, every effect answered at once in virtual time.
 * Keeps: an event is one call into cache.h other than taking an effect. */
#include "tools/bench/brain.h"

#include "cache/cache.h"
#include "shared/check.h"
#include "tools/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MODELS 10000
#define MODEL_BYTES (64 * MIB)
#define HOST_BYTES (MODELS / 5 * MODEL_BYTES)
#define OWNERS 64
#define HELD 16 /* leases an owner keeps before it gives the oldest back */
#define EVENTS 3000000

struct held {
	uint64_t lease[HELD];
	unsigned n, oldest;
};

struct drive {
	struct cache *cache;
	uint64_t now, random, events, request;
	struct held owners[OWNERS];
};

static uint64_t draw(struct drive *d)
{
	d->random ^= d->random << 13;
	d->random ^= d->random >> 7;
	d->random ^= d->random << 17;
	return d->random;
}

static void keep_lease(struct drive *d, uint64_t owner, uint64_t lease)
{
	struct held *h = &d->owners[owner];
	if (h->n == HELD) {
		int r = cache_close(d->cache, d->now, owner, h->lease[h->oldest]);
		ASSERT(r == 0);
		d->events++;
		h->n--;
		h->oldest = (h->oldest + 1) % HELD;
	}
	h->lease[(h->oldest + h->n++) % HELD] = lease;
}

static void resolve(struct drive *d, const struct cache_effect *e)
{
	uint64_t model, number = strtoull(e->name_text + 1, NULL, 10);
	const struct cache_model_info info = {.fingerprint_hi = number + 1, .fingerprint_lo = ~number,
		.image_bytes = MODEL_BYTES, .disk_bytes = MODEL_BYTES, .in_place = true};
	cache_resolved(d->cache, d->now, e->name, &info, &model);
	d->events++;
}

static void carry_out(struct drive *d, const struct cache_effect *e)
{
	switch (e->kind) {
	case FX_RESOLVE:
		resolve(d, e);
		return;
	case FX_ALLOC:
		cache_alloc_done(d->cache, d->now, e->model, e->to, e->edition, NULL);
		break;
	case FX_START:
		cache_landed(d->cache, d->now, e->transfer, MODEL_BYTES / 2);
		cache_landed(d->cache, d->now, e->transfer, MODEL_BYTES);
		cache_transfer_done(d->cache, d->now, e->transfer, NULL);
		d->events += 2;
		break;
	case FX_FREE:
		cache_freed(d->cache, d->now, e->model, e->to, e->copy);
		break;
	case FX_GRANT:
		keep_lease(d, e->owner, e->lease);
		return;
	default: /* answers and notices that want no event */
		return;
	}
	d->events++;
}

static void pump(struct drive *d)
{
	struct cache_effect e;
	while (cache_next_effect(d->cache, &e))
		carry_out(d, &e);
}

/* Few models get most of the opens: the cube of a uniform draw. */
static void open_one(struct drive *d)
{
	double u = (double)(draw(d) >> 11) * 0x1p-53;
	char name[32];
	snprintf(name, sizeof name, "m%u", (unsigned)(u * u * u * MODELS));
	const struct cache_open req = {.name = name, .owner = draw(d) % OWNERS, .request = ++d->request, .tier = TIER_REMOTE,
		.device = UINT32_MAX, .class = CLASS_DEMAND, .deadline = CACHE_NEVER};
	cache_open(d->cache, d->now, &req);
	d->events++;
	pump(d);
	d->now += 10 * NS_PER_US;
}

static void run(struct drive *d, uint64_t events)
{
	for (uint64_t end = d->events + events; d->events < end;) {
		open_one(d);
		if (d->request % 64 == 0) {
			cache_tick(d->cache, d->now);
			d->events++;
			pump(d);
		}
	}
}

/* Of this thread: "on one core" whatever else the machine does. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

double brain_events_per_s(void)
{
	static const struct cache_tier_config tiers[] = {{.kind = TIER_REMOTE},
		{.kind = TIER_DISK, .capacity_bytes = GIB}, {.kind = TIER_HOST, .capacity_bytes = HOST_BYTES}};
	static const struct cache_link_config links[] = {{.from = 0, .to = 1, .max_active = 2, .bytes_per_s = GIB},
		{.from = 0, .to = 2, .max_active = 2, .bytes_per_s = GIB},
		{.from = 1, .to = 2, .max_active = 2, .bytes_per_s = GIB}};
	const struct cache_config config = {.tiers = tiers, .n_tiers = ARRAY_LEN(tiers), .links = links,
		.n_links = ARRAY_LEN(links), .policy = "cost", .half_life_ns = 600 * NS_PER_S,
		.revalidate_ns = 3600 * NS_PER_S, .negative_ns = NS_PER_S, .max_names = 131072, .max_waiters = 4096};
	struct fault why;
	struct drive *d = calloc(1, sizeof *d);
	ASSERT(d);
	d->random = 88172645463325252ULL;
	d->now = NS_PER_S;
	if (cache_new(&d->cache, &config, &why))
		die("brain: %s", why.text);
	run(d, EVENTS / 10); /* fills the tier */
	uint64_t before = d->events, started = cpu_ns();
	run(d, EVENTS);
	double rate = (double)(d->events - before) * 1e9 / (double)(cpu_ns() - started);
	cache_verify(d->cache);
	cache_free(&d->cache);
	free(d);
	return rate;
}
