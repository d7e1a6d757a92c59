/* place.h - where in the machine a device sits: the bridges between it and the CPU, its NUMA node, its PCIe link; as sysfs
 * tells it (Documentation/ABI/testing/sysfs-bus-pci of the kernel), or the simulated driver in its stead.
 * Thread: any.  Owns nothing. */
#ifndef MRM_GPU_PLACE_H
#define MRM_GPU_PLACE_H

#include "shared/base.h"

#define GPU_PLACE_BRIDGES 8
#define GPU_PCI_TEXT 16 /* "0000:3b:00.0", terminated */

struct gpu_place {
	char bridge[GPU_PLACE_BRIDGES][GPU_PCI_TEXT]; /* from the root port down; those beyond are left out */
	uint32_t n_bridges;   /* 0: not known (a virtual machine, say) */
	int numa_node;        /* -1: not known */
	uint32_t pcie_gen;    /* the best that both ends of the link can do; 0: not known */
	uint32_t pcie_width;  /* lanes in use; 0: not known */
};

/* Reads file `name` of the device ("numa_node", "../max_link_speed"), "" for its path with links resolved; one line into
 * `text`.  False: there is none. */
typedef bool (*gpu_place_reader)(const void *ctx, const char *name, char *text, size_t size);

void gpu_place_find(struct gpu_place *out, gpu_place_reader read, const void *ctx);

/* A reader of sysfs, or of a directory that looks like it. */
struct gpu_sysfs {
	const char *root;     /* "/sys" */
	const char *pci;      /* the device's bus id, upper case or lower */
};
bool gpu_sysfs_read(const void *sysfs, const char *name, char *text, size_t size);

#endif
