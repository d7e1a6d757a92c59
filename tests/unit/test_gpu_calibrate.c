/* test_gpu_calibrate.c - mrm/gpu/calibrate over the simulated driver: what is kept under which key, what is not to be believed, and
 * measuring beside others. */
#include "mrm/gpu/calibrate.h"
#include "tests/unit/simcuda_fixture.h"

static struct gpu *gpu;
static int (*set_script)(const char *);
static char folder[64];

static void open_with(const char *topology)
{
	struct fault why = {0};
	const struct gpu_options o = {.mode = "auto", .driver = SIMCUDA_LIBRARY, .export = "auto"};
	sim_topology(topology);
	ck_assert_msg(gpu_new(&gpu, &o, &why) == 0, "%s", why.text);
	void *dl = dlopen(SIMCUDA_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	set_script = (__typeof__(set_script))dlsym(dl, "simcuda_script");
}

static void setup(void)
{
	snprintf(folder, sizeof folder, "/tmp/trims-calibrate-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	open_with("set speed=1 driver=13000\ndevice bytes=64M gbps=0.5\n");
}

static void teardown(void)
{
	char command[100];
	gpu_free(&gpu);
	snprintf(command, sizeof command, "rm -r '%s'", folder);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(a_file_belongs_to_a_device_a_driver_and_a_link)
{
	char path[400];
	gpu_calibration_path(gpu, 0, "/cache", path, sizeof path);
	ck_assert_str_eq(path, "/cache/gpu/calibration-GPU-513c0d00-513c-4da0-913c-000000000000-13000-gen1x16.json");
}
END_TEST

START_TEST(what_is_kept_is_read_again)
{
	char path[100];
	const struct gpu_calibration kept = {.bytes_per_s = {26000000000, 24000000000}, .duplex = {710, 900}, .overhead_ns = 6000,
		.submit_ns = 10000, .measured = true};
	struct gpu_calibration got = {0};
	snprintf(path, sizeof path, "%s/file", folder);
	ck_assert(!gpu_calibration_load(path, &got));
	ck_assert_int_eq(gpu_calibration_save(path, &kept), 0);
	ck_assert(gpu_calibration_load(path, &got));
	ck_assert(got.stored && got.measured && gpu_calibration_is_steady(&got));
	ck_assert_uint_eq(got.bytes_per_s[GPU_D2H], kept.bytes_per_s[GPU_D2H]);
	ck_assert_uint_eq(got.duplex[GPU_H2D], 710);
	ck_assert_int_eq(gpu_calibration_save("/nonexistent/file", &kept), -ENOENT);
	FILE *f = fopen(path, "w");
	fputs("{\"h2d_bytes_per_s\": -1}", f);
	fclose(f);
	ck_assert(!gpu_calibration_load(path, &got));
}
END_TEST

START_TEST(measurements_that_do_not_agree_are_in_doubt)
{
	struct gpu_calibration c;
	/* Copies take 2 ms each.  After a warm-up of two, two and perhaps four are made until that takes 5 ms, then as many are timed
	 * three times: the sixth copy is among those, or the twelfth. */
	ck_assert_int_eq(set_script("~cuMemcpyHtoDAsync:6=stall:300,~cuMemcpyHtoDAsync:12=stall:300"), 0);
	gpu_calibrate(gpu, 0, NULL, &c);
	ck_assert(c.measured);
	ck_assert_msg(!gpu_calibration_is_steady(&c), "spread %u", c.spread);
}
END_TEST

static bool never(void *ctx)
{
	return false;
}

static bool a_few_times(void *ctx)
{
	return ++*(int *)ctx < 10;
}

static bool always(void *ctx)
{
	++*(int *)ctx;
	return true;
}

START_TEST(measuring_again_stops_when_it_is_in_the_way)
{
	struct gpu_calibration c;
	struct fault why;
	int asked = 0;
	ck_assert_int_eq(gpu_calibrate_again(gpu, 0, 256 * KIB, never, NULL, &c, &why), -EBUSY);
	ck_assert_int_eq(gpu_calibrate_again(gpu, 0, 256 * KIB, a_few_times, &asked, &c, &why), -EBUSY);
	ck_assert_int_eq(asked, 10); /* and not once more */
	asked = 0;
	ck_assert_int_eq(gpu_calibrate_again(gpu, 0, 256 * KIB, always, &asked, &c, &why), 0);
	ck_assert_int_gt(asked, 100); /* before each of its copies */
	ck_assert(c.measured && c.bytes_per_s[GPU_H2D] > 0 && c.bytes_per_s[GPU_D2H] > 0);
	ck_assert_uint_le(c.bytes_per_s[GPU_H2D], 600000000); /* its links are kept to 0.5 GB/s */
}
END_TEST

START_TEST(measuring_again_may_fail)
{
	struct gpu_calibration c;
	struct fault why;
	int asked = 0;
	ck_assert_int_eq(set_script("cuMemAlloc:2=2"), 0);
	ck_assert_int_eq(gpu_calibrate_again(gpu, 0, 256 * KIB, always, &asked, &c, &why), -ENOMEM);
	ck_assert_int_eq(asked, 0);
	ck_assert_msg(strstr(why.text, "calibration"), "%s", why.text);
}
END_TEST

static void calibrations(Suite *s)
{
	TCase *t = tcase_create("calibrations");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_file_belongs_to_a_device_a_driver_and_a_link);
	tcase_add_test(t, what_is_kept_is_read_again);
	tcase_add_test(t, measurements_that_do_not_agree_are_in_doubt);
	tcase_add_test(t, measuring_again_stops_when_it_is_in_the_way);
	tcase_add_test(t, measuring_again_may_fail);
	suite_add_tcase(s, t);
}

SIM_MAIN("gpu_calibrate", calibrations)
