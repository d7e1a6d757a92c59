/* hash.h - digests of what lies in a device's memory, made on the device by the kernel of mrm/gpu/kernel: nothing crosses the
 * link but 32 bytes a piece, which the kernel reads and writes in host memory, past every copy engine.
 *
 * The module is loaded at start, and after a refusal when it is wanted: a driver that loads code waits for what the device is doing,
 * and other calls of the process wait for it, copies among them (measured by others: meta-pytorch/torchcomms PR 2334).
 *
 * Thread: made and freed on the main thread; run by workers, one batch at a time.  Ownership: module, stream and a few
 * pages of host memory are the hasher's; what it hashes must stay meanwhile. */
#ifndef MRM_GPU_HASH_H
#define MRM_GPU_HASH_H

#include "mrm/disk/hash.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/kernel/ptx.h"

#define GPU_HASH_BATCH 256 /* pieces a run */

struct gpu_hasher;

/* No driver call is made.  -ENOMEM. */
int gpu_hasher_new(struct gpu_hasher **out, struct gpu *g, uint32_t device, struct fault *why);
/* Loads the kernel and launches it once, over nothing: drivers load code when it is first launched.  Where that fails a run tries it
 * again. */
int gpu_hasher_prepare(struct gpu_hasher *h, struct fault *why);
/* Before gpu_free(). */
void gpu_hasher_free(struct gpu_hasher **h);

/* out[i] is the XXH3-128 of pieces[i], as ptx.h wants them; n <= GPU_HASH_BATCH.  On failure nothing is known: -ENOTSUP
 * where driver or device know no such kernel, -ENODEV with a lost device. */
int gpu_hasher_run(struct gpu_hasher *h, const struct hash_piece *pieces, uint32_t n, struct hash128 *out, struct fault *why);

#endif
