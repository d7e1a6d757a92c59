/* profiles.h - profiles of models (tools/README.md): stored in the cache directory by the model's content and by where they were
 * measured, handed out to whoever plans a load.
 *
 * A profile steers how a model is cut and in which order it is loaded, never what its bytes are; a wrong one makes others' loads
 * slow.  So whoever may pin may store one.
 * Thread: loop; files are read and written by workers, one writer at a time.  profiles_new(): main thread, before it. */
#ifndef MRM_PROFILES_H
#define MRM_PROFILES_H

#include "mrm/conn.h"
#include "mrm/disk/profiles.h"
#include "mrm/holding.h"

#include <jansson.h>

struct profiles;

/* Finds what is there; a folder that cannot be read is no profiles, logged. */
struct profiles *profiles_new(struct daemon *d);
/* All jobs must be home. */
void profiles_free(struct profiles **p);

/* Stores what a client sent in a sealed memory file, of which this takes a descriptor of its own; answers by DONE. */
void profiles_store(struct conn *c, uint64_t request, struct holding *img, int fd);
/* The same of what the daemon's own child has written; nobody is told. */
void profiles_keep(struct daemon *d, struct hash128 digest, int fd);
/* Answers a query: the profile behind the cursor. */
void profiles_report(struct conn *c, uint64_t request, const struct holding *img, uint64_t cursor);

/* For `show`: what there is, without the profiles themselves. */
json_t *profiles_list(const struct daemon *d, struct hash128 digest);
/* Whether the model has one of that class and driver by an executor whose name begins so. */
bool profiles_have(const struct daemon *d, struct hash128 digest, const char *class, const char *driver, const char *executor);
/* Class and driver of a device of this machine; CACHE_ANY_DEVICE: of its CPU. */
void profiles_class(const struct daemon *d, uint32_t device, char class[DISK_PROFILE_CLASS + 1], char driver[DISK_PROFILE_DRIVER + 1]);

#endif
