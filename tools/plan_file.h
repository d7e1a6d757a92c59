/* plan_file.h - plans as people and tools write them: JSON, with tensors by name, into what trims_open() takes.
 *
 * A plan is an object, or is the member "plan" of one, so that all that `trims-ctl plan --json` prints is a plan file, too:
 *	{"model": "org/name",             optional: the model it was made for, its revision not looked at
 *	 "tensors": [                     in the order of execution, each tensor at most once
 *	   {"tensor": "embed.weight",     its name, or its number as `trims-ctl show` counts, from 0
 *	    "place": "dha",               "load": into the device's memory; "dha": it is read where the host has it
 *	    "link": 1,                    optional: over the link of helper 1, 2, ...; 0: the device's own
 *	    "step": 0}, ...],             optional: number of its layer
 *	 "helpers": ["GPU-...", ...],     optional
 *	 "keep_bytes": 0, "dha_bytes_per_s": 0}   optional
 * Any other member of the plan is refused: a word that is spelt wrong would be a wish that is not heard.
 *
 * Thread: the caller's.  Ownership: a struct plan_file owns what its plan points to, until plan_file_fini(). */
#ifndef TOOLS_PLAN_FILE_H
#define TOOLS_PLAN_FILE_H

#include "client/trims.h"
#include "shared/error.h"

#include <jansson.h>
#include <stdbool.h>

struct plan_file {
	struct trims_plan plan;
	struct trims_plan_entry *entries;
	const char *helpers[TRIMS_PLAN_MAX_HELPERS]; /* in json */
	json_t *json;
};

/* Parses a file of JSON, be it a plan or not.  NULL: *why begins with the path. */
json_t *plan_file_load(const char *path, struct fault *why);
/* Whether it names tensors: then plan_file_read() wants to know their numbers. */
bool plan_file_has_names(const json_t *file);
/* Makes a plan for that model of a parsed file, which stays the caller's.  numbers: {name: number, ...}; NULL when there are no
 * names.  -EPROTO, *why: what is wrong, and with which tensor; *out is then empty. */
int plan_file_read(struct plan_file *out, json_t *file, const char *model, const json_t *numbers, struct fault *why);
/* Harmless when all of it is zero. */
void plan_file_fini(struct plan_file *p);

#endif
