/* pagecache.c - see pagecache.h. */
#include "tools/pagecache.h"

#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TRIES 100 /* of 20 ms: sent pages are held until they are acknowledged */
#define PAGE 4096u

static int open_file(const char *path, uint64_t *bytes, struct fault *why)
{
	struct stat st;
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return fault_errno(why, TRIMS_E_DISK_ERROR, errno, "%s", path), -1;
	*bytes = (uint64_t)st.st_size;
	return steal_fd(&fd);
}

static uint64_t pages_of(uint64_t bytes)
{
	return (bytes + PAGE - 1) / PAGE;
}

/* Of a mapping, how many pages are there. */
static int count_mapped(void *at, uint64_t bytes, uint64_t *out, struct fault *why)
{
	uint64_t pages = pages_of(bytes);
	OWN_MEM unsigned char *here = calloc(pages, 1);
	*out = 0;
	if (!here || mincore(at, (size_t)bytes, here))
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "mincore");
	for (uint64_t i = 0; i < pages; i++)
		*out += here[i] & 1;
	return 0;
}

static int count(int fd, uint64_t bytes, const char *path, uint64_t *out, struct fault *why)
{
	*out = 0;
	void *p = bytes ? mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0) : NULL;
	if (p == MAP_FAILED)
		return fault_errno(why, TRIMS_E_NO_MEMORY, errno, "mapping %s", path);
	int r = p ? count_mapped(p, bytes, out, why) : 0;
	if (p)
		munmap(p, (size_t)bytes);
	return r;
}

int pagecache_share(const char *path, double *out, struct fault *why)
{
	uint64_t bytes, pages;
	OWN_FD int fd = open_file(path, &bytes, why);
	int r = fd < 0 ? -EPROTO : count(fd, bytes, path, &pages, why);
	if (!r)
		*out = bytes ? (double)pages / (double)pages_of(bytes) : 0;
	return r;
}

static void drop_all(void)
{
	OWN_FD int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) < 0)
		return; /* the caller counts what is left */
}

int pagecache_drop(const char *path, struct fault *why)
{
	uint64_t bytes, left = 0;
	OWN_FD int fd = open_file(path, &bytes, why);
	if (fd < 0)
		return -EPROTO;
	fdatasync(fd);
	for (int i = 0; i < TRIES; i++) {
		if (i)
			nanosleep(&(struct timespec){.tv_nsec = 20 * (long)NS_PER_MS}, NULL);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		int r = count(fd, bytes, path, &left, why);
		if (!r && left) {
			drop_all();
			r = count(fd, bytes, path, &left, why);
		}
		if (r || !left)
			return r;
	}
	return fault_set(why, TRIMS_E_NO_SYSTEM, "%" PRIu64 " pages of %s stay in the page cache%s", left, path,
		geteuid() == 0 ? " even after drop_caches" : ", and dropping them all needs root");
}

int pagecache_fill(const char *path, struct fault *why)
{
	uint64_t bytes;
	OWN_FD int fd = open_file(path, &bytes, why);
	if (fd < 0)
		return -EPROTO;
	OWN_MEM char *block = calloc(1, MIB);
	ssize_t n = block ? 1 : -1;
	while (n > 0)
		n = read(fd, block, MIB);
	return n < 0 ? fault_errno(why, TRIMS_E_DISK_ERROR, errno, "reading %s", path) : 0;
}
