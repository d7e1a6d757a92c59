/* direct.c - see direct.h.
 * Keeps: a user is there while a lease on its copy lasts; a copy of which a part is on the host stays such a copy, or grows,
 * while anybody holds it, so leases are counted from the first on or not at all. */
#include "mrm/gpu/direct.h"

#include "mrm/gpu/memory.h"
#include "mrm/gpu/submit.h"
#include "mrm/plans.h"
#include "shared/check.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <stdlib.h>

struct user {
	uint32_t leases;
	struct gpu_reservation *held; /* NULL: it was refused */
};

struct direct {
	struct daemon *daemon;
	struct idmap users; /* copy -> struct user */
};

struct direct *direct_new(struct daemon *d)
{
	struct direct *all = calloc(1, sizeof *all);
	ASSERT(all);
	all->daemon = d;
	return all;
}

void direct_free(struct direct **dp)
{
	struct direct *d = STEAL(*dp);
	if (!d)
		return;
	ASSERT(!d->users.n);
	idmap_fini(&d->users);
	free(d);
}

static bool reads_host(const struct segment *copy)
{
	return copy->plan && copy->plan->head->dha_bytes_per_s && copy->n_pieces < copy->pieces->n;
}

static struct user *begin(struct direct *d, const struct holding *img, const struct segment *copy)
{
	struct user *u = calloc(1, sizeof *u);
	struct fault why;
	ASSERT(u);
	if (gpu_reserve(&u->held, d->daemon->links, gpu_memory_device(copy->device), copy->plan->head->dha_bytes_per_s,
		holding_label(img), &why)) {
		u->held = NULL;
		daemon_degraded(d->daemon, "dha-not-reserved", "%s: %s", holding_label(img), why.text);
		metrics_add(M_fallback_dha_not_reserved, 1);
	}
	idmap_set(&d->users, copy->generation, u);
	return u;
}

void direct_leased(struct direct *d, const struct holding *img, const struct segment *copy)
{
	struct user *u = idmap_get(&d->users, copy->generation);
	if (!u && reads_host(copy))
		u = begin(d, img, copy);
	if (u)
		u->leases++;
}

void direct_left(struct direct *d, uint64_t copy)
{
	struct user *u = idmap_get(&d->users, copy);
	if (!u || --u->leases)
		return;
	idmap_take(&d->users, copy);
	if (u->held)
		gpu_reserve_release(&u->held);
	free(u);
}
