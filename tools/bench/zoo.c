/* zoo.c - see zoo.h.  A catalog for the executor's builder that has every tensor it is asked for. */
#include "tools/bench/zoo.h"

#include "shared/check.h"
#include "shared/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct zoo_model zoo[] = {
#define ZOO(name, tokens, config) {name, config, tokens},
#include "tools/bench/zoo.def"
#undef ZOO
};
const uint32_t zoo_n = ARRAY_LEN(zoo);

const struct zoo_model *zoo_find(const char *name, size_t length)
{
	for (uint32_t i = 0; i < zoo_n; i++)
		if (strlen(zoo[i].name) == length && memcmp(zoo[i].name, name, length) == 0)
			return &zoo[i];
	return NULL;
}

struct maker {
	struct catalog catalog;
	const struct zoo_model *model;
	struct zoo_tensors tensors;
	uint32_t cap;
};

static uint64_t floats_of(const struct weight *w)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < w->rank; i++)
		n *= w->shape[i];
	return n;
}

/* Layers may share a tensor: GPT-2's head is its token embedding. */
static struct zoo_tensor *known(const struct zoo_tensors *t, const char *name)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (strcmp(t->v[i].name, name) == 0)
			return &t->v[i];
	return NULL;
}

static int find(const struct catalog *c, const char *name, const struct weight *want, struct weight *out)
{
	struct maker *m = container_of(c, struct maker, catalog);
	struct zoo_tensors *t = &m->tensors;
	struct zoo_tensor *w = known(t, name);
	if (!w && !want)
		return -ENOENT;
	if (!w) {
		if (t->n == m->cap) {
			m->cap = m->cap ? 2 * m->cap : 256;
			t->v = reallocarray(t->v, m->cap, sizeof *t->v);
			ASSERT(t->v);
		}
		w = &t->v[t->n];
		*w = (struct zoo_tensor){.weight = *want};
		snprintf(w->name, sizeof w->name, "%s", name);
		w->weight.tensor = t->n++;
		w->weight.dtype = DTYPE_F32;
		w->weight.bytes = floats_of(want) * sizeof(float);
	}
	*out = w->weight;
	return 0;
}

static int file(const struct catalog *c, const char *path, const void **data, size_t *bytes)
{
	const struct maker *m = container_of(c, struct maker, catalog);
	if (strcmp(path, "config.json") != 0)
		return -ENOENT;
	*data = m->model->config;
	*bytes = strlen(m->model->config);
	return 0;
}

int zoo_build(const struct zoo_model *model, struct net **net, struct zoo_tensors *tensors, struct fault *why)
{
	struct maker m = {.catalog = {.find = find, .file = file}, .model = model};
	int r = net_build(&m.catalog, net, why);
	*tensors = m.tensors;
	if (r)
		zoo_tensors_fini(tensors);
	return r;
}

void zoo_tensors_fini(struct zoo_tensors *t)
{
	free(t->v);
	*t = (struct zoo_tensors){0};
}
