/* test_ctl_render.c - the daemon's reports as text: whole ones, strange ones, several pages. */
#include "tests/unit/unit.h"
#include "tools/ctl/ctl.h"

#include <string.h>

static char *render(void (*fn)(const json_t *, FILE *), const char *json)
{
	json_error_t error;
	json_t *value = json_loads(json, JSON_DECODE_ANY, &error);
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);

	ck_assert_msg(value != NULL, "%s", error.text);
	fn(value, f);
	fclose(f);
	json_decref(value);
	return text;
}

#define EXPECT_TEXT(fn, json, want)                                                                                   \
	do {                                                                                                          \
		char *got_ = render(fn, json);                                                                        \
		ck_assert_str_eq(got_, want);                                                                         \
		free(got_);                                                                                           \
	} while (0)

START_TEST(ls_says_where_each_model_is)
{
	EXPECT_TEXT(render_ls,
		"{\"models\":[{\"names\":[\"a/b\",\"alias\"],\"bytes\":1073741824,\"source\":\"dir:/m\",\"tiers\":{"
		"\"disk\":{\"state\":\"ready\",\"bytes\":4,\"landed\":4,\"leases\":0,\"pins\":1},"
		"\"host\":{\"state\":\"loading\",\"bytes\":200,\"landed\":50,\"leases\":3,\"pins\":0}}},"
		"{\"names\":[],\"bytes\":7,\"tiers\":{}}]}",
		"MODEL      BYTES  DISK          HOST                  SOURCE\n"
		"a/b (+1)    1.0G  ready pinned  loading 25% leases=3  dir:/m\n"
		"(no name)      7  -             -                     -\n");
}
END_TEST

START_TEST(show_lists_files_and_tensors)
{
	char *text = render(render_show,
		"{\"names\":[\"m\"],\"source\":\"dir:/m\",\"digest\":null,\"bytes\":2048,\"extents\":[2048],\"chunks\":1,"
		"\"compression\":0.5,\"tiers\":{\"host\":{\"state\":\"ready\",\"bytes\":2048}},"
		"\"files\":[{\"path\":\"config.json\",\"bytes\":10,\"sha256\":null,\"kind\":\"side\"}],"
		"\"left_out\":[{\"path\":\"big.json\",\"why\":\"too large\"}],\"left_out_count\":3,"
		"\"tensors\":[{\"name\":\"w\",\"dtype\":\"BF16\",\"shape\":[2,512],\"bytes\":2048,\"extent\":0,\"offset\":256}]}");
	ck_assert_ptr_nonnull(strstr(text, "digest  -\n"));
	ck_assert_ptr_nonnull(strstr(text, "bytes   2.0K (2048)\n"));
	ck_assert_ptr_nonnull(strstr(text, "image   1 extents, 1 chunks\n"));
	ck_assert_ptr_nonnull(strstr(text, "host    ready, 2.0K\n"));
	ck_assert_ptr_nonnull(strstr(text, "config.json     10  side  -\n"));
	ck_assert_ptr_nonnull(strstr(text, "LEFT OUT    WHY\nbig.json    too large\nand 2 more\n"));
	ck_assert_ptr_nonnull(strstr(text, "w       BF16   [2,512]   2.0K       0     256\n"));
	free(text);
}
END_TEST

START_TEST(trace_says_where_the_time_went)
{
	char *text = render(render_trace,
		"{\"loads\":[{\"from\":\"remote\",\"to\":\"host\",\"class\":\"demand\",\"result\":\"failed\",\"error\":\"gone\","
		"\"started_unix_ns\":1700000000000000000,\"total_ns\":812000000,\"stages\":{\"prepare_ns\":1000,"
		"\"transfer_ns\":800000000},\"bytes\":1048576,\"retries\":2,\"rate_bytes_per_s\":1310720}]}");
	ck_assert_ptr_nonnull(strstr(text, "2023-11-14 22:13:20  remote > host  demand  -     812ms        -      -      1us"));
	ck_assert_ptr_nonnull(strstr(text, "800ms       -       -   1.0M  1.2M/s        2  failed: gone\n"));
	free(text);
	text = render(render_trace, "{\"loads\":[{\"from\":\"host\",\"to\":\"gpu\",\"class\":\"demand\",\"plan\":7,\"helper_bytes\":1048576,"
		"\"total_ns\":1000},{\"from\":\"host\",\"to\":\"gpu\",\"class\":\"demand\",\"plan\":8,\"helper_bytes\":0,\"total_ns\":1000}]}");
	ck_assert_ptr_nonnull(strstr(text, "demand  7, 1.0M by helpers    1us"));
	ck_assert_ptr_nonnull(strstr(text, "demand  8                     1us"));
	free(text);
}
END_TEST

START_TEST(doctor_shows_checks_and_configuration)
{
	EXPECT_TEXT(render_doctor,
		"{\"version\":\"0.1.0\",\"pid\":12,\"uptime_s\":90,\"checks\":[{\"name\":\"io-uring\",\"state\":\"degraded\","
		"\"detail\":\"the kernel refuses it\"}],\"config\":{\"policy\":\"cost\",\"source\":[\"dir:/m\"]}}",
		"mrm 0.1.0, pid 12, up 1m30s\n\ndegraded  io-uring  the kernel refuses it\n\n"
		"policy  =  cost\nsource  =  [\"dir:/m\"]\n");
}
END_TEST

START_TEST(verify_names_the_damaged_chunks)
{
	static const char bad[] = "{\"copies\":[{\"tier\":\"disk\",\"chunks\":9,\"bytes\":100,\"bad\":[2,7],"
		"\"result\":\"corrupt\"},{\"tier\":\"host\",\"chunks\":0,\"bytes\":0,\"bad\":[],\"result\":\"absent\"}]}";

	EXPECT_TEXT(render_verify, bad,
		"TIER  CHUNKS  BYTES  RESULT\ndisk       9    100  corrupt, chunks: 2 7\nhost       0      0  absent\n");
	json_t *value = json_loads(bad, 0, NULL);
	ck_assert(!verify_is_ok(value));
	json_array_remove(json_object_get(value, "copies"), 0);
	ck_assert(verify_is_ok(value));
	json_decref(value);
}
END_TEST

START_TEST(tiers_and_links_are_listed)
{
	EXPECT_TEXT(render_tiers,
		"{\"tiers\":[{\"tier\":\"host\",\"capacity\":1024,\"used\":512,\"pinned\":0,\"leased\":0,\"draining\":0,"
		"\"copies\":1}],\"links\":[]}",
		"TIER  CAPACITY  USED  PINNED  LEASED  DRAINING  COPIES\nhost      1.0K   512       0       0         0       1\n");
}
END_TEST

static void links_now(const json_t *report, FILE *out)
{
	render_links(report, NULL, 0, out);
}

/* Each line with a number in it. */
START_TEST(no_line_about_a_simulated_device_is_without_the_word)
{
	static const struct {
		void (*render)(const json_t *report, FILE *out);
		const char *json;
	} reports[] = {
		{render_ls, "{\"models\":[{\"names\":[\"m\"],\"bytes\":7,\"tiers\":{\"gpu\":{\"state\":\"loading\",\"bytes\":200,"
			"\"landed\":50,\"leases\":3,\"pins\":1,\"simulated\":true}}}]}"},
		{render_ls, "{\"models\":[{\"names\":[\"m\"],\"bytes\":7,\"tiers\":{\"gpu0\":{\"state\":\"absent\"},"
			"\"gpu1\":{\"state\":\"loading\",\"bytes\":200,\"landed\":50,\"simulated\":true}}}]}"},
		{render_verify, "{\"copies\":[{\"tier\":\"gpu\",\"chunks\":3,\"bytes\":9,\"result\":\"ok\",\"simulated\":true}]}"},
		{render_tiers, "{\"tiers\":[{\"tier\":\"gpu\",\"capacity\":9,\"simulated\":true}],"
			"\"links\":[{\"from\":\"host\",\"to\":\"gpu\",\"bytes_per_s\":7,\"simulated\":true}]}"},
		{render_trace, "{\"loads\":[{\"from\":\"host\",\"to\":\"gpu\",\"total_ns\":7,\"link\":{\"waits\":1},\"simulated\":true}]}"},
		{links_now, "{\"simulated\":true,\"links\":[{\"device\":\"GPU-1\",\"direction\":\"h2d\",\"bytes_per_s\":7,"
			"\"classes\":[{\"class\":\"demand\",\"bytes\":1}],\"simulated\":true}],\"transfers\":[{\"model\":\"m\","
			"\"device\":\"GPU-1\",\"direction\":\"h2d\",\"class\":\"demand\",\"done\":1,\"bytes\":2}]}"},
	};
	for (size_t i = 0; i < ARRAY_LEN(reports); i++) {
		char *text = render(reports[i].render, reports[i].json);
		unsigned n = 0;
		for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
			if (strpbrk(line, "0123456789")) {
				ck_assert_msg(strstr(line, "simulated") != NULL, "%zu: %s", i, line);
				n++;
			}
		ck_assert_uint_gt(n, 0);
		free(text);
	}
}
END_TEST

START_TEST(a_report_of_another_shape_is_no_crash)
{
	static void (*const renderers[])(const json_t *, FILE *) = {
		render_ls, render_show, render_trace, render_doctor, render_verify, render_tiers};
	static const char all[] =
		"{\"models\":[null,{\"names\":[3],\"tiers\":[]}],\"tensors\":[{\"shape\":{}}],\"files\":[0],\"tiers\":[4],"
		"\"checks\":[[]],\"config\":{\"a\":null},\"copies\":[{\"bad\":{\"x\":1}}],\"links\":[false]}";
	static const char *const strange[] = {"null", "[]", "{}", "{\"models\":7,\"copies\":\"x\",\"loads\":[1,null,{}]}",
		all};

	for (size_t r = 0; r < ARRAY_LEN(renderers); r++)
		for (size_t i = 0; i < ARRAY_LEN(strange); i++)
			free(render(renderers[r], strange[i]));
}
END_TEST

START_TEST(pages_become_one_report)
{
	json_t *whole = json_loads("{\"models\":[1,2],\"n\":1}", 0, NULL);
	json_t *page = json_loads("{\"models\":[3],\"n\":2,\"more\":true}", 0, NULL);
	ck_assert(whole && page);
	ctl_merge_page(whole, page);
	char *text = json_dumps(whole, JSON_COMPACT | JSON_SORT_KEYS);
	ck_assert_str_eq(text, "{\"models\":[1,2,3],\"more\":true,\"n\":1}");
	free(text);
	json_decref(page);
	json_decref(whole);
}
END_TEST

static void reports(Suite *s)
{
	UNIT_CASE(s, "reports", ls_says_where_each_model_is, show_lists_files_and_tensors, trace_says_where_the_time_went,
		doctor_shows_checks_and_configuration, verify_names_the_damaged_chunks, tiers_and_links_are_listed,
		no_line_about_a_simulated_device_is_without_the_word,
		a_report_of_another_shape_is_no_crash, pages_become_one_report);
}

UNIT_MAIN("ctl_render", reports)
