/* fuzz_shard_index.c - a model.safetensors.index.json: refused with a sentence, or all its names are plain, sorted, once
 * each, and the index is found to disagree with shards that hold nothing. */
#include "shared/check.h"
#include "shared/image.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char name[] = "i.json";
	const struct tensor_list nothing = {0};
	struct fault why = {0};
	char **files = NULL, *json = malloc(size + 1);
	uint32_t n = 0;
	ASSERT(json);
	memcpy(json, data, size);
	int r = shard_index_parse(name, json, size, &files, &n, &why);
	if (r)
		ASSERT(r == -EPROTO && why.code == TRIMS_E_BAD_MODEL && !strncmp(why.text, "i.json: ", 8) && why.text[8]);
	else
		ASSERT(n && shard_index_check(name, json, size, files, n, &nothing, &why) == -EPROTO && why.text[0]);
	for (uint32_t i = 0; i < n; i++) {
		enum model_format format;
		ASSERT(*files[i] && !strchr(files[i], '/') && !strstr(files[i], ".."));
		ASSERT(!header_format(files[i], &format) && format == FORMAT_SAFETENSORS);
		ASSERT(!i || strcmp(files[i - 1], files[i]) < 0);
	}
	for (uint32_t i = 0; i < n; i++)
		free(files[i]);
	free(files);
	free(json);
	return 0;
}
