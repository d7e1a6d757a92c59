/* plan.h - provisioning plans as both sides of the socket see them: what is known of a model's layers and of a machine's
 * links, and for each layer how its bytes come to the kernels that read them.  cache/plan.h makes plans.
 *
 * A plan is one byte per layer, in the order of execution; it is its own encoding, in memory, in files and on the wire:
 *   PLAN_DHA       the layer is not loaded: its kernels read host memory over the target's link (direct host access)
 *   PLAN_NOTHING   there is nothing to bring: no bytes, or those of an earlier layer that is loaded
 *   else           it is loaded over link plan_link(); with PLAN_JOIN in one piece with the layer before it (but
 *                  for those with nothing to bring), which is loaded over the same link: one overhead is paid, and
 *                  all of a piece can be used when the whole of it is there
 * Times are ns, sizes bytes, rates bytes per second.  Thread: any.  Owns nothing. */
#ifndef SHARED_PLAN_H
#define SHARED_PLAN_H

#include "shared/base.h"

#define PLAN_MAX_LAYERS 8192
#define PLAN_MAX_LINKS 16
#define PLAN_MAX_SHARINGS 64                   /* ways in which layers with the same bytes can be loaded or not */
#define PLAN_MAX_NS ((uint64_t)1 << 36)        /* of one layer, for anything: 68 s */
#define PLAN_MAX_TOTAL_NS ((uint64_t)1 << 40)  /* all that its layers might take, one after the other: 18 minutes */
#define PLAN_MAX_BYTES ((uint64_t)1 << 42)     /* of one layer */
#define PLAN_MAX_RATE ((uint64_t)1 << 42)

#define PLAN_DHA ((uint8_t)0xff)
#define PLAN_NOTHING ((uint8_t)0xfe)
#define PLAN_JOIN ((uint8_t)0x80)

static inline bool plan_is_load(uint8_t how)
{
	return how < PLAN_NOTHING;
}

static inline unsigned plan_link(uint8_t how)
{
	return how & 0x0f;
}

/* One layer, in the order of execution, for one batch size. */
struct plan_layer {
	uint64_t bytes;         /* its weights */
	uint64_t exec_ns;       /* with them in device memory */
	uint64_t dha_ns;        /* with them in host memory, the link being idle otherwise; 0: cannot be, or was not measured */
	uint64_t touched_bytes; /* that cross the link while it runs so, re-reads counted; they take dha_ns at most */
	uint64_t copy_ns;       /* of its bytes over the target's link; 0: by the link's rate */
	uint32_t first_tensor, n_tensors; /* of the model's tensor table; planning does not look at them */
	uint32_t same_as;       /* 1 + the first layer that reads the same bytes (an output layer: the embedding); 0: none does */
};

struct plan_profile {
	const struct plan_layer *layers;
	uint32_t n_layers;
};

/* The way from host memory to one GPU. */
struct plan_link {
	uint64_t bytes_per_s;     /* what pieces of chunk_bytes get that queue behind one another */
	uint64_t overhead_ns;     /* that a piece costs beyond its bytes if its first layer is less than a chunk */
	uint64_t hop_bytes_per_s; /* from that GPU to the target (NVLink); 0: none; not looked at for the target's own link */
	uint32_t group;           /* links of one group share hardware (PCIe switch, NUMA node): one of them at a time */
	bool busy;                /* others use it now: not for parallel transmission */
};

struct plan_machine {
	struct plan_link links[PLAN_MAX_LINKS];
	uint32_t n_links;
	uint32_t target;          /* the link of the GPU that runs the model */
	uint64_t chunk_bytes;     /* a long piece is moved, and passed on to the target, in chunks of this size */
	uint64_t memory_bytes;    /* for weights on the target; 0: they all fit */
	bool dha;                 /* kernels of the client can read host memory here */
};

#endif
