/* test_cache_tables.c - what the brain is built on: the heap, the maps, ids that are never used twice, use rates. */
#include <math.h>
#include <string.h>

#include "cache/evict.h"
#include "cache/heap.h"
#include "cache/map.h"
#include "cache/rate.h"
#include "tests/unit/unit.h"

#define N 500

struct item {
	struct heap_node heap;
	struct map_node map;
	uint64_t key, id;
};

static bool item_before(const struct heap_node *a, const struct heap_node *b)
{
	return container_of(a, struct item, heap)->key < container_of(b, struct item, heap)->key;
}

START_TEST(a_heap_gives_back_in_order_whatever_was_moved_or_removed)
{
	static struct item items[N];
	uint64_t random = unit_seed(), last = 0;
	size_t n = 0, removed = 0;
	struct heap h;
	heap_init(&h, item_before);
	for (size_t i = 0; i < N; i++) {
		items[i].key = unit_random(&random) % 100;
		heap_add(&h, &items[i].heap);
	}
	for (size_t i = 0; i < N; i++) {
		struct item *x = &items[unit_random(&random) % N];
		if (!heap_hooked(&x->heap))
			continue;
		if (i % 3 == 0) {
			heap_del(&h, &x->heap);
			heap_del(&h, &x->heap); /* harmless */
			removed++;
		} else {
			x->key = unit_random(&random) % 100;
			heap_update(&h, &x->heap);
		}
		heap_verify(&h);
	}
	for (; heap_top(&h); n++) {
		struct item *x = container_of(heap_top(&h), struct item, heap);
		ck_assert_uint_ge(x->key, last);
		last = x->key;
		heap_del(&h, &x->heap);
	}
	ck_assert_uint_eq(n, N - removed);
	heap_fini(&h);
}
END_TEST

START_TEST(a_map_finds_every_node_also_under_equal_hashes)
{
	static struct item items[N];
	struct map m;
	map_init(&m);
	for (size_t i = 0; i < N; i++) {
		items[i].key = i;
		map_add(&m, &items[i].map, i % 7); /* as bad as hashes get */
	}
	map_verify(&m);
	for (size_t i = 0; i < N; i += 2)
		map_del(&m, &items[i].map);
	map_verify(&m);
	for (size_t i = 0; i < N; i++) {
		struct map_node *node = map_first(&m, i % 7);
		while (node && container_of(node, struct item, map)->key != i)
			node = map_next(node);
		ck_assert((node != NULL) == (i % 2 == 1));
	}
	map_fini(&m);
}
END_TEST

START_TEST(an_id_is_never_used_twice)
{
	struct slots s = {0};
	struct item x, y;
	uint64_t first = slots_add(&s, &x), last = first;
	ck_assert_uint_ne(first, 0);
	for (int i = 0; i < 1000; i++) {
		slots_del(&s, last);
		ck_assert_ptr_null(slots_get(&s, last));
		uint64_t next = slots_add(&s, &x);
		ck_assert_uint_ne(next, last);
		last = next;
	}
	ck_assert_ptr_null(slots_get(&s, first));
	ck_assert_ptr_eq(slots_get(&s, last), &x);
	ck_assert_uint_eq(s.n, 1); /* the slot itself is */
	uint64_t other = slots_add(&s, &y);
	ck_assert_ptr_eq(slots_above(&s, 0), &x);
	ck_assert_ptr_eq(slots_above(&s, last), &y);
	ck_assert_ptr_null(slots_above(&s, other));
	ck_assert_ptr_null(slots_get(&s, UINT64_MAX));
	slots_fini(&s);
}
END_TEST

START_TEST(a_slot_whose_numbers_are_used_up_retires)
{
	struct slots s = {0};
	struct item x;
	uint64_t id = slots_add(&s, &x);
	s.v[id >> 32].generation = UINT32_MAX;
	slots_del(&s, id | UINT32_MAX);
	ck_assert_uint_eq(slots_add(&s, &x) >> 32, 1); /* the next one */
	ck_assert_ptr_null(slots_get(&s, 0));
	slots_fini(&s);
}
END_TEST

START_TEST(hashes_depend_on_the_seed_and_every_byte)
{
	char text[40] = "the-same-text-of-forty-bytes-or-so-here";
	uint64_t h = hash_bytes(1, text, sizeof(text));
	ck_assert_uint_ne(h, hash_bytes(2, text, sizeof(text)));
	for (size_t i = 0; i < sizeof(text); i++) {
		text[i] ^= 1;
		ck_assert_uint_ne(h, hash_bytes(1, text, sizeof(text)));
		text[i] ^= 1;
	}
	ck_assert_uint_ne(hash_pair(1, 2, 3), hash_pair(1, 3, 2));
	ck_assert_uint_ne(hash_pair(1, 2, 3), hash_pair(2, 2, 3));
}
END_TEST

START_TEST(logarithms_are_right_to_a_few_parts_in_65536)
{
	uint64_t random = unit_seed();
	for (int i = 0; i < 20000; i++) {
		uint64_t x = unit_random(&random) >> (unit_random(&random) % 64);
		if (x == 0)
			continue;
		ck_assert_double_eq_tol((double)rate_log2(x) / RATE_ONE, log2((double)x), 4.0 / RATE_ONE);
	}
	ck_assert_int_eq(rate_log2(1), 0);
	ck_assert_int_eq(rate_log2((uint64_t)1 << 63), 63 * RATE_ONE);
}
END_TEST

START_TEST(a_rate_is_the_sum_of_its_uses_halved_every_half_life)
{
	uint64_t random = unit_seed(), half_life = 10 * NS_PER_S;
	int64_t key = RATE_NEVER, t = 0;
	double sum = 0;
	for (int i = 0; i < 2000; i++) {
		int64_t wait = (int64_t)(unit_random(&random) % (5 * NS_PER_S));
		sum = sum * exp2(-(double)wait / (double)half_life) + 1;
		t += wait;
		key = rate_use(key, rate_time(t, half_life));
		double measured = (double)(key - rate_time(t, half_life)) / RATE_ONE;
		ck_assert_double_eq_tol(measured, log2(sum), 0.01);
	}
}
END_TEST

START_TEST(keys_order_models_the_same_at_any_time)
{
	uint64_t half_life = NS_PER_S;
	int64_t often = RATE_NEVER, late = RATE_NEVER;
	for (int64_t i = 0; i < 4; i++)
		often = rate_use(often, rate_time(i, half_life)); /* 4 at 0 */
	late = rate_use(late, rate_time((int64_t)NS_PER_S, half_life)); /* 1 at one half-life, when the others are worth 2 */
	ck_assert_int_gt(often, late);
	late = rate_use(late, rate_time((int64_t)NS_PER_S, half_life));
	late = rate_use(late, rate_time((int64_t)NS_PER_S, half_life));
	ck_assert_int_lt(often, late);
	/* Extremes stay ordered and do not overflow. */
	ck_assert_int_gt(rate_time(INT64_MAX, 1), rate_time(0, 1));
	ck_assert_int_gt(rate_use(RATE_NEVER, rate_time(INT64_MIN, 1)), RATE_NEVER);
}
END_TEST

START_TEST(every_policy_is_found_by_its_name)
{
#define POLICY(policy, doc) ck_assert_str_eq(evict_find(#policy)->name, #policy);
#include "cache/policies.def"
#undef POLICY
	ck_assert_ptr_null(evict_find("best"));
}
END_TEST

static void tables(Suite *s)
{
	UNIT_CASE(s, "tables", a_heap_gives_back_in_order_whatever_was_moved_or_removed,
		a_map_finds_every_node_also_under_equal_hashes, an_id_is_never_used_twice,
		a_slot_whose_numbers_are_used_up_retires, hashes_depend_on_the_seed_and_every_byte);
}

static void rates(Suite *s)
{
	UNIT_CASE(s, "rates", logarithms_are_right_to_a_few_parts_in_65536,
		a_rate_is_the_sum_of_its_uses_halved_every_half_life, keys_order_models_the_same_at_any_time,
		every_policy_is_found_by_its_name);
}

UNIT_MAIN("cache_tables", tables, rates)
