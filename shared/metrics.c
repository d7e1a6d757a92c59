/* metrics.c - the writing half of metrics.h: slots, and the segment's life.
 * Keeps: nobody but its creator can open a segment before it is locked and its header is whole (it is made with mode 0600
 * and opened up last); a segment is never resized or written by a second process. */
#include "shared/metrics.h"

#include "shared/metrics_segment.h"
#include "shared/own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define SHM_DIR "/dev/shm"
#define SHM_PREFIX "trims."

static _Atomic uint64_t private_slots[METRICS_SLOTS];
_Atomic uint64_t *metrics_slots = private_slots;

struct metrics {
	int fd; /* holds the lock */
	struct metrics_segment *segment;
};

static uint64_t now_unix_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static unsigned bucket_of(uint64_t ns)
{
	uint64_t us = ns / NS_PER_US + (ns % NS_PER_US != 0);
	unsigned bucket = us <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(us - 1);
	return MIN(bucket, METRICS_BUCKETS);
}

void metrics_observe_ns(enum metric histogram, uint64_t ns)
{
	metrics_add(histogram + bucket_of(ns), 1);
	metrics_add(histogram + METRICS_BUCKETS + 1, ns);
}

enum metric metrics_fault(uint32_t code)
{
	switch (code) {
#define ERR(number, name, scope, text)                                                                                \
	case number:                                                                                                  \
		return M_faults_##name;
#include "shared/errors.def"
#undef ERR
	default:
		return M_faults_INTERNAL;
	}
}

/* ---- names ---- */

static uint64_t fnv1a(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
	return (hash ^ 0xff) * 0x100000001b3u; /* a byte no text has: ends each string */
}

#define FNV_START 0xcbf29ce484222325u

uint64_t metrics_table_hash(void)
{
	uint64_t hash = FNV_START + METRICS_BUCKETS;
#define FAMILY(kind, name, unit, help) hash = fnv1a(fnv1a(fnv1a(hash, #kind), name), #unit);
#define COUNTER(field, labels) hash = fnv1a(fnv1a(hash, #field), labels);
#define GAUGE COUNTER
#define HISTOGRAM COUNTER
#include "shared/metrics.def"
#undef FAMILY
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
	return hash;
}

void metrics_absolute(const char *socket_path, char out[METRICS_PATH_BYTES])
{
	char dir[PATH_MAX];
	const char *slash = strrchr(socket_path, '/');
	const char *base = slash ? slash + 1 : socket_path;
	int len = slash ? (int)(slash - socket_path) : 0;
	snprintf(dir, sizeof dir, "%.*s", slash ? MAX(len, 1) : 1, slash ? socket_path : ".");
	char real[PATH_MAX];
	if (realpath(dir, real)) {
		snprintf(out, METRICS_PATH_BYTES, "%s/%s", strcmp(real, "/") != 0 ? real : "", base);
		return;
	}
	/* The directory may be gone with its daemon: then the path as given has to be the absolute one. */
	snprintf(out, METRICS_PATH_BYTES, "%s", socket_path);
}

void metrics_segment_name(const char *socket_path, char out[METRICS_NAME_BYTES])
{
	char path[METRICS_PATH_BYTES];
	metrics_absolute(socket_path, path);
	snprintf(out, METRICS_NAME_BYTES, "/" SHM_PREFIX "%016llx", (unsigned long long)fnv1a(FNV_START, path));
}

/* ---- the lock ---- */

bool metrics_fd_alive(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static int lock_segment(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

int metrics_unlink(const char *socket_path)
{
	char name[METRICS_NAME_BYTES];
	metrics_segment_name(socket_path, name);
	OWN_FD int fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (metrics_fd_alive(fd))
		return -EBUSY;
	return shm_unlink(name) ? -errno : 0;
}

/* ---- segments that nobody will look for any more ---- */

static bool is_orphan(int fd)
{
	struct metrics_segment head;
	size_t bytes = offsetof(struct metrics_segment, slots);
	if (pread(fd, &head, bytes, 0) != (ssize_t)bytes || head.magic != METRICS_MAGIC || metrics_fd_alive(fd))
		return false;
	head.socket_path[sizeof head.socket_path - 1] = 0;
	char *slash = strrchr(head.socket_path, '/');
	if (!slash || slash == head.socket_path)
		return false;
	*slash = 0;
	return access(head.socket_path, F_OK) != 0 && errno == ENOENT;
}

static void remove_orphans(void)
{
	DIR *dir = opendir(SHM_DIR);
	if (!dir)
		return;
	for (struct dirent *e; (e = readdir(dir));) {
		if (strncmp(e->d_name, SHM_PREFIX, strlen(SHM_PREFIX)) != 0 || strlen(e->d_name) + 2 != METRICS_NAME_BYTES)
			continue;
		char name[METRICS_NAME_BYTES];
		snprintf(name, sizeof name, "/%.*s", METRICS_NAME_BYTES - 2, e->d_name);
		OWN_FD int fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
		if (fd >= 0 && is_orphan(fd))
			shm_unlink(name); /* another user's stays: EACCES */
	}
	closedir(dir);
}

/* ---- the segment ---- */

/* A new object under `name`, mode 0600, in place of a dead daemon's. */
static int create_object(const char *name, const char *socket_path, int *out)
{
	for (int tries = 0; tries < 3; tries++) {
		int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd >= 0) {
			*out = fd;
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
		int r = metrics_unlink(socket_path);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return -EBUSY;
}

static void write_header(struct metrics_segment *s, const struct metrics_identity *id)
{
	char path[METRICS_PATH_BYTES];
	metrics_absolute(id->socket_path, path);
	s->version = METRICS_VERSION;
	s->table_hash = metrics_table_hash();
	s->boot_hi = id->boot_hi;
	s->boot_lo = id->boot_lo;
	s->start_unix_ns = now_unix_ns();
	s->updated_unix_ns = s->start_unix_ns;
	s->pid = (int32_t)getpid();
	s->n_slots = METRICS_SLOTS;
	snprintf(s->program, sizeof s->program, "%s", TRIMS_VERSION);
	snprintf(s->revision, sizeof s->revision, "%.63s", metrics_revision);
	snprintf(s->socket_path, sizeof s->socket_path, "%.255s", path);
	atomic_store_explicit(&s->magic, METRICS_MAGIC, memory_order_release);
}

static void move_slots(_Atomic uint64_t *to)
{
	_Atomic uint64_t *from = metrics_slots;
	for (size_t i = 0; i < METRICS_SLOTS; i++)
		to[i] = from[i];
	metrics_slots = to;
}

/* Locks, sizes, maps and fills the object; opens it up to everybody last. */
static int fill_object(struct metrics *m, const struct metrics_identity *id)
{
	int r = lock_segment(m->fd);
	if (r < 0)
		return r;
	/* Reserved, not just sized: a full /dev/shm is an error here and not a SIGBUS later. */
	r = posix_fallocate(m->fd, 0, sizeof *m->segment);
	if (r > 0)
		return -r;
	void *p = mmap(NULL, sizeof *m->segment, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->segment = p;
	write_header(m->segment, id);
	move_slots(m->segment->slots);
	metrics_set(M_build_info, 1);
	metrics_set(M_start_time, m->segment->start_unix_ns);
	return fchmod(m->fd, 0644) ? -errno : 0;
}

int metrics_create(struct metrics **out, const struct metrics_identity *id, struct fault *why)
{
	char name[METRICS_NAME_BYTES];
	metrics_segment_name(id->socket_path, name);
	remove_orphans();
	struct metrics *m = calloc(1, sizeof *m);
	if (!m)
		return -ENOMEM;
	m->fd = -1;
	int r = create_object(name, id->socket_path, &m->fd);
	if (r == 0) {
		r = fill_object(m, id);
		if (r < 0)
			shm_unlink(name);
	}
	if (r < 0) {
		metrics_close(&m);
		fault_errno(why, TRIMS_E_NO_SYSTEM, -r, "metrics segment %s for socket %s", name, id->socket_path);
		return r;
	}
	*out = m;
	return 0;
}

void metrics_touch(struct metrics *m)
{
	atomic_store_explicit(&m->segment->updated_unix_ns, now_unix_ns(), memory_order_relaxed);
}

void metrics_close(struct metrics **m)
{
	struct metrics *p = *m;
	if (!p)
		return;
	if (p->segment) {
		if (metrics_slots == p->segment->slots) {
			metrics_touch(p);
			move_slots(private_slots);
		}
		munmap(p->segment, sizeof *p->segment);
	}
	if (p->fd >= 0)
		close(p->fd);
	free(p);
	*m = NULL;
}

static void copy_slots(const _Atomic uint64_t *from, uint64_t *to)
{
	for (size_t i = 0; i < METRICS_SLOTS; i++)
		to[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
}

void metrics_own(const struct metrics *m, struct metrics_snapshot *out)
{
	*out = (struct metrics_snapshot){.alive = true, .pid = getpid(), .updated_unix_ns = now_unix_ns()};
	snprintf(out->version, sizeof out->version, "%s", TRIMS_VERSION);
	snprintf(out->revision, sizeof out->revision, "%.63s", metrics_revision);
	if (m) {
		out->boot_hi = m->segment->boot_hi;
		out->boot_lo = m->segment->boot_lo;
		out->start_unix_ns = m->segment->start_unix_ns;
		memcpy(out->socket_path, m->segment->socket_path, sizeof out->socket_path);
	}
	copy_slots(metrics_slots, out->values);
}
