/* safetensors.c - header of a safetensors file: u64 length, JSON object, tensor data.
 *
 * The JSON is cut into the members of its outermost object here, and each member is parsed by jansson alone: a header may
 * be 100 MB, and a tree of all of it would take ten times that.  Cutting only finds where a member ends; jansson decides
 * whether what was cut out is JSON.
 * Keeps: memory is bounded by MEMBER_MAX, METADATA_PAIRS_MAX and IMAGE_MAX_TENSORS, not by what the header says. */
#include "shared/header.h"

#include "shared/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define MEMBER_MAX 4096         /* bytes of one tensor's description; real ones have some 80 */
#define METADATA_PAIRS_MAX 65536
#define NESTING_MAX 2           /* a description is an object with arrays in it */

/* A piece of the header's JSON. */
struct text {
	const char *p;
	size_t len;
};

struct scan {
	const struct header *h;
	const char *start, *p, *end;
};

static int not_json(const struct scan *s, const char *what)
{
	return header_fault(s->h, "the header is not valid JSON: %s at byte %zu of it", what, (size_t)(s->p - s->start));
}

/* ---- cutting ---- */

static void skip_space(struct scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
		s->p++;
}

static bool take(struct scan *s, char c)
{
	skip_space(s);
	if (s->p == s->end || *s->p != c)
		return false;
	s->p++;
	return true;
}

/* At a quote: moves behind the closing one. */
static int skip_string(struct scan *s)
{
	for (s->p++; s->p < s->end; s->p++) {
		if (*s->p == '"') {
			s->p++;
			return 0;
		}
		if (*s->p == '\\')
			s->p++;
	}
	s->p = s->end;
	return not_json(s, "a string without end");
}

static int take_string(struct scan *s, struct text *out)
{
	skip_space(s);
	if (s->p == s->end || *s->p != '"')
		return not_json(s, "a name in quotes expected");
	out->p = s->p;
	int r = skip_string(s);
	out->len = (size_t)(s->p - out->p);
	return r;
}

/* An object, up to the bracket that closes it.  *strings counts those in it. */
static int take_object(struct scan *s, struct text *out, size_t *strings)
{
	unsigned depth = 0;
	*strings = 0;
	skip_space(s);
	if (s->p == s->end || *s->p != '{')
		return not_json(s, "an object expected");
	out->p = s->p;
	while (s->p < s->end) {
		char c = *s->p;
		if (c == '"') {
			int r = skip_string(s);
			if (r)
				return r;
			++*strings;
			continue;
		}
		s->p++;
		if (c == '{' || c == '[') {
			if (++depth > NESTING_MAX)
				return header_fault(s->h, "too deep nesting at byte %zu of the header", (size_t)(s->p - s->start));
		} else if ((c == '}' || c == ']') && !--depth) {
			out->len = (size_t)(s->p - out->p);
			return 0;
		}
	}
	return not_json(s, "an object without end");
}

/* ---- members ---- */

/* `tensor`: whose text it is, NULL when that is not known. */
static json_t *load(const struct scan *s, const struct text *t, size_t flags, const char *tensor)
{
	static const char fmt[] = "not valid JSON: %s, at byte %zu of the header";
	json_error_t e;
	json_t *j = json_loadb(t->p, t->len, flags | JSON_REJECT_DUPLICATES, &e);
	size_t at = (size_t)(t->p - s->start) + (e.position > 0 ? (size_t)e.position : 0);
	if (!j && tensor)
		header_tensor_fault(s->h, tensor, fmt, e.text, at);
	else if (!j)
		header_fault(s->h, fmt, e.text, at);
	return j;
}

static int load_name(const struct scan *s, const struct text *t, char **out)
{
	if (t->len > 6 * (size_t)IMAGE_MAX_NAME + 2) /* each byte may be written as \uXXXX */
		return header_fault(s->h, "a tensor's name of %zu bytes; at most %d are possible", t->len, IMAGE_MAX_NAME);
	json_t *j = load(s, t, JSON_DECODE_ANY, NULL);
	if (!j)
		return -EPROTO;
	*out = strdup(json_string_value(j));
	json_decref(j);
	return *out ? 0 : header_no_memory(s->h);
}

static int load_metadata(const struct scan *s, const struct text *t, size_t strings)
{
	const char *key;
	json_t *value;
	if (strings > 2 * METADATA_PAIRS_MAX)
		return header_fault(s->h, "__metadata__ has more than %d pairs", METADATA_PAIRS_MAX);
	json_t *j = load(s, t, 0, NULL);
	if (!j)
		return -EPROTO;
	int r = 0;
	json_object_foreach (j, key, value) {
		if (!json_is_string(value)) {
			r = header_fault(s->h, "__metadata__: the value of \"%.100s\" is not a string", key);
			break;
		}
	}
	json_decref(j);
	return r;
}

static bool to_size(const json_t *j, uint64_t *out)
{
	if (!json_is_integer(j) || json_integer_value(j) < 0)
		return false;
	*out = (uint64_t)json_integer_value(j);
	return true;
}

static int read_dtype(const struct header *h, const json_t *j, struct tensor *t)
{
	if (!json_is_string(j))
		return header_tensor_fault(h, t->name, "its dtype is missing or no string");
	t->dtype = dtype_by_st(json_string_value(j));
	if (!t->dtype)
		return header_tensor_fault(h, t->name, "unknown dtype \"%.40s\"", json_string_value(j));
	return 0;
}

static int read_shape(const struct header *h, const json_t *j, struct tensor *t)
{
	if (!json_is_array(j))
		return header_tensor_fault(h, t->name, "its shape is missing or no array");
	if (json_array_size(j) > IMAGE_MAX_RANK)
		return header_tensor_fault(h, t->name, "rank %zu; at most %d is supported", json_array_size(j),
			IMAGE_MAX_RANK);
	t->rank = (uint32_t)json_array_size(j);
	for (uint32_t i = 0; i < t->rank; i++)
		if (!to_size(json_array_get(j, i), &t->shape[i]))
			return header_tensor_fault(h, t->name, "dimension %" PRIu32 " of its shape is no whole number from 0",
				i);
	return 0;
}

/* Checks the offsets against shape, dtype and file, sets file_off. */
static int read_offsets(const struct header *h, const json_t *j, struct tensor *t)
{
	uint64_t begin, end, room = h->file_bytes - *h->data_start;
	char shape[HEADER_SHAPE_TEXT];
	if (json_array_size(j) != 2 || !to_size(json_array_get(j, 0), &begin) || !to_size(json_array_get(j, 1), &end))
		return header_tensor_fault(h, t->name, "its data_offsets are missing or no pair of whole numbers from 0");
	if (begin > end)
		return header_tensor_fault(h, t->name, "data_offsets [%" PRIu64 ", %" PRIu64 "] run backwards", begin, end);
	if (end - begin != t->bytes)
		return header_tensor_fault(h, t->name, "data_offsets [%" PRIu64 ", %" PRIu64 "] hold %" PRIu64
			" bytes, shape %s of %s needs %" PRIu64, begin, end, end - begin, header_shape(t, shape),
			dtype_name(t->dtype), t->bytes);
	if (end > room)
		return header_tensor_fault(h, t->name, "data_offsets [%" PRIu64 ", %" PRIu64
			"] reach beyond the %" PRIu64 " bytes of data that the file has", begin, end, room);
	t->file_off = *h->data_start + begin;
	return 0;
}

static int read_description(const struct header *h, const json_t *j, struct tensor *t)
{
	int r = read_dtype(h, json_object_get(j, "dtype"), t);
	if (!r)
		r = read_shape(h, json_object_get(j, "shape"), t);
	if (!r)
		r = header_size_tensor(h, t);
	if (!r)
		r = read_offsets(h, json_object_get(j, "data_offsets"), t);
	if (!r && json_object_size(j) != 3)
		r = header_tensor_fault(h, t->name, "has other members than dtype, shape and data_offsets");
	return r;
}

/* Takes `name` over. */
static int read_tensor(const struct scan *s, char *name, const struct text *value)
{
	struct tensor *t = NULL;
	int r = header_add_tensor(s->h, name, &t);
	if (r)
		return r;
	if (value->len > MEMBER_MAX)
		return header_tensor_fault(s->h, t->name, "a description of %zu bytes; at most %d are possible", value->len,
			MEMBER_MAX);
	json_t *j = load(s, value, 0, t->name);
	if (!j)
		return -EPROTO;
	r = read_description(s->h, j, t);
	json_decref(j);
	return r;
}

static int read_member(struct scan *s, bool *had_metadata)
{
	struct text key, value;
	size_t strings;
	char *name = NULL;
	int r = take_string(s, &key);
	if (!r)
		r = load_name(s, &key, &name);
	if (!r && !take(s, ':'))
		r = not_json(s, "':' expected");
	if (!r)
		r = take_object(s, &value, &strings);
	if (!r && strcmp(name, "__metadata__"))
		return read_tensor(s, name, &value);
	free(name);
	if (r)
		return r;
	if (*had_metadata)
		return header_fault(s->h, "__metadata__ is there twice (duplicate key)");
	*had_metadata = true;
	return load_metadata(s, &value, strings);
}

static int check_utf8(const struct scan *s)
{
	size_t n;
	if (utf8_valid(s->start, (size_t)(s->end - s->start)))
		return 0;
	const char *p = s->start;
	while ((n = utf8_sequence(p, (size_t)(s->end - p))))
		p += n;
	return header_fault(s->h, "wrong UTF-8 at byte %zu of the header", (size_t)(p - s->start));
}

static int read_members(struct scan *s)
{
	bool had_metadata = false;
	if (s->p == s->end || *s->p != '{')
		return header_fault(s->h, "the header does not begin with '{'");
	s->p++;
	if (!take(s, '}')) {
		do {
			int r = read_member(s, &had_metadata);
			if (r)
				return r;
		} while (take(s, ','));
		if (!take(s, '}'))
			return not_json(s, "',' or '}' expected");
	}
	skip_space(s);
	return s->p == s->end ? 0 : not_json(s, "something behind the closing '}'");
}

/* The specification allows no byte of the data that no tensor has. */
static int check_cover(const struct header *h, uint32_t first)
{
	uint64_t end = *h->data_start;
	for (uint32_t i = first; i < h->out->n; i++) {
		const struct tensor *t = &h->out->v[i];
		if (t->file_off != end)
			return header_tensor_fault(h, t->name, "a hole: bytes %" PRIu64 " to %" PRIu64
				" of the data, before it, belong to no tensor", end - *h->data_start,
				t->file_off - *h->data_start);
		end = t->file_off + t->bytes;
	}
	if (end != h->file_bytes)
		return header_fault(h, "wrong length: the tensors end at byte %" PRIu64 ", the file at %" PRIu64, end,
			h->file_bytes);
	return 0;
}

int safetensors_parse(const struct header *h)
{
	uint64_t len = 0;
	uint32_t first = h->out->n;
	if (h->have < LENGTH_BYTES)
		return header_need(h, LENGTH_BYTES);
	for (unsigned i = 0; i < LENGTH_BYTES; i++)
		len |= (uint64_t)h->head[i] << 8 * i;
	if (len > IMAGE_MAX_HEADER_BYTES)
		return header_fault(h, "a header of %" PRIu64 " bytes; at most %" PRIu64 " are allowed", len,
			IMAGE_MAX_HEADER_BYTES);
	if (h->have < LENGTH_BYTES + len || h->file_bytes < LENGTH_BYTES + len)
		return header_need(h, LENGTH_BYTES + len);
	*h->data_start = LENGTH_BYTES + len;
	struct scan s = {.h = h, .start = (const char *)h->head + LENGTH_BYTES};
	s.p = s.start;
	s.end = s.start + len;
	int r = check_utf8(&s);
	if (!r)
		r = read_members(&s);
	if (!r)
		r = header_check_tensors(h, first);
	return r ? r : check_cover(h, first);
}
