/* test_disk_crash.c - mrm/disk: a process that dies, or a step that fails, at every step of everything that writes.
 *
 * One script does all of it (two models stored, one dropped, one repaired at a new place, names saved, a profile stored and replaced).  It is run once
 * for each step and each time the step is reached, and ended there: by _exit() in a child, by _exit() with every byte
 * of data that had not been synced taken away (what a power cut may do), or by an error.  Afterwards the store must
 * open without finding damage, hold nothing wrong, and hold at least what the steps passed had promised. */
#include "mrm/disk/profiles.h"
#include "tests/unit/disk_fixture.h"

#include <sys/wait.h>

#define ONE 1 /* squeezes well */
#define TWO 2 /* does not */
#define CHUNKS 2
#define DIED 42

enum how { CRASH, POWER_CUT, ERROR_N };

/* In memory shared with the child. */
struct run {
	enum how how;
	int error;
	enum disk_point at;
	uint32_t nth;
	bool ended;
	uint32_t passed[DISK_POINT_N];
	uint64_t model;    /* being stored or repaired */
	bool dropping[3];  /* its removal has begun */
	char dir[80];
};

static struct run *run;

static void copy_file(const char *from, const char *to)
{
	char command[480];
	snprintf(command, sizeof command, "cp --sparse=always -- %s %s", from, to);
	ck_assert_int_eq(system(command), 0);
}

static void data_and_shadow(uint64_t model, char data[200], char shadow[220])
{
	struct fixture fx;
	memcpy(fx.dir, run->dir, sizeof fx.dir);
	image_file(&fx, model, "data", data);
	snprintf(shadow, 220, "%s.shadow", data);
}

/* What the disk is known to hold for good. */
static void keep_synced(enum disk_point p)
{
	char data[200], shadow[220];
	if (run->how != POWER_CUT || (p != DISK_POINT_DATA_CREATED && p != DISK_POINT_DATA_SYNCED &&
		p != DISK_POINT_COMMIT_SYNCED && p != DISK_POINT_REPAIR_WRITTEN))
		return;
	data_and_shadow(run->model, data, shadow);
	copy_file(data, shadow);
}

static int at_step(void *ctx, enum disk_point p)
{
	if (run->ended)
		return 0;
	keep_synced(p);
	run->passed[p]++;
	if (p != run->at || run->passed[p] != run->nth)
		return 0;
	run->ended = true;
	if (run->how != ERROR_N)
		_exit(DIED);
	return run->error;
}

/* ---- the script ---- */

static int put(struct fixture *fx, struct disk_image *img, uint32_t chunk)
{
	struct hash128 hash = fill_chunk(disk_image_desc(img), chunk, fx->chunk);
	return disk_image_put(img, chunk, fx->chunk, hash, NULL);
}

static int ingest(struct fixture *fx, uint64_t model, bool finish)
{
	struct image_desc *d = make_desc(model, CHUNKS);
	struct disk_image *img;
	struct hash128 digest;
	run->model = model;
	int r = disk_image_begin(fx->disk, &d, &img, NULL);
	for (uint32_t i = 0; r == 0 && i < (finish ? CHUNKS : 1); i++)
		r = put(fx, img, i);
	return r < 0 || !finish ? r : disk_image_commit(img, &digest, NULL);
}

static int repair(struct fixture *fx, uint64_t model)
{
	struct disk_image *img = find(fx, model);
	struct disk_extent e;
	char data[200], shadow[220];
	run->model = model;
	data_and_shadow(model, data, shadow);
	ck_assert_int_eq(disk_image_chunk(img, 0, &e), 0);
	flip_byte(data, (int64_t)e.off + 9);
	struct hash128 hash = fill_chunk(disk_image_desc(img), 0, fx->chunk);
	return disk_image_rewrite(img, 0, fx->chunk, hash, NULL);
}

static int drop(struct fixture *fx, uint64_t model)
{
	struct disk_image *img = find(fx, model);
	run->dropping[model] = true;
	return disk_image_drop(&img, NULL);
}

/* A directory of its first day. */
static int open_anew(struct fixture *fx)
{
	char path[120];
	struct fault why;
	disk_close(&fx->disk);
	snprintf(path, sizeof path, "%s/identity", fx->dir);
	ck_assert_int_eq(unlink(path), 0);
	return disk_open(&fx->disk, fx->dir, &fx->options, &why);
}

/* Text number n of one key. */
static void make_profile(struct disk_profile *p, char text[96], int n)
{
	snprintf(text, 96, "{\"number\": %d, \"pad\": \"%.*s\"}", n, 20 * n, "pad pad pad pad pad pad pad pad pad pad ");
	*p = (struct disk_profile){.digest = {7, 8}, .class = "cpu", .executor = "one", .stored_s = (uint64_t)n, .bytes = strlen(text)};
}

static int put_profile(struct fixture *fx, int n)
{
	struct disk_profile p;
	char text[96];
	make_profile(&p, text, n);
	return disk_profile_write(fx->disk, &p, text, NULL);
}

static int script(struct fixture *fx)
{
	char name[] = "one", source[] = "http://x", revision[] = "";
	const struct disk_name names[] = {{name, source, revision, ONE, ~(uint64_t)ONE, 5}};
	int r = open_anew(fx);
	if (r == 0)
		r = ingest(fx, ONE, true);
	if (r == 0)
		r = disk_names_save(fx->disk, names, 1, NULL);
	if (r == 0)
		r = put_profile(fx, 1);
	if (r == 0)
		r = put_profile(fx, 2);
	if (r == 0)
		r = ingest(fx, TWO, false);
	if (r == 0)
		r = drop(fx, TWO);
	if (r == 0)
		r = ingest(fx, TWO, true);
	if (r == 0)
		r = repair(fx, TWO);
	return r == 0 ? drop(fx, ONE) : r;
}

/* ---- what must be true afterwards ---- */

static void take_away_unsynced(uint64_t model)
{
	char data[200], shadow[220];
	data_and_shadow(model, data, shadow);
	if (file_bytes(shadow) >= 0 && file_bytes(data) >= 0)
		copy_file(shadow, data);
	unlink(shadow);
}

/* A chunk in repair is damaged until the repair is done; everything else is right. */
static void check_chunks(struct fixture *fx, struct disk_image *img, bool in_repair)
{
	for (uint32_t i = 0; i < CHUNKS; i++) {
		if (!disk_image_has(img, i))
			continue;
		int r = check_chunk(fx, img, i);
		ck_assert_msg(r == 0 || (in_repair && i == 0 && r == -EBADMSG), "chunk %u: %d", i, r);
	}
}

/* It can be finished or repaired from wherever it is. */
static void finish(struct fixture *fx, uint64_t model)
{
	struct disk_image *img = find(fx, model);
	struct fault why;
	if (img && disk_image_complete(img)) {
		struct hash128 hash = fill_chunk(disk_image_desc(img), 0, fx->chunk);
		if (check_chunk(fx, img, 0) < 0)
			ck_assert_int_eq(disk_image_rewrite(img, 0, fx->chunk, hash, &why), 0);
	} else {
		img = begin(fx, make_desc(model, CHUNKS));
		for (uint32_t i = 0; i < CHUNKS; i++)
			if (!disk_image_has(img, i))
				put_chunk(fx, img, i);
		commit(img);
	}
	check_all(fx, img);
}

static void check_promises(struct fixture *fx)
{
	struct disk_image *one = find(fx, ONE);
	const uint32_t *passed = run->passed;
	if (run->dropping[ONE])
		return;
	if (passed[DISK_POINT_JOURNAL_RENAMED] && run->how != ERROR_N) /* an error takes it back */
		ck_assert_ptr_nonnull(one);
	if (passed[DISK_POINT_RECORDS_WRITTEN] && run->how != ERROR_N)
		ck_assert_uint_ge(disk_image_chunks(one), MIN(passed[DISK_POINT_RECORDS_WRITTEN], CHUNKS));
	if (passed[DISK_POINT_MANIFEST_RENAMED])
		ck_assert(disk_image_complete(one));
}

static void count_profile(void *ctx, const struct disk_profile *p)
{
	struct disk_profile *last = ctx;
	ck_assert_uint_eq(last->stored_s, 0); /* there is only one of a key */
	*last = *p;
}

/* The first, the second, or none before the first has its name. */
static void check_profile(struct fixture *fx)
{
	struct disk_profile found = {0}, want;
	char text[96], *got = NULL;
	uint32_t renamed = run->passed[DISK_POINT_PROFILE_RENAMED];
	ck_assert_int_eq(disk_profiles_scan(fx->disk, count_profile, &found, NULL), 0);
	if (run->how == ERROR_N) /* not every error ends the script */
		ck_assert_uint_ge(found.stored_s, renamed);
	else
		ck_assert_uint_eq(found.stored_s, renamed);
	if (!found.stored_s)
		return;
	make_profile(&want, text, (int)found.stored_s);
	ck_assert(disk_profile_same_key(&found, &want));
	ck_assert_int_eq(disk_profile_read(fx->disk, &found, &got, NULL), 0);
	ck_assert_str_eq(got, text);
	free(got);
}

static void check_store(struct fixture *fx)
{
	check_profile(fx);
	const struct disk_name *names;
	struct fault why;
	ck_assert_uint_eq(stats(fx).set_aside, 0);
	ck_assert_uint_eq(stats(fx).names_lost, 0);
	uint64_t hi, lo;
	disk_identity(fx->disk, &hi, &lo);
	ck_assert(hi | lo);
	uint32_t n = disk_names(fx->disk, &names);
	if (run->passed[DISK_POINT_NAMES_RENAMED])
		ck_assert_uint_eq(n, 1);
	if (n == 1 && names[0].last_use_s) /* else taken from a manifest */
		ck_assert_uint_eq(names[0].last_use_s, 5);
	check_promises(fx);
	for (uint64_t model = ONE; model <= TWO; model++) {
		struct disk_image *img = find(fx, model);
		if (img)
			check_chunks(fx, img, model == TWO && disk_image_complete(img));
		finish(fx, model);
	}
	ck_assert_int_eq(disk_names_save(fx->disk, NULL, 0, &why), 0);
}

/* ---- the matrix ---- */

static void go(struct fixture *fx)
{
	disk_set_hook(at_step, NULL);
	int r = script(fx);
	if (!run->ended)
		ck_assert_int_eq(r, 0);
	disk_set_hook(NULL, NULL);
}

static void die(struct fixture *fx)
{
	int status;
	disk_close(&fx->disk);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		fixture_open(fx);
		go(fx);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), run->ended ? DIED : 0);
	if (run->how == POWER_CUT)
		for (uint64_t model = ONE; model <= TWO; model++)
			take_away_unsynced(model);
	fixture_open(fx);
}

/* True when the script got to its end. */
static bool run_once(enum how how, int error, enum disk_point at, uint32_t nth)
{
	struct fixture fx = {.options.sync_bytes = 64 << 10};
	/* Nothing here needs a real disk, and hundreds of real syncs take minutes. */
	fx.base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : NULL;
	fixture_init(&fx);
	*run = (struct run){.how = how, .error = error, .at = at, .nth = nth};
	memcpy(run->dir, fx.dir, sizeof run->dir);
	if (how == ERROR_N) {
		go(&fx);
		fixture_reopen(&fx);
	} else {
		die(&fx);
	}
	bool ended = run->ended;
	if (ended)
		check_store(&fx);
	fixture_reopen(&fx);
	ck_assert_uint_eq(stats(&fx).set_aside, 0);
	if (ended)
		check_all(&fx, find(&fx, ONE));
	fixture_fini(&fx);
	return !ended;
}

static void each_time(enum how how, int error, enum disk_point at)
{
	uint32_t nth = 1;
	run = mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(run, MAP_FAILED);
	while (!run_once(how, error, at, nth))
		nth++;
	ck_assert_msg(nth > 1, "the script never comes to step %s", disk_point_name(at));
	munmap(run, sizeof *run);
}

START_TEST(a_process_that_dies_leaves_a_good_store)
{
	each_time(CRASH, 0, (enum disk_point)_i);
}
END_TEST

START_TEST(a_power_cut_leaves_a_good_store)
{
	each_time(POWER_CUT, 0, (enum disk_point)_i);
}
END_TEST

START_TEST(a_failing_step_leaves_a_good_store)
{
	each_time(ERROR_N, _i % 2 ? -EIO : -ENOSPC, (enum disk_point)_i);
}
END_TEST

static enum disk_point order[64];
static uint32_t n_order;

static int note(void *ctx, enum disk_point p)
{
	ck_assert_uint_lt(n_order, ARRAY_LEN(order));
	order[n_order++] = p;
	return 0;
}

START_TEST(the_order_of_steps_is_the_one_the_argument_needs)
{
	static const enum disk_point expected[] = {DISK_POINT_SIDES_WRITTEN, DISK_POINT_DATA_CREATED,
		DISK_POINT_JOURNAL_WRITTEN, DISK_POINT_JOURNAL_SYNCED, DISK_POINT_JOURNAL_RENAMED,
		DISK_POINT_CHUNK_WRITE,
		DISK_POINT_CHUNK_WRITTEN, DISK_POINT_DATA_SYNCED, DISK_POINT_RECORD_TORN, DISK_POINT_RECORDS_WRITTEN,
		DISK_POINT_CHUNK_WRITE, DISK_POINT_CHUNK_WRITTEN, DISK_POINT_COMMIT_SYNCED, DISK_POINT_MANIFEST_WRITTEN,
		DISK_POINT_MANIFEST_SYNCED, DISK_POINT_MANIFEST_RENAMED, DISK_POINT_MANIFEST_DURABLE,
		DISK_POINT_JOURNAL_REMOVED};
	struct fixture fx = {.options.sync_bytes = 4 << 20};
	fixture_init(&fx);
	disk_set_hook(note, NULL);
	store_model(&fx, TWO, 2);
	disk_set_hook(NULL, NULL);
	ck_assert_uint_eq(n_order, ARRAY_LEN(expected));
	ck_assert_mem_eq(order, expected, sizeof expected);
	fixture_fini(&fx);
}
END_TEST

static void crashes(Suite *suite)
{
	TCase *c = tcase_create("every step");
	tcase_add_loop_test(c, a_process_that_dies_leaves_a_good_store, 0, DISK_POINT_N);
	tcase_add_loop_test(c, a_power_cut_leaves_a_good_store, 0, DISK_POINT_N);
	tcase_add_loop_test(c, a_failing_step_leaves_a_good_store, 0, DISK_POINT_N);
	suite_add_tcase(suite, c);
	UNIT_CASE(suite, "order", the_order_of_steps_is_the_one_the_argument_needs);
}

UNIT_MAIN("disk_crash", crashes)
