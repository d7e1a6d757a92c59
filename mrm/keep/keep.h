/* keep.h - descriptors that outlive the daemon: memory of models that the next daemon takes back instead of loading it again.
 *
 * Two places can hold them: the service manager's descriptor store (sd_notify(3): FDSTORE), or a helper, a small process of the
 * same program that is forked at start, holds descriptors by name and knows nothing else.  The helper ends when the daemon
 * ends as asked, and a hold time after it went any other way.  A descriptor keeps a memfd, and device memory of kind vmm-fd,
 * alive; who holds one can map it, so the helper answers only its own user.
 *
 * Thread: keep_new() before there are threads and before a driver is loaded (it forks); keep_put() and keep_drop() on workers,
 * several at once; the rest on the main thread. */
#ifndef MRM_KEEP_KEEP_H
#define MRM_KEEP_KEEP_H

#include "shared/base.h"
#include "shared/error.h"

#define KEEP_NAME_MAX 63
#define KEEP_MAX 65536 /* descriptors a helper holds, or what its limit of open files allows */

struct keep;

enum keep_where { KEEP_NOWHERE, KEEP_SYSTEMD, KEEP_HELPER };

struct kept {
	char name[KEEP_NAME_MAX + 1];
	int fd; /* close-on-exec; -1 when somebody has taken it */
};

struct keep_options {
	const char *mode;  /* auto (systemd when it offers a store, else nowhere), systemd, helper or no */
	const char *dir;   /* where the helper's socket is: a directory that only the daemon's user can enter */
	uint64_t hold_ns;  /* how long a helper waits for the next daemon */
};

/* Never fails for `auto`.  NO_SYSTEM: the place asked for is not to be had. */
int keep_new(struct keep **out, const struct keep_options *options, struct fault *why);
enum keep_where keep_where(const struct keep *k);
const char *keep_where_name(enum keep_where where);
/* What earlier daemons left, with descriptors that are the caller's to take (set fd to -1).  Valid until keep_free(). */
struct kept *keep_found(struct keep *k, size_t *n);
/* Holds a duplicate of fd under that name (letters, digits, '.', '-'), instead of what was held under it. */
int keep_put(struct keep *k, const char *name, int fd, struct fault *why);
/* Forgets it; nothing happens when there is none. */
void keep_drop(struct keep *k, const char *name);
/* clean: the daemon ends as asked and nothing shall be held any longer.  Closes what nobody took. */
void keep_free(struct keep **k, bool clean);

#endif
