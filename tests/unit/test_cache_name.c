/* test_cache_name.c - names: resolving, remembering, validating again, forgetting, merging, adopting. */
#include "tests/unit/brain_fixture.h"

START_TEST(an_unknown_name_is_resolved_once_for_all_who_wait)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~HAND_RESOLVE;
	fix_open(&f, 1, "a:100");
	fix_open(&f, 2, "a:100");
	ck_assert_uint_eq(f.count[FX_RESOLVE], 1);
	ck_assert_str_eq(f.held[0].name_text, "a:100");
	ck_assert_uint_eq(cache_find(f.c, "a:100"), 0);
	fix_done(&f, FX_RESOLVE, TRIMS_E_NONE);
	ck_assert_granted(&f.answers[1], COPY_LOADING);
	ck_assert_int_eq(f.answers[2].kind, FX_GRANT);
	ck_assert_uint_eq(cache_find(f.c, "a:100"), f.answers[1].model);
	ck_assert_str_eq(cache_name(f.c, f.answers[1].model, 0), "a:100");
	ck_assert_ptr_null(cache_name(f.c, f.answers[1].model, 1));
	fix_fini(&f);
}
END_TEST

START_TEST(no_such_model_is_remembered_for_a_while)
{
	struct fixture f;
	fix_init(&f);
	f.unreachable = TRIMS_E_NOT_FOUND;
	ck_assert_refused(fix_open(&f, 1, "a:100"), TRIMS_E_NOT_FOUND);
	f.now += 9 * NS_PER_S;
	ck_assert_refused(fix_open(&f, 2, "a:100"), TRIMS_E_NOT_FOUND);
	ck_assert_uint_eq(f.count[FX_RESOLVE], 1);
	f.now += NS_PER_S;
	f.unreachable = TRIMS_E_NONE;
	ck_assert_granted(fix_open(&f, 3, "a:100"), COPY_LOADING);
	ck_assert_uint_eq(cache_stats(f.c)->opens_refused, 2);
	fix_fini(&f);
}
END_TEST

START_TEST(an_unreachable_source_is_not_remembered)
{
	struct fixture f;
	fix_init(&f);
	f.unreachable = TRIMS_E_UNREACHABLE;
	ck_assert_refused(fix_open(&f, 1, "a:100"), TRIMS_E_UNREACHABLE);
	f.unreachable = TRIMS_E_NONE;
	ck_assert_granted(fix_open(&f, 2, "a:100"), COPY_LOADING);
	fix_fini(&f);
}
END_TEST

START_TEST(names_that_are_none_are_refused_without_a_look)
{
	struct fixture f;
	char longer[CACHE_NAME_MAX + 2];
	fix_init(&f);
	memset(longer, 'x', sizeof(longer));
	longer[CACHE_NAME_MAX + 1] = '\0';
	ck_assert_refused(fix_open(&f, 1, ""), TRIMS_E_BAD_NAME);
	ck_assert_refused(fix_open(&f, 2, longer), TRIMS_E_BAD_NAME);
	ck_assert_uint_eq(f.count[FX_RESOLVE], 0);
	longer[CACHE_NAME_MAX] = '\0';
	ck_assert_int_eq(fix_open(&f, 3, longer)->kind, FX_GRANT);
	fix_fini(&f);
}
END_TEST

START_TEST(an_old_name_is_validated_in_the_background_while_it_serves)
{
	struct fixture f;
	fix_init(&f);
	fix_use(&f, 1, "a:100");
	f.hands &= ~HAND_RESOLVE;
	f.now += f.config.revalidate_ns;
	ck_assert_granted(fix_open(&f, 2, "a:100"), COPY_READY);
	ck_assert_uint_eq(fix_held(&f, FX_RESOLVE), 1);
	fix_open(&f, 3, "a:100");
	ck_assert_uint_eq(fix_held(&f, FX_RESOLVE), 1); /* one at a time */
	uint64_t model = cache_find(f.c, "a:100");
	fix_done(&f, FX_RESOLVE, TRIMS_E_NONE);
	ck_assert_uint_eq(cache_find(f.c, "a:100"), model);
	fix_open(&f, 4, "a:100");
	ck_assert_uint_eq(fix_held(&f, FX_RESOLVE), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_changed_source_is_another_model_and_the_old_one_drains)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.revalidate_ns = 0;
	fix_start(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	f.version++;
	const struct fix_answer *b = fix_open(&f, 2, "a:100"); /* still the old one; has it looked at */
	ck_assert_uint_eq(b->model, a->model);
	const struct fix_answer *d = fix_open(&f, 3, "a:100");
	ck_assert_uint_ne(d->model, a->model);
	struct cache_model_view old;
	ck_assert_int_eq(cache_view(f.c, a->model, &old), 0); /* leases keep it */
	ck_assert_int_eq(old.copies[HOST].state, COPY_DRAINING);
	ck_assert_int_eq(old.copies[DISK].state, COPY_ABSENT);
	ck_assert_uint_eq(old.n_names, 0);
	fix_close(&f, 1);
	fix_close(&f, 2);
	ck_assert_int_eq(cache_view(f.c, a->model, &old), -ENOENT);
	ck_assert_uint_eq(fix_held(&f, FX_FORGET), 1);
	ck_assert_uint_eq(cache_stats(f.c)->evicted_stale, 2);
	fix_fini(&f);
}
END_TEST

START_TEST(a_superseded_model_that_is_leased_is_served_again_when_a_name_leads_to_it)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.revalidate_ns = 0;
	fix_start(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	f.version++;
	fix_use(&f, 2, "a:100");
	fix_use(&f, 3, "a:100");
	struct cache_model_view old;
	ck_assert_int_eq(cache_view(f.c, a->model, &old), 0);
	ck_assert_int_eq(old.copies[HOST].state, COPY_DRAINING);
	uint64_t generation = old.copies[HOST].copy;
	f.version--; /* the source goes back */
	fix_use(&f, 4, "a:100");
	const struct fix_answer *b = fix_open(&f, 5, "a:100");
	ck_assert_granted(b, COPY_READY);
	ck_assert_uint_eq(b->model, a->model);
	ck_assert_int_eq(cache_view(f.c, a->model, &old), 0);
	ck_assert_uint_eq(old.copies[HOST].copy, generation);
	ck_assert_uint_eq(old.copies[HOST].leases, 2);
	fix_close(&f, 1);
	fix_close(&f, 5);
	ck_assert_granted(fix_open(&f, 6, "a:100"), COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_pin_follows_its_name_to_the_new_version)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.revalidate_ns = 0;
	fix_start(&f);
	struct cache_open ask = fix_ask(1, "a:100");
	cache_pin(f.c, f.now, &ask);
	fix_run(&f);
	f.version++;
	fix_use(&f, 2, "a:100");
	ck_assert_uint_eq(fix_copy(&f, "a:100", HOST).pins, 1);
	ck_assert_state(&f, "a:100", HOST, COPY_READY); /* loaded by nobody's open */
	ck_assert_uint_ne(cache_find(f.c, "a:100"), f.answers[2].model);
	fix_fini(&f);
}
END_TEST

START_TEST(requests_that_wait_when_the_source_changes_get_the_new_version)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.revalidate_ns = 0;
	fix_start(&f);
	f.hands &= ~HAND_ALLOC;
	const struct fix_answer *a = fix_open(&f, 1, "a:100!");
	f.version++;
	f.hands &= ~HAND_RESOLVE;
	const struct fix_answer *b = fix_open(&f, 2, "a:100!");
	ck_assert_int_eq(b->kind, FX_N);
	fix_done(&f, FX_RESOLVE, TRIMS_E_NONE);
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE); /* of the old one; goes back at once */
	fix_done(&f, FX_ALLOC, TRIMS_E_NONE);
	ck_assert_granted(a, COPY_LOADING);
	ck_assert_uint_eq(a->model, b->model);
	ck_assert_uint_eq(a->model, cache_find(f.c, "a:100!"));
	fix_fini(&f);
}
END_TEST

START_TEST(a_model_that_changed_while_it_was_read_is_resolved_before_it_serves_again)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~HAND_TRANSFER;
	const struct fix_answer *a = fix_open(&f, 1, "a:100!");
	fix_done(&f, FX_START, TRIMS_E_CHANGED);
	ck_assert_int_eq(fix_take(&f, FX_POISON).error.code, TRIMS_E_CHANGED);
	fix_close(&f, 1);
	f.version++;
	const struct fix_answer *b = fix_open(&f, 2, "a:100!"); /* long before the name is due */
	ck_assert_uint_eq(f.count[FX_RESOLVE], 2);
	ck_assert_granted(b, COPY_LOADING);
	ck_assert_uint_ne(b->model, a->model);
	fix_fini(&f);
}
END_TEST

START_TEST(a_failed_validation_keeps_serving)
{
	struct fixture f;
	fix_init(&f);
	fix_use(&f, 1, "a:100");
	f.now += f.config.revalidate_ns;
	f.unreachable = TRIMS_E_UNREACHABLE;
	fix_use(&f, 2, "a:100");
	ck_assert_granted(fix_open(&f, 3, "a:100"), COPY_READY);
	ck_assert_uint_eq(f.count[FX_RESOLVE], 2); /* not again before its time */
	fix_fini(&f);
}
END_TEST

START_TEST(a_model_gone_from_its_source_serves_its_leases_and_nobody_else)
{
	struct fixture f;
	fix_init(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100");
	f.now += f.config.revalidate_ns;
	f.unreachable = TRIMS_E_NOT_FOUND;
	ck_assert_granted(fix_open(&f, 2, "a:100"), COPY_READY);
	ck_assert_refused(fix_open(&f, 3, "a:100"), TRIMS_E_NOT_FOUND);
	struct cache_model_view old;
	ck_assert_int_eq(cache_view(f.c, a->model, &old), 0);
	ck_assert_uint_eq(old.copies[HOST].leases, 2);
	fix_close(&f, 1);
	fix_close(&f, 2);
	ck_assert_int_eq(cache_view(f.c, a->model, &old), -ENOENT);
	fix_fini(&f);
}
END_TEST

START_TEST(the_name_used_longest_ago_that_holds_nothing_is_forgotten)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.max_names = 3;
	fix_start(&f);
	fix_open(&f, 1, "held:100!");
	f.unreachable = TRIMS_E_NOT_FOUND;
	fix_open(&f, 2, "no-a");
	fix_open(&f, 3, "no-b");
	fix_open(&f, 4, "no-c"); /* in no-a's place */
	fix_open(&f, 5, "no-b");
	ck_assert_uint_eq(f.count[FX_RESOLVE], 4);
	fix_open(&f, 6, "no-a");
	ck_assert_uint_eq(f.count[FX_RESOLVE], 5);
	ck_assert_uint_ne(cache_find(f.c, "held:100!"), 0);
	fix_fini(&f);
}
END_TEST

START_TEST(names_that_all_hold_something_are_a_limit)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.max_names = 2;
	fix_start(&f);
	fix_open(&f, 1, "a:100!");
	fix_open(&f, 2, "b:100!");
	ck_assert_refused(fix_open(&f, 3, "c:100!"), TRIMS_E_LIMIT);
	uint32_t in_use;
	fix_close(&f, 2);
	cache_evict(f.c, f.now, "b:100!", TIER_REMOTE, CACHE_ANY_DEVICE, &in_use);
	fix_run(&f);
	ck_assert_granted(fix_open(&f, 4, "c:100!"), COPY_LOADING);
	ck_assert_uint_eq(fix_held(&f, FX_FORGET), 1);
	fix_fini(&f);
}
END_TEST

START_TEST(equal_contents_become_one_model)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.dedup = true;
	fix_start(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100"), *b = fix_open(&f, 2, "b:100");
	cache_identified(f.c, f.now, a->model, 7, 7);
	cache_identified(f.c, f.now, b->model, 7, 7);
	fix_run(&f);
	ck_assert_uint_eq(cache_find(f.c, "b:100"), a->model);
	ck_assert_uint_eq(cache_stats(f.c)->merged, 1);
	struct cache_model_view twin;
	ck_assert_int_eq(cache_view(f.c, b->model, &twin), 0);
	ck_assert_int_eq(twin.copies[HOST].state, COPY_DRAINING); /* leased */
	fix_close(&f, 2);
	ck_assert_int_eq(cache_view(f.c, b->model, &twin), -ENOENT);
	ck_assert_granted(fix_open(&f, 3, "b:100"), COPY_READY);
	ck_assert_uint_eq(f.answers[3].copy, a->copy);
	/* The twin's fingerprint leads here, too: validating the name does not load it all again. */
	f.now += f.config.revalidate_ns;
	fix_use(&f, 4, "b:100");
	ck_assert_uint_eq(cache_find(f.c, "b:100"), a->model);
	fix_fini(&f);
}
END_TEST

START_TEST(equal_contents_stay_apart_without_dedup)
{
	struct fixture f;
	fix_init(&f);
	const struct fix_answer *a = fix_open(&f, 1, "a:100"), *b = fix_open(&f, 2, "b:100");
	cache_identified(f.c, f.now, a->model, 7, 7);
	cache_identified(f.c, f.now, b->model, 7, 7);
	fix_run(&f);
	ck_assert_uint_eq(cache_find(f.c, "b:100"), b->model);
	fix_fini(&f);
}
END_TEST

START_TEST(fingerprints_that_lead_to_one_model_are_bounded)
{
	struct fixture f;
	fix_prepare(&f);
	f.config.dedup = true;
	f.config.revalidate_ns = 0;
	fix_start(&f);
	uint64_t first = fix_open(&f, 1, "a:100!")->model;
	cache_identified(f.c, f.now, first, 7, 7);
	for (uint64_t r = 2; r < 40; r++) { /* touched again and again at its source, the bytes the same */
		f.version++;
		fix_use(&f, r, "b:100!");
		fix_run(&f);
		cache_identified(f.c, f.now, cache_find(f.c, "b:100!"), 7, 7);
		fix_run(&f);
		ck_assert_uint_eq(cache_find(f.c, "b:100!"), first);
	}
	ck_assert_uint_eq(cache_stats(f.c)->merged, 38);
	ck_assert_uint_eq(fix_copy(&f, "a:100!", HOST).leases, 1);
	fix_fini(&f);
}
END_TEST

START_TEST(a_model_of_impossible_size_is_refused)
{
	struct fixture f;
	fix_init(&f);
	ck_assert_refused(fix_open(&f, 1, "a:18446744073709551615"), TRIMS_E_BAD_MODEL);
	ck_assert_uint_eq(cache_find(f.c, "a:18446744073709551615"), 0);
	fix_fini(&f);
}
END_TEST

static int adopt(struct fixture *f, const char *name, const char *shape, uint64_t bytes, bool complete, uint64_t *model)
{
	struct cache_model_info info = fix_info(f, shape);
	int r = cache_adopt(f->c, f->now, name, &info, bytes, complete, NS_PER_S, model);
	fix_run(f);
	return r;
}

START_TEST(an_image_found_on_disk_is_loaded_from_there)
{
	struct fixture f;
	uint64_t model;
	fix_init(&f);
	ck_assert_int_eq(adopt(&f, "a:100", "a:100", 80, true, &model), 0);
	ck_assert_uint_eq(fix_used(&f, DISK), 80);
	ck_assert_int_eq(adopt(&f, "a:100", "a:100", 80, true, &model), -EEXIST);
	ck_assert_int_eq(adopt(&f, "x:2000", "x:2000", 2000, true, &model), -ENOSPC);
	f.hands &= ~HAND_TRANSFER;
	ck_assert_granted(fix_open(&f, 1, "a:100"), COPY_LOADING);
	ck_assert_int_eq(fix_done(&f, FX_START, TRIMS_E_NONE).from, DISK);
	ck_assert_uint_eq(f.count[FX_RESOLVE], 1); /* and it is validated */
	fix_fini(&f);
}
END_TEST

START_TEST(a_partial_image_found_on_disk_is_resumed)
{
	struct fixture f;
	uint64_t model;
	fix_init(&f);
	ck_assert_int_eq(adopt(&f, "a:100", "a:100", 40, false, &model), 0);
	ck_assert_state(&f, "a:100", DISK, COPY_RESERVED);
	ck_assert_uint_eq(fix_used(&f, DISK), 100);
	ck_assert_uint_eq(fix_copy(&f, "a:100", DISK).landed_bytes, 40);
	ck_assert_granted(fix_open(&f, 1, "a:100"), COPY_LOADING);
	ck_assert_uint_eq(f.count[FX_ALLOC], 1); /* the host's; the disk's is there */
	ck_assert_state(&f, "a:100", DISK, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(an_adopted_image_without_a_name_waits_for_one)
{
	struct fixture f;
	uint64_t model;
	fix_init(&f);
	ck_assert_int_eq(adopt(&f, NULL, "a:100", 80, true, &model), 0);
	ck_assert_granted(fix_open(&f, 1, "a:100"), COPY_LOADING);
	ck_assert_uint_eq(f.answers[1].model, model);
	ck_assert_int_eq(cache_adopt_name(f.c, f.now, "alias", model), 0);
	ck_assert_int_eq(cache_adopt_name(f.c, f.now, "alias", model), 0);
	ck_assert_int_eq(cache_adopt_name(f.c, f.now, "lost", 12345), -ENOENT);
	ck_assert_uint_eq(cache_find(f.c, "alias"), model);
	fix_fini(&f);
}
END_TEST

struct shown {
	uint32_t n, times[100];
	uint64_t model[100];
};

static void on_name(void *ctx, const char *name, uint64_t model)
{
	struct shown *s = ctx;
	unsigned i;
	if (sscanf(name, "kept%u", &i) == 1) {
		ck_assert_uint_lt(i, 100);
		s->times[i]++;
		s->model[i] = model;
	}
	s->n++;
}

static void open_and_close(struct fixture *f, const char *name)
{
	if (fix_open(f, 1, name)->kind == FX_GRANT)
		fix_close(f, 1);
	f->answers[1].kind = FX_N; /* the number may be used again */
}

START_TEST(names_are_shown_once_in_steps_whatever_happens_between)
{
	uint64_t seed = unit_seed();
	for (int round = 0; round < 100; round++) {
		struct fixture f;
		struct shown shown = {0};
		struct cache_model_info info;
		uint64_t cursor = 0, model;
		uint32_t most = 1 + (uint32_t)(unit_random(&seed) % 40), steps = 0;
		char name[32];
		fix_prepare(&f);
		f.config.max_names = 100; /* so that places are used again and again */
		fix_start(&f);
		info = fix_info(&f, "kept");
		ck_assert_int_eq(cache_adopt(f.c, f.now, "kept0", &info, 1, true, 0, &model), 0);
		for (unsigned i = 1; i < 60; i++) {
			snprintf(name, sizeof name, "kept%u", i);
			ck_assert_int_eq(cache_adopt_name(f.c, f.now, name, model), 0);
			snprintf(name, sizeof name, "gone%u:1!", i % 8 + 8 * (unsigned)(unit_random(&seed) % 4));
			f.unreachable = unit_random(&seed) % 2 ? TRIMS_E_NOT_FOUND : TRIMS_E_NONE;
			open_and_close(&f, name);
		}
		do {
			for (int i = 0; i < 5; i++) {
				snprintf(name, sizeof name, "new%u:1!", (unsigned)(unit_random(&seed) % 1000));
				f.unreachable = unit_random(&seed) % 2 ? TRIMS_E_NOT_FOUND : TRIMS_E_NONE;
				open_and_close(&f, name);
			}
			steps++;
		} while (cache_names_step(f.c, &cursor, most, on_name, &shown));
		for (unsigned i = 0; i < 60; i++) {
			ck_assert_uint_eq(shown.times[i], 1);
			ck_assert_uint_eq(shown.model[i], model);
		}
		ck_assert_uint_ge(steps, 60 / most);
		ck_assert(!cache_names_step(f.c, &cursor, most, on_name, &shown));
		fix_fini(&f);
	}
}
END_TEST

static void resolving(Suite *s)
{
	UNIT_CASE(s, "resolving", an_unknown_name_is_resolved_once_for_all_who_wait, no_such_model_is_remembered_for_a_while,
		an_unreachable_source_is_not_remembered, names_that_are_none_are_refused_without_a_look,
		an_old_name_is_validated_in_the_background_while_it_serves,
		a_changed_source_is_another_model_and_the_old_one_drains,
		a_superseded_model_that_is_leased_is_served_again_when_a_name_leads_to_it, a_pin_follows_its_name_to_the_new_version,
		requests_that_wait_when_the_source_changes_get_the_new_version,
		a_model_that_changed_while_it_was_read_is_resolved_before_it_serves_again, a_failed_validation_keeps_serving,
		a_model_gone_from_its_source_serves_its_leases_and_nobody_else);
}

static void remembering(Suite *s)
{
	UNIT_CASE(s, "remembering", the_name_used_longest_ago_that_holds_nothing_is_forgotten,
		names_that_all_hold_something_are_a_limit, equal_contents_become_one_model,
		equal_contents_stay_apart_without_dedup, fingerprints_that_lead_to_one_model_are_bounded,
		a_model_of_impossible_size_is_refused, an_image_found_on_disk_is_loaded_from_there,
		a_partial_image_found_on_disk_is_resumed, an_adopted_image_without_a_name_waits_for_one,
		names_are_shown_once_in_steps_whatever_happens_between);
}

UNIT_MAIN("cache_name", resolving, remembering)
