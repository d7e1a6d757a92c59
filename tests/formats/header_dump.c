/* header_dump.c - prints what the parsers make of weight files, as JSON for formats.py.
 *   header_dump FILE...          the files are one model: one line
 *   header_dump --each FILE...   each is a model of its own: one line each
 * A refusal is {"fault": "..."}; the exit status is 0 also then.  Only heads are read, so files may be sparse. */
#include "shared/image.h"

#include "shared/own.h"
#include "shared/table.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static int parse_fd(int fd, const char *path, uint32_t file, uint64_t bytes, uint64_t *data_start,
	struct tensor_list *list, struct fault *why)
{
	enum model_format format;
	size_t have = 0;
	if (header_format(path, &format))
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s: of no known format", base_name(path));
	for (;;) {
		OWN_MEM uint8_t *head = malloc(have ? have : 1);
		if (!head || pread(fd, head, have, 0) != (ssize_t)have)
			return fault_errno(why, TRIMS_E_DISK_ERROR, errno, "%s", path);
		int r = header_parse(format, base_name(path), file, head, have, bytes, &have, data_start, list, why);
		if (r != -EAGAIN)
			return r;
	}
}

static int parse(const char *path, uint32_t file, uint64_t *bytes, uint64_t *data_start, struct tensor_list *list,
	struct fault *why)
{
	struct stat st;
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return fault_errno(why, TRIMS_E_DISK_ERROR, errno, "%s", path);
	*bytes = (uint64_t)st.st_size;
	return parse_fd(fd, path, file, *bytes, data_start, list, why);
}

static json_t *describe_tensor(const struct tensor *t)
{
	json_t *shape = json_array();
	for (uint32_t i = 0; i < t->rank; i++)
		json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
	return json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I}", "name", t->name, "dtype", dtype_name(t->dtype), "shape",
		shape, "file", (json_int_t)t->file, "file_off", (json_int_t)t->file_off, "bytes", (json_int_t)t->bytes, "extent",
		(json_int_t)t->extent, "offset", (json_int_t)t->offset);
}

static json_t *describe(const struct layout *l)
{
	json_t *tensors = json_array(), *extents = json_array(), *starts = json_array();
	for (uint32_t i = 0; i < l->n_tensors; i++)
		json_array_append_new(tensors, describe_tensor(&l->tensors[i]));
	for (uint32_t e = 0; e < l->n_extents; e++)
		json_array_append_new(extents, json_integer((json_int_t)l->extent_bytes[e]));
	for (uint32_t f = 0; f < l->n_files; f++)
		json_array_append_new(starts, json_integer((json_int_t)l->data_start[f]));
	return json_pack("{s:o, s:o, s:o, s:I, s:I, s:I}", "tensors", tensors, "extents", extents, "data_start", starts,
		"chunks", (json_int_t)l->n_chunks, "gap_bytes", (json_int_t)l->gap_bytes, "table_bytes",
		(json_int_t)table_bytes(l));
}

static void dump(char *const *paths, uint32_t n)
{
	static uint64_t bytes[IMAGE_MAX_FILES], data_start[IMAGE_MAX_FILES];
	static const char *names[IMAGE_MAX_FILES];
	struct tensor_list list = {0};
	struct layout *l = NULL;
	struct fault why = {0};
	int r = 0;
	for (uint32_t f = 0; f < n && !r; f++) {
		names[f] = base_name(paths[f]);
		r = parse(paths[f], f, &bytes[f], &data_start[f], &list, &why);
	}
	if (!r)
		r = layout_build(&l, &list, bytes, data_start, names, n, &why);
	json_t *out = r ? json_pack("{s:s}", "fault", why.text) : describe(l);
	json_dumpf(out, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(out);
	layout_free(&l);
	tensor_list_fini(&list);
}

int main(int argc, char **argv)
{
	bool each = argc > 1 && !strcmp(argv[1], "--each");
	char **paths = argv + 1 + each;
	int n = argc - 1 - each;
	if (n < 1 || (!each && n > IMAGE_MAX_FILES)) {
		fprintf(stderr, "usage: header_dump [--each] FILE...\n");
		return 2;
	}
	for (int i = 0; each && i < n; i++)
		dump(&paths[i], 1);
	if (!each)
		dump(paths, (uint32_t)n);
	return 0;
}
