/* model.h - an open model: a lease and the mapping it stands for.  Thread: any.
 * Owns: its lease, a reference on its connection and one on its mapping, the files mapped from it. */
#ifndef CLIENT_MODEL_H
#define CLIENT_MODEL_H

#include "client/mapcache.h"

#include <pthread.h>
#include <stdatomic.h>

struct model_file;

struct trims_model {
	trims_conn *conn;
	struct mapping *mapping;
	struct conn_life life;
	uint64_t lease, copy, image_bytes, digest_hi, digest_lo;
	uint32_t tier, hit;
	_Atomic bool ready; /* every byte is there */
	pthread_mutex_t files_lock;
	struct model_file *files;
};

/* A tensor's place, from its checked record. */
struct tensor_place {
	uint32_t extent;
	uint64_t end; /* in the extent */
};

/* tensor.c */
int model_tensor_place(trims_model *m, uint32_t index, struct tensor_place *out);
/* wait.c: until the bytes up to `place` are there, or all of them when it is NULL. */
int model_wait(trims_model *m, const struct tensor_place *place, uint64_t deadline);
/* file.c */
void model_unmap_files(trims_model *m);

#endif
