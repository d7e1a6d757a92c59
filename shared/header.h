/* header.h - what the header parsers share.  Private to header.c, safetensors.c, gguf.c and shard_index.c.
 * Thread: any.  Borrows everything that a struct header points to. */
#ifndef SHARED_HEADER_H
#define SHARED_HEADER_H

#include "shared/image.h"

/* One call of header_parse(). */
struct header {
	const char *file_name;
	uint32_t file;
	const uint8_t *head;
	size_t have;
	uint64_t file_bytes;
	size_t *need;
	uint64_t *data_start;
	struct tensor_list *out;
	struct fault *why;
};

int safetensors_parse(const struct header *h);
int gguf_parse(const struct header *h);

/* "FILE: ..." as BAD_MODEL; returns -EPROTO. */
int header_fault(const struct header *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "FILE: tensor "NAME": ...", long names shortened. */
int header_tensor_fault(const struct header *h, const char *tensor, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int header_no_memory(const struct header *h);

/* -EAGAIN with *need set to at least `need`, or -EPROTO when the file has or may have no so many. */
int header_need(const struct header *h, uint64_t need);

/* Appends a tensor; takes `name` over, also on failure. */
int header_add_tensor(const struct header *h, char *name, struct tensor **out);
/* Sets t->bytes from its dtype and shape; refuses overflow and broken blocks. */
int header_size_tensor(const struct header *h, struct tensor *t);
/* Tensors [first, out->n) of this file: sorts them by place, refuses equal names and overlaps. */
int header_check_tensors(const struct header *h, uint32_t first);
/* "[2, 3]" */
#define HEADER_SHAPE_TEXT (IMAGE_MAX_RANK * 22 + 3)
const char *header_shape(const struct tensor *t, char buf[HEADER_SHAPE_TEXT]);

#endif
