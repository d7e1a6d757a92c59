/* zoo.h - models for trims-bench e2e: real architectures at full size, with random weights of sensible magnitude, made where they
 * are needed (zoo.def).  Their tensors' names and shapes are what the executor itself asks for, so there is no second list.
 * Thread: main. */
#ifndef TOOLS_BENCH_ZOO_H
#define TOOLS_BENCH_ZOO_H

#include "tools/run/net.h"

struct zoo_model {
	const char *name, *config;
	uint32_t tokens; /* of a sequence; images: 0 */
};

extern const struct zoo_model zoo[];
extern const uint32_t zoo_n;
/* The first `length` bytes of the name; NULL: none has that. */
const struct zoo_model *zoo_find(const char *name, size_t length);

#define ZOO_NAME 256

/* What a model consists of, in the order in which the executor asks for it. */
struct zoo_tensor {
	char name[ZOO_NAME];
	struct weight weight; /* F32 */
};

struct zoo_tensors {
	struct zoo_tensor *v;
	uint32_t n;
};

/* The executor's net of a model, without weights; both are the caller's.  -EPROTO: its configuration is none, with *why. */
int zoo_build(const struct zoo_model *m, struct net **net, struct zoo_tensors *tensors, struct fault *why);
void zoo_tensors_fini(struct zoo_tensors *t);
/* Of its weights. */
uint64_t zoo_bytes(const struct zoo_model *m);

/* Writes DIR/config.json and DIR/model.safetensors (fp32), whose tensors lie as safetensors' own writer orders them: by name.
 * Returns the weight file's bytes. */
uint64_t zoo_write(const struct zoo_model *m, const char *dir, uint64_t seed);
/* The first of the two alone. */
void zoo_write_config(const struct zoo_model *m, const char *dir);

#endif
