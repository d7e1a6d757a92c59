/* fail.c - how a benchmark gives up, and its clock. */
#include "client/trims.h"
#include "tools/bench/bench.h"
#include "tools/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t bench_now_ns(void)
{
	return clock_ns();
}

__attribute__((format(printf, 1, 0))) static void say(const char *fmt, va_list ap)
{
	fputs("trims-bench: ", stderr);
	vfprintf(stderr, fmt, ap);
}

void die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(BENCH_FAILED);
}

void skip(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(BENCH_SKIPPED);
}

void die_errno(int err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(err));
	exit(BENCH_FAILED);
}

void die_trims(const char *doing)
{
	die("%s: %s", doing, trims_last_error()->text);
}
