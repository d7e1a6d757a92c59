/* zoo_write.c - the models of zoo.h as files. */
#include "shared/check.h"
#include "shared/own.h"
#include "tools/bench/lab.h"
#include "tools/bench/zoo.h"
#include "tools/random.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_FLOATS ((size_t)1 << 20)

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct zoo_tensor *)a)->name, ((const struct zoo_tensor *)b)->name);
}

static void write_header(FILE *f, const struct zoo_tensors *t)
{
	char *text = NULL;
	size_t bytes = 0;
	uint64_t at = 0;
	FILE *out = open_memstream(&text, &bytes);
	ASSERT(out);
	fputs("{\"__metadata__\":{\"format\":\"pt\"}", out);
	for (uint32_t i = 0; i < t->n; i++) {
		const struct weight *w = &t->v[i].weight;
		fprintf(out, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", t->v[i].name);
		for (uint32_t d = 0; d < w->rank; d++)
			fprintf(out, "%s%" PRIu64, d ? "," : "", w->shape[d]);
		fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + w->bytes);
		at += w->bytes;
	}
	fputc('}', out);
	fflush(out);
	for (size_t n = bytes; n % 8; n++)
		fputc(' ', out);
	fclose(out);
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
static void write_floats(FILE *f, const struct zoo_tensor *w, uint64_t *state, float *block)
{
	bool scale = w->weight.rank == 1 && (ends_with(w->name, ".weight") || ends_with(w->name, ".running_var"));
	float middle = scale ? 1.0f : 0.0f;
	for (uint64_t left = w->weight.bytes / sizeof *block; left;) {
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

/* The caller's. */
static struct zoo_tensors list_tensors(const struct zoo_model *model)
{
	struct zoo_tensors t;
	struct net *net = NULL;
	struct fault why;
	if (zoo_build(model, &net, &t, &why))
		die("the model %s: %s", model->name, why.text);
	net_free(&net);
	return t;
}

uint64_t zoo_bytes(const struct zoo_model *model)
{
	struct zoo_tensors t = list_tensors(model);
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < t.n; i++)
		bytes += t.v[i].weight.bytes;
	zoo_tensors_fini(&t);
	return bytes;
}

uint64_t zoo_write(const struct zoo_model *model, const char *dir, uint64_t seed)
{
	struct zoo_tensors t = list_tensors(model);
	qsort(t.v, t.n, sizeof *t.v, by_name);
	zoo_write_config(model, dir);
	FILE *f = lab_create(dir, "model.safetensors");
	OWN_MEM float *block = calloc(BLOCK_FLOATS + 1, sizeof *block);
	ASSERT(block);
	uint64_t state = seed;
	write_header(f, &t);
	for (uint32_t i = 0; i < t.n; i++)
		write_floats(f, &t.v[i], &state, block);
	zoo_tensors_fini(&t);
	return finish(f, model);
}
