/* arch_bert.c - BERT and RoBERTa of any size: an encoder whose result is one vector for each sentence.
 * The list follows Devlin et al. (2019): post-norm blocks.  Models made for sentences (Reimers and Gurevych, 2019) say in
 * 1_Pooling/config.json how tokens become one vector; without it, as in all-MiniLM-L6-v2: their mean, scaled to length 1. */
#include "tools/run/arch.h"

#include <string.h>

enum { HIDDEN, QKV, CONTEXT, DENSE, INNER }; /* slots */

struct sizes {
	uint32_t hidden, inner, heads, layers;
	double eps;
	enum act act;
};

static void add_attention(struct builder *b, const struct sizes *s, uint32_t i)
{
	static const char *const parts[] = {"query", "key", "value"};
	for (uint32_t p = 0; p < 3; p++) {
		struct layer *l = build_linear(b, HIDDEN, QKV, s->hidden, s->hidden, "encoder.layer.%u.attention.self.%s", i,
			parts[p]);
		l->row = 3 * s->hidden;
		l->column = p * s->hidden;
	}
	build_layer(b, OP_ATTEND, QKV, CONTEXT, "encoder.layer.%u.attention.self", i)->heads = s->heads;
	build_linear(b, CONTEXT, DENSE, s->hidden, s->hidden, "encoder.layer.%u.attention.output.dense", i);
	build_norm(b, DENSE, HIDDEN, s->hidden, s->eps, "encoder.layer.%u.attention.output.LayerNorm", i)->x2 = HIDDEN;
}

static void add_feed_forward(struct builder *b, const struct sizes *s, uint32_t i)
{
	build_linear(b, HIDDEN, INNER, s->hidden, s->inner, "encoder.layer.%u.intermediate.dense", i)->act = (uint8_t)s->act;
	build_linear(b, INNER, DENSE, s->inner, s->hidden, "encoder.layer.%u.output.dense", i);
	build_norm(b, DENSE, HIDDEN, s->hidden, s->eps, "encoder.layer.%u.output.LayerNorm", i)->x2 = HIDDEN;
}

static void add_embeddings(struct builder *b, const struct sizes *s, uint32_t positions)
{
	struct net *net = b->net;
	build_embed(b, HIDDEN, INDEX_TOKEN, net->vocabulary, s->hidden, "embeddings.word_embeddings");
	build_embed(b, HIDDEN, INDEX_POSITION, positions, s->hidden, "embeddings.position_embeddings")->add = true;
	build_embed(b, HIDDEN, INDEX_TYPE, net->n_types, s->hidden, "embeddings.token_type_embeddings")->add = true;
	build_norm(b, HIDDEN, HIDDEN, s->hidden, s->eps, "embeddings.LayerNorm");
}

/* RoBERTa counts positions from behind the padding token's id. */
static void count_positions(struct builder *b, uint32_t positions)
{
	bool roberta = strcmp(b->net->family, "bert") != 0;
	uint32_t first = 0;
	if (roberta)
		first = config_index(b, "pad_token_id", 1, 1u << 20) + 1;
	if (first >= positions)
		build_fail(b, TRIMS_E_BAD_MODEL, "config.json: no positions are left behind pad_token_id");
	b->net->first_position = first;
	b->net->max_tokens = positions - first;
}

/* Ways that are true at the same time would be put side by side. */
static bool pools_first_token(struct builder *b)
{
	static const char way[] = "pooling_mode_";
	const void *text;
	const char *key;
	json_t *value;
	size_t bytes;
	unsigned ways = 0;
	if (b->catalog->file(b->catalog, "1_Pooling/config.json", &text, &bytes))
		return false;
	json_t *pooling = json_loadb(text, bytes, 0, NULL);
	json_object_foreach(pooling, key, value)
		ways += strncmp(key, way, sizeof way - 1) == 0 && json_is_true(value);
	bool mean = json_is_true(json_object_get(pooling, "pooling_mode_mean_tokens"));
	bool first = json_is_true(json_object_get(pooling, "pooling_mode_cls_token"));
	json_decref(pooling);
	if (mean == first || ways > 1)
		build_fail(b, TRIMS_E_UNSUPPORTED, "1_Pooling/config.json asks for neither mean nor first token alone");
	return first;
}

int arch_bert(struct builder *b)
{
	static const char *const prefixes[] = {"bert.", "roberta.", ""};
	struct net *net = b->net;
	struct sizes s = {
		.hidden = config_number(b, "hidden_size", 0, 1u << 16),
		.inner = config_number(b, "intermediate_size", 0, 1u << 18),
		.heads = config_number(b, "num_attention_heads", 0, 1u << 10),
		.layers = config_number(b, "num_hidden_layers", 0, 1u << 10),
		.eps = config_real(b, "layer_norm_eps", 1e-12),
		.act = config_act(b, "hidden_act", "gelu"),
	};
	uint32_t positions = config_number(b, "max_position_embeddings", 0, 1u << 20);
	const char *kind = config_text(b, "position_embedding_type");
	if (kind && strcmp(kind, "absolute") != 0)
		return build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: position_embedding_type %.40s", kind);
	if (s.hidden % s.heads)
		return build_fail(b, TRIMS_E_BAD_MODEL, "config.json: hidden_size is no multiple of num_attention_heads");
	config_must(b, "is_decoder", false);
	net->input = NET_TOKENS;
	net->output = NET_EMBEDDING;
	net->vocabulary = config_number(b, "vocab_size", 0, 1u << 28);
	net->n_types = config_number(b, "type_vocab_size", 2, 1u << 10);
	net->end_token = -1;
	count_positions(b, positions);
	build_prefix(b, prefixes, "embeddings.word_embeddings.weight");
	add_embeddings(b, &s, positions);
	for (uint32_t i = 0; i < s.layers && !b->err; i++) {
		add_attention(b, &s, i);
		add_feed_forward(b, &s, i);
	}
	build_layer(b, pools_first_token(b) ? OP_PICK : OP_MEAN, HIDDEN, DENSE, "pooling");
	build_layer(b, OP_UNIT, DENSE, DENSE, "normalize");
	net->result = DENSE;
	net->result_width = s.hidden;
	return b->err;
}
