/* kernels.cu - what the CUDA backend of trims-run has no library for: everything between products.
 * The arithmetic is kernels_core.h; here are the threads, and the trees that lanes' parts are added up in: always the same
 * ones, so results are the same to the bit.  kernels.ptx is made from this by tools/ptx.py, so that neither building nor
 * running trims wants a toolkit. */
#include "tools/run/kernels_core.h"

/* All lanes' parts in one: a tree of halves.  Every lane gets the result; `part` is free again on return. */
template <typename F> static __device__ float together(float mine, float *part, F join)
{
	part[threadIdx.x] = mine;
	__syncthreads();
	for (uint32_t half = KERNEL_LANES / 2; half; half /= 2) {
		if (threadIdx.x < half)
			part[threadIdx.x] = join(part[threadIdx.x], part[threadIdx.x + half]);
		__syncthreads();
	}
	float all = part[0];
	__syncthreads();
	return all;
}

static __device__ float sum_of(float mine, float *part)
{
	return together(mine, part, [](float a, float b) { return a + b; });
}

static __device__ float top_of(float mine, float *part)
{
	return together(mine, part, [](float a, float b) { return fmaxf(a, b); });
}

#define ENTRY(name) extern "C" __global__ void __launch_bounds__(KERNEL_LANES) trims_run_##name(const struct kernel_##name a)
#define EACH_ROW for (uint64_t row = blockIdx.x; row < a.all.rows; row += gridDim.x)
#define SPREAD(name)                                                                                                          \
	ENTRY(name)                                                                                                           \
	{                                                                                                                     \
		EACH_ROW kernel_##name##_lane(&a, row, blockIdx.y *KERNEL_LANES + threadIdx.x, gridDim.y *KERNEL_LANES);      \
	}
#define WHOLE(name)
#define KERNEL(name, kind) kind(name)
#include "tools/run/kernels.def"

ENTRY(norm)
{
	__shared__ float part[KERNEL_LANES];
	EACH_ROW {
		float mean = sum_of(kernel_norm_sum(&a, row, threadIdx.x), part) / (float)a.all.width;
		float spread = sum_of(kernel_norm_spread(&a, row, threadIdx.x, mean), part);
		kernel_norm_write(&a, row, threadIdx.x, mean, spread);
	}
}

ENTRY(softmax)
{
	__shared__ float part[KERNEL_LANES];
	EACH_ROW {
		float top = top_of(kernel_softmax_top(&a, row, threadIdx.x), part);
		kernel_softmax_write(&a, row, threadIdx.x, sum_of(kernel_softmax_sum(&a, row, threadIdx.x, top), part));
	}
}

ENTRY(avgpool)
{
	__shared__ float part[KERNEL_LANES];
	EACH_ROW {
		float sum = sum_of(kernel_avgpool_sum(&a, row, threadIdx.x), part);
		if (threadIdx.x == 0)
			a.y[row] = sum / (float)a.all.width;
	}
}

ENTRY(unit)
{
	__shared__ float part[KERNEL_LANES];
	EACH_ROW kernel_unit_write(&a, row, threadIdx.x, sum_of(kernel_unit_sum(&a, row, threadIdx.x), part));
}
