/* source.h - where models come from: a local directory, a web server, an S3 bucket, a hub.
 *
 * Thread: every function blocks and belongs in a worker thread.  A struct source and a struct source_listing may be used
 * by any number of threads at once; a struct source_worker (connections kept alive, retry randomness) by one at a time,
 * with any source.  A struct source_cancel may be set from any thread and ends what waits on it at once.
 * Ownership: a listing borrows its source, which must outlive it; everything else belongs to the caller.
 * curl_global_init() is the caller's business, before the first source_new().
 *
 * Units: bytes; ns where a name says so.  Failures return -errno and fill *why (code and sentence) where there is one:
 *   -ENOENT NOT_FOUND     no such model here; another source may have it
 *   -EACCES REFUSED       401, 403, permission denied
 *   -EHOSTUNREACH UNREACHABLE   still failing after the last attempt
 *   -ESTALE CHANGED       the file is no longer the one that was listed: resolve again
 *   -EPROTO BAD_SOURCE, BAD_MODEL, ...   makes no sense, or over a bound
 *   -ENOTSUP UNSUPPORTED  needs byte ranges that this server does not do (listing->no_ranges)
 *   -ECANCELED CANCELLED, -ENOMEM NO_MEMORY, -EINVAL BAD_REQUEST, -EIO DISK_ERROR (dir sources)
 *
 * Degraded paths are named, logged once per source and counted: see README.md. */
#ifndef MRM_SOURCE_SOURCE_H
#define MRM_SOURCE_SOURCE_H

#include "shared/base.h"
#include "shared/error.h"
#include "shared/log.h"

#include <stdatomic.h>

struct layout;
struct source;
struct source_worker;
struct source_cancel;

/* ---- options ---- */

/* Waits up to ns or until cancel is set (NULL: never is).  Returns 0 or -ECANCELED. */
typedef int (*source_wait_fn)(void *ctx, uint64_t ns, const struct source_cancel *cancel);
/* One line for the log, without newline; called on the thread that met it. */
typedef void (*source_log_fn)(void *ctx, enum log_level level, const char *line);

struct source_options {
	uint32_t max_attempts;       /* of one request without noteworthy progress between, >= 1 */
	uint64_t backoff_base_ns;    /* doubled per attempt up to the cap; the wait is drawn from [0, that] */
	uint64_t backoff_cap_ns;
	uint64_t retry_after_cap_ns; /* a server's Retry-After is obeyed up to here */
	uint64_t connect_timeout_ns;
	uint64_t request_timeout_ns; /* of one small exchange: HEAD, JSON */
	uint32_t stall_bytes_per_s;  /* slower than this for stall_s seconds is a broken connection */
	uint32_t stall_s;
	uint32_t max_redirects;
	uint64_t max_header_bytes;   /* of one response */
	uint64_t max_json_bytes;
	uint32_t max_side_files;
	uint64_t max_side_file_bytes;
	uint64_t max_side_total_bytes;
	uint64_t max_head_total_bytes; /* headers of all weight files of a model together */
	const char *ca_file;              /* NULL: AWS_CA_BUNDLE (s3), CURL_CA_BUNDLE, SSL_CERT_FILE, the system's.  Borrowed */
	source_wait_fn wait;         /* NULL: a real wait */
	source_log_fn log;           /* NULL: log_line() with topic "source" */
	void *ctx;                   /* for both */
};

void source_options_init(struct source_options *o);

/* ---- counters: monotone, written by any thread ---- */

struct source_counters {
#define COUNTER(name, doc) _Atomic uint64_t name;
#include "mrm/source/source_counters.def"
#undef COUNTER
};

/* ---- cancel ---- */

int source_cancel_new(struct source_cancel **out); /* -EMFILE and the like: it costs one fd */
void source_cancel_free(struct source_cancel **c); /* nobody may still be waiting on or setting it */
void source_cancel_set(struct source_cancel *c);
bool source_cancel_is_set(const struct source_cancel *c); /* NULL: false */

/* ---- life ---- */

/* url: "dir:/path", "http://host/prefix", "https://...", "s3://bucket/prefix", "hf://" with an optional org as prefix.
 * Reads the environment (AWS_*, HF_*, *_CA_*) now and never again.  No network is touched.
 * -EINVAL: *why says what is wrong with the URL or the environment. */
int source_new(struct source **out, const char *url, const struct source_options *options, struct fault *why);
void source_free(struct source **s);
/* As given, without anything secret. */
const char *source_url(const struct source *s);
const struct source_counters *source_counters(const struct source *s);

/* seed: of the retry jitter. */
int source_worker_new(struct source_worker **out, uint64_t seed);
void source_worker_free(struct source_worker **w);

/* ---- resolve ---- */

struct source_file {
	char *path;      /* relative to the model's directory; for weights and side files alike it has no '/' */
	char *locator;   /* private to the source: URL, or path below its root */
	uint64_t bytes;
	char *version;   /* what the source says the file's version is; printable, compared as a whole */
	uint8_t sha256[32];
	bool has_sha256; /* stated by the source: to be checked by whoever reads the whole file */
	bool no_ranges;  /* only source_stream() from 0 (source_read() at offset 0 works, too, at the price of a connection) */
};

/* Side files that do not travel with the model although they lie beside its weights: over a bound, unreadable, no regular
 * files.  Zero-initialised is none. */
#define SOURCE_LEFT_OUT_NAMED 16
struct source_left_out {
	uint32_t n; /* in all; the first SOURCE_LEFT_OUT_NAMED are named */
	struct {
		char *path, *why; /* why: half a sentence, as in a log line */
	} named[SOURCE_LEFT_OUT_NAMED];
};

void source_left_out_fini(struct source_left_out *o); /* leaves none */

/* Immutable once resolved.  files[0 .. n_weights) are the weight files in image order, side files stand behind. */
struct source_listing {
	struct source *source;
	char *name;
	char *revision;  /* what it resolved to (a commit); NULL: the source has no revisions */
	struct source_file *files;
	uint32_t n_files, n_weights;
	uint32_t index;  /* the side file that is the shards' index; UINT32_MAX: none */
	uint64_t weight_bytes, side_bytes;
	struct source_left_out left_out;
	/* Over the source's identity, the files' paths, sizes, and SHA-256 where stated, else versions. */
	uint64_t fingerprint_hi, fingerprint_lo;
	bool in_place, no_ranges; /* no_ranges: of any weight file */
};

/* Finds the model.  name has passed name_check(); revision NULL or "": the source's default.  A revision asked of a
 * source that has none is NOT_FOUND. */
int source_resolve(struct source *s, struct source_worker *w, const char *name, const char *revision,
	const struct source_cancel *cancel, struct source_listing **out, struct fault *why);
void source_listing_free(struct source_listing **l);

/* ---- bytes ---- */

/* Exactly bytes [off, off + bytes) of the file, of the listed version; retried and resumed inside. */
int source_read(struct source_worker *w, const struct source_listing *l, uint32_t file, uint64_t off, uint64_t bytes,
	void *buf, const struct source_cancel *cancel, struct fault *why);

/* Takes the next bytes.  0: go on; > 0: enough, the stream ends with 0; < 0: ends with that (and *why is the sink's). */
typedef int (*source_sink_fn)(void *ctx, const uint8_t *data, size_t bytes);

/* [off, end) of the file in order through the sink, in pieces of the network's size, each byte exactly once; end
 * UINT64_MAX: the whole rest.  On a no_ranges file off must be 0, and a broken connection is resumed by skipping what
 * the sink has had. */
int source_stream(struct source_worker *w, const struct source_listing *l, uint32_t file, uint64_t off, uint64_t end,
	source_sink_fn sink, void *ctx, const struct source_cancel *cancel, struct fault *why);

/* in_place listings: opens the file read-only (| flags, e.g. O_DIRECT), below the source's directory whatever symbolic
 * links say, and checks that it still is the listed version. */
int source_open_local(const struct source_listing *l, uint32_t file, int flags, int *fd, struct fault *why);
/* -ESTALE: what fd is open on is no longer (size, mtime, inode) what was listed.  For a check after reading. */
int source_check_local(const struct source_listing *l, uint32_t file, int fd, struct fault *why);

/* ---- what is in it ---- */

struct source_bytes {
	uint8_t *data;
	size_t bytes;
};

struct source_description {
	struct layout *layout;
	struct source_bytes *heads; /* [n_weights]: each weight file's bytes [0, data_start) */
	struct source_bytes *side;  /* [n_files - n_weights]: whole contents, checked where SHA-256 is stated */
	uint32_t n_heads, n_side;
};

/* Reads the heads and the side files, checks the index against the shards, builds the layout. */
int source_describe(struct source_worker *w, const struct source_listing *l, const struct source_cancel *cancel,
	struct source_description **out, struct fault *why);
void source_description_free(struct source_description **d);

#endif
