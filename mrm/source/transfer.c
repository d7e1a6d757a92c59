/* transfer.c - a whole transfer: redirects, retries, resumption, and the judgement of every answer.
 *
 * Keeps: the sink gets each byte once and in order, over any number of attempts; bytes of another version of the file
 * than was asked for never reach it; attempts are bounded, and start over only when PROGRESS_BYTES arrived between. */
#include "mrm/source/http.h"

#include "shared/own.h"

#include <curl/curl.h>
#include <stdio.h>
#include <time.h>

#define PROGRESS_BYTES MIB
#define REDIRECT_TTL_NS (300 * NS_PER_S) /* well within the life of the links that hubs sign */

struct state {
	struct transfer *t;
	struct source_worker *w;
	struct fault *why;
	uint64_t done;  /* bytes the sink has had */
	uint64_t skip;  /* of this answer: bytes in front that the sink has had before */
	bool stopped;   /* the sink had enough */
	bool sink_failed;
};

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static bool is_complete(const struct state *st)
{
	return st->stopped || (st->t->ranged && st->t->sink && st->done == st->t->end - st->t->off);
}

/* ---- redirects ---- */

static void redirect_fini(struct redirect *r)
{
	free(r->from);
	free(r->to);
	*r = (struct redirect){0};
}

void redirects_fini(struct source_worker *w)
{
	for (size_t i = 0; i < WORKER_REDIRECTS; i++)
		redirect_fini(&w->redirects[i]);
}

static struct redirect *redirect_find(struct source_worker *w, const struct transfer *t)
{
	for (size_t i = 0; i < WORKER_REDIRECTS; i++) {
		struct redirect *r = &w->redirects[i];
		if (r->from && r->source == t->source && !strcmp(r->from, t->url))
			return r;
	}
	return NULL;
}

static void redirect_keep(struct source_worker *w, const struct transfer *t, const char *to)
{
	struct redirect *r = redirect_find(w, t);
	if (!t->source->ops->cache_redirects || t->head || r)
		return;
	r = &w->redirects[w->next_redirect++ % WORKER_REDIRECTS];
	redirect_fini(r);
	*r = (struct redirect){t->source, strdup(t->url), strdup(to), now_ns()};
	if (!r->from || !r->to)
		redirect_fini(r);
}

/* The absolute URL a Location stands for; NULL: none that may be followed. */
static char *redirect_target(const char *from, const char *location)
{
	CURLU *u = curl_url();
	char *to = NULL, *out = NULL;
	if (u && *location && !curl_url_set(u, CURLUPART_URL, from, CURLU_PATH_AS_IS) &&
		!curl_url_set(u, CURLUPART_URL, location, CURLU_URLENCODE) && !curl_url_get(u, CURLUPART_URL, &to, 0))
		out = strdup(to);
	curl_free(to);
	curl_url_cleanup(u);
	bool is_https = out && !strncmp(out, "https://", 8);
	if (out && !is_https && (strncmp(out, "http://", 7) || !strncmp(from, "https://", 8))) {
		free(out);
		return NULL;
	}
	return out;
}

static bool is_redirect(int status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* A hub says all about a file on the redirect; the link behind it is signed for GET and refuses HEAD. */
static bool is_linked_answer(const struct transfer *t)
{
	return t->head && is_redirect(t->response.status) && t->response.linked_size != HTTP_UNKNOWN;
}

/* ---- judging an answer ---- */

#define MALFORMED(st, fmt, ...)                                                                                       \
	fail((st)->why, TRIMS_E_BAD_SOURCE, "%.*s: " fmt, URL_SHOWN((st)->t->url), ##__VA_ARGS__)

static int changed(struct state *st, const char *what)
{
	return fail(st->why, TRIMS_E_CHANGED, "%.*s changed at its source: %s", URL_SHOWN(st->t->url), what);
}

static int check_version(struct state *st, const struct http_response *r)
{
	const char *version = st->t->version ? st->t->version : "";
	bool is_etag = !strncmp(version, "etag:", 5);
	const char *now = is_etag ? r->etag : r->last_modified;
	if (!is_etag && strncmp(version, "date:", 5))
		return 0;
	if (!*now)
		return MALFORMED(st, "the answer has no %s any more", is_etag ? "strong ETag" : "Last-Modified");
	return strcmp(version + 5, now) ? changed(st, is_etag ? "another ETag" : "another Last-Modified") : 0;
}

static int check_linked(struct state *st, const struct http_response *r)
{
	const char *version = st->t->version ? st->t->version : "";
	if (strncmp(version, "blob:", 5) || !*r->linked_etag)
		return 0;
	return strcmp(version + 5, r->linked_etag) ? changed(st, "another blob") : 0;
}

static int check_part(struct state *st, const struct http_response *r)
{
	const struct transfer *t = st->t;
	uint64_t from = t->off + st->done;
	if (!t->ranged)
		return MALFORMED(st, "a part (206) instead of the whole");
	if (!r->has_range || r->total == HTTP_UNKNOWN)
		return MALFORMED(st, "206 without a usable Content-Range");
	if (t->total != HTTP_UNKNOWN && r->total != t->total)
		return changed(st, "another size");
	if (r->first != from || r->last != t->end - 1)
		return MALFORMED(st, "bytes %llu-%llu came for %llu-%llu", (unsigned long long)r->first,
			(unsigned long long)r->last, (unsigned long long)from, (unsigned long long)t->end - 1);
	if (r->length != HTTP_UNKNOWN && r->length != r->last - r->first + 1)
		return MALFORMED(st, "Content-Length and Content-Range contradict each other");
	return 0;
}

static int check_whole(struct state *st, const struct http_response *r)
{
	struct transfer *t = st->t;
	if (!t->ranged) {
		if (t->restart && st->done)
			t->restart(t->ctx);
		st->done = 0;
		return 0;
	}
	t->whole = true;
	if (t->total != HTTP_UNKNOWN && r->length != HTTP_UNKNOWN && r->length != t->total)
		return changed(st, "another size");
	degrade(t->source, DEGRADED_no_ranges, "%.*s is sent whole, byte ranges are ignored", URL_SHOWN(t->url));
	if (t->off)
		return fail(st->why, TRIMS_E_UNSUPPORTED, "%.*s: the server does no byte ranges", URL_SHOWN(t->url));
	st->skip = st->done;
	return 0;
}

/* Headers are complete: is the body what was asked for? */
static int on_begin(void *ctx, const struct http_response *r)
{
	struct state *st = ctx;
	st->skip = 0;
	if (r->status != 200 && r->status != 206)
		return 1;
	if (r->encoded)
		return MALFORMED(st, "a content coding that was not asked for");
	if (r->bad_field)
		return MALFORMED(st, "a header that makes no sense");
	int v = r->status == 206 ? check_part(st, r) : check_whole(st, r);
	if (!v)
		v = check_version(st, r);
	if (!v)
		v = check_linked(st, r);
	return v ? v : !st->t->sink;
}

/* Cuts what the sink has had, and what lies behind the range, off the piece. */
static int on_data(void *ctx, const uint8_t *data, size_t bytes)
{
	struct state *st = ctx;
	struct transfer *t = st->t;
	uint64_t skipped = MIN(st->skip, bytes);
	st->skip -= skipped;
	data += skipped;
	bytes -= skipped;
	uint64_t left = t->ranged ? t->end - t->off - st->done : bytes;
	if (bytes > left && !t->whole)
		return MALFORMED(st, "more bytes than announced");
	size_t take = (size_t)MIN(left, bytes);
	int r = take ? t->sink(t->ctx, data, take) : 0;
	if (r < 0) {
		st->sink_failed = true;
		return r;
	}
	st->done += take;
	count(t->source, bytes, take);
	st->stopped = r > 0;
	return r > 0 || (t->whole && is_complete(st));
}

static void find_tag(const char *xml, const char *open, char *out, size_t size)
{
	const char *at = strstr(xml, open);
	at = at ? at + strlen(open) : "";
	snprintf(out, size, "%.*s", (int)MIN(strcspn(at, "<"), size - 1), at);
}

/* What the server itself says of its refusal, wherever its kind puts that. */
static void server_words(const struct http_response *r, char *out, size_t size)
{
	char code[64], message[256];
	find_tag(r->body_start, "<Code>", code, sizeof code);
	find_tag(r->body_start, "<Message>", message, sizeof message);
	*out = 0;
	if (*r->error_message || *r->error_code)
		snprintf(out, size, " (%s)", *r->error_message ? r->error_message : r->error_code);
	else if (*code)
		snprintf(out, size, " (%s: %s%s%s)", code, message, *r->region ? "; the bucket is in " : "", r->region);
	else if (*r->region)
		snprintf(out, size, " (the bucket is in %s: set AWS_REGION)", r->region);
}

/* Not a wrong signature or an unknown key. */
static bool gives_no_reason(const struct http_response *r)
{
	char code[64];
	find_tag(r->body_start, "<Code>", code, sizeof code);
	return r->status == 403 && !*r->region && !*r->error_code && (!*code || !strcmp(code, "AccessDenied"));
}

static bool is_retryable(int status)
{
	return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

static bool says_absent(const struct http_response *r)
{
	return r->status == 404 || r->status == 410 || !strcmp(r->error_code, "RepoNotFound") ||
	       !strcmp(r->error_code, "RevisionNotFound") || !strcmp(r->error_code, "EntryNotFound");
}

static int judge_status(struct state *st, const struct http_response *r)
{
	struct transfer *t = st->t;
	char words[HTTP_FIELD + 64];
	server_words(r, words, sizeof words);
	enum trims_code code = TRIMS_E_BAD_SOURCE;
	if (is_retryable(r->status)) {
		if (r->status == 429 || (r->status == 503 && r->retry_after_ns))
			count(t->source, throttled, 1);
		fail(st->why, TRIMS_E_UNREACHABLE, "%.*s: status %d%s", URL_SHOWN(t->url), r->status, words);
		return -EAGAIN;
	}
	if (says_absent(r))
		code = TRIMS_E_NOT_FOUND;
	else if (r->status == 401 || r->status == 403 || r->status == 407 || r->status == 451)
		code = TRIMS_E_REFUSED;
	else if (r->status == 412 || r->status == 416)
		code = TRIMS_E_CHANGED;
	const char *means = gives_no_reason(r) ? t->source->ops->denied_means : NULL;
	return fail(st->why, code, "%.*s: status %d%s%s%s", URL_SHOWN(t->url), r->status, words, means ? "; " : "",
		means ? means : "");
}

static int judge(struct state *st)
{
	const struct transfer *t = st->t;
	if (is_linked_answer(t))
		return 0;
	if (t->response.status != 200 && t->response.status != 206)
		return judge_status(st, &t->response);
	if (!t->sink || !t->ranged || is_complete(st))
		return 0;
	fail(st->why, TRIMS_E_UNREACHABLE, "%.*s: the answer ended after %llu of %llu bytes", URL_SHOWN(t->url),
		(unsigned long long)st->done, (unsigned long long)(t->end - t->off));
	return -EAGAIN;
}

/* ---- attempts ---- */

static int send_hop(struct state *st, const char *url)
{
	struct transfer *t = st->t;
	struct http_request rq = {.source = t->source, .url = url, .head = t->head, .small = t->small,
		.first = t->off + st->done, .end = t->ranged ? t->end : HTTP_NO_END, .version = t->version,
		.begin = on_begin, .sink = on_data, .ctx = st};
	return http_send(st->w, &rq, &t->response, st->why);
}

/* One attempt from `start` to the final answer.  *url is where it came from in the end, the caller's to free. */
static int follow(struct state *st, const char *start, char **url)
{
	struct transfer *t = st->t;
	*t->response.linked_etag = *t->response.commit = 0;
	t->response.linked_size = HTTP_UNKNOWN;
	*url = strdup(start);
	for (uint32_t hops = 0; *url; hops++) {
		int r = send_hop(st, *url);
		if (r || !is_redirect(t->response.status) || is_linked_answer(t))
			return r;
		if (hops == t->source->o.max_redirects)
			return MALFORMED(st, "more than %u redirects", hops);
		OWN_MEM char *from = *url;
		*url = redirect_target(from, t->response.location);
		if (!*url)
			return MALFORMED(st, "a redirect to nowhere one may go");
		count(t->source, redirects, 1);
	}
	return fail_memory(st->why);
}

static int follow_and_judge(struct state *st, const char *start)
{
	OWN_MEM char *url = NULL;
	int r = follow(st, start, &url);
	if (r == -EAGAIN && !st->sink_failed && is_complete(st)) /* broken behind the last byte: no harm */
		return 0;
	if (!r)
		r = judge(st);
	if (!r && strcmp(url, st->t->url))
		redirect_keep(st->w, st->t, url);
	return r;
}

/* A link that was good a minute ago may have expired: any failure there is a reason to ask the origin again. */
static int attempt(struct state *st)
{
	struct redirect *kept = redirect_find(st->w, st->t);
	if (kept && now_ns() - kept->at_ns < REDIRECT_TTL_NS) {
		int r = follow_and_judge(st, kept->to);
		if (!r || r == -ECANCELED || st->sink_failed)
			return r;
	}
	if (kept)
		redirect_fini(kept);
	return follow_and_judge(st, st->t->url);
}

static uint64_t backoff(struct state *st, uint32_t failures)
{
	const struct source_options *o = &st->t->source->o;
	uint64_t bound = o->backoff_base_ns;
	for (uint32_t i = 1; i < failures && bound < o->backoff_cap_ns; i++)
		bound *= 2;
	return MIN(st->t->response.retry_after_ns, o->retry_after_cap_ns) +
	       worker_random(st->w, MIN(bound, o->backoff_cap_ns));
}

static int give_up(struct state *st, uint32_t attempts)
{
	struct fault last = {0};
	if (st->why)
		last = *st->why;
	return fail(st->why, TRIMS_E_UNREACHABLE, "%s (given up after %u attempts)", last.text, attempts);
}

static int run(struct state *st)
{
	struct source *s = st->t->source;
	uint32_t failures = 0, attempts = 0;
	uint64_t mark = 0;
	for (;;) {
		int r = attempt(st);
		attempts++;
		if (r != -EAGAIN || st->sink_failed)
			return r;
		if (st->done - mark >= PROGRESS_BYTES) {
			mark = st->done;
			failures = 0;
		}
		if (++failures >= s->o.max_attempts)
			return give_up(st, attempts);
		uint64_t ns = backoff(st, failures);
		say(s, LOG_INFO, "%s; again in %llu ms", st->why->text, (unsigned long long)(ns / NS_PER_MS));
		if (worker_wait(s, st->w, ns))
			return fail_cancelled(s, st->why);
		count(s, retries, 1);
		if (st->done)
			count(s, resumes, 1);
	}
}

static void count_failure(const struct state *st, int r)
{
	struct source *s = st->t->source;
	if (st->sink_failed)
		return;
	switch (r) {
	case -EACCES: count(s, refused, 1); break;
	case -ESTALE: count(s, changed, 1); break;
	case -EPROTO: count(s, malformed, 1); break;
	case -EHOSTUNREACH: count(s, unreachable, 1); break;
	default: break;
	}
}

int http_transfer(struct source_worker *w, struct transfer *t, struct fault *why)
{
	struct fault unheard = {0};
	struct state st = {.t = t, .w = w, .why = why ? why : &unheard};
	ASSERT(!t->ranged || t->end > t->off);
	t->whole = false;
	int r = run(&st);
	count_failure(&st, r);
	return r;
}
