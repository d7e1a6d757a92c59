/* read.c - looking at an image, checking its bytes, and repairing what does not match.
 * Keeps: bytes that do not match their hash are counted and never returned as good; a repair changes where a chunk is
 * and how it is coded, never what it is. */
#include "mrm/disk/store.h"

#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define COUNT(img, what) atomic_fetch_add_explicit(&(img)->disk->count.what, 1, memory_order_relaxed)

/* ---- chunks ---- */

int disk_image_chunk(struct disk_image *img, uint32_t chunk, struct disk_extent *out)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	if (chunk >= img->n_chunks)
		return -EINVAL;
	pthread_mutex_lock(&img->lock);
	int r = img->had[chunk] ? 0 : -ENOENT;
	if (r == 0 && !img->desc->in_place)
		r = image_open_data(img);
	const struct chunk_record *c = &img->chunks[chunk];
	if (r == 0)
		*out = (struct disk_extent){img->data_fd, c->off, c->stored_bytes, c->codec, c->hash};
	pthread_mutex_unlock(&img->lock);
	return r;
}

bool disk_image_hash(struct disk_image *img, uint32_t chunk, struct hash128 *out)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(chunk < img->n_chunks);
	pthread_mutex_lock(&img->lock);
	bool known = img->had[chunk];
	if (known)
		*out = img->chunks[chunk].hash;
	pthread_mutex_unlock(&img->lock);
	return known;
}

static int damaged(struct disk_image *img, const char *what, uint32_t i, struct fault *why)
{
	COUNT(img, damaged);
	log_warn("disk", "%s: %s %u does not match its hash", img->path, what, i);
	fault_set(why, TRIMS_E_MISMATCH, "%s: %s %u does not match its hash", img->path, what, i);
	return -EBADMSG;
}

int disk_image_check_hash(struct disk_image *img, uint32_t chunk, const struct hash128 *hash, struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(chunk < img->n_chunks);
	pthread_mutex_lock(&img->lock);
	bool good = hash && img->had[chunk] && hash_equal(*hash, img->chunks[chunk].hash);
	pthread_mutex_unlock(&img->lock);
	return good ? 0 : damaged(img, "chunk", chunk, why);
}

int disk_image_check(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct fault *why)
{
	struct hash128 hash = chunk_hash(bytes, layout_chunk(img->desc->layout, chunk).bytes);
	return disk_image_check_hash(img, chunk, &hash, why);
}

static int read_extent(struct disk_image *img, uint32_t chunk, const struct disk_extent *e, struct buffer *b,
	uint8_t *dst, struct fault *why)
{
	int r = file_read_at(e->fd, b->bytes, align_up(e->stored_bytes, DISK_ALIGN), e->off);
	if (r < 0) {
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s: cannot read chunk %u", img->path, chunk);
		return r;
	}
	size_t n = layout_chunk(img->desc->layout, chunk).bytes;
	if (disk_chunk_decode(e->codec, b->bytes, e->stored_bytes, dst, n) < 0)
		return disk_image_check_hash(img, chunk, NULL, why);
	return disk_image_check(img, chunk, dst, why);
}

int disk_image_read(struct disk_image *img, uint32_t chunk, uint8_t *dst, struct fault *why)
{
	struct disk_extent e;
	int r = disk_image_chunk(img, chunk, &e);
	if (r == 0 && img->desc->in_place)
		r = -ENODATA;
	struct buffer *b = r == 0 ? buffer_take(img->disk) : NULL;
	if (!b) {
		r = r < 0 ? r : -ENOMEM;
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s: cannot read chunk %u", img->path, chunk);
		return r;
	}
	r = read_extent(img, chunk, &e, b, dst, why);
	buffer_give(img->disk, b);
	return r;
}

/* ---- repair ---- */

/* Over the old bytes, when the new ones take the same room: the manifest stays true all along, and until the write is
 * whole the chunk is what it was before: damaged.  Reads back what a bad medium may have swallowed. */
static int rewrite_here(struct disk_image *img, uint32_t chunk, const uint8_t *out, const struct chunk_record *record,
	struct buffer *b)
{
	int r = image_write(img, out, record, b);
	if (r == 0 && fdatasync(img->data_fd) < 0)
		r = -errno;
	if (r == 0)
		r = disk_step(DISK_POINT_REPAIR_WRITTEN);
	if (r < 0)
		return r;
	struct buffer *in = buffer_take(img->disk), *dst = buffer_take(img->disk);
	struct disk_extent e = {img->data_fd, record->off, record->stored_bytes, record->codec, record->hash};
	size_t n = layout_chunk(img->desc->layout, chunk).bytes;
	r = in && dst ? file_read_at(e.fd, in->bytes, chunk_room(record), e.off) : -ENOMEM;
	if (r == 0)
		r = disk_chunk_decode(e.codec, in->bytes, e.stored_bytes, dst->bytes, n);
	if (r == 0 && !hash_equal(chunk_hash(dst->bytes, n), record->hash))
		r = -EIO;
	if (in)
		buffer_give(img->disk, in);
	if (dst)
		buffer_give(img->disk, dst);
	return r;
}

/* Behind the end of the data, and then a manifest that says so takes the old one's place. */
static int rewrite_elsewhere(struct disk_image *img, uint32_t chunk, const uint8_t *out, struct chunk_record *record,
	struct buffer *b, struct fault *why)
{
	record->off = img->next_off;
	uint64_t end = record->off + chunk_room(record);
	OWN_MEM struct chunk_record *chunks = malloc(((size_t)img->n_chunks + 1) * sizeof *chunks);
	ASSERT(chunks);
	memcpy(chunks, img->chunks, img->n_chunks * sizeof *chunks);
	chunks[chunk] = *record;
	int r = image_write(img, out, record, b);
	if (r == 0 && fsync(img->data_fd) < 0)
		r = -errno;
	if (r == 0)
		r = disk_step(DISK_POINT_REPAIR_WRITTEN);
	if (r == 0)
		r = image_write_manifest(img, chunks, end, img->digest, why);
	else
		image_fault(img, r, "cannot replace a damaged chunk", why);
	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	img->chunks[chunk] = *record;
	img->next_off = end;
	pthread_mutex_unlock(&img->lock);
	return 0;
}

/* Under repair_lock: nobody else changes records or next_off of a complete image. */
static int rewrite(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct buffer *b, struct fault *why)
{
	struct chunk_record old = img->chunks[chunk], now = {.hash = old.hash};
	const uint8_t *out = bytes;
	size_t n = layout_chunk(img->desc->layout, chunk).bytes;
	if (old.codec == CODEC_RAW)
		now.codec = CODEC_RAW, now.stored_bytes = (uint32_t)n;
	else
		image_code(img, bytes, n, b, &out, &now);
	if (now.codec == old.codec && now.stored_bytes == old.stored_bytes) {
		now.off = old.off;
		if (rewrite_here(img, chunk, out, &now, b) == 0) {
			COUNT(img, rewritten);
			return 0;
		}
		log_warn("disk", "%s: chunk %u cannot be rewritten in place; it moves", img->path, chunk);
	}
	int r = rewrite_elsewhere(img, chunk, out, &now, b, why);
	if (r == 0)
		COUNT(img, relocated);
	return r;
}

int disk_image_rewrite(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct hash128 hash,
	struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(chunk < img->n_chunks);
	if (!img->complete)
		return disk_image_put(img, chunk, bytes, hash, why);
	struct disk_extent e;
	int r = disk_image_chunk(img, chunk, &e);
	if (r < 0)
		return image_fault(img, r, "cannot open the data", why);
	if (img->desc->in_place || !hash_equal(e.hash, hash)) {
		fault_set(why, TRIMS_E_MISMATCH, "%s: the bytes offered for chunk %u are not the chunk's", img->path,
			chunk);
		return -EINVAL;
	}
	struct buffer *b = buffer_take(img->disk);
	if (!b)
		return image_fault(img, -ENOMEM, "no buffer to write a chunk from", why);
	pthread_mutex_lock(&img->repair_lock);
	r = rewrite(img, chunk, bytes, b, why);
	pthread_mutex_unlock(&img->repair_lock);
	buffer_give(img->disk, b);
	return r;
}

/* ---- side files ---- */

static uint64_t side_off(const struct disk_image *img, uint32_t i)
{
	uint64_t off = 0;
	while (i--)
		off += img->desc->sides[i].bytes;
	return off;
}

int disk_image_side(struct disk_image *img, uint32_t i, uint8_t **out, struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(i < img->desc->n_sides);
	const struct image_side *s = &img->desc->sides[i];
	OWN_MEM uint8_t *bytes = malloc(s->bytes + 1);
	int r = bytes ? 0 : -ENOMEM;
	if (r == 0 && s->data) { /* of an in-place image before its commit */
		memcpy(bytes, s->data, s->bytes);
	} else if (r == 0) {
		OWN_FD int fd = image_open(img, FILE_SIDES, O_RDONLY);
		r = fd < 0 ? fd : file_read_at(fd, bytes, s->bytes, side_off(img, i));
	}
	if (r < 0) {
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s: cannot read side file %.200s", img->path, s->name);
		return r;
	}
	if (!hash_equal(chunk_hash(bytes, s->bytes), s->hash))
		return damaged(img, "side file", i, why);
	*out = STEAL(bytes);
	return 0;
}

int disk_image_rewrite_side(struct disk_image *img, uint32_t i, const uint8_t *bytes, struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(i < img->desc->n_sides);
	const struct image_side *s = &img->desc->sides[i];
	if (!hash_equal(chunk_hash(bytes, s->bytes), s->hash)) {
		fault_set(why, TRIMS_E_MISMATCH, "the bytes offered for side file %.200s are not its own", s->name);
		return -EINVAL;
	}
	OWN_FD int fd = image_open(img, FILE_SIDES, O_WRONLY);
	int r = fd < 0 ? fd : file_write_at(fd, bytes, s->bytes, side_off(img, i));
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0)
		return image_fault(img, r, "cannot replace a side file", why);
	COUNT(img, rewritten);
	return 0;
}

/* ---- inspection ---- */

bool disk_image_complete(const struct disk_image *img)
{
	return img->complete;
}

bool disk_image_has(const struct disk_image *img, uint32_t chunk)
{
	struct disk_image *i = (struct disk_image *)img; /* the lock is not part of what const promises */
	pthread_mutex_lock(&i->lock);
	bool has = chunk < i->n_chunks && i->had[chunk];
	pthread_mutex_unlock(&i->lock);
	return has;
}

uint32_t disk_image_chunks(const struct disk_image *img)
{
	struct disk_image *i = (struct disk_image *)img;
	pthread_mutex_lock(&i->lock);
	uint32_t n = i->n_had;
	pthread_mutex_unlock(&i->lock);
	return n;
}

const struct image_desc *disk_image_desc(const struct disk_image *img)
{
	return img->desc;
}

struct hash128 disk_image_digest(const struct disk_image *img)
{
	return img->complete ? img->digest : (struct hash128){0, 0};
}

const char *disk_image_path(const struct disk_image *img)
{
	return img->path;
}

uint64_t disk_image_bytes(const struct disk_image *img)
{
	static const char *const kinds[] = {FILE_DATA, FILE_MANIFEST, FILE_JOURNAL, FILE_SIDES};
	uint64_t bytes = 0;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		char name[FILE_NAME_MAX];
		struct stat st;
		image_file_name(name, img, kinds[i]);
		if (fstatat(img->disk->images_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			bytes += (uint64_t)st.st_blocks * 512;
	}
	return bytes;
}
