/* test_gguf.c - GGUF headers, good and hostile, and the names of split files. */
#include "tests/unit/headers.h"
#include "tests/unit/layout_verify.h"

#define NAME "model.gguf"
#define HEAD "model.gguf: "

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void put_string(struct blob *b, const char *s)
{
	blob_int(b, strlen(s), 8);
	blob_put(b, s, strlen(s));
}

static struct blob begin(uint32_t version, uint64_t tensors, uint64_t keys)
{
	struct blob b = {0};
	blob_put(&b, "GGUF", 4);
	blob_int(&b, version, 4);
	blob_int(&b, tensors, 8);
	blob_int(&b, keys, 8);
	return b;
}

static void put_key(struct blob *b, const char *key, uint32_t type, uint64_t value, unsigned bytes)
{
	put_string(b, key);
	blob_int(b, type, 4);
	blob_int(b, value, bytes);
}

/* dims: innermost first, as in the file. */
static void put_tensor(struct blob *b, const char *name, uint32_t type, uint32_t rank, const uint64_t *dims, uint64_t off)
{
	put_string(b, name);
	blob_int(b, rank, 4);
	for (uint32_t i = 0; i < rank; i++)
		blob_int(b, dims[i], 8);
	blob_int(b, type, 4);
	blob_int(b, off, 8);
}

static void put_vector(struct blob *b, const char *name, uint32_t type, uint64_t elems, uint64_t off)
{
	put_tensor(b, name, type, 1, &elems, off);
}

static void pad(struct blob *b, uint64_t alignment)
{
	while (b->n % alignment)
		blob_int(b, 0, 1);
}

/* Padding to 32, data_bytes of data; the file must be refused. */
static void refuse_named(struct blob *b, const char *name, uint64_t data_bytes, const char *start, const char *fault)
{
	pad(b, 32);
	for (uint64_t i = 0; i < data_bytes; i++)
		blob_int(b, 'x', 1);
	must_refuse_file(b, name, start, fault);
	blob_free(b);
}

static void refuse(struct blob b, uint64_t data_bytes, const char *start, const char *fault)
{
	refuse_named(&b, NAME, data_bytes, start, fault);
}

static void put_every_value_type(struct blob *b)
{
	put_key(b, "u8", U8, 255, 1);
	put_key(b, "i8", I8, 255, 1);
	put_key(b, "u16", U16, 1, 2);
	put_key(b, "i16", I16, 1, 2);
	put_key(b, "u32", U32, 1, 4);
	put_key(b, "i32", I32, 1, 4);
	put_key(b, "f32", F32, 1, 4);
	put_key(b, "bool", BOOL, 1, 1);
	put_key(b, "u64", U64, 1, 8);
	put_key(b, "i64", I64, UINT64_MAX, 8);
	put_key(b, "f64", F64, 1, 8);
	put_key(b, "string", STRING, 2, 8);
	blob_put(b, "\xff\0", 2); /* not our business */
	put_key(b, "array of bool", ARRAY, BOOL, 4);
	blob_int(b, 3, 8);
	blob_int(b, 0x010001, 3);
	put_key(b, "array of strings", ARRAY, STRING, 4);
	blob_int(b, 2, 8);
	put_string(b, "one");
	put_string(b, "");
	put_key(b, "array of arrays", ARRAY, ARRAY, 4);
	blob_int(b, 2, 8);
	for (unsigned i = 0; i < 2; i++) {
		blob_int(b, U16, 4);
		blob_int(b, 3, 8);
		blob_int(b, 0x112233445566, 6);
	}
}

START_TEST(a_header_is_read)
{
	for (uint32_t version = 2; version <= 3; version++) {
		struct blob b = begin(version, 2, 16);
		struct tensor_list list = {0};
		uint64_t data_start;
		put_every_value_type(&b);
		put_key(&b, "general.alignment", U32, 64, 4);
		put_tensor(&b, "blk.0.w", 12, 2, (uint64_t[]){512, 3}, 64);
		put_tensor(&b, "norm", 0, 0, NULL, 0);
		pad(&b, 64);
		size_t start = b.n;
		blob_random(&b, 64 + 6 * 144 + 5, &(uint64_t){1});
		must_parse(&b, NAME, 0, &list, &data_start);
		ck_assert_uint_eq(data_start, start);
		ck_assert_uint_eq(list.n, 2);
		ck_assert_str_eq(list.v[0].name, "norm");
		ck_assert_uint_eq(list.v[0].bytes, 4);
		ck_assert_str_eq(list.v[1].name, "blk.0.w");
		ck_assert_uint_eq(list.v[1].dtype, DTYPE_Q4_K);
		ck_assert_uint_eq(list.v[1].rank, 2);
		ck_assert_uint_eq(list.v[1].shape[0], 3);
		ck_assert_uint_eq(list.v[1].shape[1], 512);
		ck_assert_uint_eq(list.v[1].bytes, 6 * 144);
		ck_assert_uint_eq(list.v[1].file_off, start + 64);
		tensor_list_fini(&list);
		blob_free(&b);
	}
}
END_TEST

START_TEST(a_file_without_tensors_is_accepted)
{
	struct blob b = begin(3, 0, 1);
	struct tensor_list list = {0};
	uint64_t data_start;
	put_key(&b, "a", U8, 1, 1);
	must_parse(&b, NAME, 0, &list, &data_start);
	ck_assert_uint_eq(data_start, b.n);
	ck_assert_uint_eq(list.n, 0);
	blob_free(&b);
}
END_TEST

/* A vocabulary of several MB: the parser asks a few times, each time for twice as much. */
START_TEST(a_long_header_is_asked_for_by_doubling)
{
	struct blob b = begin(3, 1, 1);
	struct tensor_list list = {0};
	struct fault why = {0};
	uint64_t data_start;
	size_t have = 0, need = 0, asks = 0, strings = 400000;
	put_key(&b, "tokens", ARRAY, STRING, 4);
	blob_int(&b, strings, 8);
	for (size_t i = 0; i < strings; i++)
		blob_put(&b, "\5\0\0\0\0\0\0\0token", 13);
	put_vector(&b, "w", 0, 2, 0);
	pad(&b, 32);
	blob_int(&b, 1, 8);
	int r;
	while ((r = header_parse(FORMAT_GGUF, NAME, 0, b.p, have, b.n, &need, &data_start, &list, &why)) == -EAGAIN) {
		ck_assert(need >= MIN(2 * have, b.n) && need >= MIN(MIB, b.n) && need <= b.n);
		ck_assert_uint_eq(list.n, 0);
		have = need;
		asks++;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_le(asks, 5);
	ck_assert_uint_eq(list.n, 1);
	tensor_list_fini(&list);
	blob_free(&b);
}
END_TEST

/* Independent of dtypes.def: ggml's number, elements and bytes of a block. */
static const struct {
	uint32_t type, elems, bytes;
} ggml[] = {{0, 1, 4}, {1, 1, 2}, {2, 32, 18}, {3, 32, 20}, {6, 32, 22}, {7, 32, 24}, {8, 32, 34}, {9, 32, 36},
	{10, 256, 256 / 16 + 256 / 4 + 4}, {11, 256, 256 / 8 + 256 / 4 + 12 + 2}, {12, 256, 4 + 12 + 256 / 2},
	{13, 256, 4 + 12 + 256 / 8 + 256 / 2}, {14, 256, 256 / 2 + 256 / 4 + 256 / 16 + 2}, {15, 256, 4 + 256 + 256 / 16 * 2},
	{16, 256, 2 + 256 / 8 * 2}, {17, 256, 2 + 256 / 8 * 2 + 256 / 32}, {18, 256, 2 + 3 * 256 / 8},
	{19, 256, 2 + 256 / 8 + 256 / 16}, {20, 32, 2 + 16}, {21, 256, 2 + 13 * 256 / 32 + 256 / 64},
	{22, 256, 2 + 256 / 4 + 256 / 16}, {23, 256, 2 + 2 + 256 / 64 + 256 / 2}, {24, 1, 1}, {25, 1, 2}, {26, 1, 4},
	{27, 1, 8}, {28, 1, 8}, {29, 256, 256 / 8 + 256 / 16 + 256 / 32}, {30, 1, 2}, {34, 256, 2 + 256 / 64 + 240 / 5},
	{35, 256, 2 + 256 / 4}, {39, 32, 1 + 16}, {40, 64, 4 + 32}, {41, 128, 2 + 16}, {42, 64, 2 + 16}};

START_TEST(every_ggml_type_has_its_block_size)
{
	uint32_t in_table = 0;
	for (uint32_t d = 0; d < 256; d++)
		in_table += dtype_row(d) && dtype_row(d)->ggml >= 0;
	ck_assert_uint_eq(in_table, ARRAY_LEN(ggml));
	for (size_t i = 0; i < ARRAY_LEN(ggml); i++) {
		struct blob b = begin(3, 1, 0);
		struct tensor_list list = {0};
		uint64_t data_start;
		put_tensor(&b, "w", ggml[i].type, 2, (uint64_t[]){ggml[i].elems * 3, 5}, 0);
		pad(&b, 32);
		blob_random(&b, 15 * ggml[i].bytes, &(uint64_t){1});
		must_parse(&b, NAME, 0, &list, &data_start);
		ck_assert_uint_eq(list.v[0].bytes, 15 * ggml[i].bytes);
		tensor_list_fini(&list);
		blob_free(&b);
	}
}
END_TEST

START_TEST(types_that_ggml_gave_up_are_refused)
{
	static const uint32_t gone[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, 1000, UINT32_MAX};
	for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
		struct blob b = begin(3, 1, 0);
		put_vector(&b, "w", gone[i], 256, 0);
		refuse(b, 4096, HEAD "tensor \"w\": ggml type ", "given up by ggml");
	}
}
END_TEST

START_TEST(wrong_beginnings_are_refused)
{
	struct blob b = {0};
	refuse(b, 0, HEAD, "ends inside its header");
	blob_put(&b, "GGML\3\0\0\0", 8);
	refuse(b, 100, HEAD, "does not begin with \"GGUF\"");
	refuse(begin(1, 0, 0), 0, HEAD, "GGUF version 1; versions 2 and 3");
	refuse(begin(4, 0, 0), 0, HEAD, "GGUF version 4;");
	refuse(begin(0, 0, 0), 0, HEAD, "GGUF version 0;");
	refuse(begin(0x03000000, 0, 0), 0, HEAD, "big-endian");
	refuse(begin(3, 1 + (uint64_t)IMAGE_MAX_TENSORS, 0), 0, HEAD, "1048577 tensors");
	refuse(begin(3, UINT64_MAX, 0), 0, HEAD, "18446744073709551615 tensors");
	refuse(begin(3, 0, UINT64_MAX), 0, HEAD, "18446744073709551615 metadata keys");
	refuse(begin(3, 0, 1), 0, HEAD, "metadata key at byte 24 (0 bytes)");
	refuse(begin(3, IMAGE_MAX_TENSORS, 0), 0, HEAD, "tensor name at byte 24 (0 bytes)");
}
END_TEST

START_TEST(every_cut_of_a_file_is_refused)
{
	struct blob b = begin(3, 1, 16);
	put_every_value_type(&b);
	put_key(&b, "general.alignment", U32, 32, 4);
	put_vector(&b, "w", 0, 4, 0);
	pad(&b, 32);
	blob_random(&b, 16, &(uint64_t){1});
	for (size_t n = 0; n < b.n; n++)
		must_refuse_file(&(struct blob){.p = b.p, .n = n}, NAME, HEAD, n >= b.n - 16 ? "reach beyond" : "ends inside its header");
	blob_free(&b);
}
END_TEST

static struct blob one_key(const char *key, uint32_t type, uint64_t value, unsigned bytes)
{
	struct blob b = begin(3, 0, 1);
	put_key(&b, key, type, value, bytes);
	return b;
}

START_TEST(wrong_metadata_is_refused)
{
	refuse(one_key("", U8, 0, 1), 0, HEAD, "key at byte 24 (0 bytes)");
	refuse(one_key("\xff", U8, 0, 1), 0, HEAD, "no valid UTF-8");
	refuse(one_key("k", 13, 0, 1), 0, HEAD, "unknown type 13");
	refuse(one_key("k", BOOL, 2, 1), 0, HEAD, "a boolean at byte 37 is 2");
	refuse(one_key("k", STRING, UINT64_MAX, 8), 0, HEAD, "ends inside its header");
	refuse(one_key("general.alignment", U32, 48, 4), 0, HEAD, "general.alignment is 48");
	refuse(one_key("general.alignment", U32, 0, 4), 0, HEAD, "general.alignment is 0");
	refuse(one_key("general.alignment", U32, 4, 4), 0, HEAD, "general.alignment is 4;");
	refuse(one_key("general.alignment", U32, 0x80000000, 4), 0, HEAD, "general.alignment is 2147483648");
	refuse(one_key("general.alignment", I32, 0xffffffff, 4), 0, HEAD, "general.alignment is negative");
	refuse(one_key("general.alignment", F32, 32, 4), 0, HEAD, "general.alignment is no integer");
	refuse(one_key("general.alignment", STRING, 0, 8), 0, HEAD, "general.alignment is no integer");
	struct blob b = begin(3, 0, 2);
	put_key(&b, "k", U8, 0, 1);
	put_key(&b, "k", U16, 0, 2);
	refuse(b, 0, HEAD, "\"k\" is there twice (duplicate key)");
	b = begin(3, 0, 1);
	blob_int(&b, 65536, 8);
	for (unsigned i = 0; i < 65536; i++)
		blob_int(&b, 'k', 1);
	refuse(b, 100, HEAD, "(65536 bytes) is empty, too long");
}
END_TEST

START_TEST(hostile_arrays_are_refused)
{
	struct blob b = one_key("k", ARRAY, U64, 4);
	blob_int(&b, UINT64_MAX / 8 + 2, 8);
	refuse(b, 64, HEAD, "overflows 64 bits");
	b = one_key("k", ARRAY, U8, 4);
	blob_int(&b, UINT64_MAX, 8);
	refuse(b, 64, HEAD, "ends inside its header");
	b = one_key("k", ARRAY, STRING, 4);
	blob_int(&b, UINT64_MAX, 8);
	refuse(b, 64, HEAD, "ends inside its header");
	b = one_key("k", ARRAY, 99, 4);
	blob_int(&b, 0, 8);
	refuse(b, 64, HEAD, "array of unknown type 99");
	b = one_key("k", ARRAY, ARRAY, 4);
	for (unsigned i = 0; i < 100000; i++) {
		blob_int(&b, 1, 8);
		blob_int(&b, ARRAY, 4);
	}
	refuse(b, 64, HEAD, "too deep nesting");
	b = one_key("k", ARRAY, ARRAY, 4); /* 2^60 empty arrays */
	blob_int(&b, (uint64_t)1 << 60, 8);
	refuse(b, 4096, HEAD, "unknown type 2013265920");
}
END_TEST

#define W HEAD "tensor \"w\": "

START_TEST(wrong_tensors_are_refused)
{
	struct blob b = begin(3, 1, 0);
	put_vector(&b, "", 0, 1, 0);
	refuse(b, 64, HEAD, "tensor name at byte 24 (0 bytes)");
	b = begin(3, 1, 0);
	put_vector(&b, "w\xc3", 0, 1, 0);
	refuse(b, 64, HEAD, "no valid UTF-8");
	b = begin(3, 1, 0);
	blob_int(&b, 3, 8);
	blob_put(&b, "w\0w", 3);
	refuse(b, 64, HEAD, "no valid UTF-8 text");
	b = begin(3, 1, 0);
	put_tensor(&b, "w", 0, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0);
	refuse(b, 64, W, "rank 5");
	b = begin(3, 1, 0);
	put_tensor(&b, "w", 0, 3, (uint64_t[]){1u << 31, 1u << 31, 4}, 0);
	refuse(b, 64, W, "overflows 64 bits");
	b = begin(3, 1, 0);
	put_tensor(&b, "w", 0, 2, (uint64_t[]){1u << 31, 1u << 31}, 0);
	refuse(b, 64, W, "overflows 64 bits");
	b = begin(3, 1, 0);
	put_tensor(&b, "w", 2, 2, (uint64_t[]){16, 2}, 0);
	refuse(b, 64, W, "rows of 16 elements are not whole Q4_0 blocks of 32");
	b = begin(3, 1, 0);
	put_vector(&b, "w", 0, 1, 33);
	refuse(b, 64, W, "offset 33 is no multiple of the alignment 32");
	b = begin(3, 1, 0);
	put_vector(&b, "w", 0, 1, 64);
	refuse(b, 64, W, "wrong length: its 4 bytes at offset 64 reach beyond the 64 bytes");
	b = begin(3, 1, 0);
	put_vector(&b, "w", 0, 1, (uint64_t)0 - 32);
	refuse(b, 64, W, "reach beyond");
	b = begin(3, 1, 0);
	put_vector(&b, "w", 0, 17, 0);
	refuse(b, 64, W, "its 68 bytes at offset 0");
}
END_TEST

START_TEST(overlaps_and_duplicates_are_refused)
{
	struct blob b = begin(3, 2, 0);
	put_vector(&b, "v", 0, 9, 0);
	put_vector(&b, "w", 0, 1, 32);
	refuse(b, 64, W, "overlaps tensor \"v\"");
	b = begin(3, 2, 0);
	put_vector(&b, "v", 0, 1, 0);
	put_vector(&b, "w", 0, 1, 0);
	refuse(b, 64, HEAD, "overlaps tensor");
	b = begin(3, 2, 0);
	put_vector(&b, "w", 0, 1, 0);
	put_vector(&b, "w", 0, 1, 32);
	refuse(b, 64, W, "duplicate key");
}
END_TEST

/* ---- split files ---- */

static struct blob part(uint64_t no, uint64_t count, uint64_t tensors, const char *tensor)
{
	struct blob b = begin(3, 1, 3);
	put_key(&b, "split.no", U16, no, 2);
	put_key(&b, "split.count", U16, count, 2);
	put_key(&b, "split.tensors.count", I32, tensors, 4);
	put_vector(&b, tensor, 0, 1, 0);
	pad(&b, 32);
	blob_int(&b, 7, 4);
	return b;
}

START_TEST(split_names_are_taken_apart)
{
	uint32_t no, count;
	size_t prefix;
	ck_assert_int_eq(gguf_split_name("x-00002-of-00005.gguf", &no, &count, &prefix), 0);
	ck_assert(no == 2 && count == 5 && prefix == 1);
	ck_assert_int_eq(gguf_split_name("a-00001-of-00002-00099-of-99999.gguf", &no, &count, &prefix), 0);
	ck_assert(no == 99 && count == 99999 && prefix == 16);
	static const char *const others[] = {"", "x.gguf", "-00001-of-00001.gguf", "x-00000-of-00001.gguf",
		"x-00003-of-00002.gguf", "x-0001-of-0002.gguf", "x-00001-of-00002.ggu", "x-00001-of-00002.safetensors",
		"x-00001-of-0000a.gguf", "x 00001-of-00002.gguf", "x-00001_of-00002.gguf", "x-00001-of-00000.gguf"};
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		ck_assert_msg(gguf_split_name(others[i], &no, &count, &prefix) == -EINVAL, "%s", others[i]);
}
END_TEST

START_TEST(parts_that_fit_their_names_make_one_model)
{
	static const char *const names[] = {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"};
	struct tensor_list list = {0};
	uint64_t data_start[2], file_bytes[2];
	struct blob b[2];
	struct layout *l;
	struct fault why;
	for (uint32_t f = 0; f < 2; f++) {
		b[f] = part(f, 2, 2, f ? "w1" : "w0");
		file_bytes[f] = b[f].n;
		must_parse(&b[f], names[f], f, &list, &data_start[f]);
	}
	ck_assert_uint_eq(list.stated, 2);
	ck_assert(!layout_build(&l, &list, file_bytes, data_start, names, 2, &why));
	layout_verify(l, (const uint8_t *const[]){b[0].p, b[1].p});
	layout_free(&l);
	must_parse(&b[0], names[0], 0, &list, &data_start[0]); /* the first part alone */
	ck_assert_int_eq(layout_build(&l, &list, file_bytes, data_start, names, 1, &why), -EPROTO);
	ck_assert_ptr_nonnull(strstr(why.text, "m-00001-of-00002.gguf: states that the model has 2 tensors"));
	blob_free(&b[0]);
	blob_free(&b[1]);
}
END_TEST

START_TEST(parts_that_contradict_their_names_are_refused)
{
	struct blob b = part(1, 2, 2, "w");
	refuse_named(&b, NAME, 0, HEAD, "it is part 2 of 2, and its name does not say so");
	b = part(1, 2, 2, "w");
	refuse_named(&b, "m-00001-of-00002.gguf", 0, "m-00001-of-00002.gguf: ", "its split.no 1");
	b = part(0, 3, 2, "w");
	refuse_named(&b, "m-00001-of-00002.gguf", 0, "m-00001-of-00002.gguf: ", "its split.count 3");
	b = part(0, 2, UINT32_MAX, "w");
	refuse_named(&b, "m-00001-of-00002.gguf", 0, "m-00001-of-00002.gguf: ", "split.tensors.count is negative");
	b = part(0, 2, 0x7fffffff, "w");
	refuse_named(&b, "m-00001-of-00002.gguf", 0, "m-00001-of-00002.gguf: ", "split.tensors.count is 2147483647");
	b = part(0, 0, 1, "w"); /* merged */
	struct tensor_list list = {0};
	uint64_t data_start;
	must_parse(&b, NAME, 0, &list, &data_start);
	tensor_list_fini(&list);
	blob_free(&b);
}
END_TEST

/* ---- random models ---- */

struct source {
	char name[40];
	size_t type;
	uint32_t rank;
	uint64_t dims[4], off, bytes;
};

static struct blob random_file(struct source *s, uint32_t n, uint64_t alignment, uint64_t *seed)
{
	struct blob b = begin(2 + (uint32_t)(unit_random(seed) % 2), n, 16);
	uint64_t off = 0;
	put_every_value_type(&b);
	put_key(&b, "general.alignment", U32, alignment, 4);
	for (uint32_t i = 0; i < n; i++) {
		struct source *t = &s[i];
		t->type = unit_random(seed) % ARRAY_LEN(ggml);
		t->rank = 1 + (uint32_t)(unit_random(seed) % 4);
		uint64_t blocks = 1;
		for (uint32_t d = 0; d < t->rank; d++) {
			t->dims[d] = unit_random(seed) % 10 ? 1 + unit_random(seed) % 7 : 0;
			blocks *= t->dims[d];
		}
		t->dims[0] *= ggml[t->type].elems;
		t->bytes = blocks * ggml[t->type].bytes;
		t->off = off;
		off = align_up(off + t->bytes, alignment) + alignment * (unit_random(seed) % 8 == 0);
		snprintf(t->name, sizeof t->name, "blk.%" PRIu32 ".%x", i, (unsigned)(unit_random(seed) % 4096));
	}
	uint32_t start = n ? (uint32_t)(unit_random(seed) % n) : 0;
	for (uint32_t k = 0; k < n; k++) {
		const struct source *t = &s[(start + k) % n];
		put_tensor(&b, t->name, ggml[t->type].type, t->rank, t->dims, t->off);
	}
	pad(&b, alignment);
	blob_random(&b, off, seed);
	return b;
}

START_TEST(random_models_come_out_as_they_went_in)
{
	uint64_t seed = unit_seed() + (uint64_t)_i;
	struct source s[60];
	uint32_t n = (uint32_t)(unit_random(&seed) % ARRAY_LEN(s));
	struct blob b = random_file(s, n, (uint64_t)8 << unit_random(&seed) % 6, &seed);
	struct tensor_list list = {0};
	uint64_t data_start, file_bytes = b.n;
	must_parse(&b, NAME, 0, &list, &data_start);
	struct layout *l;
	struct fault why = {0};
	ck_assert_msg(!layout_build(&l, &list, &file_bytes, &data_start, &(const char *){NAME}, 1, &why), "%s", why.text);
	layout_verify(l, (const uint8_t *const *)&b.p);
	ck_assert_uint_eq(l->n_tensors, n);
	for (uint32_t i = 0; i < n; i++) {
		const struct tensor *t = find_tensor(l, s[i].name);
		ck_assert_int_eq(dtype_row(t->dtype)->ggml, (int)ggml[s[i].type].type);
		ck_assert_uint_eq(t->rank, s[i].rank);
		for (uint32_t d = 0; d < t->rank; d++)
			ck_assert_uint_eq(t->shape[d], s[i].dims[t->rank - 1 - d]);
		ck_assert_uint_eq(t->file_off, data_start + s[i].off);
		ck_assert_uint_eq(t->bytes, s[i].bytes);
	}
	layout_free(&l);
	blob_free(&b);
}
END_TEST

static void good(Suite *s)
{
	UNIT_CASE(s, "good", a_header_is_read, a_file_without_tensors_is_accepted,
		a_long_header_is_asked_for_by_doubling, every_ggml_type_has_its_block_size);
}

static void hostile(Suite *s)
{
	UNIT_CASE(s, "hostile", wrong_beginnings_are_refused, every_cut_of_a_file_is_refused, wrong_metadata_is_refused,
		hostile_arrays_are_refused, wrong_tensors_are_refused, types_that_ggml_gave_up_are_refused,
		overlaps_and_duplicates_are_refused);
}

static void split(Suite *s)
{
	UNIT_CASE(s, "split", split_names_are_taken_apart, parts_that_fit_their_names_make_one_model,
		parts_that_contradict_their_names_are_refused);
}

static void random_models(Suite *s)
{
	TCase *c = tcase_create("random models");
	tcase_add_loop_test(c, random_models_come_out_as_they_went_in, 0, 32);
	suite_add_tcase(s, c);
}

UNIT_MAIN("gguf", good, hostile, split, random_models)
