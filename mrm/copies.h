/* copies.h - memory and files of copies: made and given back by workers, as the brain says.  Thread: loop. */
#ifndef MRM_COPIES_H
#define MRM_COPIES_H

#include "mrm/holding.h"

/* The effects of these names; each answers the brain. */
void copies_alloc(struct daemon *d, const struct cache_effect *fx);
void copies_trim(struct daemon *d, const struct cache_effect *fx);
void copies_free(struct daemon *d, const struct cache_effect *fx);
void copies_poison(struct daemon *d, const struct cache_effect *fx);
/* A job reads the copy's memory without the brain's knowing: it is not freed before copies_let_go(). */
void copies_hold(struct segment *s);
void copies_let_go(struct daemon *d, struct segment *s);
/* What devices hold of a copy, or of the memory it is in: before segment_free(), on a worker or at the very end.  NULL-safe. */
void copies_release(struct segment *copy);
/* Drops the checksums of a model that is read in place: they stand for no copy, so nothing but this would. */
void copies_forget_reference(struct holding *img);

#endif
