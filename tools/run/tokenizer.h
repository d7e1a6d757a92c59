/* tokenizer.h - text to token numbers and back, as the files say that travel with the model.
 *
 *	vocab.txt                   WordPiece (wordpiece.h)
 *	vocab.json and merges.txt   byte-level byte-pair encoding (bpe.h)
 *	tokenizer.json              either of the two, where nothing of the above is there
 *
 * Thread: one at a time.  Owns what it read of them, but no files: the catalog must outlive it. */
#ifndef TOOLS_RUN_TOKENIZER_H
#define TOOLS_RUN_TOKENIZER_H

#include "tools/run/net.h"

struct tokenizer;

/* family: the net's.  UNSUPPORTED where the model brings no vocabulary that is understood; BAD_MODEL, LIMIT, NO_MEMORY. */
int tokenizer_open(const struct catalog *catalog, const char *family, struct tokenizer **out, struct fault *why);
void tokenizer_free(struct tokenizer **tokenizer);

/* Tokens of a NUL-terminated text, with those around it that the model's kind wants, in tokens[most]; *t, at most `most` (which
 * is 3 or more), is how many.  A text that is too long is cut where the model puts a token behind it (encoders), else it is
 * BAD_REQUEST, as is text that is no UTF-8. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, uint32_t most, int32_t *tokens, uint32_t *t,
	struct fault *why);

/* What the tokens say, UTF-8 with U+FFFD for what is none, *bytes without the NUL behind it; the caller frees it.  UNSUPPORTED
 * for WordPiece, BAD_MODEL for a token that the vocabulary lacks. */
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *tokens, uint32_t n, char **text, size_t *bytes,
	struct fault *why);

#endif
