/* dispatch.h - from a message to its handler.  A C2D row of messages.def without a handler does not link.  Thread: loop. */
#ifndef MRM_DISPATCH_H
#define MRM_DISPATCH_H

#include "shared/msg.h"

struct conn;

/* Handles one decoded message; descriptors left in it are closed by the caller. */
void dispatch(struct conn *c, struct msg *m);

#define MSG(NAME, name, type, direction, doc) DISPATCH_##direction(name)
#define DISPATCH_C2D(name) void dispatch_##name(struct conn *c, uint64_t request, const struct msg_##name *m);
#define DISPATCH_D2C(name)
#include "shared/messages.def"
#undef DISPATCH_C2D
#undef DISPATCH_D2C

#endif
