/* test_plans.c - plans that clients have brought: kept once, and dropped when room is wanted and nobody refers to them. */
#include "mrm/plans.h"

#include "tests/unit/brain_fixture.h"
#include "tests/unit/unit.h"

#define MANY 150000 /* what --plan-memory has room for by default, of the smallest */

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

/* All of them at once, when one more comes: for as long as that takes the daemon does nothing else (a test that does not end in
 * check's time has failed). */
START_TEST(many_that_nobody_refers_to_make_room_in_one_go)
{
	struct fixture f;
	fix_init(&f);
	struct config config = {.plan_memory = MANY * sizeof(struct plan_head)};
	struct daemon *d = calloc(1, sizeof *d);
	ck_assert_ptr_nonnull(d);
	d->config = &config;
	d->cache = f.c;
	struct plans *plans = plans_new(d);
	uint64_t number = 0;
	for (uint64_t i = 0; i < MANY; i++)
		number = added(plans, i);
	ck_assert_uint_eq(added(plans, MANY - 1), number);
	struct plan *held = plans_get(plans, number);
	added(plans, MANY);
	ck_assert_ptr_eq(plans_get(plans, number), held);
	ck_assert_ptr_null(plans_get(plans, number - 1));
	ck_assert_uint_eq(added(plans, MANY - 1), number);
	for (uint64_t i = 0; i < MANY - 2; i++) /* beside those two there is room for as many again */
		added(plans, 2 * MANY + i);
	struct plan *again = held; /* there were two references */
	plan_put(&held);
	plan_put(&again);
	plans_free(&plans);
	free(d);
	cache_free(&f.c);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "plans", many_that_nobody_refers_to_make_room_in_one_go);
}

UNIT_MAIN("plans", all)
