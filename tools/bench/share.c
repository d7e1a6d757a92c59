/* share.c - trims-bench share: what N processes with the same model take, as the kernel accounts it.
 * The sum is over the whole of every process, libraries and stacks too, and over the daemon, whose own mapping takes its
 * part of each shared page, a second after its load, when it holds what it means to keep.  Every client has read a byte
 * of every page. */
#include "tools/bench/lab.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CLIENTS 8
#define SETTLE_MS 1500 /* an idle daemon gives its reading buffers back after a second */

struct holder {
	pid_t pid;
	int to, from; /* its standard input and output */
};

static void holder_start(const struct bench_options *o, const struct mrm *m, struct holder *h)
{
	char path[PATH_MAX];
	int to[2], from[2];
	snprintf(path, sizeof path, "%s/trims-bench-client", o->bin_dir);
	const char *argv[] = {path, "hold", m->socket, "bench", NULL};
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		die_errno(errno, "pipe");
	h->pid = fork();
	if (h->pid < 0)
		die_errno(errno, "fork");
	if (h->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(to[0], STDIN_FILENO);
		dup2(from[1], STDOUT_FILENO);
		execv(path, (char *const *)argv);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	h->to = to[1];
	h->from = from[0];
}

static void holder_ready(const struct holder *h)
{
	char text[8] = "";
	if (read(h->from, text, sizeof text) < 6 || strncmp(text, "ready\n", 6) != 0)
		die("share: a client did not get its model");
}

static void holder_stop(struct holder *h)
{
	int status;
	close(h->to);
	if (waitpid(h->pid, &status, 0) != h->pid || status)
		die("share: a client ended with wait status %#x", status);
	close(h->from);
}

static uint64_t pss_bytes(pid_t pid)
{
	char path[64], line[256];
	uint64_t kib, sum = 0;
	snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		die_errno(errno, "%s", path);
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "Pss: %" SCNu64 " kB", &kib) == 1)
			sum += kib * KIB;
	fclose(f);
	return sum;
}

static json_t *measure(const struct bench_options *o, const struct mrm *m, unsigned n, uint64_t model_bytes)
{
	struct holder holders[MAX_CLIENTS];
	uint64_t daemon, clients = 0;
	for (unsigned i = 0; i < n; i++)
		holder_start(o, m, &holders[i]);
	for (unsigned i = 0; i < n; i++)
		holder_ready(&holders[i]);
	daemon = pss_bytes(m->pid);
	for (unsigned i = 0; i < n; i++)
		clients += pss_bytes(holders[i].pid);
	for (unsigned i = 0; i < n; i++)
		holder_stop(&holders[i]);
	return json_pack("{s:I,s:I,s:f,s:I}", "model_bytes", (json_int_t)model_bytes, "sum_pss_bytes",
		(json_int_t)(daemon + clients), "ratio", (double)(daemon + clients) / (double)model_bytes, "daemon_pss_bytes",
		(json_int_t)daemon);
}

json_t *bench_share(const struct bench_options *o)
{
	static const unsigned counts[] = {1, 2, 4, MAX_CLIENTS};
	const struct model_spec spec = {.bytes = bench_bytes(o, GIB), .n_tensors = 128, .seed = 5};
	struct mrm m;
	char path[LAB_PATH], source[LAB_PATH + 8], size[32];
	lab_path(o, path, "models");
	lab_mkdir(path);
	lab_path(o, path, "models/bench");
	lab_mkdir(path);
	lab_path(o, path, "models/bench/model.safetensors");
	uint64_t bytes = model_write(path, &spec);
	snprintf(source, sizeof source, "dir:%s/models", o->lab);
	snprintf(size, sizeof size, "%llu", (unsigned long long)(2 * bytes));
	mrm_start(o, &m, (const char *const[]){"--source", source, "--host-bytes", size, NULL});
	json_t *result = json_object(), *last = NULL;
	trims_conn *conn = lab_connect(&m);
	trims_model *model = lab_open(conn, "bench", TRIMS_TIER_HOST);
	trims_close(&model);
	trims_disconnect(&conn);
	poll(NULL, 0, SETTLE_MS);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		char key[32];
		snprintf(key, sizeof key, "clients_%u", counts[i]);
		last = measure(o, &m, counts[i], bytes);
		json_object_set_new(result, key, last);
	}
	json_object_update(result, last); /* the figures of the most clients are the benchmark's */
	mrm_stop(&m);
	return result;
}
