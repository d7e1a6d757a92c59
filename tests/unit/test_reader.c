/* test_reader.c - mrm/io: every range arrives whole, whatever its alignment, engine and file system. */
#include "mrm/io/reader.h"
#include "shared/own.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILE_BYTES ((size_t)3 * 1000 * 1000 + 17)

struct fixture {
	char path[64];
	uint8_t *bytes;
	int fd;
	bool direct;
	struct reader *r;
};

static const struct reader_options engines[] = {{0}, {.no_fixed = true}, {.no_uring = true}};

static void fixture_init(struct fixture *fx, const struct reader_options *o, uint32_t depth, bool buffered)
{
	struct fault why;
	uint64_t seed = unit_seed();
	snprintf(fx->path, sizeof fx->path, "/tmp/test_reader.XXXXXX");
	OWN_FD int fd = mkstemp(fx->path);
	ck_assert_int_ge(fd, 0);
	fx->bytes = malloc(FILE_BYTES);
	for (size_t i = 0; i < FILE_BYTES; i++)
		fx->bytes[i] = (uint8_t)unit_random(&seed);
	ck_assert_int_eq(write(fd, fx->bytes, FILE_BYTES), (ssize_t)FILE_BYTES);
	ck_assert_int_eq(reader_open_file(fx->path, &fx->fd, &fx->direct), 0);
	if (buffered) {
		ck_assert_int_eq(fcntl(fx->fd, F_SETFL, 0), 0);
		fx->direct = false;
	}
	ck_assert_msg(reader_new(&fx->r, depth, MIB, o, &why) == 0, "%s", why.text);
}

static void fixture_fini(struct fixture *fx)
{
	reader_free(&fx->r);
	ck_assert_ptr_null(fx->r);
	close(fx->fd);
	unlink(fx->path);
	free(fx->bytes);
}

static struct reader_span span(const struct fixture *fx, uint64_t off, uint64_t bytes)
{
	return (struct reader_span){fx->fd, fx->direct, off, bytes};
}

static struct reader_done wait_done(struct fixture *fx)
{
	struct reader_done d;
	int r;
	while ((r = reader_wait(fx->r, true, &d)) == -EAGAIN)
		;
	ck_assert_int_eq(r, 0);
	return d;
}

struct random_job {
	struct reader_span spans[40];
	uint32_t n;
};

static void check_job(const struct fixture *fx, const struct random_job *job, const struct reader_done *d)
{
	ck_assert_int_eq(d->result, 0);
	ck_assert_uint_eq(d->n, job->n);
	for (uint32_t i = 0; i < d->n; i++)
		ck_assert_mem_eq(d->data[i], fx->bytes + job->spans[i].off, job->spans[i].bytes);
}

static void random_job(const struct fixture *fx, struct random_job *job, uint64_t *seed)
{
	job->n = (uint32_t)(unit_random(seed) % ARRAY_LEN(job->spans));
	for (uint32_t i = 0; i < job->n; i++) {
		uint64_t bytes = 1 + unit_random(seed) % (unit_random(seed) % 8 ? 9000 : 400000);
		uint64_t off = unit_random(seed) % (FILE_BYTES - bytes + 1);
		if (unit_random(seed) % 4 == 0)
			off = FILE_BYTES - bytes;
		job->spans[i] = span(fx, off, bytes);
	}
}

static void random_ranges(const struct reader_options *o, bool buffered)
{
	struct fixture fx;
	struct random_job jobs[5];
	uint64_t seed = unit_seed() ^ 77;
	uint32_t left = 300;
	fixture_init(&fx, o, ARRAY_LEN(jobs), buffered);
	for (uint32_t i = 0; i < ARRAY_LEN(jobs); i++) {
		random_job(&fx, &jobs[i], &seed);
		ck_assert_int_eq(reader_submit(fx.r, i, jobs[i].spans, jobs[i].n), 0);
	}
	ck_assert(!reader_has_room(fx.r));
	ck_assert_int_eq(reader_submit(fx.r, 9, jobs[0].spans, jobs[0].n), -EBUSY);
	while (reader_in_flight(fx.r)) {
		struct reader_done d = wait_done(&fx);
		struct random_job *job = &jobs[d.tag];
		check_job(&fx, job, &d);
		reader_release(fx.r, &d);
		if (left && left--) {
			random_job(&fx, job, &seed);
			ck_assert_int_eq(reader_submit(fx.r, d.tag, job->spans, job->n), 0);
		}
	}
	fixture_fini(&fx);
}

START_TEST(random_ranges_arrive_whole)
{
	random_ranges(&engines[_i], false);
}
END_TEST

START_TEST(random_ranges_arrive_whole_through_the_page_cache)
{
	random_ranges(&engines[_i], true);
}
END_TEST

START_TEST(a_truncated_file_is_named_with_its_offset)
{
	for (int buffered = 0; buffered < 2; buffered++) {
		struct fixture fx;
		struct fault why;
		fixture_init(&fx, &engines[_i], 2, buffered);
		struct reader_span spans[] = {span(&fx, 100, 50), span(&fx, FILE_BYTES - 10, 11)};
		ck_assert_int_eq(reader_submit(fx.r, 1, spans, 2), 0);
		struct reader_done d = wait_done(&fx);
		ck_assert_int_eq(d.result, -ENODATA);
		ck_assert_uint_eq(d.bad_span, 1);
		ck_assert_uint_eq(d.bad_off, FILE_BYTES);
		ck_assert_int_eq(reader_fault(&d, "some/file", &why), -ENODATA);
		ck_assert_ptr_nonnull(strstr(why.text, "some/file"));
		ck_assert_ptr_nonnull(strstr(why.text, "3000017"));
		reader_release(fx.r, &d);
		spans[0] = span(&fx, FILE_BYTES + 100000, 5);
		ck_assert_int_eq(reader_submit(fx.r, 1, spans, 1), 0);
		d = wait_done(&fx);
		ck_assert_int_eq(d.result, -ENODATA);
		reader_release(fx.r, &d);
		fixture_fini(&fx);
	}
}
END_TEST

START_TEST(direct_submissions_land_in_the_callers_memory)
{
	struct fixture fx;
	fixture_init(&fx, &engines[_i], 2, false);
	uint8_t *dst = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct reader_span s = span(&fx, 8192, MIB);
	ck_assert_int_eq(reader_submit_direct(fx.r, 5, &s, dst), 0);
	struct reader_done d = wait_done(&fx);
	ck_assert_int_eq(d.result, 0);
	ck_assert_uint_eq(d.tag, 5);
	ck_assert_uint_eq(d.n, 0);
	ck_assert_uint_eq(d.bytes, MIB);
	ck_assert_mem_eq(dst, fx.bytes + 8192, MIB);
	reader_release(fx.r, &d);
	struct reader_span odd[] = {span(&fx, 8191, MIB), span(&fx, 8192, MIB - 1), span(&fx, 8192, 0)};
	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		ck_assert_int_eq(reader_submit_direct(fx.r, 5, &odd[i], dst), -EINVAL);
	ck_assert_int_eq(reader_submit_direct(fx.r, 5, &s, dst + 512), -EINVAL);
	s = span(&fx, align_down(FILE_BYTES, READER_ALIGN), READER_ALIGN);
	ck_assert_int_eq(reader_submit_direct(fx.r, 6, &s, dst), 0);
	d = wait_done(&fx);
	ck_assert_int_eq(d.result, -ENODATA);
	reader_release(fx.r, &d);
	munmap(dst, MIB);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_large_submission_gets_a_buffer_of_its_own)
{
	struct fixture fx;
	fixture_init(&fx, &engines[_i], 1, false);
	for (int round = 0; round < 3; round++) {
		struct reader_span s = span(&fx, 3, FILE_BYTES - 3);
		ck_assert_int_eq(reader_submit(fx.r, 0, &s, 1), 0);
		struct reader_done d = wait_done(&fx);
		ck_assert_int_eq(d.result, 0);
		ck_assert_mem_eq(d.data[0], fx.bytes + 3, FILE_BYTES - 3);
		reader_release(fx.r, &d);
	}
	fixture_fini(&fx);
}
END_TEST

START_TEST(absurd_submissions_are_refused)
{
	struct fixture fx;
	struct reader_span many[READER_MAX_SPANS + 1];
	fixture_init(&fx, &engines[_i], 1, false);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = span(&fx, i, 1);
	ck_assert_int_eq(reader_submit(fx.r, 0, many, ARRAY_LEN(many)), -E2BIG);
	many[0] = span(&fx, 0, READER_MAX_BYTES + 1);
	ck_assert_int_eq(reader_submit(fx.r, 0, many, 1), -E2BIG);
	many[0] = span(&fx, UINT64_MAX - 5, 10);
	ck_assert_int_eq(reader_submit(fx.r, 0, many, 1), -EINVAL);
	many[0] = span(&fx, 0, 0);
	ck_assert_int_eq(reader_submit(fx.r, 0, many, 1), -EINVAL);
	ck_assert_int_eq(reader_submit(fx.r, 0, many, 0), 0);
	struct reader_done d = wait_done(&fx);
	ck_assert_int_eq(d.result, 0);
	reader_release(fx.r, &d);
	fixture_fini(&fx);
	struct fault why;
	ck_assert_int_eq(reader_new(&fx.r, READER_MAX_DEPTH + 1, MIB, NULL, &why), -EINVAL);
	ck_assert_int_eq(reader_new(&fx.r, 1, 0, NULL, &why), -EINVAL);
}
END_TEST

START_TEST(many_ranges_go_through_a_small_ring)
{
	struct fixture fx;
	static struct reader_span many[READER_MAX_SPANS];
	fixture_init(&fx, &engines[_i], 1, false);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = span(&fx, i * 2500, 2000);
	ck_assert_int_eq(reader_submit(fx.r, 0, many, ARRAY_LEN(many)), 0);
	struct reader_done d = wait_done(&fx);
	ck_assert_int_eq(d.result, 0);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		ck_assert_mem_eq(d.data[i], fx.bytes + i * 2500, 2000);
	reader_release(fx.r, &d);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_dead_descriptor_fails_the_submission_only)
{
	struct fixture fx;
	fixture_init(&fx, &engines[_i], 2, false);
	struct reader_span spans[] = {{.fd = 9999, .off = 0, .bytes = 10}, span(&fx, 0, 10)};
	ck_assert_int_eq(reader_submit(fx.r, 1, spans, 2), 0);
	ck_assert_int_eq(reader_submit(fx.r, 2, spans + 1, 1), 0);
	for (int i = 0; i < 2; i++) {
		struct reader_done d = wait_done(&fx);
		ck_assert_int_eq(d.result, d.tag == 1 ? -EBADF : 0);
		reader_release(fx.r, &d);
	}
	fixture_fini(&fx);
}
END_TEST

static void *wake(void *r)
{
	reader_wake(r);
	return NULL;
}

START_TEST(a_wake_is_never_lost)
{
	struct fixture fx;
	struct reader_done d;
	pthread_t t;
	fixture_init(&fx, &engines[_i], 2, false);
	ck_assert_int_eq(reader_wait(fx.r, false, &d), -EAGAIN);
	for (int i = 0; i < 50; i++) {
		pthread_create(&t, NULL, wake, fx.r);
		ck_assert_int_eq(reader_wait(fx.r, true, &d), -EAGAIN);
		pthread_join(t, NULL);
	}
	reader_wake(fx.r);
	reader_wake(fx.r);
	ck_assert_int_eq(reader_wait(fx.r, true, &d), -EAGAIN);
	struct reader_span s = span(&fx, 0, 10);
	ck_assert_int_eq(reader_submit(fx.r, 1, &s, 1), 0);
	d = wait_done(&fx);
	reader_release(fx.r, &d);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_reader_with_reads_in_flight_can_be_freed)
{
	struct fixture fx;
	fixture_init(&fx, &engines[_i], 8, false);
	for (uint64_t i = 0; i < 8; i++) {
		struct reader_span s = span(&fx, i * 1000, 500000);
		ck_assert_int_eq(reader_submit(fx.r, i, &s, 1), 0);
	}
	fixture_fini(&fx);
}
END_TEST

START_TEST(the_engine_has_a_name)
{
	struct fixture fx;
	fixture_init(&fx, &engines[_i], 1, false);
	const struct reader_mode *m = reader_mode(fx.r);
	if (engines[_i].no_uring) {
		ck_assert_int_eq(m->engine, READER_PREAD);
		ck_assert_str_ne(m->why, "");
	}
	if (engines[_i].no_fixed || m->engine == READER_PREAD)
		ck_assert(!m->fixed_buffers);
	printf("# engine %s, fixed buffers %d, direct %d: %s\n", reader_engine_name(m->engine), m->fixed_buffers,
		fx.direct, m->why);
	fixture_fini(&fx);
}
END_TEST

/* From here on this process cannot make a ring. */
static bool refuse_io_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_LEN(code), code};
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

START_TEST(a_kernel_that_refuses_io_uring_gets_the_named_fallback)
{
	struct fixture fx;
	if (!refuse_io_uring()) {
		printf("# seccomp filters are not available: not tested\n");
		return;
	}
	fixture_init(&fx, NULL, 4, false);
	ck_assert_int_eq(reader_mode(fx.r)->engine, READER_PREAD);
	ck_assert_ptr_nonnull(strstr(reader_mode(fx.r)->why, "io_uring refused"));
	struct reader_span s = span(&fx, 12345, 54321);
	ck_assert_int_eq(reader_submit(fx.r, 0, &s, 1), 0);
	struct reader_done d = wait_done(&fx);
	ck_assert_int_eq(d.result, 0);
	ck_assert_mem_eq(d.data[0], fx.bytes + 12345, 54321);
	reader_release(fx.r, &d);
	fixture_fini(&fx);
}
END_TEST

START_TEST(a_file_system_without_direct_reads_is_read_through_the_page_cache)
{
	struct fixture fx;
	int fd;
	bool direct = true;
	fixture_init(&fx, NULL, 2, false);
	ck_assert_int_eq(reader_open_file("/proc/version", &fd, &direct), 0);
	ck_assert(!direct);
	struct reader_span s = {fd, direct, 3, 9};
	ck_assert_int_eq(reader_submit(fx.r, 0, &s, 1), 0);
	struct reader_done d = wait_done(&fx);
	ck_assert_int_eq(d.result, 0);
	ck_assert_mem_eq(d.data[0], "ux versio", 9);
	reader_release(fx.r, &d);
	close(fd);
	ck_assert_int_eq(reader_open_file("/no/such/file", &fd, &direct), -ENOENT);
	fixture_fini(&fx);
}
END_TEST

static void degraded(Suite *suite)
{
	UNIT_CASE(suite, "degraded", a_kernel_that_refuses_io_uring_gets_the_named_fallback,
		a_file_system_without_direct_reads_is_read_through_the_page_cache);
}

static void each_engine(Suite *suite)
{
	const TTest *const tests[] = {random_ranges_arrive_whole, random_ranges_arrive_whole_through_the_page_cache,
		a_truncated_file_is_named_with_its_offset, direct_submissions_land_in_the_callers_memory,
		a_large_submission_gets_a_buffer_of_its_own, absurd_submissions_are_refused,
		many_ranges_go_through_a_small_ring, a_dead_descriptor_fails_the_submission_only,
		a_wake_is_never_lost, a_reader_with_reads_in_flight_can_be_freed, the_engine_has_a_name};
	TCase *c = tcase_create("each engine");
	for (size_t i = 0; i < ARRAY_LEN(tests); i++)
		tcase_add_loop_test(c, tests[i], 0, ARRAY_LEN(engines));
	suite_add_tcase(suite, c);
}

UNIT_MAIN("reader", each_engine, degraded)
