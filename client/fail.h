/* fail.h - how a function of libtrims reports a failure: `return fail(TRIMS_E_X, "...")`.
 * The sentence goes to the calling thread's trims_last_error(), the negative code to the caller.
 * Thread: any.  Owns: the thread's struct trims_error. */
#ifndef CLIENT_FAIL_H
#define CLIENT_FAIL_H

#include "shared/error.h"

/* Each returns -code. */
int fail(enum trims_code code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds ": strerror(err)"; the code is as fault_errno() chooses it. */
int fail_errno(enum trims_code code, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int fail_fault(const struct fault *f);

#endif
