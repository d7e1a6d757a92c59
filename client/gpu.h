/* gpu.h - the GPU half of libtrims.
 *
 *   gpu_driver.c   the process's driver, its devices, and contexts
 *   gpu_session.c  a connection's session: attaching, the session page, who waits, the watchdog thread
 *   gpu_map.c      the device memory of copies, one mapping per copy and process
 *   gpu_dha.c      what a plan left out of it, read where the host tier has it
 *   gpu_model.c    what an open model has of all that, and the calls of trims.h
 *
 * Keeps: no function leaves another context current than it found; none is called in a forked child with a connection of
 * its parent (conn_foreign()), and with one of its own the driver is refused, since drivers do not survive fork().
 *
 * Thread: any.  Locks, in the order they are taken: a connection's gpu lock, the canary lock, a session's lock, the maps'
 * lock, a model's lock, the registrations' lock, the driver's lock. */
#ifndef CLIENT_GPU_H
#define CLIENT_GPU_H

#include "client/model.h"
#include "shared/cuda.h"
#include "shared/gpu_handle.h"

#define GPU_DEVICES_MAX 32 /* more than any machine has; UUIDs of that many fit into ATTACH */

/* ---- gpu_driver.c ---- */

struct gpu_device {
	int ordinal; /* in this process */
	char uuid[CUDA_UUID_TEXT];
	cu_context primary; /* retained when first needed, until the driver is put; under the driver's lock */
};

struct gpu_driver {
	struct cuda *cu;
	uint32_t n_devices;
	struct gpu_device device[GPU_DEVICES_MAX];
};

/* The driver of this process, loaded by the first who wants it; counted.  NO_TIER: there is none; UNSUPPORTED: it was
 * loaded before this process was forked. */
int gpu_driver_get(struct gpu_driver **out);
/* NULLs *d; NULL is fine. */
void gpu_driver_put(struct gpu_driver **d);
/* NULL when this process does not see it. */
struct gpu_device *gpu_driver_find(struct gpu_driver *d, const char *uuid);
/* The one that is likely to be used: that of this name if it is seen, else that of the caller's context, else any. */
struct gpu_device *gpu_driver_likely(struct gpu_driver *d, const char *uuid);

/* While it lasts a context is current that suits.  Begin with = {0}; leaving is harmless then. */
struct gpu_scope {
	struct gpu_driver *driver;
	cu_context ctx;
	int ordinal; /* of its device */
	bool pushed;
	bool relaxed;         /* somebody else's capture of a stream neither minds what is called here nor is spoilt by it */
	cu_capture_mode mode; /* if so: the thread's own */
};
/* No context, that alone. */
void gpu_enter_none(struct gpu_driver *d, struct gpu_scope *s);
/* The caller's context when it is one of that device, else the device's primary context. */
int gpu_enter(struct gpu_driver *d, struct gpu_device *device, struct gpu_scope *s);
/* That context. */
int gpu_enter_context(struct gpu_driver *d, cu_context ctx, struct gpu_scope *s);
/* The same to unmake something, with patience.  False: it is gone, and what was made in it with it. */
bool gpu_enter_to_undo(struct gpu_driver *d, cu_context ctx, struct gpu_scope *s);
/* The stream's context; the null stream's is the caller's, or the device's primary one. */
int gpu_enter_stream(struct gpu_driver *d, struct gpu_device *device, cu_stream stream, struct gpu_scope *s);
void gpu_leave(struct gpu_scope *s);

/* Unmaking must not stop at one call that fails: what a driver refuses once is asked again.  CU_OK, or the last refusal. */
#define GPU_UNDO_TRIES 3
#define GPU_UNDO(call)                                                                                                \
	({                                                                                                            \
		cu_result undo_ = (call);                                                                             \
		for (int try_ = 1; undo_ && try_ < GPU_UNDO_TRIES; try_++)                                            \
			undo_ = (call);                                                                               \
		undo_;                                                                                                \
	})

/* Records "what: the driver's reason"; returns the failure. */
int gpu_failed(const struct gpu_driver *d, cu_result result, const char *what);

/* Copies on a stream of its own, so that it waits for nothing the caller has queued, and returns when it is done.  Inside a
 * scope. */
int gpu_copy_to_host(struct gpu_driver *d, void *to, cu_ptr from, size_t bytes);
int gpu_copy_on_device(struct gpu_driver *d, cu_ptr to, cu_ptr from, size_t bytes);
int gpu_copy_to_device(struct gpu_driver *d, cu_ptr to, const void *from, size_t bytes);

/* ---- gpu_map.c ---- */

struct gpu_memory;
struct gpu_dha;

/* What is mapped: where, and by which handles. */
struct gpu_source {
	struct gpu_driver *driver;
	struct gpu_device *device;
	uint32_t kind; /* enum gpu_handle_kind */
	uint32_t n;
	const struct gpu_handle *handles; /* [n] */
	const int *fds;                   /* [n], borrowed; unless kind is CUDA_IPC */
};

/* Reads handle records from their descriptor into *out (the caller's to free) and checks them against their number, the
 * kind, and fds that came with them.  PROTOCOL. */
int gpu_records_read(int fd, uint32_t kind, uint32_t n_fds, struct gpu_handle **out, uint32_t *n);
/* Maps memory that nobody else knows of. */
int gpu_memory_map(const struct gpu_source *from, struct gpu_memory **out);
/* Finds the mapping of that copy, or maps it. */
int gpu_memory_get(const struct conn_life *life, uint64_t copy, const struct gpu_source *from, struct gpu_memory **out);
/* Unmaps what was mapped by either, if it is the last reference.  NULLs *m; NULL is fine. */
void gpu_memory_put(struct gpu_memory **m);
/* The address of that part of an extent; false when not all of it is there, or not in one stretch of addresses.  What has
 * no bytes is anywhere: its address may be 0. */
bool gpu_memory_at(const struct gpu_memory *m, uint32_t extent, uint64_t offset, uint64_t bytes, cu_ptr *out);
/* What of each piece has to be there.  Begin with = {0}. */
struct gpu_need {
	uint32_t next;  /* where to go on */
	uint32_t piece; /* number of its slot and watermark */
	uint64_t bytes; /* from its start */
};
/* The next piece that has bytes of that place, or any bytes when it is NULL; false at the end. */
bool gpu_memory_next(const struct gpu_memory *m, const struct tensor_place *place, struct gpu_need *need);
uint32_t gpu_memory_pieces(const struct gpu_memory *m);
/* What is there of the image. */
uint64_t gpu_memory_bytes(const struct gpu_memory *m);

/* ---- gpu_session.c ---- */

struct gpu_session;

/* The connection's session, made at the first call in this life of the connection; a reference.  device: a UUID, whose memory
 * is then known to arrive here as the daemon shares it; NULL: no one's in particular. */
int gpu_session_get(trims_conn *c, const char *device, uint64_t deadline, struct gpu_session **out);
/* Before memory of that device is believed: tries it out with the daemon, unless that was done. */
int gpu_session_try(trims_conn *c, struct gpu_session *s, const struct gpu_device *device, uint64_t deadline);
/* The one there is; NULL in *out when it is not attached. */
void gpu_session_peek(trims_conn *c, struct gpu_session **out);
void gpu_session_put(struct gpu_session **s);
/* The connection is over: lets every stream go, joins the watchdog.  Without any lock. */
void gpu_session_end(trims_conn *c);

struct gpu_driver *gpu_session_driver(struct gpu_session *s);
uint32_t gpu_session_export(const struct gpu_session *s);
void gpu_session_life(const struct gpu_session *s, struct conn_life *out);
bool gpu_session_has_slots(const struct gpu_session *s, uint32_t first, uint32_t n);
/* The daemon has gone, or the connection to it. */
bool gpu_session_is_over(const struct gpu_session *s);
/* Whether streams of that device can wait on the session page; tries it out at the first call.  *why: the reason if not.
 * Inside a scope of the device. */
bool gpu_session_can_wait(struct gpu_session *s, const struct gpu_scope *scope, const char **why);
/* Inside the stream's scope: it waits until the slot is at least `value`. */
int gpu_session_wait(struct gpu_session *s, cu_stream stream, uint32_t slot, uint64_t value);

/* ---- gpu_model.c ---- */

struct private_copy;

struct model_gpu { /* for gpu_model.c and gpu_dha.c alone */
	struct gpu_session *session;
	struct gpu_memory *memory;
	struct gpu_dha *dha; /* NULL: every tensor is in that memory */
	struct gpu_device *device;
	uint32_t kind, slot;
	uint32_t stream_wait; /* enum trims_stream_wait */
	const char *why;      /* streams cannot wait; NULL: they can, or need not */
	pthread_mutex_t lock; /* guards privates, and is held while something is staged */
	struct private_copy *privates;
};

/* Attaches the connection when it is not, and for that device (a UUID; NULL: any); *life is the one it is attached in. */
int gpu_attach(trims_conn *c, const char *device, uint64_t deadline, struct conn_life *life);
/* Makes m->gpu of an OPENED on tier gpu; takes all descriptors but the first two, also on failure. */
int gpu_open(trims_model *m, struct msg_opened *o, uint64_t deadline);
/* NULLs m->gpu; harmless without. */
void gpu_close(trims_model *m);
/* Fills data and place of a tensor that lies there. */
int gpu_address(trims_model *m, const struct tensor_place *place, struct trims_tensor *out);
/* `from` is `offset` behind the data of *t. */
int gpu_read(trims_model *m, const struct trims_tensor *t, uint64_t offset, void *to, size_t bytes);
/* gpu_memory_next() of its memory. */
bool gpu_next(trims_model *m, const struct tensor_place *place, struct gpu_need *need);
uint32_t gpu_pieces(const trims_model *m);
void gpu_info(trims_model *m, struct trims_info *info);
const char *gpu_uuid(const trims_model *m);
/* DISCONNECTED when the memory went with the daemon, else 0. */
int gpu_owner_gone(trims_model *m);

/* ---- gpu_dha.c: all take a model on tier gpu, any place, and are harmless without tensors on the host ---- */

/* Finds out what of the image no memory of the device has: m->gpu->dha is NULL when there is no tensor in that. */
int gpu_dha_find(trims_model *m);
/* Making it readable by the device, way by way: of what is still lacking, as much as it can. */
bool gpu_dha_lacks(const trims_model *m);
/* Whether the device can register the host copy; else that is the reason for what follows. */
bool gpu_dha_registers(trims_model *m);
/* Registered.  host: the same version of the model on the host tier, taken over, also on failure. */
int gpu_dha_register(trims_model *m, trims_model *host);
/* beside: memory that the daemon gave for it, taken over. */
void gpu_dha_share(trims_model *m, trims_model *beside);
/* The last failure is why a way cannot be gone. */
void gpu_dha_refused(trims_model *m);
/* The rest is staged; then all that is there already. */
int gpu_dha_finish(trims_model *m);
void gpu_dha_close(trims_model *m);
/* A tensor with bytes, on the host. */
bool gpu_dha_has(trims_model *m, const struct tensor_place *place);
/* Where the device sees a tensor that gpu_dha_has(), and where this process does: enum trims_place; LOCAL for any other. */
uint32_t gpu_dha_at(trims_model *m, const struct tensor_place *place, cu_ptr *device, const char **cpu);
void gpu_dha_info(trims_model *m, struct trims_info *info);
/* As model_look() and model_wait(); a place is one that gpu_dha_has(), NULL means all of them.  Where it is staged it is on
 * the device after a wait. */
int gpu_dha_look(trims_model *m, const struct tensor_place *place);
int gpu_dha_wait(trims_model *m, const struct tensor_place *place, uint64_t deadline);
/* 1: all of it is where the device reads it; 0: not yet; else why it never will be. */
int gpu_dha_state(trims_model *m);

#endif
