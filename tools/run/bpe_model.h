/* bpe_model.h - what a byte-level byte-pair encoding is made of; bpe_files.c fills it in, bpe.c uses it. */
#ifndef TOOLS_RUN_BPE_MODEL_H
#define TOOLS_RUN_BPE_MODEL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "tools/run/bpe.h"
#include "tools/run/vocab.h"

#include <pcre2.h>

#define BPE_MAX_AROUND 4u      /* tokens before, and behind, a text */
#define BPE_MAX_ADDED 1024u
#define BPE_MAX_ADDED_BYTES 256u

/* Two tokens that become one; of all that a word has, the one of the lowest rank comes first. */
struct merge {
	int32_t left, right, result; /* left -1: free */
	uint32_t rank;
};

/* A token that is taken from the text as it is spelt there, before anything else is done. */
struct added {
	char *text;
	size_t bytes;
	int32_t token;
	bool left, right; /* takes the blanks on that side of it along */
};

struct piece {
	const char *text; /* NULL: there is no such token */
	size_t bytes;
};

struct bpe {
	json_t *words;          /* vocab.json; NULL: tokenizer.json, which is the caller's */
	struct vocab vocab;
	int32_t byte[256];      /* each byte's token; -1: none */
	struct merge *merges;   /* a table, at most half of it in use */
	uint32_t mask;
	struct added added[BPE_MAX_ADDED];
	uint32_t n_added;
	struct piece *pieces;   /* by token */
	uint32_t n_pieces;
	int32_t before[BPE_MAX_AROUND], behind[BPE_MAX_AROUND];
	uint32_t n_before, n_behind;
	bool prefix_space;      /* a text begins with a blank, or is given one */
	pcre2_code *pattern;    /* what cuts a text into words */
	pcre2_match_data *match;
};

/* A byte's character in vocabularies: itself where it is printable, else one from U+0100 on. */
int32_t bpe_character(uint8_t byte);
/* The other way round; -1: no byte's. */
int bpe_byte(int32_t character);

/* Where the pair's merge is, or would be. */
struct merge *bpe_merge(const struct bpe *b, int32_t left, int32_t right);

/* Everything but the pattern. */
int bpe_read(struct bpe *b, const struct catalog *catalog, const json_t *json, const char *family, struct fault *why);

#endif
