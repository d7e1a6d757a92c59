/* fuzz_bpe.c - byte-pair encoding by files that somebody else wrote; the first byte says what follows, parts end at a zero:
 *   't' a text, for a vocabulary of bytes: it must come back      'm' vocab.json, merges.txt, tokenizer_config.json, a text
 *   'j' tokenizer.json, a text */
#include "tests/fuzz/fuzz.h"

#include "shared/utf8.h"
#include "tools/run/bpe_model.h"
#include "tools/run/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : abort())
#define MOST_TOKENS 64
#define PARTS 3

struct files {
	struct catalog catalog;
	const char *const *names;
	const char *data[PARTS];
	size_t bytes[PARTS];
};

static int file(const struct catalog *c, const char *path, const void **data, size_t *bytes)
{
	const struct files *f = (const struct files *)c;
	for (size_t i = 0; i < PARTS && f->names[i]; i++)
		if (strcmp(path, f->names[i]) == 0) {
			*data = f->data[i];
			*bytes = f->bytes[i];
			return 0;
		}
	return -ENOENT;
}

/* What a text's tokens say is text as well, and where `same` is set the very text. */
static void try_text(const struct tokenizer *t, const char *text, uint32_t most, bool same)
{
	int32_t *tokens = malloc((most + 1) * sizeof *tokens);
	uint32_t n = 0;
	struct fault why = {0};
	char *back = NULL;
	size_t bytes = 0;
	CHECK(tokens);
	int r = tokenizer_encode(t, text, most, tokens, &n, &why);
	if (r)
		CHECK(why.text[0] && (!same || !*text || !utf8_valid(text, strlen(text))));
	else
		CHECK(n >= 1 && n <= most);
	if (!r && tokenizer_decode(t, tokens, n, &back, &bytes, &why) == 0) {
		CHECK(utf8_valid(back, bytes) && back[bytes] == 0);
		CHECK(!same || (bytes == strlen(text) && memcmp(back, text, bytes) == 0));
	} else {
		CHECK(why.text[0] && (r || !same));
	}
	free(back);
	free(tokens);
}

static void try_files(struct files *f, const char *text, uint32_t most, bool same)
{
	struct tokenizer *t = NULL;
	struct fault why = {0};
	f->catalog.file = file;
	if (tokenizer_open(&f->catalog, "roberta", &t, &why) == 0)
		try_text(t, text, most, same);
	else
		CHECK(why.text[0] && !t && !same);
	tokenizer_free(&t);
}

/* All bytes, and a few merges of which some stand before those that they are made of. */
static void try_bytes(const char *text)
{
	static const char *const names[] = {"tokenizer.json", NULL}, *const merges[] = {"e r", "th e", "t h", "a a", "aa a", "l l"};
	json_t *words = json_object(), *list = json_array();
	for (int byte = 0; byte < 256; byte++) {
		int32_t c = bpe_character((uint8_t)byte);
		const char character[] = {(char)(c < 0x80 ? c : 0xc0 | c >> 6), (char)(c < 0x80 ? 0 : 0x80 | (c & 0x3f)), 0};
		CHECK(bpe_byte(c) == byte);
		json_object_set_new(words, character, json_integer(byte));
	}
	for (int i = 0; i < 6; i++) {
		const char *blank = strchr(merges[i], ' ');
		char whole[8];
		snprintf(whole, sizeof whole, "%.*s%s", (int)(blank - merges[i]), merges[i], blank + 1);
		json_object_set_new(words, whole, json_integer(256 + i));
		json_array_append_new(list, json_string(merges[i]));
	}
	json_t *j = json_pack("{s:{s:s,s:o,s:o},s:{s:s,s:b}}", "model", "type", "BPE", "vocab", words, "merges", list, "pre_tokenizer",
		"type", "ByteLevel", "add_prefix_space", 0);
	char *dumped = json_dumps(j, JSON_COMPACT);
	CHECK(dumped);
	struct files f = {.names = names, .data = {dumped}, .bytes = {strlen(dumped)}};
	try_files(&f, text, (uint32_t)strlen(text) + 1, true);
	free(dumped);
	json_decref(j);
}

/* strndup() would do, but the address sanitizer has it read on to the next zero. */
static char *text_of(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	CHECK(text);
	memcpy(text, data, size);
	text[size] = 0;
	return text;
}

static void try_model(const char *const *names, const uint8_t *data, size_t size)
{
	struct files f = {.names = names};
	for (size_t i = 0; names[i]; i++) {
		const uint8_t *zero = memchr(data, 0, size);
		f.data[i] = (const char *)data;
		f.bytes[i] = zero ? (size_t)(zero - data) : size;
		size -= f.bytes[i] + (zero != NULL);
		data += f.bytes[i] + (zero != NULL);
	}
	char *text = text_of(data, size);
	CHECK(text);
	try_files(&f, text, MOST_TOKENS, false);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const two[] = {"vocab.json", "merges.txt", "tokenizer_config.json", NULL};
	static const char *const one[] = {"tokenizer.json", NULL};
	if (size == 0)
		return 0;
	if (*data == 'm') {
		try_model(two, data + 1, size - 1);
	} else if (*data == 'j') {
		try_model(one, data + 1, size - 1);
	} else if (*data == 't') {
		char *text = text_of(data + 1, size - 1);
		CHECK(text);
		try_bytes(text);
		free(text);
	}
	return 0;
}
