/* calibrate.c - see calibrate.h.  A simulated driver's figures are never kept: they are settings, not measurements. */
#include "mrm/gpu/calibrate.h"

#include "mrm/clock.h"
#include "mrm/gpu/device.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_BYTES (64 * MIB)      /* what one copy of a bandwidth measurement moves */
#define BUDGET_NS (50 * NS_PER_MS)  /* to find how many blocks make a measurement */
#define MOST_BLOCKS 64
#define SAMPLES 3
#define GENTLE_SAMPLES 33           /* of a single block */
#define SIM_BLOCK_BYTES (1 * MIB)
#define SIM_BUDGET_NS (5 * NS_PER_MS)
#define SMALL_BYTES (4 * KIB)
#define SMALL_COPIES 64
/* When nothing can be measured: a PCIe 3 x16 link at its worst. */
#define CAUTIOUS_BYTES_PER_S ((uint64_t)6 << 30)

struct bench {
	struct gpu *g;
	uint32_t device;
	uint64_t block_bytes, budget_ns;
	unsigned samples, most;         /* measurements; blocks in flight each way */
	bool (*go_on)(void *ctx);       /* NULL: to the end */
	void *ctx;
	bool stopped;
	uint32_t spread;
	cu_ptr memory[GPU_DIRECTIONS];
	void *host[GPU_DIRECTIONS];
	cu_stream stream[GPU_DIRECTIONS];
	cu_event begin[GPU_DIRECTIONS], end[GPU_DIRECTIONS];
};

static cu_result bench_open(struct bench *b)
{
	const struct cuda *cu = b->g->cu;
	cu_result r = CU_OK;
	for (int d = 0; d < GPU_DIRECTIONS && !r; d++) {
		r = cu->mem_alloc(&b->memory[d], b->block_bytes);
		r = r ? r : cu->mem_host_alloc(&b->host[d], b->block_bytes, CU_HOST_PORTABLE);
		r = r ? r : cu->stream_create(&b->stream[d], CU_STREAM_NO_NULL_SYNC);
		r = r ? r : cu->event_create(&b->begin[d], 0);
		r = r ? r : cu->event_create(&b->end[d], 0);
		if (!r)
			memset(b->host[d], d + 1, b->block_bytes);
	}
	return r;
}

/* Also after a failure in the middle: what is still queued ends before its memory goes. */
static void bench_close(struct bench *b)
{
	const struct cuda *cu = b->g->cu;
	for (int d = 0; d < GPU_DIRECTIONS; d++) {
		if (b->stream[d]) {
			GPU_AGAIN(cu->stream_synchronize(b->stream[d]));
			GPU_AGAIN(cu->stream_destroy(b->stream[d]));
		}
		if (b->begin[d])
			GPU_AGAIN(cu->event_destroy(b->begin[d]));
		if (b->end[d])
			GPU_AGAIN(cu->event_destroy(b->end[d]));
		if (b->host[d])
			GPU_AGAIN(cu->mem_free_host(b->host[d]));
		if (b->memory[d])
			GPU_AGAIN(cu->mem_free(b->memory[d]));
	}
}

static cu_result copy(struct bench *b, int d, uint64_t bytes)
{
	const struct cuda *cu = b->g->cu;
	return d == GPU_H2D ? cu->memcpy_htod_async(b->memory[d], b->host[d], bytes, b->stream[d])
			    : cu->memcpy_dtoh_async(b->host[d], b->memory[d], bytes, b->stream[d]);
}

/* `n` blocks each way that is asked for, side by side; the engine's own time of each way for all but the first, which nothing
 * is in front of. */
static cu_result run_blocks(struct bench *b, unsigned ways, unsigned n, float ms[GPU_DIRECTIONS])
{
	const struct cuda *cu = b->g->cu;
	cu_result r = CU_OK;
	for (unsigned i = 0; i < n; i++)
		for (int d = 0; d < GPU_DIRECTIONS && !r; d++) {
			if (!(ways >> d & 1))
				continue;
			r = copy(b, d, b->block_bytes);
			r = r || i ? r : cu->event_record(b->begin[d], b->stream[d]);
		}
	for (int d = 0; d < GPU_DIRECTIONS && !r; d++)
		r = ways >> d & 1 ? cu->event_record(b->end[d], b->stream[d]) : CU_OK;
	for (int d = 0; d < GPU_DIRECTIONS && !r; d++)
		if (ways >> d & 1) {
			r = cu->event_synchronize(b->end[d]);
			r = r ? r : cu->event_elapsed_time(&ms[d], b->begin[d], b->end[d]);
		}
	return r;
}

static uint64_t rate_of(const struct bench *b, unsigned n, float ms)
{
	double s = ms > 0.0005f ? (double)ms / 1e3 : 5e-7; /* an event's resolution */
	return (uint64_t)((double)(b->block_bytes * n) / s);
}

/* Doubles the blocks until a run takes long enough to be believed. */
static cu_result find_length(struct bench *b, unsigned ways, unsigned *n)
{
	float ms[GPU_DIRECTIONS] = {0};
	*n = 2;
	cu_result r = run_blocks(b, ways, *n, ms); /* the first one is a warm-up */
	for (uint64_t until = clock_now() + b->budget_ns; !r && *n < b->most; *n *= 2) {
		r = run_blocks(b, ways, *n, ms);
		if (clock_now() >= until)
			break;
	}
	return r;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* The middle one is the rate; how far the middle half lies apart says whether somebody else copied meanwhile. */
static uint64_t judge(struct bench *b, uint64_t *v)
{
	unsigned n = b->samples;
	qsort(v, n, sizeof *v, by_size);
	uint64_t lo = v[n / 4], hi = MAX(v[n - 1 - n / 4], 1u);
	b->spread = MAX(b->spread, (uint32_t)((hi - lo) * 1000 / hi));
	return v[n / 2];
}

static bool may_go_on(struct bench *b)
{
	if (!b->stopped && b->go_on)
		b->stopped = !b->go_on(b->ctx);
	return !b->stopped;
}

static cu_result measure_rate(struct bench *b, unsigned ways, uint64_t rate[GPU_DIRECTIONS])
{
	uint64_t seen[GPU_DIRECTIONS][GENTLE_SAMPLES];
	float ms[GPU_DIRECTIONS] = {0};
	unsigned n = 0;
	cu_result r = may_go_on(b) ? find_length(b, ways, &n) : CU_OK;
	for (unsigned i = 0; i < b->samples; i++) {
		if (r || !may_go_on(b))
			return r;
		r = run_blocks(b, ways, n, ms);
		for (int d = 0; d < GPU_DIRECTIONS; d++)
			seen[d][i] = rate_of(b, n - 1, ms[d]);
	}
	for (int d = 0; d < GPU_DIRECTIONS; d++)
		if (ways >> d & 1)
			rate[d] = judge(b, seen[d]);
	return r;
}

/* One small copy after the other: what a copy costs beside its bytes, and what asking for it costs. */
static cu_result measure_overhead(struct bench *b, struct gpu_calibration *out)
{
	const struct cuda *cu = b->g->cu;
	uint64_t asking = 0, start = clock_now();
	cu_result r = CU_OK;
	for (int i = 0; i < SMALL_COPIES && !r && may_go_on(b); i++) {
		uint64_t t = clock_now();
		r = copy(b, GPU_H2D, SMALL_BYTES);
		r = r ? r : cu->event_record(b->end[GPU_H2D], b->stream[GPU_H2D]);
		asking += clock_now() - t;
		r = r ? r : cu->event_synchronize(b->end[GPU_H2D]);
	}
	uint64_t each = (clock_now() - start) / SMALL_COPIES;
	out->submit_ns = asking / SMALL_COPIES;
	out->overhead_ns = each > out->submit_ns ? each - out->submit_ns : 0;
	return r;
}

static cu_result measure(struct bench *b, struct gpu_calibration *out)
{
	uint64_t both[GPU_DIRECTIONS] = {0};
	cu_result r = measure_rate(b, 1u << GPU_H2D, out->bytes_per_s);
	r = r ? r : measure_rate(b, 1u << GPU_D2H, out->bytes_per_s);
	r = r ? r : measure_rate(b, 1u << GPU_H2D | 1u << GPU_D2H, both);
	for (int d = 0; d < GPU_DIRECTIONS && !r; d++)
		out->duplex[d] = (uint32_t)MIN(MAX(both[d] * 1000 / MAX(out->bytes_per_s[d], 1u), 100u), 1000u);
	return r ? r : measure_overhead(b, out);
}

static void be_cautious(struct gpu_calibration *out, const struct fault *why)
{
	*out = (struct gpu_calibration){
		.bytes_per_s = {CAUTIOUS_BYTES_PER_S, CAUTIOUS_BYTES_PER_S},
		.duplex = {700, 700},
		.overhead_ns = 10 * NS_PER_US,
		.submit_ns = 5 * NS_PER_US,
	};
	snprintf(out->reason, sizeof out->reason, "%s", why->text);
}

/* ---- kept figures ---- */

void gpu_calibration_path(const struct gpu *g, uint32_t device, const char *dir, char *path, size_t size)
{
	const struct gpu_facts *f = gpu_facts(g, device);
	snprintf(path, size, "%s/gpu/calibration-%s-%" PRIu32 "-gen%" PRIu32 "x%" PRIu32 ".json", dir, f->uuid,
		gpu_driver_version(g), f->place.pcie_gen, f->place.pcie_width);
}

static bool number_in(const json_t *o, const char *key, uint64_t lo, uint64_t hi, uint64_t *out)
{
	const json_t *v = json_object_get(o, key);
	json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
	if (n < 0 || (uint64_t)n < lo || (uint64_t)n > hi)
		return false;
	*out = (uint64_t)n;
	return true;
}

bool gpu_calibration_load(const char *path, struct gpu_calibration *out)
{
	json_t *o = json_load_file(path, 0, NULL);
	uint64_t duplex[GPU_DIRECTIONS];
	bool good = number_in(o, "h2d_bytes_per_s", 1, (uint64_t)1 << 42, &out->bytes_per_s[GPU_H2D]) &&
		number_in(o, "d2h_bytes_per_s", 1, (uint64_t)1 << 42, &out->bytes_per_s[GPU_D2H]) &&
		number_in(o, "h2d_duplex_thousandths", 1, 1000, &duplex[GPU_H2D]) &&
		number_in(o, "d2h_duplex_thousandths", 1, 1000, &duplex[GPU_D2H]) &&
		number_in(o, "overhead_ns", 0, NS_PER_S, &out->overhead_ns) &&
		number_in(o, "submit_ns", 0, NS_PER_S, &out->submit_ns);
	json_decref(o);
	if (!good)
		return false;
	out->duplex[GPU_H2D] = (uint32_t)duplex[GPU_H2D];
	out->duplex[GPU_D2H] = (uint32_t)duplex[GPU_D2H];
	out->measured = out->stored = true;
	return true;
}

int gpu_calibration_save(const char *path, const struct gpu_calibration *c)
{
	char tmp[4200];
	if ((size_t)snprintf(tmp, sizeof tmp, "%s.new", path) >= sizeof tmp)
		return -ENAMETOOLONG;
	json_t *o = json_pack("{s:I, s:I, s:i, s:i, s:I, s:I}", "h2d_bytes_per_s", (json_int_t)c->bytes_per_s[GPU_H2D],
		"d2h_bytes_per_s", (json_int_t)c->bytes_per_s[GPU_D2H], "h2d_duplex_thousandths", (int)c->duplex[GPU_H2D],
		"d2h_duplex_thousandths", (int)c->duplex[GPU_D2H], "overhead_ns", (json_int_t)c->overhead_ns, "submit_ns",
		(json_int_t)c->submit_ns);
	errno = 0;
	int e = !o ? -ENOMEM : json_dump_file(o, tmp, JSON_INDENT(1)) || rename(tmp, path) ? (errno ? -errno : -EIO) : 0;
	json_decref(o);
	return e;
}

void gpu_calibration_keep(const struct gpu *g, uint32_t device, const char *dir, const struct gpu_calibration *c)
{
	char path[4096];
	if (!dir || gpu_is_simulated(g) || !c->measured || !gpu_calibration_is_steady(c))
		return;
	snprintf(path, sizeof path, "%s/gpu", dir);
	int e = mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
	gpu_calibration_path(g, device, dir, path, sizeof path);
	e = e ? e : gpu_calibration_save(path, c);
	if (e)
		log_warn("gpu", "the calibration is not kept: %s: %s", path, strerror(-e));
}

/* ---- the whole ---- */

static int calibrate(struct bench *b, struct gpu_calibration *out, struct fault *why)
{
	int e = gpu_enter(b->g, b->device, why);
	if (e)
		return e;
	*out = (struct gpu_calibration){0};
	cu_result r = bench_open(b);
	r = r ? r : measure(b, out);
	bench_close(b);
	if (r)
		return gpu_failed(b->g, b->device, r, "calibration", why);
	if (b->stopped)
		return fault_set(why, TRIMS_E_BUSY, "something is to be copied"), -EBUSY;
	out->spread = b->spread;
	out->measured = true;
	return 0;
}

int gpu_calibrate_again(struct gpu *g, uint32_t device, uint64_t piece_bytes, bool (*go_on)(void *ctx), void *ctx,
	struct gpu_calibration *out, struct fault *why)
{
	struct bench b = {.g = g, .device = device, .block_bytes = piece_bytes, .samples = GENTLE_SAMPLES, .most = 2,
		.go_on = go_on, .ctx = ctx};
	return calibrate(&b, out, why);
}

/* ---- several devices at once ---- */

/* Two pieces each, all of them on their way together; contexts change, the thread does not. */
static int run_together(struct bench *b, uint32_t n, int way, uint64_t *ns, struct fault *why)
{
	uint64_t began = clock_now();
	for (uint32_t i = 0; i < n; i++) {
		int e = gpu_enter(b[i].g, b[i].device, why);
		cu_result r = e ? CU_OK : copy(&b[i], way, b[i].block_bytes);
		r = r || e ? r : copy(&b[i], way, b[i].block_bytes);
		if (e || r)
			return e ? e : gpu_failed(b[i].g, b[i].device, r, "a copy", why);
	}
	for (uint32_t i = 0; i < n; i++) {
		int e = gpu_enter(b[i].g, b[i].device, why);
		cu_result r = e ? CU_OK : b[i].g->cu->stream_synchronize(b[i].stream[way]);
		if (e || r)
			return e ? e : gpu_failed(b[i].g, b[i].device, r, "cuStreamSynchronize", why);
	}
	*ns = MAX(clock_now() - began, 1u);
	return 0;
}

static int measure_together(struct bench *b, uint32_t n, int way, uint64_t *bytes_per_s, struct fault *why)
{
	uint64_t seen[GENTLE_SAMPLES], ns = 1;
	for (unsigned i = 0; i < GENTLE_SAMPLES + 1; i++) { /* the first warms up */
		if (!may_go_on(b))
			return fault_set(why, TRIMS_E_BUSY, "something is to be copied"), -EBUSY;
		int e = run_together(b, n, way, &ns, why);
		if (e)
			return e;
		seen[i ? i - 1 : 0] = 2 * n * b->block_bytes * NS_PER_S / ns;
	}
	*bytes_per_s = judge(b, seen);
	if (b->spread > GPU_CALIBRATION_DOUBT)
		return fault_set(why, TRIMS_E_BUSY, "measurements do not agree"), -EAGAIN;
	return 0;
}

int gpu_calibrate_together(struct gpu *g, uint64_t devices, enum gpu_direction way, uint64_t piece_bytes, bool (*go_on)(void *ctx),
	void *ctx, uint64_t *bytes_per_s, struct fault *why)
{
	OWN_MEM struct bench *b = calloc(GPU_MAX_DEVICES, sizeof *b);
	uint32_t n = 0;
	ASSERT(b);
	int e = 0;
	for (uint32_t i = 0; !e && i < gpu_count(g); i++) {
		if (!(devices >> i & 1))
			continue;
		b[n] = (struct bench){.g = g, .device = i, .block_bytes = piece_bytes, .samples = GENTLE_SAMPLES, .go_on = go_on, .ctx = ctx};
		e = gpu_enter(g, i, why);
		cu_result r = e ? CU_OK : bench_open(&b[n++]);
		e = r ? gpu_failed(g, i, r, "calibration", why) : e;
	}
	e = e ? e : measure_together(b, n, way, bytes_per_s, why);
	while (n-- > 0)
		if (gpu_enter_again(g, b[n].device))
			bench_close(&b[n]);
	return e;
}

void gpu_calibrate(struct gpu *g, uint32_t device, const char *dir, struct gpu_calibration *out)
{
	char path[4096];
	struct fault why;
	bool sim = gpu_is_simulated(g);
	struct bench b = {.g = g, .device = device, .block_bytes = sim ? SIM_BLOCK_BYTES : BLOCK_BYTES,
		.budget_ns = sim ? SIM_BUDGET_NS : BUDGET_NS, .samples = SAMPLES, .most = MOST_BLOCKS};
	if (dir && !sim) {
		gpu_calibration_path(g, device, dir, path, sizeof path);
		*out = (struct gpu_calibration){0};
		if (gpu_calibration_load(path, out))
			return;
	}
	if (calibrate(&b, out, &why))
		be_cautious(out, &why);
	else
		gpu_calibration_keep(g, device, dir, out);
}
