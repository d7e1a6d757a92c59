/* gpu.c - see gpu.h. */
#include "tools/bench/gpu.h"

#include "shared/check.h"

#include <inttypes.h>
#include <string.h>

#define MRM_ARGS 32

void gpu_must(const struct gpu *g, cu_result r, const char *what)
{
	struct fault why;
	if (!r)
		return;
	cuda_fault(g->cu, r, what, &why);
	die("%s", why.text);
}

void gpu_enter(const struct gpu *g)
{
	GPU_MUST(g, ctx_set_current, g->ctx);
}

void gpu_open(const struct bench_options *o, struct gpu *out)
{
	struct fault why;
	struct cu_uuid uuid;
	*out = (struct gpu){0};
	if (cuda_load(&out->cu, o->driver, &why))
		skip("no GPU: %s", why.text);
	if (o->driver)
		setenv("TRIMS_CUDA_DRIVER", o->driver, 1); /* libtrims in this process is to load the same */
	GPU_MUST(out, device_get, &out->device, 0);
	/* A topology may call its devices anything; the name is all that lines of a CSV and titles of charts say of them. */
	size_t mark = out->cu->simulated ? (size_t)snprintf(out->name, sizeof out->name, "simulated: ") : 0;
	GPU_MUST(out, device_get_name, out->name + mark, (int)(sizeof out->name - mark), out->device);
	GPU_MUST(out, device_get_uuid, &uuid, out->device);
	cuda_uuid_text(&uuid, out->uuid);
	GPU_MUST(out, primary_ctx_retain, &out->ctx, out->device);
	gpu_enter(out);
}

void gpu_close(struct gpu *g)
{
	GPU_MUST(g, ctx_set_current, NULL);
	GPU_MUST(g, primary_ctx_release, g->device);
	cuda_free(&g->cu);
}

uint64_t gpu_free_bytes(const struct gpu *g)
{
	size_t left, all;
	GPU_MUST(g, mem_get_info, &left, &all);
	return left;
}

bool gpu_holds_two(uint64_t free_bytes, uint64_t model_bytes)
{
	return 2 * model_bytes + 64 * MIB <= free_bytes;
}

void *gpu_host_alloc(const struct gpu *g, uint64_t bytes)
{
	void *at;
	GPU_MUST(g, mem_host_alloc, &at, bytes, CU_HOST_PORTABLE);
	memset(at, 1, bytes);
	return at;
}

/* The number behind a name in a file of the kernel's; UINT64_MAX: the file or the name is not there, or has no number. */
static uint64_t number_in(const char *path, const char *name)
{
	char line[256];
	uint64_t n = UINT64_MAX;
	FILE *f = fopen(path, "re");
	size_t len = strlen(name);
	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, name, len) == 0 && sscanf(line + len, "%" SCNu64, &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

uint64_t host_available_bytes(void)
{
	uint64_t kib = number_in("/proc/meminfo", "MemAvailable:"), most = number_in("/sys/fs/cgroup/memory.max", "");
	uint64_t used = number_in("/sys/fs/cgroup/memory.current", "");
	uint64_t machine = kib == UINT64_MAX ? 0 : kib * KIB;
	if (most == UINT64_MAX || used == UINT64_MAX)
		return machine;
	return MIN(machine, most > used ? most - used : 0);
}

json_t *gpu_result(const struct gpu *g)
{
	char version[16];
	snprintf(version, sizeof version, "%d.%d", g->cu->driver_version / 1000, g->cu->driver_version % 1000 / 10);
	json_t *result = json_pack("{s:b,s:s,s:s}", "simulated", g->cu->simulated, "gpu", g->name, "driver", version);
	ASSERT(result);
	return result;
}

void gpu_mrm_start(const struct bench_options *o, struct mrm *out, const char *const args[])
{
	const char *all[MRM_ARGS];
	size_t n = 0;
	for (; *args; args++) {
		ASSERT(n + 3 < MRM_ARGS);
		all[n++] = *args;
	}
	if (o->driver) {
		all[n++] = "--cuda-driver";
		all[n++] = o->driver;
	}
	all[n] = NULL;
	mrm_start(o, out, all);
}

trims_model *gpu_lab_open(trims_conn *conn, const struct gpu *g, const char *name, uint32_t flags)
{
	const struct trims_open_options options = {.size = sizeof options, .tier = TRIMS_TIER_GPU, .flags = flags,
		.device = g->uuid};
	trims_model *model;
	if (trims_open(conn, name, &options, &model))
		die_trims("opening on the device");
	return model;
}
