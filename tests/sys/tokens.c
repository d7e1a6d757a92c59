/* tokens.c - tokens FOLDER FAMILY MOST: trims-run's tokenizer without a model, many texts in one process.
 * Standard input is lines of JSON: a text, or token numbers.  For each there is a line {"tokens", "text"} or {"error", "code"};
 * of a text, "text" is what its tokens say. */
#include "shared/own.h"
#include "tools/run/tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct folder {
	struct catalog catalog;
	const char *path;
};

/* Mapped until the process ends. */
static int file(const struct catalog *c, const char *name, const void **data, size_t *bytes)
{
	const struct folder *f = (const struct folder *)c;
	char path[4096];
	struct stat st;
	snprintf(path, sizeof path, "%s/%s", f->path, name);
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return -ENOENT;
	*bytes = (size_t)st.st_size;
	*data = st.st_size ? mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0) : "";
	return *data == MAP_FAILED ? -ENOENT : 0;
}

static int decode(const struct tokenizer *t, const int32_t *tokens, uint32_t n, json_t *answer, struct fault *why)
{
	OWN_MEM char *text = NULL;
	size_t bytes;
	int r = tokenizer_decode(t, tokens, n, &text, &bytes, why);
	if (!r)
		json_object_set_new(answer, "text", json_stringn(text, bytes));
	return r;
}

static int answer_line(const struct tokenizer *t, const json_t *line, uint32_t most, json_t *answer, struct fault *why)
{
	OWN_MEM int32_t *tokens = malloc((MAX(most, (uint32_t)json_array_size(line)) + 1) * sizeof *tokens);
	uint32_t n = (uint32_t)json_array_size(line);
	if (!tokens)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory");
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)json_integer_value(json_array_get(line, i));
	if (json_is_array(line))
		return decode(t, tokens, n, answer, why);
	int r = tokenizer_encode(t, json_string_value(line), most, tokens, &n, why);
	json_t *list = json_array();
	for (uint32_t i = 0; !r && i < n; i++)
		json_array_append_new(list, json_integer(tokens[i]));
	json_object_set_new(answer, "tokens", list);
	struct fault no_text; /* WordPiece has none */
	if (!r)
		decode(t, tokens, n, answer, &no_text);
	return r;
}

static void print_error(const struct fault *why)
{
	json_t *j = json_pack("{s:s,s:s}", "error", why->text, "code", error_name(why->code));
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

int main(int argc, char **argv)
{
	struct tokenizer *t;
	struct fault why = {0};
	if (argc != 4)
		return 2;
	struct folder f = {{NULL, file}, argv[1]};
	uint32_t most = (uint32_t)strtoul(argv[3], NULL, 10);
	if (tokenizer_open(&f.catalog, argv[2], &t, &why)) {
		print_error(&why);
		return 1;
	}
	OWN_MEM char *line = NULL;
	size_t room = 0;
	while (getline(&line, &room, stdin) > 0) {
		json_t *question = json_loads(line, JSON_DECODE_ANY, NULL), *answer = json_object();
		if (!question || answer_line(t, question, most, answer, &why)) {
			print_error(&why);
		} else {
			json_dumpf(answer, stdout, JSON_COMPACT);
			putchar('\n');
		}
		json_decref(question);
		json_decref(answer);
	}
	tokenizer_free(&t);
	return 0;
}
