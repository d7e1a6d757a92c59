/* test_plan_file.c - plans written as JSON: what is taken, and that each way of being wrong is told in words. */
#include "tools/plan_file.h"

#include "shared/base.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

static int try_read(struct plan_file *p, const char *text, const char *model, struct fault *why)
{
	json_t *file = json_loads(text, 0, NULL), *numbers = json_pack("{s:i, s:i}", "a", 0, "b", 7);
	ck_assert_msg(file != NULL, "%s", text);
	int r = plan_file_read(p, file, model, numbers, why);
	json_decref(file);
	json_decref(numbers);
	return r;
}

START_TEST(a_plan_is_what_it_says)
{
	static const char text[] = "{\"model\": \"org/x\", \"keep_bytes\": 4194304, \"dha_bytes_per_s\": 9000000000,"
		"\"helpers\": [\"GPU-1\", \"GPU-2\"], \"tensors\": ["
		"{\"tensor\": \"b\", \"place\": \"dha\", \"step\": 65535}, {\"tensor\": 3, \"place\": \"load\", \"link\": 2}]}";
	struct plan_file p;
	struct fault why = {0};
	ck_assert_msg(try_read(&p, text, "org/x@main", &why) == 0, "%s", why.text);
	ck_assert_uint_eq(p.plan.size, sizeof p.plan);
	ck_assert_uint_eq(p.plan.n_entries, 2);
	ck_assert_uint_eq(p.plan.entries[0].tensor, 7);
	ck_assert_uint_eq(p.plan.entries[0].place, TRIMS_PLAN_HOST);
	ck_assert_uint_eq(p.plan.entries[0].step, 65535);
	ck_assert_uint_eq(p.plan.entries[1].tensor, 3);
	ck_assert_uint_eq(p.plan.entries[1].place, TRIMS_PLAN_LOAD);
	ck_assert_uint_eq(p.plan.entries[1].link, 2);
	ck_assert_uint_eq(p.plan.n_helpers, 2);
	ck_assert_str_eq(p.plan.helpers[1], "GPU-2");
	ck_assert_uint_eq(p.plan.keep_bytes, 4194304);
	ck_assert_uint_eq(p.plan.dha_bytes_per_s, 9000000000);
	plan_file_fini(&p);
}
END_TEST

START_TEST(it_may_be_a_part_of_a_larger_answer)
{
	struct plan_file p;
	struct fault why = {0};
	ck_assert_msg(try_read(&p, "{\"figures\": 1, \"plan\": {\"tensors\": [{\"tensor\": 1, \"place\": \"dha\"}]}}", "m", &why) == 0,
		"%s", why.text);
	ck_assert_uint_eq(p.plan.n_entries, 1);
	plan_file_fini(&p);
	ck_assert_int_eq(try_read(&p, "{\"tensors\": []}", "m", &why), 0);
	ck_assert_uint_eq(p.plan.n_entries, 0);
	plan_file_fini(&p);
	plan_file_fini(&p); /* harmless */
}
END_TEST

static const struct {
	const char *text, *says;
} wrong[] = {
	{"[]", "no object"},
	{"{}", "\"tensors\" is no array"},
	{"{\"tensors\": 1}", "\"tensors\" is no array"},
	{"{\"tensors\": [], \"keepbytes\": 1}", "knows no \"keepbytes\""},
	{"{\"tensors\": [], \"model\": \"org/y\"}", "made for org/y"},
	{"{\"tensors\": [], \"model\": 1}", "no name"},
	{"{\"tensors\": [], \"keep_bytes\": -1}", "\"keep_bytes\""},
	{"{\"tensors\": [], \"keep_bytes\": \"1\"}", "\"keep_bytes\""},
	{"{\"tensors\": [], \"dha_bytes_per_s\": 1.5}", "\"dha_bytes_per_s\""},
	{"{\"tensors\": [], \"helpers\": {}}", "\"helpers\""},
	{"{\"tensors\": [], \"helpers\": [1]}", "no UUID"},
	{"{\"tensors\": [], \"helpers\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]}", "\"helpers\""},
	{"{\"tensors\": [1]}", "no object"},
	{"{\"tensors\": [{\"tensor\": \"none\", \"place\": \"dha\"}]}", "no tensor \"none\""},
	{"{\"tensors\": [{\"place\": \"dha\"}]}", "neither a tensor's name"},
	{"{\"tensors\": [{\"tensor\": -1, \"place\": \"dha\"}]}", "neither a tensor's name"},
	{"{\"tensors\": [{\"tensor\": 4294967296, \"place\": \"dha\"}]}", "neither a tensor's name"},
	{"{\"tensors\": [{\"tensor\": 1}]}", "\"place\""},
	{"{\"tensors\": [{\"tensor\": 1, \"place\": \"host\"}]}", "\"place\""},
	{"{\"tensors\": [{\"tensor\": 1, \"place\": \"dha\", \"link\": 9}]}", "\"link\""},
	{"{\"tensors\": [{\"tensor\": 1, \"place\": \"dha\", \"step\": 65536}]}", "\"step\""},
	{"{\"tensors\": [{\"tensor\": 1, \"place\": \"dha\", \"layer\": 1}]}", "knows no \"layer\""},
};

START_TEST(whatever_is_wrong_is_told)
{
	struct plan_file p;
	struct fault why = {0};
	ck_assert_int_eq(try_read(&p, wrong[_i].text, "org/x", &why), -EPROTO);
	ck_assert_int_eq(why.code, TRIMS_E_BAD_REQUEST);
	ck_assert_msg(strstr(why.text, wrong[_i].says), "%s", why.text);
	ck_assert_ptr_null(p.json);
}
END_TEST

START_TEST(names_are_seen_and_files_that_are_none_are_told)
{
	struct fault why = {0};
	json_t *names = json_loads("{\"plan\": {\"tensors\": [{\"tensor\": 1}, {\"tensor\": \"a\"}]}}", 0, NULL);
	json_t *numbers = json_loads("{\"tensors\": [{\"tensor\": 1}, 5]}", 0, NULL);
	ck_assert(plan_file_has_names(names));
	ck_assert(!plan_file_has_names(numbers));
	json_decref(names);
	json_decref(numbers);
	ck_assert_ptr_null(plan_file_load("/nowhere/plan.json", &why));
	ck_assert_msg(strstr(why.text, "/nowhere/plan.json"), "%s", why.text);
	ck_assert_ptr_null(plan_file_load("/dev/null", &why));
	ck_assert_msg(strstr(why.text, "/dev/null"), "%s", why.text);
	ck_assert_ptr_null(plan_file_load("/tmp", &why));
	ck_assert_msg(strstr(why.text, "/tmp: Is a directory"), "%s", why.text);
}
END_TEST

static void plan_file(Suite *s)
{
	UNIT_CASE(s, "files", a_plan_is_what_it_says, it_may_be_a_part_of_a_larger_answer,
		names_are_seen_and_files_that_are_none_are_told);
	TCase *c = tcase_create("wrong");
	tcase_add_loop_test(c, whatever_is_wrong_is_told, 0, (int)ARRAY_LEN(wrong));
	suite_add_tcase(s, c);
}

UNIT_MAIN("plan_file", plan_file)
