/* error.h - error codes, their scopes, and the sentence that goes with a failure.
 * Thread: any.  `struct fault` is plain memory owned by whoever declared it. */
#ifndef SHARED_ERROR_H
#define SHARED_ERROR_H

#include <stdarg.h>
#include <stdint.h>

/* trims.h spells these out for programs that have no errors.def; tests/unit/test_trims_h.c compares the two. */
#ifndef TRIMS_CODES
#define TRIMS_CODES
enum trims_code {
#define ERR(number, name, scope, text) TRIMS_E_##name = number,
#include "shared/errors.def"
#undef ERR
};

enum trims_scope { TRIMS_SCOPE_REQUEST, TRIMS_SCOPE_CONN, TRIMS_SCOPE_DAEMON };
#endif

#define FAULT_TEXT_MAX 512

/* What went wrong, as a code and as a sentence a person can act on: it names the file, tensor or address concerned. */
struct fault {
	enum trims_code code;
	char text[FAULT_TEXT_MAX];
};

/* "NOT_FOUND"; "UNKNOWN" for a number that no row has. */
const char *error_name(uint32_t code);
/* The row's general text. */
const char *error_text(uint32_t code);
enum trims_scope error_scope(uint32_t code);
/* "request", "conn", "daemon" */
const char *error_scope_name(enum trims_scope scope);

/* Fills *f (NULL: nothing is kept); the text is cut at FAULT_TEXT_MAX and cleaned of control characters, since parts of
 * it may come from a remote server.  Returns -EPROTO for convenience: `return fault_set(...)`. */
int fault_set(struct fault *f, enum trims_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int fault_setv(struct fault *f, enum trims_code code, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));
/* As fault_set with ": strerror(err)" added; maps ENOSPC/EDQUOT to DISK_FULL, ENOMEM to NO_MEMORY, else `code`. */
int fault_errno(struct fault *f, enum trims_code code, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
