/* private.c - reading a model by oneself, as fast as plain means can.
 * Blocks of all files are handed out in order to reading threads.  On the CPU they are read to where they stay.  Where the backend has
 * a way of its own to a device, they are read into a ring of pinned blocks (to pin as much as the model has takes longer than to load
 * it), and the caller's thread copies what has come in, in order, each tensor to its place in one packed copy.
 * Keeps: bytes are used only after the read that brought them has succeeded; a block of the ring is read into only when its copy is
 * done. */
#include "tools/run/private.h"

#include "shared/image.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_BYTES (4 * MIB)
#define READERS 8u
#define RING_BLOCKS ((uint64_t)2 * READERS) /* one to be read and one to be copied for each */
#define PAGE 4096u
#define HUGE_PAGE (2 * MIB)
#define HEAD_BYTES (256 * KIB) /* of a file at first; more when its header says so */
#define FILE_MAX_BYTES (64 * MIB) /* of the small files beside the weights */
#define DEVICE_ALIGN 256u

struct part { /* one weight file */
	char *name;
	int buffered, direct; /* direct -1: the file system has no O_DIRECT */
	uint64_t bytes;
	void *seen;           /* mapped, only for mincore() */
	uint64_t at;          /* in all files one behind the other, a multiple of BLOCK_BYTES */
};

struct small { /* a file that travels along */
	struct small *next;
	char *path;
	void *data;
	size_t bytes;
};

struct private {
	struct backend *backend;
	struct catalog catalog;
	char *folder;
	struct part *parts;
	uint32_t n_parts;
	struct tensor_list tensors; /* in the order of the files and of their places there */
	struct small *files;
	uint8_t *space;  /* all files, each from `at` on, as they are on the disk; staged: the ring */
	uint64_t all_bytes, space_bytes;
	void *mapped;    /* what the space lies in, where it is ours */
	uint64_t mapped_bytes;
	bool staged;     /* space is the backend's */
	void **moved;    /* not staged: tensors whose place in the file has not the alignment they need */
	/* staged */
	uint8_t *device; /* all tensors, each at a multiple of DEVICE_ALIGN */
	uint64_t *place; /* where each is there */
	uint32_t copied; /* tensors before it are there */
	/* reading */
	pthread_mutex_t lock;
	pthread_cond_t came, left;
	uint64_t next, blocks, freed, window; /* blocks from `freed` on have a place, a window of them at a time */
	uint8_t *done; /* a block each */
	int err;
};

/* ---- opening ---- */

static int fail_file(struct fault *why, const char *what, const char *name)
{
	return fault_set(why, errno == ENOENT ? TRIMS_E_NOT_FOUND : TRIMS_E_DISK_ERROR, "%s %s: %s", what, name, strerror(errno));
}

/* It was cut while it was read. */
static int fail_short(struct fault *why, const char *name)
{
	return fault_set(why, TRIMS_E_DISK_ERROR, "reading %s: it ends before its size when it was opened", name);
}

static char *join(const char *folder, const char *name)
{
	char *path;
	return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static int open_part(struct private *p, struct part *part, struct fault *why)
{
	struct stat st;
	OWN_MEM char *path = join(p->folder, part->name);
	if (!path)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a path");
	part->buffered = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
	if (part->buffered < 0 || fstat(part->buffered, &st))
		return fail_file(why, "opening", path);
	if (!S_ISREG(st.st_mode))
		return fault_set(why, TRIMS_E_BAD_MODEL, "%s is no regular file", path);
	part->direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	part->bytes = (uint64_t)st.st_size;
	part->seen = mmap(NULL, MAX(part->bytes, (uint64_t)PAGE), PROT_READ, MAP_SHARED, part->buffered, 0);
	return 0;
}

static int read_head(struct private *p, uint32_t i, struct fault *why)
{
	struct part *part = &p->parts[i];
	size_t need = (size_t)MIN(part->bytes, HEAD_BYTES), have = 0;
	uint64_t data_start;
	OWN_MEM uint8_t *head = NULL;
	for (int r = -EAGAIN; r == -EAGAIN;) {
		uint8_t *grown = realloc(head, need + 1);
		if (!grown)
			return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the header of %s", part->name);
		head = grown;
		while (have < need) {
			ssize_t n = pread(part->buffered, head + have, need - have, (off_t)have);
			if (n == 0)
				return fail_short(why, part->name);
			if (n < 0 && errno != EINTR)
				return fail_file(why, "reading", part->name);
			have += n > 0 ? (size_t)n : 0;
		}
		r = header_parse(FORMAT_SAFETENSORS, part->name, i, head, have, part->bytes, &need, &data_start, &p->tensors,
			why);
		if (r && r != -EAGAIN)
			return r;
	}
	return 0;
}

static int add_small(struct private *p, const char *name, struct small **out);

/* The names of the weight files: what the index says, or the only one. */
static int list_parts(struct private *p, const char *single, struct fault *why)
{
	static const char index[] = "model.safetensors.index.json";
	struct small *f = NULL;
	char **names = NULL;
	uint32_t n = 1;
	if (!single && add_small(p, index, &f) == 0) {
		int r = shard_index_parse(index, f->data, f->bytes, &names, &n, why);
		if (r)
			return r;
	} else {
		names = calloc(1, sizeof *names);
		if (names)
			*names = strdup(single ? single : "model.safetensors");
	}
	p->parts = calloc(n, sizeof *p->parts);
	for (uint32_t i = 0; p->parts && names && i < n; i++) {
		p->parts[i] = (struct part){.name = names[i], .buffered = -1, .direct = -1, .seen = MAP_FAILED};
		p->n_parts++;
	}
	bool ok = p->parts && names && p->parts[0].name;
	free(names);
	return ok ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the list of files");
}

static int split_path(struct private *p, const char *path, char **single, struct fault *why)
{
	struct stat st;
	if (stat(path, &st))
		return fail_file(why, "looking at", path);
	if (S_ISDIR(st.st_mode)) {
		p->folder = strdup(path);
	} else {
		const char *slash = strrchr(path, '/');
		p->folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
		*single = strdup(slash ? slash + 1 : path);
		if (!*single)
			return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a path");
	}
	return p->folder ? 0 : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a path");
}

static int catalog_find(const struct catalog *c, const char *name, const struct weight *want, struct weight *out);
static int catalog_file(const struct catalog *c, const char *path, const void **data, size_t *bytes);

int private_open(const char *path, struct private **out, struct fault *why)
{
	OWN_MEM char *single = NULL;
	struct private *p = calloc(1, sizeof *p);
	if (!p)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a model");
	p->catalog = (struct catalog){catalog_find, catalog_file};
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->came, NULL);
	pthread_cond_init(&p->left, NULL);
	int r = split_path(p, path, &single, why);
	if (!r)
		r = list_parts(p, single, why);
	for (uint32_t i = 0; !r && i < p->n_parts; i++) {
		r = open_part(p, &p->parts[i], why);
		if (!r)
			r = read_head(p, i, why);
	}
	if (r)
		private_free(&p);
	else
		*out = p;
	return r;
}

static void free_space(struct private *p)
{
	if (!p->backend)
		return; /* nothing was loaded */
	const struct backend_ops *ops = p->backend->ops;
	ops->free(p->backend, p->device);
	for (uint32_t i = 0; p->moved && i < p->tensors.n; i++)
		if (p->moved[i])
			ops->free(p->backend, p->moved[i]);
	if (p->staged)
		ops->unstage(p->backend, p->space);
	else if (p->mapped)
		munmap(p->mapped, p->mapped_bytes);
	free(p->moved);
	free(p->place);
}

void private_free(struct private **out)
{
	struct private *p = *out;
	if (!p)
		return;
	free_space(p);
	for (uint32_t i = 0; i < p->n_parts; i++) {
		if (p->parts[i].seen != MAP_FAILED)
			munmap(p->parts[i].seen, MAX(p->parts[i].bytes, (uint64_t)PAGE));
		own_close_fd(&p->parts[i].buffered);
		own_close_fd(&p->parts[i].direct);
		free(p->parts[i].name);
	}
	for (struct small *f = p->files, *next; f; f = next) {
		next = f->next;
		free(f->path);
		free(f->data);
		free(f);
	}
	tensor_list_fini(&p->tensors);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->came);
	pthread_cond_destroy(&p->left);
	free(p->parts);
	free(p->folder);
	free(p->done);
	free(p);
	*out = NULL;
}

/* ---- what the model says of itself ---- */

static int read_small(const char *path, struct small *f)
{
	struct stat st;
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_MAX_BYTES)
		return -ENOENT;
	f->data = malloc((size_t)st.st_size + 1);
	while (f->data && f->bytes < (size_t)st.st_size) {
		ssize_t n = read(fd, (char *)f->data + f->bytes, (size_t)st.st_size - f->bytes);
		if (n <= 0)
			return -EIO;
		f->bytes += (size_t)n;
	}
	return f->data ? 0 : -ENOMEM;
}

static int add_small(struct private *p, const char *name, struct small **out)
{
	OWN_MEM char *path = join(p->folder, name);
	struct small *f = calloc(1, sizeof *f);
	int r = path && f ? read_small(path, f) : -ENOMEM;
	if (!r && !(f->path = strdup(name)))
		r = -ENOMEM;
	if (r) {
		if (f)
			free(f->data);
		free(f);
		return r;
	}
	f->next = p->files;
	p->files = f;
	*out = f;
	return 0;
}

static int catalog_file(const struct catalog *c, const char *path, const void **data, size_t *bytes)
{
	struct private *p = container_of(c, struct private, catalog);
	struct small *f = p->files;
	while (f && strcmp(f->path, path) != 0)
		f = f->next;
	if (!f && add_small(p, path, &f))
		return -ENOENT;
	*data = f->data;
	*bytes = f->bytes;
	return 0;
}

static int catalog_find(const struct catalog *c, const char *name, const struct weight *want, struct weight *out)
{
	const struct private *p = container_of(c, struct private, catalog);
	for (uint32_t i = 0; i < p->tensors.n; i++) {
		const struct tensor *t = &p->tensors.v[i];
		if (strcmp(t->name, name) != 0)
			continue;
		*out = (struct weight){.tensor = i, .dtype = t->dtype, .rank = t->rank, .bytes = t->bytes};
		for (uint32_t k = 0; k < MIN(t->rank, (uint32_t)NET_MAX_RANK); k++)
			out->shape[k] = t->shape[k];
		return 0;
	}
	return -ENOENT;
}

const struct catalog *private_catalog(const struct private *p)
{
	return &p->catalog;
}

/* ---- loading ---- */

/* Whether most of a block is in the page cache.  (RWF_NOWAIT, which could be asked instead, starts to read ahead.) */
static bool is_cached(const struct part *part, uint64_t offset, uint64_t bytes)
{
	uint8_t pages[BLOCK_BYTES / PAGE];
	uint64_t n = (bytes + PAGE - 1) / PAGE, there = 0;
	if (part->seen == MAP_FAILED || mincore((uint8_t *)part->seen + offset, bytes, pages))
		return true;
	for (uint64_t i = 0; i < n; i++)
		there += pages[i] & 1;
	return there > n / 2;
}

/* What is in the page cache is copied from there, the rest read past it. */
static int read_block(const struct part *part, uint64_t offset, uint8_t *to)
{
	uint64_t want = MIN(BLOCK_BYTES, part->bytes - offset), have = 0;
	bool direct = part->direct >= 0 && !is_cached(part, offset, want);
	while (have < want) {
		ssize_t n = -1;
		if (direct && have % PAGE == 0)
			n = pread(part->direct, to + have, align_up(want - have, PAGE), (off_t)(offset + have));
		if (n <= 0) /* through the cache; or the file system refuses here */
			n = pread(part->buffered, to + have, want - have, (off_t)(offset + have));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ENODATA;
		have += n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

static void find_block(const struct private *p, uint64_t block, uint32_t *part, uint64_t *offset)
{
	*part = 0;
	while (*part + 1 < p->n_parts && p->parts[*part + 1].at <= block * BLOCK_BYTES)
		++*part;
	*offset = block * BLOCK_BYTES - p->parts[*part].at;
}

/* Where a block is read to. */
static uint8_t *place_of(const struct private *p, uint64_t block)
{
	return p->space + block % p->window * BLOCK_BYTES;
}

/* There is one to be read, and a place for it. */
static bool take_block(struct private *p, uint64_t *block)
{
	while (p->next < p->blocks && !p->err && p->next - p->freed >= p->window)
		pthread_cond_wait(&p->left, &p->lock);
	*block = p->next;
	return p->next < p->blocks && !p->err && ++p->next;
}

static void *reader(void *arg)
{
	struct private *p = arg;
	uint64_t block, offset;
	pthread_mutex_lock(&p->lock);
	while (take_block(p, &block)) {
		uint32_t part;
		pthread_mutex_unlock(&p->lock);
		find_block(p, block, &part, &offset);
		int r = read_block(&p->parts[part], offset, place_of(p, block));
		pthread_mutex_lock(&p->lock);
		p->done[block] = 1;
		if (r) {
			p->err = r;
			pthread_cond_broadcast(&p->left);
		}
		pthread_cond_signal(&p->came);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* Blocks [0, result) have been read, and that is more than `seen`; or an error. */
static int64_t wait_blocks(struct private *p, uint64_t seen)
{
	uint64_t now = seen;
	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (now < p->blocks && p->done[now])
			now++;
		if (p->err || now > seen || now == p->blocks)
			break;
		pthread_cond_wait(&p->came, &p->lock);
	}
	int64_t result = p->err ? p->err : (int64_t)now;
	pthread_mutex_unlock(&p->lock);
	return result;
}

/* Bytes that lie behind one another in a block and on the device. */
struct piece {
	const uint8_t *from;
	uint8_t *to;
	uint64_t bytes;
};

static int put_piece(struct private *p, const struct piece *piece, struct fault *why)
{
	return piece->bytes ? p->backend->ops->put(p->backend, piece->to, piece->from, piece->bytes, why) : 0;
}

/* What a block has of tensors; of many that fit together as one piece. */
static int copy_block(struct private *p, uint64_t block, struct fault *why)
{
	uint32_t part;
	uint64_t offset;
	struct piece open = {0};
	find_block(p, block, &part, &offset);
	uint64_t end = MIN(offset + BLOCK_BYTES, p->parts[part].bytes);
	for (; p->copied < p->tensors.n; p->copied++) {
		const struct tensor *t = &p->tensors.v[p->copied];
		if (t->file != part || t->file_off >= end)
			break;
		uint64_t first = MAX(t->file_off, offset), last = MIN(t->file_off + t->bytes, end);
		struct piece here = {place_of(p, block) + (first - offset), p->device + p->place[p->copied] + (first - t->file_off),
			last - first};
		if (open.bytes && open.from + open.bytes == here.from && open.to + open.bytes == here.to) {
			open.bytes += here.bytes;
		} else {
			int r = put_piece(p, &open, why);
			if (r)
				return r;
			open = here;
		}
		if (t->file_off + t->bytes > end)
			break; /* the next block has more of it */
	}
	return put_piece(p, &open, why);
}

/* Blocks [from, to) to the device; then others may be read to where they are. */
static int copy_blocks(struct private *p, uint64_t from, uint64_t to, struct fault *why)
{
	int r = 0;
	for (uint64_t block = from; p->staged && !r && block < to; block++)
		r = copy_block(p, block, why);
	if (!r && p->staged)
		r = p->backend->ops->finish(p->backend, why);
	pthread_mutex_lock(&p->lock);
	p->freed = to;
	pthread_cond_broadcast(&p->left);
	pthread_mutex_unlock(&p->lock);
	return r;
}

static int read_all(struct private *p, struct fault *why)
{
	pthread_t threads[READERS];
	uint32_t n = 0, want = (uint32_t)MIN((uint64_t)READERS, p->blocks);
	int r = 0;
	while (n < want && pthread_create(&threads[n], NULL, reader, p) == 0)
		n++;
	if (n == 0 && want)
		r = fault_set(why, TRIMS_E_NO_SYSTEM, "threads that read cannot be started");
	for (uint64_t seen = 0; !r && seen < p->blocks;) {
		int64_t now = wait_blocks(p, seen);
		if (now == -ENODATA)
			r = fail_short(why, "the model");
		else if (now < 0)
			r = fault_set(why, TRIMS_E_DISK_ERROR, "reading the model: %s", strerror((int)-now));
		else
			r = copy_blocks(p, seen, (uint64_t)now, why);
		seen = now < 0 ? seen : (uint64_t)now;
	}
	pthread_mutex_lock(&p->lock);
	p->next = p->blocks;
	pthread_cond_broadcast(&p->left);
	pthread_mutex_unlock(&p->lock);
	while (n > 0)
		pthread_join(threads[--n], NULL);
	return r;
}

/* Page by page, faults cost more than the reads. */
static int map_space(struct private *p, struct fault *why)
{
	p->space_bytes = p->all_bytes;
	p->window = p->blocks;
	p->mapped_bytes = p->space_bytes + HUGE_PAGE;
	p->mapped = mmap(NULL, p->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->mapped == MAP_FAILED) {
		p->mapped = NULL;
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %llu bytes", (unsigned long long)p->space_bytes);
	}
	p->space = (uint8_t *)align_up((uintptr_t)p->mapped, HUGE_PAGE);
	madvise(p->space, p->space_bytes, MADV_HUGEPAGE);
	return 0;
}

static int take_ring(struct private *p, struct fault *why)
{
	void *space, *device;
	uint64_t bytes = 0;
	p->window = MIN(p->blocks, RING_BLOCKS);
	p->space_bytes = p->window * BLOCK_BYTES;
	p->place = calloc(p->tensors.n + 1, sizeof *p->place);
	if (!p->place)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the places of %u tensors", p->tensors.n);
	for (uint32_t i = 0; i < p->tensors.n; i++) {
		p->place[i] = bytes;
		bytes += align_up(p->tensors.v[i].bytes, DEVICE_ALIGN);
	}
	int r = p->backend->ops->stage(p->backend, p->space_bytes, &space, why);
	p->space = r ? NULL : space;
	p->staged = !r;
	if (!r)
		r = p->backend->ops->alloc(p->backend, bytes, &device, why);
	p->device = r ? NULL : device;
	return r;
}

static int take_space(struct private *p, struct fault *why)
{
	for (uint32_t i = 0; i < p->n_parts; i++) {
		p->parts[i].at = p->all_bytes;
		p->all_bytes += align_up(p->parts[i].bytes, BLOCK_BYTES);
	}
	p->blocks = p->all_bytes / BLOCK_BYTES;
	p->done = calloc(p->blocks + 1, 1);
	p->moved = calloc(p->tensors.n + 1, sizeof *p->moved);
	if (!p->done || !p->moved)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %llu blocks", (unsigned long long)p->blocks);
	return p->backend->ops->stage ? take_ring(p, why) : map_space(p, why);
}

/* On the CPU an element's own alignment does; on a device all have their places. */
static int move_unaligned(struct private *p, struct fault *why)
{
	const struct backend_ops *ops = p->backend->ops;
	for (uint32_t i = 0; !p->staged && i < p->tensors.n; i++) {
		const struct tensor *t = &p->tensors.v[i];
		if (!t->bytes || (uintptr_t)private_tensor(p, i) % dtype_row(t->dtype)->bytes == 0)
			continue;
		const struct part *part = &p->parts[t->file];
		int r = ops->alloc(p->backend, t->bytes, &p->moved[i], why);
		if (!r)
			r = ops->put(p->backend, p->moved[i], p->space + part->at + t->file_off, t->bytes, why);
		if (r)
			return r;
	}
	return 0;
}

int private_load(struct private *p, struct backend *b, struct fault *why)
{
	p->backend = b;
	int r = take_space(p, why);
	if (!r)
		r = read_all(p, why);
	if (!r)
		r = move_unaligned(p, why);
	return r ? r : p->backend->ops->finish(p->backend, why);
}

const void *private_tensor(const struct private *p, uint32_t tensor)
{
	const struct tensor *t = &p->tensors.v[tensor];
	if (p->staged)
		return p->device + p->place[tensor];
	return p->moved[tensor] ? p->moved[tensor] : p->space + p->parts[t->file].at + t->file_off;
}

uint64_t private_bytes(const struct private *p)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < p->n_parts; i++)
		sum += p->parts[i].bytes;
	return sum;
}
