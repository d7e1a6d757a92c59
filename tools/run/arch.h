/* arch.h - what an architecture's file builds a net with.
 * Errors stick: after the first one every call does nothing, so a builder is written straight down and net_build() looks
 * once at the end.  Thread: one. */
#ifndef TOOLS_RUN_ARCH_H
#define TOOLS_RUN_ARCH_H

#include "tools/run/net.h"

struct builder {
	const struct catalog *catalog;
	struct net *net;
	json_t *config;
	char prefix[64]; /* what stands before the names of all tensors: "bert." */
	struct fault *why;
	int err; /* 0, or -EPROTO with *why */
};

#define ARCH(type, name) int arch_##name(struct builder *b);
#include "tools/run/arch.def"
#undef ARCH

/* Sets the error, unless there is one already; returns b->err. */
int build_fail(struct builder *b, enum trims_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Members of config.json.  A number must lie in 1 .. most; where it is missing, `otherwise`, or an error when that is 0. */
uint32_t config_number(struct builder *b, const char *key, uint32_t otherwise, uint32_t most);
/* As config_number(), from 0 on. */
uint32_t config_index(struct builder *b, const char *key, uint32_t otherwise, uint32_t most);
/* Of a variant that is not computed here: an error unless this is its value, or it is missing. */
void config_must(struct builder *b, const char *key, bool value);
double config_real(struct builder *b, const char *key, double otherwise);
/* NULL: missing. */
const char *config_text(struct builder *b, const char *key);
/* One of the activations we know by the names that config.json has for them. */
enum act config_act(struct builder *b, const char *key, const char *otherwise);

/* Finds out which of these prefixes (the last is "") stands before the tensor `probe`. */
void build_prefix(struct builder *b, const char *const *prefixes, const char *probe);
bool build_has(const struct builder *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Appends a layer; never NULL: after an error a layer that is nobody's. */
struct layer *build_layer(struct builder *b, enum op op, uint8_t x, uint8_t y, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
/* Gives the layer its tensor "PREFIX NAME SUFFIX" in that role, whose shape must be this; a zero ends the shape. */
void build_weight(struct builder *b, struct layer *l, unsigned role, const char *name, const char *suffix,
	const uint32_t shape[NET_MAX_RANK]);
/* The usual pairs: NAME.weight and NAME.bias. */
struct layer *build_linear(struct builder *b, uint8_t x, uint8_t y, uint32_t in, uint32_t out, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
struct layer *build_norm(struct builder *b, uint8_t x, uint8_t y, uint32_t width, double eps, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
struct layer *build_embed(struct builder *b, uint8_t y, enum index_kind index, uint32_t rows, uint32_t width,
	const char *name);

#endif
