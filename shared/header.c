/* header.c - see image.h and header.h.  Keeps: a fault names the file, and the tensor where there is one, before
 * anything that could be long enough to push them off the end of the sentence. */
#include "shared/header.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_SHOWN 160

static bool ends_with(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n > m && !strcmp(s + n - m, suffix);
}

int header_format(const char *file_name, enum model_format *out)
{
	if (ends_with(file_name, ".safetensors"))
		*out = FORMAT_SAFETENSORS;
	else if (ends_with(file_name, ".gguf"))
		*out = FORMAT_GGUF;
	else
		return -EINVAL;
	return 0;
}

static void drop_tensors(struct tensor_list *l, uint32_t first)
{
	while (l->n > first)
		free(l->v[--l->n].name);
}

int header_parse(enum model_format format, const char *file_name, uint32_t file, const uint8_t *head, size_t have,
	uint64_t file_bytes, size_t *need, uint64_t *data_start, struct tensor_list *out, struct fault *why)
{
	struct header h = {file_name, file, head, have, file_bytes, need, data_start, out, why};
	uint32_t before = out->n;
	int r = format == FORMAT_GGUF ? gguf_parse(&h) : safetensors_parse(&h);
	if (r == -EAGAIN)
		drop_tensors(out, before);
	return r;
}

/* ---- faults ---- */

int header_fault(const struct header *h, const char *fmt, ...)
{
	char text[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return fault_set(h->why, TRIMS_E_BAD_MODEL, "%s: %s", h->file_name, text);
}

int header_tensor_fault(const struct header *h, const char *tensor, const char *fmt, ...)
{
	char text[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	size_t len = strlen(tensor), shown = len;
	if (len > NAME_SHOWN) /* do not cut a character in two */
		for (shown = NAME_SHOWN; ((uint8_t)tensor[shown] & 0xc0) == 0x80; shown--)
			;
	return fault_set(h->why, TRIMS_E_BAD_MODEL, "%s: tensor \"%.*s%s\": %s", h->file_name, (int)shown, tensor,
		shown < len ? "..." : "", text);
}

int header_no_memory(const struct header *h)
{
	return fault_errno(h->why, TRIMS_E_NO_MEMORY, ENOMEM, "%s", h->file_name);
}

int header_need(const struct header *h, uint64_t need)
{
	if (need > h->file_bytes)
		return header_fault(h, "the file ends inside its header: %" PRIu64 " bytes, at least %" PRIu64 " needed",
			h->file_bytes, need);
	*h->need = (size_t)need;
	return -EAGAIN;
}

/* ---- tensors ---- */

static int list_grow(struct tensor_list *l)
{
	uint32_t cap = l->cap ? l->cap * 2 : 64;
	struct tensor *v = reallocarray(l->v, cap, sizeof *v);
	if (!v)
		return -ENOMEM;
	l->v = v;
	l->cap = cap;
	return 0;
}

int header_add_tensor(const struct header *h, char *name, struct tensor **out)
{
	struct tensor_list *l = h->out;
	int r = 0;
	if (!name || (l->n == l->cap && list_grow(l)))
		r = header_no_memory(h);
	else if (l->n >= IMAGE_MAX_TENSORS)
		r = header_tensor_fault(h, name, "the model has more than %" PRIu32 " tensors", IMAGE_MAX_TENSORS);
	else if (!*name || strlen(name) > IMAGE_MAX_NAME)
		r = header_tensor_fault(h, name, "a name of %zu bytes; 1 to %d are possible", strlen(name), IMAGE_MAX_NAME);
	if (r) {
		free(name);
		return r;
	}
	*out = &l->v[l->n++];
	**out = (struct tensor){.name = name, .file = h->file};
	return 0;
}

const char *header_shape(const struct tensor *t, char buf[HEADER_SHAPE_TEXT])
{
	size_t at = 0;
	buf[at++] = '[';
	for (uint32_t i = 0; i < t->rank; i++)
		at += (size_t)snprintf(buf + at, HEADER_SHAPE_TEXT - at, "%s%" PRIu64, i ? ", " : "", t->shape[i]);
	memcpy(buf + at, "]", 2);
	return buf;
}

int header_size_tensor(const struct header *h, struct tensor *t)
{
	const struct dtype_row *row = dtype_row(t->dtype);
	char shape[HEADER_SHAPE_TEXT];
	uint64_t elems = 1;
	bool empty = false;
	for (uint32_t i = 0; i < t->rank; i++) {
		empty |= !t->shape[i]; /* the other dimensions must make sense all the same, in whatever order they come */
		if (mul_overflows(elems, MAX(t->shape[i], 1), &elems))
			return header_tensor_fault(h, t->name, "the element count of shape %s overflows 64 bits",
				header_shape(t, shape));
	}
	if (empty)
		elems = 0;
	if (elems % row->elems)
		return header_tensor_fault(h, t->name, "shape %s of %s ends inside a block of %" PRIu32 " elements",
			header_shape(t, shape), row->name, row->elems);
	if (mul_overflows(elems / row->elems, row->bytes, &t->bytes))
		return header_tensor_fault(h, t->name, "the size of shape %s of %s overflows 64 bits", header_shape(t, shape),
			row->name);
	return 0;
}

static int cmp_name(const void *va, const void *vb, void *tensors)
{
	const struct tensor *t = tensors;
	return strcmp(t[*(const uint32_t *)va].name, t[*(const uint32_t *)vb].name);
}

static int refuse_equal_names(const struct header *h, const struct tensor *t, uint32_t n)
{
	uint32_t *order = calloc((size_t)n + 1, sizeof *order);
	if (!order)
		return header_no_memory(h);
	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	qsort_r(order, n, sizeof *order, cmp_name, (void *)t);
	int r = 0;
	for (uint32_t i = 1; i < n && !r; i++)
		if (!strcmp(t[order[i - 1]].name, t[order[i]].name))
			r = header_tensor_fault(h, t[order[i]].name, "the file has two tensors of this name (duplicate key)");
	free(order);
	return r;
}

/* By first byte, then last, so that a zero-size tensor comes before the one that begins at the same place. */
static int cmp_place(const void *va, const void *vb)
{
	const struct tensor *a = va, *b = vb;
	if (a->file_off != b->file_off)
		return a->file_off < b->file_off ? -1 : 1;
	return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

int header_check_tensors(const struct header *h, uint32_t first)
{
	uint32_t n = h->out->n - first;
	if (!n)
		return 0;
	struct tensor *t = h->out->v + first;
	int r = refuse_equal_names(h, t, n);
	if (r)
		return r;
	qsort(t, n, sizeof *t, cmp_place);
	for (uint32_t i = 1; i < n; i++)
		if (t[i].file_off < t[i - 1].file_off + t[i - 1].bytes)
			return header_tensor_fault(h, t[i].name, "overlaps tensor \"%.100s\": it begins at byte %" PRIu64
				" of the file, the other ends at %" PRIu64, t[i - 1].name, t[i].file_off,
				t[i - 1].file_off + t[i - 1].bytes);
	return 0;
}
