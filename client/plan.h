/* plan.h - a plan on its way to the daemon: a sealed memory file, shared/plan_wire.h.  Thread: any.  Owns nothing. */
#ifndef CLIENT_PLAN_H
#define CLIENT_PLAN_H

#include "client/trims.h"

struct msg_fds;

/* Checks it and makes the file that a request for that tier carries: *fd, which the caller closes when the request was
 * answered.  Nothing is done for NULL.  BAD_REQUEST; UNSUPPORTED for a struct from another age. */
int plan_for(const struct trims_plan *plan, uint32_t tier, struct msg_fds *out, int *fd);

#endif
