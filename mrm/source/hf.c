/* hf.c - a hub of models, by the API that huggingface.co and its mirrors have.
 *
 * One request, api/models/ID/revision/REV?blobs=true, names the commit and every file, with sizes and, for large files,
 * SHA-256.  Files are then read from ID/resolve/COMMIT/PATH, which redirects to some other host: the token goes to the
 * endpoint only, and where a redirect led is remembered for a while (transfer.c), so that not each range asks the hub.
 * A mirror that leaves the sizes out is asked for each wanted file with HEAD. */
#include "mrm/source/http.h"

#include "shared/image.h"
#include "shared/own.h"

#include <curl/curl.h>
#include <jansson.h>

struct hf {
	char *prefix; /* organisation, or organisation and repository; "" */
	char *token;  /* NULL: none */
};

/* What one resolve knows. */
struct repository {
	char *id, *path; /* path: below the repository, "" for its root */
	const char *commit; /* in info */
	json_t *info, *siblings;
};

static void repository_fini(struct repository *r)
{
	free(r->id);
	free(r->path);
	json_decref(r->info);
}

/* ---- which repository, which path in it ---- */

static size_t segment_end(const char *text)
{
	return strcspn(text, "/");
}

/* "name", "name/file.gguf", "org/name", "org/name/path" */
static int split_name(const struct hf *hf, const char *name, struct repository *out, struct fault *why)
{
	OWN_MEM char *full = text_join(hf->prefix, name);
	if (!full)
		return fail_memory(why);
	size_t id = segment_end(full);
	enum model_format format;
	bool is_file = full[id] && !strchr(full + id + 1, '/') && !header_format(full, &format);
	if (full[id] && !is_file)
		id += 1 + segment_end(full + id + 1);
	out->id = strndup(full, id);
	out->path = strdup(full + id + (full[id] == '/'));
	return out->id && out->path ? 0 : fail_memory(why);
}

/* ---- what the hub says ---- */

static bool is_commit(const char *text)
{
	size_t n = text ? strlen(text) : 0;
	return n >= 40 && n <= 64 && strspn(text, "0123456789abcdef") == n;
}

static int parse_info(const char *url, const char *body, size_t bytes, struct repository *out, struct fault *why)
{
	json_error_t error;
	out->info = json_loadb(body, bytes, 0, &error);
	if (!out->info)
		return fail(why, TRIMS_E_BAD_SOURCE, "%.*s: not JSON: %s", URL_SHOWN(url), error.text);
	out->commit = json_string_value(json_object_get(out->info, "sha"));
	out->siblings = json_object_get(out->info, "siblings");
	if (!is_commit(out->commit) || !json_is_array(out->siblings))
		return fail(why, TRIMS_E_BAD_SOURCE, "%.*s: no commit or no list of files", URL_SHOWN(url));
	return 0;
}

static int get_info(struct source *s, struct source_worker *w, const char *revision, struct repository *out,
	struct fault *why)
{
	OWN_MEM char *id = text_encode_path(out->id);
	OWN_MEM char *rev = text_encode_segment(revision ? revision : "main");
	OWN_MEM char *url = id && rev ? text_format("%s/api/models/%s/revision/%s?blobs=true", s->base, id, rev) : NULL;
	OWN_MEM char *body = NULL;
	size_t bytes;
	if (!url)
		return fail_memory(why);
	int r = web_get_small(s, w, url, s->o.max_json_bytes, &body, &bytes, why);
	return r ? r : parse_info(url, body, bytes, out, why);
}

/* ---- files ---- */

static const json_t *find_sibling(const struct repository *r, const char *path)
{
	size_t i;
	json_t *file;
	json_array_foreach(r->siblings, i, file)
	{
		const char *name = json_string_value(json_object_get(file, "rfilename"));
		if (name && !strcmp(name, path))
			return file;
	}
	return NULL;
}

static bool take_size(const json_t *size, uint64_t *out)
{
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return false;
	*out = (uint64_t)json_integer_value(size);
	return true;
}

/* False when the list leaves the size out. */
static bool take_listed(const json_t *sibling, struct source_file *out)
{
	const json_t *lfs = json_object_get(sibling, "lfs");
	const char *blob = json_string_value(json_object_get(sibling, "blobId"));
	const char *sha = json_string_value(json_object_get(lfs, "sha256"));
	if (!sha)
		sha = json_string_value(json_object_get(lfs, "oid"));
	if (!take_size(json_object_get(lfs, "size"), &out->bytes) &&
		!take_size(json_object_get(sibling, "size"), &out->bytes))
		return false;
	out->has_sha256 = sha && text_sha256(sha, out->sha256);
	const char *version = out->has_sha256 ? sha : blob;
	if (version)
		out->version = text_format("blob:%s", version);
	return true;
}

static int ask_for_file(struct finder *f, struct source_file *out, struct fault *why)
{
	struct transfer t = {.source = f->source, .url = out->locator, .head = true, .small = true,
		.total = HTTP_UNKNOWN};
	int r = http_transfer(f->worker, &t, why);
	if (r)
		return r;
	const struct http_response *a = &t.response;
	out->bytes = a->linked_size != HTTP_UNKNOWN ? a->linked_size : a->length;
	if (out->bytes == HTTP_UNKNOWN)
		return fail(why, TRIMS_E_BAD_SOURCE, "%s: the hub does not say how long it is", out->locator);
	out->has_sha256 = text_sha256(a->linked_etag, out->sha256);
	if (*a->linked_etag)
		out->version = text_format("blob:%s", a->linked_etag);
	return 0;
}

static int look(struct finder *f, const char *path, bool weight, struct source_file *out, struct fault *why)
{
	const struct repository *repo = f->ctx;
	const json_t *sibling = find_sibling(repo, path);
	if (!sibling)
		return fail(why, TRIMS_E_NOT_FOUND, "%s has no file %s", repo->id, path);
	OWN_MEM char *id = text_encode_path(repo->id);
	OWN_MEM char *encoded = text_encode_path(path);
	if (id && encoded)
		out->locator = text_format("%s/%s/resolve/%s/%s", f->source->base, id, repo->commit, encoded);
	out->path = strdup(text_base_name(path));
	if (!out->locator || !out->path)
		return fail_memory(why);
	int r = take_listed(sibling, out) ? 0 : ask_for_file(f, out, why);
	if (!r && !out->version) /* the commit in the URL is version enough */
		out->version = text_format("commit:%s", repo->commit);
	return !r && !out->version ? fail_memory(why) : r;
}

/* The part of path below dir when it lies directly in it; NULL. */
static const char *name_in(const char *dir, const char *path)
{
	size_t n = strlen(dir);
	if (n && (strncmp(path, dir, n) || path[n] != '/'))
		return NULL;
	path += n + (n > 0);
	return *path && !strchr(path, '/') ? path : NULL;
}

static int list(struct finder *f, const char *dir, char ***names, uint32_t *n, struct fault *why)
{
	const struct repository *repo = f->ctx;
	size_t i, room = json_array_size(repo->siblings);
	json_t *file;
	char **v = calloc(room + 1, sizeof *v);
	uint32_t got = 0;
	if (!v)
		return fail_memory(why);
	json_array_foreach(repo->siblings, i, file)
	{
		const char *path = json_string_value(json_object_get(file, "rfilename"));
		const char *name = path ? name_in(dir, path) : NULL;
		if (name && (v[got] = strdup(name)))
			got++;
	}
	*names = v;
	*n = got;
	return 0;
}

static int hf_resolve(struct source *s, struct source_worker *w, const char *name, const char *revision,
	struct source_listing *l, struct fault *why)
{
	struct repository repo = {0};
	struct finder f = {.source = s, .worker = w, .look = look, .list = list, .ctx = &repo};
	int r = split_name(s->priv, name, &repo, why);
	if (!r)
		r = get_info(s, w, revision, &repo, why);
	if (!r && !(l->revision = strdup(repo.commit)))
		r = fail_memory(why);
	if (!r)
		r = find_model(&f, repo.path, l, why);
	repository_fini(&repo);
	return r;
}

/* ---- life ---- */

static int hf_authorize(const struct source *s, const struct http_request *rq, struct curl_slist **headers)
{
	const struct hf *hf = s->priv;
	if (!hf->token)
		return 0;
	OWN_MEM char *line = text_format("Authorization: Bearer %s", hf->token);
	struct curl_slist *more = line ? curl_slist_append(*headers, line) : NULL;
	if (line)
		explicit_bzero(line, strlen(line));
	if (!more)
		return -ENOMEM;
	*headers = more;
	return 0;
}

/* HF_TOKEN, else the file HF_TOKEN_PATH, HF_HOME/token, XDG_CACHE_HOME/huggingface/token, ~/.cache/huggingface/token. */
static char *find_token(void)
{
	static const char *const token[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", NULL}, *const path[] = {"HF_TOKEN_PATH", NULL};
	static const char *const home[] = {"HF_HOME", NULL}, *const cache[] = {"XDG_CACHE_HOME", NULL};
	static const char *const user[] = {"HOME", NULL};
	if (env_first(token))
		return strdup(env_first(token));
	OWN_MEM char *file = NULL;
	if (env_first(path))
		file = strdup(env_first(path));
	else if (env_first(home))
		file = text_format("%s/token", env_first(home));
	else if (env_first(cache))
		file = text_format("%s/huggingface/token", env_first(cache));
	else if (env_first(user))
		file = text_format("%s/.cache/huggingface/token", env_first(user));
	return file ? read_secret_file(file) : NULL;
}

static int check_token(struct source *s, const struct hf *hf, struct fault *why)
{
	if (!hf->token)
		return 0;
	for (const char *p = hf->token; *p; p++)
		if (*p <= ' ' || *p > '~')
			return fail(why, TRIMS_E_BAD_REQUEST, "%s: the hub's token has a character that no token has", s->url);
	if (!strncmp(s->base, "http:", 5))
		degrade(s, DEGRADED_clear_token, "the hub's token goes to %s without TLS", s->origin);
	return 0;
}

static int hf_open(struct source *s, const char *scheme, const char *rest, struct fault *why)
{
	static const char *const endpoint[] = {"HF_ENDPOINT", NULL};
	const char *base = env_first(endpoint);
	struct hf *hf = s->priv = calloc(1, sizeof *hf);
	size_t n = strlen(rest);
	if (!hf)
		return fail_memory(why);
	while (n && rest[n - 1] == '/')
		n--;
	hf->prefix = strndup(rest, n);
	hf->token = find_token();
	if (!hf->prefix)
		return fail_memory(why);
	if (strspn(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") < n || *rest == '/')
		return fail(why, TRIMS_E_BAD_REQUEST, "%s: not hf:// or hf://organisation", s->url);
	int r = web_set_base(s, strdup(base ? base : "https://huggingface.co"), why);
	if (!r)
		r = check_token(s, hf, why);
	if (!r && !(s->identity = text_format("hf %s", s->base)))
		r = fail_memory(why);
	return r;
}

static void hf_close(struct source *s)
{
	struct hf *hf = s->priv;
	if (!hf)
		return;
	free(hf->prefix);
	if (hf->token)
		explicit_bzero(hf->token, strlen(hf->token));
	free(hf->token);
	free(hf);
}

const struct source_ops source_hf_ops = {
	.open = hf_open,
	.close = hf_close,
	.resolve = hf_resolve,
	.stream = web_stream,
	.authorize = hf_authorize,
	.cache_redirects = true,
};
