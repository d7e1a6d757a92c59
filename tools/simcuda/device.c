/* device.c - what devices say about themselves. */
#include "tools/simcuda/sim.h"
#include "tools/simcuda/simcuda.h"

#include <stdio.h>
#include <string.h>

static const struct topology_attr usual[] = {
	{CU_ATTR_SM_COUNT, 132},
	{CU_ATTR_L2_BYTES, 50 << 20},
	{CU_ATTR_UNIFIED_ADDRESSING, 1},
	{CU_ATTR_CAPABILITY_MAJOR, 9},
	{CU_ATTR_SAME_HOST_POINTER, 1},
	{CU_ATTR_FLUSH_REMOTE_WRITES, 1},
	{CU_ATTR_HOST_REGISTER, 1},
	{CU_ATTR_VMM, 1},
	{CU_ATTR_VMM_FD, 1},
	{CU_ATTR_MEM_OPS_64, 1},
	{CU_ATTR_WAIT_NOR, 1},
	{CU_ATTR_IPC_EVENT, 1},
	{CU_ATTR_HOST_NUMA_VMM, 1},
	{CU_ATTR_HOST_VMM, 1},
};

/* The script says it, else the topology, else it is a place or a usual value; 0 for the rest. */
int device_attr(const struct sim_device *d, unsigned attr)
{
	int value = 0;

	if (fault_attr(d->ordinal, attr, &value))
		return value;
	for (unsigned i = d->config->n_attrs; i-- > 0;)
		if (d->config->attrs[i].attr == attr)
			return d->config->attrs[i].value;
	if (attr == CU_ATTR_PCI_BUS)
		return d->ordinal + 1;
	if (attr == CU_ATTR_COPY_ENGINES)
		return d->config->engines;
	if (attr == CU_ATTR_HOST_NUMA_NODE)
		return d->config->numa;
	for (size_t i = 0; i < ARRAY_LEN(usual); i++)
		if (usual[i].attr == attr)
			return usual[i].value;
	return 0;
}

/* Over NVLink, or below one switch. */
bool device_reaches(const struct sim_device *d, const struct sim_device *peer)
{
	for (unsigned i = 0; i < sim.topology.n_nvlinks; i++) {
		const struct topology_nvlink *l = &sim.topology.nvlinks[i];

		if ((l->a == d->ordinal && l->b == peer->ordinal) || (l->b == d->ordinal && l->a == peer->ordinal))
			return true;
	}
	return d != peer && d->config->switch_number >= 0 && d->config->switch_number == peer->config->switch_number;
}

EXPORT cu_result cuDeviceGetCount(int *count)
{
	ENTER(device_get_count, NEEDS_INIT);
	if (!count)
		return CU_E_INVALID_VALUE;
	*count = (int)sim.topology.n_devices;
	return CU_OK;
}

EXPORT cu_result cuDeviceGet(cu_device *device, int ordinal)
{
	ENTER(device_get, NEEDS_INIT);
	if (!device)
		return CU_E_INVALID_VALUE;
	if (!sim_device(ordinal))
		return CU_E_INVALID_DEVICE;
	*device = ordinal;
	return CU_OK;
}

EXPORT cu_result cuDeviceGetName(char *name, int len, cu_device device)
{
	struct sim_device *d;

	ENTER(device_get_name, NEEDS_INIT);
	d = sim_device(device);
	if (!name || len < 1)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	snprintf(name, (size_t)len, "%s", d->config->name);
	return CU_OK;
}

EXPORT cu_result cuDeviceGetUuid_v2(struct cu_uuid *uuid, cu_device device)
{
	struct sim_device *d;

	ENTER(device_get_uuid, NEEDS_INIT);
	d = sim_device(device);
	if (!uuid)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	*uuid = d->config->uuid;
	return CU_OK;
}

EXPORT cu_result cuDeviceTotalMem_v2(size_t *bytes, cu_device device)
{
	struct sim_device *d;

	ENTER(device_total_mem, NEEDS_INIT);
	d = sim_device(device);
	if (!bytes)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	*bytes = d->config->bytes;
	return CU_OK;
}

EXPORT cu_result cuDeviceGetAttribute(int *value, cu_device_attr attr, cu_device device)
{
	struct sim_device *d;

	ENTER(device_get_attribute, NEEDS_INIT);
	d = sim_device(device);
	if (!value || !attr || attr > 147)
		return CU_E_INVALID_VALUE;
	if (!d)
		return CU_E_INVALID_DEVICE;
	*value = device_attr(d, attr);
	return CU_OK;
}

EXPORT cu_result cuDeviceGetPCIBusId(char *id, int len, cu_device device)
{
	ENTER(device_get_pci_bus_id, NEEDS_INIT);
	if (!id || len < 13)
		return CU_E_INVALID_VALUE;
	if (!sim_device(device))
		return CU_E_INVALID_DEVICE;
	snprintf(id, (size_t)len, "%04x:%02x:00.0", device_attr(sim_device(device), CU_ATTR_PCI_DOMAIN) & 0xffff,
		device_attr(sim_device(device), CU_ATTR_PCI_BUS) & 0xff);
	return CU_OK;
}

EXPORT cu_result cuDeviceCanAccessPeer(int *can, cu_device device, cu_device peer)
{
	ENTER(device_can_access_peer, NEEDS_INIT);
	if (!can)
		return CU_E_INVALID_VALUE;
	if (!sim_device(device) || !sim_device(peer))
		return CU_E_INVALID_DEVICE;
	*can = device_reaches(sim_device(device), sim_device(peer));
	return CU_OK;
}

EXPORT cu_result cuDeviceGetP2PAttribute(int *value, cu_p2p_attr attr, cu_device source, cu_device destination)
{
	ENTER(device_get_p2p_attribute, NEEDS_INIT);
	if (!value || attr < 1 || attr > 5)
		return CU_E_INVALID_VALUE;
	if (!sim_device(source) || !sim_device(destination) || source == destination)
		return CU_E_INVALID_DEVICE;
	*value = attr == CU_P2P_ACCESS ? device_reaches(sim_device(source), sim_device(destination)) : 0;
	return CU_OK;
}

/* ---- where it sits ---- */

/* As on a machine with a root port per switch, or per device without one. */
static int sysfs_path(const struct sim_device *d, const char *id, char *text, size_t size)
{
	int n = d->config->switch_number, slot = d->ordinal;

	if (n < 0)
		return snprintf(text, size, "/sys/devices/pci0000:00/0000:00:%02x.0/%s", 1 + slot, id);
	/* The switch has a bus for itself, one below for its downstream ports. */
	return snprintf(text, size, "/sys/devices/pci0000:e0/0000:e0:%02x.0/0000:%02x:00.0/0000:%02x:%02x.0/%s", 1 + n,
		0xa0 + 2 * n, 0xa1 + 2 * n, slot, id);
}

/* "16.0 GT/s PCIe": 16 lanes move 0.985 bytes a transfer and lane pair, from PCIe 3 on. */
static int sysfs_speed(const struct sim_device *d, char *text, size_t size)
{
	static const struct {
		double gbps;
		const char *speed;
	} rows[] = {{4, "2.5"}, {8, "5.0"}, {15.8, "8.0"}, {31.5, "16.0"}, {63, "32.0"}};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (d->config->gbps <= rows[i].gbps)
			return snprintf(text, size, "%s GT/s PCIe", rows[i].speed);
	return snprintf(text, size, "64.0 GT/s PCIe");
}

EXPORT int simcuda_keeps_time(void)
{
	return sim.topology.speed > 0;
}

EXPORT int simcuda_sysfs(int ordinal, const char *name, char *text, size_t size)
{
	struct sim_device *d = sim_device(ordinal);
	char id[16];
	int n = -1;

	if (!d || !name || !text)
		return -1;
	snprintf(id, sizeof id, "%04x:%02x:00.0", device_attr(d, CU_ATTR_PCI_DOMAIN) & 0xffff,
		device_attr(d, CU_ATTR_PCI_BUS) & 0xff);
	if (!*name)
		n = sysfs_path(d, id, text, size);
	else if (!strcmp(name, "numa_node"))
		n = snprintf(text, size, "%d", d->config->numa);
	else if (!strcmp(name, "max_link_speed") || !strcmp(name, "../max_link_speed"))
		n = sysfs_speed(d, text, size);
	else if (!strcmp(name, "current_link_width"))
		n = snprintf(text, size, "16");
	return n >= 0 && (size_t)n < size ? 0 : -1;
}
