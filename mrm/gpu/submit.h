/* submit.h - copies between host and devices: one submitter thread per device and direction, and the link scheduler that
 * tells it which piece is next.  Nobody else submits bulk copies.
 *
 * A flow is one transfer's claim on a link; its chunks are given to it one by one, as they can be copied, and come home as
 * jobs do.  What has not been handed to the copy engine can still be overtaken, reclassed and called back.
 *
 * Thread: loop, except where said.  Ownership: a chunk is moved in and moved back; a flow belongs to its maker and is freed
 * when none of its chunks is out. */
#ifndef MRM_GPU_SUBMIT_H
#define MRM_GPU_SUBMIT_H

#include "cache/linksched.h"
#include "mrm/gpu/calibrate.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/tree.h"
#include "mrm/jobs.h"

struct gpu_links;
struct gpu_flow;

/* One contiguous range, copied by one job.  `job.done` is the caller's; `job.run` is not used. */
struct gpu_chunk {
	struct job job;
	struct gpu_flow *flow;
	uint64_t at;           /* on the device */
	uint8_t *host;
	uint64_t bytes;
	bool registered;       /* host is registered memory; else the bytes go through the submitter's own buffers */
	/* the submitter's */
	uint64_t picked_bytes, done_bytes;
	bool called_back;      /* what was not picked of it will not be */
	/* the way home; job.withdrawn: called back, nothing is known of its bytes */
	int result;            /* 0 or -errno with `why` */
	struct fault why;
};

struct gpu_links_options {
	uint64_t target_ns;    /* --link-target */
	const struct gpu_calibration *calibration; /* [gpu_count()] */
	struct gpu_node_rates rates;    /* --node-rate */
	uint64_t user_bytes_per_s;      /* --user-link-rate; 0: no cap */
	uint32_t user_share;            /* --user-link-share, thousandths; 0: no cap */
	uint32_t direct_share;          /* --direct-share, thousandths of what each node does, for all reservations together */
};

int gpu_links_new(struct gpu_links **out, struct gpu *g, struct jobs *back, const struct gpu_links_options *options,
	struct fault *why);
/* Chunks that are out come home, withdrawn when they were not begun. */
void gpu_links_free(struct gpu_links **l);
/* New caps of users; what they have had is counted anew. */
void gpu_links_limit_users(struct gpu_links *l, uint64_t bytes_per_s, uint32_t share);
/* Another bound of reservations; those that are held stay. */
void gpu_links_limit_direct(struct gpu_links *l, uint32_t share);
/* New figures for a device, measured while its links were idle. */
void gpu_links_calibrate(struct gpu_links *l, uint32_t device, const struct gpu_calibration *c);
/* What the n-th node (gpu_links_node()) moves, measured while the links over it were idle; it was assumed until now.  Never less than
 * the fastest of them was measured to do alone. */
void gpu_links_learn(struct gpu_links *l, uint32_t node, uint64_t bytes_per_s);
/* Whether what a device was calibrated to is in doubt, for reports. */
void gpu_links_doubt(struct gpu_links *l, uint32_t device, bool doubtful);
/* Nothing wants to be copied either way.  Any thread. */
bool gpu_links_idle(struct gpu_links *l, uint32_t device);

/* Where the bytes come from that are not on the host yet. */
enum gpu_source { GPU_SOURCE_HOST, GPU_SOURCE_DISK, GPU_SOURCE_NET };

struct gpu_flow_options {
	uint32_t device;
	enum gpu_direction direction;
	enum load_class class;
	uint64_t deadline;
	uint32_t user;         /* who is charged; CACHE_NOBODY: the daemon itself, without caps */
	enum gpu_source source; /* counts until gpu_flow_filled() */
	uint64_t bytes;        /* of all the chunks it will be given */
	uint32_t helps;        /* 1 + the device that they go on to from this one; 0: they stay */
	const char *label;     /* whose it is, for reports; copied, cut at 63 bytes */
};

/* LIMIT when the link has too many. */
int gpu_flow_new(struct gpu_flow **out, struct gpu_links *l, const struct gpu_flow_options *options, struct fault *why);
void gpu_flow_free(struct gpu_flow **f);
void gpu_flow_submit(struct gpu_flow *f, struct gpu_chunk *chunk);
/* It will be given so many bytes more, or less, than was said when it was made; also when all that was said is done.  LIMIT as
 * above, of more. */
int gpu_flow_more(struct gpu_flow *f, uint64_t bytes, struct fault *why);
void gpu_flow_less(struct gpu_flow *f, uint64_t bytes);
/* From the next piece on. */
void gpu_flow_reclass(struct gpu_flow *f, enum load_class class, uint64_t deadline, uint32_t user);
/* All it will copy is on the host. */
void gpu_flow_filled(struct gpu_flow *f);
/* Its chunks of which nothing was picked yet come home withdrawn, and it has so much less; those that were begun as well, where
 * others have something to be copied over the link, or they would wait for those.  What it is given from now on comes home, too. */
void gpu_flow_call_back(struct gpu_flow *f);
/* Nobody else has anything to be copied over its link. */
bool gpu_flow_is_alone(const struct gpu_flow *f);
/* Its chunks come home, those of which nothing is with the engine at the next piece's edge, withdrawn; no further one is
 * taken. */
void gpu_flow_cancel(struct gpu_flow *f);

/* How long it waited for the engine so far, by who had it. */
struct gpu_waits {
	uint64_t waits, longest_ns;
	uint64_t waited_ns[LINK_WAITS];
	uint64_t capped_ns;    /* in which its user's cap held it up */
};
void gpu_flow_waits(const struct gpu_flow *f, struct gpu_waits *out);

/* For reports. */
struct gpu_link_facts {
	struct linksched_link_view view;
	uint64_t copies, failed, unregistered_bytes; /* the last: to the device through the submitter's own buffers */
	/* Pieces that the submitter itself copies, to its buffers or from them, are as small as the bound wants them.  It does not hold
	 * for a demand that comes while such a copy takes longer than it should, or a buffer is made. */
	uint64_t buffered, slow_copies, late_buffers;
	uint64_t copy_bytes_per_s;                   /* what the CPU does there */
	uint64_t slow_calls, slowest_call_ns;        /* nor while the driver takes that long to accept a copy, registered or not */
	struct linksched_calibration calibration;    /* what it began with, or was found to do later */
	bool doubtful;                               /* it does something else than that */
	uint64_t probes;                             /* how often it was measured again, and that taken over */
};
void gpu_links_view(const struct gpu_links *l, uint32_t device, enum gpu_direction direction, struct gpu_link_facts *out);
/* Why the link's buffers were not to be had at start; false: they were. */
bool gpu_links_no_ring(const struct gpu_links *l, uint32_t device, enum gpu_direction direction, struct fault *why);

/* Nodes that links share; what they let through is at most burst_max + bytes_per_s * age_ns. */
struct gpu_node_facts {
	const struct gpu_node *node;
	struct linksched_node_view view;
	uint64_t age_ns;
};
/* The n-th; false past the last. */
bool gpu_links_node(const struct gpu_links *l, uint32_t n, struct gpu_node_facts *out);
/* Users, the daemon itself among them (LINKSCHED_ANYBODY). */
struct gpu_user_facts {
	struct linksched_user_view view;
	uint64_t age_ns;       /* since view.since */
};
bool gpu_links_user(const struct gpu_links *l, uint32_t n, struct gpu_user_facts *out);
void gpu_links_caps(const struct gpu_links *l, uint64_t *bytes_per_s, uint32_t *share);

/* ---- direct access ----
 *
 * A running model that reads host memory from the device moves bytes that nobody here can queue.  Who runs it reserves their
 * rate first, on everything they pass, until the model stops; copies then get the rest, and B counts with it. */

#define GPU_MAX_RESERVATIONS 256

struct gpu_reservation;

/* One holder's; several add up.  NO_ROOM (-ENOSPC) with who has what when it does not fit beside those and what demands
 * under way need to be in time, LIMIT when there are too many; nothing is reserved then.  label: whose it is, for reports;
 * copied, cut at 63 bytes.  Released before the links are freed. */
int gpu_reserve(struct gpu_reservation **out, struct gpu_links *l, uint32_t device, uint64_t bytes_per_s, const char *label,
	struct fault *why);
void gpu_reserve_release(struct gpu_reservation **r);

struct gpu_reservation_facts {
	uint32_t device;
	uint64_t bytes_per_s;
	char label[64];
};
bool gpu_links_reservation(const struct gpu_links *l, uint32_t n, struct gpu_reservation_facts *out);

struct gpu_flow_facts {
	struct linksched_flow_view view;
	uint32_t device;
	enum gpu_direction direction;
	uint32_t helps;
	char label[64];
};
/* The flow with the lowest id above `after`; false past the last. */
bool gpu_links_flow(const struct gpu_links *l, uint64_t after, struct gpu_flow_facts *out);

#endif
