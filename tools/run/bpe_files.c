/* bpe_files.c - see bpe_model.h: vocabulary, merges, added tokens and what stands around a text, from the model's files.
 * Keeps: every token in the model is one that vocab_number() takes, and what cannot be followed is refused, not left out. */
#include "tools/run/bpe_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static int no_memory(struct fault *why)
{
	return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a vocabulary");
}

/* NULL: there is no such file, or it is no JSON. */
static json_t *load(const struct catalog *catalog, const char *path)
{
	const void *text;
	size_t bytes;
	return catalog->file(catalog, path, &text, &bytes) ? NULL : json_loadb(text, bytes, 0, NULL);
}

/* ---- bytes as characters ---- */

static bool shows_itself(int32_t c)
{
	return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

int32_t bpe_character(uint8_t byte)
{
	int32_t c = 0x100;
	if (shows_itself(byte))
		return byte;
	for (uint8_t before = 0; before < byte; before++)
		c += !shows_itself(before);
	return c;
}

int bpe_byte(int32_t character)
{
	if (shows_itself(character))
		return character;
	for (int byte = 0; character >= 0x100 && byte < 256; byte++)
		if (!shows_itself(byte) && character-- == 0x100)
			return byte;
	return -1;
}

/* ---- words ---- */

static int read_words(struct bpe *b, const json_t *words, const char *file, struct fault *why)
{
	if (!json_is_object(words))
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s has no vocabulary", file);
	if (vocab_init(&b->vocab, json_object_size(words), why) || vocab_add_json(&b->vocab, words, file, why))
		return -EPROTO;
	for (int byte = 0; byte < 256; byte++) {
		utf8proc_uint8_t text[4];
		utf8proc_ssize_t n = utf8proc_encode_char(bpe_character((uint8_t)byte), text);
		b->byte[byte] = vocab_find(&b->vocab, (const char *)text, (size_t)n);
	}
	return 0;
}

static int note_piece(struct bpe *b, const char *text, size_t bytes, int32_t token, struct fault *why)
{
	if ((uint32_t)token >= b->n_pieces) {
		uint32_t n = MAX((uint32_t)token + 1, b->n_pieces + b->n_pieces / 2);
		struct piece *grown = realloc(b->pieces, n * sizeof *grown);
		if (!grown)
			return no_memory(why);
		memset(grown + b->n_pieces, 0, (n - b->n_pieces) * sizeof *grown);
		b->pieces = grown;
		b->n_pieces = n;
	}
	b->pieces[token] = (struct piece){text, bytes};
	return 0;
}

static int note_pieces(struct bpe *b, struct fault *why)
{
	int r = 0;
	for (uint32_t i = 0; !r && i <= b->vocab.mask; i++)
		if (b->vocab.words[i].text)
			r = note_piece(b, b->vocab.words[i].text, b->vocab.words[i].bytes, b->vocab.words[i].token, why);
	for (uint32_t i = 0; !r && i < b->n_added; i++)
		r = note_piece(b, b->added[i].text, b->added[i].bytes, b->added[i].token, why);
	return r;
}

/* ---- merges ---- */

struct merge *bpe_merge(const struct bpe *b, int32_t left, int32_t right)
{
	const int32_t pair[2] = {left, right};
	uint32_t i = (uint32_t)XXH3_64bits_withSeed(pair, sizeof pair, b->vocab.seed) & b->mask;
	while (b->merges[i].left >= 0 && (b->merges[i].left != left || b->merges[i].right != right))
		i = (i + 1) & b->mask;
	return &b->merges[i];
}

static int take_merges(struct bpe *b, size_t n, struct fault *why)
{
	size_t size = 64;
	if (n > VOCAB_MAX_WORDS)
		return fault_set(why, TRIMS_E_LIMIT, "%zu merges: more than %u", n, VOCAB_MAX_WORDS);
	while (size < 2 * n)
		size *= 2;
	b->merges = malloc(size * sizeof *b->merges);
	if (!b->merges)
		return no_memory(why);
	memset(b->merges, 0xff, size * sizeof *b->merges);
	b->mask = (uint32_t)size - 1;
	return 0;
}

/* Merge number `rank` of the file; of equal ones the last one counts. */
static int add_merge(struct bpe *b, const char *left, size_t n, const char *right, size_t m, uint32_t rank, struct fault *why)
{
	struct merge add = {
		.left = vocab_find(&b->vocab, left, n),
		.right = vocab_find(&b->vocab, right, m),
		.result = vocab_find_pair(&b->vocab, left, n, right, m),
		.rank = rank,
	};
	if (add.left < 0 || add.right < 0 || add.result < 0)
		return fault_set(why, TRIMS_E_BAD_MODEL, "merge %u is of or makes a word that the vocabulary lacks", rank + 1);
	*bpe_merge(b, add.left, add.right) = add;
	return 0;
}

/* "left right". */
static int add_line(struct bpe *b, const char *line, size_t n, uint32_t rank, struct fault *why)
{
	const char *blank = memchr(line, ' ', n);
	size_t left = blank ? (size_t)(blank - line) : n;
	if (!blank || memchr(blank + 1, ' ', n - left - 1))
		return fault_set(why, TRIMS_E_BAD_MODEL, "merge %u is not two words", rank + 1);
	return add_merge(b, line, left, blank + 1, n - left - 1, rank, why);
}

static int read_lines(struct bpe *b, const char *text, size_t bytes, struct fault *why)
{
	static const char version[] = "#version";
	size_t lines = 1;
	uint32_t rank = 0;
	for (size_t i = 0; i < bytes; i++)
		lines += text[i] == '\n';
	int r = take_merges(b, lines, why);
	for (const char *at = text, *end = text + bytes; !r && at < end;) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		stop = stop ? stop : end;
		size_t n = (size_t)(stop - at);
		n -= n && at[n - 1] == '\r';
		if (n && (n < strlen(version) || memcmp(at, version, strlen(version)) != 0))
			r = add_line(b, at, n, rank++, why);
		at = stop + 1;
	}
	return r;
}

/* Each "left right", or since 2024 [left, right]. */
static int read_array(struct bpe *b, const json_t *merges, struct fault *why)
{
	size_t i;
	json_t *one;
	if (!json_is_array(merges))
		return fault_set(why, TRIMS_E_BAD_MODEL, "tokenizer.json has no merges");
	int r = take_merges(b, json_array_size(merges), why);
	json_array_foreach((json_t *)merges, i, one) {
		const json_t *left = json_array_get(one, 0), *right = json_array_get(one, 1);
		if (!r && json_is_string(left) && json_is_string(right) && json_array_size(one) == 2)
			r = add_merge(b, json_string_value(left), json_string_length(left), json_string_value(right),
				json_string_length(right), (uint32_t)i, why);
		else if (!r && json_is_string(one))
			r = add_line(b, json_string_value(one), json_string_length(one), (uint32_t)i, why);
		else if (!r)
			r = fault_set(why, TRIMS_E_BAD_MODEL, "merge %zu is not two words", i + 1);
	}
	return r;
}

/* ---- added tokens ---- */

/* The first one of equal ones counts. */
static int add_added(struct bpe *b, const char *text, int32_t token, bool left, bool right, struct fault *why)
{
	size_t n = text ? strlen(text) : 0;
	if (n == 0 || n > BPE_MAX_ADDED_BYTES || token < 0)
		return fault_set(why, TRIMS_E_BAD_MODEL, "an added token is no text of at most %u bytes with a number below %u",
			BPE_MAX_ADDED_BYTES, VOCAB_MAX_WORDS);
	for (uint32_t i = 0; i < b->n_added; i++)
		if (strcmp(b->added[i].text, text) == 0)
			return 0;
	if (b->n_added == BPE_MAX_ADDED)
		return fault_set(why, TRIMS_E_LIMIT, "more than %u added tokens", BPE_MAX_ADDED);
	char *copy = strdup(text);
	if (!copy)
		return no_memory(why);
	b->added[b->n_added++] = (struct added){copy, n, token, left, right};
	return 0;
}

static int add_described(struct bpe *b, const json_t *one, int32_t token, struct fault *why)
{
	const char *text = json_string_value(json_object_get(one, "content"));
	if (json_is_true(json_object_get(one, "single_word")))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "the added token %.40s wants to be a word of its own (single_word)",
			text ? text : "?");
	return add_added(b, text, token, json_is_true(json_object_get(one, "lstrip")), json_is_true(json_object_get(one, "rstrip")),
		why);
}

/* A number as a key of an object. */
static int32_t key_number(const char *key)
{
	char *end;
	long n = strtol(key, &end, 10);
	return end > key && !*end && n >= 0 && n < VOCAB_MAX_WORDS ? (int32_t)n : -1;
}

/* What transformers takes for granted of models whose files name no added tokens, as those of GPT-2 and RoBERTa first did. */
static int add_usual(struct bpe *b, const char *family, struct fault *why)
{
	static const struct {
		const char *family, *text;
		bool left;
	} usual[] = {
		{"gpt2", "<|endoftext|>", false}, {"roberta", "<s>", false}, {"roberta", "<pad>", false}, {"roberta", "</s>", false},
		{"roberta", "<unk>", false}, {"roberta", "<mask>", true},
	};
	int r = 0;
	for (size_t i = 0; !r && i < ARRAY_LEN(usual); i++) {
		int32_t token = vocab_find(&b->vocab, usual[i].text, strlen(usual[i].text));
		if (token >= 0 && strcmp(usual[i].family, family) == 0)
			r = add_added(b, usual[i].text, token, usual[i].left, false, why);
	}
	return r;
}

static int read_added(struct bpe *b, const json_t *json, const json_t *config, const char *family, struct fault *why)
{
	size_t i;
	const char *key;
	json_t *one;
	int r = 0;
	json_array_foreach(json_object_get(json, "added_tokens"), i, one)
		r = r ? r : add_described(b, one, vocab_number(json_object_get(one, "id")), why);
	if (json)
		return r;
	json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, one)
		r = r ? r : add_described(b, one, key_number(key), why);
	return r ? r : add_usual(b, family, why);
}

/* ---- around a text ---- */

static int32_t token_of(const struct bpe *b, const char *text)
{
	for (uint32_t i = 0; i < b->n_added; i++)
		if (strcmp(b->added[i].text, text) == 0)
			return b->added[i].token;
	return vocab_find(&b->vocab, text, strlen(text));
}

static int put_around(const struct bpe *b, const char *text, int32_t *tokens, uint32_t *n, struct fault *why)
{
	int32_t token = text ? token_of(b, text) : -1;
	if (token < 0)
		return fault_set(why, TRIMS_E_BAD_MODEL, "the vocabulary lacks %.40s, which stands around a text", text ? text : "a token");
	if (*n == BPE_MAX_AROUND)
		return fault_set(why, TRIMS_E_UNSUPPORTED, "more than %u tokens before or behind a text", BPE_MAX_AROUND);
	tokens[(*n)++] = token;
	return 0;
}

/* The token's text under that key of tokenizer_config.json: "text", or {"content": "text"}. */
static const char *named(const json_t *config, const char *key, const char *otherwise)
{
	const json_t *value = json_object_get(config, key);
	if (json_is_object(value))
		value = json_object_get(value, "content");
	return json_is_string(value) ? json_string_value(value) : otherwise;
}

static int put_usual(struct bpe *b, const json_t *config, const char *family, struct fault *why)
{
	if (strcmp(family, "roberta") == 0) {
		int r = put_around(b, named(config, "cls_token", "<s>"), b->before, &b->n_before, why);
		return r ? r : put_around(b, named(config, "sep_token", "</s>"), b->behind, &b->n_behind, why);
	}
	if (json_is_true(json_object_get(config, "add_bos_token")))
		return put_around(b, named(config, "bos_token", "<|endoftext|>"), b->before, &b->n_before, why);
	return 0;
}

/* [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, ...] */
static int put_template(struct bpe *b, const json_t *single, struct fault *why)
{
	size_t i;
	json_t *one;
	bool behind = false;
	int r = 0;
	json_array_foreach((json_t *)single, i, one) {
		const json_t *special = json_object_get(one, "SpecialToken");
		const char *text = json_string_value(json_object_get(special, "id"));
		behind = behind || !special;
		if (!r && special)
			r = behind ? put_around(b, text, b->behind, &b->n_behind, why) : put_around(b, text, b->before, &b->n_before, why);
	}
	return r;
}

static int put_processed(struct bpe *b, const json_t *p, struct fault *why)
{
	const char *type = json_string_value(json_object_get(p, "type"));
	if (!p || json_is_null(p) || (type && strcmp(type, "ByteLevel") == 0))
		return 0;
	if (type && strcmp(type, "RobertaProcessing") == 0) {
		const json_t *cls = json_object_get(p, "cls"), *sep = json_object_get(p, "sep");
		int r = put_around(b, json_string_value(json_array_get(cls, 0)), b->before, &b->n_before, why);
		return r ? r : put_around(b, json_string_value(json_array_get(sep, 0)), b->behind, &b->n_behind, why);
	}
	if (type && strcmp(type, "TemplateProcessing") == 0)
		return put_template(b, json_object_get(p, "single"), why);
	return fault_set(why, TRIMS_E_UNSUPPORTED, "tokenizer.json: a post_processor %.40s", type ? type : "without a type");
}

/* ---- all of it ---- */

static bool is_off(const json_t *value)
{
	return !value || json_is_null(value) || json_is_false(value) || (json_is_string(value) && !json_string_length(value)) ||
		(json_is_number(value) && json_number_value(value) == 0);
}

/* Kinds of tokenizer.json that would give other tokens. */
static int check_kind(const json_t *json, struct fault *why)
{
	static const char *const foreign[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
		"ignore_merges"};
	const json_t *model = json_object_get(json, "model"), *cut = json_object_get(json, "pre_tokenizer");
	const char *type = json_string_value(json_object_get(cut, "type"));
	for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
		if (!is_off(json_object_get(model, foreign[i])))
			return fault_set(why, TRIMS_E_UNSUPPORTED, "tokenizer.json: a model with %s", foreign[i]);
	if (!is_off(json_object_get(json, "normalizer")))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "tokenizer.json: a normalizer beside byte-pair encoding");
	if (!type || strcmp(type, "ByteLevel") != 0 || json_is_false(json_object_get(cut, "use_regex")))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "tokenizer.json: a pre_tokenizer %.40s that is not GPT-2's (ByteLevel)",
			type ? type : "without a type");
	return 0;
}

static int read_json(struct bpe *b, const json_t *json, struct fault *why)
{
	const json_t *model = json_object_get(json, "model");
	/* Where the file says nothing of it, the library's default holds. */
	b->prefix_space = !json_is_false(json_object_get(json_object_get(json, "pre_tokenizer"), "add_prefix_space"));
	if (check_kind(json, why) || read_words(b, json_object_get(model, "vocab"), "tokenizer.json", why) ||
		read_array(b, json_object_get(model, "merges"), why) || read_added(b, json, NULL, "", why))
		return -EPROTO;
	return put_processed(b, json_object_get(json, "post_processor"), why);
}

static int read_two(struct bpe *b, const struct catalog *catalog, const json_t *config, const char *family, struct fault *why)
{
	const void *text;
	size_t bytes;
	b->words = load(catalog, "vocab.json");
	b->prefix_space = json_is_true(json_object_get(config, "add_prefix_space"));
	if (read_words(b, b->words, "vocab.json", why))
		return -EPROTO;
	if (catalog->file(catalog, "merges.txt", &text, &bytes))
		return fault_set(why, TRIMS_E_BAD_MODEL, "merges.txt cannot be read");
	if (read_lines(b, text, bytes, why) || read_added(b, NULL, config, family, why))
		return -EPROTO;
	return put_usual(b, config, family, why);
}

int bpe_read(struct bpe *b, const struct catalog *catalog, const json_t *json, const char *family, struct fault *why)
{
	json_t *config = json ? NULL : load(catalog, "tokenizer_config.json");
	int r = json ? read_json(b, json, why) : read_two(b, catalog, config, family, why);
	json_decref(config);
	return r ? r : note_pieces(b, why);
}
