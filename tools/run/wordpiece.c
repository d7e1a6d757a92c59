/* wordpiece.c - BERT's tokenizer (Devlin et al. 2019, as transformers' BertTokenizer has it): characters are cleaned, accents
 * and case dropped where the model says so, words cut at blanks and punctuation, and each taken apart from the left into the
 * longest pieces that the vocabulary has.  What is a letter, mark or punctuation says utf8proc's Unicode. */
#include "tools/run/wordpiece.h"

#include "shared/own.h"
#include "tools/run/vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_WORD_CHARS 100 /* a longer one is unknown */

struct wordpiece {
	struct vocab vocab;
	bool keeps_case;
	int32_t unknown, begin, end;
};

/* ---- the vocabulary ---- */

static int read_lines(struct wordpiece *v, const char *text, size_t bytes, struct fault *why)
{
	size_t lines = 1;
	for (size_t i = 0; i < bytes; i++)
		lines += text[i] == '\n';
	if (vocab_init(&v->vocab, lines, why))
		return -EPROTO;
	int32_t token = 0;
	for (const char *at = text, *end = text + bytes; at < end; token++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		stop = stop ? stop : end;
		size_t n = (size_t)(stop - at);
		vocab_add(&v->vocab, at, n && at[n - 1] == '\r' ? n - 1 : n, token);
		at = stop + 1;
	}
	return 0;
}

static int read_json(struct wordpiece *v, const json_t *json, struct fault *why)
{
	const json_t *words = json_object_get(json_object_get(json, "model"), "vocab");
	if (!json_is_object(words))
		return fault_set(why, TRIMS_E_BAD_MODEL, "tokenizer.json has no vocabulary");
	v->keeps_case = json_is_false(json_object_get(json_object_get(json, "normalizer"), "lowercase"));
	if (vocab_init(&v->vocab, json_object_size(words), why))
		return -EPROTO;
	return vocab_add_json(&v->vocab, words, "tokenizer.json", why);
}

static void read_case(struct wordpiece *v, const struct catalog *catalog)
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

static int read_vocabulary(struct wordpiece *v, const struct catalog *catalog, const json_t *json, struct fault *why)
{
	const void *text;
	size_t bytes;
	int r;
	if (json)
		r = read_json(v, json, why);
	else if (catalog->file(catalog, "vocab.txt", &text, &bytes) == 0)
		r = read_lines(v, text, bytes, why);
	else
		r = fault_set(why, TRIMS_E_BAD_MODEL, "vocab.txt cannot be read");
	if (r)
		return r;
	read_case(v, catalog);
	v->unknown = vocab_find(&v->vocab, "[UNK]", 5);
	v->begin = vocab_find(&v->vocab, "[CLS]", 5);
	v->end = vocab_find(&v->vocab, "[SEP]", 5);
	if (v->unknown < 0 || v->begin < 0 || v->end < 0)
		return fault_set(why, TRIMS_E_BAD_MODEL, "the vocabulary lacks [UNK], [CLS] or [SEP]");
	return 0;
}

int wordpiece_open(const struct catalog *catalog, const json_t *json, struct wordpiece **out, struct fault *why)
{
	struct wordpiece *v = calloc(1, sizeof *v);
	int r = v ? read_vocabulary(v, catalog, json, why) : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a vocabulary");
	if (r)
		wordpiece_free(&v);
	*out = v;
	return r;
}

void wordpiece_free(struct wordpiece **wordpiece)
{
	if (*wordpiece)
		vocab_fini(&(*wordpiece)->vocab);
	free(*wordpiece);
	*wordpiece = NULL;
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
	const struct wordpiece *v;
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
		while (n > 0 && (token = vocab_find_pair(&e->v->vocab, prefix, strlen(prefix), e->word + at, n)) < 0)
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
		int32_t token = strncmp(text, specials[i], n) == 0 ? vocab_find(&e->v->vocab, text, n) : -1;
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

int wordpiece_encode(const struct wordpiece *wordpiece, const char *text, uint32_t most, int32_t *tokens, uint32_t *t,
	struct fault *why)
{
	/* A decomposition has at most 18 characters (Unicode's own bound) of at most 4 bytes for each of the text. */
	OWN_MEM char *word = malloc(72 * strlen(text) + 8);
	struct encoder e = {.v = wordpiece, .tokens = tokens, .most = MAX(most, 3u) - 1, .word = word};
	int r = word ? encode(&e, text, why) : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the text");
	*t = e.n;
	return r;
}
