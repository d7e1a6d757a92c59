/* exec.h - runs a net: activations, calls, passes.
 *
 *	exec_new(backend, net, weights, n, t, &e)      for inputs of this size
 *	exec_put_tokens() or exec_put_image()          before each pass
 *	exec_pass(e)                                   the result is in the backend's memory
 *	exec_result(e, out)                            n * net->result_width floats
 *
 * A pass is one walk over the layers; each waits for its weights in the way of its mode.  Of a decoder the first pass takes
 * the prompt, and each later one one token (exec_step()).
 * Thread: one.  Owns its memory in the backend; borrows backend, net, and weights. */
#ifndef TOOLS_RUN_EXEC_H
#define TOOLS_RUN_EXEC_H

#include "tools/run/weights.h"

struct exec;

/* n inputs of t tokens (images: t = 1); room for `more` tokens to be generated behind them. */
int exec_new(struct backend *b, const struct net *net, struct weights *w, uint32_t n, uint32_t t, uint32_t more,
	struct exec **out, struct fault *why);
void exec_free(struct exec **e);

/* tokens: [n][t], lengths: [n], 1 .. t each; what is behind a sequence's length is padding and must be a valid token.
 * Here and below: what is put stays as it is until the pass is over. */
int exec_put_tokens(struct exec *e, const int32_t *tokens, const int32_t *lengths, struct fault *why);
/* [n][channels][pixels][pixels] */
int exec_put_image(struct exec *e, const float *image, struct fault *why);
int exec_pass(struct exec *e, struct fault *why);
/* One more token for each sequence: tokens [n]. */
int exec_step(struct exec *e, const int32_t *tokens, struct fault *why);
int exec_result(struct exec *e, float *out, struct fault *why);

/* The last pass layer by layer, in ns; for profiles.  Only after exec_time_layers(e, true), which makes passes slower. */
void exec_time_layers(struct exec *e, bool on);
uint64_t exec_layer_ns(const struct exec *e, uint32_t layer);
/* When that began, its weights being there, by clock_ns(). */
uint64_t exec_layer_began_ns(const struct exec *e, uint32_t layer);

#endif
