/* linksched.h - which piece of which flow is submitted next on each link of a machine.
 *
 * A copy engine knows no priorities and serves what it was given in order.  So priority exists only in what has not been
 * submitted yet: the scheduler hands out pieces of at most one chunk, at most `in_flight` of them per link at a time, and
 * decides anew after each.  A link is one direction of one device (host to GPU 0); a node is anything whose capacity
 * several flows share: each link has one of its own, switch uplinks, NUMA nodes, disks and network cards are added.
 *
 * Pure: no clock, threads, files or randomness; equal calls give equal answers.  Thread: one scheduler holds all links of
 * a machine, and its caller has one lock around every call: classes, pauses and shared nodes reach over links, a call
 * takes microseconds, a piece 40 to 200 us.  A call may make a link that was told to wait worth asking again:
 * linksched_kicks() says which, and the caller wakes their submitters.  Ownership: the scheduler owns flows; callers hold
 * 64-bit ids that are never used twice.  Small metadata that cannot be had ends the program (ASSERT).
 *
 * Times are ns on one monotonic clock (a `now` that was read before another thread's call counts as that call's).
 * Sizes are bytes, rates bytes per second, shares and factors thousandths. */
#ifndef CACHE_LINKSCHED_H
#define CACHE_LINKSCHED_H

#include "shared/base.h"

#define LINKSCHED_MAX_LINKS 64
#define LINKSCHED_MAX_NODES 128
#define LINKSCHED_MAX_HOPS 6                     /* shared nodes on the path of a link, and as many on that of a flow */
#define LINKSCHED_MAX_IN_FLIGHT 8
#define LINKSCHED_TINY_BYTES (28 * KIB)
#define LINKSCHED_CHUNK_MIN (256 * KIB)
#define LINKSCHED_CHUNK_MAX (16 * MIB)
#define LINKSCHED_MAX_RATE ((uint64_t)1 << 42)   /* 4 TiB/s */
#define LINKSCHED_MAX_BYTES ((uint64_t)1 << 50)  /* of one flow */
#define LINKSCHED_NEVER UINT64_MAX
#define LINKSCHED_ANYBODY UINT32_MAX             /* a user without caps: the daemon itself */

enum link_class {
#define LINK_CLASS(name, text, doc) LINK_##name,
#include "cache/linkclasses.def"
#undef LINK_CLASS
	LINK_CLASSES
};
/* What a flow waited for, beyond the classes: nothing was on the engine (tokens, a submission under way). */
#define LINK_NOBODY LINK_CLASSES
#define LINK_WAITS (LINK_CLASSES + 1)

/* "tiny", "demand", ...; "nobody" for LINK_NOBODY. */
const char *link_class_name(unsigned class);

struct linksched;

/* Zero in a field: the default in brackets. */
struct linksched_config {
	uint32_t in_flight;        /* pieces per link, W [2] */
	uint64_t target_ns;        /* how long a demand that finds no other may wait, Lmax [300 us]; sets the chunk */
	uint32_t guard_share;      /* of a link that prefetch and demotion each get under lasting demand [50] */
	uint64_t window_ns;        /* in which they get it [100 ms] */
	uint64_t patience_ns;      /* deadline of demands that have none, or can no longer keep theirs [10 s] */
	uint64_t user_bytes_per_s; /* cap of each user over all links [none] */
	uint32_t user_share;       /* of a link's pieces in flight while others of the class wait [none] */
	uint32_t max_flows;        /* per link [1024] */
};

/* What calibration found. */
struct linksched_calibration {
	uint64_t bytes_per_s;      /* alone */
	uint32_t duplex;           /* thousandths of that while the other direction is busy; 1000: independent */
	uint64_t overhead_ns;      /* t_ovh: gap before a piece that was not queued behind another */
	uint64_t submit_ns;        /* t_sub: what submitting one takes */
};

struct linksched_hop {
	uint32_t node;
	uint32_t charge;           /* thousandths of the bytes that the node is charged, at most 1000 */
};

struct linksched_node_config {
	uint64_t bytes_per_s;
	uint32_t share;            /* thousandths of it that are given out [900] */
};

struct linksched_link_config {
	struct linksched_calibration calibration;
	uint32_t share;            /* of the link that prefetch and demotion may fill [900] */
	struct linksched_hop hops[LINKSCHED_MAX_HOPS]; /* beyond its own node; a D2H link has its H2D link's node, charged kappa */
	uint32_t n_hops;
};

/* -EINVAL: a number out of range. */
int linksched_new(struct linksched **out, const struct linksched_config *config);
void linksched_free(struct linksched **s);

/* -EINVAL: a number out of range, an unknown node; -ENOSPC: too many. */
int linksched_node_add(struct linksched *s, const struct linksched_node_config *config, uint32_t *node);
int linksched_link_add(struct linksched *s, const struct linksched_link_config *config, uint32_t *link);
/* The node of a link, for the paths of others. */
uint32_t linksched_link_node(const struct linksched *s, uint32_t link);
/* New figures for a link; pieces in flight keep their size.  -EINVAL as above. */
int linksched_calibrate(struct linksched *s, uint64_t now, uint32_t link, const struct linksched_calibration *c);
/* New caps of users, as in the configuration; what users have had is counted anew.  -EINVAL: a number out of range. */
int linksched_limit_users(struct linksched *s, uint64_t now, uint64_t bytes_per_s, uint32_t share);
/* A shared node was found to do more or less than it was said to.  -EINVAL: a number out of range, a link's own node. */
int linksched_node_rate(struct linksched *s, uint64_t now, uint32_t node, uint64_t bytes_per_s);
/* Sets (not adds) what is set aside on a node for traffic that is not queued here: direct access of running models.
 * -ENOSPC: with the floors of the demands under way it would exceed what the node gives out; nothing changed. */
int linksched_reserve(struct linksched *s, uint64_t now, uint32_t node, uint64_t bytes_per_s);

/* ---- arithmetic ---- */

/* The largest power of two with which W pieces and their costs stay below target_ns on a link that moves
 * worst_bytes_per_s, within CHUNK_MIN and CHUNK_MAX.  *costs_bandwidth: it is so small that the link cannot be kept busy. */
uint64_t linksched_chunk(const struct linksched_calibration *c, uint64_t worst_bytes_per_s, uint32_t in_flight,
	uint64_t target_ns, bool *costs_bandwidth);
/* What a link moves at worst: duplex traffic, its part of shared nodes, and reservations taken off. */
uint64_t linksched_worst_bytes_per_s(const struct linksched *s, uint32_t link);
uint64_t linksched_chunk_bytes(const struct linksched *s, uint32_t link);
/* B: how long a demand with bytes ready, that finds no other tiny or demand work on its nodes and is below its user's
 * caps, can wait for the engine.  README.md derives it. */
uint64_t linksched_bound_ns(const struct linksched *s, uint32_t link);

/* The most of a pick that whoever submits may copy himself, at that rate, to or from memory of his own, one pick after the other
 * and asking before each: with more of it demands could wait longer than B.  For W of 2 and above; at least 4 KiB. */
uint64_t linksched_copied_bytes(const struct linksched *s, uint32_t link, uint64_t copy_bytes_per_s);

/* ---- flows ---- */

struct linksched_flow {
	enum link_class class;
	uint32_t link;
	uint32_t user;             /* who is charged; LINKSCHED_ANYBODY: no caps */
	uint32_t weight;           /* among flows of its class (prefetch, demotion) [1] */
	uint64_t bytes;            /* in all */
	uint64_t ready;            /* of them, at once; the rest by linksched_ready() */
	uint64_t edge_bytes;       /* no piece crosses a multiple of it, counted in the flow's bytes; 0: none */
	uint64_t deadline;         /* LINKSCHED_NEVER: none */
	uint64_t tag;              /* the caller's, handed back */
	struct linksched_hop hops[LINKSCHED_MAX_HOPS]; /* beyond the link's: the source's disk, network, NUMA node */
	uint32_t n_hops;
};

/* -EINVAL: no bytes, tiny but large, a node unknown or met twice; -ENOSPC: max_flows. */
int linksched_add(struct linksched *s, uint64_t now, const struct linksched_flow *flow, uint64_t *id);
/* `bytes` more can be copied (cut-through).  -ENOENT; -EINVAL: more than the flow has. */
int linksched_ready(struct linksched *s, uint64_t now, uint64_t id, uint64_t bytes);
/* Promotes, demotes, or lets an eviction inherit the class and deadline of the demand that waits for its memory; takes
 * effect with the next piece.  -ENOENT; -EINVAL: tiny but large. */
int linksched_reclass(struct linksched *s, uint64_t now, uint64_t id, enum link_class class, uint64_t deadline);

/* Another user is charged, from the next piece on: several wait for the flow, and somebody else leads.  -ENOENT. */
int linksched_charge(struct linksched *s, uint64_t now, uint64_t id, uint32_t user);
/* The flow's bytes no longer come over a node that was given with it (the disk it was read from, say).  -ENOENT: no such
 * flow, or not such a node of it. */
int linksched_leave(struct linksched *s, uint64_t now, uint64_t id, uint32_t node);

struct linksched_flow_view {
	uint64_t id, tag;
	uint32_t link, user;
	enum link_class class;
	uint64_t bytes, done, in_flight, ready;
	uint64_t deadline;
	uint64_t floor_bytes_per_s; /* what it needs from now on to be in time; 0: no deadline */
	bool late, cancelled;       /* late: its deadline can no longer be kept */
	uint64_t added_at, waits, wait_max_ns;
	uint64_t waited_ns[LINK_WAITS]; /* for the engine, by who had it */
	uint64_t capped_ns;         /* in which its user's cap kept it from being picked */
};

/* From now on the flow has `bytes` in all: some of what it was to bring comes another way, or what was to come another way
 * comes with it.  *last is filled (last->id not 0) when it has ended by that, since all of it is done.  -ENOENT; -EINVAL: out of
 * range, or less than what was ready. */
int linksched_resize(struct linksched *s, uint64_t now, uint64_t id, uint64_t bytes, struct linksched_flow_view *last);
/* The same of `bytes` that were ready and not picked: it does not bring them.  One that has nothing else ends.  -ENOENT; -EINVAL:
 * more than that, or none. */
int linksched_call_back(struct linksched *s, uint64_t now, uint64_t id, uint64_t bytes, struct linksched_flow_view *last);
/* No further piece.  True: it is gone, *last filled; false: pieces are in flight, and linksched_done() of the last one
 * says so, or the id is unknown (last->id is 0 then).  Bytes that landed are last->done. */
bool linksched_cancel(struct linksched *s, uint64_t now, uint64_t id, struct linksched_flow_view *last);

/* ---- pieces ---- */

enum linksched_answer {
	LINKSCHED_NOTHING, /* until something happens on this link, or it is kicked */
	LINKSCHED_UNTIL,   /* the same, or *until (tokens) */
	LINKSCHED_PICK,    /* submit it, behind what is in flight, and report it done */
};

struct linksched_pick {
	uint64_t flow, tag, offset, bytes; /* offset: bytes of the flow that were picked before */
	uint64_t sequence;
	uint32_t link;
	enum link_class class;             /* as picked */
	bool guard;                        /* went before waiting demands, by the guard */
};

enum linksched_answer linksched_next(struct linksched *s, uint64_t now, uint32_t link, struct linksched_pick *pick,
	uint64_t *until);
/* Takes less of the pick just made, at least one byte: the caller's buffer ends there.  Not for tiny ones. */
void linksched_trim(struct linksched *s, uint64_t now, struct linksched_pick *pick, uint64_t bytes);
/* Pieces are done in the order they were picked on their link; a copy that failed is done as well.  True: the flow has
 * ended by that, all of it done or cancelled; *last filled. */
bool linksched_done(struct linksched *s, uint64_t now, const struct linksched_pick *pick,
	struct linksched_flow_view *last);
/* The time the engine took for a piece of half a chunk or more, queued behind another (events, or completion to
 * completion): refines the link's rate, an EWMA of 1/16, between a quarter and twice what was calibrated.  `duplex`: the other
 * direction was busy as well. */
void linksched_measured(struct linksched *s, uint64_t now, uint32_t link, uint64_t bytes, uint64_t busy_ns, bool duplex);
/* A bit per link that should be asked again; cleared. */
uint64_t linksched_kicks(struct linksched *s);

/* ---- looking ---- */

struct linksched_link_view {
	uint64_t bytes_per_s, worst_bytes_per_s, chunk_bytes, bound_ns;
	bool costs_bandwidth;              /* the target is too short for this link: the chunk is smaller than it should be */
	uint32_t flows, in_flight;
	uint64_t bytes[LINK_CLASSES];      /* done */
	uint64_t queued[LINK_CLASSES];     /* ready, not picked */
	uint64_t waits[LINK_CLASSES], wait_ns[LINK_CLASSES], wait_max_ns[LINK_CLASSES];
	uint64_t alone_waits, alone_wait_max_ns, beyond_bound; /* demands that found no other, those that waited longer than B */
	uint64_t guard_bytes, token_waits, pauses, late, cancelled;
};

struct linksched_node_view {
	uint64_t bytes_per_s, given_bytes_per_s, reserved_bytes_per_s;
	int64_t tokens, burst, burst_max;  /* burst_max: the largest it has been */
	uint64_t bytes;                    /* charged */
	uint32_t links, waiting;           /* links over it; tiny and demand flows with bytes ready */
};

/* bytes <= burst_max + cap * (now - since), whenever it is looked at. */
struct linksched_user_view {
	uint32_t user;
	uint64_t bytes, since;             /* picked, since the caps were set or it was first seen (again) */
	int64_t tokens, burst_max;         /* meaningless without a cap */
	uint32_t flows, in_flight;
};

/* -ENOENT: no such link, node, flow. */
int linksched_link_view(const struct linksched *s, uint32_t link, struct linksched_link_view *view);
int linksched_node_view(const struct linksched *s, uint32_t node, struct linksched_node_view *view);
/* The n-th of the users known; those who have nothing here are forgotten at some time.  -ENOENT past the last. */
int linksched_user_view(const struct linksched *s, uint32_t n, struct linksched_user_view *view);
/* *view of the flow with the lowest id above `after`, 0 to begin with; -ENOENT past the last. */
int linksched_flow_view(const struct linksched *s, uint64_t after, struct linksched_flow_view *view);
/* ASSERTs every invariant, recomputed from the flows. */
void linksched_verify(const struct linksched *s);

#endif
