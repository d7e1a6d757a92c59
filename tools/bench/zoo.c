/* zoo.c - see zoo.h.  A catalog for the executor's builder that has every tensor it is asked for, and writes them down. */
#include "tools/bench/zoo.h"

#include "shared/check.h"
#include "shared/image.h"
#include "shared/own.h"
#include "tools/bench/lab.h"
#include "tools/random.h"
#include "tools/run/net.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_FLOATS ((size_t)1 << 20)
#define ZOO_NAME 256

const struct zoo_model zoo[] = {
#define ZOO(name, tokens, config) {name, config, tokens},
#include "tools/bench/zoo.def"
#undef ZOO
};
const uint32_t zoo_n = ARRAY_LEN(zoo);

struct wanted {
	char name[ZOO_NAME];
	struct weight weight;
};

struct maker {
	struct catalog catalog;
	const struct zoo_model *model;
	struct wanted *v;
	uint32_t n, cap;
};

static uint64_t floats_of(const struct weight *w)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < w->rank; i++)
		n *= w->shape[i];
	return n;
}

/* Layers may share a tensor: GPT-2's head is its token embedding. */
static struct wanted *known(const struct maker *m, const char *name)
{
	for (uint32_t i = 0; i < m->n; i++)
		if (strcmp(m->v[i].name, name) == 0)
			return &m->v[i];
	return NULL;
}

static int find(const struct catalog *c, const char *name, const struct weight *want, struct weight *out)
{
	struct maker *m = container_of(c, struct maker, catalog);
	struct wanted *w = known(m, name);
	if (!w && !want)
		return -ENOENT;
	if (!w) {
		if (m->n == m->cap) {
			m->cap = m->cap ? 2 * m->cap : 256;
			m->v = reallocarray(m->v, m->cap, sizeof *m->v);
			ASSERT(m->v);
		}
		w = &m->v[m->n];
		*w = (struct wanted){.weight = *want};
		snprintf(w->name, sizeof w->name, "%s", name);
		w->weight.tensor = m->n++;
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

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct wanted *)a)->name, ((const struct wanted *)b)->name);
}

static void write_header(FILE *f, const struct maker *m)
{
	char *text = NULL;
	size_t bytes = 0;
	uint64_t at = 0;
	FILE *t = open_memstream(&text, &bytes);
	ASSERT(t);
	fputs("{\"__metadata__\":{\"format\":\"pt\"}", t);
	for (uint32_t i = 0; i < m->n; i++) {
		const struct weight *w = &m->v[i].weight;
		fprintf(t, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", m->v[i].name);
		for (uint32_t d = 0; d < w->rank; d++)
			fprintf(t, "%s%" PRIu64, d ? "," : "", w->shape[d]);
		fprintf(t, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + w->bytes);
		at += w->bytes;
	}
	fputc('}', t);
	fflush(t);
	for (size_t n = bytes; n % 8; n++)
		fputc(' ', t);
	fclose(t);
	uint64_t length = bytes; /* the machines trims runs on are little-endian, as the format is */
	fwrite(&length, sizeof length, 1, f);
	fwrite(text, 1, bytes, f);
	free(text);
}

static bool ends_with(const char *name, const char *suffix)
{
	size_t n = strlen(name), s = strlen(suffix);
	return n >= s && strcmp(name + n - s, suffix) == 0;
}

/* Weights around 0 as training leaves them; scales and variances around 1, or nothing finite would come out. */
static void write_floats(FILE *f, const struct wanted *w, uint64_t *state, float *block)
{
	bool scale = w->weight.rank == 1 && (ends_with(w->name, ".weight") || ends_with(w->name, ".running_var"));
	float middle = scale ? 1.0f : 0.0f;
	for (uint64_t left = floats_of(&w->weight); left;) {
		size_t n = (size_t)MIN(left, BLOCK_FLOATS);
		for (size_t i = 0; i < n; i += 2) {
			uint64_t r = random_next(state);
			block[i] = middle + (float)(int32_t)r * (0.04f / (float)INT32_MAX);
			block[i + 1] = middle + (float)(int32_t)(r >> 32) * (0.04f / (float)INT32_MAX);
		}
		fwrite(block, sizeof *block, n, f);
		left -= n;
	}
}

static uint64_t finish(FILE *f, const struct zoo_model *m)
{
	long bytes = fflush(f) ? -1 : ftell(f);
	if (bytes < 0 || ferror(f) || fsync(fileno(f)))
		die_errno(errno, "writing the model %s", m->name);
	fclose(f);
	return (uint64_t)bytes;
}

void zoo_write_config(const struct zoo_model *model, const char *dir)
{
	FILE *config = lab_create(dir, "config.json");
	fputs(model->config, config);
	finish(config, model);
}

/* All tensors that the executor asks for; the caller frees m->v. */
static void list_tensors(struct maker *m, const struct zoo_model *model)
{
	struct net *net = NULL;
	struct fault why;
	*m = (struct maker){.catalog = {.find = find, .file = file}, .model = model};
	if (net_build(&m->catalog, &net, &why))
		die("the model %s: %s", model->name, why.text);
	net_free(&net);
}

uint64_t zoo_bytes(const struct zoo_model *model)
{
	struct maker m;
	uint64_t bytes = 0;
	list_tensors(&m, model);
	for (uint32_t i = 0; i < m.n; i++)
		bytes += m.v[i].weight.bytes;
	free(m.v);
	return bytes;
}

uint64_t zoo_write(const struct zoo_model *model, const char *dir, uint64_t seed)
{
	struct maker m;
	list_tensors(&m, model);
	qsort(m.v, m.n, sizeof *m.v, by_name);
	zoo_write_config(model, dir);
	FILE *f = lab_create(dir, "model.safetensors");
	OWN_MEM float *block = calloc(BLOCK_FLOATS + 1, sizeof *block);
	ASSERT(block);
	uint64_t state = seed;
	write_header(f, &m);
	for (uint32_t i = 0; i < m.n; i++)
		write_floats(f, &m.v[i], &state, block);
	free(m.v);
	return finish(f, model);
}
