/* tokenizer.c - see tokenizer.h. */
#include "tools/run/tokenizer.h"

#include "tools/run/bpe.h"
#include "tools/run/wordpiece.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tokenizer {
	json_t *json; /* tokenizer.json; NULL: not read */
	struct wordpiece *wordpiece;
	struct bpe *bpe;
};

static bool has(const struct catalog *c, const char *path)
{
	const void *text;
	size_t bytes;
	return c->file(c, path, &text, &bytes) == 0;
}

static int read_json(struct tokenizer *t, const struct catalog *c, struct fault *why)
{
	const void *text;
	size_t bytes;
	json_error_t error;
	if (c->file(c, "tokenizer.json", &text, &bytes))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "neither vocab.txt, vocab.json with merges.txt nor tokenizer.json travels "
			"with the model: give token numbers instead of text");
	t->json = json_loadb(text, bytes, 0, &error);
	return t->json ? 0 : fault_set(why, TRIMS_E_BAD_MODEL, "tokenizer.json: %s, line %d", error.text, error.line);
}

/* Files of old do not name the kind of their vocabulary, but only one kind has merges. */
static int open_json(struct tokenizer *t, const struct catalog *c, const char *family, struct fault *why)
{
	const json_t *model = json_object_get(t->json, "model");
	const char *type = json_string_value(json_object_get(model, "type"));
	if (!type)
		type = json_object_get(model, "merges") ? "BPE" : "WordPiece";
	if (strcmp(type, "BPE") == 0)
		return bpe_open(c, t->json, family, &t->bpe, why);
	if (strcmp(type, "WordPiece") == 0)
		return wordpiece_open(c, t->json, &t->wordpiece, why);
	return fault_set(why, TRIMS_E_UNSUPPORTED, "tokenizer.json is of the kind %.40s, neither WordPiece nor BPE: give token numbers "
		"instead of text", type);
}

int tokenizer_open(const struct catalog *catalog, const char *family, struct tokenizer **out, struct fault *why)
{
	struct tokenizer *t = calloc(1, sizeof *t);
	int r;
	if (!t)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a tokenizer");
	if (has(catalog, "vocab.txt"))
		r = wordpiece_open(catalog, NULL, &t->wordpiece, why);
	else if (has(catalog, "vocab.json") && has(catalog, "merges.txt"))
		r = bpe_open(catalog, NULL, family, &t->bpe, why);
	else if (!(r = read_json(t, catalog, why)))
		r = open_json(t, catalog, family, why);
	if (r)
		tokenizer_free(&t);
	*out = t;
	return r;
}

void tokenizer_free(struct tokenizer **tokenizer)
{
	struct tokenizer *t = *tokenizer;
	*tokenizer = NULL;
	if (!t)
		return;
	wordpiece_free(&t->wordpiece);
	bpe_free(&t->bpe);
	json_decref(t->json);
	free(t);
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, uint32_t most, int32_t *tokens, uint32_t *t,
	struct fault *why)
{
	return tokenizer->bpe ? bpe_encode(tokenizer->bpe, text, most, tokens, t, why) :
				wordpiece_encode(tokenizer->wordpiece, text, most, tokens, t, why);
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *tokens, uint32_t n, char **text, size_t *bytes,
	struct fault *why)
{
	if (!tokenizer->bpe)
		return fault_set(why, TRIMS_E_UNSUPPORTED, "what WordPiece made of a text cannot be made a text again");
	return bpe_decode(tokenizer->bpe, tokens, n, text, bytes, why);
}
