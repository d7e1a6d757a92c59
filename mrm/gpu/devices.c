/* devices.c - see devices.h. */
#include "mrm/gpu/devices.h"

#include "mrm/engine.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/hash.h"
#include "mrm/gpu/peer.h"
#include "mrm/gpu/probe.h"
#include "mrm/gpu/relay.h"
#include "mrm/gpu/submit.h"
#include "mrm/clock.h"
#include "mrm/tiers.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_S 1.0          /* how often the devices are asked what is free */
#define PIN_THREADS 4
#define WORTH_TELLING 64    /* a change of a capacity below one part in so many is not passed on */

struct look {
	struct job job;
	struct daemon *daemon;
	uint64_t room[GPU_MAX_DEVICES];
	bool good[GPU_MAX_DEVICES];
};

struct devices {
	uint64_t room[GPU_MAX_DEVICES]; /* what copies may take, by what is free */
	bool known_lost[GPU_MAX_DEVICES];
	uint64_t known_stuck;           /* gpu_stuck_bytes() */
	uint64_t known_device_stuck[GPU_MAX_DEVICES];
	struct gpu_calibration calibration[GPU_MAX_DEVICES];
	struct gpu_hasher *hasher[GPU_MAX_DEVICES];
	struct gpu_probes *probes;
	ev_timer timer;
	bool looking;
};

/* What copies may take: nine tenths of what they have and what nobody has. */
static int measure_room(struct gpu *g, uint32_t device, uint64_t *out, struct fault *why)
{
	uint64_t free_bytes, held;
	int e = gpu_measure(g, device, &free_bytes, &held, why);
	if (!e)
		*out = align_down((held + free_bytes) / 10 * 9, gpu_facts(g, device)->granularity_bytes);
	return e;
}

/* Nothing to be said about a device that cannot be asked: the next call that needs it says it.  One whose memory is just moving
 * is asked again the next time. */
static void run_look(struct job *job, void *worker)
{
	struct look *l = container_of(job, struct look, job);
	struct gpu *g = l->daemon->gpu;
	struct fault why;
	for (uint32_t i = 0; i < gpu_count(g); i++)
		l->good[i] = !gpu_lost(g, i) && !measure_room(g, i, &l->room[i], &why);
}

static bool differs(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) > b / WORTH_TELLING;
}

static void looked(struct job *job)
{
	struct look *l = container_of(job, struct look, job);
	struct daemon *d = l->daemon;
	struct devices *v = d->devices;
	bool changed = false;
	v->looking = false;
	for (uint32_t i = 0; !job->withdrawn && i < gpu_count(d->gpu); i++) {
		if (!l->good[i] || !differs(l->room[i], v->room[i]))
			continue;
		v->room[i] = l->room[i];
		changed = true;
	}
	bool goes_on = !job->withdrawn && !d->stopping;
	free(l);
	devices_check(d);
	if (goes_on)
		gpu_probes_look(v->probes);
	if (changed && !d->config->gpu_bytes && !d->stopping) {
		struct cache_config cc;
		struct fault why;
		tiers_config(d, d->config, &cc);
		if (cache_reconfigure(d->cache, &cc, clock_now(), &why))
			log_warn("gpu", "a new bound of a device's tier was not taken: %s", why.text);
	}
	engine_pump(d);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct daemon *d = w->data;
	if (d->devices->looking || d->stopping)
		return;
	struct look *l = calloc(1, sizeof *l);
	ASSERT(l);
	l->daemon = d;
	l->job = (struct job){.run = run_look, .done = looked, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	d->devices->looking = true;
	pool_submit(d->misc, &l->job);
}

/* What works less well than it should, each under a name. */
static void name_degraded(struct daemon *d, uint32_t device)
{
	const struct gpu_facts *f = gpu_facts(d->gpu, device);
	const struct gpu_calibration *c = &d->devices->calibration[device];
	if (f->export == GPU_EXPORT_CUDA_IPC && !strcmp(d->config->gpu_export, "auto")) {
		daemon_degraded(d, "no-vmm-fd", "%s: %.300s", f->uuid, f->no_vmm_fd);
		metrics_add(M_fallback_no_vmm_fd, 1);
	}
	if (!c->measured && !gpu_lost(d->gpu, device)) {
		daemon_degraded(d, "not-calibrated", "%s: %.300s", f->uuid, c->reason);
		metrics_add(M_fallback_not_calibrated, 1);
	}
}

static void prepare_hasher(struct daemon *d, uint32_t device)
{
	struct fault why;
	if (gpu_lost(d->gpu, device) || !gpu_hasher_prepare(d->devices->hasher[device], &why) || gpu_lost(d->gpu, device))
		return;
	daemon_degraded(d, "no-hash-kernel", "%s: %.300s; it is tried again when a copy is to be checked", gpu_facts(d->gpu, device)->uuid,
		why.text);
	metrics_add(M_fallback_no_hash_kernel, 1);
}

static void name_no_rings(struct daemon *d)
{
	struct fault why;
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		for (int way = 0; way < GPU_DIRECTIONS; way++) {
			if (gpu_lost(d->gpu, i) || !gpu_links_no_ring(d->links, i, (enum gpu_direction)way, &why))
				continue;
			daemon_degraded(d, "no-copy-ring", "%s %s: %.300s; made when first needed, while demands wait",
				gpu_facts(d->gpu, i)->uuid, gpu_direction_name((enum gpu_direction)way), why.text);
			metrics_add(M_fallback_no_copy_ring, 1);
		}
}

int devices_start(struct daemon *d, struct fault *why)
{
	const struct config *c = d->config;
	struct gpu_options o = {.mode = c->gpu, .driver = c->cuda_driver, .export = c->gpu_export};
	d->devices = calloc(1, sizeof *d->devices);
	if (!d->devices)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the devices"), -ENOMEM;
	int e = gpu_new(&d->gpu, &o, why);
	for (uint32_t i = 0; !e && gpu_left_out(d->gpu, i); i++) {
		daemon_degraded(d, "gpu-left-out", "%s%s", gpu_is_simulated(d->gpu) ? "simulated: " : "", gpu_left_out(d->gpu, i));
		metrics_add(M_fallback_gpu_left_out, 1);
	}
	/* Staging first: what it takes is gone from what copies may take. */
	e = e ? e : gpu_peers_new(&d->peers, d->gpu, c->pt_staging, c->gpu_bytes, why);
	for (uint32_t i = 0; !e && i < gpu_count(d->gpu); i++) {
		e = gpu_hasher_new(&d->devices->hasher[i], d->gpu, i, why);
		if (e)
			break;
		if (measure_room(d->gpu, i, &d->devices->room[i], why)) {
			gpu_give_up(d->gpu, i, why); /* the others go on */
			continue;
		}
		gpu_calibrate(d->gpu, i, c->cache_dir, &d->devices->calibration[i]);
		name_degraded(d, i);
		prepare_hasher(d, i);
	}
	return e;
}

int devices_run(struct daemon *d, struct fault *why)
{
	struct devices *v = d->devices;
	const struct config *c = d->config;
	struct gpu_links_options o = {.target_ns = c->link_target, .calibration = v->calibration,
		.user_bytes_per_s = c->user_link_rate, .user_share = (uint32_t)c->user_link_share,
		.direct_share = (uint32_t)c->direct_share};
	const struct pool_ops pin = {.name = "mrm-pin"};
	if (!gpu_count(d->gpu))
		return 0;
	int e = pool_new(&d->pin, d->jobs, &pin, PIN_THREADS);
	if (e)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "cannot start the devices' workers"), e;
	e = gpu_node_rates_parse(&o.rates, &c->node_rate, why);
	e = e ? e : gpu_links_new(&d->links, d->gpu, d->jobs, &o, why);
	e = e ? e : gpu_relays_new(&d->relays, d->gpu, d->peers, d->jobs, why);
	if (e)
		return e;
	name_no_rings(d);
	v->probes = gpu_probes_new(d, v->calibration);
	ev_timer_init(&v->timer, on_timer, LOOK_S, LOOK_S);
	v->timer.data = d;
	ev_timer_start(d->loop, &v->timer);
	devices_check(d); /* what start has found */
	return 0;
}

void devices_reload(struct daemon *d)
{
	if (!d->links)
		return;
	gpu_links_limit_users(d->links, d->config->user_link_rate, (uint32_t)d->config->user_link_share);
	gpu_links_limit_direct(d->links, (uint32_t)d->config->direct_share);
}

void devices_stop_links(struct daemon *d)
{
	if (d->links)
		ev_timer_stop(d->loop, &d->devices->timer);
	gpu_links_free(&d->links);
	gpu_relays_free(&d->relays);
	pool_free(&d->pin);
}

void devices_stop(struct daemon *d)
{
	if (!d->devices)
		return;
	for (uint32_t i = 0; i < GPU_MAX_DEVICES; i++)
		gpu_hasher_free(&d->devices->hasher[i]);
	gpu_probes_free(&d->devices->probes);
	gpu_peers_free(&d->peers);
	gpu_free(&d->gpu);
	free(d->devices);
	d->devices = NULL;
}

uint64_t devices_capacity(const struct daemon *d, const struct config *c, uint32_t device)
{
	struct gpu_staging_facts s;
	if (!c->gpu_bytes)
		return d->devices->room[device];
	gpu_peers_staging_view(d->peers, device, &s);
	return c->gpu_bytes - MIN(s.bytes, c->gpu_bytes);
}

struct gpu_hasher *devices_hasher(const struct daemon *d, uint32_t device)
{
	return d->devices->hasher[device];
}

uint64_t devices_bytes_per_s(const struct daemon *d, uint32_t device)
{
	return MAX(d->devices->calibration[device].bytes_per_s[GPU_H2D], (uint64_t)MIB);
}

int devices_of_tier(const struct daemon *d, uint8_t tier)
{
	return tier >= BRAIN_GPU && tier - BRAIN_GPU < (int)gpu_count(d->gpu) ? tier - BRAIN_GPU : -1;
}

static void check_stuck(struct daemon *d)
{
	uint64_t stuck = gpu_stuck_bytes(d->gpu);
	if (stuck == d->devices->known_stuck)
		return;
	d->devices->known_stuck = stuck;
	daemon_degraded(d, "host-stays-registered", "%.1f MB of host memory that was freed stay pinned until the daemon is started "
		"again: the driver does not let go of them, since no device works", (double)stuck / 1e6);
	metrics_add(M_fallback_stays_registered, 1);
}

static void check_device_stuck(struct daemon *d, uint32_t device)
{
	uint64_t stuck = gpu_device_stuck_bytes(d->gpu, device);
	if (stuck == d->devices->known_device_stuck[device])
		return;
	d->devices->known_device_stuck[device] = stuck;
	daemon_degraded(d, "gpu-memory-stays", "%s: %.1f MB that were freed stay allocated until the daemon is started again: the driver "
		"does not take them back; the log says what it answered", gpu_facts(d->gpu, device)->uuid, (double)stuck / 1e6);
	metrics_add(M_fallback_gpu_memory_stays, 1);
}

void devices_check(struct daemon *d)
{
	check_stuck(d);
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++) {
		check_device_stuck(d, i);
		if (d->devices->known_lost[i] || !gpu_lost(d->gpu, i))
			continue;
		struct fault why;
		d->devices->known_lost[i] = true;
		gpu_loss(d->gpu, i, &why);
		daemon_degraded(d, "gpu-lost", "%s", why.text);
		metrics_add(M_fallback_gpu_lost, 1);
		int e = cache_tier_lost(d->cache, clock_now(), devices_tier(i), &why);
		ASSERT(!e);
	}
}

/* ---- doctor ---- */

static void doctor_device(struct daemon *d, uint32_t device, void (*check)(json_t *, const char *, const char *,
	const char *, ...) __attribute__((format(printf, 4, 5))), json_t *checks)
{
	const struct gpu_facts *f = gpu_facts(d->gpu, device);
	char node[24] = "not known";
	if (gpu_lost(d->gpu, device)) {
		struct fault why;
		gpu_loss(d->gpu, device, &why);
		check(checks, "gpu", "degraded", "%s", why.text);
		return;
	}
	if (f->place.numa_node >= 0)
		snprintf(node, sizeof node, "%d", f->place.numa_node);
	check(checks, "gpu", "ok", "%s%s: %s, %.1f GB, PCI %s, NUMA node %s, %d copy engines; shared by %s (vmm-fd %s, cuda-ipc "
		"%s); read-only registration %s", gpu_is_simulated(d->gpu) ? "simulated: " : "", f->uuid, f->name,
		(double)f->total_bytes / 1e9, f->pci, node, f->copy_engines, gpu_export_name(f->export),
		f->can_vmm_fd ? "yes" : "no", f->can_cuda_ipc ? "yes" : "no", f->register_read_only ? "yes" : "no");
}

static void doctor_link(struct daemon *d, uint32_t device, enum gpu_direction way, void (*check)(json_t *, const char *,
	const char *, const char *, ...) __attribute__((format(printf, 4, 5))), json_t *checks)
{
	const struct gpu_place *p = &gpu_facts(d->gpu, device)->place;
	struct gpu_link_facts x;
	char pcie[40] = "", doubts[400] = "";
	gpu_links_view(d->links, device, way, &x);
	if (p->pcie_gen && p->pcie_width)
		snprintf(pcie, sizeof pcie, ", PCIe %" PRIu32 ".0 x%" PRIu32, p->pcie_gen, p->pcie_width);
	if (x.buffered)
		snprintf(doubts, sizeof doubts, "; %" PRIu64 " pieces went through a buffer, %" PRIu64 " slower than the bound allows", x.buffered,
			x.slow_copies);
	if (x.slow_calls)
		snprintf(doubts + strlen(doubts), sizeof doubts - strlen(doubts), "; the driver took up to %" PRIu64 " us to accept a copy, %"
			PRIu64 " times longer than the bound allows", x.slowest_call_ns / NS_PER_US, x.slow_calls);
	if (x.doubtful)
		snprintf(doubts + strlen(doubts), sizeof doubts - strlen(doubts), "; calibration in doubt: it was %.1f GB/s",
			(double)x.calibration.bytes_per_s / 1e9);
	/* What is read back goes through a buffer by design. */
	check(checks, "gpu-link", x.doubtful || (x.buffered && way == GPU_H2D) ? "degraded" : "ok", "%s%s %s: %.1f GB/s%s, bound %"
		PRIu64 " us%s", gpu_is_simulated(d->gpu) ? "simulated: " : "", gpu_facts(d->gpu, device)->uuid,
		gpu_direction_name(way), (double)x.view.bytes_per_s / 1e9, pcie, x.view.bound_ns / NS_PER_US, doubts);
}

/* Where bytes may pass through this device on their way to others. */
static void doctor_staging(struct daemon *d, uint32_t device, void (*check)(json_t *, const char *, const char *, const char *, ...)
	__attribute__((format(printf, 4, 5))), json_t *checks)
{
	struct gpu_staging_facts s;
	struct fault why;
	uint32_t takers = 0;
	for (uint32_t to = 0; to < gpu_count(d->gpu); to++)
		takers += to != device && !gpu_peers_reach(d->peers, to, device, &why);
	gpu_peers_staging_view(d->peers, device, &s);
	if (takers && gpu_peers_staging(d->peers, device, &why))
		check(checks, "gpu-staging", "off", "%s: none: %s", gpu_facts(d->gpu, device)->uuid, why.text);
	else if (takers)
		check(checks, "gpu-staging", "ok", "%s%s: %.1f MB for what goes on to %" PRIu32 " other devices, which take it from there",
			gpu_is_simulated(d->gpu) ? "simulated: " : "", gpu_facts(d->gpu, device)->uuid, (double)s.bytes / 1e6, takers);
}

static void doctor_nodes(struct daemon *d, void (*check)(json_t *, const char *, const char *, const char *, ...)
	__attribute__((format(printf, 4, 5))), json_t *checks)
{
	struct gpu_node_facts f;
	for (uint32_t n = 0; gpu_links_node(d->links, n, &f); n++)
		check(checks, "gpu-shared", "ok", "%s%s: %.3g GB/s, %s", gpu_is_simulated(d->gpu) ? "simulated: " : "",
			f.node->name, (double)f.view.bytes_per_s / 1e9, f.node->assumed
			? "assumed to do what the fastest of the links below it does" : f.node->measured
			? "measured with all devices below it at once" : "as node-rate says");
}

void devices_doctor(struct daemon *d, void (*check)(json_t *checks, const char *name, const char *state, const char *fmt,
	...) __attribute__((format(printf, 4, 5))), json_t *checks)
{
	uint32_t v = gpu_driver_version(d->gpu);
	if (!gpu_count(d->gpu)) {
		check(checks, "gpu", "off", "no GPU: %s", gpu_absence(d->gpu));
		return;
	}
	check(checks, "gpu-driver", "ok", "%s%s, CUDA %" PRIu32 ".%" PRIu32, gpu_is_simulated(d->gpu)
		? "simulated: no figure from it is a measurement: " : "", gpu_driver_path(d->gpu), v / 1000, v % 1000 / 10);
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		doctor_device(d, i, check, checks);
	for (uint32_t i = 0; d->links && i < gpu_count(d->gpu); i++)
		for (int way = 0; way < GPU_DIRECTIONS && !gpu_lost(d->gpu, i); way++)
			doctor_link(d, i, (enum gpu_direction)way, check, checks);
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		doctor_staging(d, i, check, checks);
	if (d->links)
		doctor_nodes(d, check, checks);
}
