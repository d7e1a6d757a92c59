/* metrics.h - the daemon's numbers, in shared memory that anybody may read.
 *
 * The process has one set of slots.  Until metrics_create() they are private memory (tests, early start); afterwards
 * they lie in a POSIX shared-memory object that outlives the daemon, so that reading costs the daemon nothing and works
 * when it is dead.  The object's name is "/trims." and 16 hex digits: FNV-1a 64 of the socket's path, made absolute with
 * the directory's links resolved.  It is mode 0644, written by the daemon only, and never truncated or reused: a new
 * daemon unlinks a dead one's and makes its own.  A live daemon holds an open-file-description lock on it, which readers
 * only ask about and never take.
 *
 * Thread: metrics_add, metrics_set, metrics_observe_ns from any thread at any time (relaxed atomics); metrics_create and
 * metrics_close once, before other threads start and after they ended; a reader belongs to its thread.
 * Durations are ns, times of day ns since the epoch. */
#ifndef SHARED_METRICS_H
#define SHARED_METRICS_H

#include "shared/base.h"
#include "shared/error.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/types.h>

#define METRICS_BUCKETS 29                          /* bucket i counts durations of at most 1 us << i; up to 268 s */
#define METRICS_HISTOGRAM_SLOTS (METRICS_BUCKETS + 2) /* then one for all longer ones, then the sum in ns */

/* A metric's first slot. */
enum metric {
#define FAMILY(kind, name, unit, help)
#define COUNTER(field, labels) M_##field,
#define GAUGE(field, labels) M_##field,
#define HISTOGRAM(field, labels) M_##field, M_##field##_last = M_##field + METRICS_HISTOGRAM_SLOTS - 1,
#include "shared/metrics.def"
#undef FAMILY
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
	METRICS_SLOTS
};

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };
enum metric_unit { METRIC_UNIT_NONE, METRIC_UNIT_BYTES, METRIC_UNIT_NS };

/* ---- writing ---- */

/* The slots of this process; only the functions below touch it. */
extern _Atomic uint64_t *metrics_slots;

static inline void metrics_add(enum metric m, uint64_t n)
{
	atomic_fetch_add_explicit(&metrics_slots[m], n, memory_order_relaxed);
}

/* Gauges; also counters that mirror one kept elsewhere. */
static inline void metrics_set(enum metric m, uint64_t value)
{
	atomic_store_explicit(&metrics_slots[m], value, memory_order_relaxed);
}

static inline uint64_t metrics_value(enum metric m)
{
	return atomic_load_explicit(&metrics_slots[m], memory_order_relaxed);
}

/* Counts one duration in a HISTOGRAM. */
void metrics_observe_ns(enum metric histogram, uint64_t ns);
/* The counter of an error that was sent; codes of no row count as INTERNAL. */
enum metric metrics_fault(uint32_t code);

struct metrics; /* the daemon's hold on its segment */

struct metrics_identity {
	const char *socket_path;   /* as configured */
	uint64_t boot_hi, boot_lo; /* as in WELCOME */
};

/* Makes the segment and moves what was counted so far into it.  Removes dead daemons' segments whose socket directory is
 * gone.  -EBUSY: a live daemon has this name.  Other failures leave the private slots in use: go on, counted as
 * fallback_no_shm by the caller. */
int metrics_create(struct metrics **out, const struct metrics_identity *id, struct fault *why);
/* Of the source this was built from: git's name for it, with a + for uncommitted changes; the version where there is no git. */
extern const char metrics_revision[];

/* Says "I was alive now"; the loop calls it at each tick. */
void metrics_touch(struct metrics *m);
/* Lets go; the segment stays for readers.  Counting goes on in private memory. */
void metrics_close(struct metrics **m);
/* "/trims.0123456789abcdef" */
#define METRICS_NAME_BYTES 24
void metrics_segment_name(const char *socket_path, char out[METRICS_NAME_BYTES]);
/* Removes a dead daemon's segment.  -ENOENT, -EBUSY (alive), -errno. */
int metrics_unlink(const char *socket_path);

/* ---- reading ---- */

/* All values at one moment (each exact, not all at the same instant). */
struct metrics_snapshot {
	char version[32], revision[64], socket_path[256];
	pid_t pid;
	uint64_t boot_hi, boot_lo;
	uint64_t start_unix_ns, updated_unix_ns;
	bool alive;
	uint64_t values[METRICS_SLOTS];
};

struct metrics_reader;

/* -ENOENT: no daemon ever ran with this socket path; -EAGAIN: it is starting; -EPROTO: written by another build. */
int metrics_open(struct metrics_reader **out, const char *socket_path, struct fault *why);
void metrics_read(const struct metrics_reader *r, struct metrics_snapshot *out);
void metrics_reader_free(struct metrics_reader **r);
/* Whether a newer daemon has replaced the segment this reader looks at. */
bool metrics_replaced(const struct metrics_reader *r);

/* The calling process's own numbers, for its metrics endpoint; identity fields from `m`, or zero when it is NULL. */
void metrics_own(const struct metrics *m, struct metrics_snapshot *out);

/* One metric of a snapshot; pointers are valid during the call. */
struct metric_view {
	enum metric_kind kind;
	enum metric_unit unit;
	const char *field, *name, *help;
	char labels[256];        /* a="b",c="d", or empty; has simulated="yes" when the value has to do with simulated devices */
	uint64_t value;          /* not for histograms */
	const uint64_t *buckets; /* histograms: METRICS_BUCKETS + 1 counts, not cumulative */
	uint64_t count, sum_ns;
	bool first;              /* first of its family */
};

typedef void (*metric_fn)(void *ctx, const struct metric_view *v);
void metrics_visit(const struct metrics_snapshot *s, metric_fn fn, void *ctx);
/* Upper bound of a bucket; UINT64_MAX for the last. */
uint64_t metrics_bucket_ns(unsigned bucket);
/* The duration below which `per_mille` of the counted ones lie, read off the buckets (so up to twice too large);
 * 0 when nothing was counted. */
uint64_t metrics_quantile_ns(const struct metric_view *v, unsigned per_mille);
/* Text exposition format 0.0.4. */
void metrics_prometheus(const struct metrics_snapshot *s, FILE *out);

#endif
