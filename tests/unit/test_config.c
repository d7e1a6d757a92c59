/* test_config.c - mrm/config: layers, types, bounds; what --print-config prints gives the same settings again. */
#include "mrm/config.h"
#include "shared/own.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static char path[64];

/* A configuration file with this text; NULL: none. */
static const char *file(const char *text)
{
	snprintf(path, sizeof path, "/tmp/test_config.XXXXXX");
	OWN_FD int fd = mkstemp(path);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	return path;
}

static void forget(void)
{
	if (*path)
		unlink(path);
	*path = 0;
}

#define LOAD(c, why, ...)                                                                                             \
	load(c, why, (const char *const[]){"mrm", __VA_ARGS__}, sizeof((const char *const[]){"mrm", __VA_ARGS__}) / sizeof(char *))

static int load(struct config **c, struct fault *why, const char *const *argv, size_t n)
{
	enum config_action action;
	*c = NULL;
	return config_load(c, (int)n, (char **)argv, &action, why);
}

static struct config *must_load(const char *const *argv, size_t n)
{
	struct config *c;
	struct fault why = {0};
	ck_assert_msg(load(&c, &why, argv, n) == 0, "%s", why.text);
	return c;
}
#define MUST_LOAD(...)                                                                                                \
	must_load((const char *const[]){"mrm", __VA_ARGS__}, sizeof((const char *const[]){"mrm", __VA_ARGS__}) / sizeof(char *))

/* Refused with a sentence that names the option. */
static void must_refuse(const char *name, const char *value)
{
	struct config *c;
	struct fault why = {0};
	char option[80];
	snprintf(option, sizeof option, "--%s", name);
	ck_assert_msg(LOAD(&c, &why, option, value) == -EINVAL, "%s=%s is taken", name, value);
	ck_assert_ptr_null(c);
	ck_assert_int_eq(why.code, TRIMS_E_BAD_REQUEST);
	ck_assert_msg(strstr(why.text, name) != NULL, "%s", why.text);
}

START_TEST(the_command_line_wins_then_the_environment_then_the_file)
{
	const char *f = file("policy = lru\nread-depth = 7\nmin-residency = 3s\n");
	setenv("TRIMS_READ_DEPTH", "8", 1);
	setenv("TRIMS_MIN_RESIDENCY", "4s", 1);
	struct config *c = MUST_LOAD("--min-residency", "5s", "--config", f);
	ck_assert_str_eq(c->policy, "lru");
	ck_assert_uint_eq(c->read_depth, 8);
	ck_assert_uint_eq(c->min_residency, 5 * NS_PER_S);
	ck_assert_str_eq(c->compress, "auto");
	ck_assert_str_eq(c->config, f);
	config_free(&c);
	ck_assert_ptr_null(c);
	setenv("TRIMS_CONFIG", f, 1);
	c = MUST_LOAD("--read-depth=9");
	ck_assert_str_eq(c->policy, "lru");
	ck_assert_uint_eq(c->read_depth, 9);
	config_free(&c);
	forget();
}
END_TEST

START_TEST(a_list_is_replaced_by_the_layer_above_not_added_to)
{
	const char *f = file("source = dir:/one\nsource = dir:/two\n");
	struct config *c = MUST_LOAD("--config", f);
	ck_assert_uint_eq(c->source.n, 2);
	ck_assert_str_eq(c->source.v[1], "dir:/two");
	config_free(&c);
	setenv("TRIMS_SOURCE", "dir:/three  dir:/four dir:/five", 1);
	c = MUST_LOAD("--config", f);
	ck_assert_uint_eq(c->source.n, 3);
	ck_assert_str_eq(c->source.v[2], "dir:/five");
	config_free(&c);
	c = MUST_LOAD("--config", f, "--source", "dir:/six", "--policy", "lru", "--source=dir:/seven");
	ck_assert_uint_eq(c->source.n, 2);
	ck_assert_str_eq(c->source.v[0], "dir:/six");
	ck_assert_str_eq(c->source.v[1], "dir:/seven");
	config_free(&c);
	forget();
}
END_TEST

START_TEST(sizes_have_suffixes_and_bounds)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"1", 1}, {"64K", 65536}, {"3M", 3 << 20}, {"2G", (uint64_t)2 << 30}, {"1T", (uint64_t)1 << 40},
		{"18446744073709551615", UINT64_MAX}};
	static const char *const bad[] = {"", "K", "-1", "+1", " 1", "1 ", "1k", "1KB", "1.5G", "0x10", "1G1",
		"18446744073709551616", "99999999999999999999999", "16777216T"};
	uint64_t v;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		ck_assert_int_eq(config_parse_size(good[i].text, &v), 0);
		ck_assert_uint_eq(v, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ck_assert_msg(config_parse_size(bad[i], &v) < 0, "\"%s\"", bad[i]);
		must_refuse("host-bytes", bad[i]);
	}
	must_refuse("host-bytes", "18446744073709551615");
	must_refuse("max-file-bytes", "0");
	must_refuse("max-file-bytes", "2G");
}
END_TEST

START_TEST(times_have_suffixes_and_bounds)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {{"0", 0}, {"7", 7 * NS_PER_S}, {"7s", 7 * NS_PER_S}, {"5us", 5000}, {"200ms", 200 * NS_PER_MS},
		{"10m", 600 * NS_PER_S}, {"2h", 7200 * NS_PER_S}};
	static const char *const bad[] = {"", "s", "-1s", "1S", "1d", "1ns", "1.5s", "1s ", "18446744074", "99999999999999999999h"};
	uint64_t v;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		ck_assert_int_eq(config_parse_time(good[i].text, &v), 0);
		ck_assert_uint_eq(v, good[i].ns);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ck_assert_msg(config_parse_time(bad[i], &v) < 0, "\"%s\"", bad[i]);
		must_refuse("min-residency", bad[i]);
	}
	must_refuse("min-residency", "3601s");
	must_refuse("half-life", "999us");
}
END_TEST

START_TEST(a_range_is_told_in_the_units_that_people_type)
{
	static const struct {
		const char *option, *value, *said;
	} rows[] = {{"--min-residency", "3601s", "min-residency: 3601s is outside 0 to 1h"},
		{"--half-life", "999us", "half-life: 999us is outside 1ms to 1281023h"},
		{"--link-target", "2s", "link-target: 2s is outside 20us to 1s"},
		{"--retry-base", "99999999999999999999h", "retry-base: 99999999999999999999h is outside 1us to 1m"},
		{"--max-file-bytes", "2G", "max-file-bytes: 2G is outside 1 to 1G"},
		{"--host-bytes", "16777216T", "host-bytes: 16777216T is outside 0 to 4194303T"},
		{"--read-depth", "1024", "read-depth: 1024 is outside 1 to 64"}};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config *c;
		struct fault why = {0};
		ck_assert_int_eq(LOAD(&c, &why, rows[i].option, rows[i].value), -EINVAL);
		ck_assert_str_eq(why.text, rows[i].said);
	}
}
END_TEST

START_TEST(counts_texts_choices_and_answers_are_checked)
{
	must_refuse("read-depth", "0");
	must_refuse("read-depth", "65");
	must_refuse("read-depth", "4K");
	must_refuse("read-depth", "");
	must_refuse("socket", "");
	char much[200];
	memset(much, '/', sizeof much - 1);
	much[sizeof much - 1] = 0;
	must_refuse("socket", much);
	must_refuse("policy", "");
	for (size_t i = 0; i < 4; i++)
		must_refuse("compress", (const char *const[]){"", "aut", "autos", "auto|always"}[i]);
	must_refuse("dedup", "maybe");
	must_refuse("dedup", "YES");
	static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
	for (size_t i = 0; i < 4; i++) {
		struct config *c = MUST_LOAD("--dedup", yes[i]);
		ck_assert_uint_eq(c->dedup, 1);
		config_free(&c);
		c = MUST_LOAD("--dedup", no[i]);
		ck_assert_uint_eq(c->dedup, 0);
		config_free(&c);
	}
}
END_TEST

START_TEST(a_list_is_bounded)
{
	const char *argv[1 + 2 * (CONFIG_MAX_LIST + 1)] = {"mrm"};
	for (size_t i = 0; i <= CONFIG_MAX_LIST; i++) {
		argv[1 + 2 * i] = "--source";
		argv[2 + 2 * i] = "dir:/x";
	}
	struct config *c = must_load(argv, 1 + 2 * CONFIG_MAX_LIST);
	ck_assert_uint_eq(c->source.n, CONFIG_MAX_LIST);
	config_free(&c);
	struct fault why;
	ck_assert_int_eq(load(&c, &why, argv, ARRAY_LEN(argv)), -EINVAL);
	ck_assert_msg(strstr(why.text, "source") != NULL, "%s", why.text);
}
END_TEST

START_TEST(unknown_words_are_refused_and_flags_are_actions)
{
	static const char *const bad[] = {"--no-such", "stray", "--", "-x", "--socket", "--no-such=1", "--socke=1"};
	struct config *c;
	struct fault why;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(LOAD(&c, &why, bad[i]) == -EINVAL, "%s", bad[i]);
	static const struct {
		const char *flag;
		enum config_action action;
	} flags[] = {{"--check", CONFIG_CHECK}, {"--print-config", CONFIG_PRINT}, {"--help", CONFIG_HELP}, {"-h", CONFIG_HELP},
		{"--version", CONFIG_VERSION}};
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		enum config_action action;
		ck_assert_int_eq(config_load(&c, 2, (char *[]){(char *)"mrm", (char *)flags[i].flag}, &action, &why), 0);
		ck_assert_int_eq(action, flags[i].action);
		config_free(&c);
	}
}
END_TEST

/* Refused, and the sentence has `part` in it. */
static void must_refuse_file(const char *text, const char *part)
{
	struct config *c;
	struct fault why = {0};
	ck_assert_msg(LOAD(&c, &why, "--config", file(text)) == -EINVAL, "taken: %s", text);
	ck_assert_msg(strstr(why.text, part) != NULL, "\"%s\" is not in: %s", part, why.text);
	forget();
}

START_TEST(what_is_wrong_in_a_file_is_said_wherever_it_stands)
{
	must_refuse_file("no-such = 1\n", "no-such");
	must_refuse_file("no-such = 1\npolicy = lru\n", "no-such");
	must_refuse_file("policy = lru\nread-depth = 1000\ncompress = never\n", "read-depth");
	must_refuse_file("policy = lru\nthis is no setting\npolicy = lru\n", "line 2");
	must_refuse_file("config = /etc/passwd\n", "config");
	must_refuse_file("[other]\npolicy = lru\n", "policy");
	struct config *c;
	struct fault why;
	ck_assert_int_eq(LOAD(&c, &why, "--config", "/tmp/there/is/no/such/file"), -EINVAL);
	ck_assert_msg(strstr(why.text, "/tmp/there/is/no/such/file: ") != NULL, "%s", why.text);
	ck_assert_int_eq(LOAD(&c, &why, "--config", "/proc"), -EINVAL);
	ck_assert_str_eq(why.text, "/proc: Is a directory");
	c = MUST_LOAD("--config", file("# a comment\n; another\n\n[mrm]\npolicy=lru\n  \n"));
	ck_assert_str_eq(c->policy, "lru");
	config_free(&c);
	forget();
}
END_TEST

static char *printed(const struct config *c)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	config_print(c, f);
	fclose(f);
	return text;
}

static void check_round_trip(struct config *c)
{
	OWN_MEM char *text = printed(c);
	char ignored[512];
	struct config *again = MUST_LOAD("--config", file(text));
	OWN_MEM char *text2 = printed(again);
	ck_assert_str_eq(text, text2);
	free(c->config);
	c->config = strdup(path);
	config_take_reloadable(again, c, ignored, sizeof ignored);
	ck_assert_str_eq(ignored, "");
	config_free(&again);
	forget();
}

START_TEST(what_is_printed_gives_the_same_settings)
{
	struct config *c = MUST_LOAD("--check");
	check_round_trip(c);
	config_free(&c);
	c = MUST_LOAD("--source", "https://host/prefix;v=1?x=y#z", "--source", "s3://bucket/a b", "--ttl", "1500us", "--half-life",
		"90m", "--host-bytes", "3G", "--dedup", "no", "--admin-group", "users", "--socket", "@abstract");
	check_round_trip(c);
	config_free(&c);
}
END_TEST

START_TEST(a_line_that_is_too_long_is_refused_not_cut)
{
	char text[600] = "source = dir:/";
	memset(text + strlen(text), 'a', 300);
	must_refuse_file(text, "line 1 is longer than");
	text[199] = '#'; /* what follows the library's cut is a comment then */
	must_refuse_file(text, "line 1 is longer than");
	text[199] = 'a';
	struct config *c = MUST_LOAD("--source", text + 9);
	ck_assert_str_eq(c->source.v[0], text + 9);
	config_free(&c);
}
END_TEST

START_TEST(random_settings_survive_the_file)
{
	uint64_t seed = unit_seed();
	for (int round = 0; round < 50; round++) {
		char n[24], bytes[24], time[24];
		snprintf(n, sizeof n, "%" PRIu64, 1 + unit_random(&seed) % 64);
		snprintf(bytes, sizeof bytes, "%" PRIu64, unit_random(&seed) / 4);
		snprintf(time, sizeof time, "%" PRIu64 "us", 1000 + unit_random(&seed) % (unit_random(&seed) % 2 ? 100000 : 3599000000));
		struct config *c = MUST_LOAD("--read-depth", n, "--disk-bytes", bytes, "--stall-timeout", time, "--io",
			unit_random(&seed) % 2 ? "auto" : "pread");
		check_round_trip(c);
		config_free(&c);
	}
}
END_TEST

START_TEST(a_reload_takes_what_may_change_and_names_the_rest)
{
	struct config *c = MUST_LOAD("--policy", "lru", "--socket", "/a", "--dedup", "no", "--ttl", "5s");
	struct config *fresh = MUST_LOAD("--policy", "fifo", "--socket", "/b", "--dedup", "yes", "--source", "dir:/x", "--log-level",
		"debug");
	char ignored[512], tiny[8];
	config_take_reloadable(c, fresh, ignored, sizeof ignored);
	ck_assert_str_eq(ignored, "socket, source");
	ck_assert_str_eq(c->policy, "fifo");
	ck_assert_str_eq(c->log_level, "debug");
	ck_assert_str_eq(c->socket, "/a");
	ck_assert_uint_eq(c->dedup, 1);
	ck_assert_uint_eq(c->ttl, 0);
	ck_assert_uint_eq(c->source.n, 0);
	config_take_reloadable(c, fresh, tiny, sizeof tiny);
	ck_assert_str_eq(tiny, "socket,");
	config_free(&c);
	config_free(&fresh);
}
END_TEST

static void count(void *ctx, const char *name, const char *value)
{
	ck_assert_ptr_nonnull(value);
	++*(int *)ctx;
}

START_TEST(everything_is_visited_and_in_the_help)
{
	struct config *c = MUST_LOAD("--source", "dir:/a", "--source", "dir:/b", "--node-rate", "net=1G");
	int n = 0, all = 1; /* one of the lists, twice */
#define OPT(field, name, TYPE, def, lo, hi, reload, arg, help) all++;
#include "mrm/options.def"
#undef OPT
	config_visit(c, count, &n);
	ck_assert_int_eq(n, all);
	config_free(&c);
	char *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);
	config_help(f);
	fclose(f);
#define OPT(field, name, TYPE, def, lo, hi, reload, arg, help)                                                        \
	ck_assert_msg(strstr(text, "--" name " ") != NULL, "%s", name);
#include "mrm/options.def"
#undef OPT
	free(text);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "layers", the_command_line_wins_then_the_environment_then_the_file,
		a_list_is_replaced_by_the_layer_above_not_added_to);
	UNIT_CASE(suite, "values", sizes_have_suffixes_and_bounds, times_have_suffixes_and_bounds,
		a_range_is_told_in_the_units_that_people_type, counts_texts_choices_and_answers_are_checked, a_list_is_bounded,
		unknown_words_are_refused_and_flags_are_actions, what_is_wrong_in_a_file_is_said_wherever_it_stands);
	UNIT_CASE(suite, "printing", what_is_printed_gives_the_same_settings, a_line_that_is_too_long_is_refused_not_cut,
		random_settings_survive_the_file, everything_is_visited_and_in_the_help);
	UNIT_CASE(suite, "reload", a_reload_takes_what_may_change_and_names_the_rest);
}

UNIT_MAIN("config", all)
