/* probe.c - see probe.h.  Keeps: at most one probe per device is under way. */
#include "mrm/gpu/probe.h"

#include "mrm/clock.h"
#include "mrm/gpu/submit.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <errno.h>
#include <stdlib.h>

#define PATIENCE_NS NS_PER_S      /* until the next probe after one that was in the way; doubles when it found nothing */
#define PATIENCE_MOST_NS (60 * NS_PER_S)

struct subject {
	bool doubtful, probing;
	uint64_t not_before, patience_ns;
};

struct gpu_probes {
	struct daemon *daemon;
	struct gpu_calibration *calibration;
	struct subject of[GPU_MAX_DEVICES];
};

struct probe {
	struct job job;
	struct gpu_probes *all;
	uint32_t device;
	uint64_t piece_bytes;
	struct gpu_calibration found;
	int result;
	struct fault why;
};

static void doubt(struct gpu_probes *p, uint32_t device, const char *reason)
{
	struct daemon *d = p->daemon;
	p->of[device].doubtful = true;
	p->of[device].patience_ns = PATIENCE_NS;
	daemon_degraded(d, "calibration-doubtful", "%s%s: %s; it is measured again when nothing is to be copied",
		gpu_is_simulated(d->gpu) ? "simulated: " : "", gpu_facts(d->gpu, device)->uuid, reason);
	metrics_add(M_fallback_calibration, 1);
	gpu_links_doubt(d->links, device, true);
}

struct gpu_probes *gpu_probes_new(struct daemon *d, struct gpu_calibration *calibration)
{
	struct gpu_probes *p = calloc(1, sizeof *p);
	ASSERT(p);
	p->daemon = d;
	p->calibration = calibration;
	for (uint32_t i = 0; gpu_keeps_time(d->gpu) && i < gpu_count(d->gpu); i++) {
		if (gpu_lost(d->gpu, i))
			continue;
		if (!calibration[i].measured)
			doubt(p, i, "it could not be calibrated at start");
		else if (!gpu_calibration_is_steady(&calibration[i]))
			doubt(p, i, "measurements at start did not agree");
	}
	return p;
}

void gpu_probes_free(struct gpu_probes **p)
{
	free(*p);
	*p = NULL;
}

/* ---- measuring ---- */

static bool is_idle(void *ctx)
{
	const struct probe *b = ctx;
	return gpu_links_idle(b->all->daemon->links, b->device);
}

static void run_probe(struct job *job, void *worker)
{
	struct probe *b = container_of(job, struct probe, job);
	b->result = gpu_calibrate_again(b->all->daemon->gpu, b->device, b->piece_bytes, is_idle, b, &b->found, &b->why);
}

static void take_over(struct gpu_probes *p, uint32_t device, const struct gpu_calibration *found)
{
	struct daemon *d = p->daemon;
	const struct gpu_calibration old = p->calibration[device];
	p->calibration[device] = *found;
	p->of[device] = (struct subject){.not_before = clock_now() + PATIENCE_MOST_NS};
	gpu_links_calibrate(d->links, device, found);
	gpu_calibration_keep(d->gpu, device, d->config->cache_dir, found);
	log_info("gpu", "%s%s: measured again: h2d %.3g GB/s (%.3g before), d2h %.3g GB/s (%.3g before)",
		gpu_is_simulated(d->gpu) ? "simulated: " : "", gpu_facts(d->gpu, device)->uuid,
		(double)found->bytes_per_s[GPU_H2D] / 1e9, (double)old.bytes_per_s[GPU_H2D] / 1e9,
		(double)found->bytes_per_s[GPU_D2H] / 1e9, (double)old.bytes_per_s[GPU_D2H] / 1e9);
}

static void probed(struct job *job)
{
	struct probe *b = container_of(job, struct probe, job);
	struct gpu_probes *p = b->all;
	struct subject *s = &p->of[b->device];
	s->probing = false;
	if (!job->withdrawn && !b->result && gpu_calibration_is_steady(&b->found)) {
		take_over(p, b->device, &b->found);
	} else if (!job->withdrawn) {
		s->not_before = clock_now() + (b->result == -EBUSY ? PATIENCE_NS : s->patience_ns);
		if (b->result != -EBUSY)
			s->patience_ns = MIN(2 * s->patience_ns, PATIENCE_MOST_NS);
		log_debug("gpu", "%s: a calibration is dropped: %s", gpu_facts(p->daemon->gpu, b->device)->uuid,
			b->result ? b->why.text : "its measurements do not agree");
	}
	free(b);
}

/* With the smaller piece of both ways: what a demand may find in flight, whichever way it goes. */
static void begin(struct gpu_probes *p, uint32_t device)
{
	struct gpu_link_facts up, down;
	struct probe *b = calloc(1, sizeof *b);
	ASSERT(b);
	gpu_links_view(p->daemon->links, device, GPU_H2D, &up);
	gpu_links_view(p->daemon->links, device, GPU_D2H, &down);
	b->all = p;
	b->device = device;
	b->piece_bytes = MIN(up.view.chunk_bytes, down.view.chunk_bytes);
	b->job = (struct job){.run = run_probe, .done = probed, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	p->of[device].probing = true;
	pool_submit(p->daemon->misc, &b->job);
}

/* ---- looking ---- */

/* What pieces take says otherwise by more than a quarter. */
static bool deviates(const struct gpu_links *l, uint32_t device)
{
	for (int way = 0; way < GPU_DIRECTIONS; way++) {
		struct gpu_link_facts x;
		gpu_links_view(l, device, (enum gpu_direction)way, &x);
		uint64_t then = x.calibration.bytes_per_s, now = x.view.bytes_per_s;
		if ((then > now ? then - now : now - then) > then / 1000 * GPU_CALIBRATION_DOUBT)
			return true;
	}
	return false;
}

void gpu_probes_look(struct gpu_probes *p)
{
	struct daemon *d = p->daemon;
	for (uint32_t i = 0; gpu_keeps_time(d->gpu) && i < gpu_count(d->gpu); i++) {
		struct subject *s = &p->of[i];
		if (gpu_lost(d->gpu, i) || s->probing)
			continue;
		if (!s->doubtful && deviates(d->links, i))
			doubt(p, i, "its pieces take another time than it was calibrated to");
		if (s->doubtful && clock_now() >= s->not_before && gpu_links_idle(d->links, i))
			begin(p, i);
	}
}
