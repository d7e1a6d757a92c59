/* describe.c - what is in a model: heads of its weight files, side files, the layout.
 * Keeps: no byte of a head or a side file is trusted; the heads of all files together stay below a bound. */
#include "mrm/source/internal.h"

#include "shared/image.h"
#include "shared/own.h"

#include <openssl/evp.h>

/* What is read of a file before its head's length is known.  A remote source takes longer to answer than to send this
 * much, which holds most heads; of a local file the length is read and then what it says. */
#define FIRST_READ_REMOTE (256 * KIB)
#define FIRST_READ_LOCAL (16 * KIB)

void source_description_free(struct source_description **d)
{
	if (!*d)
		return;
	for (uint32_t i = 0; (*d)->heads && i < (*d)->n_heads; i++)
		free((*d)->heads[i].data);
	for (uint32_t i = 0; (*d)->side && i < (*d)->n_side; i++)
		free((*d)->side[i].data);
	free((*d)->heads);
	free((*d)->side);
	layout_free(&(*d)->layout);
	free(*d);
	*d = NULL;
}

/* ---- side files ---- */

static int check_sha256(const struct source_file *f, const struct source_bytes *b, struct fault *why)
{
	uint8_t digest[32];
	if (!f->has_sha256)
		return 0;
	if (!EVP_Digest(b->data, b->bytes, digest, NULL, EVP_sha256(), NULL))
		return fail(why, TRIMS_E_INTERNAL, "SHA-256 failed");
	return memcmp(digest, f->sha256, sizeof digest)
		       ? fail(why, TRIMS_E_MISMATCH, "%s does not have the SHA-256 its source states", f->locator)
		       : 0;
}

static int read_side(struct source_worker *w, const struct source_listing *l, uint32_t file,
	const struct source_cancel *cancel, struct source_bytes *out, struct fault *why)
{
	const struct source_file *f = &l->files[file];
	out->data = malloc(f->bytes + 1);
	if (!out->data)
		return fail_memory(why);
	out->data[f->bytes] = 0; /* JSON parsers may count on it */
	out->bytes = f->bytes;
	int r = source_read(w, l, file, 0, f->bytes, out->data, cancel, why);
	return r ? r : check_sha256(f, out, why);
}

/* ---- heads ---- */

struct heads {
	struct source_worker *w;
	const struct source_listing *l;
	const struct source_cancel *cancel;
	struct fault *why;
	uint64_t total; /* bytes of all heads so far */
	struct tensor_list tensors;
	uint64_t *file_bytes, *data_start;
	const char **names;
};

/* Lengthens the head to `need` bytes.  Without ranges that means reading it again from the start. */
static int extend(struct heads *h, uint32_t file, struct source_bytes *head, size_t need)
{
	const struct source_file *f = &h->l->files[file];
	if (h->total + need > h->l->source->o.max_head_total_bytes)
		return fail(h->why, TRIMS_E_BAD_MODEL, "%s: the headers are longer than %llu bytes in all", h->l->name,
			(unsigned long long)h->l->source->o.max_head_total_bytes);
	uint8_t *more = realloc(head->data, need ? need : 1);
	if (!more)
		return fail_memory(h->why);
	head->data = more;
	size_t from = f->no_ranges ? 0 : head->bytes;
	int r = source_read(h->w, h->l, file, from, need - from, more + from, h->cancel, h->why);
	if (!r)
		head->bytes = need;
	return r;
}

static int read_head(struct heads *h, uint32_t file, struct source_bytes *head)
{
	const struct source_file *f = &h->l->files[file];
	enum model_format format;
	size_t need = (size_t)MIN(f->bytes, h->l->in_place ? FIRST_READ_LOCAL : FIRST_READ_REMOTE);
	if (header_format(f->path, &format))
		return fail(h->why, TRIMS_E_BAD_MODEL, "%s is of no known format", f->path);
	for (;;) {
		int r = extend(h, file, head, need);
		if (r)
			return r;
		r = header_parse(format, f->path, file, head->data, head->bytes, f->bytes, &need, &h->data_start[file],
			&h->tensors, h->why);
		if (r != -EAGAIN) {
			h->total += head->bytes;
			return r;
		}
		ASSERT(need > head->bytes && need <= f->bytes);
	}
}

static void trim(struct source_bytes *head, uint64_t bytes)
{
	ASSERT(bytes <= head->bytes);
	head->bytes = bytes;
	uint8_t *less = realloc(head->data, bytes ? bytes : 1);
	if (less)
		head->data = less;
}

static int check_index(struct heads *h, const struct source_description *d)
{
	const struct source_listing *l = h->l;
	if (l->index == UINT32_MAX)
		return 0;
	const struct source_bytes *json = &d->side[l->index - l->n_weights];
	char **files = NULL;
	uint32_t n = 0;
	int r = shard_index_parse(l->files[l->index].path, (const char *)json->data, json->bytes, &files, &n, h->why);
	if (!r)
		r = shard_index_check(l->files[l->index].path, (const char *)json->data, json->bytes, files, n, &h->tensors,
			h->why);
	for (uint32_t i = 0; i < n; i++)
		free(files[i]);
	free(files);
	return r;
}

static int read_all(struct heads *h, struct source_description *d)
{
	const struct source_listing *l = h->l;
	for (uint32_t i = 0; i < d->n_side; i++) {
		int r = read_side(h->w, l, l->n_weights + i, h->cancel, &d->side[i], h->why);
		if (r)
			return r;
	}
	for (uint32_t i = 0; i < d->n_heads; i++) {
		h->file_bytes[i] = l->files[i].bytes;
		h->names[i] = l->files[i].path;
		int r = read_head(h, i, &d->heads[i]);
		if (r)
			return r;
		trim(&d->heads[i], h->data_start[i]);
	}
	return check_index(h, d);
}

static int build(struct heads *h, struct source_description *d)
{
	int r = read_all(h, d);
	if (!r)
		r = layout_build(&d->layout, &h->tensors, h->file_bytes, h->data_start, h->names, d->n_heads, h->why);
	return r;
}

int source_describe(struct source_worker *w, const struct source_listing *l, const struct source_cancel *cancel,
	struct source_description **out, struct fault *why)
{
	struct heads h = {.w = w, .l = l, .cancel = cancel, .why = why};
	OWN_MEM uint64_t *file_bytes = calloc(l->n_weights, sizeof *file_bytes);
	OWN_MEM uint64_t *data_start = calloc(l->n_weights, sizeof *data_start);
	OWN_MEM const char **names = calloc(l->n_weights, sizeof *names);
	struct source_description *d = calloc(1, sizeof *d);
	int r = -ENOMEM;
	if (d && file_bytes && data_start && names) {
		d->n_heads = l->n_weights;
		d->n_side = l->n_files - l->n_weights;
		d->heads = calloc(d->n_heads, sizeof *d->heads);
		d->side = calloc(d->n_side + 1, sizeof *d->side);
		h.file_bytes = file_bytes;
		h.data_start = data_start;
		h.names = names;
		r = d->heads && d->side ? build(&h, d) : fail_memory(why);
	} else {
		r = fail_memory(why);
	}
	tensor_list_fini(&h.tensors);
	if (r)
		source_description_free(&d);
	else
		*out = d;
	return r;
}
