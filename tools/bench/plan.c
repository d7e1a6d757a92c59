/* plan.c - trims-bench plan: how long the planner takes for 1,000 layers, against DeepPlan's greedy planner.  Two kinds of profile: the
 * blocks of a transformer, and layers of random sizes for which reading from the host is about as good as loading. */
#include "cache/plan.h"
#include "shared/check.h"
#include "tools/bench/bench.h"
#include "tools/random.h"

#include <stdlib.h>

#define LAYERS 1000
#define ROUNDS 15

static uint64_t draw(uint64_t *seed, uint64_t low, uint64_t high)
{
	return low + random_next(seed) % (high - low + 1);
}

static void set_layer(struct plan_layer *l, uint64_t bytes, uint64_t exec_ns, uint64_t touched)
{
	*l = (struct plan_layer){.bytes = bytes, .exec_ns = exec_ns, .touched_bytes = touched,
		.dha_ns = exec_ns + touched / 12 + 2 * NS_PER_US};
}

/* An embedding, then blocks of BERT-Base's shape. */
static void make_blocks(struct plan_layer *layers)
{
	static const struct { uint64_t bytes, exec_us, times; } block[] = {
		{2362368, 55, 3}, {2362368, 55, 3}, {2362368, 55, 3}, {2362368, 80, 3}, {6144, 8, 384}, {9449472, 220, 3},
		{9440256, 210, 3}, {6144, 8, 384}};
	set_layer(&layers[0], 93763584, 13 * NS_PER_US, 1179648);
	for (unsigned i = 1; i < LAYERS; i++) {
		unsigned k = (i - 1) % ARRAY_LEN(block);
		set_layer(&layers[i], block[k].bytes, block[k].exec_us * NS_PER_US, block[k].bytes * block[k].times);
	}
}

static void make_random(struct plan_layer *layers)
{
	uint64_t seed = 1;
	for (unsigned i = 0; i < LAYERS; i++) {
		uint64_t bytes = draw(&seed, 12, 2400) * 1000;
		set_layer(&layers[i], bytes, draw(&seed, 5, 60) * NS_PER_US, bytes / 100 * draw(&seed, 1, 200));
	}
}

static double plan_ms(enum plan_policy policy, const struct plan_profile *p, const struct plan_machine *m, uint8_t *how,
	struct plan_figures *out)
{
	uint64_t begin = bench_now_ns();
	int r = plan_make(policy, p, m, how, out);
	ASSERT(r == 0);
	return (double)(bench_now_ns() - begin) / 1e6;
}

static json_t *measure(const struct bench_options *o, const struct plan_layer *layers, unsigned n_links, double *worst_ms,
	double *worst_ratio)
{
	static uint8_t how[LAYERS];
	const struct plan_profile p = {layers, LAYERS};
	struct plan_machine m = {.n_links = n_links, .chunk_bytes = MIB, .dha = true};
	struct plan_figures best, greedy;
	struct samples ms = {0}, yard = {0};
	for (unsigned k = 0; k < n_links; k++)
		m.links[k] = (struct plan_link){12 * NS_PER_S, 8 * NS_PER_US, 40 * NS_PER_S, k, false};
	for (unsigned i = 0; i < (o->rounds ? o->rounds : ROUNDS); i++) {
		samples_add(&yard, plan_ms(PLAN_BY_DEEPPLAN, &p, &m, how, &greedy));
		samples_add(&ms, plan_ms(PLAN_BY_BEST, &p, &m, how, &best));
	}
	double t = samples_median(&ms), y = samples_median(&yard);
	*worst_ms = MAX(*worst_ms, t);
	*worst_ratio = MAX(*worst_ratio, t / y);
	samples_fini(&ms);
	samples_fini(&yard);
	return json_pack("{s:f, s:f, s:i, s:b, s:f, s:f, s:f}", "ms", t, "greedy_ms", y, "states", (int)best.states, "exact",
		(int)best.exact, "bound_below", 1 - (double)best.bound_ns / (double)best.total_ns, "total_ms",
		(double)best.total_ns / 1e6, "greedy_total_ms", (double)greedy.total_ns / 1e6);
}

json_t *bench_plan(const struct bench_options *o)
{
	static const struct {
		const char *name;
		void (*make)(struct plan_layer *);
	} kinds[] = {{"blocks", make_blocks}, {"random", make_random}};
	static const char *const counts[] = {NULL, "one_link", "two_links", "three_links", "four_links"};
	struct plan_layer *layers = calloc(LAYERS, sizeof *layers);
	json_t *result = json_object();
	ASSERT(layers);
	for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
		json_t *kind = json_object();
		double ms = 0, ratio = 0;
		kinds[k].make(layers);
		for (unsigned n = 1; n < ARRAY_LEN(counts); n++)
			json_object_set_new(kind, counts[n], measure(o, layers, n, &ms, &ratio));
		json_object_set_new(kind, "ms", json_real(ms));
		json_object_set_new(kind, "ratio", json_real(ratio));
		json_object_set_new(result, kinds[k].name, kind);
	}
	free(layers);
	return result;
}
