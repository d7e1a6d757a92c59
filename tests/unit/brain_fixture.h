/* brain_fixture.h - a brain with a clock and hands made of paper.
 *
 * Models are named "NAME:BYTES" (a trailing "!" reads in place, "@N" is version N at the source).  The hands answer at once
 * what `hands` says they answer; the rest waits in `held`, in order, for the test to answer.  fix_fini() verifies, closes
 * everything, lets all hands finish and expects that no load is left over.
 * Thread: the test's.  Owns the brain. */
#ifndef TESTS_UNIT_BRAIN_FIXTURE_H
#define TESTS_UNIT_BRAIN_FIXTURE_H

#include <errno.h>
#include <string.h>

#include "cache/cache.h"
#include "tests/unit/unit.h"

enum { HAND_RESOLVE = 1, HAND_ALLOC = 2, HAND_TRANSFER = 4, HAND_FREE = 8, HAND_TRIM = 16, HANDS_ALL = 31 };
enum { REMOTE, DISK, HOST, GPU0, GPU1 };
#define FIX_ANSWERS 512
#define FIX_HELD 1024

struct fix_answer {
	enum effect_kind kind; /* FX_N: none yet */
	uint64_t model, copy, lease, edition, plan;
	enum copy_reach reach;
	enum copy_state state;
	uint8_t tier;
	bool hit;
	enum trims_code error;
	char text[FAULT_TEXT_MAX];
};

struct fixture {
	struct cache *c;
	struct cache_config config;
	struct cache_tier_config tiers[5];
	struct cache_link_config links[16];
	uint64_t now;
	int hands;
	struct fix_answer answers[FIX_ANSWERS]; /* by request */
	struct cache_effect held[FIX_HELD];
	size_t n_held;
	uint32_t count[FX_N];
	enum trims_code unreachable; /* what a resolve fails with, NONE: it succeeds */
	uint64_t version;            /* of every model at the source */
	uint64_t gpu_round;          /* GPU copies take multiples of this; 0: as large as on the host */
	int edges;
	int plan_refs[8];            /* of the plans with these last three bits */
};

static inline void fix_on_edge(void *ctx, uint64_t model, uint8_t tier, enum copy_state from, enum copy_state to,
	const char *why)
{
	struct fixture *f = ctx;
	(void)model, (void)tier, (void)from, (void)to;
	ck_assert_ptr_nonnull(why);
	f->edges++;
}

/* A plan that leaves `plan` bytes on a device, the first `head` of which are worth keeping. */
#define FIX_PLAN(head, plan) ((uint64_t)(head) << 32 | (plan))

static inline void fix_device_size(void *ctx, const struct cache_model_info *info, uint64_t plan, struct cache_device_size *out)
{
	(void)ctx;
	*out = (struct cache_device_size){.head_bytes = plan >> 32, .plan_bytes = plan & UINT32_MAX, .all_bytes = info->gpu_bytes};
}

static inline void fix_plan_ref(void *ctx, uint64_t plan, int change)
{
	struct fixture *f = ctx;
	f->plan_refs[plan & 7] += change;
	ck_assert_int_ge(f->plan_refs[plan & 7], 0);
}

/* Disk 1000, host 1000, gpus 500 bytes; every policy knob off; `hands` all. */
static inline void fix_prepare(struct fixture *f)
{
	static const struct cache_link_config links[] = {{REMOTE, HOST, 4, 1 << 20}, {HOST, DISK, 4, 1 << 24},
		{DISK, HOST, 4, 1 << 24}, {HOST, GPU0, 1, 1 << 28}, {HOST, GPU1, 1, 1 << 28}};
	memset(f, 0, sizeof(*f));
	f->now = 1000 * NS_PER_S;
	f->hands = HANDS_ALL;
	f->tiers[REMOTE] = (struct cache_tier_config){.kind = TIER_REMOTE};
	f->tiers[DISK] = (struct cache_tier_config){.kind = TIER_DISK, .capacity_bytes = 1000};
	f->tiers[HOST] = (struct cache_tier_config){.kind = TIER_HOST, .capacity_bytes = 1000};
	f->tiers[GPU0] = (struct cache_tier_config){.kind = TIER_GPU, .device = 0, .capacity_bytes = 500};
	f->tiers[GPU1] = (struct cache_tier_config){.kind = TIER_GPU, .device = 1, .capacity_bytes = 500};
	memcpy(f->links, links, sizeof(links));
	f->config = (struct cache_config){
		.tiers = f->tiers,
		.n_tiers = 3,
		.links = f->links,
		.n_links = 3,
		.policy = "lru",
		.half_life_ns = 600 * NS_PER_S,
		.revalidate_ns = 3600 * NS_PER_S,
		.negative_ns = 10 * NS_PER_S,
		.max_names = 1000,
		.max_waiters = 100,
		.on_edge = fix_on_edge,
		.device_size = fix_device_size,
		.plan_ref = fix_plan_ref,
		.ctx = f,
	};
	for (size_t i = 0; i < FIX_ANSWERS; i++)
		f->answers[i].kind = FX_N;
}

static inline void fix_gpus(struct fixture *f)
{
	f->config.n_tiers = 5;
	f->config.n_links = 5;
}

static inline void fix_start(struct fixture *f)
{
	struct fault why;
	ck_assert_int_eq(cache_new(&f->c, &f->config, &why), 0);
}

static inline void fix_init(struct fixture *f)
{
	fix_prepare(f);
	fix_start(f);
}

static inline struct cache_model_info fix_info(const struct fixture *f, const char *name)
{
	const char *colon = strchr(name, ':');
	uint64_t bytes = colon ? strtoull(colon + 1, NULL, 10) : 100, hash = 5381;
	for (const char *p = name; *p; p++)
		hash = hash * 33 + (unsigned char)*p;
	return (struct cache_model_info){.fingerprint_hi = hash, .fingerprint_lo = f->version + 1, .image_bytes = bytes,
		.gpu_bytes = f->gpu_round ? align_up(bytes, f->gpu_round) : 0, .disk_bytes = bytes, .in_place = strchr(name, '!') != NULL};
}

static inline void fix_answer_one(struct fixture *f, const struct cache_effect *e, enum trims_code error)
{
	struct fault why, *failed = error ? &why : NULL;
	fault_set(&why, error, "the test says so");
	if (e->kind == FX_RESOLVE && error) {
		cache_resolve_failed(f->c, f->now, e->name, &why);
	} else if (e->kind == FX_RESOLVE) {
		struct cache_model_info info = fix_info(f, e->name_text);
		uint64_t model;
		cache_resolved(f->c, f->now, e->name, &info, &model);
	} else if (e->kind == FX_ALLOC) {
		cache_alloc_done(f->c, f->now, e->model, e->to, e->edition, failed);
	} else if (e->kind == FX_START || e->kind == FX_CANCEL) {
		cache_transfer_done(f->c, f->now, e->transfer, failed);
	} else if (e->kind == FX_TRIM) {
		cache_trimmed(f->c, f->now, e->model, e->to, e->edition, e->bytes);
	} else if (e->kind == FX_FREE) {
		cache_freed(f->c, f->now, e->model, e->to, e->copy);
	} else {
		ck_abort_msg("no answer is due to effect %d", (int)e->kind);
	}
	cache_verify(f->c);
}

static inline void fix_note_answer(struct fixture *f, const struct cache_effect *e)
{
	ck_assert_uint_lt(e->request, FIX_ANSWERS);
	struct fix_answer *a = &f->answers[e->request];
	ck_assert_msg(a->kind == FX_N, "request %" PRIu64 " is answered twice", e->request);
	*a = (struct fix_answer){.kind = e->kind, .model = e->model, .copy = e->copy, .lease = e->lease, .state = e->state,
		.edition = e->edition, .plan = e->plan, .reach = e->reach,
		.tier = e->to, .hit = e->hit, .error = e->error.code};
	memcpy(a->text, e->error.text, sizeof(a->text));
}

/* Takes all effects; answers or holds them. */
static inline void fix_run(struct fixture *f)
{
	struct cache_effect e;
	cache_verify(f->c);
	while (cache_next_effect(f->c, &e)) {
		int hand = e.kind == FX_RESOLVE ? HAND_RESOLVE :
			e.kind == FX_ALLOC ? HAND_ALLOC :
			e.kind == FX_START ? HAND_TRANSFER :
			e.kind == FX_FREE ? HAND_FREE :
			e.kind == FX_TRIM ? HAND_TRIM : 0;
		f->count[e.kind]++;
		if (e.kind == FX_GRANT || e.kind == FX_REFUSE || e.kind == FX_ACCEPT) {
			fix_note_answer(f, &e);
		} else if (hand & f->hands) {
			fix_answer_one(f, &e, e.kind == FX_RESOLVE ? f->unreachable : TRIMS_E_NONE);
		} else {
			ck_assert_uint_lt(f->n_held, FIX_HELD);
			f->held[f->n_held++] = e;
		}
	}
}

/* The oldest held effect of that kind, taken out. */
static inline struct cache_effect fix_take(struct fixture *f, enum effect_kind kind)
{
	for (size_t i = 0; i < f->n_held; i++) {
		struct cache_effect e = f->held[i];
		if (e.kind != kind)
			continue;
		memmove(&f->held[i], &f->held[i + 1], (--f->n_held - i) * sizeof(e));
		return e;
	}
	ck_abort_msg("no effect of kind %d is held", (int)kind);
	return (struct cache_effect){0};
}

static inline size_t fix_held(const struct fixture *f, enum effect_kind kind)
{
	size_t n = 0;
	for (size_t i = 0; i < f->n_held; i++)
		n += f->held[i].kind == kind;
	return n;
}

/* Takes the oldest held effect of that kind and answers it. */
static inline struct cache_effect fix_done(struct fixture *f, enum effect_kind kind, enum trims_code error)
{
	struct cache_effect e = fix_take(f, kind);
	fix_answer_one(f, &e, error);
	fix_run(f);
	return e;
}

static inline struct cache_open fix_ask(uint64_t request, const char *name)
{
	return (struct cache_open){.name = name, .owner = 1, .request = request, .device = UINT32_MAX, .deadline = CACHE_NEVER};
}

/* device: CACHE_ANY_DEVICE, or one. */
static inline struct cache_open fix_ask_gpu(uint64_t request, const char *name, uint32_t device)
{
	struct cache_open ask = fix_ask(request, name);
	ask.tier = TIER_GPU;
	ask.device = device;
	return ask;
}

static inline const struct fix_answer *fix_open_as(struct fixture *f, struct cache_open ask)
{
	cache_open(f->c, f->now, &ask);
	fix_run(f);
	return &f->answers[ask.request];
}

static inline const struct fix_answer *fix_open(struct fixture *f, uint64_t request, const char *name)
{
	return fix_open_as(f, fix_ask(request, name));
}

static inline void fix_close(struct fixture *f, uint64_t request)
{
	ck_assert_int_eq(f->answers[request].kind, FX_GRANT);
	ck_assert_int_eq(cache_close(f->c, f->now, 1, f->answers[request].lease), 0);
	fix_run(f);
}

/* Opens and closes: the model is there and idle, used just now. */
static inline void fix_use(struct fixture *f, uint64_t request, const char *name)
{
	f->now += NS_PER_MS;
	fix_open(f, request, name);
	fix_close(f, request);
}

static inline uint64_t fix_tick(struct fixture *f, uint64_t after_ns)
{
	f->now += after_ns;
	uint64_t next = cache_tick(f->c, f->now);
	fix_run(f);
	return next;
}

static inline struct cache_copy_view fix_copy(const struct fixture *f, const char *name, uint8_t tier)
{
	struct cache_model_view view;
	if (cache_view(f->c, cache_find(f->c, name), &view) < 0)
		return (struct cache_copy_view){.state = COPY_ABSENT};
	return view.copies[tier];
}

static inline uint64_t fix_used(const struct fixture *f, uint8_t tier)
{
	struct cache_tier_view view;
	cache_tier(f->c, tier, &view);
	return view.used_bytes;
}

#define ck_assert_state(f, name, tier, wanted)                                                                        \
	ck_assert_str_eq(copy_state_name(fix_copy(f, name, tier).state), copy_state_name(wanted))
#define ck_assert_granted(answer, wanted)                                                                             \
	do {                                                                                                          \
		const struct fix_answer *a_ = (answer);                                                               \
		ck_assert_msg(a_->kind == FX_GRANT, "answer %d, error %s: %s", (int)a_->kind, error_name(a_->error), a_->text); \
		ck_assert_str_eq(copy_state_name(a_->state), copy_state_name(wanted));                                \
	} while (0)
#define ck_assert_refused(answer, wanted)                                                                             \
	do {                                                                                                          \
		const struct fix_answer *a_ = (answer);                                                               \
		ck_assert_int_eq(a_->kind, FX_REFUSE);                                                                \
		ck_assert_str_eq(error_name(a_->error), error_name(wanted));                                          \
		ck_assert_uint_gt(strlen(a_->text), 0);                                                               \
	} while (0)

static inline void fix_finish_held(struct fixture *f)
{
	while (f->n_held) {
		struct cache_effect e = f->held[0];
		memmove(&f->held[0], &f->held[1], --f->n_held * sizeof(e));
		if (e.kind != FX_RECLASS && e.kind != FX_POISON && e.kind != FX_FORGET)
			fix_answer_one(f, &e, e.kind == FX_START || e.kind == FX_CANCEL ? TRIMS_E_CANCELLED : 0);
		fix_run(f);
	}
}

static inline void fix_fini(struct fixture *f)
{
	uint64_t cursor = 0;
	struct cache_model_view view;
	for (uint64_t owner = 0; owner < 100; owner++)
		cache_owner_gone(f->c, f->now, owner);
	fix_run(f);
	f->hands = HANDS_ALL;
	fix_finish_held(f);
	for (size_t t = 1; t < f->config.n_tiers; t++)
		ck_assert_uint_le(fix_used(f, (uint8_t)t), f->tiers[t].capacity_bytes);
	while (cache_next_model(f->c, &cursor)) {
		ck_assert_int_eq(cache_view(f->c, cursor, &view), 0);
		for (size_t t = 1; t < f->config.n_tiers; t++) {
			ck_assert_uint_eq(view.copies[t].leases, 0);
			ck_assert_int_ne(view.copies[t].state, COPY_LOADING);
			ck_assert_int_ne(view.copies[t].state, COPY_DRAINING);
		}
	}
	cache_free(&f->c);
	ck_assert_ptr_null(f->c);
}

#endif
