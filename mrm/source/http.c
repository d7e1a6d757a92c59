/* http.c - one request, one answer, on a curl handle that keeps its connections.
 *
 * Keeps: nothing of an answer reaches the sink before its headers were complete and begin() took them; headers and the
 * bodies nobody wants are bounded; redirects are not followed here, so what authorize() adds goes to one host only;
 * content codings are neither asked for nor accepted; only http and https are spoken. */
#include "mrm/source/http.h"

#include "shared/own.h"

#include <curl/curl.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>
#include <time.h>

#define UNWANTED_BODY_BYTES (64 * KIB) /* read and dropped to keep the connection; beyond it is closed */
#define RECEIVE_BYTES 524288L          /* the most curl takes */
#define CACHE_SLOTS 8                  /* connections kept open per worker */

struct http {
	CURLM *multi;
	CURL *easy;
	char error[CURL_ERROR_SIZE];
};

/* One hop in progress. */
struct hop {
	const struct http_request *rq;
	struct http_response *r;
	struct fault *why;
	uint64_t header_bytes, unwanted_bytes, body_bytes;
	bool begun, wanted, enough;
	int result; /* why a callback stopped the hop */
};

int http_new(struct http **out)
{
	struct http *h = calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->multi = curl_multi_init();
	h->easy = curl_easy_init();
	if (!h->multi || !h->easy) {
		http_free(&h);
		return -ENOMEM;
	}
	curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)CACHE_SLOTS);
	*out = h;
	return 0;
}

void http_free(struct http **h)
{
	if (!*h)
		return;
	curl_easy_cleanup((*h)->easy);
	curl_multi_cleanup((*h)->multi);
	free(*h);
	*h = NULL;
}

/* ---- headers ---- */

static void keep(char *field, size_t size, const char *value)
{
	size_t n = strlen(value);
	if (n < size)
		memcpy(field, value, n + 1);
	else
		*field = 0;
}

static bool parse_u64(const char *text, const char **rest, uint64_t *out)
{
	if (*text < '0' || *text > '9')
		return false;
	uint64_t v = 0;
	for (; *text >= '0' && *text <= '9'; text++)
		if (mul_overflows(v, 10, &v) || add_overflows(v, (uint64_t)(*text - '0'), &v))
			return false;
	*rest = text;
	*out = v;
	return true;
}

static bool parse_count(const char *text, uint64_t *out)
{
	const char *rest;
	return parse_u64(text, &rest, out) && !*rest && *out <= INT64_MAX;
}

/* "bytes 0-99/200", "bytes 0-99/" with an asterisk, or of a 416 "bytes " and an asterisk "/200" */
static bool parse_content_range(const char *text, struct http_response *r)
{
	if (strncasecmp(text, "bytes ", 6))
		return false;
	text += 6;
	if (!strncmp(text, "*/", 2))
		return r->status == 416 && parse_count(text + 2, &r->total);
	if (!parse_u64(text, &text, &r->first) || *text++ != '-' || !parse_u64(text, &text, &r->last) || *text++ != '/')
		return false;
	if (strcmp(text, "*") && !parse_count(text, &r->total))
		return false;
	r->has_range = r->first <= r->last && (r->total == HTTP_UNKNOWN || r->last < r->total);
	return r->has_range;
}

static uint64_t parse_retry_after(const char *text)
{
	uint64_t s;
	if (parse_count(text, &s))
		return MIN(s, UINT32_MAX) * NS_PER_S;
	time_t at = curl_getdate(text, NULL), now = time(NULL);
	return at > now ? MIN((uint64_t)(at - now), UINT32_MAX) * NS_PER_S : 0;
}

static void parse_etag(char *field, size_t size, const char *value)
{
	if (!strncmp(value, "W/", 2))
		return;
	size_t n = strlen(value);
	if (n >= 3 && value[0] == '"' && value[n - 1] == '"')
		keep(field, size, value);
}

/* The hub puts quotes around these or leaves them out. */
static void parse_linked_etag(char *field, size_t size, const char *value)
{
	if (!strncmp(value, "W/", 2))
		value += 2;
	char text[HTTP_FIELD];
	keep(text, sizeof text, *value == '"' ? value + 1 : value);
	text[strcspn(text, "\"")] = 0;
	keep(field, size, text);
}

static void take_field(struct http_response *r, const char *name, const char *value)
{
	if (!strcasecmp(name, "content-length"))
		r->bad_field |= !parse_count(value, &r->length);
	else if (!strcasecmp(name, "content-range"))
		r->bad_field |= !parse_content_range(value, r);
	else if (!strcasecmp(name, "content-encoding"))
		r->encoded |= strcasecmp(value, "identity") != 0;
	else if (!strcasecmp(name, "accept-ranges"))
		*(strcasecmp(value, "none") ? &r->accept_ranges : &r->no_ranges) = true;
	else if (!strcasecmp(name, "etag"))
		parse_etag(r->etag, sizeof r->etag, value);
	else if (!strcasecmp(name, "last-modified"))
		keep(r->last_modified, sizeof r->last_modified, value);
	else if (!strcasecmp(name, "location"))
		keep(r->location, sizeof r->location, value);
	else if (!strcasecmp(name, "retry-after"))
		r->retry_after_ns = parse_retry_after(value);
	else if (!strcasecmp(name, "x-error-code"))
		keep(r->error_code, sizeof r->error_code, value);
	else if (!strcasecmp(name, "x-error-message"))
		keep(r->error_message, sizeof r->error_message, value);
	else if (!strcasecmp(name, "x-amz-bucket-region"))
		keep(r->region, sizeof r->region, value);
	else if (!strcasecmp(name, "x-repo-commit"))
		keep(r->commit, sizeof r->commit, value);
	else if (!strcasecmp(name, "x-linked-etag"))
		parse_linked_etag(r->linked_etag, sizeof r->linked_etag, value);
	else if (!strcasecmp(name, "x-linked-size"))
		r->bad_field |= !parse_count(value, &r->linked_size);
}

/* A new status line (after a 100, or a proxy's answer): forget the fields of the one before. */
static void start_response(struct http_response *r)
{
	struct http_response fresh = {
		.length = HTTP_UNKNOWN, .total = HTTP_UNKNOWN, .linked_size = r->linked_size};
	memcpy(fresh.linked_etag, r->linked_etag, sizeof fresh.linked_etag);
	memcpy(fresh.commit, r->commit, sizeof fresh.commit);
	*r = fresh;
}

static void take_header_line(struct hop *hop, const char *line, size_t bytes)
{
	char text[4352];
	while (bytes && (line[bytes - 1] == '\r' || line[bytes - 1] == '\n'))
		bytes--;
	if (!bytes || bytes >= sizeof text)
		return;
	memcpy(text, line, bytes);
	text[bytes] = 0;
	if (!strncasecmp(text, "HTTP/", 5)) {
		start_response(hop->r);
		const char *space = strchr(text, ' ');
		hop->r->status = space ? (int)strtol(space + 1, NULL, 10) : 0; /* curl has checked the three digits */
		return;
	}
	char *value = strchr(text, ':');
	if (!value)
		return;
	*value++ = 0;
	take_field(hop->r, text, value + strspn(value, " \t"));
}

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
	struct hop *hop = ctx;
	size_t bytes = size * n;
	hop->header_bytes += bytes;
	if (hop->header_bytes > hop->rq->source->o.max_header_bytes) {
		hop->result = fail(hop->why, TRIMS_E_BAD_SOURCE, "%.*s: more than %llu bytes of headers",
			URL_SHOWN(hop->rq->url), (unsigned long long)hop->rq->source->o.max_header_bytes);
		return 0;
	}
	if (!hop->begun) /* else a trailer */
		take_header_line(hop, line, bytes);
	return bytes;
}

/* ---- body ---- */

/* The headers are complete: decides once what becomes of the body. */
static int begin(struct hop *hop)
{
	if (hop->begun)
		return 0;
	hop->begun = true;
	int r = hop->rq->begin(hop->rq->ctx, hop->r);
	if (r < 0)
		hop->result = r;
	hop->wanted = r == 0;
	return r < 0 ? r : 0;
}

static size_t drop_unwanted(struct hop *hop, const char *data, size_t bytes)
{
	if (!hop->unwanted_bytes && hop->r->status >= 300) {
		size_t n = MIN(bytes, sizeof hop->r->body_start - 1);
		memcpy(hop->r->body_start, data, n);
		hop->r->body_start[n] = 0;
	}
	hop->unwanted_bytes += bytes;
	/* Of a good answer more than the one byte that a look asks for is a whole file. */
	hop->enough = hop->unwanted_bytes > (hop->r->status < 300 ? 1 : UNWANTED_BODY_BYTES);
	return hop->enough ? 0 : bytes;
}

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
	struct hop *hop = ctx;
	size_t bytes = size * n;
	if (begin(hop))
		return 0;
	if (!hop->wanted)
		return drop_unwanted(hop, data, bytes);
	hop->body_bytes += bytes;
	int r = hop->rq->sink(hop->rq->ctx, (const uint8_t *)data, bytes);
	if (r < 0)
		hop->result = r;
	hop->enough = r > 0;
	return r ? 0 : bytes;
}

/* ---- the exchange ---- */

static int add_header(struct curl_slist **list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int add_header(struct curl_slist **list, const char *fmt, ...)
{
	char *line = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&line, fmt, ap);
	va_end(ap);
	struct curl_slist *more = n < 0 ? NULL : curl_slist_append(*list, line);
	if (n >= 0)
		free(line);
	if (!more)
		return -ENOMEM;
	*list = more;
	return 0;
}

/* Versions are spelt by web.c: "etag:" or "date:" and the header's value. */
static int add_condition(struct curl_slist **list, const char *version)
{
	if (!strncmp(version, "etag:", 5))
		return add_header(list, "If-Match: %s", version + 5);
	if (!strncmp(version, "date:", 5))
		return add_header(list, "If-Unmodified-Since: %s", version + 5);
	return 0;
}

static int add_headers(const struct http_request *rq, struct curl_slist **list)
{
	const struct source *s = rq->source;
	OWN_MEM char *origin = url_origin(rq->url);
	int r = add_header(list, "Accept-Encoding: identity");
	if (!r && rq->end != HTTP_NO_END)
		r = add_header(list, "Range: bytes=%llu-%llu", (unsigned long long)rq->first,
			(unsigned long long)rq->end - 1);
	if (!r && rq->version)
		r = add_condition(list, rq->version);
	if (!r && s->ops->authorize && origin && !strcmp(origin, s->origin))
		r = s->ops->authorize(s, rq, list);
	return r;
}

static void set_options(struct http *h, const struct http_request *rq, struct hop *hop, struct curl_slist *headers)
{
	const struct source *s = rq->source;
	CURL *e = h->easy;
	curl_easy_reset(e); /* keeps connections, DNS answers and TLS sessions */
	*h->error = 0;
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, h->error);
	curl_easy_setopt(e, CURLOPT_URL, rq->url);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* one transfer, one connection */
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_NOBODY, rq->head ? 1L : 0L);
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "trims/" TRIMS_VERSION);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
	curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(s->o.connect_timeout_ns / NS_PER_MS));
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, (long)s->o.stall_bytes_per_s);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)s->o.stall_s);
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, rq->small ? (long)(s->o.request_timeout_ns / NS_PER_MS) : 0L);
	if (s->ca_file)
		curl_easy_setopt(e, CURLOPT_CAINFO, s->ca_file);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, hop);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, hop);
}

/* Drives the handle to its end, or until cancelled. */
static int drive(struct http *h, const struct source_cancel *cancel, CURLcode *code)
{
	struct curl_waitfd extra = {.fd = cancel_fd(cancel), .events = CURL_WAIT_POLLIN};
	int running = 1, left, r = 0;
	CURLMcode m = curl_multi_add_handle(h->multi, h->easy);
	if (m)
		return -ENOMEM;
	while (!r) {
		m = curl_multi_perform(h->multi, &running);
		if (m || !running)
			break;
		curl_multi_poll(h->multi, &extra, cancel ? 1 : 0, 1000, NULL);
		if (source_cancel_is_set(cancel))
			r = -ECANCELED;
	}
	CURLMsg *msg = curl_multi_info_read(h->multi, &left);
	*code = msg && msg->msg == CURLMSG_DONE ? msg->data.result : CURLE_FAILED_INIT;
	curl_multi_remove_handle(h->multi, h->easy); /* in mid-transfer this closes the connection */
	return m ? -ENOMEM : r;
}

/* Failures that the next attempt would meet again. */
static bool is_final(CURLcode code)
{
	switch (code) {
	case CURLE_URL_MALFORMAT:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_ENGINE_INITFAILED:
	case CURLE_FAILED_INIT:
	case CURLE_NOT_BUILT_IN:
		return true;
	default:
		return false;
	}
}

/* Not HTTP/1 ("unsupported protocol", as ours always are http), or a header that curl itself found too long ("out of
 * memory"). */
static bool is_nonsense(CURLcode code)
{
	return code == CURLE_WEIRD_SERVER_REPLY || code == CURLE_OUT_OF_MEMORY ||
	       code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_BAD_CONTENT_ENCODING;
}

static int explain(const struct http *h, const struct http_request *rq, CURLcode code, struct fault *why)
{
	const char *text = *h->error ? h->error : curl_easy_strerror(code);
	if (is_nonsense(code))
		return fail(why, TRIMS_E_BAD_SOURCE, "%.*s: %s", URL_SHOWN(rq->url), text);
	if (code == CURLE_OPERATION_TIMEDOUT)
		count(rq->source, stalls, 1);
	int r = fail(why, TRIMS_E_UNREACHABLE, "%.*s: %s", URL_SHOWN(rq->url), text);
	return is_final(code) ? r : -EAGAIN;
}

static int conclude(struct http *h, struct hop *hop, CURLcode code)
{
	if (hop->result)
		return hop->result;
	if (hop->enough && code == CURLE_WRITE_ERROR)
		return 0;
	if (code)
		return explain(h, hop->rq, code, hop->why);
	return begin(hop); /* there was no body */
}

int http_send(struct source_worker *w, const struct http_request *rq, struct http_response *response,
	struct fault *why)
{
	struct hop hop = {.rq = rq, .r = response, .why = why};
	struct curl_slist *headers = NULL;
	CURLcode code = CURLE_OK;
	start_response(response);
	count(rq->source, requests, 1);
	int r = add_headers(rq, &headers);
	if (!r) {
		set_options(w->http, rq, &hop, headers);
		r = drive(w->http, w->cancel, &code);
	}
	curl_slist_free_all(headers);
	if (r == -ECANCELED)
		return fail_cancelled(rq->source, why);
	if (r == -ENOMEM)
		return fail_memory(why);
	return r ? fail(why, TRIMS_E_INTERNAL, "%.*s: cannot be signed", URL_SHOWN(rq->url))
		 : conclude(w->http, &hop, code);
}
