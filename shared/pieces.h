/* pieces.h - how an image is cut for a device: pieces, each a run of chunks of one extent and an allocation of its own, in the
 * order in which they are filled.
 *
 * Without a plan: one piece per extent, in image order.  With one (plan_wire.h): a chunk that belongs to tensors of direct
 * host access alone is left on the host; the others are cut where residency, the order of execution or the link changes, and where
 * what is worth keeping ends; small cuts are dropped until at most PIECES_MAX are left.  Pieces stand in the order in which
 * their first chunk is needed, those that stay on the host last: so what is there of a copy is always a prefix.
 * Inside a piece chunks are filled in image order: one watermark per piece says what has arrived.
 *
 * A pure function of layout and plan.  Thread: any; a struct pieces is immutable once built. */
#ifndef SHARED_PIECES_H
#define SHARED_PIECES_H

#include "shared/image.h"
#include "shared/plan_wire.h"

#define PIECES_MAX IMAGE_MAX_EXTENTS

struct image_piece {
	uint32_t extent, first, n; /* chunks */
	uint64_t offset, bytes;    /* in the extent */
};

struct pieces {
	uint32_t n_head, n_plan, n; /* prefixes: worth keeping under pressure (0: all or nothing); resident by the plan; everything */
	struct image_piece v[PIECES_MAX];
	uint8_t *of_chunk;          /* [n_chunks] its piece */
	uint32_t *order;            /* [n_chunks] as they are filled; NULL: in image order */
	uint8_t *link;              /* [n_chunks] that of the first tensor in it that is loaded; NULL: all come over the device's own */
};

/* plan: of a file that passed plan_check() and plan_check_model(); NULL: none.  whole_runs: neighbours on the device are never cut,
 * for devices whose pieces cannot be mapped side by side.  -ENOMEM. */
int pieces_build(struct pieces **out, const struct layout *l, const struct plan_head *plan, bool whole_runs,
	struct fault *why);
void pieces_free(struct pieces **p);
/* In which order the host's copy gets order[n_chunks]: that of their first use, wherever they are read from then.  p: pieces by
 * the same plan, of a device that is filled from there: its chunks come in its order, the others in between; NULL: nothing waits for
 * them.  -ENOMEM. */
int pieces_host_order(const struct layout *l, const struct plan_head *plan, const struct pieces *p, uint32_t *order);

/* What the first n pieces take, each rounded up to what a device gives out. */
uint64_t pieces_bytes(const struct pieces *p, uint32_t n, uint64_t granularity);
/* Chunks in the first n pieces. */
uint32_t pieces_chunks(const struct pieces *p, uint32_t n);
/* Over which link the chunk comes.  0: the device's own; k: helper k - 1 of the plan. */
static inline uint32_t pieces_link(const struct pieces *p, uint32_t chunk)
{
	return p->link ? p->link[chunk] : 0;
}
/* The chunk to be filled as the i-th. */
static inline uint32_t pieces_chunk(const struct pieces *p, uint32_t i)
{
	return p->order ? p->order[i] : i;
}

#endif
