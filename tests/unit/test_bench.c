/* test_bench.c - what trims-bench's numbers rest on: medians, fits, charts, and models that are what they claim to be. */
#include "shared/image.h"
#include "shared/own.h"
#include "tests/unit/unit.h"
#include "tools/bench/fit.h"
#include "tools/bench/lab.h"
#include "tools/bench/zoo.h"
#include "tools/svg.h"

#include <fcntl.h>
#include <inttypes.h>
#include <lz4.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

START_TEST(medians_and_quantiles_are_those_of_the_sorted_values)
{
	static const double values[] = {9, 1, 7, 3, 5};
	struct samples s = {0};

	for (size_t i = 0; i < ARRAY_LEN(values); i++)
		samples_add(&s, values[i]);
	ck_assert_double_eq(samples_median(&s), 5);
	samples_add(&s, 6);
	ck_assert_double_eq(samples_median(&s), 5.5);
	ck_assert_double_eq(samples_quantile(&s, 0), 1);
	ck_assert_double_eq(samples_quantile(&s, 1), 9);
	double low, high;
	samples_fini(&s);
	for (int i = 12; i; i--)
		samples_add(&s, i);
	samples_median_interval(&s, &low, &high); /* 96.1 %, as tables of order statistics have it */
	ck_assert_double_eq(low, 3);
	ck_assert_double_eq(high, 10);
	for (int i = 13; i <= 16; i++)
		samples_add(&s, i);
	samples_median_interval(&s, &low, &high); /* 97.9 %; the next would be 92.3 % */
	ck_assert_double_eq(low, 4);
	ck_assert_double_eq(high, 13);
	samples_fini(&s);
	samples_add(&s, 2);
	samples_add(&s, 1);
	samples_median_interval(&s, &low, &high);
	ck_assert_double_eq(low, 1);
	ck_assert_double_eq(high, 2);
	samples_fini(&s);
}
END_TEST

/* Reads the file back; the caller frees. */
static uint8_t *slurp(const char *path, size_t bytes)
{
	uint8_t *p = malloc(bytes);
	OWN_FD int fd = open(path, O_RDONLY);

	ck_assert(fd >= 0 && p);
	ck_assert_int_eq(read(fd, p, bytes), (ssize_t)bytes);
	return p;
}

static void check_model(const char *path, const struct model_spec *spec, double least, double most)
{
	struct tensor_list tensors = {0};
	struct fault why = {0};
	uint64_t data_start;
	size_t need;
	size_t bytes = (size_t)model_write(path, spec);
	uint8_t *p = slurp(path, bytes);

	ck_assert_msg(header_parse(FORMAT_SAFETENSORS, "m", 0, p, bytes, bytes, &need, &data_start, &tensors, &why) == 0,
		"%s", why.text);
	ck_assert_uint_eq(tensors.n, spec->n_tensors);
	ck_assert_uint_le(bytes - data_start, spec->bytes);
	ck_assert_uint_ge(bytes - data_start + 4096 * spec->n_tensors, spec->bytes);
	int room = LZ4_compressBound((int)(bytes - data_start));
	char *packed = malloc((size_t)room);
	int n = LZ4_compress_default((const char *)p + data_start, packed, (int)(bytes - data_start), room);
	double ratio = (double)n / (double)(bytes - data_start);
	ck_assert_msg(ratio >= least && ratio <= most, "LZ4 makes %.3f of it", ratio);
	free(packed);
	free(p);
	tensor_list_fini(&tensors);
}

START_TEST(models_are_valid_and_compress_as_they_claim)
{
	char dir[] = "/tmp/trims-test-bench-XXXXXX", path[64];

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/m.safetensors", dir);
	check_model(path, &(struct model_spec){.bytes = 8 * MIB, .n_tensors = 7, .seed = 1}, 0.99, 1.01);
	check_model(path, &(struct model_spec){.bytes = 8 * MIB, .n_tensors = 7, .seed = 1, .compressible = true}, 0.5, 0.75);
	unlink(path);
	rmdir(dir);
}
END_TEST

START_TEST(models_of_two_seeds_differ)
{
	char dir[] = "/tmp/trims-test-bench-XXXXXX", path[64];
	uint64_t hashes[2];

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/m.safetensors", dir);
	for (unsigned i = 0; i < 2; i++) {
		size_t bytes = (size_t)model_write(path, &(struct model_spec){.bytes = 2048, .n_tensors = 1, .seed = 1000 + i});
		uint8_t *p = slurp(path, bytes);
		hashes[i] = XXH3_64bits(p, bytes);
		free(p);
	}
	ck_assert_uint_ne(hashes[0], hashes[1]);
	unlink(path);
	rmdir(dir);
}
END_TEST

/* Numbers as published, less what a sentence's vector or the classes do not need (the pooler), and with the running statistics of
 * batch norms; of models that are named for their size, that. */
START_TEST(every_model_of_the_zoo_is_one_that_the_executor_builds)
{
	static const struct {
		const char *name;
		uint64_t floats;
	} known[] = {
		{"minilm", 22713216 - (384 + 1) * 384}, {"bert-base", 109482240 - (768 + 1) * 768},
		{"bert-large", 335141888 - (1024 + 1) * 1024}, {"roberta-base", 124645632 - (768 + 1) * 768}, {"gpt2", 124439808},
		{"resnet-50", 25557032 + 53120}, {"resnet-101", 44549160 + 105344},
	};
	size_t named = 0;
	for (uint32_t i = 0; i < zoo_n; i++) {
		struct zoo_tensors t;
		struct net *net = NULL;
		struct fault why = {0};
		uint64_t bytes = 0;
		uint32_t gib = 0;
		ck_assert_msg(zoo_build(&zoo[i], &net, &t, &why) == 0, "%s: %s", zoo[i].name, why.text);
		for (uint32_t k = 0; k < t.n; k++)
			bytes += t.v[k].weight.bytes;
		for (size_t k = 0; k < ARRAY_LEN(known); k++)
			if (strcmp(known[k].name, zoo[i].name) == 0) {
				ck_assert_msg(bytes == 4 * known[k].floats, "%s: %" PRIu64 " bytes", zoo[i].name, bytes);
				named++;
			}
		if (sscanf(zoo[i].name, "large-%" SCNu32 "g", &gib) == 1) {
			ck_assert_msg((bytes + GIB / 2) / GIB == gib, "%s: %" PRIu64 " bytes", zoo[i].name, bytes);
			named++;
		}
		ck_assert_int_eq(net->input == NET_TOKENS, zoo[i].tokens > 0);
		ck_assert_uint_le(zoo[i].tokens, net->max_tokens);
		net_free(&net);
		zoo_tensors_fini(&t);
	}
	ck_assert_uint_eq(named, zoo_n);
}
END_TEST

START_TEST(a_fit_finds_the_curve_that_the_points_lie_on)
{
	double x[9], line[9], exponential[9];
	struct fit f;

	for (size_t i = 0; i < 9; i++) {
		x[i] = (double)i / 8;
		line[i] = 3 + 40 * x[i];
		exponential[i] = 2 * exp(5 * x[i]);
	}
	fit_line(x, line, 9, &f);
	ck_assert(fabs(f.a - 3) < 1e-9 && fabs(f.b - 40) < 1e-9 && f.rms < 1e-9);
	fit_exp(x, exponential, 9, &f);
	ck_assert(fabs(f.a - 2) < 0.02 && fabs(f.b - 5) < 0.02 && f.rms < 0.2);
	fit_line(x, exponential, 9, &f);
	ck_assert(f.rms > 10);
}
END_TEST

START_TEST(a_fit_to_points_with_one_abscissa_is_their_mean)
{
	static const double x[] = {1, 1, 1}, y[] = {2, 4, 6};
	struct fit f;

	fit_line(x, y, 3, &f);
	ck_assert(f.a == 4 && f.b == 0);
}
END_TEST

static void numbers(Suite *s)
{
	UNIT_CASE(s, "numbers", medians_and_quantiles_are_those_of_the_sorted_values,
		a_fit_finds_the_curve_that_the_points_lie_on, a_fit_to_points_with_one_abscissa_is_their_mean);
}

static unsigned count(const char *text, const char *part)
{
	unsigned n = 0;

	for (; (text = strstr(text, part)); text++)
		n++;
	return n;
}

/* Draws to a text, which the caller frees. */
static char *draw(const struct svg_chart *charts, size_t n)
{
	char *text;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	ck_assert_ptr_nonnull(f);
	svg_write(f, "a < b & c", charts, n, 2);
	fclose(f);
	return text;
}

START_TEST(a_chart_has_every_line_and_stays_in_its_frame)
{
	static const double x[] = {0, 1, 1000}, y[] = {0, 0.5, 1};
	const struct svg_line lines[] = {{"one", x, y, 3}, {"two", x, y, 2}};
	const struct svg_chart charts[] = {
		{.title = "t", .x_title = "x", .y_title = "y", .log_x = true, .lines = lines, .n_lines = 2},
		{.title = "u", .x_title = "x", .y_title = "y", .lines = lines, .n_lines = 1, .mark_x = 2000, .mark = "far"},
	};
	char *text = draw(charts, 2);
	double px, py;

	ck_assert_uint_eq(count(text, "<polyline"), 3);
	ck_assert_uint_eq(count(text, "a &lt; b &amp; c"), 1);
	ck_assert_uint_eq(count(text, "class=\"mark\""), 1);
	ck_assert_ptr_null(strstr(text, "nan"));
	ck_assert_ptr_null(strstr(text, "inf"));
	const char *points = strstr(text, "points=\"");
	ck_assert_int_eq(sscanf(points, "points=\"%lf,%lf", &px, &py), 2); /* 0 is no number for a logarithm: at the left edge */
	ck_assert(px >= 0 && px < 420 && py > 0 && py < 358);
	free(text);
}
END_TEST

START_TEST(a_chart_without_points_can_be_drawn)
{
	const struct svg_line line = {"none", NULL, NULL, 0};
	const struct svg_chart chart = {.title = "t", .x_title = "x", .y_title = "y", .log_x = true, .log_y = true,
		.lines = &line, .n_lines = 1};
	char *text = draw(&chart, 1);

	ck_assert_ptr_null(strstr(text, "nan"));
	ck_assert_uint_eq(count(text, "</svg>"), 1);
	free(text);
}
END_TEST

START_TEST(the_parts_of_a_bar_lie_end_to_end_on_the_scale_of_their_panel)
{
	static const double lengths[][2] = {{1, 3}, {2, 0}, {0, 0}};
	const struct svg_bar bars[] = {{"long", lengths[0]}, {"short", lengths[1]}, {"nothing", lengths[2]}};
	const struct svg_panel panels[] = {{"one", bars, 2}, {"two", bars + 1, 2}, {"none", bars, 0}};
	const char *const parts[] = {"first", "second"};
	double x[8], w[8];
	char *text;
	size_t bytes, n = 0;
	FILE *f = open_memstream(&text, &bytes);

	ck_assert_ptr_nonnull(f);
	svg_write_bars(f, "t", parts, 2, panels, 3);
	fclose(f);
	for (const char *at = text; n < 8 && (at = strstr(at, "<rect x=\"")); at++, n++)
		ck_assert_int_eq(sscanf(at, "<rect x=\"%lf\" y=\"%*f\" width=\"%lf", &x[n], &w[n]), 2);
	ck_assert_uint_eq(n, 8);
	ck_assert(fabs(x[0] + w[0] - x[1]) < 0.11 && fabs(w[1] - 3 * w[0]) < 0.5); /* 1 and 3 of 4 */
	ck_assert(fabs(w[2] - 2 * w[0]) < 0.5 && w[3] == 0);                          /* 2 of 4 */
	ck_assert(fabs(w[4] - w[0] - w[1]) < 0.5 && w[6] == 0 && w[7] == 0);          /* the longest of its panel */
	ck_assert_ptr_null(strstr(text, "nan"));
	free(text);
}
END_TEST

static void charts(Suite *s)
{
	UNIT_CASE(s, "charts", a_chart_has_every_line_and_stays_in_its_frame, a_chart_without_points_can_be_drawn,
		the_parts_of_a_bar_lie_end_to_end_on_the_scale_of_their_panel);
}

static void models(Suite *s)
{
	UNIT_CASE(s, "models", models_are_valid_and_compress_as_they_claim, models_of_two_seeds_differ,
		every_model_of_the_zoo_is_one_that_the_executor_builds);
}

UNIT_MAIN("bench", numbers, charts, models)
