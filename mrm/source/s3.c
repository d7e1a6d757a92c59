/* s3.c - S3-compatible stores, with Signature Version 4 made here.
 *
 * libcurl can sign too, but before 8.x it neither sends x-amz-content-sha256 nor signs the session token, which stores
 * demand.  Requests are bodiless GET and HEAD without a query, which keeps the canonical form small: method, path as
 * encoded by text_encode_path() (S3 encodes once), an empty query, and the headers signed below in sorted order.
 * Addresses: bucket.s3.region.amazonaws.com, or path style with an endpoint of one's own or a dot in the bucket's name
 * (which no wildcard certificate covers).  Without credentials in the environment requests are not signed. */
#include "mrm/source/http.h"

#include "shared/own.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <time.h>

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct s3 {
	char *region, *key_id, *secret, *token; /* key_id NULL: unsigned; token may be NULL */
};

/* ---- signature ---- */

struct signing {
	char host[512], path[8192], now[32], day[16], scope[128];
	const char *signed_headers;
};

static void to_hex(const uint8_t *in, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", in[i]);
}

static int hmac(const void *key, size_t key_bytes, const char *text, uint8_t out[32])
{
	unsigned n = 32;
	return HMAC(EVP_sha256(), key, (int)key_bytes, (const uint8_t *)text, strlen(text), out, &n) ? 0 : -EIO;
}

static int sha256_hex(const char *text, char out[65])
{
	uint8_t digest[32];
	if (!EVP_Digest(text, strlen(text), digest, NULL, EVP_sha256(), NULL))
		return -EIO;
	to_hex(digest, sizeof digest, out);
	return 0;
}

/* The key of this day, region and service, derived as the specification says. */
static int derive_key(const struct s3 *c, const struct signing *g, uint8_t key[32])
{
	OWN_MEM char *start = text_format("AWS4%s", c->secret);
	int r = start ? hmac(start, strlen(start), g->day, key) : -ENOMEM;
	if (!r)
		r = hmac(key, 32, c->region, key);
	if (!r)
		r = hmac(key, 32, "s3", key);
	if (!r)
		r = hmac(key, 32, "aws4_request", key);
	if (start)
		explicit_bzero(start, strlen(start));
	return r;
}

/* Host as curl will send it (the default port left out) and the path, both out of the URL. */
static int split_url(const char *url, struct signing *g)
{
	CURLU *u = curl_url();
	char *host = NULL, *path = NULL, *port = NULL;
	int n = -1, m = -1;
	if (u && !curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) && !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
		!curl_url_get(u, CURLUPART_PATH, &path, 0)) {
		bool has_port = !curl_url_get(u, CURLUPART_PORT, &port, CURLU_NO_DEFAULT_PORT);
		n = snprintf(g->host, sizeof g->host, "%s%s%s", host, has_port ? ":" : "", has_port ? port : "");
		m = snprintf(g->path, sizeof g->path, "%s", path);
	}
	curl_free(host);
	curl_free(path);
	curl_free(port);
	curl_url_cleanup(u);
	return n < 0 || m < 0 || n >= (int)sizeof g->host || m >= (int)sizeof g->path ? -EINVAL : 0;
}

static int canonical_hash(const struct s3 *c, const struct signing *g, bool head, char out[65])
{
	OWN_MEM char *text = text_format("%s\n%s\n\nhost:%s\nx-amz-content-sha256:%s\nx-amz-date:%s\n%s%s%s\n%s\n%s",
		head ? "HEAD" : "GET", g->path, g->host, EMPTY_SHA256, g->now, c->token ? "x-amz-security-token:" : "",
		c->token ? c->token : "", c->token ? "\n" : "", g->signed_headers, EMPTY_SHA256);
	return text ? sha256_hex(text, out) : -ENOMEM;
}

static int sign(const struct s3 *c, const struct signing *g, bool head, char out[65])
{
	char hash[65];
	uint8_t key[32], digest[32];
	int r = canonical_hash(c, g, head, hash);
	if (r)
		return r;
	OWN_MEM char *text = text_format("AWS4-HMAC-SHA256\n%s\n%s\n%s", g->now, g->scope, hash);
	if (!text)
		return -ENOMEM;
	r = derive_key(c, g, key);
	if (!r)
		r = hmac(key, sizeof key, text, digest);
	explicit_bzero(key, sizeof key);
	to_hex(digest, sizeof digest, out);
	return r;
}

static int append(struct curl_slist **headers, char *line)
{
	struct curl_slist *more = line ? curl_slist_append(*headers, line) : NULL;
	free(line);
	if (!more)
		return -ENOMEM;
	*headers = more;
	return 0;
}

static int s3_authorize(const struct source *s, const struct http_request *rq, struct curl_slist **headers)
{
	const struct s3 *c = s->priv;
	struct signing g;
	struct tm tm;
	time_t now = time(NULL);
	char signature[65];
	if (!c->key_id)
		return 0;
	gmtime_r(&now, &tm);
	strftime(g.now, sizeof g.now, "%Y%m%dT%H%M%SZ", &tm);
	strftime(g.day, sizeof g.day, "%Y%m%d", &tm);
	snprintf(g.scope, sizeof g.scope, "%s/%s/s3/aws4_request", g.day, c->region);
	g.signed_headers = c->token ? "host;x-amz-content-sha256;x-amz-date;x-amz-security-token"
				    : "host;x-amz-content-sha256;x-amz-date";
	int r = split_url(rq->url, &g);
	if (!r)
		r = sign(c, &g, rq->head, signature);
	if (!r)
		r = append(headers, text_format("x-amz-content-sha256: %s", EMPTY_SHA256));
	if (!r)
		r = append(headers, text_format("x-amz-date: %s", g.now));
	if (!r && c->token)
		r = append(headers, text_format("x-amz-security-token: %s", c->token));
	if (!r)
		r = append(headers, text_format("Authorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, "
			"Signature=%s", c->key_id, g.scope, g.signed_headers, signature));
	return r;
}

/* ---- life ---- */

static int copy_env(char **out, const char *const *names, const char *otherwise)
{
	const char *value = env_first(names);
	value = value ? value : otherwise;
	*out = value ? strdup(value) : NULL;
	return value && !*out ? -ENOMEM : 0;
}

static int read_environment(struct source *s, struct s3 *c, struct fault *why)
{
	static const char *const region[] = {"AWS_REGION", "AWS_DEFAULT_REGION", NULL};
	static const char *const key_id[] = {"AWS_ACCESS_KEY_ID", NULL}, *const secret[] = {"AWS_SECRET_ACCESS_KEY", NULL};
	static const char *const token[] = {"AWS_SESSION_TOKEN", NULL}, *const ca[] = {"AWS_CA_BUNDLE", NULL};
	if (copy_env(&c->region, region, "us-east-1") || copy_env(&c->key_id, key_id, NULL) ||
		copy_env(&c->secret, secret, NULL) || copy_env(&c->token, token, NULL))
		return fail_memory(why);
	if (!c->key_id != !c->secret)
		return fail(why, TRIMS_E_BAD_REQUEST, "%s: of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set",
			s->url);
	if (strlen(c->region) > 64 || strspn(c->region, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(c->region))
		return fail(why, TRIMS_E_BAD_REQUEST, "%s: AWS_REGION is not the name of a region", s->url);
	if (env_first(ca)) {
		free(s->ca_file);
		if (copy_env(&s->ca_file, ca, NULL))
			return fail_memory(why);
	}
	return 0;
}

static char *make_base(const struct s3 *c, const char *bucket, const char *prefix)
{
	static const char *const names[] = {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", NULL};
	const char *endpoint = env_first(names);
	const char *china = !strncmp(c->region, "cn-", 3) ? ".cn" : "";
	if (endpoint) {
		int n = (int)strlen(endpoint);
		while (n && endpoint[n - 1] == '/')
			n--;
		return text_format("%.*s/%s/%s", n, endpoint, bucket, prefix);
	}
	if (strchr(bucket, '.'))
		return text_format("https://s3.%s.amazonaws.com%s/%s/%s", c->region, china, bucket, prefix);
	return text_format("https://%s.s3.%s.amazonaws.com%s/%s", bucket, c->region, china, prefix);
}

/* rest: "bucket" or "bucket/prefix" */
static int set_location(struct source *s, const struct s3 *c, const char *rest, struct fault *why)
{
	size_t n = strcspn(rest, "/");
	OWN_MEM char *bucket = strndup(rest, n);
	OWN_MEM char *prefix = text_encode_path(rest + n + (rest[n] == '/'));
	if (!bucket || !prefix)
		return fail_memory(why);
	if (n < 3 || n > 63 || strspn(bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != n)
		return fail(why, TRIMS_E_BAD_REQUEST, "%s: not the name of a bucket", s->url);
	int r = web_set_base(s, make_base(c, bucket, prefix), why);
	if (r)
		return r;
	s->identity = text_format("s3 %s", s->base);
	return s->identity ? 0 : fail_memory(why);
}

static int s3_open(struct source *s, const char *scheme, const char *rest, struct fault *why)
{
	struct s3 *c = s->priv = calloc(1, sizeof *c);
	if (!c)
		return fail_memory(why);
	int r = read_environment(s, c, why);
	if (!r)
		r = set_location(s, c, rest, why);
	if (!r && c->token && !strncmp(s->base, "http:", 5))
		degrade(s, DEGRADED_clear_token, "AWS_SESSION_TOKEN goes to %s without TLS", s->origin);
	return r;
}

static void forget(char **secret)
{
	if (*secret)
		explicit_bzero(*secret, strlen(*secret));
	free(*secret);
	*secret = NULL;
}

static void s3_close(struct source *s)
{
	struct s3 *c = s->priv;
	if (!c)
		return;
	free(c->region);
	free(c->key_id);
	forget(&c->secret);
	forget(&c->token);
	free(c);
}

const struct source_ops source_s3_ops = {
	.open = s3_open,
	.close = s3_close,
	.resolve = web_resolve,
	.stream = web_stream,
	.authorize = s3_authorize,
	.refused_is_absent = true,
	.denied_means = "absent, or not permitted: the credentials may lack s3:ListBucket, without which a store does not "
		"say which",
};
