/* lab.h - the processes and files a benchmark works with, all inside its temporary directory.
 * Thread: main.  Everything here dies with the worker and is removed by its parent. */
#ifndef TOOLS_BENCH_LAB_H
#define TOOLS_BENCH_LAB_H

#include "client/trims.h"
#include "tools/bench/bench.h"

#include <stdio.h>
#include <sys/types.h>

#define LAB_PATH 512
#define LAB_MAX_MRM 8 /* sockets are mrm-0.sock and on */

/* DIR/printf(...) of the lab, in out. */
void lab_path(const struct bench_options *o, char out[LAB_PATH], const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void lab_mkdir(const char *path);
/* A file to be written, DIR/NAME.  The caller closes it. */
FILE *lab_create(const char *dir, const char *name);
/* A file of its own with the same bytes, seen to the disk; both may share blocks there, but no page of the page cache. */
void lab_copy(const char *from, const char *to);

/* Starts a program whose output goes to NAME.log of the lab. */
pid_t lab_spawn(const struct bench_options *o, const char *name, const char *const argv[]);
/* NAME.log, to be added to; the caller's to close. */
int lab_log(const struct bench_options *o, const char *name);

/* The n-th core, from 0, that this process was given; -1: it has fewer. */
int lab_core(unsigned n);
/* Keeps the main thread of a process (0: this one) on a core; -1: on any that this process was given. */
void lab_place(pid_t pid, int core);

/* One line on a terminal that says how far a long preparation is; NULL: it is over, the line goes. */
void lab_progress(const char *what, uint64_t done, uint64_t total);

struct mrm {
	pid_t pid;
	int no;
	char socket[LAB_PATH], cache_dir[LAB_PATH];
};

/* Starts a daemon of its own cache directory and waits until it says that it is ready.  args: further options, NULL at
 * the end. */
void mrm_start(const struct bench_options *o, struct mrm *out, const char *const args[]);
void mrm_stop(struct mrm *m);
/* Returns when the daemon has nothing left to do: what is measured next does not share the machine with it. */
void mrm_settle(const struct mrm *m);

trims_conn *lab_connect(const struct mrm *m);
/* Opens and waits for all bytes. */
trims_model *lab_open(trims_conn *conn, const char *name, uint32_t tier);
/* Drops a model from a tier and waits until its memory and files are given back, so that what is measured next does not
 * share the machine with that; fine when it is not there. */
void lab_evict(trims_conn *conn, const char *name, uint32_t tier);
void lab_evict_all(trims_conn *conn, const char *const names[], size_t n, uint32_t tier);

/* Whether $PATH has that program. */
bool lab_has(const char *program);
/* Starts nginx on a free port of the loopback with `root` as its documents; the port. */
int nginx_start(const struct bench_options *o, const char *root);

/* ---- models (model.c) ---- */

struct model_spec {
	uint64_t bytes;       /* of all tensors together */
	uint32_t n_tensors;
	bool compressible;    /* LZ4 makes about six tenths of it; otherwise it saves nothing */
	bool hole;            /* but for their first bytes the tensors are a hole in the file: zeros, no space on the disk */
	uint64_t seed;
};

/* Writes a safetensors file and sees it to the disk.  The file's bytes. */
uint64_t model_write(const char *path, const struct model_spec *spec);
/* Takes the file's pages out of the page cache, or all of them in; there is no number where that cannot be. */
void model_make_cold(const char *path);
void model_make_warm(const char *path);

#endif
