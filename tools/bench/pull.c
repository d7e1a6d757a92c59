/* pull.c - trims-bench pull: from a local nginx to host memory and disk, against curl to a null device.
 * Two ends of the same pull are measured: every byte checked and in host memory (clients can use the model), and every
 * byte also written, synced and committed to the disk tier. */
#include "tools/bench/lab.h"

#include <stdlib.h>
#include <string.h>

static double curl_s(const char *url)
{
	char command[LAB_PATH + 128];
	double seconds = 0;
	snprintf(command, sizeof command, "curl -sSf -o /dev/null -w '%%{time_total}' '%s'", url);
	FILE *f = popen(command, "re");
	if (!f || fscanf(f, "%lf", &seconds) != 1 || pclose(f) != 0 || seconds <= 0)
		die("pull: curl failed on %s", url);
	return seconds;
}

struct pulled {
	double host_s, disk_s;
};

static struct pulled pull_once(trims_conn *conn)
{
	struct pulled p;
	lab_evict(conn, "bench", TRIMS_TIER_ANY);
	uint64_t started = bench_now_ns();
	trims_model *model = lab_open(conn, "bench", TRIMS_TIER_HOST);
	p.host_s = (double)(bench_now_ns() - started) / 1e9;
	struct trims_info info = {.size = sizeof info};
	if (trims_info(model, &info))
		die_trims("pull");
	if (info.hit)
		die("pull: the model was not evicted, this would measure a hit");
	trims_model *on_disk = lab_open(conn, "bench", TRIMS_TIER_DISK);
	p.disk_s = (double)(bench_now_ns() - started) / 1e9;
	trims_close(&on_disk);
	trims_close(&model);
	return p;
}

static uint64_t make_model(const struct bench_options *o)
{
	const struct model_spec spec = {.bytes = bench_bytes(o, GIB), .n_tensors = 128, .seed = 4};
	char path[LAB_PATH];
	lab_path(o, path, "models");
	lab_mkdir(path);
	lab_path(o, path, "models/bench");
	lab_mkdir(path);
	lab_path(o, path, "models/bench/model.safetensors");
	return model_write(path, &spec);
}

json_t *bench_pull(const struct bench_options *o)
{
	struct mrm m;
	char root[LAB_PATH], source[64], url[128], size[32];
	struct samples plain = {0}, host = {0}, disk = {0};
	uint32_t rounds = o->rounds ? o->rounds : 5;
	uint64_t bytes = make_model(o);
	lab_path(o, root, "models");
	int port = nginx_start(o, root);
	snprintf(source, sizeof source, "http://127.0.0.1:%d", port);
	snprintf(url, sizeof url, "%s/bench/model.safetensors", source);
	snprintf(size, sizeof size, "%llu", (unsigned long long)(2 * bytes));
	mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", size, "--disk-bytes", size, NULL});
	trims_conn *conn = lab_connect(&m);
	for (uint32_t i = 0; i < rounds + 1; i++) {
		double a = curl_s(url);
		struct pulled b = pull_once(conn);
		if (i == 0)
			continue; /* puts the file into the page cache for both */
		samples_add(&plain, a);
		samples_add(&host, b.host_s);
		samples_add(&disk, b.disk_s);
	}
	trims_disconnect(&conn);
	mrm_stop(&m);
	double a = samples_median(&plain), b = samples_median(&host), c = samples_median(&disk);
	json_t *result = json_pack("{s:f,s:f,s:f,s:f,s:f,s:I,s:i}", "yardstick_gbps", (double)bytes / a / 1e9, "pull_gbps",
		(double)bytes / c / 1e9, "ratio", a / c, "host_gbps", (double)bytes / b / 1e9, "host_ratio", a / b,
		"model_bytes", (json_int_t)bytes, "rounds", (int)rounds);
	samples_fini(&plain);
	samples_fini(&host);
	samples_fini(&disk);
	return result;
}
