/* test_idmap.c - mrm/idmap: says the same as an array that remembers everything, through random growth and removal. */
#include "mrm/idmap.h"
#include "tests/unit/unit.h"

#define KEYS 700
#define STEPS 60000

/* Keys that a weak hash would put side by side, and keys far apart. */
static uint64_t key_of(uint64_t i)
{
	switch (i % 4) {
	case 0:
		return i + 1;
	case 1:
		return (i + 1) << 40;
	case 2:
		return (i + 1) * 0x100000001u;
	default:
		return (uint64_t)1 << 63 | i;
	}
}

static size_t visited(const struct idmap *m, void *const *naive)
{
	size_t n = 0, at = 0;
	char *value;
	bool seen[KEYS + 1] = {false};
	while ((value = idmap_next(m, &at))) {
		size_t i = 0, k = KEYS;
		for (; i < KEYS; i++)
			k = naive[i] == value ? i : k;
		if (k == KEYS || seen[k])
			ck_abort_msg("visited what is not there, or twice");
		seen[k] = true;
		n++;
	}
	return n;
}

START_TEST(it_agrees_with_a_naive_map)
{
	struct idmap m = {0};
	static char values[KEYS];
	void *naive[KEYS] = {NULL};
	uint64_t seed = unit_seed();
	size_t n = 0;
	for (int step = 0; step < STEPS; step++) {
		uint64_t r = unit_random(&seed), i = r % KEYS;
		bool filling = step / 5000 % 2 == 0;
		if (r >> 32 & (filling ? 3 : 1) && (filling || r >> 40 & 1)) {
			n += !naive[i];
			naive[i] = &values[i];
			idmap_set(&m, key_of(i), naive[i]);
		} else {
			ck_assert_ptr_eq(idmap_take(&m, key_of(i)), naive[i]);
			n -= naive[i] != NULL;
			naive[i] = NULL;
		}
		ck_assert_uint_eq(m.n, n);
		uint64_t other = unit_random(&seed) % KEYS;
		ck_assert_ptr_eq(idmap_get(&m, key_of(other)), naive[other]);
	}
	for (size_t i = 0; i < KEYS; i++)
		ck_assert_ptr_eq(idmap_get(&m, key_of(i)), naive[i]);
	ck_assert_uint_eq(visited(&m, naive), n);
	idmap_fini(&m);
}
END_TEST

START_TEST(emptying_it_meets_each_value_once_also_when_others_leave_meanwhile)
{
	uint64_t seed = unit_seed();
	for (int round = 0; round < 200; round++) {
		struct idmap m = {0};
		static bool there[KEYS];
		size_t left = 0, at = 0;
		bool *value;
		for (size_t i = 0; i < KEYS; i++)
			if ((there[i] = unit_random(&seed) % 3)) {
				idmap_set(&m, key_of(i), &there[i]);
				left++;
			}
		while ((value = idmap_take_any(&m, &at))) {
			ck_assert(*value);
			*value = false;
			left--;
			size_t other = unit_random(&seed) % KEYS;
			if (unit_random(&seed) % 4 == 0 && idmap_take(&m, key_of(other))) {
				there[other] = false;
				left--;
			}
		}
		ck_assert_uint_eq(left, 0);
		ck_assert_uint_eq(m.n, 0);
		idmap_fini(&m);
	}
}
END_TEST

START_TEST(a_value_can_be_replaced)
{
	struct idmap m = {0};
	int a, b;
	idmap_set(&m, 7, &a);
	idmap_set(&m, 7, &b);
	ck_assert_uint_eq(m.n, 1);
	ck_assert_ptr_eq(idmap_take(&m, 7), &b);
	ck_assert_ptr_null(idmap_take(&m, 7));
	idmap_fini(&m);
}
END_TEST

START_TEST(an_empty_one_has_nothing)
{
	struct idmap m = {0};
	size_t at = 0;
	ck_assert_ptr_null(idmap_get(&m, 1));
	ck_assert_ptr_null(idmap_take(&m, 1));
	ck_assert_ptr_null(idmap_next(&m, &at));
	idmap_set(&m, 1, &m);
	ck_assert_ptr_null(idmap_get(&m, 0));
	ck_assert_ptr_null(idmap_take(&m, 0));
	idmap_fini(&m);
	idmap_fini(&m);
	ck_assert_ptr_null(idmap_get(&m, 1));
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "map", it_agrees_with_a_naive_map,
		emptying_it_meets_each_value_once_also_when_others_leave_meanwhile, a_value_can_be_replaced, an_empty_one_has_nothing);
}

UNIT_MAIN("idmap", all)
