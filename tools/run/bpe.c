/* bpe.c - see bpe.h.  A text is taken apart at added tokens, the rest into words by the published pattern, and each word's bytes
 * are merged, the pair of the lowest rank and of those the leftmost one first, for as long as there is one.
 * Keeps: the time for a word is its length times the logarithm of that, however it is made. */
#include "tools/run/bpe_model.h"

#include "shared/own.h"
#include "shared/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* GPT-2's (encoder.py of its release), with what \s means there: Unicode's White_Space. */
#define BLANK "\\t-\\r\\x{85}\\p{Z}"
#define PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" BLANK "\\p{L}\\p{N}]+|[" BLANK "]+(?![^" BLANK "])|[" BLANK "]+"

static bool is_blank(int32_t c)
{
	utf8proc_category_t k = utf8proc_category(c);
	return (c >= '\t' && c <= '\r') || c == 0x85 || (k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP);
}

/* ---- opening ---- */

static int make_pattern(struct bpe *b, struct fault *why)
{
	int error;
	PCRE2_SIZE at;
	b->pattern = pcre2_compile((PCRE2_SPTR)PATTERN, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &at, NULL);
	b->match = b->pattern ? pcre2_match_data_create(1, NULL) : NULL;
	return b->match ? 0 : fault_set(why, TRIMS_E_INTERNAL, "libpcre2 does not take the pattern that cuts texts into words");
}

int bpe_open(const struct catalog *catalog, const json_t *json, const char *family, struct bpe **out, struct fault *why)
{
	struct bpe *b = calloc(1, sizeof *b);
	int r = b ? bpe_read(b, catalog, json, family, why) : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a vocabulary");
	if (!r)
		r = make_pattern(b, why);
	if (r)
		bpe_free(&b);
	*out = b;
	return r;
}

void bpe_free(struct bpe **bpe)
{
	struct bpe *b = STEAL(*bpe);
	if (!b)
		return;
	pcre2_match_data_free(b->match);
	pcre2_code_free(b->pattern);
	for (uint32_t i = 0; i < b->n_added; i++)
		free(b->added[i].text);
	vocab_fini(&b->vocab);
	free(b->merges);
	free(b->pieces);
	json_decref(b->words);
	free(b);
}

/* ---- a word's bytes to tokens ---- */

struct symbol {
	int32_t token; /* -1: taken into the one before it */
	uint32_t before, next; /* symbols; NONE */
};
#define NONE UINT32_MAX

/* A merge that may be done at a symbol, if that and the next one are still what they were. */
struct chance {
	uint32_t rank, at;
	int32_t left, right;
};

struct encoder {
	const struct bpe *b;
	int32_t *tokens;
	uint32_t n, most; /* n goes on counting */
	char *word;       /* a text with a blank put in front */
	struct symbol *symbols;
	struct chance *heap; /* the first one in order is heap[0] */
	size_t n_heap;
	struct fault *why;
};

static void emit(struct encoder *e, int32_t token)
{
	if (e->n < e->most)
		e->tokens[e->n] = token;
	e->n++;
}

static bool comes_first(const struct chance *a, const struct chance *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(struct encoder *e, struct chance c)
{
	size_t i = e->n_heap++;
	for (; i && comes_first(&c, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
		e->heap[i] = e->heap[(i - 1) / 2];
	e->heap[i] = c;
}

static struct chance pop(struct encoder *e)
{
	struct chance top = e->heap[0], last = e->heap[--e->n_heap];
	size_t i = 0;
	for (size_t child; (child = 2 * i + 1) < e->n_heap; i = child) {
		child += child + 1 < e->n_heap && comes_first(&e->heap[child + 1], &e->heap[child]);
		if (!comes_first(&e->heap[child], &last))
			break;
		e->heap[i] = e->heap[child];
	}
	e->heap[i] = last;
	return top;
}

static void offer(struct encoder *e, uint32_t at)
{
	if (at == NONE || e->symbols[at].next == NONE)
		return;
	int32_t left = e->symbols[at].token, right = e->symbols[e->symbols[at].next].token;
	const struct merge *m = bpe_merge(e->b, left, right);
	if (m->left >= 0)
		push(e, (struct chance){m->rank, at, left, right});
}

static void merge_all(struct encoder *e)
{
	struct symbol *s = e->symbols;
	while (e->n_heap) {
		struct chance c = pop(e);
		uint32_t next = s[c.at].next;
		if (s[c.at].token != c.left || next == NONE || s[next].token != c.right)
			continue;
		s[c.at].token = bpe_merge(e->b, c.left, c.right)->result;
		s[c.at].next = s[next].next;
		s[next].token = -1;
		if (s[next].next != NONE)
			s[s[next].next].before = c.at;
		offer(e, s[c.at].before);
		offer(e, c.at);
	}
}

/* At most three chances a byte: one with the byte before it, and two each time one of them goes. */
static int add_word(struct encoder *e, const char *word, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		int32_t token = e->b->byte[(uint8_t)word[i]];
		if (token < 0)
			return fault_set(e->why, TRIMS_E_BAD_MODEL, "the vocabulary has no token for the byte 0x%02x", (uint8_t)word[i]);
		e->symbols[i] = (struct symbol){token, i ? (uint32_t)i - 1 : NONE, i + 1 < bytes ? (uint32_t)i + 1 : NONE};
	}
	e->n_heap = 0;
	for (size_t i = 0; i < bytes; i++)
		offer(e, (uint32_t)i);
	merge_all(e);
	for (uint32_t i = 0; i != NONE; i = e->symbols[i].next)
		emit(e, e->symbols[i].token);
	return 0;
}

/* ---- a text to words ---- */

static int add_words(struct encoder *e, const char *text, size_t bytes)
{
	if (bytes && e->b->prefix_space && *text != ' ') {
		e->word[0] = ' ';
		memcpy(e->word + 1, text, bytes++);
		text = e->word;
	}
	for (size_t at = 0; at < bytes;) {
		/* Checked as a whole; doing that again for each word would make long texts slow. */
		int n = pcre2_match(e->b->pattern, (PCRE2_SPTR)text, bytes, at, PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, e->b->match, NULL);
		size_t end = n > 0 ? pcre2_get_ovector_pointer(e->b->match)[1] : at;
		if (end <= at)
			return fault_set(e->why, TRIMS_E_INTERNAL, "cutting the text into words: libpcre2's error %d", n);
		if (add_word(e, text + at, end - at))
			return -EPROTO;
		at = end;
	}
	return 0;
}

/* The longest added token that the text begins with. */
static const struct added *find_added(const struct bpe *b, const char *text, size_t bytes)
{
	const struct added *best = NULL;
	for (uint32_t i = 0; i < b->n_added; i++) {
		const struct added *a = &b->added[i];
		if (*a->text == *text && a->bytes <= bytes && (!best || a->bytes > best->bytes) && memcmp(a->text, text, a->bytes) == 0)
			best = a;
	}
	return best;
}

/* How many bytes at the text's begin, or end, are blanks. */
static size_t blanks_at_begin(const char *text, size_t bytes)
{
	utf8proc_int32_t c;
	size_t n = 0;
	while (n < bytes) {
		utf8proc_ssize_t one = utf8proc_iterate((const utf8proc_uint8_t *)text + n, (utf8proc_ssize_t)(bytes - n), &c);
		if (one <= 0 || !is_blank(c))
			break;
		n += (size_t)one;
	}
	return n;
}

static size_t blanks_at_end(const char *text, size_t bytes)
{
	size_t rest = bytes;
	while (rest) {
		size_t begin = rest - 1;
		while (begin && ((uint8_t)text[begin] & 0xc0) == 0x80)
			begin--;
		if (blanks_at_begin(text + begin, rest - begin) == 0)
			break;
		rest = begin;
	}
	return bytes - rest;
}

static int add_text(struct encoder *e, const char *text, size_t bytes)
{
	size_t from = 0, at = 0;
	while (at < bytes) {
		const struct added *a = find_added(e->b, text + at, bytes - at);
		if (!a) {
			at++;
			continue;
		}
		if (add_words(e, text + from, at - from - (a->left ? blanks_at_end(text + from, at - from) : 0)))
			return -EPROTO;
		emit(e, a->token);
		at += a->bytes;
		at += a->right ? blanks_at_begin(text + at, bytes - at) : 0;
		from = at;
	}
	return add_words(e, text + from, bytes - from);
}

/* What stands behind a text does so as well where that is cut. */
static int add_around(struct encoder *e, const char *text, size_t bytes)
{
	const struct bpe *b = e->b;
	for (uint32_t i = 0; i < b->n_before; i++)
		emit(e, b->before[i]);
	if (e->most <= b->n_before + b->n_behind)
		return fault_set(e->why, TRIMS_E_BAD_MODEL, "the tokens around a text are as many as the model can take");
	e->most -= b->n_behind;
	if (add_text(e, text, bytes))
		return -EPROTO;
	if (e->n > e->most && !b->n_behind)
		return fault_set(e->why, TRIMS_E_BAD_REQUEST, "the text has %u tokens: this model can take %u", e->n, e->most);
	e->n = MIN(e->n, e->most);
	e->most += b->n_behind;
	for (uint32_t i = 0; i < b->n_behind; i++)
		emit(e, b->behind[i]);
	return e->n ? 0 : fault_set(e->why, TRIMS_E_BAD_REQUEST, "the text is empty");
}

int bpe_encode(const struct bpe *bpe, const char *text, uint32_t most, int32_t *tokens, uint32_t *t, struct fault *why)
{
	size_t bytes = strlen(text), room = bytes + 2;
	if (bytes > UINT32_MAX / 4)
		return fault_set(why, TRIMS_E_LIMIT, "--input: a text of %zu bytes", bytes);
	if (!utf8_valid(text, bytes))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: the text is no UTF-8");
	OWN_MEM char *word = malloc(room);
	OWN_MEM struct symbol *symbols = malloc(room * sizeof *symbols);
	OWN_MEM struct chance *heap = malloc(3 * room * sizeof *heap);
	struct encoder e = {.b = bpe, .tokens = tokens, .most = most, .word = word, .symbols = symbols, .heap = heap, .why = why};
	if (!word || !symbols || !heap)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the text");
	int r = add_around(&e, text, bytes);
	*t = r ? 0 : e.n;
	return r;
}

/* ---- tokens to text ---- */

struct bytes {
	char *data;
	size_t n, room;
};

/* False: no memory. */
static bool append(struct bytes *to, const void *data, size_t n)
{
	if (n > to->room - to->n) {
		size_t room = 2 * to->room + n;
		char *grown = realloc(to->data, room);
		if (!grown)
			return false;
		to->data = grown;
		to->room = room;
	}
	memcpy(to->data + to->n, data, n);
	to->n += n;
	return true;
}

/* The bytes that a token's characters stand for; of what is not made of those, as some added tokens, the text itself. */
static bool append_piece(struct bytes *to, const struct piece *p)
{
	size_t begin = to->n;
	for (size_t at = 0; at < p->bytes;) {
		utf8proc_int32_t c = -1;
		utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)p->text + at, (utf8proc_ssize_t)(p->bytes - at), &c);
		int byte = n > 0 ? bpe_byte(c) : -1;
		if (byte < 0) {
			to->n = begin;
			return append(to, p->text, p->bytes);
		}
		if (!append(to, &(uint8_t){(uint8_t)byte}, 1))
			return false;
		at += (size_t)n;
	}
	return true;
}

/* How many bytes at the front are one character that is cut short or none at all, for one U+FFFD (Unicode 15, 3.9, U+FFFD
 * Substitution of Maximal Subparts): the longest begin of a character, which is what can be completed. */
static size_t broken_bytes(const uint8_t *at, size_t left)
{
	utf8proc_int32_t c;
	for (size_t n = MIN(left, (size_t)3); n > 1; n--) {
		uint8_t whole[4] = {0x80, 0x80, 0x80, 0x80};
		memcpy(whole, at, n);
		if (utf8proc_iterate(whole, sizeof whole, &c) > (utf8proc_ssize_t)n)
			return n;
	}
	return 1;
}

static bool append_clean(struct bytes *to, const struct bytes *from)
{
	static const char replacement[] = "\xef\xbf\xbd";
	bool ok = true;
	for (size_t at = 0; ok && at < from->n;) {
		const uint8_t *data = (const uint8_t *)from->data + at;
		utf8proc_int32_t c;
		utf8proc_ssize_t n = utf8proc_iterate(data, (utf8proc_ssize_t)(from->n - at), &c);
		ok = n > 0 ? append(to, data, (size_t)n) : append(to, replacement, strlen(replacement));
		at += n > 0 ? (size_t)n : broken_bytes(data, from->n - at);
	}
	return ok;
}

int bpe_decode(const struct bpe *b, const int32_t *tokens, uint32_t n, char **text, size_t *bytes, struct fault *why)
{
	struct bytes raw = {0}, clean = {0};
	bool ok = true;
	for (uint32_t i = 0; ok && i < n; i++) {
		if (tokens[i] < 0 || (uint32_t)tokens[i] >= b->n_pieces || !b->pieces[tokens[i]].text) {
			free(raw.data);
			return fault_set(why, TRIMS_E_BAD_MODEL, "the vocabulary has no token %d", tokens[i]);
		}
		ok = append_piece(&raw, &b->pieces[tokens[i]]);
	}
	ok = ok && append_clean(&clean, &raw) && append(&clean, "", 1);
	free(raw.data);
	if (!ok) {
		free(clean.data);
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the text");
	}
	*text = clean.data;
	*bytes = clean.n - 1;
	return 0;
}
