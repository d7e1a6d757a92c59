/* find.c - what counts as a model, for every kind of source.
 *
 * A path that ends in .safetensors or .gguf is that file (all parts of a split GGUF); any other is a directory with
 * model.safetensors.index.json, or else with model.safetensors.  Side files are those beside the weights.
 * Keeps: at most IMAGE_MAX_FILES weight files, and the options' bounds on side files whatever a source lists. */
#include "mrm/source/internal.h"

#include "shared/image.h"
#include "shared/own.h"

#include <pthread.h>
#include <stdio.h>

#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"
#define LOOKERS 6 /* requests at once for files that may be there */

static const char *const known[] = {
#define SIDE_FILE(name) name,
#include "mrm/source/side_files.def"
#undef SIDE_FILE
};

static bool is_weight_name(const char *name)
{
	enum model_format format;
	return !header_format(name, &format);
}

/* Weights of other formats that people keep beside; nobody wants those to travel. */
static bool is_foreign_weight(const char *name)
{
	static const char *const suffixes[] = {
		".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pkl", ".tflite"};
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
		if (text_ends_with(name, suffixes[i]))
			return true;
	return false;
}

static int look_at(struct finder *f, const char *dir, const char *name, bool weight, struct source_file *out,
	struct fault *why)
{
	OWN_MEM char *path = text_join(dir, name);
	if (!path)
		return fail_memory(why);
	*out = (struct source_file){0};
	int r = f->look(f, path, weight, out, why);
	if (r)
		file_fini(out);
	return r;
}

static int add_weight(struct finder *f, struct source_listing *l, const char *dir, const char *name,
	struct fault *why)
{
	struct source_file file;
	int r = look_at(f, dir, name, true, &file, why);
	return r ? r : listing_add(l, &file, true, why);
}

static int read_small(struct finder *f, const struct source_file *file, uint8_t **out, struct fault *why)
{
	if (file->bytes > f->source->o.max_side_file_bytes)
		return fail(why, TRIMS_E_BAD_MODEL, "%s: %llu bytes are too many for an index", file->path,
			(unsigned long long)file->bytes);
	struct source_listing just = {.source = f->source, .files = (struct source_file *)file, .n_files = 1};
	uint8_t *data = malloc(file->bytes + 1);
	if (!data)
		return fail_memory(why);
	int r = source_read(f->worker, &just, 0, 0, file->bytes, data, f->worker->cancel, why);
	if (r) {
		free(data);
		return r;
	}
	data[file->bytes] = 0;
	*out = data;
	return 0;
}

static void free_names(char **names, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/* A shard that the index names and the source does not have makes the model bad, not absent. */
static int add_shards(struct finder *f, struct source_listing *l, const char *dir, const struct source_file *index,
	struct fault *why)
{
	OWN_MEM uint8_t *json = NULL;
	int r = read_small(f, index, &json, why);
	if (r)
		return r;
	char **names = NULL;
	uint32_t n = 0;
	if (shard_index_parse(index->path, (const char *)json, index->bytes, &names, &n, why))
		return -EPROTO;
	for (uint32_t i = 0; i < n && !r; i++) {
		r = add_weight(f, l, dir, names[i], why);
		if (r == -ENOENT)
			r = fail(why, TRIMS_E_BAD_MODEL, "%s names %s, which is not there", index->locator, names[i]);
	}
	free_names(names, n);
	return r;
}

static int add_split(struct finder *f, struct source_listing *l, const char *dir, const char *name, size_t prefix,
	uint32_t parts, struct fault *why)
{
	if (!parts || parts > IMAGE_MAX_FILES)
		return fail(why, TRIMS_E_BAD_MODEL, "%s: more than %u parts", name, IMAGE_MAX_FILES);
	for (uint32_t i = 1; i <= parts; i++) {
		OWN_MEM char *part = text_format("%.*s-%05u-of-%05u.gguf", (int)prefix, name, i, parts);
		if (!part)
			return fail_memory(why);
		int r = add_weight(f, l, dir, part, why);
		if (r == -ENOENT && i > 1)
			return fail(why, TRIMS_E_BAD_MODEL, "%s is there, its part %s is not", l->files[0].locator, part);
		if (r)
			return r;
	}
	return 0;
}

static int add_named_file(struct finder *f, struct source_listing *l, const char *dir, const char *name,
	struct fault *why)
{
	uint32_t no = 0, parts = 0;
	size_t prefix = 0;
	if (!gguf_split_name(name, &no, &parts, &prefix))
		return add_split(f, l, dir, name, prefix, parts, why);
	return add_weight(f, l, dir, name, why);
}

/* *index is filled when the model has one; the caller adds it behind the weights. */
static int add_directory(struct finder *f, struct source_listing *l, const char *dir, struct source_file *index,
	struct fault *why)
{
	struct fault refused = {0};
	int r = look_at(f, dir, INDEX_NAME, false, index, why);
	if (!r)
		return add_shards(f, l, dir, index, why);
	if (r != -ENOENT && r != -EACCES)
		return r;
	bool was_refused = r == -EACCES;
	if (was_refused && why)
		refused = *why;
	r = add_weight(f, l, dir, SINGLE_NAME, why);
	if (r == -ENOENT && was_refused) {
		if (why)
			*why = refused;
		return -EACCES;
	}
	return r;
}

/* ---- side files ---- */

static int known_rank(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (!strcmp(name, known[i]))
			return (int)i;
	return (int)ARRAY_LEN(known);
}

static int by_rank_then_name(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	int d = known_rank(x) - known_rank(y);
	return d ? d : strcmp(x, y);
}

static bool is_wanted(const char *name, bool only_known)
{
	if (only_known)
		return known_rank(name) < (int)ARRAY_LEN(known);
	return *name != '.' && strcmp(name, INDEX_NAME) && !is_weight_name(name) && !is_foreign_weight(name);
}

/* True when it was over one, and is left out. */
static bool over_bound(struct source_listing *l, const char *name, const struct source_file *file)
{
	const struct source_options *o = &l->source->o;
	unsigned long long bytes = file->bytes;
	if (bytes > o->max_side_file_bytes)
		listing_leave_out(l, name, "%llu bytes are more than the %llu that such a file may have", bytes,
			(unsigned long long)o->max_side_file_bytes);
	else if (l->n_files - l->n_weights >= o->max_side_files)
		listing_leave_out(l, name, "%u such files travel already", o->max_side_files);
	else if (l->side_bytes + bytes > o->max_side_total_bytes)
		listing_leave_out(l, name, "its %llu bytes are too many beside those that travel already", bytes);
	else
		return false;
	return true;
}

/* What looking at a side file gave: result r and *why, and on success the file, which is taken over.  listed: its name is
 * one that the source gave. */
static int take_side(struct finder *f, struct source_listing *l, const char *name, bool listed, int r,
	struct source_file *file, struct fault *why)
{
	if (r == -ENXIO || (r == -EACCES && f->source->ops->in_place))
		listing_leave_out(l, name, "%s", why->text);
	else if (r == -ENOENT && listed)
		listing_leave_out(l, name, "it leads nowhere");
	if (r == -ENOENT || r == -ENXIO || r == -EISDIR || (r == -EACCES && f->source->ops->refused_is_absent))
		return 0;
	if (r)
		return r;
	if (over_bound(l, name, file)) {
		file_fini(file);
		return 0;
	}
	return listing_add(l, file, false, why);
}

static int add_side(struct finder *f, struct source_listing *l, const char *dir, const char *name, struct fault *why)
{
	struct source_file file;
	int r = look_at(f, dir, name, false, &file, why);
	return take_side(f, l, name, true, r, &file, why);
}

/* A source that cannot list is asked for every known name: side by side, or a slow network's round trips add up. */
struct looks {
	struct finder *finder;
	const char *dir;
	_Atomic size_t next;
	struct look {
		struct source_file file;
		int result;
		struct fault why;
	} at[ARRAY_LEN(known)];
};

static void look_on(struct looks *a, struct source_worker *w)
{
	struct finder mine = *a->finder;
	mine.worker = w;
	for (size_t i; (i = atomic_fetch_add(&a->next, 1)) < ARRAY_LEN(known);)
		a->at[i].result = look_at(&mine, a->dir, known[i], false, &a->at[i].file, &a->at[i].why);
}

static void *look_thread(void *arg)
{
	struct looks *a = arg;
	struct source_worker *w;
	if (source_worker_new(&w, (uint64_t)(uintptr_t)&w) == 0) { /* else the others do the work */
		w->cancel = a->finder->worker->cancel;
		look_on(a, w);
		source_worker_free(&w);
	}
	return NULL;
}

static int add_known_sides(struct finder *f, struct source_listing *l, const char *dir, struct fault *why)
{
	OWN_MEM struct looks *a = calloc(1, sizeof *a);
	pthread_t thread[LOOKERS - 1];
	size_t threads = 0;
	int r = 0;
	if (!a)
		return fail_memory(why);
	a->finder = f;
	a->dir = dir;
	while (threads < ARRAY_LEN(thread) && !pthread_create(&thread[threads], NULL, look_thread, a))
		threads++;
	look_on(a, f->worker);
	while (threads)
		pthread_join(thread[--threads], NULL);
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (r && a->at[i].result == 0)
			file_fini(&a->at[i].file);
		if (r)
			continue;
		if (a->at[i].result)
			*why = a->at[i].why;
		r = take_side(f, l, known[i], false, a->at[i].result, &a->at[i].file, why);
	}
	return r;
}

/* Beside a file that was named itself may lie anything at all, so only what is known travels with it. */
static int add_sides(struct finder *f, struct source_listing *l, const char *dir, bool only_known, struct fault *why)
{
	char **names = NULL;
	uint32_t n = 0;
	if (!f->list)
		return add_known_sides(f, l, dir, why);
	int r = f->list(f, dir, &names, &n, why);
	if (r)
		return r;
	if (n)
		qsort(names, n, sizeof *names, by_rank_then_name);
	for (uint32_t i = 0; i < n && !r; i++)
		if (is_wanted(names[i], only_known))
			r = add_side(f, l, dir, names[i], why);
	free_names(names, n);
	return r;
}

static int find_directory(struct finder *f, const char *dir, struct source_listing *l, struct fault *why)
{
	struct source_file index = {0};
	int r = add_directory(f, l, dir, &index, why);
	if (!r && index.path) {
		l->index = l->n_files;
		r = listing_add(l, &index, false, why);
	}
	file_fini(&index);
	return r ? r : add_sides(f, l, dir, false, why);
}

static int find_file(struct finder *f, const char *path, struct source_listing *l, struct fault *why)
{
	const char *name = text_base_name(path);
	OWN_MEM char *dir = strndup(path, name == path ? 0 : (size_t)(name - path - 1));
	if (!dir)
		return fail_memory(why);
	int r = add_named_file(f, l, dir, name, why);
	return r ? r : add_sides(f, l, dir, true, why);
}

int find_model(struct finder *f, const char *path, struct source_listing *l, struct fault *why)
{
	int r = is_weight_name(path) ? find_file(f, path, l, why) : find_directory(f, path, l, why);
	if (r == -ENOENT)
		return fail(why, TRIMS_E_NOT_FOUND, "%s has no model %s", f->source->url, l->name);
	return r;
}
