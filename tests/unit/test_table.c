/* test_table.c - the tensor table: lookups, and tables that lie.  That a table says the same as its layout is checked by
 * layout_verify() in the tests of layouts. */

#include "shared/image.h"
#include "tests/unit/table_find.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#define N 5

static const char *const tensor_names[N] = {"model.b", "model", "", "model.a", "\xff"};

struct fixture {
	struct layout l;
	struct tensor tensors[N];
	uint64_t extent_bytes[2];
	uint32_t by_name[N];
	uint64_t bytes;
	struct table_header *t;
};

static void init(struct fixture *x)
{
	static const uint32_t sorted[N] = {2, 1, 3, 0, 4};
	*x = (struct fixture){.extent_bytes = {8192, 4096}};
	memcpy(x->by_name, sorted, sizeof sorted);
	for (uint32_t i = 0; i < N; i++)
		x->tensors[i] = (struct tensor){.name = (char *)tensor_names[i], .dtype = DTYPE_U8, .rank = 1, .shape = {100},
			.extent = i / 3, .offset = i % 3 * 256, .bytes = 100};
	x->l = (struct layout){.tensors = x->tensors, .n_tensors = N, .n_extents = 2, .extent_bytes = x->extent_bytes,
		.image_bytes = 12288, .by_name = x->by_name};
	x->bytes = table_bytes(&x->l);
	x->t = malloc(x->bytes); /* exactly: a sanitizer sees what goes beyond */
	table_build(&x->l, x->t);
	ck_assert_int_eq(table_check(x->t, x->bytes), 0);
}

START_TEST(names_are_found_by_all_their_bytes)
{
	struct fixture x;
	init(&x);
	for (uint32_t i = 0; i < N; i++)
		ck_assert_int_eq(table_find(x.t, tensor_names[i], strlen(tensor_names[i])), i);
	ck_assert_int_eq(table_find(x.t, "model.", 6), -1);
	ck_assert_int_eq(table_find(x.t, "model.aa", 8), -1);
	ck_assert_int_eq(table_find(x.t, "model.a\0", 8), -1);
	ck_assert_int_eq(table_find(x.t, "zzz", 3), -1);
	free(x.t);
}
END_TEST

START_TEST(a_table_cut_anywhere_is_refused)
{
	struct fixture x;
	init(&x);
	for (uint64_t n = 0; n < x.bytes; n++) {
		struct table_header *cut = malloc(n + 1);
		memcpy(cut, x.t, n);
		ck_assert_int_eq(table_check(cut, n), -EPROTO);
		if (n >= sizeof *cut) {
			cut->table_bytes = n;
			ck_assert_int_eq(table_check(cut, n), n < x.t->names_off + x.t->names_bytes ? -EPROTO : 0);
		}
		free(cut);
	}
	free(x.t);
}
END_TEST

/* Sets one field to a wrong value and expects a refusal. */
#define LIE(lvalue, value)                                                                                            \
	do {                                                                                                          \
		struct fixture x;                                                                                     \
		init(&x);                                                                                             \
		struct table_tensor *tensor = (void *)table_tensors(x.t);                                             \
		struct table_extent *extent = (void *)table_extents(x.t);                                             \
		uint32_t *by_name = (void *)((char *)x.t + x.t->by_name_off);                                         \
		(void)tensor, (void)extent, (void)by_name;                                                            \
		lvalue = value;                                                                                       \
		ck_assert_msg(table_check(x.t, x.bytes) == -EPROTO, "%s = %s is accepted", #lvalue, #value);          \
		free(x.t);                                                                                            \
	} while (0)

START_TEST(a_header_that_lies_is_refused)
{
	LIE(x.t->magic, 0);
	LIE(x.t->version, 2);
	LIE(x.t->table_bytes, x.bytes + 8);
	LIE(x.t->image_bytes, 4096);
	LIE(x.t->n_extents, 1);
	LIE(x.t->n_extents, UINT32_MAX);
	LIE(x.t->n_tensors, UINT32_MAX);
	LIE(x.t->extents_off, 0);
	LIE(x.t->extents_off, x.t->extents_off + 4);
	LIE(x.t->tensors_off, UINT64_MAX - 7);
	LIE(x.t->tensors_off, x.t->tensors_off + 4);
	LIE(x.t->by_name_off, x.bytes - 16);
	LIE(x.t->by_name_off, x.t->by_name_off + 1);
	LIE(x.t->names_off, UINT64_MAX - 3);
	LIE(x.t->names_off, x.bytes + 8);
	LIE(x.t->names_bytes, UINT64_MAX);
	LIE(x.t->names_bytes, 3);
}
END_TEST

START_TEST(records_that_lie_are_refused)
{
	LIE(extent[0].bytes, 8191);
	LIE(extent[0].bytes, 0);
	LIE(extent[1].bytes, UINT64_MAX - 4095);
	LIE(extent[1].image_off, 0);
	LIE(tensor[0].name_off, UINT64_MAX);
	LIE(tensor[0].name_off, 1000);
	LIE(tensor[0].name_len, 3);
	LIE(tensor[0].name_len, UINT32_MAX);
	LIE(tensor[1].rank, 9);
	LIE(tensor[1].extent, 2);
	LIE(tensor[1].offset, 255);
	LIE(tensor[1].offset, UINT64_MAX - 255);
	LIE(tensor[1].offset, 8192);
	LIE(tensor[1].bytes, 8000);
	LIE(tensor[1].bytes, UINT64_MAX);
	LIE(by_name[4], N);
}
END_TEST

START_TEST(any_changed_byte_is_refused_or_harmless)
{
	uint64_t seed = unit_seed();
	struct fixture x;
	init(&x);
	for (unsigned round = 0; round < 20000; round++) {
		uint8_t *copy = malloc(x.bytes);
		memcpy(copy, x.t, x.bytes);
		for (unsigned k = 0; k <= round % 3; k++)
			copy[unit_random(&seed) % x.bytes] = (uint8_t)unit_random(&seed);
		const struct table_header *t = (void *)copy;
		if (!table_check(t, x.bytes)) {
			for (uint32_t i = 0; i < t->n_tensors; i++)
				ck_assert(strlen(table_name(t, &table_tensors(t)[i])) <= table_tensors(t)[i].name_len);
			table_find(t, "model.a", 7);
		}
		free(copy);
	}
	free(x.t);
}
END_TEST

static void reading(Suite *s)
{
	UNIT_CASE(s, "reading", names_are_found_by_all_their_bytes, a_table_cut_anywhere_is_refused,
		a_header_that_lies_is_refused, records_that_lie_are_refused, any_changed_byte_is_refused_or_harmless);
}

UNIT_MAIN("table", reading)
