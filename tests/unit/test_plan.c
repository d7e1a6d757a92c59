/* test_plan.c - what plans may be, their timeline, and the policies one by one.  test_plan_exact.c has the comparisons. */
#include "tests/unit/plan_fixture.h"

#include <errno.h>

#define US NS_PER_US

/* One link of 1 byte a ns, a second one with a hop as fast, no overhead, chunks of a byte. */
static void setup(struct plan_fixture *f, uint32_t n)
{
	*f = (struct plan_fixture){.profile = {f->layers, n}, .machine = {.n_links = 2, .chunk_bytes = 1, .dha = true}};
	for (uint32_t k = 0; k < 2; k++)
		f->machine.links[k] = (struct plan_link){.bytes_per_s = NS_PER_S, .hop_bytes_per_s = NS_PER_S, .group = k};
}

static void layer(struct plan_fixture *f, uint32_t i, uint64_t load, uint64_t exec, uint64_t dha, uint64_t touched)
{
	f->layers[i] = (struct plan_layer){.bytes = load, .exec_ns = exec, .dha_ns = dha, .touched_bytes = touched};
}

static struct plan_figures predict(const struct plan_fixture *f, const uint8_t *how, uint32_t resident, struct plan_step *steps)
{
	struct plan_figures out;
	ck_assert_int_eq(plan_predict(&f->profile, &f->machine, how, resident, PLAN_CHARGED, steps, &out), 0);
	return out;
}

static struct plan_figures make(struct plan_fixture *f, enum plan_policy policy)
{
	struct plan_figures out;
	ck_assert_int_eq(plan_make(policy, &f->profile, &f->machine, f->how, &out), 0);
	return out;
}

static void must_not_be(const struct plan_fixture *f, uint8_t a, uint8_t b, uint8_t c)
{
	struct plan_figures out;
	ck_assert_int_eq(plan_predict(&f->profile, &f->machine, (uint8_t[]){a, b, c}, 0, PLAN_CHARGED, NULL, &out), -EDOM);
}

/* ---- the timeline ---- */

START_TEST(a_layer_runs_when_it_is_there)
{
	struct plan_fixture f;
	struct plan_step s[3];
	setup(&f, 3);
	layer(&f, 0, 100, 10, 0, 0);
	layer(&f, 1, 5, 50, 0, 0);
	layer(&f, 2, 30, 10, 0, 0);
	struct plan_figures out = predict(&f, (uint8_t[]){0, 0, 0}, 0, s);
	ck_assert_uint_eq(out.total_ns, 170); /* 100, 10, 50 (the third arrives at 135), 10 */
	ck_assert_uint_eq(out.stall_ns, 100);
	ck_assert_uint_eq(s[2].load_begin_ns, 105);
	ck_assert_uint_eq(s[2].ready_ns, 135);
	ck_assert_uint_eq(s[2].exec_begin_ns, 160);
	ck_assert_uint_eq(out.resident_bytes, 135);
	ck_assert_uint_eq(out.pieces, 3);
}
END_TEST

START_TEST(traffic_from_the_host_costs_the_link)
{
	struct plan_fixture f;
	struct plan_figures uncharged;
	struct plan_step s[2];
	setup(&f, 2);
	layer(&f, 0, 100, 10, 60, 40);
	layer(&f, 1, 100, 10, 0, 0);
	const uint8_t how[] = {PLAN_DHA, 0};
	ck_assert_uint_eq(predict(&f, how, 0, s).total_ns, 150); /* 40 + 100, then 10 */
	ck_assert_uint_eq(s[0].load_end_ns, 40);
	ck_assert_uint_eq(s[1].stall_ns, 80);
	ck_assert_int_eq(plan_predict(&f.profile, &f.machine, how, 0, PLAN_UNCHARGED, NULL, &uncharged), 0);
	ck_assert_uint_eq(uncharged.total_ns, 110);
	f.layers[0].touched_bytes = 1000; /* cannot have taken longer than it took */
	ck_assert_uint_eq(predict(&f, how, 0, s).total_ns, 170);
}
END_TEST

START_TEST(a_piece_is_there_when_all_of_it_is)
{
	struct plan_fixture f;
	struct plan_step s[3];
	setup(&f, 3);
	f.machine.chunk_bytes = 1000;
	f.machine.links[0].overhead_ns = 7;
	layer(&f, 0, 10, 5, 0, 0);
	layer(&f, 1, 10, 5, 0, 0);
	layer(&f, 2, 10, 5, 0, 0);
	ck_assert_uint_eq(predict(&f, (uint8_t[]){0, PLAN_JOIN, PLAN_JOIN}, 0, s).total_ns, 52);
	ck_assert_uint_eq(s[0].ready_ns, 37);
	ck_assert_uint_eq(s[1].load_begin_ns, 17);
	ck_assert_uint_eq(predict(&f, (uint8_t[]){0, 0, PLAN_JOIN}, 0, s).total_ns, 54); /* 17; 44, then 5 and 5 */
	f.machine.chunk_bytes = 10; /* no layer is less than a chunk: the overhead is hidden */
	ck_assert_uint_eq(predict(&f, (uint8_t[]){0, 0, 0}, 0, s).total_ns, 35);
}
END_TEST

START_TEST(another_gpus_link_runs_beside)
{
	struct plan_fixture f;
	struct plan_step s[2];
	setup(&f, 2);
	f.machine.chunk_bytes = 20;
	f.machine.links[1].hop_bytes_per_s = NS_PER_S / 2;
	layer(&f, 0, 100, 10, 0, 0);
	layer(&f, 1, 100, 10, 0, 0);
	struct plan_figures out = predict(&f, (uint8_t[]){0, 1}, 0, s);
	ck_assert_uint_eq(s[1].load_end_ns, 200); /* no faster than the hop */
	ck_assert_uint_eq(s[1].ready_ns, 240);    /* and a chunk's hop later */
	ck_assert_uint_eq(out.total_ns, 250);
	ck_assert_uint_eq(out.link_bytes[1], 100);
}
END_TEST

START_TEST(what_is_resident_is_not_loaded)
{
	struct plan_fixture f;
	uint32_t layers;
	uint64_t bytes;
	setup(&f, 3);
	f.machine.chunk_bytes = 1000;
	layer(&f, 0, 100, 40, 0, 0);
	layer(&f, 1, 30, 20, 0, 0);
	layer(&f, 2, 50, 5, 0, 0);
	const uint8_t how[] = {0, PLAN_JOIN, PLAN_JOIN};
	ck_assert_uint_eq(predict(&f, how, 3, NULL).total_ns, 65);
	ck_assert_uint_eq(predict(&f, how, 2, NULL).total_ns, 65); /* 50 < 60 */
	ck_assert_uint_eq(predict(&f, how, 1, NULL).total_ns, 105); /* the piece of the last two: 80 */
	ck_assert_int_eq(plan_keep(&f.profile, &f.machine, how, &layers, &bytes), 0);
	ck_assert_uint_eq(layers, 2);
	ck_assert_uint_eq(bytes, 130);
}
END_TEST

/* Whatever the plan: keeping one layer fewer than plan_keep() says stalls, and more never takes longer. */
START_TEST(keeping_more_never_hurts)
{
	uint64_t seed = unit_seed();
	for (unsigned i = 0; i < 300; i++) {
		struct plan_fixture f;
		struct plan_figures out;
		uint32_t layers;
		uint64_t bytes, before = UINT64_MAX;
		fixture_random(&f, (uint32_t)between(&seed, 1, 20), (uint32_t)between(&seed, 1, 3), &seed);
		if (plan_make((enum plan_policy)between(&seed, 0, PLAN_POLICIES - 1), &f.profile, &f.machine, f.how, &out))
			continue;
		ck_assert_int_eq(plan_keep(&f.profile, &f.machine, f.how, &layers, &bytes), 0);
		for (uint32_t k = 0; k <= f.profile.n_layers; k++) {
			struct plan_figures rest = predict(&f, f.how, k, NULL);
			ck_assert_uint_le(rest.total_ns, before);
			ck_assert_int_eq(rest.stall_ns == 0, k >= layers);
			before = rest.total_ns;
		}
	}
}
END_TEST

/* Any plan of the space, by two programs. */
START_TEST(a_second_timeline_agrees)
{
	uint64_t seed = unit_seed() + 2, compared = 0;
	for (unsigned i = 0; i < 20000; i++) {
		struct plan_fixture f;
		struct plan_step steps[FIXTURE_LAYERS];
		struct plan_figures out;
		uint64_t ready[FIXTURE_LAYERS];
		uint8_t part = 0;
		fixture_random(&f, (uint32_t)between(&seed, 1, 8), (uint32_t)between(&seed, 1, 3), &seed);
		for (uint32_t l = 0; l < f.profile.n_layers; l++) {
			part = one_in(&seed, 4) ? (uint8_t)between(&seed, 0, f.machine.n_links - 1) : part;
			f.how[l] = one_in(&seed, 3) ? PLAN_DHA : one_in(&seed, 8) || !f.layers[l].bytes ? PLAN_NOTHING :
				(uint8_t)(part | (one_in(&seed, 2) ? PLAN_JOIN : 0));
		}
		if (plan_predict(&f.profile, &f.machine, f.how, 0, PLAN_CHARGED, steps, &out))
			continue;
		compared++;
		ck_assert_uint_eq(out.total_ns, second_total(&f, f.how, ready));
		for (uint32_t l = 0; l < f.profile.n_layers; l++)
			ck_assert(!plan_is_load(f.how[l]) || ready[l] == steps[l].ready_ns);
	}
	ck_assert_uint_gt(compared, 500);
}
END_TEST

/* ---- the space ---- */

START_TEST(plans_outside_are_refused)
{
	struct plan_fixture f;
	setup(&f, 3);
	layer(&f, 0, 10, 5, 20, 1);
	layer(&f, 1, 10, 5, 0, 0);
	layer(&f, 2, 10, 5, 20, 1);
	predict(&f, (uint8_t[]){PLAN_DHA, 0, PLAN_DHA}, 0, NULL);
	predict(&f, (uint8_t[]){1, 1 | PLAN_JOIN, 1}, 0, NULL);
	must_not_be(&f, 0, PLAN_DHA, 0);             /* cannot be read from the host */
	must_not_be(&f, 0, PLAN_NOTHING, 0);         /* has bytes */
	must_not_be(&f, 0, 1, 0);                    /* a second part over one link */
	must_not_be(&f, 1, 0, 0);                    /* the target's part is the first */
	must_not_be(&f, PLAN_JOIN, 0, 0);            /* to nothing */
	must_not_be(&f, 0, 0, 1 | PLAN_JOIN);        /* to a piece on another link */
	must_not_be(&f, 0, 2, 0);                    /* no such link */
	must_not_be(&f, 0, 0x10, 0);                 /* no such bit */
	f.machine.links[1].busy = true;
	must_not_be(&f, 0, 1, 1);
	f.machine.links[1].busy = false;
	f.machine.links[1].group = 0;
	must_not_be(&f, 0, 1, 1);
	f.machine.links[1].group = 1;
	f.machine.dha = false;
	must_not_be(&f, PLAN_DHA, 0, 0);
	f.machine.dha = true;
	f.machine.memory_bytes = 29;
	must_not_be(&f, 0, 0, 0);
	predict(&f, (uint8_t[]){PLAN_DHA, 0, 0}, 0, NULL);
	layer(&f, 2, 0, 5, 0, 0);
	must_not_be(&f, PLAN_DHA, 0, 0);             /* nothing to load */
}
END_TEST

START_TEST(links_are_chosen_apart)
{
	struct plan_machine m = {.n_links = 6, .target = 2, .chunk_bytes = 1};
	uint8_t links[PLAN_MAX_PARTS];
	for (uint32_t k = 0; k < 6; k++)
		m.links[k] = (struct plan_link){.bytes_per_s = 10 + k, .hop_bytes_per_s = 100, .group = k / 2};
	ck_assert_uint_eq(plan_usable_links(&m, links), 3); /* not 3, which is beside the target; the faster of 0, 1 and of 4, 5 */
	ck_assert_uint_eq(links[0], 2);
	ck_assert_uint_eq(links[1], 5);
	ck_assert_uint_eq(links[2], 1);
	m.links[5].busy = true;
	m.links[1].hop_bytes_per_s = 0;
	ck_assert_uint_eq(plan_usable_links(&m, links), 3);
	ck_assert_uint_eq(links[1], 4);
	ck_assert_uint_eq(links[2], 0);
}
END_TEST

START_TEST(shared_bytes_are_loaded_once)
{
	struct plan_fixture f;
	setup(&f, 3);
	f.machine.n_links = 1;
	layer(&f, 0, 1000, 1, 3, 2);    /* an embedding */
	layer(&f, 1, 100, 200, 0, 0);
	layer(&f, 2, 1000, 50, 5000, 4000); /* the output layer: the same bytes */
	f.layers[2].same_as = 1;
	struct plan_figures all = make(&f, PLAN_BY_PIPELINED);
	ck_assert_uint_eq(all.resident_bytes, 1100);
	ck_assert_uint_eq(all.total_ns, 1000 + 100 + 200 + 50);
	ck_assert_uint_eq(f.how[2], PLAN_NOTHING);
	must_not_be(&f, PLAN_DHA, 0, 0); /* to be read now and loaded for later: a tensor has one place */
	must_not_be(&f, PLAN_DHA, 0, PLAN_NOTHING);
	ck_assert_uint_eq(make(&f, PLAN_BY_BEST).total_ns, all.total_ns);
	ck_assert_uint_eq(make(&f, PLAN_BY_DEEPPLAN).total_ns, all.total_ns); /* it has never heard of such layers */
	f.layers[2].dha_ns = 400;
	struct plan_figures best = make(&f, PLAN_BY_BEST);
	ck_assert_mem_eq(f.how, ((uint8_t[]){PLAN_DHA, 0, PLAN_DHA}), 3);
	ck_assert_uint_eq(best.total_ns, 2 + 100 + 200 + 400);
	ck_assert_uint_eq(best.resident_bytes, 100);
}
END_TEST

START_TEST(bad_input_is_refused)
{
	struct plan_fixture f;
	struct plan_figures out;
	uint32_t at;
	setup(&f, 3);
	for (uint32_t i = 0; i < 3; i++)
		layer(&f, i, 10, 5, 20, 1);
	ck_assert_int_eq(plan_check_profile(&f.profile, &at), 0);
	f.layers[1].exec_ns = PLAN_MAX_NS + 1;
	ck_assert_int_eq(plan_check_profile(&f.profile, &at), -EINVAL);
	ck_assert_uint_eq(at, 1);
	f.layers[1].exec_ns = 5;
	f.layers[1].same_as = 2; /* itself */
	ck_assert_int_eq(plan_check_profile(&f.profile, &at), -EINVAL);
	f.layers[1].same_as = 1;
	f.layers[2].same_as = 2; /* of one that is the same as another */
	ck_assert_int_eq(plan_check_profile(&f.profile, &at), -EINVAL);
	ck_assert_uint_eq(at, 2);
	f.layers[1].same_as = f.layers[2].same_as = 0;
	f.machine.links[0].bytes_per_s = 0;
	ck_assert_int_eq(plan_check_machine(&f.machine), -EINVAL);
	f.machine.links[0].bytes_per_s = 1;
	f.layers[0].bytes = PLAN_MAX_NS / NS_PER_S + 1; /* for longer than a layer may take */
	ck_assert_int_eq(plan_check_machine(&f.machine), 0);
	ck_assert_int_eq(plan_make(PLAN_BY_BEST, &f.profile, &f.machine, f.how, &out), -EINVAL);
	f.profile.n_layers = 0;
	ck_assert_int_eq(plan_check_profile(&f.profile, &at), -EINVAL);
}
END_TEST

/* ---- policies ---- */

/* DeepPlan's break: the first candidate is overloaded, so the second, which would take nearly all, is never looked at. */
START_TEST(deepplan_stops_at_the_first_that_does_not_qualify)
{
	struct plan_fixture f;
	setup(&f, 3);
	f.machine.n_links = 1;
	layer(&f, 0, 10 * US, 100 * US, 300 * US, 0);
	layer(&f, 1, 8400 * US, 1000 * US, 1300 * US, 0);
	layer(&f, 2, 100 * US, 100 * US, 0, 0);
	ck_assert_uint_eq(make(&f, PLAN_BY_DEEPPLAN_DHA).total_ns, 9510 * US);
	ck_assert_uint_eq(make(&f, PLAN_BY_BEST).total_ns, 1510 * US);
	f.layers[0].dha_ns = 0; /* the first candidate gone, it goes on */
	ck_assert_uint_eq(make(&f, PLAN_BY_DEEPPLAN_DHA).total_ns, 1510 * US);
}
END_TEST

START_TEST(deepplan_splits_by_bytes)
{
	struct plan_fixture f;
	setup(&f, 4);
	for (uint32_t i = 0; i < 4; i++)
		layer(&f, i, i == 2 ? 30 : 10, i == 3 ? 100 : 1, 0, 0);
	make(&f, PLAN_BY_DEEPPLAN_PT); /* 60 in all: the third overflows the first half */
	ck_assert_mem_eq(f.how, ((uint8_t[]){0, 0, 1, 1}), 4);
}
END_TEST

START_TEST(policies_are_a_table)
{
	for (unsigned i = 0; i < PLAN_POLICIES; i++) {
		ck_assert_int_eq(plan_policy_find(plan_policy_name(i)), i);
		ck_assert_ptr_nonnull(plan_policy_doc(i));
	}
	ck_assert_int_eq(plan_policy_find("nothing of the kind"), PLAN_POLICIES);
	ck_assert_ptr_null(plan_policy_name(PLAN_POLICIES));
}
END_TEST

/* ---- large ones ---- */

/* A thousand layers of any kind stay within the programme's room, and say how far off they may be at most. */
START_TEST(a_thousand_layers)
{
	uint64_t seed = unit_seed() + 3;
	struct plan_layer *layers = calloc(1000, sizeof *layers);
	uint8_t *how = calloc(1000, 1);
	for (unsigned round = 0; round < 6; round++) {
		struct plan_machine m = {.n_links = 1 + round % 4, .chunk_bytes = MIB, .dha = true};
		struct plan_profile p = {layers, 1000};
		struct plan_figures best, other;
		uint64_t bytes = 0;
		for (uint32_t k = 0; k < m.n_links; k++)
			m.links[k] = (struct plan_link){12 * NS_PER_S, 8 * US, 40 * NS_PER_S, k, false};
		for (uint32_t i = 0; i < 1000; i++) {
			uint64_t load = between(&seed, 1, round < 3 ? 200 : 2000) * US, exec = between(&seed, 5, 60) * US;
			uint64_t touched = load * 12 / 100 * between(&seed, 1, 200);
			layers[i] = (struct plan_layer){.bytes = load * 12, .exec_ns = exec, .touched_bytes = touched,
				.dha_ns = exec + touched / 12 + 2 * US};
			bytes += load * 12;
		}
		m.memory_bytes = round == 5 ? bytes / 10 * 7 : 0;
		ck_assert_int_eq(plan_make(PLAN_BY_BEST, &p, &m, how, &best), 0);
		/* Four searches of at most five narrow passes and a wide one. */
		ck_assert_uint_le(best.states, 4 * (2 * PLAN_MAX_STATES));
		ck_assert_uint_le(best.bound_ns, best.total_ns);
		ck_assert(!best.exact || best.bound_ns == best.total_ns);
		ck_assert_msg(round == 5 || best.bound_ns > best.total_ns / 100 * 95, "round %u: %" PRIu64 " of %" PRIu64, round,
			best.bound_ns, best.total_ns);
		for (unsigned k = 0; k < PLAN_POLICIES; k++)
			if (plan_make((enum plan_policy)k, &p, &m, how, &other) == 0)
				ck_assert_uint_ge(other.total_ns, best.total_ns);
	}
	free(layers);
	free(how);
}
END_TEST

static void timeline(Suite *suite)
{
	UNIT_CASE(suite, "timeline", a_layer_runs_when_it_is_there, traffic_from_the_host_costs_the_link,
		a_piece_is_there_when_all_of_it_is, another_gpus_link_runs_beside, what_is_resident_is_not_loaded,
		keeping_more_never_hurts, a_second_timeline_agrees);
}

static void space(Suite *suite)
{
	UNIT_CASE(suite, "space", plans_outside_are_refused, links_are_chosen_apart, shared_bytes_are_loaded_once,
		bad_input_is_refused);
}

static void policies(Suite *suite)
{
	UNIT_CASE(suite, "policies", deepplan_stops_at_the_first_that_does_not_qualify, deepplan_splits_by_bytes,
		policies_are_a_table, a_thousand_layers);
}

UNIT_MAIN("plan", timeline, space, policies)
