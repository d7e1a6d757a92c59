/* test_bench.c - what trims-bench's numbers rest on: medians, and models that are what they claim to be. */
#include "shared/image.h"
#include "shared/own.h"
#include "tests/unit/unit.h"
#include "tools/bench/lab.h"

#include <fcntl.h>
#include <lz4.h>
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

static void numbers(Suite *s)
{
	UNIT_CASE(s, "numbers", medians_and_quantiles_are_those_of_the_sorted_values);
}

static void models(Suite *s)
{
	UNIT_CASE(s, "models", models_are_valid_and_compress_as_they_claim, models_of_two_seeds_differ);
}

UNIT_MAIN("bench", numbers, models)
