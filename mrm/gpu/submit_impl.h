/* submit_impl.h - the records behind submit.h, for its files:
 *   submit.c     links, their threads, flows
 *   reserve.c    direct access by running models; looking
 *
 * The link scheduler, the lists of flows and reservations are under one lock, which is held for microseconds and never over
 * a driver call. */
#ifndef MRM_GPU_SUBMIT_IMPL_H
#define MRM_GPU_SUBMIT_IMPL_H

#include "mrm/gpu/device.h"
#include "mrm/gpu/submit.h"
#include "shared/list.h"

#define FLOW_MAGIC 0x474c4f57u
#define IN_FLIGHT 2
#define BUFFER_BYTES (4 * MIB) /* of a link's own pinned memory, one per piece in flight and one more */

struct link;

struct gpu_flow {
	uint32_t magic;
	struct link *link;
	struct list node;             /* of the link's flows */
	uint64_t id;                  /* the scheduler's; 0: it is done with it */
	bool cancelled;
	bool called_back;             /* what was not begun, also what comes later */
	enum load_class class;        /* with which it is made again when it gets more than it had; */
	uint64_t deadline;
	uint32_t user;
	uint64_t bytes;               /* it will have had, the scheduler's word while id is not 0 */
	uint32_t helps;
	uint32_t source;              /* the node that its host copy is filled from; GPU_TREE_NONE */
	struct gpu_waits waits;       /* the last word, once id is 0 */
	char label[64];
	struct list chunks;           /* job nodes; the link's thread alone */
};

/* A piece that was given to the engine, or failed to be. */
struct flight {
	struct linksched_pick pick;
	struct gpu_chunk *chunk;
	uint64_t offset;              /* in the chunk */
	bool queued;                  /* behind another, so that the time between their ends is its own */
	bool duplex;
	bool over;                    /* nothing to wait for, and no event that tells its time */
	bool buffered;                /* through the submitter's own memory */
	uint64_t copy_ns_most;        /* if so: longer than that, and others may wait longer than B */
	uint32_t slot;                /* its event and buffer */
};

struct link {
	struct gpu_links *all;
	uint32_t device, index;       /* index: the scheduler's */
	enum gpu_direction direction;
	char name[12];
	struct pool *pool;            /* one thread; the loop's pointer */
	struct list flows;            /* under the lock */
	bool called_back;             /* under the lock: a flow was cancelled or called back, its chunks are still here */
	_Atomic uint32_t in_flight;   /* for the other direction's eyes */
	/* the thread's */
	struct pool *mine;
	cu_stream stream;
	cu_event event[IN_FLIGHT + 1];
	uint8_t *buffer[IN_FLIGHT + 1]; /* the ring: gpu_links_new() makes it, since it takes longer than B allows */
	struct flight flight[IN_FLIGHT];
	uint32_t n_flight, next_slot;
	uint64_t bound_ns;            /* when a piece was picked last */
	int last_slot;                /* of the piece that ended last; -1: its event is no measure */
	_Atomic uint64_t copies, failed, unregistered_bytes;
	_Atomic uint64_t buffered, late_buffers; /* pieces that went through the ring; parts of it that were made when needed */
	_Atomic uint64_t slow_copies; /* pieces that the CPU took too long to copy to or from it */
	_Atomic uint64_t slow_calls, slowest_call_ns; /* copies that the driver took too long to accept */
	_Atomic uint64_t copy_bytes_per_s; /* what the CPU does there, by the last pieces */
	struct fault no_ring;         /* why it was not to be had at start */
};

struct gpu_reservation {
	struct list node;             /* of the links' reservations */
	struct gpu_links *all;
	uint32_t device;
	uint64_t bytes_per_s;
	char label[64];
};

struct gpu_links {
	struct gpu *gpu;
	uint32_t n;
	pthread_mutex_t lock;
	struct linksched *sched;
	struct link link[GPU_MAX_DEVICES][GPU_DIRECTIONS];
	struct gpu_tree tree;
	uint64_t born_ns;
	struct linksched_calibration calibration[GPU_MAX_DEVICES][GPU_DIRECTIONS];
	bool doubtful[GPU_MAX_DEVICES];
	uint64_t probes[GPU_MAX_DEVICES];
	struct list reservations;
	uint32_t n_reservations;
	uint64_t user_bytes_per_s;
	uint32_t user_share;
	uint32_t direct_share;
};

/* As the scheduler takes it. */
struct linksched_calibration links_calibration(const struct gpu_calibration *c, enum gpu_direction d);

void links_lock(struct gpu_links *l);
/* Whoever was told to wait and now need not is woken. */
void links_unlock(struct gpu_links *l);

#endif
