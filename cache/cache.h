/* cache.h - the brain: who may have which model on which tier, and what has to happen for it.
 *
 * A deterministic state machine without hands.  Events go in by the functions below; what must be done comes out of
 * cache_next_effect(), in order.  Time, randomness, memory of models, files and sockets are the caller's.
 *
 * Thread: one at a time (the daemon's loop thread).  Re-entrancy: none; an effect is carried out after the event
 * function returned.  Ownership: the cache owns models, copies, leases, loads and transfers; callers hold 64-bit ids,
 * never reused within a run, and an id that is no longer known is refused, never dereferenced.
 * Small metadata that cannot be had ends the program (ASSERT).
 *
 * Times are ns on any monotonic clock, the same one in every call and never going back.  Sizes are bytes. */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include "shared/base.h"
#include "shared/error.h"

enum tier_kind {
#define TIER(number, NAME, name, doc) TIER_##NAME = number,
#include "shared/tiers.def"
#undef TIER
	TIER_KIND_N
};

enum copy_state {
#define STATE(NAME, name, doc) COPY_##NAME,
#include "cache/states.def"
#undef STATE
	COPY_STATE_N
};

/* Who waits for a load.  DEMAND: somebody wants it now.  PREFETCH: somebody will; gives way to any demand.
 * PERSIST: writing through to the disk tier, behind everything. */
enum load_class { CLASS_DEMAND, CLASS_PREFETCH, CLASS_PERSIST, CLASS_N };

/* How much of a copy is there.  Only on a device it is ever another than REACH_PLAN. */
enum copy_reach {
	REACH_PLAN, /* what its plan wants there; without a plan all of it */
	REACH_ALL,  /* all of it, more than the plan wants */
	REACH_HEAD, /* the beginning, in the plan's order; the tail made room for others */
	REACH_N
};

#define CACHE_MAX_TIERS 16  /* remote + disk + host + devices */
#define CACHE_ANY_DEVICE UINT32_MAX
#define CACHE_NAME_MAX 255
#define CACHE_NO_TIER UINT8_MAX
#define CACHE_NEVER UINT64_MAX /* a deadline that never comes */
#define CACHE_NOBODY UINT32_MAX /* a user: the daemon itself */

struct cache;
struct cache_model_info;

/* ---- configuration ---- */

struct cache_tier_config {
	enum tier_kind kind;
	uint32_t device;         /* index of the GPU; 0 for other kinds */
	uint64_t capacity_bytes; /* ignored for TIER_REMOTE */
	const char *label;       /* for sentences about a GPU: its UUID, say; copied; NULL: its number */
};

/* A way bytes can take.  Missing pairs cannot be transferred directly; a load then goes through tiers between. */
struct cache_link_config {
	uint8_t from, to;        /* tier indices */
	uint32_t max_active;     /* transfers running at once, >= 1; the rest queue by class, deadline, age */
	uint64_t bytes_per_s;    /* first guess, > 0; afterwards measured (exponential average) */
};

/* What a copy takes on a device.  head is 0 or below plan; plan <= all. */
struct cache_device_size {
	uint64_t head_bytes; /* the beginning that is worth keeping when the rest makes room; 0: none, it goes as a whole */
	uint64_t plan_bytes;
	uint64_t all_bytes;  /* with what the plan leaves on the host; plan_bytes when it leaves nothing */
};

struct cache_config {
	const struct cache_tier_config *tiers; /* [0] is TIER_REMOTE; at most one DISK and one HOST, any number of GPUs */
	size_t n_tiers;
	const struct cache_link_config *links;
	size_t n_links;
	const char *policy;          /* a name in policies.def */
	uint64_t min_residency_ns;   /* a copy younger than this is no victim; a demand that finds only such waits for it */
	uint64_t ttl_ns;             /* unused copies older than this since last use are evicted by the tick; 0: never */
	uint64_t half_life_ns;       /* of the use rate the cost policy expects; > 0 */
	uint64_t revalidate_ns;      /* a name opened later than this after its last check is resolved again, in the
	                              * background; 0: on each open */
	uint64_t negative_ns;        /* how long "no such model" is remembered */
	uint32_t max_names;          /* names and models known at once; opening one more forgets the least recently used
	                              * one that holds nothing, or is refused with LIMIT */
	uint32_t max_waiters;        /* open requests pending at once */
	bool promote;                /* ticks bring models that earn it from disk to free host memory, and from there back to free
	                              * memory of a GPU when GPUs are where they were opened, over idle links */
	bool dedup;                  /* names whose content digests are equal become one model */
	uint32_t hash_seed;
	uint64_t first_copy;         /* copies are numbered from above it: choose it above the last run's numbers, since clients
	                              * that outlive the daemon name copies by them (cache_claim()).  Read by cache_new() alone */
	/* Called at every state change of a copy, for logs and traces; may be NULL.  Must not call into the cache. */
	void (*on_edge)(void *ctx, uint64_t model, uint8_t tier, enum copy_state from, enum copy_state to,
		const char *why);
	/* What a model takes on a device by a plan (never asked for plan 0: that is info.gpu_bytes, and no head).  A pure
	 * function: asked when a load is made, answered the same for as long as the model lives.  A plan that does not fit the
	 * model is none: gpu_bytes of all.  May be NULL: so is every plan.  Must not call into the cache. */
	void (*device_size)(void *ctx, const struct cache_model_info *info, uint64_t plan, struct cache_device_size *out);
	/* The brain has one reference more (1) or one less (-1) to a plan: with the last one it will not come back to it, but for
	 * what it already did.  Not called by cache_free().  May be NULL.  Must not call into the cache. */
	void (*plan_ref)(void *ctx, uint64_t plan, int change);
	void *ctx;
};

/* -EINVAL: the configuration makes no sense (*why says what). */
int cache_new(struct cache **out, const struct cache_config *config, struct fault *why);
void cache_free(struct cache **c);
/* Takes over what can change while running: policy, min_residency, ttl, half_life, revalidate, negative, limits and tier
 * capacities (a tier over its new capacity is drained by following ticks).  Tiers and links stay. */
int cache_reconfigure(struct cache *c, const struct cache_config *config, uint64_t now, struct fault *why);

/* One tier's capacity, as cache_reconfigure() would change it and nothing else: for devices whose memory others use, too. */
void cache_tier_resize(struct cache *c, uint64_t now, uint8_t tier, uint64_t capacity_bytes);

/* ---- effects ---- */

enum effect_kind {
#define EFFECT(NAME, name, doc) FX_##NAME,
#include "cache/effects.def"
#undef EFFECT
	FX_N
};

struct cache_effect {
	enum effect_kind kind;
	uint64_t request;    /* GRANT REFUSE ACCEPT: the caller's token */
	uint64_t owner;      /* likewise: the owner given with it */
	uint64_t model;      /* all but RESOLVE and REFUSE */
	uint64_t copy;       /* ALLOC START RECLASS CANCEL FREE TRIM GRANT POISON: generation number, unique per copy's life */
	uint64_t edition;    /* GRANT: number of what is there of the copy, another one when that changed; at first the
	                      * generation, and no two copies ever have the same.  ALLOC: the one it leads to; TRIM: likewise,
	                      * or that of the ALLOC which it takes back.  Their answers name it.  START: as ALLOC. */
	uint64_t plan;       /* ALLOC START FREE TRIM GRANT: what the copy was made by; START on other tiers: the order wanted */
	uint64_t bytes;      /* ALLOC START FREE TRIM: what the copy takes on its tier, then */
	enum copy_reach reach; /* ALLOC START TRIM GRANT: how much is there, then */
	bool grow;           /* ALLOC START: the copy has memory already, and what it lacks is added */
	uint64_t transfer;   /* START RECLASS CANCEL */
	uint64_t follows;    /* START: the transfer that still fills the `from` copy, 0: that copy is READY or remote */
	uint64_t lease;      /* GRANT */
	uint64_t deadline;   /* START RECLASS */
	enum load_class class;
	uint32_t user;       /* START RECLASS: who leads the load, and is charged with its bytes; CACHE_NOBODY */
	enum copy_state state; /* GRANT: READY (a hit) or LOADING */
	uint8_t from, to;    /* tier indices; ALLOC FREE TRIM GRANT POISON: only `to` */
	bool hit;            /* GRANT: the copy was READY when the request came in */
	bool joined;         /* GRANT: a load was under way when the request came in */
	uint64_t name;       /* RESOLVE: id of the name record, for the answer */
	char name_text[CACHE_NAME_MAX + 1]; /* RESOLVE */
	struct fault error;  /* REFUSE POISON */
};

/* Takes the oldest pending effect; false when there is none. */
bool cache_next_effect(struct cache *c, struct cache_effect *out);

/* ---- events: clients ---- */

struct cache_open {
	const char *name;     /* 1..CACHE_NAME_MAX bytes */
	uint64_t owner;       /* whose lease it will be (a connection) */
	uint64_t request;     /* token returned with GRANT or REFUSE; unique among the owner's pending requests */
	enum tier_kind tier;  /* TIER_REMOTE: the best tier clients can map */
	uint32_t device;      /* for TIER_GPU; CACHE_ANY_DEVICE: where it is, else where there is most room */
	uint64_t device_mask; /* with CACHE_ANY_DEVICE: only devices whose bit is set; 0: every device */
	enum load_class class; /* DEMAND or PREFETCH */
	uint64_t deadline;    /* absolute; CACHE_NEVER */
	uint32_t user;        /* whom its load may be charged to: any number of the caller's, or CACHE_NOBODY */
	bool only_resident;   /* refuse with NOT_FOUND instead of loading */
	uint64_t plan;        /* what a copy on a device is made by, and the order of loads: any number of the caller's; 0: none.
	                       * A copy that is there or under way, by whatever plan, is taken as it is. */
};

/* Each of these leads to exactly one GRANT/ACCEPT or REFUSE for the request, unless the owner goes first. */
void cache_open(struct cache *c, uint64_t now, const struct cache_open *req);
void cache_prefetch(struct cache *c, uint64_t now, const struct cache_open *req);
/* As prefetch, and the copy is no victim until it is unpinned.  A pin outlives its owner. */
void cache_pin(struct cache *c, uint64_t now, const struct cache_open *req);
/* TIER_REMOTE: every tier; TIER_GPU: that device, or CACHE_ANY_DEVICE: all of them.  -ENOENT: no such model or not pinned. */
int cache_unpin(struct cache *c, uint64_t now, const char *name, enum tier_kind tier, uint32_t device);
/* Tiers as for cache_unpin().  *in_use counts copies that drain because leases or readers hold them.
 * -ENOENT: unknown model, or nothing there.  A pinned copy is evicted all the same, and unpinned. */
int cache_evict(struct cache *c, uint64_t now, const char *name, enum tier_kind tier, uint32_t device, uint32_t *in_use);
/* A lease on a copy that the owner still has from an earlier life of the daemon: exactly one GRANT or REFUSE follows.  GRANT
 * (a hit) when the copy of that edition is READY; else NO_LEASE (it is gone) or BUSY (it is there, but leaves or still
 * arrives). */
void cache_claim(struct cache *c, uint64_t now, uint64_t owner, uint64_t request, uint64_t model, uint8_t tier,
	uint64_t edition);
/* Takes back a lease whose GRANT was not passed on, because its copy turned out damaged (say so first, by cache_corrupt()),
 * and asks again as the open it came from did, under the number `request`: exactly one more GRANT or REFUSE follows.  The
 * new copy is loaded when all who hold the damaged one have let go.  -ENOENT: not a lease of this owner. */
int cache_regrant(struct cache *c, uint64_t now, uint64_t owner, uint64_t lease, uint64_t request);
/* -ENOENT: not a lease of this owner. */
int cache_close(struct cache *c, uint64_t now, uint64_t owner, uint64_t lease);
/* Withdraws one pending request: it is answered REFUSE(CANCELLED).  -ENOENT: not pending. */
int cache_cancel(struct cache *c, uint64_t now, uint64_t owner, uint64_t request);
/* Ends all leases and silently drops all pending requests of the owner. */
void cache_owner_gone(struct cache *c, uint64_t now, uint64_t owner);

/* ---- events: hands ---- */

/* What a resolve found.  Equal fingerprints are the same files in the same version. */
struct cache_model_info {
	uint64_t fingerprint_hi, fingerprint_lo;
	uint64_t image_bytes;  /* on the host tier */
	uint64_t gpu_bytes;    /* on a GPU tier, each extent rounded up to what a device gives out; 0: image_bytes */
	uint64_t disk_bytes;   /* at most this on the disk tier */
	bool in_place;         /* the source is a local directory: it never gets a disk copy, and reads like one */
};

/* Answers RESOLVE.  *model is the record the name now stands for, new or known (then the caller refreshes what it keeps).
 * Returns true when the record is new. */
bool cache_resolved(struct cache *c, uint64_t now, uint64_t name, const struct cache_model_info *info, uint64_t *model);
void cache_resolve_failed(struct cache *c, uint64_t now, uint64_t name, const struct fault *why);
/* error NULL: the memory is there; else there is nothing to free, and the load fails with it; after NO_MEMORY a
 * demand asks again once, when idle copies have gone. */
void cache_alloc_done(struct cache *c, uint64_t now, uint64_t model, uint8_t tier, uint64_t edition,
	const struct fault *error);
/* Bytes landed so far in all (monotone). */
void cache_landed(struct cache *c, uint64_t now, uint64_t transfer, uint64_t landed_bytes);
/* error NULL: every byte landed and matched.  CANCELLED answers a CANCEL; a transfer that finished first may answer NULL. */
void cache_transfer_done(struct cache *c, uint64_t now, uint64_t transfer, const struct fault *error);
/* Answers TRIM: what it takes now.  More than was to stay: the rest could not be given back, counts on, and nothing more is
 * taken from this copy but all of it. */
void cache_trimmed(struct cache *c, uint64_t now, uint64_t model, uint8_t tier, uint64_t edition, uint64_t bytes);
void cache_freed(struct cache *c, uint64_t now, uint64_t model, uint8_t tier, uint64_t copy);
/* The content digest became known.  With dedup, a model with equal digest takes the names over and this one drains. */
void cache_identified(struct cache *c, uint64_t now, uint64_t model, uint64_t digest_hi, uint64_t digest_lo);
/* A copy was found damaged: no new leases, it drains; the next open loads it again.  Who holds it is told by POISON (not
 * on disk: nobody reads there unchecked), and what is being filled from it in memory fails with MISMATCH. */
void cache_corrupt(struct cache *c, uint64_t now, uint64_t model, uint8_t tier);
/* A GPU died: transfers from and to it are cancelled, loads fail with *why, copies drain, leases on them are told by
 * POISON, pins are taken off.  Until the end of this cache whatever is asked of it is refused NO_TIER with the sentence.
 * -EINVAL: not a GPU tier. */
int cache_tier_lost(struct cache *c, uint64_t now, uint8_t tier, const struct fault *why);
/* At start: a complete (bytes == what it takes) or partial copy was found on the disk tier. `name` may be NULL (an image
 * no name points to).  -EEXIST: that fingerprint has a disk copy already; -ENOSPC: over the tier's capacity or max_names, or
 * a model that belongs on no disk tier; not taken. */
int cache_adopt(struct cache *c, uint64_t now, const char *name, const struct cache_model_info *info,
	uint64_t disk_bytes_used, bool complete, uint64_t last_use_age_ns, uint64_t *model);
/* What there is of a copy on a device that was made by a plan. */
struct cache_part {
	uint64_t plan; /* not 0 */
	struct cache_device_size size;
	enum copy_reach reach; /* not REACH_HEAD */
};

/* At start, before cache_adopt(): a complete copy in host or GPU memory outlived the last daemon.  It is READY under the
 * generation number it had; numbers given out later are higher than any adopted one.  *model as for cache_adopt().
 * -EINVAL: no such tier, its device is lost, or generation 0; -EEXIST: that tier has a copy of it already, or a copy has that
 * number; -ENOSPC: over the tier's capacity or max_names.  part NULL: made without a plan. */
int cache_adopt_copy(struct cache *c, uint64_t now, const struct cache_model_info *info, uint8_t tier, uint64_t generation,
	uint64_t last_use_age_ns, const struct cache_part *part, uint64_t *model);
/* Points one more name at a known model, as if resolved at time 0 (it is validated again when opened).
 * -ENOENT: no such model; -EINVAL: not a name; -EEXIST: it leads elsewhere; -ENOSPC: max_names. */
int cache_adopt_name(struct cache *c, uint64_t now, const char *name, uint64_t model);
/* The real size of a finished disk copy, when it is below the reserved estimate; at the earliest just before its
 * transfer's end is told. */
void cache_disk_size(struct cache *c, uint64_t model, uint64_t disk_bytes_used);
/* Deadlines, TTL, residency, idle promotion.  Returns when it wants to be called again at the latest (CACHE_NEVER). */
uint64_t cache_tick(struct cache *c, uint64_t now);

/* ---- inspection ---- */

struct cache_copy_view {
	enum copy_state state;
	uint64_t copy, bytes, landed_bytes, transfer; /* transfer 0: none fills it */
	uint64_t edition, plan;
	struct cache_device_size size; /* on a device; else all 0 */
	enum copy_reach reach;
	bool growing, trimming;        /* to REACH_ALL; a tail is on its way out */
	uint32_t leases, readers, pins;
	uint64_t since, last_use; /* since: in this state */
	uint64_t uses;
};

struct cache_model_view {
	uint64_t model;
	struct cache_model_info info;
	uint64_t digest_hi, digest_lo; /* 0: not known yet */
	uint32_t n_names;
	struct cache_copy_view copies[CACHE_MAX_TIERS];
};

enum cache_eviction {
#define EVICTION(NAME, name, why) CACHE_EVICTED_##NAME,
#include "cache/evictions.def"
#undef EVICTION
	CACHE_EVICTED_N
};

struct cache_tier_view {
	enum tier_kind kind;
	uint32_t device;
	uint64_t capacity_bytes, used_bytes, pinned_bytes, leased_bytes, draining_bytes;
	uint32_t copies;
	uint32_t partial, heads; /* of these: READY, but not all of the image; without their tail */
	bool lost; /* cache_tier_lost() */
	uint64_t evicted[CACHE_EVICTED_N]; /* copies dropped so far, by reason */
};

size_t cache_n_tiers(const struct cache *c);
/* Index of the tier of a kind, CACHE_NO_TIER when not configured; CACHE_ANY_DEVICE: the first GPU. */
uint8_t cache_tier_index(const struct cache *c, enum tier_kind kind, uint32_t device);
void cache_tier(const struct cache *c, uint8_t tier, struct cache_tier_view *out);
uint64_t cache_link_rate(const struct cache *c, uint8_t from, uint8_t to); /* bytes/s as measured; 0: no such link */
/* 0 when the name is unknown or unresolved. */
uint64_t cache_find(const struct cache *c, const char *name);
int cache_view(const struct cache *c, uint64_t model, struct cache_model_view *out); /* -ENOENT */
/* The i-th name of a model, NULL past the end; borrowed until the next event. */
const char *cache_name(const struct cache *c, uint64_t model, uint32_t i);
/* Shows the names that lead to models, in steps: looks at the next `most` places where a name can be, from *cursor on (0: the
 * beginning; every value is allowed), and returns false when there are no more.  Events may come between steps: a name that
 * is there from the first to the last is shown exactly once, with the model that it leads to then. */
bool cache_names_step(const struct cache *c, uint64_t *cursor, uint32_t most,
	void (*show)(void *ctx, const char *name, uint64_t model), void *ctx);
/* Pages through models in id order: the first with id > *cursor; false at the end. */
bool cache_next_model(const struct cache *c, uint64_t *cursor);
const char *copy_state_name(enum copy_state s);
const char *tier_kind_name(enum tier_kind k);
/* The model a lease is on; 0: not a lease of this owner. */
uint64_t cache_lease_model(const struct cache *c, uint64_t owner, uint64_t lease);
uint32_t cache_owner_leases(const struct cache *c, uint64_t owner);

/* Counters, monotone since cache_new(). */
struct cache_stats {
#define STAT(name, doc) uint64_t name;
#include "cache/stats.def"
#undef STAT
};
const struct cache_stats *cache_stats(const struct cache *c);

/* Walks everything and checks every invariant; ASSERTs on the first that is broken. */
void cache_verify(const struct cache *c);

#endif
