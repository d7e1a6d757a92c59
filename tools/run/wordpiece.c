/* wordpiece.c - BERT's tokenizer (Devlin et al. 2019, as transformers' BertTokenizer has it): characters are cleaned, accents
 * and case dropped where the model says so, words cut at blanks and punctuation, and each taken apart from the left into the
 * longest pieces that the vocabulary has.  What is a letter, mark or punctuation says utf8proc's Unicode. */
#include "tools/run/wordpiece.h"

#include "shared/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_WORD_CHARS 100 /* a longer one is unknown */
#define MAX_WORDS (1u << 24)

struct entry {
	const char *text; /* in `words` or the JSON, not NUL-terminated; NULL: free */
	uint32_t bytes;
	int32_t token;
};

struct vocabulary {
	json_t *json; /* of tokenizer.json; NULL: words are vocab.txt's */
	struct entry *entries;
	uint32_t mask, n;
	bool keeps_case;
	int32_t unknown, begin, end;
};

/* ---- the vocabulary ---- */

/* FNV-1a (Fowler, Noll, Vo), over prefix and text as if they were one. */
static uint32_t hash(const char *prefix, const char *text, size_t bytes)
{
	uint32_t h = 2166136261u;
	for (; *prefix; prefix++)
		h = (h ^ (uint8_t)*prefix) * 16777619u;
	for (size_t i = 0; i < bytes; i++)
		h = (h ^ (uint8_t)text[i]) * 16777619u;
	return h;
}

static int32_t find(const struct vocabulary *v, const char *prefix, const char *text, size_t bytes)
{
	size_t before = strlen(prefix);
	for (uint32_t i = hash(prefix, text, bytes) & v->mask;; i = (i + 1) & v->mask) {
		const struct entry *e = &v->entries[i];
		if (!e->text)
			return -1;
		if (e->bytes == before + bytes && memcmp(e->text, prefix, before) == 0 &&
			memcmp(e->text + before, text, bytes) == 0)
			return e->token;
	}
}

/* The last one of equal words counts, as in a Python dictionary. */
static void add(struct vocabulary *v, const char *text, size_t bytes, int32_t token)
{
	uint32_t i = hash("", text, bytes) & v->mask;
	while (v->entries[i].text && (v->entries[i].bytes != bytes || memcmp(v->entries[i].text, text, bytes) != 0))
		i = (i + 1) & v->mask;
	v->entries[i] = (struct entry){text, (uint32_t)bytes, token};
}

static int make_room(struct vocabulary *v, size_t words, struct fault *why)
{
	size_t size = 64;
	while (size < 2 * words)
		size *= 2;
	v->entries = words <= MAX_WORDS ? calloc(size, sizeof *v->entries) : NULL;
	v->mask = (uint32_t)size - 1;
	return v->entries ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a vocabulary of %zu words", words);
}

static int read_lines(struct vocabulary *v, const char *text, size_t bytes, struct fault *why)
{
	size_t lines = 1;
	for (size_t i = 0; i < bytes; i++)
		lines += text[i] == '\n';
	if (make_room(v, lines, why))
		return -EPROTO;
	int32_t token = 0;
	for (const char *at = text, *end = text + bytes; at < end; token++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		stop = stop ? stop : end;
		size_t n = (size_t)(stop - at);
		add(v, at, n && at[n - 1] == '\r' ? n - 1 : n, token);
		at = stop + 1;
	}
	return 0;
}

static int read_json(struct vocabulary *v, struct fault *why)
{
	json_t *model = json_object_get(v->json, "model"), *words = json_object_get(model, "vocab"), *value;
	const char *type = json_string_value(json_object_get(model, "type")), *key;
	if (!json_is_object(words) || (type && strcmp(type, "WordPiece") != 0))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "tokenizer.json is not of the kind WordPiece: give token numbers instead");
	if (make_room(v, json_object_size(words), why))
		return -EPROTO;
	json_object_foreach(words, key, value)
		add(v, key, strlen(key), (int32_t)json_integer_value(value));
	v->keeps_case = json_is_false(json_object_get(json_object_get(v->json, "normalizer"), "lowercase"));
	return 0;
}

static void read_case(struct vocabulary *v, const struct catalog *catalog)
{
	const void *text;
	size_t bytes;
	if (catalog->file(catalog, "tokenizer_config.json", &text, &bytes))
		return;
	json_t *config = json_loadb(text, bytes, 0, NULL);
	const json_t *lower = json_object_get(config, "do_lower_case");
	if (lower)
		v->keeps_case = json_is_false(lower);
	json_decref(config);
}

static int read_vocabulary(struct vocabulary *v, const struct catalog *catalog, struct fault *why)
{
	const void *text;
	size_t bytes;
	int r;
	if (catalog->file(catalog, "vocab.txt", &text, &bytes) == 0) {
		r = read_lines(v, text, bytes, why);
	} else if (catalog->file(catalog, "tokenizer.json", &text, &bytes) == 0) {
		v->json = json_loadb(text, bytes, 0, NULL);
		r = read_json(v, why);
	} else {
		return fault_set(why, TRIMS_E_UNSUPPORTED, "neither vocab.txt nor tokenizer.json travels with the model: give token "
			"numbers instead of text");
	}
	if (r)
		return r;
	read_case(v, catalog);
	v->unknown = find(v, "", "[UNK]", 5);
	v->begin = find(v, "", "[CLS]", 5);
	v->end = find(v, "", "[SEP]", 5);
	if (v->unknown < 0 || v->begin < 0 || v->end < 0)
		return fault_set(why, TRIMS_E_BAD_MODEL, "the vocabulary lacks [UNK], [CLS] or [SEP]");
	return 0;
}

/* ---- characters ---- */

static bool is_blank(int32_t c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || utf8proc_category(c) == UTF8PROC_CATEGORY_ZS;
}

static bool is_dropped(int32_t c)
{
	utf8proc_category_t k = utf8proc_category(c);
	return c == 0 || c == 0xfffd || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CS ||
		k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CN;
}

static bool is_punctuation(int32_t c)
{
	utf8proc_category_t k = utf8proc_category(c);
	if ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126))
		return true; /* also what Unicode calls a symbol */
	return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/* Chinese characters are words of their own: the CJK blocks of the original. */
static bool is_ideograph(int32_t c)
{
	static const int32_t blocks[][2] = {{0x4e00, 0x9fff}, {0x3400, 0x4dbf}, {0x20000, 0x2a6df}, {0x2a700, 0x2b73f},
		{0x2b740, 0x2b81f}, {0x2b820, 0x2ceaf}, {0xf900, 0xfaff}, {0x2f800, 0x2fa1f}};
	for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
		if (c >= blocks[i][0] && c <= blocks[i][1])
			return true;
	return false;
}

/* ---- words to pieces ---- */

struct encoder {
	const struct vocabulary *v;
	int32_t *tokens;
	uint32_t n, most; /* most: without [SEP] */
	char *word;       /* the one that is being collected */
	size_t bytes, chars;
};

static void emit(struct encoder *e, int32_t token)
{
	if (e->n < e->most)
		e->tokens[e->n++] = token;
}

static size_t shorter(const char *text, size_t bytes)
{
	do
		bytes--;
	while (bytes > 0 && ((uint8_t)text[bytes] & 0xc0) == 0x80);
	return bytes;
}

static void end_word(struct encoder *e)
{
	uint32_t before = e->n;
	const char *prefix = "";
	size_t bytes = e->bytes, chars = e->chars;
	e->bytes = e->chars = 0;
	if (chars > MAX_WORD_CHARS) {
		emit(e, e->v->unknown);
		return;
	}
	for (size_t at = 0; at < bytes; prefix = "##") {
		size_t n = bytes - at;
		int32_t token = -1;
		while (n > 0 && (token = find(e->v, prefix, e->word + at, n)) < 0)
			n = shorter(e->word + at, n);
		if (n == 0) { /* one piece unknown: all of the word is */
			e->n = before;
			emit(e, e->v->unknown);
			return;
		}
		emit(e, token);
		at += n;
	}
}

static void add_char(struct encoder *e, int32_t c)
{
	e->bytes += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)e->word + e->bytes);
	e->chars++;
}

static void add_normal(struct encoder *e, int32_t c)
{
	if (is_punctuation(c)) {
		end_word(e);
		add_char(e, c);
		end_word(e);
	} else {
		add_char(e, c);
	}
}

/* One character of the text: decomposed, without its marks, in lower case. */
static void take_char(struct encoder *e, int32_t c)
{
	utf8proc_int32_t parts[32];
	int boundary = 0;
	if (is_blank(c) || is_ideograph(c))
		end_word(e);
	if (is_blank(c) || is_dropped(c))
		return;
	if (e->v->keeps_case) {
		add_normal(e, c);
	} else {
		utf8proc_ssize_t n = utf8proc_decompose_char(c, parts, ARRAY_LEN(parts), UTF8PROC_DECOMPOSE, &boundary);
		for (utf8proc_ssize_t i = 0; i < MIN(n, (utf8proc_ssize_t)ARRAY_LEN(parts)); i++)
			if (utf8proc_category(parts[i]) != UTF8PROC_CATEGORY_MN)
				add_normal(e, utf8proc_tolower(parts[i]));
	}
	if (is_ideograph(c))
		end_word(e);
}

/* A special token that is spelt out in the text is that token, as it is to transformers.  How many bytes it has; 0: none. */
static size_t take_special(struct encoder *e, const char *text)
{
	static const char *const specials[] = {"[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]"};
	for (size_t i = 0; *text == '[' && i < ARRAY_LEN(specials); i++) {
		size_t n = strlen(specials[i]);
		int32_t token = strncmp(text, specials[i], n) == 0 ? find(e->v, "", text, n) : -1;
		if (token >= 0) {
			end_word(e);
			emit(e, token);
			return n;
		}
	}
	return 0;
}

static int encode(struct encoder *e, const char *text, struct fault *why)
{
	const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text;
	emit(e, e->v->begin);
	while (*at) {
		utf8proc_int32_t c;
		utf8proc_ssize_t n = (utf8proc_ssize_t)take_special(e, (const char *)at);
		at += n;
		if (n)
			continue;
		n = utf8proc_iterate(at, -1, &c);
		if (n <= 0)
			return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: the text is no UTF-8");
		take_char(e, c);
		at += n;
	}
	end_word(e);
	e->most++;
	emit(e, e->v->end);
	return 0;
}

int wordpiece_encode(const struct catalog *catalog, const char *text, uint32_t most, int32_t *tokens, uint32_t *t,
	struct fault *why)
{
	struct vocabulary v = {0};
	/* A decomposition has at most 18 characters (Unicode's own bound) of at most 4 bytes for each of the text. */
	OWN_MEM char *word = malloc(72 * strlen(text) + 8);
	struct encoder e = {.v = &v, .tokens = tokens, .most = MAX(most, 3u) - 1, .word = word};
	int r = word ? read_vocabulary(&v, catalog, why) : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the text");
	if (!r)
		r = encode(&e, text, why);
	*t = e.n;
	free(v.entries);
	json_decref(v.json);
	return r;
}
