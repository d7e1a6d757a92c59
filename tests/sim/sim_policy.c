/* sim_policy.c - the brain against a reference of a hundred naive lines.
 *
 *   sim_policy     SIM_STEPS and TRIMS_SEED as for sim_brain
 * One tier, hands that do everything at once: then what is resident, who is refused and who is the victim follow from the
 * policy's one sentence, and a linear scan over an array decides it.  Both get the same random opens, closes, evictions
 * and pins; after each step they must agree on every model.  First the tier is the host; then it is a device above a host
 * that has everything, and some models come by a plan that keeps their beginning: of those the tail goes before any whole. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/cache.h"
#include "shared/check.h"

#define MODELS 40
#define LEASES 64
#define CAPACITY 1000

/* ---- the reference ---- */

struct naive {
	uint64_t bytes, head, there, last_use, loaded, uses; /* there: `bytes`, or `head` when the rest made room, or 0 */
	unsigned leases;
	bool pinned;
};

static struct naive naive[MODELS];

static uint64_t naive_used(void)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < MODELS; i++)
		sum += naive[i].there;
	return sum;
}

static bool naive_has_tail(const struct naive *m)
{
	return m->head && m->there == m->bytes;
}

/* Lowest of the policy's number, then of the last use. */
static int naive_victim(const char *policy, const struct naive *for_whom, bool tails)
{
	int best = -1;
	for (int i = 0; i < MODELS; i++) {
		const struct naive *m = &naive[i], *b = best >= 0 ? &naive[best] : NULL;
		if (!m->there || m == for_whom || m->leases || m->pinned || (tails && !naive_has_tail(m)))
			continue;
		uint64_t mine = !strcmp(policy, "lru") ? m->last_use : !strcmp(policy, "fifo") ? m->loaded : m->uses;
		uint64_t other = !b ? 0 : !strcmp(policy, "lru") ? b->last_use : !strcmp(policy, "fifo") ? b->loaded : b->uses;
		if (!b || mine < other || (mine == other && m->last_use < b->last_use))
			best = i;
	}
	return best;
}

static void naive_make_room(const char *policy, const struct naive *for_whom)
{
	int tail = naive_victim(policy, for_whom, true);
	if (tail >= 0)
		naive[tail].there = naive[tail].head;
	else
		naive[naive_victim(policy, for_whom, false)].there = 0;
}

/* False: no room. */
static bool naive_load(const char *policy, int model, uint64_t now)
{
	struct naive *m = &naive[model];
	uint64_t held = 0;
	for (size_t i = 0; i < MODELS; i++)
		held += naive[i].leases || naive[i].pinned ? naive[i].there : 0;
	if (m->there == m->bytes)
		return true;
	if (held + m->bytes > CAPACITY)
		return false;
	while (naive_used() - m->there + m->bytes > CAPACITY)
		naive_make_room(policy, m);
	m->loaded = m->last_use = now;
	m->uses = m->there ? m->uses : 0;
	m->there = m->bytes;
	return true;
}

/* ---- the brain with instant hands ---- */

static struct cache *brain;
static struct { int model; uint64_t id; } leases[LEASES];
static size_t n_leases;
static uint64_t seed, random_state, now = NS_PER_S, step_number, last_lease;
static bool granted, accepted;
static enum tier_kind kind; /* of the tier that is looked at */
static uint8_t tier_at;
static uint64_t trimmed;

static void device_size(void *ctx, const struct cache_model_info *info, uint64_t plan, struct cache_device_size *out)
{
	const struct naive *m = &naive[plan - 1];
	(void)ctx;
	ASSERT(plan == info->fingerprint_hi);
	*out = (struct cache_device_size){.head_bytes = m->head, .plan_bytes = m->bytes, .all_bytes = info->gpu_bytes};
}

static uint64_t below(uint64_t bound)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % bound;
}

static void carry_out(const struct cache_effect *e)
{
	uint64_t model;
	struct cache_model_info info = {.in_place = true};
	switch (e->kind) {
	case FX_RESOLVE:
		info.fingerprint_hi = strtoull(e->name_text + 1, NULL, 10) + 1;
		info.image_bytes = naive[info.fingerprint_hi - 1].bytes;
		cache_resolved(brain, now, e->name, &info, &model);
		break;
	case FX_ALLOC:
		cache_alloc_done(brain, now, e->model, e->to, e->edition, NULL);
		break;
	case FX_START:
		cache_transfer_done(brain, now, e->transfer, NULL);
		break;
	case FX_TRIM:
		trimmed++;
		cache_trimmed(brain, now, e->model, e->to, e->edition, e->bytes);
		break;
	case FX_FREE:
		cache_freed(brain, now, e->model, e->to, e->copy);
		break;
	case FX_GRANT:
		granted = true;
		last_lease = e->lease;
		break;
	case FX_ACCEPT:
		accepted = true;
		break;
	default:
		break;
	}
}

static void run_hands(void)
{
	struct cache_effect e;
	while (cache_next_effect(brain, &e))
		carry_out(&e);
}

static struct cache_open ask_for(int model, char *text, size_t size)
{
	static uint64_t request;
	snprintf(text, size, "m%d", model);
	request++;
	return (struct cache_open){.name = text, .owner = 1, .request = request, .deadline = CACHE_NEVER, .tier = kind,
		.plan = kind == TIER_GPU ? (uint64_t)model + 1 : 0};
}

static void expect(bool same, const char *what, int model, const char *policy)
{
	if (same)
		return;
	printf("Bail out! %s: %s of m%d differs at step %" PRIu64 ", TRIMS_SEED=%" PRIu64 "\n", policy, what, model,
		step_number, seed);
	fflush(stdout);
	abort();
}

/* ---- both at once ---- */

static void both_open(const char *policy, int model)
{
	char text[16];
	struct cache_open ask = ask_for(model, text, sizeof(text));
	granted = false;
	cache_open(brain, now, &ask);
	run_hands();
	bool fits = naive_load(policy, model, now);
	expect(granted == fits, "the grant", model, policy);
	if (!fits)
		return;
	naive[model].leases++;
	naive[model].uses++;
	naive[model].last_use = now;
	leases[n_leases].model = model;
	leases[n_leases++].id = last_lease;
}

static void both_close(size_t i)
{
	struct naive *m = &naive[leases[i].model];
	cache_close(brain, now, 1, leases[i].id);
	m->leases--;
	m->last_use = now;
	leases[i] = leases[--n_leases];
}

static void both_pin(const char *policy, int model)
{
	char text[16];
	struct cache_open ask = ask_for(model, text, sizeof(text));
	accepted = false;
	cache_pin(brain, now, &ask);
	run_hands();
	bool fits = naive_load(policy, model, now);
	expect(accepted == fits, "the pin", model, policy);
	naive[model].pinned |= fits;
}

static void both_let_go(int model, bool evict)
{
	char text[16];
	uint32_t in_use;
	snprintf(text, sizeof(text), "m%d", model);
	cache_unpin(brain, now, text, kind, CACHE_ANY_DEVICE);
	naive[model].pinned = false;
	if (!evict || naive[model].leases)
		return;
	cache_evict(brain, now, text, kind, CACHE_ANY_DEVICE, &in_use);
	naive[model].there = 0;
}

static void compare(const char *policy)
{
	struct cache_tier_view tier;
	struct cache_model_view view;
	char text[16];
	cache_tier(brain, tier_at, &tier);
	expect(tier.used_bytes == naive_used(), "the tier's sum", 0, policy);
	for (int i = 0; i < MODELS; i++) {
		snprintf(text, sizeof(text), "m%d", i);
		uint64_t id = cache_find(brain, text);
		bool known = id && cache_view(brain, id, &view) == 0;
		const struct cache_copy_view *k = &view.copies[tier_at];
		expect((known ? k->bytes : 0) == naive[i].there, "the presence", i, policy);
		if (!naive[i].there)
			continue;
		expect((k->state == COPY_READY) == (naive[i].there == naive[i].bytes), "the completeness", i, policy);
		expect(k->leases == naive[i].leases, "the lease count", i, policy);
		expect(k->uses == naive[i].uses, "the use count", i, policy);
	}
}

static void step(const char *policy)
{
	uint64_t roll = below(100);
	int model = (int)(below(2) ? below(MODELS) : below(MODELS / 4));
	now += 1 + below(NS_PER_S);
	step_number++;
	if (roll < 50 && n_leases < LEASES)
		both_open(policy, model);
	else if (roll < 92 && n_leases)
		both_close(below(n_leases));
	else if (roll < 94)
		both_pin(policy, model);
	else if (roll < 99)
		both_let_go(model, roll < 96);
	else
		cache_tick(brain, now);
	run_hands();
	compare(policy);
}

static void run(const char *policy, enum tier_kind on, uint64_t steps)
{
	uint64_t host = on == TIER_HOST ? CAPACITY : MODELS * CAPACITY;
	const struct cache_tier_config tiers[] = {{.kind = TIER_REMOTE}, {.kind = TIER_HOST, .capacity_bytes = host},
		{.kind = TIER_GPU, .capacity_bytes = CAPACITY}};
	static const struct cache_link_config links[] = {{0, 1, 1, 1000}, {1, 2, 1, 1000}};
	struct cache_config config = {.tiers = tiers, .n_tiers = on == TIER_GPU ? 3 : 2, .links = links, .n_links = on == TIER_GPU ? 2 : 1, .policy = policy,
		.half_life_ns = 60 * NS_PER_S, .revalidate_ns = UINT64_MAX, .max_names = 100, .max_waiters = 10,
		.device_size = device_size};
	struct fault why;
	memset(naive, 0, sizeof(naive));
	n_leases = 0;
	kind = on;
	tier_at = (uint8_t)(config.n_tiers - 1);
	for (size_t i = 0; i < MODELS; i++) {
		naive[i].bytes = 2 + below(300);
		naive[i].head = on == TIER_GPU && below(3) ? 1 + below(naive[i].bytes - 1) : 0;
	}
	ASSERT(cache_new(&brain, &config, &why) == 0);
	for (uint64_t i = 0; i < steps; i++)
		step(policy);
	cache_verify(brain);
	cache_free(&brain);
}

int main(void)
{
	static const char *const policies[] = {"lru", "fifo", "lcu"};
	const char *length = getenv("SIM_STEPS"), *given = getenv("TRIMS_SEED");
	uint64_t steps = length && *length ? strtoull(length, NULL, 0) : 120000;
	seed = given && *given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	random_state = seed;
	printf("# TRIMS_SEED=%" PRIu64 "\n1..%zu\n", seed, 2 * ARRAY_LEN(policies));
	for (size_t i = 0; i < 2 * ARRAY_LEN(policies); i++) {
		const char *policy = policies[i % ARRAY_LEN(policies)];
		bool gpu = i >= ARRAY_LEN(policies);
		run(policy, gpu ? TIER_GPU : TIER_HOST, steps / (2 * ARRAY_LEN(policies)));
		printf("ok %zu - %s%s decides as the reference does\n", i + 1, policy, gpu ? " on a device, with plans," : "");
		fflush(stdout);
	}
	ASSERT(trimmed || steps < 10000);
	return 0;
}
