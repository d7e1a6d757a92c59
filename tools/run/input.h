/* input.h - what is put into a model: numbers, files, random ones, text.
 * Thread: any.  Owns its arrays and its tokenizer, which wants the catalog; input_fini() frees them. */
#ifndef TOOLS_RUN_INPUT_H
#define TOOLS_RUN_INPUT_H

#include "tools/run/tokenizer.h"

struct input {
	uint32_t n, t;     /* inputs, and tokens of the longest (images: 1) */
	int32_t *tokens;   /* [n][t], padded with zeros */
	int32_t *lengths;  /* [n] */
	float *image;      /* [n][channels][pixels][pixels] */
	struct tokenizer *tokenizer; /* what made tokens of a text; NULL: it was no text */
};

struct input_options {
	const char *text;  /* --input */
	uint32_t batch;    /* a single input is repeated so often; files may hold as many */
	uint32_t tokens;   /* of random ones; 0: 128, or what the model can take */
	uint64_t seed;     /* of "random" */
};

/* BAD_REQUEST for what the model cannot take, UNSUPPORTED for text where it brings no vocabulary that is understood. */
int input_make(const struct net *net, const struct catalog *catalog, const struct input_options *options, struct input *out,
	struct fault *why);
void input_fini(struct input *in);

#endif
