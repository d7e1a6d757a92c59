/* hands.h - the hands of a simulated daemon, and a suspicious look at everything the brain asks of them.
 *
 * Effects are carried out late, in any order, fail, or are answered a second time.  Beside that the hands keep their own
 * books, from effects and answers alone, and end the program when the brain breaks a promise of cache.h:
 *   each request is answered once, and never after its owner went;
 *   memory is asked for before it is used, never more than a tier has, given back once, and not while it is leased,
 *   filled or read; a link never carries more transfers than it may; CANCEL and RECLASS concern what runs;
 *   a copy has memory for what a lease on it was given, and what leaves it was given to nobody who is there;
 *   a device that died gets nothing more; any device means one of those allowed; a claim gets the copy it names.
 * Thread: one.  The simulation owns the brain and the books. */
#ifndef TESTS_SIM_HANDS_H
#define TESTS_SIM_HANDS_H

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "shared/check.h"

#define SIM_NAMES 24
#define SIM_OWNERS 8
#define SIM_REQUESTS 4096
#define SIM_LEASES 1024
#define SIM_WORK 4096
#define SIM_COPIES 1024
#define SIM_PAST 256
#define SIM_MAX_TIERS 6

/* One thing the hands are at. */
struct sim_work {
	struct cache_effect fx;
	bool cancelled;
};

struct sim_copy {
	uint64_t model, copy, bytes, edition, growing; /* growing: bytes that are asked for */
	uint64_t plan;
	uint64_t asked; /* the edition that the last ALLOC was to lead to */
	uint8_t tier;
	enum copy_reach filled; /* up to there its bytes are good, if `ready` */
	bool allocated, freeing, trimming, ready;
};

struct sim_lease {
	uint64_t lease, owner, model, copy;
	uint8_t tier;
	enum copy_reach reach;
};

struct sim_request {
	uint64_t token, owner;
	int kind; /* 0 open, 1 prefetch, 2 pin */
	uint64_t claimed;     /* edition; 0: it is no claim */
	uint64_t device_mask; /* 0: any */
};

/* What the source has under a name. */
struct sim_name {
	char text[32];
	uint64_t bytes, gpu_bytes, version, content;
	uint64_t versions, old_version, old_content; /* how many there were; the one before, to go back to */
	bool in_place, missing;
};

struct sim {
	struct cache *c;
	const char *label;
	uint64_t seed, random, now, step, next_token;
	struct cache_config config;
	struct cache_tier_config tiers[SIM_MAX_TIERS];
	struct cache_link_config links[32];
	struct sim_name names[SIM_NAMES];
	size_t n_names;
	struct sim_work work[SIM_WORK], past[SIM_PAST]; /* past: answered already */
	size_t n_work, n_past;
	struct sim_copy copies[SIM_COPIES];
	size_t n_copies;
	struct sim_lease leases[SIM_LEASES];
	size_t n_leases;
	struct sim_request requests[SIM_REQUESTS];
	size_t n_requests;
	uint64_t answered, alloc_retries, trimmed, grown, regrown, given_up;
	uint64_t n_plans; /* opens name one of these, or none */
	unsigned fail_percent, twice_percent;
	bool lost[SIM_MAX_TIERS];
	bool lazy; /* effects are read later than they could be: some are out of date by then */
	bool over_capacity_ok; /* after a reconfiguration, until the tiers have shrunk */
};

uint64_t sim_random(struct sim *s);
uint64_t sim_below(struct sim *s, uint64_t bound);
bool sim_chance(struct sim *s, unsigned percent);

/* The brain is made from s->config by the caller; the hands start with empty books. */
void sim_send(struct sim *s, int kind, const struct cache_open *ask); /* 0 open, 1 prefetch, 2 pin */
void sim_close(struct sim *s, size_t lease);
/* Asks for a lease on a copy by its number: one of the books, or one that never was. */
void sim_claim(struct sim *s, uint64_t owner);
/* Says that a leased copy is damaged, and has some of its leases asked for again. */
void sim_corrupt_and_regrant(struct sim *s);
void sim_lose(struct sim *s, uint8_t tier);
/* What plan `plan` makes of a model; config.device_size. */
void sim_device_size(void *ctx, const struct cache_model_info *info, uint64_t plan, struct cache_device_size *out);
struct cache_model_info sim_info(const struct sim_name *n, const struct sim *s);
/* To another version, or back to the one before. */
void sim_change_source(struct sim *s, struct sim_name *n);
void sim_owner_gone(struct sim *s, uint64_t owner);
/* Takes effects, at most `limit`. */
void sim_take(struct sim *s, size_t limit);
/* Finishes one piece of work, in a way the dice decide; false when there is none. */
bool sim_work_one(struct sim *s);
/* Answers something a second time, or something that never was. */
void sim_answer_twice(struct sim *s);
void sim_progress(struct sim *s);
void sim_check(struct sim *s);

#define SIM_ASSERT(s, cond)                                                                                           \
	do {                                                                                                          \
		if (!(cond)) {                                                                                        \
			printf("Bail out! %s: %s (%s:%d), step %" PRIu64 ", TRIMS_SEED=%" PRIu64 "\n", (s)->label, #cond, \
				__FILE__, __LINE__, (s)->step, (s)->seed);                                            \
			fflush(stdout);                                                                               \
			abort();                                                                                      \
		}                                                                                                     \
	} while (0)

#endif
