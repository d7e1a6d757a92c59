/* test_manifest.c - the store's own files: one encoding each, every flipped byte and every cut refused. */
#include "mrm/disk/bytes.h"
#include "mrm/disk/manifest.h"
#include "tests/unit/disk_fixture.h"

static struct manifest make_manifest(uint32_t chunks)
{
	struct manifest m = {.desc = make_desc(77, chunks)};
	struct hash128 *hashes = calloc(chunks, sizeof *hashes);
	m.chunks = calloc(chunks, sizeof *m.chunks);
	for (uint32_t i = 0; i < chunks; i++) {
		uint64_t bytes = chunk_bytes(m.desc, i);
		m.chunks[i] = (struct chunk_record){.hash = {i, i * 7 + 1}, .off = m.data_bytes,
			.stored_bytes = (uint32_t)(i % 2 ? bytes / 3 : bytes), .codec = i % 2 ? CODEC_LZ4 : CODEC_RAW};
		m.data_bytes += chunk_room(&m.chunks[i]);
		hashes[i] = m.chunks[i].hash;
	}
	m.digest = image_digest(m.desc, hashes);
	free(hashes);
	return m;
}

static void encode(const struct manifest *m, uint8_t **bytes, size_t *n)
{
	struct fault why;
	int r = manifest_encode(m, bytes, n, &why);
	ck_assert_msg(r == 0, "%s", why.text);
}

START_TEST(a_manifest_has_one_encoding)
{
	struct manifest m = make_manifest(5), back;
	uint8_t *bytes, *again;
	size_t n, n_again;
	struct fault why;
	encode(&m, &bytes, &n);
	ck_assert_int_eq(manifest_decode(bytes, n, &back, &why), 0);
	encode(&back, &again, &n_again);
	ck_assert_uint_eq(n, n_again);
	ck_assert_mem_eq(bytes, again, n);
	ck_assert_uint_le(n, image_desc_disk_bytes(m.desc) - m.desc->layout->image_bytes);
	manifest_fini(&m);
	manifest_fini(&back);
	free(bytes);
	free(again);
}
END_TEST

START_TEST(every_flipped_byte_and_every_cut_is_refused)
{
	struct manifest m = make_manifest(4), back;
	uint8_t *bytes;
	size_t n;
	struct fault why;
	encode(&m, &bytes, &n);
	for (size_t i = 0; i < n; i++) {
		bytes[i] ^= 0x10;
		ck_assert_int_eq(manifest_decode(bytes, n, &back, &why), -EPROTO);
		bytes[i] ^= 0x10;
		/* A copy of that very size, so that a sanitizer sees a read behind it. */
		uint8_t *cut = malloc(i + 1);
		memcpy(cut, bytes, i);
		ck_assert_int_eq(manifest_decode(cut, i, &back, &why), -EPROTO);
		free(cut);
	}
	manifest_fini(&m);
	free(bytes);
}
END_TEST

/* Flips that come with a matching checksum (a bug, not a bad disk) are mostly refused, and never crash. */
START_TEST(structure_is_checked_besides_the_checksum)
{
	struct manifest m = make_manifest(4), back;
	uint8_t *bytes;
	size_t n;
	struct fault why;
	uint64_t seed = unit_seed();
	encode(&m, &bytes, &n);
	uint8_t *copy = malloc(n);
	for (int round = 0; round < 20000; round++) {
		memcpy(copy, bytes, n);
		size_t at = unit_random(&seed) % n;
		copy[at] = (uint8_t)unit_random(&seed);
		if (manifest_decode_unchecked(copy, n, &back, &why) < 0)
			continue;
		uint8_t *again;
		size_t n_again;
		encode(&back, &again, &n_again);
		ck_assert_uint_eq(n_again, n);
		ck_assert_mem_eq(again, copy, n - CHECK_BYTES);
		free(again);
		manifest_fini(&back);
	}
	free(copy);
	free(bytes);
	manifest_fini(&m);
}
END_TEST

static void expect_refusal(struct manifest *m, const char *about)
{
	uint8_t *bytes;
	size_t n;
	struct fault why = {0};
	struct manifest back;
	encode(m, &bytes, &n);
	ck_assert_int_eq(manifest_decode(bytes, n, &back, &why), -EPROTO);
	ck_assert_msg(strstr(why.text, about) != NULL, "%s", why.text);
	free(bytes);
}

START_TEST(chunks_in_impossible_places_are_refused)
{
	struct manifest m = make_manifest(3);
	struct chunk_record *c = &m.chunks[1], good = *c;
	struct chunk_record bad[] = {good, good, good, good, good, good};
	bad[0].off += 512;
	bad[1].off = m.data_bytes;
	bad[2].codec = CODEC_N;
	bad[3].stored_bytes = 0;
	bad[4].stored_bytes = IMAGE_CHUNK_BYTES; /* LZ4 that saves nothing */
	bad[5].codec = CODEC_RAW;                /* raw of another size */
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		*c = bad[i];
		expect_refusal(&m, "where it cannot be");
	}
	*c = good;
	m.digest.lo ^= 1;
	expect_refusal(&m, "digest");
	m.digest.lo ^= 1;
	m.desc->in_place = true;
	expect_refusal(&m, "in place");
	m.desc->in_place = false;
	m.data_bytes++;
	expect_refusal(&m, "cannot be");
	manifest_fini(&m);
}
END_TEST

START_TEST(tensors_in_another_order_are_refused)
{
	struct manifest m = make_manifest(3);
	struct tensor *t = m.desc->layout->tensors, first = t[0];
	t[0] = t[1];
	t[1] = first;
	expect_refusal(&m, "image order");
	manifest_fini(&m);
}
END_TEST

START_TEST(descriptions_have_limits)
{
	struct image_desc *d = make_desc(1, 1);
	struct fault why;
	d->sides[0].bytes = DESC_MAX_SIDE_BYTES;
	ck_assert_int_eq(image_desc_check(d, &why), -EPROTO);
	d->sides[0].bytes = UINT64_MAX;
	ck_assert_int_eq(image_desc_check(d, &why), -EPROTO);
	d->sides[0].bytes = 8;
	ck_assert_int_eq(image_desc_check(d, &why), 0);
	free(d->sides[1].name);
	d->sides[1].name = text(d->sides[0].name);
	ck_assert_int_eq(image_desc_check(d, &why), -EPROTO);
	ck_assert_ptr_nonnull(strstr(why.text, "config.json"));
	d->sides[1].name[0] = '_';
	free(d->revision);
	d->revision = NULL;
	ck_assert_int_eq(image_desc_check(d, &why), -EPROTO);
	ck_assert_ptr_nonnull(strstr(why.text, "revision"));
	d->revision = calloc(1, DESC_MAX_TEXT + 2);
	memset(d->revision, 'r', DESC_MAX_TEXT + 1);
	ck_assert_int_eq(image_desc_check(d, &why), -EPROTO);
	image_desc_free(&d);
}
END_TEST

START_TEST(journal_records_belong_to_their_journal)
{
	uint8_t record[JOURNAL_RECORD_BYTES];
	struct chunk_record c = {{1, 2}, 8192, 4096, CODEC_LZ4}, back;
	uint32_t chunk;
	journal_record_encode(5, &c, 99, record);
	ck_assert(journal_record_decode(record, 99, &chunk, &back));
	ck_assert_uint_eq(chunk, 5);
	ck_assert_mem_eq(&back, &c, sizeof c);
	ck_assert(!journal_record_decode(record, 98, &chunk, &back));
	for (size_t i = 0; i < sizeof record; i++) {
		record[i] ^= 1;
		ck_assert(!journal_record_decode(record, 99, &chunk, &back));
		record[i] ^= 1;
	}
}
END_TEST

START_TEST(every_flipped_byte_of_a_journal_head_is_refused)
{
	struct image_desc *d = make_desc(3, 2), *back = NULL;
	uint8_t *head;
	size_t n, got;
	uint64_t seed;
	struct fault why;
	ck_assert_int_eq(journal_head_encode(d, &head, &n, &why), 0);
	ck_assert_int_eq(journal_head_decode(head, n, &back, &got, &seed, &why), 0);
	ck_assert_uint_eq(got, n);
	ck_assert_uint_eq(seed, journal_seed(head, n));
	image_desc_free(&back);
	for (size_t i = 0; i < n; i++) {
		head[i] ^= 0x80;
		ck_assert_int_eq(journal_head_decode(head, n, &back, &got, &seed, &why), -EPROTO);
		head[i] ^= 0x80;
		ck_assert_int_eq(journal_head_decode(head, i, &back, &got, &seed, &why), -EPROTO);
	}
	free(head);
	image_desc_free(&d);
}
END_TEST

START_TEST(every_flipped_byte_of_a_catalog_is_refused)
{
	char a[] = "name", b[] = "s3://x", c[] = "";
	struct disk_name names[] = {{a, b, c, 1, 2, 3}, {b, a, c, 4, 5, 6}}, *back;
	uint8_t *bytes;
	size_t n;
	uint32_t count;
	struct fault why;
	ck_assert_int_eq(catalog_encode(names, 2, &bytes, &n, &why), 0);
	ck_assert_int_eq(catalog_decode(bytes, n, &back, &count, &why), 0);
	ck_assert_uint_eq(count, 2);
	ck_assert_uint_eq(back[1].last_use_s, 6);
	disk_names_free(back, count);
	for (size_t i = 0; i < n; i++) {
		bytes[i] ^= 4;
		ck_assert_int_eq(catalog_decode(bytes, n, &back, &count, &why), -EPROTO);
		bytes[i] ^= 4;
		ck_assert_int_eq(catalog_decode(bytes, i, &back, &count, &why), -EPROTO);
	}
	free(bytes);
}
END_TEST

static void formats(Suite *suite)
{
	UNIT_CASE(suite, "formats", a_manifest_has_one_encoding, every_flipped_byte_and_every_cut_is_refused,
		structure_is_checked_besides_the_checksum, chunks_in_impossible_places_are_refused,
		tensors_in_another_order_are_refused, descriptions_have_limits, journal_records_belong_to_their_journal,
		every_flipped_byte_of_a_journal_head_is_refused, every_flipped_byte_of_a_catalog_is_refused);
}

UNIT_MAIN("manifest", formats)
