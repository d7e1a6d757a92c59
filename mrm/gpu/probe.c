/* probe.c - see probe.h.  Keeps: at most one probe per device is under way, of its own link or of an uplink; and below a switch one. */
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
	uint64_t uplinks_not_before, uplinks_patience_ns;
};

struct probe {
	struct job job;
	struct gpu_probes *all;
	uint32_t device;
	uint64_t beside; /* devices that must be idle, a bit each: it, and those that share a switch with it */
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
	p->uplinks_patience_ns = PATIENCE_NS;
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

static bool all_idle(struct gpu_probes *p, uint64_t devices)
{
	for (uint32_t i = 0; i < gpu_count(p->daemon->gpu); i++)
		if (devices >> i & 1 && !gpu_links_idle(p->daemon->links, i))
			return false;
	return true;
}

static bool is_idle(void *ctx)
{
	const struct probe *b = ctx;
	return all_idle(b->all, b->beside);
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
static void begin(struct gpu_probes *p, uint32_t device, uint64_t beside)
{
	struct gpu_link_facts up, down;
	struct probe *b = calloc(1, sizeof *b);
	ASSERT(b);
	gpu_links_view(p->daemon->links, device, GPU_H2D, &up);
	gpu_links_view(p->daemon->links, device, GPU_D2H, &down);
	b->all = p;
	b->device = device;
	b->beside = beside;
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

/* ---- uplinks ---- */

struct uplink_probe {
	struct job job;
	struct gpu_probes *all;
	uint32_t node;
	uint64_t devices, piece_bytes, found;
	enum gpu_direction way;
	int result;
	struct fault why;
};

static bool are_idle(void *ctx)
{
	const struct uplink_probe *u = ctx;
	return all_idle(u->all, u->devices);
}

static void run_uplink(struct job *job, void *worker)
{
	struct uplink_probe *u = container_of(job, struct uplink_probe, job);
	u->result = gpu_calibrate_together(u->all->daemon->gpu, u->devices, u->way, u->piece_bytes, are_idle, u, &u->found, &u->why);
}

static void uplink_probed(struct job *job)
{
	struct uplink_probe *u = container_of(job, struct uplink_probe, job);
	struct gpu_probes *p = u->all;
	struct daemon *d = p->daemon;
	struct gpu_node_facts f;
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++)
		if (u->devices >> i & 1)
			p->of[i].probing = false;
	if (!job->withdrawn && !u->result && gpu_links_node(d->links, u->node, &f)) {
		gpu_links_learn(d->links, u->node, u->found);
		log_info("gpu", "%s%s: measured with all devices below it at once: %.3g GB/s, %.3g assumed before",
			gpu_is_simulated(d->gpu) ? "simulated: " : "", f.node->name, (double)u->found / 1e9, (double)f.view.bytes_per_s / 1e9);
	} else if (!job->withdrawn) {
		p->uplinks_not_before = clock_now() + (u->result == -EBUSY ? PATIENCE_NS : p->uplinks_patience_ns);
		if (u->result != -EBUSY)
			p->uplinks_patience_ns = MIN(2 * p->uplinks_patience_ns, PATIENCE_MOST_NS);
		log_debug("gpu", "an uplink stays as it was assumed: %s", u->why.text);
	}
	free(u);
}

/* None of its devices is lost, in doubt, being measured, or at work. */
static bool can_measure(struct gpu_probes *p, const struct gpu_node *n)
{
	if (n->kind != GPU_NODE_SWITCH || !n->assumed)
		return false;
	for (uint32_t i = 0; i < gpu_count(p->daemon->gpu); i++)
		if (n->devices >> i & 1 && (gpu_lost(p->daemon->gpu, i) || p->of[i].probing || p->of[i].doubtful))
			return false;
	return all_idle(p, n->devices);
}

static void begin_uplink(struct gpu_probes *p, uint32_t node, const struct gpu_node *n)
{
	struct uplink_probe *u = calloc(1, sizeof *u);
	ASSERT(u);
	*u = (struct uplink_probe){.all = p, .node = node, .devices = n->devices, .way = n->way, .piece_bytes = UINT64_MAX,
		.job = {.run = run_uplink, .done = uplink_probed, .class = CLASS_PERSIST, .deadline = CACHE_NEVER}};
	for (uint32_t i = 0; i < gpu_count(p->daemon->gpu); i++) {
		struct gpu_link_facts x;
		if (!(n->devices >> i & 1))
			continue;
		gpu_links_view(p->daemon->links, i, n->way, &x);
		u->piece_bytes = MIN(u->piece_bytes, x.view.chunk_bytes);
		p->of[i].probing = true;
	}
	pool_submit(p->daemon->misc, &u->job);
}

static void look_at_uplinks(struct gpu_probes *p)
{
	struct gpu_node_facts f;
	if (clock_now() < p->uplinks_not_before)
		return;
	for (uint32_t n = 0; gpu_links_node(p->daemon->links, n, &f); n++)
		if (can_measure(p, f.node))
			begin_uplink(p, n, f.node);
}

/* The device and those that share a switch with it: what they copy meanwhile would be missing in what is measured. */
static uint64_t find_beside(const struct gpu_probes *p, uint32_t device)
{
	uint64_t devices = UINT64_C(1) << device;
	struct gpu_node_facts f;
	for (uint32_t n = 0; gpu_links_node(p->daemon->links, n, &f); n++)
		if (f.node->kind == GPU_NODE_SWITCH && f.node->devices >> device & 1)
			devices |= f.node->devices;
	return devices;
}

static bool any_probing(const struct gpu_probes *p, uint64_t devices)
{
	for (uint32_t i = 0; i < gpu_count(p->daemon->gpu); i++)
		if (devices >> i & 1 && p->of[i].probing)
			return true;
	return false;
}

static void look_again(struct gpu_probes *p, uint32_t device)
{
	uint64_t beside = find_beside(p, device);
	if (clock_now() >= p->of[device].not_before && !any_probing(p, beside) && all_idle(p, beside))
		begin(p, device, beside);
}

void gpu_probes_look(struct gpu_probes *p)
{
	struct daemon *d = p->daemon;
	if (gpu_keeps_time(d->gpu))
		look_at_uplinks(p);
	for (uint32_t i = 0; gpu_keeps_time(d->gpu) && i < gpu_count(d->gpu); i++) {
		struct subject *s = &p->of[i];
		if (gpu_lost(d->gpu, i) || s->probing)
			continue;
		if (!s->doubtful && deviates(d->links, i))
			doubt(p, i, "its pieces take another time than it was calibrated to");
		if (s->doubtful)
			look_again(p, i);
	}
}
