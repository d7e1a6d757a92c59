/* topology.h - which devices there are and what connects them; read once from the file that $SIMCUDA names (README.md has
 * the format).  Thread: constant after topology_read().  Owns nothing. */
#ifndef TOOLS_SIMCUDA_TOPOLOGY_H
#define TOOLS_SIMCUDA_TOPOLOGY_H

#include "shared/cuda.h"

#define TOPOLOGY_DEVICES 16
#define TOPOLOGY_SWITCHES 16
#define TOPOLOGY_NVLINKS 64
#define TOPOLOGY_ATTRS 16

struct topology_attr {
	unsigned attr;
	int value;
};

struct topology_device {
	char name[96];
	struct cu_uuid uuid;
	uint64_t bytes, context_bytes;
	double gbps;       /* PCIe, each direction */
	int switch_number; /* -1: none */
	int engines, numa;
	struct topology_attr attrs[TOPOLOGY_ATTRS];
	unsigned n_attrs;
};

struct topology {
	unsigned n_devices, n_switches, n_nvlinks;
	struct topology_device devices[TOPOLOGY_DEVICES];
	struct topology_switch {
		char name[32];
		double gbps; /* of its uplink */
	} switches[TOPOLOGY_SWITCHES];
	struct topology_nvlink {
		int a, b;
		double gbps;
	} nvlinks[TOPOLOGY_NVLINKS];
	double speed;         /* 0: unlimited, nothing takes time */
	double duplex;        /* what is left of each direction when both are busy */
	double pageable_gbps; /* copies of memory that is not registered */
	uint64_t overhead_ns; /* of each copy */
	int driver_version;
};

/* `path` NULL: one small device.  False: `why` says what is wrong with the file. */
bool topology_read(struct topology *t, const char *path, struct fault *why);
/* "103" or "VMM_FD"; 0: no such attribute. */
unsigned topology_attr_number(const char *name);

#endif
