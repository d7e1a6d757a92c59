/* points.h - what the answers of gpu_points share.  A point prints figures with out_*() and ends by returning, or by give_up().
 * Thread: main.  Owns: the lab owns driver and context; whatever a point leaves behind goes with its process. */
#ifndef TESTS_GPU_POINTS_H
#define TESTS_GPU_POINTS_H

#include "shared/base.h"
#include "shared/cuda.h"

#include <sys/types.h>

struct point_lab {
	struct cuda *cu;
	cu_device device;
	cu_context ctx; /* current */
	const char *self;   /* this program, for second processes */
	const char *driver; /* path, NULL: the system's */
};

#define POINT(name, seconds, needs, doc) void point_##name(struct point_lab *lab);
#include "tests/gpu/points.def"

/* Keys of the one object that is printed. */
void out_number(const char *key, double value);
void out_text(const char *key, const char *value);
void out_flag(const char *key, bool value);
/* "key" with a size: key_2m, key_1g. */
const char *sized(const char *key, uint64_t bytes);
/* The result's name. */
void out_result(struct point_lab *lab, const char *key, cu_result r);

/* Ends the program with a sentence and exit status 1. */
_Noreturn void give_up(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* give_up() unless r is CU_OK. */
void must(struct point_lab *lab, cu_result r, const char *what);
#define MUST(lab, entry, ...) must(lab, (lab)->cu->entry(__VA_ARGS__), #entry)

double now_us(void);
/* Middle value; sorts. */
double median(double *v, size_t n);

/* ---- device memory ---- */

#define VMM_ALIGNMENT (2 * MIB) /* a multiple of every granularity there is; the default of a reservation is nowhere written */
struct cu_mem_prop fd_prop(const struct point_lab *lab);
/* Made, mapped with these rights and (out fd) exported; give_up() on failure. */
struct vmm {
	cu_mem_handle handle;
	cu_ptr at;
	uint64_t bytes;
	int fd;
};
void vmm_make(struct point_lab *lab, uint64_t bytes, struct vmm *out);
void vmm_import(struct point_lab *lab, int fd, uint64_t bytes, uint32_t prot, struct vmm *out);
void vmm_drop(struct point_lab *lab, struct vmm *v);

/* Pinned host memory of the driver's. */
void *pinned(struct point_lab *lab, uint64_t bytes);
/* Fills with, and compares with, a pattern of 64-bit words that `seed` stands for. */
void pattern_fill(void *at, uint64_t bytes, uint64_t seed);
bool pattern_holds(const void *at, uint64_t bytes, uint64_t seed);
/* To and from the device, by way of pinned memory. */
void pattern_write(struct point_lab *lab, cu_ptr at, uint64_t bytes, uint64_t seed);
bool pattern_read(struct point_lab *lab, cu_ptr at, uint64_t bytes, uint64_t seed);

/* ---- other processes ---- */

/* Runs this program again as `role` (main.c), with one end of a socket pair as descriptor 3; *peer is the other end. */
pid_t role_start(struct point_lab *lab, const char *role, int *peer);
/* A word and a descriptor (-1: none) each way; give_up() when the peer is gone. */
void tell(int peer, uint64_t word, int fd);
uint64_t hear(int peer, int *fd);
/* The same for bytes. */
void tell_bytes(int peer, const void *bytes, size_t n);
void hear_bytes(int peer, void *bytes, size_t n);

/* What the other process does, by role. */
#define ROLES(X) X(vmm_owner) X(vmm_reader) X(vmm_sharer) X(fd_holder) X(ipc_owner) X(ipc_reader)
#define ROLE(name) void role_##name(struct point_lab *lab, int peer);
ROLES(ROLE)
#undef ROLE

#endif
