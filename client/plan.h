/* plan.h - a plan on its way to the daemon: a sealed memory file, shared/plan_wire.h.  Thread: any.  Owns nothing. */
#ifndef CLIENT_PLAN_H
#define CLIENT_PLAN_H

#include "client/trims.h"

/* Checks it and makes the file, the caller's to close.  BAD_REQUEST; UNSUPPORTED for a struct from another age. */
int plan_memory(const struct trims_plan *plan, int *out);

#endif
