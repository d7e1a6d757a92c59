/* plans.h - the provisioning plans that clients have brought (shared/plan_wire.h): each kept once, under a number that the brain
 * knows it by, until nothing refers to it and room is wanted (--plan-memory): the one that was let go first makes room first.
 * What an OPEN costs is bounded by its own plan and by PLANS_LEAST, however many there are.
 *
 * Thread: loop; plan_put() and what a plan holds: any.  Ownership: struct plans has a reference of each plan, copies made by one
 * have another. */
#ifndef MRM_PLANS_H
#define MRM_PLANS_H

#include "cache/cache.h"
#include "mrm/daemon.h"
#include "shared/list.h"
#include "shared/pieces.h"

#define PLANS_LEAST 2048 /* bytes that a plan counts for at least */

struct plans;

struct plan {
	_Atomic uint32_t refs;
	struct list idle_node;   /* loop alone: hooked while the brain does not refer to it */
	uint32_t used;           /* loop alone: by how many places of the brain */
	uint32_t n_tensors;      /* that a model must have at least */
	uint64_t number;
	uint64_t hash;           /* of its bytes */
	uint64_t bytes;          /* of it alone */
	struct plan_head *head;  /* checked, but for how many tensors the model has */
	/* Loop alone: what came out for the model it was asked for last; all zero: for none.  Each open asks. */
	uint64_t sized_hi, sized_lo;
	struct cache_device_size size;
};

struct plans *plans_new(struct daemon *d);
void plans_free(struct plans **p);

/* Reads the plan that a client sent; fd stays the caller's.  Only memory files that nobody can change any more are read: they
 * make nobody wait.  BAD_REQUEST; LIMIT when there is no room for more. */
int plans_read(struct plans *p, int fd, uint64_t *number, struct fault *why);
/* The same of bytes, which are copied. */
int plans_add(struct plans *p, const void *bytes, uint64_t n, uint64_t *number, struct fault *why);
/* Whether the plan goes with a model of so many tensors: 0, or -EPROTO and BAD_REQUEST. */
int plans_check(struct plans *p, uint64_t number, uint32_t n_tensors, struct fault *why);
/* A reference; NULL for 0 and for a number that is no plan's any more. */
struct plan *plans_get(struct plans *p, uint64_t number);
/* NULL is fine. */
void plan_put(struct plan **p);

/* How a model is cut by a plan (NULL, or one that does not fit: none) for devices of this daemon. */
/* In which order the host's copy comes by it (pieces_host_order()); device: one is filled from there.  A new array, or NULL: the
 * plan does not fit, or there is no memory: image order. */
uint32_t *plans_host_order(struct daemon *d, const struct layout *l, const struct plan *plan, bool device);
int plans_pieces(struct daemon *d, const struct layout *l, const struct plan *plan, struct pieces **out, struct fault *why);
/* For struct cache_config; ctx is the daemon. */
void plans_ref(void *ctx, uint64_t number, int change);
void plans_device_size(void *ctx, const struct cache_model_info *info, uint64_t number, struct cache_device_size *out);

#endif
