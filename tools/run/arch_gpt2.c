/* arch_gpt2.c - GPT-2: a decoder whose result is the next token's scores.  Pre-norm blocks after Radford et al. (2019);
 * matrices are [in][out] as its published weights have them, and the head is the token table once more. */
#include "tools/run/arch.h"

enum { HIDDEN, MIDDLE, QKV, CONTEXT, NORMED, INNER, SCORES }; /* slots */

struct sizes {
	uint32_t hidden, inner, heads, layers;
	double eps;
	enum act act;
};

/* As build_linear(), the other way round. */
static struct layer *add_conv1d(struct builder *b, uint8_t x, uint8_t y, uint32_t in, uint32_t out, uint32_t block,
	const char *name)
{
	struct layer *l = build_layer(b, OP_LINEAR, x, y, "h.%u.%s", block, name);
	l->width = out;
	l->transposed = true;
	build_weight(b, l, 0, l->name, ".weight", (uint32_t[NET_MAX_RANK]){in, out});
	build_weight(b, l, 1, l->name, ".bias", (uint32_t[NET_MAX_RANK]){out});
	return l;
}

static void add_block(struct builder *b, const struct sizes *s, uint32_t i)
{
	build_norm(b, HIDDEN, NORMED, s->hidden, s->eps, "h.%u.ln_1", i);
	add_conv1d(b, NORMED, QKV, s->hidden, 3 * s->hidden, i, "attn.c_attn");
	struct layer *l = build_layer(b, OP_ATTEND, QKV, CONTEXT, "h.%u.attn", i);
	l->heads = s->heads;
	l->causal = true;
	l->cache = i;
	add_conv1d(b, CONTEXT, MIDDLE, s->hidden, s->hidden, i, "attn.c_proj")->x2 = HIDDEN;
	build_norm(b, MIDDLE, NORMED, s->hidden, s->eps, "h.%u.ln_2", i);
	add_conv1d(b, NORMED, INNER, s->hidden, s->inner, i, "mlp.c_fc")->act = (uint8_t)s->act;
	add_conv1d(b, INNER, HIDDEN, s->inner, s->hidden, i, "mlp.c_proj")->x2 = MIDDLE;
}

/* Only the last token's scores are ever asked for. */
static void add_head(struct builder *b, const struct sizes *s)
{
	struct net *net = b->net;
	build_layer(b, OP_PICK, HIDDEN, NORMED, "last")->last = true;
	build_norm(b, NORMED, NORMED, s->hidden, s->eps, "ln_f");
	struct layer *l = build_layer(b, OP_LINEAR, NORMED, SCORES, "lm_head");
	l->width = net->vocabulary;
	bool own = json_is_false(json_object_get(b->config, "tie_word_embeddings"));
	char prefix[sizeof b->prefix];
	__builtin_memcpy(prefix, b->prefix, sizeof prefix);
	if (own)
		b->prefix[0] = 0; /* stands beside the decoder, not in it */
	build_weight(b, l, 0, own ? "lm_head" : "wte", ".weight", (uint32_t[NET_MAX_RANK]){net->vocabulary, s->hidden});
	__builtin_memcpy(b->prefix, prefix, sizeof prefix);
}

int arch_gpt2(struct builder *b)
{
	static const char *const prefixes[] = {"transformer.", ""};
	struct net *net = b->net;
	struct sizes s = {
		.hidden = config_number(b, "n_embd", 0, 1u << 16),
		.heads = config_number(b, "n_head", 0, 1u << 10),
		.layers = config_number(b, "n_layer", 0, 1u << 10),
		.eps = config_real(b, "layer_norm_epsilon", 1e-5),
		.act = config_act(b, "activation_function", "gelu_new"),
	};
	s.inner = config_number(b, "n_inner", 4 * s.hidden, 1u << 18);
	if (s.hidden % s.heads)
		return build_fail(b, TRIMS_E_BAD_MODEL, "config.json: n_embd is no multiple of n_head");
	config_must(b, "scale_attn_weights", true);
	config_must(b, "scale_attn_by_inverse_layer_idx", false);
	config_must(b, "add_cross_attention", false);
	net->input = NET_TOKENS;
	net->output = NET_NEXT_TOKEN;
	net->vocabulary = config_number(b, "vocab_size", 0, 1u << 28);
	net->max_tokens = config_number(b, "n_positions", config_number(b, "n_ctx", 1024, 1u << 20), 1u << 20);
	net->n_caches = s.layers;
	net->cache_width = s.hidden;
	const json_t *end = json_object_get(b->config, "eos_token_id");
	net->end_token = json_is_integer(end) ? json_integer_value(end) : -1;
	build_prefix(b, prefixes, "wte.weight");
	build_embed(b, HIDDEN, INDEX_TOKEN, net->vocabulary, s.hidden, "wte");
	build_embed(b, HIDDEN, INDEX_POSITION, net->max_tokens, s.hidden, "wpe")->add = true;
	for (uint32_t i = 0; i < s.layers && !b->err; i++)
		add_block(b, &s, i);
	add_head(b, &s);
	net->result = SCORES;
	net->result_width = net->vocabulary;
	return b->err;
}
