/* client.c - the client processes of trims-bench.
 *   trims-bench-client                        does nothing: the yardstick of `spawn`
 *   trims-bench-client open SOCKET MODEL      reads the first and the last tensor byte and exits
 *   trims-bench-client hold SOCKET MODEL      reads a byte of every page, says "ready", exits at the end of its input */
#include "client/trims.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile unsigned char sink;

static int fail(void)
{
	fprintf(stderr, "trims-bench-client: %s\n", trims_last_error()->text);
	return 1;
}

static int touch_ends(trims_model *model)
{
	struct trims_tensor first, last;
	uint32_t n;
	if (trims_tensor_count(model, &n) || trims_tensor(model, 0, &first) || trims_tensor(model, n - 1, &last))
		return fail();
	sink = ((const unsigned char *)first.data)[0];
	sink = ((const unsigned char *)last.data)[last.bytes - 1];
	return 0;
}

static int touch_all(trims_model *model)
{
	struct trims_tensor t;
	uint32_t n;
	if (trims_tensor_count(model, &n))
		return fail();
	for (uint32_t i = 0; i < n; i++) {
		if (trims_tensor(model, i, &t))
			return fail();
		for (uint64_t at = 0; at < t.bytes; at += 4096)
			sink = ((const unsigned char *)t.data)[at];
		if (t.bytes)
			sink = ((const unsigned char *)t.data)[t.bytes - 1];
	}
	return 0;
}

static int hold(trims_model *model)
{
	char c;
	if (touch_all(model))
		return 1;
	if (write(STDOUT_FILENO, "ready\n", 6) != 6)
		return 1;
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	trims_conn *conn;
	trims_model *model;
	if (argc == 1)
		return 0;
	if (argc != 4)
		return 2;
	if (trims_connect(argv[2], NULL, &conn) || trims_open(conn, argv[3], NULL, &model))
		return fail();
	return strcmp(argv[1], "hold") == 0 ? hold(model) : touch_ends(model);
}
