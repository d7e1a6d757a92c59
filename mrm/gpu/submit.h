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
	/* the way home; job.withdrawn: called back, nothing is known of its bytes */
	int result;            /* 0 or -errno with `why` */
	struct fault why;
};

struct gpu_links_options {
	uint64_t target_ns;    /* --link-target */
	const struct gpu_calibration *calibration; /* [gpu_count()] */
};

int gpu_links_new(struct gpu_links **out, struct gpu *g, struct jobs *back, const struct gpu_links_options *options,
	struct fault *why);
/* Chunks that are out come home, withdrawn when they were not begun. */
void gpu_links_free(struct gpu_links **l);

struct gpu_flow_options {
	uint32_t device;
	enum gpu_direction direction;
	enum load_class class;
	uint64_t deadline;
	uint64_t bytes;        /* of all the chunks it will be given */
	const char *label;     /* whose it is, for reports; copied, cut at 63 bytes */
};

/* LIMIT when the link has too many. */
int gpu_flow_new(struct gpu_flow **out, struct gpu_links *l, const struct gpu_flow_options *options, struct fault *why);
void gpu_flow_free(struct gpu_flow **f);
void gpu_flow_submit(struct gpu_flow *f, struct gpu_chunk *chunk);
/* From the next piece on. */
void gpu_flow_reclass(struct gpu_flow *f, enum load_class class, uint64_t deadline);
/* Its chunks come home, those of which nothing is with the engine at the next piece's edge, withdrawn; no further one is
 * taken. */
void gpu_flow_cancel(struct gpu_flow *f);

/* How long it waited for the engine so far, by who had it. */
struct gpu_waits {
	uint64_t waits, longest_ns;
	uint64_t waited_ns[LINK_WAITS];
};
void gpu_flow_waits(const struct gpu_flow *f, struct gpu_waits *out);

/* For reports. */
struct gpu_link_facts {
	struct linksched_link_view view;
	uint64_t copies, failed, unregistered_bytes; /* the last: through the submitter's own buffers */
	struct linksched_calibration calibration;    /* what it began with */
};
void gpu_links_view(const struct gpu_links *l, uint32_t device, enum gpu_direction direction, struct gpu_link_facts *out);
struct gpu_flow_facts {
	struct linksched_flow_view view;
	uint32_t device;
	enum gpu_direction direction;
	char label[64];
};
/* The flow with the lowest id above `after`; false past the last. */
bool gpu_links_flow(const struct gpu_links *l, uint64_t after, struct gpu_flow_facts *out);

#endif
