/* points_copy.c - copy engines and the hash kernel. */
#include "tests/gpu/points.h"

#include "mrm/gpu/kernel/ptx.h"
#include "mrm/gpu/kernel/xxh3_cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t volume(const struct point_lab *lab)
{
	return lab->cu->simulated ? 16 * MIB : 512 * MIB;
}

struct way {
	void *host;
	cu_ptr device;
	cu_stream stream;
	bool up;
};

static struct way way_new(struct point_lab *lab, bool up)
{
	struct way w = {.host = pinned(lab, volume(lab)), .up = up};
	memset(w.host, 1, volume(lab));
	MUST(lab, mem_alloc, &w.device, volume(lab));
	MUST(lab, stream_create, &w.stream, CU_STREAM_NO_NULL_SYNC);
	return w;
}

static void way_free(struct point_lab *lab, struct way *w)
{
	MUST(lab, stream_destroy, w->stream);
	MUST(lab, mem_free, w->device);
	MUST(lab, mem_free_host, w->host);
}

static void enqueue(struct point_lab *lab, const struct way *w, uint64_t at, uint64_t bytes)
{
	if (w->up)
		MUST(lab, memcpy_htod_async, w->device + at, (char *)w->host + at, bytes, w->stream);
	else
		MUST(lab, memcpy_dtoh_async, (char *)w->host + at, w->device + at, bytes, w->stream);
}

/* GB/s of each way while all of them copy; pieces: how large; each has to end on its own. */
static void race(struct point_lab *lab, struct way *ways, size_t n, uint64_t piece, double gbps[])
{
	enum { ROUNDS = 5 };
	double all[4][ROUNDS];
	for (int r = 0; r < ROUNDS; r++) {
		double began = now_us();
		for (uint64_t at = 0; at < volume(lab); at += piece)
			for (size_t i = 0; i < n; i++)
				enqueue(lab, &ways[i], at, MIN(piece, volume(lab) - at));
		bool over[4] = {0};
		for (size_t left = n; left;)
			for (size_t i = 0; i < n; i++)
				if (!over[i] && lab->cu->stream_query(ways[i].stream) == CU_OK) {
					over[i] = true;
					left--;
					all[i][r] = (double)volume(lab) / (now_us() - began) / 1e3;
				}
	}
	for (size_t i = 0; i < n; i++)
		gbps[i] = median(all[i], ROUNDS);
}

void point_copy_engines(struct point_lab *lab)
{
	struct way ways[] = {way_new(lab, true), way_new(lab, false), way_new(lab, true)};
	double up[1], down[1], both[2], two[2];
	int engines = 0;
	MUST(lab, device_get_attribute, &engines, CU_ATTR_COPY_ENGINES, lab->device);
	out_number("async_engine_count", engines);
	race(lab, ways, 1, volume(lab), up);
	race(lab, ways + 1, 1, volume(lab), down);
	race(lab, ways, 2, 4 * MIB, both);
	struct way same[] = {ways[0], ways[2]};
	race(lab, same, 2, 4 * MIB, two);
	out_number("up_gbps", up[0]);
	out_number("down_gbps", down[0]);
	out_number("up_while_down_gbps", both[0]);
	out_number("down_while_up_gbps", both[1]);
	out_number("duplex_factor_up", both[0] / up[0]);
	out_number("two_streams_up_gbps", two[0] + two[1]);
	for (size_t i = 0; i < ARRAY_LEN(ways); i++)
		way_free(lab, &ways[i]);
}

static void await(struct point_lab *lab, cu_event event, bool asleep)
{
	if (asleep)
		MUST(lab, event_synchronize, event);
	while (lab->cu->event_query(event) == CU_E_NOT_READY)
		;
}

/* Keeps `window` pieces in flight, the next one submitted when the oldest has ended; asleep until then, as a thread is whose piece takes
 * long, or asking all the time. */
static double windowed_gbps(struct point_lab *lab, const struct way *w, uint64_t piece, unsigned window, bool asleep)
{
	cu_event events[8];
	for (unsigned i = 0; i < window; i++)
		MUST(lab, event_create, &events[i], CU_EVENT_NO_TIMING | (asleep ? CU_EVENT_BLOCKING : 0u));
	double began = now_us();
	unsigned n = 0;
	for (uint64_t at = 0; at < volume(lab); at += piece, n++) {
		if (n >= window)
			await(lab, events[n % window], asleep);
		enqueue(lab, w, at, MIN(piece, volume(lab) - at));
		MUST(lab, event_record, events[n % window], w->stream);
	}
	MUST(lab, stream_synchronize, w->stream);
	double us = now_us() - began;
	for (unsigned i = 0; i < window; i++)
		MUST(lab, event_destroy, events[i]);
	return (double)volume(lab) / us / 1e3;
}

void point_copy_pieces(struct point_lab *lab)
{
	static const uint64_t pieces[] = {256 * KIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB};
	static const unsigned windows[] = {1, 2, 4};
	struct way w = way_new(lab, true);
	double whole;
	race(lab, &w, 1, volume(lab), &whole);
	out_number("whole_gbps", whole);
	for (size_t p = 0; p < ARRAY_LEN(pieces); p++)
		for (size_t k = 0; k < ARRAY_LEN(windows); k++) {
			char key[32];
			snprintf(key, sizeof key, "window%u", windows[k]);
			out_number(sized(key, pieces[p]), windowed_gbps(lab, &w, pieces[p], windows[k], false));
		}
	out_number(sized("asleep2", 2 * MIB), windowed_gbps(lab, &w, 2 * MIB, 2, true));
	out_number(sized("asleep2", 4 * MIB), windowed_gbps(lab, &w, 4 * MIB, 2, true));
	way_free(lab, &w);
}

/* ---- the kernel ---- */

#define CHUNK (4 * MIB)

struct hasher {
	cu_module module;
	cu_function kernel;
	cu_ptr pieces, results;
	uint32_t n;
};

/* False (and said so) where kernels cannot be had. */
static bool hasher_new(struct point_lab *lab, struct hasher *h, uint32_t n)
{
	*h = (struct hasher){.n = n};
	cu_result r = lab->cu->module_load_data ? lab->cu->module_load_data(&h->module, hash_kernel_ptx) : CU_E_NOT_SUPPORTED;
	out_result(lab, "module", r);
	if (r)
		return false;
	MUST(lab, module_get_function, &h->kernel, h->module, HASH_KERNEL);
	MUST(lab, mem_alloc, &h->pieces, n * sizeof(struct hash_piece));
	MUST(lab, mem_alloc, &h->results, n * sizeof(struct hash_result));
	return true;
}

/* Milliseconds on the device; results, unless NULL, gets n of them. */
static double hasher_run(struct point_lab *lab, struct hasher *h, const struct hash_piece *pieces, struct hash_result *results)
{
	cu_event begin, end;
	float ms;
	void *args[] = {&h->pieces, &h->n, &h->results};
	MUST(lab, event_create, &begin, 0);
	MUST(lab, event_create, &end, 0);
	MUST(lab, memcpy_htod, h->pieces, pieces, h->n * sizeof *pieces);
	MUST(lab, event_record, begin, NULL);
	MUST(lab, launch_kernel, h->kernel, (h->n + HASH_KERNEL_PIECES - 1) / HASH_KERNEL_PIECES, 1, 1, HASH_KERNEL_THREADS, 1, 1, 0,
		NULL, args, NULL);
	MUST(lab, event_record, end, NULL);
	MUST(lab, event_synchronize, end);
	MUST(lab, event_elapsed_time, &ms, begin, end);
	if (results)
		MUST(lab, memcpy_dtoh, results, h->results, h->n * sizeof *results);
	MUST(lab, event_destroy, begin);
	MUST(lab, event_destroy, end);
	return ms;
}

static double best_ms(struct point_lab *lab, struct hasher *h, const struct hash_piece *pieces)
{
	double ms[7];
	for (int r = 0; r < 7; r++)
		ms[r] = hasher_run(lab, h, pieces, NULL);
	return median(ms, 7);
}

static uint32_t count_equal(const struct hash_piece *pieces, const struct hash_result *got, uint32_t n, const char *host)
{
	uint32_t equal = 0;
	for (uint32_t i = 0; i < n; i++) {
		xxh3_u64 high, low;
		xxh3_cpu(host + (pieces[i].at - pieces[0].at), pieces[i].bytes, &high, &low);
		equal += high == got[i].hi && low == got[i].lo;
	}
	return equal;
}

void point_hash_kernel(struct point_lab *lab)
{
	const uint32_t n = (uint32_t)(volume(lab) / CHUNK);
	struct hash_piece *pieces = calloc(n, sizeof *pieces);
	struct hash_result *got = calloc(n, sizeof *got);
	struct hasher h;
	cu_ptr at;
	char *host = pinned(lab, volume(lab));
	pattern_fill(host, volume(lab), 9);
	MUST(lab, mem_alloc, &at, volume(lab));
	MUST(lab, memcpy_htod, at, host, volume(lab));
	for (uint32_t i = 0; i < n; i++) /* whole chunks, and some that end early as an extent's last does */
		pieces[i] = (struct hash_piece){.at = at + i * CHUNK, .bytes = i % 5 == 4 ? CHUNK - i % 1000 * 4096 : CHUNK};
	if (!hasher_new(lab, &h, n))
		return;
	hasher_run(lab, &h, pieces, got);
	out_number("chunks", n);
	out_number("equal", count_equal(pieces, got, n, host));
	out_number("gbps", (double)volume(lab) / best_ms(lab, &h, pieces) / 1e6);
	free(pieces);
	free(got);
}

/* If the device caches host memory, reading one chunk by everybody takes far less than reading as many different ones. */
void point_host_reads(struct point_lab *lab)
{
	const uint32_t n = (uint32_t)(volume(lab) / CHUNK);
	struct hash_piece *different = calloc(n, sizeof *different), *same = calloc(n, sizeof *same);
	struct hasher h;
	cu_ptr at;
	char *host = pinned(lab, volume(lab));
	pattern_fill(host, volume(lab), 9);
	MUST(lab, mem_host_get_device_pointer, &at, host, 0);
	for (uint32_t i = 0; i < n; i++) {
		different[i] = (struct hash_piece){.at = at + i * CHUNK, .bytes = CHUNK};
		same[i] = (struct hash_piece){.at = at, .bytes = CHUNK};
	}
	if (!hasher_new(lab, &h, n))
		return;
	double once = best_ms(lab, &h, different), again = best_ms(lab, &h, same);
	out_number("once_gbps", (double)volume(lab) / once / 1e6);
	out_number("again_gbps", (double)volume(lab) / again / 1e6);
	out_number("again_over_once", once / again);
	free(different);
	free(same);
}
