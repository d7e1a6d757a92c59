/* daemon.c - puts the parts together, and takes them apart in an order that loses nothing.
 * Shutdown: stop listening, cancel what runs, let jobs come home at a chunk edge, write down partial images and names, then
 * drop the pools, the brain and the disk store. */
#include "mrm/daemon.h"

#include "mrm/catalog.h"
#include "mrm/chunk.h"
#include "mrm/clock.h"
#include "mrm/copies.h"
#include "mrm/disk/disk.h"
#include "mrm/engine.h"
#include "mrm/gauges.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/direct.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/session.h"
#include "mrm/gpu/tree.h"
#include "mrm/httpd.h"
#include "mrm/holding.h"
#include "mrm/kept.h"
#include "mrm/plans.h"
#include "mrm/profiler.h"
#include "mrm/profiles.h"
#include "mrm/notify.h"
#include "mrm/tiers.h"
#include "mrm/server.h"
#include "mrm/haul.h"
#include "mrm/verify.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"

#include <curl/curl.h>
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define GAUGES_S 0.5
#define NAMES_S 2.0
#define NAMES_TURN_S 0.001 /* while there are more to gather */
#define TICK_MIN_S 0.001
#define TICK_MAX_S 1.0
#define FIND_THREADS 8
#define MISC_THREADS 2

void daemon_degraded(struct daemon *d, const char *name, const char *fmt, ...)
{
	struct degraded *g = NULL;
	for (size_t i = 0; i < d->n_degraded && !g; i++)
		if (!strcmp(d->degraded[i].name, name))
			g = &d->degraded[i];
	if (!g) {
		ASSERT(d->n_degraded < DAEMON_MAX_DEGRADED);
		g = &d->degraded[d->n_degraded++];
		g->name = name;
	}
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(g->reason, sizeof g->reason, fmt, ap);
	va_end(ap);
	if (g->count++ == 0)
		log_warn("degraded", "%s: %s", name, g->reason);
}

/* ---- timers and signals ---- */

/* The last thing before the loop waits. */
static void on_pump(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct daemon *d = w->data;
	engine_pump(d);
	if (d->woken_ns)
		metrics_observe_ns(M_loop_busy, clock_now() - d->woken_ns);
}

static void on_woken(struct ev_loop *loop, ev_check *w, int revents)
{
	struct daemon *d = w->data;
	d->woken_ns = clock_now();
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct daemon *d = w->data;
	uint64_t now = clock_now(), next = cache_tick(d->cache, now);
	engine_pump(d);
	double wait = next <= now ? TICK_MIN_S : next == CACHE_NEVER ? TICK_MAX_S : (double)(next - now) / 1e9;
	w->repeat = MIN(MAX(wait, TICK_MIN_S), TICK_MAX_S);
	ev_timer_again(loop, w);
}

static void on_gauges(struct ev_loop *loop, ev_timer *w, int revents)
{
	gauges_update(w->data);
}

static void on_names(struct ev_loop *loop, ev_timer *w, int revents)
{
	w->repeat = catalog_turn(w->data) ? NAMES_TURN_S : NAMES_S;
	ev_timer_again(loop, w);
}

static void on_watchdog(struct ev_loop *loop, ev_timer *w, int revents)
{
	notify_send("WATCHDOG=1");
}

static void begin_stop(struct daemon *d)
{
	d->stopping = true;
	httpd_set_ready(d->httpd, false);
	notify_send("STOPPING=1");
	server_stop(d->server);
	source_cancel_set(d->halt);
	profiler_stop(d);
	haul_cancel_all(d);
	ev_timer_set(&d->drain, (double)d->config->drain_timeout / 1e9, 0);
	ev_timer_start(d->loop, &d->drain);
}

/* Some job does not come back (a disk that hangs, say).  The store survives this as it survives any crash. */
static _Noreturn void leave_now(struct daemon *d, const char *why)
{
	log_warn("main", "%s: leaving with %u transfers under way", why, (unsigned)d->hauls.n);
	_exit(1);
}

static void on_stop_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	struct daemon *d = w->data;
	if (d->stopping)
		leave_now(d, "told to stop a second time");
	log_info("main", "stopping");
	begin_stop(d);
}

static void on_drain_over(struct ev_loop *loop, ev_timer *w, int revents)
{
	leave_now(w->data, "transfers did not reach a chunk edge within drain-timeout");
}

static int check_names(const struct config *c, struct fault *why)
{
	char *end;
	if (strcmp(c->gpu, "auto") && strcmp(c->gpu, "off") && strcmp(c->gpu, "sim") && strncmp(c->gpu, "sim:", 4))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "gpu: \"%s\" is none of auto, off, sim and sim:FILE", c->gpu), -EINVAL;
	unsigned long mode = strtoul(c->socket_mode, &end, 8);
	if (*end || mode > 0777)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "socket-mode: \"%s\" is not an octal mode", c->socket_mode), -EINVAL;
	strtoul(c->admin_group, &end, 10);
	if (*end && !getgrnam(c->admin_group))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "admin-group: there is no group \"%s\"", c->admin_group), -EINVAL;
	if (*c->ca_file && access(c->ca_file, R_OK) < 0) {
		int e = -errno;
		fault_errno(why, TRIMS_E_BAD_REQUEST, -e, "ca-file: %s", c->ca_file);
		return e;
	}
	struct gpu_node_rates rates;
	int e = gpu_node_rates_parse(&rates, &c->node_rate, why);
	e = e ? e : beside_check_users(c->direct_trusted, why);
	if (e)
		return e;
	return *c->metrics ? httpd_check(c->metrics, why) : 0;
}

static bool reload(struct daemon *d, struct fault *why)
{
	struct config *fresh;
	enum config_action action;
	if (config_load(&fresh, d->argc, d->argv, &action, why))
		return false;
	if (!fresh->host_bytes)
		fresh->host_bytes = d->config->host_bytes;
	if (!fresh->disk_bytes)
		fresh->disk_bytes = d->config->disk_bytes;
	char ignored[512];
	struct cache_config cc;
	tiers_config(d, fresh, &cc);
	bool ok = check_names(fresh, why) == 0 && cache_reconfigure(d->cache, &cc, clock_now(), why) == 0;
	if (ok) {
		config_take_reloadable(d->config, fresh, ignored, sizeof ignored);
		server_reload(d->server);
		devices_reload(d);
		beside_reload(d->beside);
		enum log_level level;
		if (!log_level_parse(d->config->log_level, &level))
			log_set_level(level);
		if (*ignored)
			log_warn("config", "changed, but needs a restart: %s", ignored);
	}
	config_free(&fresh);
	return ok;
}

static void on_reload_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	struct daemon *d = w->data;
	struct fault why;
	notify_reloading();
	if (reload(d, &why))
		log_info("config", "reloaded");
	else
		log_error("config", "not reloaded, the old settings stay: %s", why.text);
	engine_pump(d);
	notify_send("READY=1");
}

static void init_watchers(struct daemon *d)
{
	ev_prepare_init(&d->pump, on_pump);
	ev_check_init(&d->woken, on_woken);
	ev_set_priority(&d->woken, EV_MAXPRI);
	ev_set_priority(&d->pump, EV_MINPRI);
	ev_timer_init(&d->tick, on_tick, TICK_MAX_S, TICK_MAX_S);
	ev_timer_init(&d->gauges, on_gauges, 0, GAUGES_S);
	ev_timer_init(&d->names_timer, on_names, NAMES_S, NAMES_S);
	double watchdog = notify_watchdog_interval();
	ev_timer_init(&d->watchdog, on_watchdog, watchdog, watchdog);
	ev_timer_init(&d->drain, on_drain_over, 0, 0);
	ev_signal_init(&d->sigterm, on_stop_signal, SIGTERM);
	ev_signal_init(&d->sigint, on_stop_signal, SIGINT);
	ev_signal_init(&d->sighup, on_reload_signal, SIGHUP);
	d->woken.data = d->pump.data = d->tick.data = d->gauges.data = d->names_timer.data = d->watchdog.data = d->drain.data = d;
	d->sigterm.data = d->sigint.data = d->sighup.data = d;
	ev_prepare_start(d->loop, &d->pump);
	ev_check_start(d->loop, &d->woken);
	ev_timer_start(d->loop, &d->tick);
	ev_timer_start(d->loop, &d->gauges);
	ev_timer_start(d->loop, &d->names_timer);
	if (watchdog > 0)
		ev_timer_start(d->loop, &d->watchdog);
	ev_signal_start(d->loop, &d->sigterm);
	ev_signal_start(d->loop, &d->sigint);
	ev_signal_start(d->loop, &d->sighup);
}

/* ---- parts ---- */

static void size_tiers(struct daemon *d)
{
	struct config *c = d->config;
	if (!c->host_bytes)
		c->host_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4;
	struct statvfs v;
	if (!c->disk_bytes && statvfs(c->cache_dir, &v) == 0)
		c->disk_bytes = (uint64_t)v.f_bavail * v.f_frsize / 5 * 4;
}

static int open_disk(struct daemon *d, struct fault *why)
{
	struct disk_options o = {0};
	disk_compress_parse(d->config->compress, &o.compress);
	int e = disk_open(&d->disk, d->config->cache_dir, &o, why);
	if (e)
		return e;
	disk_identity(d->disk, &d->identity_hi, &d->identity_lo);
	const char *why_not;
	if (!disk_is_direct(d->disk, &why_not)) {
		daemon_degraded(d, "no-o-direct", "%s: %s", d->config->cache_dir, why_not);
		metrics_add(M_fallback_no_o_direct, 1);
	}
	return 0;
}

static void fill_source_options(const struct config *c, struct source_options *o)
{
	source_options_init(o);
	o->max_attempts = (uint32_t)c->retries + 1;
	o->backoff_base_ns = c->retry_base;
	o->connect_timeout_ns = c->connect_timeout;
	o->stall_s = (uint32_t)MAX(c->stall_timeout / NS_PER_S, (uint64_t)1);
	o->max_side_file_bytes = c->max_file;
	o->ca_file = *c->ca_file ? c->ca_file : NULL;
}

static int open_sources(struct daemon *d, struct fault *why)
{
	const struct config *c = d->config;
	struct source_options o;
	fill_source_options(c, &o);
	for (size_t i = 0; i < c->source.n; i++) {
		int e = source_new(&d->sources[d->n_sources], c->source.v[i], &o, why);
		if (e)
			return e;
		d->n_sources++;
	}
	return source_cancel_new(&d->halt);
}

static void probe_machine(struct daemon *d)
{
	shm_probe(&d->machine);
	bool want_posix = !strcmp(d->config->host_memory, "shm");
	d->shm.force_posix = want_posix || !d->machine.memfd;
	d->shm.huge = d->machine.huge && strcmp(d->config->hugepages, "never");
	d->shm.interleave = d->machine.interleave;
	if (d->machine.numa_nodes > 1 && !d->shm.interleave) {
		daemon_degraded(d, "no-interleave", "mbind is refused: host memory comes from one of %u nodes",
			(unsigned)d->machine.numa_nodes);
		metrics_add(M_fallback_no_interleave, 1);
	}
	if (d->shm.force_posix) {
		daemon_degraded(d, "no-memfd", "%s", want_posix ? "host-memory is set to shm" : d->machine.memfd_detail);
		metrics_add(M_fallback_no_memfd, 1);
	}
	if (!d->shm.huge) {
		daemon_degraded(d, "no-hugepages", "%s", d->machine.huge ? "hugepages is set to never" : d->machine.huge_detail);
		metrics_add(M_fallback_no_hugepages, 1);
	}
}

static int start_pools(struct daemon *d, struct fault *why)
{
	const struct config *c = d->config;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	size_t lanes = c->read_threads ? c->read_threads : (size_t)MIN(MAX(cores, 2), 4);
	static struct lane_options lane;
	lane = (struct lane_options){.depth = (uint32_t)c->read_depth, .no_uring = !strcmp(c->io, "pread")};
	struct pool_ops read = lane_pool, find = net_pool;
	const struct pool_ops misc = {.name = "mrm-misc"};
	read.ctx = &lane;
	find.name = "mrm-find";
	int e = jobs_new(&d->jobs, d->loop);
	e = e ? e : pool_new(&d->read, d->jobs, &read, lanes);
	e = e ? e : pool_new(&d->net, d->jobs, &net_pool, c->net_threads);
	e = e ? e : pool_new(&d->find, d->jobs, &find, FIND_THREADS);
	e = e ? e : pool_new(&d->write, d->jobs, &write_pool, c->write_threads);
	e = e ? e : pool_new(&d->misc, d->jobs, &misc, MISC_THREADS);
	if (e)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "cannot start worker threads"), e;
	struct reader_mode mode = lane_mode();
	if (mode.engine != READER_URING) {
		daemon_degraded(d, "no-io-uring", "%s", lane.no_uring ? "io is set to pread" : mode.why);
		metrics_add(M_fallback_no_io_uring, 1);
	}
	return 0;
}

static int start_metrics(struct daemon *d, struct fault *why)
{
	struct metrics_identity id = {d->config->socket, d->boot_hi, d->boot_lo};
	int e = metrics_create(&d->metrics, &id, why);
	if (e == -EBUSY)
		return e;
	if (e) {
		daemon_degraded(d, "no-metrics-segment", "%s", why->text);
		metrics_add(M_fallback_no_shm, 1);
	}
	if (!*d->config->metrics)
		return 0;
	e = httpd_new(&d->httpd, d->config->metrics, d->metrics, why);
	if (!e)
		log_info("metrics", "serving on port %d", httpd_port(d->httpd));
	return e;
}

static void raise_limits(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static void new_boot_id(struct daemon *d)
{
	uint64_t id[2] = {0};
	while (getrandom(id, sizeof id, 0) != sizeof id)
		;
	d->boot_hi = id[0];
	d->boot_lo = id[1];
}

static int start(struct daemon *d, struct fault *why)
{
	raise_limits();
	new_boot_id(d);
	int e = check_names(d->config, why);
	if (e)
		return e;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	d->loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOSIGMASK);
	if (!d->loop)
		return fault_set(why, TRIMS_E_NO_SYSTEM, "no event loop can be had"), -EIO;
	probe_machine(d);
	e = open_disk(d, why);
	e = e ? e : open_sources(d, why);
	if (e)
		return e;
	size_tiers(d);
	d->plans = plans_new(d);
	d->profiles = profiles_new(d);
	e = kept_start(d, why); /* forks: the driver must not be loaded yet */
	e = e ? e : devices_start(d, why);
	if (e)
		return e;
	struct cache_config cc;
	tiers_config(d, d->config, &cc);
	e = cache_new(&d->cache, &cc, why);
	e = e ? e : start_pools(d, why);
	e = e ? e : start_metrics(d, why);
	e = e ? e : devices_run(d, why);
	e = e ? e : sessions_new(&d->sessions, d, why);
	d->direct = direct_new(d);
	d->beside = beside_new(d);
	d->integrity = integrity_new(d);
	if (e)
		return e;
	kept_adopt(d);
	catalog_adopt(d);
	kept_check(d);
	init_watchers(d);
	e = profiler_start(d, why);
	return e ? e : server_new(&d->server, d, why);
}

int daemon_check(const struct config *config, struct fault *why)
{
	struct daemon scratch = {0};
	struct cache_config cc;
	struct source_options o;
	int e = check_names(config, why);
	tiers_config(&scratch, config, &cc);
	e = e ? e : cache_new(&scratch.cache, &cc, why);
	cache_free(&scratch.cache);
	fill_source_options(config, &o);
	for (size_t i = 0; !e && i < config->source.n; i++) {
		struct source *s = NULL;
		e = source_new(&s, config->source.v[i], &o, why);
		source_free(&s);
	}
	return e;
}

int daemon_new(struct daemon **out, struct config *config, int argc, char **argv, struct fault *why)
{
	struct daemon *d = calloc(1, sizeof *d);
	if (!d)
		return -ENOMEM;
	d->config = config;
	d->argc = argc;
	d->argv = argv;
	d->started_ns = clock_now();
	d->settle_ns = config->drain_timeout + 5 * NS_PER_S; /* beside the drain: the catalog's syncs */
	int e = start(d, why);
	if (e) {
		d->config = NULL; /* stays the caller's */
		daemon_free(&d);
		return e;
	}
	*out = d;
	return 0;
}

int daemon_run(struct daemon *d)
{
	httpd_set_ready(d->httpd, true);
	notify_send("READY=1\nSTATUS=serving");
	log_info("main", "mrm %s is serving %s", TRIMS_VERSION, d->config->socket);
	while (!d->stopping)
		ev_run(d->loop, EVRUN_ONCE);
	/* Transfers end, then their last jobs. */
	while (ev_is_active(&d->drain) && (d->hauls.n || jobs_outstanding(d->jobs)))
		ev_run(d->loop, EVRUN_ONCE);
	return 0;
}

static void stop_watchers(struct daemon *d)
{
	ev_prepare_stop(d->loop, &d->pump);
	ev_check_stop(d->loop, &d->woken);
	ev_timer_stop(d->loop, &d->tick);
	ev_timer_stop(d->loop, &d->gauges);
	ev_timer_stop(d->loop, &d->names_timer);
	ev_timer_stop(d->loop, &d->watchdog);
	ev_timer_stop(d->loop, &d->drain);
	ev_signal_stop(d->loop, &d->sigterm);
	ev_signal_stop(d->loop, &d->sigint);
	ev_signal_stop(d->loop, &d->sighup);
}

static void await_jobs(struct daemon *d, uint64_t until)
{
	jobs_wait(d->jobs, NS_PER_S);
	if (clock_now() > until)
		leave_now(d, "workers did not come back in time");
}

/* Whatever still runs is told to end; jobs then come home withdrawn or done.  No loop hears signals any more, and a disk
 * that hangs must not keep the daemon: a second one ends it as a crash would. */
static void settle(struct daemon *d)
{
	if (!d->jobs)
		return;
	uint64_t until = clock_now() + d->settle_ns;
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	if (d->halt)
		source_cancel_set(d->halt);
	haul_cancel_all(d);
	if (d->misc) {
		d->names_dirty = true;
		while (d->names_saving)
			await_jobs(d, until);
		catalog_save(d);
	}
	while (jobs_outstanding(d->jobs))
		await_jobs(d, until);
}

/* The process ends: memory of copies goes with it, images on disk stay. */
static void free_images(struct daemon *d)
{
	struct holding *img;
	struct fault stopping;
	fault_set(&stopping, TRIMS_E_STOPPING, "the daemon is stopping");
	for (size_t at = 0; (img = idmap_take_any(&d->prints, &at));) {
		for (uint8_t t = 0; t < CACHE_MAX_TIERS; t++) {
			if (img->copies[t])
				segment_poison(img->copies[t], &stopping); /* whoever waits for more bytes hears that none will come */
			copies_release(img->copies[t]);
			segment_free(&img->copies[t]);
		}
		img->model = 0;
		img->stored = NULL;
		ASSERT(img->refs == 0);
		holding_settle(img);
	}
	idmap_fini(&d->images);
	idmap_fini(&d->prints);
	idmap_fini(&d->hauls);
	idmap_fini(&d->verifications);
}

void daemon_free(struct daemon **dp)
{
	struct daemon *d = *dp;
	if (!d)
		return;
	server_free(&d->server);
	profiler_free(&d->profiler);
	settle(d);
	verify_stop(d);
	httpd_free(&d->httpd);
	pool_free(&d->read);
	pool_free(&d->net);
	pool_free(&d->find);
	pool_free(&d->write);
	direct_free(&d->direct);
	devices_stop_links(d);
	pool_free(&d->misc);
	jobs_free(&d->jobs);
	beside_free(&d->beside);
	free_images(d);
	sessions_free(&d->sessions);
	integrity_free(&d->integrity);
	devices_stop(d);
	kept_stop(d);
	plans_free(&d->plans);
	profiles_free(&d->profiles);
	cache_free(&d->cache);
	disk_close(&d->disk);
	for (size_t i = 0; i < d->n_sources; i++)
		source_free(&d->sources[i]);
	source_cancel_free(&d->halt);
	metrics_close(&d->metrics);
	if (d->loop) {
		stop_watchers(d);
		ev_loop_destroy(d->loop);
	}
	curl_global_cleanup();
	config_free(&d->config);
	free(d);
	*dp = NULL;
}
