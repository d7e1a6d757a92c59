/* fuzz_brain.c - bytes as a list of events for the brain; everything is verified after each.
 * The first byte chooses tiers and policy; then each event takes a byte for its kind and one for its argument.  The answers
 * come when the input says so, in the order and with the result it says; ids that are out of date are used on purpose. */
#include <string.h>

#include "cache/cache.h"
#include "shared/check.h"
#include "tests/fuzz/fuzz.h"

#define WORK 64
#define EVENTS 400
#define IDS 32

struct state {
	struct cache *c;
	uint64_t now, request;
	struct cache_effect work[WORK];
	size_t n_work;
	uint64_t leases[IDS], models[IDS], transfers[IDS], copies[IDS];
	size_t n_leases, n_models, n_transfers;
};

static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};

/* 1 to 3: leaves out a third, keeps a half, both; 4: sizes that make no sense are none of its business. */
static void device_size(void *ctx, const struct cache_model_info *info, uint64_t plan, struct cache_device_size *out)
{
	(void)ctx;
	out->all_bytes = info->gpu_bytes;
	out->plan_bytes = plan & 1 ? info->gpu_bytes * 2 / 3 : info->gpu_bytes;
	out->head_bytes = plan & 2 ? out->plan_bytes / 2 : 0;
	if (plan == 4)
		*out = (struct cache_device_size){.head_bytes = UINT64_MAX, .plan_bytes = 40, .all_bytes = 10};
}

static void start(struct state *s, uint8_t choice)
{
	static const struct cache_tier_config tiers[] = {{.kind = TIER_REMOTE}, {.kind = TIER_DISK, .capacity_bytes = 300},
		{.kind = TIER_HOST, .capacity_bytes = 250}, {.kind = TIER_GPU, .device = 0, .capacity_bytes = 200},
		{.kind = TIER_GPU, .device = 1, .capacity_bytes = 150}};
	static const struct cache_link_config links[] = {{0, 2, 1, 100}, {2, 1, 1, 200}, {1, 2, 1, 300}, {2, 3, 1, 400},
		{2, 4, 1, 400}, {3, 4, 1, 900}};
	static const char *const policies[] = {"cost", "lru", "fifo", "lcu", "never"};
	struct cache_config config = {.tiers = tiers, .n_tiers = choice & 1 ? 5 : 3, .links = links,
		.n_links = choice & 1 ? 6 : 3, .policy = policies[(choice >> 4) % 5], .half_life_ns = NS_PER_S,
		.min_residency_ns = choice & 2 ? NS_PER_S : 0, .ttl_ns = choice & 4 ? 5 * NS_PER_S : 0,
		.revalidate_ns = choice & 8 ? 0 : NS_PER_S, .negative_ns = NS_PER_S, .dedup = true, .promote = true,
		.max_names = 6, .max_waiters = 12, .device_size = device_size};
	struct fault why;
	ASSERT(cache_new(&s->c, &config, &why) == 0);
}

static void take_effects(struct state *s)
{
	struct cache_effect e;
	while (cache_next_effect(s->c, &e)) {
		if (e.kind == FX_GRANT) {
			s->copies[s->n_leases % IDS] = e.edition;
			s->leases[s->n_leases++ % IDS] = e.lease;
		}
		if (e.kind == FX_START)
			s->transfers[s->n_transfers++ % IDS] = e.transfer;
		if (e.model)
			s->models[s->n_models++ % IDS] = e.model;
		bool work = e.kind == FX_RESOLVE || e.kind == FX_ALLOC || e.kind == FX_START || e.kind == FX_FREE ||
			e.kind == FX_TRIM;
		if (work && s->n_work < WORK)
			s->work[s->n_work++] = e; /* beyond that: hands that never answer */
	}
}

static void ask(struct state *s, uint8_t kind, uint8_t arg, uint8_t plan)
{
	struct cache_open req = {.name = names[arg & 7], .owner = 1 + (arg >> 6), .user = arg >> 6, .request = ++s->request,
		.tier = (enum tier_kind)(arg >> 3 & 3), .device = arg & 1 ? CACHE_ANY_DEVICE : arg >> 1 & 1,
		.device_mask = kind == 3 ? 1 + (arg >> 1 & 3) : 0, .plan = plan,
		.class = arg & 0x20 ? CLASS_PREFETCH : CLASS_DEMAND, .deadline = arg & 0x10 ? s->now + NS_PER_S : CACHE_NEVER};
	if (plan)
		req.tier = TIER_GPU;
	if (kind == 0 || kind == 3)
		cache_open(s->c, s->now, &req);
	else if (kind == 1)
		cache_prefetch(s->c, s->now, &req);
	else
		cache_pin(s->c, s->now, &req);
}

static void answer(struct state *s, uint8_t arg, bool fail, bool keep)
{
	if (s->n_work == 0)
		return;
	size_t i = (arg & 63) % s->n_work;
	struct cache_effect e = s->work[i];
	struct fault why, *error = fail ? &why : NULL;
	struct cache_model_info info = {.fingerprint_hi = (uint64_t)(e.name_text[0] & 7), .fingerprint_lo = arg >> 7,
		.image_bytes = 30 * (uint64_t)(e.name_text[0] & 7), .in_place = (e.name_text[0] & 3) == 3};
	uint64_t model;
	info.disk_bytes = info.image_bytes;
	info.gpu_bytes = align_up(info.image_bytes, 32);
	fault_set(&why, arg & 1 ? TRIMS_E_MISMATCH : arg & 2 ? TRIMS_E_NOT_FOUND : TRIMS_E_CANCELLED, "fuzzed");
	if (!keep)
		s->work[i] = s->work[--s->n_work];
	if (e.kind == FX_RESOLVE && fail)
		cache_resolve_failed(s->c, s->now, e.name, &why);
	else if (e.kind == FX_RESOLVE)
		cache_resolved(s->c, s->now, e.name, &info, &model);
	else if (e.kind == FX_ALLOC)
		cache_alloc_done(s->c, s->now, e.model, e.to, e.edition, error);
	else if (e.kind == FX_START)
		cache_transfer_done(s->c, s->now, e.transfer, error);
	else if (e.kind == FX_TRIM)
		cache_trimmed(s->c, s->now, e.model, e.to, e.edition, fail ? e.bytes + (arg >> 6) * 20 : e.bytes);
	else
		cache_freed(s->c, s->now, e.model, e.to, e.copy);
}

static void adopt(struct state *s, uint8_t arg)
{
	struct cache_model_info info = {.fingerprint_hi = arg & 7, .fingerprint_lo = 0, .image_bytes = 30 * (uint64_t)(arg & 7),
		.disk_bytes = 30 * (uint64_t)(arg & 7)};
	uint64_t model;
	if (cache_adopt(s->c, s->now, arg & 8 ? names[arg & 7] : NULL, &info, arg >> 3, arg & 16, arg, &model) == 0)
		cache_adopt_name(s->c, s->now, names[arg >> 5], model);
}

static void keep(struct state *s, uint8_t arg)
{
	struct cache_model_info info = {.fingerprint_hi = arg & 7, .image_bytes = 30 * (uint64_t)(arg & 7),
		.disk_bytes = 30 * (uint64_t)(arg & 7)};
	struct cache_part part = {.plan = 1, .size = {0, 20, 30}, .reach = (enum copy_reach)(arg & 1)};
	uint64_t model;
	if (cache_adopt_copy(s->c, s->now, &info, 1 + (arg >> 3 & 3), arg >> 5, arg, arg & 2 ? &part : NULL, &model) == 0)
		cache_adopt_name(s->c, s->now, names[arg & 7], model);
}

static void lose(struct state *s, uint8_t tier)
{
	struct fault why;
	fault_set(&why, TRIMS_E_GPU_ERROR, "fuzzed");
	cache_tier_lost(s->c, s->now, tier, &why);
}

static void event(struct state *s, uint8_t kind, uint8_t arg)
{
	uint32_t in_use;
	switch (kind < 31 ? kind : kind % 20) {
	case 20: case 21: ask(s, 3, arg, 0); break;
	case 26: case 27: case 28: case 29: ask(s, arg & 1 ? 3 : 0, arg, kind - 25); break;
	case 30: ask(s, arg & 1 ? 1 : 2, arg, 1 + (arg >> 6)); break;
	case 22: cache_regrant(s->c, s->now, 1 + (arg >> 6), s->leases[arg % IDS], ++s->request); break;
	case 23:
		cache_claim(s->c, s->now, 1 + (arg >> 6), ++s->request, s->models[arg % IDS], arg >> 5, s->copies[arg % IDS]);
		break;
	case 24: arg < 32 ? lose(s, arg & 7) : keep(s, arg); break;
	case 25: cache_evict(s->c, s->now, names[arg & 7], TIER_GPU, arg >> 3 & 1, &in_use); break;
	case 0: case 1: case 2: ask(s, 0, arg, 0); break;
	case 3: ask(s, 1, arg, 0); break;
	case 4: ask(s, 2, arg, 0); break;
	case 5: case 6: cache_close(s->c, s->now, 1 + (arg >> 6), s->leases[arg % IDS]); break;
	case 7: case 8: case 9: answer(s, arg, false, false); break;
	case 10: answer(s, arg, true, false); break;
	case 11: answer(s, arg, arg & 1, true); break;
	case 12: cache_owner_gone(s->c, s->now, 1 + (arg >> 6)); break;
	case 13: cache_evict(s->c, s->now, names[arg & 7], (enum tier_kind)(arg >> 3 & 3), CACHE_ANY_DEVICE, &in_use); break;
	case 14: cache_unpin(s->c, s->now, names[arg & 7], (enum tier_kind)(arg >> 3 & 3), CACHE_ANY_DEVICE); break;
	case 15: cache_tick(s->c, s->now); break;
	case 16: cache_corrupt(s->c, s->now, s->models[arg % IDS], arg >> 5); break;
	case 17: cache_identified(s->c, s->now, s->models[arg % IDS], 1, arg >> 6); break;
	case 18: cache_landed(s->c, s->now, s->transfers[arg % IDS], arg); break;
	default: arg & 1 ? adopt(s, arg) : (void)cache_cancel(s->c, s->now, 1 + (arg >> 6), s->request - (arg >> 1 & 7)); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state s = {.now = 10 * NS_PER_S};
	if (size == 0)
		return 0;
	start(&s, data[0]);
	for (size_t i = 1; i + 1 < size && i < 2 * EVENTS; i += 2) {
		s.now += (uint64_t)(data[i] >> 5) * 100 * NS_PER_MS;
		event(&s, data[i] & 31, data[i + 1]);
		take_effects(&s);
		cache_verify(s.c);
	}
	cache_free(&s.c);
	return 0;
}
