/* tree.h - what several devices' links share: uplinks of PCIe switches, memory of NUMA nodes, the disks and the network that
 * host copies are filled from.  The link scheduler has a node for each, and lets no more through than it gives out.
 *
 * Whose rate nobody knows is not invented: memory, disks and network are nodes when --node-rate says what they move.  Only
 * an uplink that devices share is assumed, at first: to do what the fastest of their links does, each way, since a switch with a
 * wider one is rare.  That is said in the log and by `doctor`.  When none of the devices has anything to do it is measured with all
 * of them at once (probe.h), if --node-rate switch=SIZE does not say it.
 *
 * Thread: under the lock of the links (submit.h).  Owns nothing of the scheduler's. */
#ifndef MRM_GPU_TREE_H
#define MRM_GPU_TREE_H

#include "cache/linksched.h"
#include "mrm/config.h"
#include "mrm/gpu/calibrate.h"
#include "mrm/gpu/gpu.h"

/* Bytes per second, each of its kind; 0: not given. */
struct gpu_node_rates {
	uint64_t uplink, numa, disk, net;
};

/* Of lines KIND=SIZE, the kinds switch, numa, disk and net; *why names the line that is none. */
int gpu_node_rates_parse(struct gpu_node_rates *out, const struct config_list *lines, struct fault *why);

enum gpu_node_kind { GPU_NODE_SWITCH, GPU_NODE_NUMA, GPU_NODE_DISK, GPU_NODE_NET };

#define GPU_TREE_NODES (4 * GPU_MAX_DEVICES + 2)
#define GPU_TREE_NONE UINT32_MAX

struct gpu_node {
	enum gpu_node_kind kind;
	char name[48];               /* "switch 0000:17:00.0 h2d", "numa 0", "disk", "net" */
	uint64_t devices;            /* a bit per device whose links it carries; 0: flows choose (disk, net) */
	enum gpu_direction way;      /* of a switch, each way has its own */
	bool assumed;                /* nobody said what it does, and it was not measured */
	bool measured;
	uint32_t id;                 /* the scheduler's */
};

struct gpu_tree {
	uint32_t n;
	struct gpu_node node[GPU_TREE_NODES];
};

/* Adds the nodes to the scheduler, which has no links yet.  -ENOSPC. */
int gpu_tree_build(struct gpu_tree *t, struct linksched *s, const struct gpu *g, const struct gpu_calibration *calibration,
	const struct gpu_node_rates *rates);
/* What a link passes, all of its bytes; returns how many, at most `most`. */
uint32_t gpu_tree_hops(const struct gpu_tree *t, uint32_t device, enum gpu_direction way, struct linksched_hop *hops,
	uint32_t most);
/* The node of that kind, which flows choose; GPU_TREE_NONE: nobody gave its rate. */
uint32_t gpu_tree_find(const struct gpu_tree *t, enum gpu_node_kind kind);
/* A node that was assumed was measured. */
void gpu_tree_learn(struct gpu_tree *t, struct linksched *s, uint64_t now, uint32_t node, uint64_t bytes_per_s);
/* Links were measured anew: what is assumed follows. */
void gpu_tree_follow(struct gpu_tree *t, struct linksched *s, uint64_t now, const uint64_t bytes_per_s[][GPU_DIRECTIONS]);

#endif
