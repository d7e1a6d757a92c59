/* image.c - one image: writing its chunks, making it complete, removing it.
 *
 * Keeps:
 *   - a record reaches the journal only after a data sync that began when its data had been written: a journal never
 *     promises what a crash could take back;
 *   - a manifest gets its name only after data and side files are synced; the journal goes after the manifest is
 *     durable;
 *   - a failed write leaves the chunk as it was: had or not had. */
#include "mrm/disk/store.h"

#include "mrm/disk/bytes.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define HOPELESS_MISSES 8 /* chunks in a row that did not shrink, after which only one in SAMPLE_EVERY is looked at */
#define SAMPLE_EVERY 8

#define COUNT(img, what, by) atomic_fetch_add_explicit(&(img)->disk->count.what, by, memory_order_relaxed)

int image_fault(struct disk_image *img, int err, const char *doing, struct fault *why)
{
	COUNT(img, write_errors, 1);
	fault_errno(why, TRIMS_E_DISK_ERROR, -err, "%s: %s", img->path, doing);
	return err;
}

/* ---- an image in memory ---- */

struct disk_image *image_new(struct disk *d, struct image_desc **desc)
{
	struct disk_image *img = calloc(1, sizeof *img);
	ASSERT(img);
	img->magic = IMAGE_MAGIC;
	img->disk = d;
	list_init(&img->node);
	list_init(&img->print_node);
	pthread_mutex_init(&img->lock, NULL);
	pthread_mutex_init(&img->repair_lock, NULL);
	img->data_fd = img->journal_fd = -1;
	img->desc = STEAL(*desc);
	snprintf(img->stem, sizeof img->stem, "%016" PRIx64 "%016" PRIx64, img->desc->fingerprint_hi,
		img->desc->fingerprint_lo);
	int n = asprintf(&img->path, "%s/images/%s." FILE_DATA, d->dir, img->stem);
	ASSERT(n > 0);
	img->n_chunks = img->desc->layout->n_chunks;
	img->chunks = calloc((size_t)img->n_chunks + 1, sizeof *img->chunks);
	img->had = calloc((size_t)img->n_chunks + 1, 1);
	ASSERT(img->chunks && img->had);
	return img;
}

void image_free(struct disk_image **p)
{
	struct disk_image *img = *p;
	*p = NULL;
	if (!img)
		return;
	CHECK_OBJ(img, IMAGE_MAGIC);
	pthread_mutex_lock(&img->disk->lock);
	list_del(&img->node);
	list_del(&img->print_node);
	pthread_mutex_unlock(&img->disk->lock);
	own_close_fd(&img->data_fd);
	own_close_fd(&img->journal_fd);
	pthread_mutex_destroy(&img->lock);
	pthread_mutex_destroy(&img->repair_lock);
	image_desc_free(&img->desc);
	free(img->chunks);
	free(img->had);
	free(img->pending);
	free(img->path);
	img->magic = 0;
	free(img);
}

void image_link(struct disk_image *img)
{
	pthread_mutex_lock(&img->disk->lock);
	list_add_tail(&img->node, &img->disk->images);
	list_add_tail(&img->print_node, store_bucket(img->disk, img->desc->fingerprint_lo));
	pthread_mutex_unlock(&img->disk->lock);
}

int image_open_data(struct disk_image *img)
{
	if (img->data_fd >= 0)
		return 0;
	int fd = image_open(img, FILE_DATA, O_RDWR | (img->disk->direct ? O_DIRECT : 0));
	if (fd < 0)
		return fd;
	img->data_fd = fd;
	return 0;
}

void disk_image_rest(struct disk_image *img)
{
	if (img->complete)
		own_close_fd(&img->data_fd);
}

/* ---- beginning ---- */

static int check_sides(const struct image_desc *d, struct fault *why)
{
	for (uint32_t i = 0; i < d->n_sides; i++) {
		const struct image_side *s = &d->sides[i];
		if ((s->bytes && !s->data) || !hash_equal(s->hash, chunk_hash(s->data, s->bytes))) {
			fault_set(why, TRIMS_E_INTERNAL,
				"side file %.200s came without its bytes or with another's hash", s->name);
			return -EINVAL;
		}
	}
	return 0;
}

static int write_sides(struct disk_image *img)
{
	uint64_t off = 0;
	int r = 0;
	if (img->desc->n_sides == 0)
		return 0;
	OWN_FD int fd = image_open(img, FILE_SIDES, O_WRONLY | O_CREAT | O_TRUNC);
	if (fd < 0)
		return fd;
	for (uint32_t i = 0; r == 0 && i < img->desc->n_sides; i++) {
		const struct image_side *s = &img->desc->sides[i];
		r = file_write_at(fd, s->data, s->bytes, off);
		off += s->bytes;
	}
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? r : disk_step(DISK_POINT_SIDES_WRITTEN);
}

static void forget_sides(struct image_desc *d)
{
	for (uint32_t i = 0; i < d->n_sides; i++)
		if (d->sides[i].data) /* else not written to: others may be looking at a description without contents */
			free(STEAL(d->sides[i].data));
}

/* All the room a raw image needs is reserved at once: no space left is better known now than half way, and writes into
 * reserved room do not queue up behind each other to extend the file. */
static int create_data(struct disk_image *img)
{
	uint64_t bytes = img->desc->layout->image_bytes;
	OWN_FD int fd = image_open(img, FILE_DATA, O_RDWR | O_CREAT | O_TRUNC);
	if (fd < 0)
		return fd;
	if (bytes && fallocate(fd, 0, 0, (off_t)bytes) < 0 && errno != EOPNOTSUPP)
		return -errno;
	if (fsync(fd) < 0)
		return -errno;
	int r = image_open_data(img);
	return r < 0 ? r : disk_step(DISK_POINT_DATA_CREATED);
}

static int create_journal(struct disk_image *img, const uint8_t *head, size_t bytes)
{
	static const struct replace_points points = {DISK_POINT_JOURNAL_WRITTEN, DISK_POINT_JOURNAL_SYNCED,
		DISK_POINT_JOURNAL_RENAMED};
	char name[FILE_NAME_MAX];
	image_file_name(name, img, FILE_JOURNAL);
	int r = file_replace(img->disk->images_fd, name, head, bytes, points);
	if (r == 0 && fsync(img->disk->images_fd) < 0)
		r = -errno;
	if (r == 0)
		r = img->journal_fd = image_open(img, FILE_JOURNAL, O_RDWR);
	img->journal_off = bytes;
	img->seed = journal_seed(head, bytes);
	return MIN(r, 0);
}

/* A partial image of that fingerprint: *out when it is the same model, else it is dropped. */
static int resume(struct disk *d, struct image_desc *desc, struct hash128 head_hash, struct disk_image **out,
	struct fault *why)
{
	struct disk_image *img = disk_find(d, desc->fingerprint_hi, desc->fingerprint_lo);
	if (!img)
		return 0;
	if (img->complete) {
		fault_set(why, TRIMS_E_BUSY, "%s: is complete already", img->path);
		return -EEXIST;
	}
	if (!hash_equal(img->head_hash, head_hash)) {
		log_info("disk", "%s: the model changed since it was half stored; starting over", img->path);
		return disk_image_drop(&img, why);
	}
	*out = img;
	return 0;
}

static int create(struct disk_image *img, const uint8_t *head, size_t bytes)
{
	int r = image_unlink(img, FILE_MANIFEST); /* one that a failed drop left behind must not speak for new data */
	if (r == 0)
		r = write_sides(img);
	if (r == 0)
		r = create_data(img);
	if (r == 0)
		r = create_journal(img, head, bytes);
	return r;
}

int disk_image_begin(struct disk *d, struct image_desc **given, struct disk_image **out, struct fault *why)
{
	OWN(image_desc_free) struct image_desc *desc = STEAL(*given);
	OWN_MEM uint8_t *head = NULL;
	size_t bytes;
	struct disk_image *img = NULL;
	int r = journal_head_encode(desc, &head, &bytes, why);
	if (r < 0)
		return r;
	struct hash128 head_hash = chunk_hash(head, bytes);
	r = resume(d, desc, head_hash, &img, why);
	if (r < 0 || img) {
		*out = img;
		return r;
	}
	r = check_sides(desc, why);
	if (r < 0)
		return r;
	img = image_new(d, &desc);
	img->head_hash = head_hash;
	r = img->desc->in_place ? 0 : create(img, head, bytes);
	if (r < 0) {
		image_fault(img, r, "cannot create the image", why);
		image_remove_files(img);
		image_free(&img);
		return r;
	}
	if (!img->desc->in_place)
		forget_sides(img->desc);
	image_link(img);
	*out = img;
	return 0;
}

/* ---- chunks ---- */

/* Whether to try at all; keeps incompressible weights cheap. */
static bool worth_trying(struct disk_image *img, const uint8_t *bytes, size_t n)
{
	if (img->disk->options.compress != DISK_COMPRESS_AUTO)
		return img->disk->options.compress == DISK_COMPRESS_ALWAYS;
	if (atomic_load(&img->misses) >= HOPELESS_MISSES && atomic_fetch_add(&img->skipped, 1) % SAMPLE_EVERY)
		return false;
	COUNT(img, samples, 1);
	return codec_promising(bytes, n);
}

void image_code(struct disk_image *img, const uint8_t *bytes, size_t n, struct buffer *b, const uint8_t **out,
	struct chunk_record *record)
{
	ASSERT(n && n % DISK_ALIGN == 0);
	bool always = img->disk->options.compress == DISK_COMPRESS_ALWAYS;
	/* What counts is what the disk must move: whole blocks.  "Always" takes any block saved, "auto" a tenth. */
	uint64_t limit = align_down(always ? n - 1 : n - n / 10, DISK_ALIGN);
	size_t got = worth_trying(img, bytes, n) ? codec_squeeze(bytes, n, limit, b->bytes) : 0;
	if (got)
		atomic_store(&img->misses, 0);
	else if (atomic_load(&img->misses) < HOPELESS_MISSES)
		atomic_fetch_add(&img->misses, 1);
	record->codec = got ? CODEC_LZ4 : CODEC_RAW;
	record->stored_bytes = (uint32_t)(got ? got : n);
	*out = got ? b->bytes : bytes;
	if (got)
		memset(b->bytes + got, 0, chunk_room(record) - got);
}

int image_write(struct disk_image *img, const uint8_t *out, const struct chunk_record *record, struct buffer *b)
{
	uint64_t room = chunk_room(record);
	int r = disk_step(DISK_POINT_CHUNK_WRITE);
	if (r < 0)
		return r;
	if (img->disk->direct && (uintptr_t)out % DISK_ALIGN) {
		memcpy(b->bytes, out, room);
		out = b->bytes;
		COUNT(img, bounced, 1);
	}
	r = file_write_at(img->data_fd, out, room, record->off);
	if (r == 0 && !img->disk->direct) /* start the write-out now: the sync has less to wait for */
		sync_file_range(img->data_fd, (off_t)record->off, (off_t)room, SYNC_FILE_RANGE_WRITE);
	return r < 0 ? r : disk_step(DISK_POINT_CHUNK_WRITTEN);
}

static uint64_t reserve(struct disk_image *img, uint64_t room)
{
	pthread_mutex_lock(&img->lock);
	uint64_t off = img->next_off;
	img->next_off += room;
	pthread_mutex_unlock(&img->lock);
	return off;
}

/* Gives room back after a failed write when nobody came after. */
static void unreserve(struct disk_image *img, uint64_t off, uint64_t room)
{
	pthread_mutex_lock(&img->lock);
	if (img->next_off == off + room)
		img->next_off = off;
	pthread_mutex_unlock(&img->lock);
}

static void set_chunk(struct disk_image *img, uint32_t chunk, const struct chunk_record *record)
{
	img->chunks[chunk] = *record;
	img->n_had += !img->had[chunk];
	img->had[chunk] = 1;
}

/* ---- the journal ---- */

struct batch {
	struct pending *v;
	uint32_t n;
	uint64_t bytes;
};

/* Under image->lock. */
static struct batch take_batch(struct disk_image *img)
{
	struct batch b = {STEAL(img->pending), img->n_pending, img->pending_bytes};
	img->n_pending = img->cap_pending = 0;
	img->pending_bytes = 0;
	return b;
}

static int append_records(struct disk_image *img, const struct batch *b)
{
	size_t bytes = (size_t)b->n * JOURNAL_RECORD_BYTES;
	OWN_MEM uint8_t *out = malloc(bytes + 1);
	ASSERT(out);
	for (uint32_t i = 0; i < b->n; i++)
		journal_record_encode(b->v[i].chunk, &b->v[i].record, img->seed,
			out + (size_t)i * JOURNAL_RECORD_BYTES);
	size_t half = bytes / 2;
	int r = file_write_at(img->journal_fd, out, half, img->journal_off);
	if (r == 0)
		r = disk_step(DISK_POINT_RECORD_TORN);
	if (r == 0)
		r = file_write_at(img->journal_fd, out + half, bytes - half, img->journal_off + half);
	if (r == 0)
		r = disk_step(DISK_POINT_RECORDS_WRITTEN);
	if (r == 0)
		img->journal_off += bytes;
	else if (ftruncate(img->journal_fd, (off_t)img->journal_off) < 0)
		log_warn("disk", "%s: a half-written journal record stays; it ends the journal when it is read",
			img->path);
	return r;
}

/* What could not be made safe is not had: it will be fetched again. */
static void disown(struct disk_image *img, const struct batch *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		uint32_t chunk = b->v[i].chunk;
		img->n_had -= img->had[chunk];
		img->had[chunk] = 0;
	}
}

static int sync_data(struct disk_image *img, bool whole)
{
	COUNT(img, syncs, 1);
	if ((whole ? fsync(img->data_fd) : fdatasync(img->data_fd)) < 0)
		return -errno;
	if (!img->disk->direct)
		posix_fadvise(img->data_fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

/* Takes the batch over.  The sync runs without the lock; other chunks go on meanwhile. */
static int journal_batch(struct disk_image *img, struct batch *b)
{
	int r = b->n ? sync_data(img, false) : 0;
	if (r == 0 && b->n)
		r = disk_step(DISK_POINT_DATA_SYNCED);
	pthread_mutex_lock(&img->lock);
	if (r == 0 && b->n)
		r = append_records(img, b);
	if (r < 0)
		disown(img, b);
	pthread_mutex_unlock(&img->lock);
	free(b->v);
	return r;
}

/* Under image->lock. */
static void add_pending(struct disk_image *img, uint32_t chunk, const struct chunk_record *record)
{
	if (img->n_pending == img->cap_pending) {
		img->cap_pending = MAX(img->cap_pending * 2, 32u);
		img->pending = realloc(img->pending, img->cap_pending * sizeof *img->pending);
		ASSERT(img->pending);
	}
	img->pending[img->n_pending++] = (struct pending){chunk, *record};
	img->pending_bytes += chunk_room(record);
}

static int store_chunk(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct hash128 hash,
	struct buffer *b)
{
	size_t n = layout_chunk(img->desc->layout, chunk).bytes;
	struct chunk_record record = {.hash = hash};
	struct batch batch = {0};
	const uint8_t *out;
	image_code(img, bytes, n, b, &out, &record);
	record.off = reserve(img, chunk_room(&record));
	int r = image_write(img, out, &record, b);
	if (r < 0) {
		unreserve(img, record.off, chunk_room(&record));
		return r;
	}
	atomic_fetch_add(record.codec ? &img->disk->count.chunks_lz4 : &img->disk->count.chunks_raw, 1);
	COUNT(img, image_bytes_in, n);
	COUNT(img, stored_bytes, chunk_room(&record));
	pthread_mutex_lock(&img->lock);
	set_chunk(img, chunk, &record);
	add_pending(img, chunk, &record);
	if (img->pending_bytes >= img->disk->options.sync_bytes)
		batch = take_batch(img);
	pthread_mutex_unlock(&img->lock);
	return journal_batch(img, &batch);
}

int disk_image_put(struct disk_image *img, uint32_t chunk, const uint8_t *bytes, struct hash128 hash, struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(chunk < img->n_chunks && !img->complete);
	if (img->desc->in_place) {
		struct chunk_record record = {.hash = hash};
		pthread_mutex_lock(&img->lock);
		set_chunk(img, chunk, &record);
		pthread_mutex_unlock(&img->lock);
		return 0;
	}
	struct buffer *b = buffer_take(img->disk);
	if (!b)
		return image_fault(img, -ENOMEM, "no buffer to write a chunk from", why);
	int r = store_chunk(img, chunk, bytes, hash, b);
	buffer_give(img->disk, b);
	return r < 0 ? image_fault(img, r, "cannot store a chunk", why) : 0;
}

int disk_image_flush(struct disk_image *img, struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	if (img->complete || img->desc->in_place)
		return 0;
	pthread_mutex_lock(&img->lock);
	struct batch b = take_batch(img);
	pthread_mutex_unlock(&img->lock);
	int r = journal_batch(img, &b);
	if (r == 0 && fdatasync(img->journal_fd) < 0)
		r = -errno;
	return r < 0 ? image_fault(img, r, "cannot write the journal", why) : 0;
}

/* ---- commit ---- */

int image_write_manifest(struct disk_image *img, const struct chunk_record *chunks, uint64_t data_bytes,
	struct hash128 digest, struct fault *why)
{
	static const struct replace_points points = {DISK_POINT_MANIFEST_WRITTEN, DISK_POINT_MANIFEST_SYNCED,
		DISK_POINT_MANIFEST_RENAMED};
	struct manifest m = {img->desc, (struct chunk_record *)chunks, data_bytes, digest};
	OWN_MEM uint8_t *bytes = NULL;
	size_t n;
	char name[FILE_NAME_MAX];
	int r = manifest_encode(&m, &bytes, &n, why);
	if (r < 0)
		return r;
	image_file_name(name, img, FILE_MANIFEST);
	r = file_replace(img->disk->images_fd, name, bytes, n, points);
	if (r == 0 && fsync(img->disk->images_fd) < 0)
		r = -errno;
	if (r == 0)
		r = disk_step(DISK_POINT_MANIFEST_DURABLE);
	return r < 0 ? image_fault(img, r, "cannot write the manifest", why) : 0;
}

static int settle_data(struct disk_image *img)
{
	if (img->desc->in_place)
		return write_sides(img);
	int r = ftruncate(img->data_fd, (off_t)img->next_off) < 0 ? -errno : sync_data(img, true);
	return r < 0 ? r : disk_step(DISK_POINT_COMMIT_SYNCED);
}

static struct hash128 digest_of(const struct disk_image *img)
{
	OWN_MEM struct hash128 *hashes = calloc((size_t)img->n_chunks + 1, sizeof *hashes);
	ASSERT(hashes);
	for (uint32_t i = 0; i < img->n_chunks; i++)
		hashes[i] = img->chunks[i].hash;
	return image_digest(img->desc, hashes);
}

int disk_image_commit(struct disk_image *img, struct hash128 *digest, struct fault *why)
{
	CHECK_OBJ(img, IMAGE_MAGIC);
	ASSERT(!img->complete);
	if (img->n_had < img->n_chunks) {
		fault_set(why, TRIMS_E_INTERNAL, "%s: %u of %u chunks are there", img->path, img->n_had, img->n_chunks);
		return -ENODATA;
	}
	int r = settle_data(img);
	if (r < 0)
		return image_fault(img, r, "cannot sync the image", why);
	struct hash128 d = digest_of(img);
	r = image_write_manifest(img, img->chunks, img->next_off, d, why);
	if (r < 0)
		return r;
	forget_sides(img->desc);
	free(take_batch(img).v);
	img->digest = d;
	atomic_store(&img->complete, true);
	own_close_fd(&img->journal_fd);
	if (image_unlink(img, FILE_JOURNAL) < 0) /* harmless: the manifest counts, and the next start removes it */
		log_warn("disk", "%s: its journal could not be removed", img->path);
	disk_step(DISK_POINT_JOURNAL_REMOVED);
	COUNT(img, commits, 1);
	*digest = d;
	return 0;
}

/* ---- removal ---- */

/* What makes the image an image goes first, and durably, so that a crash leaves at most orphans. */
int image_remove_files(struct disk_image *img)
{
	int r = image_unlink(img, FILE_MANIFEST), r2 = image_unlink(img, FILE_JOURNAL);
	if (r == 0)
		r = r2;
	if (r == 0 && fsync(img->disk->images_fd) < 0)
		r = -errno;
	if (r == 0)
		r = disk_step(DISK_POINT_DROP_MANIFEST);
	if (r < 0)
		return r;
	r = image_unlink(img, FILE_DATA);
	if (r == 0)
		r = disk_step(DISK_POINT_DROP_DATA);
	r2 = image_unlink(img, FILE_SIDES);
	return r < 0 ? r : r2;
}

int disk_image_drop(struct disk_image **p, struct fault *why)
{
	struct disk_image *img = *p;
	*p = NULL;
	CHECK_OBJ(img, IMAGE_MAGIC);
	int r = image_remove_files(img);
	COUNT(img, drops, 1);
	if (r < 0)
		image_fault(img, r, "cannot remove the image", why);
	image_free(&img);
	return r;
}
