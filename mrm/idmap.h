/* idmap.h - uint64_t -> pointer, open addressing.  Thread: the owner's.  Owns the table, not what it points to. */
#ifndef MRM_IDMAP_H
#define MRM_IDMAP_H

#include "shared/base.h"

/* Zero-initialised is empty. */
struct idmap {
	struct idmap_slot {
		uint64_t key; /* 0: free */
		void *value;
	} *slot;
	size_t n, cap;
};

void idmap_fini(struct idmap *m);
/* NULL when absent.  Key 0 is never present. */
void *idmap_get(const struct idmap *m, uint64_t key);
/* Adds or replaces; key != 0, value != NULL. */
void idmap_set(struct idmap *m, uint64_t key, void *value);
/* Takes it out and returns it; NULL when absent. */
void *idmap_take(struct idmap *m, uint64_t key);
/* Takes out any; NULL when there is none.  *at starts at 0 and makes emptying a map linear; nothing is to be added
 * meanwhile, but more may be taken out. */
void *idmap_take_any(struct idmap *m, size_t *at);
/* Visits in no order; *at starts at 0; NULL at the end.  No changes meanwhile. */
void *idmap_next(const struct idmap *m, size_t *at);

#endif
