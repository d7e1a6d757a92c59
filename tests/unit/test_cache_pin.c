/* test_cache_pin.c - a pin is an order that stands: what it is on is loaded, and loaded again when that failed. */
#include "tests/unit/brain_fixture.h"

static void pin(struct fixture *f, uint64_t request, uint64_t owner, const char *name)
{
	struct cache_open ask = fix_ask(request, name);
	ask.owner = owner;
	cache_pin(f->c, f->now, &ask);
	fix_run(f);
}

/* A pin that was accepted, and whose load failed then. */
static void failed_pin(struct fixture *f)
{
	fix_init(f);
	f->hands &= ~HAND_TRANSFER;
	pin(f, 1, 1, "a:700!");
	ck_assert_int_eq(f->answers[1].kind, FX_ACCEPT);
	fix_done(f, FX_START, TRIMS_E_UNREACHABLE);
	ck_assert_state(f, "a:700!", HOST, COPY_ABSENT);
	ck_assert_uint_eq(fix_copy(f, "a:700!", HOST).pins, 1);
}

START_TEST(a_load_that_failed_is_tried_again_after_waits_that_double_up_to_a_bound)
{
	struct fixture f;
	uint64_t wait = NS_PER_S;
	failed_pin(&f);
	for (uint32_t n = 1; n <= 12; n++) {
		fix_tick(&f, wait - 1);
		ck_assert_uint_eq(fix_held(&f, FX_START), 0);
		ck_assert_uint_eq(fix_tick(&f, 0), f.now + 1); /* the clock is asked for that moment */
		fix_tick(&f, 1);
		ck_assert_uint_eq(fix_held(&f, FX_START), 1);
		ck_assert_uint_eq(cache_stats(f.c)->pins_retried, n);
		fix_done(&f, FX_START, TRIMS_E_UNREACHABLE);
		wait = MIN(2 * wait, 256 * NS_PER_S);
	}
	fix_tick(&f, wait);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:700!", HOST, COPY_READY);
	fix_tick(&f, 3600 * NS_PER_S);
	ck_assert_uint_eq(f.count[FX_START], 14);
	fix_fini(&f);
}
END_TEST

START_TEST(it_is_not_tried_again_when_it_was_taken_back)
{
	struct fixture f;
	failed_pin(&f);
	ck_assert_int_eq(cache_unpin(f.c, f.now, "a:700!", TIER_HOST, CACHE_ANY_DEVICE), 0);
	ck_assert_uint_ne(fix_tick(&f, 0), f.now + NS_PER_S);
	fix_tick(&f, 3600 * NS_PER_S);
	ck_assert_uint_eq(f.count[FX_START], 1);
	fix_fini(&f);
}
END_TEST

START_TEST(success_makes_the_next_wait_short_again)
{
	struct fixture f;
	failed_pin(&f);
	fix_tick(&f, NS_PER_S);
	fix_done(&f, FX_START, TRIMS_E_UNREACHABLE);
	fix_tick(&f, 2 * NS_PER_S);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	cache_corrupt(f.c, f.now, cache_find(f.c, "a:700!"), HOST);
	fix_run(&f); /* comes again at once */
	fix_done(&f, FX_START, TRIMS_E_UNREACHABLE);
	fix_tick(&f, NS_PER_S);
	ck_assert_uint_eq(fix_held(&f, FX_START), 1);
	fix_fini(&f);
}
END_TEST

START_TEST(it_waits_for_those_who_still_hold_what_had_arrived)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~HAND_TRANSFER;
	ck_assert_granted(fix_open(&f, 1, "a:700!"), COPY_LOADING);
	pin(&f, 2, 1, "a:700!");
	fix_done(&f, FX_START, TRIMS_E_UNREACHABLE);
	ck_assert_state(&f, "a:700!", HOST, COPY_FAILED);
	for (int i = 0; i < 5; i++)
		fix_tick(&f, 60 * NS_PER_S);
	ck_assert_state(&f, "a:700!", HOST, COPY_FAILED);
	fix_close(&f, 1);
	fix_tick(&f, 256 * NS_PER_S);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:700!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_load_that_somebody_asked_for_meanwhile_stays_when_that_one_goes)
{
	struct fixture f;
	failed_pin(&f);
	ck_assert_granted(fix_open(&f, 2, "a:700!"), COPY_LOADING);
	fix_close(&f, 2);
	ck_assert_uint_eq(f.count[FX_CANCEL], 0);
	fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:700!", HOST, COPY_READY);
	ck_assert_uint_eq(cache_stats(f.c)->pins_retried, 0);
	fix_fini(&f);
}
END_TEST

START_TEST(a_second_request_that_is_cancelled_does_not_end_the_first_ones_load)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~(HAND_TRANSFER | HAND_FREE);
	fix_use(&f, 10, "old:900!");
	while (fix_held(&f, FX_START))
		fix_done(&f, FX_START, TRIMS_E_NONE);
	pin(&f, 1, 1, "a:700!"); /* accepted; the memory it will have is being freed */
	pin(&f, 2, 2, "a:700!");
	cache_owner_gone(f.c, f.now, 2);
	fix_run(&f);
	f.hands |= HAND_FREE;
	while (fix_held(&f, FX_FREE))
		fix_done(&f, FX_FREE, TRIMS_E_NONE);
	while (fix_held(&f, FX_START))
		fix_done(&f, FX_START, TRIMS_E_NONE);
	ck_assert_state(&f, "a:700!", HOST, COPY_READY);
	ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 1);
	fix_fini(&f);
}
END_TEST

/* Two owners' pins wait for the same name. */
static void two_pins_of_a_name(struct fixture *f)
{
	fix_init(f);
	f->hands &= ~HAND_RESOLVE;
	pin(f, 1, 1, "a:700!");
	pin(f, 2, 2, "a:700!");
	ck_assert_uint_eq(fix_held(f, FX_RESOLVE), 1);
}

START_TEST(of_two_that_wait_for_a_name_one_may_go)
{
	for (uint64_t gone = 1; gone <= 2; gone++)
		for (int cancelled = 0; cancelled <= 1; cancelled++) {
			struct fixture f;
			two_pins_of_a_name(&f);
			if (cancelled)
				ck_assert_int_eq(cache_cancel(f.c, f.now, gone, gone), 0);
			else
				cache_owner_gone(f.c, f.now, gone);
			fix_run(&f);
			fix_done(&f, FX_RESOLVE, TRIMS_E_NONE);
			ck_assert_int_eq(f.answers[3 - gone].kind, FX_ACCEPT);
			ck_assert_state(&f, "a:700!", HOST, COPY_READY);
			ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 1);
			fix_fini(&f);
		}
}
END_TEST

START_TEST(two_that_are_refused_together_leave_no_pin)
{
	struct fixture f;
	fix_init(&f);
	ck_assert_granted(fix_open(&f, 9, "held:900!"), COPY_LOADING);
	f.hands &= ~HAND_RESOLVE;
	pin(&f, 1, 1, "a:700!");
	pin(&f, 2, 2, "a:700!");
	fix_done(&f, FX_RESOLVE, TRIMS_E_NONE);
	ck_assert_int_eq(f.answers[1].kind, FX_REFUSE);
	ck_assert_int_eq(f.answers[2].kind, FX_REFUSE);
	ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 0);
	fix_close(&f, 9);
	fix_tick(&f, 3600 * NS_PER_S);
	ck_assert_state(&f, "a:700!", HOST, COPY_ABSENT);
	fix_fini(&f);
}
END_TEST

START_TEST(a_second_that_is_refused_does_not_take_the_first_ones_pin)
{
	struct fixture f;
	failed_pin(&f);
	f.hands |= HAND_TRANSFER;
	ck_assert_granted(fix_open(&f, 9, "held:900!"), COPY_LOADING);
	pin(&f, 2, 2, "a:700!"); /* there is no room now */
	ck_assert_int_eq(f.answers[2].kind, FX_REFUSE);
	ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 1);
	fix_close(&f, 9);
	fix_tick(&f, 256 * NS_PER_S);
	ck_assert_state(&f, "a:700!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_load_that_fails_after_both_were_accepted_costs_neither_its_pin)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~HAND_ALLOC;
	pin(&f, 1, 1, "a:700!");
	pin(&f, 2, 2, "a:700!");
	ck_assert_int_eq(f.answers[2].kind, FX_ACCEPT);
	fix_done(&f, FX_ALLOC, TRIMS_E_NO_SYSTEM);
	ck_assert_uint_eq(fix_copy(&f, "a:700!", HOST).pins, 1);
	f.hands |= HAND_ALLOC;
	fix_tick(&f, NS_PER_S);
	ck_assert_state(&f, "a:700!", HOST, COPY_READY);
	fix_fini(&f);
}
END_TEST

START_TEST(a_pin_on_a_load_that_gave_way_and_is_damaged_is_tried_again)
{
	struct fixture f;
	fix_init(&f);
	f.hands &= ~(HAND_TRANSFER | HAND_FREE);
	struct cache_open soft = fix_ask(1, "soft:700!");
	cache_prefetch(f.c, f.now, &soft);
	fix_run(&f);
	struct cache_effect start = fix_take(&f, FX_START);
	fix_open(&f, 2, "hard:700!");
	ck_assert_uint_eq(fix_take(&f, FX_CANCEL).transfer, start.transfer);
	pin(&f, 3, 1, "soft:700!");
	cache_corrupt(f.c, f.now, cache_find(f.c, "soft:700!"), HOST); /* nothing is kept of what is damaged */
	fix_run(&f);
	fix_answer_one(&f, &start, TRIMS_E_NONE); /* it was quicker than its end */
	fix_run(&f);
	f.hands = HANDS_ALL;
	fix_finish_held(&f);
	ck_assert_granted(&f.answers[2], COPY_LOADING);
	fix_close(&f, 2);
	for (int i = 0; i < 10 && fix_copy(&f, "soft:700!", HOST).state != COPY_READY; i++)
		fix_tick(&f, 256 * NS_PER_S);
	ck_assert_state(&f, "soft:700!", HOST, COPY_READY);
	ck_assert_uint_eq(fix_copy(&f, "soft:700!", HOST).pins, 1);
	fix_fini(&f);
}
END_TEST

static void all(Suite *s)
{
	UNIT_CASE(s, "pin", a_load_that_failed_is_tried_again_after_waits_that_double_up_to_a_bound,
		it_is_not_tried_again_when_it_was_taken_back, success_makes_the_next_wait_short_again,
		it_waits_for_those_who_still_hold_what_had_arrived,
		a_load_that_somebody_asked_for_meanwhile_stays_when_that_one_goes,
		a_second_request_that_is_cancelled_does_not_end_the_first_ones_load, of_two_that_wait_for_a_name_one_may_go,
		two_that_are_refused_together_leave_no_pin, a_second_that_is_refused_does_not_take_the_first_ones_pin,
		a_load_that_fails_after_both_were_accepted_costs_neither_its_pin,
		a_pin_on_a_load_that_gave_way_and_is_damaged_is_tried_again);
}

UNIT_MAIN("cache_pin", all)
