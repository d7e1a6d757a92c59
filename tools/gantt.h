/* gantt.h - what ran when, in rows, as one SVG file.  Thread: any.  Texts are borrowed and escaped. */
#ifndef TOOLS_GANTT_H
#define TOOLS_GANTT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct gantt_bar {
	unsigned row, kind;
	uint64_t begin_ns, end_ns; /* one that takes no time is not drawn */
	const char *name;          /* shown when it is pointed at */
};

/* kinds: what the colours mean; the axis ends at total_ns. */
void gantt_write(FILE *out, const char *title, const char *const *rows, size_t n_rows, const char *const *kinds, size_t n_kinds,
	const struct gantt_bar *bars, size_t n_bars, uint64_t total_ns);

#endif
