/* brain.h - the records behind cache.h and what the brain's files say to each other.
 *
 *   name -> model -> copy (one per tier) -> load (while it is being filled) -> transfer (while bytes move)
 *                                        -> leases (who holds it)
 *
 * Thread: one at a time.  Ownership: a model owns its copies, a copy its load, a load its transfer; an owner its leases
 * and pending requests.  Loads and transfers that end, and copies that become empty, go to a list and are freed when
 * the event is over: no function has to fear that a callee freed what it holds.
 *
 * How an event runs: brain_begin() takes the time, the event changes records, and brain_run() then works off what
 * became possible (loads to plan, tiers with waiting loads, links with free slots) until nothing is left. */
#ifndef CACHE_BRAIN_H
#define CACHE_BRAIN_H

#include <errno.h>

#include "cache/cache.h"
#include "cache/evict.h"
#include "cache/heap.h"
#include "cache/map.h"
#include "cache/memory.h"
#include "cache/rate.h"
#include "shared/check.h"
#include "shared/list.h"

#define CACHE_MAX_LINKS 256
#define LABEL_BYTES 96
#define MODEL_MAX_PRINTS 8            /* fingerprints that lead to one model; the oldest goes */
#define BYTES_LIMIT ((uint64_t)1 << 60) /* sizes above are refused, so that sums cannot overflow */
#define ROUTE_HOP_NS NS_PER_MS        /* what a hop costs besides its bytes */

#define MODEL_MAGIC 0x4c444f4du
#define COPY_MAGIC 0x59504f43u
#define LOAD_MAGIC 0x44414f4cu
#define TRANSFER_MAGIC 0x4e415254u
#define LEASE_MAGIC 0x5341454cu
#define REQUEST_MAGIC 0x54535152u
#define NAME_MAGIC 0x454d414eu
#define OWNER_MAGIC 0x524e574fu

/* ---- tiers ---- */

/* Who stands between a copy's bytes and their reuse.  Every copy that counts is in exactly one class; a tier keeps the
 * sum of each, so that "can this ever fit, and when" is arithmetic. */
enum hold {
	HOLD_NONE,    /* ABSENT */
	HOLD_PART,    /* what a cancelled load left: first victim */
	HOLD_IDLE,    /* complete, or a beginning that is kept; unused, old enough: victim by policy */
	HOLD_YOUNG,   /* complete, unused, below the minimum residency */
	HOLD_SOFT,    /* a load under way that nobody leased or pinned, no demand or given up, and what a copy grows by: makes
	               * way for a demand */
	HOLD_READ,    /* the source of a running transfer, otherwise idle */
	HOLD_RELAY,   /* arriving for nobody but loads on other tiers, which need nothing more than its bytes: READ, then idle */
	HOLD_FREEING, /* on its way out; will come back without anybody's doing */
	HOLD_FIRM,    /* leased, pinned, or wanted now */
	HOLD_N
};

struct tier {
	enum tier_kind kind;
	uint32_t device;
	uint8_t index;
	bool dirty; /* waiting loads should be looked at again */
	bool fresh; /* a load joined the queue since */
	bool lost;  /* its device died: holds nothing, but what others have not let go of yet */
	char label[LABEL_BYTES];   /* "host tier", "gpu tier of GPU-..." */
	struct fault *lost_why;
	uint64_t capacity_bytes, used_bytes;
	uint64_t hold_bytes[HOLD_N];
	uint64_t pinned_bytes, leased_bytes, draining_bytes;
	uint32_t n_copies, n_pinned, n_leased, n_partial, n_heads;
	uint64_t evicted[CACHE_EVICTED_N];
	struct heap victims; /* PART and IDLE copies, and some that were */
	struct list idle;    /* PART, IDLE and YOUNG copies, used longest ago first */
	struct list young;   /* READY copies below the minimum residency, oldest first */
	struct list soft;    /* SOFT copies */
	struct list queue;   /* loads waiting for room: class, deadline, age */
	struct load *served; /* the first of these, as far as its copy knows; NULL: none */
	struct list partial; /* copies that could be completed in idle time */
	struct list growths; /* copies that are, and go on with it */
};

struct link {
	uint8_t from, to;
	uint32_t max_active, n_active;
	uint64_t bytes_per_s;
	uint64_t moved_bytes; /* over all transfers, ever */
	struct heap queue;    /* transfers ready to start */
	struct list active;
	struct list dirty_node;
};

/* ---- models and names ---- */

struct name {
	uint32_t magic;
	uint64_t id;
	struct map_node by_text;
	struct list model_node; /* in the model's names */
	struct list spare_node; /* in the cache's spare names: may be forgotten */
	struct list waiters;    /* requests */
	struct model *model;    /* NULL: RESOLVING for the first time, or NEGATIVE */
	bool resolving;
	bool checked;           /* false: adopted, to be resolved at the first open */
	uint64_t checked_at;
	struct fault *negative; /* why there is no such model; good until checked_at + negative_ns */
	size_t length;
	char text[];
};

/* A fingerprint that leads to a model. */
struct print {
	struct map_node by_print;
	struct list model_node;
	struct model *model;
	uint64_t hi, lo;
};

struct model {
	uint32_t magic;
	uint64_t id;
	struct cache_model_info info;
	uint64_t digest_hi, digest_lo; /* both 0: not known */
	struct map_node by_digest;
	struct list names, prints;
	struct list empty_node;        /* in the cache's list of models that may have become empty */
	uint64_t age;                  /* lower: known for longer */
	uint32_t n_names, n_prints, n_copies;
	uint16_t pins;                 /* bit per tier */
	uint8_t pin_failures;          /* in a row */
	uint64_t pin_at;               /* when what is pinned and not there is tried again */
	struct heap_node pin_node;     /* in the cache's heap of pins, while that is due */
	bool retired;                  /* superseded or merged: every copy drains */
	bool suspect;                  /* its source had changed when it was read: names are resolved before they serve */
	int64_t rate;
	int64_t gpu_rate;              /* of opens on GPU tiers alone: what earns a place there */
	uint64_t plan;                 /* of the last load on a device: what comes back by itself is made by it */
	struct copy *copies[];         /* per tier; NULL: ABSENT and unwanted */
};

/* ---- copies, loads, transfers ---- */

enum doom {
	DOOM_NONE,
#define EVICTION(NAME, name, why) DOOM_##NAME,
#include "cache/evictions.def"
#undef EVICTION
	DOOM_LOST, /* with its device: no eviction */
};

/* What a copy contributes to its tier's sums at the moment. */
struct account {
	uint64_t bytes, tail_bytes; /* tail: what it grows by, or what leaves it */
	enum hold hold, tail_hold;
	bool pinned, leased, draining, partial, head;
};

/* In this order victims go, within a class by the policy. */
enum rank_class {
	RANK_PART, /* worth little: a load that nobody wanted any more */
	RANK_TAIL, /* can lose bytes that cost no open any time */
	RANK_WHOLE
};

struct copy {
	uint32_t magic;
	uint8_t tier;
	uint8_t state; /* enum copy_state; written by copy_set() alone */
	uint8_t doom;  /* enum doom: it drains as soon as the states allow */
	bool has_memory, alloc_pending, free_sent;
	bool filled;     /* a transfer of this life ran: what is there is worth keeping */
	bool headed;     /* its beginning is complete, from the time when all of it was */
	bool trimming;   /* TRIM was sent */
	bool stuck;      /* a tail could not be given back: no more of that */
	bool young;      /* in the tier's young list */
	bool stale_rank; /* used since `rank` was computed; ranks only rise meanwhile */
	bool prefetched; /* came by prefetch and was not opened yet */
	struct model *model;
	struct load *load;
	uint8_t reach;   /* enum copy_reach: of what there is of it, or is being brought */
	uint64_t generation, bytes, landed_bytes, final_bytes;
	uint64_t edition, plan;
	uint64_t awaited; /* while an ALLOC or TRIM is out: the edition it named */
	struct cache_device_size size; /* on a device; else 0 */
	uint64_t tail_bytes; /* of `bytes`: asked for and not there yet, or on their way out */
	uint64_t grow_after; /* it failed: not again before */
	struct load *growth; /* adds to a READY copy what its plan leaves out; READY has no other load */
	uint64_t since, loaded_at, uses;
	int64_t last_use;
	uint32_t n_leases, n_readers;
	struct list leases;
	struct fault *fault; /* FAILED: why */
	struct account account;
	struct {
		enum rank_class class;
		int64_t key, last_use;
	} rank; /* as a victim, when it was last computed */
	struct heap_node victim_node;
	struct list idle_node, young_node, soft_node, empty_node;
	struct list partial_node; /* in the tier's `partial` or `growths` */
};

/* One party's interest in a load; the best of them is the load's class and deadline, the last one's going ends it. */
struct want {
	struct heap_node node;
	struct load *load; /* NULL: none */
	enum load_class class;
	uint32_t user; /* on whose behalf */
	uint64_t deadline, age;
};

enum load_phase {
	LOAD_DRAIN,    /* the copy's previous life has to end first */
	LOAD_TRIM,     /* the tail it is to bring again is still on its way out */
	LOAD_ROOM,     /* in the tier's queue */
	LOAD_ALLOC,    /* room is reserved, memory asked for */
	LOAD_PLAN,     /* memory is there; in the cache's list of loads to route */
	LOAD_SOURCE,   /* waits for the copy it will be filled from to start */
	LOAD_TRANSFER, /* a transfer fills it */
	LOAD_DEAD
};

enum keep { KEEP_PREFETCH = 1, KEEP_PIN = 2, KEEP_PERSIST = 4, KEEP_PROMOTE = 8 };

struct load {
	uint32_t magic;
	enum load_phase phase;
	struct copy *copy;
	struct heap wants;
	enum load_class class;
	uint32_t user;       /* the best want's */
	uint32_t keeper;     /* the first who asked for what `keep` says */
	uint64_t deadline, age;
	uint8_t keep;        /* enum keep bits: wanted besides waiters and leases */
	uint64_t plan;       /* what it makes a copy on a device by; elsewhere the order it asks for */
	struct cache_device_size size; /* on a device */
	uint64_t edition;    /* a growth's: of the copy, when it is through */
	bool retried;        /* gave up one damaged source already */
	bool waited_young;   /* counted in residency_waits */
	bool condemned;      /* it fails, however its transfer ends */
	bool served;         /* first in the tier's queue: what its copy has of it already is not taken meanwhile */
	bool squeezed;       /* was refused memory once and had idle copies evicted: asks again when they are gone */
	bool accepting;      /* has prefetch or pin requests to accept when the event is over */
	struct want own;     /* for `keep` */
	struct want source;  /* our interest in the load of the copy we are filled from */
	struct list source_node; /* in that load's dependents */
	struct list dependents;
	struct list waiters; /* requests */
	struct transfer *transfer;
	struct fault *inherited; /* why it fails when the transfer that is being stopped has ended */
	struct list queue_node, plan_node, accept_node, dead_node;
};

enum transfer_state {
	TRANSFER_PARKED, /* its source has not started to arrive */
	TRANSFER_QUEUED, /* in the link's queue */
	TRANSFER_ACTIVE,
	TRANSFER_STOPPING, /* CANCEL was sent */
	TRANSFER_DEAD
};

struct transfer {
	uint32_t magic;
	enum transfer_state state;
	uint64_t id;
	struct load *load;
	struct link *link;
	struct copy *source;     /* NULL: remote; holds one of its readers */
	struct transfer *leader; /* the one that still fills the source */
	struct list followers, follower_node;
	struct list active_node, dead_node;
	struct heap_node queue_node;
	uint64_t started_at, link_moved_at_start;
	enum load_class told_class; /* what the hands go by: the last START or RECLASS said so */
	uint64_t told_deadline;
	uint32_t told_user;
};

/* ---- clients ---- */

enum ask_kind { ASK_OPEN, ASK_PREFETCH, ASK_PIN };

/* A request by value; becomes a struct request only when it has to wait. */
struct ask {
	bool joined; /* a load was under way when it came */
	enum ask_kind kind;
	uint64_t owner, token, deadline;
	enum tier_kind tier;
	uint32_t device;
	uint64_t device_mask; /* 0: every device */
	enum load_class class;
	uint32_t user;
	bool only_resident;
	uint64_t plan;
	bool regrant; /* waits for a draining copy's holders instead of being refused */
};

struct request {
	uint32_t magic;
	bool set_pin; /* its refusal takes the pin off again */
	struct ask ask;
	struct owner *owner;
	struct name *name; /* waits for that, or */
	struct load *load; /* for that */
	struct want want;
	struct map_node by_token;
	struct heap_node deadline_node;
	struct list owner_node, wait_node;
};

struct lease {
	uint32_t magic;
	uint64_t id;
	struct owner *owner;
	struct copy *copy;
	struct ask ask;   /* what it answered */
	struct want want; /* while the copy is loading */
	struct list owner_node, copy_node;
};

struct owner {
	uint32_t magic;
	uint64_t id;
	struct map_node by_id;
	struct list leases, requests;
	uint32_t n_leases, n_requests;
};

/* ---- effects, in the short form they wait in ---- */

struct pending_effect {
	enum effect_kind kind; /* FX_N: withdrawn */
	uint8_t from, to, class, state, reach;
	bool hit, joined, grow;
	uint32_t user;
	uint64_t request, owner, model, copy, edition, plan, bytes, transfer, follows, lease, deadline, name;
	void *text; /* owned: struct fault (REFUSE, POISON) or the name (RESOLVE) */
};

struct effects {
	struct pending_effect *v; /* a ring; cap is a power of two */
	size_t head, n, cap;
};

struct cache {
	struct cache_config config; /* tiers and links point nowhere: they are in the arrays below */
	const struct evict_ops *policy;
	uint64_t now;
	uint8_t n_tiers;
	size_t n_links;
	struct tier tiers[CACHE_MAX_TIERS];
	struct link links[CACHE_MAX_LINKS];
	struct link *link_at[CACHE_MAX_TIERS][CACHE_MAX_TIERS];
	struct slots models, names, leases, transfers;
	struct map names_by_text, models_by_print, models_by_digest, owners, requests;
	struct heap deadlines;       /* of requests */
	struct heap pins;            /* models with a pin to be tried again */
	struct list spare_names;     /* forgotten first from the front */
	struct list to_plan, to_accept, dirty_links;
	struct list empty_copies, empty_models, dead_loads, dead_transfers;
	uint32_t n_requests;
	uint64_t next_generation, next_age;
	uint64_t plan_refs, plan_sum; /* all places with a plan, and the sum of what they have: for cache_verify() */
	struct effects effects;
	struct cache_stats stats;
};

/* cache.c */
void brain_begin(struct cache *c, uint64_t now);
void brain_run(struct cache *c);

/* effect.c */
void effects_fini(struct effects *e);
struct pending_effect *effect_add(struct cache *c, enum effect_kind kind);
struct pending_effect *effect_copy(struct cache *c, enum effect_kind kind, const struct copy *k);
void effect_refuse(struct cache *c, const struct ask *ask, const struct fault *why);
void effect_accept(struct cache *c, const struct ask *ask, const struct model *m);
/* Withdraws answers to an owner that nobody took yet. */
void effects_drop_owner(struct cache *c, uint64_t owner);

/* pin.c */
bool pin_before(const struct heap_node *a, const struct heap_node *b);
/* A load for a pin failed, or could not be started: it is tried again later. */
void pin_failed(struct cache *c, struct model *m);
void pin_forget(struct cache *c, struct model *m);
void pins_tick(struct cache *c);
uint64_t pins_wake(const struct cache *c);

/* model.c: models and copies */
struct model *model_new(struct cache *c, const struct cache_model_info *info);
/* FORGETs those that hold nothing and have no name. */
void models_sweep(struct cache *c);
void model_free(struct cache *c, struct model *m);
struct model *model_get(const struct cache *c, uint64_t id);
bool model_is_empty(const struct model *m);
/* Has brain_run() look whether the model holds nothing any more. */
void model_check_empty(struct cache *c, struct model *m);
uint64_t model_tier_bytes(const struct cache *c, const struct model *m, uint8_t tier);
/* It was opened on `tier`: its rate, and the copies below that one would come from again. */
void model_used(struct cache *c, struct model *m, uint8_t tier);
/* No name leads here any more: every copy drains; pins go over to the successor (NULL: are dropped). */
void model_retire(struct cache *c, struct model *m, struct model *successor);
void model_revive(struct cache *c, struct model *m); /* a name is about to lead to it, perhaps again */
bool model_is_pinned(const struct model *m, uint8_t tier);
void model_pin(struct cache *c, struct model *m, uint8_t tier, bool on);

struct copy *copy_get(struct cache *c, struct model *m, uint8_t tier); /* creates */
void copy_free(struct cache *c, struct copy *k);
/* The one place that changes a state.  why NULL: the edge's own. */
void copy_set(struct cache *c, struct copy *k, enum copy_state to, const char *why);
bool copy_is_doomed(const struct copy *k);
/* It shall go: at once when nobody holds it, else as soon as they let go.  What a load was kept for is forgotten, those
 * who wait for it are not: they get a new one. */
void copy_doom(struct cache *c, struct copy *k, enum doom doom);
/* Begins the end: RESERVED, READY or FAILED -> DRAINING. */
void copy_drain(struct cache *c, struct copy *k, const char *why);
/* To be called after any change of what holds a copy: carries out what follows of itself, brings the sums up to date. */
void copy_settle(struct cache *c, struct copy *k);
enum hold copy_hold(const struct copy *k);
void copy_touch(struct cache *c, struct copy *k);
void copy_ready(struct cache *c, struct copy *k);
/* It came up just now (loaded_at says so): no victim for the minimum residency. */
void copy_set_young(struct cache *c, struct copy *k);
/* Tells those who hold it. */
void copy_poison(struct cache *c, struct copy *k, const struct fault *why);

/* evict.c: victims of one tier */
void evict_init(struct tier *t);
void evict_place(struct cache *c, struct copy *k, enum hold old, enum hold now);
void evict_rank(struct cache *c, struct copy *k);
/* A copy of the model came or went: what it would take to load the others, or their tails, again has changed. */
void evict_rerank_others(struct cache *c, const struct copy *k);
/* Rank a copy would get if it were there and used now. */
int64_t evict_key_of(struct cache *c, const struct model *m, uint8_t tier, const struct copy *k);
/* The next victim, or NULL. */
struct copy *evict_next(struct cache *c, struct tier *t);
enum rank_class evict_class(const struct cache *c, const struct copy *k);
/* What can be taken of the copy may have changed. */
void evict_reclass(struct cache *c, struct copy *k);
/* Frees at least `bytes` from victims; the caller knows that there are enough. */
void evict_bytes(struct cache *c, struct tier *t, uint64_t bytes);
/* As above, all or nothing, from victims that are worth less than `key`. */
bool evict_bytes_below(struct cache *c, struct tier *t, uint64_t bytes, int64_t key);
void evict_age(struct cache *c, struct tier *t);
void evict_rerank_all(struct cache *c);
/* Takes the victim's tail if that is something, else all of it; returns how many bytes will be free. */
uint64_t evict_take(struct cache *c, struct copy *k, uint64_t bytes);
/* Residency, capacity, TTL. */
void evict_tick(struct cache *c, struct tier *t);
/* When the next copy reaches its TTL. */
uint64_t evict_wake(const struct cache *c, const struct tier *t);

/* room.c: loads that wait for bytes of a tier */
void room_enter(struct cache *c, struct load *l);
void room_leave(struct cache *c, struct load *l);
uint64_t room_bytes(const struct cache *c, const struct load *l); /* all that its copy will take */
/* Its class or deadline changed. */
void room_resort(struct cache *c, struct load *l);
/* The machine refused the memory that the tier's capacity promised.  True: idle copies make way and the load waits for
 * that, once; false: it cannot be helped. */
bool room_squeeze(struct cache *c, struct load *l, const struct fault *why);
void room_pump(struct cache *c, struct tier *t);
/* When a copy that somebody waits for reaches its minimum residency. */
uint64_t room_wake(const struct cache *c, const struct tier *t);

/* load.c */
/* Class, deadline, age. */
bool load_before(const struct load *a, const struct load *b);
/* Joins, or creates; a copy that there is something of stays with the plan it has. */
struct load *load_get(struct cache *c, struct copy *k, uint64_t plan, bool *created);
/* On behalf of `user`; of several who keep a load the first that is somebody is charged. */
void load_keep(struct cache *c, struct load *l, uint8_t keep, uint32_t user);
void load_unkeep(struct cache *c, struct load *l, uint8_t keep);
/* What a want is worth: its place among the others, and who is charged when it is the best. */
struct worth {
	enum load_class class;
	uint64_t deadline;
	uint32_t user;
};
void load_want(struct cache *c, struct load *l, struct want *w, const struct worth *worth);
/* May end the load when it was the last. */
void load_unwant(struct cache *c, struct want *w);
bool load_is_wanted(const struct load *l);
/* Somebody besides its own `keep` wants it. */
bool load_is_wanted_by_others(const struct load *l);
void load_admitted(struct cache *c, struct load *l); /* by room.c */
void load_fail(struct cache *c, struct load *l, const struct fault *why);
/* Its device is gone: as load_abort(), but what it was to feed looks for another source. */
void load_lose(struct cache *c, struct load *l, const struct fault *why);
/* As load_fail(), for one whose transfer may be running: that is stopped first, and however it ends the load fails. */
void load_abort(struct cache *c, struct load *l, const struct fault *why);
/* Its memory is needed for something better: ends it, and its copy. */
void load_give_way(struct cache *c, struct load *l);
void load_wait_drain(struct cache *c, struct load *l);
void load_copy_gone(struct cache *c, struct load *l);
void load_replan(struct cache *c, struct load *l);
void load_plan(struct cache *c, struct load *l);
void load_accept(struct cache *c, struct load *l);
void load_persist(struct cache *c, struct model *m, uint8_t host);
enum load_end { LOAD_END_OK, LOAD_END_STOPPED, LOAD_END_FAILED };
void growth_transfer_ended(struct cache *c, struct copy *k, enum load_end end);
struct load *load_new(struct cache *c, struct copy *k);
void load_bury(struct cache *c, struct load *l);
void load_transfer_ended(struct cache *c, struct load *l, uint8_t from, enum load_end end, const struct fault *why);
/* CACHE_NEVER, or when to look again. */
uint64_t load_promote(struct cache *c);
/* Two uses within about a half-life earn a place that is free anyway; what the TTL would soon take back does not. */
bool load_is_earned(const struct cache *c, const struct copy *k, int64_t rate);
#define PROMOTE_PERIOD_NS NS_PER_S
#define PROMOTE_LOOK 64 /* most recently used copies considered at a time */

/* reach.c: how much of a copy is on its device */
#define GROW_AGAIN_NS (60 * NS_PER_S)
/* What the model takes on a device by a plan. */
/* Every place that keeps a plan is set, and emptied (0), by this alone. */
void plan_set(struct cache *c, uint64_t *place, uint64_t plan);
struct cache_device_size device_size(const struct cache *c, const struct model *m, uint64_t plan);
uint64_t copy_reach_bytes(const struct copy *k, enum copy_reach reach);
/* Nothing of the image is missing, when it is READY. */
bool copy_is_whole(const struct copy *k);
/* The beginning alone is there, and nothing comes. */
bool copy_is_head(const struct copy *k);
/* What of its bytes is at rest: not those that it grows by or that leave. */
uint64_t copy_base_bytes(const struct copy *k);
/* Who holds what is not; HOLD_NONE: there is no such part. */
enum hold copy_tail_hold(const struct copy *k);
/* Down to where it can lose its tail; REACH_N: it cannot.  Then by copy_trim(), which says how many bytes go. */
enum copy_reach copy_spare(const struct copy *k);
uint64_t copy_trim(struct cache *c, struct copy *k, enum copy_reach reach);
/* It drained while it was to grow, and is wanted again: the memory that came for that goes. */
void copy_shed(struct cache *c, struct copy *k);
/* The answer to an ALLOC that adds to a copy. */
void head_alloc_done(struct cache *c, struct copy *k, const struct fault *error);
void growth_start(struct cache *c, struct copy *k);
/* Gives it up; the copy stays what it was. */
void growth_stop(struct cache *c, struct copy *k);
void growth_alloc_done(struct cache *c, struct copy *k, const struct fault *error);

/* route.c */
struct route {
	uint8_t from;  /* the tier next to the target */
	bool direct;   /* bytes are there or arriving; false: `from` has to be loaded first */
	uint64_t cost_ns;
};
/* local_only: nothing but copies that exist or arrive, one hop away.  -ENOENT: no way, -EBUSY: not at the moment, -EFBIG:
 * a tier on the way is too small. */
int route_find(struct cache *c, const struct model *m, uint8_t to, bool local_only, struct route *out);
/* How long it would take to have the copy again if it were gone. */
uint64_t route_reload_ns(struct cache *c, const struct model *m, uint8_t tier);

/* link.c */
void link_init(struct link *link, const struct cache_link_config *config);
struct transfer *transfer_new(struct cache *c, struct load *l, uint8_t from);
/* Ends one that was not started yet; its load is told nothing. */
void transfer_drop(struct cache *c, struct transfer *t);
void transfer_stop(struct cache *c, struct transfer *t);
/* Its source is no good any more: the load looks for another one, keeping what has landed. */
void transfer_leave_source(struct cache *c, struct transfer *t);
/* Its load's class or deadline changed. */
void transfer_reclass(struct cache *c, struct transfer *t);
bool transfer_is_running(const struct transfer *t);
void link_pump(struct cache *c, struct link *link);
void link_dirty(struct cache *c, struct link *link);

/* device.c: choosing a GPU, and losing one */
uint8_t device_for(const struct cache *c, const struct model *m, uint64_t plan, uint64_t mask);
/* Brings what is hot on GPUs back to one that has room, and completes what is hot there.  CACHE_NEVER, or when to look again. */
uint64_t device_promote(struct cache *c);

/* catalog.c */
struct name *name_get(const struct cache *c, const char *text, size_t length);
/* Puts it at the end of the names that may be forgotten, or takes it off that list. */
void name_spare(struct cache *c, struct name *n);
void names_free(struct cache *c);
void model_names_spare(struct cache *c, struct model *m);
/* The record of that text, touched; starts a resolve when what is known of it is too old.  NULL: *why says.
 * only_known: creates none. */
struct name *name_open(struct cache *c, const char *text, size_t length, bool only_known, struct fault *why);
void model_add_print(struct cache *c, struct model *m, uint64_t hi, uint64_t lo);
void model_drop_prints(struct cache *c, struct model *m);

/* lease.c */
void ask_on_model(struct cache *c, const struct ask *ask, struct model *m);
void request_refuse(struct cache *c, struct request *r, const struct fault *why);
void request_done(struct cache *c, struct request *r);
/* Has it ask again for another model than it waits for. */
void request_resume(struct cache *c, struct request *r, struct model *m);
/* As request_refuse, for one whose load goes on without it. */
void request_abort(struct cache *c, struct request *r, const struct fault *why);
void request_grant(struct cache *c, struct request *r, struct copy *k);
void requests_expire(struct cache *c);
uint8_t tier_for(const struct cache *c, const struct model *m, const struct ask *ask);
struct owner *owner_get(const struct cache *c, uint64_t id);
const char *model_label(const struct model *m);

#endif
