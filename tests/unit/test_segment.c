/* test_segment.c - mrm/segment: what a client sees of a copy that fills up, whatever the order. */
#include "mrm/segment.h"
#include "tests/unit/mrm_fixture.h"
#include "tests/unit/pieces_verify.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The page as a client maps it. */
static const struct progress_page *seen_by_client(const struct segment *s)
{
	const void *page = mmap(NULL, PROGRESS_BYTES, PROT_READ, MAP_SHARED, s->page.fd, 0);
	ck_assert_ptr_ne(page, MAP_FAILED);
	return page;
}

static struct segment *made(const struct layout *l, bool host)
{
	struct segment *s;
	struct fault why;
	struct shm_options o = {0};
	ck_assert_msg(segment_new(&s, l, 4711, host ? SEGMENT_HOST : SEGMENT_PAGE, NULL, "test", &o, &why) == 0, "%s", why.text);
	return s;
}

/* Three extents, the first of them large: tensors beyond an extent's size have their own, without needing memory. */
static void large_layout(struct layout **l)
{
	struct tensor_list list = {0};
	struct fault why;
	uint64_t bytes[] = {IMAGE_EXTENT_BYTES - 5, 30 * MIB + 7, IMAGE_EXTENT_BYTES - 100}, at = 0, head = 0;
	const char *names[] = {"large.safetensors"};
	for (size_t i = 0; i < ARRAY_LEN(bytes); at += bytes[i++])
		model_tensor(&list, 0, at, bytes[i]);
	int e = layout_build(l, &list, &at, &head, names, 1, &why);
	ck_assert_msg(e == 0, "%s", why.text);
	ck_assert_uint_eq((*l)->n_extents, 3);
}

/* Bytes from the extent's start that are readable without a hole. */
static uint64_t naive_watermark(const struct segment *s, const struct layout *l, uint32_t extent)
{
	uint64_t bytes = 0;
	for (uint32_t c = l->extent_chunk[extent]; c < l->extent_chunk[extent + 1] && s->readable[c]; c++)
		bytes += layout_chunk(l, c).bytes;
	return bytes;
}

START_TEST(watermarks_cover_what_is_readable_without_a_hole_and_only_grow)
{
	struct layout *l;
	uint64_t seed = unit_seed(), before[3] = {0}, landed = 0;
	large_layout(&l);
	struct segment *s = made(l, true);
	const struct progress_page *p = seen_by_client(s);
	uint32_t *order = random_order(l->n_chunks, &seed);
	for (uint32_t i = 0; i < l->n_chunks; i++) {
		uint32_t wake = atomic_load(&p->wake);
		s->landed[order[i]] = true;
		segment_set_readable(s, l, order[i]);
		segment_set_readable(s, l, order[i]);
		landed += layout_chunk(l, order[i]).bytes;
		ck_assert_uint_eq(atomic_load(&p->landed), landed);
		for (uint32_t e = 0; e < l->n_extents; e++) {
			uint64_t now = atomic_load(&p->watermark[e]);
			ck_assert_uint_eq(now, naive_watermark(s, l, e));
			ck_assert_uint_ge(now, before[e]);
			before[e] = now;
		}
		ck_assert(atomic_load(&p->chunk[order[i] / 64]) >> order[i] % 64 & 1);
		ck_assert_uint_eq(atomic_load(&p->wake) - wake, 1);
	}
	for (uint32_t e = 0; e < l->n_extents; e++)
		ck_assert_uint_eq(before[e], l->extent_bytes[e]);
	ck_assert_uint_eq(s->n_readable, l->n_chunks);
	free(order);
	munmap((void *)p, PROGRESS_BYTES);
	segment_free(&s);
	ck_assert_ptr_null(s);
	layout_free(&l);
}
END_TEST

START_TEST(the_page_says_what_it_is)
{
	struct layout *l;
	large_layout(&l);
	struct segment *s = made(l, true), *disk = made(l, false);
	const struct progress_page *p = seen_by_client(s), *q = seen_by_client(disk);
	ck_assert_uint_eq(p->magic, PROGRESS_MAGIC);
	ck_assert_uint_eq(p->version, PROGRESS_VERSION);
	ck_assert_uint_eq(p->copy, 4711);
	ck_assert_uint_eq(p->extents, 3);
	ck_assert_uint_eq(p->image_bytes, l->image_bytes);
	ck_assert_uint_eq(atomic_load(&p->state), PROGRESS_LOADING);
	ck_assert_uint_eq(q->extents, 0);
	ck_assert_ptr_null(segment_chunk(disk, l, 0));
	for (uint32_t c = 0; c < l->n_chunks; c += 37) {
		struct layout_chunk k = layout_chunk(l, c);
		ck_assert_ptr_eq(segment_chunk(s, l, c), (uint8_t *)s->extents[k.extent].map + k.offset);
	}
	munmap((void *)p, PROGRESS_BYTES);
	munmap((void *)q, PROGRESS_BYTES);
	segment_free(&s);
	segment_free(&disk);
	layout_free(&l);
}
END_TEST

START_TEST(ready_is_the_end_of_all_watermarks)
{
	struct layout *l;
	large_layout(&l);
	struct segment *s = made(l, true);
	const struct progress_page *p = seen_by_client(s);
	struct fault late = {TRIMS_E_INTERNAL, "too late"};
	s->landed[3] = true;
	segment_set_readable(s, l, 3);
	segment_set_ready(s, l, (struct hash128){5, 6});
	ck_assert_uint_eq(atomic_load(&p->state), PROGRESS_READY);
	ck_assert_uint_eq(atomic_load(&p->digest_hi), 5);
	ck_assert_uint_eq(atomic_load(&p->digest_lo), 6);
	ck_assert_uint_eq(atomic_load(&p->landed), l->image_bytes);
	for (uint32_t e = 0; e < l->n_extents; e++)
		ck_assert_uint_eq(atomic_load(&p->watermark[e]), l->extent_bytes[e]);
	for (uint32_t c = 0; c < l->n_chunks; c++)
		ck_assert(s->landed[c] && s->readable[c]); /* so that the write to disk behind it goes on */
	segment_poison(s, &late);
	ck_assert_uint_eq(atomic_load(&p->state), PROGRESS_READY);
	ck_assert_uint_eq(atomic_load(&p->error), 0);
	munmap((void *)p, PROGRESS_BYTES);
	segment_free(&s);
	layout_free(&l);
}
END_TEST

START_TEST(the_first_poison_stays)
{
	struct layout *l;
	large_layout(&l);
	struct segment *s = made(l, true);
	const struct progress_page *p = seen_by_client(s);
	struct fault first = {TRIMS_E_MISMATCH, "the first reason"}, second = {TRIMS_E_STOPPING, "another"};
	segment_poison(s, &first);
	segment_poison(s, &second);
	ck_assert_uint_eq(atomic_load(&p->state), PROGRESS_POISONED);
	ck_assert_uint_eq(atomic_load(&p->error), TRIMS_E_MISMATCH);
	ck_assert_str_eq(p->error_text, "the first reason");
	munmap((void *)p, PROGRESS_BYTES);
	segment_free(&s);
	layout_free(&l);
}
END_TEST

struct waiter {
	const struct progress_page *page;
	uint64_t want;
	uint32_t state; /* what ended the wait */
};

/* As libtrims waits: the word first, then what it stands for. */
static void *wait_for_bytes(void *arg)
{
	struct waiter *w = arg;
	for (;;) {
		uint32_t word = atomic_load_explicit(&w->page->wake, memory_order_acquire);
		w->state = atomic_load_explicit(&w->page->state, memory_order_acquire);
		if (w->state != PROGRESS_LOADING || atomic_load_explicit(&w->page->watermark[0], memory_order_acquire) >= w->want)
			return NULL;
		syscall(SYS_futex, &w->page->wake, FUTEX_WAIT, word, NULL, NULL, 0);
	}
}

static void race(bool poison, uint64_t *seed)
{
	uint64_t data[] = {40 * MIB};
	struct model m;
	pthread_t threads[6];
	struct waiter waiters[ARRAY_LEN(threads)];
	struct fault why = {TRIMS_E_UNREACHABLE, "gone"};
	model_init(&m, data, 1, false, seed);
	const struct layout *l = m.desc->layout;
	struct segment *s = made(l, true);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		waiters[i] = (struct waiter){seen_by_client(s), l->extent_bytes[0] * i / (ARRAY_LEN(threads) - 1), 0};
		pthread_create(&threads[i], NULL, wait_for_bytes, &waiters[i]);
	}
	uint32_t *order = random_order(l->n_chunks, seed), n = poison ? l->n_chunks / 2 : l->n_chunks;
	for (uint32_t i = 0; i < n; i++) {
		s->landed[order[i]] = true;
		segment_set_readable(s, l, order[i]);
	}
	if (poison)
		segment_poison(s, &why);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		pthread_join(threads[i], NULL); /* hangs when a wake was lost */
		ck_assert(waiters[i].state == PROGRESS_LOADING || poison);
		munmap((void *)waiters[i].page, PROGRESS_BYTES);
	}
	free(order);
	segment_free(&s);
	model_fini(&m);
}

START_TEST(whoever_waits_is_woken)
{
	uint64_t seed = unit_seed() ^ 5;
	for (int round = 0; round < 10; round++)
		race(round % 2, &seed);
}
END_TEST

/* One of several threads that want pages of the same copy; it fills every n-th chunk, and only after asking for it. */
struct filler {
	struct segment *segment;
	const struct layout *layout;
	uint32_t index, n;
	uint32_t *order;
};

static void *fill_share(void *arg)
{
	struct filler *f = arg;
	for (uint32_t i = 0; i < f->layout->n_chunks; i++) {
		uint32_t chunk = f->order[i];
		segment_populate(f->segment, f->layout, chunk, true);
		struct layout_chunk k = layout_chunk(f->layout, chunk);
		uint8_t *at = segment_chunk(f->segment, f->layout, chunk);
		for (uint64_t o = 0; o < k.bytes; o += IMAGE_PAGE) {
			unsigned char there;
			ck_assert(mincore(at + o, IMAGE_PAGE, &there) == 0 && there & 1);
			if (chunk % f->n == f->index)
				at[o] = (uint8_t)(1 + chunk % 251);
		}
	}
	return NULL;
}

START_TEST(pages_are_there_for_whoever_asked_and_what_is_written_stays)
{
	uint64_t seed = unit_seed() ^ 9, data[] = {61 * MIB};
	struct model m;
	struct filler fillers[4];
	pthread_t threads[ARRAY_LEN(fillers)];
	model_init(&m, data, 1, false, &seed);
	const struct layout *l = m.desc->layout;
	struct segment *s = made(l, true);
	for (uint32_t i = 0; i < ARRAY_LEN(fillers); i++) {
		fillers[i] = (struct filler){s, l, i, ARRAY_LEN(fillers), random_order(l->n_chunks, &seed)};
		pthread_create(&threads[i], NULL, fill_share, &fillers[i]);
	}
	for (uint32_t i = 0; i < ARRAY_LEN(fillers); i++) {
		pthread_join(threads[i], NULL);
		free(fillers[i].order);
	}
	for (uint32_t chunk = 0; chunk < l->n_chunks; chunk++)
		for (uint64_t o = 0; o < layout_chunk(l, chunk).bytes; o += IMAGE_PAGE)
			ck_assert_uint_eq(segment_chunk(s, l, chunk)[o], 1 + chunk % 251);
	segment_free(&s);
	model_fini(&m);
}
END_TEST

START_TEST(memory_that_cannot_be_had_leaves_nothing)
{
	struct layout *l;
	struct segment *s = NULL;
	struct fault why = {0};
	struct shm_options o = {0};
	large_layout(&l);
	l->extent_bytes[2] = (uint64_t)1 << 62;
	ck_assert_int_lt(segment_new(&s, l, 1, SEGMENT_HOST, NULL, "test", &o, &why), 0);
	ck_assert_ptr_null(s);
	ck_assert_str_ne(why.text, "");
	layout_free(&l);
}
END_TEST

/* ---- copies on devices: pieces and editions ---- */

/* Six tensors of three chunks; the first and the fourth stay on the host, the last is needed first, half of the rest is worth
 * keeping. */
static struct segment *planned(struct layout **l)
{
	static const uint32_t order[] = {5, 0, 1, 2, 3, 4};
	const uint64_t bytes[] = {12 * MIB, 12 * MIB, 12 * MIB, 12 * MIB, 12 * MIB, 12 * MIB};
	struct shm_options o = {0};
	struct segment *s = NULL;
	struct pieces *p = NULL;
	struct fault why;
	struct plan_head *plan = pieces_plan(ARRAY_LEN(order));
	*l = pieces_layout(bytes, ARRAY_LEN(bytes));
	plan->keep_bytes = 24 * MIB;
	for (uint32_t i = 0; i < ARRAY_LEN(order); i++)
		((struct plan_entry *)plan_entries(plan))[i] = (struct plan_entry){.tensor = order[i], .place = order[i] % 3 == 0};
	ck_assert_int_eq(pieces_build(&p, *l, plan, false, &why), 0);
	ck_assert_int_eq(segment_new(&s, *l, 4711, SEGMENT_DEVICE, p, "test", &o, &why), 0);
	free(plan);
	return s;
}

/* What is to arrive does, in the order of the pieces; each watermark covers exactly what has. */
static void fill(struct segment *s, const struct layout *l, const struct progress_page *page)
{
	for (uint32_t i = 0; i < l->n_chunks; i++) {
		uint32_t chunk = pieces_chunk(s->pieces, i), piece = s->pieces->of_chunk[chunk];
		if (!segment_wants(s, chunk) || s->landed[chunk])
			continue;
		uint64_t before = atomic_load(&page->watermark[piece]);
		s->landed[chunk] = true;
		s->n_landed++;
		segment_set_readable(s, l, chunk);
		ck_assert_uint_eq(atomic_load(&page->watermark[piece]), before + layout_chunk(l, chunk).bytes);
	}
	for (uint32_t i = 0; i < segment_wanted_pieces(s); i++)
		ck_assert_uint_eq(atomic_load(&page->watermark[i]), s->pieces->v[i].bytes);
}

static void is_served(const struct segment *s, const struct progress_page *page, uint64_t edition)
{
	ck_assert(segment_is_ready(s));
	ck_assert_uint_eq(s->edition, edition);
	ck_assert_uint_eq(page->copy, edition);
	ck_assert_uint_eq(page->extents, s->n_pieces);
	ck_assert_uint_eq(atomic_load(&page->landed), segment_bytes(s));
}

static void is_whole(const struct segment *s, const struct progress_page *page, uint64_t edition)
{
	is_served(s, page, edition);
	ck_assert_uint_eq(s->n_landed, pieces_chunks(s->pieces, s->n_pieces));
	ck_assert_uint_eq(s->n_readable, s->n_landed);
}

static struct segment_edition edition_of(const struct segment *s, const struct layout *l, uint64_t number, uint32_t n)
{
	struct segment_edition e;
	struct shm_options o = {0};
	struct fault why;
	ck_assert_int_eq(segment_edition_new(&e, s, l, number, n, "test", &o, &why), 0);
	return e;
}

static const struct hash128 SOME = {5, 6};

START_TEST(a_part_is_ready_when_what_the_plan_wants_is_there)
{
	struct layout *l;
	struct segment *s = planned(&l);
	const struct progress_page *page = seen_by_client(s);
	ck_assert_uint_lt(s->n_pieces, s->pieces->n);
	ck_assert_uint_eq(page->image_bytes, l->image_bytes);
	fill(s, l, page);
	ck_assert(!segment_is_ready(s));
	segment_set_ready(s, l, SOME);
	is_whole(s, page, 4711);
	ck_assert_uint_eq(segment_bytes(s), 48 * MIB);
	ck_assert(!segment_has(s, 0) && segment_has(s, 3));
	munmap((void *)page, PROGRESS_BYTES);
	segment_free(&s);
	layout_free(&l);
}
END_TEST

START_TEST(a_copy_that_grows_serves_as_it_was_until_it_has_grown)
{
	struct layout *l;
	struct segment *s = planned(&l);
	const struct progress_page *old = seen_by_client(s);
	fill(s, l, old);
	segment_set_ready(s, l, SOME);
	for (int round = 0; round < 2; round++) {
		struct segment_edition e = edition_of(s, l, 4800 + round, s->pieces->n);
		segment_grow(s, &e);
		is_whole(s, old, 4711);
		ck_assert(!segment_has(s, 0) && segment_wants(s, 0));
		const struct progress_page *next = s->next.page.map;
		ck_assert_uint_eq(atomic_load(&next->landed), 48 * MIB);
		if (round) {
			fill(s, l, next);
			is_served(s, old, 4711);
			segment_set_ready(s, l, SOME);
			break;
		}
		s->landed[0] = true; /* a chunk comes, and then it is given up */
		s->n_landed++;
		segment_set_readable(s, l, 0);
		segment_cut(s, l, s->n_pieces);
		ck_assert(!s->landed[0] && !segment_wants(s, 0));
		is_whole(s, old, 4711);
	}
	const struct progress_page *now = seen_by_client(s);
	is_whole(s, now, 4801);
	ck_assert_uint_eq(segment_bytes(s), l->image_bytes);
	ck_assert_uint_eq(atomic_load(&old->state), PROGRESS_READY);
	munmap((void *)old, PROGRESS_BYTES);
	munmap((void *)now, PROGRESS_BYTES);
	segment_free(&s);
	layout_free(&l);
}
END_TEST

START_TEST(a_copy_that_lost_its_tail_comes_back_with_what_was_kept)
{
	struct layout *l;
	struct segment *s = planned(&l);
	const struct progress_page *old = seen_by_client(s);
	fill(s, l, old);
	segment_set_ready(s, l, SOME);
	ck_assert_uint_gt(s->pieces->n_head, 0);
	segment_cut(s, l, s->pieces->n_head);
	ck_assert(!segment_is_ready(s));
	ck_assert_uint_eq(s->n_landed, pieces_chunks(s->pieces, s->pieces->n_head));
	struct segment_edition e = edition_of(s, l, 4800, s->pieces->n_plan);
	segment_replace(s, &e);
	const struct progress_page *page = seen_by_client(s);
	ck_assert_uint_eq(atomic_load(&page->state), PROGRESS_LOADING);
	for (uint32_t i = 0; i < s->n_pieces; i++)
		ck_assert_uint_eq(atomic_load(&page->watermark[i]), i < s->pieces->n_head ? s->pieces->v[i].bytes : 0);
	fill(s, l, page);
	segment_set_ready(s, l, SOME);
	is_whole(s, page, 4800);
	munmap((void *)old, PROGRESS_BYTES);
	munmap((void *)page, PROGRESS_BYTES);
	segment_free(&s);
	layout_free(&l);
}
END_TEST

START_TEST(what_was_not_checked_yet_does_not_survive_a_cut)
{
	struct layout *l;
	struct segment *s = planned(&l);
	uint32_t first = s->pieces->v[0].first;
	segment_set_landed(s); /* as of an earlier daemon */
	segment_set_readable(s, l, first);
	segment_cut(s, l, s->pieces->n_head);
	for (uint32_t i = 0; i < l->n_chunks; i++)
		ck_assert_int_eq(s->landed[i], i == first);
	ck_assert_uint_eq(s->n_landed, 1);
	segment_free(&s);
	layout_free(&l);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "page", the_page_says_what_it_is, ready_is_the_end_of_all_watermarks, the_first_poison_stays,
		memory_that_cannot_be_had_leaves_nothing);
	UNIT_CASE(suite, "pages", pages_are_there_for_whoever_asked_and_what_is_written_stays);
	UNIT_CASE(suite, "parts", a_part_is_ready_when_what_the_plan_wants_is_there,
		a_copy_that_grows_serves_as_it_was_until_it_has_grown, a_copy_that_lost_its_tail_comes_back_with_what_was_kept,
		what_was_not_checked_yet_does_not_survive_a_cut);
	UNIT_CASE(suite, "progress", watermarks_cover_what_is_readable_without_a_hole_and_only_grow, whoever_waits_is_woken);
}

UNIT_MAIN("segment", all)
