/* store.c - the memory of the simulated devices as files in one directory that all processes share; the directory stands
 * for what /dev/nvidia* is to a real driver.
 *
 * Each allocation is a file whose name says all that matters: kind, device, owner, key, bytes.  Whoever made it holds a
 * shared flock() on its open file description, and the kernel keeps that lock as long as anything refers to the
 * description: the maker's descriptor, one that was sent to another process or still lies in a socket, a mapping.  So a
 * file that can be locked exclusively belongs to nobody any more, however its holders ended: its bytes are free and it is
 * removed by the next process that counts.  There is no counter that could be wrong.
 *
 * Keeps: files appear and are counted only under an exclusive lock of the directory. */
#include "tools/simcuda/sim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define TAIL_MAGIC "simcuda memory\n"
#define TAIL_FREED "simcuda freed.\n"
#define BELLS 1024

/* The page that all processes map. */
struct page {
	_Atomic uint64_t bells[BELLS];
	struct {
		_Atomic uint32_t tag, result;
	} lost[64];
};

struct count_row {
	char name[56];
	_Atomic uint64_t count;
};

static char directory[400];
static struct page *page;
static struct count_row *_Atomic count_rows;

/* A device in files' names. */
static uint32_t tag_of(const struct sim_device *d)
{
	uint32_t hash = 2166136261u;

	if (!d)
		return 0;
	for (size_t i = 0; i < sizeof d->config->uuid.bytes; i++)
		hash = (hash ^ (unsigned char)d->config->uuid.bytes[i]) * 16777619u;
	return hash | 1;
}

static void name_of(char name[96], enum store_kind kind, const struct sim_device *d, uint64_t owner, uint64_t key,
	uint64_t bytes)
{
	snprintf(name, 96, "%c.%08" PRIx32 ".%016" PRIx64 ".%" PRIx64 ".%" PRIx64, kind, tag_of(d), owner, key, bytes);
}

/* The directory's lock is a descriptor of its own each time; closing it gives it back. */
static int lock_directory(void)
{
	OWN_FD int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return -1;
	return steal_fd(&fd);
}

/* Whoever comes first makes it.  Not O_CREAT for the others: in a sticky directory the kernel would refuse it. */
static int open_page(void)
{
	OWN_FD int dir = lock_directory();
	int fd = dir < 0 ? -1 : openat(dir, "page", O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0 || dir < 0 || errno != ENOENT)
		return fd;
	fd = openat(dir, "page", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd >= 0 && (ftruncate(fd, sizeof *page) || fchmod(fd, 0666))) { /* past the umask */
		close(fd);
		unlinkat(dir, "page", 0);
		return -1;
	}
	return fd;
}

static cu_result map_page(void)
{
	OWN_FD int fd = open_page();
	void *at;

	if (fd < 0)
		return CU_E_OPERATING_SYSTEM;
	at = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return CU_E_OPERATING_SYSTEM;
	page = at;
	return CU_OK;
}

cu_result store_open(void)
{
	const char *given = getenv("SIMCUDA_DIR");
	cu_result r;

	if (given && *given)
		snprintf(directory, sizeof directory, "%s", given);
	else
		snprintf(directory, sizeof directory, "/dev/shm/simcuda-%u", (unsigned)geteuid());
	if (mkdir(directory, 0700) == 0 && given)
		(void)!chmod(directory, 01777); /* whoever is given the path may use it, as with a device */
	r = map_page();
	if (r)
		sim_say("%s: %s", directory, strerror(errno));
	store_counts();
	return r;
}

/* Nobody holds it any more?  Then its contents go too, so that whoever still maps classic memory of a dead owner
 * cannot take it for good. */
static bool reap(int dir, const char *name)
{
	OWN_FD int fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT;
	if (flock(fd, LOCK_EX | LOCK_NB))
		return false;
	(void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, INT64_MAX - 4096);
	unlinkat(dir, name, 0); /* in a sticky directory its owner alone can; it counts for nothing anyway */
	return true;
}

/* What this file occupies of the device, 0 for files of others. */
static uint64_t count_file(int dir, const char *name, uint32_t tag)
{
	uint64_t owner, key, bytes;
	uint32_t whose;
	char kind;
	int end = 0;

	if (sscanf(name, "%c.%" SCNx32 ".%" SCNx64 ".%" SCNx64 ".%" SCNx64 "%n", &kind, &whose, &owner, &key, &bytes,
		    &end) != 5 || name[end])
		return 0;
	/* Of our own classic memory we know that we hold it, and a context's share is as good. */
	if (owner == sim.owner && (kind == STORE_CLASSIC || kind == STORE_CONTEXT))
		return whose == tag ? bytes : 0;
	if (reap(dir, name) || whose != tag || kind == STORE_HOST)
		return 0;
	return bytes;
}

static uint64_t count(int dir, const struct sim_device *d)
{
	int again = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *listing = again < 0 ? NULL : fdopendir(again);
	struct dirent *e;
	uint64_t used = 0;

	if (!listing)
		return UINT64_MAX;
	while ((e = readdir(listing)))
		used += count_file(dir, e->d_name, tag_of(d));
	closedir(listing);
	return used;
}

uint64_t store_used(struct sim_device *d)
{
	OWN_FD int dir = lock_directory();

	return dir < 0 ? d->config->bytes : MIN(count(dir, d), d->config->bytes);
}

/* Pages now rather than a SIGBUS later, when the file system is full. */
static bool fill(int fd, enum store_kind kind, const struct store_tail *tail)
{
	struct store_tail t = *tail;

	memcpy(t.magic, TAIL_MAGIC, sizeof t.magic);
	t.owner = sim.owner;
	if (ftruncate(fd, (off_t)(tail->bytes + SIM_PAGE)) ||
		pwrite(fd, &t, sizeof t, (off_t)tail->bytes) != (ssize_t)sizeof t)
		return false;
	return kind == STORE_CONTEXT || !fallocate(fd, 0, 0, (off_t)tail->bytes) || errno == EOPNOTSUPP;
}

/* A leased file of that name, which counts from now on. */
static cu_result claim(struct sim_device *d, const char *name, uint64_t bytes, int *out, uint64_t *inode)
{
	OWN_FD int dir = lock_directory();
	OWN_FD int fd = -1;
	struct stat st;

	if (dir < 0)
		return CU_E_OPERATING_SYSTEM;
	if (d && (bytes > d->config->bytes || count(dir, d) > d->config->bytes - bytes))
		return CU_E_OUT_OF_MEMORY;
	fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return CU_E_OPERATING_SYSTEM;
	if (flock(fd, LOCK_SH | LOCK_NB) || fstat(fd, &st)) {
		unlinkat(dir, name, 0);
		return CU_E_OPERATING_SYSTEM;
	}
	*inode = st.st_ino;
	*out = steal_fd(&fd);
	return CU_OK;
}

cu_result store_create(struct sim_device *d, enum store_kind kind, const struct store_tail *tail, int *out,
	uint64_t *inode)
{
	OWN_FD int fd = -1;
	char name[96];
	cu_result r;

	name_of(name, kind, d, sim.owner, tail->key, tail->bytes);
	r = claim(d, name, tail->bytes, &fd, inode);
	if (r)
		return r;
	if (!fill(fd, kind, tail)) {
		store_remove(d, kind, tail->key, tail->bytes, steal_fd(&fd));
		return CU_E_OUT_OF_MEMORY;
	}
	*out = steal_fd(&fd);
	return CU_OK;
}

void store_remove(struct sim_device *d, enum store_kind kind, uint64_t key, size_t bytes, int fd)
{
	OWN_FD int dir = lock_directory();
	char name[96];

	name_of(name, kind, d, sim.owner, key, bytes);
	(void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
	(void)!pwrite(fd, TAIL_FREED, sizeof TAIL_FREED, (off_t)bytes);
	if (dir >= 0)
		unlinkat(dir, name, 0);
	close(fd);
}

void store_drop(struct sim_device *d, enum store_kind kind, const struct store_tail *tail, int fd)
{
	OWN_FD int dir = lock_directory();
	char name[96];

	name_of(name, kind, d, tail->owner, tail->key, tail->bytes);
	close(fd);
	if (dir >= 0)
		reap(dir, name);
}

int store_find(struct sim_device *d, uint64_t owner, uint64_t key, size_t bytes, cu_result *result, uint64_t *inode)
{
	OWN_FD int dir = lock_directory();
	OWN_FD int fd = -1;
	struct stat st;
	char name[96];

	name_of(name, STORE_CLASSIC, d, owner, key, bytes);
	fd = dir < 0 ? -1 : openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st)) {
		*result = errno == EACCES ? CU_E_NOT_PERMITTED : CU_E_INVALID_HANDLE;
		return -1;
	}
	if (!flock(fd, LOCK_EX | LOCK_NB)) { /* the owner is gone */
		*result = CU_E_INVALID_HANDLE;
		return -1;
	}
	*inode = st.st_ino;
	return steal_fd(&fd);
}

bool store_is_orphan(int fd, size_t bytes)
{
	OWN_FD int dir = lock_directory(); /* whoever counts must not meet the lock that this tries */
	char magic[sizeof TAIL_FREED] = "";

	if (dir < 0 || pread(fd, magic, sizeof magic, (off_t)bytes) != (ssize_t)sizeof magic ||
		!memcmp(magic, TAIL_FREED, sizeof magic))
		return false;
	if (flock(fd, LOCK_EX | LOCK_NB))
		return false;
	flock(fd, LOCK_UN);
	return true;
}

cu_result store_tail_of(int fd, struct store_tail *tail, uint64_t *inode)
{
	struct stat st;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < SIM_PAGE + 1 ||
		pread(fd, tail, sizeof *tail, st.st_size - (off_t)SIM_PAGE) != (ssize_t)sizeof *tail ||
		memcmp(tail->magic, TAIL_MAGIC, sizeof tail->magic) ||
		tail->bytes != (uint64_t)st.st_size - SIM_PAGE)
		return CU_E_INVALID_VALUE;
	*inode = st.st_ino;
	return CU_OK;
}

_Atomic uint64_t *store_bell(uint64_t inode, uint64_t offset)
{
	uint64_t mixed = (inode * 0x9e3779b97f4a7c15u ^ offset) * 0xbf58476d1ce4e5b9u;

	return &page->bells[mixed >> 54];
}

/* NULL with create false: the device was never lost. */
static _Atomic uint32_t *lost_slot(const struct sim_device *d, bool create)
{
	uint32_t tag = tag_of(d);

	for (size_t i = 0; i < ARRAY_LEN(page->lost); i++) {
		uint32_t seen = atomic_load(&page->lost[i].tag);

		if (!seen && create && atomic_compare_exchange_strong(&page->lost[i].tag, &seen, tag))
			seen = tag;
		if (seen == tag)
			return &page->lost[i].result;
		if (!seen && !create)
			break;
	}
	return NULL;
}

cu_result store_lost(const struct sim_device *d)
{
	_Atomic uint32_t *result = lost_slot(d, false);

	return result ? (cu_result)atomic_load(result) : CU_OK;
}

void store_set_lost(const struct sim_device *d, cu_result result)
{
	_Atomic uint32_t *slot = lost_slot(d, true);

	if (slot)
		atomic_store(slot, (uint32_t)result);
}

static void path_of(char path[512], const char *what)
{
	snprintf(path, 512, "%s/%s", *directory ? directory : ".", what);
}

void store_mark(const char *what, bool there)
{
	char path[512];
	int fd;

	if (!*directory)
		return;
	path_of(path, what);
	if (!there) {
		unlink(path);
		return;
	}
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
}

bool store_has(const char *what)
{
	char path[512];

	path_of(path, what);
	return *directory && access(path, F_OK) == 0;
}

void store_counts(void)
{
	const char *where = getenv("SIMCUDA_COUNT");
	char path[512];
	OWN_FD int fd = -1;
	void *at;

	if (!where || count_rows)
		return;
	snprintf(path, sizeof path, "%s/%d.calls", where, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || ftruncate(fd, CALLS * sizeof *count_rows))
		return;
	at = mmap(NULL, CALLS * sizeof *count_rows, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return;
	for (int i = 0; i < CALLS; i++)
		snprintf(((struct count_row *)at)[i].name, sizeof((struct count_row *)at)->name, "%s", sim_call_symbol(i));
	atomic_store(&count_rows, at);
}

void store_count(enum sim_call which)
{
	struct count_row *rows = atomic_load(&count_rows);

	if (rows)
		atomic_fetch_add(&rows[which].count, 1);
}
