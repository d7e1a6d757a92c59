/* test_metrics.c - the daemon's numbers: counting, the shared segment's life, the text other programs scrape. */
#include "shared/metrics.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A socket path of its own for each test; its segment goes with it. */
struct place {
	char dir[64], socket[96];
};

static void place_make(struct place *p)
{
	snprintf(p->dir, sizeof p->dir, "/tmp/trims-metrics-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(p->dir));
	snprintf(p->socket, sizeof p->socket, "%s/mrm.sock", p->dir);
}

static void place_drop(struct place *p)
{
	ck_assert_int_eq(metrics_unlink(p->socket), 0);
	ck_assert_int_eq(rmdir(p->dir), 0);
}

static struct metrics *create(const struct place *p)
{
	struct metrics *m = NULL;
	struct fault why = {0};
	struct metrics_identity id = {p->socket, 11, 22};

	ck_assert_msg(metrics_create(&m, &id, &why) == 0, "%s", why.text);
	return m;
}

static struct metrics_reader *open_reader(const struct place *p)
{
	struct metrics_reader *r = NULL;
	struct fault why = {0};

	ck_assert_msg(metrics_open(&r, p->socket, &why) == 0, "%s", why.text);
	return r;
}

/* Runs `last_words` in a process that creates the segment and dies without a goodbye. */
static void die_as_daemon(const struct place *p, uint64_t hits)
{
	pid_t child = fork();

	ck_assert_int_ge(child, 0);
	if (child == 0) {
		create(p);
		metrics_add(M_requests_host_hit, hits);
		_exit(0);
	}
	int status;
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}

/* ---- counting ---- */

static void *add_many(void *arg)
{
	for (int i = 0; i < 100000; i++)
		metrics_add(M_messages_open, 1);
	return arg;
}

START_TEST(adds_from_several_threads_are_all_counted)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, add_many, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(metrics_value(M_messages_open), 400000);
}
END_TEST

START_TEST(a_duration_falls_into_the_bucket_that_just_holds_it)
{
	static const struct {
		uint64_t ns;
		unsigned bucket;
	} cases[] = {{0, 0}, {1000, 0}, {1001, 1}, {2000, 1}, {2001, 2}, {4000, 2}, {1000000, 10},
		{NS_PER_US << 28, 28}, {(NS_PER_US << 28) + 1, METRICS_BUCKETS}, {UINT64_MAX / 2, METRICS_BUCKETS}};
	uint64_t sum = 0;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		enum metric slot = M_load_disk_host + cases[i].bucket;
		uint64_t before = metrics_value(slot);
		metrics_observe_ns(M_load_disk_host, cases[i].ns);
		ck_assert_uint_eq(metrics_value(slot), before + 1);
		sum += cases[i].ns;
		if (cases[i].bucket < METRICS_BUCKETS)
			ck_assert_uint_le(cases[i].ns, metrics_bucket_ns(cases[i].bucket));
	}
	ck_assert_uint_eq(metrics_value(M_load_disk_host_last), sum);
}
END_TEST

START_TEST(every_error_has_its_counter)
{
#define ERR(number, name, scope, text) ck_assert_int_eq(metrics_fault(number), M_faults_##name);
#include "shared/errors.def"
#undef ERR
	ck_assert_int_eq(metrics_fault(54321), M_faults_INTERNAL);
}
END_TEST

/* ---- the segment ---- */

START_TEST(a_reader_sees_what_a_live_daemon_counts)
{
	struct place p;
	struct metrics_snapshot s;

	place_make(&p);
	metrics_add(M_requests_host_hit, 5); /* before the segment exists */
	struct metrics *m = create(&p);
	struct metrics_reader *r = open_reader(&p);
	metrics_add(M_requests_host_hit, 2);
	metrics_set(M_leases, 9);
	metrics_touch(m);
	metrics_read(r, &s);
	ck_assert(s.alive);
	ck_assert_int_eq(s.pid, getpid());
	ck_assert_uint_eq(s.boot_hi, 11);
	ck_assert_uint_eq(s.boot_lo, 22);
	ck_assert_uint_ge(s.updated_unix_ns, s.start_unix_ns);
	ck_assert_str_eq(s.version, TRIMS_VERSION);
	ck_assert_str_eq(s.revision, metrics_revision);
	ck_assert_uint_gt(strlen(s.revision), 0);
	ck_assert_ptr_null(strchr(s.revision, '@')); /* the build has filled it in */
	ck_assert_uint_eq(s.values[M_requests_host_hit], 7);
	ck_assert_uint_eq(s.values[M_leases], 9);
	metrics_reader_free(&r);
	metrics_close(&m);
	ck_assert_uint_eq(metrics_value(M_requests_host_hit), 7);
	place_drop(&p);
}
END_TEST

START_TEST(anyone_may_read_and_nobody_else_write)
{
	struct place p;
	struct stat st;
	char name[METRICS_NAME_BYTES];

	place_make(&p);
	struct metrics *m = create(&p);
	metrics_segment_name(p.socket, name);
	int fd = shm_open(name, O_RDONLY, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0644);
	close(fd);
	metrics_close(&m);
	place_drop(&p);
}
END_TEST

START_TEST(a_dead_daemons_numbers_stay_readable)
{
	struct place p;
	struct metrics_snapshot s;

	place_make(&p);
	die_as_daemon(&p, 3);
	struct metrics_reader *r = open_reader(&p);
	metrics_read(r, &s);
	ck_assert(!s.alive);
	ck_assert_int_ne(s.pid, getpid());
	ck_assert_uint_eq(s.values[M_requests_host_hit], 3);
	metrics_reader_free(&r);
	place_drop(&p);
}
END_TEST

START_TEST(a_new_daemon_replaces_a_dead_ones_segment_under_a_reader)
{
	struct place p;
	struct metrics_snapshot s;

	place_make(&p);
	die_as_daemon(&p, 3);
	struct metrics_reader *old = open_reader(&p);
	ck_assert(!metrics_replaced(old));
	struct metrics *m = create(&p);
	metrics_add(M_requests_host_hit, 1);
	ck_assert(metrics_replaced(old));
	metrics_read(old, &s);
	ck_assert(!s.alive);
	ck_assert_uint_eq(s.values[M_requests_host_hit], 3);
	struct metrics_reader *new = open_reader(&p);
	metrics_read(new, &s);
	ck_assert(s.alive);
	ck_assert_uint_eq(s.values[M_requests_host_hit], 1);
	metrics_reader_free(&new);
	metrics_reader_free(&old);
	metrics_close(&m);
	place_drop(&p);
}
END_TEST

START_TEST(a_second_daemon_on_the_same_socket_is_refused)
{
	struct place p;
	struct metrics *second = NULL;
	struct fault why;

	place_make(&p);
	struct metrics *m = create(&p);
	struct metrics_identity id = {p.socket, 1, 2};
	ck_assert_int_eq(metrics_create(&second, &id, &why), -EBUSY);
	ck_assert_ptr_null(second);
	ck_assert_int_eq(metrics_unlink(p.socket), -EBUSY);
	metrics_add(M_requests_host_hit, 1);
	struct metrics_reader *r = open_reader(&p);
	struct metrics_snapshot s;
	metrics_read(r, &s);
	ck_assert_uint_eq(s.values[M_requests_host_hit], 1);
	metrics_reader_free(&r);
	metrics_close(&m);
	place_drop(&p);
}
END_TEST

START_TEST(without_a_daemon_there_is_a_sentence)
{
	struct place p;
	struct metrics_reader *r = NULL;
	struct fault why;

	place_make(&p);
	ck_assert_int_eq(metrics_open(&r, p.socket, &why), -ENOENT);
	ck_assert_ptr_null(r);
	ck_assert_ptr_nonnull(strstr(why.text, p.socket));
	ck_assert_int_eq(rmdir(p.dir), 0);
}
END_TEST

START_TEST(another_builds_segment_is_not_guessed_at)
{
	struct place p;
	char name[METRICS_NAME_BYTES];
	struct metrics_reader *r = NULL;
	struct fault why;

	place_make(&p);
	struct metrics *m = create(&p);
	metrics_close(&m);
	metrics_segment_name(p.socket, name);
	int fd = shm_open(name, O_RDWR, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, "\xff\xff\xff", 3, 8), 3); /* in the table's hash */
	ck_assert_int_eq(metrics_open(&r, p.socket, &why), -EPROTO);
	ck_assert_int_eq(ftruncate(fd, 16), 0);
	ck_assert_int_eq(metrics_open(&r, p.socket, &why), -EPROTO);
	ck_assert_ptr_null(r);
	close(fd);
	place_drop(&p);
}
END_TEST

START_TEST(orphans_go_when_a_daemon_starts)
{
	struct place gone, here;
	char name[METRICS_NAME_BYTES];

	place_make(&gone);
	place_make(&here);
	metrics_segment_name(gone.socket, name);
	die_as_daemon(&gone, 1);
	ck_assert_int_eq(rmdir(gone.dir), 0);
	struct metrics *m = create(&here);
	ck_assert_int_lt(shm_open(name, O_RDONLY, 0), 0);
	ck_assert_int_eq(errno, ENOENT);
	metrics_close(&m);
	place_drop(&here);
}
END_TEST

START_TEST(the_name_follows_the_place_and_not_the_spelling)
{
	struct place p;
	char a[METRICS_NAME_BYTES], b[METRICS_NAME_BYTES], link[128], other[160];

	place_make(&p);
	metrics_segment_name(p.socket, a);
	ck_assert_uint_eq(strlen(a), METRICS_NAME_BYTES - 1);
	snprintf(link, sizeof link, "%s-link", p.dir);
	ck_assert_int_eq(symlink(p.dir, link), 0);
	snprintf(other, sizeof other, "%s/../%s/mrm.sock", link, strrchr(link, '/') + 1);
	metrics_segment_name(other, b);
	ck_assert_str_eq(a, b);
	ck_assert_int_eq(chdir(p.dir), 0);
	metrics_segment_name("mrm.sock", b);
	ck_assert_str_eq(a, b);
	metrics_segment_name("other.sock", b);
	ck_assert_str_ne(a, b);
	unlink(link);
	rmdir(p.dir);
}
END_TEST

/* ---- text ---- */

static char *prometheus(const struct metrics_snapshot *s)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);

	ck_assert_ptr_nonnull(f);
	metrics_prometheus(s, f);
	fclose(f);
	return text;
}

static unsigned occurrences(const char *text, const char *what)
{
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}

START_TEST(prometheus_text_has_each_family_once_and_cumulative_buckets)
{
	static struct metrics_snapshot s;

	strcpy(s.version, "1\"2");
	strcpy(s.revision, "v1-3-gabc+");
	s.values[M_build_info] = 1;
	s.values[M_requests_host_hit] = 42;
	s.values[M_start_time] = 1500000000;
	s.values[M_open_hit] = 2;
	s.values[M_open_hit + 1] = 3;
	s.values[M_open_hit + METRICS_BUCKETS] = 1;
	s.values[M_open_hit_last] = 7000;
	char *text = prometheus(&s);
	ck_assert_uint_eq(occurrences(text, "# TYPE trims_requests_total counter\n"), 1);
	ck_assert_uint_eq(occurrences(text, "# HELP trims_requests_total "), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_requests_total{tier=\"host\",result=\"hit\"} 42\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_build_info{version=\"1\\\"2\",revision=\"v1-3-gabc+\"} 1\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_start_time_seconds 1.500000000\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_open_seconds_bucket{result=\"hit\",le=\"1e-06\"} 2\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_open_seconds_bucket{result=\"hit\",le=\"2e-06\"} 5\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_open_seconds_bucket{result=\"hit\",le=\"268.435456\"} 5\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_open_seconds_bucket{result=\"hit\",le=\"+Inf\"} 6\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_open_seconds_sum{result=\"hit\"} 0.000007000\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_open_seconds_count{result=\"hit\"} 6\n"), 1);
	ck_assert_uint_eq(occurrences(text, "\ntrims_loop_busy_seconds_bucket{le=\"1e-06\"} 0\n"), 1);
	free(text);
}
END_TEST

START_TEST(what_simulated_devices_are_part_of_says_so)
{
	static struct metrics_snapshot s;

	s.values[M_load_host_gpu + 3] = 1;
	char *text = prometheus(&s);
	ck_assert_uint_eq(occurrences(text, "simulated="), 0);
	ck_assert_uint_eq(occurrences(text, "\ntrims_load_seconds_count{from=\"host\",to=\"gpu\"} 1\n"), 1);
	free(text);
	s.values[M_gpu_simulated] = 2;
	text = prometheus(&s);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		bool of_device = strstr(line, "=\"gpu\"") || strstr(line, "trims_open_seconds") ||
			strstr(line, "trims_integrity") || strstr(line, "trims_device_chunks");
		if (of_device && *line != '#')
			ck_assert_msg(strstr(line, ",simulated=\"yes\"") != NULL, "%s", line);
		else if (strstr(line, "=\"host\"}") || strstr(line, "=\"disk\"}"))
			ck_assert_msg(strstr(line, "simulated") == NULL, "%s", line);
	}
	free(text);
}
END_TEST

static void check_unique(void *ctx, const struct metric_view *v)
{
	char **seen = ctx;
	char key[512];

	snprintf(key, sizeof key, "|%s{%s}", v->name, v->labels);
	ck_assert_msg(!strstr(*seen, key), "two rows publish %s", key);
	strcat(*seen, key);
	ck_assert_msg(!strncmp(v->name, "trims_", 6), "%s", v->name);
	bool total = strlen(v->name) > 6 && !strcmp(v->name + strlen(v->name) - 6, "_total");
	ck_assert_msg(total == (v->kind == METRIC_COUNTER), "%s: counters and nothing else end in _total", v->name);
	if (v->unit == METRIC_UNIT_BYTES)
		ck_assert_ptr_nonnull(strstr(v->name, "_bytes"));
	if (v->unit == METRIC_UNIT_NS)
		ck_assert_ptr_nonnull(strstr(v->name, "_seconds"));
}

START_TEST(published_names_are_unique_and_carry_their_units)
{
	static struct metrics_snapshot s;
	char *seen = calloc(1, 65536);

	metrics_visit(&s, check_unique, &seen);
	free(seen);
}
END_TEST

static void quantile_of_open(void *ctx, const struct metric_view *v)
{
	if (!strcmp(v->field, "open_hit")) {
		uint64_t *q = ctx;
		q[0] = metrics_quantile_ns(v, 500);
		q[1] = metrics_quantile_ns(v, 990);
		q[2] = metrics_quantile_ns(v, 1000);
	}
}

START_TEST(quantiles_name_the_bucket_that_holds_them)
{
	static struct metrics_snapshot s;
	uint64_t q[3] = {1, 1, 1};

	metrics_visit(&s, quantile_of_open, q);
	ck_assert_uint_eq(q[0], 0);
	s.values[M_open_hit + 3] = 98; /* 8 us */
	s.values[M_open_hit + 10] = 1; /* 1 ms */
	s.values[M_open_hit + 20] = 1;
	metrics_visit(&s, quantile_of_open, q);
	ck_assert_uint_eq(q[0], 8000);
	ck_assert_uint_eq(q[1], NS_PER_US << 10);
	ck_assert_uint_eq(q[2], NS_PER_US << 20);
}
END_TEST

static void counting(Suite *s)
{
	UNIT_CASE(s, "counting", adds_from_several_threads_are_all_counted,
		a_duration_falls_into_the_bucket_that_just_holds_it, every_error_has_its_counter);
}

static void segment(Suite *s)
{
	UNIT_CASE(s, "segment", a_reader_sees_what_a_live_daemon_counts, anyone_may_read_and_nobody_else_write,
		a_dead_daemons_numbers_stay_readable, a_new_daemon_replaces_a_dead_ones_segment_under_a_reader,
		a_second_daemon_on_the_same_socket_is_refused, without_a_daemon_there_is_a_sentence,
		another_builds_segment_is_not_guessed_at, orphans_go_when_a_daemon_starts,
		the_name_follows_the_place_and_not_the_spelling);
}

static void text(Suite *s)
{
	UNIT_CASE(s, "text", prometheus_text_has_each_family_once_and_cumulative_buckets,
		what_simulated_devices_are_part_of_says_so,
		published_names_are_unique_and_carry_their_units, quantiles_name_the_bucket_that_holds_them);
}

UNIT_MAIN("metrics", counting, segment, text)
