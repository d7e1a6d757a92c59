/* plan_render.h - a plan with its prediction, as text, JSON and a picture.  Pure.  Thread: any.  Everything is borrowed. */
#ifndef TOOLS_CTL_PLAN_RENDER_H
#define TOOLS_CTL_PLAN_RENDER_H

#include "cache/plan.h"
#include "tools/profile.h"

struct planned {
	const char *model;
	json_t *stored;                /* key and age of the daemon's profile, where that was taken; owned by the command */
	const struct profile *profile;
	const struct machine *machine;
	enum plan_policy policy;
	const uint8_t *how;
	const struct plan_step *steps;
	struct plan_figures figures;
	uint32_t keep_layers;          /* leading ones; the rest then delays nothing */
	uint64_t keep_bytes;
	struct plan_other {            /* every policy on the same profile; total_ns 0: it finds no plan */
		struct plan_figures figures;
		uint64_t uncharged_ns; /* its plan's total by DeepPlan's timeline */
	} others[PLAN_POLICIES];
};

void plan_render_text(const struct planned *p, FILE *out);
/* Its member "plan" is what trims-ctl open --plan takes. */
json_t *plan_render_json(const struct planned *p);
void plan_render_gantt(const struct planned *p, FILE *out);

/* What trims-run infer --layers --json said of a run, beside the prediction.  Checked first: -EPROTO when it is of other layers or
 * another batch.  Errors are measured less predicted ends; times are from when the model was asked for. */
int plan_measured_check(const struct planned *p, const json_t *measured, const char *path, struct fault *why);
void plan_measured_text(const struct planned *p, const json_t *measured, FILE *out);
json_t *plan_measured_json(const struct planned *p, const json_t *measured);

#endif
