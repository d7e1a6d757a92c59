/* catalog.h - what outlives the daemon: images of the disk tier and the names that lead to them.  Thread: loop. */
#ifndef MRM_CATALOG_H
#define MRM_CATALOG_H

#include "mrm/daemon.h"

/* Tells the brain what the disk tier holds. */
void catalog_adopt(struct daemon *d);
/* Names or uses have changed: the catalog is written soon. */
void catalog_changed(struct daemon *d);
/* Goes on with writing it, if there is anything new: gathers some of the names, so that the loop is not held up however many
 * there are, and when it has all of them hands them to a worker.  True: there are more to gather, call again soon. */
bool catalog_turn(struct daemon *d);
/* Gathers and hands over all of it now, for the end; no save may be with a worker. */
void catalog_save(struct daemon *d);

#endif
