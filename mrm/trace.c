/* trace.c - see trace.h. */
#include "mrm/trace.h"

#include "mrm/clock.h"
#include "shared/check.h"

#include <stdlib.h>

struct trace_load *trace_begin(struct trace *t, uint64_t transfer)
{
	if (!t->load)
		t->load = calloc(TRACE_KEPT, sizeof *t->load);
	ASSERT(t->load);
	struct trace_load *l = &t->load[t->n++ % TRACE_KEPT];
	*l = (struct trace_load){
		.transfer = transfer,
		.started_unix_ns = clock_unix(),
		.started_ns = clock_now(),
		.resolve_ns = t->resolve_ns,
		.alloc_ns = t->alloc_ns,
	};
	t->resolve_ns = t->alloc_ns = 0;
	return l;
}

struct trace_load *trace_find(struct trace *t, uint64_t transfer)
{
	for (uint32_t i = 0; t->load && i < TRACE_KEPT; i++)
		if (t->load[i].transfer == transfer)
			return &t->load[i];
	return NULL;
}

void trace_fini(struct trace *t)
{
	free(t->load);
	*t = (struct trace){0};
}
