/* test_pieces.c - how plans cut an image: what stays on the host, in which order the rest comes, what is kept under pressure;
 * and which plans are refused. */
#include "tests/unit/pieces_verify.h"
#include "tests/unit/unit.h"

#include <errno.h>

#define CHUNK IMAGE_CHUNK_BYTES

static struct plan_entry *entry(struct plan_head *p, uint32_t i)
{
	return (struct plan_entry *)plan_entries(p) + i;
}

/* A plan that names n tensors in image order. */
static struct plan_head *in_order(uint32_t n)
{
	struct plan_head *p = pieces_plan(n);
	for (uint32_t i = 0; i < n; i++)
		entry(p, i)->tensor = i;
	return p;
}

static struct pieces *built(const struct layout *l, const struct plan_head *plan, bool whole_runs)
{
	struct pieces *p = NULL;
	struct fault why;
	ck_assert_int_eq(pieces_build(&p, l, plan, whole_runs, &why), 0);
	verify_pieces(l, plan, whole_runs);
	return p;
}

START_TEST(without_a_plan_pieces_are_extents)
{
	const uint64_t bytes[] = {700 * MIB, 700 * MIB, 3};
	struct layout *l = pieces_layout(bytes, 3);
	struct pieces *p = built(l, NULL, false);
	ck_assert_uint_eq(p->n, 2);
	ck_assert_uint_eq(p->n_plan, 2);
	ck_assert_uint_eq(p->n_head, 0);
	ck_assert_uint_eq(p->v[1].bytes, l->extent_bytes[1]);
	ck_assert_ptr_null(p->order);
	pieces_free(&p);
	layout_free(&l);
}
END_TEST

START_TEST(an_embedding_stays_on_the_host)
{
	const uint64_t bytes[] = {9 * CHUNK + 100, 5 * CHUNK, 5 * CHUNK};
	struct layout *l = pieces_layout(bytes, 3);
	struct plan_head *plan = in_order(3);
	entry(plan, 0)->place = PLAN_PLACE_DHA;
	struct pieces *p = built(l, plan, false);
	ck_assert_uint_eq(p->n_plan, 1);
	ck_assert_uint_eq(p->n, 2);
	ck_assert_uint_eq(p->v[0].first, 9); /* shared with the next tensor, which is loaded */
	ck_assert_uint_eq(p->v[1].n, 9);
	ck_assert_uint_eq(pieces_bytes(p, p->n_plan, 2 * MIB), align_up(l->image_bytes - 9 * CHUNK, 2 * MIB));
	pieces_free(&p);
	free(plan);
	layout_free(&l);
}
END_TEST

START_TEST(what_is_kept_is_a_prefix_cut_where_it_ends)
{
	const uint64_t bytes[] = {8 * CHUNK, 8 * CHUNK, 8 * CHUNK};
	struct layout *l = pieces_layout(bytes, 3);
	struct plan_head *plan = in_order(3);
	entry(plan, 0)->tensor = 1; /* executed 1, 0, 2 */
	entry(plan, 1)->tensor = 0;
	plan->keep_bytes = 11 * CHUNK - 5;
	struct pieces *p = built(l, plan, false);
	ck_assert_uint_eq(p->v[0].first, 8);
	ck_assert_uint_eq(p->n_head, 2);
	ck_assert_uint_eq(pieces_bytes(p, p->n_head, 2 * MIB), 11 * CHUNK);
	ck_assert_uint_eq(p->v[2].first, 3);
	plan->keep_bytes = UINT64_MAX; /* all of it: nothing to give back */
	pieces_free(&p);
	p = built(l, plan, false);
	ck_assert_uint_eq(p->n_head, 0);
	pieces_free(&p);
	free(plan);
	layout_free(&l);
}
END_TEST

START_TEST(a_plan_that_jumps_about_gives_no_more_pieces_than_there_may_be)
{
	enum { N = 900 };
	uint64_t bytes[N];
	for (uint32_t i = 0; i < N; i++)
		bytes[i] = 2 * CHUNK;
	struct layout *l = pieces_layout(bytes, N);
	struct plan_head *plan = in_order(N);
	for (uint32_t i = 0; i < N; i++)
		entry(plan, i)->tensor = i * 7 % N;
	struct pieces *p = built(l, plan, false);
	ck_assert_uint_gt(p->n, PIECES_MAX / 4); /* and not far fewer */
	ck_assert_uint_eq(p->v[0].first, 0);
	pieces_free(&p);
	p = built(l, plan, true);
	ck_assert_uint_eq(p->n, l->n_extents);
	pieces_free(&p);
	for (uint32_t i = 0; i < N; i += 2)
		entry(plan, i)->place = PLAN_PLACE_DHA; /* more holes than pieces: the smallest are filled */
	p = built(l, plan, false);
	ck_assert_uint_lt(p->n_plan, p->n + 1);
	pieces_free(&p);
	free(plan);
	layout_free(&l);
}
END_TEST

START_TEST(a_plan_that_loads_nothing_loads_a_chunk)
{
	const uint64_t bytes[] = {5 * CHUNK};
	struct layout *l = pieces_layout(bytes, 1);
	struct plan_head *plan = in_order(1);
	entry(plan, 0)->place = PLAN_PLACE_DHA;
	struct pieces *p = built(l, plan, false);
	ck_assert_uint_eq(pieces_chunks(p, p->n_plan), 1);
	pieces_free(&p);
	free(plan);
	layout_free(&l);
}
END_TEST

/* What the device reads from there comes when it is used, not last; the device's chunks come in the device's order. */
START_TEST(the_host_gets_what_is_used_first)
{
	const uint64_t bytes[] = {3 * CHUNK, 3 * CHUNK, 2 * CHUNK};
	struct layout *l = pieces_layout(bytes, 3);
	struct plan_head *plan = in_order(3);
	for (uint32_t i = 0; i < 3; i++)
		entry(plan, i)->tensor = 2 - i;
	entry(plan, 1)->place = PLAN_PLACE_DHA; /* executed 2, 1 (from the host), 0 */
	static const uint32_t want[] = {6, 7, 3, 4, 5, 0, 1, 2};
	for (int whole = 0; whole < 2; whole++) {
		struct pieces *p = built(l, plan, whole);
		uint32_t order[8];
		ck_assert_int_eq(pieces_host_order(l, plan, whole ? NULL : p, order), 0);
		ck_assert_mem_eq(order, want, sizeof want);
		pieces_free(&p);
	}
	free(plan);
	layout_free(&l);
}
END_TEST

/* Every chunk once, and those of the device as it takes them. */
static void verify_host_order(const struct layout *l, const struct plan_head *plan, bool whole_runs)
{
	struct pieces *p = built(l, plan, whole_runs);
	uint32_t *order = calloc(l->n_chunks + 1, sizeof *order), device = 0;
	bool *seen = calloc(l->n_chunks + 1, sizeof *seen);
	ck_assert_int_eq(pieces_host_order(l, plan, p, order), 0);
	for (uint32_t i = 0; i < l->n_chunks; i++) {
		ck_assert(!seen[order[i]]);
		seen[order[i]] = true;
		if (p->of_chunk[order[i]] < p->n_plan)
			ck_assert_uint_eq(order[i], pieces_chunk(p, device++));
	}
	ck_assert_uint_eq(device, pieces_chunks(p, p->n_plan));
	free(order);
	free(seen);
	pieces_free(&p);
}

START_TEST(any_plan_of_any_model_keeps_the_rules)
{
	uint64_t seed = unit_seed();
	for (int round = 0; round < 300; round++) {
		uint64_t bytes[64];
		uint32_t n = 1 + (uint32_t)(unit_random(&seed) % 64);
		for (uint32_t i = 0; i < n; i++)
			bytes[i] = unit_random(&seed) % (unit_random(&seed) % 4 ? 3 * MIB : 90 * MIB);
		struct layout *l = pieces_layout(bytes, n);
		struct plan_head *plan = in_order((uint32_t)(unit_random(&seed) % (n + 1)));
		plan->n_helpers = 2;
		plan->keep_bytes = unit_random(&seed) % (l->image_bytes * 2);
		for (uint32_t i = 0; i < plan->n_entries; i++) {
			uint32_t j = (uint32_t)(unit_random(&seed) % (i + 1)), t = entry(plan, i)->tensor;
			entry(plan, i)->tensor = entry(plan, j)->tensor;
			entry(plan, j)->tensor = t;
			entry(plan, i)->place = unit_random(&seed) % 3 == 0;
			entry(plan, i)->link = entry(plan, i)->place ? 0 : (uint8_t)(unit_random(&seed) % 3);
		}
		verify_pieces(l, plan, round % 4 == 0);
		verify_host_order(l, plan, round % 4 == 0);
		verify_pieces(l, NULL, false);
		free(plan);
		layout_free(&l);
	}
}
END_TEST

static void refused(const struct plan_head *p, uint64_t bytes, uint32_t n_tensors)
{
	struct fault why = {0};
	ck_assert_int_eq(plan_check(p, bytes, n_tensors, &why), -EPROTO);
	ck_assert_int_eq(why.code, TRIMS_E_BAD_REQUEST);
	ck_assert_ptr_eq(strstr(why.text, "plan: "), why.text);
}

START_TEST(plans_that_make_no_sense_are_refused)
{
	struct plan_head *p = in_order(3), good;
	uint64_t bytes = sizeof *p + 3 * sizeof(struct plan_entry);
	struct fault why;
	ck_assert_int_eq(plan_check(p, bytes, 3, &why), 0);
	ck_assert_int_eq(plan_check(p, bytes, 0, &why), 0);
	ck_assert_int_eq(plan_check_model(p, 3, &why), 0);
	ck_assert_int_eq(plan_check_model(p, 2, &why), -EPROTO);
	good = *p;
	refused(p, bytes, 2);
	for (uint64_t n = 0; n < bytes; n++)
		refused(p, n, 3);
	refused(p, bytes + 8, 3);
	p->magic[0] = 't';
	refused(p, bytes, 3);
	*p = good, p->version++;
	refused(p, bytes, 3);
	*p = good, p->reserved = 1;
	refused(p, bytes, 3);
	*p = good, p->n_helpers = 1; /* without a name */
	refused(p, bytes, 3);
	*p = good, p->helper[0][0] = 'G'; /* a name without a helper */
	refused(p, bytes, 3);
	*p = good, p->n_entries = UINT32_MAX;
	refused(p, bytes, 3);
	*p = good, entry(p, 1)->tensor = 0; /* twice */
	refused(p, bytes, 3);
	entry(p, 1)->tensor = 1, entry(p, 1)->place = 2;
	refused(p, bytes, 3);
	entry(p, 1)->place = 0, entry(p, 1)->link = 1;
	refused(p, bytes, 3);
	free(p);
}
END_TEST

static void pieces(Suite *s)
{
	UNIT_CASE(s, "pieces", without_a_plan_pieces_are_extents, an_embedding_stays_on_the_host,
		what_is_kept_is_a_prefix_cut_where_it_ends, the_host_gets_what_is_used_first, a_plan_that_jumps_about_gives_no_more_pieces_than_there_may_be,
		a_plan_that_loads_nothing_loads_a_chunk, any_plan_of_any_model_keeps_the_rules);
	UNIT_CASE(s, "plans", plans_that_make_no_sense_are_refused);
}

UNIT_MAIN("pieces", pieces)
