/* profiles.h - profiles of models that the disk tier keeps: texts of at most 4 MiB, by the model's digest and a key that says where
 * they were measured.  README.md has the file.  What they mean is not looked at here.
 *
 * Thread: as disk.h: synchronous, for workers; one call that writes at a time, readers beside it.
 * Errors: 0 or -errno with a sentence; a file is the old or the new one, whole, after any crash. */
#ifndef MRM_DISK_PROFILES_H
#define MRM_DISK_PROFILES_H

#include "mrm/disk/disk.h"

#define DISK_PROFILE_MAX ((uint64_t)4 << 20) /* bytes of a text */
#define DISK_PROFILE_CLASS 127               /* bytes of the key's parts, without the NUL */
#define DISK_PROFILE_DRIVER 63
#define DISK_PROFILE_EXECUTOR 95

struct disk_profile {
	struct hash128 digest; /* of the model */
	char class[DISK_PROFILE_CLASS + 1];
	char driver[DISK_PROFILE_DRIVER + 1];
	char executor[DISK_PROFILE_EXECUTOR + 1];
	uint64_t stored_s;     /* wall clock, since 1970 */
	uint64_t bytes;        /* of the text */
};

bool disk_profile_same_key(const struct disk_profile *a, const struct disk_profile *b);
/* Calls fn for each; what a crash has left is removed, so are damaged ones (counted, logged).  Texts are not read. */
int disk_profiles_scan(struct disk *d, void (*fn)(void *ctx, const struct disk_profile *p), void *ctx, struct fault *why);
/* Durable when it returns; replaces the one of that key. */
int disk_profile_write(struct disk *d, const struct disk_profile *p, const char *text, struct fault *why);
/* On the heap, with a NUL behind it.  -EBADMSG: damaged (counted, logged) and removed; -ENOENT: there is none. */
int disk_profile_read(struct disk *d, const struct disk_profile *p, char **text, struct fault *why);
/* None there is success. */
int disk_profile_remove(struct disk *d, const struct disk_profile *p, struct fault *why);

/* ---- for tests ---- */

struct out;
/* The file: a head, then p->bytes of text.  Appends to *out (bytes.h). */
void disk_profile_encode(const struct disk_profile *p, const char *text, struct out *out);
/* How long the head is; 0: it is damaged.  The text need not be there; *text: what it has to hash to. */
size_t disk_profile_decode(const uint8_t *bytes, size_t n, struct disk_profile *p, struct hash128 *text);

#endif
