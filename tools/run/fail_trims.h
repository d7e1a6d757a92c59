/* fail_trims.h - the library's last error of this thread as a fault.  Thread: that one. */
#ifndef TOOLS_RUN_FAIL_TRIMS_H
#define TOOLS_RUN_FAIL_TRIMS_H

#include "client/trims.h"
#include "shared/error.h"

/* As fault_set(): what a function that failed by the library returns. */
static inline int fail_trims(struct fault *why)
{
	const struct trims_error *e = trims_last_error();
	return fault_set(why, (enum trims_code)e->code, "%s", e->text);
}

#endif
