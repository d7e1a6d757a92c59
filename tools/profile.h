/* profile.h - profiles of models and descriptions of machines, as JSON files (README.md), for the planner.
 * Thread: any.  A struct owns its JSON value, from which its texts are borrowed. */
#ifndef TOOLS_PROFILE_H
#define TOOLS_PROFILE_H

#include "shared/error.h"
#include "shared/plan.h"

#include <jansson.h>

#define PROFILE_FORMAT "trims-profile-1"
#define MACHINE_FORMAT "trims-machine-1"

struct profile {
	json_t *json;
	const char *model, *device, *source; /* "" where the file says nothing */
	uint32_t batch;
	struct plan_layer *layers;
	const char **names;                  /* [n_layers] */
	const char **tensors;                /* [n_tensors], layer by layer */
	uint32_t n_layers, n_tensors;
	struct plan_profile plan;
};

struct machine {
	json_t *json;                        /* NULL: not from a file */
	const char *name;
	const char *links[PLAN_MAX_LINKS];   /* UUIDs, or what the file calls them */
	struct plan_machine plan;
};

/* batch 0: the only one there is, or 1.  -EPROTO with *why; what the numbers have to be like is the planner's to check. */
int profile_read(const char *path, uint32_t batch, struct profile *out, struct fault *why);
/* The same of a value that is there; takes the reference over. label: what faults call it. */
int profile_take(json_t *json, const char *label, uint32_t batch, struct profile *out, struct fault *why);
void profile_fini(struct profile *p);
int machine_read(const char *path, struct machine *out, struct fault *why);
void machine_fini(struct machine *m);

#endif
