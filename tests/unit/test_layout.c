/* test_layout.c - the image's layout, carried out on files in memory. */
#include "shared/image.h"
#include "tests/unit/layout_verify.h"
#include "tests/unit/unit.h"

#include <errno.h>

#define FILES_MAX 8

/* A model in the making. */
struct model {
	struct tensor_list list;
	uint64_t file_bytes[FILES_MAX], data_start[FILES_MAX];
	char names[FILES_MAX][32];
	const char *file_names[FILES_MAX];
	uint8_t *files[FILES_MAX];
	uint32_t n_files;
};

static void add_file(struct model *m, uint64_t head)
{
	uint32_t f = m->n_files++;
	snprintf(m->names[f], sizeof m->names[f], "part-%" PRIu32 ".safetensors", f);
	m->file_names[f] = m->names[f];
	m->file_bytes[f] = m->data_start[f] = head;
}

static void put_tensor(struct model *m, const char *name, uint32_t file, uint64_t off, uint64_t bytes)
{
	m->list.v = realloc(m->list.v, (m->list.n + 1) * sizeof *m->list.v);
	m->list.v[m->list.n++] = (struct tensor){
		.name = strdup(name), .dtype = DTYPE_U8, .rank = 1, .shape = {bytes}, .file = file, .file_off = off, .bytes = bytes};
}

/* A tensor at the end of the last file. */
static void add_tensor(struct model *m, uint64_t bytes)
{
	char name[32];
	uint32_t f = m->n_files - 1;
	snprintf(name, sizeof name, "t%" PRIu32, m->list.n);
	put_tensor(m, name, f, m->file_bytes[f], bytes);
	m->file_bytes[f] += bytes;
}

static void fill_files(struct model *m, uint64_t *seed)
{
	for (uint32_t f = 0; f < m->n_files; f++) {
		m->files[f] = malloc(m->file_bytes[f] + 8);
		for (uint64_t i = 0; i < m->file_bytes[f]; i += 8) {
			uint64_t word = unit_random(seed) | 0x0101010101010101u; /* no zero byte: padding looks different */
			memcpy(m->files[f] + i, &word, 8);
		}
	}
}

static int build(struct model *m, struct layout **l, struct fault *why)
{
	return layout_build(l, &m->list, m->file_bytes, m->data_start, m->file_names, m->n_files, why);
}

static void must_build(struct model *m, struct layout **l)
{
	struct fault why = {0};
	ck_assert_msg(build(m, l, &why) == 0, "%s", why.text);
	ck_assert_ptr_null(m->list.v);
}

static void must_refuse(struct model *m, const char *file, const char *fault)
{
	struct layout *l = NULL;
	struct fault why = {0};
	ck_assert_int_eq(build(m, &l, &why), -EPROTO);
	ck_assert_ptr_null(l);
	ck_assert_int_eq(why.code, TRIMS_E_BAD_MODEL);
	ck_assert_msg(strstr(why.text, file) == why.text, "%s", why.text);
	ck_assert_msg(strstr(why.text, fault) != NULL, "\"%s\" not in: %s", fault, why.text);
	ck_assert_uint_eq(m->list.n, 0);
}

static void verify(struct model *m, const struct layout *l)
{
	layout_verify(l, (const uint8_t *const *)m->files);
}

static void drop(struct model *m)
{
	for (uint32_t f = 0; f < m->n_files; f++)
		free(m->files[f]);
	tensor_list_fini(&m->list);
}

START_TEST(tensors_keep_file_order_and_start_at_256_bytes)
{
	struct model m = {0};
	struct layout *l;
	add_file(&m, 100);
	for (int i = 0; i < 3; i++)
		add_tensor(&m, 300);
	must_build(&m, &l);
	ck_assert_uint_eq(l->n_extents, 1);
	ck_assert_uint_eq(l->n_chunks, 1);
	ck_assert_uint_eq(l->extent_bytes[0], IMAGE_PAGE);
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_uint_eq(l->tensors[i].file_off, 100 + 300 * i);
		ck_assert_uint_eq(l->tensors[i].offset, 512 * i);
	}
	layout_free(&l);
	ck_assert_ptr_null(l);
	layout_free(&l);
}
END_TEST

/* Sizes only: no such files are made. */
START_TEST(a_tensor_never_straddles_extents)
{
	struct model m = {0};
	struct layout *l;
	add_file(&m, 8);
	add_tensor(&m, IMAGE_EXTENT_BYTES - 1000);
	add_tensor(&m, 1001);
	add_tensor(&m, 3 * IMAGE_EXTENT_BYTES + 5);
	add_tensor(&m, 0);
	add_tensor(&m, 1);
	must_build(&m, &l);
	verify_shape(l);
	ck_assert_uint_eq(l->n_extents, 4);
	ck_assert_uint_eq(l->tensors[1].extent, 1);
	ck_assert_uint_eq(l->tensors[1].offset, 0);
	ck_assert_uint_eq(l->tensors[2].extent, 2);
	ck_assert_uint_eq(l->extent_bytes[2], 3 * IMAGE_EXTENT_BYTES + IMAGE_HUGE_PAGE);
	ck_assert_uint_eq(l->tensors[3].extent, 2);
	ck_assert_uint_eq(l->tensors[4].extent, 3);
	ck_assert_uint_eq(l->extent_chunk[3] - l->extent_chunk[2], 3 * 256 + 1);
	layout_free(&l);
}
END_TEST

START_TEST(an_extent_is_filled_to_the_last_byte)
{
	struct model m = {0};
	struct layout *l;
	add_file(&m, 8);
	add_tensor(&m, IMAGE_EXTENT_BYTES - 256);
	add_tensor(&m, 256);
	add_tensor(&m, 0);
	must_build(&m, &l);
	ck_assert_uint_eq(l->n_extents, 1);
	ck_assert_uint_eq(l->image_bytes, IMAGE_EXTENT_BYTES);
	ck_assert_uint_eq(l->tensors[2].offset, IMAGE_EXTENT_BYTES);
	layout_free(&l);
}
END_TEST

START_TEST(models_without_bytes_have_one_page)
{
	for (uint32_t n = 0; n < 3; n++) {
		struct model m = {0};
		struct layout *l;
		uint64_t seed = 1;
		add_file(&m, 8);
		for (uint32_t i = 0; i < n; i++)
			add_tensor(&m, 0);
		fill_files(&m, &seed);
		must_build(&m, &l);
		ck_assert_uint_eq(l->image_bytes, IMAGE_PAGE);
		ck_assert_uint_eq(l->n_chunks, 1);
		verify(&m, l);
		layout_free(&l);
		drop(&m);
	}
}
END_TEST

START_TEST(a_file_without_tensors_travels_as_a_gap)
{
	for (uint32_t place = 0; place < 3; place++) {
		struct model m = {0};
		struct layout *l;
		uint64_t seed = place + 1;
		for (uint32_t f = 0; f < 3; f++) {
			add_file(&m, 8);
			if (f != place)
				add_tensor(&m, 5000000);
			else
				m.file_bytes[f] += 77;
		}
		fill_files(&m, &seed);
		must_build(&m, &l);
		ck_assert_uint_eq(l->gap_bytes, 77);
		verify(&m, l);
		layout_free(&l);
		drop(&m);
	}
}
END_TEST

START_TEST(tied_tensors_with_equal_bytes_are_two_tensors)
{
	struct model m = {0};
	struct layout *l;
	add_file(&m, 8);
	add_tensor(&m, 4096);
	add_tensor(&m, 4096);
	m.files[0] = calloc(1, m.file_bytes[0]);
	must_build(&m, &l);
	ck_assert_uint_eq(l->n_tensors, 2);
	ck_assert_uint_eq(l->tensors[1].offset, 4096);
	verify(&m, l);
	layout_free(&l);
	drop(&m);
}
END_TEST

START_TEST(many_small_shards_meet_in_one_chunk)
{
	struct model m = {0};
	struct layout *l;
	uint64_t seed = unit_seed();
	for (uint32_t f = 0; f < FILES_MAX; f++) {
		add_file(&m, 16 + f);
		add_tensor(&m, 1000);
	}
	fill_files(&m, &seed);
	must_build(&m, &l);
	struct layout_span spans[FILES_MAX];
	ck_assert_uint_eq(layout_spans(l, 0, spans, FILES_MAX), FILES_MAX);
	verify(&m, l);
	layout_free(&l);
	drop(&m);
}
END_TEST

START_TEST(overlaps_are_refused)
{
	struct model m = {0};
	add_file(&m, 8);
	m.file_bytes[0] = 100;
	put_tensor(&m, "a", 0, 8, 20);
	put_tensor(&m, "b", 0, 27, 20);
	must_refuse(&m, "part-0.safetensors: tensor \"b\": ", "inside tensor \"a\", which ends at 28");
	put_tensor(&m, "a", 0, 8, 20);
	put_tensor(&m, "zero", 0, 15, 0);
	must_refuse(&m, "part-0.safetensors: tensor \"zero\": ", "inside tensor \"a\"");
}
END_TEST

START_TEST(tensors_outside_their_file_are_refused)
{
	struct model m = {0};
	add_file(&m, 8);
	m.file_bytes[0] = 100;
	put_tensor(&m, "a", 0, 7, 1);
	must_refuse(&m, "part-0.safetensors: tensor \"a\": ", "outside");
	put_tensor(&m, "a", 0, 90, 11);
	must_refuse(&m, "part-0.safetensors: tensor \"a\": ", "outside");
	put_tensor(&m, "a", 0, 90, UINT64_MAX - 50);
	must_refuse(&m, "part-0.safetensors: tensor \"a\": ", "outside");
	put_tensor(&m, "a", 0, 101, 0);
	must_refuse(&m, "part-0.safetensors: tensor \"a\": ", "outside");
	put_tensor(&m, "a", 1, 8, 1);
	must_refuse(&m, "part-0.safetensors: tensor \"a\": ", "file 1 of 1");
}
END_TEST

START_TEST(a_name_in_two_shards_is_refused)
{
	struct model m = {0};
	add_file(&m, 8);
	add_tensor(&m, 4);
	add_file(&m, 8);
	m.file_bytes[1] += 4;
	put_tensor(&m, "t0", 1, 8, 4);
	must_refuse(&m, "part-1.safetensors: tensor \"t0\": ", "part-0.safetensors has a tensor of this name");
}
END_TEST

START_TEST(claims_beyond_all_bounds_are_refused)
{
	struct model m = {0};
	add_file(&m, 8);
	m.file_bytes[0] = UINT64_MAX;
	put_tensor(&m, "a", 0, 8, UINT64_MAX - 8);
	must_refuse(&m, "part-0.safetensors: ", "beyond what an image holds");
	m.file_bytes[0] = IMAGE_MAX_GAP_BYTES + 9;
	put_tensor(&m, "a", 0, 8, 0);
	must_refuse(&m, "part-0.safetensors: ", "belong to no tensor");
	m.file_bytes[0] = 7;
	must_refuse(&m, "part-0.safetensors: ", "header ends at byte 8 of 7");
	m.file_bytes[0] = 8;
	for (uint32_t i = 0; i <= IMAGE_MAX_EXTENTS; i++)
		add_tensor(&m, IMAGE_EXTENT_BYTES);
	must_refuse(&m, "part-0.safetensors: tensor \"t128\": ", "128 extents");
	m.file_bytes[0] = 8;
	m.list.stated = 3;
	add_tensor(&m, 1);
	must_refuse(&m, "part-0.safetensors: ", "3 tensors in all");
}
END_TEST

START_TEST(files_that_are_too_large_together_are_refused)
{
	struct model m = {0};
	struct layout *l;
	add_file(&m, 8);
	add_tensor(&m, (IMAGE_MAX_CHUNKS - 1) * IMAGE_CHUNK_BYTES);
	add_file(&m, 8);
	add_tensor(&m, IMAGE_CHUNK_BYTES);
	must_build(&m, &l);
	ck_assert_uint_eq(l->n_chunks, IMAGE_MAX_CHUNKS);
	layout_free(&l);
	m.n_files = 0;
	add_file(&m, 8);
	add_tensor(&m, (IMAGE_MAX_CHUNKS - 1) * IMAGE_CHUNK_BYTES);
	add_file(&m, 8);
	add_tensor(&m, IMAGE_CHUNK_BYTES + 1);
	must_refuse(&m, "part-0.safetensors: ", "an image of more than 17592186044416 bytes is not supported");
}
END_TEST

START_TEST(exactly_as_many_extents_as_allowed_are_built)
{
	struct model m = {0};
	struct layout *l;
	add_file(&m, 8);
	for (uint32_t i = 0; i < IMAGE_MAX_EXTENTS; i++)
		add_tensor(&m, IMAGE_EXTENT_BYTES);
	must_build(&m, &l);
	verify_shape(l);
	ck_assert_uint_eq(l->n_extents, IMAGE_MAX_EXTENTS);
	layout_free(&l);
}
END_TEST

static void shuffle(struct tensor_list *l, uint64_t *seed)
{
	for (uint32_t i = l->n; i > 1; i--) {
		uint32_t k = (uint32_t)(unit_random(seed) % i);
		struct tensor swap = l->v[i - 1];
		l->v[i - 1] = l->v[k];
		l->v[k] = swap;
	}
}

/* Mostly small tensors; sometimes some that straddle chunks, or have no bytes. */
static uint64_t random_bytes(uint64_t *seed)
{
	uint64_t r = unit_random(seed);
	switch (r % 16) {
	case 0:
		return 0;
	case 1:
		return (r >> 8) % (3 * IMAGE_CHUNK_BYTES);
	case 2:
		return IMAGE_CHUNK_BYTES;
	case 3:
	case 4:
		return 256 * ((r >> 8) % 64);
	default:
		return (r >> 8) % 5000;
	}
}

static void random_model(struct model *m, uint64_t *seed)
{
	uint32_t n_files = 1 + (uint32_t)(unit_random(seed) % 4);
	for (uint32_t f = 0; f < n_files; f++) {
		uint32_t n = (uint32_t)(unit_random(seed) % 24);
		bool gaps = unit_random(seed) % 2;
		add_file(m, unit_random(seed) % 3 ? 8 + unit_random(seed) % 500 : 0);
		for (uint32_t i = 0; i < n; i++) {
			if (gaps && unit_random(seed) % 3 == 0)
				m->file_bytes[f] += unit_random(seed) % 2000;
			add_tensor(m, random_bytes(seed));
		}
		if (gaps)
			m->file_bytes[f] += unit_random(seed) % 64;
	}
}

/* The same layout must come out of the same tensors in any order, since a manifest may store them in any. */
static void same_in_any_order(struct model *m, const struct layout *l, uint64_t *seed)
{
	struct tensor_list *list = &m->list;
	struct layout *again;
	for (uint32_t i = 0; i < l->n_tensors; i++)
		put_tensor(m, l->tensors[i].name, l->tensors[i].file, l->tensors[i].file_off, l->tensors[i].bytes);
	shuffle(list, seed);
	must_build(m, &again);
	ck_assert_uint_eq(again->image_bytes, l->image_bytes);
	for (uint32_t i = 0; i < l->n_tensors; i++) {
		ck_assert_str_eq(again->tensors[i].name, l->tensors[i].name);
		ck_assert_uint_eq(again->tensors[i].extent, l->tensors[i].extent);
		ck_assert_uint_eq(again->tensors[i].offset, l->tensors[i].offset);
	}
	layout_free(&again);
}

START_TEST(random_models_come_out_as_they_went_in)
{
	uint64_t seed = unit_seed() + (uint64_t)_i;
	struct model m = {0};
	struct layout *l;
	random_model(&m, &seed);
	fill_files(&m, &seed);
	shuffle(&m.list, &seed);
	must_build(&m, &l);
	verify(&m, l);
	same_in_any_order(&m, l, &seed);
	layout_free(&l);
	drop(&m);
}
END_TEST

static void placing(Suite *s)
{
	UNIT_CASE(s, "placing", tensors_keep_file_order_and_start_at_256_bytes, a_tensor_never_straddles_extents,
		an_extent_is_filled_to_the_last_byte, models_without_bytes_have_one_page,
		a_file_without_tensors_travels_as_a_gap, tied_tensors_with_equal_bytes_are_two_tensors,
		many_small_shards_meet_in_one_chunk, exactly_as_many_extents_as_allowed_are_built);
}

static void refusals(Suite *s)
{
	UNIT_CASE(s, "refusals", overlaps_are_refused, tensors_outside_their_file_are_refused,
		a_name_in_two_shards_is_refused, claims_beyond_all_bounds_are_refused,
		files_that_are_too_large_together_are_refused);
}

static void random_models(Suite *s)
{
	TCase *c = tcase_create("random models");
	tcase_add_loop_test(c, random_models_come_out_as_they_went_in, 0, 24);
	suite_add_tcase(s, c);
}

UNIT_MAIN("layout", placing, refusals, random_models)
