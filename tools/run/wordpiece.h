/* wordpiece.h - text to token numbers as BERT's models want it, by the vocabulary that travels with the model.
 * Thread: any. */
#ifndef TOOLS_RUN_WORDPIECE_H
#define TOOLS_RUN_WORDPIECE_H

#include "tools/run/net.h"

/* [CLS] pieces [SEP], cut to `most` tokens (at least 3); *t is how many.  The vocabulary is vocab.txt, or tokenizer.json's when
 * that is of the kind WordPiece; UNSUPPORTED where the model has neither, BAD_REQUEST for text that is no UTF-8. */
int wordpiece_encode(const struct catalog *catalog, const char *text, uint32_t most, int32_t *tokens, uint32_t *t,
	struct fault *why);

#endif
