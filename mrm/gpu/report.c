/* report.c - see report.h. */
#include "mrm/gpu/report.h"

#include "mrm/clock.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/peer.h"
#include "mrm/gpu/relay.h"

#define FLOWS_MAX 256 /* in one report */
#define USERS_MAX 256

static json_t *number(uint64_t v)
{
	return json_integer(v <= INT64_MAX ? (json_int_t)v : (json_int_t)INT64_MAX);
}

static json_t *class_row(const struct linksched_link_view *v, unsigned class)
{
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "class", link_class_name(class), "bytes", number(v->bytes[class]),
		"queued", number(v->queued[class]), "waits", number(v->waits[class]), "wait_ns", number(v->wait_ns[class]),
		"wait_max_ns", number(v->wait_max_ns[class]));
}

/* What the figures are worth. */
static void add_doubts(json_t *row, const struct gpu_facts *f, const struct gpu_link_facts *x)
{
	bool holds = !x->slow_copies && !x->late_buffers && !x->slow_calls;
	json_t *more = json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:i, s:i}", "bound_holds", holds, "buffered",
		number(x->buffered), "slow_copies", number(x->slow_copies), "slow_calls", number(x->slow_calls), "slowest_call_ns",
		number(x->slowest_call_ns), "copy_bytes_per_s", number(x->copy_bytes_per_s), "late_buffers", number(x->late_buffers),
		"doubtful", x->doubtful, "probes", number(x->probes), "pcie_gen", (int)f->place.pcie_gen, "pcie_width",
		(int)f->place.pcie_width);
	json_object_update(row, more);
	json_decref(more);
}

static json_t *link_row(const struct daemon *d, uint32_t device, enum gpu_direction direction)
{
	const struct gpu_facts *f = gpu_facts(d->gpu, device);
	struct gpu_link_facts x;
	gpu_links_view(d->links, device, direction, &x);
	const struct linksched_link_view *v = &x.view;
	json_t *classes = json_array();
	for (unsigned c = 0; c < LINK_CLASSES; c++)
		json_array_append_new(classes, class_row(v, c));
	json_t *row = json_pack("{s:s, s:s, s:s, s:b, s:s, s:o, s:o, s:o, s:i, s:o, s:o, s:o}", "device", f->uuid, "name",
		f->name, "direction", gpu_direction_name(direction), "simulated", gpu_is_simulated(d->gpu), "state",
		gpu_lost(d->gpu, device) ? "lost" : v->in_flight ? "busy" : "idle", "bytes_per_s", number(v->bytes_per_s),
		"worst_bytes_per_s", number(v->worst_bytes_per_s), "calibrated_bytes_per_s",
		number(x.calibration.bytes_per_s), "duplex_thousandths", (int)x.calibration.duplex, "overhead_ns",
		number(x.calibration.overhead_ns), "submit_ns", number(x.calibration.submit_ns), "classes", classes);
	json_t *more = json_pack("{s:o, s:o, s:b, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
		"chunk_bytes", number(v->chunk_bytes), "bound_ns", number(v->bound_ns), "costs_bandwidth", v->costs_bandwidth,
		"flows", (int)v->flows, "in_flight", (int)v->in_flight, "copies", number(x.copies), "failed",
		number(x.failed), "unregistered_bytes", number(x.unregistered_bytes), "alone_waits", number(v->alone_waits),
		"alone_wait_max_ns", number(v->alone_wait_max_ns), "beyond_bound", number(v->beyond_bound), "guard_bytes",
		number(v->guard_bytes), "token_waits", number(v->token_waits), "pauses", number(v->pauses), "late",
		number(v->late), "cancelled", number(v->cancelled));
	json_object_update(row, more);
	json_decref(more);
	add_doubts(row, f, &x);
	return row;
}

static json_t *waited(const uint64_t ns[LINK_WAITS])
{
	json_t *o = json_object();
	for (unsigned i = 0; i < LINK_WAITS; i++)
		if (ns[i])
			json_object_set_new(o, link_class_name(i), number(ns[i]));
	return o;
}

/* null: the daemon itself. */
static json_t *user_of(uint32_t user)
{
	return user == LINKSCHED_ANYBODY ? json_null() : json_integer(user);
}

static json_t *flow_row(const struct daemon *d, const struct gpu_flow_facts *f)
{
	const struct linksched_flow_view *v = &f->view;
	uint64_t now = clock_now();
	json_t *due = v->deadline == LINKSCHED_NEVER ? json_null() : number(v->deadline > now ? v->deadline - now : 0);
	json_t *helps = f->helps ? json_string(gpu_facts(d->gpu, f->helps - 1)->uuid) : json_null();
	return json_pack("{s:s, s:s, s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o}", "model", f->label,
		"device", gpu_facts(d->gpu, f->device)->uuid, "helps", helps, "direction", gpu_direction_name(f->direction), "class",
		link_class_name(v->class), "user", user_of(v->user), "bytes", number(v->bytes), "done", number(v->done), "in_flight",
		number(v->in_flight), "ready", number(v->ready), "due_ns", due, "late", v->late, "waits", number(v->waits),
		"wait_max_ns", number(v->wait_max_ns), "waited_ns", waited(v->waited_ns), "capped_ns", number(v->capped_ns), "age_ns",
		number(now > v->added_at ? now - v->added_at : 0));
}

static json_t *node_row(const struct daemon *d, const struct gpu_node_facts *f)
{
	const struct linksched_node_view *v = &f->view;
	json_t *devices = json_array();
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		if (f->node->devices >> i & 1)
			json_array_append_new(devices, json_string(gpu_facts(d->gpu, i)->uuid));
	return json_pack("{s:s, s:b, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i}", "name", f->node->name, "simulated",
		gpu_is_simulated(d->gpu), "assumed", f->node->assumed, "measured", f->node->measured, "bytes_per_s", number(v->bytes_per_s),
		"given_bytes_per_s", number(v->given_bytes_per_s), "reserved_bytes_per_s", number(v->reserved_bytes_per_s),
		"bytes", number(v->bytes), "tokens", number(v->tokens > 0 ? (uint64_t)v->tokens : 0), "burst_max",
		number((uint64_t)v->burst_max), "age_ns", number(f->age_ns), "devices", devices, "waiting", (int)v->waiting);
}

static json_t *user_row(const struct gpu_user_facts *f)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:i, s:i}", "user", user_of(f->view.user), "bytes", number(f->view.bytes),
		"burst_max", number((uint64_t)f->view.burst_max), "age_ns", number(f->age_ns), "flows", (int)f->view.flows,
		"in_flight", (int)f->view.in_flight);
}

/* What bytes pass through on their way to another device, and what each device has taken from there. */
static json_t *staging_row(const struct daemon *d, uint32_t device)
{
	struct gpu_staging_facts s;
	struct gpu_relay_facts r;
	struct fault why;
	int e = gpu_peers_staging(d->peers, device, &why);
	gpu_peers_staging_view(d->peers, device, &s);
	gpu_relays_view(d->relays, device, &r);
	return json_pack("{s:s, s:b, s:o, s:i, s:i, s:i, s:o, s:o, s:o, s:o}", "device", gpu_facts(d->gpu, device)->uuid, "simulated",
		gpu_is_simulated(d->gpu), "bytes", number(s.bytes), "slots", (int)s.slots, "in_use", (int)s.in_use, "most_in_use",
		(int)s.most_in_use, "why_none", e && why.code ? json_string(why.text) : json_null(), "taken", number(r.copies),
		"taken_failed", number(r.failed), "taken_bytes", number(r.bytes));
}

static json_t *peer_row(const struct daemon *d, uint32_t to, uint32_t from)
{
	struct fault why;
	int e = gpu_peers_reach(d->peers, to, from, &why);
	return json_pack("{s:s, s:s, s:b, s:o, s:b, s:o}", "device", gpu_facts(d->gpu, to)->uuid, "helper",
		gpu_facts(d->gpu, from)->uuid, "reaches", !e, "bytes_per_s", number(gpu_peers_bytes_per_s(d->peers, to, from)),
		"apart", gpu_peers_apart(d->peers, to, from), "why_not", e ? json_string(why.text) : json_null());
}

static void add_peers(const struct daemon *d, json_t *report)
{
	json_t *staging = json_array(), *peers = json_array();
	uint32_t n = gpu_count(d->gpu);
	for (uint32_t i = 0; n > 1 && i < n; i++)
		json_array_append_new(staging, staging_row(d, i));
	for (uint32_t to = 0; to < n; to++)
		for (uint32_t from = 0; from < n; from++)
			if (to != from)
				json_array_append_new(peers, peer_row(d, to, from));
	json_object_set_new(report, "staging", staging);
	json_object_set_new(report, "peers", peers);
}

/* What links share, who has had how much, and what is set aside. */
static void add_shares(const struct daemon *d, json_t *report)
{
	json_t *nodes = json_array(), *users = json_array(), *reserved = json_array();
	struct gpu_node_facts node;
	struct gpu_user_facts user;
	struct gpu_reservation_facts r;
	uint64_t rate;
	uint32_t share;
	for (uint32_t n = 0; gpu_links_node(d->links, n, &node); n++)
		json_array_append_new(nodes, node_row(d, &node));
	for (uint32_t n = 0; n < USERS_MAX && gpu_links_user(d->links, n, &user); n++)
		json_array_append_new(users, user_row(&user));
	for (uint32_t n = 0; gpu_links_reservation(d->links, n, &r); n++)
		json_array_append_new(reserved, json_pack("{s:s, s:s, s:o}", "holder", r.label, "device",
			gpu_facts(d->gpu, r.device)->uuid, "bytes_per_s", number(r.bytes_per_s)));
	gpu_links_caps(d->links, &rate, &share);
	json_object_set_new(report, "nodes", nodes);
	json_object_set_new(report, "users", users);
	json_object_set_new(report, "reserved", reserved);
	json_object_set_new(report, "user_bytes_per_s", number(rate));
	json_object_set_new(report, "user_share_thousandths", json_integer(share));
}

json_t *gpu_report_links(const struct daemon *d)
{
	json_t *links = json_array(), *flows = json_array();
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		for (int way = 0; way < GPU_DIRECTIONS; way++)
			json_array_append_new(links, link_row(d, i, (enum gpu_direction)way));
	struct gpu_flow_facts f = {0};
	for (int n = 0; n < FLOWS_MAX && gpu_links_flow(d->links, f.view.id, &f); n++)
		json_array_append_new(flows, flow_row(d, &f));
	json_t *report = json_pack("{s:b, s:o, s:o}", "simulated", gpu_is_simulated(d->gpu), "links", links, "transfers", flows);
	add_shares(d, report);
	add_peers(d, report);
	return report;
}

void gpu_report_tier(const struct daemon *d, uint32_t device, json_t *row)
{
	const struct gpu_facts *f = gpu_facts(d->gpu, device);
	json_t *more = json_pack("{s:s, s:s, s:b, s:b, s:o, s:o, s:s}", "uuid", f->uuid, "name", f->name, "simulated",
		gpu_is_simulated(d->gpu), "lost", gpu_lost(d->gpu, device), "total", number(f->total_bytes), "held",
		number(gpu_held_bytes(d->gpu, device)), "export", gpu_export_name(f->export));
	json_object_update(row, more);
	json_decref(more);
}

json_t *gpu_report_waits(const struct gpu_waits *w)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "waits", number(w->waits), "longest_ns", number(w->longest_ns), "waited_ns",
		waited(w->waited_ns), "capped_ns", number(w->capped_ns));
}
