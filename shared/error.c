/* error.c - see error.h.  Keeps: a fault's text is always terminated, printable and valid UTF-8. */
#include "shared/error.h"

#include "shared/base.h"
#include "shared/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *text;
	enum trims_scope scope;
} rows[] = {
#define ERR(number, name_, scope_, text_) [number] = {#name_, text_, TRIMS_SCOPE_##scope_},
#include "shared/errors.def"
#undef ERR
};

const char *error_name(uint32_t code)
{
	return code < ARRAY_LEN(rows) && rows[code].name ? rows[code].name : "UNKNOWN";
}

const char *error_text(uint32_t code)
{
	return code < ARRAY_LEN(rows) && rows[code].text ? rows[code].text : "unknown error";
}

enum trims_scope error_scope(uint32_t code)
{
	return code < ARRAY_LEN(rows) ? rows[code].scope : TRIMS_SCOPE_CONN;
}

const char *error_scope_name(enum trims_scope scope)
{
	static const char *const names[] = {"request", "conn", "daemon"};
	return (unsigned)scope < ARRAY_LEN(names) ? names[scope] : "conn";
}

/* Parts of a text may come from a remote server, and cutting may have gone through a character. */
static void clean(char *text)
{
	for (size_t n; *text; text += n) {
		n = utf8_sequence(text, strnlen(text, 4));
		if (!n)
			*text = '?';
		else if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = ' ';
		n = n ? n : 1;
	}
}

int fault_setv(struct fault *f, enum trims_code code, const char *fmt, va_list ap)
{
	if (f) {
		f->code = code;
		vsnprintf(f->text, sizeof f->text, fmt, ap);
		clean(f->text);
	}
	return -EPROTO;
}

int fault_set(struct fault *f, enum trims_code code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int r = fault_setv(f, code, fmt, ap);
	va_end(ap);
	return r;
}

int fault_errno(struct fault *f, enum trims_code code, int err, const char *fmt, ...)
{
	if (err == ENOSPC || err == EDQUOT)
		code = TRIMS_E_DISK_FULL;
	else if (err == ENOMEM)
		code = TRIMS_E_NO_MEMORY;
	char what[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	char buf[128];
	return fault_set(f, code, "%s: %s", what, strerror_r(err, buf, sizeof buf));
}
