/* shm.h - memory that the daemon fills and clients may only read.
 *
 * A region is a memfd: mapped writable by the daemon, then sealed (F_SEAL_FUTURE_WRITE, SHRINK, GROW, SEAL), so that
 * nobody who gets the descriptor can write, resize or map it writable, while the daemon goes on filling it.  Where
 * memfd_create is refused the region is a POSIX shared-memory object, unlinked at once, and the descriptor that is handed
 * out is a second, read-only one: weaker (a client running as root or as the daemon's user can reopen it for writing),
 * counted as fallback no-memfd and named by `doctor`.
 *
 * Thread: shm_new on any thread; a region has one owner at a time. */
#ifndef MRM_SHM_H
#define MRM_SHM_H

#include "shared/base.h"
#include "shared/error.h"

enum shm_kind { SHM_MEMFD, SHM_POSIX };

struct shm_options {
	bool force_posix;
	bool huge;        /* use huge pages, see shm_populate() */
	bool interleave;  /* spread over NUMA nodes */
};

struct shm_region {
	int fd;           /* to hand out; -1: empty region */
	void *map;        /* the daemon's mapping: writable, unless it was adopted */
	uint64_t bytes;
	enum shm_kind kind;
};

/* name: seen in /proc/PID/fd and maps, cut at 200 bytes.  NO_MEMORY or NO_SYSTEM on failure. */
int shm_new(struct shm_region *out, const char *name, uint64_t bytes, const struct shm_options *options,
	struct fault *why);
/* One that whoever gets its descriptor may write, and map to write: of its size alone it is sealed.  Always a memfd. */
int shm_new_writable(struct shm_region *out, const char *name, uint64_t bytes, const struct shm_options *options,
	struct fault *why);
/* Memory that an earlier daemon made: it must be of that size and sealed, as shm_new() does; it is mapped for reading only.
 * Takes the descriptor over, also on failure (MISMATCH, NO_MEMORY). */
int shm_adopt(struct shm_region *out, int fd, uint64_t bytes, struct fault *why);
/* Moves it out, leaving an empty one. */
static inline struct shm_region shm_take(struct shm_region *r)
{
	struct shm_region taken = *r;
	*r = (struct shm_region){.fd = -1};
	return taken;
}
/* Unmaps and closes; harmless on an empty one.  Takes long for large regions: not on the loop thread. */
void shm_fini(struct shm_region *r);
/* A small region filled with `bytes` at once and unmapped again: r->map is NULL. */
int shm_new_filled(struct shm_region *out, const char *name, const void *data, uint64_t bytes,
	const struct shm_options *options, struct fault *why);

/* Makes the pages of part of a region exist before it is filled in bulk.  With huge pages (MADV_COLLAPSE, Linux 6.1: works
 * whatever the machine's transparent-huge-page setting for shared memory is, costs a tenth of base pages, and serves
 * clients with fewer TLB misses) where they cover it, else base pages.  Returns false when huge pages were wanted and not
 * to be had.  Any thread. */
bool shm_populate(void *at, uint64_t bytes, bool huge);

/* What the machine offers, found out once. */
struct shm_machine {
	bool memfd;
	char memfd_detail[FAULT_TEXT_MAX];
	bool huge;             /* shared memory can be made of huge pages */
	char huge_detail[128];
	uint32_t numa_nodes;
	bool interleave;       /* there are several nodes, and memory can be spread over them */
};

void shm_probe(struct shm_machine *out);

#endif
