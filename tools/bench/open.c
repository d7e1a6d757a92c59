/* open.c - trims-bench open: a warm open and close, against a bare round trip with as many descriptors.
 * Waking a process costs several times as much across cores as on one core, and the scheduler does not put the two pairs
 * alike.  So they are placed alike: client and server on one core, and on two.  What comes out when nobody places them is
 * shown, too, but says more about the scheduler than about trims. */
#include "tools/bench/lab.h"
#include "tools/bench/yard.h"

#define MODEL_BYTES (64 * MIB) /* one extent: three descriptors, as most models have */
#define MODEL_FDS 3
#define BLOCK 100 /* trips of one kind before the other's turn */

static uint64_t open_close_ns(trims_conn *conn)
{
	uint64_t started = bench_now_ns();
	trims_model *model = lab_open(conn, "bench", TRIMS_TIER_HOST);
	trims_close(&model);
	return bench_now_ns() - started;
}

static void start_daemon(const struct bench_options *o, struct mrm *m)
{
	const struct model_spec spec = {.bytes = MODEL_BYTES, .n_tensors = 64, .seed = 1};
	char dir[LAB_PATH], path[LAB_PATH], source[LAB_PATH + 8];
	lab_path(o, dir, "models");
	lab_mkdir(dir);
	lab_path(o, dir, "models/bench");
	lab_mkdir(dir);
	lab_path(o, path, "models/bench/model.safetensors");
	model_write(path, &spec);
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	mrm_start(o, m, (const char *const[]){"--source", source, "--host-bytes", "1G", NULL});
}

static void place(const struct mrm *m, const struct yard_fds *yard, int client, int servers)
{
	lab_place(0, client);
	lab_place(m->pid, servers);
	lab_place(yard_fds_server(yard), servers);
}

static json_t *measure(trims_conn *conn, struct yard_fds *yard, uint32_t rounds)
{
	struct samples bare = {0}, opens = {0};
	for (uint32_t r = 0; r < rounds + 2; r++) {
		for (int i = 0; i < BLOCK; i++) {
			uint64_t ns = yard_fds_trip_ns(yard);
			if (r >= 2) /* the first two blocks warm up */
				samples_add(&bare, (double)ns / 1e3);
		}
		for (int i = 0; i < BLOCK; i++) {
			uint64_t ns = open_close_ns(conn);
			if (r >= 2)
				samples_add(&opens, (double)ns / 1e3);
		}
	}
	double a = samples_median(&bare), b = samples_median(&opens);
	json_t *result = json_pack("{s:f,s:f,s:f,s:i,s:f,s:f}", "yardstick_us", a, "open_us", b, "ratio", b / a, "samples",
		(int)opens.n, "yardstick_us_p99", samples_quantile(&bare, 0.99), "open_us_p99", samples_quantile(&opens, 0.99));
	samples_fini(&bare);
	samples_fini(&opens);
	return result;
}

json_t *bench_open(const struct bench_options *o)
{
	struct mrm m;
	struct yard_fds *yard;
	uint32_t rounds = o->rounds ? o->rounds : 100;
	start_daemon(o, &m);
	trims_conn *conn = lab_connect(&m);
	trims_model *first = lab_open(conn, "bench", TRIMS_TIER_HOST);
	trims_close(&first);
	yard_fds_start(&yard, MODEL_FDS);
	place(&m, yard, lab_core(0), lab_core(0));
	json_t *result = measure(conn, yard, rounds);
	json_object_set_new(result, "fds", json_integer(MODEL_FDS));
	if (lab_core(1) >= 0) {
		place(&m, yard, lab_core(0), lab_core(1));
		json_object_set_new(result, "apart", measure(conn, yard, rounds));
	}
	place(&m, yard, -1, -1);
	json_object_set_new(result, "unplaced", measure(conn, yard, rounds));
	yard_fds_stop(&yard);
	trims_disconnect(&conn);
	mrm_stop(&m);
	return result;
}
