/* name.c - see name.h.  Keeps: never looks behind NAME_MAX_BYTES + 1 bytes of its input. */
#include "shared/name.h"

#include "shared/base.h"

#include <string.h>

static bool allowed(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
		c == '-' || c == '+';
}

/* NULL, or which rule the text breaks. */
static const char *check_base(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		bool first = i == 0 || s[i - 1] == '/';
		if (first && s[i] == '/')
			return "has an empty segment";
		if (first && s[i] == '.')
			return "has a segment that begins with a dot";
		if (s[i] != '/' && !allowed(s[i]))
			return "has a character outside A-Z a-z 0-9 . _ - + /";
	}
	return len == 0 || s[len - 1] == '/' ? "has an empty segment" : NULL;
}

static const char *check_revision(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (s[i] != '/' && !allowed(s[i]))
			return "has a revision with a character outside A-Z a-z 0-9 . _ - + /";
		if (s[i] == '.' && i + 1 < len && s[i + 1] == '.')
			return "has a revision with two dots in a row";
		if (s[i] == '/' && i + 1 < len && s[i + 1] == '/')
			return "has a revision with an empty segment";
	}
	return len == 0 || s[0] == '/' || s[len - 1] == '/' ? "has a revision with an empty segment" : NULL;
}

/* As name_check(); *base_len is where the base ends, *len where the name does. */
static int measure(const char *name, size_t *base_len, size_t *len, struct fault *why)
{
	*len = strnlen(name, NAME_MAX_BYTES + 1);
	if (*len > NAME_MAX_BYTES)
		return fault_set(why, TRIMS_E_BAD_NAME, "model name \"%.64s...\" is longer than %d bytes", name, NAME_MAX_BYTES);
	const char *at = memchr(name, '@', *len);
	*base_len = at ? (size_t)(at - name) : *len;
	const char *broken = check_base(name, *base_len);
	if (!broken && at)
		broken = check_revision(at + 1, *len - *base_len - 1);
	return broken ? fault_set(why, TRIMS_E_BAD_NAME, "model name \"%s\" %s", name, broken) : 0;
}

int name_check(const char *name, struct fault *why)
{
	size_t base_len, len;
	return measure(name, &base_len, &len, why);
}

int name_split(const char *name, char base[NAME_MAX_BYTES + 1], char revision[NAME_MAX_BYTES + 1], struct fault *why)
{
	size_t base_len, len;
	int r = measure(name, &base_len, &len, why);
	if (r < 0)
		return r;
	memcpy(base, name, base_len);
	base[base_len] = 0;
	size_t from = base_len < len ? base_len + 1 : len;
	memcpy(revision, name + from, len - from);
	revision[len - from] = 0;
	return 0;
}
