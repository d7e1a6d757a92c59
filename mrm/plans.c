/* plans.c - see plans.h.
 * Keeps: bytes is the sum of what all plans are booked with; a plan that the brain may come back to is never dropped, and each
 * other one stands in `idle`. */
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

#define MOST_LOOKED_AT 2048 /* idle plans, for one that wants room: twice as many as have to go for the largest one */
_Static_assert(2 * (PLAN_WIRE_BYTES / PLANS_LEAST) <= MOST_LOOKED_AT, "room for the largest");

struct plans {
	struct daemon *daemon;
	struct idmap by_number, by_hash;
	struct list idle; /* the one that was let go first stands first */
	uint64_t last, bytes;
	void *read;       /* room for what is read, as large as has been wanted */
	uint64_t read_bytes;
};

struct plans *plans_new(struct daemon *d)
{
	struct plans *p = calloc(1, sizeof *p);
	ASSERT(p);
	p->daemon = d;
	list_init(&p->idle);
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

/* What it counts for: finding it again takes room as well. */
static uint64_t booked(uint64_t bytes)
{
	return MAX(bytes, (uint64_t)PLANS_LEAST);
}

static void drop(struct plans *p, struct plan *plan)
{
	list_del(&plan->idle_node);
	idmap_take(&p->by_number, plan->number);
	if (idmap_get(&p->by_hash, plan->hash) == plan)
		idmap_take(&p->by_hash, plan->hash);
	p->bytes -= booked(plan->bytes);
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
	free(p->read);
	free(p);
}

/* ---- room ---- */

void plans_ref(void *ctx, uint64_t number, int change)
{
	struct daemon *d = ctx;
	struct plan *plan = d->plans ? idmap_get(&d->plans->by_number, number) : NULL;
	if (!plan)
		return;
	ASSERT(change > 0 || plan->used > 0);
	plan->used += (uint32_t)change;
	if (list_hooked(&plan->idle_node))
		list_del(&plan->idle_node);
	if (!plan->used)
		list_add_tail(&plan->idle_node, &d->plans->idle);
}

/* A copy that the brain has let go may hold its plan a little longer, until its memory is given back. */
static bool make_room(struct plans *p, uint64_t bytes)
{
	uint64_t most = p->daemon->config->plan_memory;
	for (int i = 0; i < MOST_LOOKED_AT && bytes <= most && p->bytes > most - bytes && !list_empty(&p->idle); i++) {
		struct plan *plan = list_first(&p->idle, struct plan, idle_node);
		if (atomic_load(&plan->refs) == 1) {
			drop(p, plan);
		} else {
			list_del(&plan->idle_node);
			list_add_tail(&plan->idle_node, &p->idle);
		}
	}
	return bytes <= most && p->bytes <= most - bytes;
}

/* ---- taking in ---- */

static struct plan *make(const struct plan_head *head, uint64_t n, uint64_t hash, struct fault *why)
{
	struct plan *plan = malloc(sizeof *plan);
	struct plan_head *copy = malloc(n);
	if (!plan || !copy) {
		free(plan);
		free(copy);
		fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a plan of %" PRIu64 " bytes", n);
		return NULL;
	}
	memcpy(copy, head, n);
	*plan = (struct plan){.refs = 1, .hash = hash, .bytes = n, .head = copy};
	for (uint32_t i = 0; i < head->n_entries; i++)
		plan->n_tensors = MAX(plan->n_tensors, plan_entries(head)[i].tensor + 1);
	list_init(&plan->idle_node);
	return plan;
}

/* Bytes that are there already are no others for being brought again. */
int plans_add(struct plans *p, const void *bytes, uint64_t n, uint64_t *number, struct fault *why)
{
	const struct plan_head *head = bytes;
	uint64_t hash = chunk_hash(head, n).lo | 1; /* no key is 0 */
	struct plan *same = idmap_get(&p->by_hash, hash);
	if (same && same->bytes == n && !memcmp(same->head, head, n)) {
		*number = same->number;
		return 0;
	}
	int e = plan_check(head, n, 0, why);
	if (e)
		return e;
	if (!make_room(p, booked(n)))
		return fault_set(why, TRIMS_E_LIMIT, "plan: %" PRIu64 " bytes are more than plan-memory leaves", n), -ENOSPC;
	struct plan *plan = make(head, n, hash, why);
	if (!plan)
		return -ENOMEM;
	plan->number = ++p->last;
	idmap_set(&p->by_number, plan->number, plan);
	if (!idmap_get(&p->by_hash, hash))
		idmap_set(&p->by_hash, hash, plan);
	list_add_tail(&plan->idle_node, &p->idle);
	p->bytes += booked(n);
	*number = plan->number;
	return 0;
}

/* Where n bytes can be read to, 8-aligned; NULL: no memory.  Fresh memory each time would cost more than reading. */
static void *room_to_read(struct plans *p, uint64_t n)
{
	if (n > p->read_bytes) {
		free(p->read);
		p->read = malloc(n);
		p->read_bytes = p->read ? n : 0;
	}
	return p->read;
}

int plans_read(struct plans *p, int fd, uint64_t *number, struct fault *why)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & SEALED) != SEALED || fstat(fd, &st))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "plan: not a sealed memory file"), -EPROTO;
	if (st.st_size < (off_t)sizeof(struct plan_head) || (uint64_t)st.st_size > PLAN_WIRE_BYTES)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "plan: no plan has %lld bytes", (long long)st.st_size), -EPROTO;
	uint64_t n = (uint64_t)st.st_size;
	void *room = room_to_read(p, n);
	if (!room)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a plan of %" PRIu64 " bytes", n), -ENOMEM;
	if (pread(fd, room, n, 0) != st.st_size)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "plan: it cannot be read"), -EPROTO;
	return plans_add(p, room, n, number, why);
}

int plans_check(struct plans *p, uint64_t number, uint32_t n_tensors, struct fault *why)
{
	const struct plan *plan = idmap_get(&p->by_number, number);
	return !plan || plan->n_tensors <= n_tensors ? 0 : plan_check_model(plan->head, n_tensors, why);
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

uint32_t *plans_host_order(struct daemon *d, const struct layout *l, const struct plan *plan, bool device)
{
	struct pieces *p = NULL;
	struct fault why;
	if (plan_check_model(plan->head, l->n_tensors, &why) || (device && plans_pieces(d, l, plan, &p, &why)))
		return NULL;
	uint32_t *order = calloc(MAX(l->n_chunks, 1u), sizeof *order);
	if (order && pieces_host_order(l, plan->head, p, order))
		free(STEAL(order));
	pieces_free(&p);
	return order;
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
