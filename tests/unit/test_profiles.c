/* test_profiles.c - the daemon's profiles of models: what is written and removed while other writes wait. */
#include "mrm/gpu/devices.h"
#include "mrm/profiles.h"

#include "tests/unit/disk_fixture.h"

#include <ev.h>

static int text_fd(const char *driver)
{
	char text[200];
	int n = snprintf(text, sizeof text, "{\"format\": \"trims-profile-1\", \"layers\": [{}], \"device_class\": \"a class\", "
		"\"driver\": \"%s\", \"executor\": \"a program\"}", driver);
	int fd = memfd_create("profile", MFD_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, (size_t)n), n);
	return fd;
}

static void count(void *ctx, const struct disk_profile *p)
{
	++*(unsigned *)ctx;
}

static unsigned files(struct disk *disk)
{
	unsigned n = 0;
	struct fault why;
	ck_assert_int_eq(disk_profiles_scan(disk, count, &n, &why), 0);
	return n;
}

/* One that has to go, and is stored anew before it went. */
START_TEST(what_is_stored_again_does_not_go_with_what_it_was)
{
	static const struct pool_ops ops = {.name = "misc"};
	const struct hash128 model = {1, 2};
	struct fixture fx = {0};
	struct jobs *jobs = NULL;
	struct config config = {.max_profiles = 1, .profile_bytes = MIB};
	struct daemon *d = calloc(1, sizeof *d);
	ck_assert_ptr_nonnull(d);
	fixture_init(&fx);
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_int_eq(jobs_new(&jobs, loop), 0);
	ck_assert_int_eq(pool_new(&d->misc, jobs, &ops, 1), 0);
	d->config = &config;
	d->disk = fx.disk;
	d->profiles = profiles_new(d);
	static const char *const rounds[][2] = {{"old"}, {"new", "old"}}; /* the second: both ask before the first is written */
	for (unsigned r = 0; r < ARRAY_LEN(rounds); r++) {
		for (unsigned i = 0; i < 2 && rounds[r][i]; i++)
			profiles_keep(d, model, text_fd(rounds[r][i]));
		while (jobs_outstanding(jobs))
			jobs_wait(jobs, NS_PER_S);
	}
	ck_assert(profiles_have(d, model, "a class", "old", "a program"));
	ck_assert(!profiles_have(d, model, "a class", "new", "a program"));
	ck_assert_uint_eq(files(fx.disk), 1);
	profiles_free(&d->profiles);
	pool_free(&d->misc);
	jobs_free(&jobs);
	ev_loop_destroy(loop);
	free(d);
	fixture_fini(&fx);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "profiles", what_is_stored_again_does_not_go_with_what_it_was);
}

UNIT_MAIN("profiles", all)
