/* arch_resnet.c - ResNet-18 to 152 after He et al. (2016), in the variant 1.5 (a bottleneck's stride is in its 3x3), by the names
 * that torchvision and timm, or transformers, give the tensors.  A convolution, its batch norm, the addition and the ReLU
 * behind it are one layer: nothing in between is ever stored. */
#include "tools/run/arch.h"

#include <string.h>

enum { X, Y, A, B, SHORTCUT }; /* slots; blocks go from X to Y and from Y to X in turn */

struct sizes {
	uint32_t depths[4], widths[4], stem;
	bool bottleneck, early; /* early: the stride is in the first 1x1, as in version 1.0 */
	bool theirs;            /* transformers' names */
};

/* Names of a convolution and its norm. */
struct names {
	char conv[NET_NAME], norm[NET_NAME];
};

static struct layer *add_conv(struct builder *b, const struct names *n, uint8_t x, uint8_t y, uint32_t in, uint32_t out,
	uint32_t kernel, uint32_t stride)
{
	static const char *const parts[] = {".weight", ".bias", ".running_mean", ".running_var"};
	struct layer *l = build_layer(b, OP_CONV, x, y, "%s", n->conv);
	l->width = out;
	l->kernel = kernel;
	l->stride = stride;
	l->pad = kernel / 2;
	l->eps = 1e-5f;
	l->act = ACT_RELU;
	build_weight(b, l, 0, n->conv, ".weight", (uint32_t[NET_MAX_RANK]){out, in, kernel, kernel});
	for (unsigned i = 0; i < 4; i++)
		build_weight(b, l, i + 1, n->norm, parts[i], (uint32_t[NET_MAX_RANK]){out});
	return l;
}

static struct names block_names(const struct sizes *s, uint32_t stage, uint32_t block, uint32_t conv)
{
	struct names n;
	if (s->theirs) {
		snprintf(n.conv, sizeof n.conv, "encoder.stages.%u.layers.%u.layer.%u.convolution", stage, block, conv);
		snprintf(n.norm, sizeof n.norm, "encoder.stages.%u.layers.%u.layer.%u.normalization", stage, block, conv);
	} else {
		snprintf(n.conv, sizeof n.conv, "layer%u.%u.conv%u", stage + 1, block, conv + 1);
		snprintf(n.norm, sizeof n.norm, "layer%u.%u.bn%u", stage + 1, block, conv + 1);
	}
	return n;
}

static struct names shortcut_names(const struct sizes *s, uint32_t stage, uint32_t block)
{
	struct names n;
	if (s->theirs) {
		snprintf(n.conv, sizeof n.conv, "encoder.stages.%u.layers.%u.shortcut.convolution", stage, block);
		snprintf(n.norm, sizeof n.norm, "encoder.stages.%u.layers.%u.shortcut.normalization", stage, block);
	} else {
		snprintf(n.conv, sizeof n.conv, "layer%u.%u.downsample.0", stage + 1, block);
		snprintf(n.norm, sizeof n.norm, "layer%u.%u.downsample.1", stage + 1, block);
	}
	return n;
}

static void add_block(struct builder *b, const struct sizes *s, uint32_t stage, uint32_t block, uint32_t in, uint8_t x)
{
	uint32_t out = s->widths[stage], stride = block == 0 && stage > 0 ? 2 : 1;
	uint32_t inner = s->bottleneck ? out / 4 : out;
	uint8_t other = x, y = x == X ? Y : X;
	struct names n;
	if (in != out || stride > 1) {
		n = shortcut_names(s, stage, block);
		add_conv(b, &n, x, SHORTCUT, in, out, 1, stride)->act = ACT_NONE;
		other = SHORTCUT;
	}
	n = block_names(s, stage, block, 0);
	if (!s->bottleneck) {
		add_conv(b, &n, x, A, in, out, 3, stride);
		n = block_names(s, stage, block, 1);
		add_conv(b, &n, A, y, out, out, 3, 1)->x2 = other;
		return;
	}
	add_conv(b, &n, x, A, in, inner, 1, s->early ? stride : 1);
	n = block_names(s, stage, block, 1);
	add_conv(b, &n, A, B, inner, inner, 3, s->early ? 1 : stride);
	n = block_names(s, stage, block, 2);
	add_conv(b, &n, B, y, inner, out, 1, 1)->x2 = other;
}

static void read_list(struct builder *b, const char *key, uint32_t most, uint32_t out[4])
{
	const json_t *list = json_object_get(b->config, key);
	if (!list)
		return;
	if (json_array_size(list) != 4) {
		build_fail(b, TRIMS_E_BAD_MODEL, "config.json: %s is no list of 4 numbers", key);
		return;
	}
	for (size_t i = 0; i < 4; i++) {
		json_int_t v = json_integer_value(json_array_get(list, i));
		if (v < 1 || v > most)
			build_fail(b, TRIMS_E_BAD_MODEL, "config.json: %s has a value that is not from 1 to %u", key, most);
		else
			out[i] = (uint32_t)v;
	}
}

/* What files without sizes mean by the name of their architecture. */
static void published_sizes(struct builder *b, struct sizes *s)
{
	static const struct {
		const char *name;
		uint32_t depths[4];
		bool bottleneck;
	} known[] = {
		{"resnet18", {2, 2, 2, 2}, false}, {"resnet34", {3, 4, 6, 3}, false}, {"resnet50", {3, 4, 6, 3}, true},
		{"resnet101", {3, 4, 23, 3}, true}, {"resnet152", {3, 8, 36, 3}, true},
	};
	const char *name = config_text(b, "architecture");
	size_t i = 0;
	while (i < ARRAY_LEN(known) && (!name || strcmp(name, known[i].name) != 0))
		i++;
	if (name && i == ARRAY_LEN(known))
		build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: architecture %.40s", name);
	if (i == ARRAY_LEN(known))
		i = 2;
	memcpy(s->depths, known[i].depths, sizeof s->depths);
	s->bottleneck = known[i].bottleneck;
	for (uint32_t k = 0; k < 4; k++)
		s->widths[k] = (s->bottleneck ? 256u : 64u) << k;
}

static void read_sizes(struct builder *b, struct sizes *s)
{
	published_sizes(b, s);
	read_list(b, "depths", 256, s->depths);
	read_list(b, "hidden_sizes", 1u << 16, s->widths);
	const char *type = config_text(b, "layer_type");
	if (type && strcmp(type, "bottleneck") != 0 && strcmp(type, "basic") != 0)
		build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: layer_type %.40s is not known here", type);
	if (type)
		s->bottleneck = strcmp(type, "bottleneck") == 0;
	if (config_act(b, "hidden_act", "relu") != ACT_RELU)
		build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: hidden_act that is not relu is not known here");
	s->stem = config_number(b, "embedding_size", 64, 1u << 16);
	s->early = json_is_true(json_object_get(b->config, "downsample_in_bottleneck"));
	if (json_is_true(json_object_get(b->config, "downsample_in_first_stage")))
		build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: downsample_in_first_stage");
	for (uint32_t k = 0; s->bottleneck && k < 4; k++)
		if (s->widths[k] % 4)
			build_fail(b, TRIMS_E_BAD_MODEL, "config.json: hidden_sizes are no multiples of 4");
}

static uint32_t count_classes(struct builder *b)
{
	size_t labels = json_object_size(json_object_get(b->config, "id2label"));
	uint32_t otherwise = labels && labels < 1u << 20 ? (uint32_t)labels : 1000;
	if (json_object_get(b->config, "num_classes"))
		return config_number(b, "num_classes", otherwise, 1u << 20);
	return config_number(b, "num_labels", otherwise, 1u << 20);
}

int arch_resnet(struct builder *b)
{
	static const char *const prefixes[] = {"resnet.", ""};
	struct net *net = b->net;
	struct sizes s = {.stem = 64};
	read_sizes(b, &s);
	build_prefix(b, prefixes, "embedder.embedder.convolution.weight");
	s.theirs = build_has(b, "embedder.embedder.convolution.weight");
	net->input = NET_IMAGE;
	net->output = NET_CLASSES;
	net->channels = config_number(b, "num_channels", 3, 64);
	net->pixels = config_number(b, "image_size", 224, 4096);
	net->end_token = -1;
	struct names stem = {"conv1", "bn1"};
	if (s.theirs)
		stem = (struct names){"embedder.embedder.convolution", "embedder.embedder.normalization"};
	add_conv(b, &stem, X, A, net->channels, s.stem, 7, 2);
	struct layer *pool = build_layer(b, OP_MAXPOOL, A, X, "maxpool");
	pool->kernel = 3;
	pool->stride = 2;
	pool->pad = 1;
	uint32_t in = s.stem;
	uint8_t x = X;
	for (uint32_t stage = 0; stage < 4; stage++)
		for (uint32_t block = 0; block < s.depths[stage] && !b->err; block++) {
			add_block(b, &s, stage, block, in, x);
			in = s.widths[stage];
			x = x == X ? Y : X;
		}
	build_layer(b, OP_AVGPOOL, x, A, "avgpool");
	if (s.theirs)
		b->prefix[0] = 0; /* the classifier stands beside the network, not in it */
	net->result_width = count_classes(b);
	build_linear(b, A, B, in, net->result_width, s.theirs ? "classifier.1" : "fc");
	net->result = B;
	return b->err;
}
