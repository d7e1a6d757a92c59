/* shard_index.c - model.safetensors.index.json: which shard holds which tensor.
 * Keeps: memory is bounded by TREE_MAX values before jansson builds a tree of them; every file name that leaves here is a
 * plain name in the index's own directory. */
#include "shared/header.h"

#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define TREE_MAX (2 * (size_t)IMAGE_MAX_TENSORS)
#define FILE_NAME_MAX 255

static int refuse(const char *file_name, struct fault *why, const char *what, const char *about)
{
	return fault_set(why, TRIMS_E_BAD_MODEL, "%s: %s%s%.200s%s", file_name, what, about ? " \"" : "",
		about ? about : "", about ? "\"" : "");
}

/* Characters that begin or separate values: no fewer than there are values in the tree, give or take one. */
static size_t count_values(const char *json, size_t bytes)
{
	size_t n = 0;
	for (size_t i = 0; i < bytes; i++)
		n += json[i] == ',' || json[i] == '[' || json[i] == '{';
	return n;
}

static void decref(json_t **j)
{
	json_decref(*j);
}

/* The weight map, borrowed from *tree. */
static int load(const char *file_name, const char *json, size_t bytes, json_t **tree, json_t **map, struct fault *why)
{
	json_error_t e;
	if (bytes > IMAGE_MAX_HEADER_BYTES)
		return refuse(file_name, why, "the index has more than 100000000 bytes", NULL);
	if (count_values(json, bytes) > TREE_MAX)
		return refuse(file_name, why, "the index has more values than a model can have tensors", NULL);
	*tree = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &e);
	if (!*tree)
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s: not valid JSON: %s, at byte %d", file_name, e.text, e.position);
	*map = json_object_get(*tree, "weight_map");
	if (!json_is_object(*map))
		return refuse(file_name, why, "it has no object", "weight_map");
	return json_object_size(*map) ? 0 : refuse(file_name, why, "its weight_map is empty", NULL);
}

static bool name_is_plain(const char *name)
{
	enum model_format format;
	if (strlen(name) > FILE_NAME_MAX || *name == '.' || strchr(name, '/') || strstr(name, ".."))
		return false;
	for (const char *p = name; *p; p++)
		if ((uint8_t)*p < 0x20 || *p == 0x7f)
			return false;
	return !header_format(name, &format) && format == FORMAT_SAFETENSORS;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All file names of the map, sorted, each once; borrowed from the map. */
static int collect(const char *file_name, json_t *map, const char ***out, uint32_t *n, struct fault *why)
{
	const char *key;
	json_t *value;
	size_t at = 0, kept = 0;
	OWN_MEM const char **v = calloc(json_object_size(map), sizeof *v);
	if (!v)
		return fault_errno(why, TRIMS_E_NO_MEMORY, ENOMEM, "%s", file_name);
	json_object_foreach (map, key, value) {
		if (!json_is_string(value))
			return refuse(file_name, why, "no file name is given for tensor", key);
		if (!name_is_plain(json_string_value(value)))
			return refuse(file_name, why, "not a name of a .safetensors file beside it:", json_string_value(value));
		v[at++] = json_string_value(value);
	}
	qsort(v, at, sizeof *v, compare);
	for (size_t i = 0; i < at; i++)
		if (!kept || strcmp(v[kept - 1], v[i]))
			v[kept++] = v[i];
	if (kept > IMAGE_MAX_FILES)
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s: %zu shards; at most %d are possible", file_name, kept,
			IMAGE_MAX_FILES);
	*out = STEAL(v);
	*n = (uint32_t)kept;
	return 0;
}

int shard_index_parse(const char *file_name, const char *json, size_t bytes, char ***files, uint32_t *n,
	struct fault *why)
{
	OWN(decref) json_t *tree = NULL;
	OWN_MEM const char **names = NULL;
	json_t *map;
	uint32_t count = 0;
	int r = load(file_name, json, bytes, &tree, &map, why);
	if (!r)
		r = collect(file_name, map, &names, &count, why);
	if (r)
		return r;
	char **v = calloc(count, sizeof *v);
	bool whole = v != NULL;
	for (uint32_t i = 0; i < count && whole; i++)
		whole = (v[i] = strdup(names[i])) != NULL;
	if (!whole) {
		for (uint32_t i = 0; v && i < count; i++)
			free(v[i]);
		free(v);
		return fault_errno(why, TRIMS_E_NO_MEMORY, ENOMEM, "%s", file_name);
	}
	*files = v;
	*n = count;
	return 0;
}

/* ---- the index against the shards ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct tensor *const *)a)->name, (*(const struct tensor *const *)b)->name);
}

static int find_by_name(const void *key, const void *elem)
{
	return strcmp(key, (*(const struct tensor *const *)elem)->name);
}

/* A name may appear once in all shards together. */
static int refuse_twins(const struct tensor *const *sorted, uint32_t n, char *const *files, uint32_t n_files,
	struct fault *why)
{
	for (uint32_t i = 1; i < n; i++) {
		const struct tensor *a = sorted[i - 1], *b = sorted[i];
		if (!strcmp(a->name, b->name) && a->file < n_files && b->file < n_files)
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: tensor \"%.200s\": %s has a tensor of this name, too",
				files[MAX(a->file, b->file)], a->name, files[MIN(a->file, b->file)]);
	}
	return 0;
}

int shard_index_check(const char *file_name, const char *json, size_t bytes, char *const *files, uint32_t n,
	const struct tensor_list *tensors, struct fault *why)
{
	OWN(decref) json_t *tree = NULL;
	OWN_MEM const struct tensor **sorted = calloc((size_t)tensors->n + 1, sizeof *sorted);
	const char *key;
	json_t *map, *value;
	if (!sorted)
		return fault_errno(why, TRIMS_E_NO_MEMORY, ENOMEM, "%s", file_name);
	int r = load(file_name, json, bytes, &tree, &map, why);
	if (r)
		return r;
	for (uint32_t i = 0; i < tensors->n; i++)
		sorted[i] = &tensors->v[i];
	qsort(sorted, tensors->n, sizeof *sorted, by_name);
	r = refuse_twins(sorted, tensors->n, files, n, why);
	if (r)
		return r;
	json_object_foreach (map, key, value) {
		const char *shard = json_string_value(value);
		const struct tensor **t = bsearch(key, sorted, tensors->n, sizeof *sorted, find_by_name);
		if (!shard || !t || (*t)->file >= n || strcmp(files[(*t)->file], shard))
			return fault_set(why, TRIMS_E_BAD_MODEL, "%s: tensor \"%.200s\": it is not in %.200s, where the index has it",
				file_name, key, shard ? shard : "a file");
	}
	return 0;
}
