/* gguf.c - header of a GGUF file, versions 2 and 3, little-endian: counts, metadata, tensor descriptions, padding.
 *
 * The header does not say how long it is, so it is parsed from its start each time more of it is there; asking for twice
 * as much each time keeps that linear.  Of the metadata only the alignment and the split keys matter here: the rest is
 * walked over, and string values are not looked at (vocabularies do hold pieces of characters).
 * Keeps: nothing is allocated by a count that the file states, only by what has been read. */
#include "shared/header.h"

#include "shared/own.h"
#include "shared/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ASK MIB
#define KEYS_MAX 65536
#define KEY_BYTES_MAX 65535
#define NESTING_MAX 8
#define RANK_MAX 4
#define ALIGNMENT_MAX MIB

enum value_type { T_U8, T_I8, T_U16, T_I16, T_U32, T_I32, T_F32, T_BOOL, T_STRING, T_ARRAY, T_U64, T_I64, T_F64, T_N };

static const uint8_t value_bytes[T_N] = {
	[T_U8] = 1, [T_I8] = 1, [T_BOOL] = 1, [T_U16] = 2, [T_I16] = 2, [T_U32] = 4,
	[T_I32] = 4, [T_F32] = 4, [T_U64] = 8, [T_I64] = 8, [T_F64] = 8,
};

struct key {
	const char *p;
	size_t len;
};

/* A key whose value matters here. */
struct known {
	bool given;
	uint64_t value;
};

struct gguf {
	const struct header *h;
	size_t at;
	uint64_t n_tensors, n_keys;
	struct key *keys;
	size_t keys_cap;
	struct known alignment, split_no, split_count, split_tensors;
};

/* ---- reading ---- */

/* The next n bytes, or -EAGAIN for more of the file, or a fault. */
static int take(struct gguf *g, uint64_t n, const uint8_t **out)
{
	const struct header *h = g->h;
	if (n > h->file_bytes || g->at > h->file_bytes - n)
		return header_fault(h, "the file ends inside its header: %" PRIu64 " bytes needed at byte %zu of %" PRIu64, n,
			g->at, h->file_bytes);
	uint64_t end = g->at + n;
	if (end > IMAGE_MAX_HEADER_BYTES)
		return header_fault(h, "a header of more than %" PRIu64 " bytes", IMAGE_MAX_HEADER_BYTES);
	if (end > h->have) {
		uint64_t ask = MAX(MAX(end, 2 * (uint64_t)h->have), FIRST_ASK);
		return header_need(h, MIN(MIN(ask, h->file_bytes), IMAGE_MAX_HEADER_BYTES));
	}
	*out = h->head + g->at;
	g->at = (size_t)end;
	return 0;
}

static int take_int(struct gguf *g, unsigned bytes, uint64_t *out)
{
	const uint8_t *p;
	int r = take(g, bytes, &p);
	*out = 0;
	for (unsigned i = 0; !r && i < bytes; i++)
		*out |= (uint64_t)p[i] << 8 * i;
	return r;
}

static int take_string(struct gguf *g, struct key *out)
{
	const uint8_t *p = NULL;
	uint64_t len;
	int r = take_int(g, 8, &len);
	if (!r)
		r = take(g, len, &p);
	*out = (struct key){(const char *)p, (size_t)len};
	return r;
}

/* Text that others use as a C string. */
static bool is_plain(const struct key *s)
{
	return s->len && utf8_valid(s->p, s->len) && !memchr(s->p, 0, s->len);
}

/* ---- metadata ---- */

static int skip_value(struct gguf *g, uint64_t type, unsigned depth);

static int skip_bools(struct gguf *g, uint64_t n)
{
	size_t at = g->at;
	const uint8_t *p;
	int r = take(g, n, &p);
	for (uint64_t i = 0; !r && i < n; i++)
		if (p[i] > 1)
			r = header_fault(g->h, "a boolean at byte %zu is %u", at + (size_t)i, p[i]);
	return r;
}

static int skip_array(struct gguf *g, unsigned depth)
{
	uint64_t type, n, bytes;
	const uint8_t *p;
	int r = take_int(g, 4, &type);
	if (!r)
		r = take_int(g, 8, &n);
	if (r)
		return r;
	if (depth >= NESTING_MAX)
		return header_fault(g->h, "too deep nesting: arrays in arrays at byte %zu, more than %d deep", g->at, NESTING_MAX);
	if (type >= T_N)
		return header_fault(g->h, "a metadata array of unknown type %" PRIu64 " at byte %zu", type, g->at);
	if (type == T_BOOL)
		return skip_bools(g, n);
	if (value_bytes[type]) {
		if (mul_overflows(n, value_bytes[type], &bytes))
			return header_fault(g->h, "an array of %" PRIu64 " values at byte %zu overflows 64 bits", n, g->at);
		return take(g, bytes, &p);
	}
	for (uint64_t i = 0; i < n && !r; i++) /* each takes 8 bytes of the file at least */
		r = skip_value(g, type, depth + 1);
	return r;
}

static int skip_value(struct gguf *g, uint64_t type, unsigned depth)
{
	struct key ignored;
	const uint8_t *p;
	if (type == T_STRING)
		return take_string(g, &ignored);
	if (type == T_ARRAY)
		return skip_array(g, depth);
	if (type == T_BOOL)
		return skip_bools(g, 1);
	if (type < T_N)
		return take(g, value_bytes[type], &p);
	return header_fault(g->h, "a metadata value of unknown type %" PRIu64 " at byte %zu", type, g->at);
}

/* An integer of any width that is not negative. */
static int take_known(struct gguf *g, const struct key *key, uint64_t type, struct known *out)
{
	static const bool is_signed[T_N] = {[T_I8] = true, [T_I16] = true, [T_I32] = true, [T_I64] = true};
	bool is_int = type < T_N && value_bytes[type] && type != T_F32 && type != T_F64 && type != T_BOOL;
	if (!is_int)
		return header_fault(g->h, "metadata key %.*s is no integer (type %" PRIu64 ")", (int)key->len, key->p, type);
	int r = take_int(g, value_bytes[type], &out->value);
	if (!r && is_signed[type] && out->value >> (8 * value_bytes[type] - 1))
		r = header_fault(g->h, "metadata key %.*s is negative", (int)key->len, key->p);
	out->given = true;
	return r;
}

static struct known *known_key(struct gguf *g, const struct key *key)
{
	const struct {
		const char *name;
		struct known *value;
	} all[] = {{"general.alignment", &g->alignment}, {"split.no", &g->split_no}, {"split.count", &g->split_count},
		{"split.tensors.count", &g->split_tensors}};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (strlen(all[i].name) == key->len && !memcmp(all[i].name, key->p, key->len))
			return all[i].value;
	return NULL;
}

static int keep_key(struct gguf *g, size_t n, const struct key *key)
{
	if (n == g->keys_cap) {
		size_t cap = n ? 2 * n : 64;
		struct key *v = reallocarray(g->keys, cap, sizeof *v);
		if (!v)
			return header_no_memory(g->h);
		g->keys = v;
		g->keys_cap = cap;
	}
	g->keys[n] = *key;
	return 0;
}

static int compare_keys(const void *va, const void *vb)
{
	const struct key *a = va, *b = vb;
	int d = memcmp(a->p, b->p, MIN(a->len, b->len));
	return d ? d : (a->len > b->len) - (a->len < b->len);
}

static int refuse_equal_keys(struct gguf *g)
{
	if (g->n_keys)
		qsort(g->keys, g->n_keys, sizeof *g->keys, compare_keys);
	for (uint64_t i = 1; i < g->n_keys; i++)
		if (!compare_keys(&g->keys[i - 1], &g->keys[i]))
			return header_fault(g->h, "metadata key \"%.*s\" is there twice (duplicate key)",
				(int)MIN(g->keys[i].len, 200), g->keys[i].p);
	return 0;
}

static int read_metadata(struct gguf *g)
{
	for (uint64_t i = 0; i < g->n_keys; i++) {
		struct key key;
		uint64_t type;
		size_t at = g->at;
		int r = take_string(g, &key);
		if (!r && (key.len > KEY_BYTES_MAX || !is_plain(&key)))
			r = header_fault(g->h, "the metadata key at byte %zu (%zu bytes) is empty, too long or no valid UTF-8 text",
				at, key.len);
		if (!r)
			r = take_int(g, 4, &type);
		if (r)
			return r;
		struct known *known = known_key(g, &key);
		r = known ? take_known(g, &key, type, known) : skip_value(g, type, 0);
		if (!r)
			r = keep_key(g, i, &key);
		if (r)
			return r;
	}
	return refuse_equal_keys(g);
}

static int check_alignment(struct gguf *g)
{
	uint64_t a = g->alignment.value;
	if (!g->alignment.given)
		g->alignment.value = 32;
	else if (a < 8 || a > ALIGNMENT_MAX || a & (a - 1))
		return header_fault(g->h, "general.alignment is %" PRIu64 "; a power of two from 8 to %" PRIu64 " is possible", a,
			ALIGNMENT_MAX);
	return 0;
}

/* ---- split files ---- */

static bool five_digits(const char *p, uint32_t *out)
{
	*out = 0;
	for (unsigned i = 0; i < 5; i++) {
		if (p[i] < '0' || p[i] > '9')
			return false;
		*out = *out * 10 + (uint32_t)(p[i] - '0');
	}
	return true;
}

int gguf_split_name(const char *file_name, uint32_t *no, uint32_t *count, size_t *prefix)
{
	static const char form[] = "-00001-of-00001.gguf";
	size_t len = strlen(file_name);
	if (len <= sizeof form - 1)
		return -EINVAL;
	const char *p = file_name + len - (sizeof form - 1);
	uint32_t n, of;
	if (*p != '-' || !five_digits(p + 1, &n) || memcmp(p + 6, "-of-", 4) || !five_digits(p + 10, &of) ||
		strcmp(p + 15, ".gguf") || !n || n > of)
		return -EINVAL;
	*no = n;
	*count = of;
	*prefix = (size_t)(p - file_name);
	return 0;
}

/* A merged file may keep a split.count of 0 or 1. */
static int check_split(struct gguf *g)
{
	uint32_t no, count;
	size_t prefix;
	bool is_part = !gguf_split_name(g->h->file_name, &no, &count, &prefix);
	if (!is_part && g->split_count.value > 1)
		return header_fault(g->h, "it is part %" PRIu64 " of %" PRIu64 ", and its name does not say so",
			g->split_no.value + 1, g->split_count.value);
	if (is_part && g->split_count.given && g->split_count.value != count)
		return header_fault(g->h, "its name says %" PRIu32 " parts, its split.count %" PRIu64, count,
			g->split_count.value);
	if (is_part && g->split_no.given && g->split_no.value != no - 1)
		return header_fault(g->h, "its name says part %" PRIu32 ", its split.no %" PRIu64 " (counted from 0)", no,
			g->split_no.value);
	if (!is_part || !g->split_tensors.given || !g->split_tensors.value)
		return 0;
	struct tensor_list *out = g->h->out;
	uint64_t stated = g->split_tensors.value;
	if (stated > IMAGE_MAX_TENSORS)
		return header_fault(g->h, "its split.tensors.count is %" PRIu64 "; at most %" PRIu32 " are possible", stated,
			IMAGE_MAX_TENSORS);
	if (out->stated && out->stated != stated)
		return header_fault(g->h, "its split.tensors.count is %" PRIu64 ", the other parts' is %" PRIu32, stated,
			out->stated);
	out->stated = (uint32_t)stated;
	return 0;
}

/* ---- tensors ---- */

static int read_shape(struct gguf *g, struct tensor *t)
{
	uint64_t rank;
	int r = take_int(g, 4, &rank);
	if (!r && rank > RANK_MAX)
		r = header_tensor_fault(g->h, t->name, "rank %" PRIu64 "; at most %d is possible", rank, RANK_MAX);
	t->rank = r ? 0 : (uint32_t)rank;
	for (uint32_t i = 0; i < t->rank && !r; i++) {
		uint64_t *dim = &t->shape[t->rank - 1 - i]; /* innermost first in the file */
		r = take_int(g, 8, dim);
		if (!r && *dim > INT64_MAX)
			r = header_tensor_fault(g->h, t->name, "dimension %" PRIu32 " is negative", i);
	}
	return r;
}

static int read_type(struct gguf *g, struct tensor *t)
{
	uint64_t type, inner = t->rank ? t->shape[t->rank - 1] : 1;
	int r = take_int(g, 4, &type);
	if (r)
		return r;
	t->dtype = dtype_by_ggml((uint32_t)type);
	if (!t->dtype)
		return header_tensor_fault(g->h, t->name, "ggml type %" PRIu64 " is unknown or was given up by ggml", type);
	const struct dtype_row *row = dtype_row(t->dtype);
	if (inner % row->elems)
		return header_tensor_fault(g->h, t->name, "rows of %" PRIu64 " elements are not whole %s blocks of %" PRIu32,
			inner, row->name, row->elems);
	return header_size_tensor(g->h, t);
}

static char *copy_text(const struct key *s)
{
	char *copy = malloc(s->len + 1);
	if (copy) {
		memcpy(copy, s->p, s->len);
		copy[s->len] = '\0';
	}
	return copy;
}

static int read_tensor(struct gguf *g)
{
	struct key name;
	struct tensor *t;
	size_t at = g->at;
	int r = take_string(g, &name);
	if (r)
		return r;
	if (name.len > IMAGE_MAX_NAME || !is_plain(&name))
		return header_fault(g->h, "the tensor name at byte %zu (%zu bytes) is empty, too long or no valid UTF-8 text", at,
			name.len);
	r = header_add_tensor(g->h, copy_text(&name), &t);
	if (!r)
		r = read_shape(g, t);
	if (!r)
		r = read_type(g, t);
	if (!r)
		r = take_int(g, 8, &t->file_off); /* counted from the data's start until place_tensors() */
	return r;
}

static int place_tensors(const struct gguf *g, uint32_t first)
{
	const struct header *h = g->h;
	uint64_t room = h->file_bytes - *h->data_start;
	for (uint32_t i = first; i < h->out->n; i++) {
		struct tensor *t = &h->out->v[i];
		if (t->file_off % g->alignment.value)
			return header_tensor_fault(h, t->name, "its offset %" PRIu64 " is no multiple of the alignment %" PRIu64,
				t->file_off, g->alignment.value);
		if (t->bytes > room || t->file_off > room - t->bytes)
			return header_tensor_fault(h, t->name, "wrong length: its %" PRIu64 " bytes at offset %" PRIu64
				" reach beyond the %" PRIu64 " bytes of data that the file has", t->bytes, t->file_off, room);
		t->file_off += *h->data_start;
	}
	return header_check_tensors(h, first);
}

/* ---- the whole ---- */

static int read_counts(struct gguf *g)
{
	const uint8_t *magic;
	uint64_t version;
	int r = take(g, 4, &magic);
	if (!r && memcmp(magic, "GGUF", 4))
		return header_fault(g->h, "it does not begin with \"GGUF\"");
	if (!r)
		r = take_int(g, 4, &version);
	if (r)
		return r;
	if (version && !(version & 0xffff))
		return header_fault(g->h, "a big-endian GGUF file; only little-endian ones are supported");
	if (version < 2 || version > 3)
		return header_fault(g->h, "GGUF version %" PRIu64 "; versions 2 and 3 are supported", version);
	r = take_int(g, 8, &g->n_tensors);
	if (!r)
		r = take_int(g, 8, &g->n_keys);
	if (!r && g->n_tensors > IMAGE_MAX_TENSORS)
		r = header_fault(g->h, "%" PRIu64 " tensors; at most %" PRIu32 " are possible", g->n_tensors, IMAGE_MAX_TENSORS);
	if (!r && g->n_keys > KEYS_MAX)
		r = header_fault(g->h, "%" PRIu64 " metadata keys; at most %d are possible", g->n_keys, KEYS_MAX);
	return r;
}

/* The padding up to the data belongs to the head; a file without tensors may end before it. */
static int read_padding(struct gguf *g)
{
	const uint8_t *ignored;
	uint64_t start = align_up(g->at, g->alignment.value);
	if (!g->n_tensors)
		start = MIN(start, g->h->file_bytes);
	*g->h->data_start = start;
	return take(g, start - g->at, &ignored);
}

int gguf_parse(const struct header *h)
{
	OWN_MEM struct key *keys = NULL;
	struct gguf g = {.h = h};
	uint32_t first = h->out->n;
	int r = read_counts(&g);
	if (!r)
		r = read_metadata(&g);
	keys = g.keys;
	if (!r)
		r = check_alignment(&g);
	for (uint64_t i = 0; i < g.n_tensors && !r; i++)
		r = read_tensor(&g);
	if (!r)
		r = read_padding(&g);
	if (!r)
		r = check_split(&g);
	return r ? r : place_tensors(&g, first);
}
