/* gpu_model.c - an open model on a GPU; see gpu.h.
 * Keeps: private copies are freed in the context they were made in, and memory is unmapped, before the lease goes back. */
#include "client/gpu.h"

#include "client/fail.h"
#include "shared/own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct private_copy {
	struct private_copy *next;
	uint32_t index;
	cu_ptr at;
	cu_context ctx;
};

int gpu_attach(trims_conn *c, const char *device, uint64_t deadline, struct conn_life *life)
{
	struct gpu_session *s = NULL;
	int r = gpu_session_get(c, device, deadline, &s);
	if (r < 0)
		return r;
	gpu_session_life(s, life);
	gpu_session_put(&s);
	return 0;
}

/* ---- opening and closing ---- */

static void find_out_who_waits(struct model_gpu *g)
{
	struct gpu_scope scope = {0};
	g->stream_wait = TRIMS_STREAM_WAIT_CPU;
	if (g->slot == GPU_SLOT_NONE)
		g->why = "the session page has no slot left for this model";
	else if (gpu_enter(gpu_session_driver(g->session), g->device, &scope) < 0)
		g->why = "the device has no context";
	else if (gpu_session_can_wait(g->session, &scope, &g->why)) {
		g->stream_wait = TRIMS_STREAM_WAIT_GPU;
		g->why = NULL;
	}
	gpu_leave(&scope);
}

static int map(trims_model *m, struct msg_opened *o, uint64_t deadline)
{
	struct model_gpu *g = m->gpu;
	struct gpu_driver *d = gpu_session_driver(g->session);
	OWN_MEM struct gpu_handle *handles = NULL;
	struct gpu_source from = {.driver = d, .device = gpu_driver_find(d, o->device), .kind = o->export,
		.fds = o->fds.fd + 3};
	if (!from.device || o->fds.n < 3 || o->export < GPU_HANDLE_VMM_FD || o->export > GPU_HANDLE_MEMORY_FILE)
		return fail(TRIMS_E_PROTOCOL, "the daemon opened a model on device \"%s\" with %u handles of kind %u", o->device,
			o->fds.n, o->export);
	int r = gpu_records_read(o->fds.fd[2], o->export, o->fds.n - 3, &handles, &from.n);
	if (r < 0)
		return r;
	if (o->slot != GPU_SLOT_NONE && !gpu_session_has_slots(g->session, o->slot, from.n))
		return fail(TRIMS_E_PROTOCOL, "the session page has no slot %u", o->slot);
	from.handles = handles;
	g->device = from.device;
	g->kind = o->export;
	g->slot = o->slot;
	r = gpu_session_try(m->conn, g->session, from.device, deadline);
	return r < 0 ? r : gpu_memory_get(&m->lease.life, o->copy, &from, &g->memory);
}

int gpu_open(trims_model *m, struct msg_opened *o, uint64_t deadline)
{
	struct model_gpu *g = m->gpu = calloc(1, sizeof *g);
	int r = g ? 0 : fail(TRIMS_E_NO_MEMORY, "no memory for a model");
	if (g) {
		pthread_mutex_init(&g->lock, NULL);
		gpu_session_peek(m->conn, &g->session);
		r = g->session ? map(m, o, deadline) : fail(TRIMS_E_PROTOCOL, "the daemon opened a model on a GPU unasked");
	}
	if (o->fds.n > 2) { /* what they stand for is mapped, or will not be */
		msg_close_fds(o->fds.fd + 2, o->fds.n - 2);
		o->fds.n = 2;
	}
	if (r == 0 && !m->hit)
		find_out_who_waits(g);
	return r;
}

static void free_private(struct gpu_driver *d, struct private_copy *p)
{
	struct gpu_scope scope = {0};
	if (gpu_enter_to_undo(d, p->ctx, &scope))
		GPU_UNDO(d->cu->mem_free(p->at)); /* else it went with its context */
	gpu_leave(&scope);
	free(p);
}

void gpu_close(trims_model *m)
{
	struct model_gpu *g = m->gpu;
	if (!g)
		return;
	gpu_dha_close(m);
	m->gpu = NULL;
	while (g->privates) {
		struct private_copy *p = g->privates;
		g->privates = p->next;
		free_private(gpu_session_driver(g->session), p);
	}
	gpu_memory_put(&g->memory);
	gpu_session_put(&g->session);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

/* ---- asking ---- */

int gpu_address(trims_model *m, const struct tensor_place *place, struct trims_tensor *out)
{
	cu_ptr at;
	const char *cpu;
	uint32_t where = gpu_dha_at(m, place, &at, &cpu);
	if (where == TRIMS_PLACE_LOCAL &&
		!gpu_memory_at(m->gpu->memory, place->extent, place->offset, place->end ? place->end - place->offset : 0, &at))
		return fail(TRIMS_E_PROTOCOL, "copy %llu: extent %u is shorter than the tensor table says",
			(unsigned long long)m->copy, place->extent);
	int r = gpu_owner_gone(m);
	if (r < 0)
		return r;
	out->data = (const void *)(uintptr_t)at;
	out->place = where;
	return 0;
}

/* Where this process sees a tensor that is on the host; NULL: it is not. */
static const char *on_host(trims_model *m, uint32_t index)
{
	struct tensor_place place;
	cu_ptr at;
	const char *cpu;
	return m->gpu->dha && model_tensor_place(m, index, &place) == 0 &&
		gpu_dha_at(m, &place, &at, &cpu) != TRIMS_PLACE_LOCAL ? cpu : NULL;
}

int gpu_read(trims_model *m, const struct trims_tensor *t, uint64_t offset, void *to, size_t bytes)
{
	struct gpu_driver *d = gpu_session_driver(m->gpu->session);
	struct gpu_scope scope = {0};
	const char *cpu = on_host(m, t->index);
	if (cpu) {
		memcpy(to, cpu + offset, bytes);
		return 0;
	}
	int r = gpu_enter(d, m->gpu->device, &scope);
	if (r == 0)
		r = gpu_copy_to_host(d, to, (uintptr_t)t->data + offset, bytes);
	gpu_leave(&scope);
	return r;
}

void gpu_info(trims_model *m, struct trims_info *info)
{
	struct model_gpu *g = m->gpu;
	struct progress_page *page;
	if (mapping_progress(m->mapping, &page) == 0)
		info->helper_bytes = atomic_load_explicit(&page->helper_bytes, memory_order_relaxed);
	info->export_kind = g->kind;
	info->stream_wait = g->stream_wait;
	info->simulated = gpu_session_driver(g->session)->cu->simulated;
	snprintf(info->device, sizeof info->device, "%s", g->device->uuid);
	if (g->why)
		snprintf(info->note, sizeof info->note, "wait-on-cpu: %s", g->why);
	gpu_dha_info(m, info);
}

bool gpu_next(trims_model *m, const struct tensor_place *place, struct gpu_need *need)
{
	return gpu_memory_next(m->gpu->memory, place, need);
}

uint32_t gpu_pieces(const trims_model *m)
{
	return gpu_memory_pieces(m->gpu->memory);
}

const char *gpu_uuid(const trims_model *m)
{
	return m->gpu->device->uuid;
}

int gpu_owner_gone(trims_model *m)
{
	if (m->gpu->kind != GPU_HANDLE_CUDA_IPC || !gpu_session_is_over(m->gpu->session))
		return 0;
	return fail(TRIMS_E_DISCONNECTED, "the connection is gone, and with it memory that is shared by CUDA IPC: its addresses "
		"must not be used any more");
}

/* ---- waiting ---- */

/* Inside the stream's scope. */
static int wait_on_page(trims_model *m, const struct tensor_place *place, cu_stream stream)
{
	struct model_gpu *g = m->gpu;
	int r = 0;
	for (struct gpu_need need = {0}; r == 0 && gpu_memory_next(g->memory, place, &need);)
		r = gpu_session_wait(g->session, stream, g->slot + need.piece, need.bytes);
	return r;
}

/* A wait that is captured is waited for at each launch of the graph, when its slot may long be another model's. */
static int check_capture(const struct gpu_driver *d, cu_stream stream)
{
	cu_capture_status status = CU_CAPTURE_NONE;
	cu_result e = d->cu->stream_is_capturing(stream, &status);
	if (e)
		return gpu_failed(d, e, "cuStreamIsCapturing");
	return status == CU_CAPTURE_NONE ? 0 : fail(TRIMS_E_BAD_REQUEST, "the stream is being captured, and a graph would wait for "
		"these bytes at every launch: wait before the capture begins");
}

/* 1: the stream waits; 0: it cannot. */
static int stream_waits(trims_model *m, const struct tensor_place *place, cu_stream stream)
{
	struct model_gpu *g = m->gpu;
	struct gpu_scope scope = {0};
	const char *why;
	if (g->stream_wait != TRIMS_STREAM_WAIT_GPU)
		return 0;
	int r = gpu_enter_stream(gpu_session_driver(g->session), g->device, stream, &scope);
	if (r == 0)
		r = check_capture(gpu_session_driver(g->session), stream);
	if (r == 0)
		r = gpu_session_can_wait(g->session, &scope, &why);
	if (r == 1) {
		int e = wait_on_page(m, place, stream);
		r = e < 0 ? e : 1;
	}
	gpu_leave(&scope);
	return r;
}

int trims_wait_stream(trims_model *m, uint32_t index, void *cu_stream_)
{
	struct tensor_place at, *place = index == TRIMS_ALL_TENSORS ? NULL : &at;
	if (!m->gpu)
		return fail(TRIMS_E_BAD_REQUEST, "the model is not on a GPU");
	int r = place ? model_tensor_place(m, index, place) : 0;
	/* No slot counts what arrives on the host: for that the call waits. */
	if (r == 0 && (!place || gpu_dha_has(m, place)))
		r = gpu_dha_wait(m, place, CONN_NEVER);
	if (r < 0 || (r = model_look(m, place)) != 0)
		return MIN(r, 0);
	if ((r = conn_alive(m->conn, model_lease(m).life.epoch)) < 0)
		return r;
	r = stream_waits(m, place, cu_stream_);
	return r == 0 ? model_wait(m, place, CONN_NEVER) : MIN(r, 0);
}

/* ---- private copies ---- */

/* Inside a scope.  from: where it is on the host, or NULL. */
static int copy_private(struct gpu_driver *d, const struct trims_tensor *t, const char *from, cu_ptr *out)
{
	cu_result e = d->cu->mem_alloc(out, MAX(t->bytes, 1u));
	if (e)
		return gpu_failed(d, e, "cuMemAlloc");
	int r = 0;
	if (from)
		r = gpu_copy_to_device(d, *out, from, t->bytes);
	else if (t->bytes)
		r = gpu_copy_on_device(d, *out, (uintptr_t)t->data, t->bytes);
	if (r < 0)
		GPU_UNDO(d->cu->mem_free(*out));
	return r;
}

static int make_private(trims_model *m, const struct trims_tensor *t, struct private_copy *p)
{
	struct gpu_driver *d = gpu_session_driver(m->gpu->session);
	struct gpu_scope scope = {0};
	int r = gpu_enter(d, m->gpu->device, &scope);
	p->index = t->index;
	p->ctx = scope.ctx;
	if (r == 0)
		r = copy_private(d, t, on_host(m, t->index), &p->at);
	gpu_leave(&scope);
	return r;
}

static int add_private(trims_model *m, const struct trims_tensor *t, struct private_copy **out)
{
	struct private_copy *p = calloc(1, sizeof *p);
	int r = p ? make_private(m, t, p) : fail(TRIMS_E_NO_MEMORY, "no memory for a private copy");
	if (r < 0) {
		free(p);
		return r;
	}
	p->next = m->gpu->privates;
	*out = m->gpu->privates = p;
	return 0;
}

int trims_private(trims_model *m, uint32_t index, void **device_address)
{
	struct model_gpu *g = m->gpu;
	struct trims_tensor t;
	if (!g)
		return fail(TRIMS_E_BAD_REQUEST, "the model is not on a GPU");
	int r = trims_tensor(m, index, &t);
	if (r < 0 || (r = trims_wait_tensor(m, index, TRIMS_FOREVER)) < 0)
		return r;
	pthread_mutex_lock(&g->lock);
	struct private_copy *p = g->privates;
	while (p && p->index != index)
		p = p->next;
	if (!p)
		r = add_private(m, &t, &p);
	if (r == 0)
		*device_address = (void *)(uintptr_t)p->at;
	pthread_mutex_unlock(&g->lock);
	return r;
}
