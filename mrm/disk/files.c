/* files.c - files of the store: whole reads, replacement, names, and the steps that tests can stop at.
 * Keeps: a file that is replaced is either the old or the new one, whole, whenever somebody looks. */
#include "mrm/disk/store.h"

#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int (*hook)(void *ctx, enum disk_point point);
static void *hook_ctx;

void disk_set_hook(int (*fn)(void *ctx, enum disk_point point), void *ctx)
{
	hook = fn;
	hook_ctx = ctx;
}

int disk_step(enum disk_point p)
{
	return hook ? hook(hook_ctx, p) : 0;
}

const char *disk_point_name(enum disk_point p)
{
	static const char *const names[] = {
#define POINT(NAME, name, doc) #name,
#include "mrm/disk/points.def"
#undef POINT
	};
	return (unsigned)p < ARRAY_LEN(names) ? names[p] : "?";
}

void image_file_name(char out[FILE_NAME_MAX], const struct disk_image *img, const char *kind)
{
	snprintf(out, FILE_NAME_MAX, "%s.%s", img->stem, kind);
}

int image_open(const struct disk_image *img, const char *kind, int flags)
{
	char name[FILE_NAME_MAX];
	image_file_name(name, img, kind);
	int fd = openat(img->disk->images_fd, name, flags | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int image_unlink(const struct disk_image *img, const char *kind)
{
	char name[FILE_NAME_MAX];
	image_file_name(name, img, kind);
	return unlinkat(img->disk->images_fd, name, 0) == 0 || errno == ENOENT ? 0 : -errno;
}

int file_read_at(int fd, uint8_t *bytes, size_t n, uint64_t off)
{
	while (n) {
		ssize_t got = pread(fd, bytes, n, (off_t)off);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		bytes += got;
		n -= (size_t)got;
		off += (uint64_t)got;
	}
	return 0;
}

int file_write_at(int fd, const uint8_t *bytes, size_t n, uint64_t off)
{
	while (n) {
		ssize_t put = pwrite(fd, bytes, n, (off_t)off);
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		bytes += put;
		n -= (size_t)put;
		off += (uint64_t)put;
	}
	return 0;
}

int file_read_which(int dir_fd, const char *name, uint64_t max, uint8_t **out, size_t *bytes, struct stat *st)
{
	*st = (struct stat){0};
	OWN_FD int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, st) < 0)
		return -errno;
	if (!S_ISREG(st->st_mode) || (uint64_t)st->st_size > max)
		return -EFBIG;
	uint8_t *p = malloc((size_t)st->st_size + 1);
	if (!p)
		return -ENOMEM;
	int r = file_read_at(fd, p, (size_t)st->st_size, 0);
	if (r < 0) {
		free(p);
		return r;
	}
	*out = p;
	*bytes = (size_t)st->st_size;
	return 0;
}

int file_read(int dir_fd, const char *name, uint64_t max, uint8_t **out, size_t *bytes)
{
	struct stat st;
	return file_read_which(dir_fd, name, max, out, bytes, &st);
}

void file_unlink_same(int dir_fd, const char *name, const struct stat *st)
{
	struct stat now;
	if (fstatat(dir_fd, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_ino == st->st_ino && now.st_dev == st->st_dev &&
		now.st_ctim.tv_sec == st->st_ctim.tv_sec && now.st_ctim.tv_nsec == st->st_ctim.tv_nsec)
		unlinkat(dir_fd, name, 0);
}

static int write_synced(int dir_fd, const char *name, const uint8_t *bytes, size_t n, struct replace_points points)
{
	OWN_FD int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	int r = file_write_at(fd, bytes, n, 0);
	if (r == 0)
		r = disk_step(points.written);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? r : disk_step(points.synced);
}

int file_replace(int dir_fd, const char *name, const uint8_t *bytes, size_t n, struct replace_points points)
{
	char temporary[FILE_NAME_MAX + 8];
	snprintf(temporary, sizeof temporary, "%s.tmp", name);
	int r = write_synced(dir_fd, temporary, bytes, n, points);
	if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, temporary, 0);
	return r < 0 ? r : disk_step(points.renamed);
}
