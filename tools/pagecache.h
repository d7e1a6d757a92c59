/* pagecache.h - how much of a file is in the page cache, and getting all of it in or out: a time of a load means nothing without.
 * Thread: any.  Errors: -EPROTO with *why. */
#ifndef TOOLS_PAGECACHE_H
#define TOOLS_PAGECACHE_H

#include "shared/base.h"
#include "shared/error.h"

/* 0 to 1. */
int pagecache_share(const char *path, double *out, struct fault *why);
/* Until nothing of it is left; a page that somebody just let go of stays at first, so it is tried for two seconds.  What this file
 * alone does not give up, dropping all clean pages may, which takes root. */
int pagecache_drop(const char *path, struct fault *why);
/* Reads it. */
int pagecache_fill(const char *path, struct fault *why);

#endif
