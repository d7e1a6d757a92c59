/* fail.c - how trims-ctl says no: a sentence on stderr, the exit code, and JSON for programs. */
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <stdarg.h>

void print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
	putchar('\n');
}

static void print_error(const char *code, const char *scope, const char *text)
{
	json_t *e = json_pack("{s:{s:s,s:s,s:s}}", "error", "code", code, "scope", scope, "text", text);
	if (e)
		print_json(e);
	json_decref(e);
}

int ctl_fail(const struct ctl *c, const struct fault *f)
{
	enum trims_scope scope = error_scope(f->code);
	fputs("trims-ctl: ", stderr);
	text_put_clean(stderr, f->text[0] ? f->text : error_text(f->code));
	fputc('\n', stderr);
	if (c->given & OPT_json)
		print_error(error_name(f->code), error_scope_name(scope), f->text);
	return scope == TRIMS_SCOPE_REQUEST ? CTL_REFUSED : CTL_UNREACHABLE;
}

int ctl_usage(const struct ctl *c, const char *fmt, ...)
{
	char text[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	fputs("trims-ctl: ", stderr);
	text_put_clean(stderr, text);
	fputc('\n', stderr);
	if (c->given & OPT_json)
		print_error("USAGE", "request", text);
	return CTL_USAGE;
}
