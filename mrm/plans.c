/* plans.c - see plans.h.
 * Keeps: bytes is the sum of all plans' bytes; a plan that the brain may come back to is never dropped. */
#include "mrm/plans.h"

#include "mrm/disk/hash.h"
#include "mrm/gpu/gpu.h"
#include "mrm/holding.h"
#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALED (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

struct plans {
	struct daemon *daemon;
	struct idmap by_number, by_hash;
	uint64_t last, bytes;
};

struct plans *plans_new(struct daemon *d)
{
	struct plans *p = calloc(1, sizeof *p);
	ASSERT(p);
	p->daemon = d;
	return p;
}

void plan_put(struct plan **pp)
{
	struct plan *p = STEAL(*pp);
	if (!p || atomic_fetch_sub(&p->refs, 1) > 1)
		return;
	free(p->head);
	free(p);
}

static void drop(struct plans *p, struct plan *plan)
{
	idmap_take(&p->by_number, plan->number);
	if (idmap_get(&p->by_hash, plan->hash) == plan)
		idmap_take(&p->by_hash, plan->hash);
	p->bytes -= plan->bytes;
	plan_put(&plan);
}

void plans_free(struct plans **pp)
{
	struct plans *p = STEAL(*pp);
	struct plan *plan;
	if (!p)
		return;
	for (size_t at = 0; (plan = idmap_next(&p->by_number, &at));)
		plan_put(&plan);
	idmap_fini(&p->by_number);
	idmap_fini(&p->by_hash);
	free(p);
}

/* ---- room ---- */

static void mark(void *ctx, uint64_t number)
{
	struct idmap *used = ctx;
	if (number)
		idmap_set(used, number, used);
}

/* Plans that neither the brain nor a copy refers to.  Gathered first, since what is taken off a map moves others about; there may
 * be 100,000 small ones, and this is the loop. */
static void sweep(struct plans *p)
{
	struct idmap used = {0};
	struct plan *plan, **idle = calloc(MAX(p->by_number.n, 1u), sizeof(struct plan *));
	size_t n = 0;
	ASSERT(idle);
	cache_each_plan(p->daemon->cache, mark, &used);
	for (size_t at = 0; (plan = idmap_next(&p->by_number, &at));)
		if (!idmap_get(&used, plan->number) && atomic_load(&plan->refs) == 1)
			idle[n++] = plan;
	for (size_t i = 0; i < n; i++)
		drop(p, idle[i]);
	free(idle);
	idmap_fini(&used);
}

static bool has_room(struct plans *p, uint64_t bytes)
{
	uint64_t most = p->daemon->config->plan_memory;
	if (bytes > most || p->bytes > most - bytes)
		sweep(p);
	return bytes <= most && p->bytes <= most - bytes;
}

/* ---- taking in ---- */

/* Takes the bytes over, also on failure. */
static int take(struct plans *p, struct plan_head *head, uint64_t n, uint64_t *number, struct fault *why)
{
	OWN_MEM struct plan_head *mine = head;
	int e = plan_check(head, n, 0, why);
	if (e)
		return e;
	uint64_t hash = chunk_hash(head, n).lo | 1; /* no key is 0 */
	struct plan *same = idmap_get(&p->by_hash, hash);
	if (same && same->bytes == n && !memcmp(same->head, head, n)) {
		*number = same->number;
		return 0;
	}
	if (!has_room(p, n))
		return fault_set(why, TRIMS_E_LIMIT, "plan: %" PRIu64 " bytes are more than plan-memory leaves", n), -ENOSPC;
	struct plan *plan = malloc(sizeof *plan);
	ASSERT(plan);
	*plan = (struct plan){.refs = 1, .number = ++p->last, .hash = hash, .bytes = n, .head = STEAL(mine)};
	idmap_set(&p->by_number, plan->number, plan);
	if (!same)
		idmap_set(&p->by_hash, hash, plan);
	p->bytes += n;
	*number = plan->number;
	return 0;
}

static struct plan_head *room_for(uint64_t n, struct fault *why)
{
	struct plan_head *head = malloc(MAX(n, sizeof *head));
	if (!head)
		fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a plan of %" PRIu64 " bytes", n);
	return head;
}

int plans_add(struct plans *p, const void *bytes, uint64_t n, uint64_t *number, struct fault *why)
{
	struct plan_head *head = room_for(n, why);
	if (!head)
		return -ENOMEM;
	memcpy(head, bytes, n);
	return take(p, head, n, number, why);
}

int plans_read(struct plans *p, int fd, uint64_t *number, struct fault *why)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & SEALED) != SEALED || fstat(fd, &st))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "plan: not a sealed memory file"), -EPROTO;
	if (st.st_size < 0 || (uint64_t)st.st_size > PLAN_WIRE_BYTES)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "plan: larger than any plan"), -EPROTO;
	uint64_t n = (uint64_t)st.st_size;
	struct plan_head *head = room_for(n, why);
	if (!head)
		return -ENOMEM;
	if (pread(fd, head, n, 0) != st.st_size) {
		free(head);
		return fault_set(why, TRIMS_E_BAD_REQUEST, "plan: it cannot be read"), -EPROTO;
	}
	return take(p, head, n, number, why);
}

struct plan *plans_get(struct plans *p, uint64_t number)
{
	struct plan *plan = number ? idmap_get(&p->by_number, number) : NULL;
	if (plan)
		atomic_fetch_add(&plan->refs, 1);
	return plan;
}

/* ---- what follows of it ---- */

/* Memory of IPC handles cannot be mapped side by side: a tensor must not straddle two pieces there. */
static bool wants_whole_runs(const struct daemon *d)
{
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		if (gpu_facts(d->gpu, i)->export == GPU_EXPORT_CUDA_IPC)
			return true;
	return false;
}

int plans_pieces(struct daemon *d, const struct layout *l, const struct plan *plan, struct pieces **out, struct fault *why)
{
	struct fault unfit;
	bool fits = plan && !plan_check_model(plan->head, l->n_tensors, &unfit);
	return pieces_build(out, l, fits ? plan->head : NULL, wants_whole_runs(d), why);
}

/* Cutting a large model takes milliseconds. */
static bool measure(struct daemon *d, const struct holding *img, const struct plan *plan, struct cache_device_size *out)
{
	struct pieces *p = NULL;
	struct fault why;
	if (plans_pieces(d, holding_layout(img), plan, &p, &why))
		return false;
	out->head_bytes = pieces_bytes(p, p->n_head, GPU_EXTENT_ALIGN);
	out->plan_bytes = pieces_bytes(p, p->n_plan, GPU_EXTENT_ALIGN);
	/* What cannot be mapped side by side is no better for having more of it. */
	out->all_bytes = wants_whole_runs(d) ? out->plan_bytes : pieces_bytes(p, p->n, GPU_EXTENT_ALIGN);
	pieces_free(&p);
	return true;
}

void plans_device_size(void *ctx, const struct cache_model_info *info, uint64_t number, struct cache_device_size *out)
{
	struct daemon *d = ctx;
	struct holding *img = holding_by_fingerprint(d, info->fingerprint_hi, info->fingerprint_lo);
	struct plan *plan = plans_get(d->plans, number);
	*out = (struct cache_device_size){.plan_bytes = info->gpu_bytes, .all_bytes = info->gpu_bytes};
	if (img && plan && plan->sized_hi == info->fingerprint_hi && plan->sized_lo == info->fingerprint_lo && plan->size.plan_bytes) {
		*out = plan->size;
	} else if (img && plan && measure(d, img, plan, out)) {
		plan->sized_hi = info->fingerprint_hi;
		plan->sized_lo = info->fingerprint_lo;
		plan->size = *out;
	}
	plan_put(&plan);
}
