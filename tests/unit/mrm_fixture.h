/* mrm_fixture.h - a random model in memory and the layout of its image, for tests of what fills copies.
 * Thread: the test's.  The model owns its files' bytes and its description. */
#ifndef TESTS_UNIT_MRM_FIXTURE_H
#define TESTS_UNIT_MRM_FIXTURE_H

#include "mrm/disk/desc.h"
#include "shared/image.h"
#include "tests/unit/unit.h"

#include <string.h>

#define MODEL_MAX_FILES 8

struct model {
	struct image_desc *desc;
	uint32_t n_files;
	uint8_t *file[MODEL_MAX_FILES];
	uint64_t bytes[MODEL_MAX_FILES], head[MODEL_MAX_FILES];
};

static inline char *model_text(const char *s)
{
	char *copy = strdup(s);
	ck_assert_ptr_nonnull(copy);
	return copy;
}

static inline void model_tensor(struct tensor_list *list, uint32_t file, uint64_t off, uint64_t bytes)
{
	char name[40];
	snprintf(name, sizeof name, "t%u", list->n);
	list->v = realloc(list->v, (list->n + 1) * sizeof *list->v);
	list->cap = list->n + 1;
	list->v[list->n++] = (struct tensor){.name = model_text(name), .dtype = DTYPE_U8, .rank = 1, .shape = {bytes},
		.file = file, .file_off = off, .bytes = bytes};
}

/* Nobody else has seen these bytes yet, so the thread sanitizer need not look at each. */
__attribute__((no_sanitize("thread"))) static inline void model_noise(uint8_t *p, uint64_t bytes, uint64_t seed)
{
	for (uint64_t i = 0; i < bytes; i++) {
		if (i % 8 == 0)
			seed = seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
		p[i] = (uint8_t)(seed >> (56 - i % 8 * 8));
	}
}

/* A file of about `data` bytes behind its head: tensors of odd sizes, with gaps between them when asked for. */
static inline void model_file(struct model *m, struct tensor_list *list, uint64_t data, bool gaps, uint64_t *seed)
{
	uint32_t f = m->n_files++;
	uint64_t at = m->head[f] = 1 + unit_random(seed) % 5000, end = at + data;
	while (at < end) {
		uint64_t n = 1 + unit_random(seed) % (unit_random(seed) % 4 ? 3 << 20 : 900);
		n = n < end - at ? n : end - at;
		model_tensor(list, f, at, n);
		at += n;
		if (gaps)
			at += unit_random(seed) % 40;
	}
	m->bytes[f] = at;
	m->file[f] = malloc(at);
	model_noise(m->file[f], at, unit_random(seed));
}

/* data[i]: bytes of file i. */
static inline void model_init(struct model *m, const uint64_t *data, uint32_t n_files, bool gaps, uint64_t *seed)
{
	static const char *const names[] = {"0", "1", "2", "3", "4", "5", "6", "7"};
	struct tensor_list list = {0};
	struct fault why;
	*m = (struct model){0};
	for (uint32_t i = 0; i < n_files; i++)
		model_file(m, &list, data[i], gaps, seed);
	image_desc_new(&m->desc);
	m->desc->name = model_text("random");
	m->desc->source = model_text("test:");
	m->desc->revision = model_text("");
	m->desc->n_files = n_files;
	m->desc->files = calloc(n_files, sizeof *m->desc->files);
	for (uint32_t i = 0; i < n_files; i++)
		m->desc->files[i] = (struct image_file){.path = model_text(names[i]), .version = model_text("1")};
	int e = layout_build(&m->desc->layout, &list, m->bytes, m->head, names, n_files, &why);
	ck_assert_msg(e == 0, "%s", why.text);
}

static inline void model_fini(struct model *m)
{
	for (uint32_t i = 0; i < m->n_files; i++)
		free(m->file[i]);
	image_desc_free(&m->desc);
}

/* What a worker does with a chunk's ranges. */
static inline void model_gather(const struct model *m, uint32_t chunk, uint8_t *dst, uint8_t *gaps)
{
	struct layout_span spans[MODEL_MAX_FILES];
	const uint8_t *data[MODEL_MAX_FILES];
	uint32_t n = layout_spans(m->desc->layout, chunk, spans, MODEL_MAX_FILES);
	for (uint32_t i = 0; i < n; i++)
		data[i] = m->file[spans[i].file] + spans[i].off;
	struct layout_fill f;
	layout_fill_begin(&f, m->desc->layout, chunk, dst, gaps, NULL, NULL);
	layout_gather(&f, spans, data, n);
}

/* A random order of 0 .. n - 1; heap. */
static inline uint32_t *random_order(uint32_t n, uint64_t *seed)
{
	uint32_t *order = calloc(n, sizeof *order);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = (uint32_t)(unit_random(seed) % (i + 1));
		order[i] = order[k];
		order[k] = i;
	}
	return order;
}

#endif
