/* simlinks.h - copy engines and the wires behind them, in virtual time: what the link scheduler is proven against.
 *
 * An engine serves one direction of one device.  It knows no priorities: pieces run one at a time and to their end, in the
 * order they came, except that it stays with a stream while that has pieces queued (FIFO: each job is one; with a scheduler
 * all of a link's pieces are).  A piece that came less than overhead_ns before the engine got free leaves a gap.  While the other direction moves as well, an engine
 * has `duplex` thousandths of its rate; those over one uplink that move at the same time share it evenly.
 * With a scheduler each engine has a submitter, which does one thing at a time: a submission takes it submit_ns, and
 * it hears of finished pieces, arrivals and kicks in between.  Without one (FIFO) jobs are queued at once, whole or cut.
 *
 * Modelled, not measured.  Thread: one at a time.  Ownership: the scheduler is borrowed and used by the model until it is freed. */
#ifndef TOOLS_SIMLINKS_H
#define TOOLS_SIMLINKS_H

#include "cache/linksched.h"

#define SIMLINKS_NONE UINT32_MAX

struct simlinks_wire {
	uint64_t bytes_per_s, overhead_ns, submit_ns;
	uint32_t duplex;           /* thousandths */
	uint32_t peer, uplink;     /* the other direction's wire; SIMLINKS_NONE */
	uint64_t copy_bytes_per_s; /* the submitter copies pieces of flows with odd numbers itself first; 0: of none */
};

enum simlinks_what {
	SIMLINKS_PICKED,  /* the submitter has it */
	SIMLINKS_STARTED, /* its first byte moves */
	SIMLINKS_LANDED,  /* its last byte has moved */
	SIMLINKS_REPORTED,/* the scheduler knows */
	SIMLINKS_IDLE,    /* the scheduler had nothing: pick->link, and pick->sequence is the time it named */
};

/* `ended`: of SIMLINKS_REPORTED, what the flow was if it ended by that, else NULL. */
typedef void (*simlinks_seen_fn)(void *arg, enum simlinks_what what, uint64_t now, const struct linksched_pick *pick,
	const struct linksched_flow_view *ended);

struct simlinks_config {
	const struct simlinks_wire *wires; /* wire i is link i of the scheduler; copied */
	uint32_t n_wires;
	const uint64_t *uplinks;           /* their bytes per second; copied */
	uint32_t n_uplinks;
	struct linksched *sched;           /* NULL: FIFO */
	uint64_t piece_bytes;              /* FIFO: jobs are cut into pieces of that; 0: whole */
	simlinks_seen_fn seen;             /* may be NULL; must not call back */
	void *arg;
};

struct simlinks;

void simlinks_new(struct simlinks **out, const struct simlinks_config *config);
void simlinks_free(struct simlinks **sim);
uint64_t simlinks_now(const struct simlinks *sim);
/* A flow of the scheduler's, or a job.  Returns what linksched_add() does. */
int simlinks_add(struct simlinks *sim, const struct linksched_flow *flow, uint64_t *id);
/* Wakes whom the scheduler has kicked; after calls to it that did not go through the model. */
void simlinks_kick(struct simlinks *sim);
/* Up to and including that time; LINKSCHED_NEVER: until nothing happens by itself any more. */
void simlinks_advance(struct simlinks *sim, uint64_t until);
/* The next thing that happens by itself; LINKSCHED_NEVER: nothing will. */
uint64_t simlinks_next_event(const struct simlinks *sim);

#endif
