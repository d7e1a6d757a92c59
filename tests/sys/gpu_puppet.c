/* gpu_puppet.c - a program for tests of faults: uses models on a GPU as it is told, a line a command, and answers each with a
 * line: "ok ..." or a code and a sentence.  Beside libtrims it makes no driver call that a fault script could mean (but for
 * lose and mend), holds several models, and says what descriptors it has left.
 *
 *	gpu_puppet SOCKET
 *	open MODEL [nowait|wait [UUID|host [HELPER]]]  "ok K hit"; host: by a plan that leaves tensors 1 to 6 there; HELPER: by
 *			      one that sends them over that device's link
 *	wait K                stream K           private K      close K
 *	read K                "ok name=crc32 ..." of every tensor's bytes, as the device has them
 *	info K                "ok leased export stream-wait"
 *	connect reconnect disconnect check       as in trims.h; it begins connected
 *	fds                   "ok" and what its descriptors from number 3 on are
 *	lose N RESULT, mend N what simcuda offers to tests
 *
 * End of input: closes all and ends with status 0. */
#include "client/trims.h"
#include "shared/base.h"
#include "shared/own.h"
#include "tests/sys/crc32.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODELS 8

static const char *path;
static trims_conn *conn;
static trims_model *model[MODELS];

static void say_failure(void)
{
	printf("%s %s", trims_code_name(trims_last_error()->code), trims_last_error()->text);
}

static bool said(int result)
{
	if (result < 0)
		say_failure();
	else
		printf("ok");
	return result >= 0;
}

static void cmd_open(const char *name, const char *how, const char *device, const char *helper)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU, .device = *device ? device : NULL,
		.flags = strcmp(how, "nowait") ? 0 : TRIMS_OPEN_NO_WAIT};
	struct trims_info info = {.size = sizeof info};
	struct trims_plan_entry entries[6];
	const struct trims_plan plan = {.size = sizeof plan, .entries = entries, .n_entries = ARRAY_LEN(entries), .helpers = &helper,
		.n_helpers = *helper != 0};
	int k = 0;
	for (uint32_t i = 0; i < ARRAY_LEN(entries); i++)
		entries[i] = (struct trims_plan_entry){.tensor = i + 1, .place = *helper ? TRIMS_PLAN_LOAD : TRIMS_PLAN_HOST,
			.link = *helper != 0};
	if (!strcmp(device, "host"))
		o.device = NULL;
	if (!strcmp(device, "host") || *helper)
		o.plan = &plan;
	while (k < MODELS - 1 && model[k])
		k++;
	if (said(trims_open(conn, name, &o, &model[k])))
		printf(" %d %s", k, trims_info(model[k], &info) == 0 && info.hit ? "hit" : "miss");
}

static void cmd_read(trims_model *m)
{
	uint32_t n = 0;
	struct trims_tensor t;
	OWN_MEM char *line = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&line, &size);
	int r = trims_tensor_count(m, &n);
	for (uint32_t i = 0; i < n && r == 0; i++) {
		OWN_MEM uint8_t *bytes = NULL;
		r = trims_tensor(m, i, &t);
		bytes = r == 0 ? malloc(t.bytes + 1) : NULL;
		if (bytes && (r = trims_read(m, i, 0, bytes, t.bytes)) == 0)
			fprintf(f, " %s=%08x", t.name, crc32_of(bytes, t.bytes));
	}
	fclose(f);
	if (said(r))
		printf("%s", line);
}

static void cmd_private(trims_model *m)
{
	uint32_t n = 0;
	void *at = NULL;
	int r = trims_tensor_count(m, &n);
	said(r < 0 ? r : trims_private(m, n ? n - 1 : 0, &at));
}

static void cmd_info(trims_model *m)
{
	struct trims_info info = {.size = sizeof info};
	if (said(trims_info(m, &info)))
		printf(" %u %u %u", info.leased, info.export_kind, info.stream_wait);
}

static void cmd_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	char what[300];
	printf("ok");
	while (d && (e = readdir(d))) {
		ssize_t n = atoi(e->d_name) > 2 && atoi(e->d_name) != dirfd(d)
			? readlinkat(dirfd(d), e->d_name, what, sizeof what - 1) : -1;
		if (n >= 0)
			printf(" %.*s", (int)n, what);
	}
	if (d)
		closedir(d);
}

/* simcuda_lose() and simcuda_mend() want an initialised driver. */
static void cmd_simcuda(const char *symbol, int device, int value)
{
	void *dl = dlopen(getenv("TRIMS_CUDA_DRIVER"), RTLD_NOW | RTLD_LOCAL);
	int (*init)(unsigned) = dl ? (int (*)(unsigned))dlsym(dl, "cuInit") : NULL;
	void *f = dl ? dlsym(dl, symbol) : NULL;
	if (!init || !f || init(0))
		printf("NO_TIER no simulated driver");
	else if (strcmp(symbol, "simcuda_lose") ? ((int (*)(int))f)(device) : ((int (*)(int, int))f)(device, value))
		printf("BAD_REQUEST %s", symbol);
	else
		printf("ok");
}

static bool of_conn(const char *verb)
{
	if (!strcmp(verb, "connect"))
		said(trims_connect(path, NULL, &conn));
	else if (!strcmp(verb, "reconnect"))
		said(trims_reconnect(conn));
	else if (!strcmp(verb, "check"))
		said(trims_check(conn));
	else if (!strcmp(verb, "disconnect"))
		trims_disconnect(&conn), said(0);
	else
		return false;
	return true;
}

static bool of_model(const char *verb, trims_model **m)
{
	if (!strcmp(verb, "read"))
		cmd_read(*m);
	else if (!strcmp(verb, "wait"))
		said(trims_wait(*m, TRIMS_FOREVER));
	else if (!strcmp(verb, "stream"))
		said(trims_wait_stream(*m, TRIMS_ALL_TENSORS, NULL));
	else if (!strcmp(verb, "private"))
		cmd_private(*m);
	else if (!strcmp(verb, "info"))
		cmd_info(*m);
	else if (!strcmp(verb, "close"))
		trims_close(m), said(0);
	else
		return false;
	return true;
}

static void command(const char *verb, const char *a, const char *b, const char *c, const char *d)
{
	int k = atoi(a);
	if (!strcmp(verb, "open"))
		cmd_open(a, b, c, d);
	else if (!strcmp(verb, "fds"))
		cmd_fds();
	else if (!strcmp(verb, "lose"))
		cmd_simcuda("simcuda_lose", k, atoi(b));
	else if (!strcmp(verb, "mend"))
		cmd_simcuda("simcuda_mend", k, 0);
	else if (!of_conn(verb) && (k < 0 || k >= MODELS || !model[k] || !of_model(verb, &model[k])))
		printf("BAD_REQUEST no such command or model");
}

int main(int argc, char **argv)
{
	char line[1024];
	path = argc > 1 ? argv[1] : NULL;
	if (trims_connect(path, NULL, &conn)) {
		say_failure();
		putchar('\n');
		return 1;
	}
	while (fgets(line, sizeof line, stdin)) {
		char verb[16] = "", a[512] = "", b[16] = "", c[64] = "", d[64] = "";
		sscanf(line, "%15s %511s %15s %63s %63s", verb, a, b, c, d);
		command(verb, a, b, c, d);
		putchar('\n');
		fflush(stdout);
	}
	for (int k = 0; k < MODELS; k++)
		trims_close(&model[k]);
	trims_disconnect(&conn);
	return 0;
}
