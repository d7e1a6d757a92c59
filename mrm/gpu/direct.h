/* direct.h - direct access: while clients hold a copy of which a part is read from the host, the share of the device's link that its
 * plan says this takes is reserved (gpu_reserve()), once for the copy.  Where it does not fit, the copy is used without:
 * fallback dha-not-reserved.
 * Thread: loop.  Ownership: struct direct owns the reservations. */
#ifndef MRM_GPU_DIRECT_H
#define MRM_GPU_DIRECT_H

#include "mrm/holding.h"

struct direct;

struct direct *direct_new(struct daemon *d);
/* After the last lease, before the links. */
void direct_free(struct direct **d);
/* A client has got a lease on a device's copy; */
void direct_leased(struct direct *d, const struct holding *img, const struct segment *copy);
/* one that had been told of has gone back.  copy: its generation. */
void direct_left(struct direct *d, uint64_t copy);

#endif
