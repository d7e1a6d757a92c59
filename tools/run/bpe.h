/* bpe.h - byte-level byte-pair encoding, as GPT-2 and RoBERTa have it (Sennrich et al. 2016; Radford et al. 2019).
 * tokenizer.h is what others use, and says what the functions return.
 * Thread: one at a time.  Owns what it read; tokenizer.json (json) must outlive it. */
#ifndef TOOLS_RUN_BPE_H
#define TOOLS_RUN_BPE_H

#include "tools/run/net.h"

struct bpe;

/* json: tokenizer.json, NULL for vocab.json and merges.txt.  family: whose tokens stand around a text ("roberta": <s> and </s>),
 * unless tokenizer.json says so. */
int bpe_open(const struct catalog *catalog, const json_t *json, const char *family, struct bpe **out, struct fault *why);
void bpe_free(struct bpe **bpe);
int bpe_encode(const struct bpe *bpe, const char *text, uint32_t most, int32_t *tokens, uint32_t *t, struct fault *why);
int bpe_decode(const struct bpe *bpe, const int32_t *tokens, uint32_t n, char **text, size_t *bytes, struct fault *why);

#endif
