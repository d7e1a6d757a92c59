/* metrics_segment.h - how the shared-memory object of metrics.h is laid out; private to metrics*.c.
 * Everything but `updated_unix_ns` and the slots is written before `magic`, which is stored last (release), and never
 * changes afterwards. */
#ifndef SHARED_METRICS_SEGMENT_H
#define SHARED_METRICS_SEGMENT_H

#include "shared/metrics.h"

#define METRICS_MAGIC 0x534d5254u /* "TRMS" */
#define METRICS_VERSION 2
#define METRICS_PATH_BYTES 8192 /* a longest directory, a slash and a socket name */

struct metrics_segment {
	_Atomic uint32_t magic;
	uint32_t version;
	uint64_t table_hash; /* metrics_table_hash() of the writer */
	uint64_t boot_hi, boot_lo;
	uint64_t start_unix_ns;
	_Atomic uint64_t updated_unix_ns;
	int32_t pid;
	uint32_t n_slots;
	char program[32];      /* the daemon's version text */
	char revision[64];     /* metrics_revision */
	char socket_path[256]; /* made absolute; what the name is hashed from, cut to fit */
	_Atomic uint64_t slots[METRICS_SLOTS];
};

/* FNV-1a over every row, so that a tool of another build does not misread slots. */
uint64_t metrics_table_hash(void);
/* The path the name is made from: absolute, the directory's links resolved when it exists. */
void metrics_absolute(const char *socket_path, char out[METRICS_PATH_BYTES]);
/* Whether a live process holds the writer's lock on this object. */
bool metrics_fd_alive(int fd);

#endif
