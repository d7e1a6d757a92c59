/* files.h - answers FILE: a small file that travels with a model, as sealed memory.  Thread: loop. */
#ifndef MRM_FILES_H
#define MRM_FILES_H

#include "mrm/conn.h"

/* The request is pending under the ticket; it is answered FILED or FAULT. */
void files_start(struct conn *c, uint64_t request, uint64_t ticket, uint64_t lease, const char *path);

#endif
