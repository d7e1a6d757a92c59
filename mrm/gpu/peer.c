/* peer.c - see peer.h. */
#include "mrm/gpu/peer.h"

#include "mrm/gpu/device.h"
#include "shared/check.h"
#include "shared/image.h"
#include "shared/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_PART 16   /* of what a device has, or may be used of it */
#define MAX_SLOTS 4096
#define MEASURED_COPIES 4 /* a chunk each, behind one another; best of so many rounds */
#define ROUNDS 3

struct staging {
	uint64_t at;              /* 0: there is none */
	uint32_t slots, in_use, most_in_use;
	bool *used;               /* [slots] */
	struct fault why;         /* there is none */
};

struct pair {
	bool reaches;
	uint64_t bytes_per_s;
	struct fault why;
};

struct gpu_peers {
	struct gpu *gpu;
	struct staging staging[GPU_MAX_DEVICES];
	struct pair pair[GPU_MAX_DEVICES][GPU_MAX_DEVICES]; /* [to][from] */
};

/* ---- who reaches whom ---- */

static bool ask(struct gpu *g, uint32_t to, uint32_t from, struct fault *why)
{
	int can = 0, p2p = 0;
	cu_device a = g->device[to].ordinal, b = g->device[from].ordinal;
	cu_result r = g->cu->device_can_access_peer(&can, a, b);
	if (!r && can)
		r = g->cu->device_get_p2p_attribute(&p2p, CU_P2P_ACCESS, b, a);
	if (r)
		cuda_fault(g->cu, r, "cuDeviceCanAccessPeer", why);
	else if (!can || !p2p)
		fault_set(why, TRIMS_E_UNSUPPORTED, "the driver says that %s cannot take from the memory of %s",
			g->device[to].facts.uuid, g->device[from].facts.uuid);
	return !r && can && p2p;
}

static void open_pair(struct gpu_peers *p, uint32_t to, uint32_t from)
{
	struct gpu *g = p->gpu;
	struct pair *x = &p->pair[to][from];
	if (to == from || gpu_lost(g, from) || !ask(g, to, from, &x->why) || gpu_enter(g, to, &x->why))
		return;
	cu_result r = g->cu->ctx_enable_peer_access(g->device[from].context, 0);
	x->reaches = !r || r == CU_E_PEER_ACCESS_ALREADY_ENABLED;
	if (!x->reaches)
		gpu_failed_between(g, to, from, r, "cuCtxEnablePeerAccess", &x->why);
}

/* ---- staging ---- */

static bool is_wanted(const struct gpu_peers *p, uint32_t device)
{
	bool any = false;
	for (uint32_t i = 0; i < gpu_count(p->gpu); i++)
		any |= p->pair[i][device].reaches;
	return any;
}

static void make_staging(struct gpu_peers *p, uint32_t device, uint64_t bytes, uint64_t bound)
{
	struct gpu *g = p->gpu;
	struct staging *s = &p->staging[device];
	const struct gpu_facts *f = gpu_facts(g, device);
	uint64_t room = bound ? MIN(bound, f->total_bytes) : f->total_bytes;
	uint64_t most = MIN(bytes, room / LARGEST_PART) / IMAGE_CHUNK_BYTES;
	s->slots = (uint32_t)MIN(most, (uint64_t)MAX_SLOTS);
	if (!bytes)
		fault_set(&s->why, TRIMS_E_UNSUPPORTED, "pt-staging is 0");
	else if (!s->slots)
		fault_set(&s->why, TRIMS_E_NO_ROOM, "%s has no room for staging: pt-staging and a sixteenth of its memory must hold a "
			"chunk of 4 MiB", f->uuid);
	if (!s->slots || gpu_enter(g, device, &s->why)) {
		s->slots = 0;
		return;
	}
	cu_ptr at = 0;
	cu_result r = g->cu->mem_alloc(&at, s->slots * IMAGE_CHUNK_BYTES);
	s->used = r ? NULL : calloc(s->slots, sizeof *s->used);
	if (r) {
		gpu_failed(g, device, r, "cuMemAlloc", &s->why);
		log_warn("gpu", "%s has no staging: %s", f->uuid, s->why.text);
	}
	ASSERT(r || s->used);
	s->at = r ? 0 : at;
	s->slots = r ? 0 : s->slots;
}

/* ---- how fast ---- */

struct trial {
	struct gpu *gpu;
	uint32_t to, from;
	cu_ptr target, source;
	cu_stream stream;
	cu_event begin, end;
};

static cu_result time_copies(const struct trial *t, float *ms)
{
	const struct cuda *cu = t->gpu->cu;
	const struct gpu_device *to = &t->gpu->device[t->to], *from = &t->gpu->device[t->from];
	cu_result r = cu->event_record(t->begin, t->stream);
	for (int i = 0; !r && i < MEASURED_COPIES; i++)
		r = cu->memcpy_peer_async(t->target, to->context, t->source, from->context, IMAGE_CHUNK_BYTES, t->stream);
	r = r ? r : cu->event_record(t->end, t->stream);
	cu_result synced = GPU_AGAIN(cu->stream_synchronize(t->stream)); /* in any case: what they touch is freed next */
	r = r ? r : synced;
	return r ? r : cu->event_elapsed_time(ms, t->begin, t->end);
}

static uint64_t run_trial(struct trial *t)
{
	const struct cuda *cu = t->gpu->cu;
	float best = 0;
	cu_result r = GPU_AGAIN(cu->mem_alloc(&t->target, IMAGE_CHUNK_BYTES));
	r = r ? r : GPU_AGAIN(cu->stream_create(&t->stream, CU_STREAM_NO_NULL_SYNC));
	r = r ? r : GPU_AGAIN(cu->event_create(&t->begin, 0));
	r = r ? r : GPU_AGAIN(cu->event_create(&t->end, 0));
	for (int i = 0; !r && i < ROUNDS; i++) {
		float ms = 0;
		r = time_copies(t, &ms);
		if (!r && ms > 0 && (best <= 0 || ms < best))
			best = ms;
	}
	if (t->end)
		GPU_AGAIN(cu->event_destroy(t->end));
	if (t->begin)
		GPU_AGAIN(cu->event_destroy(t->begin));
	if (t->stream)
		GPU_AGAIN(cu->stream_destroy(t->stream));
	if (t->target)
		GPU_AGAIN(cu->mem_free(t->target));
	struct fault why;
	if (r)
		gpu_failed_between(t->gpu, t->to, t->from, r, "copies between devices", &why);
	return best > 0 ? (uint64_t)((double)(MEASURED_COPIES * IMAGE_CHUNK_BYTES) / ((double)best / 1e3)) : 0;
}

/* One that fails leaves the pair usable: the copies of loads will say more. */
static void measure(struct gpu_peers *p, uint32_t to, uint32_t from)
{
	struct trial t = {.gpu = p->gpu, .to = to, .from = from, .source = p->staging[from].at};
	struct pair *x = &p->pair[to][from];
	if (!x->reaches || !t.source || !gpu_keeps_time(p->gpu) || !gpu_enter_again(p->gpu, to))
		return;
	x->bytes_per_s = run_trial(&t);
	log_info("gpu", "%s takes %.3g GB/s from the memory of %s%s", gpu_facts(p->gpu, to)->uuid, (double)x->bytes_per_s / 1e9,
		gpu_facts(p->gpu, from)->uuid, gpu_is_simulated(p->gpu) ? " (simulated)" : "");
}

/* ---- the whole ---- */

int gpu_peers_new(struct gpu_peers **out, struct gpu *g, uint64_t staging_bytes, uint64_t bound_bytes,
	struct fault *why)
{
	struct gpu_peers *p = calloc(1, sizeof *p);
	uint32_t n = gpu_count(g);
	if (!p)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the devices' neighbours"), -ENOMEM;
	p->gpu = g;
	for (uint32_t to = 0; to < n; to++)
		for (uint32_t from = 0; from < n; from++)
			open_pair(p, to, from);
	for (uint32_t i = 0; i < n; i++)
		if (is_wanted(p, i))
			make_staging(p, i, staging_bytes, bound_bytes);
	for (uint32_t to = 0; to < n; to++)
		for (uint32_t from = 0; from < n; from++)
			measure(p, to, from);
	*out = p;
	return 0;
}

void gpu_peers_free(struct gpu_peers **pp)
{
	struct gpu_peers *p = *pp;
	if (!p)
		return;
	for (uint32_t i = 0; i < gpu_count(p->gpu); i++) {
		struct staging *s = &p->staging[i];
		ASSERT(!s->in_use);
		if (s->at && gpu_enter_again(p->gpu, i))
			GPU_AGAIN(p->gpu->cu->mem_free(s->at));
		free(s->used);
	}
	for (uint32_t to = 0; to < gpu_count(p->gpu); to++)
		for (uint32_t from = 0; from < gpu_count(p->gpu); from++)
			if (p->pair[to][from].reaches && gpu_enter_again(p->gpu, to))
				GPU_AGAIN(p->gpu->cu->ctx_disable_peer_access(p->gpu->device[from].context));
	free(p);
	*pp = NULL;
}

int gpu_peers_reach(const struct gpu_peers *p, uint32_t to, uint32_t from, struct fault *why)
{
	if (p->pair[to][from].reaches)
		return 0;
	*why = p->pair[to][from].why;
	return -ENODEV;
}

uint64_t gpu_peers_bytes_per_s(const struct gpu_peers *p, uint32_t to, uint32_t from)
{
	return p->pair[to][from].bytes_per_s;
}

bool gpu_peers_apart(const struct gpu_peers *p, uint32_t a, uint32_t b)
{
	const struct gpu_place *x = &gpu_facts(p->gpu, a)->place, *y = &gpu_facts(p->gpu, b)->place;
	for (uint32_t i = 0; i < x->n_bridges; i++)
		for (uint32_t j = 0; j < y->n_bridges; j++)
			if (!strcmp(x->bridge[i], y->bridge[j]))
				return false;
	return a != b;
}

int gpu_peers_staging(const struct gpu_peers *p, uint32_t device, struct fault *why)
{
	if (p->staging[device].slots)
		return 0;
	*why = p->staging[device].why;
	return -ENODATA;
}

void gpu_peers_staging_view(const struct gpu_peers *p, uint32_t device, struct gpu_staging_facts *out)
{
	const struct staging *s = &p->staging[device];
	*out = (struct gpu_staging_facts){.bytes = s->slots * IMAGE_CHUNK_BYTES, .slots = s->slots, .in_use = s->in_use,
		.most_in_use = s->most_in_use};
}

bool gpu_peers_take_slot(struct gpu_peers *p, uint32_t device, uint64_t *at)
{
	struct staging *s = &p->staging[device];
	uint32_t i = 0;
	while (i < s->slots && s->used[i])
		i++;
	if (i == s->slots)
		return false;
	s->used[i] = true;
	s->in_use++;
	s->most_in_use = MAX(s->most_in_use, s->in_use);
	*at = s->at + i * IMAGE_CHUNK_BYTES;
	return true;
}

void gpu_peers_give_slot(struct gpu_peers *p, uint32_t device, uint64_t at)
{
	struct staging *s = &p->staging[device];
	uint32_t i = (uint32_t)((at - s->at) / IMAGE_CHUNK_BYTES);
	ASSERT(i < s->slots && s->used[i]);
	s->used[i] = false;
	s->in_use--;
}
