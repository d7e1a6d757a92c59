/* example-client.c - a whole program that uses libtrims: opens a model, reads every byte of it, holds it until its
 * standard input ends.     example-client SOCKET MODEL
 * Prints one line of JSON when it has read everything; tools/quickstart runs several at once. */
#include "client/trims.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int failed(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, trims_last_error()->text);
	return EXIT_FAILURE;
}

/* The sum of all bytes, which is to say that every page of the model gets mapped. */
static uint64_t sum_tensor(const struct trims_tensor *t)
{
	const unsigned char *p = t->data;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < t->bytes; i++)
		sum += p[i];
	return sum;
}

int main(int argc, char **argv)
{
	struct trims_open_options options = {.size = sizeof options, .flags = TRIMS_OPEN_NO_WAIT};
	struct trims_info info = {.size = sizeof info};
	trims_conn *conn = NULL;
	trims_model *model = NULL;
	uint64_t bytes = 0, sum = 0;
	uint32_t tensors = 0;
	double began, granted, ready;
	char waste[256];

	if (argc != 3) {
		fprintf(stderr, "usage: %s SOCKET MODEL\n", argv[0]);
		return 2;
	}
	if (trims_connect(argv[1], NULL, &conn))
		return failed(argv[1]);
	began = now_us();
	if (trims_open(conn, argv[2], &options, &model))
		return failed(argv[2]);
	granted = now_us();
	/* The lease is there; bytes may still arrive.  A program that starts with the first layer would wait for that. */
	if (trims_wait(model, TRIMS_FOREVER))
		return failed(argv[2]);
	ready = now_us();
	if (trims_info(model, &info) || trims_tensor_count(model, &tensors))
		return failed(argv[2]);
	for (uint32_t i = 0; i < tensors; i++) {
		struct trims_tensor t;

		if (trims_tensor(model, i, &t))
			return failed(argv[2]);
		bytes += t.bytes;
		sum += sum_tensor(&t);
	}
	printf("{\"open_us\": %.1f, \"ready_us\": %.1f, \"hit\": %" PRIu32 ", \"tensors\": %" PRIu32 ", \"bytes\": %" PRIu64
	       ", \"sum\": %" PRIu64 "}\n", granted - began, ready - began, info.hit, tensors, bytes, sum);
	fflush(stdout);
	while (read(STDIN_FILENO, waste, sizeof waste) > 0)
		;
	trims_close(&model);
	trims_disconnect(&conn);
	return EXIT_SUCCESS;
}
