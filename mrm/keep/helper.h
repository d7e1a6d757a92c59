/* helper.h - the process that holds descriptors, and what is said between it and the daemon: one datagram of this form each
 * way, PUT and what LIST gives with a descriptor.  Thread: the helper has one. */
#ifndef MRM_KEEP_HELPER_H
#define MRM_KEEP_HELPER_H

#include "mrm/keep/keep.h"

enum helper_op { HELPER_PUT = 1, HELPER_DROP, HELPER_LIST, HELPER_ITEM, HELPER_DONE, HELPER_END };

struct helper_msg {
	uint32_t op;
	int32_t result; /* DONE: 0 or -errno */
	uint64_t hold_ns; /* LIST: how long to wait for the next daemon when this one goes */
	char name[KEEP_NAME_MAX + 1];
};

/* Descriptors by name; both sides have such a list. */
struct kept_list {
	struct kept *v;
	size_t n, cap;
};

/* Takes the descriptor over; -ENOMEM: it does not.  name: of at most KEEP_NAME_MAX bytes. */
int kept_list_add(struct kept_list *l, const char *name, int fd);

/* The socket's path below `dir`. */
#define HELPER_SOCKET "keep.sock"

/* Serves until it is told to end or nobody has come for hold_ns; never returns.  listener: bound and listening. */
_Noreturn void helper_run(int listener, uint64_t hold_ns);

#endif
