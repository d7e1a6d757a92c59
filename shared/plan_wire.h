/* plan_wire.h - a provisioning plan as it crosses the socket: which tensors of a model are to lie on the device, which are
 * read from the host where they are (direct host access), and in which order they are needed.
 *
 * A memory file of struct plan_head and n_entries of struct plan_entry, little-endian, nothing behind them; passed with OPEN,
 * PREFETCH and PIN.  Entries stand in the order of execution, each tensor at most once; tensors that no entry names are
 * loaded behind those.  pieces.h says what follows from it for a layout.
 *
 * Thread: any.  Pure. */
#ifndef SHARED_PLAN_WIRE_H
#define SHARED_PLAN_WIRE_H

#include "shared/base.h"
#include "shared/error.h"

#include <stddef.h>

#define PLAN_WIRE_MAGIC "TRIMSPLN" /* without its NUL */
#define PLAN_WIRE_VERSION 1
#define PLAN_WIRE_ENTRIES ((uint32_t)1 << 18) /* a model of a million million parameters has 150,000 tensors */
#define PLAN_WIRE_HELPERS 8
#define PLAN_WIRE_UUID 48 /* a UUID and its NUL */
#define PLAN_WIRE_BYTES (sizeof(struct plan_head) + PLAN_WIRE_ENTRIES * sizeof(struct plan_entry))

struct plan_head {
	char magic[8];
	uint32_t version;
	uint32_t n_entries;        /* at most PLAN_WIRE_ENTRIES */
	uint64_t keep_bytes;       /* in the order of execution, so many loaded bytes at the front that the rest arrives no later than
	                            * it is needed: what an idle copy is cut down to under pressure; 0: evict it whole */
	uint64_t dha_bytes_per_s;  /* of the device's link, for direct host access while a lease with this plan lasts; 0: none */
	uint32_t n_helpers;        /* at most PLAN_WIRE_HELPERS */
	uint32_t reserved;         /* 0 */
	char helper[PLAN_WIRE_HELPERS][PLAN_WIRE_UUID]; /* UUIDs of devices over whose links bytes may come; unused: zeros */
};

enum plan_place { PLAN_PLACE_LOAD = 0, PLAN_PLACE_DHA = 1 };

struct plan_entry {
	uint32_t tensor;           /* its index in the tensor table */
	uint8_t place;             /* enum plan_place */
	uint8_t link;              /* 0: the device's own; k: that of helper[k - 1]; PLAN_PLACE_LOAD only */
	uint16_t step;             /* the layer it belongs to, for traces */
};

_Static_assert(sizeof(struct plan_head) == 424 && sizeof(struct plan_entry) == 8, "wire format");
_Static_assert(offsetof(struct plan_head, keep_bytes) == 16 && offsetof(struct plan_head, helper) == 40, "wire format");

static inline const struct plan_entry *plan_entries(const struct plan_head *p)
{
	return (const struct plan_entry *)(p + 1);
}

/* Of `bytes` bytes at an 8-aligned address that somebody else wrote: 0, or -EPROTO and BAD_REQUEST with a sentence.
 * n_tensors: of the model the plan is for; 0: not known yet.  -ENOMEM. */
int plan_check(const void *plan, uint64_t bytes, uint32_t n_tensors, struct fault *why);
/* Whether a plan that passed goes with a model of so many tensors. */
int plan_check_model(const struct plan_head *p, uint32_t n_tensors, struct fault *why);

#endif
