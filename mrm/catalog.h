/* catalog.h - what outlives the daemon: images of the disk tier and the names that lead to them.  Thread: loop. */
#ifndef MRM_CATALOG_H
#define MRM_CATALOG_H

#include "mrm/daemon.h"

/* Tells the brain what the disk tier holds. */
void catalog_adopt(struct daemon *d);
/* Names or uses have changed: the catalog is written soon. */
void catalog_changed(struct daemon *d);
/* Writes it now, on a worker; false when that is under way already, or nothing has changed. */
bool catalog_save(struct daemon *d);

#endif
