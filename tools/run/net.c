/* net.c - nets: configuration in, list of layers out; and what shapes flow through it.
 * Keeps: a net that is returned has every tensor that its layers name, in the shape that its configuration implies. */
#include "tools/run/arch.h"

#include "shared/image.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX_BYTES (1u << 20)
#define MAX_LAYERS 65536u

const char *op_name(unsigned op)
{
	static const char *const names[] = {
#define OP(NAME, name, weights, doc) #name,
#include "tools/run/ops.def"
#undef OP
	};
	return op < ARRAY_LEN(names) ? names[op] : "?";
}

int build_fail(struct builder *b, enum trims_code code, const char *fmt, ...)
{
	if (b->err)
		return b->err;
	va_list ap;
	va_start(ap, fmt);
	b->why->code = code;
	vsnprintf(b->why->text, sizeof b->why->text, fmt, ap);
	va_end(ap);
	return b->err = -EPROTO;
}

/* ---- config.json ---- */

static uint32_t take_number(struct builder *b, const char *key, uint32_t otherwise, uint32_t least, uint32_t most)
{
	const json_t *v = json_object_get(b->config, key);
	if ((!v || json_is_null(v)) && otherwise)
		return otherwise;
	if (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > most) {
		build_fail(b, TRIMS_E_BAD_MODEL, "config.json: %s is no number from %u to %u", key, least, most);
		return 1;
	}
	return (uint32_t)json_integer_value(v);
}

uint32_t config_number(struct builder *b, const char *key, uint32_t otherwise, uint32_t most)
{
	return take_number(b, key, otherwise, 1, most);
}

uint32_t config_index(struct builder *b, const char *key, uint32_t otherwise, uint32_t most)
{
	return take_number(b, key, otherwise, 0, most);
}

void config_must(struct builder *b, const char *key, bool value)
{
	const json_t *v = json_object_get(b->config, key);
	if (v && !json_is_null(v) && json_is_true(v) != value)
		build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: %s that is not %s is not known here", key, value ? "true" : "false");
}

double config_real(struct builder *b, const char *key, double otherwise)
{
	const json_t *v = json_object_get(b->config, key);
	if (!v || json_is_null(v))
		return otherwise;
	if (!json_is_number(v) || !(json_number_value(v) >= 0 && json_number_value(v) < 1)) {
		build_fail(b, TRIMS_E_BAD_MODEL, "config.json: %s is no number from 0 to 1", key);
		return otherwise;
	}
	return json_number_value(v);
}

const char *config_text(struct builder *b, const char *key)
{
	return json_string_value(json_object_get(b->config, key));
}

enum act config_act(struct builder *b, const char *key, const char *otherwise)
{
	static const struct {
		const char *name;
		enum act act;
	} acts[] = {
		{"gelu", ACT_GELU}, {"gelu_new", ACT_GELU_TANH}, {"gelu_pytorch_tanh", ACT_GELU_TANH},
		{"relu", ACT_RELU}, {"tanh", ACT_TANH},
	};
	const char *name = config_text(b, key);
	if (!name)
		name = otherwise;
	for (size_t i = 0; i < ARRAY_LEN(acts); i++)
		if (strcmp(acts[i].name, name) == 0)
			return acts[i].act;
	build_fail(b, TRIMS_E_UNSUPPORTED, "config.json: %s %.40s is not known here", key, name);
	return ACT_NONE;
}

/* ---- tensors ---- */

bool build_has(const struct builder *b, const char *fmt, ...)
{
	char name[2 * NET_NAME], whole[sizeof name + sizeof b->prefix];
	struct weight w;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(name, sizeof name, fmt, ap);
	va_end(ap);
	snprintf(whole, sizeof whole, "%s%s", b->prefix, name);
	return b->catalog->find(b->catalog, whole, NULL, &w) == 0;
}

void build_prefix(struct builder *b, const char *const *prefixes, const char *probe)
{
	for (;; prefixes++) {
		snprintf(b->prefix, sizeof b->prefix, "%s", *prefixes);
		if (**prefixes == 0 || build_has(b, "%s", probe))
			return;
	}
}

/* Old checkpoints call a norm's scale and shift gamma and beta. */
static int find_weight(const struct builder *b, const char *name, const char *suffix, const struct weight *want,
	struct weight *out)
{
	static const char *const others[][2] = {{".weight", ".gamma"}, {".bias", ".beta"}};
	char whole[3 * NET_NAME];
	snprintf(whole, sizeof whole, "%s%s%s", b->prefix, name, suffix);
	if (b->catalog->find(b->catalog, whole, want, out) == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		if (strcmp(suffix, others[i][0]) == 0) {
			snprintf(whole, sizeof whole, "%s%s%s", b->prefix, name, others[i][1]);
			return b->catalog->find(b->catalog, whole, want, out);
		}
	return -ENOENT;
}

static void shape_text(char *out, size_t size, const uint64_t *shape, uint32_t rank)
{
	size_t at = 0;
	for (uint32_t i = 0; i < rank && at < size; i++)
		at += (size_t)snprintf(out + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
	if (!rank)
		*out = 0;
}

void build_weight(struct builder *b, struct layer *l, unsigned role, const char *name, const char *suffix,
	const uint32_t shape[NET_MAX_RANK])
{
	struct weight *w = &l->w[role];
	struct weight want = {.tensor = WEIGHT_NONE};
	if (b->err)
		return;
	for (; want.rank < NET_MAX_RANK && shape[want.rank]; want.rank++)
		want.shape[want.rank] = shape[want.rank];
	if (find_weight(b, name, suffix, &want, w)) {
		build_fail(b, TRIMS_E_BAD_MODEL, "the model has no tensor %s%s%s, which its configuration implies", b->prefix, name,
			suffix);
		return;
	}
	if (w->rank != want.rank || memcmp(w->shape, want.shape, want.rank * sizeof *want.shape) != 0) {
		char is[96], should[96];
		shape_text(is, sizeof is, w->shape, MIN(w->rank, (uint32_t)NET_MAX_RANK));
		shape_text(should, sizeof should, want.shape, want.rank);
		build_fail(b, TRIMS_E_BAD_MODEL, "tensor %s%s%s is [%s], its configuration implies [%s]", b->prefix, name, suffix, is,
			should);
		return;
	}
	if (w->dtype != DTYPE_F32 && w->dtype != DTYPE_F16 && w->dtype != DTYPE_BF16) {
		build_fail(b, TRIMS_E_UNSUPPORTED, "tensor %s%s%s is %s; F32, F16 and BF16 can be computed with", b->prefix, name,
			suffix, dtype_name(w->dtype));
		return;
	}
	l->weight_bytes += w->bytes;
}

/* ---- layers ---- */

static struct layer *add_layer(struct builder *b, enum op op, uint8_t x, uint8_t y, const char *name)
{
	static _Thread_local struct layer nobodys;
	struct net *net = b->net;
	struct layer *l = &nobodys;
	if (!b->err && net->n_layers == MAX_LAYERS)
		build_fail(b, TRIMS_E_TOO_LARGE, "more than %u layers", MAX_LAYERS);
	if (!b->err && net->n_layers == net->cap) {
		uint32_t cap = MAX(64u, 2 * net->cap);
		struct layer *grown = realloc(net->layers, cap * sizeof *grown);
		if (grown) {
			net->layers = grown;
			net->cap = cap;
		} else {
			build_fail(b, TRIMS_E_NO_MEMORY, "no memory for the list of layers");
		}
	}
	if (!b->err)
		l = &net->layers[net->n_layers++];
	*l = (struct layer){.op = (uint8_t)op, .x = x, .y = y, .x2 = SLOT_NONE};
	for (unsigned i = 0; i < NET_MAX_WEIGHTS; i++)
		l->w[i].tensor = WEIGHT_NONE;
	snprintf(l->name, sizeof l->name, "%s", name);
	return l;
}

#define FORMAT_NAME(name, fmt)                                                                                        \
	char name[NET_NAME];                                                                                          \
	do {                                                                                                          \
		va_list ap_;                                                                                          \
		va_start(ap_, fmt);                                                                                   \
		vsnprintf(name, sizeof name, fmt, ap_);                                                               \
		va_end(ap_);                                                                                          \
	} while (0)

struct layer *build_layer(struct builder *b, enum op op, uint8_t x, uint8_t y, const char *fmt, ...)
{
	FORMAT_NAME(name, fmt);
	return add_layer(b, op, x, y, name);
}

struct layer *build_linear(struct builder *b, uint8_t x, uint8_t y, uint32_t in, uint32_t out, const char *fmt, ...)
{
	FORMAT_NAME(name, fmt);
	struct layer *l = add_layer(b, OP_LINEAR, x, y, name);
	l->width = out;
	build_weight(b, l, 0, name, ".weight", (uint32_t[NET_MAX_RANK]){out, in});
	build_weight(b, l, 1, name, ".bias", (uint32_t[NET_MAX_RANK]){out});
	return l;
}

struct layer *build_norm(struct builder *b, uint8_t x, uint8_t y, uint32_t width, double eps, const char *fmt, ...)
{
	FORMAT_NAME(name, fmt);
	struct layer *l = add_layer(b, OP_NORM, x, y, name);
	l->eps = (float)eps;
	build_weight(b, l, 0, name, ".weight", (uint32_t[NET_MAX_RANK]){width});
	build_weight(b, l, 1, name, ".bias", (uint32_t[NET_MAX_RANK]){width});
	return l;
}

struct layer *build_embed(struct builder *b, uint8_t y, enum index_kind index, uint32_t rows, uint32_t width,
	const char *name)
{
	struct layer *l = add_layer(b, OP_EMBED, SLOT_NONE, y, name);
	l->index = (uint8_t)index;
	l->width = width;
	build_weight(b, l, 0, name, ".weight", (uint32_t[NET_MAX_RANK]){rows, width});
	return l;
}

/* ---- building ---- */

static const struct {
	const char *type, *family;
	int (*build)(struct builder *b);
} archs[] = {
#define ARCH(type, name) {type, #name, arch_##name},
#include "tools/run/arch.def"
#undef ARCH
};

/* timm's files say architecture instead: "resnet50". */
static const char *model_type(struct builder *b)
{
	const char *type = config_text(b, "model_type");
	const char *timm = config_text(b, "architecture");
	if (!type && timm && strncmp(timm, "resnet", 6) == 0)
		type = "resnet";
	if (!type)
		build_fail(b, TRIMS_E_BAD_MODEL, "config.json has no model_type");
	return type;
}

static int build_by_type(struct builder *b)
{
	const char *type = model_type(b);
	for (size_t i = 0; !b->err && i < ARRAY_LEN(archs); i++)
		if (strcmp(archs[i].type, type) == 0) {
			snprintf(b->net->family, sizeof b->net->family, "%s", type);
			archs[i].build(b);
			return b->err;
		}
	return build_fail(b, TRIMS_E_UNSUPPORTED, "model_type %.40s is none that trims-run knows", type ? type : "");
}

int net_build(const struct catalog *catalog, struct net **out, struct fault *why)
{
	struct builder b = {.catalog = catalog, .why = why};
	const void *text;
	size_t bytes;
	json_error_t error;
	if (catalog->file(catalog, "config.json", &text, &bytes) || bytes > CONFIG_MAX_BYTES)
		return build_fail(&b, TRIMS_E_BAD_MODEL, "no config.json travels with the model, or it is above a MiB");
	b.config = json_loadb(text, bytes, 0, &error);
	b.net = calloc(1, sizeof *b.net);
	if (!b.net)
		build_fail(&b, TRIMS_E_NO_MEMORY, "no memory for the net");
	else if (!json_is_object(b.config))
		build_fail(&b, TRIMS_E_BAD_MODEL, "config.json: %.200s", b.config ? "it is no object" : error.text);
	else
		build_by_type(&b);
	json_decref(b.config);
	if (b.err)
		net_free(&b.net);
	else
		*out = b.net;
	return b.err;
}

void net_free(struct net **net)
{
	if (*net)
		free((*net)->layers);
	free(*net);
	*net = NULL;
}

/* ---- shapes ---- */

static uint32_t strided(const struct layer *l, uint32_t size)
{
	return (size + 2 * l->pad - l->kernel) / l->stride + 1;
}

struct shape layer_shape(const struct layer *l, struct shape x)
{
	struct shape y = x;
	switch ((enum op)l->op) {
	case OP_EMBED:
		y.c = l->width;
		break;
	case OP_LINEAR:
		y.c = l->row ? l->row : l->width;
		break;
	case OP_ATTEND:
		y.c = x.c / 3;
		break;
	case OP_CONV:
		y.c = l->width;
		y.h = strided(l, x.h);
		y.w = strided(l, x.w);
		break;
	case OP_MAXPOOL:
		y.h = strided(l, x.h);
		y.w = strided(l, x.w);
		break;
	case OP_AVGPOOL:
		y.h = y.w = 1;
		break;
	case OP_PICK:
	case OP_MEAN:
		y.t = 1;
		break;
	case OP_NORM:
	case OP_UNIT:
	case OP_COUNT:
		break;
	}
	return y;
}

void net_shapes(const struct net *net, uint32_t n, uint32_t t, struct shape *x, struct shape *y, size_t slots[NET_SLOTS])
{
	struct shape now[NET_SLOTS] = {{0}};
	if (net->input == NET_IMAGE)
		now[0] = (struct shape){n, 1, net->channels, net->pixels, net->pixels};
	if (slots) {
		memset(slots, 0, NET_SLOTS * sizeof *slots);
		slots[0] = shape_elements(now[0]);
	}
	for (uint32_t i = 0; i < net->n_layers; i++) {
		const struct layer *l = &net->layers[i];
		x[i] = l->op == OP_EMBED ? (struct shape){n, t, l->width, 1, 1} : now[l->x];
		y[i] = now[l->y] = layer_shape(l, x[i]);
		if (slots)
			slots[l->y] = MAX(slots[l->y], shape_elements(y[i]));
	}
}
