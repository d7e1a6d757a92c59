/* test_shard_index.c - model.safetensors.index.json, good and hostile. */
#include "shared/image.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#define NAME "model.safetensors.index.json"

static void refuse_n(const char *json, size_t n, const char *fault)
{
	struct fault why = {0};
	char **files;
	uint32_t count;
	ck_assert_msg(shard_index_parse(NAME, json, n, &files, &count, &why) == -EPROTO, "not refused: %s", fault);
	ck_assert_int_eq(why.code, TRIMS_E_BAD_MODEL);
	ck_assert_msg(strstr(why.text, NAME ": ") == why.text, "%s", why.text);
	ck_assert_msg(strstr(why.text, fault) != NULL, "\"%s\" is not in: %s", fault, why.text);
}

static void refuse(const char *json, const char *fault)
{
	refuse_n(json, strlen(json), fault);
}

static void free_files(char **files, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		free(files[i]);
	free(files);
}

static const char good_index[] = "{\"metadata\":{\"total_size\":12.5},\"weight_map\":{\"a\":\"m-2.safetensors\","
				 "\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}}";

START_TEST(shards_come_sorted_and_once_each)
{
	struct fault why;
	char **files;
	uint32_t n;
	ck_assert_int_eq(shard_index_parse(NAME, good_index, strlen(good_index), &files, &n, &why), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(files[0], "m-1.safetensors");
	ck_assert_str_eq(files[1], "m-2.safetensors");
	free_files(files, n);
}
END_TEST

START_TEST(names_that_lead_elsewhere_are_refused)
{
	static const char *const names[] = {"../m.safetensors", "a/m.safetensors", "/m.safetensors", ".m.safetensors",
		"m..safetensors", "m.bin", ".safetensors", "", "m.gguf", "m\\n.safetensors", "m\\u007f.safetensors"};
	char json[200];
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(json, sizeof json, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
		refuse(json, "not a name of a .safetensors file beside it");
	}
}
END_TEST

START_TEST(broken_indexes_are_refused)
{
	refuse("", "not valid JSON");
	refuse("{", "not valid JSON");
	refuse("{} x", "not valid JSON");
	refuse("[]", "weight_map");
	refuse("{}", "weight_map");
	refuse("{\"weight_map\":[]}", "weight_map");
	refuse("{\"weight_map\":{}}", "weight_map is empty");
	refuse("{\"weight_map\":{\"a\":1}}", "no file name is given for tensor \"a\"");
	refuse("{\"weight_map\":{\"a\":\"m.safetensors\",\"a\":\"m.safetensors\"}}", "duplicate");
	refuse("{\"weight_map\":{\"a\xff\":\"m.safetensors\"}}", "not valid JSON");
	refuse_n("{\"weight_map\":{\"a\\u0000\":\"m.safetensors\"}}", 41, "not valid JSON");
}
END_TEST

START_TEST(deep_nesting_and_sheer_size_are_refused)
{
	size_t n = 5000000;
	char *json = malloc(n);
	memset(json, '[', n);
	refuse_n(json, n, "more values than");
	refuse_n(json, 100000, "not valid JSON");
	memset(json, ' ', n);
	refuse_n(json, n, "not valid JSON");
	free(json);
}
END_TEST

START_TEST(too_many_shards_are_refused)
{
	for (int n = IMAGE_MAX_FILES; n <= IMAGE_MAX_FILES + 1; n++) {
		char *json = malloc((size_t)n * 64 + 64);
		int at = sprintf(json, "{\"weight_map\":{");
		for (int i = 0; i < n; i++)
			at += sprintf(json + at, "%s\"t%d\":\"m-%d.safetensors\"", i ? "," : "", i, i);
		sprintf(json + at, "}}");
		struct fault why;
		char **files;
		uint32_t count;
		if (n > IMAGE_MAX_FILES) {
			refuse(json, "1025 shards; at most 1024");
		} else {
			ck_assert_int_eq(shard_index_parse(NAME, json, strlen(json), &files, &count, &why), 0);
			ck_assert_uint_eq(count, IMAGE_MAX_FILES);
			free_files(files, count);
		}
		free(json);
	}
}
END_TEST

static int check(const char *json, struct tensor *v, uint32_t n, struct fault *why)
{
	char *files[] = {(char *)"m-1.safetensors", (char *)"m-2.safetensors"};
	struct tensor_list list = {.v = v, .n = n};
	*why = (struct fault){0};
	return shard_index_check(NAME, json, strlen(json), files, 2, &list, why);
}

START_TEST(the_index_must_agree_with_the_shards)
{
	struct tensor v[] = {{.name = (char *)"c", .file = 1}, {.name = (char *)"b", .file = 0},
		{.name = (char *)"a", .file = 1}, {.name = (char *)"more", .file = 0}, {.name = (char *)"b", .file = 1}};
	struct fault why;
	ck_assert_int_eq(check(good_index, v, 3, &why), 0);
	ck_assert_int_eq(check(good_index, v, 4, &why), 0);
	ck_assert_int_eq(check(good_index, v, 2, &why), -EPROTO);
	ck_assert_str_eq(why.text, NAME ": tensor \"a\": it is not in m-2.safetensors, where the index has it");
	ck_assert_int_eq(check(good_index, v, 5, &why), -EPROTO);
	ck_assert_str_eq(why.text, "m-2.safetensors: tensor \"b\": m-1.safetensors has a tensor of this name, too");
	v[2].file = 0;
	ck_assert_int_eq(check(good_index, v, 3, &why), -EPROTO);
	ck_assert_str_eq(why.text, NAME ": tensor \"a\": it is not in m-2.safetensors, where the index has it");
	v[2].file = 2;
	ck_assert_int_eq(check(good_index, v, 3, &why), -EPROTO);
	ck_assert_int_eq(check(good_index, v, 0, &why), -EPROTO);
}
END_TEST

static void good(Suite *s)
{
	UNIT_CASE(s, "good", shards_come_sorted_and_once_each, the_index_must_agree_with_the_shards);
}

static void hostile(Suite *s)
{
	UNIT_CASE(s, "hostile", names_that_lead_elsewhere_are_refused, broken_indexes_are_refused,
		deep_nesting_and_sheer_size_are_refused, too_many_shards_are_refused);
}

UNIT_MAIN("shard_index", good, hostile)
