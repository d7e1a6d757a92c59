/* resolve.h - finds a model at the sources, in the order they were given, and describes it when it is new.
 * Thread: loop; the looking is done by workers. */
#ifndef MRM_RESOLVE_H
#define MRM_RESOLVE_H

#include "mrm/holding.h"

/* Answers with cache_resolved() or cache_resolve_failed() for `name_id`. */
void resolve_start(struct daemon *d, uint64_t name_id, const char *name);
/* On a worker: looks again for an image's files at the source it came from.  -ESTALE: they are other ones now. */
int resolve_again(const struct image_desc *desc, struct source *source, struct source_worker *w,
	const struct source_cancel *cancel, struct source_listing **out, struct fault *why);
/* On a worker: a side file's bytes as the source has them (heap).  -ESTALE: they are not what the model was taken in with. */
int resolve_side(const struct image_desc *desc, uint32_t side, const struct source_listing *listing, struct source_worker *w,
	const struct source_cancel *cancel, uint8_t **out, struct fault *why);

#endif
