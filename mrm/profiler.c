/* profiler.c - see profiler.h.
 * Keeps: at most one child; its descriptors are its own. */
#include "mrm/profiler.h"

#include "mrm/clock.h"
#include "mrm/gpu/devices.h"
#include "mrm/gpu/gpu.h"
#include "mrm/profiles.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define WANTS 256                      /* models that are remembered; the least lately used goes */
#define LONGEST (600 * NS_PER_S)       /* a child that takes longer never ends */
#define BUSY 0.5                       /* processes that want to run, per core: no idle machine */
#define OUTPUT_MAX (DISK_PROFILE_MAX + 1) /* a profile; one more byte, to see that it is too large */
#define EXECUTOR "trims-run " TRIMS_VERSION ","

extern char **environ;

struct want {
	uint64_t model; /* the brain's number; 0: free */
	uint32_t device; /* CACHE_ANY_DEVICE: the CPU */
	uint32_t tries;
	bool settled;   /* there is one, or there will be none */
	uint64_t used_ns;
};

struct profiler {
	struct daemon *daemon;
	char program[PATH_MAX];
	struct want wants[WANTS];
	uint64_t idle_ns; /* since when nothing moves */
	ev_timer timer;
	/* The child. */
	pid_t pid;       /* 0: there is none */
	ev_io ended;     /* its pidfd */
	int out, err;    /* memory files */
	struct want *want;
	uint64_t model, began_ns;
	struct hash128 digest;
	char name[256];
	bool broken_off;
};

/* ---- the child ---- */

static void log_first_line(const struct profiler *p, int status)
{
	char text[300];
	ssize_t n = pread(p->err, text, sizeof text - 1, 0);
	text[MAX(n, 0)] = 0;
	text[strcspn(text, "\n")] = 0;
	log_info("profiler", "%s: not measured (wait status %#x): %s", p->name, (unsigned)status, text);
}

/* Whether the name still leads to what was measured. */
static bool is_same(const struct profiler *p)
{
	return cache_find(p->daemon->cache, p->name) == p->model;
}

static void take_result(struct profiler *p, int status)
{
	struct want *w = p->want->model == p->model ? p->want : NULL; /* it may have made room for another */
	if (p->broken_off) {
		metrics_add(M_profiler_broken, 1);
		if (w && ++w->tries == PROFILER_TRIES) {
			w->settled = true;
			log_info("profiler", "%s: given up, it was broken off %d times", p->name, PROFILER_TRIES);
		}
		return;
	}
	if (w)
		w->settled = true;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && is_same(p)) {
		metrics_add(M_profiler_done, 1);
		log_info("profiler", "%s: measured", p->name);
		profiles_keep(p->daemon, p->digest, steal_fd(&p->out));
	} else {
		metrics_add(M_profiler_failed, 1);
		log_first_line(p, status);
	}
}

static void forget_child(struct profiler *p)
{
	ev_io_stop(p->daemon->loop, &p->ended);
	close(p->ended.fd);
	own_close_fd(&p->out);
	own_close_fd(&p->err);
	p->pid = 0;
}

static void on_ended(struct ev_loop *loop, ev_io *w, int revents)
{
	struct profiler *p = w->data;
	int status = 0;
	if (waitpid(p->pid, &status, WNOHANG) != p->pid)
		return;
	take_result(p, status);
	forget_child(p);
}

static void break_off(struct profiler *p)
{
	if (p->pid && !p->broken_off) {
		p->broken_off = true;
		kill(p->pid, SIGKILL);
	}
}

/* Ours without what is meant for the daemon alone, and with the driver that it uses and who it is: trims-run does not outlive it. */
static char **make_environment(const struct profiler *p, char parent[32], char driver[PATH_MAX + 32])
{
	static const char *const without[] = {"NOTIFY_SOCKET=", "LISTEN_", "WATCHDOG_", "TRIMS_"};
	size_t n = 0, m = 0;
	while (environ[n])
		n++;
	char **out = calloc(n + 3, sizeof *out);
	ASSERT(out);
	for (size_t i = 0; i < n; i++) {
		bool keep = true;
		for (size_t k = 0; k < ARRAY_LEN(without); k++)
			keep = keep && strncmp(environ[i], without[k], strlen(without[k]));
		if (keep)
			out[m++] = environ[i];
	}
	snprintf(parent, 32, "TRIMS_PARENT=%d", (int)getpid());
	out[m++] = parent;
	snprintf(driver, PATH_MAX + 32, "TRIMS_CUDA_DRIVER=%s", gpu_driver_path(p->daemon->gpu));
	if (gpu_count(p->daemon->gpu))
		out[m] = driver;
	return out;
}

static int spawn(struct profiler *p, const char *device)
{
	char driver[PATH_MAX + 32], parent[32];
	char *argv[] = {p->program, (char *)"profile", (char *)"--background", (char *)"--socket", p->daemon->config->socket,
		(char *)"--device", (char *)device, (char *)"--", p->name, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, pipe;
	sigemptyset(&none);
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, p->out, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, p->err, STDERR_FILENO);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipe);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	char **environment = make_environment(p, parent, driver);
	int e = posix_spawn(&p->pid, p->program, &actions, &attr, argv, environment);
	free(environment);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -e;
}

/* What it writes is memory of ours: beyond that the kernel ends it (SIGXFSZ). */
static int bound_output(pid_t pid)
{
	const struct rlimit most = {OUTPUT_MAX, OUTPUT_MAX};
	return prlimit(pid, RLIMIT_FSIZE, &most, NULL) ? -errno : 0;
}

/* 0, or why there is none. */
static int start_child(struct profiler *p, struct want *w, const struct holding *img)
{
	char device[24] = "cpu";
	if (w->device != CACHE_ANY_DEVICE)
		snprintf(device, sizeof device, "cuda:%u", (unsigned)w->device);
	snprintf(p->name, sizeof p->name, "%s", cache_name(p->daemon->cache, w->model, 0));
	p->out = memfd_create("mrm:profile", MFD_CLOEXEC);
	p->err = memfd_create("mrm:profile-errors", MFD_CLOEXEC);
	int e = p->out < 0 || p->err < 0 ? -errno : spawn(p, device);
	if (!e)
		e = bound_output(p->pid);
	int fd = e ? -1 : pidfd_open(p->pid, 0);
	if (fd < 0) {
		e = e ? e : -errno;
		if (p->pid) {
			kill(p->pid, SIGKILL);
			waitpid(p->pid, NULL, 0);
		}
		p->pid = 0;
		own_close_fd(&p->out);
		own_close_fd(&p->err);
		return e;
	}
	p->want = w;
	p->model = w->model;
	p->digest = img->digest;
	p->began_ns = clock_now();
	p->broken_off = false;
	ev_io_init(&p->ended, on_ended, fd, EV_READ);
	p->ended.data = p;
	ev_io_start(p->daemon->loop, &p->ended);
	log_info("profiler", "%s: measuring it on %s", p->name, device);
	return 0;
}

/* ---- when ---- */

static bool machine_is_idle(const struct profiler *p, uint64_t now)
{
	uint64_t idle = p->daemon->config->profiler_idle;
	double load;
	if (now - p->idle_ns < idle)
		return false;
	/* What is measured beside others is no measurement. */
	return !idle || getloadavg(&load, 1) != 1 || load < BUSY * (double)sysconf(_SC_NPROCESSORS_ONLN);
}

static bool is_ready(const struct holding *img, uint8_t tier)
{
	return img->copies[tier] && segment_is_ready(img->copies[tier]);
}

/* All of it where the child will look for it, so that it causes no load; and none stored. */
static bool can_start(const struct profiler *p, struct want *w, const struct holding *img)
{
	struct daemon *d = p->daemon;
	char class[DISK_PROFILE_CLASS + 1], driver[DISK_PROFILE_DRIVER + 1];
	bool on_device = w->device != CACHE_ANY_DEVICE;
	if (!(img->digest.hi | img->digest.lo) || !is_ready(img, BRAIN_HOST) || !cache_name(d->cache, w->model, 0) ||
		(on_device && !is_ready(img, devices_tier(w->device))))
		return false;
	profiles_class(d, w->device, class, driver);
	w->settled = profiles_have(d, img->digest, class, driver, EXECUTOR);
	return !w->settled;
}

static void look(struct profiler *p, uint64_t now)
{
	struct daemon *d = p->daemon;
	for (uint32_t i = 0; i < WANTS; i++) {
		struct want *w = &p->wants[i];
		const struct holding *img = w->model && !w->settled ? holding_by_model(d, w->model) : NULL;
		if (w->model && !w->settled && !img)
			*w = (struct want){0}; /* the brain has forgotten it */
		if (!img || now - w->used_ns < d->config->profiler_idle || !can_start(p, w, img))
			continue;
		int e = start_child(p, w, img);
		if (!e)
			return;
		w->settled = true;
		daemon_degraded(d, "no-profiler", "%s cannot be started: %s", p->program, strerror(-e));
		metrics_add(M_fallback_no_profiler, 1);
	}
}

static void on_timer(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct profiler *p = t->data;
	uint64_t now = clock_now();
	if (p->daemon->hauls.n || p->daemon->stopping)
		p->idle_ns = now;
	if (p->pid && now - p->began_ns > LONGEST) {
		if (p->want->model == p->model) /* else it has made room for another */
			p->want->tries = PROFILER_TRIES - 1;
		break_off(p);
	}
	if (!p->pid && !p->daemon->stopping && machine_is_idle(p, now))
		look(p, now);
	t->repeat = MIN(MAX((double)p->daemon->config->profiler_idle / 4e9, 0.02), 1.0);
	ev_timer_again(loop, t);
}

void profiler_used(struct daemon *d, const struct conn *c, uint64_t model, uint8_t tier)
{
	struct profiler *p = d->profiler;
	int device = devices_of_tier(d, tier);
	if (!p || (p->pid && conn_pid(c) == p->pid) || (tier != BRAIN_HOST && device < 0))
		return;
	/* cuda:N of the child is device N of the daemon only if it uses all that it sees; what --gpu sim:FILE has, no other process sees. */
	if (device >= 0 && (gpu_left_out(d->gpu, 0) || !strncmp(d->config->gpu, "sim", 3)))
		return;
	uint32_t where = device < 0 ? CACHE_ANY_DEVICE : (uint32_t)device;
	struct want *w = NULL, *oldest = &p->wants[0];
	for (uint32_t i = 0; i < WANTS && !w; i++) {
		if (p->wants[i].model == model && p->wants[i].device == where)
			w = &p->wants[i];
		if (p->wants[i].used_ns < oldest->used_ns)
			oldest = &p->wants[i];
	}
	if (!w) {
		w = oldest;
		*w = (struct want){.model = model, .device = where};
	}
	w->used_ns = clock_now();
	if (p->pid && p->model == model)
		break_off(p);
}

void profiler_yield(struct daemon *d)
{
	if (!d->profiler)
		return;
	d->profiler->idle_ns = clock_now();
	break_off(d->profiler);
}

/* ---- life ---- */

/* Beside mrm; where bin and sbin are two, or in a build tree, next door. */
static bool find_program(char path[PATH_MAX])
{
	static const char *const places[] = {"trims-run", "../bin/trims-run", "../tools/trims-run"};
	char own[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
	own[MAX(n, 0)] = 0;
	char *slash = strrchr(own, '/');
	if (!slash)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		int len = snprintf(path, PATH_MAX, "%.*s/%s", (int)(slash - own), own, places[i]);
		if (len < PATH_MAX && access(path, X_OK) == 0)
			return true;
	}
	return false;
}

int profiler_start(struct daemon *d, struct fault *why)
{
	const char *wish = d->config->profiler;
	if (!strcmp(wish, "no"))
		return 0;
	struct profiler *p = calloc(1, sizeof *p);
	ASSERT(p);
	bool named = strcmp(wish, "auto");
	if (named)
		snprintf(p->program, sizeof p->program, "%s", wish);
	if (named ? access(p->program, X_OK) : !find_program(p->program)) {
		int e = named ? -errno : 0;
		free(p);
		if (named)
			return fault_errno(why, TRIMS_E_BAD_REQUEST, -e, "profiler: %s", wish), e;
		daemon_degraded(d, "no-profiler", "trims-run is not installed beside mrm: models are only profiled by trims-ctl profile");
		metrics_add(M_fallback_no_profiler, 1);
		return 0;
	}
	p->daemon = d;
	p->out = p->err = -1;
	p->idle_ns = clock_now();
	ev_timer_init(&p->timer, on_timer, 0, 0.02);
	p->timer.data = p;
	ev_timer_again(d->loop, &p->timer);
	d->profiler = p;
	return 0;
}

void profiler_stop(struct daemon *d)
{
	if (d->profiler)
		break_off(d->profiler);
}

void profiler_free(struct profiler **pp)
{
	struct profiler *p = STEAL(*pp);
	if (!p)
		return;
	ev_timer_stop(p->daemon->loop, &p->timer);
	break_off(p);
	if (p->pid) {
		waitpid(p->pid, NULL, 0); /* it was killed */
		forget_child(p);
	}
	free(p);
}

const char *profiler_state(const struct daemon *d, const char **detail)
{
	*detail = d->profiler ? d->profiler->program : "models are profiled by trims-ctl profile alone";
	return d->profiler ? "ok" : "off";
}
