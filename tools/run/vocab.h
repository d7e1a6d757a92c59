/* vocab.h - the words of a vocabulary and their numbers, which a model's own files say: nothing of them is believed.
 * Thread: any.  Owns its table; the words' texts stay the caller's and must outlive it. */
#ifndef TOOLS_RUN_VOCAB_H
#define TOOLS_RUN_VOCAB_H

#include "shared/base.h"
#include "shared/error.h"

#include <jansson.h>

#define VOCAB_MAX_WORDS (1u << 22) /* published ones have at most 262,144 */
#define VOCAB_MAX_PAIR 4096u       /* bytes of a word that vocab_find_pair() finds */

struct vocab_word {
	const char *text; /* not NUL-terminated; NULL: free */
	uint32_t bytes;
	int32_t token;
};

struct vocab {
	struct vocab_word *words;
	uint32_t mask;
	uint64_t seed; /* of the hash: nobody can make a vocabulary whose words all collide */
};

/* LIMIT for more than VOCAB_MAX_WORDS, NO_MEMORY. */
int vocab_init(struct vocab *v, size_t words, struct fault *why);
void vocab_fini(struct vocab *v);
/* At most as many as vocab_init() was told.  The last one of equal words counts, as in a Python dictionary. */
void vocab_add(struct vocab *v, const char *text, size_t bytes, int32_t token);
/* All of {"word": number}, which must outlive the table.  BAD_MODEL for a number below 0 or beyond VOCAB_MAX_WORDS. */
int vocab_add_json(struct vocab *v, const json_t *words, const char *file, struct fault *why);
/* The word's number, -1: none. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes);
/* Of the word that the two make together. */
int32_t vocab_find_pair(const struct vocab *v, const char *a, size_t a_bytes, const char *b, size_t b_bytes);
/* A token's number in a file; -1: it is none. */
int32_t vocab_number(const json_t *value);

#endif
