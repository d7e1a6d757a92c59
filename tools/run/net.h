/* net.h - a model as the executor sees it: a list of layers, each a row of data (operation, slots, tensors, sizes).
 *
 * Activations live in numbered slots; a layer reads slot x (and x2) and writes slot y.  An architecture is one file that
 * turns config.json into the list (arch.def has the row); nothing else knows architectures, and nothing here knows where
 * weights are or who computes.  A layer is also the unit that is profiled, planned and waited for, by its index.
 *
 * Thread: a net is immutable once built.  Owns: net_free() frees everything. */
#ifndef TOOLS_RUN_NET_H
#define TOOLS_RUN_NET_H

#include "shared/base.h"
#include "shared/error.h"

#include <jansson.h>

enum op {
#define OP(NAME, name, weights, doc) OP_##NAME,
#include "tools/run/ops.def"
#undef OP
	OP_COUNT
};

enum act { ACT_NONE, ACT_RELU, ACT_GELU, ACT_GELU_TANH, ACT_TANH };

#define NET_MAX_WEIGHTS 5
#define NET_MAX_RANK 4
#define NET_NAME 96
#define SLOT_NONE 255
enum { NET_SLOTS = 8 };

/* Sequences: n of t tokens, c wide.  Images: n of c channels, h x w pixels, t = 1.  In memory n, t, c, h, w outermost first;
 * what does not apply is 1. */
struct shape {
	uint32_t n, t, c, h, w;
};

static inline size_t shape_elements(struct shape s)
{
	return (size_t)s.n * s.t * s.c * s.h * s.w;
}

/* One tensor of the model. */
struct weight {
	uint32_t tensor; /* index in the model, WEIGHT_NONE: the layer has none in this role */
	uint32_t dtype;  /* enum dtype; F32, F16 or BF16 */
	uint32_t rank;
	uint64_t shape[NET_MAX_RANK];
	uint64_t bytes;
};
#define WEIGHT_NONE UINT32_MAX

/* What EMBED takes its rows by. */
enum index_kind { INDEX_TOKEN, INDEX_POSITION, INDEX_TYPE, INDEX_KINDS };

struct layer {
	uint8_t op;      /* enum op */
	uint8_t act;     /* enum act */
	uint8_t x, x2, y; /* slots; x2 SLOT_NONE: nothing is added */
	bool add;        /* EMBED: adds to y instead of setting it */
	bool transposed; /* LINEAR: W is [in][out] */
	bool causal;     /* ATTEND: a token sees those before it, also earlier ones kept in the cache */
	bool last;       /* PICK: the last token, not the first */
	uint8_t index;   /* EMBED: enum index_kind */
	uint32_t cache;  /* ATTEND, causal: number of its cache, 0 .. net.n_caches - 1 */
	uint32_t width;  /* EMBED, LINEAR, CONV: features of the result */
	uint32_t row, column; /* LINEAR: y's rows are `row` floats apart and the result begins at `column` of each; row 0: width */
	uint32_t heads;
	uint32_t kernel, stride, pad;
	float eps;
	uint64_t weight_bytes; /* of all its tensors */
	struct weight w[NET_MAX_WEIGHTS];
	char name[NET_NAME]; /* "encoder.layer.3.output.dense", for people and profiles */
};

enum net_input { NET_TOKENS, NET_IMAGE };
enum net_output { NET_EMBEDDING, NET_CLASSES, NET_NEXT_TOKEN };

struct net {
	char family[32]; /* "bert": arch.def */
	struct layer *layers;
	uint32_t n_layers, cap;
	uint8_t input;   /* enum net_input */
	uint8_t output;  /* enum net_output */
	uint8_t result;  /* slot that holds the result after the last layer */
	uint32_t result_width;
	/* of NET_TOKENS */
	uint32_t vocabulary, max_tokens, first_position, n_types;
	uint32_t n_caches, cache_width; /* a cache keeps k and v, each cache_width floats a token */
	int64_t end_token;              /* ends a generation; -1: none */
	/* of NET_IMAGE */
	uint32_t channels, pixels; /* pixels x pixels */
};

/* How a builder asks for the model's tensors: whoever has the weights implements it (weights.h). */
struct catalog {
	/* 0 and *out filled in, or -ENOENT.  want: the shape that the builder expects, as a weight without a tensor, for whoever
	 * makes models instead of reading them; NULL: it only asks whether there is such a tensor. */
	int (*find)(const struct catalog *c, const char *name, const struct weight *want, struct weight *out);
	/* A file that travels with the model, mapped until the weights are freed; -ENOENT. */
	int (*file)(const struct catalog *c, const char *path, const void **data, size_t *bytes);
};

/* Reads config.json and builds the list; checks that every tensor is there in the shape that the configuration implies.
 * -EPROTO with *why: BAD_MODEL, UNSUPPORTED for an architecture that arch.def lacks. */
int net_build(const struct catalog *catalog, struct net **out, struct fault *why);
void net_free(struct net **net);

/* The result's shape of one layer for x's shape.  Pure. */
struct shape layer_shape(const struct layer *l, struct shape x);
/* The shapes of every layer's x and y (arrays of net->n_layers) for a batch of n inputs of t tokens (images: t = 1).
 * slots, unless NULL, gets the floats that each slot must hold. */
void net_shapes(const struct net *net, uint32_t n, uint32_t t, struct shape *x, struct shape *y, size_t slots[NET_SLOTS]);

const char *op_name(unsigned op);

#endif
