/* load.c - trims-bench load: cold disk to host, checksums on, against a plain O_DIRECT read.
 * Three ways: a directory source read in place, the disk tier raw, the disk tier under LZ4.  The disk tier is filled from
 * a local nginx, as directories never get a disk copy.
 * Keeps: files are out of the page cache before every read of either side, or no number is printed. */
#include "tools/bench/lab.h"
#include "tools/bench/yard.h"

#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct way {
	const char *name;
	const char *read_path;   /* what the yardstick reads */
	const char *stored_path; /* what the daemon reads */
	uint64_t model_bytes;
};

static double load_once_s(trims_conn *conn)
{
	lab_evict(conn, "bench", TRIMS_TIER_HOST);
	uint64_t started = bench_now_ns();
	trims_model *model = lab_open(conn, "bench", TRIMS_TIER_HOST);
	uint64_t took = bench_now_ns() - started;
	struct trims_info info = {.size = sizeof info};
	if (trims_info(model, &info))
		die_trims("load");
	if (info.hit)
		die("load: the model was not evicted, this would measure a hit");
	trims_close(&model);
	return (double)took / 1e9;
}

static uint64_t file_bytes(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static json_t *measure(const struct bench_options *o, const struct mrm *m, const struct way *w)
{
	struct samples plain = {0}, loads = {0}, stored = {0};
	uint32_t rounds = o->rounds ? o->rounds : 5, depth = yard_daemon_depth();
	const char *how = "";
	trims_conn *conn = lab_connect(m);
	for (uint32_t i = 0; i < rounds + 1; i++) {
		model_make_cold(w->read_path);
		double a = (double)yard_read_ns(w->read_path, depth, &how) / 1e9;
		model_make_cold(w->stored_path);
		double b = load_once_s(conn);
		model_make_cold(w->stored_path);
		double c = (double)yard_read_ns(w->stored_path, depth, &how) / 1e9;
		if (i > 0) { /* the first one warms up what is not under test */
			samples_add(&plain, a);
			samples_add(&loads, b);
			samples_add(&stored, c);
		}
	}
	trims_disconnect(&conn);
	double read_bytes = (double)file_bytes(w->read_path), stored_bytes = (double)file_bytes(w->stored_path);
	double yard = read_bytes / samples_median(&plain) / 1e9;
	double load = (double)w->model_bytes / samples_median(&loads) / 1e9;
	json_t *result = json_pack("{s:f,s:f,s:f,s:I,s:I,s:f,s:s,s:i,s:i}", "yardstick_gbps", yard, "load_gbps", load, "ratio",
		load / yard, "model_bytes", (json_int_t)w->model_bytes, "stored_bytes", (json_int_t)stored_bytes,
		"stored_read_gbps", stored_bytes / samples_median(&stored) / 1e9, "yardstick_by", how, "depth", (int)depth,
		"rounds", (int)rounds);
	samples_fini(&plain);
	samples_fini(&loads);
	samples_fini(&stored);
	return result;
}

static json_t *load_dir(const struct bench_options *o, const char *model_path)
{
	struct mrm m;
	char source[LAB_PATH + 8], host_bytes[32];
	struct way w = {"dir", model_path, model_path, file_bytes(model_path)};
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	snprintf(host_bytes, sizeof host_bytes, "%llu", (unsigned long long)(2 * w.model_bytes));
	mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", host_bytes, NULL});
	json_t *result = measure(o, &m, &w);
	mrm_stop(&m);
	return result;
}

/* ---- the disk tier ---- */

static char largest_path[LAB_PATH];
static off_t largest_bytes;

static int keep_largest(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (type == FTW_F && st->st_size > largest_bytes && strlen(path) < sizeof largest_path) {
		largest_bytes = st->st_size;
		memcpy(largest_path, path, strlen(path) + 1);
	}
	return 0;
}

/* The image: by far the largest file below the cache directory. */
static const char *find_image(const struct mrm *m)
{
	largest_bytes = 0;
	nftw(m->cache_dir, keep_largest, 32, FTW_PHYS);
	if (largest_bytes == 0)
		die("load: the disk tier holds nothing after a pull");
	return largest_path;
}

static json_t *load_tier(const struct bench_options *o, const char *name, const char *model_path, const char *compress)
{
	struct mrm m;
	char source[LAB_PATH], root[LAB_PATH], size[32];
	struct way w = {name, model_path, NULL, file_bytes(model_path)};
	lab_path(o, root, "models");
	static int port;
	if (!port)
		port = nginx_start(o, root);
	snprintf(source, sizeof source, "http://127.0.0.1:%d", port);
	snprintf(size, sizeof size, "%llu", (unsigned long long)(2 * w.model_bytes));
	mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", size, "--disk-bytes", size, "--compress",
		compress, NULL});
	trims_conn *conn = lab_connect(&m);
	trims_model *model = lab_open(conn, "bench", TRIMS_TIER_DISK);
	trims_close(&model);
	trims_disconnect(&conn);
	w.stored_path = find_image(&m);
	if (strcmp(compress, "never") == 0)
		w.read_path = w.stored_path;
	json_t *result = measure(o, &m, &w);
	mrm_stop(&m);
	return result;
}

/* The slowest of the three speaks for all, under the keys of each. */
static void copy_worst(json_t *result)
{
	const char *key, *worst = NULL;
	json_t *value;
	double least = 0;
	json_object_foreach(result, key, value) {
		double ratio = json_number_value(json_object_get(value, "ratio"));
		if (!worst || ratio < least) {
			worst = key;
			least = ratio;
		}
	}
	if (!worst)
		die("load: --only wants dir, raw or lz4");
	json_t *from = json_incref(json_object_get(result, worst));
	json_object_set_new(result, "worst", json_string(worst));
	static const char *const keys[] = {"yardstick_gbps", "load_gbps", "ratio"};
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		json_object_set(result, keys[i], json_object_get(from, keys[i]));
	json_decref(from);
}

static bool wanted(const struct bench_options *o, const char *name)
{
	return !o->only || strcmp(o->only, name) == 0;
}

json_t *bench_load(const struct bench_options *o)
{
	struct model_spec spec = {.bytes = bench_bytes(o, GIB), .n_tensors = 128, .seed = 3};
	char dir[LAB_PATH], path[LAB_PATH];
	json_t *result = json_object();
	lab_path(o, dir, "models");
	lab_mkdir(dir);
	lab_path(o, dir, "models/bench");
	lab_mkdir(dir);
	lab_path(o, path, "models/bench/model.safetensors");
	model_write(path, &spec);
	if (wanted(o, "dir"))
		json_object_set_new(result, "dir", load_dir(o, path));
	if (wanted(o, "raw"))
		json_object_set_new(result, "raw", load_tier(o, "raw", path, "never"));
	if (wanted(o, "lz4")) {
		spec.compressible = true;
		unlink(path); /* a new file: nobody may take it for the old one */
		model_write(path, &spec);
		json_object_set_new(result, "lz4", load_tier(o, "lz4", path, "always"));
	}
	copy_worst(result);
	return result;
}
