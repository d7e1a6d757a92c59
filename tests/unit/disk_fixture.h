/* disk_fixture.h - a cache directory and small models for the tests of mrm/disk.
 * A model of n chunks has one file, one big tensor of n - 1 full chunks and a small one; bytes come from a seed, so
 * that any process can say what a chunk must hold.  Thread: the test's.  The fixture owns its directory and buffers. */
#ifndef TESTS_UNIT_DISK_FIXTURE_H
#define TESTS_UNIT_DISK_FIXTURE_H

#include "mrm/disk/disk.h"
#include "shared/log.h"
#include "shared/own.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct fixture {
	char root[64], dir[80];
	struct disk *disk;
	struct disk_options options;
	const char *base; /* where its directory is made; NULL: /tmp */
	uint8_t *chunk, *back; /* page-aligned, a chunk each */
};

static inline char *text(const char *s)
{
	char *copy = strdup(s);
	ck_assert_ptr_nonnull(copy);
	return copy;
}

static inline void fixture_open(struct fixture *fx)
{
	struct fault why = {0};
	int r = disk_open(&fx->disk, fx->dir, &fx->options, &why);
	ck_assert_msg(r == 0, "%d %s", r, why.text);
}

static inline void fixture_reopen(struct fixture *fx)
{
	disk_close(&fx->disk);
	fixture_open(fx);
}

static inline uint8_t *pages(size_t bytes)
{
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

/* fx->options and fx->base may be set before. */
static inline void fixture_init(struct fixture *fx)
{
	log_set_level(LOG_ERROR);
	snprintf(fx->root, sizeof fx->root, "%s/test_disk.XXXXXX", fx->base ? fx->base : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(fx->root));
	snprintf(fx->dir, sizeof fx->dir, "%s/cache", fx->root);
	fx->chunk = pages(IMAGE_CHUNK_BYTES + 4096);
	fx->back = pages(IMAGE_CHUNK_BYTES);
	fixture_open(fx);
}

static inline void fixture_remove(const struct fixture *fx)
{
	char command[128];
	snprintf(command, sizeof command, "rm -rf -- %s", fx->root);
	ck_assert_int_eq(system(command), 0);
}

static inline void fixture_fini(struct fixture *fx)
{
	disk_close(&fx->disk);
	munmap(fx->chunk, IMAGE_CHUNK_BYTES + 4096);
	munmap(fx->back, IMAGE_CHUNK_BYTES);
	fixture_remove(fx);
}

static inline void add_side(struct image_desc *d, const char *name, const char *content)
{
	d->sides = realloc(d->sides, (d->n_sides + 1) * sizeof *d->sides);
	struct image_side *s = &d->sides[d->n_sides++];
	*s = (struct image_side){.name = text(name), .data = (uint8_t *)text(content), .bytes = strlen(content)};
	s->hash = chunk_hash(s->data, s->bytes);
}

static inline void add_tensor(struct tensor_list *list, const char *name, uint64_t off, uint64_t bytes)
{
	list->v = realloc(list->v, (list->n + 1) * sizeof *list->v);
	list->cap = list->n + 1;
	list->v[list->n++] = (struct tensor){.name = text(name), .dtype = DTYPE_U8, .rank = 1, .shape = {bytes},
		.file_off = off, .bytes = bytes};
}

/* chunks >= 1. */
static inline struct image_desc *make_desc(uint64_t fingerprint, uint32_t chunks)
{
	struct image_desc *d;
	struct fault why = {0};
	struct tensor_list list = {0};
	uint64_t big = (chunks - 1) * IMAGE_CHUNK_BYTES, head = 4096, file_bytes = head + big + 5000;
	const char *names[] = {"model.safetensors"};
	image_desc_new(&d);
	d->fingerprint_hi = fingerprint;
	d->fingerprint_lo = ~fingerprint;
	d->source = text("http://example.org/models");
	d->name = text("tiny");
	d->revision = text("main");
	d->n_files = 1;
	d->files = calloc(1, sizeof *d->files);
	d->files[0] = (struct image_file){.path = text(names[0]), .version = text("\"etag\""), .has_sha256 = true};
	add_side(d, "config.json", "{\"a\": 1}");
	add_side(d, "empty.txt", "");
	add_side(d, "tokenizer.json", "[1, 2, 3, 4]");
	if (big)
		add_tensor(&list, "big", head, big);
	add_tensor(&list, "small", head + big, 5000);
	int r = layout_build(&d->layout, &list, &file_bytes, &head, names, 1, &why);
	ck_assert_msg(r == 0, "%s", why.text);
	ck_assert_uint_eq(d->layout->n_chunks, chunks);
	return d;
}

static inline size_t chunk_bytes(const struct image_desc *d, uint32_t chunk)
{
	return layout_chunk(d->layout, chunk).bytes;
}

/* What chunk `chunk` of model `fingerprint` must hold.  Odd fingerprints squeeze well. */
static inline struct hash128 fill_chunk(const struct image_desc *d, uint32_t chunk, uint8_t *out)
{
	uint64_t seed = d->fingerprint_hi * 1000 + chunk, v;
	size_t n = chunk_bytes(d, chunk);
	for (size_t i = 0; i < n; i += 8) {
		v = unit_random(&seed);
		if (d->fingerprint_hi & 1)
			v &= 0x0000000f00000000u; /* mostly zeros */
		memcpy(out + i, &v, 8);
	}
	return chunk_hash(out, n);
}

static inline void put_chunk(struct fixture *fx, struct disk_image *img, uint32_t chunk)
{
	struct fault why = {0};
	struct hash128 hash = fill_chunk(disk_image_desc(img), chunk, fx->chunk);
	int r = disk_image_put(img, chunk, fx->chunk, hash, &why);
	ck_assert_msg(r == 0, "%d %s", r, why.text);
}

static inline struct disk_image *begin(struct fixture *fx, struct image_desc *d)
{
	struct fault why = {0};
	struct disk_image *img = NULL;
	int r = disk_image_begin(fx->disk, &d, &img, &why);
	ck_assert_msg(r == 0, "%d %s", r, why.text);
	ck_assert_ptr_null(d);
	return img;
}

static inline struct hash128 commit(struct disk_image *img)
{
	struct fault why = {0};
	struct hash128 digest = {0, 0};
	int r = disk_image_commit(img, &digest, &why);
	ck_assert_msg(r == 0, "%d %s", r, why.text);
	return digest;
}

static inline struct disk_image *store_model(struct fixture *fx, uint64_t fingerprint, uint32_t chunks)
{
	struct disk_image *img = begin(fx, make_desc(fingerprint, chunks));
	for (uint32_t i = 0; i < chunks; i++)
		put_chunk(fx, img, i);
	commit(img);
	return img;
}

/* 0: the chunk is right; else disk_image_read()'s error. */
static inline int check_chunk(struct fixture *fx, struct disk_image *img, uint32_t chunk)
{
	struct fault why = {0};
	int r = disk_image_read(img, chunk, fx->back, &why);
	if (r < 0)
		return r;
	fill_chunk(disk_image_desc(img), chunk, fx->chunk);
	ck_assert_mem_eq(fx->back, fx->chunk, chunk_bytes(disk_image_desc(img), chunk));
	return 0;
}

static inline void check_all(struct fixture *fx, struct disk_image *img)
{
	uint8_t *side;
	struct fault why;
	ck_assert(disk_image_complete(img));
	for (uint32_t i = 0; i < disk_image_desc(img)->layout->n_chunks; i++)
		ck_assert_int_eq(check_chunk(fx, img, i), 0);
	ck_assert_int_eq(disk_image_side(img, 2, &side, &why), 0);
	ck_assert_mem_eq(side, "[1, 2, 3, 4]", 12);
	free(side);
}

static inline struct disk_image *find(struct fixture *fx, uint64_t fingerprint)
{
	return disk_find(fx->disk, fingerprint, ~fingerprint);
}

static inline struct disk_stats stats(struct fixture *fx)
{
	struct disk_stats s;
	disk_stats(fx->disk, &s);
	return s;
}

/* "<dir>/images/<fingerprint>.<kind>" */
static inline void image_file(const struct fixture *fx, uint64_t fingerprint, const char *kind, char out[200])
{
	snprintf(out, 200, "%s/images/%016" PRIx64 "%016" PRIx64 ".%s", fx->dir, fingerprint, ~fingerprint, kind);
}

static inline int64_t file_bytes(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? st.st_size : -1;
}

static inline void flip_byte(const char *path, int64_t off)
{
	uint8_t b;
	int fd = open(path, O_RDWR);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &b, 1, off), 1);
	b ^= 0x40;
	ck_assert_int_eq(pwrite(fd, &b, 1, off), 1);
	close(fd);
}

#endif
