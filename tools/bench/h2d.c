/* h2d.c - trims-bench h2d: from host memory to a device, against one copy of as many page-locked bytes; and from disk, nothing
 * being anywhere in memory, against the slower of a plain read and that copy.
 * Keeps: a model that was there before it was opened ends the benchmark, it would measure a hit. */
#include "shared/check.h"
#include "tools/bench/gpu.h"
#include "tools/bench/yard.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_BYTES (4 * GIB)
#define DEFAULT_ROUNDS 5
#define MODEL "bench"

/* The yardstick's memory at both ends. */
struct plain {
	const struct gpu *g;
	void *host;
	cu_ptr device;
	cu_stream stream;
	uint64_t bytes;
};

static double plain_copy_s(struct plain *p)
{
	uint64_t started = bench_now_ns();
	GPU_MUST(p->g, memcpy_htod_async, p->device, p->host, p->bytes, p->stream);
	GPU_MUST(p->g, stream_synchronize, p->stream);
	return (double)(bench_now_ns() - started) / 1e9;
}

static void plain_new(struct plain *p, const struct gpu *g, uint64_t bytes)
{
	*p = (struct plain){.g = g, .bytes = bytes, .host = gpu_host_alloc(g, bytes)};
	GPU_MUST(g, mem_alloc, &p->device, bytes);
	GPU_MUST(g, stream_create, &p->stream, CU_STREAM_NO_NULL_SYNC);
}

static void plain_free(struct plain *p)
{
	GPU_MUST(p->g, stream_destroy, p->stream);
	GPU_MUST(p->g, mem_free, p->device);
	GPU_MUST(p->g, mem_free_host, p->host);
}

static double open_s(trims_conn *conn, const struct gpu *g)
{
	struct trims_info info = {.size = sizeof info};
	uint64_t started = bench_now_ns();
	trims_model *model = gpu_lab_open(conn, g, MODEL, 0);
	uint64_t took = bench_now_ns() - started;
	if (trims_info(model, &info))
		die_trims("h2d");
	if (info.hit)
		die("h2d: the model was not evicted, this would measure a hit");
	trims_close(&model);
	return (double)took / 1e9;
}

struct setting {
	const struct gpu *g;
	trims_conn *conn;
	const char *path;
	uint64_t bytes;
	uint32_t rounds;
	struct plain plain;
};

static double gbps(const struct setting *s, struct samples *seconds)
{
	return (double)s->bytes / samples_median(seconds) / 1e9;
}

/* The host copy is held, so that only its way to the device is taken. */
static void measure_warm(struct setting *s, json_t *result)
{
	struct samples copies = {0}, opens = {0};
	trims_model *held = lab_open(s->conn, MODEL, TRIMS_TIER_HOST);
	for (uint32_t i = 0; i < s->rounds + 1; i++) {
		double a = plain_copy_s(&s->plain);
		lab_evict(s->conn, MODEL, TRIMS_TIER_GPU);
		double b = open_s(s->conn, s->g);
		if (i > 0) { /* the first one registers the host copy */
			samples_add(&copies, a);
			samples_add(&opens, b);
		}
	}
	trims_close(&held);
	double yard = gbps(s, &copies), ours = gbps(s, &opens);
	json_object_set_new(result, "yardstick_gbps", json_real(yard));
	json_object_set_new(result, "h2d_gbps", json_real(ours));
	json_object_set_new(result, "ratio", json_real(ours / yard));
	samples_fini(&copies);
	samples_fini(&opens);
}

static void measure_cold(struct setting *s, json_t *result)
{
	struct samples reads = {0}, copies = {0}, opens = {0};
	const char *how = "";
	for (uint32_t i = 0; i < s->rounds; i++) {
		model_make_cold(s->path);
		samples_add(&reads, (double)yard_read_ns(s->path, yard_daemon_depth(), &how) / 1e9);
		samples_add(&copies, plain_copy_s(&s->plain));
		lab_evict(s->conn, MODEL, TRIMS_TIER_GPU);
		lab_evict(s->conn, MODEL, TRIMS_TIER_HOST);
		model_make_cold(s->path);
		samples_add(&opens, open_s(s->conn, s->g));
	}
	double read = gbps(s, &reads), copy = gbps(s, &copies), ours = gbps(s, &opens);
	json_object_set_new(result, "cold", json_pack("{s:f,s:f,s:f,s:f,s:s}", "read_gbps", read, "copy_gbps", copy,
		"load_gbps", ours, "ratio", ours / MIN(read, copy), "read_by", how));
	samples_fini(&reads);
	samples_fini(&copies);
	samples_fini(&opens);
}

/* The model twice on the device and, with the yardstick's source, twice in host memory. */
static uint64_t fitting_bytes(const struct bench_options *o, const struct gpu *g, const char **limited_by)
{
	uint64_t wanted = bench_bytes(o, DEFAULT_BYTES), device = gpu_free_bytes(g) / 5 * 2, host = host_available_bytes() / 4;
	uint64_t most = align_down(MIN(device, host), 16 * MIB);
	*limited_by = wanted <= most ? "" : device <= host ? "the device's free memory" : "the machine's free memory";
	if (most == 0)
		skip("h2d: neither the device nor the machine has room for a model of 16 MiB");
	return MIN(wanted, most);
}

json_t *bench_h2d(const struct bench_options *o)
{
	struct gpu g;
	struct mrm m;
	char dir[LAB_PATH], path[LAB_PATH], source[LAB_PATH + 8], room[32];
	const char *limited_by;
	gpu_open(o, &g);
	json_t *result = gpu_result(&g);
	uint64_t bytes = fitting_bytes(o, &g, &limited_by);
	lab_path(o, dir, "models");
	lab_mkdir(dir);
	lab_path(o, dir, "models/" MODEL);
	lab_mkdir(dir);
	lab_path(o, path, "models/" MODEL "/model.safetensors");
	bytes = model_write(path, &(struct model_spec){.bytes = bytes, .n_tensors = 128, .seed = 4});
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	snprintf(room, sizeof room, "%" PRIu64, 2 * bytes);
	gpu_mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", room, NULL});
	struct setting s = {.g = &g, .path = path, .bytes = bytes, .rounds = o->rounds ? o->rounds : DEFAULT_ROUNDS,
		.conn = lab_connect(&m)};
	plain_new(&s.plain, &g, bytes);
	measure_warm(&s, result);
	measure_cold(&s, result);
	plain_free(&s.plain);
	json_object_set_new(result, "model_bytes", json_integer((json_int_t)bytes));
	if (*limited_by)
		json_object_set_new(result, "smaller_for", json_string(limited_by));
	json_object_set_new(result, "rounds", json_integer(s.rounds));
	trims_disconnect(&s.conn);
	mrm_stop(&m);
	gpu_close(&g);
	return result;
}
