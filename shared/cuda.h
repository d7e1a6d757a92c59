/* cuda.h - the CUDA driver as a table of entry points, found at run time; nothing of the toolkit is needed to build.
 * The types and numbers are the driver's ABI under names of our own; cuda.def has every entry, result and constant.
 * A cu_result never leaves the files that include this header: it becomes a fault or an -errno there.
 *
 *	struct cuda *cu;
 *	if (cuda_load(&cu, NULL, &why))
 *		... no GPU, and `why` says why
 *	cu_result r = cu->mem_create(&handle, bytes, &prop, 0);
 *	if (r)
 *		return cuda_fault(cu, r, "cuMemCreate", &why);
 *
 * Thread: a loaded table is never written again, so any.  Most calls need a context that is current on the thread.
 * A child of fork() must not use its parent's table.  Ownership: cuda_free() frees the table; the library itself stays
 * in the process once it was initialised, since drivers do not survive being unloaded. */
#ifndef SHARED_CUDA_H
#define SHARED_CUDA_H

#include "shared/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cu_result {
	CU_OK = 0,
#define CU_RESULT(number, name, lost, text) CU_E_##name = number,
#include "shared/cuda.def"
} cu_result;

/* Values of cu_device_attr. */
enum cu_attr_number {
#define CU_ATTR(number, name, theirs) CU_ATTR_##name = number,
#include "shared/cuda.def"
};

enum cu_constant {
#define CU_CONST(name, value, theirs) name = value,
#include "shared/cuda.def"
};

typedef int cu_device; /* 0 to n - 1 in this process; a device's identity is its UUID */
typedef uint64_t cu_ptr; /* an address in the memory of a device, or of registered host memory as devices see it */
typedef uint64_t cu_word;
typedef uint64_t cu_mem_handle; /* a VMM allocation, valid in this process alone */
typedef unsigned long long cu_flags64;
typedef uint32_t cu_device_attr, cu_p2p_attr, cu_pointer_attr, cu_handle_type, cu_granularity, cu_query_status;
typedef uint32_t cu_capture_mode, cu_capture_status;
typedef struct cu_context_object *cu_context;
typedef struct cu_stream_object *cu_stream; /* NULL: the null stream of the current context */
typedef struct cu_event_object *cu_event;
typedef struct cu_graph_object *cu_graph;
typedef struct cu_graph_exec_object *cu_graph_exec;
typedef struct cu_module_object *cu_module;
typedef struct cu_function_object *cu_function;
typedef void (*cu_host_fn)(void *data); /* must not call the driver */

struct cu_uuid {
	char bytes[16];
};

struct cu_ipc_mem_handle {
	char reserved[64];
};

struct cu_mem_location {
	uint32_t type; /* CU_AT_ */
	int id;
};

struct cu_mem_prop {
	uint32_t type;         /* CU_ALLOCATION_PINNED */
	uint32_t handle_types; /* CU_HANDLE_ */
	struct cu_mem_location location;
	void *windows;
	struct {
		unsigned char compression, rdma;
		unsigned short usage;
		unsigned char reserved[4];
	} flags;
};

struct cu_mem_access {
	struct cu_mem_location location;
	uint32_t flags; /* CU_PROT_ */
};

struct cu_copy_attrs {
	uint32_t source_order; /* CU_ORDER_ */
	struct cu_mem_location source_hint, destination_hint;
	unsigned flags;
};

struct cuda {
#define CU(field, name, symbol, version, need, arguments) cu_result(*field) arguments;
#include "shared/cuda.def"
	int driver_version; /* 1000 * major + 10 * minor */
	int n_devices;      /* at least 1 */
	bool simulated;     /* the library is simcuda: no figure that comes from it is a measurement */
	char path[256];     /* the library: as it was asked for */
	void *dl;
};

/* What NULL stands for as a path. */
#define CUDA_LIBRARY "libcuda.so.1"

/* Loads the driver's library, initialises it, finds every entry.  -ENODEV for whatever amounts to "no GPU": no library,
 * one that is no driver, the toolkit's stub, a driver that is too old or lacks an entry, no device; `why` (code NO_TIER)
 * is the sentence.  -ENOMEM. */
int cuda_load(struct cuda **out, const char *path, struct fault *why);
void cuda_free(struct cuda **cu);

/* "CUDA_ERROR_OUT_OF_MEMORY"; never NULL.  `cu` may be NULL. */
const char *cuda_name(const struct cuda *cu, cu_result result);
/* What a person is told about it; never NULL. */
const char *cuda_text(const struct cuda *cu, cu_result result);
/* True for results after which the process cannot use the device, or that context of it, any more. */
bool cuda_lost(cu_result result);
/* Makes "WHAT: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory" of a failed call; returns -EPROTO.  Code: NO_MEMORY, NO_TIER
 * for a lost device, UNSUPPORTED, else GPU_ERROR. */
int cuda_fault(const struct cuda *cu, cu_result result, const char *what, struct fault *why);

#define CUDA_UUID_TEXT 41
/* "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", as nvidia-smi prints it. */
void cuda_uuid_text(const struct cu_uuid *uuid, char text[CUDA_UUID_TEXT]);

#endif
