/* unit.h - the common main of a unit test: UNIT_MAIN("lease", lifetime, refusals) runs the cases that the functions
 * `static void lifetime(Suite *)` add, each in a process of its own, and reports TAP on stdout.
 *   CK_FORK=no     one process, for a debugger       CK_RUN_CASE=NAME   that case alone
 *   TRIMS_SEED=N   repeat a random test; the seed in use is printed as a TAP comment.
 * Thread: main.  Owns nothing. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <check.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* gcc and clang say each in its own way that the thread sanitizer is in. */
#if defined __SANITIZE_THREAD__
#define UNIT_THREAD_SANITIZER 1
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
#define UNIT_THREAD_SANITIZER 1
#endif
#endif

typedef void unit_add_fn(Suite *);

/* The seed of this run, the same for all its tests. */
static inline uint64_t unit_seed(void)
{
	static uint64_t seed;
	const char *given = getenv("TRIMS_SEED");
	struct timespec now;

	if (seed)
		return seed;
	clock_gettime(CLOCK_REALTIME, &now);
	seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec;
	seed = seed ? seed : 1;
	printf("# TRIMS_SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
	return seed;
}

/* splitmix64: the next number of the sequence that *state stands for. */
static inline uint64_t unit_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* A new case of the suite with these tests in it. */
static inline void unit_case(Suite *suite, const char *name, const TTest *const *tests, size_t count)
{
	TCase *c = tcase_create(name);

	for (size_t i = 0; i < count; i++)
		tcase_add_test(c, tests[i]);
	suite_add_tcase(suite, c);
}
#define UNIT_CASE(suite, name, ...)                                                                                   \
	unit_case(suite, name, (const TTest *const[]){ __VA_ARGS__ },                                                 \
		sizeof((const TTest *const[]){ __VA_ARGS__ }) / sizeof(const TTest *))

static inline int unit_run(const char *name, unit_add_fn *const *add, size_t count)
{
	Suite *suite = suite_create(name);
	SRunner *runner;
	int failed;

	unit_seed(); /* before the first fork */
	for (size_t i = 0; i < count; i++)
		add[i](suite);
	runner = srunner_create(suite);
	srunner_set_tap(runner, "-");
	srunner_run_all(runner, CK_SILENT);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#define UNIT_MAIN(name, ...)                                                                                          \
	int main(void)                                                                                                \
	{                                                                                                             \
		unit_add_fn *const add[] = { __VA_ARGS__ };                                                           \
		return unit_run(name, add, sizeof add / sizeof *add);                                                 \
	}

#endif
