/* profiles.c - see profiles.h.
 * Keeps: a file whose name it is says so inside, too, and is exactly as long as it says. */
#include "mrm/disk/profiles.h"

#include "mrm/disk/bytes.h"
#include "mrm/disk/store.h"
#include "shared/log.h"
#include "shared/own.h"
#include "shared/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "profiles"
#define SUFFIX ".profile"
#define HEAD_MAX (8 + 16 + 8 + 8 + 16 + 16 + 3 * 4 + DISK_PROFILE_CLASS + DISK_PROFILE_DRIVER + DISK_PROFILE_EXECUTOR)
#define COUNT(d, name) atomic_fetch_add(&(d)->count.name, 1)

static const char magic[8] = {'t', 'r', 'i', 'm', 's', 'P', 'F', '1'};

bool disk_profile_same_key(const struct disk_profile *a, const struct disk_profile *b)
{
	return a->digest.hi == b->digest.hi && a->digest.lo == b->digest.lo && !strcmp(a->class, b->class) &&
		!strcmp(a->driver, b->driver) && !strcmp(a->executor, b->executor);
}

/* ---- the head ---- */

static void put_key(struct out *o, const struct disk_profile *p)
{
	out_hash(o, p->digest);
	out_text(o, p->class);
	out_text(o, p->driver);
	out_text(o, p->executor);
}

static void file_name(char out[FILE_NAME_MAX], const struct disk_profile *p)
{
	struct out key = {0};
	put_key(&key, p);
	snprintf(out, FILE_NAME_MAX, "%016" PRIx64 "%016" PRIx64 "-%016" PRIx64 SUFFIX, p->digest.hi, p->digest.lo,
		chunk_hash(key.p, key.n).lo);
	free(key.p);
}

void disk_profile_encode(const struct disk_profile *p, const char *text, struct out *o)
{
	out_bytes(o, magic, sizeof magic);
	put_key(o, p);
	out_u64(o, p->stored_s);
	out_u64(o, p->bytes);
	out_hash(o, chunk_hash(text, p->bytes));
	out_hash(o, chunk_hash(o->p, o->n));
	out_bytes(o, text, p->bytes);
}

static void take_text(struct in *in, size_t max, char *out)
{
	OWN_MEM char *text = in_text(in, max);
	if (text && utf8_valid(text, strlen(text)))
		strcpy(out, text);
	else
		in->bad = true;
}

size_t disk_profile_decode(const uint8_t *bytes, size_t n, struct disk_profile *p, struct hash128 *text)
{
	struct in in = {bytes, n, false};
	const uint8_t *m = in_bytes(&in, sizeof magic);
	*p = (struct disk_profile){.digest = in_hash(&in)};
	take_text(&in, DISK_PROFILE_CLASS, p->class);
	take_text(&in, DISK_PROFILE_DRIVER, p->driver);
	take_text(&in, DISK_PROFILE_EXECUTOR, p->executor);
	p->stored_s = in_u64(&in);
	p->bytes = in_u64(&in);
	*text = in_hash(&in);
	size_t before = n - in.n;
	struct hash128 said = in_hash(&in);
	if (in.bad || memcmp(m, magic, sizeof magic) || p->bytes > DISK_PROFILE_MAX)
		return 0;
	struct hash128 is = chunk_hash(bytes, before);
	return is.hi == said.hi && is.lo == said.lo ? n - in.n : 0;
}

/* ---- the folder ---- */

static int open_folder(struct disk *d)
{
	int fd = openat(d->dir_fd, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int make_folder(struct disk *d)
{
	if (mkdirat(d->dir_fd, FOLDER, 0700) < 0 && errno != EEXIST)
		return -errno;
	return open_folder(d);
}

static int broken(struct disk *d, int e, const char *doing, struct fault *why)
{
	COUNT(d, write_errors);
	fault_errno(why, TRIMS_E_DISK_ERROR, -e, "%s/" FOLDER ": cannot %s", d->dir, doing);
	return e;
}

/* st: of what was looked at.  Somebody may have stored a good one in its place since. */
static void drop_damaged(struct disk *d, int folder, const char *name, const struct stat *st)
{
	COUNT(d, profiles_lost);
	log_warn("disk", "%s/" FOLDER "/%s: damaged, removed", d->dir, name);
	pthread_mutex_lock(&d->profiles_lock);
	file_unlink_same(folder, name, st);
	pthread_mutex_unlock(&d->profiles_lock);
}

static bool ends_with(const char *name, const char *suffix)
{
	size_t n = strlen(name), m = strlen(suffix);
	return n >= m && !strcmp(name + n - m, suffix);
}

/* False when what the head says is not so. */
static bool read_head(int folder, const char *name, struct disk_profile *p, struct stat *st)
{
	uint8_t head[HEAD_MAX];
	char want[FILE_NAME_MAX];
	struct hash128 text;
	/* What is no file, a link say, is looked at by its name. */
	OWN_FD int fd = fstatat(folder, name, st, AT_SYMLINK_NOFOLLOW) ? -1 : openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, st) < 0 || !S_ISREG(st->st_mode))
		return false;
	ssize_t n = pread(fd, head, sizeof head, 0);
	size_t at = n > 0 ? disk_profile_decode(head, (size_t)n, p, &text) : 0;
	if (!at || (uint64_t)st->st_size != at + p->bytes)
		return false;
	file_name(want, p);
	return !strcmp(name, want);
}

int disk_profiles_scan(struct disk *d, void (*fn)(void *ctx, const struct disk_profile *p), void *ctx, struct fault *why)
{
	int folder = make_folder(d);
	DIR *dir = folder < 0 ? NULL : fdopendir(folder);
	const struct dirent *entry;
	struct disk_profile p;
	struct stat st;
	if (!dir) {
		int e = folder < 0 ? folder : -errno;
		if (folder >= 0)
			close(folder);
		return broken(d, e, "be used", why);
	}
	while ((entry = readdir(dir))) {
		if (ends_with(entry->d_name, SUFFIX ".tmp")) {
			unlinkat(folder, entry->d_name, 0);
			COUNT(d, leftovers);
		} else if (!ends_with(entry->d_name, SUFFIX)) {
			continue;
		} else if (read_head(folder, entry->d_name, &p, &st)) {
			fn(ctx, &p);
		} else {
			drop_damaged(d, folder, entry->d_name, &st);
		}
	}
	closedir(dir);
	return 0;
}

/* ---- one of them ---- */

int disk_profile_write(struct disk *d, const struct disk_profile *p, const char *text, struct fault *why)
{
	static const struct replace_points points = {DISK_POINT_PROFILE_WRITTEN, DISK_POINT_PROFILE_SYNCED,
		DISK_POINT_PROFILE_RENAMED};
	char name[FILE_NAME_MAX];
	struct out o = {0};
	OWN_FD int folder = make_folder(d);
	if (folder < 0)
		return broken(d, folder, "be used", why);
	file_name(name, p);
	disk_profile_encode(p, text, &o);
	pthread_mutex_lock(&d->profiles_lock);
	int r = file_replace(folder, name, o.p, o.n, points);
	pthread_mutex_unlock(&d->profiles_lock);
	free(o.p);
	if (r == 0 && (fsync(folder) < 0 || fsync(d->dir_fd) < 0))
		r = -errno;
	return r < 0 ? broken(d, r, "write a profile", why) : 0;
}

/* -EBADMSG unless these are the bytes of that profile. */
static int check(const struct disk_profile *p, const uint8_t *bytes, size_t n, size_t *head)
{
	struct disk_profile found;
	struct hash128 said;
	*head = disk_profile_decode(bytes, n, &found, &said);
	if (!*head || !disk_profile_same_key(p, &found) || n - *head != found.bytes)
		return -EBADMSG;
	struct hash128 is = chunk_hash(bytes + *head, n - *head);
	return is.hi == said.hi && is.lo == said.lo ? 0 : -EBADMSG;
}

int disk_profile_read(struct disk *d, const struct disk_profile *p, char **text, struct fault *why)
{
	char name[FILE_NAME_MAX];
	OWN_MEM uint8_t *bytes = NULL;
	size_t n = 0, head = 0;
	struct stat st;
	OWN_FD int folder = open_folder(d);
	file_name(name, p);
	int r = folder < 0 ? folder : file_read_which(folder, name, HEAD_MAX + DISK_PROFILE_MAX, &bytes, &n, &st);
	if (r == 0)
		r = check(p, bytes, n, &head);
	if (r == -EBADMSG || r == -EFBIG)
		drop_damaged(d, folder, name, &st);
	if (r < 0) {
		fault_errno(why, TRIMS_E_DISK_ERROR, -r, "%s/" FOLDER "/%s", d->dir, name);
		return r == -EFBIG ? -EBADMSG : r;
	}
	memmove(bytes, bytes + head, n - head);
	bytes[n - head] = 0;
	*text = (char *)STEAL(bytes);
	return 0;
}

int disk_profile_remove(struct disk *d, const struct disk_profile *p, struct fault *why)
{
	char name[FILE_NAME_MAX];
	OWN_FD int folder = open_folder(d);
	file_name(name, p);
	if (folder < 0 || (unlinkat(folder, name, 0) < 0 && errno != ENOENT))
		return broken(d, folder < 0 ? folder : -errno, "remove a profile", why);
	return 0;
}
