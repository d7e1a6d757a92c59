/* test_gpu_place.c - mrm/gpu/place: where a device sits, read from a directory that looks like sysfs, and from the simulated
 * driver. */
#include "mrm/gpu/place.h"
#include "tests/unit/simcuda_fixture.h"
#include "tools/simcuda/simcuda.h"

static char root[64];

static void make_dirs(const char *path)
{
	char text[512];
	snprintf(text, sizeof text, "%s%s", root, path);
	for (char *p = text + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = 0;
		ck_assert(!mkdir(text, 0700) || errno == EEXIST);
	}
	ck_assert(!mkdir(text, 0700) || errno == EEXIST);
}

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[512];
	snprintf(path, sizeof path, "%s%s/%s", root, dir, name);
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

/* A device below `bridges`, each of which can do `speed`. */
static void device(const char *bridges, const char *id, const char *speed, const char *above, const char *numa)
{
	char dir[400], link[200], target[512];
	make_dirs("/bus/pci/devices");
	snprintf(dir, sizeof dir, "/devices/pci0000:16/%s/%s", bridges, id);
	make_dirs(dir);
	write_file(dir, "max_link_speed", speed);
	write_file(dir, "current_link_width", "16\n");
	write_file(dir, "numa_node", numa);
	snprintf(link, sizeof link, "%s/bus/pci/devices/%s", root, id);
	snprintf(target, sizeof target, "../../..%s", dir);
	ck_assert_int_eq(symlink(target, link), 0);
	*strrchr(dir, '/') = 0;
	write_file(dir, "max_link_speed", above);
}

static struct gpu_place place_of(const char *id)
{
	struct gpu_place p;
	gpu_place_find(&p, gpu_sysfs_read, &(struct gpu_sysfs){.root = root, .pci = id});
	return p;
}

static void setup(void)
{
	snprintf(root, sizeof root, "/tmp/trims-place-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
	char command[100];
	snprintf(command, sizeof command, "rm -r '%s'", root);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(a_device_below_a_switch_names_the_bridges_it_shares)
{
	device("0000:16:01.0/0000:17:00.0/0000:18:00.0", "0000:19:00.0", "32.0 GT/s PCIe\n", "16.0 GT/s PCIe\n", "1\n");
	struct gpu_place p = place_of("0000:19:00.0");
	ck_assert_uint_eq(p.n_bridges, 3);
	ck_assert_str_eq(p.bridge[0], "0000:16:01.0");
	ck_assert_str_eq(p.bridge[1], "0000:17:00.0");
	ck_assert_str_eq(p.bridge[2], "0000:18:00.0");
	ck_assert_int_eq(p.numa_node, 1);
	ck_assert_uint_eq(p.pcie_gen, 4); /* the slot's, not the device's */
	ck_assert_uint_eq(p.pcie_width, 16);
}
END_TEST

START_TEST(what_is_not_known_is_said_to_be_so)
{
	device("0000:16:02.0", "0000:3b:00.0", "Unknown\n", "Unknown\n", "-1\n");
	write_file("/devices/pci0000:16/0000:16:02.0/0000:3b:00.0", "current_link_width", "255\n");
	struct gpu_place p = place_of("0000:3B:00.0"); /* drivers write it like that */
	ck_assert_uint_eq(p.n_bridges, 1);
	ck_assert_int_eq(p.numa_node, -1);
	ck_assert_uint_eq(p.pcie_gen, 0);
	ck_assert_uint_eq(p.pcie_width, 0);
	p = place_of("0000:77:00.0");
	ck_assert_uint_eq(p.n_bridges, 0);
	ck_assert_int_eq(p.numa_node, -1);
	p = place_of("");
	ck_assert_uint_eq(p.n_bridges, 0);
}
END_TEST

static __typeof__(&simcuda_sysfs) simulated;

static bool read_simulated(const void *ordinal, const char *name, char *text, size_t size)
{
	return !simulated(*(const int *)ordinal, name, text, size);
}

START_TEST(simulated_devices_of_a_switch_share_its_port)
{
	sim_topology("switch s gbps=20\ndevice bytes=64M switch=s gbps=26 numa=1\ndevice bytes=64M switch=s\ndevice bytes=64M\n");
	struct cuda *cu = sim_load();
	struct gpu_place p[3];
	simulated = (__typeof__(simulated))dlsym(cu->dl, "simcuda_sysfs");
	ck_assert_ptr_nonnull(simulated);
	for (int i = 0; i < 3; i++)
		gpu_place_find(&p[i], read_simulated, &i);
	ck_assert_str_eq(p[0].bridge[1], p[1].bridge[1]);
	ck_assert_str_ne(p[0].bridge[2], p[1].bridge[2]);
	ck_assert_str_ne(p[0].bridge[0], p[2].bridge[0]);
	ck_assert_uint_eq(p[2].n_bridges, 1);
	ck_assert_int_eq(p[0].numa_node, 1);
	ck_assert_uint_eq(p[0].pcie_gen, 4);
	ck_assert_uint_eq(p[0].pcie_width, 16);
	ck_assert_int_eq(simulated(3, "", (char[8]){0}, 8), -1);
	ck_assert_int_eq(simulated(0, "", (char[8]){0}, 8), -1); /* it does not fit */
	ck_assert_int_eq(simulated(0, "nothing", (char[8]){0}, 8), -1);
	cuda_free(&cu);
}
END_TEST

static void places(Suite *s)
{
	TCase *t = tcase_create("places");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_device_below_a_switch_names_the_bridges_it_shares);
	tcase_add_test(t, what_is_not_known_is_said_to_be_so);
	tcase_add_test(t, simulated_devices_of_a_switch_share_its_port);
	suite_add_tcase(s, t);
}

SIM_MAIN("gpu_place", places)
