/* text.c - strings, URLs and the environment, for the sources. */
#include "mrm/source/internal.h"

#include "shared/own.h"

#include <ctype.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

char *text_format(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : text;
}

bool text_ends_with(const char *text, const char *suffix)
{
	size_t n = strlen(text), m = strlen(suffix);
	return n >= m && !strcmp(text + n - m, suffix);
}

static bool is_unreserved(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
	       c == '_' || c == '~';
}

static char *encode(const char *path, bool keep_slashes)
{
	static const char digits[] = "0123456789ABCDEF";
	char *out = malloc(3 * strlen(path) + 1), *to = out;
	if (!out)
		return NULL;
	for (const unsigned char *p = (const unsigned char *)path; *p; p++) {
		if (is_unreserved(*p) || (*p == '/' && keep_slashes)) {
			*to++ = (char)*p;
		} else {
			*to++ = '%';
			*to++ = digits[*p >> 4];
			*to++ = digits[*p & 15];
		}
	}
	*to = 0;
	return out;
}

char *text_encode_path(const char *path)
{
	return encode(path, true);
}

char *text_encode_segment(const char *segment)
{
	return encode(segment, false);
}

char *text_join(const char *dir, const char *name)
{
	return *dir ? text_format("%s/%s", dir, name) : strdup(name);
}

const char *text_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool text_sha256(const char *hex, uint8_t out[32])
{
	if (strlen(hex) != 64)
		return false;
	for (size_t i = 0; i < 32; i++) {
		int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static char *origin_of(CURLU *u)
{
	char *scheme = NULL, *host = NULL, *port = NULL, *out = NULL;
	if (!curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) && !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
		!curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) &&
		(!strcasecmp(scheme, "http") || !strcasecmp(scheme, "https")))
		out = text_format("%s://%s:%s", scheme, host, port);
	for (char *p = out; p && *p; p++)
		*p = (char)tolower((unsigned char)*p);
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	return out;
}

char *url_origin(const char *url)
{
	CURLU *u = curl_url();
	char *out = u && !curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) ? origin_of(u) : NULL;
	curl_url_cleanup(u);
	return out;
}

const char *env_first(const char *const *names)
{
	for (; *names; names++) {
		const char *value = getenv(*names);
		if (value && *value)
			return value;
	}
	return NULL;
}

char *read_secret_file(const char *path)
{
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char buf[4097];
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf - 1);
	if (n <= 0)
		return NULL;
	buf[n] = 0;
	char *start = buf + strspn(buf, " \t\r\n");
	start[strcspn(start, " \t\r\n")] = 0;
	return *start ? strdup(start) : NULL;
}
