/* svg.h - line charts side by side as one SVG file, without a library.
 * Thread: any.  Points are borrowed; texts are escaped. */
#ifndef TOOLS_BENCH_SVG_H
#define TOOLS_BENCH_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct svg_line {
	const char *name;
	const double *x, *y;
	size_t n;
};

struct svg_chart {
	const char *title, *x_title, *y_title;
	bool log_x, log_y; /* what is not above 0 is drawn at the lowest value that is */
	const struct svg_line *lines;
	size_t n_lines;
	double mark_x;     /* a dashed line with its name; 0: none */
	const char *mark;
};

/* `columns` of them side by side; one legend, that of the first chart, for all. */
void svg_write(FILE *out, const char *title, const struct svg_chart *charts, size_t n, size_t columns);

#endif
