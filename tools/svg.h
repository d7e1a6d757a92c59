/* svg.h - pictures of figures as SVG files, without a library: line charts side by side, stacked bars, and what others draw with.
 * Thread: any.  Points and names are borrowed; texts are escaped. */
#ifndef TOOLS_SVG_H
#define TOOLS_SVG_H

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

/* A bar of parts laid end to end. */
struct svg_bar {
	const char *name;
	const double *parts; /* [n_parts] */
};

struct svg_panel {
	const char *title;
	const struct svg_bar *bars;
	size_t n_bars;
};

/* Panels of bars below each other, each on a scale of its own; one legend of the parts for all. */
void svg_write_bars(FILE *out, const char *title, const char *const *parts, size_t n_parts, const struct svg_panel *panels,
	size_t n);

/* `columns` of them side by side; one legend, that of the first chart, for all. */
void svg_write(FILE *out, const char *title, const struct svg_chart *charts, size_t n, size_t columns);

/* ---- to draw with; pixels from the top left corner ---- */

#define SVG_LEFT 62.0 /* where titles and legends begin */
#define SVG_HEAD 58.0 /* height of title and legend */

void svg_begin(FILE *out, const char *title, double width, double height);
void svg_end(FILE *out);
/* The text alone, escaped. */
void svg_put(FILE *out, const char *text);
/* how: further attributes, "text-anchor=\"end\"", or "". */
void svg_text(FILE *out, double x, double y, const char *how, const char *text);
/* Told apart also without colour vision; they begin anew after ten. */
const char *svg_colour(size_t i);
/* Coloured strokes and their names, in a row below the title. */
void svg_legend(FILE *out, const char *const *names, size_t n);

#endif
