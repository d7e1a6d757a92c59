/* web.c - sources that are URLs: looking at files, reading them, and the plain web server.
 *
 * A file's version is "etag:" and its strong ETag, else "date:" and Last-Modified, else "size" (degraded no-versions);
 * "blob:" and an object id where the URL itself names a commit, which cannot change. */
#include "mrm/source/http.h"

#include "shared/own.h"

#include <curl/curl.h>

/* ---- base URLs ---- */

static int check_base(struct source *s, struct fault *why)
{
	static const CURLUPart bad[] = {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY, CURLUPART_FRAGMENT};
	CURLU *u = curl_url();
	if (!u)
		return fail_memory(why);
	int r = 0;
	if (curl_url_set(u, CURLUPART_URL, s->base, 0))
		r = fail(why, TRIMS_E_BAD_REQUEST, "%s: not a valid URL", s->url);
	for (size_t i = 0; i < ARRAY_LEN(bad) && !r; i++) {
		char *part = NULL;
		if (!curl_url_get(u, bad[i], &part, 0))
			r = fail(why, TRIMS_E_BAD_REQUEST,
				"source: a URL prefix with credentials, a query or a fragment is not supported");
		curl_free(part);
	}
	curl_url_cleanup(u);
	return r;
}

int web_set_base(struct source *s, char *base, struct fault *why)
{
	s->base = base;
	if (!base)
		return fail_memory(why);
	for (size_t n = strlen(base); n && base[n - 1] == '/'; n--)
		base[n - 1] = 0;
	int r = check_base(s, why);
	if (r)
		return r;
	s->origin = url_origin(base);
	return s->origin ? 0 : fail(why, TRIMS_E_BAD_REQUEST, "source: not a valid http or https URL");
}

/* ---- looking ---- */

static int set_version(struct source *s, const struct http_response *r, struct source_file *out)
{
	if (*r->etag)
		out->version = text_format("etag:%s", r->etag);
	else if (*r->last_modified)
		out->version = text_format("date:%s", r->last_modified);
	else
		out->version = strdup("size");
	if (!*r->etag && !*r->last_modified)
		degrade(s, DEGRADED_no_versions, "%s has neither a strong ETag nor Last-Modified", out->locator);
	return out->version ? 0 : -ENOMEM;
}

static int look_head(struct source *s, struct source_worker *w, struct source_file *out, struct transfer *t,
	struct fault *why)
{
	*t = (struct transfer){.source = s, .url = out->locator, .head = true, .small = true, .total = HTTP_UNKNOWN};
	int r = http_transfer(w, t, why);
	if (!r)
		out->bytes = t->response.length;
	return r;
}

/* Asks for the first byte: the answer shows at once whether ranges work and how long the file is. */
static int look_first_byte(struct source *s, struct source_worker *w, struct source_file *out, struct transfer *t,
	struct fault *why)
{
	*t = (struct transfer){.source = s, .url = out->locator, .small = true, .ranged = true, .end = 1,
		.total = HTTP_UNKNOWN};
	int r = http_transfer(w, t, why);
	const struct http_response *a = &t->response;
	if (r == -ESTALE && a->status == 416 && a->total == 0) { /* no first byte: it is empty */
		out->bytes = 0;
		return 0;
	}
	if (r)
		return r;
	out->no_ranges = t->whole;
	out->bytes = t->whole ? a->length : a->total;
	if (out->bytes == HTTP_UNKNOWN)
		return fail(why, TRIMS_E_BAD_SOURCE, "%s: the server does not say how long it is", out->locator);
	return 0;
}

static bool is_head_refused(int r, const struct transfer *t)
{
	int status = t->response.status;
	return r ? status == 405 || status == 501 || status == 400 : t->response.length == HTTP_UNKNOWN;
}

int web_look(struct source *s, struct source_worker *w, const char *url, bool weight, struct source_file *out,
	struct fault *why)
{
	struct transfer t;
	out->locator = strdup(url);
	if (!out->locator)
		return fail_memory(why);
	int r = weight ? look_first_byte(s, w, out, &t, why) : look_head(s, w, out, &t, why);
	if (!weight && is_head_refused(r, &t)) {
		degrade(s, DEGRADED_no_head, "%s: HEAD is refused or without a length", url);
		r = look_first_byte(s, w, out, &t, why);
	}
	if (!r && set_version(s, &t.response, out))
		r = fail_memory(why);
	return r;
}

/* ---- reading ---- */

int web_stream(struct source_worker *w, const struct source_listing *l, const struct source_file *file, uint64_t off,
	uint64_t end, source_sink_fn sink, void *ctx, struct fault *why)
{
	struct transfer t = {.source = l->source, .url = file->locator, .ranged = true, .off = off, .end = end,
		.total = file->bytes, .version = file->version, .sink = sink, .ctx = ctx};
	return http_transfer(w, &t, why);
}

struct body {
	char *data;
	size_t bytes, room;
	uint64_t max;
	const char *url;
	struct fault *why;
};

static int body_sink(void *ctx, const uint8_t *data, size_t bytes)
{
	struct body *b = ctx;
	if (bytes > b->max - b->bytes)
		return fail(b->why, TRIMS_E_BAD_SOURCE, "%s: more than %llu bytes", b->url, (unsigned long long)b->max);
	if (b->bytes + bytes + 1 > b->room) {
		size_t room = 2 * (b->bytes + bytes + 1);
		char *more = realloc(b->data, room);
		if (!more)
			return fail_memory(b->why);
		b->data = more;
		b->room = room;
	}
	memcpy(b->data + b->bytes, data, bytes);
	b->bytes += bytes;
	b->data[b->bytes] = 0;
	return 0;
}

static void body_restart(void *ctx)
{
	struct body *b = ctx;
	b->bytes = 0;
}

int web_get_small(struct source *s, struct source_worker *w, const char *url, uint64_t max, char **out, size_t *bytes,
	struct fault *why)
{
	struct body b = {.max = max, .url = url, .why = why};
	struct transfer t = {.source = s, .url = url, .small = true, .total = HTTP_UNKNOWN, .sink = body_sink,
		.restart = body_restart, .ctx = &b};
	int r = http_transfer(w, &t, why);
	if (!r && !b.data)
		r = fail(why, TRIMS_E_BAD_SOURCE, "%s: an empty answer", url);
	if (r) {
		free(b.data);
		return r;
	}
	*out = b.data;
	*bytes = b.bytes;
	return 0;
}

/* ---- names below a prefix ---- */

static int look(struct finder *f, const char *path, bool weight, struct source_file *out, struct fault *why)
{
	OWN_MEM char *encoded = text_encode_path(path);
	OWN_MEM char *url = encoded ? text_format("%s/%s", f->source->base, encoded) : NULL;
	out->path = strdup(text_base_name(path));
	if (!url || !out->path)
		return fail_memory(why);
	return web_look(f->source, f->worker, url, weight, out, why);
}

int web_resolve(struct source *s, struct source_worker *w, const char *name, const char *revision,
	struct source_listing *l, struct fault *why)
{
	struct finder f = {.source = s, .worker = w, .look = look};
	if (revision)
		return fail(why, TRIMS_E_NOT_FOUND, "%s has no revisions, so no %s@%s", s->url, name, revision);
	return find_model(&f, name, l, why);
}

static int http_open(struct source *s, const char *scheme, const char *rest, struct fault *why)
{
	int r = web_set_base(s, text_format("%s%s", scheme, rest), why);
	if (r)
		return r;
	s->identity = strdup(s->base);
	return s->identity ? 0 : fail_memory(why);
}

const struct source_ops source_http_ops = {
	.open = http_open,
	.resolve = web_resolve,
	.stream = web_stream,
};
