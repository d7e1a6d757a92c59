/* dir.c - a local directory, read in place; or a hub's cache directory (models--ORG--NAME/{refs,snapshots,blobs}).
 *
 * Keeps: no file outside the source's directory is ever opened, whatever symbolic links say (the kernel checks each step
 * with openat2(RESOLVE_BENEATH); where it has none, the resolved path is checked); only regular files are read.
 * A version is inode and modification time; in a hub cache a blob's name of 64 hex digits is its SHA-256. */
#include "mrm/source/internal.h"

#include "shared/own.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define MAX_DIR_ENTRIES 100000
#define READ_BYTES MIB

/* ---- opening below the root ---- */

static int open_by_path(struct source *s, const char *path, int flags)
{
	char root[PATH_MAX], real[PATH_MAX];
	OWN_MEM char *full = text_format("%s/%s", s->base, path);
	if (!full)
		return -ENOMEM;
	if (!realpath(s->base, root) || !realpath(full, real))
		return -errno;
	size_t n = strlen(root);
	if (n > 1 && (strncmp(real, root, n) || (real[n] && real[n] != '/')))
		return -EXDEV;
	int fd = open(real, flags | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int open_beneath(struct source *s, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
	OWN_FD int root = open(s->base, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	for (int tries = 0;; tries++) {
		long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how);
		if (fd >= 0)
			return (int)fd;
		if (errno == ENOSYS || errno == EPERM) {
			degrade(s, DEGRADED_no_openat2, "the kernel has no openat2, or a filter forbids it");
			return open_by_path(s, path, (int)how.flags);
		}
		if (errno != EAGAIN || tries == 10) /* EAGAIN: something was renamed meanwhile */
			return -errno;
	}
}

static int explain_open(struct source *s, const char *path, int r, struct fault *why)
{
	switch (-r) {
	case ENOENT:
	case ENOTDIR: return fail(why, TRIMS_E_NOT_FOUND, "%s has no %s", s->url, path);
	case EXDEV: return fail(why, TRIMS_E_REFUSED, "%s/%s leads outside the source's directory", s->base, path);
	case ENOMEM: return fail_memory(why);
	case EACCES:
	case EPERM:
	case ELOOP:
		fault_errno(why, TRIMS_E_REFUSED, -r, "%s/%s", s->base, path);
		return -EACCES;
	default:
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s/%s", s->base, path);
		return -EIO;
	}
}

/* O_NONBLOCK kept a fifo from holding us up; io_uring would take it for a wish not to wait for the disk.
 * -EISDIR: a directory; -ENXIO: something else that is no file, a socket say, which cannot even be opened. */
static int open_file(struct source *s, const char *path, int flags, int *out, struct stat *st, struct fault *why)
{
	OWN_FD int fd = open_beneath(s, path, O_RDONLY | flags);
	if (fd < 0 && fd != -ENXIO)
		return explain_open(s, path, fd, why);
	if (fd >= 0 && (fstat(fd, st) || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0))
		return explain_open(s, path, -errno, why);
	if (fd < 0 || !S_ISREG(st->st_mode)) {
		fault_set(why, TRIMS_E_NOT_FOUND, "%s/%s is no regular file", s->base, path);
		return fd >= 0 && S_ISDIR(st->st_mode) ? -EISDIR : -ENXIO;
	}
	*out = steal_fd(&fd);
	return 0;
}

/* What is there and no file is none. */
static int open_regular(struct source *s, const char *path, int flags, int *out, struct stat *st, struct fault *why)
{
	int r = open_file(s, path, flags, out, st, why);
	return r == -EISDIR || r == -ENXIO ? -ENOENT : r;
}

static void format_version(const struct stat *st, char out[96])
{
	snprintf(out, 96, "file:%llx:%lld.%09ld", (unsigned long long)st->st_ino, (long long)st->st_mtim.tv_sec,
		st->st_mtim.tv_nsec);
}

static int check_stat(const struct source_file *f, const struct stat *st, struct fault *why)
{
	char version[96];
	format_version(st, version);
	if ((uint64_t)st->st_size == f->bytes && !strcmp(version, f->version))
		return 0;
	return fail(why, TRIMS_E_CHANGED, "%s changed since it was listed", f->locator);
}

/* ---- looking ---- */

static void take_blob_name(int fd, struct source_file *out)
{
	char link[64], target[PATH_MAX];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, target, sizeof target - 1);
	if (n <= 0)
		return;
	target[n] = 0;
	if (strstr(target, "/blobs/"))
		out->has_sha256 = text_sha256(text_base_name(target), out->sha256);
}

static int look(struct finder *f, const char *path, bool weight, struct source_file *out, struct fault *why)
{
	OWN_FD int fd = -1;
	struct stat st = {0};
	char version[96];
	int r = (weight ? open_regular : open_file)(f->source, path, 0, &fd, &st, why);
	if (r)
		return r;
	format_version(&st, version);
	out->path = strdup(text_base_name(path));
	out->locator = strdup(path);
	out->version = strdup(version);
	out->bytes = (uint64_t)st.st_size;
	take_blob_name(fd, out);
	return out->path && out->locator && out->version ? 0 : fail_memory(why);
}

struct names {
	char **v;
	uint32_t n, cap;
};

static bool names_add(struct names *l, const char *name)
{
	if (l->n == l->cap) {
		uint32_t cap = l->cap ? 2 * l->cap : 16;
		char **v = reallocarray(l->v, cap, sizeof *v);
		if (!v)
			return false;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n] = strdup(name);
	return l->v[l->n] && ++l->n;
}

static int list_entries(struct source *s, const char *dir, DIR *d, struct names *out, struct fault *why)
{
	struct dirent *e;
	while (errno = 0, (e = readdir(d))) {
		if (e->d_type == DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (out->n == MAX_DIR_ENTRIES) {
			degrade(s, DEGRADED_side_cut, "%s has more than %d files", dir, MAX_DIR_ENTRIES);
			return 0;
		}
		if (!names_add(out, e->d_name))
			return fail_memory(why);
	}
	return errno ? explain_open(s, dir, -errno, why) : 0;
}

static int list(struct finder *f, const char *dir, char ***names, uint32_t *n, struct fault *why)
{
	OWN_FD int fd = open_beneath(f->source, dir, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return explain_open(f->source, dir, fd, why);
	DIR *d = fdopendir(fd);
	if (!d)
		return explain_open(f->source, dir, -errno, why);
	steal_fd(&fd);
	struct names l = {0};
	int r = list_entries(f->source, dir, d, &l, why);
	closedir(d);
	if (r) {
		while (l.n)
			free(l.v[--l.n]);
		free(l.v);
		return r;
	}
	*names = l.v;
	*n = l.n;
	return 0;
}

/* ---- a hub's cache ---- */

static bool is_directory(struct source *s, const char *path)
{
	OWN_FD int fd = open_beneath(s, path, O_RDONLY | O_DIRECTORY);
	return fd >= 0;
}

/* The directory of a repository that is a prefix of name, and the rest of the name; NULL: there is none. */
static char *find_repository(struct source *s, const char *name, const char **rest)
{
	const char *first = strchr(name, '/');
	const char *second = first ? strchr(first + 1, '/') : NULL;
	if (first) {
		size_t n = second ? (size_t)(second - first - 1) : strlen(first + 1);
		char *dir = text_format("models--%.*s--%.*s", (int)(first - name), name, (int)n, first + 1);
		if (dir && is_directory(s, dir)) {
			*rest = second ? second + 1 : "";
			return dir;
		}
		free(dir);
	}
	char *dir = text_format("models--%.*s", (int)(first ? (size_t)(first - name) : strlen(name)), name);
	if (dir && is_directory(s, dir)) {
		*rest = first ? first + 1 : "";
		return dir;
	}
	free(dir);
	return NULL;
}

/* refs/REVISION holds a commit; a commit is a directory in snapshots/. */
static char *find_commit(struct source *s, const char *repository, const char *revision)
{
	char text[128];
	OWN_MEM char *ref = text_format("%s/refs/%s", repository, revision);
	OWN_FD int fd = ref ? open_beneath(s, ref, O_RDONLY) : -1;
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
	if (n <= 0)
		return strdup(revision);
	text[n] = 0;
	text[strcspn(text, " \t\r\n")] = 0;
	return strspn(text, "0123456789abcdef") == strlen(text) && *text ? strdup(text) : NULL;
}

static int resolve_cached(struct finder *f, const char *name, const char *revision, struct source_listing *l,
	struct fault *why)
{
	struct source *s = f->source;
	const char *rest;
	OWN_MEM char *repository = find_repository(s, name, &rest);
	OWN_MEM char *commit = repository ? find_commit(s, repository, revision ? revision : "main") : NULL;
	OWN_MEM char *snapshot = commit ? text_format("%s/snapshots/%s", repository, commit) : NULL;
	if (!snapshot || !is_directory(s, snapshot))
		return fail(why, TRIMS_E_NOT_FOUND, "%s has no model %s%s%s", s->url, name, revision ? "@" : "",
			revision ? revision : "");
	OWN_MEM char *path = *rest ? text_join(snapshot, rest) : strdup(snapshot);
	l->revision = strdup(commit);
	if (!path || !l->revision)
		return fail_memory(why);
	return find_model(f, path, l, why);
}

static int dir_resolve(struct source *s, struct source_worker *w, const char *name, const char *revision,
	struct source_listing *l, struct fault *why)
{
	struct finder f = {.source = s, .worker = w, .look = look, .list = list};
	int r = revision ? -ENOENT : find_model(&f, name, l, why);
	return r == -ENOENT ? resolve_cached(&f, name, revision, l, why) : r;
}

/* ---- reading ---- */

static int pump(struct source_worker *w, const struct source_listing *l, const struct source_file *file, int fd,
	uint64_t off, uint64_t end, source_sink_fn sink, void *ctx, struct fault *why)
{
	OWN_MEM uint8_t *buf = malloc((size_t)MIN(end - off, READ_BYTES));
	if (!buf)
		return fail_memory(why);
	while (off < end) {
		if (source_cancel_is_set(w->cancel))
			return fail_cancelled(l->source, why);
		ssize_t n = pread(fd, buf, (size_t)MIN(end - off, READ_BYTES), (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return explain_open(l->source, file->locator, -errno, why);
		if (!n)
			return fail(why, TRIMS_E_CHANGED, "%s became shorter while it was read", file->locator);
		int r = sink(ctx, buf, (size_t)n);
		if (r)
			return MIN(r, 0);
		off += (uint64_t)n;
		count(l->source, bytes, (uint64_t)n);
	}
	return 0;
}

static int dir_stream(struct source_worker *w, const struct source_listing *l, const struct source_file *file,
	uint64_t off, uint64_t end, source_sink_fn sink, void *ctx, struct fault *why)
{
	OWN_FD int fd = -1;
	struct stat st = {0};
	count(l->source, requests, 1);
	int r = open_regular(l->source, file->locator, 0, &fd, &st, why);
	if (r == -ENOENT)
		r = fail(why, TRIMS_E_CHANGED, "%s is gone since it was listed", file->locator);
	if (!r)
		r = check_stat(file, &st, why);
	if (!r)
		r = pump(w, l, file, fd, off, end, sink, ctx, why);
	if (!r && fstat(fd, &st))
		r = explain_open(l->source, file->locator, -errno, why);
	if (!r)
		r = check_stat(file, &st, why);
	if (r == -ESTALE)
		count(l->source, changed, 1);
	return r;
}

int source_open_local(const struct source_listing *l, uint32_t file, int flags, int *out, struct fault *why)
{
	ASSERT(l->in_place && file < l->n_files);
	OWN_FD int fd = -1;
	struct stat st = {0};
	int r = open_regular(l->source, l->files[file].locator, flags, &fd, &st, why);
	if (r == -ENOENT)
		r = fail(why, TRIMS_E_CHANGED, "%s is gone since it was listed", l->files[file].locator);
	if (!r)
		r = check_stat(&l->files[file], &st, why);
	if (r == -ESTALE)
		count(l->source, changed, 1);
	if (!r)
		*out = steal_fd(&fd);
	return r;
}

int source_check_local(const struct source_listing *l, uint32_t file, int fd, struct fault *why)
{
	ASSERT(l->in_place && file < l->n_files);
	struct stat st = {0};
	if (fstat(fd, &st))
		return explain_open(l->source, l->files[file].locator, -errno, why);
	int r = check_stat(&l->files[file], &st, why);
	if (r)
		count(l->source, changed, 1);
	return r;
}

/* ---- life ---- */

static int dir_open(struct source *s, const char *scheme, const char *rest, struct fault *why)
{
	struct stat st = {0};
	size_t n = strlen(rest);
	while (n > 1 && rest[n - 1] == '/')
		n--;
	s->base = strndup(rest, n);
	s->identity = text_format("dir %.*s", (int)n, rest);
	if (!s->base || !s->identity)
		return fail_memory(why);
	if (*rest != '/')
		return fail(why, TRIMS_E_BAD_REQUEST, "%s: the path must be absolute", s->url);
	if (stat(s->base, &st) || !S_ISDIR(st.st_mode))
		return fail(why, TRIMS_E_BAD_REQUEST, "%s: no such directory", s->url);
	return 0;
}

const struct source_ops source_dir_ops = {
	.in_place = true,
	.open = dir_open,
	.resolve = dir_resolve,
	.stream = dir_stream,
	.refused_is_absent = true,
};
