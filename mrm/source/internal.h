/* internal.h - what the files of mrm/source share.
 * Thread: as in source.h; functions that take a worker run on the worker's thread.  w->cancel is set by the facade
 * (source.c) for the length of one call. */
#ifndef MRM_SOURCE_INTERNAL_H
#define MRM_SOURCE_INTERNAL_H

#include "mrm/source/source.h"
#include "shared/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SOURCE_MAGIC 0x53524345u
#define SOURCE_WORKER_MAGIC 0x53525757u

struct curl_slist;
struct http;
struct http_request;

/* One kind of source: one file that fills this in, and a row in sources.def.  Only source.c calls resolve, read and
 * stream; it has checked the arguments' ranges and that nothing is cancelled yet. */
struct source_ops {
	bool in_place;
	/* rest: the URL behind the scheme.  Sets s->base, s->identity and, for web sources, s->origin; allocates s->priv. */
	int (*open)(struct source *s, const char *scheme, const char *rest, struct fault *why);
	void (*close)(struct source *s); /* frees s->priv, accepts a half-opened one; may be NULL */
	/* Adds weight and side files to the listing and sets ->revision. */
	int (*resolve)(struct source *s, struct source_worker *w, const char *name, const char *revision,
		struct source_listing *l, struct fault *why);
	int (*stream)(struct source_worker *w, const struct source_listing *l, const struct source_file *file,
		uint64_t off, uint64_t end, source_sink_fn sink, void *ctx, struct fault *why);
	/* Web sources: adds what proves who we are.  Called only for URLs on s->origin.  NULL: nothing does. */
	int (*authorize)(const struct source *s, const struct http_request *rq, struct curl_slist **headers);
	bool refused_is_absent; /* 403 is also what a missing file gets */
	const char *denied_means; /* NULL, or what is said of a 403 that gives no reason but that access is denied */
	bool cache_redirects;   /* where a file's redirect led may be used again for a while */
};

#define SOURCE(scheme, ops, doc) extern const struct source_ops ops;
#include "mrm/source/sources.def"
#undef SOURCE

enum degraded {
#define COUNTER(name, doc)
#define DEGRADED(name, text, doc) DEGRADED_##name,
#include "mrm/source/source_counters.def"
#undef COUNTER
	DEGRADED_N
};

struct source {
	uint32_t magic;
	const struct source_ops *ops;
	char *url;      /* as given */
	char *base;     /* web: URL prefix without a slash at the end; dir: the root */
	char *origin;   /* web: "scheme://host:port" of base; secrets go nowhere else */
	char *identity; /* what the fingerprint starts with */
	char *ca_file;  /* NULL: the system's */
	void *priv;
	struct source_options o;
	struct source_counters counters;
	_Atomic uint32_t said; /* bit per enum degraded: it is in the log */
};

/* Where a file's redirect led to last. */
struct redirect {
	const struct source *source;
	char *from, *to;
	uint64_t at_ns;
};

#define WORKER_REDIRECTS 8

struct source_worker {
	uint32_t magic;
	uint64_t random;
	struct http *http;
	const struct source_cancel *cancel; /* of the call in progress */
	struct redirect redirects[WORKER_REDIRECTS];
	uint32_t next_redirect;
};

#define count(s, name, n) atomic_fetch_add_explicit(&(s)->counters.name, (n), memory_order_relaxed)

/* Fills *why and returns the -errno that source.h gives the code. */
int fail(struct fault *why, enum trims_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int fail_memory(struct fault *why);
int fail_cancelled(struct source *s, struct fault *why);

void say(struct source *s, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Counts a degraded path and logs it the first time. */
void degrade(struct source *s, enum degraded which, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Waits unless cancelled: -ECANCELED. */
int worker_wait(struct source *s, struct source_worker *w, uint64_t ns);
/* Uniform in [0, bound]. */
uint64_t worker_random(struct source_worker *w, uint64_t bound);
/* Becomes readable when cancel is set; -1 for NULL. */
int cancel_fd(const struct source_cancel *c);

/* ---- text.c: strings and URLs ---- */

char *text_format(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* NULL: no memory */
bool text_ends_with(const char *text, const char *suffix);
/* Percent-encodes all but unreserved characters and '/'. */
char *text_encode_path(const char *path);
char *text_encode_segment(const char *segment); /* slashes, too */
/* "dir/name", or "name" when dir is empty. */
char *text_join(const char *dir, const char *name);
const char *text_base_name(const char *path);
/* 64 hex digits to 32 bytes; false for anything else. */
bool text_sha256(const char *hex, uint8_t out[32]);
/* "scheme://host:port" in lower case with the port spelled out; NULL: not an http(s) URL, or no memory. */
char *url_origin(const char *url);
/* Environment: the first of the names that is set and not empty; NULL. */
const char *env_first(const char *const *names);
/* A line of text read from a small file, without blanks around it; NULL. */
char *read_secret_file(const char *path);

/* ---- listing.c ---- */

int listing_new(struct source_listing **out, struct source *s, const char *name);
/* Takes *file's strings over (also on failure).  Weights must be added before side files. */
int listing_add(struct source_listing *l, struct source_file *file, bool weight, struct fault *why);
/* A side file does not travel: counts and logs `side-cut`, and notes it.  fmt: why not. */
void listing_leave_out(struct source_listing *l, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void listing_seal(struct source_listing *l); /* sums and fingerprint */
void file_fini(struct source_file *f);

/* ---- find.c: what a model is, given a way to look at files ---- */

struct finder {
	struct source *source;
	struct source_worker *worker;
	/* Fills *out (path, locator, bytes, version, ...) for the file at path below the source's root; -ENOENT: no such
	 * file; of others than weights also -EISDIR: a directory, -ENXIO: neither that nor a regular file.
	 * weight: it is going to be read by ranges. */
	int (*look)(struct finder *f, const char *path, bool weight, struct source_file *out, struct fault *why);
	/* Names of what lies in directory dir, but for directories, an array the caller frees; NULL: side_files.def is asked for. */
	int (*list)(struct finder *f, const char *dir, char ***names, uint32_t *n, struct fault *why);
	void *ctx;
};

/* path: the model below the source's root, a directory or a weight file. */
int find_model(struct finder *f, const char *path, struct source_listing *l, struct fault *why);

/* ---- transfer.c ---- */

void redirects_fini(struct source_worker *w);

/* ---- web.c: sources that are URLs ---- */

int web_stream(struct source_worker *w, const struct source_listing *l, const struct source_file *file, uint64_t off,
	uint64_t end, source_sink_fn sink, void *ctx, struct fault *why);
int web_resolve(struct source *s, struct source_worker *w, const char *name, const char *revision,
	struct source_listing *l, struct fault *why);
/* What the server says of url. */
int web_look(struct source *s, struct source_worker *w, const char *url, bool weight, struct source_file *out,
	struct fault *why);
/* A whole small body, one byte longer than *bytes and that a NUL. */
int web_get_small(struct source *s, struct source_worker *w, const char *url, uint64_t max, char **body, size_t *bytes,
	struct fault *why);
/* Takes the base URL over; sets base and origin.  Refuses what cannot be a prefix: credentials, query, fragment. */
int web_set_base(struct source *s, char *base, struct fault *why);

#endif
