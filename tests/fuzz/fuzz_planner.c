/* fuzz_planner.c - bytes as a profile, a machine and a plan: what is accepted is planned by every policy, what they make is
 * accepted, and none is better than the best; any plan is refused or has a timeline.
 * The first 4 bytes choose the machine, then 6 are a layer and its place in the plan. */
#include "cache/plan.h"
#include "shared/check.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>

#define LAYERS 24

static struct plan_machine machine_of(const uint8_t b[4])
{
	struct plan_machine m = {.n_links = 1 + b[0] % 5, .target = b[0] >> 4, .dha = b[1] & 1, .chunk_bytes = (uint64_t)b[1] << (b[2] & 31),
		.memory_bytes = (uint64_t)b[3] << (b[2] >> 3)};
	for (uint32_t k = 0; k < m.n_links; k++)
		m.links[k] = (struct plan_link){.bytes_per_s = 1 + ((uint64_t)(b[2] ^ k) << (b[3] & 31)), .overhead_ns = b[1] * k,
			.hop_bytes_per_s = (uint64_t)(b[3] ^ k) << (b[1] & 31), .group = b[2] & 64 ? k : k / 2, .busy = b[1] >> k & 2};
	return m;
}

/* A figure of up to 2^62, few bits of it. */
static uint64_t figure(uint8_t b)
{
	return (uint64_t)(b & 7) << (b >> 3) << (b >> 3);
}

static void check_policies(const struct plan_profile *p, const struct plan_machine *m)
{
	uint8_t how[LAYERS];
	struct plan_figures best, other, again;
	int possible = plan_make(PLAN_BY_BEST, p, m, how, &best);
	ASSERT(possible == 0 || possible == -ENOSPC || possible == -EINVAL);
	for (unsigned i = 0; i < PLAN_POLICIES; i++) {
		uint32_t layers;
		uint64_t bytes;
		int r = plan_make((enum plan_policy)i, p, m, how, &other);
		ASSERT(r == 0 || r == -ENOSPC || (r == -EINVAL && possible == r));
		if (r)
			continue;
		ASSERT(possible == 0 && best.total_ns <= other.total_ns && other.bound_ns <= other.total_ns);
		ASSERT(plan_predict(p, m, how, 0, PLAN_CHARGED, NULL, &again) == 0 && again.total_ns == other.total_ns);
		ASSERT(plan_keep(p, m, how, &layers, &bytes) == 0 && layers <= p->n_layers);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plan_layer layers[LAYERS];
	struct plan_step steps[LAYERS];
	struct plan_figures figures;
	uint8_t how[LAYERS];
	struct plan_profile p = {layers, 0};
	if (size < 4)
		return 0;
	struct plan_machine m = machine_of(data);
	for (const uint8_t *b = data + 4; (size_t)(b - data) + 6 <= size && p.n_layers < LAYERS; b += 6) {
		how[p.n_layers] = b[5] & 1 ? PLAN_DHA : b[5] & 2 ? PLAN_NOTHING : (uint8_t)(b[5] >> 2);
		how[p.n_layers] = (uint8_t)(how[p.n_layers] | (b[5] & 128));
		layers[p.n_layers++] = (struct plan_layer){.bytes = figure(b[0]), .exec_ns = figure(b[1]), .dha_ns = figure(b[2]),
			.touched_bytes = figure(b[3]), .copy_ns = b[4] & 64 ? figure(b[1] ^ b[4]) : 0,
			.same_as = b[4] & 128 ? b[4] & 31 : 0};
	}
	if (plan_check_profile(&p, NULL) || plan_check_machine(&m)) {
		ASSERT(plan_predict(&p, &m, how, 0, PLAN_CHARGED, steps, &figures) == -EINVAL);
		return 0;
	}
	int r = plan_predict(&p, &m, how, data[0] % LAYERS, PLAN_CHARGED, steps, &figures);
	ASSERT(r == 0 || r == -EDOM || r == -EINVAL);
	check_policies(&p, &m);
	return 0;
}
