/* gpu_open.c - trims-bench gpu-open: opening and closing a model that is on the device, by a process that has a context and
 * an attached session; against opening memory of the same sizes, cut into the same allocations, by the driver alone.
 * Keeps: both sides end with an address that kernels could use, and give everything back on closing. */
#include "shared/check.h"
#include "tools/bench/gpu.h"
#include "tools/bench/yard.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

#define ROUNDS 200
#define CELL_NS (1500 * NS_PER_MS) /* large ones take fewer rounds, but MIN_ROUNDS */
#define MIN_ROUNDS 5
#define MODEL "bench"

static const uint64_t sizes[] = {16 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB};
static const uint32_t tensors[] = {1, 100, 10000};

struct export {
	const char *key, *option;
	uint32_t kind; /* enum trims_export */
};
static const struct export exports[] = {
	{"vmm_fd", "vmm-fd", TRIMS_EXPORT_VMM_FD},
	{"cuda_ipc", "cuda-ipc", TRIMS_EXPORT_CUDA_IPC},
};

struct setting {
	const struct bench_options *o;
	const struct gpu *g;
	const struct export *export;
	trims_conn *conn;
	uint32_t n_tensors; /* of the model as it is now */
	pid_t mrm;
	char path[LAB_PATH];
};

struct cell {
	struct samples open, close, bare_open, bare_close;
};

/* ---- what is there to be opened ---- */

/* The sizes of the model's allocations, as the daemon shares them. */
static uint32_t model_extents(trims_conn *conn, uint64_t bytes[YARD_EXPORT_MAX])
{
	char *text;
	size_t len, i;
	uint64_t next;
	json_t *value;
	if (trims_query(conn, TRIMS_REPORT_SHOW, MODEL, 0, &text, &len, &next))
		die_trims("asking for the model's extents");
	json_t *report = json_loadb(text, len, 0, NULL), *extents = json_object_get(report, "extents");
	uint32_t n = (uint32_t)json_array_size(extents);
	free(text);
	if (n == 0 || n > YARD_EXPORT_MAX)
		die("gpu-open: the model has %" PRIu32 " extents", n);
	json_array_foreach(extents, i, value)
		bytes[i] = align_up((uint64_t)json_integer_value(value), YARD_EXPORT_ALIGN);
	json_decref(report);
	return n;
}

static void check_model(const struct setting *s, trims_model *model, uint32_t n_tensors)
{
	struct trims_info info = {.size = sizeof info};
	if (trims_info(model, &info))
		die_trims("gpu-open");
	if (n_tensors != s->n_tensors)
		die("gpu-open: the model has %" PRIu32 " tensors instead of %" PRIu32, n_tensors, s->n_tensors);
	if (!info.hit || info.export_kind != s->export->kind)
		die("gpu-open: the model %s", info.hit ? "is shared another way than asked for" : "left the device meanwhile");
}

static void open_once(const struct setting *s, struct cell *c)
{
	struct trims_tensor t;
	uint32_t n;
	uint64_t started = bench_now_ns();
	trims_model *model = gpu_lab_open(s->conn, s->g, MODEL, 0);
	if (trims_tensor_count(model, &n) || trims_tensor(model, n - 1, &t))
		die_trims("gpu-open");
	uint64_t opened = bench_now_ns();
	check_model(s, model, n);
	uint64_t closing = bench_now_ns();
	trims_close(&model);
	samples_add(&c->open, (double)(opened - started) / 1e3);
	samples_add(&c->close, (double)(bench_now_ns() - closing) / 1e3);
}

static void bare_once(struct yard_export *y, struct cell *c)
{
	uint64_t started = bench_now_ns();
	yard_export_open(y);
	uint64_t opened = bench_now_ns();
	yard_export_close(y);
	samples_add(&c->bare_open, (double)(opened - started) / 1e3);
	samples_add(&c->bare_close, (double)(bench_now_ns() - opened) / 1e3);
}

/* ---- one size, one number of tensors ---- */

static json_t *cell_json(struct cell *c, uint32_t n_extents)
{
	double open = samples_median(&c->open), bare = samples_median(&c->bare_open);
	double close = samples_median(&c->close), bare_close = samples_median(&c->bare_close);
	json_t *j = json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:i,s:i}", "yardstick_us", bare, "open_us", open, "ratio", open / bare,
		"yardstick_close_us", bare_close, "close_us", close, "close_ratio", close / bare_close, "allocations",
		(int)n_extents, "rounds", (int)c->open.n);
	ASSERT(j);
	samples_fini(&c->open);
	samples_fini(&c->close);
	samples_fini(&c->bare_open);
	samples_fini(&c->bare_close);
	return j;
}

/* The yardstick wakes nobody, an open does, and what that costs is the scheduler's choice of cores: see open.c. */
static void place(const struct setting *s, int core)
{
	lab_place(0, core);
	lab_place(s->mrm, core);
}

static json_t *measure_cell(struct setting *s, uint64_t bytes, uint32_t n_tensors)
{
	struct cell c = {0};
	struct yard_export *yard;
	uint64_t extents[YARD_EXPORT_MAX];
	/* A hole reads as zeros: nothing here looks at the bytes. */
	model_write(s->path, &(struct model_spec){.bytes = bytes, .n_tensors = n_tensors, .hole = true, .seed = n_tensors});
	s->n_tensors = n_tensors;
	trims_model *held = gpu_lab_open(s->conn, s->g, MODEL, 0);
	uint32_t n = model_extents(s->conn, extents), rounds = s->o->rounds ? s->o->rounds : ROUNDS;
	trims_close(&held);
	yard_export_start(&yard, s->o, s->g, s->export->kind, extents, n);
	place(s, lab_core(0));
	uint64_t end = bench_now_ns() + CELL_NS;
	for (uint32_t i = 0; i < rounds + 2 && (i < MIN_ROUNDS || bench_now_ns() < end); i++) {
		if (i == 2) { /* the first two warm up */
			c.open.n = c.close.n = 0;
			c.bare_open.n = c.bare_close.n = 0;
		}
		bare_once(yard, &c);
		open_once(s, &c);
	}
	place(s, -1);
	yard_export_stop(&yard);
	lab_evict(s->conn, MODEL, TRIMS_TIER_GPU);
	lab_evict(s->conn, MODEL, TRIMS_TIER_ANY);
	return cell_json(&c, n);
}

/* ---- all of them ---- */

/* "16M" */
static const char *size_name(uint64_t bytes)
{
	static char text[16];
	bool gib = bytes >= GIB;
	snprintf(text, sizeof text, "%" PRIu64 "%c", bytes / (gib ? GIB : MIB), gib ? 'G' : 'M');
	return text;
}

static double number_at(const json_t *export, uint64_t bytes, uint32_t n_tensors, const char *key)
{
	char count[16];
	snprintf(count, sizeof count, "%" PRIu32, n_tensors);
	const json_t *size = json_object_get(export, size_name(bytes));
	return json_number_value(json_object_get(json_object_get(size, count), key));
}

/* What an export is held to, from its cells. */
static void summarise(json_t *export, size_t n_sizes)
{
	double worst = 0, by_tensors = 0;
	uint32_t last = ARRAY_LEN(tensors) - 1;
	for (size_t i = 0; i < n_sizes; i++) {
		for (size_t k = 0; k < ARRAY_LEN(tensors); k++)
			worst = MAX(worst, number_at(export, sizes[i], tensors[k], "ratio"));
		double one = number_at(export, sizes[i], tensors[0], "open_us");
		by_tensors = MAX(by_tensors, number_at(export, sizes[i], tensors[last], "open_us") / one);
	}
	double small = number_at(export, sizes[0], tensors[1], "open_us");
	double large = number_at(export, sizes[n_sizes - 1], tensors[1], "open_us");
	json_object_set_new(export, "ratio", json_real(worst));
	json_object_set_new(export, "tensors_factor", json_real(by_tensors));
	if (n_sizes > 1)
		json_object_set_new(export, "size_factor", json_real(large / small));
}

static json_t *measure_export(struct setting *s, size_t n_sizes)
{
	struct mrm m;
	char source[LAB_PATH + 8], room[32];
	json_t *export = json_object();
	snprintf(source, sizeof source, "dir:%s/models", s->o->lab);
	snprintf(room, sizeof room, "%" PRIu64, sizes[n_sizes - 1] + sizes[n_sizes - 1] / 4 + 64 * MIB);
	gpu_mrm_start(s->o, &m, (const char *const[]){"--source", source, "--host-bytes", room, "--gpu-export",
		s->export->option, NULL});
	s->conn = lab_connect(&m);
	s->mrm = m.pid;
	for (size_t i = 0; i < n_sizes; i++) {
		json_t *size = json_object();
		for (size_t k = 0; k < ARRAY_LEN(tensors); k++) {
			char count[16];
			snprintf(count, sizeof count, "%" PRIu32, tensors[k]);
			lab_progress(s->export->option, i * ARRAY_LEN(tensors) + k, n_sizes * ARRAY_LEN(tensors));
			json_object_set_new(size, count, measure_cell(s, sizes[i], tensors[k]));
		}
		json_object_set_new(export, size_name(sizes[i]), size);
	}
	lab_progress(NULL, 0, 0);
	summarise(export, n_sizes);
	trims_disconnect(&s->conn);
	mrm_stop(&m);
	return export;
}

/* The model and the yardstick's memory are on the device together, the model in host memory as well. */
static size_t fitting_sizes(const struct bench_options *o, const struct gpu *g)
{
	uint64_t device = gpu_free_bytes(g), host = host_available_bytes(), wanted = bench_bytes(o, UINT64_MAX);
	size_t n = 0;
	while (n < ARRAY_LEN(sizes) && sizes[n] <= wanted && 2 * sizes[n] + sizes[n] / 4 + 128 * MIB <= device / 10 * 9 &&
	       2 * sizes[n] <= host)
		n++;
	if (n == 0)
		skip("gpu-open: neither the device nor the machine has room for a model of 16 MiB");
	return n;
}

static bool is_wanted(const struct bench_options *o, const struct export *e)
{
	return !o->only || strcmp(o->only, e->option) == 0;
}

static bool can_export(const struct gpu *g, const struct export *e)
{
	int can;
	if (e->kind == TRIMS_EXPORT_CUDA_IPC)
		return true;
	GPU_MUST(g, device_get_attribute, &can, CU_ATTR_VMM_FD, g->device);
	return can;
}

json_t *bench_gpu_open(const struct bench_options *o)
{
	struct gpu g;
	struct setting s = {.o = o, .g = &g};
	char dir[LAB_PATH];
	if (!is_wanted(o, &exports[0]) && !is_wanted(o, &exports[1]))
		die("gpu-open: --only wants vmm-fd or cuda-ipc");
	gpu_open(o, &g);
	json_t *result = gpu_result(&g);
	size_t n_sizes = fitting_sizes(o, &g);
	lab_path(o, dir, "models");
	lab_mkdir(dir);
	lab_path(o, dir, "models/" MODEL);
	lab_mkdir(dir);
	lab_path(o, s.path, "models/" MODEL "/model.safetensors");
	for (size_t i = 0; i < ARRAY_LEN(exports); i++) {
		if (!is_wanted(o, &exports[i]))
			continue;
		s.export = &exports[i];
		json_object_set_new(result, exports[i].key, can_export(&g, &exports[i]) ? measure_export(&s, n_sizes)
			: json_string("not measured: the device cannot share memory that way"));
	}
	if (n_sizes < ARRAY_LEN(sizes))
		json_object_set_new(result, "left_out", json_sprintf("%s and more: %s", size_name(sizes[n_sizes]),
			sizes[n_sizes] > bench_bytes(o, UINT64_MAX) ? "not asked for" : "no room"));
	gpu_close(&g);
	return result;
}
