/* test_trace.c - mrm/trace: the last loads of a model, and only those. */
#include "mrm/trace.h"
#include "tests/unit/unit.h"

START_TEST(the_last_loads_are_kept)
{
	struct trace t = {.resolve_ns = 5, .alloc_ns = 6};
	ck_assert_ptr_null(trace_find(&t, 1));
	for (uint64_t id = 1; id <= 3 * TRACE_KEPT; id++) {
		struct trace_load *l = trace_begin(&t, id);
		ck_assert_uint_eq(l->transfer, id);
		ck_assert_uint_eq(l->resolve_ns, id == 1 ? 5 : 0); /* counted for the load that comes next, once */
		ck_assert_uint_eq(l->alloc_ns, id == 1 ? 6 : 0);
		ck_assert_uint_gt(l->started_unix_ns, 0);
		ck_assert_uint_eq(l->ended_ns, 0);
		l->bytes = id * 100;
		ck_assert_uint_eq(t.n, id);
		for (uint64_t other = 1; other <= id; other++) {
			struct trace_load *found = trace_find(&t, other);
			if (other + TRACE_KEPT > id)
				ck_assert_uint_eq(found->bytes, other * 100);
			else
				ck_assert_ptr_null(found);
		}
	}
	trace_fini(&t);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "trace", the_last_loads_are_kept);
}

UNIT_MAIN("trace", all)
