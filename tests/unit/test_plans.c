/* test_plans.c - plans that clients have brought: kept once, and dropped when room is wanted and nobody refers to them. */
#include "mrm/plans.h"

#include "tests/unit/brain_fixture.h"
#include "tests/unit/unit.h"

#define MANY (64 * MIB / PLANS_LEAST) /* what --plan-memory has room for by default, of small ones */

struct stage {
	struct fixture f;
	struct config config;
	struct daemon *d;
	struct plans *plans;
};

static void stage_init(struct stage *s)
{
	*s = (struct stage){.config.plan_memory = MANY * PLANS_LEAST, .d = calloc(1, sizeof *s->d)};
	fix_init(&s->f);
	ck_assert_ptr_nonnull(s->d);
	s->d->config = &s->config;
	s->d->cache = s->f.c;
	s->d->plans = s->plans = plans_new(s->d);
}

static void stage_fini(struct stage *s)
{
	plans_free(&s->plans);
	free(s->d);
	cache_free(&s->f.c);
}

static struct plan_head numbered(uint64_t n)
{
	struct plan_head p = {.version = PLAN_WIRE_VERSION, .keep_bytes = n};
	memcpy(p.magic, PLAN_WIRE_MAGIC, sizeof p.magic);
	return p;
}

static uint64_t added(struct plans *plans, uint64_t n)
{
	const struct plan_head p = numbered(n);
	uint64_t number = 0;
	struct fault why;
	int e = plans_add(plans, &p, sizeof p, &number, &why);
	ck_assert_msg(e == 0, "plan %llu: %s", (unsigned long long)n, why.text);
	return number;
}

static bool is_there(struct stage *s, uint64_t number)
{
	struct plan *plan = plans_get(s->plans, number);
	bool there = plan != NULL;
	plan_put(&plan);
	return there;
}

START_TEST(the_one_that_was_let_go_first_makes_room_first)
{
	struct stage s;
	uint64_t number[MANY];
	stage_init(&s);
	for (uint64_t i = 0; i < MANY; i++)
		number[i] = added(s.plans, i);
	ck_assert_uint_eq(added(s.plans, MANY - 1), number[MANY - 1]); /* the same again is no other */
	plans_ref(s.d, number[0], 1);
	plans_ref(s.d, number[1], 1);
	plans_ref(s.d, number[1], 1);
	plans_ref(s.d, number[2], 1);
	plans_ref(s.d, number[2], -1);
	plans_ref(s.d, number[1], -1);
	struct plan *held = plans_get(s.plans, number[3]); /* by a copy */
	added(s.plans, MANY);
	ck_assert(is_there(&s, number[0]) && is_there(&s, number[1]) && is_there(&s, number[2]) && is_there(&s, number[3]));
	ck_assert(!is_there(&s, number[4]) && is_there(&s, number[5]));
	plan_put(&held);
	for (uint64_t i = 0; i < MANY - 2; i++) /* beside the two that are in use there is room for as many again */
		added(s.plans, 2 * MANY + i);
	ck_assert(is_there(&s, number[0]) && is_there(&s, number[1]));
	ck_assert(!is_there(&s, number[2]) && !is_there(&s, number[3]) && !is_there(&s, number[MANY - 1]));
	stage_fini(&s);
}
END_TEST

/* What is refused must cost nothing that grows with what is there: for that long the daemon does nothing else.  (A test that does
 * not end in check's time has failed: looking at all of them each time would take minutes.) */
START_TEST(when_all_are_in_use_others_are_refused_without_a_search)
{
	struct stage s;
	struct fault why;
	uint64_t number[MANY], none, refused = 0;
	stage_init(&s);
	for (uint64_t i = 0; i < MANY; i++) {
		number[i] = added(s.plans, i);
		plans_ref(s.d, number[i], 1);
	}
	for (uint64_t i = 0; i < 500000; i++) {
		const struct plan_head other = numbered(MANY + i);
		refused += plans_add(s.plans, &other, sizeof other, &none, &why) < 0 && why.code == TRIMS_E_LIMIT;
	}
	ck_assert_uint_eq(refused, 500000);
	plans_ref(s.d, number[7], -1);
	added(s.plans, MANY);
	ck_assert(!is_there(&s, number[7]) && is_there(&s, number[6]));
	stage_fini(&s);
}
END_TEST

/* A plan of as many entries as there may be, in reverse. */
static struct plan_head *largest(uint64_t n)
{
	struct plan_head *p = calloc(1, PLAN_WIRE_BYTES);
	ck_assert_ptr_nonnull(p);
	*p = numbered(n);
	p->n_entries = PLAN_WIRE_ENTRIES;
	struct plan_entry *e = (struct plan_entry *)(p + 1);
	for (uint32_t i = 0; i < PLAN_WIRE_ENTRIES; i++)
		e[i].tensor = PLAN_WIRE_ENTRIES - 1 - i;
	return p;
}

START_TEST(small_ones_make_room_for_the_largest)
{
	struct stage s;
	struct fault why;
	uint64_t number;
	stage_init(&s);
	for (uint64_t i = 0; i < MANY; i++)
		added(s.plans, i);
	struct plan_head *large = largest(1);
	ck_assert_int_eq(plans_add(s.plans, large, PLAN_WIRE_BYTES, &number, &why), 0);
	ck_assert_int_eq(plans_check(s.plans, number, PLAN_WIRE_ENTRIES, &why), 0);
	ck_assert_int_lt(plans_check(s.plans, number, PLAN_WIRE_ENTRIES - 1, &why), 0);
	ck_assert_ptr_nonnull(strstr(why.text, "entry 0 names tensor 262143, the model has 262143"));
	s.config.plan_memory = PLAN_WIRE_BYTES - 1; /* larger than all there may be */
	large->keep_bytes = 2;
	ck_assert_int_lt(plans_add(s.plans, large, PLAN_WIRE_BYTES, &number, &why), 0);
	ck_assert_int_eq(why.code, TRIMS_E_LIMIT);
	free(large);
	stage_fini(&s);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "plans", the_one_that_was_let_go_first_makes_room_first,
		when_all_are_in_use_others_are_refused_without_a_search, small_ones_make_room_for_the_largest);
}

UNIT_MAIN("plans", all)
