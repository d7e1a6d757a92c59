/* test_disk_damage.c - mrm/disk: a byte flipped or a file cut, in each kind of file, is noticed, counted and never
 * served; damaged chunks are replaced; full disks and failing writes leave the store as it was. */
#include "mrm/disk/profiles.h"
#include "mrm/disk/store.h"
#include "tests/unit/disk_fixture.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

static int (*injected)(void *ctx, enum disk_point p);

/* Fails the first time it gets to the point in ctx. */
static int fail_once(void *ctx, enum disk_point p)
{
	enum disk_point *at = ctx;
	if (p != *at)
		return 0;
	*at = DISK_POINT_N;
	return -EIO;
}

static void expect_set_aside(struct fixture *fx, uint64_t fingerprint)
{
	char path[200];
	fixture_open(fx);
	ck_assert_uint_eq(stats(fx).set_aside, 1);
	ck_assert_ptr_null(find(fx, fingerprint));
	image_file(fx, fingerprint, "data", path);
	ck_assert_int_eq(file_bytes(path), -1);
	image_file(fx, fingerprint, "manifest", path);
	ck_assert_int_eq(file_bytes(path), -1);
	check_all(fx, store_model(fx, fingerprint, 2)); /* there is nothing in the way of a new one */
	disk_close(&fx->disk);
}

START_TEST(a_flipped_byte_in_a_manifest_removes_the_image)
{
	struct fixture fx = {0};
	char path[200];
	fixture_init(&fx);
	store_model(&fx, 1, 2);
	store_model(&fx, 2, 2);
	disk_close(&fx.disk);
	image_file(&fx, 1, "manifest", path);
	for (int64_t off = 0; off < file_bytes(path); off += 37) {
		flip_byte(path, off);
		expect_set_aside(&fx, 1);
	}
	fixture_open(&fx);
	check_all(&fx, find(&fx, 2));
	fixture_fini(&fx);
}
END_TEST

START_TEST(files_of_the_wrong_size_remove_the_image)
{
	static const char *const kinds[] = {"manifest", "data", "sides"};
	struct fixture fx = {0};
	char path[200];
	fixture_init(&fx);
	store_model(&fx, 1, 2);
	disk_close(&fx.disk);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		image_file(&fx, 1, kinds[i], path);
		ck_assert_int_eq(truncate(path, file_bytes(path) - 1), 0);
		expect_set_aside(&fx, 1);
		ck_assert_int_eq(truncate(path, file_bytes(path) + 4096), 0);
		expect_set_aside(&fx, 1);
		if (i > 0) {
			unlink(path);
			expect_set_aside(&fx, 1);
		}
	}
	fixture_open(&fx);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_manifest_under_another_name_is_refused)
{
	struct fixture fx = {0};
	char from[200], to[200];
	fixture_init(&fx);
	store_model(&fx, 1, 2);
	disk_close(&fx.disk);
	static const char *const kinds[] = {"manifest", "data", "sides"};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		image_file(&fx, 1, kinds[i], from);
		image_file(&fx, 3, kinds[i], to);
		ck_assert_int_eq(rename(from, to), 0);
	}
	expect_set_aside(&fx, 3);
	fixture_open(&fx);
	fixture_fini(&fx);
}
END_TEST

static void partial(struct fixture *fx)
{
	struct fault why;
	struct disk_image *img = begin(fx, make_desc(5, 4));
	for (uint32_t i = 0; i < 3; i++)
		put_chunk(fx, img, i);
	ck_assert_int_eq(disk_image_flush(img, &why), 0);
	disk_close(&fx->disk);
}

START_TEST(a_flipped_byte_in_a_journal_loses_what_comes_after_it)
{
	struct fixture fx = {0};
	char path[200];
	fixture_init(&fx);
	for (uint32_t record = 0; record < 3; record++)
		for (int64_t in = 0; in < 64; in += 21) {
			partial(&fx);
			image_file(&fx, 5, "journal", path);
			flip_byte(path, file_bytes(path) - 3 * 64 + (int64_t)record * 64 + in);
			fixture_open(&fx);
			ck_assert_uint_eq(stats(&fx).torn, 1);
			struct disk_image *img = find(&fx, 5);
			ck_assert_uint_eq(disk_image_chunks(img), record);
			for (uint32_t i = 0; i < record; i++)
				ck_assert_int_eq(check_chunk(&fx, img, i), 0);
			for (uint32_t i = record; i < 4; i++)
				put_chunk(&fx, img, i);
			commit(img);
			check_all(&fx, img);
			ck_assert_int_eq(disk_image_drop(&img, NULL), 0);
		}
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_flipped_byte_in_a_journals_head_starts_over)
{
	struct fixture fx = {0};
	char path[200];
	fixture_init(&fx);
	partial(&fx);
	image_file(&fx, 5, "journal", path);
	flip_byte(path, 40);
	expect_set_aside(&fx, 5);
	fixture_open(&fx);
	fixture_fini(&fx);
}
END_TEST

/* A flipped byte of LZ4 may say the same thing in another way (a match in a run of zeros taken from elsewhere in it):
 * then the chunk is still right, and it is another byte's turn. */
static void damage_and_repair(struct fixture *fx, struct disk_image *img, uint32_t chunk, uint64_t at)
{
	struct disk_extent e;
	struct fault why;
	char path[200];
	uint64_t before = stats(fx).damaged;
	ck_assert_int_eq(disk_image_chunk(img, chunk, &e), 0);
	image_file(fx, disk_image_desc(img)->fingerprint_hi, "data", path);
	flip_byte(path, (int64_t)(e.off + at % e.stored_bytes));
	int r = check_chunk(fx, img, chunk);
	for (; r == 0 && e.codec == CODEC_LZ4; r = check_chunk(fx, img, chunk))
		flip_byte(path, (int64_t)(e.off + ++at % e.stored_bytes));
	ck_assert_int_eq(r, -EBADMSG);
	ck_assert_uint_eq(stats(fx).damaged, before + 1);
	struct hash128 hash = fill_chunk(disk_image_desc(img), chunk, fx->chunk);
	ck_assert_int_eq(disk_image_rewrite(img, chunk, fx->chunk, hash, &why), 0);
	ck_assert_int_eq(check_chunk(fx, img, chunk), 0);
}

START_TEST(a_flipped_byte_in_the_data_is_noticed_and_repaired)
{
	struct fixture fx = {.options.compress = _i ? DISK_COMPRESS_ALWAYS : DISK_COMPRESS_NEVER};
	uint64_t seed = unit_seed();
	fixture_init(&fx);
	struct disk_image *img = store_model(&fx, 7, 3);
	for (int round = 0; round < 12; round++)
		damage_and_repair(&fx, img, (uint32_t)(unit_random(&seed) % 3), unit_random(&seed));
	ck_assert_uint_eq(stats(&fx).rewritten, 12);
	fixture_reopen(&fx);
	check_all(&fx, find(&fx, 7));
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_chunk_that_cannot_be_rewritten_in_place_moves)
{
	struct fixture fx = {0};
	fixture_init(&fx);
	struct disk_image *img = store_model(&fx, 8, 3);
	injected = fail_once;
	for (int round = 0; round < 3; round++) {
		enum disk_point at = round == 1 ? DISK_POINT_REPAIR_WRITTEN : DISK_POINT_CHUNK_WRITE;
		disk_set_hook(injected, &at);
		damage_and_repair(&fx, img, 1, 12345);
		disk_set_hook(NULL, NULL);
		ck_assert_uint_eq(stats(&fx).relocated, 1);
		fixture_reopen(&fx);
		img = find(&fx, 8);
		check_all(&fx, img);
	}
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_repair_with_other_bytes_is_refused)
{
	struct fixture fx = {0};
	struct fault why;
	fixture_init(&fx);
	struct disk_image *img = store_model(&fx, 9, 2);
	memset(fx.chunk, 1, IMAGE_CHUNK_BYTES);
	ck_assert_int_eq(disk_image_rewrite(img, 0, fx.chunk, chunk_hash(fx.chunk, IMAGE_CHUNK_BYTES), &why), -EINVAL);
	ck_assert_int_eq(disk_image_rewrite_side(img, 0, (const uint8_t *)"{\"a\": 2}", &why), -EINVAL);
	check_all(&fx, img);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_flipped_byte_in_a_side_file_is_noticed_and_repaired)
{
	struct fixture fx = {0};
	struct fault why;
	uint8_t *side = NULL;
	char path[200];
	fixture_init(&fx);
	struct disk_image *img = store_model(&fx, 10, 2);
	image_file(&fx, 10, "sides", path);
	flip_byte(path, 3);
	ck_assert_int_eq(disk_image_side(img, 0, &side, &why), -EBADMSG);
	ck_assert_ptr_null(side);
	ck_assert_uint_eq(stats(&fx).damaged, 1);
	ck_assert_int_eq(disk_image_rewrite_side(img, 0, (const uint8_t *)"{\"a\": 1}", &why), 0);
	ck_assert_int_eq(disk_image_side(img, 0, &side, &why), 0);
	free(side);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_flipped_byte_in_the_catalog_brings_the_manifests_names)
{
	struct fixture fx = {0};
	struct fault why;
	char path[200], name[] = "another";
	const struct disk_name one = {name, name, name, 1, 2, 3}, *back;
	fixture_init(&fx);
	store_model(&fx, 11, 1);
	ck_assert_int_eq(disk_names_save(fx.disk, &one, 1, &why), 0);
	disk_close(&fx.disk);
	snprintf(path, sizeof path, "%s/catalog", fx.dir);
	flip_byte(path, 30);
	fixture_open(&fx);
	ck_assert_uint_eq(stats(&fx).names_lost, 1);
	ck_assert_uint_eq(disk_names(fx.disk, &back), 1);
	ck_assert_str_eq(back[0].name, "tiny");
	ck_assert_uint_eq(back[0].fingerprint_hi, 11);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_full_disk_is_said_at_once_and_spoils_nothing)
{
	struct fixture fx = {0};
	struct fault why;
	struct disk_image *img;
	fixture_init(&fx);
	disk_close(&fx.disk);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("trims", fx.dir, "tmpfs", 0, "size=11m") < 0) {
		printf("# no right to mount: not tested here\n");
		fixture_open(&fx);
		fixture_fini(&fx);
		return;
	}
	fixture_open(&fx);
	store_model(&fx, 2, 2);
	struct image_desc *big = make_desc(4, 3);
	ck_assert_int_eq(disk_image_begin(fx.disk, &big, &img, &why), -ENOSPC);
	ck_assert_int_eq(why.code, TRIMS_E_DISK_FULL);
	ck_assert_ptr_nonnull(strstr(why.text, fx.dir));
	ck_assert_ptr_null(find(&fx, 4));
	store_model(&fx, 6, 2);
	fixture_reopen(&fx);
	ck_assert_uint_eq(stats(&fx).adopted, 2);
	ck_assert_uint_eq(stats(&fx).set_aside + stats(&fx).leftovers, 0);
	check_all(&fx, find(&fx, 2));
	check_all(&fx, find(&fx, 6));
	disk_close(&fx.disk);
	ck_assert_int_eq(umount(fx.dir), 0);
	fixture_open(&fx);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_write_beyond_the_limit_fails_that_chunk_only)
{
	struct fixture fx = {.options.compress = DISK_COMPRESS_NEVER};
	struct fault why;
	struct rlimit limit, low;
	fixture_init(&fx);
	struct disk_image *img = begin(&fx, make_desc(12, 4));
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &limit);
	low = limit;
	low.rlim_cur = 6 << 20;
	setrlimit(RLIMIT_FSIZE, &low);
	put_chunk(&fx, img, 0);
	struct hash128 hash = fill_chunk(disk_image_desc(img), 1, fx.chunk);
	ck_assert_int_lt(disk_image_put(img, 1, fx.chunk, hash, &why), 0);
	ck_assert_ptr_nonnull(strstr(why.text, fx.dir));
	ck_assert(!disk_image_has(img, 1));
	ck_assert_uint_ge(stats(&fx).write_errors, 1);
	setrlimit(RLIMIT_FSIZE, &limit);
	for (uint32_t i = 1; i < 4; i++)
		put_chunk(&fx, img, i);
	commit(img);
	check_all(&fx, img);
	fixture_fini(&fx);
}
END_TEST

static void note_profile(void *ctx, const struct disk_profile *p)
{
	struct disk_profile *found = ctx;
	*found = *p;
}

/* The one file of the folder. */
static void profile_path(const struct fixture *fx, char path[200])
{
	char command[300];
	snprintf(command, sizeof command, "ls %s/profiles/*.profile", fx->dir);
	FILE *f = popen(command, "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(fgets(path, 200, f));
	pclose(f);
	path[strcspn(path, "\n")] = 0;
}

START_TEST(a_flipped_byte_in_a_profile_removes_it)
{
	static const char text[] = "{\"format\": \"any\"}";
	const struct disk_profile p = {.digest = {3, 4}, .class = "cpu", .driver = "13.0", .executor = "one", .bytes = sizeof text - 1};
	struct fixture fx = {0};
	char path[200];
	int64_t off = 0, size = 1;
	fixture_init(&fx);
	for (uint64_t lost = 1; off < size; off++, lost++) {
		struct disk_profile found = {0};
		char *got = NULL;
		ck_assert_int_eq(disk_profile_write(fx.disk, &p, text, NULL), 0);
		ck_assert_int_eq(disk_profiles_scan(fx.disk, note_profile, &found, NULL), 0);
		ck_assert(disk_profile_same_key(&found, &p));
		ck_assert_int_eq(disk_profile_read(fx.disk, &found, &got, NULL), 0);
		ck_assert_str_eq(got, text);
		free(got);
		profile_path(&fx, path);
		size = file_bytes(path);
		flip_byte(path, off);
		found = (struct disk_profile){0};
		ck_assert_int_eq(disk_profiles_scan(fx.disk, note_profile, &found, NULL), 0);
		if (*found.class) /* its head is as it was */
			ck_assert_int_eq(disk_profile_read(fx.disk, &found, &got, NULL), -EBADMSG);
		ck_assert_uint_eq(stats(&fx).profiles_lost, lost);
		ck_assert_int_eq(file_bytes(path), -1);
		ck_assert_int_eq(disk_profile_read(fx.disk, &p, &got, NULL), -ENOENT);
	}
	ck_assert_int_gt(size, (int64_t)sizeof text);
	fixture_fini(&fx);
}
END_TEST

/* A reader that found damage, and a writer that was quicker. */
START_TEST(what_has_taken_a_damaged_files_place_stays)
{
	struct fixture fx = {0};
	struct stat st;
	uint8_t *bytes;
	size_t n;
	fixture_init(&fx);
	OWN_FD int folder = open(fx.dir, O_RDONLY | O_DIRECTORY);
	static const struct replace_points nowhere = {DISK_POINT_N, DISK_POINT_N, DISK_POINT_N};
	ck_assert_int_ge(folder, 0);
	ck_assert_int_eq(file_replace(folder, "a", (const uint8_t *)"old", 3, nowhere), 0);
	ck_assert_int_eq(file_read_which(folder, "a", 3, &bytes, &n, &st), 0);
	free(bytes);
	for (int round = 0; round < 3; round++) { /* so that a number of an inode comes back */
		ck_assert_int_eq(file_replace(folder, "a", (const uint8_t *)"good", 4, nowhere), 0);
		file_unlink_same(folder, "a", &st);
		ck_assert_int_eq(faccessat(folder, "a", F_OK, 0), 0);
	}
	ck_assert_int_eq(file_read_which(folder, "a", 3, &bytes, &n, &st), -EFBIG);
	file_unlink_same(folder, "a", &st);
	ck_assert_int_ne(faccessat(folder, "a", F_OK, 0), 0);
	ck_assert_int_eq(file_read_which(folder, "a", 3, &bytes, &n, &st), -ENOENT);
	file_unlink_same(folder, "a", &st);
	fixture_fini(&fx);
}
END_TEST

static void damage(Suite *suite)
{
	UNIT_CASE(suite, "damage", a_flipped_byte_in_a_manifest_removes_the_image,
		files_of_the_wrong_size_remove_the_image,
		a_manifest_under_another_name_is_refused, a_flipped_byte_in_a_journal_loses_what_comes_after_it,
		a_flipped_byte_in_a_journals_head_starts_over, a_chunk_that_cannot_be_rewritten_in_place_moves,
		a_repair_with_other_bytes_is_refused, a_flipped_byte_in_a_side_file_is_noticed_and_repaired,
		a_flipped_byte_in_the_catalog_brings_the_manifests_names, a_flipped_byte_in_a_profile_removes_it,
		what_has_taken_a_damaged_files_place_stays);
	TCase *c = tcase_create("data");
	tcase_add_loop_test(c, a_flipped_byte_in_the_data_is_noticed_and_repaired, 0, 2);
	suite_add_tcase(suite, c);
}

static void limits(Suite *suite)
{
	UNIT_CASE(suite, "limits", a_full_disk_is_said_at_once_and_spoils_nothing,
		a_write_beyond_the_limit_fails_that_chunk_only);
}

UNIT_MAIN("disk_damage", damage, limits)
