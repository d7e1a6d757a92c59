/* plan_impl.h - a planning problem in times instead of bytes: what policies work on.
 * Thread: the caller's.  Owns: plan_make() owns the problem, a policy what it allocates. */
#ifndef CACHE_PLAN_IMPL_H
#define CACHE_PLAN_IMPL_H

#include "cache/plan.h"

/* What may become of a layer, beyond what it can; the ways to share bytes are gone through by it. */
enum plan_fate {
	PLAN_FREE,
	PLAN_MUST_LOAD,
	PLAN_MUST_DHA,
	PLAN_OWED, /* nothing to bring */
};

struct plan_item {
	uint64_t load_ns[PLAN_MAX_PARTS]; /* over each usable link: of its bytes */
	uint64_t piece_ns[PLAN_MAX_PARTS]; /* with the overhead, if any, that it costs to begin a piece */
	uint64_t exec_ns;
	uint64_t dha_ns;                  /* 0: cannot be read from the host here */
	uint64_t traffic_ns;              /* of the target's link while it is; at most dha_ns */
	uint64_t bytes;
	uint32_t first;                   /* with the same bytes; itself where there is no earlier one */
	enum plan_fate fate;              /* OWED from the start where there are no bytes */
};

struct plan_problem {
	const struct plan_profile *profile;
	const struct plan_machine *machine;
	struct plan_item *items;
	uint32_t n;
	uint8_t links[PLAN_MAX_PARTS]; /* usable; [0] is the target's */
	unsigned n_links;
	uint64_t hop_ns[PLAN_MAX_PARTS];
	uint64_t memory_bytes;         /* UINT64_MAX: they all fit */
	uint8_t *how;                  /* the policy's answer; PLAN_NOTHING of what has nothing to bring is its business */
	/* What the programme says of itself. */
	uint32_t states;
	bool inexact;
	uint64_t bound_ns;             /* the lowest bound of states that were dropped for want of room */
};

/* Checks and fills *q, all but `how`.  -EINVAL. */
int plan_problem_init(struct plan_problem *q, const struct plan_profile *p, const struct plan_machine *m);
void plan_problem_fini(struct plan_problem *q);
/* An earlier layer with the same bytes is loaded by `how`, or there are none. */
bool plan_is_owed(const struct plan_problem *q, const uint8_t *how, uint32_t layer);
/* PLAN_NOTHING to what has nothing to bring by what `how` says of the others. */
void plan_settle(const struct plan_problem *q, uint8_t *how);
/* As plan_predict(). */
int plan_play(const struct plan_problem *q, const uint8_t *how, uint32_t resident, enum plan_charge charge,
	struct plan_step *steps, struct plan_figures *out);

/* What a plan may do beyond loading all over the target's link, in pieces as suits best. */
struct plan_choice {
	bool dha, part;
};
/* The programme: fills q->how with the shortest plan of those allowed, and what it says of itself.  -ENOSPC as plan_make(). */
int plan_search(struct plan_problem *q, const struct plan_choice *may);

#define PLAN_POLICY(NAME, name, function, doc) int function(struct plan_problem *q);
#include "cache/planpolicies.def"
#undef PLAN_POLICY

#endif
