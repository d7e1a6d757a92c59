/* test_holding.c - what a holding knows of its chunks' hashes: whose word they are, who may take them back, and what is said
 * where one is wanted that is not on record. */
#include "mrm/holding.h"

#include "tests/unit/mrm_fixture.h"

#include <errno.h>

struct fixture {
	struct daemon *daemon;
	struct model model;
	struct holding *img;
	uint32_t n; /* chunks */
};

static void init(struct fixture *f)
{
	uint64_t seed = unit_seed();
	f->daemon = calloc(1, sizeof *f->daemon);
	ck_assert_ptr_nonnull(f->daemon);
	model_init(&f->model, (const uint64_t[]){30 << 20}, 1, false, &seed);
	f->img = holding_for_desc(f->daemon, f->model.desc);
	f->n = holding_layout(f->img)->n_chunks;
	ck_assert_uint_ge(f->n, 6);
}

static void fini(struct fixture *f)
{
	holding_settle(f->img); /* nothing holds it */
	idmap_fini(&f->daemon->prints);
	model_fini(&f->model);
	free(f->daemon);
}

static struct hash128 hash_of(uint32_t chunk)
{
	return (struct hash128){.hi = 7, .lo = chunk + 1};
}

static bool knows(const struct fixture *f, uint32_t chunk)
{
	struct hash128 h;
	bool known = holding_chunk_hash(f->img, chunk, &h);
	ck_assert(!known || hash_equal(h, hash_of(chunk)));
	return known;
}

START_TEST(a_haul_takes_back_what_is_its_word_alone)
{
	struct fixture f;
	init(&f);
	for (uint32_t i = 0; i < f.n; i++) /* the even ones came from the first, and the first two from both */
		holding_set_chunk_hash(f.img, i, hash_of(i), 1 + i % 2, false);
	holding_set_chunk_hash(f.img, 0, hash_of(0), 2, false);
	holding_set_chunk_hash(f.img, 1, hash_of(1), 1, false);
	holding_disown(f.img, 1);
	for (uint32_t i = 0; i < f.n; i++)
		ck_assert(knows(&f, i) == (i < 2 || i % 2 == 1));
	fini(&f);
}
END_TEST

START_TEST(what_an_earlier_daemon_vouched_for_is_nobodys_to_take_back)
{
	struct fixture f;
	init(&f);
	for (uint32_t i = 0; i < f.n; i++)
		holding_set_chunk_hash(f.img, i, hash_of(i), 0, false);
	for (uint32_t i = 0; i < f.n; i += 2) /* a load that finds the same */
		holding_set_chunk_hash(f.img, i, hash_of(i), 5, false);
	holding_disown(f.img, 5);
	for (uint32_t i = 0; i < f.n; i++)
		ck_assert(knows(&f, i));
	fini(&f);
}
END_TEST

START_TEST(a_hash_that_is_wanted_and_not_on_record_is_refused_in_words)
{
	struct fixture f;
	struct hash128 h;
	struct fault why;
	init(&f);
	ck_assert_int_eq(holding_want_hash(f.img, 3, &h, &why), -ENODATA);
	ck_assert_ptr_nonnull(strstr(why.text, "chunk 3"));
	holding_set_chunk_hash(f.img, 3, hash_of(3), 4, false);
	ck_assert_int_eq(holding_want_hash(f.img, 3, &h, &why), 0);
	ck_assert(hash_equal(h, hash_of(3)));
	holding_disown(f.img, 4);
	ck_assert_int_eq(holding_want_hash(f.img, 3, &h, &why), -ENODATA);
	fini(&f);
}
END_TEST

static void all(Suite *s)
{
	UNIT_CASE(s, "holding", a_haul_takes_back_what_is_its_word_alone, what_an_earlier_daemon_vouched_for_is_nobodys_to_take_back,
		a_hash_that_is_wanted_and_not_on_record_is_refused_in_words);
}

UNIT_MAIN("holding", all)
