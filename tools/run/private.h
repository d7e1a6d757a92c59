/* private.h - a model that this process loads itself, with nothing of mrm: what mrm is compared with, so it is made as fast as
 * plain means can.
 *
 * The weight files' data is read by several threads at once into memory laid out as the backend wants it: each file in one
 * piece, in order, so that one copy moves all of it.  Reads go past the page cache (O_DIRECT) for pages that are not in it and
 * through it for those that are (mincore).
 * Thread: one.  Owns its memory, given back by private_free(). */
#ifndef TOOLS_RUN_PRIVATE_H
#define TOOLS_RUN_PRIVATE_H

#include "tools/run/backend.h"

struct private;

/* path: a folder with config.json and model.safetensors (or shards and their index), or one .safetensors file, whose folder
 * has the other files.  Reads headers only. */
int private_open(const char *path, struct private **out, struct fault *why);
void private_free(struct private **p);
const struct catalog *private_catalog(const struct private *p);
/* Once.  The backend must outlive the model. */
int private_load(struct private *p, struct backend *b, struct fault *why);
/* Where a tensor is, after private_load(). */
const void *private_tensor(const struct private *p, uint32_t tensor);
uint64_t private_bytes(const struct private *p);

#endif
