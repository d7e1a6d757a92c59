/* driver.c - makes a fuzz target an ordinary test with any compiler: runs every file of the corpus, then seeded
 * mutations of them.   fuzz_NAME [FILE|DIR]...
 *   FUZZ_RUNS=N     mutated inputs at most (default 20000; 0: the corpus alone)
 *   FUZZ_SECONDS=N  and seconds at most (default 4 with AddressSanitizer, which finds most, else 2)
 *   TRIMS_SEED=N    repeat a run; FUZZ_ONLY=N: its Nth mutation alone
 * A mutation depends on the corpus, the seed and its number alone.  The input that ends the program is left in
 * crash-SEED-NUMBER in the working directory, and its first bytes are in the line that says so: of a run far away that line
 * may be all that is left.  Keeps: `now` always describes the input that is being run. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined __has_feature
#if __has_feature(address_sanitizer) && !defined __SANITIZE_ADDRESS__
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#define INPUT_MAX ((size_t)1 << 16)
#define SEEDS_MAX 4096
#define HANG_SECONDS 10
#define BYTES_TOLD 600

struct input {
	char *name;
	uint8_t *data;
	size_t size;
};

static struct input seeds[SEEDS_MAX];
static size_t seed_count;

static struct {
	const uint8_t *data;
	size_t size;
	char crash_file[64];
} now;

/* AddressSanitizer reports bad accesses itself, then aborts. */
#if defined __SANITIZE_ADDRESS__
static const int fatal[] = {SIGABRT, SIGALRM};
#define USUAL_SECONDS 4
#else
#define USUAL_SECONDS 2
static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};
#endif

/* The line on_fatal() makes. */
static char said[BYTES_TOLD * 2 + 256];
static size_t said_size;

static void tell(const char *text)
{
	for (; *text && said_size < sizeof said; text++)
		said[said_size++] = *text;
}

static void tell_number(size_t n)
{
	char digits[24];
	size_t at = sizeof digits - 1;

	digits[at] = 0;
	do
		digits[--at] = (char)('0' + n % 10);
	while (n /= 10);
	tell(digits + at);
}

static void tell_hex(const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		tell((const char[]){"0123456789abcdef"[data[i] >> 4], "0123456789abcdef"[data[i] & 15], 0});
}

/* Async-signal-safe: the program is in an unknown state. */
static void on_fatal(int sig)
{
	int fd = open(now.crash_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool kept = fd >= 0 && write(fd, now.data, now.size) == (ssize_t)now.size;

	tell(sig == SIGALRM ? "Bail out! hangs; input: " : "Bail out! crashes; input: ");
	tell(now.crash_file);
	tell(kept ? ", " : " (not written), ");
	tell_number(now.size);
	tell(now.size > BYTES_TOLD ? " bytes that begin with " : " bytes: ");
	tell_hex(now.data, now.size < BYTES_TOLD ? now.size : BYTES_TOLD);
	tell("\n");
	if (write(STDOUT_FILENO, said, said_size) < 0)
		_exit(2);
	signal(sig, SIG_DFL);
	raise(sig == SIGALRM ? SIGKILL : sig);
}

/* On a stack of its own: endless recursion is one of the faults looked for. */
static void watch_faults(void)
{
	static uint8_t stack[1 << 16];
	struct sigaction act = {.sa_handler = on_fatal, .sa_flags = SA_ONSTACK};

	sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
	for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
		sigaction(fatal[i], &act, NULL);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 0) : otherwise;
}

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static size_t random_below(uint64_t *state, size_t bound)
{
	return bound ? random_next(state) % bound : 0;
}

/* ---- the corpus ---- */

static void *must(void *p, const char *what)
{
	if (p)
		return p;
	printf("Bail out! %s\n", what);
	exit(1);
}

static void add_file(const char *path)
{
	FILE *f = must(fopen(path, "rb"), path);
	struct input *in = &seeds[seed_count];

	if (seed_count == SEEDS_MAX)
		must(NULL, "more seeds than SEEDS_MAX");
	in->name = must(strdup(path), "out of memory");
	in->data = must(malloc(INPUT_MAX), "out of memory");
	in->size = fread(in->data, 1, INPUT_MAX, f);
	fclose(f);
	seed_count++;
}

/* Sorted by name: the mutations of a seed must not depend on the directory's order. */
static void add_path(const char *path)
{
	struct dirent **entries;
	struct stat st;
	int n;

	if (stat(path, &st) != 0)
		must(NULL, path);
	if (!S_ISDIR(st.st_mode)) {
		add_file(path);
		return;
	}
	n = scandir(path, &entries, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		char *child = NULL;

		if (entries[i]->d_name[0] != '.' && asprintf(&child, "%s/%s", path, entries[i]->d_name) > 0)
			add_path(child);
		free(child);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
}

static void run_one(const uint8_t *data, size_t size)
{
	/* A heap block of the exact size, so that a sanitizer sees one byte too far. */
	uint8_t *copy = must(malloc(size ? size : 1), "out of memory");

	memcpy(copy, data, size);
	now.data = copy;
	now.size = size;
	alarm(HANG_SECONDS);
	LLVMFuzzerTestOneInput(copy, size);
	alarm(0);
	now.size = 0;
	free(copy);
}

/* ---- mutations ---- */

static uint64_t interesting(uint64_t *rng)
{
	static const uint64_t values[] = {0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 4095, 4096, 32767, 32768, 65535,
		65536, INT32_MAX, (uint64_t)INT32_MAX + 1, UINT32_MAX, (uint64_t)UINT32_MAX + 1, INT64_MAX,
		(uint64_t)INT64_MAX + 1, UINT64_MAX - 7, UINT64_MAX};

	return values[random_below(rng, sizeof values / sizeof *values)];
}

static size_t put_in(uint8_t *buf, size_t size, size_t at, const uint8_t *what, size_t count)
{
	if (count > INPUT_MAX - size)
		count = INPUT_MAX - size;
	memmove(buf + at + count, buf + at, size - at);
	memcpy(buf + at, what, count);
	return size + count;
}

static size_t graft(uint8_t *buf, size_t size, uint64_t *rng)
{
	const struct input *other = &seeds[random_below(rng, seed_count)];
	size_t from, count;

	if (!seed_count || !other->size)
		return size;
	from = random_below(rng, other->size);
	count = random_below(rng, other->size - from) + 1;
	return put_in(buf, size, random_below(rng, size + 1), other->data + from, count);
}

static size_t duplicate(uint8_t *buf, size_t size, uint64_t *rng)
{
	uint8_t part[256];
	size_t from = random_below(rng, size), count = random_below(rng, sizeof part) + 1;

	if (count > size - from)
		count = size - from;
	memcpy(part, buf + from, count);
	return put_in(buf, size, random_below(rng, size + 1), part, count);
}

static void overwrite(uint8_t *buf, size_t size, uint64_t *rng)
{
	uint64_t value = interesting(rng); /* little-endian on the wire and on every machine trims runs on */
	size_t width = (size_t)1 << random_below(rng, 4);

	if (width <= size)
		memcpy(buf + random_below(rng, size - width + 1), &value, width);
}

static size_t mutate(uint8_t *buf, size_t size, uint64_t *rng)
{
	uint8_t byte = (uint8_t)random_next(rng);
	size_t at = random_below(rng, size), count;

	if (size == 0)
		return put_in(buf, size, 0, &byte, 1);
	switch (random_below(rng, 8)) {
	case 0:
		buf[at] ^= (uint8_t)(1u << (byte & 7));
		return size;
	case 1:
		buf[at] = byte;
		return size;
	case 2:
		return put_in(buf, size, at, &byte, 1);
	case 3:
		return at; /* cut */
	case 4:
		count = random_below(rng, size - at) + 1;
		memmove(buf + at, buf + at + count, size - at - count);
		return size - count;
	case 5:
		return duplicate(buf, size, rng);
	case 6:
		return graft(buf, size, rng);
	default:
		overwrite(buf, size, rng);
		return size;
	}
}

static void run_mutation(uint64_t seed, uint64_t number)
{
	static uint8_t buf[INPUT_MAX];
	uint64_t rng = seed ^ number * 0xd6e8feb86659fd93u;
	const struct input *from = &seeds[random_below(&rng, seed_count)];
	size_t size = seed_count ? from->size : 0;

	if (size)
		memcpy(buf, from->data, size);
	for (size_t n = random_below(&rng, 8) + 1; n > 0; n--)
		size = mutate(buf, size, &rng);
	snprintf(now.crash_file, sizeof now.crash_file, "crash-%" PRIu64 "-%" PRIu64, seed, number);
	run_one(buf, size);
}

/* How many were run. */
static uint64_t run_mutations(uint64_t seed)
{
	uint64_t runs = number_from("FUZZ_RUNS", 20000);
	time_t until = time(NULL) + (time_t)number_from("FUZZ_SECONDS", USUAL_SECONDS);
	uint64_t done = 0;

	if (getenv("FUZZ_ONLY")) {
		run_mutation(seed, number_from("FUZZ_ONLY", 0));
		return 1;
	}
	while (done < runs && time(NULL) < until)
		run_mutation(seed, done++);
	return done;
}

int main(int argc, char **argv)
{
	struct timespec clock;
	uint64_t seed, done;

	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_gettime(CLOCK_REALTIME, &clock);
	seed = number_from("TRIMS_SEED", (uint64_t)clock.tv_sec * 1000000007u ^ (uint64_t)clock.tv_nsec);
	for (int i = 1; i < argc; i++)
		add_path(argv[i]);
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	watch_faults();
	printf("1..2\n# TRIMS_SEED=%" PRIu64 "\n", seed);
	for (size_t i = 0; i < seed_count; i++) {
		snprintf(now.crash_file, sizeof now.crash_file, "crash-corpus-%zu", i);
		run_one(seeds[i].data, seeds[i].size);
	}
	printf("%s 1 - %zu inputs of the corpus\n", seed_count ? "ok" : "not ok", seed_count);
	done = run_mutations(seed);
	printf("ok 2 - %" PRIu64 " mutations\n", done);
	for (size_t i = 0; i < seed_count; i++) {
		free(seeds[i].name);
		free(seeds[i].data);
	}
	return seed_count ? 0 : 1;
}
