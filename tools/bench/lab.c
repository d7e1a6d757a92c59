/* lab.c - see lab.h.  Keeps: every child is killed by the kernel when the worker ends (parent-death signal). */
#include "tools/bench/lab.h"

#include "shared/check.h"
#include "shared/metrics.h"
#include "shared/own.h"
#include "tools/child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define READY_MS 60000
#define SETTLE_NS (20 * (long)NS_PER_MS) /* a daemon that used less than a twentieth of it is idle */

void lab_path(const struct bench_options *o, char out[LAB_PATH], const char *fmt, ...)
{
	int used = snprintf(out, LAB_PATH, "%s/", o->lab);
	va_list ap;
	va_start(ap, fmt);
	int more = vsnprintf(out + used, (size_t)(LAB_PATH - used), fmt, ap);
	va_end(ap);
	ASSERT(used + more < LAB_PATH);
}

void lab_mkdir(const char *path)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		die_errno(errno, "making %s", path);
}

FILE *lab_create(const char *dir, const char *name)
{
	char path[2 * LAB_PATH];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "we");
	if (!f)
		die_errno(errno, "creating %s", path);
	return f;
}

void lab_copy(const char *from, const char *to)
{
	OWN_FD int in = open(from, O_RDONLY | O_CLOEXEC);
	OWN_FD int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ssize_t n = in < 0 || out < 0 ? -1 : 1;
	while (n > 0)
		n = copy_file_range(in, NULL, out, NULL, GIB, 0);
	if (n < 0 || fsync(out))
		die_errno(errno, "copying %s to %s", from, to);
}

/* As they were when first asked for. */
static const cpu_set_t *given_cores(void)
{
	static cpu_set_t cores;
	if (!CPU_COUNT(&cores) && sched_getaffinity(0, sizeof cores, &cores))
		die_errno(errno, "asking for this process's cores");
	return &cores;
}

int lab_core(unsigned n)
{
	const cpu_set_t *cores = given_cores();
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, cores) && n-- == 0)
			return i;
	return -1;
}

void lab_place(pid_t pid, int core)
{
	cpu_set_t cores = *given_cores();
	if (core >= 0) {
		CPU_ZERO(&cores);
		CPU_SET(core, &cores);
	}
	if (sched_setaffinity(pid, sizeof cores, &cores))
		die_errno(errno, "placing process %d", (int)pid);
}

void lab_progress(const char *what, uint64_t done, uint64_t total)
{
	if (!isatty(STDERR_FILENO))
		return;
	fputs("\r\033[K", stderr);
	if (what)
		fprintf(stderr, "%s: %" PRIu64 " of %" PRIu64, what, done, total);
	fflush(stderr);
}

/* ---- processes ---- */

int lab_log(const struct bench_options *o, const char *name)
{
	char log[LAB_PATH];
	lab_path(o, log, "%s.log", name);
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		die_errno(errno, "creating %s", log);
	return fd;
}

pid_t lab_spawn(const struct bench_options *o, const char *name, const char *const argv[])
{
	OWN_FD int log = lab_log(o, name);
	pid_t parent = getpid(), pid = fork();
	if (pid < 0)
		die_errno(errno, "fork");
	if (pid == 0)
		child_become(parent, log, log, argv);
	return pid;
}

static _Noreturn void die_with_log(const struct bench_options *o, const char *name, const char *what)
{
	char path[LAB_PATH], tail[2048] = "";
	lab_path(o, path, "%s.log", name);
	OWN_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd >= 0 && fstat(fd, &st) == 0) {
		off_t from = MAX(st.st_size - (off_t)sizeof tail + 1, 0);
		ssize_t n = pread(fd, tail, sizeof tail - 1, from);
		tail[MAX(n, 0)] = 0;
	}
	die("%s\n%s", what, tail);
}

/* ---- mrm ---- */

static int notify_socket(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof a.sun_path)
		die("the temporary directory's name is too long for a socket: %s", path);
	memcpy(a.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a))
		die_errno(errno, "making %s", path);
	return fd;
}

static void wait_ready(const struct bench_options *o, const char *name, int notify, pid_t pid)
{
	OWN_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd fds[] = {{.fd = notify, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
	for (;;) {
		char text[512];
		if (poll(fds, pidfd >= 0 ? 2 : 1, READY_MS) <= 0)
			die_with_log(o, name, "the daemon did not get ready in a minute; its log ends:");
		if (fds[1].revents)
			die_with_log(o, name, "the daemon ended at once; its log ends:");
		ssize_t n = recv(notify, text, sizeof text - 1, 0);
		text[MAX(n, 0)] = 0;
		if (strstr(text, "READY=1"))
			return;
	}
}

#define MRM_MAX_ARGS 64

void mrm_start(const struct bench_options *o, struct mrm *out, const char *const args[])
{
	static int next_no;
	char notify_path[LAB_PATH], name[16];
	const char *argv[MRM_MAX_ARGS] = {o->mrm, "--socket", out->socket, "--cache-dir", out->cache_dir, "--log-level",
		"info", "--profiler", "no"};
	size_t n = 9;
	out->no = next_no++;
	ASSERT(out->no < LAB_MAX_MRM);
	lab_path(o, out->socket, "mrm-%d.sock", out->no);
	lab_path(o, out->cache_dir, "cache-%d", out->no);
	lab_path(o, notify_path, "notify-%d", out->no);
	lab_mkdir(out->cache_dir);
	for (; *args; args++) {
		ASSERT(n + 1 < MRM_MAX_ARGS);
		argv[n++] = *args;
	}
	OWN_FD int notify = notify_socket(notify_path);
	setenv("NOTIFY_SOCKET", notify_path, 1);
	snprintf(name, sizeof name, "mrm-%d", out->no);
	out->pid = lab_spawn(o, name, argv);
	unsetenv("NOTIFY_SOCKET");
	wait_ready(o, name, notify, out->pid);
}

void mrm_stop(struct mrm *m)
{
	int status;
	kill(m->pid, SIGTERM);
	if (waitpid(m->pid, &status, 0) != m->pid || status != 0)
		die("the daemon ended with wait status %#x", status);
	metrics_unlink(m->socket);
}

static uint64_t cpu_ns(pid_t pid)
{
	struct timespec t;
	clockid_t clock;
	int e = clock_getcpuclockid(pid, &clock);
	if (e || clock_gettime(clock, &t))
		die_errno(e ? e : errno, "the daemon's processor time");
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void mrm_settle(const struct mrm *m)
{
	const struct timespec look = {.tv_nsec = SETTLE_NS};
	for (uint64_t before = 0, now = cpu_ns(m->pid); now - before > SETTLE_NS / 20; now = cpu_ns(m->pid)) {
		before = now;
		nanosleep(&look, NULL);
	}
}

trims_conn *lab_connect(const struct mrm *m)
{
	const struct trims_connect_options options = {.size = sizeof options, .program = "trims-bench"};
	trims_conn *conn;
	if (trims_connect(m->socket, &options, &conn))
		die_trims("connecting");
	return conn;
}

trims_model *lab_open(trims_conn *conn, const char *name, uint32_t tier)
{
	const struct trims_open_options options = {.size = sizeof options, .tier = tier};
	trims_model *model;
	if (trims_open(conn, name, &options, &model))
		die_trims("opening");
	return model;
}

static uint64_t used_bytes(trims_conn *conn, uint32_t tier)
{
	static const char *const names[] = {[TRIMS_TIER_DISK] = "disk", [TRIMS_TIER_HOST] = "host",
		[TRIMS_TIER_GPU] = "gpu"};
	char *text;
	size_t bytes, i;
	uint64_t next, used = 0;
	if (trims_query(conn, TRIMS_REPORT_TIERS, NULL, 0, &text, &bytes, &next))
		die_trims("asking for the tiers");
	json_t *report = json_loadb(text, bytes, 0, NULL), *row;
	free(text);
	json_array_foreach(json_object_get(report, "tiers"), i, row) {
		const char *name = json_string_value(json_object_get(row, "tier"));
		if (name && (tier == TRIMS_TIER_ANY || strcmp(name, names[tier]) == 0))
			used += (uint64_t)json_integer_value(json_object_get(row, "used"));
	}
	json_decref(report);
	return used;
}

void lab_evict(trims_conn *conn, const char *name, uint32_t tier)
{
	lab_evict_all(conn, &name, 1, tier);
}

void lab_evict_all(trims_conn *conn, const char *const names[], size_t n, uint32_t tier)
{
	for (size_t i = 0; i < n; i++) {
		int r = trims_evict(conn, names[i], tier, NULL, NULL, 0);
		if (r && r != -TRIMS_E_NOT_FOUND)
			die_trims("evicting");
	}
	for (uint64_t end = bench_now_ns() + READY_MS * NS_PER_MS; used_bytes(conn, tier) > 0; poll(NULL, 0, 1))
		if (bench_now_ns() > end)
			die("what was evicted a minute ago still takes memory");
}

/* ---- nginx ---- */

/* A port that was free a moment ago; nobody else on this machine is likely to take it in between. */
static int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	OWN_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &len))
		die_errno(errno, "looking for a free port");
	return ntohs(a.sin_port);
}

static void wait_connectable(const struct bench_options *o, int port, pid_t pid)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)port)};
	for (uint64_t end = bench_now_ns() + READY_MS * NS_PER_MS; bench_now_ns() < end;) {
		OWN_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
			return;
		if (waitpid(pid, NULL, WNOHANG) == pid)
			die_with_log(o, "nginx", "nginx ended at once; its log ends:");
		poll(NULL, 0, 5);
	}
	die("nginx did not listen within a minute");
}

bool lab_has(const char *program)
{
	const char *at = getenv("PATH");
	for (size_t n; at && *at; at += n + (at[n] == ':')) {
		char path[LAB_PATH];
		n = strcspn(at, ":");
		snprintf(path, sizeof path, "%.*s/%s", (int)n, at, program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

int nginx_start(const struct bench_options *o, const char *root)
{
	static const char *const temporaries[] = {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"};
	char conf[LAB_PATH], log[LAB_PATH], pid_file[LAB_PATH];
	int port = free_port();
	lab_path(o, conf, "nginx.conf");
	lab_path(o, log, "nginx.log");
	lab_path(o, pid_file, "nginx.pid");
	FILE *f = fopen(conf, "we");
	if (!f)
		die_errno(errno, "writing %s", conf);
	/* One process in the foreground: it dies with this one.  Several connections at once all the same. */
	fprintf(f, "daemon off;\nmaster_process off;\nerror_log %s;\npid %s;\nevents { worker_connections 256; }\n"
		"http {\n\taccess_log off;\n\tsendfile on;\n\ttcp_nopush on;\n", log, pid_file);
	for (size_t i = 0; i < ARRAY_LEN(temporaries); i++)
		fprintf(f, "\t%s_temp_path %s/nginx-%s;\n", temporaries[i], o->lab, temporaries[i]);
	fprintf(f, "\tserver { listen 127.0.0.1:%d; root %s; }\n}\n", port, root);
	fclose(f);
	const char *argv[] = {"nginx", "-e", log, "-c", conf, NULL};
	pid_t pid = lab_spawn(o, "nginx", argv);
	wait_connectable(o, port, pid);
	return port;
}
