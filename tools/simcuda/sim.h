/* sim.h - what the files of the simulated driver share.
 * One lock, sim.lock, guards everything of this process; sim_enter() takes it for each entry and the call's scope gives it
 * back.  Whoever waits, waits on sim.done or a stream's own condition, so the lock is free meanwhile.  What processes
 * share is files in one directory (store.c).  Handles are numbers, never addresses (handle.c): a stale one is an error. */
#ifndef TOOLS_SIMCUDA_SIM_H
#define TOOLS_SIMCUDA_SIM_H

#include "shared/base.h"
#include "shared/check.h"
#include "shared/cuda.h"
#include "shared/list.h"
#include "shared/own.h"
#include "tools/simcuda/simcuda.h"
#include "tools/simcuda/topology.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define SIM_GRANULE (2 * MIB)
#define SIM_PAGE ((size_t)4096)
#define SIM_CURRENT_MAX 64 /* contexts pushed on one thread */

/* The driver's own entries, with the table's signatures. */
#define CU(field, name, symbol, version, need, arguments) cu_result symbol arguments;
#include "shared/cuda.def"

enum sim_call {
#define CU(field, name, symbol, version, need, arguments) CALL_##field,
#include "shared/cuda.def"
	CALLS,
};

/* --- links (link.c) --- */
struct link {
	double gbps; /* each direction */
	int active[2];
};

/* One copy engine: one copy at a time, the stream that has it goes on first. */
struct engine {
	bool busy;
	const void *kept_for; /* the stream whose next operation is a copy on this engine */
	uint64_t given_ns;    /* when the last copy ended, */
	double due_ns;        /* and when it should have */
	struct list waiting;
};

enum { ENGINE_UP, ENGINE_DOWN, ENGINE_PEER, ENGINES }; /* to the host, to the device, between devices */

struct sim_device {
	const struct topology_device *config;
	int ordinal;
	cu_result lost; /* CU_OK: it works; else what everything says */
	struct cu_context_object *primary;
	unsigned primary_refs;
	struct link pcie;
	struct engine engines[ENGINES];
	cu_ptr arena; /* where classic allocations lie */
	size_t arena_bytes;
};

/* --- contexts (context.c) --- */
struct cu_context_object {
	cu_context handle;
	struct sim_device *device;
	bool destroyed;
	cu_result error;    /* sticky */
	uint32_t peers;     /* by ordinal: access is on */
	struct list streams, modules;
	struct cu_stream_object *null_stream;
	struct list node;
	unsigned refs; /* streams and events keep it in memory */
	int lease;     /* what the context itself occupies on the device, or -1 */
};

/* --- address ranges (range.c) --- */
enum range_kind { RANGE_CLASSIC, RANGE_VMM, RANGE_IPC, RANGE_REGISTERED, RANGE_HOST };

struct range {
	cu_ptr base;
	size_t bytes;
	enum range_kind kind;
	struct sim_device *device;       /* whose memory; NULL: the host's */
	struct cu_context_object *ctx;   /* who asked for it; NULL for VMM mappings */
	uint32_t readers, writers;       /* by ordinal: which devices may */
	bool cpu_read_only;              /* registered with READ_ONLY */
	bool has_device_pointer;         /* host memory, asked for with the flag */
	unsigned busy;                   /* operations that touch it now */
	bool leaving;                    /* no operation may start on it */
	size_t mapped;                   /* bytes rounded to pages */
	int fd;                          /* classic: holds the lease; IPC: to ask whether somebody does; else -1 */
	uint64_t inode;                  /* which memory, in all processes */
	struct vmm_block *block;         /* VMM */
	struct cu_ipc_mem_handle handle; /* IPC: what it was opened with */
	unsigned opens;
};

/* --- streams (stream.c) --- */
enum op_kind { OP_COPY, OP_SET, OP_HOST, OP_RECORD, OP_WAIT_EVENT, OP_WAIT_VALUE, OP_WRITE_VALUE, OP_HASH, OP_WORK };

struct op {
	struct list node;
	enum op_kind kind;
	enum sim_call call; /* which entry it came from, for the fault script */
	uint64_t number;    /* order in the process */
	cu_ptr to, from;
	size_t bytes; /* of a hash: how many pieces */
	bool pageable;
	cu_word value; /* also the byte of a set */
	unsigned flags;
	cu_host_fn fn;
	void *data;
	struct cu_event_object *event;
	uint64_t record; /* of the event */
	struct work *work;
};

struct cu_stream_object {
	cu_stream handle;
	struct cu_context_object *ctx;
	bool blocking; /* keeps order with the null stream */
	bool dying, running;
	int priority;
	struct list ops; /* the first is the one that runs */
	uint64_t last;   /* number of the newest operation ever queued */
	struct graph *capture; /* what is pushed goes there; NULL: it is run */
	pthread_cond_t work;
	struct list node;
	struct list turn; /* in an engine's queue */
	unsigned refs;
};

struct cu_event_object {
	cu_event handle;
	struct cu_context_object *ctx;
	unsigned flags, refs;
	uint64_t recorded, done; /* numbers of records asked for and finished */
	uint64_t at_ns;          /* when the last one finished */
};

/* --- the process (sim.c) --- */
struct sim {
	pthread_mutex_t lock;
	pthread_cond_t done; /* an operation ended, an engine got free, a range is no longer busy */
	atomic_bool ready, forked;
	cu_result start;     /* what cuInit says */
	struct topology topology;
	struct sim_device devices[TOPOLOGY_DEVICES];
	struct link switches[TOPOLOGY_SWITCHES], nvlinks[TOPOLOGY_NVLINKS];
	struct list contexts;
	uint64_t owner; /* this process, for files and handles */
	uint64_t ops;   /* the last operation's number */
	uint64_t ids;
	int waiting; /* stream waits that have looked once */
	bool deaf;   /* they see no store of the CPU's, whatever the memory */
	int copying; /* copies that have their engine */
	atomic_uint_fast64_t counts[CALLS];
};
extern struct sim sim;

/* What an entry needs before it does anything. */
enum sim_needs { NEEDS_NOTHING, NEEDS_INIT, NEEDS_CONTEXT };

struct call {
	struct cu_context_object *ctx; /* current, alive and well; with NEEDS_CONTEXT */
	bool locked;
};
cu_result sim_enter(struct call *call, enum sim_call which, enum sim_needs needs);
void sim_leave(struct call *call);
#define ENTER(field, needs)                                                                                           \
	OWN(sim_leave) struct call call = {0};                                                                        \
	do {                                                                                                          \
		cu_result entered_ = sim_enter(&call, CALL_##field, needs);                                           \
		if (entered_)                                                                                         \
			return entered_;                                                                              \
	} while (0)

const char *sim_call_name(enum sim_call which);
const char *sim_call_symbol(enum sim_call which);
uint64_t sim_now(void);
void sim_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
struct sim_device *sim_device(cu_device ordinal); /* NULL: there is none */
/* The thread is inside a host function: it must not call. */
extern _Thread_local bool sim_in_host_fn;

/* --- handles (handle.c); with the lock --- */
enum handle_kind { HANDLE_CONTEXT = 1, HANDLE_STREAM, HANDLE_EVENT, HANDLE_BLOCK, HANDLE_MODULE, HANDLE_FUNCTION, HANDLE_GRAPH,
	HANDLE_GRAPH_EXEC };
uint64_t handle_new(enum handle_kind kind, void *object); /* 0: no memory */
void *handle_get(enum handle_kind kind, uint64_t handle); /* NULL: not one, or no longer */
void handle_end(enum handle_kind kind, uint64_t handle);

/* --- contexts --- */
struct cu_context_object *context_of(cu_context handle);
struct cu_context_object *context_current(void); /* NULL: none, or it was destroyed */
/* The current context if it is alive and well, else why not. */
cu_result context_enter(struct cu_context_object **ctx);
void context_ref(struct cu_context_object *ctx);
void context_unref(struct cu_context_object *ctx);
/* A sticky error: all that waits on the context gives up. */
void context_fail(struct cu_context_object *ctx, cu_result result);
/* Waits for all that is queued on its streams now. */
cu_result context_sync(struct cu_context_object *ctx);
/* CU_OK, or why nothing of this context works any more. */
cu_result context_state(const struct cu_context_object *ctx);

/* --- ranges --- */
cu_result range_add(const struct range *r, struct range **out);
/* No operation starts on it any more; returns when none touches it.  False: somebody else removes it already. */
bool range_quiet(struct range *r);
/* Takes a quiet one out of the table and frees it. */
void range_remove(struct range *r);
struct range *range_at(cu_ptr addr);            /* the one that contains it */
struct range *range_first_in(cu_ptr addr, size_t bytes); /* the lowest that has a byte of it */
struct range *range_each(size_t *i);            /* *i from 0; NULL at the end */
/* How a device uses [addr, addr + bytes): CU_OK or INVALID_VALUE. */
cu_result range_check(const struct sim_device *by, cu_ptr addr, size_t bytes, bool write);
/* As range_check(), for what runs on a device: memory of a dead owner is gone. */
bool range_reach(const struct sim_device *by, cu_ptr addr, size_t bytes, bool write);
/* An operation touches the span from now on; false: it is memory that nobody registered. */
bool range_pin(cu_ptr addr, size_t bytes);
void range_unpin(cu_ptr addr, size_t bytes);
/* A host address: is all of it registered (pageable false), none of it (true), or is it INVALID_VALUE? */
cu_result range_host(cu_ptr addr, size_t bytes, bool write, bool *pageable);
/* Where the CPU finds what devices see at this address. */
void *range_cpu(cu_ptr addr);
#define HOST_ALIAS ((cu_ptr)1 << 62) /* added to host addresses where devices see them elsewhere */

/* --- devices, memory --- */
int device_attr(const struct sim_device *d, unsigned attr);
bool device_reaches(const struct sim_device *d, const struct sim_device *peer);
uint32_t vmm_handle_types(const struct vmm_block *b); /* NULL: 0 */
/* Ends whatever the range is: classic memory, a registration, an opened handle. */
void memory_end(struct range *r);

/* --- streams --- */
/* Waits for sim.done, or a little while: what other processes do rings nothing here. */
void sim_wait(void);
cu_result stream_of(struct cu_context_object *current, cu_stream handle, struct cu_stream_object **out);
struct op *op_new(enum op_kind kind, enum sim_call call);
void op_free(struct op *op);
/* Takes the operation; starts the stream's thread.  OUT_OF_MEMORY: the operation is gone. */
cu_result stream_push(struct cu_stream_object *s, struct op *op);
cu_result stream_wait_for(struct cu_stream_object *s, uint64_t number);
cu_result stream_new(struct cu_context_object *ctx, unsigned flags, int priority, struct cu_stream_object **out);
void stream_kill(struct cu_stream_object *s); /* its handle ends now, the stream when its work is done */
void stream_unref(struct cu_stream_object *s);
void event_ref(struct cu_event_object *e);
void event_unref(struct cu_event_object *e);
/* Runs one operation on the stream's thread; called with the lock, gives it up meanwhile. */
cu_result op_run(struct cu_stream_object *s, struct op *op);

/* --- work that computes (work.c); with the lock, free while it runs --- */
cu_result work_push(struct cu_stream_object *s, enum sim_call which, const struct simcuda_work *kind, const void *data,
	size_t bytes);
cu_result work_run(struct cu_stream_object *s, const struct op *op);
void work_ref(struct work *w);
void work_unref(struct work *w);

/* --- captured work (graph.c) --- */
/* Takes the operation. */
cu_result graph_keep(struct graph *g, struct op *op);
/* A capture meets something that it cannot have. */
cu_result graph_refuse(struct graph *g);
void graph_free(struct graph *g);
/* Calls that may not be made while this thread captures, or another one does for which all threads must mind what they call: CU_OK,
 * or the refusal, which ends the capture. */
cu_result graph_unsafe(void);

/* --- the kernels of trims-run (kernel_run.c) --- */
#define KERNEL_RUN_COUNT 12
const char *kernel_run_entry(unsigned k);
cu_result kernel_run_push(struct cu_stream_object *s, unsigned k, const unsigned grid[3], const unsigned block[3],
	const void *arguments);

/* --- the kernel of digests, and modules (kernel.c) --- */
/* Hashes op->bytes pieces; with the lock, free while it works. */
cu_result kernel_hash(struct cu_stream_object *s, const struct op *op);
void kernel_end_modules(struct cu_context_object *ctx);

/* --- links --- */
void link_init(void);
/* Moves bytes at the speed of the links between them; with the lock, free meanwhile. */
void link_copy(struct cu_stream_object *s, const struct op *op);
/* The stream's next operation is not to be the copy at once for which an engine may be kept. */
void link_leave(const struct cu_stream_object *s);
/* Which engine the operation will want; NULL: none. */
struct engine *link_engine(const struct op *op);

/* --- memory that processes share (store.c) --- */
enum store_kind { STORE_CLASSIC = 'm', STORE_VMM = 'v', STORE_HOST = 'h', STORE_CONTEXT = 'c' };

/* The last page of each file. */
struct store_tail {
	char magic[16];
	struct cu_uuid uuid; /* of the device */
	uint64_t owner, key, bytes;
	struct cu_mem_prop prop; /* VMM */
};

/* Opens the directory and the page that all processes map. */
cu_result store_open(void);
/* A file of tail->bytes in the device's memory (NULL: the host's, not counted), leased to whoever holds the descriptor or
 * a mapping of it.  Magic and owner of the tail are filled in. */
cu_result store_create(struct sim_device *d, enum store_kind kind, const struct store_tail *tail, int *fd,
	uint64_t *inode);
/* Takes fd.  The bytes come back now, whoever still maps them. */
void store_remove(struct sim_device *d, enum store_kind kind, uint64_t key, size_t bytes, int fd);
/* Takes fd.  The bytes come back if nobody else holds them. */
void store_drop(struct sim_device *d, enum store_kind kind, const struct store_tail *tail, int fd);
/* A classic allocation of a living owner; -1 with *result. */
int store_find(struct sim_device *d, uint64_t owner, uint64_t key, size_t bytes, cu_result *result, uint64_t *inode);
/* Classic memory that was opened here: did its owner end without freeing it? */
bool store_is_orphan(int fd, size_t bytes);
cu_result store_tail_of(int fd, struct store_tail *tail, uint64_t *inode);
/* Bytes of the device that are in use, in all processes. */
uint64_t store_used(struct sim_device *d);
/* Stream writes ring, stream waits listen: a counter for a place in memory, the same in all processes. */
_Atomic uint64_t *store_bell(uint64_t inode, uint64_t offset);
cu_result store_lost(const struct sim_device *d);
void store_set_lost(const struct sim_device *d, cu_result result);
/* Paths below the directory: a stall's mark and the file that releases all stalls. */
void store_mark(const char *what, bool there);
bool store_has(const char *what);
void store_counts(void); /* maps $SIMCUDA_COUNT over sim.counts' copy */
void store_count(enum sim_call which);

/* --- faults (fault.c) --- */
/* What the script says to this call, or (`running`) to the operation it queued; stalls inside.  Without the lock. */
cu_result fault_call(enum sim_call which, bool running);
/* True: the script says what the attribute is. */
bool fault_attr(int ordinal, unsigned attr, int *value);

#endif
