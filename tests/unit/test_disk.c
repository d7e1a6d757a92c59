/* test_disk.c - mrm/disk: images are stored, found again, resumed and removed; names; who may open the store. */
#include "tests/unit/disk_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

START_TEST(an_image_comes_back_as_it_was_stored)
{
	static const enum disk_compress how[] = {DISK_COMPRESS_AUTO, DISK_COMPRESS_ALWAYS, DISK_COMPRESS_NEVER};
	struct fixture fx = {.options.compress = how[_i % 3], .options.no_direct = _i >= 3};
	fixture_init(&fx);
	for (uint64_t model = 10; model < 12; model++) {
		struct disk_image *img = begin(&fx, make_desc(model, 4));
		uint64_t most = image_desc_disk_bytes(disk_image_desc(img));
		for (uint32_t i = 4; i-- > 0;)
			put_chunk(&fx, img, i);
		ck_assert_uint_le(disk_image_bytes(img), most);
		struct hash128 digest = commit(img);
		check_all(&fx, img);
		fixture_reopen(&fx);
		img = find(&fx, model);
		ck_assert_ptr_nonnull(img);
		ck_assert(hash_equal(disk_image_digest(img), digest));
		ck_assert_str_eq(disk_image_desc(img)->name, "tiny");
		ck_assert_str_eq(disk_image_desc(img)->files[0].version, "\"etag\"");
		ck_assert(disk_image_desc(img)->files[0].has_sha256);
		ck_assert_uint_le(disk_image_bytes(img), most);
		if ((model & 1) && fx.options.compress != DISK_COMPRESS_NEVER)
			ck_assert_uint_lt(disk_image_bytes(img), most / 2);
		check_all(&fx, img);
	}
	ck_assert_uint_eq(stats(&fx).adopted, 2);
	fixture_fini(&fx);
}
END_TEST

START_TEST(chunks_are_coded_only_where_it_pays)
{
	struct fixture fx = {0};
	fixture_init(&fx);
	store_model(&fx, 2, 20);
	ck_assert_uint_eq(stats(&fx).chunks_lz4, 0);
	ck_assert_uint_eq(stats(&fx).chunks_raw, 20);
	ck_assert_uint_lt(stats(&fx).samples, 15); /* a hopeless image is not sampled each time */
	store_model(&fx, 3, 3);
	ck_assert_uint_ge(stats(&fx).chunks_lz4, 2);
	ck_assert_uint_lt(stats(&fx).stored_bytes, stats(&fx).image_bytes_in);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_raw_chunk_can_be_read_from_the_file_as_it_is)
{
	struct fixture fx = {.options.compress = DISK_COMPRESS_NEVER};
	struct disk_extent e;
	fixture_init(&fx);
	struct disk_image *img = store_model(&fx, 4, 3);
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_int_eq(disk_image_chunk(img, i, &e), 0);
		ck_assert_uint_eq(e.codec, CODEC_RAW);
		ck_assert_uint_eq(e.off % 4096, 0);
		ck_assert_int_eq(pread(e.fd, fx.back, e.stored_bytes, (off_t)e.off), e.stored_bytes);
		ck_assert(hash_equal(chunk_hash(fx.back, e.stored_bytes), e.hash));
	}
	ck_assert_int_eq(disk_image_chunk(img, 3, &e), -EINVAL);
	fixture_fini(&fx);
}
END_TEST

START_TEST(unaligned_bytes_are_taken_too)
{
	struct fixture fx = {.options.compress = DISK_COMPRESS_NEVER};
	struct fault why;
	fixture_init(&fx);
	struct disk_image *img = begin(&fx, make_desc(6, 2));
	for (uint32_t i = 0; i < 2; i++) {
		struct hash128 hash = fill_chunk(disk_image_desc(img), i, fx.chunk + 24);
		ck_assert_int_eq(disk_image_put(img, i, fx.chunk + 24, hash, &why), 0);
	}
	commit(img);
	check_all(&fx, img);
	if (disk_is_direct(fx.disk, NULL))
		ck_assert_uint_eq(stats(&fx).bounced, 2);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_partial_image_is_resumed_where_it_stopped)
{
	struct fixture fx = {0};
	struct disk_extent e;
	struct fault why;
	fixture_init(&fx);
	struct disk_image *img = begin(&fx, make_desc(7, 5));
	put_chunk(&fx, img, 3);
	put_chunk(&fx, img, 1);
	ck_assert_int_eq(disk_image_flush(img, &why), 0);
	put_chunk(&fx, img, 0); /* closing flushes this one */
	for (int round = 0; round < 2; round++) {
		fixture_reopen(&fx);
		img = find(&fx, 7);
		ck_assert_ptr_nonnull(img);
		ck_assert(!disk_image_complete(img));
		ck_assert_uint_eq(disk_image_chunks(img), 3);
		ck_assert(disk_image_has(img, 0) && disk_image_has(img, 1) && disk_image_has(img, 3));
		ck_assert_int_eq(disk_image_chunk(img, 2, &e), -ENOENT);
		ck_assert_int_eq(check_chunk(&fx, img, 3), 0);
	}
	ck_assert_ptr_eq(begin(&fx, make_desc(7, 5)), img);
	struct hash128 digest;
	ck_assert_int_eq(disk_image_commit(img, &digest, &why), -ENODATA);
	put_chunk(&fx, img, 2);
	put_chunk(&fx, img, 4);
	commit(img);
	check_all(&fx, img);
	fixture_reopen(&fx);
	check_all(&fx, find(&fx, 7));
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_changed_model_starts_over)
{
	struct fixture fx = {0};
	fixture_init(&fx);
	struct disk_image *img = begin(&fx, make_desc(8, 3));
	put_chunk(&fx, img, 0);
	struct image_desc *other = make_desc(8, 3);
	free(other->files[0].version);
	other->files[0].version = text("\"another\"");
	img = begin(&fx, other);
	ck_assert_uint_eq(disk_image_chunks(img), 0);
	ck_assert_uint_eq(stats(&fx).drops, 1);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_complete_image_is_not_begun_again)
{
	struct fixture fx = {0};
	struct fault why;
	fixture_init(&fx);
	store_model(&fx, 9, 2);
	struct image_desc *d = make_desc(9, 2);
	struct disk_image *img;
	ck_assert_int_eq(disk_image_begin(fx.disk, &d, &img, &why), -EEXIST);
	ck_assert_ptr_null(d);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_dropped_image_leaves_nothing)
{
	struct fixture fx = {0};
	struct fault why;
	char path[200];
	fixture_init(&fx);
	store_model(&fx, 20, 2);
	struct disk_image *img = begin(&fx, make_desc(21, 2));
	ck_assert_int_eq(disk_image_drop(&img, &why), 0);
	img = find(&fx, 20);
	ck_assert_int_eq(disk_image_drop(&img, &why), 0);
	ck_assert_ptr_null(find(&fx, 20));
	ck_assert_ptr_null(disk_next(fx.disk, NULL));
	snprintf(path, sizeof path, "test -z \"$(ls %s/images)\"", fx.dir);
	ck_assert_int_eq(system(path), 0);
	fixture_fini(&fx);
}
END_TEST

START_TEST(an_in_place_model_keeps_hashes_and_side_files_only)
{
	struct fixture fx = {0};
	struct fault why;
	struct disk_extent e;
	char path[200];
	fixture_init(&fx);
	struct image_desc *d = make_desc(30, 3);
	d->in_place = true;
	struct disk_image *img = begin(&fx, d);
	struct hash128 hashes[3];
	uint8_t *side;
	for (uint32_t i = 0; i < 3; i++) {
		hashes[i] = fill_chunk(disk_image_desc(img), i, fx.chunk);
		ck_assert_int_eq(disk_image_put(img, i, NULL, hashes[i], &why), 0);
	}
	ck_assert_int_eq(disk_image_side(img, 0, &side, &why), 0);
	free(side);
	struct hash128 digest = commit(img);
	ck_assert(hash_equal(digest, image_digest(disk_image_desc(img), hashes)));
	fixture_reopen(&fx);
	img = find(&fx, 30);
	ck_assert(disk_image_complete(img) && disk_image_desc(img)->in_place);
	image_file(&fx, 30, "data", path);
	ck_assert_int_eq(file_bytes(path), -1);
	ck_assert_int_eq(disk_image_chunk(img, 1, &e), 0);
	ck_assert_int_eq(e.fd, -1);
	ck_assert(hash_equal(e.hash, hashes[1]));
	fill_chunk(disk_image_desc(img), 1, fx.chunk);
	ck_assert_int_eq(disk_image_check(img, 1, fx.chunk, &why), 0);
	fx.chunk[5] ^= 1;
	ck_assert_int_eq(disk_image_check(img, 1, fx.chunk, &why), -EBADMSG);
	ck_assert_int_eq(disk_image_side(img, 0, &side, &why), 0);
	ck_assert_mem_eq(side, "{\"a\": 1}", 8);
	free(side);
	ck_assert_int_eq(disk_image_drop(&img, &why), 0);
	fixture_fini(&fx);
}
END_TEST

static struct hash128 digest_of(const struct image_desc *d)
{
	static const struct hash128 chunks[2] = {{1, 2}, {3, 4}};
	return image_digest(d, chunks);
}

START_TEST(the_digest_covers_all_that_a_client_sees)
{
	struct image_desc *d = make_desc(1, 2);
	struct hash128 base = digest_of(d), other[2] = {{1, 2}, {3, 5}};
	ck_assert(!hash_equal(base, image_digest(d, other)));
	struct tensor *t = &d->layout->tensors[0];
	t->name[0] ^= 1;
	ck_assert(!hash_equal(base, digest_of(d)));
	t->name[0] ^= 1;
	t->dtype++;
	ck_assert(!hash_equal(base, digest_of(d)));
	t->dtype--;
	t->shape[0]++;
	ck_assert(!hash_equal(base, digest_of(d)));
	t->shape[0]--;
	d->sides[0].name[0] ^= 1;
	ck_assert(!hash_equal(base, digest_of(d)));
	d->sides[0].name[0] ^= 1;
	d->sides[0].hash.lo ^= 1;
	ck_assert(!hash_equal(base, digest_of(d)));
	d->sides[0].hash.lo ^= 1;
	d->fingerprint_hi ^= 1; /* where it comes from is no part of what it is */
	d->name[0] ^= 1;
	ck_assert(hash_equal(base, digest_of(d)));
	image_desc_free(&d);
}
END_TEST

struct writer {
	struct fixture *fx;
	struct disk_image *img;
	_Atomic uint32_t *next;
};

static void *write_some(void *arg)
{
	struct writer *w = arg;
	uint8_t *bytes = pages(IMAGE_CHUNK_BYTES);
	uint32_t n = disk_image_desc(w->img)->layout->n_chunks, i;
	struct fault why;
	while ((i = atomic_fetch_add(w->next, 1)) < n) {
		struct hash128 hash = fill_chunk(disk_image_desc(w->img), i, bytes);
		ck_assert_int_eq(disk_image_put(w->img, i, bytes, hash, &why), 0);
		ck_assert_int_eq(disk_image_read(w->img, i, bytes, &why), 0);
	}
	munmap(bytes, IMAGE_CHUNK_BYTES);
	return NULL;
}

START_TEST(several_threads_write_one_image)
{
	struct fixture fx = {.options.sync_bytes = 6 << 20};
	_Atomic uint32_t next = 0;
	pthread_t threads[4];
	fixture_init(&fx);
	struct disk_image *img = begin(&fx, make_desc(40 + (uint64_t)_i, 13));
	struct writer w = {&fx, img, &next};
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, write_some, &w), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(disk_image_chunks(img), 13);
	fixture_reopen(&fx);
	img = find(&fx, 40 + (uint64_t)_i);
	ck_assert_uint_eq(disk_image_chunks(img), 13);
	commit(img);
	check_all(&fx, img);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_second_daemon_is_refused_with_the_first_ones_pid)
{
	struct fixture fx = {0};
	struct fault why;
	struct disk *second = NULL;
	char pid[32];
	fixture_init(&fx);
	ck_assert_int_eq(disk_open(&second, fx.dir, NULL, &why), -EBUSY);
	ck_assert_int_eq(why.code, TRIMS_E_BUSY);
	snprintf(pid, sizeof pid, "process %ld)", (long)getpid());
	ck_assert_ptr_nonnull(strstr(why.text, pid));
	ck_assert_ptr_null(second);
	fixture_fini(&fx);
}
END_TEST

START_TEST(leftovers_go_and_strangers_stay)
{
	struct fixture fx = {0};
	char path[200];
	fixture_init(&fx);
	store_model(&fx, 50, 2);
	disk_close(&fx.disk);
	static const char *const kinds[] = {"data", "sides", "manifest.tmp", "journal.tmp"};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		image_file(&fx, 51, kinds[i], path);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	image_file(&fx, 50, "journal", path);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	snprintf(path, sizeof path, "%s/images/notes.txt", fx.dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	fixture_open(&fx);
	ck_assert_int_eq(file_bytes(path), 0);
	ck_assert_uint_eq(stats(&fx).leftovers, 5);
	ck_assert_uint_eq(stats(&fx).set_aside, 0);
	check_all(&fx, find(&fx, 50));
	image_file(&fx, 51, "data", path);
	ck_assert_int_eq(file_bytes(path), -1);
	fixture_fini(&fx);
}
END_TEST

START_TEST(names_are_kept)
{
	struct fixture fx = {0};
	struct fault why;
	const struct disk_name *back;
	char a[] = "llama@v2", b[] = "bert", src[] = "s3://b/p", rev[] = "v2", none[] = "";
	const struct disk_name names[] = {{a, src, rev, 1, 2, 1700000000}, {b, src, none, 3, 4, 0}};
	fixture_init(&fx);
	ck_assert_uint_eq(disk_names(fx.disk, &back), 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(disk_names_save(fx.disk, names, 2, &why), 0);
		fixture_reopen(&fx);
		ck_assert_uint_eq(disk_names(fx.disk, &back), 2);
		ck_assert_str_eq(back[0].name, a);
		ck_assert_str_eq(back[0].source, src);
		ck_assert_str_eq(back[0].revision, rev);
		ck_assert_uint_eq(back[0].last_use_s, 1700000000);
		ck_assert_str_eq(back[1].name, b);
		ck_assert_uint_eq(back[1].fingerprint_lo, 4);
	}
	fixture_fini(&fx);
}
END_TEST

/* Whether the directory is the one of these 128 bits; they become what it has now. */
static bool same_identity(const struct fixture *fx, uint64_t id[2])
{
	uint64_t hi, lo;
	disk_identity(fx->disk, &hi, &lo);
	ck_assert(hi | lo);
	bool same = hi == id[0] && lo == id[1];
	id[0] = hi;
	id[1] = lo;
	return same;
}

START_TEST(the_identity_outlives_the_daemon_and_is_made_anew_when_damaged)
{
	struct fixture fx = {0}, other = {0};
	uint64_t id[2] = {0};
	char path[120];
	fixture_init(&fx);
	fixture_init(&other);
	ck_assert(!same_identity(&fx, id));
	ck_assert(!same_identity(&other, (uint64_t[2]){id[0], id[1]}));
	fixture_reopen(&fx);
	ck_assert(same_identity(&fx, id));
	snprintf(path, sizeof path, "%s/identity", fx.dir);
	flip_byte(path, 7);
	fixture_reopen(&fx);
	ck_assert(!same_identity(&fx, id));
	fixture_reopen(&fx);
	ck_assert(same_identity(&fx, id));
	ck_assert_int_eq(truncate(path, 5), 0);
	fixture_reopen(&fx);
	ck_assert(!same_identity(&fx, id));
	ck_assert_int_eq(truncate(path, 5000), 0);
	fixture_reopen(&fx);
	ck_assert(!same_identity(&fx, id));
	fixture_fini(&other);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_directory_that_cannot_be_made_is_refused_by_name)
{
	struct fault why;
	struct disk *d = NULL;
	ck_assert_int_eq(disk_open(&d, "/proc/no/such/cache", NULL, &why), -ENOENT);
	ck_assert_ptr_nonnull(strstr(why.text, "/proc/no/such/cache"));
	ck_assert_ptr_null(d);
}
END_TEST

START_TEST(an_image_without_its_side_files_is_refused)
{
	struct fixture fx = {0};
	struct fault why;
	struct disk_image *img;
	fixture_init(&fx);
	struct image_desc *d = make_desc(60, 2);
	d->sides[0].hash.hi++;
	ck_assert_int_eq(disk_image_begin(fx.disk, &d, &img, &why), -EINVAL);
	ck_assert_ptr_null(find(&fx, 60));
	fixture_fini(&fx);
}
END_TEST

static void images(Suite *suite)
{
	UNIT_CASE(suite, "images", chunks_are_coded_only_where_it_pays, a_raw_chunk_can_be_read_from_the_file_as_it_is,
		unaligned_bytes_are_taken_too, a_partial_image_is_resumed_where_it_stopped, a_changed_model_starts_over,
		a_complete_image_is_not_begun_again, a_dropped_image_leaves_nothing,
		an_in_place_model_keeps_hashes_and_side_files_only, the_digest_covers_all_that_a_client_sees,
		an_image_without_its_side_files_is_refused);
	TCase *c = tcase_create("many ways");
	tcase_add_loop_test(c, an_image_comes_back_as_it_was_stored, 0, 6);
	tcase_add_loop_test(c, several_threads_write_one_image, 0, 2);
	suite_add_tcase(suite, c);
}

static void directory(Suite *suite)
{
	UNIT_CASE(suite, "directory", a_second_daemon_is_refused_with_the_first_ones_pid,
		leftovers_go_and_strangers_stay, names_are_kept,
		the_identity_outlives_the_daemon_and_is_made_anew_when_damaged, a_directory_that_cannot_be_made_is_refused_by_name);
}

UNIT_MAIN("disk", images, directory)
