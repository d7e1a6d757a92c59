/* points_main.c - gpu_points NAME [DRIVER]: answers one open point about the device; see points.def.
 * gpu_points --list prints names and time limits.  Exit status: 0 answered, 1 could not be, 77 no device. */
#include "tests/gpu/points.h"

#include "shared/seqpacket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum needs { BARE, LAB };

static const struct point {
	const char *name;
	int seconds;
	enum needs needs;
	void (*answer)(struct point_lab *lab);
} points[] = {
#define POINT(name, seconds, needs, doc) {#name, seconds, needs, point_##name},
#include "tests/gpu/points.def"
};

static const struct role {
	const char *name;
	void (*play)(struct point_lab *lab, int peer);
} roles[] = {
#define ROLE(name) {#name, role_##name},
	ROLES(ROLE)
#undef ROLE
};

static unsigned n_out;

static void out_key(const char *key)
{
	printf("%s\"%s\": ", n_out++ ? ", " : "{", key);
}

void out_number(const char *key, double value)
{
	out_key(key);
	printf("%.6g", value);
}

void out_flag(const char *key, bool value)
{
	out_key(key);
	fputs(value ? "true" : "false", stdout);
}

void out_text(const char *key, const char *value)
{
	out_key(key);
	putchar('"');
	for (; *value; value++)
		if (*value >= ' ' && *value != '"' && *value != '\\' && *value < 127)
			putchar(*value);
	putchar('"');
}

void out_result(struct point_lab *lab, const char *key, cu_result r)
{
	out_text(key, r ? cuda_name(lab->cu, r) : "ok");
}

const char *sized(const char *key, uint64_t bytes)
{
	static char text[64];
	bool gib = bytes >= GIB, mib = bytes >= MIB;
	snprintf(text, sizeof text, "%s_%llu%s", key, (unsigned long long)(bytes / (gib ? GIB : mib ? MIB : KIB)),
		gib ? "g" : mib ? "m" : "k");
	return text;
}

void give_up(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("gpu_points: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

void must(struct point_lab *lab, cu_result r, const char *what)
{
	if (r)
		give_up("%s: %s (%d)", what, cuda_name(lab->cu, r), (int)r);
}

double now_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double median(double *v, size_t n)
{
	qsort(v, n, sizeof *v, by_value);
	return v[n / 2];
}

/* ---- other processes ---- */

pid_t role_start(struct point_lab *lab, const char *role, int *peer)
{
	int pair[2];
	if (seqpacket_pair(pair))
		give_up("no socket pair: %s", strerror(errno));
	fflush(stdout);
	pid_t child = fork();
	if (child < 0)
		give_up("fork: %s", strerror(errno));
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(pair[1], 3);
		execl(lab->self, lab->self, "--role", role, lab->driver, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	*peer = pair[0];
	return child;
}

void tell(int peer, uint64_t word, int fd)
{
	int e = seqpacket_send(peer, &word, sizeof word, &fd, fd >= 0 ? 1 : 0, 0);
	if (e)
		give_up("the other process is gone: %s", strerror(-e));
}

uint64_t hear(int peer, int *fd)
{
	uint64_t word;
	int got = -1;
	uint32_t n = 0;
	ssize_t r = seqpacket_recv(peer, &word, sizeof word, &got, 1, &n, 0);
	if (r != sizeof word)
		give_up("the other process is gone");
	if (fd)
		*fd = got;
	else if (got >= 0)
		close(got);
	return word;
}

void tell_bytes(int peer, const void *bytes, size_t n)
{
	if (seqpacket_send(peer, bytes, n, NULL, 0, 0))
		give_up("the other process is gone");
}

void hear_bytes(int peer, void *bytes, size_t n)
{
	uint32_t none = 0;
	int no_fd;
	if (seqpacket_recv(peer, bytes, n, &no_fd, 0, &none, 0) != (ssize_t)n)
		give_up("the other process is gone");
}

/* ---- start ---- */

static void open_lab(struct point_lab *lab)
{
	struct fault why;
	if (cuda_load(&lab->cu, lab->driver, &why)) {
		fprintf(stderr, "gpu_points: %s\n", why.text);
		exit(77);
	}
	MUST(lab, device_get, &lab->device, 0);
	MUST(lab, primary_ctx_retain, &lab->ctx, lab->device);
	MUST(lab, ctx_set_current, lab->ctx);
}

static int list(void)
{
	for (size_t i = 0; i < ARRAY_LEN(points); i++)
		printf("%s %d\n", points[i].name, points[i].seconds);
	return 0;
}

static int play(struct point_lab *lab, const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(roles); i++)
		if (!strcmp(roles[i].name, name)) {
			roles[i].play(lab, 3);
			return 0;
		}
	give_up("no role %s", name);
}

static int answer(struct point_lab *lab, const struct point *p)
{
	if (p->needs == LAB) {
		open_lab(lab);
		out_flag("simulated", lab->cu->simulated);
	}
	p->answer(lab);
	puts("}");
	return 0;
}

int main(int argc, char **argv)
{
	struct point_lab lab = {.self = "/proc/self/exe"};
	if (argc == 2 && !strcmp(argv[1], "--list"))
		return list();
	if (argc >= 3 && !strcmp(argv[1], "--role")) {
		lab.driver = argc > 3 ? argv[3] : NULL;
		return play(&lab, argv[2]);
	}
	lab.driver = argc > 2 ? argv[2] : NULL;
	for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(points); i++)
		if (!strcmp(points[i].name, argv[1]))
			return answer(&lab, &points[i]);
	fprintf(stderr, "usage: gpu_points NAME [DRIVER]; NAME is one of --list\n");
	return 2;
}
