/* gpu_client.c - a client of models on a GPU that does what it is told, for tests: one command a line on standard input,
 * one line of answer each.     gpu_client SOCKET
 *   open NAME [now] [DEVICE] [host=I,...] [load=I,...] [keep=N]
 *                              opens on tier gpu; `now`: without waiting for bytes; the
 *                              others make a plan, in their order                         ok COPY EXPORT HIT
 *   stream                     makes a stream wait for every byte, on the GPU or here    ok gpu|cpu|none
 *   sync                       waits for that stream, then asks whether the bytes came   ok | error CODE TEXT
 *   sums                       reads every tensor back                                   ok NAME=CRC32 ...
 *   device_sums                the same through the device, at the tensor's address
 *   places                                                                               ok NAME=local|direct|staged|numa|trusted ...
 *   counts                                                                               ok device=BYTES direct=N staged=N numa=N trusted=N
 *   note                       why tensors on the host are not all `direct`              ok TEXT
 *   wait INDEX                 waits for that tensor                                      ok
 *   private INDEX              writes to a copy of its own of that tensor                ok
 *   state                                                                                ok leased=N
 *   reconnect, close                                                                     ok
 * A refusal is answered by: error CODE TEXT.  It ends with its input. */
#include "client/trims.h"

#include "shared/base.h"
#include "shared/cuda.h"
#include "tests/sys/crc32.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static trims_conn *conn;
static trims_model *model;
static struct cuda *cu;
static cu_context ctx;
static cu_stream stream;

static void answer(int r)
{
	if (r)
		printf("error %s %s\n", trims_code_name(r), trims_last_error()->text);
	else
		puts("ok");
}

static struct trims_info info(void)
{
	struct trims_info i = {.size = sizeof i};
	trims_info(model, &i);
	return i;
}

static struct trims_plan_entry entries[256];
static struct trims_plan plan;

static void add_entries(const char *numbers, uint8_t place)
{
	for (char *end; *numbers && plan.n_entries < ARRAY_LEN(entries); numbers = *end ? end + 1 : end)
		entries[plan.n_entries++] = (struct trims_plan_entry){.tensor = (uint32_t)strtoul(numbers, &end, 10), .place = place};
}

/* "host=1,2", "load=3" or "keep=4096" */
static bool add_to_plan(const char *word)
{
	if (!strncmp(word, "host=", 5))
		add_entries(word + 5, TRIMS_PLAN_HOST);
	else if (!strncmp(word, "load=", 5))
		add_entries(word + 5, TRIMS_PLAN_LOAD);
	else if (!strncmp(word, "keep=", 5))
		plan.keep_bytes = strtoull(word + 5, NULL, 10);
	else
		return false;
	return true;
}

static void do_open(char *words)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU};
	char *name = strtok(words, " ");
	plan = (struct trims_plan){.size = sizeof plan, .entries = entries};
	for (char *word; (word = strtok(NULL, " "));)
		if (!strcmp(word, "now"))
			o.flags |= TRIMS_OPEN_NO_WAIT;
		else if (add_to_plan(word))
			o.plan = &plan;
		else
			o.device = word;
	trims_close(&model);
	int r = trims_open(conn, name, &o, &model);
	if (r) {
		answer(r);
		return;
	}
	struct trims_info i = info();
	printf("ok %llu %s %u\n", (unsigned long long)i.copy, i.export_kind == TRIMS_EXPORT_VMM_FD ? "vmm-fd" : "cuda-ipc", i.hit);
}

/* A context and stream of its own, as an engine would have. */
static bool driver_is_there(void)
{
	struct fault why = {0};
	if (stream)
		return true;
	if (cuda_load(&cu, getenv("TRIMS_CUDA_DRIVER"), &why) || cu->primary_ctx_retain(&ctx, 0) ||
		cu->ctx_set_current(ctx) || cu->stream_create(&stream, CU_STREAM_NO_NULL_SYNC)) {
		printf("error DRIVER %s\n", why.text);
		return false;
	}
	return true;
}

static void do_stream(void)
{
	static const char *const who[] = {"none", "cpu", "gpu"};
	if (!driver_is_there())
		return;
	int r = trims_wait_stream(model, TRIMS_ALL_TENSORS, stream);
	if (r)
		answer(r);
	else
		printf("ok %s\n", who[info().stream_wait]);
}

static void do_sync(void)
{
	cu_result r = cu->stream_synchronize(stream);
	if (r)
		printf("error DRIVER %s\n", cuda_name(cu, r));
	else
		answer(trims_wait(model, 0));
}

/* As a kernel would: the device copies it to memory that the CPU may then read. */
static int read_by_device(const struct trims_tensor *t, uint8_t *to)
{
	cu_ptr scratch;
	if (!driver_is_there() || cu->mem_alloc(&scratch, MIB))
		return TRIMS_E_GPU_ERROR;
	bool good = true;
	for (uint64_t at = 0, n; at < t->bytes && good; at += n) {
		n = MIN(t->bytes - at, MIB);
		good = !cu->memcpy_dtod(scratch, (uintptr_t)t->data + at, n) && !cu->memcpy_dtoh(to + at, scratch, n);
	}
	cu->mem_free(scratch);
	return good ? 0 : TRIMS_E_GPU_ERROR;
}

static int sum_tensor(uint32_t index, bool by_device, char *out, size_t size)
{
	struct trims_tensor t;
	int r = trims_tensor(model, index, &t);
	uint8_t *bytes = r == 0 ? malloc(t.bytes + 1) : NULL;
	if (r == 0)
		r = by_device ? read_by_device(&t, bytes) : trims_read(model, index, 0, bytes, t.bytes);
	if (r == 0)
		snprintf(out, size, " %s=%u", t.name, crc32_of(bytes, t.bytes));
	free(bytes);
	return r;
}

static int place_tensor(uint32_t index, bool ignored, char *out, size_t size)
{
	static const char *const places[] = {"local", "direct", "staged", "numa", "trusted"};
	struct trims_tensor t;
	int r = trims_tensor(model, index, &t);
	if (r == 0)
		snprintf(out, size, " %s=%s", t.name, places[t.place]);
	return r;
}

/* One word about each tensor. */
static void do_each(int (*fn)(uint32_t index, bool flag, char *out, size_t size), bool flag)
{
	char line[16384] = "ok";
	uint32_t n = 0;
	int r = trims_tensor_count(model, &n);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		size_t len = strlen(line);
		r = fn(i, flag, line + len, sizeof line - len);
	}
	if (r)
		answer(r);
	else
		puts(line);
}

static void do_private(uint32_t index)
{
	struct trims_tensor t;
	void *mine = NULL;
	int r = trims_tensor(model, index, &t);
	if (r == 0)
		r = trims_private(model, index, &mine);
	if (r == 0 && driver_is_there() && cu->memset_d8((uintptr_t)mine, 0x5a, t.bytes))
		puts("error DRIVER memset");
	else
		answer(r);
}

static void obey(char *line)
{
	if (!strncmp(line, "open ", 5))
		do_open(line + 5);
	else if (!strcmp(line, "stream"))
		do_stream();
	else if (!strcmp(line, "sync"))
		do_sync();
	else if (!strcmp(line, "sums"))
		do_each(sum_tensor, false);
	else if (!strcmp(line, "device_sums"))
		do_each(sum_tensor, true);
	else if (!strcmp(line, "places"))
		do_each(place_tensor, false);
	else if (!strcmp(line, "counts"))
		printf("ok device=%llu direct=%u staged=%u numa=%u trusted=%u\n", (unsigned long long)info().device_bytes,
			info().direct_tensors, info().staged_tensors, info().numa_tensors, info().trusted_tensors);
	else if (!strcmp(line, "note"))
		printf("ok %s\n", info().place_note);
	else if (!strncmp(line, "wait ", 5))
		answer(trims_wait_tensor(model, (uint32_t)atoi(line + 5), TRIMS_FOREVER));
	else if (!strncmp(line, "private ", 8))
		do_private((uint32_t)atoi(line + 8));
	else if (!strcmp(line, "state"))
		printf("ok leased=%u\n", info().leased);
	else if (!strcmp(line, "reconnect"))
		answer(trims_reconnect(conn));
	else if (!strcmp(line, "close"))
		trims_close(&model), answer(0);
	else
		puts("error COMMAND");
}

int main(int argc, char **argv)
{
	char line[1024];
	if (argc != 2)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	answer(trims_connect(argv[1], NULL, &conn));
	while (conn && fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		obey(line);
	}
	trims_close(&model);
	trims_disconnect(&conn);
	return 0;
}
