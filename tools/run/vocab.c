/* vocab.c - see vocab.h.  Keeps: at most half of the table is in use, so every search ends. */
#include "tools/run/vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

int vocab_init(struct vocab *v, size_t words, struct fault *why)
{
	size_t size = 64;
	*v = (struct vocab){0};
	if (words > VOCAB_MAX_WORDS)
		return fault_set(why, TRIMS_E_LIMIT, "a vocabulary of %zu words: more than %u", words, VOCAB_MAX_WORDS);
	while (size < 2 * words)
		size *= 2;
	v->words = calloc(size, sizeof *v->words);
	v->mask = (uint32_t)size - 1;
	if (!v->words || getrandom(&v->seed, sizeof v->seed, 0) != sizeof v->seed)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a vocabulary of %zu words", words);
	return 0;
}

void vocab_fini(struct vocab *v)
{
	free(v->words);
	*v = (struct vocab){0};
}

/* Where the word is, or would be. */
static struct vocab_word *place(const struct vocab *v, const char *text, size_t bytes)
{
	uint32_t i = (uint32_t)XXH3_64bits_withSeed(text, bytes, v->seed) & v->mask;
	while (v->words[i].text && (v->words[i].bytes != bytes || memcmp(v->words[i].text, text, bytes) != 0))
		i = (i + 1) & v->mask;
	return &v->words[i];
}

void vocab_add(struct vocab *v, const char *text, size_t bytes, int32_t token)
{
	*place(v, text, bytes) = (struct vocab_word){text, (uint32_t)bytes, token};
}

int32_t vocab_number(const json_t *value)
{
	json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
	return n >= 0 && n < VOCAB_MAX_WORDS ? (int32_t)n : -1;
}

int vocab_add_json(struct vocab *v, const json_t *words, const char *file, struct fault *why)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)words, key, value) {
		int32_t token = vocab_number(value);
		if (token < 0)
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: the number of %.40s is none below %u", file, key, VOCAB_MAX_WORDS);
		vocab_add(v, key, strlen(key), token);
	}
	return 0;
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes)
{
	const struct vocab_word *w = place(v, text, bytes);
	return w->text ? w->token : -1;
}

int32_t vocab_find_pair(const struct vocab *v, const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
	char both[VOCAB_MAX_PAIR];
	if (a_bytes > sizeof both || b_bytes > sizeof both - a_bytes)
		return -1;
	memcpy(both, a, a_bytes);
	memcpy(both + a_bytes, b, b_bytes);
	return vocab_find(v, both, a_bytes + b_bytes);
}
