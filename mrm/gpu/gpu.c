/* gpu.c - see gpu.h.
 * Keeps: a device is listed only when its memory can be shared in the way that is asked for; a lost device stays lost. */
#include "mrm/gpu/device.h"

#include "mrm/gpu/memory.h"
#include "shared/check.h"
#include "shared/log.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRIAL_BYTES (2 * MIB)

/* ---- devices that fail for good ---- */

void gpu_give_up(struct gpu *g, uint32_t device, const struct fault *why)
{
	struct gpu_device *dev = &g->device[device];
	pthread_mutex_lock(&g->lock);
	bool first = !atomic_load_explicit(&dev->lost, memory_order_relaxed);
	if (first) {
		fault_set(&dev->loss, TRIMS_E_NO_TIER, "%s is lost: %s; restart the daemon once it works again",
			dev->facts.uuid, why->text);
		atomic_store_explicit(&dev->lost, true, memory_order_release);
	}
	pthread_mutex_unlock(&g->lock);
	if (first)
		log_error("gpu", "%s", dev->loss.text);
}

bool gpu_lost(const struct gpu *g, uint32_t device)
{
	return atomic_load_explicit(&g->device[device].lost, memory_order_acquire);
}

void gpu_loss(const struct gpu *g, uint32_t device, struct fault *out)
{
	ASSERT(gpu_lost(g, device));
	*out = g->device[device].loss;
}

/* Drivers say "unknown error" of a device that has fallen off its bus, and of a single argument they make nothing of. */
static bool answers(struct gpu *g, uint32_t device)
{
	size_t free_bytes, total;
	return !g->cu->ctx_set_current(g->device[device].context) && !g->cu->mem_get_info(&free_bytes, &total);
}

int gpu_failed(struct gpu *g, uint32_t device, cu_result result, const char *call, struct fault *why)
{
	int e = cuda_fault(g->cu, result, call, why);
	bool lost = cuda_lost(result) || (result == CU_E_UNKNOWN && !answers(g, device));
	if (lost) {
		why->code = TRIMS_E_NO_TIER;
		gpu_give_up(g, device, why);
	}
	return result == CU_E_OUT_OF_MEMORY ? -ENOMEM : e;
}

int gpu_failed_between(struct gpu *g, uint32_t device, uint32_t other, cu_result result, const char *call, struct fault *why)
{
	const uint32_t both[] = {other, device};
	int e = cuda_fault(g->cu, result, call, why);
	for (size_t i = 0; (cuda_lost(result) || result == CU_E_UNKNOWN) && i < ARRAY_LEN(both); i++)
		if (!gpu_lost(g, both[i]) && !answers(g, both[i]))
			gpu_give_up(g, both[i], why);
	if (gpu_lost(g, device))
		why->code = TRIMS_E_NO_TIER;
	return e;
}

int gpu_enter(struct gpu *g, uint32_t device, struct fault *why)
{
	struct gpu_device *dev = &g->device[device];
	if (gpu_lost(g, device)) {
		*why = dev->loss;
		return -ENODEV;
	}
	cu_context now = NULL;
	cu_result r = g->cu->ctx_get_current(&now);
	if (!r && now != dev->context)
		r = g->cu->ctx_set_current(dev->context);
	return r ? gpu_failed(g, device, r, "cuCtxSetCurrent", why) : 0;
}

bool gpu_enter_again(struct gpu *g, uint32_t device)
{
	struct fault why;
	for (int i = 0; i < GPU_TRIES && !gpu_lost(g, device); i++)
		if (!gpu_enter(g, device, &why))
			return true;
	return false;
}

bool gpu_drain(struct gpu *g, uint32_t device, cu_stream stream)
{
	struct fault why;
	cu_result r = gpu_lost(g, device) ? CU_E_UNKNOWN : GPU_AGAIN(g->cu->stream_synchronize(stream));
	if (r && !gpu_lost(g, device)) {
		cuda_fault(g->cu, r, "cuStreamSynchronize", &why);
		gpu_give_up(g, device, &why);
	}
	return !r;
}

int gpu_copy_mark(struct gpu *g, const struct gpu_copy *c, bool *over, struct fault *why)
{
	cu_result r = g->cu->event_record(c->event, c->stream);
	if (!r)
		return 0;
	int e = gpu_failed(g, c->device, r, "cuEventRecord", why);
	*over = gpu_drain(g, c->device, c->stream);
	return *over ? 0 : e;
}

int gpu_copy_is_over(struct gpu *g, const struct gpu_copy *c, bool wait, bool *over, struct fault *why)
{
	int e = gpu_enter(g, c->device, why);
	cu_result r = CU_OK;
	if (!e)
		r = wait ? g->cu->event_synchronize(c->event) : g->cu->event_query(c->event);
	if (r == CU_E_NOT_READY)
		return 0;
	if (r)
		e = gpu_failed(g, c->device, r, wait ? "cuEventSynchronize" : "cuEventQuery", why);
	if (!e)
		return 1;
	*over = true;
	return gpu_drain(g, c->device, c->stream) ? 1 : e;
}

/* ---- what a device is ---- */

static int attribute(const struct gpu *g, cu_device ordinal, enum cu_attr_number attr)
{
	int value = 0;
	return g->cu->device_get_attribute(&value, (cu_device_attr)attr, ordinal) ? 0 : value;
}

struct sim_place {
	int (*sysfs)(int, const char *, char *, size_t);
	int ordinal;
};

static bool read_simulated(const void *ctx, const char *name, char *text, size_t size)
{
	const struct sim_place *s = ctx;
	return s->sysfs && !s->sysfs(s->ordinal, name, text, size);
}

/* The machine has nothing to say about a simulated device, whatever has its bus id there. */
static void find_place(struct gpu *g, struct gpu_device *dev)
{
	struct gpu_facts *f = &dev->facts;
	struct gpu_sysfs real = {.root = "/sys", .pci = f->pci};
	struct sim_place sim = {.ordinal = dev->ordinal};
	if (g->cu->simulated)
		sim.sysfs = (__typeof__(sim.sysfs))dlsym(g->cu->dl, "simcuda_sysfs");
	gpu_place_find(&f->place, g->cu->simulated ? read_simulated : gpu_sysfs_read,
		g->cu->simulated ? (const void *)&sim : (const void *)&real);
}

static int read_facts(struct gpu *g, struct gpu_device *dev, struct fault *why)
{
	const struct cuda *cu = g->cu;
	struct gpu_facts *f = &dev->facts;
	struct cu_uuid uuid;
	size_t total = 0;
	cu_result r = cu->device_get_uuid(&uuid, dev->ordinal);
	if (r)
		return cuda_fault(cu, r, "cuDeviceGetUuid", why);
	cuda_uuid_text(&uuid, f->uuid);
	r = cu->device_get_name(f->name, sizeof f->name, dev->ordinal);
	if (r)
		return cuda_fault(cu, r, "cuDeviceGetName", why);
	r = cu->device_total_mem(&total, dev->ordinal);
	if (r)
		return cuda_fault(cu, r, "cuDeviceTotalMem", why);
	f->total_bytes = total;
	if (cu->device_get_pci_bus_id(f->pci, sizeof f->pci, dev->ordinal))
		*f->pci = 0;
	find_place(g, dev);
	f->copy_engines = attribute(g, dev->ordinal, CU_ATTR_COPY_ENGINES);
	f->register_read_only = attribute(g, dev->ordinal, CU_ATTR_READ_ONLY_REGISTER);
	f->host_pointers = attribute(g, dev->ordinal, CU_ATTR_SAME_HOST_POINTER);
	f->host_numa_vmm = attribute(g, dev->ordinal, CU_ATTR_HOST_NUMA_VMM);
	f->host_numa_node = MAX(attribute(g, dev->ordinal, CU_ATTR_HOST_NUMA_NODE), 0);
	return 0;
}

static int read_granularity(struct gpu *g, struct gpu_device *dev)
{
	struct cu_mem_prop prop = {.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD,
		.location = {CU_AT_DEVICE, dev->ordinal}};
	size_t bytes = 0;
	cu_result r = g->cu->mem_get_allocation_granularity(&bytes, &prop, CU_GRANULARITY_MINIMUM);
	/* Never less than 2 MiB: that is what the brain counts by, and what keeps other people's allocations out of the same
	 * pages. */
	dev->facts.granularity_bytes = !r && bytes ? align_up(TRIAL_BYTES, bytes) : TRIAL_BYTES;
	return r ? -ENOTSUP : 0;
}

/* Attributes alone are not to be believed: a small piece of memory is made and exported.  Nor is one refusal, after which all of
 * the device's models would be shared the other way. */
static bool try_export(struct gpu *g, uint32_t device, enum gpu_export export, struct fault *why)
{
	struct gpu_memory *m = NULL;
	uint64_t bytes = TRIAL_BYTES;
	int e = gpu_memory_new(&m, g, device, export, &bytes, 1, why);
	for (int i = 1; e && i < GPU_TRIES && !gpu_lost(g, device); i++)
		e = gpu_memory_new(&m, g, device, export, &bytes, 1, why);
	gpu_memory_free(&m);
	return e == 0;
}

static int choose_export(struct gpu *g, uint32_t device, const char *wish, struct fault *why)
{
	struct gpu_device *dev = &g->device[device];
	struct gpu_facts *f = &dev->facts;
	struct fault vmm, ipc;
	fault_set(&vmm, TRIMS_E_UNSUPPORTED, "the device says that it cannot export memory as descriptors");
	bool vmm_attr = attribute(g, dev->ordinal, CU_ATTR_VMM) && attribute(g, dev->ordinal, CU_ATTR_VMM_FD);
	f->can_vmm_fd = vmm_attr && !read_granularity(g, dev) && try_export(g, device, GPU_EXPORT_VMM_FD, &vmm);
	if (!f->can_vmm_fd) {
		f->granularity_bytes = TRIAL_BYTES;
		snprintf(f->no_vmm_fd, sizeof f->no_vmm_fd, "%s", vmm.text);
	}
	f->can_cuda_ipc = try_export(g, device, GPU_EXPORT_CUDA_IPC, &ipc);
	f->export = f->can_vmm_fd && strcmp(wish, "cuda-ipc") ? GPU_EXPORT_VMM_FD
		: f->can_cuda_ipc && strcmp(wish, "vmm-fd") ? GPU_EXPORT_CUDA_IPC : GPU_EXPORT_NONE;
	if (f->export != GPU_EXPORT_NONE)
		return 0;
	fault_set(why, TRIMS_E_UNSUPPORTED, "%s (%s) cannot share memory with other processes as gpu-export asks (%s): "
		"vmm-fd: %.150s; cuda-ipc: %.150s", f->uuid, f->name, wish, f->can_vmm_fd ? "possible" : vmm.text,
		f->can_cuda_ipc ? "possible" : ipc.text);
	return -ENOTSUP;
}

/* In these modes a context of the daemon's would keep every client out, or nobody may have one. */
static int check_mode(const struct gpu *g, const struct gpu_device *dev, struct fault *why)
{
	int mode = attribute(g, dev->ordinal, CU_ATTR_COMPUTE_MODE);
	if (mode != CU_MODE_PROHIBITED && mode != CU_MODE_EXCLUSIVE)
		return 0;
	fault_set(why, TRIMS_E_NO_TIER, "%s (%s) is in compute mode %s, in which %s use it; `nvidia-smi -i %s -c DEFAULT` changes that, "
		"then restart the daemon", dev->facts.uuid, dev->facts.name,
		mode == CU_MODE_EXCLUSIVE ? "EXCLUSIVE_PROCESS" : "PROHIBITED",
		mode == CU_MODE_EXCLUSIVE ? "only one process may" : "no process may", dev->facts.uuid);
	return -EBUSY;
}

static int open_device(struct gpu *g, int ordinal, const char *export, struct fault *why)
{
	struct gpu_device *dev = &g->device[g->n];
	*dev = (struct gpu_device){0};
	cu_result r = g->cu->device_get(&dev->ordinal, ordinal);
	if (r)
		return cuda_fault(g->cu, r, "cuDeviceGet", why);
	int e = read_facts(g, dev, why);
	e = e ? e : check_mode(g, dev, why);
	if (e)
		return e;
	r = g->cu->primary_ctx_retain(&dev->context, dev->ordinal);
	if (r)
		return cuda_fault(g->cu, r, "cuDevicePrimaryCtxRetain", why);
	e = choose_export(g, g->n, export, why);
	if (!e) {
		g->n++;
		return 0;
	}
	GPU_AGAIN(g->cu->ctx_set_current(NULL));
	GPU_AGAIN(g->cu->primary_ctx_release(dev->ordinal));
	return e;
}

/* ---- the driver ---- */

static bool exists(const char *path)
{
	return access(path, R_OK) == 0;
}

/* Where the simulator is: installed, or in the tree that this program was built in. */
static int find_simulator(char *path, size_t size, struct fault *why)
{
	char exe[3000];
	if (exists(MRM_SIMCUDA)) {
		snprintf(path, size, "%s", MRM_SIMCUDA);
		return 0;
	}
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	exe[MAX(n, 0)] = 0;
	char *slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	snprintf(path, size, "%s/../tools/simcuda/libsimcuda.so", exe);
	if (slash && exists(path))
		return 0;
	fault_set(why, TRIMS_E_NO_TIER, "gpu is set to sim, but there is no simulated driver at " MRM_SIMCUDA);
	return -ENOENT;
}

struct choice {
	char path[4096]; /* empty: the system's driver */
	bool asked;      /* somebody wants just this one: not having it is an error */
	bool simulator;
};

static int choose_driver(struct choice *c, const struct gpu_options *o, struct fault *why)
{
	*c = (struct choice){.asked = *o->driver, .simulator = !strncmp(o->mode, "sim", 3)};
	snprintf(c->path, sizeof c->path, "%s", o->driver);
	if (!c->simulator)
		return 0;
	c->asked = true;
	/* The simulator's own setting; set before there is another thread. */
	if (o->mode[3] == ':' && setenv("SIMCUDA", o->mode + 4, 1))
		return fault_errno(why, TRIMS_E_NO_MEMORY, errno, "gpu"), -ENOMEM;
	return *c->path ? 0 : find_simulator(c->path, sizeof c->path, why);
}

static void say_absence(struct gpu *g, const struct fault *why)
{
	if (!*g->absence)
		snprintf(g->absence, sizeof g->absence, "%s", why->text);
}

static int open_devices(struct gpu *g, const struct gpu_options *o, struct fault *why)
{
	int e = 0;
	for (int i = 0; i < g->cu->n_devices && g->n < GPU_MAX_DEVICES; i++) {
		e = open_device(g, i, o->export, why);
		if (!e)
			continue;
		log_warn("gpu", "device %d is left out: %s", i, why->text);
		say_absence(g, why);
		if (g->n_left_out < GPU_MAX_DEVICES)
			snprintf(g->left_out[g->n_left_out++], sizeof g->left_out[0], "%s", why->text);
		if (strcmp(o->export, "auto"))
			return e;
	}
	if (g->cu->n_devices > GPU_MAX_DEVICES)
		log_warn("gpu", "this machine has %d devices; the first %d are used", g->cu->n_devices, GPU_MAX_DEVICES);
	if (g->n)
		*g->absence = 0;
	return 0;
}

static int open_driver(struct gpu *g, const struct gpu_options *o, struct fault *why)
{
	struct choice c;
	if (!strcmp(o->mode, "off")) {
		fault_set(why, TRIMS_E_NO_TIER, "switched off by --gpu off");
		say_absence(g, why);
		return 0;
	}
	int e = choose_driver(&c, o, why);
	e = e ? e : cuda_load(&g->cu, *c.path ? c.path : NULL, why);
	if (e) {
		say_absence(g, why);
		return c.asked ? e : 0;
	}
	if (c.simulator && !g->cu->simulated) {
		fault_set(why, TRIMS_E_NO_TIER, "gpu is set to sim, but %.200s is a real driver", c.path);
		return -EINVAL;
	}
	return open_devices(g, o, why);
}

static void log_devices(const struct gpu *g)
{
	if (!g->n)
		log_info("gpu", "no GPU: %s", g->absence);
	for (uint32_t i = 0; i < g->n; i++) {
		const struct gpu_facts *f = &g->device[i].facts;
		log_info("gpu", "%s: %s%s, %.1f GB, shared by %s", f->uuid, g->cu->simulated ? "simulated: " : "", f->name,
			(double)f->total_bytes / 1e9, gpu_export_name(f->export));
	}
}

int gpu_new(struct gpu **out, const struct gpu_options *options, struct fault *why)
{
	struct gpu *g = calloc(1, sizeof *g);
	if (!g)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the list of devices"), -ENOMEM;
	pthread_mutex_init(&g->lock, NULL);
	int e = open_driver(g, options, why);
	if (e) {
		gpu_free(&g);
		return e;
	}
	log_devices(g);
	*out = g;
	return 0;
}

void gpu_free(struct gpu **gp)
{
	struct gpu *g = *gp;
	if (!g)
		return;
	if (g->n)
		GPU_AGAIN(g->cu->ctx_set_current(NULL));
	for (uint32_t i = 0; i < g->n; i++) {
		ASSERT(!atomic_load(&g->device[i].held_bytes));
		GPU_AGAIN(g->cu->primary_ctx_release(g->device[i].ordinal));
	}
	cuda_free(&g->cu);
	pthread_mutex_destroy(&g->lock);
	free(g);
	*gp = NULL;
}

/* ---- looking ---- */

uint32_t gpu_count(const struct gpu *g)
{
	return g ? g->n : 0;
}

const char *gpu_absence(const struct gpu *g)
{
	return g->absence;
}

const char *gpu_left_out(const struct gpu *g, uint32_t i)
{
	return i < g->n_left_out ? g->left_out[i] : NULL;
}

bool gpu_is_simulated(const struct gpu *g)
{
	return g && g->cu && g->cu->simulated;
}

bool gpu_keeps_time(const struct gpu *g)
{
	if (!gpu_is_simulated(g))
		return gpu_count(g) > 0;
	int (*keeps)(void) = (__typeof__(keeps))dlsym(g->cu->dl, "simcuda_keeps_time");
	return keeps && keeps();
}

uint32_t gpu_driver_version(const struct gpu *g)
{
	return g->cu ? (uint32_t)g->cu->driver_version : 0;
}

const char *gpu_driver_path(const struct gpu *g)
{
	return g->cu ? g->cu->path : "";
}

const struct gpu_facts *gpu_facts(const struct gpu *g, uint32_t device)
{
	ASSERT(device < g->n);
	return &g->device[device].facts;
}

/* Without the prefix: of a part of a device nvidia-smi makes it "MIG-", and drivers give the number alone. */
static const char *number_of(const char *uuid)
{
	return strncasecmp(uuid, "GPU-", 4) && strncasecmp(uuid, "MIG-", 4) ? uuid : uuid + 4;
}

int gpu_find(const struct gpu *g, const char *uuid)
{
	for (uint32_t i = 0; i < gpu_count(g); i++)
		if (!strcasecmp(number_of(g->device[i].facts.uuid), number_of(uuid)))
			return (int)i;
	return -ENOENT;
}

uint64_t gpu_held_bytes(const struct gpu *g, uint32_t device)
{
	return atomic_load_explicit(&g->device[device].held_bytes, memory_order_relaxed);
}

uint64_t gpu_stuck_bytes(const struct gpu *g)
{
	return g ? atomic_load_explicit(&g->stuck_bytes, memory_order_relaxed) : 0;
}

uint64_t gpu_device_stuck_bytes(const struct gpu *g, uint32_t device)
{
	return atomic_load_explicit(&g->device[device].stuck_bytes, memory_order_relaxed);
}

int gpu_measure(struct gpu *g, uint32_t device, uint64_t *free_bytes, uint64_t *held_bytes, struct fault *why)
{
	struct gpu_device *dev = &g->device[device];
	size_t left = 0, total = 0;
	int e = gpu_enter_again(g, device) ? 0 : gpu_enter(g, device, why); /* the latter says why not */
	if (e)
		return e;
	uint64_t ended = atomic_load(&dev->moves_ended);
	cu_result r = GPU_AGAIN(g->cu->mem_get_info(&left, &total));
	if (r)
		return gpu_failed(g, device, r, "cuMemGetInfo", why);
	*free_bytes = left;
	*held_bytes = gpu_held_bytes(g, device);
	if (atomic_load(&dev->moves_begun) == ended)
		return 0;
	fault_set(why, TRIMS_E_BUSY, "memory of %s came or went while it was measured", dev->facts.uuid);
	return -EAGAIN;
}
