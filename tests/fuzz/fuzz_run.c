/* fuzz_run.c - what trims-run reads that somebody else wrote; the first byte says what:
 *   'n' a .npy file      'c' config.json of a model that has every tensor asked for      'w' vocab.txt, a zero, text
 *   'j' tokenizer.json, a zero, text */
#include "tests/fuzz/fuzz.h"

#include "shared/image.h"
#include "tools/run/net.h"
#include "tools/run/npy.h"
#include "tools/run/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : abort())
#define MOST_TOKENS 16

struct files {
	struct catalog catalog;
	const char *name;
	const void *data;
	size_t bytes;
};

static int find(const struct catalog *c, const char *name, const struct weight *want, struct weight *out)
{
	if (want)
		*out = *want;
	out->dtype = DTYPE_F32;
	out->tensor = 0;
	return want || strlen(name) % 2 ? 0 : -ENOENT;
}

static int file(const struct catalog *c, const char *path, const void **data, size_t *bytes)
{
	const struct files *f = (const struct files *)c;
	*data = f->data;
	*bytes = f->bytes;
	return strcmp(path, f->name) == 0 ? 0 : -ENOENT;
}

static void try_npy(const uint8_t *data, size_t size)
{
	struct npy a;
	struct fault why = {0};
	int64_t sum = 0;
	if (npy_parse(data, size, &a, &why)) {
		CHECK(why.text[0]);
		return;
	}
	for (uint64_t i = 0; a.kind != NPY_F32 && i < npy_elements(&a); i++)
		sum ^= npy_whole(&a, i);
	CHECK(npy_elements(&a) > 0 && sum != INT64_MIN);
}

static void try_config(const uint8_t *data, size_t size)
{
	struct files f = {{find, file}, "config.json", data, size};
	struct fault why = {0};
	struct net *net = NULL;
	size_t slots[NET_SLOTS];
	if (net_build(&f.catalog, &net, &why)) {
		CHECK(why.text[0] && !net);
		return;
	}
	struct shape *x = calloc(2 * (size_t)net->n_layers, sizeof *x);
	CHECK(x && net->n_layers > 0 && net->result_width > 0);
	net_shapes(net, 2, 1, x, x + net->n_layers, slots);
	CHECK(slots[net->result] >= 2 * (size_t)net->result_width);
	for (uint32_t i = 0; i < net->n_layers; i++)
		CHECK(shape_elements(x[net->n_layers + i]) > 0 && net->layers[i].y < NET_SLOTS);
	free(x);
	net_free(&net);
}

static void try_words(const char *name, const uint8_t *data, size_t size)
{
	const uint8_t *zero = memchr(data, 0, size);
	size_t bytes = zero ? (size_t)(zero - data) : size;
	char *text = calloc(size - bytes + 1, 1);
	int32_t tokens[MOST_TOKENS];
	uint32_t t = 0;
	struct fault why = {0};
	struct files f = {{find, file}, name, data, bytes};
	CHECK(text);
	if (zero)
		memcpy(text, zero + 1, size - bytes - 1);
	struct tokenizer *tokenizer;
	if (tokenizer_open(&f.catalog, "bert", &tokenizer, &why) || tokenizer_encode(tokenizer, text, MOST_TOKENS, tokens, &t, &why))
		CHECK(why.text[0]);
	else
		CHECK(t >= (strcmp(name, "vocab.txt") == 0 ? 2 : 1) && t <= MOST_TOKENS);
	tokenizer_free(&tokenizer);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (*data) {
	case 'n':
		try_npy(data + 1, size - 1);
		break;
	case 'c':
		try_config(data + 1, size - 1);
		break;
	case 'w':
		try_words("vocab.txt", data + 1, size - 1);
		break;
	case 'j':
		try_words("tokenizer.json", data + 1, size - 1);
		break;
	default:
		break;
	}
	return 0;
}
