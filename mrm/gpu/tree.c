/* tree.c - see tree.h.
 * A bridge that two devices have on their way is a node; of several that carry the same devices the lowest is, since between
 * them nothing branches off. */
#include "mrm/gpu/tree.h"

#include "mrm/gpu/device.h"
#include "shared/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int gpu_node_rates_parse(struct gpu_node_rates *out, const struct config_list *lines, struct fault *why)
{
	*out = (struct gpu_node_rates){0};
	const struct {
		const char *name;
		uint64_t *rate;
	} kinds[] = {{"switch", &out->uplink}, {"numa", &out->numa}, {"disk", &out->disk}, {"net", &out->net}};
	for (size_t i = 0; i < lines->n; i++) {
		const char *line = lines->v[i], *size = strchr(line, '=');
		uint64_t *rate = NULL;
		for (size_t k = 0; size && k < ARRAY_LEN(kinds); k++)
			if (strlen(kinds[k].name) == (size_t)(size - line) && !strncmp(kinds[k].name, line, (size_t)(size - line)))
				rate = kinds[k].rate;
		if (!rate || config_parse_size(size + 1, rate) || *rate < MIB || *rate > LINKSCHED_MAX_RATE) {
			fault_set(why, TRIMS_E_BAD_REQUEST, "node-rate: \"%.100s\" is not switch, numa, disk or net = 1M to 4T "
				"(bytes per second)", line);
			return -EINVAL;
		}
	}
	return 0;
}

/* ---- building ---- */

static uint64_t fastest(const struct gpu_calibration *c, uint64_t devices, enum gpu_direction way)
{
	uint64_t most = MIB;
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		if (devices >> i & 1)
			most = MAX(most, c[i].bytes_per_s[way]);
	return MIN(most, LINKSCHED_MAX_RATE);
}

/* What is assumed gives out all of it: a device alone shall not be slowed by an assumption. */
static int add_node(struct gpu_tree *t, struct linksched *s, const struct gpu_node *node, uint64_t bytes_per_s)
{
	struct linksched_node_config o = {.bytes_per_s = bytes_per_s, .share = node->assumed ? 1000 : 0};
	if (t->n == GPU_TREE_NODES)
		return -ENOSPC;
	struct gpu_node *n = &t->node[t->n];
	*n = *node;
	int e = linksched_node_add(s, &o, &n->id);
	if (e)
		return e;
	t->n++;
	log_info("gpu", "%s: %.3g GB/s, %s", n->name, (double)bytes_per_s / 1e9, n->assumed
		? "assumed: what the fastest of the links below it does, until it is measured with all of them at once"
		: "as node-rate says");
	return 0;
}

static uint64_t devices_below(const struct gpu *g, const char *bridge)
{
	uint64_t mask = 0;
	for (uint32_t i = 0; i < gpu_count(g); i++) {
		const struct gpu_place *p = &gpu_facts(g, i)->place;
		for (uint32_t b = 0; b < p->n_bridges; b++)
			if (!strcmp(p->bridge[b], bridge))
				mask |= (uint64_t)1 << i;
	}
	return mask;
}

static int add_switch(struct gpu_tree *t, struct linksched *s, const char *bridge, uint64_t devices,
	const struct gpu_calibration *c, uint64_t bytes_per_s)
{
	int e = 0;
	for (int way = 0; !e && way < GPU_DIRECTIONS; way++) {
		struct gpu_node n = {.kind = GPU_NODE_SWITCH, .devices = devices, .way = (enum gpu_direction)way,
			.assumed = !bytes_per_s};
		snprintf(n.name, sizeof n.name, "switch %s %s", bridge, gpu_direction_name(n.way));
		e = add_node(t, s, &n, bytes_per_s ? bytes_per_s : fastest(c, devices, n.way));
	}
	return e;
}

static bool is_known(const struct gpu_tree *t, uint64_t devices)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->node[i].kind == GPU_NODE_SWITCH && t->node[i].devices == devices)
			return true;
	return false;
}

static int add_switches(struct gpu_tree *t, struct linksched *s, const struct gpu *g, const struct gpu_calibration *c,
	uint64_t bytes_per_s)
{
	int e = 0;
	for (uint32_t i = 0; i < gpu_count(g); i++) {
		const struct gpu_place *p = &gpu_facts(g, i)->place;
		for (uint32_t b = 0; !e && b < p->n_bridges; b++) {
			uint64_t below = devices_below(g, p->bridge[b]);
			bool lowest = b + 1 == p->n_bridges || devices_below(g, p->bridge[b + 1]) != below;
			if (below & (below - 1) && lowest && !is_known(t, below))
				e = add_switch(t, s, p->bridge[b], below, c, bytes_per_s);
		}
	}
	return e;
}

static int add_numa(struct gpu_tree *t, struct linksched *s, const struct gpu *g, uint64_t bytes_per_s)
{
	int e = 0;
	uint64_t done = 0;
	for (uint32_t i = 0; !e && bytes_per_s && i < gpu_count(g); i++) {
		int where = gpu_facts(g, i)->place.numa_node;
		if (where < 0 || done >> i & 1)
			continue;
		struct gpu_node n = {.kind = GPU_NODE_NUMA};
		for (uint32_t k = i; k < gpu_count(g); k++)
			n.devices |= gpu_facts(g, k)->place.numa_node == where ? (uint64_t)1 << k : 0;
		done |= n.devices;
		snprintf(n.name, sizeof n.name, "numa %d", where);
		e = add_node(t, s, &n, bytes_per_s);
	}
	return e;
}

int gpu_tree_build(struct gpu_tree *t, struct linksched *s, const struct gpu *g, const struct gpu_calibration *calibration,
	const struct gpu_node_rates *rates)
{
	*t = (struct gpu_tree){0};
	int e = add_switches(t, s, g, calibration, rates->uplink);
	e = e ? e : add_numa(t, s, g, rates->numa);
	if (!e && rates->disk)
		e = add_node(t, s, &(struct gpu_node){.kind = GPU_NODE_DISK, .name = "disk"}, rates->disk);
	if (!e && rates->net)
		e = add_node(t, s, &(struct gpu_node){.kind = GPU_NODE_NET, .name = "net"}, rates->net);
	return e;
}

/* ---- looking ---- */

static bool is_on_way(const struct gpu_node *n, uint32_t device, enum gpu_direction way)
{
	return n->devices >> device & 1 && (n->kind != GPU_NODE_SWITCH || n->way == way);
}

uint32_t gpu_tree_hops(const struct gpu_tree *t, uint32_t device, enum gpu_direction way, struct linksched_hop *hops,
	uint32_t most)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < t->n; i++) {
		if (!is_on_way(&t->node[i], device, way))
			continue;
		if (n < most)
			hops[n++] = (struct linksched_hop){.node = t->node[i].id, .charge = 1000};
		else
			log_warn("gpu", "device %" PRIu32 " is below so much that %s is not counted", device, t->node[i].name);
	}
	return n;
}

uint32_t gpu_tree_find(const struct gpu_tree *t, enum gpu_node_kind kind)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->node[i].kind == kind)
			return t->node[i].id;
	return GPU_TREE_NONE;
}

void gpu_tree_learn(struct gpu_tree *t, struct linksched *s, uint64_t now, uint32_t node, uint64_t bytes_per_s)
{
	struct gpu_node *n = &t->node[node];
	n->assumed = false;
	n->measured = true;
	linksched_node_rate(s, now, n->id, MIN(bytes_per_s, LINKSCHED_MAX_RATE));
}

void gpu_tree_follow(struct gpu_tree *t, struct linksched *s, uint64_t now, const uint64_t bytes_per_s[][GPU_DIRECTIONS])
{
	for (uint32_t i = 0; i < t->n; i++) {
		uint64_t most = MIB;
		for (uint32_t d = 0; d < GPU_MAX_DEVICES; d++)
			if (t->node[i].devices >> d & 1)
				most = MAX(most, bytes_per_s[d][t->node[i].way]);
		if (t->node[i].assumed)
			linksched_node_rate(s, now, t->node[i].id, MIN(most, LINKSCHED_MAX_RATE));
	}
}
