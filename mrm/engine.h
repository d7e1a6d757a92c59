/* engine.h - carries out the brain's effects and tells it what became of them.  Thread: loop. */
#ifndef MRM_ENGINE_H
#define MRM_ENGINE_H

#include "mrm/holding.h"

struct conn;

/* Carries out everything the brain wants by now.  After each call into the cache; harmless when nothing is pending, and
 * while it is running already. */
void engine_pump(struct daemon *d);
/* The configuration's tiers and links, as the brain takes them; arrays are static. */
void engine_cache_config(struct daemon *d, const struct config *c, struct cache_config *out);
/* Drops the checksums of a model that is read in place: they stand for no copy, so nothing but this would. */
void engine_forget_reference(struct holding *img);
/* Tells the brain what the disk tier holds. */
void engine_adopt(struct daemon *d);
/* Names or uses have changed: the catalog is written soon. */
void engine_names_changed(struct daemon *d);
/* Writes the catalog now, on a worker; false when that is under way already. */
bool engine_names_save(struct daemon *d);

#endif
