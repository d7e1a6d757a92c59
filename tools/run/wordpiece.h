/* wordpiece.h - text to token numbers as BERT's models want it.  tokenizer.h is what others use.
 * Thread: any.  Owns what it read; the JSON and the files must outlive it. */
#ifndef TOOLS_RUN_WORDPIECE_H
#define TOOLS_RUN_WORDPIECE_H

#include "tools/run/net.h"

struct wordpiece;

/* json: tokenizer.json, NULL for vocab.txt. */
int wordpiece_open(const struct catalog *catalog, const json_t *json, struct wordpiece **out, struct fault *why);
void wordpiece_free(struct wordpiece **wordpiece);

/* [CLS] pieces [SEP], cut to `most` tokens (at least 3); *t is how many.  BAD_REQUEST for text that is no UTF-8. */
int wordpiece_encode(const struct wordpiece *wordpiece, const char *text, uint32_t most, int32_t *tokens, uint32_t *t,
	struct fault *why);

#endif
