/* sim_brain.c - the brain under seeded clients, faults and delays.
 *
 *   sim_brain [--steps N] [--seed S] [--only CONFIGURATION]     SIM_STEPS and TRIMS_SEED do the same
 * Each configuration gets its share of the steps, in episodes; each step is one event, then everything is verified, from
 * inside (cache_verify) and from outside (hands.c).  An episode ends in quiet: clients stop asking, the hands finish
 * without fault, and then every request must be answered and no load left; when they have closed, too, and all is evicted,
 * no byte may be in use. */
#include <time.h>

#include "tests/sim/hands.h"

struct setup {
	const char *label;
	const char *policy;
	enum { TIERS_HOST, TIERS_DISK, TIERS_CHAIN, TIERS_GPUS, TIERS_GPUS3, TIERS_ONE_GPU, TIERS_MAZE } tiers;
	uint64_t host_bytes, disk_bytes, min_residency_ns, ttl_ns, revalidate_ns;
	uint32_t max_names, max_waiters;
	bool dedup, promote, lazy, reconfigure, devices_die;
	unsigned fail_percent, plans;
};

static const struct setup setups[] = {
	{.label = "host tier, lru", .policy = "lru", .tiers = TIERS_HOST, .host_bytes = 1000, .revalidate_ns = NS_PER_S / 100},
	{.label = "host tier, nothing evicted", .policy = "never", .tiers = TIERS_HOST, .host_bytes = 1500,
		.ttl_ns = 5 * NS_PER_S, .revalidate_ns = NS_PER_S, .fail_percent = 5},
	{.label = "disk and host, cost, faults", .policy = "cost", .tiers = TIERS_DISK, .host_bytes = 900, .disk_bytes = 2000,
		.revalidate_ns = NS_PER_S / 100, .dedup = true, .fail_percent = 15},
	{.label = "disk and host, residency and TTL", .policy = "fifo", .tiers = TIERS_DISK, .host_bytes = 1200,
		.disk_bytes = 1500, .min_residency_ns = NS_PER_S / 2, .ttl_ns = 3 * NS_PER_S, .revalidate_ns = 10 * NS_PER_S,
		.fail_percent = 5},
	{.label = "remote to host through the disk", .policy = "lcu", .tiers = TIERS_CHAIN, .host_bytes = 1000,
		.disk_bytes = 1800, .fail_percent = 10, .lazy = true},
	{.label = "two gpus, cost, dedup", .policy = "cost", .tiers = TIERS_GPUS, .host_bytes = 1500, .disk_bytes = 2500,
		.min_residency_ns = NS_PER_S / 10, .revalidate_ns = NS_PER_S, .dedup = true, .fail_percent = 8, .promote = true},
	{.label = "two gpus, lru, effects read late", .policy = "lru", .tiers = TIERS_GPUS, .host_bytes = 800,
		.disk_bytes = 1200, .revalidate_ns = 2 * NS_PER_S, .lazy = true, .dedup = true, .fail_percent = 20},
	{.label = "three gpus, one may die, kept copies", .policy = "cost", .tiers = TIERS_GPUS3, .host_bytes = 1500,
		.disk_bytes = 2500, .revalidate_ns = NS_PER_S, .dedup = true, .fail_percent = 8, .promote = true, .devices_die = true},
	{.label = "three gpus over a small host, read late", .policy = "lru", .tiers = TIERS_GPUS3, .host_bytes = 500,
		.disk_bytes = 3000, .min_residency_ns = NS_PER_S / 20, .revalidate_ns = 2 * NS_PER_S, .lazy = true,
		.fail_percent = 5, .devices_die = true},
	{.label = "one gpu over host, no disk", .policy = "lru", .tiers = TIERS_ONE_GPU, .host_bytes = 700, .max_waiters = 6,
		.revalidate_ns = NS_PER_S, .fail_percent = 5},
	{.label = "plans on two gpus, lru", .policy = "lru", .tiers = TIERS_GPUS, .host_bytes = 3000, .disk_bytes = 3000,
		.revalidate_ns = NS_PER_S, .promote = true, .plans = 24},
	{.label = "plans on three gpus, cost, faults, one may die", .policy = "cost", .tiers = TIERS_GPUS3, .host_bytes = 2500,
		.disk_bytes = 2500, .min_residency_ns = NS_PER_S / 20, .ttl_ns = 5 * NS_PER_S, .revalidate_ns = NS_PER_S,
		.dedup = true, .fail_percent = 10, .promote = true, .devices_die = true, .plans = 24},
	{.label = "plans on a gpu, fifo, read late", .policy = "fifo", .tiers = TIERS_ONE_GPU, .host_bytes = 3000,
		.revalidate_ns = 2 * NS_PER_S, .lazy = true, .fail_percent = 10, .promote = true, .plans = 24},
	{.label = "links at random between all tiers", .policy = "cost", .tiers = TIERS_MAZE, .host_bytes = 1300,
		.disk_bytes = 1800, .revalidate_ns = NS_PER_S, .dedup = true, .fail_percent = 12, .promote = true, .plans = 12},
	{.label = "few names, reconfigured", .policy = "cost", .tiers = TIERS_DISK, .host_bytes = 1000, .disk_bytes = 1200,
		.max_names = 6, .revalidate_ns = NS_PER_S, .dedup = true, .fail_percent = 10, .reconfigure = true},
};

#define EPISODE_STEPS 2500

static struct sim the_sim;

/* ---- setting up ---- */

/* A new set of links each episode; some tiers may not be reachable at all. */
static void set_maze(struct sim *s)
{
	uint8_t n_tiers = (uint8_t)s->config.n_tiers;
	s->config.n_links = 0;
	for (uint8_t from = 0; from < n_tiers; from++)
		for (uint8_t to = 1; to < n_tiers; to++)
			if (from != to && sim_chance(s, 60))
				s->links[s->config.n_links++] = (struct cache_link_config){from, to,
					1 + (uint32_t)sim_below(s, 2), 500 + sim_below(s, 5000)};
}

static void set_links(struct sim *s, const struct setup *u)
{
	enum { REMOTE, DISK, HOST, GPU0, GPU1, GPU2 };
	static const struct cache_link_config disk[] = {{REMOTE, HOST, 2, 1000}, {HOST, DISK, 1, 4000}, {DISK, HOST, 2, 4000},
		{HOST, GPU0, 1, 20000}, {HOST, GPU1, 1, 20000}, {GPU0, GPU1, 1, 90000}};
	static const struct cache_link_config wide[] = {{REMOTE, HOST, 4, 1000}, {HOST, DISK, 2, 4000}, {DISK, HOST, 4, 4000},
		{HOST, GPU0, 64, 20000}, {HOST, GPU1, 64, 20000}, {HOST, GPU2, 64, 20000}};
	static const struct cache_link_config chain[] = {{REMOTE, DISK, 2, 1000}, {DISK, HOST, 1, 4000}};
	static const struct cache_link_config host[] = {{0, 1, 2, 1000}, {1, 2, 1, 20000}};
	if (u->tiers == TIERS_MAZE) {
		set_maze(s);
		return;
	}
	if (u->tiers == TIERS_GPUS3) {
		memcpy(s->links, wide, sizeof(wide));
		s->config.n_links = ARRAY_LEN(wide);
		return;
	}
	bool chained = u->tiers == TIERS_CHAIN, diskless = u->tiers == TIERS_HOST || u->tiers == TIERS_ONE_GPU;
	memcpy(s->links, chained ? chain : diskless ? host : disk, chained ? sizeof(chain) : diskless ? sizeof(host) : sizeof(disk));
	s->config.n_links = u->tiers == TIERS_HOST ? 1 : chained || diskless ? 2 : u->tiers == TIERS_GPUS ? 6 : 3;
}

static void set_tiers(struct sim *s, const struct setup *u)
{
	size_t n = 1;
	memset(s->tiers, 0, sizeof(s->tiers));
	if (u->disk_bytes)
		s->tiers[n++] = (struct cache_tier_config){.kind = TIER_DISK, .capacity_bytes = u->disk_bytes};
	s->tiers[n++] = (struct cache_tier_config){.kind = TIER_HOST, .capacity_bytes = u->host_bytes};
	uint32_t gpus = u->tiers == TIERS_GPUS3 ? 3 : u->tiers == TIERS_GPUS || u->tiers == TIERS_MAZE ? 2 : u->tiers == TIERS_ONE_GPU ? 1 : 0;
	for (uint32_t gpu = 0; gpu < gpus; gpu++)
		s->tiers[n++] = (struct cache_tier_config){.kind = TIER_GPU, .device = gpu, .capacity_bytes = 600 + 100 * gpu};
	s->config.n_tiers = n;
}

static void set_names(struct sim *s)
{
	s->n_names = SIM_NAMES;
	for (size_t i = 0; i < s->n_names; i++) {
		struct sim_name *n = &s->names[i];
		*n = (struct sim_name){.bytes = 50 + sim_below(s, 400), .version = 1, .versions = 1, .content = i + 1};
		snprintf(n->text, sizeof(n->text), "model-%zu", i);
		n->in_place = sim_chance(s, 20);
		n->missing = sim_chance(s, 8);
		if (i > 0 && sim_chance(s, 25)) { /* the same bytes under another name */
			n->content = s->names[i - 1].content;
			n->bytes = s->names[i - 1].bytes;
		}
	}
	s->names[0].bytes = 5000; /* larger than any tier */
	for (size_t i = 0; i < s->n_names; i++)
		s->names[i].gpu_bytes = align_up(s->names[i].bytes, 32);
}

static void start(struct sim *s, const struct setup *u)
{
	struct fault why;
	s->label = u->label;
	s->n_work = s->n_past = s->n_copies = s->n_leases = s->n_requests = 0;
	s->now = NS_PER_S;
	s->lazy = u->lazy;
	s->over_capacity_ok = false;
	memset(s->lost, 0, sizeof(s->lost));
	s->config = (struct cache_config){.tiers = s->tiers, .links = s->links, .policy = u->policy,
		.min_residency_ns = u->min_residency_ns, .ttl_ns = u->ttl_ns, .half_life_ns = 2 * NS_PER_S,
		.revalidate_ns = u->revalidate_ns, .negative_ns = NS_PER_S / 2, .dedup = u->dedup, .promote = u->promote,
		.max_names = u->max_names ? u->max_names : 64, .max_waiters = u->max_waiters ? u->max_waiters : 256,
		.hash_seed = (uint32_t)sim_random(s), .device_size = sim_device_size};
	s->n_plans = u->plans;
	set_tiers(s, u);
	set_links(s, u);
	set_names(s);
	SIM_ASSERT(s, cache_new(&s->c, &s->config, &why) == 0);
}

static void book_adopted(struct sim *s, uint64_t model, uint8_t tier)
{
	struct cache_model_view v;
	SIM_ASSERT(s, cache_view(s->c, model, &v) == 0);
	s->copies[s->n_copies++] = (struct sim_copy){.model = model, .copy = v.copies[tier].copy, .tier = tier,
		.bytes = v.copies[tier].bytes, .edition = v.copies[tier].edition, .plan = v.copies[tier].plan, .filled = v.copies[tier].reach, .allocated = true,
		.ready = v.copies[tier].state == COPY_READY};
}

/* What a daemon before this one left in memory, under the numbers it had. */
static void keep_some(struct sim *s)
{
	for (size_t i = 1; i < s->config.n_tiers; i++) {
		uint8_t t = (uint8_t)i;
		uint64_t model, generation = 1 + sim_below(s, 100);
		const struct sim_name *n = &s->names[sim_below(s, s->n_names)];
		struct cache_model_info info = sim_info(n, s);
		struct cache_part part = {.plan = 1 + sim_below(s, s->n_plans), .reach = (enum copy_reach)sim_below(s, REACH_HEAD)};
		sim_device_size(NULL, &info, part.plan, &part.size);
		bool parted = s->n_plans && s->tiers[t].kind == TIER_GPU && sim_chance(s, 70);
		int r = cache_adopt_copy(s->c, s->now, &info, t, generation, sim_below(s, 9 * NS_PER_S), parted ? &part : NULL, &model);
		SIM_ASSERT(s, (r == -EINVAL) == (s->tiers[t].kind == TIER_DISK));
		part.reach = REACH_HEAD;
		SIM_ASSERT(s, cache_adopt_copy(s->c, s->now, &info, t, generation, 0, &part, &model) == -EINVAL);
		if (r < 0)
			continue;
		book_adopted(s, model, t);
		SIM_ASSERT(s, s->copies[s->n_copies - 1].copy == generation);
		SIM_ASSERT(s, cache_adopt_copy(s->c, s->now, &info, t, generation + 1, 0, NULL, &model) == -EEXIST);
		if (sim_chance(s, 80))
			cache_adopt_name(s->c, s->now, n->text, model);
	}
}

static void adopt_some(struct sim *s)
{
	for (size_t i = 0; i < s->n_names; i++) {
		struct sim_name *n = &s->names[i];
		uint64_t model, bytes = n->bytes + n->bytes / 8, part = 1 + sim_below(s, bytes);
		bool complete = sim_chance(s, 70), named = sim_chance(s, 80);
		struct cache_model_info info = sim_info(n, s);
		if (n->in_place || !sim_chance(s, 30))
			continue;
		if (cache_adopt(s->c, s->now, named ? n->text : NULL, &info, part, complete, sim_below(s, 9 * NS_PER_S), &model) < 0)
			continue;
		book_adopted(s, model, cache_tier_index(s->c, TIER_DISK, 0));
		SIM_ASSERT(s, s->copies[s->n_copies - 1].bytes == (complete ? part : bytes));
		SIM_ASSERT(s, cache_adopt(s->c, s->now, NULL, &info, part, complete, 0, &model) == -EEXIST);
	}
}

/* ---- one step ---- */

static const char *some_name(struct sim *s)
{
	size_t i = sim_chance(s, 60) ? sim_below(s, s->n_names / 3) : sim_below(s, s->n_names); /* a few are in fashion */
	return s->names[i].text;
}

static struct cache_open some_ask(struct sim *s)
{
	static const enum tier_kind kinds[] = {TIER_REMOTE, TIER_HOST, TIER_HOST, TIER_DISK, TIER_GPU, TIER_GPU, TIER_GPU};
	struct cache_open ask = {.name = some_name(s), .owner = 1 + sim_below(s, SIM_OWNERS), .request = ++s->next_token,
		.tier = kinds[sim_below(s, ARRAY_LEN(kinds))], .deadline = CACHE_NEVER};
	if (s->n_plans && sim_chance(s, 70))
		ask.tier = TIER_GPU;
	ask.device = sim_chance(s, 50) ? CACHE_ANY_DEVICE : (uint32_t)sim_below(s, 3);
	ask.device_mask = sim_below(s, 8);
	ask.class = sim_chance(s, 25) ? CLASS_PREFETCH : CLASS_DEMAND;
	ask.only_resident = sim_chance(s, 5);
	ask.user = sim_below(s, 3);
	ask.plan = s->n_plans && sim_chance(s, 80) ? 1 + sim_below(s, s->n_plans) : 0;
	if (sim_chance(s, 20))
		ask.deadline = s->now + sim_below(s, NS_PER_S);
	return ask;
}

static void step_client(struct sim *s)
{
	struct cache_open ask = some_ask(s);
	uint64_t roll = sim_below(s, 100);
	uint32_t in_use;
	if (roll < 46 && s->n_leases < 40) {
		sim_send(s, 0, &ask);
	} else if (roll < 80 && s->n_leases) {
		sim_close(s, sim_below(s, s->n_leases));
	} else if (roll < 84) {
		sim_send(s, 1, &ask);
	} else if (roll < 86) {
		sim_send(s, 2, &ask);
	} else if (roll < 90) {
		cache_unpin(s->c, s->now, ask.name, ask.tier, ask.device);
	} else if (roll < 93) {
		cache_evict(s->c, s->now, ask.name, ask.tier, ask.device, &in_use);
	} else if (roll < 97 && s->n_requests) {
		const struct sim_request *r = &s->requests[sim_below(s, s->n_requests)];
		cache_cancel(s->c, s->now, r->owner, r->token);
	} else if (roll < 98) {
		sim_claim(s, ask.owner);
	} else if (roll < 99) {
		sim_owner_gone(s, ask.owner);
	}
}

static void step_world(struct sim *s)
{
	struct sim_name *n = &s->names[sim_below(s, s->n_names)];
	uint64_t cursor = 0;
	uint32_t skip = (uint32_t)sim_below(s, 30);
	switch (sim_below(s, 5)) {
	case 0:
		sim_change_source(s, n);
		break;
	case 1:
		n->missing = !n->missing && sim_chance(s, 20);
		break;
	case 2:
		while (cache_next_model(s->c, &cursor) && skip--)
			;
		cache_corrupt(s->c, s->now, cursor, (uint8_t)sim_below(s, s->config.n_tiers));
		break;
	case 3:
		sim_corrupt_and_regrant(s);
		break;
	default:
		s->now += sim_below(s, NS_PER_S / 4);
	}
}

static void step_resize(struct sim *s)
{
	uint8_t t = (uint8_t)(1 + sim_below(s, s->config.n_tiers - 1));
	s->tiers[t].capacity_bytes = 400 + sim_below(s, 1200);
	cache_tier_resize(s->c, s->now, t, s->tiers[t].capacity_bytes);
	s->over_capacity_ok = true; /* what is leased stays */
}

static void step_reconfigure(struct sim *s, const struct setup *u)
{
	static const char *const policies[] = {"cost", "lru", "fifo", "lcu", "never"};
	struct fault why;
	for (size_t t = 1; t < s->config.n_tiers; t++)
		s->tiers[t].capacity_bytes = 500 + sim_below(s, 1500);
	s->config.policy = policies[sim_below(s, ARRAY_LEN(policies))];
	s->config.half_life_ns = NS_PER_MS + sim_below(s, 5 * NS_PER_S);
	s->config.min_residency_ns = sim_below(s, NS_PER_S);
	s->config.max_names = u->max_names + (uint32_t)sim_below(s, 10);
	SIM_ASSERT(s, cache_reconfigure(s->c, &s->config, s->now, &why) == 0);
	step_resize(s);
}

static void step(struct sim *s, const struct setup *u)
{
	uint64_t roll = sim_below(s, 100);
	s->step++;
	s->now += sim_below(s, 20 * NS_PER_MS);
	if (roll < 40)
		step_client(s);
	else if (roll < 80)
		sim_work_one(s);
	else if (roll < 90)
		sim_progress(s);
	else if (roll < 95)
		cache_tick(s->c, s->now);
	else if (roll < 99)
		step_world(s);
	else if (u->reconfigure)
		step_reconfigure(s, u);
	else if (u->devices_die && sim_chance(s, 5))
		step_resize(s);
	else if (u->devices_die && sim_chance(s, 3))
		sim_lose(s, (uint8_t)(1 + sim_below(s, s->config.n_tiers - 1)));
	sim_take(s, s->lazy && sim_chance(s, 50) ? sim_below(s, 4) : SIZE_MAX);
	sim_check(s);
}

/* ---- the quiet at the end ---- */

static void work_off(struct sim *s)
{
	do {
		sim_take(s, SIZE_MAX);
		sim_check(s);
	} while (sim_work_one(s));
}

static void let_time_pass(struct sim *s)
{
	for (int i = 0; i < 60; i++) {
		uint64_t next = cache_tick(s->c, s->now);
		SIM_ASSERT(s, next > s->now);
		work_off(s);
		if (s->n_requests == 0)
			break;
		while (s->n_leases)
			sim_close(s, 0);
		s->now += NS_PER_S / 10;
	}
}

static void expect_rest(struct sim *s)
{
	uint64_t cursor = 0;
	while (cache_next_model(s->c, &cursor)) {
		struct cache_model_view v;
		SIM_ASSERT(s, cache_view(s->c, cursor, &v) == 0);
		for (size_t t = 1; t < s->config.n_tiers; t++) {
			const struct cache_copy_view *k = &v.copies[t];
			SIM_ASSERT(s, k->state == COPY_ABSENT || k->state == COPY_RESERVED || k->state == COPY_READY);
			SIM_ASSERT(s, k->leases == 0 && k->readers == 0 && k->transfer == 0 && !k->trimming && !k->growing);
		}
	}
}

static void quiet(struct sim *s)
{
	uint32_t in_use;
	s->fail_percent = s->twice_percent = 0;
	work_off(s);
	let_time_pass(s);
	SIM_ASSERT(s, s->n_requests == 0); /* each was answered */
	for (uint64_t owner = 1; owner <= SIM_OWNERS; owner++)
		sim_owner_gone(s, owner);
	work_off(s);
	for (size_t i = 0; i < s->n_names; i++)
		cache_unpin(s->c, s->now, s->names[i].text, TIER_REMOTE, CACHE_ANY_DEVICE);
	work_off(s);
	expect_rest(s);
	for (size_t i = 0; i < s->n_names; i++) {
		cache_evict(s->c, s->now, s->names[i].text, TIER_REMOTE, CACHE_ANY_DEVICE, &in_use);
		SIM_ASSERT(s, in_use == 0);
	}
	work_off(s);
	uint64_t cursor = 0; /* images without a name */
	while (cache_next_model(s->c, &cursor)) {
		for (size_t t = 1; t < s->config.n_tiers; t++)
			cache_corrupt(s->c, s->now, cursor, (uint8_t)t);
		work_off(s);
	}
	for (size_t t = 1; t < s->config.n_tiers; t++) {
		struct cache_tier_view v;
		cache_tier(s->c, (uint8_t)t, &v);
		SIM_ASSERT(s, v.used_bytes == 0 && v.copies == 0);
	}
	SIM_ASSERT(s, s->n_copies == 0);
}

static void episode(struct sim *s, const struct setup *u, uint64_t steps)
{
	start(s, u);
	if (sim_chance(s, 50))
		keep_some(s);
	if (u->disk_bytes && sim_chance(s, 50))
		adopt_some(s);
	s->fail_percent = u->fail_percent;
	s->twice_percent = 20;
	for (uint64_t i = 0; i < steps; i++)
		step(s, u);
	quiet(s);
	const struct cache_stats *stats = cache_stats(s->c);
	s->alloc_retries += stats->alloc_retries;
	s->grown += stats->grown;
	s->regrown += stats->regrown;
	s->given_up += stats->grows_given_up;
	cache_free(&s->c);
}

static void where_it_stopped(void)
{
	const struct sim *s = &the_sim;
	printf("Bail out! %s: step %" PRIu64 ", TRIMS_SEED=%" PRIu64 "\n", s->label, s->step, s->seed);
	fflush(stdout);
}

static uint64_t number(const char *text, uint64_t otherwise)
{
	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
	struct sim *s = &the_sim;
	uint64_t steps = number(getenv("SIM_STEPS"), 225000);
	const char *only = NULL;
	s->seed = number(getenv("TRIMS_SEED"), 0);
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--steps") == 0)
			steps = number(argv[i + 1], steps);
		else if (strcmp(argv[i], "--seed") == 0)
			s->seed = number(argv[i + 1], 0);
		else if (strcmp(argv[i], "--only") == 0)
			only = argv[i + 1];
	}
	if (s->seed == 0)
		s->seed = (uint64_t)time(NULL);
	printf("# TRIMS_SEED=%" PRIu64 "\n1..%zu\n", s->seed, ARRAY_LEN(setups));
	check_set_panic_hook(where_it_stopped);
	for (size_t i = 0; i < ARRAY_LEN(setups); i++) {
		uint64_t share = steps / ARRAY_LEN(setups), done = 0, answered = s->answered, retries = s->alloc_retries;
		s->random = s->seed + i;
		s->step = 0;
		for (; done < share && (!only || strcmp(only, setups[i].label) == 0); done += EPISODE_STEPS)
			episode(s, &setups[i], MIN(share - done, (uint64_t)EPISODE_STEPS));
		retries = s->alloc_retries - retries;
		printf("ok %zu - %s: %" PRIu64 " steps, %" PRIu64 " requests answered, %" PRIu64
			" times memory was asked for again%s\n", i + 1, setups[i].label, s->step, s->answered - answered, retries,
			done ? "" : " # SKIP not asked for");
		fflush(stdout);
	}
	printf("# %" PRIu64 " tails trimmed, %" PRIu64 " heads completed, %" PRIu64 " copies grown, %" PRIu64 " growths given up\n",
		s->trimmed, s->regrown, s->grown, s->given_up);
	/* A way that is never taken proves nothing. */
	SIM_ASSERT(s, (s->alloc_retries && s->trimmed && s->regrown && s->grown && s->given_up) || only || steps < 100000);
	return 0;
}
