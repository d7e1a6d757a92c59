/* e2e_open_loop.c - functions that arrive by a Poisson process, whether or not others are done: with the daemon, twice without, with
 * it again, by the same arrivals.  Latency counts from the arrival on, so that what waits for a core is not forgotten.
 * Keeps: each turn begins with every file in the page cache, nothing in the daemon's memory, and free memory that was touched. */
#include "tools/bench/e2e.h"

#include "shared/check.h"
#include "shared/own.h"
#include "tools/random.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define ARRIVALS 60u       /* unless --calls says how many */
#define LOAD 0.5           /* of the machine, by what a hit takes */
#define SEED 11
#define BESIDE (4 * GIB)   /* of memory at most, touched before each turn for functions that are there at once */

struct arrival {
	double at_ms;
	struct e2e_row *row;
};

/* Where functions run, and whose time there says how fast they may come. */
struct ground {
	const char *device, *daemon, *private; /* the latter two: what is said meanwhile */
	enum e2e_case hit;
};
static const struct ground host = {"cpu", "open loop, daemon", "open loop, private", E2E_CASE_HOST_HIT};
static const struct ground gpu = {"cuda:0", "open loop on the GPU, daemon", "open loop on the GPU, private", E2E_CASE_GPU_HIT};

struct arm {
	const char *key, *device;
	const struct mrm *m; /* NULL: without */
	struct samples latency;
	uint32_t failed;
};

/* Exponential gaps; the mean gap is what keeps LOAD of all cores busy with hits. */
static double plan_arrivals(struct arrival *v, size_t arrivals, struct e2e_row **rows, size_t n, enum e2e_case hit, uint64_t seed)
{
	double work = 0, at = 0;
	for (size_t i = 0; i < n; i++)
		work += samples_median(&rows[i]->cells[hit].total) / (double)n;
	double gap = work / LOAD; /* one function uses every core there is */
	for (size_t i = 0; i < arrivals; i++) {
		at += -log(random_unit(&seed)) * gap;
		v[i] = (struct arrival){at, rows[(size_t)(random_unit(&seed) * (double)n)]};
	}
	return gap;
}

static void start_one(const struct bench_options *o, const struct mrm *m, const char *device, const struct arrival *a,
	uint64_t began_ns, struct function *f)
{
	char tokens[16], file[LAB_PATH];
	const char *name = a->row->model->name;
	uint64_t due = began_ns + (uint64_t)(a->at_ms * 1e6);
	snprintf(tokens, sizeof tokens, "%" PRIu32, a->row->model->tokens);
	lab_path(o, file, "models/%s/model.safetensors", name);
	const char *shared[] = {"--device", device, "--socket", m ? m->socket : "", "--mode", "pipeline", name, "--tokens", tokens, NULL};
	const char *alone[] = {"--device", device, "--mode", "private", "--file", file, "--tokens", tokens, NULL};
	if (!a->row->model->tokens) /* an image */
		shared[7] = alone[6] = NULL;
	e2e_start(o, f, due, m ? shared : alone);
}

static int until_ms(const struct arrival *next, uint64_t began_ns)
{
	double left = next ? next->at_ms - (double)(bench_now_ns() - began_ns) / 1e6 : -1;
	return next ? (int)ceil(fmax(left, 0)) : -1;
}

static void watch(int epoll, struct function *f)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLHUP, .data.ptr = f};
	ASSERT(epoll_ctl(epoll, EPOLL_CTL_ADD, f->out, &e) == 0);
}

/* It has printed its result, or ended.  Closing the pipe would not do: a child that was just forked has it, too. */
static void collect(int epoll, struct arm *arm, struct function *f)
{
	struct function_run r;
	ASSERT(epoll_ctl(epoll, EPOLL_CTL_DEL, f->out, NULL) == 0);
	if (e2e_finish(f, &r))
		samples_add(&arm->latency, r.total);
	else
		arm->failed++;
}

static void run_arm(const struct bench_options *o, const struct arrival *v, size_t arrivals, struct arm *arm)
{
	struct function *all = calloc(arrivals, sizeof *all);
	uint64_t began = bench_now_ns();
	size_t started = 0, done = 0;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	ASSERT(all && epoll >= 0);
	while (done < arrivals) {
		struct epoll_event events[64];
		int n = epoll_wait(epoll, events, ARRAY_LEN(events), until_ms(started < arrivals ? &v[started] : NULL, began));
		for (int i = 0; i < n; i++, done++)
			collect(epoll, arm, events[i].data.ptr);
		for (; started < arrivals && v[started].at_ms <= (double)(bench_now_ns() - began) / 1e6; started++) {
			start_one(o, arm->m, arm->device, &v[started], began, &all[started]);
			watch(epoll, &all[started]);
		}
		lab_progress(arm->key, done, arrivals);
	}
	lab_progress(NULL, 0, 0);
	close(epoll);
	free(all);
}

static void make_state(const struct bench_options *o, const struct mrm *m, trims_conn *conn, struct e2e_row **rows, size_t n,
	size_t arrivals)
{
	OWN_MEM const char **names = calloc(n, sizeof *names);
	uint64_t bytes = 0;
	struct fault why;
	ASSERT(names);
	for (size_t i = 0; i < n; i++) {
		char file[LAB_PATH];
		names[i] = rows[i]->model->name;
		lab_path(o, file, "models/%s/model.safetensors", names[i]);
		model_make_warm(file);
		bytes += rows[i]->bytes;
	}
	lab_evict_all(conn, names, n, TRIMS_TIER_GPU);
	lab_evict_all(conn, names, n, TRIMS_TIER_HOST);
	mrm_settle(m);
	if (function_warm_memory(bytes + MIN(bytes / n * arrivals, BESIDE), &why))
		die("e2e: %s", why.text);
}

static json_t *arm_json(struct arm *arm)
{
	bool any = arm->latency.n > 0;
	json_t *out = json_pack("{s:f,s:f,s:i,s:i}", "p50_ms", any ? samples_quantile(&arm->latency, 0.5) : 0.0, "p99_ms",
		any ? samples_quantile(&arm->latency, 0.99) : 0.0, "done", (int)arm->latency.n, "failed", (int)arm->failed);
	samples_fini(&arm->latency);
	return out;
}

static json_t *run_both(const struct bench_options *o, const struct mrm *m, trims_conn *conn, const struct ground *where,
	struct e2e_row *rows, size_t n)
{
	struct e2e_row **used = calloc(n, sizeof *used);
	size_t arrivals = o->calls ? o->calls : ARRIVALS;
	OWN_MEM struct arrival *v = calloc(arrivals, sizeof *v);
	struct arm shared = {.key = where->daemon, .device = where->device, .m = m}, alone = {.key = where->private, .device = where->device};
	struct arm *const turns[] = {&shared, &alone, &alone, &shared};
	size_t n_used = 0;
	ASSERT(used && v);
	for (size_t i = 0; i < n; i++)
		if (rows[i].bytes <= E2E_LARGEST && rows[i].cells[where->hit].total.n)
			used[n_used++] = &rows[i];
	if (!n_used) {
		free(used);
		return json_null();
	}
	double gap = plan_arrivals(v, arrivals, used, n_used, where->hit, SEED);
	for (size_t i = 0; i < ARRAY_LEN(turns); i++) {
		make_state(o, m, conn, used, n_used, arrivals);
		run_arm(o, v, arrivals, turns[i]);
	}
	free(used);
	return json_pack("{s:i,s:i,s:i,s:f,s:s,s:o,s:o}", "seed", SEED, "arrivals", (int)arrivals, "models", (int)n_used, "mean_gap_ms", gap,
		"at_start", "files in the page cache, nothing in the daemon's memory", "daemon", arm_json(&shared), "private", arm_json(&alone));
}

json_t *e2e_open_loop(const struct bench_options *o, const struct mrm *m, trims_conn *conn, struct e2e_row *rows, size_t n)
{
	json_t *result = run_both(o, m, conn, &host, rows, n), *there = run_both(o, m, conn, &gpu, rows, n);
	if (json_is_object(result) && json_is_object(there))
		json_object_set(result, "gpu", there);
	json_decref(there);
	return result;
}
