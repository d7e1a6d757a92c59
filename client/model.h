/* model.h - an open model: a lease and the mapping it stands for.  Thread: any.
 * Owns: its lease, a reference on its connection and one on its mapping, the files mapped from it. */
#ifndef CLIENT_MODEL_H
#define CLIENT_MODEL_H

#include "client/mapcache.h"
#include "shared/list.h"

#include <pthread.h>
#include <stdatomic.h>

struct model_file;
struct model_gpu;

/* A lease number means nothing in another life of the connection. */
struct model_lease {
	struct conn_life life;
	uint64_t number;
};

struct trims_model {
	trims_conn *conn;
	struct list node; /* in the connection's models */
	struct mapping *mapping;
	struct model_gpu *gpu; /* NULL off tier gpu */
	uint64_t copy, version, image_bytes, digest_hi, digest_lo; /* version: of the model, as the daemon counts them */
	uint32_t tier, hit;
	_Atomic bool ready; /* every byte is there */
	pthread_mutex_t files_lock;
	struct model_file *files;
	pthread_mutex_t lease_lock;
	struct model_lease lease; /* changes when a reconnect gets it back */
	char name[];              /* as it was asked for */
};

/* A tensor's place, from its checked record. */
struct tensor_place {
	uint32_t extent;
	uint64_t offset, end; /* in the extent; end is 0 for a tensor without bytes */
};

/* tensor.c */
int model_tensor_place(trims_model *m, uint32_t index, struct tensor_place *out);
/* open.c */
struct model_lease model_lease(trims_model *m);
/* Asks the daemon of the new life for the leases of the old one; who gets none can do without. */
void models_claim(trims_conn *c, uint64_t deadline);
/* wait.c: 1: those bytes are there; 0: not yet; else why they will never be. */
int model_look(trims_model *m, const struct tensor_place *place);
/* wait.c: until the bytes up to `place` are there, or all of them when it is NULL. */
int model_wait(trims_model *m, const struct tensor_place *place, uint64_t deadline);
/* file.c */
void model_unmap_files(trims_model *m);

#endif
