/* svg.c - see svg.h.  Coordinates are pixels from the top left corner; a chart has a frame, ticks with grid lines, and titles. */
#include "tools/svg.h"

#include "shared/base.h"

#include <math.h>

#define CELL_W 420.0
#define CELL_H 300.0
#define RIGHT 14.0
#define TOP 34.0
#define BOTTOM 46.0
#define MAX_TICKS 6
#define LEGEND_STEP 84.0
#define LEGEND_MAX 10
#define BAR_H 16.0
#define BAR_LEFT 150.0
#define BAR_W 700.0

/* Dark to light, told apart also without colour vision. */
static const char *const colours[] = {"#00204d", "#31446b", "#666970", "#958f78", "#cbba69", "#d55e00", "#0072b2", "#009e73",
	"#cc79a7", "#000000"};

struct axis {
	double lo, hi; /* of values */
	bool log;
	double from, to; /* of pixels */
};

/* XML has no way to say control characters. */
void svg_put(FILE *out, const char *text)
{
	for (; *text; text++)
		switch (*text) {
		case '&': fputs("&amp;", out); break;
		case '<': fputs("&lt;", out); break;
		case '>': fputs("&gt;", out); break;
		default: fputc((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text, out);
		}
}

void svg_text(FILE *out, double x, double y, const char *how, const char *text)
{
	fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, how);
	svg_put(out, text);
	fputs("</text>\n", out);
}

const char *svg_colour(size_t i)
{
	return colours[i % ARRAY_LEN(colours)];
}

void svg_begin(FILE *out, const char *title, double width, double height)
{
	fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n"
		"<style>text{font:12px sans-serif;fill:#222}.title{font-size:15px;font-weight:bold}.name{font-weight:bold}"
		"polyline{fill:none;stroke-width:1.6}.grid{stroke:#ddd}.frame{fill:none;stroke:#222}"
		".mark{stroke:#b00;stroke-dasharray:5 3}.marked{fill:#b00}</style>\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", width, height, width, height);
	svg_text(out, SVG_LEFT, 22, "class=\"title\"", title);
}

void svg_end(FILE *out)
{
	fputs("</svg>\n", out);
}

void svg_legend(FILE *out, const char *const *names, size_t n)
{
	double x = SVG_LEFT;
	for (size_t i = 0; i < n; i++, x += LEGEND_STEP) {
		fprintf(out, "<path stroke=\"%s\" stroke-width=\"3\" d=\"M%.1f 42h18\"/>\n", svg_colour(i), x);
		svg_text(out, x + 23, 46, "", names[i]);
	}
}

static double place(const struct axis *a, double v)
{
	double lo = a->lo, hi = a->hi;
	v = fmin(fmax(v, lo), hi);
	double share = a->log ? log(v / lo) / log(hi / lo) : (v - lo) / (hi - lo);
	return a->from + share * (a->to - a->from);
}

static void span(const struct svg_chart *c, bool x, struct axis *a)
{
	double lo = INFINITY, hi = -INFINITY;
	for (size_t i = 0; i < c->n_lines; i++)
		for (size_t k = 0; k < c->lines[i].n; k++) {
			double v = x ? c->lines[i].x[k] : c->lines[i].y[k];
			if (a->log && v <= 0)
				continue;
			lo = fmin(lo, v);
			hi = fmax(hi, v);
		}
	if (x && c->mark_x > 0)
		hi = fmax(hi, c->mark_x);
	if (!(lo <= hi))
		lo = hi = 1;
	if (a->log) {
		lo = pow(10, floor(log10(lo)));
		hi = pow(10, ceil(log10(hi)));
	} else {
		lo = fmin(lo, 0);
	}
	a->lo = lo;
	a->hi = hi > lo ? hi : a->log ? lo * 10 : lo + 1;
}

/* Powers of ten, or steps of 1, 2 or 5 times one. */
static size_t ticks(struct axis *a, double at[MAX_TICKS + 2])
{
	size_t n = 0;
	if (a->log) {
		double step = pow(10, ceil(log10(a->hi / a->lo) / MAX_TICKS));
		for (double v = a->lo; v <= a->hi * 1.001 && n < MAX_TICKS + 2; v *= step)
			at[n++] = v;
		return n;
	}
	double rough = (a->hi - a->lo) / (MAX_TICKS - 1), ten = pow(10, floor(log10(rough)));
	double step = rough <= ten ? ten : rough <= 2 * ten ? 2 * ten : rough <= 5 * ten ? 5 * ten : 10 * ten;
	a->hi = ceil(a->hi / step - 1e-9) * step;
	for (double v = a->lo; v <= a->hi * 1.001 && n < MAX_TICKS + 2; v += step)
		at[n++] = v;
	return n;
}

static void draw_axes(FILE *out, const struct svg_chart *c, struct axis *x, struct axis *y)
{
	double at[MAX_TICKS + 2];
	char text[32];
	size_t n = ticks(x, at);
	for (size_t i = 0; i < n; i++) {
		double p = place(x, at[i]);
		fprintf(out, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", p, y->from, y->to);
		snprintf(text, sizeof text, "%g", at[i]);
		svg_text(out, p, y->from + 16, "text-anchor=\"middle\"", text);
	}
	n = ticks(y, at);
	for (size_t i = 0; i < n; i++) {
		double p = place(y, at[i]);
		fprintf(out, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", x->from, p, x->to);
		snprintf(text, sizeof text, "%g", at[i]);
		svg_text(out, x->from - 6, p + 4, "text-anchor=\"end\"", text);
	}
	fprintf(out, "<rect class=\"frame\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", x->from, y->to,
		x->to - x->from, y->from - y->to);
	svg_text(out, (x->from + x->to) / 2, y->from + 34, "text-anchor=\"middle\"", c->x_title);
	snprintf(text, sizeof text, "%.1f %.1f", x->from - 46, (y->from + y->to) / 2);
	fprintf(out, "<g transform=\"translate(%s) rotate(-90)\">", text);
	svg_text(out, 0, 0, "text-anchor=\"middle\"", c->y_title);
	fputs("</g>\n", out);
	svg_text(out, x->from, y->to - 10, "class=\"name\"", c->title);
}

static void draw_chart(FILE *out, const struct svg_chart *c, double left, double top)
{
	struct axis x = {.log = c->log_x, .from = left + SVG_LEFT, .to = left + CELL_W - RIGHT};
	struct axis y = {.log = c->log_y, .from = top + CELL_H - BOTTOM, .to = top + TOP};
	span(c, true, &x);
	span(c, false, &y);
	draw_axes(out, c, &x, &y);
	for (size_t i = 0; i < c->n_lines; i++) {
		const struct svg_line *l = &c->lines[i];
		fprintf(out, "<polyline stroke=\"%s\" points=\"", svg_colour(i));
		for (size_t k = 0; k < l->n; k++)
			fprintf(out, "%s%.1f,%.1f", k ? " " : "", place(&x, l->x[k]), place(&y, l->y[k]));
		fputs("\"/>\n", out);
	}
	if (c->mark_x > 0) {
		double p = place(&x, c->mark_x);
		fprintf(out, "<path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/>\n", p, y.from, y.to);
		svg_text(out, p - 4, y.to + 12, "text-anchor=\"end\" class=\"marked\"", c->mark);
	}
}

static void draw_legend(FILE *out, const struct svg_chart *c)
{
	const char *names[LEGEND_MAX];
	size_t n = MIN(c->n_lines, ARRAY_LEN(names));
	for (size_t i = 0; i < n; i++)
		names[i] = c->lines[i].name;
	svg_legend(out, names, n);
}

void svg_write(FILE *out, const char *title, const struct svg_chart *charts, size_t n, size_t columns)
{
	size_t rows = (n + columns - 1) / columns;
	double width = MAX(CELL_W * (double)columns, SVG_LEFT + LEGEND_STEP * LEGEND_MAX), height = SVG_HEAD + CELL_H * (double)rows;
	svg_begin(out, title, width, height);
	draw_legend(out, &charts[0]);
	for (size_t i = 0; i < n; i++) {
		size_t row = i / columns;
		draw_chart(out, &charts[i], CELL_W * (double)(i % columns), SVG_HEAD + CELL_H * (double)row);
	}
	svg_end(out);
}

/* ---- bars ---- */

static double length_of(const struct svg_bar *b, size_t n_parts)
{
	double sum = 0;
	for (size_t p = 0; p < n_parts; p++)
		sum += b->parts[p];
	return sum;
}

static double panel_height(const struct svg_panel *p)
{
	return TOP + (double)p->n_bars * BAR_H * 1.25;
}

static void draw_panel(FILE *out, const struct svg_panel *p, size_t n_parts, double top)
{
	double longest = 0, y = top + TOP - 6;
	char text[32];
	for (size_t i = 0; i < p->n_bars; i++)
		longest = fmax(longest, length_of(&p->bars[i], n_parts));
	svg_text(out, SVG_LEFT, top + 20, "class=\"name\"", p->title);
	for (size_t i = 0; i < p->n_bars; i++, y += BAR_H * 1.25) {
		double x = BAR_LEFT + SVG_LEFT;
		svg_text(out, x - 6, y + 12, "text-anchor=\"end\"", p->bars[i].name);
		for (size_t k = 0; k < n_parts; k++) {
			double w = longest > 0 ? p->bars[i].parts[k] / longest * BAR_W : 0;
			fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y, w, BAR_H, svg_colour(k));
			x += w;
		}
		snprintf(text, sizeof text, "%.4g", length_of(&p->bars[i], n_parts));
		svg_text(out, x + 5, y + 12, "", text);
	}
}

void svg_write_bars(FILE *out, const char *title, const char *const *parts, size_t n_parts, const struct svg_panel *panels,
	size_t n)
{
	double height = SVG_HEAD + 10, y = SVG_HEAD;
	for (size_t i = 0; i < n; i++)
		height += panel_height(&panels[i]);
	svg_begin(out, title, SVG_LEFT + BAR_LEFT + BAR_W + 80, height);
	svg_legend(out, parts, n_parts);
	for (size_t i = 0; i < n; i++) {
		draw_panel(out, &panels[i], n_parts, y);
		y += panel_height(&panels[i]);
	}
	svg_end(out);
}
