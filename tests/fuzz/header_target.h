/* header_target.h - the property of the header parsers: a weight file is refused with a sentence that names it, or it has
 * a layout that can be carried out on its bytes; and it makes no difference in how many pieces the head arrives.
 * Thread: any.  Owns nothing. */
#ifndef TESTS_FUZZ_HEADER_TARGET_H
#define TESTS_FUZZ_HEADER_TARGET_H

#include "shared/image.h"
#include "tests/unit/layout_verify.h"

#include <errno.h>

static inline void check_refusal(int r, const char *name, const struct fault *why)
{
	ASSERT(r == -EPROTO && why->code == TRIMS_E_BAD_MODEL);
	ASSERT(!strncmp(why->text, name, strlen(name)) && !strncmp(why->text + strlen(name), ": ", 2));
	ASSERT(strlen(why->text) > strlen(name) + 2);
}

static inline int parse_in_pieces(enum model_format format, const char *name, const uint8_t *data, size_t size,
	uint64_t *data_start, struct tensor_list *out, struct fault *why)
{
	size_t have = 0, need = 0;
	for (;;) {
		uint8_t *head = verify_alloc(have);
		memcpy(head, data, have);
		int r = header_parse(format, name, 0, head, have, size, &need, data_start, out, why);
		free(head);
		if (r != -EAGAIN)
			return r;
		ASSERT(need > have && need <= size && !out->n);
		have = need;
	}
}

static inline void fuzz_header(enum model_format format, const char *name, const uint8_t *data, size_t size)
{
	struct tensor_list list = {0}, again = {0};
	struct fault why = {0}, why_again = {0};
	uint64_t data_start = 0, start_again = 0, file_bytes = size;
	size_t need = 0;
	struct layout *l = NULL;
	int r = header_parse(format, name, 0, data, size, size, &need, &data_start, &list, &why);
	ASSERT(parse_in_pieces(format, name, data, size, &start_again, &again, &why_again) == r);
	ASSERT(!strcmp(why.text, why_again.text) && (r || (start_again == data_start && again.n == list.n)));
	tensor_list_fini(&again);
	if (!r)
		r = layout_build(&l, &list, &file_bytes, &data_start, &name, 1, &why);
	if (r)
		check_refusal(r, name, &why);
	else
		layout_verify(l, &data);
	layout_free(&l);
	tensor_list_fini(&list);
}

#endif
