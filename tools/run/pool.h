/* pool.h - threads that share one loop at a time, always cut in the same way.
 *
 * Part p of a loop is done by thread p, part 0 by the caller: no stealing, so what is computed, and in which order, depends on
 * the number of threads alone and not on who was faster.
 * Thread: pool_run() from one thread at a time.  Owns its threads. */
#ifndef TOOLS_RUN_POOL_H
#define TOOLS_RUN_POOL_H

#include <stddef.h>
#include <stdint.h>

#define POOL_MAX_THREADS 256u

struct pool;

/* threads: 0 means one for each core this process may use.  -ENOMEM, -EAGAIN. */
int pool_new(uint32_t threads, struct pool **out);
void pool_free(struct pool **pool);
uint32_t pool_threads(const struct pool *pool);

typedef void pool_fn(void *arg, uint32_t part, uint32_t parts);
/* Calls fn for each of pool_threads() parts and returns when all have returned. */
void pool_run(struct pool *pool, pool_fn *fn, void *arg);

/* The share [*from, *to) of part p of n things; to multiples of `grain`. */
static inline void pool_share(size_t n, size_t grain, uint32_t p, uint32_t parts, size_t *from, size_t *to)
{
	size_t grains = (n + grain - 1) / grain;
	*from = grains * p / parts * grain;
	*to = grains * (p + 1) / parts * grain;
	if (*from > n)
		*from = n;
	if (*to > n)
		*to = n;
}

#endif
