/* gpu_dha.c - direct host access: tensors of a model on a GPU that a plan left out of the device's memory; see gpu.h.
 *
 * They are read where the host tier has them, under a lease of its own on the same version of the model.  Their bytes in the
 * host's extents make runs of whole pages, since pages are what is registered.  Each run is, in this order,
 *   registered  with the driver for reading, so that kernels read it over the link; runs that several models share are
 *               registered once in a process: a driver refuses pages that it has
 *   beside      in memory that the daemon gave for it (numa, then trusted); when that has all of it, complete, no lease on
 *               the host tier is taken
 *   staged      copied to device memory that belongs to this model handle alone, as its bytes come
 * Keeps: runs are ascending and no two share a page; a registration is in `registrations` exactly while refs is above 0; a
 * run's memory on the device goes before the mapping behind it, and that before its lease. */
#include "client/gpu.h"

#include "client/fail.h"
#include "shared/own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096
#define FLAGS (CU_REGISTER_PORTABLE | CU_REGISTER_MAPPED | CU_REGISTER_READ_ONLY)

struct registration {
	struct list node;
	uint32_t refs;
	const char *at;
	uint64_t bytes;
	cu_context ctx;
};

struct run {
	uint32_t extent;
	uint64_t offset, end;  /* in the extent: whole pages */
	uint64_t tensors_end;  /* where the bytes of the last tensor end */
	uint32_t n_tensors;
	uint64_t tensor_bytes;
	uint32_t place;        /* enum trims_place; LOCAL: it is still lacking */
	trims_model *from;     /* whose bytes they are */
	const char *cpu;       /* where its first byte is mapped; NULL: the device alone sees it */
	cu_ptr device;         /* 0: it has no memory yet */
	struct registration *registration; /* NULL: not registered */
	_Atomic uint64_t copied; /* staged: up to where, in the extent */
};

struct gpu_dha {
	trims_model *host;      /* NULL: it is not needed */
	trims_model *beside[2]; /* by GPU_DIRECT_; NULL: none */
	cu_context ctx; /* of what is staged */
	char why[TRIMS_MAX_TEXT]; /* ways that could not be gone */
	uint32_t n, cap;
	struct run *run;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list, and is held while something is registered */
static struct list registrations = {&registrations, &registrations};

/* ---- what is missing ---- */

static struct run *add_run(struct gpu_dha *d)
{
	if (d->n == d->cap) {
		uint32_t cap = d->cap ? 2 * d->cap : 16;
		struct run *grown = reallocarray(d->run, cap, sizeof *grown);
		if (!grown)
			return NULL;
		d->run = grown;
		d->cap = cap;
	}
	return &d->run[d->n++];
}

/* Tensors come in the order of their places, as they do in every table; else two runs could want one page. */
static int add_tensor(struct gpu_dha *d, const struct tensor_place *place)
{
	uint64_t begin = align_down(place->offset, PAGE);
	struct run *r = d->n ? &d->run[d->n - 1] : NULL;
	if (r && (place->extent < r->extent || (place->extent == r->extent && place->offset < r->tensors_end)))
		return fail(TRIMS_E_PROTOCOL, "the daemon's tensor table is not in the order of the image");
	if (!r || r->extent != place->extent || r->end < begin) {
		if (!(r = add_run(d)))
			return fail(TRIMS_E_NO_MEMORY, "no memory for what is read from the host");
		*r = (struct run){.extent = place->extent, .offset = begin, .copied = begin};
	}
	r->tensors_end = place->end;
	r->end = align_up(place->end, PAGE);
	r->n_tensors++;
	r->tensor_bytes += place->end - place->offset;
	return 0;
}

static int find_missing(trims_model *m, struct gpu_dha *d)
{
	uint32_t n;
	cu_ptr at;
	int r = trims_tensor_count(m, &n);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		struct tensor_place place;
		r = model_tensor_place(m, i, &place);
		if (r == 0 && place.end && !gpu_memory_at(m->gpu->memory, place.extent, place.offset, place.end - place.offset, &at))
			r = add_tensor(d, &place);
	}
	return r;
}

static void dha_free(struct gpu_dha **p)
{
	struct gpu_dha *d = STEAL(*p);
	if (d)
		free(d->run);
	free(d);
}

int gpu_dha_find(trims_model *m)
{
	/* The image's bytes do not fit into less: nothing can be missing, and the table need not be looked at. */
	if (gpu_memory_bytes(m->gpu->memory) >= m->image_bytes)
		return 0;
	OWN(dha_free) struct gpu_dha *d = calloc(1, sizeof *d);
	int r = d ? find_missing(m, d) : fail(TRIMS_E_NO_MEMORY, "no memory for what is read from the host");
	if (r == 0 && d->n)
		m->gpu->dha = STEAL(d);
	return r;
}

/* ---- registering ---- */

static struct registration *find_registration(const struct run *r)
{
	list_for_each(it, &registrations) {
		struct registration *g = list_entry(it, struct registration, node);
		if (g->at == r->cpu && g->bytes == r->end - r->offset)
			return g;
	}
	return NULL;
}

/* Inside a scope.  NULL: *result says why. */
static struct registration *make_registration(const struct gpu_scope *scope, const struct run *r, cu_result *result)
{
	struct registration *g = calloc(1, sizeof *g);
	*result = g ? scope->driver->cu->mem_host_register((void *)r->cpu, r->end - r->offset, FLAGS) : CU_E_OUT_OF_MEMORY;
	if (*result) {
		free(g);
		return NULL;
	}
	*g = (struct registration){.at = r->cpu, .bytes = r->end - r->offset, .ctx = scope->ctx};
	list_add_head(&g->node, &registrations);
	return g;
}

static void add_reason(struct gpu_dha *d)
{
	size_t n = strlen(d->why);
	snprintf(d->why + n, sizeof d->why - n, "%s%s", n ? "; " : "", trims_last_error()->text);
}

static void put_registration(struct gpu_driver *driver, struct registration *g)
{
	struct gpu_scope scope = {0};
	pthread_mutex_lock(&lock);
	if (--g->refs == 0) {
		list_del(&g->node);
		if (gpu_enter_to_undo(driver, g->ctx, &scope))
			GPU_UNDO(driver->cu->mem_host_unregister((void *)g->at)); /* else it went with its context */
		gpu_leave(&scope);
		free(g);
	}
	pthread_mutex_unlock(&lock);
}

/* Inside a scope: 1, or 0 with the reason in d->why. */
static int try_register(struct gpu_dha *d, const struct gpu_scope *scope, struct run *r)
{
	const struct cuda *cu = scope->driver->cu;
	const char *what = "cuMemHostRegister";
	cu_result e = CU_OK;
	pthread_mutex_lock(&lock);
	struct registration *g = find_registration(r);
	if (!g)
		g = make_registration(scope, r, &e);
	if (g)
		g->refs++;
	pthread_mutex_unlock(&lock);
	if (g) {
		what = "cuMemHostGetDevicePointer";
		e = cu->mem_host_get_device_pointer(&r->device, (void *)r->cpu, 0);
	}
	if (e == CU_OK) {
		r->registration = g;
		return 1;
	}
	if (g)
		put_registration(scope->driver, g);
	r->device = 0;
	gpu_failed(scope->driver, e, what);
	add_reason(d);
	return 0;
}

bool gpu_dha_registers(trims_model *m)
{
	int can = 0;
	if (gpu_session_driver(m->gpu->session)->cu->device_get_attribute(&can, CU_ATTR_READ_ONLY_REGISTER,
		m->gpu->device->ordinal) == CU_OK && can)
		return true;
	snprintf(m->gpu->dha->why, sizeof m->gpu->dha->why, "no read-only registration (attribute %d)",
		(int)CU_ATTR_READ_ONLY_REGISTER);
	return false;
}

/* ---- opening and closing ---- */

bool gpu_dha_lacks(const trims_model *m)
{
	const struct gpu_dha *d = m->gpu->dha;
	uint32_t i = 0;
	while (i < d->n && d->run[i].place != TRIMS_PLACE_LOCAL)
		i++;
	return i < d->n;
}

/* Inside a scope. */
static int stage_rest(struct gpu_dha *d, const struct gpu_scope *scope)
{
	d->ctx = scope->ctx;
	for (uint32_t i = 0; i < d->n; i++) {
		struct run *r = &d->run[i];
		if (r->place != TRIMS_PLACE_LOCAL)
			continue;
		cu_result e = scope->driver->cu->mem_alloc(&r->device, r->end - r->offset);
		if (e) {
			r->device = 0;
			return gpu_failed(scope->driver, e, "cuMemAlloc, for tensors that the device cannot read from the host");
		}
		r->place = TRIMS_PLACE_STAGED;
	}
	return 0;
}

/* Where the runs are in this process. */
static int find_runs(struct gpu_dha *d)
{
	const struct mapped_image *im;
	int r = mapping_image(d->host->mapping, &im);
	for (uint32_t i = 0; r == 0 && i < d->n; i++) {
		struct run *run = &d->run[i];
		if (run->extent >= im->n_extents || run->end > im->extents[run->extent].bytes)
			r = fail(TRIMS_E_PROTOCOL, "the daemon's copies of one version on two tiers differ");
		else if (run->place == TRIMS_PLACE_LOCAL) {
			run->cpu = im->extent_at[run->extent] + run->offset;
			run->from = d->host;
		}
	}
	return r;
}

int gpu_dha_register(trims_model *m, trims_model *host)
{
	struct gpu_dha *d = m->gpu->dha;
	struct gpu_scope scope = {0};
	d->host = host;
	int r = find_runs(d);
	if (r < 0 || *d->why) /* it cannot */
		return r;
	r = gpu_enter(gpu_session_driver(m->gpu->session), m->gpu->device, &scope);
	for (uint32_t i = 0; i < d->n && r == 0; i++)
		if (try_register(d, &scope, &d->run[i]))
			d->run[i].place = TRIMS_PLACE_HOST_DIRECT;
	gpu_leave(&scope);
	return r;
}

void gpu_dha_share(trims_model *m, trims_model *beside)
{
	struct gpu_dha *d = m->gpu->dha;
	bool file = beside->gpu && beside->gpu->kind == GPU_HANDLE_MEMORY_FILE;
	if (d->beside[file]) { /* it has been asked what it has */
		trims_close(&beside);
		return;
	}
	d->beside[file] = beside;
	for (uint32_t i = 0; beside->gpu && i < d->n; i++) {
		struct run *r = &d->run[i];
		if (r->place != TRIMS_PLACE_LOCAL || beside->version != m->version ||
			!gpu_memory_at(beside->gpu->memory, r->extent, r->offset, r->tensors_end - r->offset, &r->device))
			continue;
		r->place = file ? TRIMS_PLACE_HOST_TRUSTED : TRIMS_PLACE_HOST_NUMA;
		r->from = beside;
		r->cpu = NULL;
	}
}

void gpu_dha_refused(trims_model *m)
{
	add_reason(m->gpu->dha);
}

static bool all_were_there(const struct gpu_dha *d)
{
	uint32_t i = 0;
	while (i < d->n && d->run[i].from->hit)
		i++;
	return i == d->n;
}

int gpu_dha_finish(trims_model *m)
{
	struct gpu_dha *d = m->gpu->dha;
	struct gpu_scope scope = {0};
	int r = gpu_dha_lacks(m) ? gpu_enter(gpu_session_driver(m->gpu->session), m->gpu->device, &scope) : 0;
	if (r == 0)
		r = stage_rest(d, &scope);
	gpu_leave(&scope);
	if (r == 0 && all_were_there(d))
		r = gpu_dha_wait(m, NULL, 0);
	return r;
}

static void free_staged(struct gpu_driver *driver, struct gpu_dha *d)
{
	struct gpu_scope scope = {0};
	bool there = gpu_enter_to_undo(driver, d->ctx, &scope); /* else it went with its context */
	for (uint32_t i = 0; there && i < d->n; i++)
		if (d->run[i].place == TRIMS_PLACE_STAGED)
			GPU_UNDO(driver->cu->mem_free(d->run[i].device));
	gpu_leave(&scope);
}

void gpu_dha_close(trims_model *m)
{
	struct gpu_dha *d = m->gpu->dha;
	struct gpu_driver *driver = d ? gpu_session_driver(m->gpu->session) : NULL;
	uint64_t staged = 0;
	for (uint32_t i = 0; d && i < d->n; i++) {
		if (d->run[i].registration)
			put_registration(driver, d->run[i].registration);
		else
			staged += d->run[i].place == TRIMS_PLACE_STAGED;
	}
	if (staged)
		free_staged(driver, d);
	for (int i = 0; d && i < 2; i++)
		trims_close(&d->beside[i]);
	if (d)
		trims_close(&d->host);
	dha_free(&m->gpu->dha);
}

/* ---- asking ---- */

/* NULL: it has no bytes, or they are on the device. */
static struct run *find_run(trims_model *m, const struct tensor_place *place)
{
	struct gpu_dha *d = m->gpu ? m->gpu->dha : NULL;
	uint32_t low = 0, high = d && place && place->end ? d->n : 0, last = high;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		struct run *r = &d->run[middle];
		if (r->extent > place->extent || (r->extent == place->extent && r->end > place->offset))
			high = middle;
		else
			low = middle + 1;
	}
	struct run *r = low < last ? &d->run[low] : NULL;
	cu_ptr at;
	/* A tensor beside it in its first or last page may well be on the device. */
	return r && r->extent == place->extent && r->offset <= place->offset && place->end <= r->tensors_end &&
		!gpu_memory_at(m->gpu->memory, place->extent, place->offset, place->end - place->offset, &at) ? r : NULL;
}

bool gpu_dha_has(trims_model *m, const struct tensor_place *place)
{
	return find_run(m, place) != NULL;
}

uint32_t gpu_dha_at(trims_model *m, const struct tensor_place *place, cu_ptr *device, const char **cpu)
{
	struct run *r = find_run(m, place);
	if (!r)
		return TRIMS_PLACE_LOCAL;
	*device = r->device + (place->offset - r->offset);
	*cpu = r->cpu ? r->cpu + (place->offset - r->offset) : NULL;
	return r->place;
}

void gpu_dha_info(trims_model *m, struct trims_info *info)
{
	static const struct {
		uint32_t place;
		const char *name;
		size_t tensors, bytes;
	} ways[] = {
#define WAY(place, name, field) {TRIMS_PLACE_##place, name, offsetof(struct trims_info, field##_tensors), \
	offsetof(struct trims_info, field##_bytes)}
		WAY(HOST_DIRECT, "dha-registered", direct), WAY(HOST_NUMA, "dha-host-numa", numa),
		WAY(HOST_TRUSTED, "dha-trusted", trusted), WAY(STAGED, "dha-staged", staged)};
	struct gpu_dha *d = m->gpu->dha;
	uint32_t last = 0;
	info->device_bytes = gpu_memory_bytes(m->gpu->memory);
	for (uint32_t i = 0; d && i < d->n; i++) {
		const struct run *r = &d->run[i];
		uint32_t w = 0;
		while (ways[w].place != r->place)
			w++;
		*(uint32_t *)((char *)info + ways[w].tensors) += r->n_tensors;
		*(uint64_t *)((char *)info + ways[w].bytes) += r->tensor_bytes;
		last = MAX(last, w);
	}
	if (!d)
		return;
	bool hit = all_were_there(d);
	if (!hit && info->stream_wait == TRIMS_STREAM_WAIT_NONE) {
		info->stream_wait = TRIMS_STREAM_WAIT_CPU;
		snprintf(info->note, sizeof info->note, "wait-on-cpu: no slot counts what arrives on the host");
	}
	info->hit &= hit;
	if (d->host)
		info->leased &= conn_is_alive(m->conn, model_lease(d->host).life.epoch);
	if (last)
		snprintf(info->place_note, sizeof info->place_note, "%s: %.*s", ways[last].name, (int)sizeof info->place_note - 20,
			d->why);
}

/* ---- waiting ---- */

static struct tensor_place whole(const struct run *r)
{
	return (struct tensor_place){.extent = r->extent, .offset = r->offset, .end = r->tensors_end};
}

int gpu_dha_look(trims_model *m, const struct tensor_place *place)
{
	struct gpu_dha *d = m->gpu->dha;
	int r = 1;
	if (!d || place)
		return d ? model_look(find_run(m, place)->from, place) : 1;
	for (uint32_t i = 0; r == 1 && i < d->n; i++) {
		struct tensor_place all = whole(&d->run[i]);
		r = model_look(d->run[i].from, &all);
	}
	return r;
}

/* What is there up to `end` goes to the device, once. */
static int stage(trims_model *m, struct run *r, uint64_t end)
{
	struct gpu_driver *driver = gpu_session_driver(m->gpu->session);
	struct gpu_scope scope = {0};
	int e = 0;
	if (r->place != TRIMS_PLACE_STAGED || atomic_load_explicit(&r->copied, memory_order_acquire) >= end)
		return 0;
	pthread_mutex_lock(&m->gpu->lock);
	uint64_t from = r->copied - r->offset;
	if (r->copied < end)
		e = gpu_enter(driver, m->gpu->device, &scope);
	if (e == 0 && r->copied < end)
		e = gpu_copy_to_device(driver, r->device + from, r->cpu + from, end - r->copied);
	if (e == 0 && r->copied < end)
		atomic_store_explicit(&r->copied, end, memory_order_release);
	gpu_leave(&scope);
	pthread_mutex_unlock(&m->gpu->lock);
	return e;
}

static int wait_for(trims_model *m, struct run *r, const struct tensor_place *place, uint64_t deadline)
{
	trims_model *host = m->gpu->dha->host;
	int e = host && host != r->from ? model_wait(host, place, deadline) : 0; /* it is filled from there, and a failure said there */
	e = e ? e : model_wait(r->from, place, deadline);
	return e == 0 ? stage(m, r, place->end) : e;
}

int gpu_dha_wait(trims_model *m, const struct tensor_place *place, uint64_t deadline)
{
	struct gpu_dha *d = m->gpu->dha;
	int e = 0;
	if (place)
		return wait_for(m, find_run(m, place), place, deadline);
	for (uint32_t i = 0; d && e == 0 && i < d->n; i++) {
		struct tensor_place all = whole(&d->run[i]);
		e = wait_for(m, &d->run[i], &all, deadline);
	}
	return e;
}

int gpu_dha_state(trims_model *m)
{
	struct gpu_dha *d = m->gpu->dha;
	int there = gpu_dha_look(m, NULL);
	for (uint32_t i = 0; there == 1 && d && i < d->n; i++) {
		const struct run *r = &d->run[i];
		there = r->place != TRIMS_PLACE_STAGED ||
			atomic_load_explicit(&r->copied, memory_order_acquire) >= r->tensors_end;
	}
	return there;
}
