/* mapcache.h - the memory of copies that this process has mapped, one mapping per copy however often it is open.
 *
 * Nothing is mapped when a model is opened: the descriptors wait, and the first access to a tensor, or the first wait,
 * maps what it needs and closes them.  So an open and close of a model costs no mapping, and a second open of a copy that
 * is mapped costs nothing but closing its descriptors.
 *
 * Thread: any.  Ownership: counted, one reference per open model; the last one unmaps.  A caller gives its reference back
 * before it gives back the lease: memory must not be mapped that no lease stands for. */
#ifndef CLIENT_MAPCACHE_H
#define CLIENT_MAPCACHE_H

#include "client/conn.h"
#include "shared/progress.h"
#include "shared/table.h"

struct mapping;

/* A copy's memory, ready for use; pointers are valid while the reference is held. */
struct mapped_image {
	const struct table_header *table; /* header and extents are checked, records are not */
	uint64_t table_bytes;
	uint32_t n_tensors, n_extents;
	const struct table_extent *extents;
	const struct table_tensor *tensors;
	const uint32_t *by_name;
	const char *names;
	uint64_t names_bytes;
	const char *extent_at[PROGRESS_MAX_EXTENTS]; /* all NULL off tier host */
	void *range;          /* the addresses that hold them all, in order */
	uint64_t range_bytes;
};

/* Finds the mapping of the copy that *opened describes, or makes one.  Takes the message's descriptors; those of tier gpu's
 * extents have been taken before (gpu_map.c): of such a copy only table and progress page are here. */
int mapping_get(const struct conn_life *life, struct msg_opened *opened, struct mapping **out);
/* NULLs *m; NULL is fine. */
void mapping_put(struct mapping **m);

/* Maps on first use.  PROTOCOL: the daemon's table or page makes no sense; NO_MEMORY: no room to map it. */
int mapping_image(struct mapping *m, const struct mapped_image **out);
int mapping_progress(struct mapping *m, struct progress_page **out); /* read-only memory */

#endif
