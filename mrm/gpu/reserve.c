/* reserve.c - what is set aside for models that read host memory while they run, and what can be seen of links. */
#include "mrm/gpu/submit_impl.h"

#include "mrm/clock.h"
#include "shared/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- direct access ---- */

/* What its reads pass: the link, and what that shares with others. */
static uint32_t path_of(const struct gpu_links *l, uint32_t device, uint32_t node[LINKSCHED_MAX_HOPS + 1])
{
	struct linksched_hop hops[LINKSCHED_MAX_HOPS];
	uint32_t n = gpu_tree_hops(&l->tree, device, GPU_H2D, hops, LINKSCHED_MAX_HOPS);
	node[0] = linksched_link_node(l->sched, l->link[device][GPU_H2D].index);
	for (uint32_t i = 0; i < n; i++)
		node[1 + i] = hops[i].node;
	return 1 + n;
}

static bool passes(const struct gpu_links *l, const struct gpu_reservation *r, uint32_t node)
{
	uint32_t path[LINKSCHED_MAX_HOPS + 1], n = path_of(l, r->device, path);
	for (uint32_t i = 0; i < n; i++)
		if (path[i] == node)
			return true;
	return false;
}

static uint64_t reserved_on(const struct gpu_links *l, uint32_t node)
{
	uint64_t sum = 0;
	list_for_each(it, &l->reservations) {
		const struct gpu_reservation *r = list_entry(it, struct gpu_reservation, node);
		sum += passes(l, r, node) ? r->bytes_per_s : 0;
	}
	return sum;
}

static const char *name_of(const struct gpu_links *l, uint32_t device, uint32_t node)
{
	for (uint32_t i = 0; i < l->tree.n; i++)
		if (l->tree.node[i].id == node)
			return l->tree.node[i].name;
	return gpu_facts(l->gpu, device)->uuid;
}

/* Under the lock.  What the nodes have set aside follows the list; a rate that goes down always fits. */
static void settle(struct gpu_links *l, const uint32_t *node, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		int e = linksched_reserve(l->sched, clock_now(), node[i], reserved_on(l, node[i]));
		ASSERT(!e);
	}
}

static int refuse(const struct gpu_links *l, const struct gpu_reservation *r, uint32_t node, struct fault *why)
{
	struct linksched_node_view v;
	int e = linksched_node_view(l->sched, node, &v);
	ASSERT(!e);
	fault_set(why, TRIMS_E_NO_ROOM, "%.1f GB/s of direct access for %s do not fit on %s: it gives out %.1f GB/s beside the "
		"%.1f that are reserved, and demands under way need the rest", (double)r->bytes_per_s / 1e9, r->label,
		name_of(l, r->device, node), (double)v.given_bytes_per_s / 1e9, (double)v.reserved_bytes_per_s / 1e9);
	return -ENOSPC;
}

/* Plans come from clients: whatever they claim to read, others' copies keep the rest. */
static int check_share(const struct gpu_links *l, const struct gpu_reservation *r, uint32_t node, struct fault *why)
{
	struct linksched_node_view v;
	int e = linksched_node_view(l->sched, node, &v);
	ASSERT(!e);
	uint64_t most = v.bytes_per_s * l->direct_share / 1000;
	if (reserved_on(l, node) <= most)
		return 0;
	fault_set(why, TRIMS_E_NO_ROOM, "%.1f GB/s of direct access for %s are beyond the %.1f GB/s that direct-share leaves on %s for all of "
		"it, %.1f of which are reserved", (double)r->bytes_per_s / 1e9, r->label, (double)most / 1e9, name_of(l, r->device, node),
		(double)v.reserved_bytes_per_s / 1e9);
	return -ENOSPC;
}

/* Under the lock, with the reservation on the list. */
static int reserve_path(struct gpu_links *l, const struct gpu_reservation *r, struct fault *why)
{
	uint32_t node[LINKSCHED_MAX_HOPS + 1], n = path_of(l, r->device, node);
	for (uint32_t i = 0; i < n; i++)
		if (check_share(l, r, node[i], why))
			return -ENOSPC;
	for (uint32_t i = 0; i < n; i++)
		if (linksched_reserve(l->sched, clock_now(), node[i], reserved_on(l, node[i])))
			return refuse(l, r, node[i], why);
	return 0;
}

static void unhook(struct gpu_links *l, struct gpu_reservation *r)
{
	uint32_t node[LINKSCHED_MAX_HOPS + 1], n = path_of(l, r->device, node);
	list_del(&r->node);
	l->n_reservations--;
	settle(l, node, n);
}

int gpu_reserve(struct gpu_reservation **out, struct gpu_links *l, uint32_t device, uint64_t bytes_per_s, const char *label,
	struct fault *why)
{
	if (l->n_reservations == GPU_MAX_RESERVATIONS)
		return fault_set(why, TRIMS_E_LIMIT, "%d rates of direct access are reserved already", GPU_MAX_RESERVATIONS), -EUSERS;
	if (bytes_per_s > LINKSCHED_MAX_RATE)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "no link does %" PRIu64 " bytes a second", bytes_per_s), -EINVAL;
	struct gpu_reservation *r = calloc(1, sizeof *r);
	if (!r)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a reservation"), -ENOMEM;
	r->all = l;
	r->device = device;
	r->bytes_per_s = bytes_per_s;
	snprintf(r->label, sizeof r->label, "%s", label);
	list_init(&r->node);
	links_lock(l);
	list_add_tail(&r->node, &l->reservations);
	l->n_reservations++;
	int e = reserve_path(l, r, why);
	if (e)
		unhook(l, r);
	links_unlock(l);
	if (e)
		free(r);
	else
		*out = r;
	return e;
}

void gpu_reserve_release(struct gpu_reservation **rp)
{
	struct gpu_reservation *r = *rp;
	if (!r)
		return;
	struct gpu_links *l = r->all;
	links_lock(l);
	unhook(l, r);
	links_unlock(l);
	free(r);
	*rp = NULL;
}

/* ---- looking ---- */

void gpu_links_view(const struct gpu_links *links, uint32_t device, enum gpu_direction direction, struct gpu_link_facts *out)
{
	struct gpu_links *l = (struct gpu_links *)links;
	struct link *k = &l->link[device][direction];
	links_lock(l);
	*out = (struct gpu_link_facts){.calibration = l->calibration[device][direction], .doubtful = l->doubtful[device],
		.probes = l->probes[device]};
	int e = linksched_link_view(l->sched, k->index, &out->view);
	links_unlock(l);
	ASSERT(!e);
	out->copies = atomic_load_explicit(&k->copies, memory_order_relaxed);
	out->failed = atomic_load_explicit(&k->failed, memory_order_relaxed);
	out->unregistered_bytes = atomic_load_explicit(&k->unregistered_bytes, memory_order_relaxed);
	out->buffered = atomic_load_explicit(&k->buffered, memory_order_relaxed);
	out->slow_copies = atomic_load_explicit(&k->slow_copies, memory_order_relaxed);
	out->copy_bytes_per_s = atomic_load_explicit(&k->copy_bytes_per_s, memory_order_relaxed);
	out->slow_calls = atomic_load_explicit(&k->slow_calls, memory_order_relaxed);
	out->slowest_call_ns = atomic_load_explicit(&k->slowest_call_ns, memory_order_relaxed);
	out->late_buffers = atomic_load_explicit(&k->late_buffers, memory_order_relaxed);
}

bool gpu_links_flow(const struct gpu_links *links, uint64_t after, struct gpu_flow_facts *out)
{
	struct gpu_links *l = (struct gpu_links *)links;
	links_lock(l);
	int e = linksched_flow_view(l->sched, after, &out->view);
	if (!e) {
		const struct gpu_flow *f = (struct gpu_flow *)(uintptr_t)out->view.tag;
		CHECK_OBJ(f, FLOW_MAGIC);
		out->device = f->link->device;
		out->direction = f->link->direction;
		out->helps = f->helps;
		snprintf(out->label, sizeof out->label, "%s", f->label);
	}
	links_unlock(l);
	return !e;
}

bool gpu_links_no_ring(const struct gpu_links *l, uint32_t device, enum gpu_direction direction, struct fault *why)
{
	*why = l->link[device][direction].no_ring;
	return why->code != TRIMS_E_NONE;
}

static uint64_t since(uint64_t then)
{
	uint64_t now = clock_now();
	return now > then ? now - then : 0;
}

bool gpu_links_node(const struct gpu_links *links, uint32_t n, struct gpu_node_facts *out)
{
	struct gpu_links *l = (struct gpu_links *)links;
	if (n >= l->tree.n)
		return false;
	links_lock(l);
	int e = linksched_node_view(l->sched, l->tree.node[n].id, &out->view);
	links_unlock(l);
	ASSERT(!e);
	out->node = &l->tree.node[n];
	out->age_ns = since(l->born_ns); /* read after the books: what they hold came before */
	return true;
}

bool gpu_links_user(const struct gpu_links *links, uint32_t n, struct gpu_user_facts *out)
{
	struct gpu_links *l = (struct gpu_links *)links;
	links_lock(l);
	int e = linksched_user_view(l->sched, n, &out->view);
	links_unlock(l);
	out->age_ns = e ? 0 : since(out->view.since);
	return !e;
}

void gpu_links_caps(const struct gpu_links *l, uint64_t *bytes_per_s, uint32_t *share)
{
	*bytes_per_s = l->user_bytes_per_s;
	*share = l->user_share;
}

bool gpu_links_reservation(const struct gpu_links *links, uint32_t n, struct gpu_reservation_facts *out)
{
	struct gpu_links *l = (struct gpu_links *)links;
	bool found = false;
	links_lock(l);
	list_for_each(it, &l->reservations) {
		const struct gpu_reservation *r = list_entry(it, struct gpu_reservation, node);
		if (n--)
			continue;
		found = true;
		*out = (struct gpu_reservation_facts){.device = r->device, .bytes_per_s = r->bytes_per_s};
		memcpy(out->label, r->label, sizeof out->label);
		break;
	}
	links_unlock(l);
	return found;
}
