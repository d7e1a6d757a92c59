/* trims.h - use models that the daemon mrm holds for the whole machine.
 *
 *	trims_conn *conn;
 *	trims_model *model;
 *	struct trims_tensor t;
 *	if (trims_connect(NULL, NULL, &conn) || trims_open(conn, "org/model", NULL, &model) ||
 *	    trims_tensor_by_name(model, "embed.weight", &t))
 *		fprintf(stderr, "%s\n", trims_last_error()->text);
 *
 * An open model is a lease on one copy of it that every process on the machine shares.  Its bytes are mapped read-only;
 * they stay where they are until trims_close(), whatever becomes of the daemon or the connection.
 *
 * Results: functions return 0, or a negative enum trims_code with the story in trims_last_error().  Outputs are written
 * only on success.  Nothing here prints, aborts, raises a signal, or starts a thread, with one exception: a connection
 * that has opened a model on a GPU has one thread of its own, see "GPUs" below.
 *
 * Threads: any number may use one connection or model at once; requests are in flight side by side.  Only
 * trims_disconnect() and trims_close() want to be the last user of what they end.  After fork() the child may read
 * mapped tensors and close or disconnect, which then says nothing to the daemon; for requests it connects anew.
 *
 * Times are in nanoseconds and relative.  ABI: the option structs begin with their size; a library that is older than
 * its caller refuses what it does not know (UNSUPPORTED) instead of ignoring it. */
#ifndef TRIMS_H
#define TRIMS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined __GNUC__
#define TRIMS_API __attribute__((visibility("default")))
#else
#define TRIMS_API
#endif

typedef struct trims_conn trims_conn;
typedef struct trims_model trims_model;

#define TRIMS_DEFAULT_SOCKET "/run/trims/mrm.sock"
#define TRIMS_FOREVER UINT64_MAX
#define TRIMS_MAX_RANK 8
#define TRIMS_MAX_TEXT 512

/* ---- what went wrong ---- */

#ifndef TRIMS_CODES
#define TRIMS_CODES
enum trims_code {
	TRIMS_E_NONE = 0,
	TRIMS_E_NOT_FOUND = 1,       /* no configured source has a model of this name */
	TRIMS_E_BAD_NAME = 2,        /* not a valid model name */
	TRIMS_E_BAD_REQUEST = 3,     /* an argument has a value that is not allowed */
	TRIMS_E_BAD_MODEL = 4,       /* the model's files are malformed or of an unsupported kind */
	TRIMS_E_TOO_LARGE = 5,       /* the model is larger than the tier */
	TRIMS_E_NO_ROOM = 6,         /* the tier is full of models that are in use or pinned */
	TRIMS_E_NO_TIER = 7,         /* this machine has no such tier or device */
	TRIMS_E_DENIED = 8,          /* the caller may not do this */
	TRIMS_E_LIMIT = 9,           /* a configured limit is reached */
	TRIMS_E_UNREACHABLE = 10,    /* the source could not be reached */
	TRIMS_E_REFUSED = 11,        /* the source refused access */
	TRIMS_E_CHANGED = 12,        /* the model changed at its source while it was read */
	TRIMS_E_MISMATCH = 13,       /* the bytes do not match their digest */
	TRIMS_E_DISK_FULL = 14,      /* the cache directory has no space left */
	TRIMS_E_DISK_ERROR = 15,     /* reading or writing the disk failed */
	TRIMS_E_NO_MEMORY = 16,      /* the machine is out of memory */
	TRIMS_E_CANCELLED = 17,      /* the request was cancelled */
	TRIMS_E_TIMED_OUT = 18,      /* the deadline passed first */
	TRIMS_E_BUSY = 19,           /* the model is leaving this tier, or in use */
	TRIMS_E_NO_LEASE = 20,       /* no such lease on this connection */
	TRIMS_E_NO_FILE = 21,        /* the model carries no file of this name */
	TRIMS_E_NO_TENSOR = 22,      /* the model has no such tensor */
	TRIMS_E_UNSUPPORTED = 23,    /* not supported by this daemon or library */
	TRIMS_E_BAD_SOURCE = 24,     /* the source sent something that makes no sense */
	TRIMS_E_PROTOCOL = 25,       /* the peer broke the protocol */
	TRIMS_E_VERSION = 26,        /* no common protocol version */
	TRIMS_E_DISCONNECTED = 27,   /* the connection to the daemon is gone */
	TRIMS_E_TOO_MANY_CONNS = 28, /* too many connections for this user or in all */
	TRIMS_E_STOPPING = 29,       /* the daemon is stopping */
	TRIMS_E_INTERNAL = 30,       /* internal error */
	TRIMS_E_NO_SYSTEM = 31,      /* the operating system refused a resource */
	TRIMS_E_GPU_ERROR = 32       /* a GPU or its driver failed */
};

/* The largest thing that an error spoils: the request alone (try again or give up), the connection (trims_reconnect()),
 * the daemon (wait for another). */
enum trims_scope { TRIMS_SCOPE_REQUEST, TRIMS_SCOPE_CONN, TRIMS_SCOPE_DAEMON };
#endif

struct trims_error {
	int code;  /* enum trims_code, positive */
	int scope; /* enum trims_scope */
	char text[TRIMS_MAX_TEXT];
};

/* The last failure of the calling thread; never NULL, valid until that thread's next failing call. */
TRIMS_API const struct trims_error *trims_last_error(void);
/* "NOT_FOUND"; takes a code as it is or negative, as functions return it. */
TRIMS_API const char *trims_code_name(int code);
/* "request", "conn", "daemon" */
TRIMS_API const char *trims_scope_name(int scope);
/* The library's version, "0.1.0". */
TRIMS_API const char *trims_version(void);

/* ---- connections ---- */

struct trims_connect_options {
	size_t size;                 /* sizeof(struct trims_connect_options) */
	const char *program;         /* who is asking, for the daemon's logs; NULL: this program's name */
	uint64_t timeout_ns;         /* for connecting and being welcomed; 0: ten seconds */
	uint64_t request_timeout_ns; /* for every request but trims_open(); 0: none */
};

/* socket_path NULL: $TRIMS_SOCKET, else TRIMS_DEFAULT_SOCKET; a leading '@' means an abstract address.
 * options NULL: the defaults. */
TRIMS_API int trims_connect(const char *socket_path, const struct trims_connect_options *options, trims_conn **out);
/* Connects again, to the same path, when the connection is gone; 0 and nothing done when it is alive.  Models that were
 * open before keep their mappings.  When the daemon that answers is the same one come back (it has the same cache
 * directory), their leases are asked for again; whether a model has one says `leased` in its trims_info(): a daemon that
 * did not keep the memory over its restart has nothing to lease.  The mappings are good either way, but for models whose
 * export is TRIMS_EXPORT_CUDA_IPC: see "GPUs". */
TRIMS_API int trims_reconnect(trims_conn *conn);
/* 0 while the connection is alive, as far as the kernel knows; else why it is not. */
TRIMS_API int trims_check(trims_conn *conn);
/* NULLs *conn; NULL is fine.  Gives every lease back; models still open keep their mappings until trims_close(). */
TRIMS_API void trims_disconnect(trims_conn **conn);

/* ---- models ---- */

enum trims_tier { TRIMS_TIER_ANY = 0, TRIMS_TIER_DISK = 1, TRIMS_TIER_HOST = 2, TRIMS_TIER_GPU = 3 };

enum trims_open_flags {
	TRIMS_OPEN_NO_LOAD = 1,   /* refuse instead of loading when the model is not resident */
	TRIMS_OPEN_NO_WAIT = 2,   /* return when the lease is granted, with bytes still arriving: see trims_wait() */
	TRIMS_OPEN_BACKGROUND = 4 /* stand behind every load that somebody waits for */
};

/* How a model comes to a GPU, or in which order to the host: see "Plans" below. */
struct trims_plan;

struct trims_open_options {
	size_t size;         /* sizeof(struct trims_open_options) */
	uint32_t tier;       /* enum trims_tier */
	uint32_t flags;      /* enum trims_open_flags */
	uint64_t timeout_ns; /* for the whole call; 0: none */
	const char *device;  /* UUID ("GPU-...", "MIG-..."), for TRIMS_TIER_GPU; NULL: any that this process sees */
	const struct trims_plan *plan; /* for TRIMS_TIER_GPU and TRIMS_TIER_HOST, read during the call; NULL: all of it, in the
	                                * order of its tensors */
};

/* Takes a lease on `name` or `name@revision`.  options NULL: the best tier, wait until every byte is there. */
TRIMS_API int trims_open(trims_conn *conn, const char *name, const struct trims_open_options *options,
	trims_model **out);
/* Gives the lease back; every pointer into the model ends here.  NULLs *model; NULL is fine. */
TRIMS_API void trims_close(trims_model **model);

/* How the memory of a device is shared: by descriptors of cuMemCreate() memory, or by cudaIpcMemHandles. */
enum trims_export { TRIMS_EXPORT_NONE = 0, TRIMS_EXPORT_VMM_FD = 1, TRIMS_EXPORT_CUDA_IPC = 2 };

/* Who waits in trims_wait_stream(): the stream, or the calling thread (`wait-on-cpu`).  NONE: nobody has to, every byte was
 * there when the model was opened. */
enum trims_stream_wait { TRIMS_STREAM_WAIT_NONE = 0, TRIMS_STREAM_WAIT_CPU = 1, TRIMS_STREAM_WAIT_GPU = 2 };

struct trims_info {
	size_t size;          /* in: sizeof(struct trims_info) */
	uint32_t tier;        /* enum trims_tier: where this copy is */
	uint32_t hit;         /* 1: all bytes were there when it was opened */
	uint64_t image_bytes; /* on that tier */
	uint64_t copy;        /* equal numbers from one daemon run are the same memory */
	uint64_t digest_hi, digest_lo; /* of the content; 0 while not every byte has been seen */
	uint32_t leased;      /* 1: the daemon still counts this model as in use; 0: the lease went with its connection */
	/* of TRIMS_TIER_GPU, else 0 and empty */
	uint32_t export_kind; /* enum trims_export */
	uint32_t stream_wait; /* enum trims_stream_wait */
	uint32_t simulated;   /* 1: the device is simcuda's; nothing timed on it is a measurement */
	char device[64];      /* its UUID */
	char note[128];       /* why stream_wait is TRIMS_STREAM_WAIT_CPU */
	uint64_t device_bytes; /* what of the image is in the device's memory */
	uint32_t direct_tensors, staged_tensors; /* that are not: by enum trims_place */
	uint64_t direct_bytes, staged_bytes;
	char place_note[256]; /* why some are not TRIMS_PLACE_HOST_DIRECT, after the name of the last way that some went */
	uint64_t helper_bytes; /* what of device_bytes came over other devices' links, as a plan said; grows while bytes arrive */
	uint64_t version;     /* of every tier: equal numbers from one daemon run are the same bytes, wherever the copies are */
	uint32_t numa_tensors, trusted_tensors;
	uint64_t numa_bytes, trusted_bytes;
};
TRIMS_API int trims_info(trims_model *model, struct trims_info *out);

/* ---- tensors ---- */

enum trims_dtype {
	TRIMS_DTYPE_NONE = 0,
	TRIMS_DTYPE_F32 = 1, TRIMS_DTYPE_F16 = 2, TRIMS_DTYPE_BF16 = 3, TRIMS_DTYPE_F64 = 4,
	TRIMS_DTYPE_I8 = 5, TRIMS_DTYPE_I16 = 6, TRIMS_DTYPE_I32 = 7, TRIMS_DTYPE_I64 = 8,
	TRIMS_DTYPE_U8 = 9, TRIMS_DTYPE_U16 = 10, TRIMS_DTYPE_U32 = 11, TRIMS_DTYPE_U64 = 12,
	TRIMS_DTYPE_BOOL = 13, TRIMS_DTYPE_C64 = 14,
	TRIMS_DTYPE_F8_E5M2 = 15, TRIMS_DTYPE_F8_E4M3 = 16, TRIMS_DTYPE_F8_E8M0 = 17,
	TRIMS_DTYPE_F8_E4M3FNUZ = 18, TRIMS_DTYPE_F8_E5M2FNUZ = 19,
	TRIMS_DTYPE_F4 = 20, TRIMS_DTYPE_F6_E2M3 = 21, TRIMS_DTYPE_F6_E3M2 = 22,
	/* quantised blocks, as ggml lays them out */
	TRIMS_DTYPE_Q4_0 = 32, TRIMS_DTYPE_Q4_1 = 33, TRIMS_DTYPE_Q5_0 = 34, TRIMS_DTYPE_Q5_1 = 35,
	TRIMS_DTYPE_Q8_0 = 36, TRIMS_DTYPE_Q8_1 = 37, TRIMS_DTYPE_Q2_K = 38, TRIMS_DTYPE_Q3_K = 39,
	TRIMS_DTYPE_Q4_K = 40, TRIMS_DTYPE_Q5_K = 41, TRIMS_DTYPE_Q6_K = 42, TRIMS_DTYPE_Q8_K = 43,
	TRIMS_DTYPE_IQ2_XXS = 44, TRIMS_DTYPE_IQ2_XS = 45, TRIMS_DTYPE_IQ3_XXS = 46, TRIMS_DTYPE_IQ1_S = 47,
	TRIMS_DTYPE_IQ4_NL = 48, TRIMS_DTYPE_IQ3_S = 49, TRIMS_DTYPE_IQ2_S = 50, TRIMS_DTYPE_IQ4_XS = 51,
	TRIMS_DTYPE_IQ1_M = 52, TRIMS_DTYPE_TQ1_0 = 53, TRIMS_DTYPE_TQ2_0 = 54, TRIMS_DTYPE_MXFP4 = 55,
	TRIMS_DTYPE_NVFP4 = 56, TRIMS_DTYPE_Q1_0 = 57, TRIMS_DTYPE_Q2_0 = 58
};

/* "BF16"; "?" for a number this library does not know. */
TRIMS_API const char *trims_dtype_name(uint32_t dtype);
/* How many elements share how many bytes: 1 and 4 for F32, 32 and 18 for Q4_0.  UNSUPPORTED for an unknown number. */
TRIMS_API int trims_dtype_block(uint32_t dtype, uint32_t *elements, uint32_t *bytes);

/* Where a tensor is that trims_tensor() points to. */
enum trims_place {
	TRIMS_PLACE_LOCAL = 0,       /* in the memory of the model's tier, with everybody's */
	TRIMS_PLACE_HOST_DIRECT = 1, /* of a model on a GPU: in host memory, where the device's kernels read it over the link */
	TRIMS_PLACE_STAGED = 2,      /* the same, but the device cannot: in device memory of this model handle alone */
	TRIMS_PLACE_HOST_NUMA = 3,   /* as HOST_DIRECT, in memory that the daemon shares for that: it is everybody's, */
	TRIMS_PLACE_HOST_TRUSTED = 4 /* or it is this user's, all of whose processes can write there: do not */
};

struct trims_tensor {
	const char *name; /* NUL-terminated */
	uint32_t index;   /* in the order of the model's files, as `trims-ctl show` lists them */
	uint32_t dtype;   /* enum trims_dtype */
	uint32_t rank;
	uint32_t place;   /* enum trims_place */
	uint64_t shape[TRIMS_MAX_RANK]; /* outermost first */
	uint64_t bytes;
	const void *data; /* 256-byte aligned; NULL on tier disk; on TRIMS_TIER_GPU a device's address (CUdeviceptr), for its
	                     kernels and copies and not for the CPU, wherever the tensor is.  May be NULL when bytes is 0.
	                     Bytes that have not arrived read as anything. */
};

TRIMS_API int trims_tensor_count(trims_model *model, uint32_t *out);
/* Valid until trims_close(), as are the pointers in it.  NO_TENSOR: index is not below the count. */
TRIMS_API int trims_tensor(trims_model *model, uint32_t index, struct trims_tensor *out);
TRIMS_API int trims_tensor_by_name(trims_model *model, const char *name, struct trims_tensor *out);

/* Waits until every byte, or that tensor's bytes, are there and checked.  timeout_ns 0 only looks.  TIMED_OUT; the
 * load's own error when it failed; DISCONNECTED when the daemon went away before the bytes came. */
TRIMS_API int trims_wait(trims_model *model, uint64_t timeout_ns);
TRIMS_API int trims_wait_tensor(trims_model *model, uint32_t index, uint64_t timeout_ns);

enum trims_state { TRIMS_STATE_LOADING, TRIMS_STATE_READY, TRIMS_STATE_FAILED };

struct trims_progress {
	uint64_t landed_bytes, image_bytes;
	uint32_t state; /* enum trims_state */
	uint32_t error; /* enum trims_code, for TRIMS_STATE_FAILED */
};
TRIMS_API int trims_progress(trims_model *model, struct trims_progress *out);

/* Copies part of a tensor to memory of this process, from whatever tier the model is on (UNSUPPORTED on tier disk).  The
 * bytes must have arrived (trims_wait_tensor()).  BAD_REQUEST: offset and bytes reach beyond the tensor. */
TRIMS_API int trims_read(trims_model *model, uint32_t index, uint64_t offset, void *to, size_t bytes);

/* ---- GPUs ----
 *
 * trims_open() with TRIMS_TIER_GPU gives device addresses.  The connection's first such open attaches it: the driver
 * (libcuda.so.1, or what $TRIMS_CUDA_DRIVER names) is loaded and initialised, the daemon's way of sharing memory is tried
 * out on a small piece, and the connection's thread is started.  NO_TIER: no driver, or no device that both sides see;
 * UNSUPPORTED: no way of sharing worked, and the text says why not.
 *
 * Contexts.  Every call here that needs a context uses the one that is current on the calling thread when that is one
 * of the model's device, else that device's primary context, and leaves current what was current.  Addresses of
 * TRIMS_EXPORT_VMM_FD models are good in every context of that device.  Those of TRIMS_EXPORT_CUDA_IPC models are good only
 * in the context they were opened in, and a process can open a copy in one context at a time (UNSUPPORTED says so).
 * trims_private() memory belongs to the context that was used.  A context must outlive the models opened and the
 * connection attached in it.
 *
 * Captures.  Calls may be made while streams are being captured, by this thread or others: nothing of theirs becomes part of a
 * graph, and no capture is spoilt by them.
 *
 * Memory.  What trims_tensor() points to is the daemon's and everybody's, mapped read-only where the driver can
 * (TRIMS_EXPORT_VMM_FD; a kernel that writes to it ends with an illegal-address error), and must not be written in any
 * case.  A process that opens one copy several times has it mapped once; the last trims_close() unmaps it.  Work that uses
 * a model or waits for it must be complete when the model is closed.
 *
 * The thread.  One per connection that is attached, ended by trims_disconnect() and restarted by trims_reconnect().  It
 * sleeps until the daemon is gone and then lets every stream go that waits in trims_wait_stream(), so that none hangs.  It
 * blocks all signals and makes no driver call.  As everywhere in CUDA, a child of fork() can use nothing of this (its calls
 * fail with UNSUPPORTED); it must exec first.
 *
 * When the daemon dies: models exported as TRIMS_EXPORT_VMM_FD stay as they are, for as long as this process wants.
 * Those exported as TRIMS_EXPORT_CUDA_IPC are gone with it: their pointers must not be used any more, waits and requests
 * fail with DISCONNECTED, and after trims_reconnect() they are to be closed and opened again. */

#define TRIMS_ALL_TENSORS UINT32_MAX

/* Makes a CUDA stream (a CUstream or cudaStream_t; NULL: the null stream) wait until that tensor's bytes, or all, are there.
 * Returns at once where info.stream_wait is TRIMS_STREAM_WAIT_GPU; where it is TRIMS_STREAM_WAIT_CPU the call itself waits,
 * so that what is put on the stream afterwards is right either way.  BAD_REQUEST: the stream is being captured, and bytes are
 * still to come: a graph would wait for them at every launch.  The stream's context must be current or be found by
 * the rule above.
 * A load that fails, or a daemon that dies, lets the stream go as well: when the stream has passed this point,
 * trims_wait_tensor() (or trims_wait()) with a timeout of 0 says whether the bytes are there; results computed without asking
 * are worth nothing.  A stream that waits may hold up others that share its hardware queue (CUDA_DEVICE_MAX_CONNECTIONS).
 * Errors as of trims_wait(); GPU_ERROR: the driver refused. */
TRIMS_API int trims_wait_stream(trims_model *model, uint32_t index, void *cu_stream);

/* A copy of that tensor that belongs to this model handle alone and may be written, for engines that change weights in
 * place (scales, buffers).  Waits for the tensor first; the same address each time; freed by trims_close().  NO_MEMORY: the
 * device has no room for it. */
TRIMS_API int trims_private(trims_model *model, uint32_t index, void **device_address);

/* ---- Plans ----
 *
 * A plan says which tensors a GPU needs in its own memory and in which order, and which its kernels read where the host tier
 * has them (direct host access): an embedding of which a run touches a few rows is not worth its way over the link.
 * On TRIMS_TIER_HOST a plan is the order alone: a load that this open begins follows it, and of one that is under way without an
 * order whatever was not begun comes in it; who learns a model's tensors by opening it opens it again with the order.
 * A plan is a wish about cost, never about results: it is given by whoever makes the daemon load the model on a device, stays
 * with that copy, and other opens, with another plan or none, get the copy as it is.  So do pins, which have no plan: a copy that
 * trims_prefetch() has brought by one is kept as it is, and where a pin itself makes the daemon load, all of the model comes (it
 * may in idle time, too, while it is wanted again and again).  What of it came true says each
 * tensor's `place`, and every tensor's `data` is good for the device's kernels in any case.
 *
 * Tensors that a copy does not have: the library opens the same version of the model on the host tier as well (a second lease on
 * this connection, given back by trims_close()) and makes those tensors readable by the device, in this order:
 * `dha-registered`: their pages are registered with the driver for reading, where the device's attribute 113
 * (READ_ONLY_HOST_REGISTER) allows it: TRIMS_PLACE_HOST_DIRECT; `dha-host-numa`: the daemon gives memory of its driver's on the host
 * that has them: TRIMS_PLACE_HOST_NUMA; `dha-trusted`: it gives memory that this user's processes share, and may write, where its operator
 * says so: TRIMS_PLACE_HOST_TRUSTED; `dha-staged`: they are copied to device memory of this
 * model handle: TRIMS_PLACE_STAGED.  trims_info() counts them and says why.  For what is on the host trims_wait_stream() waits
 * itself, whatever stream_wait says, since no slot counts it.  CHANGED: the model was replaced between the two opens, again
 * and again.  In a plan of tensors that are whole 4 MiB and more, what is read from the host costs no device memory; smaller
 * ones share memory with their neighbours. */

enum trims_plan_place { TRIMS_PLAN_LOAD = 0, TRIMS_PLAN_HOST = 1 };

#define TRIMS_PLAN_MAX_ENTRIES (1u << 18)
#define TRIMS_PLAN_MAX_HELPERS 8

struct trims_plan_entry {
	uint32_t tensor; /* its index; one that the model does not have, or that was there before, is BAD_REQUEST */
	uint8_t place;   /* enum trims_plan_place */
	uint8_t link;    /* 0: over the device's own link; k: over that of helpers[k - 1] and from there to the device */
	uint16_t step;   /* the layer it belongs to, for traces */
};

struct trims_plan {
	size_t size;                            /* sizeof(struct trims_plan) */
	const struct trims_plan_entry *entries; /* in the order of execution; tensors that are in none are loaded behind them */
	uint32_t n_entries;                     /* at most TRIMS_PLAN_MAX_ENTRIES */
	uint32_t n_helpers;                     /* at most TRIMS_PLAN_MAX_HELPERS */
	const char *const *helpers;             /* UUIDs of devices whose links may help */
	uint64_t keep_bytes;      /* under pressure an idle copy may shrink to that many leading bytes; 0: it goes whole */
	uint64_t dha_bytes_per_s; /* of the device's link, to be kept free for direct reads while the model is open; 0: none */
};

/* ---- files that travel with a model ---- */

/* Maps one, config.json say, read-only until trims_close(). */
TRIMS_API int trims_file(trims_model *model, const char *path, const void **data, size_t *bytes);
/* The same as a descriptor that can only be read, close-on-exec, the caller's to close. */
TRIMS_API int trims_file_fd(trims_model *model, const char *path, int *fd, uint64_t *bytes);

/* ---- for tools ---- */

enum trims_report {
	TRIMS_REPORT_LS = 1,     /* models the daemon knows */
	TRIMS_REPORT_SHOW = 2,   /* one model */
	TRIMS_REPORT_TRACE = 3,  /* the last loads of a model and where the time went */
	TRIMS_REPORT_DOCTOR = 4, /* what this machine has, and which degraded paths are in use */
	TRIMS_REPORT_TIERS = 5,  /* tiers and links */
	TRIMS_REPORT_LINKS = 6,  /* per GPU and direction: what is queued and moving */
	TRIMS_REPORT_PROFILE = 7 /* a model's stored profiles, the oldest first, one a page */
};

/* One page of a report, as a JSON text that ends with a NUL and is the caller's to free().  model: NULL for reports
 * about no single one.  cursor: 0 for the first page, then what *next said; *next is 0 at the end. */
TRIMS_API int trims_query(trims_conn *conn, uint32_t report, const char *model, uint64_t cursor, char **json,
	size_t *bytes, uint64_t *next);
/* Reads every byte of a model's copies and compares digests; the result as for trims_query(). */
TRIMS_API int trims_verify(trims_conn *conn, const char *name, char **json, size_t *bytes);

/* Stores a profile of a model (JSON of the format trims-profile-1, tools/README.md) beside it, instead of the one of the same
 * device class, driver and executor.  DENIED unless the caller may pin; BAD_REQUEST when it is none.  text as below. */
TRIMS_API int trims_put_profile(trims_conn *conn, const char *name, const char *json, size_t bytes, char *text,
	size_t text_size);

/* tier: enum trims_tier; TRIMS_TIER_ANY means the best for the first two, all of them for the others.  device: the UUID of
 * one, for TRIMS_TIER_GPU (BAD_REQUEST with another tier, NO_TIER when the daemon has none of that UUID; this process need not
 * see it); NULL: any for the first two, every one for the others.  plan: as for trims_open().  text, unless NULL, gets a
 * sentence about what was done (TRIMS_MAX_TEXT bytes are enough for any). */
TRIMS_API int trims_prefetch(trims_conn *conn, const char *name, uint32_t tier, const char *device,
	const struct trims_plan *plan, char *text, size_t text_size);
TRIMS_API int trims_pin(trims_conn *conn, const char *name, uint32_t tier, const char *device, char *text,
	size_t text_size);
TRIMS_API int trims_unpin(trims_conn *conn, const char *name, uint32_t tier, const char *device, char *text,
	size_t text_size);
TRIMS_API int trims_evict(trims_conn *conn, const char *name, uint32_t tier, const char *device, char *text,
	size_t text_size);

#ifdef __cplusplus
}
#endif

#endif
