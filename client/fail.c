/* fail.c - see fail.h. */
#include "client/fail.h"

#include "client/trims.h"

#include <stdio.h>
#include <string.h>

static _Thread_local struct trims_error last;

_Static_assert(TRIMS_MAX_TEXT >= FAULT_TEXT_MAX, "a fault's text fits");

int fail_fault(const struct fault *f)
{
	last.code = (int)f->code;
	last.scope = (int)error_scope(f->code);
	memcpy(last.text, f->text, strnlen(f->text, sizeof f->text - 1) + 1);
	return -(int)f->code;
}

int fail(enum trims_code code, const char *fmt, ...)
{
	struct fault f;
	va_list ap;
	va_start(ap, fmt);
	fault_setv(&f, code, fmt, ap);
	va_end(ap);
	return fail_fault(&f);
}

int fail_errno(enum trims_code code, int err, const char *fmt, ...)
{
	struct fault f;
	char what[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	fault_errno(&f, code, err, "%s", what);
	return fail_fault(&f);
}

const struct trims_error *trims_last_error(void)
{
	return &last;
}

const char *trims_code_name(int code)
{
	return error_name(code < 0 ? 0u - (unsigned)code : (unsigned)code);
}

const char *trims_scope_name(int scope)
{
	return error_scope_name((enum trims_scope)scope);
}

const char *trims_version(void)
{
	return TRIMS_VERSION;
}
