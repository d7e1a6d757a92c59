/* test_kept_copy.c - copies that one daemon leaves and the next one takes, through a real helper: whole or not at all. */
#include "mrm/keep/copy.h"

#include "mrm/keep/helper.h"
#include "tests/unit/disk_fixture.h"

#include <inttypes.h>

static char dir[64];

static struct keep *open_keep(void)
{
	struct keep *k = NULL;
	struct fault why = {0};
	const struct keep_options o = {.mode = "helper", .dir = dir, .hold_ns = 60 * NS_PER_S};
	int e = keep_new(&k, &o, &why);
	ck_assert_msg(e == 0, "%s", why.text);
	return k;
}

static void setup(void)
{
	log_set_level(LOG_ERROR);
	strcpy(dir, "/tmp/trims-kept-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(struct keep **k)
{
	keep_free(k, true);
	ck_assert_int_eq(rmdir(dir), 0);
}

static struct kept_copy make(uint64_t generation, uint32_t chunks, enum tier_kind tier)
{
	struct kept_copy c = {.tier = tier, .generation = generation, .digest = {generation, 7}};
	if (tier == TIER_GPU)
		strcpy(c.device, "GPU-00000000-0000-0000-0000-000000000001");
	c.desc = make_desc(generation, chunks);
	const struct layout *l = c.desc->layout;
	c.hashes = calloc(l->n_chunks, sizeof *c.hashes);
	c.n_fds = l->n_extents;
	c.fds = calloc(c.n_fds, sizeof *c.fds);
	for (uint32_t i = 0; i < l->n_chunks; i++)
		c.hashes[i] = (struct hash128){generation, i};
	for (uint32_t i = 0; i < l->n_extents; i++) {
		c.fds[i] = memfd_create("extent", MFD_CLOEXEC);
		ck_assert_int_eq(ftruncate(c.fds[i], (off_t)l->extent_bytes[i]), 0);
		ck_assert_int_eq(pwrite(c.fds[i], &generation, sizeof generation, 0), sizeof generation);
	}
	return c;
}

static void put(struct keep *k, uint64_t generation, uint32_t chunks, enum tier_kind tier)
{
	struct fault why = {0};
	struct kept_copy c = make(generation, chunks, tier);
	int e = kept_copy_put(k, &c, &why);
	ck_assert_msg(e == 0, "%s", why.text);
	kept_copy_fini(&c);
}

static void check_same(struct kept_copy *got)
{
	struct kept_copy want = make(got->generation, got->desc->layout->n_chunks, got->tier);
	uint64_t seen = 0;
	ck_assert_str_eq(got->device, want.device);
	ck_assert(hash_equal(got->digest, want.digest));
	ck_assert_str_eq(got->desc->name, want.desc->name);
	ck_assert_uint_eq(got->desc->layout->image_bytes, want.desc->layout->image_bytes);
	for (uint32_t i = 0; i < got->desc->layout->n_chunks; i++)
		ck_assert(hash_equal(got->hashes[i], want.hashes[i]));
	ck_assert_int_eq(pread(got->fds[0], &seen, sizeof seen, 0), sizeof seen);
	ck_assert_uint_eq(seen, got->generation);
	kept_copy_fini(&want);
}

START_TEST(whole_copies_come_back)
{
	setup();
	struct keep *k = open_keep();
	put(k, 1, 1, TIER_HOST);
	put(k, 0xfeed, 3, TIER_GPU);
	put(k, 3, 2, TIER_HOST);
	kept_copy_drop(k, 3, 1);
	keep_free(&k, false);
	k = open_keep();
	struct kept_copy c;
	size_t cursor = 0, n = 0;
	for (; !kept_copy_next(k, &cursor, &c); n++) {
		ck_assert(c.generation == 1 || c.generation == 0xfeed);
		check_same(&c);
		kept_copy_fini(&c);
	}
	ck_assert_uint_eq(n, 2);
	teardown(&k);
}
END_TEST

START_TEST(what_is_not_whole_is_dropped)
{
	setup();
	struct keep *k = open_keep();
	struct fault why;
	put(k, 1, 1, TIER_HOST);
	put(k, 2, 1, TIER_HOST);
	keep_drop(k, "c1.e0");
	int garbage = memfd_create("garbage", MFD_CLOEXEC);
	ck_assert_int_eq(write(garbage, "nonsense", 8), 8);
	ck_assert_int_eq(keep_put(k, "c9.m", garbage, &why), 0);
	ck_assert_int_eq(keep_put(k, "c9.e0", garbage, &why), 0);
	ck_assert_int_eq(keep_put(k, "other", garbage, &why), 0);
	close(garbage);
	keep_free(&k, false);
	k = open_keep();
	struct kept_copy c;
	size_t cursor = 0;
	ck_assert_int_eq(kept_copy_next(k, &cursor, &c), 0);
	ck_assert_uint_eq(c.generation, 2);
	kept_copy_fini(&c);
	ck_assert_int_eq(kept_copy_next(k, &cursor, &c), -ENOENT);
	keep_free(&k, false);
	k = open_keep(); /* only the whole one is still held */
	size_t left;
	keep_found(k, &left);
	ck_assert_uint_eq(left, 2);
	teardown(&k);
}
END_TEST

START_TEST(any_flipped_bit_of_a_record_is_noticed)
{
	struct kept_copy c = make(5, 2, TIER_GPU), back;
	struct fault why = {0};
	uint8_t *bytes;
	size_t n;
	ck_assert_int_eq(kept_record_encode(&c, &bytes, &n, &why), 0);
	ck_assert_int_eq(kept_record_decode(bytes, n, &back, &why), 0);
	kept_copy_fini(&back);
	for (size_t i = 0; i < n * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		ck_assert_int_ne(kept_record_decode(bytes, n, &back, &why), 0);
		ck_assert_ptr_null(back.desc);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t cut = 0; cut < n; cut++)
		ck_assert_int_ne(kept_record_decode(bytes, cut, &back, &why), 0);
	free(bytes);
	kept_copy_fini(&c);
}
END_TEST

static void copies(Suite *s)
{
	UNIT_CASE(s, "kept copies", whole_copies_come_back, what_is_not_whole_is_dropped,
		any_flipped_bit_of_a_record_is_noticed);
}

UNIT_MAIN("kept_copy", copies)
