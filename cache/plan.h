/* plan.h - provisioning plans: for each layer of a model, whether it is loaded and over which link, or read where it is,
 * so that the first result is there soonest.
 *
 * THE TIMELINE.  All of the model is in host memory at time 0.  Layers run in order, one at a time.
 *  - Each link serves what the plan gives it in the order of the layers, without a pause.  A piece takes the
 *    time of its bytes, and one that begins with a layer of less than a chunk the link's overhead (others are moved in chunks
 *    that queue behind one another, which the rate is of); all its layers can be used when its end has arrived.  Over another GPU's link the
 *    rate is the lesser of link and hop, and the piece arrives later by the hop of one chunk.
 *  - A layer that is read from the host takes dha_ns, whenever it runs, and its traffic (touched_bytes) is charged to the
 *    target's link, in the order of the layers: whatever is loaded over it for later ones comes so much later.  That is
 *    where DeepPlan's model differs (PLAN_UNCHARGED), which lets a link carry both at once.
 *    Really the traffic may come behind such a load, so a real link is at no time further behind than this.
 *
 * THE SPACE.  A plan says LOAD (link, joined or not), DHA or NOTHING for each layer, where
 *  - loads in the order of layers are contiguous parts: the target's link has the first (it may be empty), every
 *    other link at most one, in any order;
 *  - the links are usable: the target's; of the others those that are idle, reach the target by a hop, and are in no
 *    group with it or with each other (of each group the fastest, the PLAN_MAX_PARTS - 1 fastest of all);
 *  - a layer without dha_ns is loaded, on a machine without `dha` all are; loaded bytes are at most memory_bytes;
 *  - of layers with the same bytes the first is loaded, or all are read from the host: a tensor has one place.
 * All policies' plans lie in it.  PLAN_BY_BEST is the least `total_ns` in it: a dynamic programme over the layers whose states
 * (frontier of the part's link, run time if its piece ends here, run time if it goes on, bytes loaded where
 * they are bounded) are dropped only when another is no worse in each, or when a bound on all their ends (two
 * Lagrange multipliers: link time, memory) is no better than a plan that is known.  So it is exact, in ns; states that would
 * exceed PLAN_MAX_STATES are dropped by that bound, and figures then say so: exact is false, and bound_ns is below every
 * plan's total.  (Why parts: to spread layers over links freely is the partition problem.)
 *
 * Pure: no clock, files, threads or randomness; equal input gives equal plans.  Thread: any, one call's data at a time.
 * Ownership: all arrays are the caller's; what a call needs for itself is gone when it returns.
 *
 * Sources: Jeong, Baek and Ahn, "Fast and efficient model serving using multi-GPUs with direct-host-access" (EuroSys 2023,
 * DeepPlan); Bai et al., "PipeSwitch" (OSDI 2020). */
#ifndef CACHE_PLAN_H
#define CACHE_PLAN_H

#include "shared/plan.h"

#define PLAN_MAX_PARTS 4
#define PLAN_MAX_STATES ((uint32_t)1 << 15)

enum plan_policy {
#define PLAN_POLICY(NAME, name, function, doc) PLAN_BY_##NAME,
#include "cache/planpolicies.def"
#undef PLAN_POLICY
	PLAN_POLICIES
};

enum plan_charge {
	PLAN_CHARGED,   /* our timeline */
	PLAN_UNCHARGED, /* DeepPlan's: traffic of layers read from the host costs the link nothing */
};

/* What is predicted of a layer. */
struct plan_step {
	uint64_t load_begin_ns, load_end_ns; /* on its link: of its bytes (overhead before the first of a piece), or of its traffic */
	uint64_t ready_ns;                   /* it can be used: its piece arrived; 0 when nothing is loaded for it */
	uint64_t exec_begin_ns, exec_end_ns;
	uint64_t stall_ns;                   /* it could have run so much earlier, had it been there */
};

struct plan_figures {
	uint64_t total_ns;
	uint64_t resident_bytes;             /* loaded */
	uint64_t stall_ns;
	uint64_t link_bytes[PLAN_MAX_LINKS]; /* loaded over each */
	uint64_t dha_bytes;                  /* traffic of layers that are read from the host */
	uint32_t dha_layers, pieces;
	uint32_t states;                     /* that the programme kept; 0: no programme, or not by plan_make() */
	bool exact;
	uint64_t bound_ns;                   /* no plan that the policy may choose from is shorter; total_ns if exact */
};

/* "best"; NULL beyond the last. */
const char *plan_policy_name(unsigned policy);
const char *plan_policy_doc(unsigned policy);
/* PLAN_POLICIES: no such. */
enum plan_policy plan_policy_find(const char *name);

/* -EINVAL: a number out of range, no layer, a same_as that is not earlier, has other bytes or is the same as another; more
 * than PLAN_MAX_SHARINGS ways to load (two for each group of layers that share bytes and can read them from the host, multiplied).
 * *layer (may be NULL): the first one that is wrong, or UINT32_MAX. */
int plan_check_profile(const struct plan_profile *p, uint32_t *layer);
int plan_check_machine(const struct plan_machine *m);
/* Links that plans may use, the target's first; how many. */
unsigned plan_usable_links(const struct plan_machine *m, uint8_t links[PLAN_MAX_PARTS]);

/* Fills how[n_layers] and *out.  -EINVAL: profile or machine, or they lead to times beyond PLAN_MAX_NS and
 * PLAN_MAX_TOTAL_NS; -ENOSPC: what has to be loaded by this policy is more than
 * memory_bytes. */
int plan_make(enum plan_policy policy, const struct plan_profile *p, const struct plan_machine *m, uint8_t *how,
	struct plan_figures *out);

/* The timeline of a plan, whoever made it, when the first `resident` layers are in device memory already.  steps: n_layers of
 * them, or NULL.  -EINVAL: profile or machine; -EDOM: the plan does not lie in the space (plans come from sockets and files). */
int plan_predict(const struct plan_profile *p, const struct plan_machine *m, const uint8_t *how, uint32_t resident,
	enum plan_charge charge, struct plan_step *steps, struct plan_figures *out);

/* The fewest leading layers that have to be in device memory so that the rest, loaded from the begin on, delays nothing; and
 * the bytes of those of them that the plan loads.  Errors as above. */
int plan_keep(const struct plan_profile *p, const struct plan_machine *m, const uint8_t *how, uint32_t *layers,
	uint64_t *bytes);

#endif
