/* device.h - what the files of mrm/gpu share and nobody else includes: the driver's table and a device's context.
 * Thread: any, unless said otherwise. */
#ifndef MRM_GPU_DEVICE_H
#define MRM_GPU_DEVICE_H

#include "mrm/gpu/gpu.h"
#include "shared/cuda.h"

#include <pthread.h>
#include <stdatomic.h>

struct gpu_device {
	struct gpu_facts facts;
	cu_device ordinal;
	cu_context context;         /* the primary one, retained */
	_Atomic bool lost;
	struct fault loss;          /* written once, before `lost` */
	_Atomic uint64_t held_bytes; /* by gpu_memory */
	_Atomic uint64_t stuck_bytes; /* of gpu_memory that was freed and the driver did not take back */
	_Atomic uint64_t moves_begun, moves_ended; /* of gpu_memory being made or freed: between them held_bytes is ahead or behind */
};

struct gpu {
	struct cuda *cu;            /* NULL: no driver */
	uint32_t n;
	struct gpu_device device[GPU_MAX_DEVICES];
	pthread_mutex_t lock;       /* of who is the first to see a device lost */
	_Atomic uint64_t stuck_bytes; /* of host memory that stays registered, see gpu_pins_free() */
	char absence[FAULT_TEXT_MAX];
	uint32_t n_left_out;
	char left_out[GPU_MAX_DEVICES][FAULT_TEXT_MAX];
};

/* Makes the device's context current on this thread; fails, with the sentence, when the device is lost.  Costs nothing when
 * it is current already. */
int gpu_enter(struct gpu *g, uint32_t device, struct fault *why);
/* The same with patience, to set up or to unmake something.  False: the device is lost, and what was made on it with it. */
bool gpu_enter_again(struct gpu *g, uint32_t device);
/* Of a call that failed on the device: makes the sentence and returns -errno.  A result that says that the device or the
 * context is gone for good makes the device lost. */
int gpu_failed(struct gpu *g, uint32_t device, cu_result result, const char *call, struct fault *why);
/* Of a call in which another device had part: it may be that one's word.  Who does not answer any more is lost. */
int gpu_failed_between(struct gpu *g, uint32_t device, uint32_t other, cu_result result, const char *call, struct fault *why);
/* Waits for what was put on the stream although something went wrong: what it touches must not be freed before.  True: all of
 * it is done, and well.  When that cannot be had at all, the device is lost. */
bool gpu_drain(struct gpu *g, uint32_t device, cu_stream stream);

/* The last thing that a stream was given, and the event that tells when it is over. */
struct gpu_copy {
	uint32_t device;
	cu_stream stream;
	cu_event event;
};

/* Puts the event behind it.  Where that is refused the stream is waited for: *over is set when all of it was done, and well, else
 * that is the failure. */
int gpu_copy_mark(struct gpu *g, const struct gpu_copy *c, bool *over, struct fault *why);
/* 1: it is over, and well; 0: not yet, never with `wait`; a failure: it is over, too.  *over is set when the event could not be
 * asked, and tells nothing about time: what was behind it may still have been running, so the stream was waited for. */
int gpu_copy_is_over(struct gpu *g, const struct gpu_copy *c, bool wait, bool *over, struct fault *why);

/* Unmaking must not stop at one call that fails, nor may memory be freed that queued work still uses, nor a device be given up
 * at its first word: what a driver refuses once is asked again.  CU_OK, or the last refusal. */
#define GPU_TRIES 3
#define GPU_AGAIN(call)                                                                                                \
	({                                                                                                            \
		cu_result undo_ = (call);                                                                             \
		for (int try_ = 1; undo_ && try_ < GPU_TRIES; try_++)                                            \
			undo_ = (call);                                                                               \
		undo_;                                                                                                \
	})

#endif
