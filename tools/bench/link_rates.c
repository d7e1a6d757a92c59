/* link_rates.c - what a device's link to the host does, measured: what the scheduler of jit.c is told. */
#include "tools/bench/jit.h"

#define BLOCK_BYTES (32 * MIB)
#define BLOCKS 4
#define RUNS 3
#define SMALL_BYTES (4 * KIB)
#define SMALL_COPIES 64

struct lane {
	const struct gpu *g;
	void *host[WAYS];
	cu_ptr device[WAYS];
	cu_stream stream[WAYS];
	cu_event begin[WAYS], end[WAYS];
};

static void lane_new(struct lane *l, const struct gpu *g)
{
	*l = (struct lane){.g = g};
	for (int w = 0; w < WAYS; w++) {
		l->host[w] = gpu_host_alloc(g, BLOCK_BYTES);
		GPU_MUST(g, mem_alloc, &l->device[w], BLOCK_BYTES);
		GPU_MUST(g, stream_create, &l->stream[w], CU_STREAM_NO_NULL_SYNC);
		GPU_MUST(g, event_create, &l->begin[w], 0);
		GPU_MUST(g, event_create, &l->end[w], 0);
	}
}

static void lane_free(struct lane *l)
{
	for (int w = 0; w < WAYS; w++) {
		GPU_MUST(l->g, event_destroy, l->begin[w]);
		GPU_MUST(l->g, event_destroy, l->end[w]);
		GPU_MUST(l->g, stream_destroy, l->stream[w]);
		GPU_MUST(l->g, mem_free, l->device[w]);
		GPU_MUST(l->g, mem_free_host, l->host[w]);
	}
}

static void copy(struct lane *l, int w, uint64_t bytes)
{
	if (w == UP)
		GPU_MUST(l->g, memcpy_htod_async, l->device[w], l->host[w], bytes, l->stream[w]);
	else
		GPU_MUST(l->g, memcpy_dtoh_async, l->host[w], l->device[w], bytes, l->stream[w]);
}

/* Blocks each way of `ways`, side by side; the best of some runs, by the device's own clock. */
static void measure(struct lane *l, unsigned ways, uint64_t rate[WAYS])
{
	for (int run = 0; run < RUNS; run++) {
		for (int w = 0; w < WAYS; w++)
			if (ways >> w & 1)
				GPU_MUST(l->g, event_record, l->begin[w], l->stream[w]);
		for (int i = 0; i < BLOCKS; i++)
			for (int w = 0; w < WAYS; w++)
				if (ways >> w & 1)
					copy(l, w, BLOCK_BYTES);
		for (int w = 0; w < WAYS; w++)
			if (ways >> w & 1)
				GPU_MUST(l->g, event_record, l->end[w], l->stream[w]);
		for (int w = 0; w < WAYS; w++) {
			float ms = 0;
			if (!(ways >> w & 1))
				continue;
			GPU_MUST(l->g, event_synchronize, l->end[w]);
			GPU_MUST(l->g, event_elapsed_time, &ms, l->begin[w], l->end[w]);
			double s = ms > 0.0005f ? (double)ms / 1e3 : 5e-7; /* an event's resolution */
			rate[w] = MAX(rate[w], (uint64_t)((double)(BLOCK_BYTES * BLOCKS) / s));
		}
	}
}

static void measure_small(struct lane *l, struct link_rates *out)
{
	uint64_t asking = 0, began = bench_now_ns();
	for (int i = 0; i < SMALL_COPIES; i++) {
		uint64_t t = bench_now_ns();
		copy(l, UP, SMALL_BYTES);
		GPU_MUST(l->g, event_record, l->end[UP], l->stream[UP]);
		asking += bench_now_ns() - t;
		GPU_MUST(l->g, event_synchronize, l->end[UP]);
	}
	uint64_t each = (bench_now_ns() - began) / SMALL_COPIES;
	out->submit_ns = asking / SMALL_COPIES;
	out->overhead_ns = each > out->submit_ns ? each - out->submit_ns : 0;
}

void link_rates(const struct gpu *g, struct link_rates *out)
{
	struct lane l;
	uint64_t both[WAYS] = {0};
	*out = (struct link_rates){0};
	lane_new(&l, g);
	measure(&l, 1u << UP, out->bytes_per_s);
	measure(&l, 1u << DOWN, out->bytes_per_s);
	measure(&l, 1u << UP | 1u << DOWN, both);
	for (int w = 0; w < WAYS; w++)
		out->duplex[w] = (uint32_t)MIN(MAX(both[w] * 1000 / out->bytes_per_s[w], 100u), 1000u);
	measure_small(&l, out);
	lane_free(&l);
}
