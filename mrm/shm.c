/* shm.c - see shm.h.  Keeps: no descriptor leaves this file that a client could write through, but those of shm_new_writable(). */
#include "mrm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_PAGE (2 * MIB)

/* At a huge page's boundary, so that file offsets and addresses agree and huge pages can be mapped. */
static int map_region(struct shm_region *r, int fd)
{
	uint64_t room = r->bytes < HUGE_PAGE ? r->bytes : r->bytes + HUGE_PAGE;
	char *reserved = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (reserved == MAP_FAILED)
		return -errno;
	char *at = room > r->bytes ? (char *)align_up((uintptr_t)reserved, HUGE_PAGE) : reserved;
	char *end = at + align_up(r->bytes, 4096), *reserved_end = reserved + align_up(room, 4096);
	if (mmap(at, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		int e = -errno;
		munmap(reserved, room);
		return e;
	}
	if (at > reserved)
		munmap(reserved, (size_t)(at - reserved));
	if (reserved_end > end)
		munmap(end, (size_t)(reserved_end - end));
	r->map = at;
	return 0;
}

bool shm_populate(void *at, uint64_t bytes, bool huge)
{
	char *start = at, *end = start + bytes;
	char *first = (char *)align_up((uintptr_t)start, HUGE_PAGE), *last = (char *)align_down((uintptr_t)end, HUGE_PAGE);
	bool collapsed = true;
	if (huge && first < last) {
		/* A range without a single page is refused: give each huge page one to start from.  Nothing else writes here
		 * yet, and what is there is kept. */
		for (char *p = first; p < last; p += HUGE_PAGE)
			__atomic_fetch_or(p, 0, __ATOMIC_RELAXED);
		collapsed = madvise(first, (size_t)(last - first), MADV_COLLAPSE) == 0;
		if (collapsed && first == start && last == end)
			return true;
	}
	/* Kernels before 5.14 refuse this: pages are then faulted in one by one as they are written. */
	madvise((void *)align_down((uintptr_t)start, 4096), (size_t)(end - (char *)align_down((uintptr_t)start, 4096)),
		MADV_POPULATE_WRITE);
	return collapsed;
}

static int new_memfd(struct shm_region *r, const char *name, bool writable)
{
	char label[201];
	snprintf(label, sizeof label, "%s", name);
	r->kind = SHM_MEMFD;
	r->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->fd < 0)
		return -errno;
	if (ftruncate(r->fd, (off_t)r->bytes) < 0)
		return -errno;
	int e = map_region(r, r->fd);
	if (e)
		return e;
	/* The mapping above stays writable: FUTURE_WRITE only stops new ones. */
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (writable ? 0 : F_SEAL_FUTURE_WRITE);
	if (fcntl(r->fd, F_ADD_SEALS, seals) < 0)
		return -errno;
	return 0;
}

/* Its file system has a bound of its own (64 MiB in many containers), and writing beyond that is a SIGBUS: all pages are
 * taken now, where a refusal is an answer. */
static int reserve(int fd, uint64_t bytes)
{
	int e;
	do
		e = fallocate(fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
	while (e == -EINTR);
	return e;
}

static int new_posix(struct shm_region *r)
{
	static _Atomic uint64_t counter;
	char name[64];
	int rw;
	do { /* a killed daemon with this process id may have left one */
		snprintf(name, sizeof name, "/trims-region.%d.%" PRIu64, (int)getpid(), atomic_fetch_add(&counter, 1));
		rw = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	} while (rw < 0 && errno == EEXIST);
	if (rw < 0)
		return -errno;
	r->kind = SHM_POSIX;
	r->fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
	int e = r->fd < 0 ? -errno : 0;
	shm_unlink(name);
	e = e ? e : reserve(rw, r->bytes);
	e = e ? e : map_region(r, rw);
	close(rw);
	return e;
}

static bool interleave(const struct shm_region *r)
{
	unsigned long all_nodes = ~0ul;
	return syscall(SYS_mbind, r->map, r->bytes, MPOL_INTERLEAVE, &all_nodes, 8 * sizeof all_nodes, 0) == 0;
}

/* Neither of these is needed for correctness; shm_probe() has found out whether the first is to be had. */
static void advise(struct shm_region *r, const struct shm_options *o)
{
	if (o->interleave)
		interleave(r);
	madvise(r->map, r->bytes, MADV_DONTDUMP);
}

static int make(struct shm_region *out, const char *name, uint64_t bytes, const struct shm_options *options, bool writable,
	struct fault *why)
{
	struct shm_region r = {.fd = -1, .bytes = bytes};
	if (!bytes) {
		*out = r;
		return 0;
	}
	int e = options->force_posix && !writable ? new_posix(&r) : new_memfd(&r, name, writable);
	if (e) {
		shm_fini(&r);
		if (e == -ENOSPC)
			fault_set(why, TRIMS_E_NO_MEMORY, "/dev/shm has no room for %" PRIu64 " bytes more", bytes);
		else
			fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "cannot get %" PRIu64 " bytes of shared memory", bytes);
		return e;
	}
	advise(&r, options);
	*out = r;
	return 0;
}

int shm_new(struct shm_region *out, const char *name, uint64_t bytes, const struct shm_options *options,
	struct fault *why)
{
	return make(out, name, bytes, options, false, why);
}

int shm_new_writable(struct shm_region *out, const char *name, uint64_t bytes, const struct shm_options *options,
	struct fault *why)
{
	return make(out, name, bytes, options, true, why);
}

#define SEALS_NEEDED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

int shm_adopt(struct shm_region *out, int fd, uint64_t bytes, struct fault *why)
{
	struct shm_region r = {.fd = fd, .bytes = bytes, .kind = SHM_MEMFD};
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	int e = 0;
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != bytes || seals < 0 || (seals & SEALS_NEEDED) != SEALS_NEEDED)
		e = fault_set(why, TRIMS_E_MISMATCH, "kept memory is not of the size and the seals it was made with");
	if (!e && bytes) {
		r.map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
		if (r.map == MAP_FAILED) {
			r.map = NULL;
			e = -ENOMEM;
			fault_errno(why, TRIMS_E_NO_MEMORY, errno, "kept memory cannot be mapped");
		}
	}
	if (e)
		shm_fini(&r);
	*out = r;
	return e;
}

void shm_fini(struct shm_region *r)
{
	if (r->map)
		munmap(r->map, r->bytes);
	if (r->fd >= 0)
		close(r->fd);
	*r = (struct shm_region){.fd = -1};
}

int shm_new_filled(struct shm_region *out, const char *name, const void *data, uint64_t bytes,
	const struct shm_options *options, struct fault *why)
{
	/* A region without bytes cannot be mapped; one byte nobody reads stands for it. */
	int e = shm_new(out, name, bytes ? bytes : 1, options, why);
	if (e)
		return e;
	if (bytes)
		memcpy(out->map, data, bytes);
	munmap(out->map, out->bytes);
	out->map = NULL;
	return 0;
}

static uint32_t count_nodes(void)
{
	uint32_t n = 0;
	char path[64];
	struct stat st;
	do
		snprintf(path, sizeof path, "/sys/devices/system/node/node%" PRIu32, n);
	while (!stat(path, &st) && ++n < 1024);
	return MAX(n, 1u);
}

void shm_probe(struct shm_machine *out)
{
	*out = (struct shm_machine){.numa_nodes = count_nodes()};
	struct shm_region r;
	struct fault why;
	struct shm_options plain = {0};
	out->memfd = !shm_new(&r, "trims-probe", HUGE_PAGE, &plain, &why);
	snprintf(out->memfd_detail, sizeof out->memfd_detail, "%s", out->memfd ? "sealed memfds" : why.text);
	plain.force_posix = true;
	if (!out->memfd && shm_new(&r, "trims-probe", HUGE_PAGE, &plain, &why))
		return;
	out->interleave = out->numa_nodes > 1 && interleave(&r);
	out->huge = shm_populate(r.map, HUGE_PAGE, true);
	snprintf(out->huge_detail, sizeof out->huge_detail, "%s",
		out->huge ? "2 MiB pages by MADV_COLLAPSE" : strerror(errno));
	shm_fini(&r);
}
