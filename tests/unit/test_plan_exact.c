/* test_plan_exact.c - the planner against every plan there is, and against every other policy. */
#include "tests/unit/plan_fixture.h"

#include <errno.h>

#define PROFILES 1000

/* ---- every plan there is ---- */

/* Goes through all plans of the space that plan.h describes, layer by layer.  The run so far is computed anew from the begin of
 * the open piece whenever that gets longer; a beginning that takes as long as the best plan is not gone on with. */
struct all_plans {
	const struct plan_fixture *f;
	uint8_t links[PLAN_MAX_PARTS];
	unsigned n_links;
	uint8_t how[FIXTURE_LAYERS];
	uint64_t best, bytes, memory, plans;
};

/* Where a beginning of a plan has led to. */
struct beginning {
	unsigned part, used;          /* indices and bits of usable links */
	bool open;                    /* the last piece, so that a layer can be joined to it */
	uint32_t piece;               /* its first layer */
	uint64_t piece_begin, piece_ns, run_before; /* on its link, overhead included; the run before its first layer */
	uint64_t charged;             /* behind it */
	uint64_t run;
};

static bool is_owed(const struct all_plans *a, uint32_t i)
{
	const struct plan_layer *l = a->f->layers;
	uint32_t first = l[i].same_as ? l[i].same_as - 1 : i;
	for (uint32_t k = first; k < i; k++)
		if ((k == first || l[k].same_as == first + 1) && plan_is_load(a->how[k]))
			return true;
	return l[i].bytes == 0;
}

static uint64_t runs_ns(const struct all_plans *a, uint32_t i)
{
	return a->how[i] == PLAN_DHA ? a->f->layers[i].dha_ns : a->f->layers[i].exec_ns;
}

static void go_on(struct all_plans *a, uint32_t i, struct beginning b);

/* With the open piece as long as it is now, and layer i in it. */
static void load(struct all_plans *a, uint32_t i, struct beginning b)
{
	const struct plan_machine *m = &a->f->machine;
	unsigned link = a->links[b.part];
	uint64_t hop = b.part ? ratio_up(m->chunk_bytes, NS_PER_S, m->links[link].hop_bytes_per_s) : 0;
	b.run = MAX(b.run_before, b.piece_begin + b.piece_ns + hop);
	for (uint32_t k = b.piece; k <= i; k++)
		b.run += runs_ns(a, k);
	a->bytes += a->f->layers[i].bytes;
	if (a->bytes <= a->memory)
		go_on(a, i + 1, b);
	a->bytes -= a->f->layers[i].bytes;
}

static void load_first(struct all_plans *a, uint32_t i, struct beginning b, unsigned part)
{
	unsigned link = a->links[part];
	uint64_t frontier = part == b.part ? b.piece_begin + b.piece_ns + b.charged : 0;
	a->how[i] = (uint8_t)link;
	b.part = part;
	b.used |= 1u << part;
	b.open = true;
	b.piece = i;
	b.piece_begin = frontier;
	b.piece_ns = bytes_ns(a->f, i, link);
	if (a->f->layers[i].bytes < a->f->machine.chunk_bytes)
		b.piece_ns += a->f->machine.links[link].overhead_ns;
	b.run_before = b.run;
	b.charged = 0;
	load(a, i, b);
}

static void load_joined(struct all_plans *a, uint32_t i, struct beginning b)
{
	unsigned link = a->links[b.part];
	a->how[i] = (uint8_t)(link | PLAN_JOIN);
	b.piece_ns += bytes_ns(a->f, i, link);
	load(a, i, b);
}

static void go_on(struct all_plans *a, uint32_t i, struct beginning b)
{
	if (b.run >= a->best)
		return;
	if (i == a->f->profile.n_layers) {
		a->best = b.run;
		return;
	}
	a->plans++;
	if (is_owed(a, i)) {
		a->how[i] = PLAN_NOTHING;
		b.run += runs_ns(a, i);
		go_on(a, i + 1, b);
		return;
	}
	bool shares = a->f->layers[i].same_as; /* then the first is read from the host, and so is this, or it would be owed */
	if (a->f->machine.dha && a->f->layers[i].dha_ns) {
		struct beginning c = b;
		a->how[i] = PLAN_DHA;
		c.open = false;
		c.run += runs_ns(a, i);
		c.charged += b.part == 0 ? traffic_ns(a->f, i) : 0;
		go_on(a, i + 1, c);
	}
	if (shares)
		return;
	if (b.open)
		load_joined(a, i, b);
	for (unsigned k = 0; k < a->n_links; k++)
		if (k == b.part || (k > 0 && !(b.used & 1u << k)))
			load_first(a, i, b, k);
}

/* UINT64_MAX: there is none. */
static uint64_t best_of_all(const struct plan_fixture *f)
{
	struct all_plans a = {.f = f, .best = UINT64_MAX, .memory = f->machine.memory_bytes ? f->machine.memory_bytes : UINT64_MAX};
	a.n_links = plan_usable_links(&f->machine, a.links);
	go_on(&a, 0, (struct beginning){.used = 1});
	return a.best;
}

START_TEST(equals_exhaustive_search)
{
	uint64_t seed = unit_seed(), impossible = 0;
	for (unsigned i = 0; i < PROFILES; i++) {
		struct plan_fixture f;
		struct plan_figures got, again;
		uint64_t ready[FIXTURE_LAYERS];
		fixture_random(&f, 1 + i % 12, 1 + i / 12 % 3, &seed);
		uint64_t best = best_of_all(&f);
		int r = plan_make(PLAN_BY_BEST, &f.profile, &f.machine, f.how, &got);
		if (best == UINT64_MAX) {
			ck_assert_msg(r == -ENOSPC, "profile %u: there is no plan, but %d", i, r);
			impossible++;
			continue;
		}
		ck_assert_msg(r == 0, "profile %u: %d", i, r);
		ck_assert_msg(got.total_ns == best, "profile %u: %" PRIu64 " instead of %" PRIu64, i, got.total_ns, best);
		ck_assert(got.exact && got.bound_ns == best);
		ck_assert_int_eq(plan_predict(&f.profile, &f.machine, f.how, 0, PLAN_CHARGED, NULL, &again), 0);
		ck_assert_uint_eq(again.total_ns, best);
		ck_assert_uint_eq(second_total(&f, f.how, ready), best);
	}
	ck_assert_uint_lt(impossible, PROFILES / 4);
}
END_TEST

/* ---- every other policy ---- */

START_TEST(no_policy_is_better)
{
	uint64_t seed = unit_seed() + 1;
	for (unsigned i = 0; i < PROFILES; i++) {
		struct plan_fixture f;
		struct plan_figures best, other;
		fixture_random(&f, (uint32_t)between(&seed, 1, FIXTURE_LAYERS), (uint32_t)between(&seed, 1, 4), &seed);
		int possible = plan_make(PLAN_BY_BEST, &f.profile, &f.machine, f.how, &best);
		ck_assert(possible == 0 || possible == -ENOSPC);
		for (unsigned p = 0; p < PLAN_POLICIES; p++) {
			int r = plan_make((enum plan_policy)p, &f.profile, &f.machine, f.how, &other);
			ck_assert_msg(r == 0 || r == -ENOSPC, "%s: %d", plan_policy_name(p), r);
			ck_assert_msg(r || possible == 0, "%s finds room", plan_policy_name(p));
			ck_assert_msg(r || other.total_ns >= best.total_ns, "profile %u: %s takes %" PRIu64 ", best %" PRIu64, i,
				plan_policy_name(p), other.total_ns, best.total_ns);
			ck_assert_msg(r || other.bound_ns <= other.total_ns, "%s", plan_policy_name(p));
		}
	}
}
END_TEST

static void against_others(Suite *suite)
{
	UNIT_CASE(suite, "against_others", equals_exhaustive_search, no_policy_is_better);
}

UNIT_MAIN("plan_exact", against_others)
