/* npy.c - see npy.h.
 * Keeps: an array that is returned has exactly as many bytes behind `data` as its shape says. */
#include "tools/run/npy.h"

#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int bad(struct fault *why, const char *what)
{
	return fault_set(why, TRIMS_E_BAD_REQUEST, "the .npy file %s", what);
}

/* The value behind 'key': in a header, which is a Python dictionary; NULL: not there. */
static const char *value_of(const char *header, const char *key)
{
	const char *at = strstr(header, key);
	at = at ? strchr(at, ':') : NULL;
	return at ? at + 1 + strspn(at + 1, " ") : NULL;
}

static int parse_kind(const char *header, struct npy *out, struct fault *why)
{
	static const char *const names[] = {[NPY_F32] = "'<f4'", [NPY_I32] = "'<i4'", [NPY_I64] = "'<i8'"};
	const char *descr = value_of(header, "'descr'"), *order = value_of(header, "'fortran_order'");
	if (!order || strncmp(order, "False", 5) != 0)
		return bad(why, "is not in C order");
	for (unsigned k = 0; descr && k < ARRAY_LEN(names); k++)
		if (strncmp(descr, names[k], 5) == 0) {
			out->kind = (enum npy_kind)k;
			return 0;
		}
	return bad(why, "has elements that are none of <f4, <i4, <i8");
}

static int parse_shape(const char *header, uint64_t elements, struct npy *out, struct fault *why)
{
	const char *at = value_of(header, "'shape'");
	uint64_t product = 1;
	if (!at || *at++ != '(')
		return bad(why, "has no shape");
	for (out->rank = 0; *at != ')'; at += strspn(at, ", ")) {
		char *end;
		errno = 0;
		uint64_t n = strtoull(at, &end, 10);
		if (errno || end == at || n == 0 || out->rank == NPY_MAX_RANK || mul_overflows(product, n, &product))
			return bad(why, "has a shape that is not 1 to 4 numbers above 0");
		out->shape[out->rank++] = n;
		at = end;
	}
	if (out->rank == 0 || product != elements)
		return bad(why, "has another number of elements than its shape says");
	return 0;
}

static size_t element_bytes(enum npy_kind kind)
{
	return kind == NPY_I64 ? 8 : 4;
}

int npy_parse(const void *bytes, size_t n, struct npy *out, struct fault *why)
{
	const uint8_t *b = bytes;
	char header[4096];
	if (n < 12 || memcmp(b, "\x93NUMPY", 6) != 0 || b[6] < 1 || b[6] > 3)
		return bad(why, "does not begin as one of version 1 to 3 does");
	size_t at = b[6] == 1 ? 10 : 12;
	size_t length = (size_t)b[8] | (size_t)b[9] << 8 | (b[6] == 1 ? 0 : (size_t)b[10] << 16 | (size_t)b[11] << 24);
	if (length >= sizeof header || length > n - at)
		return bad(why, "is shorter than its header, or that is longer than 4095 bytes");
	memcpy(header, b + at, length);
	header[length] = 0;
	if (strlen(header) != length)
		return bad(why, "has a header that is no text");
	*out = (struct npy){.data = b + at + length};
	int r = parse_kind(header, out, why);
	size_t left = n - at - length, each = r ? 1 : element_bytes(out->kind);
	if (!r && left % each)
		r = bad(why, "ends within an element");
	return r ? r : parse_shape(header, left / each, out, why);
}

static int parse_raw(enum npy_kind kind, size_t bytes, struct npy *out, struct fault *why)
{
	size_t each = element_bytes(kind);
	*out = (struct npy){.kind = kind, .rank = 1, .shape = {bytes / each}};
	return bytes && bytes % each == 0 ? 0 : fault_set(why, TRIMS_E_BAD_REQUEST, "the .bin file is no row of %zu-byte elements", each);
}

static int read_file(const char *path, uint64_t most, void **bytes, size_t *n, struct fault *why)
{
	struct stat st;
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
	if (fd < 0 || fstat(fd, &st))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > most)
		return fault_set(why, TRIMS_E_LIMIT, "%s is no regular file, or one above %llu bytes", path, (unsigned long long)most);
	OWN_MEM char *all = malloc((size_t)st.st_size + 1);
	if (!all)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %s", path);
	for (*n = 0; *n < (size_t)st.st_size;) {
		ssize_t got = read(fd, all + *n, (size_t)st.st_size - *n);
		if (got <= 0)
			return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: %s", path, got ? strerror(errno) : "it is shorter than it was");
		*n += (size_t)got;
	}
	*bytes = STEAL(all);
	return 0;
}

int npy_read(const char *path, enum npy_kind raw, uint64_t most_bytes, struct npy *out, struct fault *why)
{
	void *bytes = NULL;
	size_t n = 0, length = strlen(path);
	bool is_raw = length > 4 && strcmp(path + length - 4, ".bin") == 0;
	int r = read_file(path, most_bytes, &bytes, &n, why);
	if (r)
		return r;
	r = is_raw ? parse_raw(raw, n, out, why) : npy_parse(bytes, n, out, why);
	if (r) {
		free(bytes);
		return r;
	}
	if (is_raw)
		out->data = bytes;
	out->bytes = bytes;
	return 0;
}

void npy_fini(struct npy *a)
{
	free(a->bytes);
	*a = (struct npy){0};
}

uint64_t npy_elements(const struct npy *a)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < a->rank; i++)
		n *= a->shape[i];
	return n;
}

int64_t npy_whole(const struct npy *a, size_t i)
{
	int32_t small;
	int64_t large;
	if (a->kind == NPY_I32) {
		memcpy(&small, (const char *)a->data + i * sizeof small, sizeof small);
		return small;
	}
	memcpy(&large, (const char *)a->data + i * sizeof large, sizeof large);
	return large;
}
