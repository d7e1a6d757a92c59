/* kernel.c - modules, launches, and the kernel of the digests of chunks (mrm/gpu/kernel), done by the CPU.
 * Keeps: a module ends with its context or before; a launch is checked before anything is queued, and what the pieces point
 * to when its turn comes: there a bad pointer is the sticky error it is on a device. */
#include "mrm/gpu/kernel/ptx.h"
#include "tools/simcuda/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define THREADS_PER_PIECE (HASH_KERNEL_THREADS / HASH_KERNEL_PIECES)
#define BLOCK_MAX 1024
#define FUNCTIONS (1 + KERNEL_RUN_COUNT) /* the digests', then those of trims-run */

struct function {
	struct module *module;
	uint64_t handle; /* 0: nobody asked for it */
	bool there;      /* in the module's text */
};

struct module {
	struct list node; /* of its context */
	struct cu_context_object *ctx;
	uint64_t handle;
	struct function functions[FUNCTIONS];
};

static const char *name_of(unsigned function)
{
	return function ? kernel_run_entry(function - 1) : HASH_KERNEL;
}

static void module_end(struct module *m)
{
	if (m->handle)
		handle_end(HANDLE_MODULE, m->handle);
	for (unsigned i = 0; i < FUNCTIONS; i++)
		if (m->functions[i].handle)
			handle_end(HANDLE_FUNCTION, m->functions[i].handle);
	list_del(&m->node);
	free(m);
}

void kernel_end_modules(struct cu_context_object *ctx)
{
	while (!list_empty(&ctx->modules))
		module_end(list_first(&ctx->modules, struct module, node));
}

/* Whether the text has any of the functions that are known here. */
static bool find_functions(struct module *m, const char *text)
{
	bool any = false;

	for (unsigned i = 0; i < FUNCTIONS; i++) {
		char entry[64];

		snprintf(entry, sizeof entry, ".entry %s(", name_of(i));
		m->functions[i] = (struct function){.module = m, .there = strstr(text, entry) != NULL};
		any = any || m->functions[i].there;
	}
	return any;
}

EXPORT cu_result cuModuleLoadData(cu_module *module, const void *image)
{
	struct module *m;
	bool known;

	ENTER(module_load_data, NEEDS_CONTEXT);
	if (!module || !image)
		return CU_E_INVALID_VALUE;
	m = calloc(1, sizeof *m);
	if (!m)
		return CU_E_OUT_OF_MEMORY;
	m->ctx = call.ctx;
	list_add_tail(&m->node, &m->ctx->modules);
	known = find_functions(m, image);
	m->handle = known ? handle_new(HANDLE_MODULE, m) : 0;
	if (!m->handle) {
		module_end(m);
		return known ? CU_E_OUT_OF_MEMORY : CU_E_NOT_SUPPORTED;
	}
	*module = (cu_module)(uintptr_t)m->handle;
	return CU_OK;
}

EXPORT cu_result cuModuleGetFunction(cu_function *function, cu_module module, const char *name)
{
	struct function *f = NULL;
	struct module *m;

	ENTER(module_get_function, NEEDS_CONTEXT);
	if (!function || !name)
		return CU_E_INVALID_VALUE;
	m = handle_get(HANDLE_MODULE, (uint64_t)(uintptr_t)module);
	if (!m)
		return CU_E_INVALID_HANDLE;
	for (unsigned i = 0; i < FUNCTIONS && !f; i++)
		if (m->functions[i].there && !strcmp(name, name_of(i)))
			f = &m->functions[i];
	if (!f)
		return CU_E_NOT_FOUND;
	f->handle = f->handle ? f->handle : handle_new(HANDLE_FUNCTION, f);
	*function = (cu_function)(uintptr_t)f->handle;
	return f->handle ? CU_OK : CU_E_OUT_OF_MEMORY;
}

EXPORT cu_result cuModuleUnload(cu_module module)
{
	struct module *m;

	ENTER(module_unload, NEEDS_CONTEXT);
	m = handle_get(HANDLE_MODULE, (uint64_t)(uintptr_t)module);
	if (!m)
		return CU_E_INVALID_HANDLE;
	module_end(m);
	return CU_OK;
}

/* A block holds whole warps, and the grid has a group of threads for every piece: else some would never be hashed. */
static bool is_enough(const unsigned grid[3], const unsigned block[3], uint32_t n)
{
	uint64_t threads = (uint64_t)grid[0] * block[0];

	return grid[0] && grid[1] == 1 && grid[2] == 1 && block[0] && block[0] <= BLOCK_MAX && block[0] % 32 == 0 &&
		block[1] == 1 && block[2] == 1 && threads >= (uint64_t)n * THREADS_PER_PIECE;
}

static cu_result push_hash(struct cu_stream_object *s, const unsigned grid[3], const unsigned block[3], void **arguments)
{
	struct op *op;

	if (!is_enough(grid, block, *(uint32_t *)arguments[1]))
		return CU_E_INVALID_VALUE;
	op = op_new(OP_HASH, CALL_launch_kernel);
	if (op) {
		op->from = *(cu_ptr *)arguments[0];
		op->bytes = *(uint32_t *)arguments[1];
		op->to = *(cu_ptr *)arguments[2];
	}
	return stream_push(s, op);
}

EXPORT cu_result cuLaunchKernel(cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
	unsigned block_y, unsigned block_z, unsigned shared_bytes, cu_stream stream, void **arguments, void **extra)
{
	const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
	struct cu_stream_object *s;
	struct function *f;
	cu_result r;

	ENTER(launch_kernel, NEEDS_CONTEXT);
	f = handle_get(HANDLE_FUNCTION, (uint64_t)(uintptr_t)function);
	if (!f)
		return CU_E_INVALID_HANDLE;
	r = stream_of(call.ctx, stream, &s);
	if (r)
		return r;
	if (s->ctx != f->module->ctx)
		return CU_E_INVALID_CONTEXT;
	if (s->ctx->device != call.ctx->device) /* copies may be given to streams of other devices, kernels not */
		return CU_E_INVALID_HANDLE;
	if (extra || shared_bytes)
		return CU_E_NOT_SUPPORTED;
	if (!arguments)
		return CU_E_INVALID_VALUE;
	if (f == f->module->functions)
		return push_hash(s, grid, block, arguments);
	return kernel_run_push(s, (unsigned)(f - f->module->functions) - 1, grid, block, arguments[0]);
}

/* What the kernel may assume of a piece (ptx.h); a device would compute something else without a word. */
static bool is_as_agreed(const struct hash_piece *p)
{
	bool good = p->at % 256 == 0 && p->bytes % 64 == 0 && p->bytes > 240;

	if (!good)
		sim_say("%s: a piece at %#" PRIx64 " of %" PRIu64 " bytes", HASH_KERNEL, p->at, p->bytes);
	return good;
}

static cu_result hash_piece(const struct sim_device *d, const struct hash_piece *p, struct hash_result *out)
{
	XXH128_hash_t h;

	if (!is_as_agreed(p))
		return CU_E_MISALIGNED_ADDRESS;
	if (!range_reach(d, p->at, p->bytes, false))
		return CU_E_ILLEGAL_ADDRESS;
	range_pin(p->at, p->bytes);
	pthread_mutex_unlock(&sim.lock);
	h = XXH3_128bits(range_cpu(p->at), p->bytes);
	pthread_mutex_lock(&sim.lock);
	range_unpin(p->at, p->bytes);
	*out = (struct hash_result){.hi = h.high64, .lo = h.low64};
	return CU_OK;
}

cu_result kernel_hash(struct cu_stream_object *s, const struct op *op)
{
	const struct sim_device *d = s->ctx->device;
	size_t pieces_bytes = op->bytes * sizeof(struct hash_piece), results_bytes = op->bytes * sizeof(struct hash_result);
	cu_result r = CU_OK;

	if (!op->bytes)
		return CU_OK;
	if (!range_reach(d, op->from, pieces_bytes, false) || !range_reach(d, op->to, results_bytes, true))
		return CU_E_ILLEGAL_ADDRESS;
	range_pin(op->from, pieces_bytes);
	range_pin(op->to, results_bytes);
	for (size_t i = 0; i < op->bytes && !r; i++)
		r = hash_piece(d, (const struct hash_piece *)range_cpu(op->from) + i,
			(struct hash_result *)range_cpu(op->to) + i);
	range_unpin(op->from, pieces_bytes);
	range_unpin(op->to, results_bytes);
	return r;
}
