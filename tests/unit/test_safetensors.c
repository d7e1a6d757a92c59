/* test_safetensors.c - safetensors headers, good and hostile. */
#include "tests/unit/headers.h"
#include "tests/unit/layout_verify.h"

#define NAME "model.safetensors"

static struct blob make_n(const char *json, size_t len, uint64_t data_bytes)
{
	struct blob b = {0};
	blob_int(&b, len, 8);
	blob_put(&b, json, len);
	for (uint64_t i = 0; i < data_bytes; i++)
		blob_int(&b, 'x', 1);
	return b;
}

static void accept(const char *json, uint64_t data_bytes, uint32_t tensors)
{
	struct blob b = make_n(json, strlen(json), data_bytes);
	struct tensor_list list = {0};
	uint64_t data_start;
	must_parse(&b, NAME, 0, &list, &data_start);
	ck_assert_uint_eq(data_start, 8 + strlen(json));
	ck_assert_uint_eq(list.n, tensors);
	tensor_list_fini(&list);
	blob_free(&b);
}

static void refuse_n(const char *json, size_t len, uint64_t data_bytes, const char *start, const char *fault)
{
	struct blob b = make_n(json, len, data_bytes);
	must_refuse_file(&b, NAME, start, fault);
	blob_free(&b);
}

static void refuse(const char *json, uint64_t data_bytes, const char *start, const char *fault)
{
	refuse_n(json, strlen(json), data_bytes, start, fault);
}

#define A "model.safetensors: tensor \"a\": "
#define HEAD "model.safetensors: "

START_TEST(a_header_is_read)
{
	const char *json = "{\"__metadata__\":{\"format\":\"pt\"}, \"a\" : {\"dtype\":\"F32\",\"shape\":[2,3],"
			   "\"data_offsets\":[0,24]},\"b\\u00e9\\n\":{\"shape\":[],\"data_offsets\":[24,26],\"dtype\":\"BF16\"}}   \n";
	struct blob b = make_n(json, strlen(json), 26);
	struct tensor_list list = {0};
	uint64_t data_start;
	must_parse(&b, NAME, 3, &list, &data_start);
	ck_assert_uint_eq(list.n, 2);
	ck_assert_str_eq(list.v[0].name, "a");
	ck_assert_uint_eq(list.v[0].dtype, DTYPE_F32);
	ck_assert_uint_eq(list.v[0].rank, 2);
	ck_assert_uint_eq(list.v[0].shape[0], 2);
	ck_assert_uint_eq(list.v[0].shape[1], 3);
	ck_assert_uint_eq(list.v[0].file, 3);
	ck_assert_uint_eq(list.v[0].file_off, data_start);
	ck_assert_uint_eq(list.v[0].bytes, 24);
	ck_assert_str_eq(list.v[1].name, "b\xc3\xa9\n");
	ck_assert_uint_eq(list.v[1].rank, 0);
	ck_assert_uint_eq(list.v[1].bytes, 2);
	tensor_list_fini(&list);
	blob_free(&b);
}
END_TEST

START_TEST(odd_but_valid_headers_are_accepted)
{
	accept("{}", 0, 0);
	accept("{ } \t\r\n", 0, 0);
	accept("{\"__metadata__\":{}}", 0, 0);
	accept("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 1);
	accept("{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]},\"z\":{\"dtype\":\"I64\",\"shape\":[7,0],"
	       "\"data_offsets\":[2,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 5, 3);
	accept("{\"a\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[0,3]}}", 3, 1);
	accept("{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[4,2],\"data_offsets\":[0,6]}}", 6, 1);
	accept("{\"a\":{\"dtype\":\"C64\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,16]}}", 16, 1);
	accept("{\"a{[\\\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, 1);
}
END_TEST

START_TEST(every_element_type_of_the_specification_has_its_size)
{
	static const struct {
		const char *name;
		unsigned bits;
	} types[] = {{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8},
		{"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},
		{"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64}};
	unsigned in_table = 0;
	for (uint32_t d = 0; d < 256; d++)
		in_table += dtype_row(d) && dtype_row(d)->st;
	ck_assert_uint_eq(in_table, ARRAY_LEN(types));
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		char json[200];
		snprintf(json, sizeof json, "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%u]}}", types[i].name,
			types[i].bits);
		accept(json, types[i].bits, 1);
		ck_assert_str_eq(dtype_name(dtype_by_st(types[i].name)), types[i].name);
	}
	ck_assert_str_eq(dtype_name(DTYPE_NONE), "?");
	ck_assert_str_eq(dtype_name(UINT32_MAX), "?");
}
END_TEST

START_TEST(wrong_lengths_are_refused)
{
	struct blob b = {0};
	must_refuse_file(&b, NAME, HEAD, "ends inside its header");
	blob_int(&b, 100, 7);
	must_refuse_file(&b, NAME, HEAD, "ends inside its header");
	blob_int(&b, 0, 1);
	must_refuse_file(&b, NAME, HEAD, "ends inside its header");
	blob_free(&b);
	blob_int(&b, IMAGE_MAX_HEADER_BYTES + 1, 8);
	must_refuse_file(&b, NAME, HEAD, "a header of 100000001 bytes");
	blob_free(&b);
	blob_int(&b, UINT64_MAX, 8);
	must_refuse_file(&b, NAME, HEAD, "a header of 18446744073709551615 bytes");
	blob_free(&b);
	refuse("{}", 1, HEAD, "wrong length: the tensors end at byte 10, the file at 11");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3, HEAD, "wrong length");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, A, "beyond the 1 bytes of data");
}
END_TEST

START_TEST(broken_json_is_refused)
{
	refuse("", 0, HEAD, "does not begin with '{'");
	refuse(" {}", 0, HEAD, "does not begin with '{'");
	refuse("[]", 0, HEAD, "does not begin with '{'");
	refuse("{", 0, HEAD, "valid JSON");
	refuse("{,}", 0, HEAD, "valid JSON");
	refuse("{\"a\"", 0, HEAD, "valid JSON");
	refuse("{\"a", 0, HEAD, "string without end");
	refuse("{\"a\\", 0, HEAD, "string without end");
	refuse("{\"a\":", 0, HEAD, "an object expected");
	refuse("{\"a\":1}", 0, HEAD, "an object expected");
	refuse("{\"a\":{}", 0, A, "dtype is missing");
	refuse("{\"a\":{\"dtype\"", 0, HEAD, "object without end");
	refuse("{\"a\":{\"dtype\" \"F32\"}}", 0, A, "not valid JSON");
	refuse("{\"a\":{]}", 0, A, "not valid JSON");
	refuse("{}x", 0, HEAD, "behind the closing");
	refuse_n("{}\0", 3, 0, HEAD, "behind the closing");
	refuse("{\"__metadata__\":{}", 0, HEAD, "',' or '}' expected");
	refuse("{\"__metadata__\":{},}", 0, HEAD, "a name in quotes expected");
	refuse("{\"a\\x\":{}}", 0, HEAD, "not valid JSON");
	refuse("{\"a\n\":{}}", 0, HEAD, "not valid JSON");
	refuse("{\"a\\u0000b\":{}}", 0, HEAD, "not valid JSON");
	refuse("{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, HEAD, "a name of 0 bytes");
}
END_TEST

START_TEST(wrong_utf8_is_refused)
{
	refuse("{\"a\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, HEAD, "wrong UTF-8 at byte ");
	refuse("{\"a\xc0\xaf\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, HEAD, "wrong UTF-8 at byte ");
	refuse("{\"a\xed\xa0\x80\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, HEAD, "wrong UTF-8 at byte ");
	refuse("{\"a\\ud800\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, HEAD, "not valid JSON");
	refuse("{\"__metadata__\":{\"k\":\"\xe2\x82\"}}", 0, HEAD, "wrong UTF-8 at byte ");
	refuse("{\"a\":{\"dtype\":\"\xff\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, HEAD, "wrong UTF-8 at byte 15");
}
END_TEST

START_TEST(duplicate_keys_are_refused)
{
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
	       "\"data_offsets\":[1,2]}}", 2, A, "duplicate key");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[0],"
	       "\"data_offsets\":[0,0]}}", 0, A, "duplicate key");
	refuse("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, A, "duplicate");
	refuse("{\"__metadata__\":{},\"\\u005f_metadata__\":{}}", 0, HEAD, "duplicate key");
	refuse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, HEAD, "duplicate");
}
END_TEST

START_TEST(wrong_descriptions_are_refused)
{
	refuse("{\"__metadata__\":{\"k\":1}}", 0, HEAD, "the value of \"k\" is not a string");
	refuse("{\"__metadata__\":[]}", 0, HEAD, "an object expected");
	refuse("{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, A, "unknown dtype \"F31\"");
	refuse("{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, A, "unknown dtype \"f32\"");
	refuse("{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, A, "dtype");
	refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, A, "shape is missing");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}", 1, A, "shape is missing or no array");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, A, "data_offsets are missing");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, A, "data_offsets are missing");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, A, "data_offsets are missing");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, A, "other members");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, A, "rank 9");
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,12]}}", 12, A,
		"data_offsets [0, 12] hold 12 bytes, shape [2, 2] of F32 needs 16");
	refuse("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, A, "block of 2 elements");
	refuse("{\"a\":{\"dtype\":\"F6_E3M2\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, A, "block of 4 elements");
}
END_TEST

START_TEST(wrong_numbers_are_refused)
{
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, A, "dimension 0");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, A, "dimension 0");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1e0],\"data_offsets\":[0,1]}}", 1, A, "dimension 0");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}}", 1, A, "dimension 0");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[01],\"data_offsets\":[0,1]}}", 1, A, "not valid JSON");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, A, "data_offsets");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}}", 1, A, "too big integer");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]}}", 2, A, "run backwards");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, A, "overflows");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}", 0, A, "overflows");
	refuse("{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, A, "overflows");
}
END_TEST

START_TEST(overlaps_and_holes_are_refused)
{
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
	       "\"data_offsets\":[1,3]}}", 3, HEAD "tensor \"b\": ", "overlaps tensor \"a\"");
	refuse("{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],"
	       "\"data_offsets\":[0,2]}}", 2, HEAD, "overlaps tensor");
	refuse("{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],"
	       "\"data_offsets\":[1,1]}}", 2, A, "overlaps tensor \"b\"");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, A, "a hole: bytes 0 to 1");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
	       "\"data_offsets\":[0,2]}}", 5, A, "a hole: bytes 2 to 3");
}
END_TEST

static char *repeat(const char *before, const char *what, size_t times, const char *after)
{
	size_t n = strlen(what), at = strlen(before);
	char *s = malloc(at + n * times + strlen(after) + 1);
	strcpy(s, before);
	for (size_t i = 0; i < times; i++, at += n)
		memcpy(s + at, what, n);
	strcpy(s + at, after);
	return s;
}

START_TEST(deep_nesting_and_sheer_size_are_refused)
{
	static const struct {
		const char *before, *what;
		size_t times;
		const char *after, *fault;
	} cases[] = {
		{"{\"a\":", "{\"a\":", 1000000, "", "too deep nesting"},
		{"{\"a\":{\"shape\":", "[", 1000000, "", "too deep nesting"},
		{"{\"__metadata__\":{", "\"\":\"\",", 70000, "\"a\":\"\"}}", "more than 65536 pairs"},
		{"{\"a\":{\"dtype\":\"U8\",\"shape\":[", "1,", 100000, "1]}}", "a description of"},
		{"{\"", "n", 1025, "\":{}}", "a name of 1025 bytes"},
		{"{\"", "\\u00e9", 1025, "\":{}}", "a tensor's name of"},
		{"{", "{", 1000000, "", "valid JSON"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *json = repeat(cases[i].before, cases[i].what, cases[i].times, cases[i].after);
		refuse(json, 0, HEAD, cases[i].fault);
		free(json);
	}
}
END_TEST

START_TEST(more_tensors_than_an_image_holds_are_refused)
{
	struct blob json = {0};
	char one[100];
	for (uint32_t i = 0; i <= IMAGE_MAX_TENSORS; i++) {
		int n = snprintf(one, sizeof one, "%c\"%x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
			i ? ',' : '{', i);
		blob_put(&json, one, (size_t)n);
	}
	blob_put(&json, "}", 1);
	refuse_n((char *)json.p, json.n, 0, HEAD, "more than 1048576 tensors");
	blob_free(&json);
}
END_TEST

START_TEST(long_names_leave_room_for_the_fault)
{
	char *json = repeat("{\"", "\xc3\xa9", 500, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,2]}}");
	refuse(json, 2, HEAD "tensor \"\xc3\xa9", "...\": data_offsets [0, 2] hold 2 bytes, shape [1] of U8 needs 1");
	free(json);
}
END_TEST

/* ---- random models ---- */

struct source {
	char name[40];
	uint32_t dtype, rank;
	uint64_t shape[IMAGE_MAX_RANK], off, bytes;
};

static void random_tensor(struct source *t, uint32_t i, uint64_t *seed)
{
	const struct dtype_row *row;
	do
		t->dtype = 1 + (uint32_t)(unit_random(seed) % 22);
	while (!(row = dtype_row(t->dtype)) || !row->st);
	snprintf(t->name, sizeof t->name, "layer.%" PRIu32 ".w\xc3\xa9%x", i, (unsigned)(unit_random(seed) % 4096));
	t->rank = (uint32_t)(unit_random(seed) % (IMAGE_MAX_RANK + 1));
	t->bytes = 1;
	for (uint32_t d = 0; d < t->rank; d++) {
		t->shape[d] = unit_random(seed) % 12 ? 1 + unit_random(seed) % 3 : 0;
		if (d + 1 == t->rank)
			t->shape[d] *= row->elems * (t->rank > 2 || unit_random(seed) % 20 ? 1 : 60000);
		t->bytes *= t->shape[d];
	}
	if (!t->rank && row->elems > 1) {
		t->rank = 1;
		t->bytes = t->shape[0] = row->elems;
	}
	t->bytes = t->bytes / row->elems * row->bytes;
}

/* A valid file of n tensors whose members are in another order than their data. */
static struct blob random_file(struct source *s, uint32_t n, uint64_t *seed)
{
	struct blob json = {0}, b = {0};
	uint64_t off = 0;
	char text[512];
	for (uint32_t i = 0; i < n; i++) {
		s[i].off = off;
		off += s[i].bytes;
	}
	blob_put(&json, "{", 1);
	uint32_t start = n ? (uint32_t)(unit_random(seed) % n) : 0;
	for (uint32_t k = 0; k < n; k++) {
		const struct source *t = &s[(start + k) % n];
		int len = snprintf(text, sizeof text, "%s\"%s\": {\"dtype\":\"%s\",\"shape\":[", k ? "," : "", t->name,
			dtype_row(t->dtype)->st);
		for (uint32_t d = 0; d < t->rank; d++)
			len += snprintf(text + len, sizeof text - (size_t)len, "%s%" PRIu64, d ? "," : "", t->shape[d]);
		len += snprintf(text + len, sizeof text - (size_t)len, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->off,
			t->off + t->bytes);
		blob_put(&json, text, (size_t)len);
	}
	blob_put(&json, "}        ", 1 + unit_random(seed) % 8);
	blob_int(&b, json.n, 8);
	blob_put(&b, json.p, json.n);
	blob_random(&b, off, seed);
	blob_free(&json);
	return b;
}

START_TEST(random_models_come_out_as_they_went_in)
{
	uint64_t seed = unit_seed() + (uint64_t)_i;
	struct source s[60];
	uint32_t n = (uint32_t)(unit_random(&seed) % ARRAY_LEN(s));
	for (uint32_t i = 0; i < n; i++)
		random_tensor(&s[i], i, &seed);
	struct blob b = random_file(s, n, &seed);
	struct tensor_list list = {0};
	uint64_t data_start, file_bytes = b.n;
	must_parse(&b, NAME, 0, &list, &data_start);
	struct layout *l;
	struct fault why = {0};
	ck_assert_msg(!layout_build(&l, &list, &file_bytes, &data_start, &(const char *){NAME}, 1, &why), "%s", why.text);
	layout_verify(l, (const uint8_t *const *)&b.p);
	ck_assert_uint_eq(l->n_tensors, n);
	ck_assert_uint_eq(l->gap_bytes, 0);
	for (uint32_t i = 0; i < n; i++) {
		const struct tensor *t = find_tensor(l, s[i].name);
		ck_assert_uint_eq(t->dtype, s[i].dtype);
		ck_assert_uint_eq(t->rank, s[i].rank);
		ck_assert_mem_eq(t->shape, s[i].shape, t->rank * sizeof *t->shape);
		ck_assert_uint_eq(t->file_off, data_start + s[i].off);
		ck_assert_uint_eq(t->bytes, s[i].bytes);
	}
	layout_free(&l);
	blob_free(&b);
}
END_TEST

START_TEST(formats_are_told_by_suffix)
{
	enum model_format f;
	ck_assert(!header_format("a.safetensors", &f) && f == FORMAT_SAFETENSORS);
	ck_assert(!header_format("a.gguf", &f) && f == FORMAT_GGUF);
	ck_assert_int_eq(header_format(".gguf", &f), -EINVAL);
	ck_assert_int_eq(header_format("a.bin", &f), -EINVAL);
	ck_assert_int_eq(header_format("a.safetensors.index.json", &f), -EINVAL);
	ck_assert_int_eq(header_format("", &f), -EINVAL);
}
END_TEST

static void good(Suite *s)
{
	UNIT_CASE(s, "good", a_header_is_read, odd_but_valid_headers_are_accepted,
		every_element_type_of_the_specification_has_its_size, formats_are_told_by_suffix);
}

static void hostile(Suite *s)
{
	UNIT_CASE(s, "hostile", wrong_lengths_are_refused, broken_json_is_refused, wrong_utf8_is_refused,
		duplicate_keys_are_refused, wrong_descriptions_are_refused, wrong_numbers_are_refused,
		overlaps_and_holes_are_refused, deep_nesting_and_sheer_size_are_refused,
		more_tensors_than_an_image_holds_are_refused, long_names_leave_room_for_the_fault);
}

static void random_models(Suite *s)
{
	TCase *c = tcase_create("random models");
	tcase_add_loop_test(c, random_models_come_out_as_they_went_in, 0, 32);
	suite_add_tcase(s, c);
}

UNIT_MAIN("safetensors", good, hostile, random_models)
