/* input.c - see input.h.
 * Keeps: every token that leaves here is below the model's vocabulary, every length from 1 to t, and t within what the model
 * can take. */
#include "tools/run/input.h"

#include "shared/own.h"
#include "tools/random.h"
#include "tools/run/npy.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT_BYTES ((uint64_t)4 << 30)
#define MAX_TEXT_TOKENS (1u << 16)
#define MAX_TOKENS (1u << 24) /* of all inputs: products count rows in 31 bits */
#define USUAL_TOKENS 128u

void input_fini(struct input *in)
{
	free(in->tokens);
	free(in->lengths);
	free(in->image);
	tokenizer_free(&in->tokenizer);
	*in = (struct input){0};
}

static size_t image_floats(const struct net *net)
{
	return (size_t)net->channels * net->pixels * net->pixels;
}

static int take_tokens(struct input *in, uint32_t n, uint32_t t, struct fault *why)
{
	if ((uint64_t)n * t > MAX_TOKENS)
		return fault_set(why, TRIMS_E_LIMIT, "%u inputs of %u tokens are more than %u tokens", n, t, MAX_TOKENS);
	in->n = n;
	in->t = t;
	in->tokens = calloc((size_t)n * t, sizeof *in->tokens);
	in->lengths = calloc(n, sizeof *in->lengths);
	return in->tokens && in->lengths ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the input");
}

static int take_image(const struct net *net, struct input *in, uint32_t n, struct fault *why)
{
	in->n = n;
	in->t = 1;
	if (n * image_floats(net) * sizeof(float) > MAX_INPUT_BYTES)
		return fault_set(why, TRIMS_E_LIMIT, "the input would be larger than 4 GiB");
	in->image = malloc(n * image_floats(net) * sizeof *in->image);
	return in->image ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the input");
}

/* ---- kinds of input ---- */

static int make_random(const struct net *net, const struct input_options *o, uint64_t seed, struct input *out,
	struct fault *why)
{
	uint32_t t = o->tokens ? o->tokens : MIN(USUAL_TOKENS, net->max_tokens);
	if (net->input == NET_IMAGE) {
		int r = take_image(net, out, o->batch, why);
		for (size_t i = 0; !r && i < o->batch * image_floats(net); i++)
			out->image[i] = (float)(int32_t)(random_next(&seed) >> 32) * 0x1p-30f; /* -2 to 2 */
		return r;
	}
	if (t > net->max_tokens)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%u tokens: this model can take %u", t, net->max_tokens);
	int r = take_tokens(out, o->batch, t, why);
	for (size_t i = 0; !r && i < (size_t)o->batch * t; i++)
		out->tokens[i] = (int32_t)(random_next(&seed) % net->vocabulary);
	for (uint32_t i = 0; !r && i < o->batch; i++)
		out->lengths[i] = (int32_t)t;
	return r;
}

/* One sequence, as often as the batch is long. */
static int repeat_sequence(const struct net *net, const struct input_options *o, const int32_t *tokens, uint32_t t,
	struct input *out, struct fault *why)
{
	if (t > net->max_tokens)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%u tokens: this model can take %u", t, net->max_tokens);
	int r = take_tokens(out, o->batch, t, why);
	for (uint32_t i = 0; !r && i < o->batch; i++) {
		memcpy(out->tokens + (size_t)i * t, tokens, t * sizeof *tokens);
		out->lengths[i] = (int32_t)t;
	}
	return r;
}

static int make_numbers(const struct net *net, const struct input_options *o, struct input *out, struct fault *why)
{
	OWN_MEM int32_t *tokens = malloc((strlen(o->text) / 2 + 1) * sizeof *tokens);
	uint32_t t = 0;
	if (!tokens)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the input");
	for (const char *at = o->text; *at;) {
		char *end;
		unsigned long n = strtoul(at, &end, 10);
		if (end == at || n >= net->vocabulary || (*end && *end != ','))
			return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: number %u of the tokens is none below %u", t + 1,
				net->vocabulary);
		tokens[t++] = (int32_t)n;
		at = *end ? end + 1 : end;
	}
	return repeat_sequence(net, o, tokens, t, out, why);
}

static int make_text(const struct net *net, const struct catalog *catalog, const struct input_options *o, struct input *out,
	struct fault *why)
{
	OWN_MEM int32_t *tokens = malloc(MAX_TEXT_TOKENS * sizeof *tokens);
	uint32_t t;
	if (!tokens)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the input");
	int r = tokenizer_open(catalog, net->family, &out->tokenizer, why);
	if (!r)
		r = tokenizer_encode(out->tokenizer, o->text, MIN(net->max_tokens, MAX_TEXT_TOKENS), tokens, &t, why);
	for (uint32_t i = 0; !r && i < t; i++)
		if ((uint32_t)tokens[i] >= net->vocabulary)
			r = fault_set(why, TRIMS_E_BAD_MODEL, "the vocabulary has more words than the model");
	return r ? r : repeat_sequence(net, o, tokens, t, out, why);
}

/* ---- files ---- */

static int fill_tokens(const struct net *net, const struct npy *a, struct input *out, struct fault *why)
{
	uint32_t n = a->rank == 2 ? (uint32_t)a->shape[0] : 1, t = (uint32_t)a->shape[a->rank - 1];
	if (a->rank > 2 || a->kind == NPY_F32 || (a->rank == 2 && a->shape[0] > 4096))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: tokens are one or at most 4096 rows of whole numbers");
	if (a->shape[a->rank - 1] > net->max_tokens)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: this model can take %u tokens", net->max_tokens);
	int r = take_tokens(out, n, t, why);
	for (size_t i = 0; !r && i < (size_t)n * t; i++) {
		int64_t v = npy_whole(a, i);
		if (v < 0 || v >= net->vocabulary)
			return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: %lld is no token below %u", (long long)v, net->vocabulary);
		out->tokens[i] = (int32_t)v;
		out->lengths[i / t] = (int32_t)t;
	}
	return r;
}

static int fill_image(const struct net *net, const struct npy *a, struct input *out, struct fault *why)
{
	uint64_t elements = npy_elements(a), each = image_floats(net);
	bool right = a->kind == NPY_F32 && elements >= each && elements % each == 0 && elements / each <= 4096;
	for (uint32_t i = 1; right && a->rank > 1 && i <= 3; i++)
		right = a->rank >= 3 && a->shape[a->rank - i] == (i == 3 ? net->channels : net->pixels);
	if (!right)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: this model takes 32-bit floats [n, %u, %u, %u], n at most 4096",
			net->channels, net->pixels, net->pixels);
	int r = take_image(net, out, (uint32_t)(elements / each), why);
	if (!r)
		memcpy(out->image, a->data, elements * sizeof *out->image);
	return r;
}

static int make_file(const struct net *net, const struct input_options *o, struct input *out, struct fault *why)
{
	struct npy a;
	int r = npy_read(o->text, net->input == NET_IMAGE ? NPY_F32 : NPY_I32, MAX_INPUT_BYTES, &a, why);
	if (r)
		return r;
	r = net->input == NET_IMAGE ? fill_image(net, &a, out, why) : fill_tokens(net, &a, out, why);
	npy_fini(&a);
	if (!r && o->batch != 1 && o->batch != out->n)
		r = fault_set(why, TRIMS_E_BAD_REQUEST, "--batch %u: the file has %u inputs", o->batch, out->n);
	return r;
}

static bool ends_in(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);
	return n >= m && strcmp(text + n - m, end) == 0;
}

static int parse_seed(const char *text, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || *end || *text < '0' || *text > '9')
		return -EINVAL;
	*out = n;
	return 0;
}

static int make(const struct net *net, const struct catalog *catalog, const struct input_options *o, struct input *out,
	struct fault *why)
{
	const char *text = o->text;
	uint64_t seed = o->seed;
	bool seeded = strncmp(text, "random:", 7) == 0;
	if (seeded && parse_seed(text + 7, &seed))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--input %.40s: the seed is no number from 0 to %llu", text, ULLONG_MAX);
	if (seeded || strcmp(text, "random") == 0)
		return make_random(net, o, seed, out, why);
	if (ends_in(text, ".npy") || ends_in(text, ".bin"))
		return make_file(net, o, out, why);
	if (net->input == NET_IMAGE)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--input: this model takes images, as a .npy or .bin file of 32-bit floats");
	if (*text && strspn(text, "0123456789,") == strlen(text))
		return make_numbers(net, o, out, why);
	return make_text(net, catalog, o, out, why);
}

int input_make(const struct net *net, const struct catalog *catalog, const struct input_options *options, struct input *out,
	struct fault *why)
{
	*out = (struct input){0};
	int r = make(net, catalog, options, out, why);
	if (r)
		input_fini(out);
	return r;
}
