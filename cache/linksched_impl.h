/* linksched_impl.h - the records behind linksched.h, and what its files say to each other.
 *
 *   linksched.c        configuration, flows and their life
 *   linksched_rate.c   arithmetic: chunk, bound, token buckets, what nodes admit
 *   linksched_pick.c   which piece is next; submitted, trimmed, done
 *   linksched_wait.c   who waited for whom
 *   linksched_view.c   looking, and every invariant
 *
 * Thread: one at a time.  Ownership: the scheduler owns links, nodes, users and flows; a flow hangs on its link's list and
 * holds a reference on its user. */
#ifndef CACHE_LINKSCHED_IMPL_H
#define CACHE_LINKSCHED_IMPL_H

#include <errno.h>

#include "cache/linksched.h"
#include "cache/map.h"
#include "cache/memory.h"
#include "shared/check.h"
#include "shared/list.h"

#define SCHED_MAGIC 0x4b4e494cu
#define FLOW_MAGIC 0x574f4c46u
#define THOUSAND 1000u
#define PATH_MAX_HOPS (2 * LINKSCHED_MAX_HOPS + 1)

/* Tokens, in bytes.  Invariant: balance <= burst; 0 <= rest < NS_PER_S, the part of a token already earned. */
struct bucket {
	uint64_t bytes_per_s, at, rest;
	int64_t balance, burst;
};

#define USERS_KEPT 64                       /* that have nothing here, for whoever looks */

struct user {
	struct list node;
	uint32_t uid, flows, pieces;        /* pieces: in flight */
	struct bucket bucket;               /* unused without a cap */
	int64_t burst_max;
	uint64_t bytes, since;
	uint8_t in_flight[LINKSCHED_MAX_LINKS];
};

/* Link nodes belong to one link, whose tiny and demand pieces may overdraw them; shared ones keep `reserve` tokens for such
 * pieces, and nobody overdraws them. */
struct node {
	bool shared, turn;                  /* turn: the next guard piece may go, a tiny or demand piece of this burst went */
	uint32_t link;                      /* whose node, unless shared */
	uint32_t share;
	uint64_t bytes_per_s, reserved_bytes_per_s;
	struct bucket bucket;
	int64_t reserve, burst_max;
	uint64_t links;                     /* a bit per link over it */
	uint32_t urgent;                    /* tiny and demand flows with bytes ready; of a link node: those on its link */
	uint64_t arrivals;                  /* of such */
	uint64_t bytes;
};

struct flow {
	uint32_t magic;
	bool late, cancelled, capped, urgent; /* urgent: counted in its nodes' */
	struct list node;
	struct user *user;
	enum link_class class;
	uint32_t link, weight, n_hops;
	struct linksched_hop hops[PATH_MAX_HOPS]; /* the link's own node first */
	uint64_t id, tag, sequence;         /* sequence: order of arrival */
	uint64_t bytes, ready, picked, done, edge_bytes; /* ready: not picked yet */
	uint64_t deadline, due;             /* due: what orders demands; the deadline, or now + patience */
	uint64_t virtual_time;              /* bytes / weight had so far, for fair shares */
	uint64_t added_at;
	/* the wait under way: since when, the link's clock then, and whether nobody else was there */
	bool waiting, alone;
	uint64_t wait_since, wait_clock[LINK_WAITS], wait_arrivals;
	uint64_t waits, wait_max_ns, waited_ns[LINK_WAITS];
	uint64_t capped_since, capped_ns;         /* since: 0, when its user has tokens for it */
};

struct piece {
	struct flow *flow;
	struct user *user;                  /* who was charged */
	uint64_t sequence, bytes;
	enum link_class class;
	bool guard;
};

/* What one of the two guarded classes is owed.  Invariant: credit <= quota, and it grows while the class has work. */
struct guard {
	uint64_t credit, rest, at;
};

struct link {
	struct linksched_calibration calibration; /* as given; bytes_per_s and worst are refined */
	uint64_t bytes_per_s, duplex_bytes_per_s, worst_bytes_per_s;
	uint64_t chunk, largest_chunk;      /* largest: of those in flight or possible, for bursts */
	bool costs_bandwidth, stalled;      /* stalled: when last asked, no tiny or demand piece could go for want of tokens */
	uint32_t own;                       /* node */
	uint32_t n_hops;
	struct linksched_hop hops[LINKSCHED_MAX_HOPS];
	struct list flows;
	uint32_t n_flows, n_in_flight, n_urgent;
	struct piece in_flight[LINKSCHED_MAX_IN_FLIGHT]; /* in order; [0] is on the engine */
	uint64_t sequence;                  /* of the last piece */
	struct guard guards[LINK_CLASSES];  /* of PREFETCH and DEMOTION */
	uint64_t virtual_time[LINK_CLASSES];
	uint64_t recent, arrived_at;        /* arrivals of tiny or demand work in thousandths, fading over window_ns */
	uint64_t clock[LINK_WAITS], clock_at; /* how long the engine had whose piece */
	/* counters of struct linksched_link_view */
	uint64_t bytes[LINK_CLASSES], waits[LINK_CLASSES], wait_ns[LINK_CLASSES], wait_max_ns[LINK_CLASSES];
	uint64_t alone_waits, alone_wait_max_ns, beyond_bound, guard_bytes, token_waits, pauses, late, cancelled;
};

struct linksched {
	uint32_t magic;
	struct linksched_config config;
	uint64_t now, sequence, kicks;
	uint32_t n_links, n_nodes;
	struct link links[LINKSCHED_MAX_LINKS];
	struct node nodes[LINKSCHED_MAX_NODES];
	struct list users;
	uint32_t n_users;
	struct slots flows;
};

static inline bool class_is_urgent(enum link_class class)
{
	return class <= LINK_DEMAND;
}

/* Has a piece that could be picked. */
static inline bool flow_is_workable(const struct flow *f)
{
	return !f->cancelled && f->ready > 0 && (f->class != LINK_TINY || f->picked + f->ready == f->bytes);
}

/* Takes the time; it never goes back. */
static inline uint64_t sched_at(struct linksched *s, uint64_t now)
{
	CHECK_OBJ(s, SCHED_MAGIC);
	s->now = MAX(s->now, now);
	return s->now;
}

static inline bool user_is_capped(const struct linksched *s, const struct user *u)
{
	return s->config.user_bytes_per_s && u->uid != LINKSCHED_ANYBODY;
}

static inline struct node *flow_node(struct linksched *s, const struct flow *f, uint32_t hop)
{
	return &s->nodes[f->hops[hop].node];
}

static inline int64_t hop_charge(const struct linksched_hop *hop, uint64_t bytes)
{
	return (int64_t)((bytes * hop->charge + THOUSAND - 1) / THOUSAND);
}

static inline uint64_t link_recent(const struct linksched *s, const struct link *l)
{
	uint64_t past = s->now - l->arrived_at, window = s->config.window_ns;
	return past < window ? l->recent * (window - past) / window : 0;
}

/* a * b / c, rounded down; the result fits. */
static inline uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	return (uint64_t)((unsigned __int128)a * b / c);
}

/* ---- linksched_rate.c ---- */

void bucket_refill(struct bucket *b, uint64_t now);
/* After a change of rate or burst; the caller refilled it before.  The first one fills it. */
void bucket_set(struct bucket *b, uint64_t bytes_per_s, int64_t burst);
/* When there will be `need` tokens; `now` if there are; LINKSCHED_NEVER if need is beyond the burst. */
uint64_t bucket_when(const struct bucket *b, uint64_t now, int64_t need);
/* All that follows from rates: worst rates, chunks, bursts, reserves. */
void sched_retune(struct linksched *s, uint64_t now);
uint64_t node_given_bytes_per_s(const struct node *n);
/* What a demand needs from now on; 0: no deadline that could be kept. */
uint64_t flow_floor(const struct flow *f, uint64_t now);
/* The floors of all demands over a node. */
uint64_t node_floors(const struct linksched *s, uint32_t node, uint64_t now);
/* The tokens of a piece; `overdraw`: link nodes go below zero, not below -burst. */
void flow_charge(struct linksched *s, const struct flow *f, uint64_t bytes, bool overdraw);
/* What a piece does not take after all. */
void piece_refund(struct linksched *s, const struct piece *p, uint64_t back);
void guards_accrue(struct linksched *s, struct link *l);
uint64_t guard_quota(const struct linksched *s, const struct link *l);

/* ---- linksched.c ---- */

/* Puts a flow's share in its nodes' urgent counts right, after its class or ready bytes changed. */
void flow_settle(struct linksched *s, struct flow *f);
void flow_free(struct linksched *s, struct flow *f);
/* Its user's cap no longer holds it up: that time is over. */
void flow_uncap(struct linksched *s, struct flow *f);
/* Everybody whose answer may depend on a link's: those over its nodes. */
void link_kick_neighbours(struct linksched *s, const struct link *l);

/* ---- linksched_wait.c ---- */

/* Brings the link's clock up to now; before anything that changes what is in flight. */
void wait_clock(struct linksched *s, struct link *l);
/* Begins or ends the flow's wait, as its state says. */
void wait_update(struct linksched *s, struct flow *f);
/* Ends it and begins it anew: the flow is another one to those it waits for (class). */
void wait_restart(struct linksched *s, struct flow *f);

/* ---- linksched_view.c ---- */

void flow_fill_view(const struct linksched *s, const struct flow *f, struct linksched_flow_view *view);

#endif
