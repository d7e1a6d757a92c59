/* test_run.c - the parts of trims-run that a whole run does not show one by one: shares of a loop, weights of 16 bits, .npy. */
#include "shared/image.h"
#include "tests/unit/unit.h"
#include "tools/run/cpu.h"
#include "tools/run/npy.h"

#include <cblas.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>

START_TEST(shares_are_all_of_it_once_and_in_order)
{
	for (uint32_t parts = 1; parts < 9; parts++)
		for (size_t n = 0; n < 70; n++)
			for (size_t grain = 1; grain < 20; grain += 6) {
				size_t next = 0, from, to;
				for (uint32_t p = 0; p < parts; p++) {
					pool_share(n, grain, p, parts, &from, &to);
					ck_assert_uint_eq(from, next);
					ck_assert(to >= from && (from % grain == 0 || from == n));
					next = to;
				}
				ck_assert_uint_eq(next, n);
			}
}
END_TEST

static int tasks(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/task");
	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}

START_TEST(the_librarys_own_threads_end)
{
	const struct backend_options one = {.threads = 1};
	struct backend *b;
	struct fault why;
	if (openblas_get_parallel() != OPENBLAS_THREAD)
		return;
	int before = tasks();
	openblas_set_num_threads(before + 2); /* those that it has had since it was loaded, did fork() not end them */
	ck_assert_int_gt(tasks(), before);
	ck_assert_int_eq(backend_cpu.open(&one, &b, &why), 0);
	for (int looks = 0; tasks() > before && looks < 2000; looks++)
		poll(NULL, 0, 1); /* a thread that was waited for may be listed for a moment */
	ck_assert_int_le(tasks(), before);
	backend_cpu.close(b);
}
END_TEST

struct marks {
	_Atomic uint32_t of[8];
};

static void mark(void *arg, uint32_t part, uint32_t parts)
{
	struct marks *m = arg;
	m->of[part]++;
}

START_TEST(each_part_is_done_once_a_loop)
{
	for (uint32_t threads = 1; threads <= 8; threads += 3) {
		struct pool *pool;
		struct marks m = {0};
		ck_assert_int_eq(pool_new(threads, &pool), 0);
		ck_assert_uint_eq(pool_threads(pool), threads);
		for (uint32_t round = 1; round <= 500; round++) {
			pool_run(pool, mark, &m);
			for (uint32_t p = 0; p < threads; p++)
				ck_assert_uint_eq(m.of[p], round); /* all are back when pool_run() returns */
		}
		pool_free(&pool);
		ck_assert_ptr_null(pool);
	}
}
END_TEST

/* What the standard says a half is worth. */
static double half(uint32_t bits)
{
	int exponent = (int)(bits >> 10 & 31);
	double fraction = bits & 1023, sign = bits & 0x8000 ? -1 : 1;
	if (exponent == 31)
		return fraction != 0 ? NAN : sign * INFINITY;
	return sign * (exponent ? ldexp(1 + fraction / 1024, exponent - 15) : ldexp(fraction / 1024, -14));
}

START_TEST(every_half_becomes_its_float)
{
	static uint16_t all[65536];
	static float got[65536];
	for (uint32_t i = 0; i < 65536; i++)
		all[i] = (uint16_t)i;
	math_widen(&(struct operand){.data = all, .dtype = DTYPE_F16}, 0, 65536, got);
	for (uint32_t i = 0; i < 65536; i++) {
		uint32_t bits;
		memcpy(&bits, &got[i], sizeof bits);
		ck_assert_msg((i & 0x7fff) > 0x7c00 ? (bits & 0x7fffffff) > 0x7f800000 : got[i] == (float)half(i),
			"%04x became %a", i, (double)got[i]);
		ck_assert_uint_eq(bits >> 31, i >> 15);
	}
	math_widen(&(struct operand){.data = all, .dtype = DTYPE_BF16}, 0x3f80, 2, got);
	ck_assert(got[0] == 1.0f && got[1] == 1.0078125f);
}
END_TEST

/* A file of version 1 with this header and so many bytes behind it. */
static int parse(const char *header, size_t bytes, struct npy *out)
{
	static uint8_t file[8192];
	size_t n = strlen(header);
	memcpy(file, "\x93NUMPY\x01\x00", 8);
	file[8] = (uint8_t)n;
	file[9] = (uint8_t)(n >> 8);
	memcpy(file + 10, header, n);
	struct fault why = {0};
	int r = npy_parse(file, 10 + n + bytes, out, &why);
	ck_assert(r == 0 || (r == -EPROTO && why.text[0]));
	return r;
}

START_TEST(arrays_are_what_their_header_says)
{
	struct npy a;
	ck_assert_int_eq(parse("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2, 2), }", 48, &a), 0);
	ck_assert(a.kind == NPY_F32 && a.rank == 4 && a.shape[1] == 3 && npy_elements(&a) == 12);
	ck_assert_int_eq(parse("{'descr': '<i8', 'fortran_order': False, 'shape': (5,), }", 40, &a), 0);
	ck_assert(a.kind == NPY_I64 && a.rank == 1 && npy_elements(&a) == 5);
	static const char *const bad[] = {
		"{'descr': '<f8', 'fortran_order': False, 'shape': (5,), }", "{'descr': '<i8', 'fortran_order': True, 'shape': (5,), }",
		"{'descr': '<i8', 'fortran_order': False, 'shape': (), }", "{'descr': '<i8', 'fortran_order': False, 'shape': (0,), }",
		"{'descr': '<i8', 'fortran_order': False, 'shape': (6,), }", "{'descr': '<i8', 'fortran_order': False, 'shape': (5", "",
		"{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1, 1, 1, 5), }", "{'fortran_order': False, 'shape': (5,), }",
		"{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 5), }",
		"{'descr': '<i8', 'fortran_order': False, 'shape': (-5,), }", "{'descr': '<i8', 'fortran_order': False}",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(parse(bad[i], 40, &a) != 0, "%s", bad[i]);
}
END_TEST

static void parts(Suite *s)
{
	UNIT_CASE(s, "threads", shares_are_all_of_it_once_and_in_order, each_part_is_done_once_a_loop, the_librarys_own_threads_end);
	UNIT_CASE(s, "numbers", every_half_becomes_its_float, arrays_are_what_their_header_says);
}

UNIT_MAIN("run", parts)
