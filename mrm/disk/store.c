/* store.c - the store as a whole: lock, adoption at start, names, counters, write buffers.
 *
 * Keeps: what disk_open() returns with is true of the files: each image in the list has a whole manifest (or a whole
 * journal head) and files of the size it says; everything else of ours in the directory has been removed. */
#include "mrm/disk/store.h"

#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#define CATALOG "catalog"
#define IDENTITY "identity"
#define IDENTITY_BYTES 33 /* 32 hex digits and a newline */
#define COUNT(d, what) atomic_fetch_add_explicit(&(d)->count.what, 1, memory_order_relaxed)

int disk_compress_parse(const char *text, enum disk_compress *out)
{
	static const char *const names[] = {[DISK_COMPRESS_AUTO] = "auto", [DISK_COMPRESS_ALWAYS] = "always",
		[DISK_COMPRESS_NEVER] = "never"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(text, names[i])) {
			*out = (enum disk_compress)i;
			return 0;
		}
	return -EINVAL;
}

/* ---- write buffers ---- */

#define BUFFER_BYTES align_up(codec_bound(IMAGE_CHUNK_BYTES), DISK_ALIGN)

struct buffer *buffer_take(struct disk *d)
{
	struct buffer *b = NULL;
	pthread_mutex_lock(&d->lock);
	if (!list_empty(&d->buffers)) {
		b = list_first(&d->buffers, struct buffer, node);
		list_del(&b->node);
	}
	pthread_mutex_unlock(&d->lock);
	if (b)
		return b;
	b = calloc(1, sizeof *b);
	ASSERT(b);
	list_init(&b->node);
	b->bytes = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->bytes == MAP_FAILED) {
		free(b);
		return NULL;
	}
	return b;
}

/* The pool grows to the number of threads that write at once and stays there. */
void buffer_give(struct disk *d, struct buffer *b)
{
	pthread_mutex_lock(&d->lock);
	list_add_head(&b->node, &d->buffers);
	pthread_mutex_unlock(&d->lock);
}

static void free_buffers(struct disk *d)
{
	list_for_each_safe(it, &d->buffers) {
		struct buffer *b = list_entry(it, struct buffer, node);
		list_del(&b->node);
		munmap(b->bytes, BUFFER_BYTES);
		free(b);
	}
}

/* ---- opening ---- */

static int lock_dir(struct disk *d, struct fault *why)
{
	char pid[32] = "";
	d->lock_fd = openat(d->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (d->lock_fd < 0)
		return -errno;
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return -errno;
		ssize_t n = pread(d->lock_fd, pid, sizeof pid - 1, 0);
		pid[n > 0 ? strcspn(pid, "\n") : 0] = 0;
		fault_set(why, TRIMS_E_BUSY, "%s: another daemon (process %s) uses this cache directory", d->dir,
			*pid ? pid : "unknown");
		return -EBUSY;
	}
	int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
	if (ftruncate(d->lock_fd, 0) < 0 || pwrite(d->lock_fd, pid, (size_t)n, 0) != n)
		return -errno; /* a directory that takes not even this is no cache */
	return 0;
}

static int open_dirs(struct disk *d)
{
	if (mkdir(d->dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	d->dir_fd = open(d->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->dir_fd < 0 || (mkdirat(d->dir_fd, "images", 0700) < 0 && errno != EEXIST))
		return -errno;
	d->images_fd = openat(d->dir_fd, "images", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return d->images_fd < 0 || fsync(d->dir_fd) < 0 ? -errno : 0;
}

/* Writes a block and reads it back: some file systems take O_DIRECT at open only. */
static void probe_direct(struct disk *d)
{
	static const char name[] = "probe.tmp";
	if (d->options.no_direct) {
		snprintf(d->why_not_direct, sizeof d->why_not_direct, "switched off");
		return;
	}
	struct buffer *b = buffer_take(d);
	int r = b ? 0 : -ENOMEM;
	OWN_FD int fd = openat(d->images_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT, 0600);
	if (r == 0)
		r = fd < 0 ? -errno : file_write_at(fd, b->bytes, DISK_ALIGN, 0);
	if (r == 0)
		r = file_read_at(fd, b->bytes, DISK_ALIGN, 0);
	unlinkat(d->images_fd, name, 0);
	if (b)
		buffer_give(d, b);
	d->direct = r == 0;
	if (r < 0) {
		char text[64];
		snprintf(d->why_not_direct, sizeof d->why_not_direct, "the file system refuses O_DIRECT: %s",
			strerror_r(-r, text, sizeof text));
		log_warn("disk", "%s: buffered: %s", d->dir, d->why_not_direct);
	}
}

/* ---- adoption ---- */

static int file_size(struct disk_image *img, const char *kind, uint64_t *out)
{
	char name[FILE_NAME_MAX];
	struct stat st;
	image_file_name(name, img, kind);
	if (fstatat(img->disk->images_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*out = (uint64_t)st.st_size;
	return S_ISREG(st.st_mode) ? 0 : -EBADMSG;
}

static int expect_size(struct disk_image *img, const char *kind, uint64_t least, uint64_t most, struct fault *why)
{
	uint64_t bytes = 0;
	int r = file_size(img, kind, &bytes);
	if (r < 0)
		return fault_errno(why, TRIMS_E_DISK_ERROR, -r, "its %s file", kind);
	if (bytes < least || bytes > most)
		return fault_set(why, TRIMS_E_DISK_ERROR, "its %s file has %" PRIu64 " bytes instead of %" PRIu64, kind,
			bytes, least);
	return 0;
}

static int check_files(struct disk_image *img, uint64_t data_least, uint64_t data_most, struct fault *why)
{
	uint64_t sides = 0;
	for (uint32_t i = 0; i < img->desc->n_sides; i++)
		sides += img->desc->sides[i].bytes;
	int r = img->desc->n_sides ? expect_size(img, FILE_SIDES, sides, sides, why) : 0;
	return r < 0 || img->desc->in_place ? r : expect_size(img, FILE_DATA, data_least, data_most, why);
}

static int check_stem(const struct disk_image *img, const char *stem, struct fault *why)
{
	return strcmp(img->stem, stem) ? fault_set(why, TRIMS_E_DISK_ERROR, "it belongs to another image") : 0;
}

static int adopt_complete(struct disk *d, const char *stem, const uint8_t *bytes, size_t n, struct disk_image **out,
	struct fault *why)
{
	struct manifest m;
	int r = manifest_decode(bytes, n, &m, why);
	if (r < 0)
		return r;
	struct disk_image *img = image_new(d, &m.desc);
	memcpy(img->chunks, m.chunks, img->n_chunks * sizeof *img->chunks);
	memset(img->had, 1, img->n_chunks);
	img->n_had = img->n_chunks;
	img->next_off = m.data_bytes;
	img->digest = m.digest;
	img->complete = true;
	manifest_fini(&m);
	r = check_stem(img, stem, why);
	if (r == 0)
		r = check_files(img, img->next_off, img->next_off, why);
	if (r < 0)
		image_free(&img);
	*out = img;
	return r;
}

static void replay(struct disk_image *img, const uint8_t *records, size_t bytes)
{
	size_t at = 0;
	for (; bytes - at >= JOURNAL_RECORD_BYTES; at += JOURNAL_RECORD_BYTES) {
		uint32_t chunk;
		struct chunk_record c;
		if (!journal_record_decode(records + at, img->seed, &chunk, &c) || chunk >= img->n_chunks ||
			!chunk_record_fits(&c, img->desc->layout, chunk))
			break;
		img->chunks[chunk] = c;
		img->n_had += !img->had[chunk];
		img->had[chunk] = 1;
		img->next_off = MAX(img->next_off, c.off + chunk_room(&c));
	}
	img->journal_off += at;
	if (at < bytes) {
		COUNT(img->disk, torn);
		log_info("disk", "%s: the journal ends in a torn record; what it covered is fetched again", img->path);
	}
}

static int adopt_partial(struct disk *d, const char *stem, const uint8_t *bytes, size_t n, struct disk_image **out,
	struct fault *why)
{
	struct image_desc *desc = NULL;
	size_t head;
	uint64_t seed;
	int r = journal_head_decode(bytes, n, &desc, &head, &seed, why);
	if (r < 0)
		return r;
	struct disk_image *img = image_new(d, &desc);
	img->head_hash = chunk_hash(bytes, head);
	img->seed = seed;
	img->journal_off = head;
	replay(img, bytes + head, n - head);
	r = check_stem(img, stem, why);
	if (r == 0)
		r = check_files(img, img->next_off, UINT64_MAX, why);
	if (r == 0)
		r = image_open_data(img);
	if (r == 0)
		r = img->journal_fd = image_open(img, FILE_JOURNAL, O_RDWR);
	if (r >= 0)
		r = ftruncate(img->journal_fd, (off_t)img->journal_off) < 0 ? -errno : 0;
	if (r < 0)
		image_free(&img);
	*out = img;
	return r;
}

typedef int adopt_fn(struct disk *d, const char *stem, const uint8_t *bytes, size_t n, struct disk_image **out,
	struct fault *why);

static int adopt_from(struct disk *d, const char *stem, const char *file, adopt_fn *adopt, struct disk_image **out,
	struct fault *why)
{
	OWN_MEM uint8_t *bytes = NULL;
	size_t n;
	int r = file_read(d->images_fd, file, MANIFEST_MAX_BYTES, &bytes, &n);
	if (r < 0) {
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "it cannot be read");
		return r;
	}
	return adopt(d, stem, bytes, n, out, why);
}

/* The image is not damaged; this process lacks something.  Better not to start than to throw images away. */
static bool is_our_fault(int r)
{
	return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EACCES || r == -EPERM;
}

/* ---- the directory ---- */

/* "<32 hex digits>.<kind>[.tmp]"; false: not a file of ours. */
static bool split_name(const char *name, char stem[STEM_CHARS + 1], const char **kind)
{
	if (strspn(name, "0123456789abcdef") != STEM_CHARS || name[STEM_CHARS] != '.')
		return false;
	memcpy(stem, name, STEM_CHARS);
	stem[STEM_CHARS] = 0;
	*kind = name + STEM_CHARS + 1;
	return true;
}

typedef void visit_fn(struct disk *d, const char *file, const char *stem, const char *kind);

static int each_file(struct disk *d, visit_fn *visit)
{
	int fd = openat(d->images_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		int err = errno;
		own_close_fd(&fd);
		return -err;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		char stem[STEM_CHARS + 1];
		const char *kind;
		if (split_name(e->d_name, stem, &kind))
			visit(d, e->d_name, stem, kind);
	}
	closedir(dir);
	return 0;
}

static bool exists(struct disk *d, const char *stem, const char *kind)
{
	char name[FILE_NAME_MAX];
	snprintf(name, sizeof name, "%s.%s", stem, kind);
	return faccessat(d->images_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void remove_stem(struct disk *d, const char *stem)
{
	static const char *const kinds[] = {FILE_MANIFEST, FILE_JOURNAL, FILE_DATA, FILE_SIDES};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		char name[FILE_NAME_MAX];
		snprintf(name, sizeof name, "%s.%s", stem, kinds[i]);
		if (unlinkat(d->images_fd, name, 0) < 0 && errno != ENOENT)
			log_warn("disk", "%s/images/%s: cannot be removed: errno %d", d->dir, name, errno);
	}
}

/* A manifest counts; a journal counts where there is none. */
static void visit_adopt(struct disk *d, const char *file, const char *stem, const char *kind)
{
	struct disk_image *img = NULL;
	struct fault why;
	bool manifest = !strcmp(kind, FILE_MANIFEST);
	if (!manifest && (strcmp(kind, FILE_JOURNAL) || exists(d, stem, FILE_MANIFEST)))
		return;
	if (d->adopt_error || !exists(d, stem, kind)) /* removed meanwhile, with its damaged manifest */
		return;
	int r = adopt_from(d, stem, file, manifest ? adopt_complete : adopt_partial, &img, &why);
	if (is_our_fault(r)) {
		d->adopt_error = r;
		return;
	}
	if (r < 0) {
		COUNT(d, set_aside);
		log_warn("disk", "%s/images/%s: damaged, the image is removed: %s", d->dir, file, why.text);
		remove_stem(d, stem);
		return;
	}
	atomic_fetch_add(manifest ? &d->count.adopted : &d->count.resumable, 1);
	image_link(img);
}

/* The stem is the fingerprint in hex, its low half last. */
static struct disk_image *find_stem(struct disk *d, const char *stem)
{
	list_for_each(it, store_bucket(d, strtoull(stem + STEM_CHARS / 2, NULL, 16))) {
		struct disk_image *img = list_entry(it, struct disk_image, print_node);
		if (!strcmp(img->stem, stem))
			return img;
	}
	return NULL;
}

/* Anything of ours that no adopted image has. */
static void visit_sweep(struct disk *d, const char *file, const char *stem, const char *kind)
{
	struct disk_image *img = find_stem(d, stem);
	bool wanted = false;
	if (img && img->complete)
		wanted = !strcmp(kind, FILE_MANIFEST);
	else if (img)
		wanted = !strcmp(kind, FILE_JOURNAL);
	if (img && !img->desc->in_place)
		wanted |= !strcmp(kind, FILE_DATA);
	if (img && img->desc->n_sides)
		wanted |= !strcmp(kind, FILE_SIDES);
	if (wanted)
		return;
	COUNT(d, leftovers);
	if (unlinkat(d->images_fd, file, 0) < 0)
		log_warn("disk", "%s/images/%s: a leftover that cannot be removed: errno %d", d->dir, file, errno);
}

/* ---- identity ---- */

static bool identity_parse(const uint8_t *text, size_t n, uint64_t *hi, uint64_t *lo)
{
	char half[2][17] = {"", ""};
	if (n != IDENTITY_BYTES || text[n - 1] != '\n' || strspn((const char *)text, "0123456789abcdef") != n - 1)
		return false;
	memcpy(half[0], text, 16);
	memcpy(half[1], text + 16, 16);
	*hi = strtoull(half[0], NULL, 16);
	*lo = strtoull(half[1], NULL, 16);
	return *hi | *lo;
}

static int identity_make(struct disk *d)
{
	static const struct replace_points points = {DISK_POINT_IDENTITY_WRITTEN, DISK_POINT_IDENTITY_SYNCED,
		DISK_POINT_IDENTITY_RENAMED};
	uint64_t id[2] = {0};
	char text[IDENTITY_BYTES + 1];
	while (!(id[0] | id[1]))
		if (getrandom(id, sizeof id, 0) < 0 && errno != EINTR)
			return -errno;
	snprintf(text, sizeof text, "%016" PRIx64 "%016" PRIx64 "\n", id[0], id[1]);
	int r = file_replace(d->dir_fd, IDENTITY, (const uint8_t *)text, IDENTITY_BYTES, points);
	if (r == 0 && fsync(d->dir_fd) < 0)
		r = -errno;
	d->identity_hi = id[0];
	d->identity_lo = id[1];
	return r;
}

static int load_identity(struct disk *d)
{
	OWN_MEM uint8_t *text = NULL;
	size_t n = 0;
	unlinkat(d->dir_fd, IDENTITY ".tmp", 0);
	int r = file_read(d->dir_fd, IDENTITY, IDENTITY_BYTES, &text, &n);
	if (r == 0) {
		text[n] = 0; /* file_read() leaves room for it */
		if (identity_parse(text, n, &d->identity_hi, &d->identity_lo))
			return 0;
	}
	if (r < 0 && r != -ENOENT && r != -EFBIG)
		return r;
	if (r != -ENOENT)
		log_warn("disk", "%s/" IDENTITY ": damaged, a new one is made: clients of earlier runs load again", d->dir);
	return identity_make(d);
}

void disk_identity(const struct disk *d, uint64_t *hi, uint64_t *lo)
{
	CHECK_OBJ(d, DISK_MAGIC);
	*hi = d->identity_hi;
	*lo = d->identity_lo;
}

/* ---- names ---- */

static char *copy_text(const char *text)
{
	char *copy = strdup(text);
	ASSERT(copy);
	return copy;
}

/* Each image knows the name it was first asked for by. */
static void rebuild_names(struct disk *d)
{
	uint32_t n = 0;
	list_for_each(it, &d->images)
		n++;
	d->names = calloc((size_t)n + 1, sizeof *d->names);
	ASSERT(d->names);
	list_for_each(it, &d->images) {
		const struct image_desc *desc = list_entry(it, struct disk_image, node)->desc;
		d->names[d->n_names++] = (struct disk_name){.name = copy_text(desc->name),
			.source = copy_text(desc->source), .revision = copy_text(desc->revision),
			.fingerprint_hi = desc->fingerprint_hi, .fingerprint_lo = desc->fingerprint_lo};
	}
}

static void load_names(struct disk *d)
{
	OWN_MEM uint8_t *bytes = NULL;
	size_t n;
	struct fault why = {0};
	unlinkat(d->dir_fd, CATALOG ".tmp", 0);
	int r = file_read(d->dir_fd, CATALOG, CATALOG_MAX_BYTES, &bytes, &n);
	if (r == 0 && catalog_decode(bytes, n, &d->names, &d->n_names, &why) == 0)
		return;
	if (r != -ENOENT) {
		COUNT(d, names_lost);
		if (r < 0)
			fault_errno(&why, TRIMS_E_DISK_ERROR, -r, "it cannot be read");
		log_warn("disk", "%s/" CATALOG ": damaged, names are taken from the manifests: %s", d->dir, why.text);
	}
	rebuild_names(d);
}

uint32_t disk_names(const struct disk *d, const struct disk_name **out)
{
	*out = d->names;
	return d->n_names;
}

int disk_names_save(struct disk *d, const struct disk_name *names, uint32_t n, struct fault *why)
{
	static const struct replace_points points = {DISK_POINT_NAMES_WRITTEN, DISK_POINT_NAMES_SYNCED,
		DISK_POINT_NAMES_RENAMED};
	OWN_MEM uint8_t *bytes = NULL;
	size_t size;
	CHECK_OBJ(d, DISK_MAGIC);
	int r = catalog_encode(names, n, &bytes, &size, why);
	if (r < 0)
		return r;
	r = file_replace(d->dir_fd, CATALOG, bytes, size, points);
	if (r == 0 && fsync(d->dir_fd) < 0)
		r = -errno;
	if (r < 0) {
		COUNT(d, write_errors);
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s/" CATALOG ": cannot write the names", d->dir);
	}
	return r;
}

/* ---- life ---- */

static struct disk *disk_alloc(const char *dir, const struct disk_options *options)
{
	struct disk *d = calloc(1, sizeof *d);
	ASSERT(d);
	d->magic = DISK_MAGIC;
	d->lock_fd = d->dir_fd = d->images_fd = -1;
	if (options)
		d->options = *options;
	if (!d->options.sync_bytes)
		d->options.sync_bytes = SYNC_BYTES_DEFAULT;
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->profiles_lock, NULL);
	list_init(&d->images);
	for (size_t i = 0; i < PRINT_BUCKETS; i++)
		list_init(&d->by_print[i]);
	list_init(&d->buffers);
	d->dir = copy_text(dir);
	return d;
}

int disk_open(struct disk **out, const char *dir, const struct disk_options *options, struct fault *why)
{
	struct disk *d = disk_alloc(dir, options);
	struct fault local = {0};
	int r = open_dirs(d);
	if (r == 0)
		r = lock_dir(d, &local);
	if (r == 0)
		r = load_identity(d);
	if (r == 0) {
		probe_direct(d);
		r = each_file(d, visit_adopt);
		r = r < 0 ? r : d->adopt_error;
	}
	if (r == 0)
		r = each_file(d, visit_sweep);
	if (r < 0) {
		if (*local.text && why)
			*why = local;
		else
			fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s: cannot be used as a cache directory", dir);
		disk_close(&d);
		return r;
	}
	load_names(d);
	*out = d;
	return 0;
}

void disk_close(struct disk **p)
{
	struct disk *d = *p;
	*p = NULL;
	if (!d)
		return;
	CHECK_OBJ(d, DISK_MAGIC);
	list_for_each_safe(it, &d->images) {
		struct disk_image *img = list_entry(it, struct disk_image, node);
		struct fault why;
		if (disk_image_flush(img, &why) < 0)
			log_warn("disk", "what was half stored may have to be fetched again: %s", why.text);
		image_free(&img);
	}
	free_buffers(d);
	disk_names_free(d->names, d->n_names);
	own_close_fd(&d->images_fd);
	own_close_fd(&d->dir_fd);
	own_close_fd(&d->lock_fd); /* unlocks */
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->profiles_lock);
	free(d->dir);
	d->magic = 0;
	free(d);
}

struct list *store_bucket(struct disk *d, uint64_t fingerprint_lo)
{
	return &d->by_print[fingerprint_lo % PRINT_BUCKETS];
}

struct disk_image *disk_next(struct disk *d, struct disk_image *prev)
{
	CHECK_OBJ(d, DISK_MAGIC);
	pthread_mutex_lock(&d->lock);
	struct list *next = prev ? prev->node.next : d->images.next;
	pthread_mutex_unlock(&d->lock);
	return next == &d->images ? NULL : list_entry(next, struct disk_image, node);
}

struct disk_image *disk_find(struct disk *d, uint64_t hi, uint64_t lo)
{
	struct disk_image *found = NULL;
	CHECK_OBJ(d, DISK_MAGIC);
	pthread_mutex_lock(&d->lock);
	list_for_each(it, store_bucket(d, lo)) {
		struct disk_image *img = list_entry(it, struct disk_image, print_node);
		if (img->desc->fingerprint_hi == hi && img->desc->fingerprint_lo == lo)
			found = img;
	}
	pthread_mutex_unlock(&d->lock);
	return found;
}

bool disk_is_direct(const struct disk *d, const char **why_not)
{
	if (why_not)
		*why_not = d->why_not_direct;
	return d->direct;
}

void disk_stats(const struct disk *d, struct disk_stats *out)
{
#define STAT(name, doc) out->name = atomic_load_explicit(&d->count.name, memory_order_relaxed);
#include "mrm/disk/stats.def"
#undef STAT
}
