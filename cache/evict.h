/* evict.h - what an eviction policy is: a name and a pure function from what is known about a copy to a key.
 *
 * The copy with the lowest key goes first; equal keys: the one used longer ago.  A key is computed when the copy is
 * used, not when a victim is looked for, so it must be an order that the mere passing of time does not change.
 * Thread: any.  A policy owns nothing and sees nothing but the subject. */
#ifndef CACHE_EVICT_H
#define CACHE_EVICT_H

#include "shared/base.h"

struct evict_subject {
	uint64_t bytes;
	uint64_t uses;      /* opens since it was loaded, on this tier or one above */
	int64_t last_use;   /* ns; before the clock's start for images found on disk */
	uint64_t loaded_at; /* ns */
	int64_t rate;       /* rate.h */
	uint64_t reload_ns; /* estimated, through the tiers below; 0 unless wants_reload */
};

struct evict_ops {
	const char *name;
	bool evicts;       /* false: complete copies never make room for others */
	bool wants_reload; /* reload_ns costs a walk over the links: only for those who use it */
	int64_t (*key)(const struct evict_subject *s);
};

#define POLICY(name, doc) extern const struct evict_ops evict_##name;
#include "cache/policies.def"
#undef POLICY

/* NULL: no such policy. */
const struct evict_ops *evict_find(const char *name);

#endif
