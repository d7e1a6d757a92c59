/* doctor.c - the doctor report: what this machine has, which degraded paths are in use, and the settings. */
#include "mrm/report.h"

#include "mrm/chunk.h"
#include "mrm/clock.h"
#include "mrm/disk/disk.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/gpu.h"
#include "mrm/kept.h"
#include "mrm/profiler.h"
#include "mrm/source/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static void check(json_t *checks, const char *name, const char *state, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void check(json_t *checks, const char *name, const char *state, const char *fmt, ...)
{
	char text[700];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	json_array_append_new(checks, json_pack("{s:s, s:s, s:s}", "name", name, "state", state, "detail", text));
}

static void check_memory(json_t *checks, const struct daemon *d)
{
	const struct shm_machine *m = &d->machine;
	bool memfd = !d->shm.force_posix;
	/* What sealing costs, see mrm/gpu/README.md. */
	const char *kept = memfd && gpu_count(d->gpu) ? "; a copy that outlives its daemon is registered by devices that register "
		"read-only memory, to others it goes through buffers" : "";
	check(checks, "host-memory", memfd ? "ok" : "degraded", memfd ? "%s%s" : "POSIX shared memory, handed out read-only: %s%s",
		m->memfd_detail, kept);
	check(checks, "huge-pages", d->shm.huge ? "ok" : "degraded", "%s%s", d->shm.huge ? "" : "base pages: ",
		m->huge && !d->shm.huge ? "switched off" : m->huge_detail);
	check(checks, "numa", m->numa_nodes > 1 ? "ok" : "off", "%" PRIu32 " node%s%s", m->numa_nodes,
		m->numa_nodes > 1 ? "s" : "", d->shm.interleave ? "; host memory is interleaved over them" : "");
}

static void check_disk(json_t *checks, const struct daemon *d)
{
	struct reader_mode mode = lane_mode();
	const char *why = "";
	bool uring = mode.engine == READER_URING, direct = disk_is_direct(d->disk, &why);
	check(checks, "io", uring ? "ok" : "degraded", "%s%s%s", reader_engine_name(mode.engine), *mode.why ? ": " : "",
		mode.why);
	check(checks, "disk-tier", direct ? "ok" : "degraded", direct ? "%s, O_DIRECT" : "%s, through the page cache: %s",
		d->config->cache_dir, why);
}

static void check_degraded(json_t *checks, const struct daemon *d)
{
	for (size_t i = 0; i < d->n_degraded; i++)
		check(checks, d->degraded[i].name, "degraded", "%s (%" PRIu64 " times)", d->degraded[i].reason,
			d->degraded[i].count);
}

static void check_source_degraded(json_t *checks, const struct source *s)
{
	const struct source_counters *c = source_counters(s);
	uint64_t n;
#define COUNTER(name, doc)
#define DEGRADED(name, text, doc)                                                                                     \
	if ((n = atomic_load(&c->degraded_##name)))                                                                    \
		check(checks, text, "degraded", "%s: %s (%" PRIu64 " times)", source_url(s), doc, n);
#include "mrm/source/source_counters.def"
#undef COUNTER
}

static void check_sources(json_t *checks, const struct daemon *d)
{
	if (!d->n_sources)
		check(checks, "sources", "degraded", "none configured: only what is in the cache directory can be opened");
	for (size_t i = 0; i < d->n_sources; i++) {
		const struct source_counters *c = source_counters(d->sources[i]);
		check(checks, "source", "ok", "%s: %" PRIu64 " requests, %" PRIu64 " bytes, %" PRIu64 " retries, %" PRIu64
			" resumed", source_url(d->sources[i]), atomic_load(&c->requests), atomic_load(&c->bytes),
			atomic_load(&c->retries), atomic_load(&c->resumes));
		check_source_degraded(checks, d->sources[i]);
	}
}

static void add_option(void *ctx, const char *name, const char *value)
{
	json_t *old = json_object_get(ctx, name);
	if (json_is_string(old))
		json_object_set_new(ctx, name, json_pack("[O, s]", old, value));
	else if (json_is_array(old))
		json_array_append_new(old, json_string(value));
	else
		json_object_set_new(ctx, name, json_string(value));
}

json_t *report_doctor(struct daemon *d)
{
	json_t *checks = json_array(), *config = json_object();
	check_memory(checks, d);
	check_disk(checks, d);
	check_sources(checks, d);
	devices_doctor(d, check, checks);
	beside_doctor(d->beside, check, checks);
	check(checks, "keep-fds", kept_where(d), "who holds models' memory while the daemon restarts");
	const char *detail, *state = profiler_state(d, &detail);
	check(checks, "profiler", state, "%s", detail);
	check_degraded(checks, d);
	config_visit(d->config, add_option, config);
	return json_pack("{s:o, s:o, s:s, s:i, s:I}", "checks", checks, "config", config, "version", TRIMS_VERSION, "pid",
		(int)getpid(), "uptime_s", (json_int_t)((clock_now() - d->started_ns) / NS_PER_S));
}
