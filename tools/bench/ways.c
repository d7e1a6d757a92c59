/* ways.c - trims-bench ways: which of their ways daemon and library go on this device, and what `trims-ctl doctor` says of it: how its memory
 * is shared, who waits for bytes that are on their way, how it reads what a plan leaves on the host, and how it would if the daemon gave
 * nothing for that.  Not a measurement: what was measured elsewhere is to be read with it.  Needs a GPU.
 * Keeps: a way that is named was gone, and every byte that came by it was compared with the host's. */
#include "tools/bench/gpu.h"

#include "shared/check.h"
#include "shared/own.h"

#include <string.h>

#define DEFAULT_BYTES (64 * MIB)
#define TENSORS 16
#define MODEL "bench"

struct setting {
	const struct bench_options *o;
	const struct gpu *g;
	struct mrm m;
	trims_conn *conn;
	trims_model *held; /* in host memory: what bytes are compared with */
	uint32_t wrong;
};

static void start(struct setting *s, const char *option, const char *value)
{
	char source[LAB_PATH + 8];
	snprintf(source, sizeof source, "dir:%s/models", s->o->lab);
	gpu_mrm_start(s->o, &s->m, (const char *const[]){"--source", source, "--host-bytes", "1G", option, value, NULL});
	s->conn = lab_connect(&s->m);
	s->held = lab_open(s->conn, MODEL, TRIMS_TIER_HOST);
}

static void stop(struct setting *s)
{
	trims_close(&s->held);
	trims_disconnect(&s->conn);
	mrm_stop(&s->m);
}

/* Through the driver, from the address that the library gave. */
static void compare(struct setting *s, trims_model *model)
{
	for (uint32_t i = 0; i < TENSORS; i++) {
		struct trims_tensor there, here;
		if (trims_tensor(model, i, &there) || trims_tensor(s->held, i, &here))
			die_trims("ways");
		OWN_MEM void *bytes = malloc(there.bytes);
		ASSERT(bytes);
		GPU_MUST(s->g, memcpy_dtoh, bytes, (cu_ptr)(uintptr_t)there.data, there.bytes);
		s->wrong += memcmp(bytes, here.data, there.bytes) != 0;
	}
}

static trims_model *open_by(struct setting *s, const struct trims_plan *plan, struct trims_info *first)
{
	const struct trims_open_options options = {.size = sizeof options, .tier = TRIMS_TIER_GPU, .flags = TRIMS_OPEN_NO_WAIT,
		.device = s->g->uuid, .plan = plan};
	trims_model *model;
	*first = (struct trims_info){.size = sizeof *first};
	if (trims_open(s->conn, MODEL, &options, &model) || trims_info(model, first) || trims_wait(model, UINT64_MAX))
		die_trims("opening on the device");
	return model;
}

static void close_and_evict(struct setting *s, trims_model **model)
{
	trims_close(model);
	lab_evict(s->conn, MODEL, TRIMS_TIER_GPU);
}

/* How memory is shared, and who waits. */
static void look_at_sharing(struct setting *s, json_t *result)
{
	static const char *const exports[] = {"none", "vmm-fd", "cuda-ipc"};
	static const char *const waits[] = {"nobody: all bytes were there", "cpu", "gpu"};
	struct trims_info info;
	trims_model *model = open_by(s, NULL, &info);
	compare(s, model);
	json_object_set_new(result, "export", json_string(exports[info.export_kind]));
	json_object_set_new(result, "stream_wait", json_sprintf("%s%s%s", waits[info.stream_wait], *info.note ? ": " : "", info.note));
	close_and_evict(s, &model);
}

static void add_way(char *out, size_t size, const char *way, uint32_t tensors)
{
	if (tensors)
		snprintf(out + strlen(out), size - strlen(out), "%s%s", *out ? ", " : "", way);
}

/* Every second tensor stays on the host. */
static void look_at_direct(struct setting *s, json_t *result, const char *key, const char *why_key)
{
	struct trims_plan_entry entries[TENSORS];
	char way[128] = "";
	for (uint32_t i = 0; i < TENSORS; i++)
		entries[i] = (struct trims_plan_entry){.tensor = i, .place = i % 2 ? TRIMS_PLAN_HOST : TRIMS_PLAN_LOAD};
	const struct trims_plan plan = {.size = sizeof plan, .entries = entries, .n_entries = TENSORS};
	struct trims_info info;
	trims_model *model = open_by(s, &plan, &info);
	if (trims_info(model, &info))
		die_trims("ways");
	compare(s, model);
	add_way(way, sizeof way, "dha-registered", info.direct_tensors);
	add_way(way, sizeof way, "dha-host-numa", info.numa_tensors);
	add_way(way, sizeof way, "dha-trusted", info.trusted_tensors);
	add_way(way, sizeof way, "dha-staged", info.staged_tensors);
	if (!*way)
		die("ways: all of the model is on the device, whatever the plan says");
	json_object_set_new(result, key, json_string(way));
	json_object_set_new(result, why_key, json_string(info.place_note));
	close_and_evict(s, &model);
}

static json_t *report(struct setting *s, uint32_t which)
{
	char *text;
	size_t bytes;
	uint64_t next;
	if (trims_query(s->conn, which, NULL, 0, &text, &bytes, &next))
		die_trims("ways");
	json_t *found = json_loadb(text, bytes, 0, NULL);
	free(text);
	if (!found)
		die("ways: the daemon sent a report that is no JSON");
	return found;
}

/* What the daemon found when it started, and what it has learned since. */
static void add_reports(struct setting *s, json_t *result)
{
	json_t *doctor = report(s, TRIMS_REPORT_DOCTOR), *links = report(s, TRIMS_REPORT_LINKS);
	json_object_set(result, "doctor", json_object_get(doctor, "checks"));
	json_object_set(result, "links", json_object_get(links, "links"));
	json_object_set(result, "peers", json_object_get(links, "peers"));
	json_decref(doctor);
	json_decref(links);
}

json_t *bench_ways(const struct bench_options *o)
{
	struct gpu g;
	struct setting s = {.o = o, .g = &g};
	char path[LAB_PATH];
	gpu_open(o, &g);
	json_t *result = gpu_result(&g);
	lab_path(o, path, "models");
	lab_mkdir(path);
	lab_path(o, path, "models/" MODEL);
	lab_mkdir(path);
	lab_path(o, path, "models/" MODEL "/model.safetensors");
	model_write(path, &(struct model_spec){.bytes = bench_bytes(o, DEFAULT_BYTES), .n_tensors = TENSORS, .seed = 8});
	start(&s, NULL, NULL);
	look_at_sharing(&s, result);
	look_at_direct(&s, result, "direct", "direct_why");
	add_reports(&s, result);
	stop(&s);
	start(&s, "--direct-bytes", "0");
	look_at_direct(&s, result, "direct_next", "direct_next_why");
	stop(&s);
	json_object_set_new(result, "wrong", json_integer(s.wrong));
	gpu_close(&g);
	return result;
}
