/* name.h - which model names there are.
 * A name is 1..NAME_MAX_BYTES bytes: segments of [A-Za-z0-9._+-] joined by '/', none empty, none beginning with '.',
 * then optionally '@' and a revision of [A-Za-z0-9._/+-] that is not empty, has no "..", and neither begins nor ends with
 * '/'.  So a name is always a safe relative path.  Thread: any.  Owns nothing. */
#ifndef SHARED_NAME_H
#define SHARED_NAME_H

#include "shared/error.h"

#include <stddef.h>

#define NAME_MAX_BYTES 255

/* 0, or -EPROTO with *why (BAD_NAME; may be NULL) saying which rule is broken. */
int name_check(const char *name, struct fault *why);
/* Splits a name at its '@': revision is empty when it has none.  Returns as name_check(), which it begins with; the
 * outputs are written only on success. */
int name_split(const char *name, char base[NAME_MAX_BYTES + 1], char revision[NAME_MAX_BYTES + 1], struct fault *why);

#endif
