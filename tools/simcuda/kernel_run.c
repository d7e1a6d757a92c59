/* kernel_run.c - the kernels of trims-run's CUDA backend (tools/run), done by the CPU: their own arithmetic
 * (kernels_core.h), lane by lane, and the same trees where lanes' parts are added up.
 * Keeps: a launch says which memory each kernel reads and writes, as a device would find out. */
#include "tools/run/kernels_core.h"
#include "tools/simcuda/sim.h"

#include <string.h>

struct launch {
	enum kernel kernel;
	uint32_t lanes; /* of a row, in all its blocks */
	union {
		struct kernel_rows all;
#define KERNEL(name, kind) struct kernel_##name name;
#include "tools/run/kernels.def"
#undef KERNEL
	} a;
};

/* ---- what each touches ---- */

struct spans {
	struct simcuda_span *v;
	unsigned n;
};

/* `pointer` is the address of a field of the launch; a null pointer in it means nothing is touched. */
static void touch(struct spans *s, void *pointer, uint64_t items, size_t each, bool writes)
{
	void *at;

	memcpy(&at, pointer, sizeof at);
	if (at && items)
		s->v[s->n++] = (struct simcuda_span){.pointer = pointer, .bytes = items * each, .writes = writes};
}

static void reads(struct spans *s, void *pointer, uint64_t floats)
{
	touch(s, pointer, floats, sizeof(float), false);
}

static void writes(struct spans *s, void *pointer, uint64_t floats)
{
	touch(s, pointer, floats, sizeof(float), true);
}

static void weighs(struct spans *s, struct kernel_weight *w, uint64_t items)
{
	touch(s, &w->data, items, w->dtype == KERNEL_F32 ? 4 : 2, false);
}

static void touch_embed(struct kernel_embed *a, struct spans *s)
{
	weighs(s, &a->table, a->table_rows * a->all.width);
	touch(s, &a->index, a->all.rows, sizeof *a->index, false);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_widen(struct kernel_widen *a, struct spans *s)
{
	weighs(s, &a->from, a->all.rows * a->all.width);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_finish(struct kernel_finish *a, struct spans *s)
{
	uint64_t floats = (a->all.rows - 1) * a->stride + a->column + a->all.width;

	weighs(s, &a->bias, a->all.width);
	reads(s, &a->x2, floats);
	writes(s, &a->y, floats);
}

static void touch_channel(struct kernel_channel *a, struct spans *s)
{
	weighs(s, &a->scale, a->channels);
	weighs(s, &a->shift, a->channels);
	weighs(s, &a->mean, a->channels);
	weighs(s, &a->variance, a->channels);
	reads(s, &a->x2, a->all.rows * a->all.width);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_cache(struct kernel_cache *a, struct spans *s)
{
	uint64_t floats = a->all.rows / a->tokens * a->room * a->all.width;

	reads(s, &a->x, a->all.rows * 3 * a->all.width);
	writes(s, &a->k, floats);
	writes(s, &a->v, floats);
}

static void touch_maxpool(struct kernel_maxpool *a, struct spans *s)
{
	reads(s, &a->x, a->all.rows * a->h * a->w);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_pick(struct kernel_pick *a, struct spans *s)
{
	reads(s, &a->x, a->all.rows * a->tokens * a->all.width);
	touch(s, &a->lengths, a->all.rows, sizeof *a->lengths, false);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_mean(struct kernel_mean *a, struct spans *s)
{
	reads(s, &a->x, a->all.rows * a->tokens * a->all.width);
	touch(s, &a->lengths, a->all.rows, sizeof *a->lengths, false);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_norm(struct kernel_norm *a, struct spans *s)
{
	weighs(s, &a->scale, a->all.width);
	weighs(s, &a->shift, a->all.width);
	reads(s, &a->x, a->all.rows * a->all.width);
	reads(s, &a->x2, a->all.rows * a->all.width);
	writes(s, &a->y, a->all.rows * a->all.width);
}

static void touch_softmax(struct kernel_softmax *a, struct spans *s)
{
	touch(s, &a->lengths, a->all.rows / a->queries / a->heads, sizeof *a->lengths, false);
	writes(s, &a->scores, a->all.rows * a->all.width);
}

static void touch_avgpool(struct kernel_avgpool *a, struct spans *s)
{
	reads(s, &a->x, a->all.rows * a->all.width);
	writes(s, &a->y, a->all.rows);
}

static void touch_unit(struct kernel_unit *a, struct spans *s)
{
	reads(s, &a->x, a->all.rows * a->all.width);
	writes(s, &a->y, a->all.rows * a->all.width);
}

/* ---- what each does ---- */

#define EACH_LANE for (uint32_t lane = 0; lane < KERNEL_LANES; lane++)
#define EACH_ROW(a) for (uint64_t row = 0; row < (a)->all.rows; row++)

static float sum_of(float part[KERNEL_LANES])
{
	for (uint32_t half = KERNEL_LANES / 2; half; half /= 2)
		for (uint32_t lane = 0; lane < half; lane++)
			part[lane] += part[lane + half];
	return part[0];
}

static float top_of(float part[KERNEL_LANES])
{
	EACH_LANE part[0] = fmaxf(part[0], part[lane]);
	return part[0];
}

static void do_norm(const struct kernel_norm *a, uint32_t lanes)
{
	float part[KERNEL_LANES];

	EACH_ROW(a) {
		EACH_LANE part[lane] = kernel_norm_sum(a, row, lane);
		float mean = sum_of(part) / (float)a->all.width;
		EACH_LANE part[lane] = kernel_norm_spread(a, row, lane, mean);
		float spread = sum_of(part);
		EACH_LANE kernel_norm_write(a, row, lane, mean, spread);
	}
}

static void do_softmax(const struct kernel_softmax *a, uint32_t lanes)
{
	float part[KERNEL_LANES];

	EACH_ROW(a) {
		EACH_LANE part[lane] = kernel_softmax_top(a, row, lane);
		float top = top_of(part);
		EACH_LANE part[lane] = kernel_softmax_sum(a, row, lane, top);
		float sum = sum_of(part);
		EACH_LANE kernel_softmax_write(a, row, lane, sum);
	}
}

static void do_avgpool(const struct kernel_avgpool *a, uint32_t lanes)
{
	float part[KERNEL_LANES];

	EACH_ROW(a) {
		EACH_LANE part[lane] = kernel_avgpool_sum(a, row, lane);
		a->y[row] = sum_of(part) / (float)a->all.width;
	}
}

static void do_unit(const struct kernel_unit *a, uint32_t lanes)
{
	float part[KERNEL_LANES];

	EACH_ROW(a) {
		EACH_LANE part[lane] = kernel_unit_sum(a, row, lane);
		float sum = sum_of(part);
		EACH_LANE kernel_unit_write(a, row, lane, sum);
	}
}

#define SPREAD(name)                                                                                                  \
	static void do_##name(const struct kernel_##name *a, uint32_t lanes)                                          \
	{                                                                                                             \
		EACH_ROW(a)                                                                                           \
			for (uint32_t lane = 0; lane < lanes; lane++)                                                 \
				kernel_##name##_lane(a, row, lane, lanes);                                            \
	}
#define WHOLE(name)
#define KERNEL(name, kind) kind(name)
#include "tools/run/kernels.def"
#undef KERNEL
#undef SPREAD
#undef WHOLE

static unsigned launch_spans(void *data, struct simcuda_span *v)
{
	struct launch *l = data;
	struct spans s = {v, 0};

	switch (l->kernel) {
#define KERNEL(name, kind)                                                                                            \
	case KERNEL_##name:                                                                                           \
		touch_##name(&l->a.name, &s);                                                                         \
		break;
#include "tools/run/kernels.def"
#undef KERNEL
	case KERNEL_COUNT:
		break;
	}
	return s.n;
}

static void launch_run(void *data)
{
	const struct launch *l = data;

	switch (l->kernel) {
#define KERNEL(name, kind)                                                                                            \
	case KERNEL_##name:                                                                                           \
		do_##name(&l->a.name, l->lanes);                                                                      \
		break;
#include "tools/run/kernels.def"
#undef KERNEL
	case KERNEL_COUNT:
		break;
	}
}

/* ---- launches ---- */

static const struct {
	const char *entry;
	size_t bytes;
	bool spread;
} kernels[] = {
#define SPREAD true
#define WHOLE false
#define KERNEL(name, kind) {KERNEL_PREFIX #name, sizeof(struct kernel_##name), kind},
#include "tools/run/kernels.def"
#undef KERNEL
#undef SPREAD
#undef WHOLE
};
_Static_assert(KERNEL_COUNT == KERNEL_RUN_COUNT, "sim.h counts them");

const char *kernel_run_entry(unsigned k)
{
	return kernels[k].entry;
}

cu_result kernel_run_push(struct cu_stream_object *s, unsigned k, const unsigned grid[3], const unsigned block[3],
	const void *arguments)
{
	static const struct simcuda_work kind = {launch_spans, launch_run};
	struct launch l = {.kernel = (enum kernel)k, .lanes = grid[1] * KERNEL_LANES};

	if (block[0] != KERNEL_LANES || block[1] != 1 || block[2] != 1 || !grid[0] || !grid[1] || grid[2] != 1 ||
		(grid[1] != 1 && !kernels[k].spread))
		return CU_E_INVALID_VALUE;
	memcpy(&l.a, arguments, kernels[k].bytes);
	return work_push(s, CALL_launch_kernel, &kind, &l, sizeof l);
}
