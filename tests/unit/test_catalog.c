/* test_catalog.c - the catalog of names: written in turns of the loop, and a daemon that is killed anywhere in that loses no
 * name that was in the last one. */
#include "mrm/catalog.h"

#include "mrm/clock.h"
#include "mrm/disk/disk.h"
#include "mrm/holding.h"
#include "mrm/jobs.h"
#include "tests/unit/disk_fixture.h"

#include <ev.h>
#include <signal.h>
#include <sys/wait.h>

#define MANY 5000
#define TURNS 4 /* at least */

static void machine_new(struct daemon **out, struct fixture *fx)
{
	static const struct pool_ops ops = {.name = "test"};
	static struct cache_tier_config tiers[] = {{.kind = TIER_REMOTE}, {.kind = TIER_DISK, .capacity_bytes = GIB},
		{.kind = TIER_HOST, .capacity_bytes = GIB}};
	const struct cache_config config = {.tiers = tiers, .n_tiers = ARRAY_LEN(tiers), .policy = "lru", .half_life_ns = NS_PER_S,
		.max_names = 2 * MANY, .max_waiters = 1};
	struct daemon *d = *out = calloc(1, sizeof *d);
	struct fault why;
	ck_assert_ptr_nonnull(d);
	d->config = calloc(1, sizeof *d->config);
	ck_assert_ptr_nonnull(d->config);
	d->disk = fx->disk;
	ck_assert_int_eq(cache_new(&d->cache, &config, &why), 0);
	d->loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_int_eq(jobs_new(&d->jobs, d->loop), 0);
	ck_assert_int_eq(pool_new(&d->misc, d->jobs, &ops, 1), 0);
	catalog_adopt(d);
}

static void settle(struct daemon *d)
{
	while (d->names_saving)
		jobs_wait(d->jobs, NS_PER_S);
}

static void machine_free(struct daemon **dp)
{
	struct daemon *d = *dp;
	struct holding *img;
	settle(d);
	pool_free(&d->misc);
	jobs_free(&d->jobs);
	ev_loop_destroy(d->loop);
	cache_free(&d->cache);
	for (size_t at = 0; (img = idmap_take_any(&d->prints, &at));) {
		img->model = 0;
		img->stored = NULL;
		holding_settle(img);
	}
	idmap_fini(&d->images);
	idmap_fini(&d->prints);
	free(d->config);
	free(d);
	*dp = NULL;
}

static void add_name(struct daemon *d, const char *kind, unsigned number)
{
	char name[40];
	snprintf(name, sizeof name, "%s%u", kind, number);
	const struct holding *img = holding_by_fingerprint(d, 1, ~(uint64_t)1);
	ck_assert_ptr_nonnull(img);
	ck_assert_int_eq(cache_adopt_name(d->cache, clock_now(), name, img->model), 0);
	catalog_changed(d);
}

/* How many names begin so; each number below n is among them once. */
static unsigned count(const struct disk *disk, const char *kind, unsigned n)
{
	const struct disk_name *names;
	unsigned found = 0;
	uint32_t all = disk_names(disk, &names);
	OWN_MEM bool *seen = calloc(n + 1, sizeof *seen);
	ck_assert_ptr_nonnull(seen);
	for (uint32_t i = 0; i < all; i++) {
		if (strncmp(names[i].name, kind, strlen(kind)))
			continue;
		unsigned long number = strtoul(names[i].name + strlen(kind), NULL, 10);
		ck_assert_uint_lt(number, n);
		ck_assert_msg(!seen[number], "%s is there twice", names[i].name);
		ck_assert_uint_eq(names[i].fingerprint_hi, 1);
		ck_assert_str_eq(names[i].source, "http://example.org/models");
		seen[number] = true;
		found++;
	}
	return found;
}

START_TEST(names_are_gathered_in_turns_and_changes_meanwhile_come_with_the_next)
{
	struct fixture fx = {0};
	struct daemon *d;
	unsigned turns = 0;
	fixture_init(&fx);
	store_model(&fx, 1, 2);
	machine_new(&d, &fx);
	ck_assert(!catalog_turn(d)); /* nothing has changed */
	ck_assert(!d->names_saving);
	for (unsigned i = 0; i < MANY; i++)
		add_name(d, "name", i);
	while (catalog_turn(d))
		add_name(d, "late", turns++);
	ck_assert_uint_ge(turns, TURNS);
	ck_assert(d->names_saving);
	ck_assert(!catalog_turn(d)); /* one after the other */
	settle(d);
	unsigned again = 0;
	while (catalog_turn(d)) /* since there were changes */
		again++;
	ck_assert_uint_ge(again, turns);
	settle(d);
	ck_assert(!catalog_turn(d));
	ck_assert(!d->names_saving);
	machine_free(&d);
	fixture_reopen(&fx);
	ck_assert_uint_eq(count(fx.disk, "name", MANY), MANY);
	ck_assert_uint_eq(count(fx.disk, "late", turns), turns);
	/* The end of a daemon in the middle of it. */
	machine_new(&d, &fx);
	add_name(d, "last", 0);
	ck_assert(catalog_turn(d));
	add_name(d, "last", 1);
	catalog_save(d);
	settle(d);
	machine_free(&d);
	fixture_reopen(&fx);
	ck_assert_uint_eq(count(fx.disk, "last", 2), 2);
	ck_assert_uint_eq(count(fx.disk, "name", MANY), MANY);
	fixture_fini(&fx);
}
END_TEST

static int die_at(void *ctx, enum disk_point point)
{
	if (point == *(enum disk_point *)ctx)
		raise(SIGKILL);
	return 0;
}

/* A daemon that dies after so many turns of a save or, when that is over, at that point of writing it; DISK_POINT_N: when all is
 * done. */
static void daemon_that_dies(struct fixture *fx, unsigned number, unsigned after_turns, enum disk_point point)
{
	struct daemon *d;
	fixture_open(fx);
	machine_new(&d, fx);
	add_name(d, "more", number);
	disk_set_hook(die_at, &point);
	for (unsigned i = 0; i < after_turns && catalog_turn(d); i++)
		;
	settle(d);
	raise(SIGKILL);
}

START_TEST(a_daemon_killed_anywhere_in_a_save_loses_no_name)
{
	static const enum disk_point points[] = {DISK_POINT_NAMES_WRITTEN, DISK_POINT_NAMES_SYNCED, DISK_POINT_NAMES_RENAMED,
		DISK_POINT_N};
	struct fixture fx = {0};
	struct daemon *d;
	unsigned saved = 0;
	fixture_init(&fx);
	store_model(&fx, 1, 2);
	machine_new(&d, &fx);
	for (unsigned i = 0; i < MANY; i++)
		add_name(d, "name", i);
	catalog_save(d);
	machine_free(&d);
	for (unsigned round = 0; round < TURNS + ARRAY_LEN(points); round++) {
		int status;
		enum disk_point point = round < TURNS ? DISK_POINT_N : points[round - TURNS];
		disk_close(&fx.disk);
		pid_t child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0) {
			daemon_that_dies(&fx, round, round < TURNS ? round + 1 : UINT32_MAX, point);
			_exit(1);
		}
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		fixture_open(&fx);
		ck_assert_uint_eq(count(fx.disk, "name", MANY), MANY);
		unsigned now = count(fx.disk, "more", TURNS + ARRAY_LEN(points));
		ck_assert_uint_ge(now, saved);
		saved = now;
		struct disk_stats stats;
		disk_stats(fx.disk, &stats);
		ck_assert_uint_eq(stats.names_lost, 0);
	}
	ck_assert_uint_ge(saved, 2); /* of those that died behind the renaming */
	fixture_fini(&fx);
}
END_TEST

static void names(Suite *s)
{
	UNIT_CASE(s, "names", names_are_gathered_in_turns_and_changes_meanwhile_come_with_the_next,
		a_daemon_killed_anywhere_in_a_save_loses_no_name);
}

UNIT_MAIN("catalog", names)
