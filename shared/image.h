/* image.h - the one layout a model has on every tier, computed from its files' headers.
 *
 * Image: tensors in execution order (file order, then offset), each at an IMAGE_TENSOR_ALIGN boundary; cut into extents
 * (the unit that is allocated, shared and mapped) and those into chunks (the unit that is read, checked and copied).
 * A zero-size tensor is at the place where the next one could begin.  There is at least one extent, of at least a page.
 * A tensor never straddles extents: an extent ends before a tensor that would not fit, and a tensor larger than
 * IMAGE_EXTENT_BYTES has an extent of its own.  Extents are padded with zeros, the last one to IMAGE_PAGE and those
 * before it to IMAGE_HUGE_PAGE, so that laid end to end each begins where a huge page can; every extent starts a new
 * chunk; all chunks but an extent's last are IMAGE_CHUNK_BYTES.  Padding bytes are zero.  The layout is a pure function
 * of the files' headers, so a manifest stores the tensors and not the layout (IMAGE_LAYOUT_VERSION guards the function).
 *
 * Thread: a struct layout is immutable once built and may be read by any thread.  Pure code: no I/O. */
#ifndef SHARED_IMAGE_H
#define SHARED_IMAGE_H

#include "shared/base.h"
#include "shared/error.h"

#define IMAGE_LAYOUT_VERSION 1
#define IMAGE_TENSOR_ALIGN 256
#define IMAGE_PAGE 4096
#define IMAGE_HUGE_PAGE ((uint64_t)2 << 20)
#define IMAGE_CHUNK_BYTES ((uint64_t)4 << 20)
#define IMAGE_EXTENT_BYTES ((uint64_t)1 << 30)
#define IMAGE_MAX_EXTENTS 128
#define IMAGE_MAX_CHUNKS ((uint32_t)1 << 22) /* 16 TiB; bounds what a server's claim about a file's size can cost */
#define IMAGE_MAX_RANK 8
#define IMAGE_MAX_TENSORS ((uint32_t)1 << 20)
#define IMAGE_MAX_FILES 1024
#define IMAGE_MAX_HEADER_BYTES ((uint64_t)100000000) /* safetensors' own bound (of the JSON); also all of a GGUF head */
#define IMAGE_MAX_NAME 1024                           /* bytes of a tensor name */
#define IMAGE_MAX_GAP_BYTES ((uint64_t)64 << 20)      /* file bytes in no tensor, of all files together */

enum dtype {
	DTYPE_NONE = 0,
#define DTYPE(number, NAME, st, ggml, elems, bytes) DTYPE_##NAME = number,
#include "shared/dtypes.def"
#undef DTYPE
};

struct dtype_row {
	const char *name;
	const char *st;         /* safetensors' name, NULL when it has none */
	int ggml;               /* GGUF's number, -1 when it has none */
	uint32_t elems, bytes;  /* of one block */
};

const struct dtype_row *dtype_row(uint32_t dtype); /* NULL for an unknown number */
const char *dtype_name(uint32_t dtype);            /* "?" for an unknown number */
uint32_t dtype_by_st(const char *st);              /* DTYPE_NONE when there is no such type; so the next */
uint32_t dtype_by_ggml(uint32_t ggml);

struct tensor {
	char *name;        /* UTF-8, owned by the list */
	uint32_t dtype;
	uint32_t rank;
	uint64_t shape[IMAGE_MAX_RANK]; /* outermost first, as safetensors has it (GGUF's are reversed) */
	uint32_t file;     /* index of the weight file */
	uint64_t file_off; /* absolute offset in that file */
	uint64_t bytes;    /* may be 0 */
	uint32_t extent;   /* set by layout_build() */
	uint64_t offset;   /* in the extent; likewise */
};

/* A growing list of tensors; zero-initialised is empty. */
struct tensor_list {
	struct tensor *v;
	uint32_t n, cap;
	uint32_t stated; /* how many the files say they hold together (split GGUF), 0 when they do not say */
};

void tensor_list_fini(struct tensor_list *l);

/* ---- headers (header.c, safetensors.c, gguf.c) ---- */

enum model_format { FORMAT_SAFETENSORS, FORMAT_GGUF };

/* By file name suffix; -EINVAL for others. */
int header_format(const char *file_name, enum model_format *out);

/* Parses the first `have` bytes of a weight file that is file_bytes long and appends its tensors to *out with
 * .file = file.  -EAGAIN: more of the head is needed, *need > have says how much in all (<= file_bytes, and <=
 * IMAGE_MAX_HEADER_BYTES + 8); *out is as it was.  0: *data_start <= have, so the caller holds all of the head.
 * -EPROTO: *why names the file and the fault; *out may hold tensors already and is still to be finished by the caller.
 * Nothing in head is trusted.  data_start is the offset of the first byte behind the header. */
int header_parse(enum model_format format, const char *file_name, uint32_t file, const uint8_t *head, size_t have,
	uint64_t file_bytes, size_t *need, uint64_t *data_start, struct tensor_list *out, struct fault *why);

/* Parses model.safetensors.index.json: the distinct shard file names, in sorted order (owned by the caller, each and
 * the array to be freed).  Names with '/', "..", or of another suffix are refused, so are more than IMAGE_MAX_FILES. */
int shard_index_parse(const char *file_name, const char *json, size_t bytes, char ***files, uint32_t *n,
	struct fault *why);
/* Every tensor that the index places in a shard must be in that shard and no other tensor of that name elsewhere. */
int shard_index_check(const char *file_name, const char *json, size_t bytes, char *const *files, uint32_t n,
	const struct tensor_list *tensors, struct fault *why);
/* "x-00002-of-00005.gguf" -> 2, 5 and the prefix length; -EINVAL when the name is not of that form. */
int gguf_split_name(const char *file_name, uint32_t *no, uint32_t *count, size_t *prefix);

/* ---- layout (layout.c) ---- */

struct layout_gap { /* file bytes that belong to no tensor, behind the header */
	uint32_t file;
	uint64_t file_off, bytes;
	uint64_t gap_off; /* where they are kept in the gap buffer */
	uint32_t chunk;   /* the chunk they travel with */
};

struct layout {
	struct tensor *tensors; /* in image order */
	uint32_t n_tensors;
	uint32_t n_extents, n_chunks, n_files;
	uint64_t *extent_bytes;     /* [n_extents], multiples of IMAGE_HUGE_PAGE, the last one of IMAGE_PAGE */
	uint32_t *extent_chunk;     /* [n_extents + 1], the extent's first chunk */
	uint64_t *file_bytes;       /* [n_files] */
	uint64_t *data_start;       /* [n_files] */
	uint64_t image_bytes;       /* sum of extent_bytes */
	struct layout_gap *gaps;
	uint32_t n_gaps;
	uint64_t gap_bytes;
	uint32_t *by_name;       /* [n_tensors] indices of tensors, sorted by name bytes */
};

/* Takes the tensors over from *list (emptied, also on failure).  Refuses overlaps, tensors outside the data part of their
 * file, duplicate names over all files, too many extents or gap bytes. */
int layout_build(struct layout **out, struct tensor_list *list, const uint64_t *file_bytes, const uint64_t *data_start,
	const char *const *file_names, uint32_t n_files, struct fault *why);
void layout_free(struct layout **l);

struct layout_chunk {
	uint32_t extent;
	uint64_t offset, bytes; /* in the extent */
};

struct layout_chunk layout_chunk(const struct layout *l, uint32_t chunk);

/* One contiguous range of one file. */
struct layout_span {
	uint32_t file;
	uint64_t off, bytes;
};

/* The file ranges whose bytes fill a chunk, in order, one per file (so usually one; several where shards meet, 0 for pure
 * padding).  Over all chunks the spans of a file do not overlap and, with its head [0, data_start), cover it wholly:
 * gaps travel with the chunk that holds the tensor behind them (trailing ones: before them).  Where a tensor straddles
 * chunks its bytes are split exactly.  Returns how many; at most n_files. */
uint32_t layout_spans(const struct layout *l, uint32_t chunk, struct layout_span *out, uint32_t max);

typedef void (*layout_seen_fn)(void *ctx, const uint8_t *bytes, uint64_t n);

/* Builds the chunk's image bytes at dst (layout_chunk().bytes of them, padding zeroed) from its spans' bytes as they come:
 * in order, in pieces of any size, together exactly as many as the spans have.  Gap bytes go to gap_buf + gap_off when
 * gap_buf is not NULL.  For private eyes only. */
struct layout_fill {
	const struct layout *layout;
	struct layout_chunk c;
	uint32_t chunk, tensor, gap; /* the next ones */
	uint8_t *dst, *gap_buf;
	uint8_t *at;                 /* where the next byte goes; NULL: nowhere */
	uint64_t left;               /* that go there; 0: the chunk is full */
	uint64_t filled;             /* the chunk's bytes [0, filled) are as they will be */
	bool in_gap;
	layout_seen_fn seen;
	void *ctx;
};

/* seen: is shown every byte of the chunk, padding included, in order, while it is in the caches anyway: for checksums.
 * May be NULL. */
void layout_fill_begin(struct layout_fill *f, const struct layout *l, uint32_t chunk, uint8_t *dst, uint8_t *gap_buf,
	layout_seen_fn seen, void *ctx);
/* Takes what the chunk needs of `bytes` and returns how many those are: fewer than n when it is full. */
uint64_t layout_fill_put(struct layout_fill *f, const uint8_t *bytes, uint64_t n);
bool layout_fill_is_full(const struct layout_fill *f);

/* Puts all of that at once: src[i] holds spans[i].bytes bytes. */
void layout_gather(struct layout_fill *f, const struct layout_span *spans, const uint8_t *const *src, uint32_t n_spans);

/* Walks the bytes of file `file` behind its head in file order, as pieces of the image or of the gap buffer, for whole-file
 * digests.  `from`: file offset to start at.  Returns false at the end of the file. */
struct layout_piece {
	bool is_gap;
	uint32_t extent;  /* when not a gap */
	uint64_t offset;  /* in the extent, or in the gap buffer */
	uint64_t bytes;
};
bool layout_next_piece(const struct layout *l, uint32_t file, uint64_t from, struct layout_piece *out);

#endif
