/* headers.h - weight files in memory for the tests of their parsers.  Thread: any.
 * A struct blob owns its bytes; reading one in parsed pieces gives header_parse() a copy that ends where it was told the
 * bytes end, so that a sanitizer sees a read beyond them. */
#ifndef TESTS_UNIT_HEADERS_H
#define TESTS_UNIT_HEADERS_H

#include "shared/image.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

struct blob {
	uint8_t *p;
	size_t n, cap;
};

static inline void blob_reserve(struct blob *b, size_t more)
{
	if (b->cap - b->n > more)
		return;
	b->cap = b->n + more + (b->cap > more ? b->cap : 64);
	b->p = realloc(b->p, b->cap);
	ck_assert_ptr_nonnull(b->p);
}

static inline void blob_put(struct blob *b, const void *p, size_t n)
{
	blob_reserve(b, n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static inline void blob_int(struct blob *b, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		blob_put(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

/* n random bytes, none of them zero. */
static inline void blob_random(struct blob *b, size_t n, uint64_t *seed)
{
	blob_reserve(b, n);
	for (size_t i = 0; i < n; i++)
		b->p[b->n++] = (uint8_t)(1 + unit_random(seed) % 255);
}

static inline void blob_free(struct blob *b)
{
	free(b->p);
	*b = (struct blob){0};
}

/* Gives the parser as much of the file as it asks for, and not a byte more. */
static inline int blob_parse(const struct blob *b, const char *name, uint32_t file, struct tensor_list *out,
	uint64_t *data_start, struct fault *why)
{
	enum model_format format;
	size_t have = 0, rounds = 0;
	int r;
	ck_assert_int_eq(header_format(name, &format), 0);
	do {
		size_t need = 0;
		uint8_t *head = malloc(have ? have : 1);
		if (have)
			memcpy(head, b->p, have);
		r = header_parse(format, name, file, head, have, b->n, &need, data_start, out, why);
		free(head);
		if (r == -EAGAIN) {
			ck_assert_uint_gt(need, have);
			ck_assert_uint_le(need, b->n);
			have = need;
		}
		ck_assert_uint_lt(++rounds, 40);
	} while (r == -EAGAIN);
	if (!r)
		ck_assert_uint_le(*data_start, have);
	return r;
}

/* The file is refused with a sentence that begins with `start` and has `fault` in it. */
static inline void must_refuse_file(const struct blob *b, const char *name, const char *start, const char *fault)
{
	struct tensor_list list = {0};
	struct fault why = {0};
	uint64_t data_start;
	ck_assert_msg(blob_parse(b, name, 0, &list, &data_start, &why) == -EPROTO, "not refused: %s", fault);
	ck_assert_int_eq(why.code, TRIMS_E_BAD_MODEL);
	ck_assert_msg(strstr(why.text, start) == why.text, "\"%s\" does not begin: %s", start, why.text);
	ck_assert_msg(strstr(why.text, fault) != NULL, "\"%s\" is not in: %s", fault, why.text);
	tensor_list_fini(&list);
}

static inline void must_parse(const struct blob *b, const char *name, uint32_t file, struct tensor_list *out,
	uint64_t *data_start)
{
	struct fault why = {0};
	ck_assert_msg(blob_parse(b, name, file, out, data_start, &why) == 0, "%s", why.text);
}

static inline const struct tensor *find_tensor(const struct layout *l, const char *name)
{
	for (uint32_t i = 0; i < l->n_tensors; i++)
		if (!strcmp(l->tensors[i].name, name))
			return &l->tensors[i];
	ck_abort_msg("no tensor %s", name);
}

#endif
