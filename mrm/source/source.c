/* source.c - the facade: options, life, cancel, and the one place that calls a kind's operations.
 * Keeps: w->cancel is that of the call in progress; a range that reaches a kind lies within the file. */
#include "mrm/source/internal.h"

#include "mrm/source/http.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* ---- faults and log lines ---- */

static int code_errno(enum trims_code code)
{
	switch (code) {
	case TRIMS_E_NOT_FOUND: return -ENOENT;
	case TRIMS_E_REFUSED: return -EACCES;
	case TRIMS_E_UNREACHABLE: return -EHOSTUNREACH;
	case TRIMS_E_CHANGED: return -ESTALE;
	case TRIMS_E_UNSUPPORTED: return -ENOTSUP;
	case TRIMS_E_CANCELLED: return -ECANCELED;
	case TRIMS_E_NO_MEMORY: return -ENOMEM;
	case TRIMS_E_BAD_REQUEST: return -EINVAL;
	case TRIMS_E_DISK_ERROR: return -EIO;
	default: return -EPROTO;
	}
}

int fail(struct fault *why, enum trims_code code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fault_setv(why, code, fmt, ap);
	va_end(ap);
	return code_errno(code);
}

int fail_memory(struct fault *why)
{
	return fail(why, TRIMS_E_NO_MEMORY, "out of memory");
}

int fail_cancelled(struct source *s, struct fault *why)
{
	count(s, cancelled, 1);
	return fail(why, TRIMS_E_CANCELLED, "cancelled while reading from %s", s->url);
}

static void emit(struct source *s, enum log_level level, const char *line)
{
	if (s->o.log)
		s->o.log(s->o.ctx, level, line);
	else
		log_line(level, "source", "%s", line);
}

void say(struct source *s, enum log_level level, const char *fmt, ...)
{
	char line[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	emit(s, level, line);
}

void degrade(struct source *s, enum degraded which, const char *fmt, ...)
{
	static const char *const names[] = {
#define COUNTER(name, doc)
#define DEGRADED(name, text, doc) text,
#include "mrm/source/source_counters.def"
#undef COUNTER
	};
	_Atomic uint64_t *const counters[] = {
#define COUNTER(name, doc)
#define DEGRADED(name, text, doc) &s->counters.degraded_##name,
#include "mrm/source/source_counters.def"
#undef COUNTER
	};
	char what[FAULT_TEXT_MAX];
	va_list ap;

	atomic_fetch_add_explicit(counters[which], 1, memory_order_relaxed);
	if (atomic_fetch_or(&s->said, 1u << which) & 1u << which)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	say(s, LOG_WARN, "degraded %s: %s: %s", names[which], s->url, what);
}

/* ---- cancel ---- */

struct source_cancel {
	atomic_bool set;
	int fd;
};

int source_cancel_new(struct source_cancel **out)
{
	struct source_cancel *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->fd < 0) {
		int r = -errno;
		free(c);
		return r;
	}
	*out = c;
	return 0;
}

void source_cancel_free(struct source_cancel **c)
{
	if (!*c)
		return;
	close((*c)->fd);
	free(*c);
	*c = NULL;
}

void source_cancel_set(struct source_cancel *c)
{
	atomic_store(&c->set, true);
	eventfd_write(c->fd, 1); /* never read: stays readable for whoever comes later */
}

bool source_cancel_is_set(const struct source_cancel *c)
{
	return c && atomic_load(&c->set);
}

int cancel_fd(const struct source_cancel *c)
{
	return c ? c->fd : -1;
}

static int wait_really(void *ctx, uint64_t ns, const struct source_cancel *cancel)
{
	struct pollfd p = {.fd = cancel_fd(cancel), .events = POLLIN};
	struct timespec ts = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
	ppoll(&p, 1, &ts, NULL); /* a signal cuts the wait short: then the next attempt comes early */
	return source_cancel_is_set(cancel) ? -ECANCELED : 0;
}

int worker_wait(struct source *s, struct source_worker *w, uint64_t ns)
{
	return s->o.wait(s->o.ctx, ns, w->cancel);
}

/* ---- options and life ---- */

void source_options_init(struct source_options *o)
{
	*o = (struct source_options){
		.max_attempts = 6,
		.backoff_base_ns = 200 * NS_PER_MS,
		.backoff_cap_ns = 20 * NS_PER_S,
		.retry_after_cap_ns = 60 * NS_PER_S,
		.connect_timeout_ns = 15 * NS_PER_S,
		.request_timeout_ns = 60 * NS_PER_S,
		.stall_bytes_per_s = 1024,
		.stall_s = 20,
		.max_redirects = 5,
		.max_header_bytes = 64 * KIB,
		.max_json_bytes = 16 * MIB,
		.max_side_files = 64,
		.max_side_file_bytes = 64 * MIB,
		.max_side_total_bytes = 256 * MIB,
		.max_head_total_bytes = 512 * MIB,
	};
}

static const struct {
	const char *scheme;
	const struct source_ops *ops;
} kinds[] = {
#define SOURCE(scheme_, ops_, doc) {scheme_, &ops_},
#include "mrm/source/sources.def"
#undef SOURCE
};

static int open_kind(struct source *s, const char *url, struct fault *why)
{
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		size_t n = strlen(kinds[i].scheme);
		if (strncmp(url, kinds[i].scheme, n))
			continue;
		s->ops = kinds[i].ops;
		int r = s->ops->open(s, kinds[i].scheme, url + n, why);
		ASSERT(r || (s->base && s->identity && (s->ops->in_place || s->origin)));
		return r;
	}
	return fail(why, TRIMS_E_BAD_REQUEST, "source %s: not dir:, http://, https://, s3:// or hf://", url);
}

static int take_options(struct source *s, const struct source_options *options)
{
	static const char *const names[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", NULL};
	s->o = *options;
	s->o.max_attempts = MAX(s->o.max_attempts, 1u);
	if (!s->o.wait)
		s->o.wait = wait_really;
	const char *ca = options->ca_file ? options->ca_file : env_first(names);
	if (ca && !(s->ca_file = strdup(ca)))
		return -ENOMEM;
	s->o.ca_file = NULL; /* the caller's string may go */
	return 0;
}

int source_new(struct source **out, const char *url, const struct source_options *options, struct fault *why)
{
	struct source *s = calloc(1, sizeof *s);
	if (!s)
		return fail_memory(why);
	s->magic = SOURCE_MAGIC;
	s->url = strdup(url);
	int r = !s->url || take_options(s, options) ? fail_memory(why) : open_kind(s, url, why);
	if (r) {
		source_free(&s);
		return r;
	}
	*out = s;
	return 0;
}

void source_free(struct source **s)
{
	if (!*s)
		return;
	CHECK_OBJ(*s, SOURCE_MAGIC);
	if ((*s)->ops && (*s)->ops->close)
		(*s)->ops->close(*s);
	free((*s)->url);
	free((*s)->base);
	free((*s)->origin);
	free((*s)->identity);
	free((*s)->ca_file);
	(*s)->magic = 0;
	free(*s);
	*s = NULL;
}

const char *source_url(const struct source *s)
{
	return s->url;
}

const struct source_counters *source_counters(const struct source *s)
{
	return &s->counters;
}

int source_worker_new(struct source_worker **out, uint64_t seed)
{
	struct source_worker *w = calloc(1, sizeof *w);
	if (!w)
		return -ENOMEM;
	w->magic = SOURCE_WORKER_MAGIC;
	w->random = seed;
	int r = http_new(&w->http);
	if (r) {
		source_worker_free(&w);
		return r;
	}
	*out = w;
	return 0;
}

void source_worker_free(struct source_worker **w)
{
	if (!*w)
		return;
	CHECK_OBJ(*w, SOURCE_WORKER_MAGIC);
	redirects_fini(*w);
	http_free(&(*w)->http);
	(*w)->magic = 0;
	free(*w);
	*w = NULL;
}

/* splitmix64; the modulo's bias is nothing to a backoff. */
uint64_t worker_random(struct source_worker *w, uint64_t bound)
{
	uint64_t z = w->random += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	z ^= z >> 31;
	return bound == UINT64_MAX ? z : z % (bound + 1);
}

/* ---- the operations ---- */

/* Calls nest (an index is read while a model is resolved): the outermost one's cancel stays. */
static int enter(struct source *s, struct source_worker *w, const struct source_cancel *cancel, struct fault *why)
{
	CHECK_OBJ(s, SOURCE_MAGIC);
	CHECK_OBJ(w, SOURCE_WORKER_MAGIC);
	w->cancel = cancel;
	return source_cancel_is_set(cancel) ? fail_cancelled(s, why) : 0;
}

int source_resolve(struct source *s, struct source_worker *w, const char *name, const char *revision,
	const struct source_cancel *cancel, struct source_listing **out, struct fault *why)
{
	struct source_listing *l = NULL;
	int r = enter(s, w, cancel, why);
	if (r)
		return r;
	count(s, resolves, 1);
	if (listing_new(&l, s, name))
		return fail_memory(why);
	r = s->ops->resolve(s, w, name, revision && *revision ? revision : NULL, l, why);
	if (r) {
		source_listing_free(&l);
		return r;
	}
	ASSERT(l->n_weights);
	listing_seal(l);
	count(s, resolves_found, 1);
	*out = l;
	return 0;
}

int source_stream(struct source_worker *w, const struct source_listing *l, uint32_t file, uint64_t off, uint64_t end,
	source_sink_fn sink, void *ctx, const struct source_cancel *cancel, struct fault *why)
{
	struct source *s = l->source;
	ASSERT(file < l->n_files);
	const struct source_file *f = &l->files[file];
	end = MIN(end, f->bytes);
	int r = enter(s, w, cancel, why);
	if (r || off >= end)
		return r;
	if (f->no_ranges && off)
		return fail(why, TRIMS_E_UNSUPPORTED, "%s: the server does no byte ranges", f->locator);
	return s->ops->stream(w, l, f, off, end, sink, ctx, why);
}

struct fill {
	uint8_t *at;
	uint64_t left;
};

static int fill_sink(void *ctx, const uint8_t *data, size_t bytes)
{
	struct fill *fill = ctx;
	ASSERT(bytes <= fill->left);
	memcpy(fill->at, data, bytes);
	fill->at += bytes;
	fill->left -= bytes;
	return 0;
}

int source_read(struct source_worker *w, const struct source_listing *l, uint32_t file, uint64_t off, uint64_t bytes,
	void *buf, const struct source_cancel *cancel, struct fault *why)
{
	ASSERT(file < l->n_files && off <= l->files[file].bytes && bytes <= l->files[file].bytes - off);
	struct fill fill = {buf, bytes};
	int r = source_stream(w, l, file, off, off + bytes, fill_sink, &fill, cancel, why);
	ASSERT(r || !fill.left);
	return r;
}
