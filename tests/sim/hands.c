/* hands.c - see hands.h. */
#include "tests/sim/hands.h"

uint64_t sim_random(struct sim *s)
{
	uint64_t z = s->random += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint64_t sim_below(struct sim *s, uint64_t bound)
{
	return bound ? sim_random(s) % bound : 0;
}

bool sim_chance(struct sim *s, unsigned percent)
{
	return sim_below(s, 100) < percent;
}

/* ---- the books ---- */

static struct sim_copy *book_copy(struct sim *s, uint64_t copy)
{
	for (size_t i = 0; i < s->n_copies; i++)
		if (s->copies[i].copy == copy)
			return &s->copies[i];
	return NULL;
}

static struct sim_copy *book_filled(struct sim *s, uint64_t model, uint8_t tier)
{
	for (size_t i = 0; i < s->n_copies; i++)
		if (s->copies[i].model == model && s->copies[i].tier == tier && s->copies[i].allocated)
			return &s->copies[i];
	return NULL;
}

static size_t book_leases(const struct sim *s, uint64_t copy)
{
	size_t n = 0;
	for (size_t i = 0; i < s->n_leases; i++)
		n += s->leases[i].copy == copy;
	return n;
}

static struct sim_work *book_transfer(struct sim *s, uint64_t transfer)
{
	for (size_t i = 0; i < s->n_work; i++)
		if (s->work[i].fx.kind == FX_START && s->work[i].fx.transfer == transfer)
			return &s->work[i];
	return NULL;
}

static struct sim_request *book_request(struct sim *s, uint64_t owner, uint64_t token)
{
	for (size_t i = 0; i < s->n_requests; i++)
		if (s->requests[i].token == token && s->requests[i].owner == owner)
			return &s->requests[i];
	return NULL;
}

static void book_drop_copy(struct sim *s, struct sim_copy *k)
{
	*k = s->copies[--s->n_copies];
}

static void work_add(struct sim *s, const struct cache_effect *fx)
{
	SIM_ASSERT(s, s->n_work < SIM_WORK);
	s->work[s->n_work++] = (struct sim_work){.fx = *fx};
}

/* Some plans leave out much, some nothing; some keep a beginning; every fifth is no good for anybody. */
void sim_device_size(void *ctx, const struct cache_model_info *info, uint64_t plan, struct cache_device_size *out)
{
	uint64_t all = info->gpu_bytes, left_out = plan % 3 * 20, kept = plan / 3 % 4 * 20;
	(void)ctx;
	*out = (struct cache_device_size){.all_bytes = all + plan % 2 * 8, .plan_bytes = all - all * left_out / 100};
	out->head_bytes = out->plan_bytes * kept / 100;
	if (plan % 5 == 0)
		*out = (struct cache_device_size){.all_bytes = all, .plan_bytes = all};
}

static struct cache_device_size device_size(const struct cache_model_info *info, uint64_t plan)
{
	struct cache_device_size size = {.all_bytes = info->gpu_bytes, .plan_bytes = info->gpu_bytes};
	if (plan)
		sim_device_size(NULL, info, plan, &size);
	return size;
}

/* Bytes of a copy on its tier, as the brain has to count them. */
static uint64_t model_bytes(struct sim *s, const struct cache_effect *fx)
{
	struct cache_model_view v;
	SIM_ASSERT(s, cache_view(s->c, fx->model, &v) == 0);
	enum tier_kind kind = s->tiers[fx->to].kind;
	if (kind != TIER_GPU)
		return kind == TIER_DISK ? v.info.disk_bytes : v.info.image_bytes;
	struct cache_device_size size = device_size(&v.info, fx->plan);
	return fx->reach == REACH_ALL ? size.all_bytes : fx->reach == REACH_HEAD ? size.head_bytes : size.plan_bytes;
}

/* ---- effects ---- */

static void take_answer(struct sim *s, const struct cache_effect *fx)
{
	struct sim_request *r = book_request(s, fx->owner, fx->request);
	SIM_ASSERT(s, r); /* asked, not answered yet, its owner not gone */
	SIM_ASSERT(s, fx->kind == FX_REFUSE || (fx->kind == FX_GRANT) == (r->kind == 0));
	if (fx->kind == FX_GRANT) {
		SIM_ASSERT(s, s->lazy || !s->lost[fx->to]);
		SIM_ASSERT(s, !r->claimed || (fx->edition == r->claimed && fx->hit && fx->state == COPY_READY));
		SIM_ASSERT(s, !r->device_mask || s->tiers[fx->to].kind != TIER_GPU ||
			r->device_mask >> s->tiers[fx->to].device & 1);
	}
	*r = s->requests[--s->n_requests];
	s->answered++;
	SIM_ASSERT(s, fx->kind != FX_REFUSE || (fx->error.code != TRIMS_E_NONE && fx->error.text[0]));
	if (fx->kind != FX_GRANT)
		return;
	const struct sim_copy *k = book_copy(s, fx->copy);
	SIM_ASSERT(s, k && k->allocated && !k->freeing && k->tier == fx->to && k->model == fx->model);
	SIM_ASSERT(s, fx->state == COPY_READY || fx->state == COPY_LOADING);
	SIM_ASSERT(s, fx->reach != REACH_HEAD && fx->plan == k->plan && (s->lazy || fx->edition == k->edition));
	SIM_ASSERT(s, fx->state != COPY_READY || s->lazy || (k->ready && k->filled == fx->reach));
	SIM_ASSERT(s, s->n_leases < SIM_LEASES);
	s->leases[s->n_leases++] = (struct sim_lease){fx->lease, fx->owner, fx->model, fx->copy, fx->to, fx->reach};
}

/* To be added to what there is. */
static void take_grow(struct sim *s, const struct cache_effect *fx)
{
	struct sim_copy *k = book_copy(s, fx->copy);
	SIM_ASSERT(s, k && k->allocated && !k->freeing && !k->trimming && !k->growing && k->tier == fx->to);
	SIM_ASSERT(s, k->ready && k->filled == (fx->reach == REACH_ALL ? REACH_PLAN : REACH_HEAD) && fx->plan == k->plan);
	SIM_ASSERT(s, fx->reach == REACH_ALL || book_leases(s, fx->copy) == 0);
	SIM_ASSERT(s, fx->bytes >= k->bytes && fx->bytes == MAX(model_bytes(s, fx), k->bytes) && fx->edition != k->edition);
	for (size_t i = 0; i < s->n_copies; i++)
		SIM_ASSERT(s, s->copies[i].edition != fx->edition);
	k->growing = fx->bytes - k->bytes + 1;
	k->bytes = fx->bytes;
	k->asked = fx->edition;
	if (fx->reach == REACH_PLAN)
		k->edition = fx->edition;
	work_add(s, fx);
}

static void take_alloc(struct sim *s, const struct cache_effect *fx)
{
	if (fx->grow) {
		take_grow(s, fx);
		return;
	}
	SIM_ASSERT(s, !book_copy(s, fx->copy) && !book_filled(s, fx->model, fx->to));
	SIM_ASSERT(s, s->n_copies < SIM_COPIES && (s->lazy || !s->lost[fx->to]));
	s->copies[s->n_copies++] = (struct sim_copy){.model = fx->model, .copy = fx->copy, .tier = fx->to,
		.bytes = model_bytes(s, fx), .edition = fx->edition, .plan = fx->plan};
	SIM_ASSERT(s, fx->bytes == model_bytes(s, fx) && fx->reach == REACH_PLAN && fx->edition == fx->copy);
	work_add(s, fx);
}

/* A transfer that ended with the very event the order came of. */
static bool just_ended(const struct sim *s, uint64_t transfer)
{
	return s->n_past && s->past[(s->n_past - 1) % SIM_PAST].fx.transfer == transfer;
}

static void take_start(struct sim *s, const struct cache_effect *fx)
{
	const struct sim_copy *k = book_copy(s, fx->copy);
	uint32_t running = 0, slots = 0;
	SIM_ASSERT(s, k && k->allocated && !k->freeing && k->tier == fx->to && k->model == fx->model);
	SIM_ASSERT(s, !k->trimming && !k->growing && (s->tiers[fx->to].kind == TIER_DISK || fx->bytes == k->bytes));
	SIM_ASSERT(s, (fx->grow || !k->ready) && (s->tiers[fx->to].kind != TIER_GPU || fx->plan == k->plan));
	SIM_ASSERT(s, !book_transfer(s, fx->transfer));
	SIM_ASSERT(s, s->lazy || (!s->lost[fx->to] && !s->lost[fx->from]));
	for (size_t i = 0; i < s->n_work; i++) {
		const struct cache_effect *x = &s->work[i].fx;
		if (x->kind != FX_START)
			continue;
		running += x->from == fx->from && x->to == fx->to;
		SIM_ASSERT(s, x->copy != fx->copy); /* one at a time fills a copy */
	}
	for (size_t i = 0; i < s->config.n_links; i++)
		if (s->links[i].from == fx->from && s->links[i].to == fx->to)
			slots = s->links[i].max_active;
	SIM_ASSERT(s, running < slots);
	if (fx->from) {
		const struct sim_copy *source = book_filled(s, fx->model, fx->from);
		SIM_ASSERT(s, source && !source->freeing);
	}
	if (fx->follows) {
		const struct sim_work *leader = book_transfer(s, fx->follows);
		SIM_ASSERT(s, leader ? leader->fx.model == fx->model && leader->fx.to == fx->from
				      : s->lazy || just_ended(s, fx->follows));
	}
	work_add(s, fx);
}

static void take_free(struct sim *s, const struct cache_effect *fx)
{
	struct sim_copy *k = book_copy(s, fx->copy);
	SIM_ASSERT(s, k && k->allocated && !k->freeing && !k->trimming && !k->growing && k->tier == fx->to);
	SIM_ASSERT(s, s->tiers[fx->to].kind == TIER_DISK || (fx->bytes == k->bytes && fx->plan == k->plan));
	SIM_ASSERT(s, book_leases(s, fx->copy) == 0);
	for (size_t i = 0; i < s->n_work; i++) {
		const struct cache_effect *x = &s->work[i].fx;
		SIM_ASSERT(s, x->kind != FX_START || x->model != fx->model || (x->copy != fx->copy && x->from != fx->to));
	}
	k->freeing = true;
	work_add(s, fx);
}

/* The copy is smaller from now on: nobody who holds it, reads or fills it has what goes. */
static void take_trim(struct sim *s, const struct cache_effect *fx)
{
	struct sim_copy *k = book_copy(s, fx->copy);
	SIM_ASSERT(s, k && k->allocated && !k->freeing && !k->trimming && !k->growing && k->tier == fx->to);
	SIM_ASSERT(s, fx->bytes <= k->bytes && fx->bytes >= model_bytes(s, fx) && fx->plan == k->plan);
	for (size_t i = 0; i < s->n_leases; i++)
		SIM_ASSERT(s, s->leases[i].copy != fx->copy || (fx->reach == REACH_PLAN && s->leases[i].reach == REACH_PLAN));
	for (size_t i = 0; i < s->n_work; i++) {
		const struct cache_effect *x = &s->work[i].fx;
		SIM_ASSERT(s, x->kind != FX_START || x->model != fx->model || (x->copy != fx->copy && x->from != fx->to));
	}
	bool undone = k->ready && k->filled == REACH_PLAN && fx->reach == REACH_PLAN;
	SIM_ASSERT(s, fx->edition != k->edition && (!undone || fx->edition == k->asked));
	k->trimming = true;
	k->filled = fx->reach;
	k->ready = true; /* up to there */
	k->edition = undone ? k->edition : fx->edition;
	s->trimmed++;
	work_add(s, fx);
}

static void take_cancel(struct sim *s, const struct cache_effect *fx)
{
	struct sim_work *w = book_transfer(s, fx->transfer);
	SIM_ASSERT(s, w ? !w->cancelled : s->lazy || just_ended(s, fx->transfer));
	if (w)
		w->cancelled = true;
}

static void take_one(struct sim *s, const struct cache_effect *fx)
{
	switch (fx->kind) {
	case FX_GRANT:
	case FX_REFUSE:
	case FX_ACCEPT:
		take_answer(s, fx);
		break;
	case FX_ALLOC:
		take_alloc(s, fx);
		break;
	case FX_START:
		take_start(s, fx);
		break;
	case FX_FREE:
		take_free(s, fx);
		break;
	case FX_TRIM:
		take_trim(s, fx);
		break;
	case FX_RESOLVE:
		work_add(s, fx);
		break;
	case FX_CANCEL:
		take_cancel(s, fx);
		break;
	case FX_RECLASS:
		SIM_ASSERT(s, s->lazy || book_transfer(s, fx->transfer) || just_ended(s, fx->transfer));
		break;
	case FX_POISON:
		SIM_ASSERT(s, fx->error.code != TRIMS_E_NONE && (s->lazy || book_leases(s, fx->copy) > 0));
		break;
	case FX_FORGET:
		for (size_t i = 0; i < s->n_copies; i++)
			SIM_ASSERT(s, s->copies[i].model != fx->model);
		for (size_t i = 0; i < s->n_leases; i++)
			SIM_ASSERT(s, s->leases[i].model != fx->model);
		break;
	case FX_N:
		SIM_ASSERT(s, false);
	}
}

void sim_take(struct sim *s, size_t limit)
{
	struct cache_effect fx;
	while (limit-- && cache_next_effect(s->c, &fx))
		take_one(s, &fx);
}

/* ---- events ---- */

void sim_send(struct sim *s, int kind, const struct cache_open *ask)
{
	SIM_ASSERT(s, s->n_requests < SIM_REQUESTS);
	s->requests[s->n_requests++] = (struct sim_request){.token = ask->request, .owner = ask->owner,
		.kind = kind, .device_mask = ask->device == CACHE_ANY_DEVICE ? ask->device_mask : 0};
	if (kind == 0)
		cache_open(s->c, s->now, ask);
	else if (kind == 1)
		cache_prefetch(s->c, s->now, ask);
	else
		cache_pin(s->c, s->now, ask);
}

void sim_close(struct sim *s, size_t lease)
{
	struct sim_lease x = s->leases[lease];
	s->leases[lease] = s->leases[--s->n_leases];
	SIM_ASSERT(s, cache_close(s->c, s->now, x.owner + 1, x.lease) == -ENOENT);
	SIM_ASSERT(s, cache_close(s->c, s->now, x.owner, x.lease) == 0);
	SIM_ASSERT(s, cache_close(s->c, s->now, x.owner, x.lease) == -ENOENT);
}

static struct sim_request *request_add(struct sim *s, uint64_t owner)
{
	SIM_ASSERT(s, s->n_requests < SIM_REQUESTS);
	struct sim_request *r = &s->requests[s->n_requests++];
	*r = (struct sim_request){.token = ++s->next_token, .owner = owner};
	return r;
}

void sim_claim(struct sim *s, uint64_t owner)
{
	struct sim_copy k = {.model = sim_random(s), .edition = sim_random(s) | 1, .tier = (uint8_t)sim_below(s, 256)};
	if (s->n_copies && sim_chance(s, 90))
		k = s->copies[sim_below(s, s->n_copies)];
	struct sim_request *r = request_add(s, owner);
	r->claimed = k.edition;
	cache_claim(s->c, s->now, owner, r->token, k.model, k.tier, k.edition);
}

void sim_corrupt_and_regrant(struct sim *s)
{
	if (!s->n_leases)
		return;
	struct sim_lease bad = s->leases[sim_below(s, s->n_leases)];
	cache_corrupt(s->c, s->now, bad.model, bad.tier);
	if (!s->lazy)
		sim_take(s, SIZE_MAX); /* POISON, while they still have it */
	for (size_t i = s->n_leases; i-- > 0;) {
		struct sim_lease x = s->leases[i];
		if (x.copy != bad.copy || sim_chance(s, 30))
			continue;
		s->leases[i] = s->leases[--s->n_leases];
		uint64_t token = request_add(s, x.owner)->token;
		SIM_ASSERT(s, cache_regrant(s->c, s->now, x.owner + 1, x.lease, token) == -ENOENT);
		SIM_ASSERT(s, cache_regrant(s->c, s->now, x.owner, x.lease, token) == 0);
		SIM_ASSERT(s, cache_regrant(s->c, s->now, x.owner, x.lease, token) == -ENOENT);
	}
}

void sim_lose(struct sim *s, uint8_t tier)
{
	struct fault why;
	struct cache_tier_view v;
	fault_set(&why, TRIMS_E_GPU_ERROR, "simulated: it fell off the bus");
	bool gpu = s->tiers[tier].kind == TIER_GPU;
	SIM_ASSERT(s, cache_tier_lost(s->c, s->now, tier, &why) == (gpu ? 0 : -EINVAL));
	s->lost[tier] |= gpu;
	cache_tier(s->c, tier, &v);
	SIM_ASSERT(s, v.lost == s->lost[tier] && v.pinned_bytes <= (gpu ? 0 : UINT64_MAX));
}

void sim_owner_gone(struct sim *s, uint64_t owner)
{
	cache_owner_gone(s->c, s->now, owner);
	for (size_t i = s->n_requests; i-- > 0;)
		if (s->requests[i].owner == owner)
			s->requests[i] = s->requests[--s->n_requests];
	for (size_t i = s->n_leases; i-- > 0;)
		if (s->leases[i].owner == owner)
			s->leases[i] = s->leases[--s->n_leases];
	SIM_ASSERT(s, cache_owner_leases(s->c, owner) == 0);
}

/* ---- answers ---- */

static struct sim_name *source_of(struct sim *s, const char *text)
{
	for (size_t i = 0; i < s->n_names; i++)
		if (strcmp(s->names[i].text, text) == 0)
			return &s->names[i];
	return NULL;
}

struct cache_model_info sim_info(const struct sim_name *n, const struct sim *s)
{
	return (struct cache_model_info){.fingerprint_hi = (uint64_t)(n - s->names) + 1, .fingerprint_lo = n->version,
		.image_bytes = n->bytes, .gpu_bytes = n->gpu_bytes, .disk_bytes = n->bytes + n->bytes / 8, .in_place = n->in_place};
}

void sim_change_source(struct sim *s, struct sim_name *n)
{
	struct sim_name was = *n;
	bool back = n->old_version && sim_chance(s, 40);
	n->version = back ? was.old_version : ++n->versions;
	n->content = back ? was.old_content : sim_chance(s, 70) ? was.content : sim_random(s) | 1;
	n->old_version = was.version;
	n->old_content = was.content;
}

static void answer_resolve(struct sim *s, const struct cache_effect *fx, bool fail)
{
	struct sim_name *n = source_of(s, fx->name_text);
	struct fault why;
	uint64_t model;
	SIM_ASSERT(s, n);
	if (sim_chance(s, n->old_version ? 25 : 3)) /* a model is superseded while it is in use, and comes back */
		sim_change_source(s, n);
	if (fail || n->missing) {
		fault_set(&why, n->missing ? TRIMS_E_NOT_FOUND : TRIMS_E_UNREACHABLE, "simulated: %s", n->text);
		cache_resolve_failed(s->c, s->now, fx->name, &why);
		return;
	}
	struct cache_model_info info = sim_info(n, s);
	cache_resolved(s->c, s->now, fx->name, &info, &model);
}

static void answer_alloc(struct sim *s, const struct cache_effect *fx, bool fail, bool again)
{
	struct sim_copy *k = book_copy(s, fx->copy);
	struct fault why;
	fault_set(&why, TRIMS_E_NO_MEMORY, "simulated: no memory");
	if (!again && fx->grow) {
		k->bytes -= fail ? k->growing - 1 : 0;
		k->growing = 0;
		k->ready = fail || fx->reach == REACH_ALL; /* of a head nothing can be opened while the rest comes */
	} else if (!again && fail)
		book_drop_copy(s, k);
	else if (!again)
		k->allocated = true;
	cache_alloc_done(s->c, s->now, fx->model, fx->to, fx->edition, fail ? &why : NULL);
}

/* Equal contents have equal digests; the digest is that of the version that was resolved. */
static void maybe_identify(struct sim *s, uint64_t model)
{
	struct cache_model_view v;
	if (cache_view(s->c, model, &v) < 0 || v.info.fingerprint_hi == 0)
		return;
	const struct sim_name *n = &s->names[v.info.fingerprint_hi - 1];
	cache_identified(s->c, s->now, model, n->content, v.info.fingerprint_lo);
}

static enum trims_code transfer_fault(struct sim *s)
{
	static const enum trims_code codes[] = {TRIMS_E_MISMATCH, TRIMS_E_DISK_ERROR, TRIMS_E_UNREACHABLE, TRIMS_E_DISK_FULL,
		TRIMS_E_CHANGED, TRIMS_E_CANCELLED};
	return codes[sim_below(s, ARRAY_LEN(codes))];
}

/* A growth that was called back counts for nothing, though it was done: the brain says which. */
static void book_filled_up(struct sim *s, struct sim_copy *k, const struct cache_effect *fx)
{
	struct cache_model_view v;
	bool grew = fx->reach == REACH_ALL;
	SIM_ASSERT(s, k && cache_view(s->c, fx->model, &v) == 0);
	k->ready = true;
	if (grew && v.copies[fx->to].reach != REACH_ALL)
		return;
	k->filled = fx->reach;
	k->edition = fx->edition;
}

static void answer_transfer(struct sim *s, const struct sim_work *w, bool fail)
{
	struct fault why;
	bool cancelled = w->cancelled && !sim_chance(s, 25); /* else it was done before the order came */
	fault_set(&why, cancelled ? TRIMS_E_CANCELLED : transfer_fault(s), "simulated: the transfer ended");
	if (!cancelled && !fail && sim_chance(s, 30))
		maybe_identify(s, w->fx.model);
	cache_transfer_done(s->c, s->now, w->fx.transfer, cancelled || fail ? &why : NULL);
	struct sim_copy *k = book_copy(s, w->fx.copy);
	if (!cancelled && !fail)
		book_filled_up(s, k, &w->fx);
	if (!cancelled && !fail && s->tiers[w->fx.to].kind == TIER_DISK && k && sim_chance(s, 50)) {
		k->bytes -= k->bytes / 4;
		cache_disk_size(s->c, w->fx.model, k->bytes);
	}
}

static void answer_trim(struct sim *s, const struct cache_effect *fx, bool fail, bool again)
{
	struct sim_copy *k = book_copy(s, fx->copy);
	uint64_t bytes = fail ? fx->bytes + sim_below(s, 500) : sim_below(s, fx->bytes + 1);
	if (!again) {
		k->bytes = MIN(k->bytes, MAX(fx->bytes, bytes));
		k->trimming = false;
	}
	cache_trimmed(s->c, s->now, fx->model, fx->to, fx->edition, bytes);
}

static void work_answer(struct sim *s, const struct sim_work *w, bool again)
{
	bool fail = sim_chance(s, s->fail_percent);
	struct sim_copy *k;
	switch (w->fx.kind) {
	case FX_RESOLVE:
		answer_resolve(s, &w->fx, fail);
		break;
	case FX_ALLOC:
		answer_alloc(s, &w->fx, fail, again);
		break;
	case FX_START:
		answer_transfer(s, w, fail);
		break;
	case FX_TRIM:
		answer_trim(s, &w->fx, fail, again);
		break;
	case FX_FREE:
		k = book_copy(s, w->fx.copy);
		if (!again)
			book_drop_copy(s, k);
		cache_freed(s->c, s->now, w->fx.model, w->fx.to, w->fx.copy);
		break;
	default:
		SIM_ASSERT(s, false);
	}
}

bool sim_work_one(struct sim *s)
{
	if (s->n_work == 0)
		return false;
	size_t i = sim_below(s, s->n_work);
	struct sim_work w = s->work[i];
	s->work[i] = s->work[--s->n_work];
	s->past[s->n_past++ % SIM_PAST] = w;
	work_answer(s, &w, false);
	if (sim_chance(s, s->twice_percent))
		sim_answer_twice(s);
	return true;
}

static void answer_nonsense(struct sim *s)
{
	uint64_t id = sim_random(s);
	uint8_t tier = (uint8_t)sim_below(s, 256);
	cache_alloc_done(s->c, s->now, id, tier, id, NULL);
	cache_freed(s->c, s->now, id, tier, id);
	cache_trimmed(s->c, s->now, id, tier, id, id);
	cache_landed(s->c, s->now, id, id);
	cache_transfer_done(s->c, s->now, id, NULL);
	cache_corrupt(s->c, s->now, id, tier);
	cache_identified(s->c, s->now, id, 1, 1);
	cache_disk_size(s->c, id, 1);
	SIM_ASSERT(s, cache_regrant(s->c, s->now, 1, id, 1) == -ENOENT);
}

/* A name's id lives on, so a second answer to an older RESOLVE is an answer: only what is over can be said again. */
void sim_answer_twice(struct sim *s)
{
	if (s->n_past == 0 || sim_chance(s, 20)) {
		answer_nonsense(s);
		return;
	}
	const struct sim_work *w = &s->past[sim_below(s, MIN(s->n_past, (size_t)SIM_PAST))];
	if (w->fx.kind == FX_START && book_transfer(s, w->fx.transfer))
		return;
	if (w->fx.kind == FX_START)
		cache_transfer_done(s->c, s->now, w->fx.transfer, NULL);
	else
		work_answer(s, w, true);
}

void sim_progress(struct sim *s)
{
	if (s->n_work == 0)
		return;
	const struct cache_effect *fx = &s->work[sim_below(s, s->n_work)].fx;
	if (fx->kind == FX_START)
		cache_landed(s->c, s->now, fx->transfer, sim_below(s, 2 * model_bytes(s, fx)));
}

/* ---- the books against the brain ---- */

void sim_check(struct sim *s)
{
	uint64_t bytes[SIM_MAX_TIERS] = {0};
	cache_verify(s->c);
	for (size_t i = 0; i < s->n_copies; i++)
		bytes[s->copies[i].tier] += s->copies[i].bytes;
	for (size_t t = 1; t < s->config.n_tiers; t++) {
		struct cache_tier_view v;
		cache_tier(s->c, (uint8_t)t, &v);
		SIM_ASSERT(s, s->lazy || v.kind != TIER_GPU || v.used_bytes == bytes[t]);
		SIM_ASSERT(s, s->over_capacity_ok || v.used_bytes <= v.capacity_bytes);
		SIM_ASSERT(s, s->over_capacity_ok || bytes[t] <= v.capacity_bytes);
	}
	for (size_t i = 0; i < s->n_leases; i++) {
		struct cache_model_view v;
		SIM_ASSERT(s, cache_view(s->c, s->leases[i].model, &v) == 0);
		SIM_ASSERT(s, v.copies[s->leases[i].tier].copy == s->leases[i].copy);
	}
}
