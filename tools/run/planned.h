/* planned.h - the provisioning plan that a mode follows: of a file, or the one that a net implies.
 * Thread: any.  The plan's owner ends it with plan_file_fini(). */
#ifndef TOOLS_RUN_PLANNED_H
#define TOOLS_RUN_PLANNED_H

#include "tools/plan_file.h"
#include "tools/run/net.h"

/* What a mode asks of a plan. */
struct planned_wish {
	const char *file;      /* NULL: tables of which a pass reads a few rows are read from the host, the rest is loaded */
	const char *model;     /* its name */
	bool host, links;      /* the mode reads from the host; loads over several links */
	const char *mode;      /* for words */
};

/* table: the model, open on any tier, for its tensors' numbers.  BAD_REQUEST: no such plan, or one that is for another mode. */
int planned_make(const struct planned_wish *wish, const struct net *net, trims_model *table, struct plan_file *out,
	struct fault *why);
/* All of it is loaded, in the order in which the net's layers run. */
int planned_order(const struct net *net, trims_model *table, struct plan_file *out, struct fault *why);

#endif
