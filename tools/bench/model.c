/* model.c - models of known size and content for benchmarks: valid safetensors, numbered BF16 matrices. */
#include "shared/check.h"
#include "shared/own.h"
#include "tools/bench/lab.h"
#include "tools/pagecache.h"
#include "tools/random.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#define BLOCK_BYTES (4 * MIB)
#define COLUMNS 1024
#define LINE 256
#define HOLE_NOISE 512 /* words at its beginning: models of two seeds differ */

/* Of each line of 256 bytes the first 144 are noise and the rest repeats the last noise: about 6/10 under LZ4. */
static void fill(uint64_t *block, size_t words, bool compressible, uint64_t *state)
{
	const size_t line = LINE / sizeof *block, noise = compressible ? 18 : line;
	for (size_t i = 0; i < words; i++)
		block[i] = i % line < noise ? random_next(state) : block[i - 1];
}

static void write_all(int fd, const void *data, size_t bytes, const char *path)
{
	const char *p = data;
	while (bytes) {
		ssize_t n = write(fd, p, bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			die_errno(errno, "writing %s", path);
		p += n;
		bytes -= (size_t)n;
	}
}

/* The header with its length in front; *data_bytes is what must follow.  The caller frees. */
static char *make_header(const struct model_spec *spec, size_t *bytes, uint64_t *data_bytes)
{
	char *text = NULL;
	size_t used = 0;
	FILE *f = open_memstream(&text, &used);
	ASSERT(f);
	fwrite("01234567", 1, 8, f);
	uint64_t row = 2 * COLUMNS, rows = MAX(spec->bytes / spec->n_tensors / row, 1);
	uint64_t each = rows * row, at = 0;
	fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (uint32_t i = 0; i < spec->n_tensors; i++, at += each)
		fprintf(f, ",\"model.layers.%" PRIu32 ".weight\":{\"dtype\":\"BF16\",\"shape\":[%" PRIu64 ",%d],"
			"\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", i, rows, COLUMNS, at, at + each);
	fprintf(f, "}");
	fflush(f);
	while (used % 8) {
		fputc(' ', f);
		fflush(f);
	}
	fclose(f);
	for (int i = 0; i < 8; i++)
		text[i] = (char)((uint64_t)(used - 8) >> (8 * i));
	*bytes = used;
	*data_bytes = at;
	return text;
}

uint64_t model_write(const char *path, const struct model_spec *spec)
{
	OWN_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		die_errno(errno, "creating %s", path);
	uint64_t left, state = spec->seed;
	size_t head;
	OWN_MEM char *header = make_header(spec, &head, &left);
	uint64_t total = head + left;
	write_all(fd, header, head, path);
	if (spec->hole) {
		uint64_t first[HOLE_NOISE];
		fill(first, ARRAY_LEN(first), false, &state);
		write_all(fd, first, (size_t)MIN(left, sizeof first), path);
		if (ftruncate(fd, (off_t)total))
			die_errno(errno, "%s", path);
		return total;
	}
	OWN_MEM uint64_t *block = malloc((size_t)MIN(left, BLOCK_BYTES) + sizeof *block);
	ASSERT(block);
	while (left) {
		size_t n = (size_t)MIN(left, BLOCK_BYTES);
		fill(block, n / sizeof *block, spec->compressible, &state);
		write_all(fd, block, n, path);
		left -= n;
	}
	if (total > MIB && fsync(fd)) /* a hundred thousand small ones need not be durable */
		die_errno(errno, "syncing %s", path);
	return total;
}

void model_make_cold(const char *path)
{
	struct fault why;
	if (pagecache_drop(path, &why))
		die("no number: %s", why.text);
}

void model_make_warm(const char *path)
{
	struct fault why;
	if (pagecache_fill(path, &why))
		die("no number: %s", why.text);
}
