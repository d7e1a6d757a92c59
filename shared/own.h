/* own.h - scope-owned locals.  `OWN_FD int fd = ...;` closes at scope end unless stolen.  Thread: the scope's. */
#ifndef SHARED_OWN_H
#define SHARED_OWN_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void own_close_fd(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
		*fd = -1;
	}
}

static inline void own_free(void *p)
{
	free(*(void **)p);
	*(void **)p = NULL;
}

#define OWN_FD __attribute__((cleanup(own_close_fd)))
#define OWN_MEM __attribute__((cleanup(own_free)))
#define OWN(fn) __attribute__((cleanup(fn)))

/* Hands the value on and disarms the owner. */
static inline int steal_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

#define STEAL(p)                                                                                                      \
	({                                                                                                            \
		__typeof__(p) stolen_ = (p);                                                                          \
		(p) = NULL;                                                                                           \
		stolen_;                                                                                              \
	})

#endif
