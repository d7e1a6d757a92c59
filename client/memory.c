/* memory.c - see memory.h.  Keeps: nothing is read behind the end of the file, whatever the message claimed. */
#include "client/memory.h"

#include "client/fail.h"
#include "shared/base.h"
#include "shared/own.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define TEXT_MAX (256 * MIB) /* of a page of a report */

static const char nothing[1];

static int check_size(int fd, uint64_t bytes)
{
	struct stat st;
	if (fd < 0 || fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return fail(TRIMS_E_PROTOCOL, "the daemon's answer is shorter than it says");
	return 0;
}

int memory_map(int fd, uint64_t bytes, const void **out)
{
	int r = check_size(fd, bytes);
	if (r < 0)
		return r;
	const void *p = bytes ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : nothing;
	if (p == MAP_FAILED)
		return fail_errno(TRIMS_E_NO_MEMORY, errno, "cannot map a file of %llu bytes", (unsigned long long)bytes);
	*out = p;
	return 0;
}

void memory_unmap(const void *data, uint64_t bytes)
{
	if (bytes)
		munmap((void *)data, bytes);
}

int memory_read(int fd, uint64_t bytes, char **out)
{
	int r = check_size(fd, bytes);
	if (r < 0)
		return r;
	OWN_MEM char *text = bytes <= TEXT_MAX ? malloc(bytes + 1) : NULL;
	if (!text)
		return fail(TRIMS_E_NO_MEMORY, "no memory for a report of %llu bytes", (unsigned long long)bytes);
	for (uint64_t at = 0; at < bytes;) {
		ssize_t n = pread(fd, text + at, bytes - at, (off_t)at);
		if (n == 0 || (n < 0 && errno != EINTR))
			return fail_errno(TRIMS_E_NO_SYSTEM, n ? errno : EIO, "cannot read a report");
		at += n > 0 ? (uint64_t)n : 0;
	}
	text[bytes] = 0;
	*out = STEAL(text);
	return 0;
}

int memory_sealed(const char *name, const void *bytes, size_t n, int *out)
{
	OWN_FD int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return fail_errno(TRIMS_E_NO_SYSTEM, errno, "no memory file for %zu bytes", n);
	for (size_t at = 0; at < n;) {
		ssize_t put = pwrite(fd, (const char *)bytes + at, n - at, (off_t)at);
		if (put <= 0 && errno != EINTR)
			return fail_errno(TRIMS_E_NO_MEMORY, errno, "no memory for %zu bytes", n);
		at += put > 0 ? (size_t)put : 0;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return fail_errno(TRIMS_E_NO_SYSTEM, errno, "cannot seal a memory file");
	*out = steal_fd(&fd);
	return 0;
}
